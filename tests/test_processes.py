"""What one process computes, two compute together."""

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
    folder, found = tmp_path_factory.mktemp("processes"), []
    for processes in ("1", "2"):
        file = folder / f"{processes}.json"
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            processes,
            "--master-port",
            f"2961{processes}",
        ]
        # without this Accelerate sees no GPUs, and takes each process for the only one
        given = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launch, "-m", "tests.two_processes", file],
            cwd=ROOT,
            env=given,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(file.read_text()))
        assert found[-1]["processes"] == int(processes)
    return found


@pytest.fixture(params=["tiny_gpt2", "tiny_llama", "rloo"])
def one_and_two(runs, request):
    """What came out for a model, or without a value model, of one process and of two."""
    return [run[request.param] for run in runs]


def test_gradients_of_policy_and_value_model_are_the_same(one_and_two):
    one, two = ([torch.tensor(g) for g in run["gradients"]] for run in one_and_two)
    for whole, shared in zip(one, two, strict=True):
        assert whole.abs().max() > 1e-3
        torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-3)


def test_metrics_are_the_same(one_and_two):
    one, two = (run["metrics"] for run in one_and_two)
    assert one.keys() == two.keys()
    for name in one:
        assert two[name] == pytest.approx(one[name], abs=1e-5, rel=1e-4), name


def test_a_run_goes_on_to_the_same_bits_on_one_process_and_on_two(runs):
    for run in runs:
        assert run["resumed"] == run["whole"]
    assert runs[0]["whole"] != runs[1]["whole"]  # each process draws numbers of its own
