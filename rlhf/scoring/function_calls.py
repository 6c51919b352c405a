"""Calls of reward functions with the arguments, and with the forms of results, of TRL's GRPOTrainer (TRL 1.16).

A function gets lists with one entry per completion, by keyword: `prompts`, `completions`, `completion_ids`, `ended` and
the columns of the prompts' rows; and `trainer_state`, `log_metric` and `log_extra`. On chat prompts, prompts and
completions are lists of messages. It returns a number, or None if it does not apply, for each completion. It may also
return criteria: a dictionary of such lists by name, or a dictionary of numbers for each completion. Their sum is the
score.
"""

import asyncio
import copy
import inspect
import math
import zlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from transformers import TrainerState

from rlhf import InputError
from rlhf.rows import Row
from rlhf.run.isolation import errors_of, isolated, name_of

RewardFunction = Callable[..., Any]
Columns = dict[str, list[Any]]
Criteria = dict[str, list[float]]  # by name, NaN where one does not apply; a plain score has the name ""


@dataclass
class CallLog:
    """What functions log during one call."""

    metrics: dict[str, list[float]] = field(default_factory=dict)  # by name, a number for each call of log_metric
    extra: Columns = field(default_factory=dict)  # by name, a value for each completion

    def log_metric(self, name: str, value: float) -> None:
        """Logs a number. Raises InputError for any other value."""
        try:
            self.metrics.setdefault(str(name), []).append(float(value))
        except (TypeError, ValueError) as error:
            raise InputError(f"log_metric: {name} is {value!r:.80}; it must be a number") from error

    def log_extra(self, column: str, values: list[Any]) -> None:
        """Logs a value for each completion."""
        self.extra.setdefault(str(column), []).extend(values)


def columns_of(
    rows: Sequence[Row],
    completions: Sequence[str],
    finished: Sequence[bool],
    completion_ids: Sequence[list[int]] | None = None,
) -> Columns:
    """The lists that functions may take. `rows[i]` is the row of the prompt of completion i.

    A column of the rows is included only if all rows have it.
    """
    replies = [
        text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
        for row, text in zip(rows, completions, strict=True)
    ]
    columns: Columns = {c: [row[c] for row in rows] for c in rows[0] if all(c in row for row in rows)}
    columns |= {"prompts": [row["prompt"] for row in rows], "completions": replies, "ended": list(finished)}
    return columns | ({} if completion_ids is None else {"completion_ids": list(completion_ids)})


def call_functions(
    functions: Mapping[str, RewardFunction],
    columns: Columns,
    *,
    log: CallLog | None = None,
    trainer_state: TrainerState | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> dict[str, Criteria]:
    """The criteria of each function by the function's name, from one call of each. Coroutines run concurrently.

    Functions get copies of the columns. `show` gets what they print. Raises InputError if a function requires another
    argument, raises an error, calls exit, or returns anything else than numbers.
    """
    log = log or CallLog()
    tools = {
        "trainer_state": copy.copy(trainer_state or TrainerState()),
        "log_metric": log.log_metric,
        "log_extra": log.log_extra,
    }
    # the same texts give the same random numbers, so that a resumed run repeats them
    seed = zlib.crc32(repr(columns["completions"]).encode("utf-8", "surrogatepass"))
    with isolated(seed, show):
        results, waiting = {}, {}
        for name, function in functions.items():
            arguments = _accepted(function, columns, tools)
            with errors_of(function):
                results[name] = function(**arguments)
            if inspect.isawaitable(results[name]):
                waiting[name] = _finished(function, results[name])
        if waiting:
            results.update(zip(waiting, _gathered(list(waiting.values())), strict=True))
        count = len(columns["completions"])
        return {name: _criteria(function, results[name], count) for name, function in functions.items()}


def total(criteria: Criteria) -> list[float]:
    """The sum of the criteria for each completion, NaN if none applies."""
    return [
        math.fsum(known) if (known := [n for n in numbers if not math.isnan(n)]) else math.nan
        for numbers in zip(*criteria.values(), strict=True)
    ]


def _accepted(function: RewardFunction, columns: Columns, tools: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the function takes. Raises InputError if it requires one that does not exist."""
    available = {**columns, **tools}
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in named if p.name not in available and p.default is p.empty]:
        raise InputError(f"{name_of(function)} requires {', '.join(missing)}; available: {', '.join(available)}")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = available if takes_all else [p.name for p in named if p.name in available]
    return {name: tools[name] if name in tools else copy.deepcopy(columns[name]) for name in names}


# --- coroutines -------------------------------------------------------------------------------------------------------


def awaited(function: Callable[..., Any], result: Any) -> Any:
    """What a function returned or, if it returned a coroutine, the result of that. Raises InputError as calls do."""
    return _gathered([_finished(function, result)])[0] if inspect.isawaitable(result) else result


async def _finished(function: RewardFunction, result: Any) -> Any:
    with errors_of(function):
        return await result


def _gathered(coroutines: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*coroutines)

    return _event_loop().run_until_complete(gather())


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls, because clients that functions keep belong to the loop of their first call."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # the first error is raised; the others must not be printed
    return loop


# --- results ----------------------------------------------------------------------------------------------------------


def _criteria(function: RewardFunction, result: Any, count: int) -> Criteria:
    with errors_of(function):
        if isinstance(result, Mapping):
            criteria = {str(name): _numbers(function, values, count) for name, values in result.items()}
        else:
            scores = _listed(function, result)
            if not any(isinstance(score, Mapping) for score in scores):
                return {"": _numbers(function, scores, count)}
            tables = [{} if score is None else score for score in scores]
            if not all(isinstance(table, Mapping) for table in tables):
                raise InputError(f"{name_of(function)} returned numbers beside dictionaries: {result!r:.80}")
            names = dict.fromkeys(name for table in tables for name in table)
            criteria = {str(n): _numbers(function, [t.get(n) for t in tables], count) for n in names}
    if not criteria:
        raise InputError(f"{name_of(function)} returned a dictionary without criteria")
    return criteria


def _numbers(function: RewardFunction, values: Any, count: int) -> list[float]:
    values = _listed(function, values)
    try:
        numbers = [math.nan if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(_not_numbers(function, values)) from error
    if len(numbers) != count:
        raise InputError(f"{name_of(function)} returned {len(numbers)} scores for {count} completions")
    return numbers


def _listed(function: RewardFunction, result: Any) -> list[Any]:
    try:
        values = iter(result)
    except TypeError as error:
        raise InputError(_not_numbers(function, result)) from error
    return list(values)


def _not_numbers(function: RewardFunction, result: Any) -> str:
    return f"{name_of(function)} returned {result!r:.80}; it must return a number for each completion"
