"""Paths for a GPU compute on a CPU what the default paths compute; a stand-in replaces a kernel that needs a GPU."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

import rlhf.engine.gpu.varlen
import rlhf.engine.packing
from rlhf.engine.decoding import Decoder, check_interval
from rlhf.engine.gpu import fixed_decoding
from rlhf.engine.gpu.fixed_decoding import FixedDecoder, Waits, decoder_of
from rlhf.engine.gpu.transfer import to_device
from rlhf.tokens import pad
from tests.conftest import tiny_gpt2, tiny_llama
from tests.engine.test_attention import (
    DISTINCT,
    SHARED,
    AttentionModule,
    layout_of,
    packed_outputs,
    random_states,
    with_gradients,
)
from tests.responses import PAD, PROMPTS, sample

SOME_STOPS = range(0, 400, 6)
BATCHES = {"padded": PROMPTS * 8, "equal": [PROMPTS[0]] * 24}


def assert_same_responses(result, expected, atol=1e-5):
    assert torch.equal(result.input_ids, expected.input_ids)
    for name in ("attention_mask", "mask", "finished", "prompt_index"):
        assert torch.equal(getattr(result, name), getattr(expected, name)), name
    for name in ("logprobs", "entropies", "values"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), atol=atol, rtol=atol)


def sample_some(policy, prompts=PROMPTS * 8, **kwargs):
    """Responses of at most 30 tokens, of which some end early."""
    torch.manual_seed(0)
    head = nn.Linear(policy.config.hidden_size, 1)
    values = {"value_head": lambda hidden: head(hidden.float()).squeeze(1).float().detach()}
    return sample(policy, prompts, length=30, temperature=1.5, stop_ids=SOME_STOPS, **values, **kwargs)


# --- the interval between two looks at finished rows ------------------------------------------------------------------


@pytest.mark.parametrize("interval", [4, 64])
def test_the_interval_between_looks_at_finished_rows_changes_no_response(policy, monkeypatch, interval):
    expected = sample_some(policy)
    assert expected.finished.any() and len(set(expected.lengths.tolist())) > 3
    monkeypatch.setattr("rlhf.rollout.check_interval", lambda device: interval)
    assert_same_responses(sample_some(policy), expected)


def test_decoding_stops_at_the_first_look_after_the_last_row_has_finished(monkeypatch):
    policy, calls = tiny_gpt2().eval(), []
    sample(policy, length=1)  # probes the model
    policy.transformer.register_forward_hook(lambda *args: calls.append(1))
    for interval, tokens in ((1, 1), (4, 4), (64, 12)):
        monkeypatch.setattr("rlhf.rollout.check_interval", lambda device, interval=interval: interval)
        calls.clear()
        assert sample(policy, length=12, stop_ids=range(400)).mask.shape[1] == 1  # every token is a stop token
        assert len(calls) == tokens


def test_a_cpu_looks_at_every_token_and_a_gpu_less_often():
    assert check_interval(torch.device("cpu")) == 1
    assert check_interval(torch.device("cuda")) > 1


@pytest.mark.parametrize("fixed", [False, True])
def test_more_tokens_wait_no_more_often_for_a_gpu(policy, monkeypatch, fixed):
    monkeypatch.setattr(fixed_decoding, "FIXED_SHAPES", fixed)
    monkeypatch.setattr("rlhf.rollout.check_interval", lambda device: 64)
    sample_some(policy)  # probes the model
    counts = []
    for length in (2, 12):
        with Waits() as waits:
            sample(policy, length=length, stop_ids=range(0, 400, 3))
        counts.append(len(waits.names))
    assert 0 < counts[0] == counts[1]
    monkeypatch.setattr("rlhf.rollout.check_interval", lambda device: 1)
    with Waits() as waits:
        sample(policy, length=12, stop_ids=[])
    assert len(waits.names) >= counts[0] + 11


# --- decoding with fixed shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", BATCHES.values(), ids=BATCHES)
def test_decoding_with_fixed_shapes_gives_the_same_responses(policy, monkeypatch, prompts):
    expected = sample_some(policy, prompts)
    monkeypatch.setattr(fixed_decoding, "FIXED_SHAPES", True)
    monkeypatch.setattr("rlhf.rollout.check_interval", lambda device: 4)
    assert_same_responses(sample_some(policy, prompts), expected)


def test_the_logits_of_fixed_shapes_in_bf16_are_those_of_the_usual_decoder_to_one_percent(policy):
    """For given tokens: sampled ones may differ by rounding."""
    prompts, results = pad(PROMPTS, PAD, "left"), []
    for make in (Decoder, partial(FixedDecoder, response_length=6)):
        with torch.autocast("cpu", torch.bfloat16), make(policy, *prompts) as decoder:
            steps = []
            for token in range(5, 11):
                steps.append(decoder.forward()[1].float().clone())
                decoder.append(torch.full((len(PROMPTS),), token))
            results.append(torch.stack(steps))
    usual, fixed = results
    assert (fixed - usual).abs().max() < 0.01 * usual.abs().max()


def test_a_step_of_fixed_shapes_writes_to_the_same_addresses_and_can_be_repeated(policy):
    with FixedDecoder(policy, *pad(PROMPTS, PAD, "left"), 12) as decoder:
        decoder.forward()
        decoder.append(torch.tensor([5, 6, 7]))
        buffers = [decoder.next_ids, decoder.position_ids, decoder.mask, decoder.slot]
        buffers += [tensor for layer in decoder.cache.layers for tensor in (layer.keys, layer.values)]
        addresses = [tensor.data_ptr() for tensor in buffers]
        once = decoder.forward()
        for expected, repeated in zip(once, decoder.forward(), strict=True):
            assert torch.equal(repeated, expected)
        for _ in range(11):
            decoder.append(torch.tensor([5, 6, 7]))
            decoder.forward()
        assert [tensor.data_ptr() for tensor in buffers] == addresses
        assert decoder.mask.sum(dim=1).tolist() == [len(prompt) + 12 for prompt in PROMPTS]


def test_a_step_of_fixed_shapes_has_no_operation_that_a_graph_cannot_hold(policy):
    with FixedDecoder(policy, *pad(PROMPTS, PAD, "left"), 12) as decoder:
        decoder.forward()
        decoder.append(torch.tensor([5, 6, 7]))
        with Waits() as waits:
            decoder.forward()
            decoder.append(torch.tensor([8, 9, 10]))
    assert waits.names == []


def test_a_step_that_reads_a_number_from_the_gpu_is_recognised():
    """Dynamic RoPE scaling compares the greatest position with a limit in Python."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    policy = AutoModelForCausalLM.from_config(LlamaConfig(**tiny_llama().config.to_dict() | {"rope_parameters": rope}))
    with FixedDecoder(policy.eval(), *pad(PROMPTS, PAD, "left"), 12) as decoder:
        decoder.forward()
        decoder.append(torch.tensor([5, 6, 7]))
        with Waits() as waits:
            decoder.forward()
    assert waits.names


