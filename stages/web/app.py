"""The routes of the page on which people rank: what it shows, and the decisions that it sends."""

import asyncio
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from rlhf.rows import Row, Text
from stages.web.items import Item
from stages.web.routes import Refused, application, page_routes, person_of
from stages.web.store import Desk, shown_order
from stages.web.summary import agreement_of, win_rate_of

LONGEST_NOTE = 2000
A_DAY = 86400.0  # seconds


def create_app(desk: Desk, title: str, several_models: bool) -> Starlette:
    """The page for the items of a desk. With several models it tells the win rate of the last over the first."""

    async def next_item(body: Row) -> Row:
        return turn(desk, person_of(body))

    async def neighbour(body: Row) -> Row:
        person, item, step = person_of(body), body.get("id"), body.get("step")
        if step not in (-1, 1) or not isinstance(item, str | None):
            raise Refused("step is -1 or 1")
        found = desk.neighbour(person, item, step)
        return turn(desk, person) if found is None else payload(desk, person, found)

    async def decide(body: Row) -> Row:
        person, row = person_of(body), decision_of(body, desk)
        added = desk.decide(row)
        return {**turn(desk, person), "saved": True, "repeated": not added}

    numbers = Numbers(desk, several_models)
    handlers: dict[str, Callable[[Row], Any]] = {
        "next": next_item,
        "neighbour": neighbour,
        "decide": decide,
        "numbers": numbers.answer,
    }
    routes = page_routes("rank.html", ["rank.js", "cards.js"], title=title, saved=str(desk.store.path))
    return application(routes, handlers)


class Numbers:
    """Agreement and win rate with intervals. They are estimated outside the event loop, once for the same rankings."""

    def __init__(self, desk: Desk, several_models: bool):
        self.desk, self.several_models = desk, several_models
        self.known: tuple[int, Row] = -1, {}
        self.lock = asyncio.Lock()

    async def answer(self, body: Row) -> Row:
        """The estimates as text, None if there is nothing to estimate them from."""
        async with self.lock:
            count = len(self.desk.store.submissions)
            if self.known[0] != count:
                rows = [row for row in self.desk.store.decisions.values() if row["id"] in self.desk.pool.by_id]
                self.known = count, await run_in_threadpool(self.estimate, rows)
            return self.known[1]

    def estimate(self, rows: list[Row]) -> Row:
        """The estimates from these decisions."""
        agreement = agreement_of(rows) if len({row["rater"] for row in rows}) > 1 else None
        win_rate = win_rate_of(rows) if self.several_models else None
        return {
            "agreement": None if agreement is None else str(agreement),
            "win_rate": None if win_rate is None else str(win_rate),
        }


# --- requests ---------------------------------------------------------------------------------------------------------


def decision_of(body: Row, desk: Desk) -> Row:
    """The line of rankings.jsonl for a submission of the page. Raises Refused if something is wrong with it."""
    person, item = person_of(body), desk.pool.by_id.get(str(body.get("id")))
    if item is None:
        raise Refused("there is no such item")
    submission, note, seconds = body.get("submission"), body.get("note", ""), body.get("seconds", 0)
    if not isinstance(submission, str) or not (16 <= len(submission) <= 64 and submission.isascii()):
        raise Refused("a submission has an id")
    if not isinstance(note, str) or len(note) > LONGEST_NOTE:
        raise Refused(f"a note has at most {LONGEST_NOTE:,} letters")
    if type(seconds) not in (int, float) or not -math.inf < seconds < math.inf:
        raise Refused("seconds is a number")
    if not all(isinstance(body.get(name, False), bool) for name in ("all_bad", "flag")):
        raise Refused("all_bad and flag are true or false")
    shown = shown_order(item, person)
    return {
        **{"id": item.id, "prompt": item.prompt, **item.rendering},
        **{"completions": item.completions, "ended": item.ended},
        **{"models": item.models, "shown": shown, "ranks": ranks_of(body.get("ranks"), item, shown)},
        **{"all_bad": body.get("all_bad", False), "flag": body.get("flag", False), "note": note.strip()},
        **{"rater": person, "time": datetime.now().astimezone().isoformat(timespec="seconds")},
        **{"seconds": round(min(max(0.0, seconds), A_DAY), 1), "submission": submission},
    }


def ranks_of(given: Any, item: Item, shown: list[int]) -> list[int] | None:
    """The rank of each completion, 0, 1, 2, ..., from those of the shown ones; None if the item is skipped."""
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != len(shown):
        raise Refused("ranks has an entry for each answer that is shown")
    if not all(type(rank) is int and 0 <= rank < len(shown) for rank in given):
        raise Refused("a rank is a whole number, 0 for the best")
    dense = {rank: index for index, rank in enumerate(sorted(set(given)))}
    of_distinct = {item.distinct.index(i): dense[rank] for i, rank in zip(shown, given, strict=True)}
    return [of_distinct[i] for i in item.same_as]


# --- answers ----------------------------------------------------------------------------------------------------------


def turn(desk: Desk, person: str) -> Row:
    """What the page shows next: an item, or that it has to wait, that all is done, or that sampling failed."""
    if item := desk.next(person):
        return payload(desk, person, item)
    progress = desk.progress(person)
    if desk.pool.error is not None:
        message = str(desk.pool.error) or type(desk.pool.error).__name__
        return {"state": "error", "message": message, "progress": progress}
    return {"state": "done" if desk.pool.finished else "waiting", "progress": progress}


def payload(desk: Desk, person: str, item: Item) -> Row:
    """An item as a person sees it. Nothing in it tells which model wrote what."""
    shown, decision = shown_order(item, person), desk.decision(person, item)
    cards = [{"parts": answer_parts(item.completions[i]), "ended": item.ended[i]} for i in shown]
    earlier = None
    if decision:
        ranks = decision["ranks"]
        earlier = {name: decision[name] for name in ("all_bad", "flag", "note")}
        earlier["ranks"] = None if ranks is None else [ranks[i] for i in shown]
    return {
        "state": "item",
        "item": {"id": item.id, "prompt": prompt_parts(item), "cards": cards, "decision": earlier},
        "earlier": desk.neighbour(person, item.id, -1) is not None,
        "progress": desk.progress(person),
    }


def parts(text: Text) -> list[Row]:
    """A text as messages with a role, which is "" for plain text."""
    if isinstance(text, str):
        return [{"role": "", "text": text}]
    return [{"role": message["role"], "text": message_text(message)} for message in text]


def message_text(message: Row) -> str:
    """The content of a message, and its other columns, such as tool calls, which two answers may differ in."""
    others = [
        f"{name}: {compact(value)}" for name, value in message.items() if name not in ("role", "content") and value
    ]
    return "\n".join(filter(None, [message.get("content"), *others]))


def compact(value: Any) -> str:
    """A value as a person can read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prompt_parts(item: Item) -> list[Row]:
    """The messages of a prompt, behind the tools that the answers may call."""
    tools = item.rendering.get("tools")
    return [*([{"role": "tools", "text": compact(tools)}] if tools else []), *parts(item.prompt)]


def answer_parts(text: Text) -> list[Row]:
    """The same for a completion, whose only message needs no role."""
    messages = parts(text)
    return [{**messages[0], "role": ""}] if len(messages) == 1 else messages
