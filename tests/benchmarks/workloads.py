"""What the benchmark compares: sizes, workloads, and the rows of the table with their targets.

A workload is a fixed amount of work, done in steps: a PPO step, a batch of responses decoded, or some optimizer steps
of SFT or of the reward model. A comparison is a workload, how each side computes it, and what is read from the clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

PROMPT_TOKENS = (24, 40)  # drawn evenly between these, both included
K = 4  # completions a prompt of the reward model's rankings
TRAINER_STEPS = 5  # optimizer steps of SFT or of the reward model that are timed together
TRAINER_BATCH = 32  # rows in each; for the reward model half as many prompts


@dataclass(frozen=True)
class Size:
    """A GPT-2."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    batch: int  # responses a PPO step
    rounds: int  # timed steps of each side
    together: bool = True  # all processes stay in memory, and their first step is not counted

    @property
    def blocks(self) -> int:
        """Parameters of the blocks' matrices."""
        return 12 * self.layers * self.width**2

    @property
    def policy(self) -> int:
        """Parameters that a token of the policy meets as matrices: the blocks, and the head."""
        return self.blocks + self.vocabulary * self.width


SIZES = {
    "tiny": Size(4, 128, 4, 1024, 128, batch=64, rounds=5),
    "small": Size(6, 384, 6, 8192, 128, batch=64, rounds=2),
    "gpt2": Size(12, 768, 12, 50257, 1024, batch=32, rounds=2, together=False),
}

