"""Converts the results of a shape's function to rows of one kind."""

import json
from dataclasses import dataclass, field

from data.shapes.chats import tree, tree_of_messages
from data.shapes.values import Drop, Unfit, number
from rlhf import InputError
from rlhf.rows import Row, Tally, without_weights

NO_REPLY = "chat that does not end with a reply"
ALONE = "completion without another one of the same prompt in the row before or after it"
ORPHAN = "message of a tree whose rows do not follow each other"


def as_kind(form: Row, kind: str, tally: Tally) -> Row:
    """A row of `kind`, from a ranking, a rated or plain demonstration, a chat, a prompt or a text.

    Raises Drop if it can't be used, and Unfit if it is malformed.
    """
    if "messages" in form:
        return _from_chat(form, kind, tally)
    if kind == "prompts":
        return {key: value for key, value in form.items() if key in ("prompt", "tools")}
    if kind == "demonstrations" and form.get("rating") is False:
        raise Drop("completion labelled as bad")
    if kind == "demonstrations" and "ranks" in form:
        return _best(form)
    if kind == "comparisons" and "ranks" not in form:
        raise Drop("replies of a tree without ranks")
    return {key: value for key, value in form.items() if key != "rating"}


def _best(form: Row) -> Row:
    """A ranking as a demonstration with its best completion."""
    completions, ranks = form["completions"], form["ranks"]
    if not isinstance(completions, list) or not isinstance(ranks, list) or len(completions) != len(ranks):
        raise Unfit("completions and ranks are not lists of the same length")
    values = [number(rank) for rank in ranks]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise Unfit("ranks are not all numbers")
    if not known:
        raise Drop("empty completion")
    rest = {key: value for key, value in form.items() if key not in ("completions", "ranks", "ended")}
    return {**rest, "completion": completions[values.index(min(known))]}


def _from_chat(form: Row, kind: str, tally: Tally) -> Row:
    """A chat as {messages}; as a prompt up to the user's last message; as a demonstration up to the last reply.

    The earlier replies of a demonstration have the weight 1, unless the row gives their weight: SFT learns them too.
    The chat ends with the last reply whose weight is not 0, because nothing after it is learned.
    """
    messages = form["messages"]
    rest = {key: value for key, value in form.items() if key != "messages"}
    if kind == "text":
        return {**rest, "messages": without_weights(messages)}
    if kind == "prompts":
        asking = [i for i, message in enumerate(messages) if message["role"] in ("user", "tool")]
        if not asking or messages[-1]["role"] == "system":
            raise Drop(NO_REPLY)
        return {**rest, "prompt": messages[: asking[-1] + 1]}
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [i for i in replies if messages[i].get("weight") != 0]
    if not learned:
        raise Drop("chat whose replies all have the weight 0" if replies else NO_REPLY)
    end = learned[-1]
    if end < len(messages) - 1:
        tally.shortened["chats, after their last reply"] += 1
    prompt = [{**m, "weight": m.get("weight", 1)} if m["role"] == "assistant" else m for m in messages[:end]]
    return {**rest, "prompt": prompt, "completion": without_weights([messages[end]])}


# --- consecutive rows -------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Consecutive rows that become a ranking of one prompt's answers, or a tree of messages."""

    key: str
    where: str  # the place of the first row
    is_tree: bool
    forms: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)  # the further columns of each row

    def rows(self, kind: str, tally: Tally) -> list[Row]:
        """The rows of `kind` that the group becomes. Raises InputError, with the place, for a malformed tree."""
        others = {k: v for k, v in self.others[0].items() if all(k in o and o[k] == v for o in self.others)}
        if self.is_tree:
            return [{**others, **row} for row in self._rows_of_tree(kind, tally)]
        if len(self.forms) < 2:
            tally.dropped[ALONE] += len(self.forms)
            return []
        completions = [form["completion"] for form in self.forms]
        ranks = [-float(form["rating"]) for form in self.forms]
        return [{**others, "prompt": self.forms[0]["prompt"], "completions": completions, "ranks": ranks}]

    def _rows_of_tree(self, kind: str, tally: Tally) -> list[Row]:
        root, lost = tree_of_messages(self.forms)
        if lost:
            tally.dropped[ORPHAN] += lost
        try:
            forms = tree(root) if root else []
            if root and not forms:
                tally.dropped["no answers"] += 1
            return rows_of_forms(forms, kind, tally)
        except Unfit as error:
            raise InputError(f"{self.where}: {error}") from error


def rows_of_forms(forms: list[Row], kind: str, tally: Tally) -> list[Row]:
    """The rows of `kind` that the forms of a raw row become. Those that can't be used are counted."""
    rows = []
    for form in forms:
        try:
            rows.append(as_kind(form, kind, tally))
        except Drop as drop:
            tally.dropped[str(drop)] += 1
    return rows


def group_key(form: Row) -> str:
    """Equal for rows with the same prompt."""
    return json.dumps(form["prompt"], sort_keys=True)
