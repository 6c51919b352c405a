"""Every optimisation can be switched off: the benchmark then really runs without it, and the results are the same."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicLayer

from rlhf.engine import Decoder, check_interval, decoder_of, hidden_states, kernels
from rlhf.engine.decoding import BlockLayer
from rlhf.engine.gpu import transfer, varlen
from rlhf.engine.gpu.fixed_decoding import FixedDecoder
from rlhf.engine.packing import pack
from rlhf.reward import pad_ranks, score_completions
from rlhf.rollout import generate
from rlhf.run.placement import freeze
from rlhf.tokens import pad
from tests.benchmarks import ablation
from tests.benchmarks.workloads import COMPARISONS
from tests.conftest import scorer_of, tiny_gpt2
from tests.trainers import make_trainer

NAMES = sorted({comparison.theirs.without for comparison in COMPARISONS.values()} - {""})
EXTRAS = sorted({comparison.ours.extra for comparison in COMPARISONS.values()} - {""})


@contextmanager
def switched_off(name: str, extra: str = "") -> Iterator[None]:
    """Within this context, our side runs without an optimisation, or with one that is off by default."""
    modules = [module for path, module in sys.modules.items() if path.split(".")[0] == "rlhf"]
    before = [dict(vars(module)) for module in modules]
    try:
        ablation.apply(name, extra)
        changed = [
            key in old
            for module, old in zip(modules, before, strict=True)
            for key, value in vars(module).items()
            if value is not old.get(key)
        ]
        assert changed and all(changed)  # a new name would switch off nothing
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            vars(module).update(old)


# --- the results are the same -----------------------------------------------------------------------------------------


def ppo_step(tokenizer) -> dict[str, float]:
    """The metrics of the first step of a run in which every prompt gets two responses."""
    options = {"batch_size": 16, "total_episodes": 16, "response_length": 12, "num_mini_batches": 2}
    return next(make_trainer(tokenizer, tiny_gpt2, **options).train()).metrics


def ranking_step() -> dict[str, float]:
    """The scores of the completions of two prompts, and the norms of their gradients."""
    model = scorer_of(tiny_gpt2()).model
    input_ids, attention_mask = pad([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7], [20, 21], [20, 22, 23]], 1, "right")
    scores = score_completions(model, input_ids, attention_mask, pad_ranks([[0, 1, 2], [1, 0]])).logits[:, 0]
    (scores * torch.linspace(-1, 1, 5)).sum().backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in model.named_parameters()}
    return {**norms, **{str(i): float(score) for i, score in enumerate(scores.detach())}}


def test_every_ablation_is_a_row_of_the_benchmark():
    assert sorted(ablation.ABLATIONS) == NAMES and sorted(ablation.EXTRAS) == EXTRAS


@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_same_result_without_each_optimisation(name, tokenizer):
    """A step of PPO, or of the reward model for an optimisation of its own; the same to rounding."""
    step = ranking_step if name in ("shared-prefixes", "pruned-last-layer") else partial(ppo_step, tokenizer)
    with_it = step()
    with switched_off(name):
        assert step() == pytest.approx(with_it, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_step_has_the_same_result_with_each_optimisation_that_is_off_by_default(extra, tokenizer):
    without_it = ppo_step(tokenizer)
    with switched_off("", extra):
        assert ppo_step(tokenizer) == pytest.approx(without_it, rel=1e-3, abs=1e-5)


# --- optimisations that save operations -------------------------------------------------------------------------------


def decode(tokenizer) -> torch.Tensor:
    """Log-probabilities of two responses to each of 16 prompts; a token in four ends one."""
    prompts = [[5 + i, *range(20, 20 + i)] for i in range(16)] * 2
    responses = generate(
        tiny_gpt2().eval(), *pad(prompts, 1, "left"), response_length=16, temperature=1.0, pad_id=1,
        stop_ids=range(0, 400, 4), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return responses.logprobs


def read(tokenizer) -> torch.Tensor:
    """The hidden states of 32 sequences of different lengths."""
    input_ids, attention_mask = pad([list(range(5, 6 + i)) for i in range(32)], 1, "right")
    index = torch.arange(int(attention_mask.sum()))
    return hidden_states(tiny_gpt2().eval(), input_ids, attention_mask, index)


def rank(tokenizer) -> torch.Tensor:
    """Scores of four completions of each of four prompts of 40 tokens."""
    sequences = [[*range(p, p + 40), *range(50 + k, 55 + 2 * k)] for p in range(5, 9) for k in range(4)]
    ranks = pad_ranks([[0, 1, 2, 3]] * 4)
    return score_completions(scorer_of(tiny_gpt2()).model, *pad(sequences, 1, "right"), ranks).logits


def train(tokenizer) -> torch.Tensor:
    """The metrics of a step of PPO."""
    return torch.tensor(list(ppo_step(tokenizer).values()))


def flops_and_result(workload: Callable, tokenizer) -> tuple[int, torch.Tensor]:
    """The floating-point operations of the matrix products that torch runs in a workload, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = workload(tokenizer)
    return counter.get_total_flops(), result


@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("sampled-logprobs", train),
        ("selected-logits", train),
        ("packing", read),
        ("attention-groups", read),
        ("shared-prefixes", rank),
        ("pruned-last-layer", rank),
        ("distinct-prompts", decode),
        ("dropped-rows", decode),
    ],
)
def test_more_operations_without_an_optimisation_that_saves_some(name, workload, tokenizer):
    flops, result = flops_and_result(workload, tokenizer)
    with switched_off(name):
        more_flops, same_result = flops_and_result(workload, tokenizer)
    assert more_flops > flops
    torch.testing.assert_close(same_result, result, rtol=1e-3, atol=1e-4)