@pytest.mark.parametrize(
    ("operation", "waits"),
    [
        (lambda x: x[x > 1], True),
        (lambda x: x.nonzero(), True),
        (lambda x: bool(x.all()), True),
        (lambda x: x.max().item(), True),
        (lambda x: x.unique(), True),
        (lambda x: x.to("meta"), True),
        (lambda x: x[x.long() * 0], False),
        (lambda x: x.index_copy(0, torch.tensor([1]), x[:1]), False),
    ],
)
def test_operations_that_wait_for_a_gpu_are_recognised(operation, waits):
    with Waits() as found:
        operation(torch.arange(4.0))
    assert bool(found.names) == waits


def test_fixed_shapes_are_used_only_if_switched_on_and_only_for_models_that_support_packing(monkeypatch):
    prompts = pad(PROMPTS, PAD, "left")
    policy, other = tiny_gpt2().eval(), tiny_gpt2().eval()
    other.set_attn_implementation("eager")
    assert type(decoder_of(policy, *prompts, 3)) is Decoder
    monkeypatch.setattr(fixed_decoding, "FIXED_SHAPES", True)
    assert type(decoder_of(policy, *prompts, 3)) is FixedDecoder
    assert type(decoder_of(other, *prompts, 3)) is Decoder
    monkeypatch.setattr(fixed_decoding, "is_sharded", lambda model: True)
    assert type(decoder_of(policy, *prompts, 3)) is Decoder


