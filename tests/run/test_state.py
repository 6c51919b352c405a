"""The models that a run saves."""

import torch

from rlhf.models import load_policy, load_scorer
from tests.trainers import RLOO, make_trainer, weights


def test_the_saved_policy_is_the_running_average_of_the_weights(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, ema_decay=0.9, total_episodes=8 * 3)
    after_each_step = [weights(trainer.policy) for _ in trainer.train()]
    trainer.save_models(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # the average starts at the first update
    average = after_each_step[0]
    for later in after_each_step[1:]:
        average = 0.9 * average + 0.1 * later
    torch.testing.assert_close(weights(load_policy(tmp_path, tokenizer)), average, atol=1e-6, rtol=1e-5)
    assert not torch.equal(weights(trainer.policy), average)


def test_the_value_model_is_saved_beside_the_policy_and_gives_the_same_values(tokenizer, tmp_path):
    for share_trunk in (False, True):
        trainer = make_trainer(tokenizer, share_trunk=share_trunk)
        list(trainer.train())
        trainer.save_models(tmp_path)
        ids = torch.tensor([[5, 6, 7]])
        values = load_scorer(tmp_path / "value_model")(ids, torch.ones_like(ids))
        if share_trunk:
            hidden = trainer.policy(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            expected = trainer.value_model(hidden)[0]
        else:
            expected = trainer.value_model(ids, torch.ones_like(ids))
        torch.testing.assert_close(values, expected)


def test_without_a_value_model_only_the_policy_is_saved(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, **RLOO)
    list(trainer.train())
    trainer.save_models(tmp_path)
    assert not (tmp_path / "value_model").exists() and trainer.models().keys() == {"policy"}
