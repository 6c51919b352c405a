"""The page in a real browser: mouse, finger, keyboard, reloads, several people, kills of the server."""

import threading

from tests.stages.web.browsing import decided, drag, number_of, press, prompt, ranks_by_text, shows
from tests.stages.web.pages import ANSWERS, write_comparisons

# --- ranking ----------------------------------------------------------------------------------------------------------


def test_keys_alone_rank_tie_and_confirm(visit, server):
    tab = visit()
    press(tab, number_of(tab, "Paris"), number_of(tab, "Thank you"), "=", number_of(tab, "No."), "Enter")
    decided(tab, 1)
    row = server.rows()[0]
    assert ranks_by_text(row) == dict(zip(ANSWERS, [0, 1, 0, 2], strict=True))
    assert row["rater"] == "Ada" and row["seconds"] > 0 and sorted(row["shown"]) == [0, 1, 2, 3]
    assert prompt(tab) == "What is the capital of France (1)?"


def test_arrows_move_the_focus_and_with_shift_the_card(visit, server):
    tab = visit()
    press(tab, "ArrowDown", "Space", "2", "3")  # the first card, then the second and third: the fourth is last
    press(tab, "End", "Shift+ArrowUp", "Shift+ArrowUp", "Shift+ArrowUp", "Enter")
    decided(tab, 1)
    row = server.rows()[0]
    assert [row["ranks"][i] for i in row["shown"]] == [1, 2, 3, 0]


def test_the_mouse_drags_cards_into_order(visit, server):
    tab = visit()
    drag(tab, "Perhaps.", ".next", 0.5)
    drag(tab, "Paris", ".next", 0.5)
    drag(tab, "No.", ".next", 0.5)  # the fourth ranks itself
    drag(tab, "Paris", ".card.first", 0.2)
    tab.click("#confirm")
    decided(tab, 1)
    assert ranks_by_text(server.rows()[0]) == dict(zip(ANSWERS, [3, 2, 0, 1], strict=True))


