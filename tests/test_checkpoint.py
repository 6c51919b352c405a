"""Files that are whole or absent, and checkpoints that say when they are not what was written."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from rlhf.checkpoint import (
    Checkpoints,
    load_state,
    random_state,
    replace,
    save_state,
    set_random_state,
    step_of,
    write_json,
    write_text,
)
from rlhf.errors import InputError
from stages.interruption import lock


def saved(folder, steps=(1, 2, 3), keep=2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, lambda path: save_state(path / "state", {"step": step, "w": torch.full((4,), step)}))  # noqa: B023
    return checkpoints


def test_the_last_ones_are_kept_and_the_newest_is_found(tmp_path):
    checkpoints = saved(tmp_path)
    assert [step_of(path) for path in checkpoints.steps()] == [2, 3]
    assert load_state(checkpoints.newest() / "state")["w"].tolist() == [3.0] * 4
    assert Checkpoints(tmp_path / "nothing").newest() is None


def truncate(path):
    os.truncate(path, 10)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, os.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, damage, name):
    checkpoints, said = saved(tmp_path), []
    damage(checkpoints.steps()[-1] / name)
    found = checkpoints.newest(said.append)
    # a flipped last byte of the manifest is a line break that has become something else: it is no JSON any more
    assert step_of(found) == 2
    assert len(said) == 1 and "step-0000003 is damaged" in said[0] and name in said[0]


def test_a_disk_that_fills_up_is_named_and_costs_no_older_checkpoint(tmp_path):
    checkpoints = saved(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match="can't write the checkpoint .*step-0000004 .* whole is .*step-0000003"):
            checkpoints.save(4, lambda path: save_state(path / "state", {"w": torch.zeros(100_000)}))
        with pytest.raises(InputError, match="can't write the checkpoint"):
            checkpoints.save(4, lambda path: torch.save(torch.zeros(100_000), path / "optimizer.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [step_of(path) for path in checkpoints.steps()] == [2, 3]
    assert not list(tmp_path.glob(".*"))
    assert step_of(checkpoints.newest(pytest.fail)) == 3


def test_what_was_left_by_a_kill_in_the_middle_is_not_taken_for_a_checkpoint(tmp_path):
    checkpoints = saved(tmp_path)
    (tmp_path / ".step-0000004.partial").mkdir()
    (tmp_path / ".step-0000004.partial" / "state.safetensors").write_bytes(b"half")
    (tmp_path / ".step-0000001.old").mkdir()
    assert step_of(checkpoints.newest(pytest.fail)) == 3
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000002", "step-0000003"]
    saved(tmp_path, steps=[4])
    assert step_of(checkpoints.newest(pytest.fail)) == 4


def test_what_was_left_by_a_kill_before_the_oldest_went_goes_later(tmp_path):
    saved(tmp_path, keep=3)
    Checkpoints(tmp_path, keep=2).newest(pytest.fail)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000002", "step-0000003"]


def test_state_comes_back_as_it_was(tmp_path):
    tied = torch.randn(3, 2)
    state = {
        "a": [1, 0.1, "x", None, True],
        "b": {"one": tied, "same": tied},
        "optimizer": {0: {"step": torch.tensor(3.0)}},
    }
    save_state(tmp_path / "s", state)
    found = load_state(tmp_path / "s")
    assert found["a"] == state["a"] and found["optimizer"][0]["step"] == 3
    assert torch.equal(found["b"]["one"], tied) and torch.equal(found["b"]["same"], tied)


def test_random_numbers_go_on_where_they_were(tmp_path):
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.randn(3).tolist()]

    random.gauss(0, 1), np.random.randn()  # each keeps a second number for later
    save_state(tmp_path / "s", random_state())
    expected = draw()
    draw()
    set_random_state(load_state(tmp_path / "s"))
    assert draw() == expected


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_place_is_held_by_one_and_not_by_the_dead(tmp_path):
    code = "import sys, time; from stages.interruption import lock; from pathlib import Path; l = lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is at work"):
        lock(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    started = time.time()
    os.close(lock(tmp_path))
    assert time.time() - started < 1
