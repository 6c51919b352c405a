"""Reward functions for tests."""

import os
import random
import sys
import time

import torch

CALLS = 0


def fails_in_the_third_call(completions: list[str]) -> list[float]:
    """The length of the completions; an error in the third call of a process."""
    global CALLS
    CALLS += 1
    if CALLS == 3:
        raise ValueError("the third call")
    return [float(len(text)) for text in completions]


def one_infinity(completions: list[str]) -> list[float]:
    """0 for each completion but the fourth, which gets infinity."""
    return [float("inf") if i == 3 else 0.0 for i in range(len(completions))]


def exclamation_marks(completions: list[str], **columns: object) -> list[int]:
    """How many exclamation marks a completion has."""
    return [text.count("!") for text in completions]


def no_opinion(completions: list[str]) -> list[None]:
    """None for each completion."""
    return [None for _ in completions]


def leaves(completions: list[str]) -> None:
    """Calls exit with the status of success."""
    sys.exit(0)


def chatters(completions: list[str], log_metric, log_extra, **columns: object) -> dict[str, list[float]]:
    """Two criteria; prints a megabyte with control characters, logs, draws random numbers and changes the folder."""
    print("\n".join(["\x1b[31mred"] * 10**5))
    os.chdir("/")
    random.seed(3), torch.manual_seed(3)
    log_metric("longest", max(map(len, completions)))
    log_extra("said", [text.upper() for text in completions])
    return {"long": [float(len(text)) for text in completions], "constant": [1.0] * len(completions)}


def waits(completions: list[str]) -> list[float]:
    """Says so, and waits for a minute."""
    os.write(1, b"waiting\n")
    time.sleep(60)
    return [0.0] * len(completions)


def only_the_main_process(completions: list[str], **columns: object) -> list[float]:
    """The length of the completions; an error in a process that is not the main one."""
    if os.environ.get("RANK", "0") != "0":
        raise ValueError("called by another process")
    return [float(len(text)) for text in completions]