def test_a_finger_taps_the_cards_in_order_at_400_pixels(visit, server):
    tab = visit(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    for text in ("No.", "Paris", "Perhaps."):
        tab.locator(".card", has_text=text).tap()
    tab.locator(".tied, .card.ranked", has_text="Paris").locator(".tie").tap()
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
    boxes = tab.evaluate("[...document.querySelectorAll('button')].map((b) => b.getBoundingClientRect().right)")
    assert max(boxes) <= 400
    tab.tap("#confirm")
    decided(tab, 1)
    assert ranks_by_text(server.rows()[0]) == dict(zip(ANSWERS, [2, 0, 0, 1], strict=True))


def test_a_finger_drags_a_card_by_its_handle_and_the_next_tap_counts(visit, server):
    tab = visit(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    for text in ("No.", "Paris"):
        tab.locator(".card", has_text=text).tap()
    start = tab.locator(".card", has_text="Perhaps.").locator(".handle").bounding_box()
    end = tab.locator(".card", has_text="No.").bounding_box()
    x, y = start["x"] + 5, start["y"] + start["height"] / 2
    touch = tab.context.new_cdp_session(tab)
    for kind, height in (("touchStart", y), *(("touchMove", y + (end["y"] - y) * i / 4) for i in range(1, 5))):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": height}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tab.tap("#confirm")
    decided(tab, 1)
    assert ranks_by_text(server.rows()[0]) == dict(zip(ANSWERS, [3, 1, 2, 0], strict=True))


def test_an_order_that_is_not_complete_is_not_saved(visit, server):
    tab = visit()
    press(tab, "1", "Enter")
    shows(tab, "#live", "3 cards have no rank")
    assert server.rows() == []
    press(tab, "u")
    assert tab.locator(".card.ranked").count() == 0


def test_skip_all_bad_flag_and_note_are_saved(visit, server):
    tab = visit()
    press(tab, "s")
    shows(tab, "#counts", "1 skipped")
    press(tab, "b", "Enter")
    decided(tab, 1)
    press(tab, "f", "n")
    tab.keyboard.type("s1 is unfit")  # letters are no keys in a note
    press(tab, "Control+Enter")
    shows(tab, "#counts", "2 skipped")
    skipped, bad, flagged = server.rows()
    assert skipped["ranks"] is None and not skipped["flag"]
    assert bad["all_bad"] and bad["ranks"] == [0, 0, 0, 0]
    assert flagged["flag"] and flagged["ranks"] is None and flagged["note"] == "s1 is unfit"


def test_undo_goes_back_and_a_change_is_kept_with_its_history(visit, server):
    tab = visit()
    press(tab, "1", "2", "3", "Enter")
    decided(tab, 1)
    press(tab, "4", "u", "u")  # the first undoes the card, the second goes back to the item before
    shows(tab, "#prompt", "(0)")
    assert [tab.locator(".rank").nth(i).inner_text() for i in range(4)] == ["1", "2", "3", "4"]
    press(tab, "4", "3", "2", "Enter")
    shows(tab, "#prompt", "(1)")
    first, second = server.rows()
    assert first["id"] == second["id"] and second["ranks"] == [3 - rank for rank in first["ranks"]]
    press(tab, "Backspace")
    shows(tab, "#prompt", "(0)")
    press(tab, "ArrowRight")  # on again, without a change
    shows(tab, "#prompt", "(1)")
    assert len(server.rows()) == 2


def test_undo_takes_back_a_mark(visit, server):
    tab = visit()
    press(tab, "1", "b", "f", "u")
    assert [tab.get_attribute(mark, "aria-pressed") for mark in ("#all-bad", "#flag")] == ["true", "false"]
    press(tab, "u", "u")
    assert tab.get_attribute("#all-bad", "aria-pressed") == "false"
    assert tab.locator(".card.ranked").count() == 0 and tab.is_disabled("#undo")


def test_the_end_is_told_and_the_files_are_written(visit, server):
    tab = visit()
    for count in range(1, 7):
        press(tab, "1", "2", "3", "Enter")
        decided(tab, count)
    tab.wait_for_selector("text=All done")
    assert server.end() == 0
    assert "6 rankings by 1 person (Ada 6)" in server.output and "RECIPE=mine" in server.output
    assert len((server.folder / "comparisons.jsonl").read_text().splitlines()) == 6
    assert len((server.folder / "pairs.jsonl").read_text().splitlines()) == 36


# --- what may happen meanwhile ----------------------------------------------------------------------------------------


def test_a_reload_goes_on_with_the_same_item_in_the_same_order(visit, server):
    tab = visit()
    press(tab, "1", "2", "3", "Enter")
    decided(tab, 1)
    before = prompt(tab), tab.locator(".card").all_inner_texts()
    press(tab, "2")
    tab.reload()
    tab.wait_for_selector(".card")
    assert (prompt(tab), tab.locator(".card").all_inner_texts()) == before
    assert tab.inner_text("#person") == "Ada"


def test_two_people_at_once_have_their_own_orders_and_their_agreement_is_shown(visit, server):
    tabs = {name: visit(name) for name in ("Ada", "Bob")}
    for count in (1, 2):
        for tab in tabs.values():
            press(tab, *(number_of(tab, text) for text in ("Paris", "No.", "Thank you")), "Enter")
            decided(tab, count)
    rows = server.rows()
    assert [row["rater"] for row in rows] == ["Ada", "Bob"] * 2
    assert rows[0]["id"] == rows[1]["id"] and rows[0]["ranks"] == rows[1]["ranks"]
    assert any(a["shown"] != b["shown"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    tabs["Bob"].click("summary")
    tabs["Bob"].wait_for_selector("text=1.000 [1.000, 1.000]", timeout=60_000)  # imports torch


def test_a_kill_in_the_middle_of_a_submission_loses_nothing_and_adds_nothing(visit, server):
    tab = visit(allow_errors=True)  # the browser reports that the server is away
    press(tab, "1", "2", "3", "Enter")
    decided(tab, 1)
    # the answer never arrives, so that the page can't know whether the ranking was saved
    lost = threading.Event()

    def lose(route):
        if not lost.is_set():
            lost.set()
            route.fetch()
            server.kill()
            route.abort()
        else:
            route.continue_()

    tab.route("**/decide", lose)
    press(tab, "3", "2", "1", "Enter")
    tab.wait_for_selector("text=Your ranking is not saved yet")
    saved = server.rows()
    assert len(saved) == 2
    with open(server.path, "ab") as file:
        file.write(b'{"id": "cut off')  # what a kill while another line was written leaves
    server.start()  # with the same address
    decided(tab, 2)
    assert server.rows() == saved
    press(tab, "1", "2", "3", "Enter")
    decided(tab, 3)
    assert len(server.rows()) == 3


def test_a_server_that_has_other_items_after_a_restart_shows_one_of_them(visit, server):
    tab = visit(allow_errors=True)
    server.end()
    write_comparisons(server.folder.parent, answers=["A", "B", "C"])
    server.start()
    press(tab, "1", "2", "3", "Enter")
    shows(tab, "#banner", "Not saved: there is no such item")
    assert tab.locator(".card").count() == 3
    press(tab, "1", "2", "Enter")
    decided(tab, 1)
    assert not tab.is_visible("#banner")


def test_a_submission_that_did_not_arrive_is_sent_again_after_a_reload(visit, server):
    tab = visit(allow_errors=True)
    tab.route("**/decide", lambda route: route.abort())
    press(tab, "1", "2", "3", "Enter")
    tab.wait_for_selector("text=Your ranking is not saved yet")
    assert server.rows() == []
    tab.unroute("**/decide")
    tab.reload()
    decided(tab, 1)
    assert len(server.rows()) == 1 and prompt(tab).endswith("(1)?")
