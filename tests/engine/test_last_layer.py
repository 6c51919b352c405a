"""Computing the last layer at selected tokens only gives the same states and gradients."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rlhf.classifiers import Scorer
from rlhf.engine import last_layer, passes
from rlhf.engine.forward import hidden_states, selected_states
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama
from tests.engine.batches import padded_batch

SELECTED = torch.tensor([1, 6, 7, 11])
# a function that makes a model, and one that returns the last layer's feed-forward block
MODELS = {
    "gpt2": (tiny_gpt2, lambda policy: policy.transformer.h[-1].mlp),
    "llama": (tiny_llama, lambda policy: policy.model.layers[-1].mlp),
}


def gradients(model: nn.Module, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of a function that depends on each selected state with a different weight."""
    model.zero_grad()
    hidden = hidden_states(model, *padded_batch(), index)
    (hidden.sin() * torch.linspace(-1, 1, len(index))[:, None]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_states_and_gradients_equal_those_of_the_whole_layer(name, monkeypatch):
    policy = MODELS[name][0]().eval()
    pruned, pruned_gradients = selected_states(policy, *padded_batch(), SELECTED).hidden, gradients(policy, SELECTED)
    monkeypatch.setattr(passes, "MAX_PRUNED_SHARE", 0.0)
    whole, whole_gradients = selected_states(policy, *padded_batch(), SELECTED).hidden, gradients(policy, SELECTED)
    torch.testing.assert_close(pruned, whole, atol=1e-5, rtol=1e-5)
    assert pruned_gradients.keys() == whole_gradients.keys()
    for parameter in whole_gradients:
        torch.testing.assert_close(pruned_gradients[parameter], whole_gradients[parameter], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("count", "computed"), [(4, 4), (10, 10), (11, None), (12, None)])
def test_the_last_layer_computes_the_selected_tokens_unless_they_are_nearly_all(name, count, computed, monkeypatch):
    make, feed_forward = MODELS[name]
    policy, counts = make().eval(), []
    monkeypatch.setattr(last_layer, "TOKEN_MULTIPLE", 1)
    selected_states(policy, *padded_batch(), SELECTED)  # probes the model
    feed_forward(policy).register_forward_pre_hook(lambda module, inputs: counts.append(inputs[0].shape[1]))
    selected_states(policy, *padded_batch(), torch.arange(count))
    whole_row = len(padded_batch()[0]) * 7  # filled up to the size of three rows padded to the longest, which has 7
    assert counts == [computed or whole_row]


def test_gradient_checkpointing_does_not_change_the_gradients():
    """It computes layers again in the backward pass, so the last layer is not pruned."""
    policy = tiny_gpt2().eval()
    expected = gradients(policy, SELECTED)
    policy.activation_checkpointing_enable()
    policy.train()  # transformers checkpoints in this mode only; there is no dropout
    result = gradients(policy, SELECTED)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_copy_of_a_pruned_model_uses_its_own_weights_and_saves_no_others():
    policy = tiny_gpt2().eval()
    before, names = selected_states(policy, *padded_batch(), SELECTED).hidden, set(policy.state_dict())
    copy = deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.transformer.h[-1].mlp.parameters():
            parameter.zero_()
    torch.testing.assert_close(selected_states(copy, *padded_batch(), SELECTED).hidden, before)
    assert not torch.allclose(selected_states(policy, *padded_batch(), SELECTED).hidden, before)
    assert set(policy.state_dict()) == names == set(tiny_gpt2().state_dict())


def test_a_pruned_pass_does_not_change_later_ordinary_passes():
    policy = tiny_gpt2().eval()
    expected = policy(input_ids=torch.tensor([[5, 6, 7]])).logits
    selected_states(policy, *padded_batch(), SELECTED)
    torch.testing.assert_close(policy(input_ids=torch.tensor([[5, 6, 7]])).logits, expected)


def test_a_scorer_gives_the_last_token_the_same_score_when_only_that_is_selected():
    scorer = scorer_of(tiny_gpt2())
    assert isinstance(scorer, Scorer)
    ids, mask = padded_batch()
    last = mask.sum(dim=1).cumsum(dim=0) - 1
    torch.testing.assert_close(scorer(ids, mask, last), scorer(ids, mask)[last], atol=1e-5, rtol=1e-5)
