"""Reward functions get what TRL's GRPOTrainer gives them, may return criteria, and can't disturb the run."""

import asyncio
import functools
import math
import os
import random
import signal
import sys
import time

import numpy as np
import pytest
import torch
from transformers import TrainerState
from trl.rewards import get_soft_overlong_punishment, think_format_reward

from rlhf import InputError
from rlhf.run.isolation import OUTPUT_LIMIT
from rlhf.scoring import call_reward_function
from rlhf.scoring.function_calls import CallLog, call_functions, columns_of, total

ROWS = [{"prompt": "a", "task": ["x"]}, {"prompt": "b", "task": ["y"]}]
CHAT = [{"role": "user", "content": "Hi"}]


def called(function, rows=ROWS, texts=("one", "three"), **kwargs):
    """The criteria that a function returns for two completions, the first of them truncated."""
    columns = columns_of(rows, list(texts), [False, True], [[1], [2, 3]])
    return call_functions({"f": function}, columns, **kwargs)["f"]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_on_chat_prompts_completions_are_messages_and_on_text_they_are_text():
    received = {}

    def function(prompts, completions):
        received.update(prompts=prompts, completions=completions)
        return [0, 0]

    called(function, [{"prompt": CHAT}, {"prompt": "b"}])
    assert received == {"prompts": [CHAT, "b"], "completions": [[{"role": "assistant", "content": "one"}], "three"]}


def test_trls_own_reward_functions_run():
    texts = ["<think>\na\n</think>\nb", "b"]
    assert call_reward_function(think_format_reward, [{"prompt": CHAT}] * 2, texts, [True, True]) == [1.0, 0.0]
    # equation 13 of DAPO with a maximum of 2 tokens, all of them in the punished part: minus the length, over 2
    assert called(get_soft_overlong_punishment(2, 2)) == {"": [-0.5, -1.0]}


def test_functions_get_the_state_of_the_training_and_log_metrics_and_columns_as_in_trl():
    log = CallLog()

    def function(completions, trainer_state, log_metric, log_extra, **kwargs):
        log_metric("accuracy", 0.25)
        log_metric("accuracy", np.float32(0.75))
        log_extra("length", [len(text) for text in completions])
        return [trainer_state.global_step / trainer_state.max_steps] * 2

    assert called(function, log=log, trainer_state=TrainerState(global_step=3, max_steps=12)) == {"": [0.25, 0.25]}
    assert log.metrics == {"accuracy": [0.25, 0.75]} and log.extra == {"length": [3, 5]}


def test_a_function_that_changes_its_arguments_changes_no_row_and_no_argument_of_the_next_function():
    def vandal(prompts, completions, completion_ids, task):
        task[0].append("z")
        prompts.clear(), completions.clear(), completion_ids[0].clear()
        return [0, 0]

    columns = columns_of(ROWS, ["one", "three"], [False, True], [[1], [2, 3]])
    after = {}
    call_functions({"vandal": vandal, "next": lambda **kwargs: after.update(kwargs) or [0, 0]}, columns)
    assert after["completions"] == ["one", "three"] and after["completion_ids"] == [[1], [2, 3]]
    assert ROWS[0]["task"] == ["x"]


def test_a_metric_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="log_metric: accuracy is 'high'; it must be a number"):
        called(lambda log_metric: log_metric("accuracy", "high"))


# --- coroutines -------------------------------------------------------------------------------------------------------


def test_coroutines_are_awaited_together():
    running = set()

    async def meet(name, completions):
        running.add(name)
        while len(running) < 2:  # ends only if the other one runs at the same time
            await asyncio.sleep(0)
        return [len(text) for text in completions]

    class Other:
        async def __call__(self, completions, **kwargs):
            return [-n for n in await meet("other", completions)]

    columns = columns_of(ROWS, ["one", "three"], [True, True])
    functions = {"one": functools.partial(meet, "one"), "other": Other(), "plain": lambda completions: [7, 8]}
    assert call_functions(functions, columns) == {
        "one": {"": [3, 5]}, "other": {"": [-3, -5]}, "plain": {"": [7, 8]}
    }  # fmt: skip


def test_all_calls_share_one_event_loop_because_clients_belong_to_theirs():
    loops = []

    async def function(completions):
        loops.append(asyncio.get_running_loop())
        return [0, 0]

    called(function), called(function)
    assert loops[0] is loops[1]


