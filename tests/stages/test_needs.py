"""What a stage says before it works, and after an error for lack of memory."""

import re
import subprocess
import sys

import pytest
import torch

from rlhf import InputError
from rlhf.run.memory import Needs
from stages.common import console, ending, needs
from stages.common.console import ProgressBar
from stages.common.ending import status_of
from stages.common.parsing import parse
from tests.forks import ROOT
from tests.memory import SAID, peak_of
from tests.pipeline import TOY, command, environment

GB = 10**9
# a stage that may take 450 MB more than its libraries
LIMITED = """
import re, resource, sys
from stages.common.stage import main
from stages.pretrain import work
size = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_AS, (size + 450 * 2**20, resource.RLIM_INFINITY))
main("pretrain", work)
"""


def some_needs(**changes) -> Needs:
    return Needs(
        **{
            "parameters": 124 * 10**6, "weights": 0.5 * GB, "gradients": 0.5 * GB, "moments": 1.0 * GB, "rows": 64,
            "activations": lambda rows: rows * GB / 64, **changes,
        }
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process comes from Linux")
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_stage_says_its_peak_memory_before_it_works_to_a_fifth(run, stage):
    output, peak = peak_of(command(stage, run=run), environment())
    (said,) = SAID.findall(output)
    assert float(said) == pytest.approx(peak, rel=0.2)


def test_the_line_names_the_parts_of_the_peak():
    assert needs.line(some_needs()) == (
        "needs about 3.0 GB for 124 M parameters: weights 0.5, gradients and moments 1.5, activations 1.0"
    )
    sampling = some_needs(gradients=0.0, moments=0.0, activations=lambda rows: 0.0, sampling=lambda rows: 0.7 * GB)
    sampling.cache = 0.2 * GB
    assert needs.line(sampling) == (
        "needs about 1.2 GB for 124 M parameters: weights 0.5, cache of keys and values 0.2, rest of sampling 0.5"
    )


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()], ids=str
)
def test_out_of_memory_ends_with_what_is_needed_and_what_would_fit(monkeypatch, error):
    hint = lambda: needs.what_fits(some_needs(), "micro_batch_size", 2.26 * GB)  # noqa: E731
    monkeypatch.setattr(ending, "hints", [hint])
    assert status_of(error) == (
        2, "not enough memory: micro_batch_size 64 needs about 3.0 GB, 16 would fit in 2.2 GB"
    )  # fmt: skip


def test_what_did_not_fit_is_not_recommended_even_if_the_formula_says_that_it_fits():
    assert needs.what_fits(some_needs(), "batch_size", 4.0 * GB).endswith("32 would fit in 2.5 GB")


def test_without_a_size_that_fits_the_message_says_so():
    assert "take a smaller model" in needs.what_fits(some_needs(), "batch_size", 1.0 * GB)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process this way")
def test_a_stage_whose_memory_is_limited_ends_with_the_batch_size_that_would_fit(run):
    argv = ["--recipe", TOY, "--run", str(run), "--batch_size", "700", "--output", str(run / "limited")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *argv], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"not enough memory: batch_size 700 needs about [\d.]+ GB, \d+ would fit in", done.stderr)


# --- the time that is left --------------------------------------------------------------------------------------------


def test_without_a_terminal_the_time_left_is_said_once_and_without_the_first_step(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(console.time, "time", lambda: clock[0])
    bar = ProgressBar(12)
    for seconds in (2.0, 0.5, 0.6, 0.4, 0.5):
        clock[0] += seconds
        bar.update()
    # after 3.1 s: nine steps of 0.55 s are left
    assert capsys.readouterr().out == "             about 5 s left, after 3 s\n"


def test_after_a_long_first_step_the_time_left_is_that_of_steps_as_long(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(console.time, "time", lambda: clock[0])
    bar = ProgressBar(11)
    clock[0] += 12.0
    bar.update()
    assert capsys.readouterr().out == "             about 2 min 0 s left, after 12 s\n"


# --- the option -------------------------------------------------------------------------------------------------------


def test_the_micro_batch_may_be_a_number_or_auto_or_none():
    values = [parse("ppo", ["--micro_batch_size", value]).micro_batch_size for value in ("auto", "3", "none")]
    assert values == ["auto", 3, None]
    with pytest.raises(InputError, match="it must be auto, or a whole number, from 1 to 1,000,000 or none"):
        parse("ppo", ["--micro_batch_size", "some"])