# --- rounded shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "group", "row", "pruned", "rows"),
    [("", (2, 8, 8), 10, 128, 8), ("rounded-shapes", (2, 5, 5), 8, 2, 3)],
    ids=["with rounding", "without"],
)
def test_shapes_are_rounded_up_unless_rounding_is_switched_off(name, group, row, pruned, rows):
    """Groups of sequences, packed rows (not beyond the size of the padded batch), the last layer, and rows in decoding."""
    model, sizes = tiny_gpt2().eval(), {}

    def record_row(module, args, kwargs):
        input_ids = args[0] if args else kwargs["input_ids"]
        sizes["row"] = input_ids.shape[1]

    def record_pruned(module, args, output):
        sizes["pruned"] = args[0].shape[1]

    with switched_off(name) if name else nullcontext():
        assert pack(torch.tensor([5, 3])).groups[0].shape == group
        model.transformer.register_forward_pre_hook(record_row, with_kwargs=True)
        model.transformer.h[-1].mlp.register_forward_hook(record_pruned)
        hidden_states(model, *pad([[5, 6, 7, 8, 9], [5, 6, 7]], 1, "right"), torch.tensor([4, 7]))
        assert sizes == {"row": row, "pruned": pruned}
        with Decoder(model, torch.full((16, 1), 5), torch.ones(16, 1)) as decoder:
            decoder.forward()
            decoder.append(torch.full((16,), 6))
            decoder.drop(torch.arange(16) >= 3)
            assert len(decoder.rows) == rows


# --- optimisations that replace operations ----------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Collects the names of all operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def operations_of_a_step(tokenizer) -> set[str]:
    kernels._can_prepack(torch.float32)  # now: it runs a prepacked product, once in a process
    with Operations() as operations:
        ppo_step(tokenizer)
    return operations.names


@pytest.fixture(scope="module")
def usual_operations(tokenizer) -> set[str]:
    return operations_of_a_step(tokenizer)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("sigmoid-gelu", "aten.sigmoid_"),
        ("fused-adamw", "aten._fused_adamw_"),
        ("attention-by-products", "aten.bmm"),
        ("prepacked-weights", "mkldnn._linear_pointwise"),
    ],
)
def test_a_step_without_an_optimisation_does_not_run_its_operation(name, operation, tokenizer, usual_operations):
    if name == "prepacked-weights" and not kernels._can_prepack(torch.float32):
        pytest.skip("this CPU has no prepacked products in fp32")
    assert operation in usual_operations
    with switched_off(name):
        assert operation not in operations_of_a_step(tokenizer)


# --- settings, caches and precision -----------------------------------------------------------------------------------


def test_onednn_is_not_enabled_for_fp32_products_without_them():
    if not kernels.use_onednn_products():
        pytest.skip("oneDNN does not multiply fp32 matrices in full precision on this CPU")
    setting = torch.backends.mkldnn.matmul
    try:
        for cached in (kernels.use_onednn_products, kernels._can_prepack):
            cached.cache_clear()  # as in a new process
        setting.fp32_precision = "ieee"
        with switched_off("onednn-products"):
            kernels.optimize(tiny_gpt2())
            assert not kernels._can_prepack(torch.float32)
            assert setting.fp32_precision == "ieee"
        kernels.optimize(tiny_gpt2())
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = "bf16"
        kernels._can_prepack.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is a function of glibc")
def test_malloc_is_not_configured_without_kept_memory(monkeypatch):
    calls = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ctypes, "CDLL", lambda name: library)
            kernels.keep_freed_memory.cache_clear()  # as in a new process
            with switched_off("kept-memory"):
                kernels.optimize(tiny_gpt2())
                assert not calls
            kernels.optimize(tiny_gpt2())
            assert calls
    finally:
        kernels.keep_freed_memory.cache_clear()


def test_decoding_uses_the_cache_of_transformers_without_the_block_cache():
    model, prompts = tiny_gpt2().eval(), (torch.full((2, 3), 5), torch.ones(2, 3))
    assert {type(layer) for layer in Decoder(model, *prompts).cache.layers} == {BlockLayer}
    with switched_off("block-cache"):
        decoder = Decoder(model, *prompts)
    assert {type(layer) for layer in decoder.cache.layers} == {DynamicLayer}
    assert not decoder.masks_buffer


def test_switches_of_a_gpu_are_those_that_the_code_reads():
    model, prompts, cuda = tiny_gpt2().eval(), (torch.full((2, 3), 5), torch.ones(2, 3)), torch.device("cuda")
    assert check_interval(cuda) > 1 and type(decoder_of(model, *prompts, 4)) is Decoder
    with switched_off("check-interval", "fixed-decoding"):
        assert check_interval(cuda) == 1 and type(decoder_of(model, *prompts, 4)) is FixedDecoder
    with switched_off("pinned-transfers", "varlen-attention"):
        assert not transfer.PINNED and varlen.VARLEN


def test_frozen_models_stay_in_fp32_without_rounded_frozen_weights():
    accelerator = SimpleNamespace(device="cpu", mixed_precision="bf16")
    assert freeze(tiny_gpt2(), accelerator).transformer.h[0].mlp.c_fc.weight.dtype == torch.bfloat16
    with switched_off("rounded-frozen-weights"):
        assert freeze(tiny_gpt2(), accelerator).transformer.h[0].mlp.c_fc.weight.dtype == torch.float32