# --- attention by the kernel for sequences of different lengths -------------------------------------------------------


def varlen_by_definition(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """What torch documents of `varlen_attn`: (tokens, H, D), sequence i in rows cu_seq[i] to cu_seq[i + 1]."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and cu_seq_q[0] == 0
    assert int(cu_seq_q[-1]) == len(q) and int(cu_seq_k[-1]) == len(k) == len(v)
    assert int(cu_seq_q.diff().max()) == max_q and int(cu_seq_k.diff().max()) == max_k
    assert window_size == (-1, 0)  # causal
    outputs = []
    for start, end in cu_seq_q.unfold(0, 2, 1).tolist():
        scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end]) * scale
        hidden = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v[start:end]))
    return torch.cat(outputs)


@pytest.fixture
def varlen_calls(monkeypatch):
    """Switches the path on, with the definition in place of the kernel; a list of its calls."""
    calls = []

    def kernel(*args, **kwargs):
        calls.append(args)
        return varlen_by_definition(*args, **kwargs)

    for name, value in (("VARLEN", True), ("_kernel", kernel), ("_kernel_accepts", lambda q: True)):
        monkeypatch.setattr(rlhf.engine.gpu.varlen, name, value)
    return calls


@pytest.mark.parametrize("filler", [0, 3])
@pytest.mark.parametrize("max_groups", [1, 3])
@pytest.mark.parametrize("key_value_groups", [1, 2])
def test_varlen_attention_equals_attention_in_groups(monkeypatch, varlen_calls, filler, max_groups, key_value_groups):
    """Outputs and gradients; the filler at the end of the row gets none."""
    for name, number in (("MAX_GROUPS", max_groups), ("MIN_GROUP_SIZE", 1), ("LENGTH_MULTIPLE", 2)):
        monkeypatch.setattr(rlhf.engine.packing, name, number)
    layout, module = layout_of(DISTINCT), AttentionModule(key_value_groups)
    heads = 4, 4 // key_value_groups, 4 // key_value_groups
    inputs = [random_states(1, layout.length + filler, count, seed=i) for i, count in enumerate(heads)]

    def run():
        return with_gradients(lambda *qkv: packed_outputs(layout, module, *qkv), *inputs)

    result = run()
    assert len(varlen_calls) == 1
    monkeypatch.setattr(rlhf.engine.gpu.varlen, "VARLEN", False)
    torch.testing.assert_close(result, run(), atol=1e-5, rtol=1e-5)
    assert len(varlen_calls) == 1


def test_rows_with_shared_prefixes_or_dropout_are_computed_in_groups(varlen_calls):
    shared, distinct = layout_of(SHARED), layout_of(DISTINCT)
    packed_outputs(shared, AttentionModule(1), *(random_states(1, shared.length, seed=i) for i in range(3)))
    states = [random_states(1, distinct.length, seed=i) for i in range(3)]
    packed_outputs(distinct, AttentionModule(1), *states, dropout=0.5)
    assert not varlen_calls
    packed_outputs(distinct, AttentionModule(1), *states)
    assert len(varlen_calls) == 1


def test_autocast_decides_the_precision_of_varlen_attention(varlen_calls):
    layout = layout_of(DISTINCT)
    states = [random_states(1, layout.length, seed=i) for i in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        packed_outputs(layout, AttentionModule(1), *states)
    assert {tensor.dtype for tensor in varlen_calls[0][:3]} == {torch.bfloat16}


def test_the_kernel_is_used_on_a_gpu_in_half_precision_only(monkeypatch):
    monkeypatch.setattr(rlhf.engine.gpu.varlen, "VARLEN", True)
    layout = layout_of(DISTINCT)
    for dtype in (torch.float32, torch.bfloat16):
        assert not rlhf.engine.gpu.varlen.uses_varlen(torch.zeros(4, 16, 8, dtype=dtype), layout, 0.0)


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_tensor_that_is_on_its_device_is_not_copied():
    tensor = torch.arange(3)
    assert to_device(tensor, "cpu") is tensor and to_device(tensor, torch.device("cpu")) is tensor
    assert to_device(tensor, "meta").device.type == "meta"
