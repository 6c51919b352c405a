"""The page in a real browser: mouse, keyboard, reloads, several people, kills of the server, scripts in answers."""

import json
import shutil
import threading
import time

import pytest

from tests.stages.web.pages import ANSWERS, Page, write_comparisons

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = [
    "<script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "</div><iframe src=javascript:parent.document.title='run'></iframe>{{ 7 * 7 }}${7 * 7}",
    "<svg onload=document.title='run'><a href='http://evil.example/'>here</a>\u202etxt.\x00",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path):
    server = Page(tmp_path, "--shared", "1")
    yield server
    server.end()


@pytest.fixture
def visit(browser, server):
    """A function that opens the page for a person. At the end: no error on the console, no request to another host."""
    contexts, problems, hosts = [], [], set()

    def visit(name="Ada", allow_errors=False, **options):
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(8000)
        contexts.append(context)
        tab = context.new_page()
        if not allow_errors:
            tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.goto(server.address)
        tab.fill("#name", name)
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".card")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert problems == []
    assert hosts == {f"127.0.0.1:{server.port}"}


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def number_of(tab, text):
    """The key of the card with this text."""
    card = tab.locator(".card", has_text=text)
    return card.locator(".number").inner_text()


def prompt(tab):
    return tab.inner_text("#prompt")


def shows(tab, selector, text):
    """Waits until an element contains a text."""
    sync_api.expect(tab.locator(selector)).to_contain_text(text, timeout=15_000)


def decided(tab, count):
    """Waits until the page tells that it has saved this number of rankings."""
    shows(tab, "#counts", f"{count} ranked")


def ranks_by_text(row):
    return dict(zip(row["completions"], row["ranks"], strict=True))


def drag(tab, text, target, at):
    """Drags a card by the mouse to a share of the height of another element."""
    start, end = tab.locator(".card", has_text=text).bounding_box(), tab.locator(target).bounding_box()
    tab.mouse.move(start["x"] + 200, start["y"] + start["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(end["x"] + 200, end["y"] + end["height"] * at, steps=4)
    tab.mouse.up()


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


# --- what it looks like, and what it does not run ---------------------------------------------------------------------

CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } };
  const shown = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility({opacityProperty: true}) && !e.disabled
    && !e.closest(':disabled') && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && !e.classList.contains('hidden'));
  return shown.map((e) => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(visit, scheme):
    tab = visit(color_scheme=scheme)
    press(tab, "1", "2", "=", "f", "n")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 15
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    page, text = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(eval(page[3:])) < sum(eval(text[3:]))) == (scheme == "dark")


def test_a_screen_reader_is_told_what_the_cards_are_and_what_changes(visit):
    tab = visit()
    tree = tab.locator("body").aria_snapshot()
    for line in (
        'listbox "Answers, best first"',
        'option "Card 1, not ranked: ',
        'toolbar "Actions"',
        'progressbar "Items decided"',
    ):
        assert line in tree, tree
    press(tab, "2")
    shows(tab, "#live", "Card 2: rank 1; 3 left.")
    assert tab.evaluate("document.activeElement.id") == "card-2"
    assert tab.evaluate(
        "[...document.querySelectorAll('button')].every((b) => b.getAttribute('aria-hidden') || b.textContent.trim())"
    )


def test_a_script_in_an_answer_is_shown_and_not_run(browser, tmp_path):
    page = Page(tmp_path, comparisons=write_comparisons(tmp_path, answers=HOSTILE))
    tab = browser.new_page()
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"{page.address}?name=%3Cimg%20src=x%20onerror=document.title='run'%3E")
    tab.wait_for_selector(".card, dialog[open]")
    if tab.locator("dialog[open]").count():
        tab.fill("#name", "<b>Eve</b>")
        press(tab, "Enter")
        tab.wait_for_selector(".card")
    press(tab, "1", "2", "3", "n")
    tab.keyboard.type("<img src=x onerror=document.title='run'>")
    press(tab, "Control+Enter")
    decided(tab, 1)
    time.sleep(0.2)
    assert tab.title() == "Rank answers"
    assert tab.locator("iframe, #cards img, #cards svg, #cards script, #cards a").count() == 0
    assert "<img src=x onerror" in tab.inner_text("#cards") and "{{ 7 * 7 }}" in tab.inner_text("#cards")
    assert all(url.startswith(page.address) for url in requests)
    tab.close()
    assert page.end() == 0
    assert json.loads(page.path.read_text().splitlines()[0])["completions"] == HOSTILE