# tiny with one thing changed, for how a step grows
SIZES |= {f"batch-{batch}": replace(SIZES["tiny"], batch=batch) for batch in (32, 64, 128, 256)}
SIZES |= {f"width-{width}": replace(SIZES["tiny"], width=width, heads=width // 32) for width in (64, 128, 256, 512)}
SIZES["long"] = replace(SIZES["tiny"], context=1024)


@dataclass(frozen=True)
class Workload:
    """An amount of work that both sides are given."""

    kind: str  # ppo, rloo, decode, pretrain, sft or reward
    size: str
    epochs: int = 1  # of PPO over its batch
    eos: bool = False  # responses end themselves, after 25 of 48 tokens on average; otherwise none does
    response: int = 48  # tokens of a response, at most
    completions: int = 1  # responses to each prompt, or K of the reward model's rankings

    def flops(self, tokens: int, values: str = "model") -> float:
        """Floating-point operations of a step on `tokens` tokens: 2 a parameter and token forward, 4 backward.

        In PPO each token passes through the policy to be generated, the reference, the value and the reward model once,
        and through policy and value model forward and backward in every epoch. Padding, and whatever a side does twice,
        is not counted. `values` is that of a `Side`.
        """
        size = SIZES[self.size]
        policy, scorer = 2 * size.policy * tokens, 2 * size.blocks * tokens
        value = scorer if values == "model" else 0
        return {
            "ppo": policy + policy + value + scorer + 3 * self.epochs * (policy + value),
            "rloo": policy + policy + scorer + 3 * self.epochs * policy,
            "decode": policy,
            "pretrain": 3 * policy,
            "sft": 3 * policy,
            "reward": 3 * scorer,
        }[self.kind]


@dataclass(frozen=True)
class Side:
    """How one side does a workload."""

    who: str  # "ours", "TRL 1.12", "TRL 1.16" or "generate"
    numerics: str = "fp32"
    values: str = "model"  # of PPO: a "model" of its own, a head on the policy's "trunk", or "none" (RLOO)
    without: str = ""  # one of the savings of tests/benchmarks/ablation.py, for what each of them gains


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
    note: str = ""  # in what it is not, or what else should be known

    @property
    def numerics(self) -> str:
        ours, theirs = self.ours.numerics, self.theirs.numerics
        return ours if ours == theirs else f"{ours} against {theirs}"


BF16_NOTE = "ours in bf16; TRL 1.12's bf16=True is silently without effect"
RLOO_NOTE = f"less work: no value model, {K} responses to a prompt are held against each other; TRL's PPO has one"
WITHOUT_NOTE = "ours without it, against ours"
TRUNK_NOTE = "less work: a value head on the policy's trunk, TRL has a second model"


def _comparisons() -> Iterator[Comparison]:
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
        theirs = Side("TRL 1.12")
        for numerics, target, note in (("fp32", fp32, ""), ("bf16", bf16, BF16_NOTE)):
            yield Comparison(
                f"{name}-{numerics}", workload, Side("ours", numerics), theirs, target, "time", not note, note
            )
        if epochs == 1 and not eos and size != "gpt2":
            for numerics, target, note in (("fp32", 3.0, TRUNK_NOTE), ("bf16", 6.0, f"{TRUNK_NOTE}; {BF16_NOTE}")):
                ours = Side("ours", numerics, "trunk")
                yield Comparison(f"{name}-trunk-{numerics}", workload, ours, theirs, target, "time", False, note)
        if size == "gpt2" and not eos:
            for variant, ours, note in (
                ("fp32", Side("ours"), ""),
                ("bf16", Side("ours", "bf16"), BF16_NOTE),
                ("trunk-fp32", Side("ours", "fp32", "trunk"), TRUNK_NOTE),
                ("trunk-bf16", Side("ours", "bf16", "trunk"), f"{TRUNK_NOTE}; {BF16_NOTE}"),
            ):
                yield Comparison(f"memory-{size}-{variant}", workload, ours, theirs, 2.0, "memory", not note, note)

    # K responses to each prompt: with a value model and without, and RLOO on both sides
    alike, theirs = Workload("ppo", "tiny", completions=K), Side("TRL 1.12")
    yield Comparison("ppo-tiny-k4-fp32", alike, Side("ours"), theirs, None)
    yield Comparison("ppo-tiny-k4-bf16", alike, Side("ours", "bf16"), theirs, None, "time", False, BF16_NOTE)
    for numerics, note in (("fp32", RLOO_NOTE), ("bf16", f"{RLOO_NOTE}; {BF16_NOTE}")):
        ours = Side("ours", numerics, "none")
        yield Comparison(f"ppo-tiny-k4-rloo-{numerics}", alike, ours, theirs, None, "time", False, note)
    for numerics in ("fp32", "bf16"):
        workload, note = Workload("rloo", "tiny", completions=K), "TRL 1.12's RLOOTrainer, not its PPOTrainer"
        ours, theirs = Side("ours", numerics, "none"), Side("TRL 1.12", numerics, "none")
        yield Comparison(f"rloo-tiny-{numerics}", workload, ours, theirs, None, note=note)
    alike = Workload("ppo", "gpt2", completions=K)
    for numerics, note in (("fp32", RLOO_NOTE), ("bf16", f"{RLOO_NOTE}; {BF16_NOTE}")):
        ours, theirs = Side("ours", numerics, "none"), Side("TRL 1.12")
        yield Comparison(f"memory-gpt2-rloo-{numerics}", alike, ours, theirs, 2.0, "memory", False, note)

    for workload, who, fp32, bf16, note in [
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
            f"the same pairs and loss: {K * (K - 1)} forward passes a prompt there, {K} here, which read it once",
        ),
    ]:
        name = f"{workload.kind}-{workload.size}" + ("-eos" if workload.eos else "")
        for numerics, target in (("fp32", fp32), ("bf16", bf16)):
            ours, theirs = Side("ours", numerics), Side(who, numerics)
            yield Comparison(f"{name}-{numerics}", workload, ours, theirs, target, note=note)


def _ablation() -> Iterator[Comparison]:
    """Ours with everything, against ours without one thing: a saving that gains less than 3 % is not kept."""
    plain, eos = Workload("ppo", "tiny"), Workload("ppo", "tiny", eos=True)
    for without, workload in [
        ("products-by-onednn", plain),
        ("kept-memory", plain),
        ("gelu-by-sigmoid", plain),
        ("attention-by-products", plain),
        ("adamw-in-one-kernel", Workload("ppo", "gpt2")),
        ("captured-logprobs", plain),
        ("logits-where-needed", Workload("ppo", "small")),
        ("rows-without-padding", eos),
        ("attention-in-tables", eos),
        ("rounded-shapes", eos),
        ("dropped-rows", Workload("decode", "small", eos=True)),
        ("packed-weights", Workload("decode", "small", eos=True)),
        ("cache-in-blocks", Workload("decode", "tiny")),
        ("prompts-read-once", Workload("decode", "tiny", completions=4)),
        ("shared-prompts", Workload("reward", "tiny", completions=K)),
        ("last-layer-where-needed", Workload("reward", "tiny", completions=K)),
    ]:
        theirs = Side("ours", without=without)
        yield Comparison(f"without-{without}", workload, Side("ours"), theirs, 1.03, note=WITHOUT_NOTE)
    ours, theirs = Side("ours", "bf16"), Side("ours", "bf16", without="frozen-as-rounded")
    yield Comparison(
        "without-frozen-as-rounded", Workload("ppo", "gpt2"), ours, theirs, 1.03, "memory", note=WITHOUT_NOTE
    )


COMPARISONS = {comparison.name: comparison for comparison in (*_comparisons(), *_ablation())}
