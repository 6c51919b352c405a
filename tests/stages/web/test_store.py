"""What is on disk after kills, restarts and full disks; who gets which item; what the files for training hold."""

import asyncio
import errno
import json
import os
import resource
import secrets
from dataclasses import asdict

import pytest

from data.rankings import read_decisions
from rlhf import InputError
from rlhf.rows import read_rows
from stages.web.app import Numbers, decision_of, payload
from stages.web.items import Item, Pool, from_file
from stages.web.store import LEASE, Desk, Store, name_of, shown_order
from stages.web.summary import export, in_words, win_rate_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make_pool(folder, count=10, key="key", completions=("a", "b", "c")):
    folder.mkdir(exist_ok=True)
    items = [
        Item(f"{key}-{n}", n, f"prompt {n}", list(completions), [True] * len(completions), ["sft"] * len(completions))
        for n in range(count)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    pool = Pool(folder, key, count)
    pool.start(lambda: pytest.fail("all items are there"), lambda: None)
    return pool


@pytest.fixture
def desk(tmp_path):
    return Desk(make_pool(tmp_path / "rankings"), Store(tmp_path / "rankings"), shared=0.2, clock=Clock())


def decide(desk, person, item=None, **columns):
    item = item or desk.next(person)
    cards = len(item.distinct)
    body = {
        "rater": person,
        "submission": secrets.token_hex(16),
        "id": item.id,
        "ranks": list(range(cards)),
        "seconds": 2,
    }
    row = decision_of({**body, **columns}, desk)
    desk.decide(row)
    return row


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_decision_is_in_the_file_before_it_is_confirmed(desk):
    row = decide(desk, "Ada")
    assert json.loads(desk.store.path.read_text()) == row
    assert read_decisions(desk.store.path) == [row]


def test_a_repeated_submission_adds_no_line_also_after_a_restart(desk):
    row = decide(desk, "Ada")
    assert not desk.decide(row)
    again = Store(desk.store.path.parent)
    assert not again.add(row)
    assert len(desk.store.path.read_text().splitlines()) == 1


def test_a_line_that_was_cut_off_is_removed_at_the_start(desk):
    rows = [decide(desk, "Ada"), decide(desk, "Ada")]
    whole = desk.store.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        desk.store.path.write_bytes(whole[:-cut])
        assert list(Store(desk.store.path.parent).decisions.values()) == rows[:1]
        assert desk.store.path.read_bytes() == whole[: -len(last)]


def test_a_full_disk_leaves_no_half_line_and_the_next_try_succeeds(desk, monkeypatch):
    first = decide(desk, "Ada")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            decide(desk, "Ada")
    assert desk.store.path.read_text().count("\n") == 1
    assert len(desk.store.decisions) == 1
    second = decide(desk, "Ada")
    assert read_decisions(desk.store.path) == [first, second]


def test_a_disk_that_fills_up_within_a_line_leaves_nothing_of_it(desk):
    first = decide(desk, "Ada")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (1, 60, 4000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (desk.store.path.stat().st_size + room, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                decide(desk, "Ada", note="x" * 2000, submission="the same submission" + "0" * 10)
                decide(desk, "Ada", note="x" * 2000)
                decide(desk, "Ada", note="x" * 2000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        lines = desk.store.path.read_text().splitlines(keepends=True)
        assert all(line.endswith("}\n") for line in lines)
        assert read_decisions(desk.store.path) == list(desk.store.decisions.values())
    assert json.loads(lines[0]) == first


def test_a_decision_by_nobody_in_the_file_does_not_end_the_server(desk):
    desk.store.add(decide(desk, "Ada") | {"rater": "", "submission": "x" * 16})
    assert Desk(desk.pool, Store(desk.store.path.parent), 0.2).progress("Ada")["people"] == 2


@pytest.mark.parametrize("given, saved", [(-3, 0), (1e300, 86400), (10**4000, 86400), (2.04, 2.0)])
def test_seconds_are_between_none_and_a_day(desk, given, saved):
    assert decide(desk, "Ada", seconds=given)["seconds"] == saved


def test_a_decision_about_other_completions_of_the_same_item_is_not_shown(desk):
    item = desk.next("Ada")
    decide(desk, "Ada", item)
    items = item.__class__(**asdict(item) | {"completions": ["d", "e"], "ended": [True] * 2, "models": ["sft"] * 2})
    desk.pool.by_id[item.id] = desk.pool.items[0] = items
    again = Desk(desk.pool, Store(desk.store.path.parent), 0.2)
    assert again.next("Ada") == items and again.decision("Ada", items) is None
    assert payload(again, "Ada", items)["item"]["decision"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"id": 3}, {"number": "1"}, {"completions": None}, {"completions": [1, 2, 3]}, {"ended": []}, {"models": None}],
)
def test_a_line_that_is_no_item_is_refused_with_its_place(tmp_path, wrong):
    make_pool(tmp_path / "r", 2)
    path = tmp_path / "r" / "items.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | wrong
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "items.jsonl").write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"items\.jsonl:3: not an item"):
        Pool(tmp_path / "other", "key", 2)


