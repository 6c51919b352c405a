"""What the benchmark compares: sizes, workloads, and the rows of the table with their targets.

A workload is a fixed amount of work, done in steps: a PPO step, a batch of decoded responses, or some optimizer steps of
SFT or of the reward model. A comparison is a workload, how each side computes it, and which quantity is compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

PROMPT_TOKENS = (24, 40)  # length of a prompt: drawn uniformly between these, both included
K = 4  # completions of a prompt in the reward model's rankings
TRAINER_STEPS = 5  # optimizer steps of SFT or of the reward model that are timed together
TRAINER_BATCH = 32  # rows in each of them; for the reward model half as many prompts


@dataclass(frozen=True)
class Size:
    """The size of a GPT-2, and how it is measured."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    batch: int  # responses of a PPO step
    rounds: int  # timed steps of each side
    keep_alive: bool = True  # all processes stay in memory, and only their very first step is a warm-up

    @property
    def block_parameters(self) -> int:
        """Parameters of the matrices of all blocks."""
        return 12 * self.layers * self.width**2

    @property
    def policy_parameters(self) -> int:
        """Parameters of the matrices that multiply a token of the policy: the blocks and the output layer."""
        return self.block_parameters + self.vocabulary * self.width


SIZES = {
    "tiny": Size(4, 128, 4, 1024, 128, batch=64, rounds=5),
    "small": Size(6, 384, 6, 8192, 128, batch=64, rounds=2),
    "gpt2": Size(12, 768, 12, 50257, 1024, batch=32, rounds=2, keep_alive=False),
}