def test_a_coroutine_that_fails_is_named(capfd):
    async def fails(completions):
        await asyncio.sleep(0)
        raise ValueError("no network")

    with pytest.raises(InputError, match=r"fails raised ValueError: no network \(.*test_function_calls.py:\d+\)"):
        called(fails)
    assert capfd.readouterr() == ("", "")


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        {"right": [1, 0], "polite": (0.5, None)},
        {"right": torch.tensor([1.0, 0.0]), "polite": np.array([0.5, np.nan])},
        [{"right": 1, "polite": 0.5}, {"right": 0}],
        ({"right": right, **more} for right, more in ((True, {"polite": 0.5}), (False, {}))),
    ],
    ids=["dictionary", "arrays", "dictionaries", "generator"],
)
def test_criteria_come_as_a_dictionary_of_lists_or_as_a_list_of_dictionaries(result):
    criteria = called(lambda completions: result)
    assert list(criteria) == ["right", "polite"] and criteria["right"] == [1.0, 0.0]
    assert criteria["polite"][0] == 0.5 and math.isnan(criteria["polite"][1])
    assert total(criteria) == [1.5, 0.0]


def test_a_score_is_unknown_only_if_no_criterion_applies():
    numbers = total({"a": [1.0, math.nan, math.nan], "b": [math.nan, math.nan, -2.0]})
    assert numbers[0] == 1.0 and math.isnan(numbers[1]) and numbers[2] == -2.0
    assert math.isnan(total(called(lambda completions: [None, {"a": 1}]))[0])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"a": [1]}, "returned 1 scores for 2 completions"),
        ({"a": 1.0}, "returned 1.0; it must return a number for each"),
        ({"a": ["good", "bad"]}, "returned .'good', 'bad'."),
        ([{"a": 1}, 2], "returned numbers beside dictionaries"),
        ({}, "returned a dictionary without criteria"),
    ],
)
def test_criteria_without_a_number_for_each_completion_are_refused(result, message):
    with pytest.raises(InputError, match=f"<lambda> {message}"):
        called(lambda completions: result)


# --- isolation --------------------------------------------------------------------------------------------------------


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def seed_all():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)


def test_the_random_numbers_of_a_function_change_no_others():
    seed_all()
    expected = draws()
    seed_all()
    called(lambda completions: [sum(draws()), random.seed(7)])
    assert draws() == expected


def test_a_function_draws_the_same_numbers_for_the_same_texts_and_others_for_other_texts():
    drawn = [called(lambda completions: [sum(draws()), 0], texts=texts)[""][0] for texts in (["a", "b"], ["a", "c"])]
    seed_all()
    assert called(lambda completions: [sum(draws()), 0], texts=["a", "b"])[""][0] == drawn[0] != drawn[1]


def test_random_numbers_of_a_lazy_result_are_isolated_too():
    seed_all()
    expected = draws()
    seed_all()
    called(lambda completions: (random.random() for _ in completions))
    assert draws() == expected


def test_a_function_may_change_the_current_folder(tmp_path):
    before = os.getcwd()
    called(lambda completions: [0, os.chdir(tmp_path)])
    assert os.getcwd() == before


def test_a_megabyte_of_output_is_cut_and_handed_over(capfd):
    shown = []

    def function(completions):
        print("first")
        print("x" * 10**6, file=sys.stderr)
        return [0, 0]

    called(function, show=shown.append)
    kept, cut = OUTPUT_LIMIT, len("first\n") + 10**6 + len("\n") - OUTPUT_LIMIT
    assert shown == ["first\n" + "x" * (kept - 6) + f"\n... ({cut:,} more characters)"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("leave", "message"),
    [(lambda: sys.exit(0), "called exit"), (lambda: exec("raise KeyboardInterrupt"), "raised KeyboardInterrupt")],
    ids=["exit", "KeyboardInterrupt"],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_that_leaves_is_an_error_that_names_it(leave, message, is_async, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: "the handler of the stages")

    async def later(completions):
        leave()

    with pytest.raises(InputError, match=f"{'later' if is_async else '<lambda>'} {message}.*test_function_calls.py"):
        called(later if is_async else lambda completions: leave())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_signal_of_the_user_stops_a_function(is_async):
    class Interrupted(KeyboardInterrupt):
        pass

    def handle(number, frame):
        raise Interrupted

    def wait(completions):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(10)

    async def wait_async(completions):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        await asyncio.sleep(10)

    previous, before = signal.signal(signal.SIGALRM, handle), random.getstate()
    try:
        with pytest.raises(Interrupted):
            called(wait_async if is_async else wait)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert random.getstate() == before
