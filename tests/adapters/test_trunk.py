"""Policy, reference, value model and reward model share one frozen trunk, and PPO leaves it as it was."""

import pytest
import torch

from rlhf.adapters.lora import save_model, trained_weights
from rlhf.classifiers import Scorer, classifier_on
from rlhf.engine import hidden_states, probe, supports_packing
from rlhf.engine.support import has_plain_head, supports_pruning
from rlhf.rollout import generate, response_logprobs
from tests.conftest import tiny_gpt2, tiny_llama
from tests.trainers import RLOO, adapted, make_trainer, moved, weights


def addresses(model):
    """The memory of each weight of a model's trunk."""
    return {p.data_ptr() for name, p in model.named_parameters() if "lora_" not in name and "score" not in name}


@pytest.mark.parametrize("options", [{}, {"share_trunk": True}, {"ema_decay": 0.5}, RLOO], ids=str)
def test_all_models_share_the_trunk_and_training_does_not_change_it(tokenizer, options):
    trainer = make_trainer(tokenizer, lora_r=4, **options)
    before, adapters = weights(trainer.reference).clone(), weights(trainer.policy).clone()
    list(trainer.train())
    trunk = addresses(trainer.reference)
    for name, model in trainer.models().items():
        if name != "value_model" or not trainer.shares_trunk:
            assert addresses(model) <= trunk, name
    assert torch.equal(weights(trainer.reference), before)
    assert not torch.equal(weights(trainer.policy), adapters)


def test_the_checks_before_the_first_step_include_that_the_kl_is_0(tokenizer):
    trainer = make_trainer(tokenizer, lora_r=4)
    metrics = next(trainer.train()).metrics
    assert "ratio = 1, KL to the reference = 0" in trainer.sanity_report
    assert metrics["kl"] == pytest.approx(0, abs=1e-6) and metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["ptx_loss"] > 0


def test_a_checkpoint_holds_no_weight_of_the_trunk_and_is_refused_on_another(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, lora_r=4)
    trainer.save_state(tmp_path)
    trained = sum(
        weight.numel() for model in trainer.trained_models() for weight in model.parameters() if weight.requires_grad
    )
    assert (tmp_path / "state.safetensors").stat().st_size < 4 * trained + 20_000
    other = make_trainer(tokenizer, lambda **kwargs: tiny_gpt2(**kwargs, n_inner=64), lora_r=4)
    with pytest.raises(ValueError, match="is of an adapter on another model"):
        other.load_state(tmp_path)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_models_with_adapters_have_the_fast_paths_and_their_results(make, tokenizer):
    trunk = make().eval()
    policy = moved(adapted(trunk, 4))
    scorer = Scorer(classifier_on(policy))
    probe(policy)
    assert supports_packing(policy) and supports_pruning(policy) and has_plain_head(policy)
    assert supports_packing(scorer.model) and supports_pruning(scorer.model)
    prompts = torch.tensor([[1, 1, 5, 6], [7, 8, 9, 10], [7, 8, 9, 10]])
    responses = generate(
        policy, prompts, (prompts != 1).long(), response_length=6, temperature=1.0, stop_ids=[0], pad_id=1
    )
    responses.prompt_index = torch.tensor([0, 1, 1])
    with torch.no_grad():
        logprobs, _ = response_logprobs(policy, responses, 1.0)
        hidden = hidden_states(scorer.model, responses.input_ids, responses.attention_mask, responses.token_index)
        expected, states = [], []
        for row in range(3):  # transformers' plain forward pass of each row alone
            ids = responses.input_ids[row][responses.attention_mask[row].bool()][None]
            output, length = policy(input_ids=ids, output_hidden_states=True), int(responses.lengths[row])
            all_logprobs = output.logits[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])
            expected.append(all_logprobs[-length:, 0])
            states.append(output.hidden_states[-1][0, -length:])
    torch.testing.assert_close(logprobs[responses.mask], torch.cat(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(responses.logprobs[responses.mask], torch.cat(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hidden, torch.cat(states), atol=1e-4, rtol=1e-4)


def test_the_adapters_of_two_roles_are_independent():
    policy = adapted(tiny_gpt2().eval(), 4)
    value_model = classifier_on(policy)
    before = trained_weights(value_model)["transformer.h.0.attn.c_attn.lora_B.weight"].clone()
    moved(policy)
    assert torch.equal(trained_weights(value_model)["transformer.h.0.attn.c_attn.lora_B.weight"], before)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    policy = moved(adapted(tiny_gpt2(), 4))
    for name in ("a", "b"):
        save_model(policy, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