def test_a_second_server_of_the_same_folder_is_refused(desk):
    with pytest.raises(InputError, match="another process is working in"):
        Pool(desk.store.path.parent, "key", 3)


def test_a_changed_decision_keeps_its_history(desk):
    item = desk.next("Ada")
    decide(desk, "Ada", item)
    changed = decide(desk, "Ada", item, ranks=[2, 1, 0])
    assert len(desk.store.path.read_text().splitlines()) == 2
    assert read_decisions(desk.store.path) == [changed]
    assert desk.progress("Ada")["done"] == 1


# --- who gets what ----------------------------------------------------------------------------------------------------


def test_one_person_gets_every_item_once(desk):
    ids = [decide(desk, "Ada")["id"] for _ in range(10)]
    assert len(set(ids)) == 10 and desk.next("Ada") is None
    assert desk.progress("Ada") == {"done": 10, "skipped": 0, "left": 0, "seconds": 2.0, "people": 1}


def test_two_people_share_the_stated_share_and_get_different_others(desk):
    ids = {"Ada": [], "Bob": []}
    while desk.next("Ada") or desk.next("Bob"):
        for person, own in ids.items():
            if desk.next(person):
                own.append(decide(desk, person)["id"])
    assert len(set(ids["Ada"]) & set(ids["Bob"])) == 2  # 0.2 of 10
    assert len(set(ids["Ada"]) | set(ids["Bob"])) == 10
    assert desk.progress("Ada")["left"] == desk.progress("Bob")["left"] == 0


@pytest.mark.parametrize("shared, number", [(0, 0), (0.2, 2), (0.5, 5), (0.7, 7), (1, 10)])
def test_the_share_of_items_for_everybody_is_exact(desk, shared, number):
    desk.shared = shared
    assert sum(map(desk.is_shared, range(10))) == number


def test_an_item_that_a_person_leaves_goes_to_another_one_after_a_while(desk):
    item = desk.next("Ada")
    assert desk.next("Bob") != item
    desk.clock.now += LEASE + 1
    assert desk.next("Eve") == item


def test_a_skipped_item_goes_to_another_person(desk):
    item = desk.next("Ada")
    decide(desk, "Ada", item, ranks=None)
    assert desk.next("Ada") != item and desk.next("Bob") == item


def test_items_are_asked_for_as_people_proceed(tmp_path):
    pool = make_pool(tmp_path / "rankings", count=10)
    asked = []
    pool.ask = asked.append
    desk = Desk(pool, Store(tmp_path / "rankings"), 0)
    for _ in range(3):
        decide(desk, "Ada")
    assert asked == [0, 1, 2]


def test_going_back_follows_the_order_of_the_decisions(desk):
    items = [desk.pool.by_id[decide(desk, "Ada")["id"]] for _ in range(3)]
    assert desk.neighbour("Ada", desk.next("Ada").id, -1) == items[2]
    assert desk.neighbour("Ada", items[2].id, -1) == items[1]
    assert desk.neighbour("Ada", items[0].id, -1) is None
    assert desk.neighbour("Ada", items[2].id, 1) is None
    assert desk.neighbour("Bob", None, -1) is None


# --- what is shown, and what it means ---------------------------------------------------------------------------------


def test_ranks_belong_to_the_completions_whatever_order_a_person_sees(desk):
    item = desk.next("Ada")
    for person in ("Ada", "Bob", "Eve", "Tom"):
        shown = shown_order(item, person)
        best_first = {"a": 0, "b": 1, "c": 2}
        ranks = [best_first[item.completions[i]] for i in shown]
        assert decision_of(
            {"rater": person, "submission": "x" * 16, "id": item.id, "ranks": ranks}, desk
        )["ranks"] == [0, 1, 2]  # fmt: skip


def test_people_see_different_orders_but_each_the_same_again(desk):
    orders = {tuple(shown_order(item, person)) for item in desk.pool.items for person in "ABCDEF"}
    assert len(orders) == 6  # all permutations of three
    assert shown_order(desk.pool.items[0], "Ada") == shown_order(desk.pool.items[0], "Ada")


