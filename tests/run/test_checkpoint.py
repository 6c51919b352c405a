"""Checkpoints are complete or absent, and damage is detected."""

import os
import resource

import pytest
import torch

from rlhf import InputError
from rlhf.run.checkpoint import Checkpoints, load_state, save_state, step_of


def save_steps(folder, steps=(1, 2, 3), keep=2) -> Checkpoints:
    """The checkpoints of a folder, after those of `steps` were saved."""
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, lambda path: save_state(path / "state", {"step": step, "w": torch.full((4,), step)}))  # noqa: B023
    return checkpoints


# --- which checkpoint is used -----------------------------------------------------------------------------------------


def test_the_newest_checkpoints_are_kept_and_the_last_is_loaded(tmp_path):
    checkpoints = save_steps(tmp_path)
    assert [step_of(path) for path in checkpoints.steps()] == [2, 3]
    assert load_state(checkpoints.newest() / "state")["w"].tolist() == [3.0] * 4
    assert Checkpoints(tmp_path / "nothing").newest() is None


def truncate(path):
    os.truncate(path, 10)


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_last_bit, os.unlink], ids=["truncate", "flip", "unlink"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, name):
    checkpoints, messages = save_steps(tmp_path), []
    damage(checkpoints.steps()[-1] / name)
    newest = checkpoints.newest(messages.append)
    # the last byte of the manifest is a line break: flipped, it is not JSON
    assert step_of(newest) == 2
    assert len(messages) == 1 and "step-0000003 is damaged" in messages[0] and name in messages[0]


# --- interrupted writes -----------------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_and_older_checkpoints_are_kept(tmp_path):
    checkpoints = save_steps(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            InputError, match="can't write the checkpoint .*step-0000004 .* complete one is .*step-0000003"
        ):
            checkpoints.save(4, lambda path: save_state(path / "state", {"w": torch.zeros(100_000)}))
        with pytest.raises(InputError, match="can't write the checkpoint"):
            checkpoints.save(4, lambda path: torch.save(torch.zeros(100_000), path / "optimizer.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [step_of(path) for path in checkpoints.steps()] == [2, 3]
    assert not list(tmp_path.glob(".*"))
    assert step_of(checkpoints.newest(pytest.fail)) == 3


def test_remains_of_a_killed_process_are_removed_and_not_taken_for_a_checkpoint(tmp_path):
    checkpoints = save_steps(tmp_path)
    (tmp_path / ".step-0000004.partial").mkdir()
    (tmp_path / ".step-0000004.partial" / "state.safetensors").write_bytes(b"half")
    (tmp_path / ".step-0000001.old").mkdir()
    assert step_of(checkpoints.newest(pytest.fail)) == 3
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000002", "step-0000003"]
    save_steps(tmp_path, steps=[4])
    assert step_of(checkpoints.newest(pytest.fail)) == 4


def test_a_checkpoint_that_a_killed_process_did_not_remove_is_removed_later(tmp_path):
    save_steps(tmp_path, keep=3)
    Checkpoints(tmp_path, keep=2).newest(pytest.fail)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000002", "step-0000003"]


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_loaded_state_equals_the_saved_one(tmp_path):
    tied = torch.randn(3, 2)
    state = {
        "a": [1, 0.1, "x", None, True],
        "b": {"one": tied, "same": tied},
        "optimizer": {0: {"step": torch.tensor(3.0)}},
    }
    save_state(tmp_path / "s", state)
    loaded = load_state(tmp_path / "s")
    assert loaded["a"] == state["a"] and loaded["optimizer"][0]["step"] == 3
    assert torch.equal(loaded["b"]["one"], tied) and torch.equal(loaded["b"]["same"], tied)
