"""Two processes compute what one computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of tests/two_processes.py with one process, with two, and with two that share out the models."""
    folder, results = tmp_path_factory.mktemp("processes"), []
    for processes, fsdp in (("1", "false"), ("2", "false"), ("2", "true")):
        file = folder / f"{processes}-{fsdp}.json"
        # standalone: on a free port, so that several test runs do not collide
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        # without ACCELERATE_USE_CPU and without GPUs, Accelerate would run each process as if it were the only one
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        environment |= {"ACCELERATE_USE_FSDP": fsdp, "FSDP_VERSION": "2"}
        process = subprocess.run(
            [sys.executable, *launcher, "-m", "tests.two_processes", file],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        results.append(json.loads(file.read_text()))
        assert (results[-1]["processes"], results[-1]["sharded"]) == (int(processes), fsdp == "true")
    return results


@pytest.fixture(params=["tiny_gpt2", "tiny_llama", "rloo", "lora"])
def name(request):
    """A model, a run without a value model, or one with adapters."""
    return request.param


@pytest.fixture(params=[1, 2], ids=["whole", "sharded"])
def one_and_two(runs, name, request):
    """The results with one process, and with two."""
    if name == "lora" and request.param == 2:
        pytest.skip("adapters are not supported with FSDP")
    return [run[name] for run in (runs[0], runs[request.param])]


def test_two_processes_have_the_gradients_of_one(one_and_two):
    one, two = ([torch.tensor(gradient) for gradient in run["gradients"]] for run in one_and_two)
    for expected, gradient in zip(one, two, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


def test_two_processes_have_the_metrics_of_one(one_and_two):
    one, two = (run["metrics"] for run in one_and_two)
    assert one.keys() == two.keys()
    for name in one:
        assert two[name] == pytest.approx(one[name], abs=1e-5, rel=1e-4), name


def test_a_resumed_run_ends_with_the_same_bits_on_one_process_and_on_two(runs):
    for run in runs:
        assert run["resumed"] == run["whole"]
    for run in runs[1:]:
        assert run["whole"] == pytest.approx(runs[0]["whole"], abs=1e-4)


def test_sharded_processes_go_on_together_after_responses_of_different_lengths(runs):
    assert runs[2]["ended"][:2] == [1, 6]
    assert runs[2]["ended"][2] == pytest.approx(runs[0]["ended"][1], rel=1e-5)
