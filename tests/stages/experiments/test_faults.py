"""The mistakes of the experiment `details` are really made."""

import torch

from rlhf.models import load_scorer
from stages.experiments.faults.value_from_scratch import make_new
from tests.classifiers import tiny_classifier


def test_a_value_model_from_scratch_has_no_weight_of_the_reward_model_and_values_of_zero(tmp_path):
    classifier = tiny_classifier()
    classifier.config.score_mean = 1.5
    classifier.save_pretrained(tmp_path)
    scorer = load_scorer(tmp_path)
    before = {name: weight.detach().clone() for name, weight in scorer.named_parameters()}
    make_new(scorer)
    same = [n for n, weight in scorer.named_parameters() if weight.dim() == 2 and torch.equal(before[n], weight)]
    assert same == []
    tokens = torch.arange(6).view(2, 3)
    assert scorer(tokens, torch.ones_like(tokens)).abs().max() == 0
