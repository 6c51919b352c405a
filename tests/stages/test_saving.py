"""A stage that can't save its result stops before it trains."""

import random
from types import SimpleNamespace

import pytest
import torch

from rlhf import InputError
from stages.common.stage import Stage
from tests.conftest import tiny_gpt2
from tests.pipeline import command, shell


def test_an_error_of_saving_names_the_folder_and_leaves_nothing_there(tmp_path):
    def save(folder):
        (folder / "model").write_text("part")
        raise ValueError("top_p is set\nmore lines")

    with pytest.raises(InputError, match=rf"before training.* {tmp_path}: ValueError: top_p is set$"):
        Stage.check_saving(SimpleNamespace(partial=tmp_path), save)
    assert not list(tmp_path.iterdir())


def test_saving_an_untrained_model_changes_no_random_number(tmp_path):
    def save(folder):
        tiny_gpt2().save_pretrained(folder)
        random.random()

    random.seed(1), torch.manual_seed(1)
    expected = random.random(), torch.rand(1)
    random.seed(1), torch.manual_seed(1)
    Stage.check_saving(SimpleNamespace(partial=tmp_path), save)
    assert (random.random(), torch.rand(1)) == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "ppo"])
def test_a_stage_that_has_no_space_for_its_result_stops_before_its_first_step(run, name):
    """A limit on the size of a file stands for a full disk. The weights have 250 kB."""
    limited = ["bash", "-c", 'ulimit -f 150 && exec "$@"', "bash", *command(name, run=run)]
    output = shell(*limited, status=2)
    assert f"{name}: stopped before training, because the model can't be saved in" in output
    assert " loss " not in output  # of the progress bar
    assert not (run / f".{name}.partial" / ".trial").exists()
