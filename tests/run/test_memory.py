"""The memory that a run needs: the formula, and the micro-batch that it chooses."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from rlhf.engine import decoding_memory, hidden_states, pass_memory, weight_memory
from rlhf.run import memory
from rlhf.run.memory import Needs, ppo_needs
from tests.conftest import scorer_of, tiny_gpt2
from tests.test_trainer import gradients
from tests.trainers import RLOO, make_trainer

LAYERS, WIDTH, HEADS = 2, 32, 4  # of tiny_gpt2


def test_a_layer_of_gpt2_keeps_sixteen_times_its_width_for_a_token_and_its_heads_for_a_pair():
    """Per token: two residual inputs and outputs of layer norms, q, k, v, attention's output, GELU and its slope."""
    passes = pass_memory(tiny_gpt2().eval())
    # two numbers of each layer norm, and the last layer norm
    assert passes.token == pytest.approx(4 * LAYERS * 16 * WIDTH, rel=0.1)
    assert passes.pair == 4 * LAYERS * HEADS
    assert passes.fixed < 4 * WIDTH * 100


def test_what_is_measured_on_a_few_tokens_holds_for_a_whole_batch(policy):
    passes, lengths, kept = pass_memory(policy), [24] * 6, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    ids = torch.arange(sum(lengths)).view(len(lengths), -1) % 100
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        states = hidden_states(policy, ids, torch.ones_like(ids), torch.arange(ids.numel()))
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert states.requires_grad
    layers = policy.config.num_hidden_layers
    formula = passes.peak(lengths, 0) * layers / (layers + 1)
    assert formula == pytest.approx(measured, rel=0.05)


def test_measuring_changes_no_random_number_and_no_gradient(policy):
    state = torch.get_rng_state()
    pass_memory(policy.train())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_cache_has_two_numbers_for_each_layer_head_and_dimension_of_a_token():
    # 7 + 20 tokens are rounded up to 32
    assert decoding_memory(tiny_gpt2(), 5, 7, 20)[0] == 4 * 2 * LAYERS * WIDTH * 32 * 5


def test_weights_that_two_models_share_count_once():
    policy = tiny_gpt2()
    assert weight_memory([policy, policy]) == 4 * policy.num_parameters()
    assert weight_memory([policy.requires_grad_(False)], trained=True) == 0


def test_ppo_needs_gradients_and_two_moments_of_what_it_trains(tokenizer):
    trainer = make_trainer(tokenizer, response_length=6)
    size, score = tiny_gpt2().num_parameters(), scorer_of(tiny_gpt2()).head.weight.numel()
    needs = ppo_needs(trainer)
    assert needs.parameters == 3 * size + score  # policy, reference and value model
    assert needs.weights == 4 * needs.parameters
    assert needs.gradients == 4 * (2 * size + score)
    assert needs.moments == 2 * needs.gradients
    assert needs.rows == 8


@pytest.mark.parametrize("options", [{}, RLOO, {"share_trunk": True}], ids=str)
def test_a_smaller_micro_batch_needs_less(tokenizer, options):
    needs = ppo_needs(make_trainer(tokenizer, **options))
    sizes = [needs.activations(rows) for rows in (1, 2, 4)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_largest_micro_batch_is_the_last_one_that_fits():
    needs = Needs(parameters=1, weights=10.0, gradients=5.0, rows=64, activations=lambda rows: 2.0 * rows)
    assert [needs.largest(room) for room in (15.0, 17.0, 46.9, 1000.0)] == [0, 1, 15, 64]


# --- micro_batch_size: auto -------------------------------------------------------------------------------------------


def test_auto_on_a_cpu_takes_as_many_rows_as_the_formula_says_that_fit(tokenizer, monkeypatch):
    needs = ppo_needs(make_trainer(tokenizer))
    for rows in (8, 3, 1):
        room = (needs.total(rows) - needs.weights) / memory.SPARE
        monkeypatch.setattr(memory, "free_memory", lambda device, room=room: room * 1.0001)
        assert make_trainer(tokenizer, micro_batch_size="auto").micro_batch.rows == rows
    monkeypatch.setattr(memory, "free_memory", lambda device: 0.0)
    assert make_trainer(tokenizer, micro_batch_size="auto").micro_batch.rows == 1


@pytest.mark.parametrize("share_trunk", [False, True])
def test_the_gradient_does_not_depend_on_the_micro_batch_that_auto_finds(tokenizer, monkeypatch, share_trunk):
    from rlhf.trainer import PPOTrainer

    whole = gradients(tokenizer, tiny_gpt2, share_trunk=share_trunk)
    add_gradients, tried = PPOTrainer.add_gradients, []

    def with_little_memory(self, part, *arguments):
        tried.append(len(part.mask))
        add_gradients(self, part, *arguments)  # a part that does not fit has added some gradients
        if len(part.mask) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(PPOTrainer, "add_gradients", with_little_memory)
    split = gradients(tokenizer, tiny_gpt2, share_trunk=share_trunk, micro_batch_size="auto")
    assert tried[0] == 8 and tried[-3:] == [3, 3, 2]
    torch.testing.assert_close(split, whole, atol=2e-6, rtol=1e-4)
