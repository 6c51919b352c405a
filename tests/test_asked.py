"""The last layer is computed for what is asked for: the same states and gradients, of fewer tokens."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

from rlhf import forward
from rlhf.forward import hidden_states, states
from rlhf.models import Scorer
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama
from tests.test_forward import SPECIAL, batch, check

FEW = torch.tensor([1, 6, 7, 11])
MODELS = {"gpt2": (tiny_gpt2, lambda policy: policy.transformer.h[-1].mlp),
          "llama": (tiny_llama, lambda policy: policy.model.layers[-1].mlp)}  # fmt: skip


def gradients(model: nn.Module, at: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of what depends on every state that is asked for, on each in another way."""
    model.zero_grad()
    hidden = hidden_states(model, *batch(), at)
    (hidden.sin() * torch.linspace(-1, 1, len(at))[:, None]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_states_and_gradients_are_those_of_the_whole(name, monkeypatch):
    policy = MODELS[name][0]().eval()
    few, learned = states(policy, *batch(), FEW).hidden, gradients(policy, FEW)
    monkeypatch.setattr(forward, "WORTH", 0.0)
    torch.testing.assert_close(few, states(policy, *batch(), FEW).hidden, atol=1e-5, rtol=1e-5)
    whole = gradients(policy, FEW)
    assert learned.keys() == whole.keys()
    for parameter in whole:
        torch.testing.assert_close(learned[parameter], whole[parameter], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("count", "computed"), [(4, 4), (10, 10), (11, None), (12, None)])
def test_as_many_tokens_pass_as_are_asked_for_unless_it_is_nearly_all(name, count, computed, monkeypatch):
    make, last = MODELS[name]
    policy, seen = make().eval(), []
    monkeypatch.setattr(forward.asked, "ROUND", 1)
    states(policy, *batch(), FEW)  # tries the model
    last(policy).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    states(policy, *batch(), torch.arange(count))
    everything = len(batch()[0]) * 7  # in one row, filled up to no more than there was with padding
    assert seen == [computed or everything]


def test_a_model_whose_last_layer_has_no_feed_forward_part_of_its_own_keeps_all_of_it():
    config = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    policy = OPTForCausalLM(OPTConfig(**config, **SPECIAL, word_embed_proj_dim=32, init_std=0.2)).eval()
    check(policy)
    assert not forward.asks(policy)


class Together(nn.Module):
    """A feed-forward part that mixes tokens."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, states):
        return self.inner(states) + states.mean(dim=1, keepdim=True)


def test_a_feed_forward_part_that_does_not_look_at_each_token_alone_is_found_out():
    policy = tiny_gpt2().eval()
    policy.transformer.h[-1].mlp = Together(policy.transformer.h[-1].mlp)
    assert not forward.asks(policy)


def test_a_model_that_computes_layers_again_in_the_backward_pass_keeps_all_of_them():
    policy = tiny_gpt2().eval()
    expected = gradients(policy, FEW)
    policy.activation_checkpointing_enable()
    policy.train()  # in which transformers does it; there is no dropout
    found = gradients(policy, FEW)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_copy_computes_with_weights_of_its_own_and_nothing_of_it_is_saved():
    policy = tiny_gpt2().eval()
    before, names = states(policy, *batch(), FEW).hidden, set(policy.state_dict())
    copy = deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.transformer.h[-1].mlp.parameters():
            parameter.zero_()
    torch.testing.assert_close(states(copy, *batch(), FEW).hidden, before)
    assert not torch.allclose(states(policy, *batch(), FEW).hidden, before)
    assert set(policy.state_dict()) == names == set(tiny_gpt2().state_dict())


def test_outside_of_a_pass_the_model_is_its_own():
    policy = tiny_gpt2().eval()
    expected = policy(input_ids=torch.tensor([[5, 6, 7]])).logits
    states(policy, *batch(), FEW)
    torch.testing.assert_close(policy(input_ids=torch.tensor([[5, 6, 7]])).logits, expected)


def test_a_scorer_that_is_asked_for_the_last_token_says_what_it_says_there_of_all():
    scorer = scorer_of(tiny_gpt2())
    assert isinstance(scorer, Scorer)
    ids, mask = batch()
    last = mask.sum(dim=1).cumsum(dim=0) - 1
    torch.testing.assert_close(scorer(ids, mask, last), scorer(ids, mask)[last], atol=1e-5, rtol=1e-5)