# tiny with one thing changed, see tests.benchmarks.growth
SIZES |= {f"batch-{batch}": replace(SIZES["tiny"], batch=batch) for batch in (32, 64, 128, 256)}
SIZES |= {f"width-{width}": replace(SIZES["tiny"], width=width, heads=width // 32) for width in (64, 128, 256, 512)}
SIZES["long"] = replace(SIZES["tiny"], context=1024)
SIZES |= {f"{name}-128": replace(SIZES[name], batch=128) for name in ("tiny", "small")}
SIZES["gpu"] = replace(SIZES["gpt2"], batch=512, rounds=3)
SIZES["gpu-pair"] = replace(SIZES["gpu"], rounds=2, keep_alive=True)  # both sides are ours, and fit into one GPU


@dataclass(frozen=True)
class Workload:
    """An amount of work, the same for both sides."""

    kind: str  # ppo, rloo, decode, pretrain, sft or reward; function-rloo or function-grpo with a Python reward
    size: str
    epochs: int = 1  # of PPO over its batch
    eos: bool = False  # responses end with eos, after 25 of 48 tokens on average; otherwise none does
    response: int = 48  # maximum length of a response in tokens
    completions: int = 1  # responses to each prompt, or K of the reward model's rankings
    lora_r: int = 0  # of PPO: rank of the LoRA adapters of policy and value model; 0: all weights are trained

    def flops(self, tokens: int, values: str = "model") -> float:
        """Floating-point operations of a step on `tokens` tokens: 2 per parameter and token forward, 4 backward.

        In PPO each token passes once through the policy (which generates it), the reference, the value model and the
        reward model, and in every epoch forward and backward through policy and value model. Padding, and work that a
        side does twice, is not counted. Nor are adapters; frozen weights need only 2 backward. `values` is that of a
        `Side`.
        """
        size = SIZES[self.size]
        policy, scorer = 2 * size.policy_parameters * tokens, 2 * size.block_parameters * tokens
        value = scorer if values == "model" else 0
        trained = 2 if self.lora_r else 3
        return {
            "ppo": policy + policy + value + scorer + trained * self.epochs * (policy + value),
            "rloo": policy + policy + scorer + 3 * self.epochs * policy,
            "function-rloo": policy + policy + 3 * self.epochs * policy,
            "function-grpo": policy + policy + 3 * self.epochs * policy,
            "decode": policy,
            "pretrain": 3 * policy,
            "sft": 3 * policy,
            "reward": 3 * scorer,
        }[self.kind]


@dataclass(frozen=True)
class Side:
    """How one side computes a workload."""

    implementation: str  # "ours", "TRL 1.12", "TRL 1.16" or "generate"
    numerics: str = "fp32"
    values: str = "model"  # of PPO: a value "model", a head on the "trunk", or "none" (RLOO)
    without: str = ""  # an optimisation that is switched off, see tests.benchmarks.ablation
    extra: str = ""  # one that is off by default and switched on


@dataclass(frozen=True)
class Comparison:
    """A row of the table."""

    name: str
    workload: Workload
    ours: Side
    theirs: Side
    target: float | None
    quantity: str = "time"  # or "memory"
    like_for_like: bool = True
    note: str = ""  # why it is not like for like, or anything else that a reader should know

    @property
    def numerics(self) -> str:
        ours, theirs = self.ours.numerics, self.theirs.numerics
        return ours if ours == theirs else f"{ours} against {theirs}"


BF16_NOTE = "ours in bf16; TRL 1.12's bf16=True silently has no effect"
RLOO_NOTE = f"less work: no value model, {K} responses to a prompt are compared with each other; TRL's PPO has one"
WITHOUT_NOTE = "ours without this optimisation, against ours"
WITH_NOTE = "ours, against ours with this optimisation, which is off by default"
LORA_NOTE = "peft_config; TRL's value model is an adapter too, on a trunk of its own, and its reward model is merged"
TRUNK_NOTE = "less work: a value head on the policy's trunk; TRL has a second model"
TRL_PPO = Side("TRL 1.12")


def _ppo_rows() -> Iterator[Comparison]:
    """PPO against TRL's PPOTrainer; per size also with a value head on the policy's trunk, or peak memory."""
    for size, epochs, eos, fp32, bf16 in [
        ("tiny", 1, False, 2.0, 3.5),
        ("tiny", 4, False, 2.0, 3.5),
        ("tiny", 1, True, 2.5, 3.5),
        ("tiny", 4, True, 2.5, 3.5),
        ("small", 1, False, 1.6, 4.0),
        ("small", 1, True, 1.6, 4.0),
        ("gpt2", 1, False, 1.6, 4.0),
        ("gpt2", 1, True, 1.6, 4.0),
    ]:
        name, workload = f"ppo-{size}-{epochs}" + ("-eos" if eos else ""), Workload("ppo", size, epochs, eos)
        for numerics, target, note in (("fp32", fp32, ""), ("bf16", bf16, BF16_NOTE)):
            ours = Side("ours", numerics)
            yield Comparison(f"{name}-{numerics}", workload, ours, TRL_PPO, target, "time", not note, note)
        if epochs == 1 and not eos and size != "gpt2":
            for numerics, target, note in (("fp32", 3.0, TRUNK_NOTE), ("bf16", 6.0, f"{TRUNK_NOTE}; {BF16_NOTE}")):
                ours = Side("ours", numerics, "trunk")
                yield Comparison(f"{name}-trunk-{numerics}", workload, ours, TRL_PPO, target, "time", False, note)
        if size == "gpt2" and not eos:
            for variant, ours, note in (
                ("fp32", Side("ours"), ""),
                ("bf16", Side("ours", "bf16"), BF16_NOTE),
                ("trunk-fp32", Side("ours", "fp32", "trunk"), TRUNK_NOTE),
                ("trunk-bf16", Side("ours", "bf16", "trunk"), f"{TRUNK_NOTE}; {BF16_NOTE}"),
            ):
                yield Comparison(f"memory-{size}-{variant}", workload, ours, TRL_PPO, 2.0, "memory", not note, note)


def _rloo_rows() -> Iterator[Comparison]:
    """K responses to each prompt: with a value model and without one, and RLOO on both sides."""
    workload = Workload("ppo", "tiny", completions=K)
    yield Comparison("ppo-tiny-k4-fp32", workload, Side("ours"), TRL_PPO, None)
    yield Comparison("ppo-tiny-k4-bf16", workload, Side("ours", "bf16"), TRL_PPO, None, "time", False, BF16_NOTE)
    notes = {"fp32": RLOO_NOTE, "bf16": f"{RLOO_NOTE}; {BF16_NOTE}"}
    for numerics, note in notes.items():
        ours = Side("ours", numerics, "none")
        yield Comparison(f"ppo-tiny-k4-rloo-{numerics}", workload, ours, TRL_PPO, None, "time", False, note)
    for numerics in ("fp32", "bf16"):
        workload, note = Workload("rloo", "tiny", completions=K), "TRL 1.12's RLOOTrainer, not its PPOTrainer"
        ours, theirs = Side("ours", numerics, "none"), Side("TRL 1.12", numerics, "none")
        yield Comparison(f"rloo-tiny-{numerics}", workload, ours, theirs, None, note=note)
    workload = Workload("ppo", "gpt2", completions=K)
    for numerics, note in notes.items():
        ours = Side("ours", numerics, "none")
        yield Comparison(f"memory-gpt2-rloo-{numerics}", workload, ours, TRL_PPO, 2.0, "memory", False, note)


def _lora_rows() -> Iterator[Comparison]:
    """PPO with adapters in all linear layers: time, and peak memory."""
    workload = Workload("ppo", "gpt2", lora_r=16)
    yield Comparison("lora-gpt2-fp32", workload, Side("ours"), TRL_PPO, 1.3, note=LORA_NOTE)
    yield Comparison("memory-lora-gpt2-fp32", workload, Side("ours"), TRL_PPO, 2.0, "memory", note=LORA_NOTE)


def _function_rows() -> Iterator[Comparison]:
    """128 responses of 32 tokens, 8 to each prompt, scored by a Python function: the trainers that TRL has today."""
    for size, target in (("tiny", 4.0), ("small", 2.5)):
        for trainer in ("rloo", "grpo"):
            workload = Workload(f"function-{trainer}", f"{size}-128", response=32, completions=8)
            ours, theirs = Side("ours", values="none"), Side("TRL 1.16", values="none")
            note = f"TRL's {trainer.upper()}Trainer"
            yield Comparison(f"function-{trainer}-{size}-fp32", workload, ours, theirs, target, note=note)


def _gpu_rows() -> Iterator[Comparison]:
    """What `make gpu` measures: 512 responses at gpt2 size in bf16."""
    for response in (53, 128):
        workload, ours = Workload("ppo", "gpu", response=response), Side("ours", "bf16")
        yield Comparison(f"gpu-ppo-{response}", workload, ours, TRL_PPO, 10.0, "time", False, BF16_NOTE)
        workload, ours = (
            Workload("function-rloo", "gpu", response=response, completions=8),
            Side("ours", "bf16", "none"),
        )
        theirs = Side("TRL 1.16", "bf16", "none")
        yield Comparison(f"gpu-rloo-{response}", workload, ours, theirs, 3.0, note="TRL's RLOOTrainer")


def _decoding_and_training_rows() -> Iterator[Comparison]:
    """Decoding against transformers' `generate`; pretraining, SFT and the reward model against TRL's trainers."""
    for workload, implementation, fp32, bf16, note in [
        (Workload("decode", "tiny"), "generate", 2.0, 3.0, ""),
        (Workload("decode", "tiny", eos=True), "generate", 2.0, 3.0, ""),
        (Workload("decode", "small", eos=True), "generate", 2.0, 3.0, ""),
        (Workload("pretrain", "tiny"), "TRL 1.16", 2.0, 3.0, ""),
        (Workload("sft", "tiny"), "TRL 1.16", 2.0, 3.0, ""),
        (
            Workload("reward", "tiny", completions=K),
            "TRL 1.16",
            4.0,
            6.0,
            f"the same pairs and loss: {K * (K - 1)} forward passes a prompt there; {K} here, which read it once",
        ),
    ]:
        name = f"{workload.kind}-{workload.size}" + ("-eos" if workload.eos else "")
        for numerics, target in (("fp32", fp32), ("bf16", bf16)):
            ours, theirs = Side("ours", numerics), Side(implementation, numerics)
            yield Comparison(f"{name}-{numerics}", workload, ours, theirs, target, note=note)


def _ablation_rows() -> Iterator[Comparison]:
    """Ours against ours without one optimisation: one that gains less than 3 % is not kept."""
    plain, eos = Workload("ppo", "tiny"), Workload("ppo", "tiny", eos=True)
    for without, workload in [
        ("onednn-products", plain),
        ("kept-memory", plain),
        ("sigmoid-gelu", plain),
        ("attention-by-products", plain),
        ("fused-adamw", Workload("ppo", "gpt2")),
        ("sampled-logprobs", plain),
        ("selected-logits", Workload("ppo", "small")),
        ("packing", eos),
        ("attention-groups", eos),
        ("rounded-shapes", eos),
        ("dropped-rows", Workload("decode", "small", eos=True)),
        ("prepacked-weights", Workload("decode", "small", eos=True)),
        ("block-cache", Workload("decode", "tiny")),
        ("distinct-prompts", Workload("decode", "tiny", completions=4)),
        ("shared-prefixes", Workload("reward", "tiny", completions=K)),
        ("pruned-last-layer", Workload("reward", "tiny", completions=K)),
    ]:
        theirs = Side("ours", without=without)
        yield Comparison(f"without-{without}", workload, Side("ours"), theirs, 1.03, note=WITHOUT_NOTE)
    ours, theirs = Side("ours", "bf16"), Side("ours", "bf16", without="rounded-frozen-weights")
    yield Comparison(
        "without-rounded-frozen-weights", Workload("ppo", "gpt2"), ours, theirs, 1.03, "memory", note=WITHOUT_NOTE
    )
    ours = Side("ours", extra="fixed-decoding")
    yield Comparison("with-fixed-decoding", Workload("decode", "tiny"), ours, Side("ours"), None, note=WITH_NOTE)


def _gpu_ablation_rows() -> Iterator[Comparison]:
    """The same on a GPU at gpt2 size, 512 responses in bf16: what `make gpu` measures first."""
    decode, ppo = (Workload(kind, "gpu-pair", response=53) for kind in ("decode", "ppo"))
    plain = Side("ours", "bf16")
    for name, extra, workload in [
        ("fixed-decoding", "fixed-decoding", decode),
        ("fixed-decoding-eos", "fixed-decoding", replace(decode, eos=True)),  # it drops no finished rows
        ("varlen-attention", "varlen-attention", ppo),
    ]:
        ours = replace(plain, extra=extra)
        yield Comparison(f"gpu-with-{name}", workload, ours, plain, 1.03, note=WITH_NOTE)
    for without, workload, quantity in [
        ("check-interval", replace(decode, eos=True), "time"),
        ("pinned-transfers", ppo, "time"),
        ("fused-adamw", ppo, "time"),
        ("rounded-frozen-weights", ppo, "memory"),
    ]:
        theirs = replace(plain, without=without)
        yield Comparison(f"gpu-without-{without}", workload, plain, theirs, 1.03, quantity, note=WITHOUT_NOTE)


COMPARISONS = {
    comparison.name: comparison
    for comparison in (
        *_ppo_rows(),
        *_rloo_rows(),
        *_lora_rows(),
        *_function_rows(),
        *_gpu_rows(),
        *_decoding_and_training_rows(),
        *_ablation_rows(),
        *_gpu_ablation_rows(),
    )
}