def test_equal_completions_are_one_card_and_have_the_same_rank(tmp_path):
    pool = make_pool(tmp_path / "rankings", completions=("a", "b", "a"))
    desk = Desk(pool, Store(tmp_path / "rankings"), 0)
    row = decide(desk, "Ada")
    assert len(row["shown"]) == 2
    assert row["ranks"][0] == row["ranks"][2] != row["ranks"][1]


def test_an_item_whose_completions_are_all_the_same_is_not_given(tmp_path):
    pool = make_pool(tmp_path / "rankings", completions=("a", "a"))
    assert pool.items == [] and pool.nothing_to_rank() == 10
    assert Desk(pool, Store(tmp_path / "rankings"), 0).next("Ada") is None


def test_the_page_is_not_told_which_model_wrote_what(desk):
    item = desk.next("Ada")
    decide(desk, "Ada", item)
    text = json.dumps(payload(desk, "Ada", item))
    assert "sft" not in text and "models" not in text


@pytest.mark.parametrize(
    "text, name", [(" Ada  L. ", "Ada L."), ("e\u0301", "\u00e9"), ("学", "学"), ("x" * 40, "x" * 40)]
)
def test_a_name_has_one_form(text, name):
    assert name_of(text) == name


# --- for training -----------------------------------------------------------------------------------------------------


def test_the_files_for_training_are_what_the_reward_model_and_trl_read(desk):
    for ranks, columns in (
        ([0, 1, 2], {}),
        ([0, 0, 1], {}),
        (None, {}),
        ([0, 0, 0], {"all_bad": True}),
        ([2, 1, 0], {"flag": True}),
    ):
        decide(desk, "Ada", ranks=ranks, **columns)
    decisions = read_decisions(desk.store.path)
    folder = desk.store.path.parent
    assert export(folder, decisions) == (2, 5)  # three pairs, and two with a tie
    rows = list(read_rows(folder / "comparisons.jsonl", "comparisons"))
    assert [row["ranks"] for row in rows] == [row["ranks"] for row in decisions[:2]]
    assert {"rater", "time", "seconds", "shown"} <= rows[0].keys()
    pairs = list(map(json.loads, (folder / "pairs.jsonl").read_text().splitlines()))
    assert all(pair.keys() == {"prompt", "chosen", "rejected"} for pair in pairs)
    assert in_words(decisions) == "4 rankings by 1 person (Ada 4), 2 s each (median); 1 skipped, 1 flagged, 1 all bad"


def test_tools_of_a_prompt_are_shown_and_reach_the_files_for_training(tmp_path):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    call = [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather"}}]}]
    row = {"prompt": "Rain?", "completions": ["Yes.", call], "ranks": [0, 1], "tools": tools, "rendered": True}
    source = tmp_path / "comparisons.jsonl"
    source.write_text(json.dumps(row) + "\n")
    _, make = from_file(source, 1)()
    item = Item("key-0", 0, **make(0))
    pool = make_pool(tmp_path / "rankings", 0)
    pool.by_id[item.id] = item
    desk = Desk(pool, Store(tmp_path / "rankings"), 0)
    decide(desk, "Ada", item)
    shown = json.dumps(payload(desk, "Ada", item)["item"])
    assert shown.count("weather") == 2
    export(desk.store.path.parent, read_decisions(desk.store.path))
    (saved,) = read_rows(desk.store.path.parent / "comparisons.jsonl", "comparisons")
    assert saved["tools"] == tools and saved["rendered"] is True


def test_the_win_rate_counts_prompts_and_a_tie_as_half():
    def row(item, first, last, **columns):
        return {"id": item, "ranks": [first, last], "flag": False, **columns}

    rows = [row("a", 1, 0), row("b", 0, 0), row("c", 0, 1), row("c", 1, 0), row("d", 1, 0, flag=True)]
    assert win_rate_of(rows).value == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert win_rate_of([]) is None


def test_the_page_shows_agreement_of_several_people_and_the_win_rate_of_several_models(desk):
    decide(desk, "Ada", ranks=[0, 1, 2])
    alone = asyncio.run(Numbers(desk, False).answer({}))
    assert alone == {"agreement": None, "win_rate": None}
    item = desk.pool.items[0]
    for person in ("Ada", "Bob"):  # both rank the completion of the last model first
        decide(desk, person, item, ranks=[{0: 2, 1: 1, 2: 0}[i] for i in shown_order(item, person)])
    numbers = asyncio.run(Numbers(desk, True).answer({}))
    assert numbers == {"agreement": "1.000 [1.000, 1.000]", "win_rate": "1.000 [1.000, 1.000]"}
