"""The metrics of a step."""

import pytest
import torch

from tests.trainers import make_trainer


def test_gold_is_the_mean_over_known_qualities_and_absent_if_none_is_known(tokenizer):
    def gold(responses):
        index = responses.prompt_index
        return torch.where(index % 2 == 0, index.float(), torch.nan)

    trainer = make_trainer(tokenizer)
    trainer.gold = gold
    step = next(trainer.train())
    even = [float(i) for i in step.rollout.prompt_index if i % 2 == 0]
    assert step.metrics["gold"] == pytest.approx(sum(even) / len(even))
    trainer.gold = lambda responses: torch.full((len(responses.mask),), torch.nan)
    assert "gold" not in next(trainer.train()).metrics
