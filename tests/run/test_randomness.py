"""The order of prompts, and the state of the global random generators."""

import random

import numpy as np
import torch

from rlhf.run.checkpoint import load_state, save_state
from rlhf.run.randomness import random_state, set_random_state, shuffled


def test_every_prompt_comes_once_an_epoch_in_a_new_order():
    order = shuffled(7, 0, 21, (0, 1))
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert order[:7] != order[7:14]
    assert shuffled(7, 5, 9, (0, 1)) == order[5:14]


def test_random_numbers_continue_after_a_saved_state_is_restored(tmp_path):
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.randn(3).tolist()]

    random.gauss(0, 1), np.random.randn()  # each keeps a second number for the next call
    save_state(tmp_path / "s", random_state())
    expected = draw()
    draw()
    set_random_state(load_state(tmp_path / "s"))
    assert draw() == expected
