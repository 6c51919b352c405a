"""The options of PPO: dataclass fields, each with a default and a help text that gives meaning, unit and source."""

from dataclasses import dataclass
from typing import Literal

from rlhf import InputError
from rlhf.option import check_options, option

LARGEST_SEED = 2**32 - 1  # numpy takes no larger one


@dataclass
class PrecisionOptions:
    """The mixed precision of a stage that trains."""

    bf16: bool = option(False, "forward passes in bfloat16, weights and optimizer in fp32")
    fp16: bool = option(
        False, "forward passes in float16 with a loss scaler, for GPUs without bfloat16; weights and optimizer in fp32"
    )

    @property
    def mixed_precision(self) -> str:
        """Accelerate's name of it: no, bf16 or fp16. Raises InputError if both are set."""
        if self.bf16 and self.fp16:
            raise InputError("bf16 and fp16 are both set: keep one of them")
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "no"


@dataclass
class PPOConfig(PrecisionOptions):
    """Names and meanings as in the PPOConfig that TRL had until 1.12, plus `ptx_coef`."""

    total_episodes: int = option(7040, "responses sampled in all (InstructGPT: 256,000)", at_least=1, at_most=10**9)
    batch_size: int = option(
        128, "responses per step, over all processes (InstructGPT: 512)", at_least=1, at_most=10**6
    )
    num_generations: int = option(
        1, "responses sampled for each prompt; the shared prompt is computed once", at_least=1, at_most=10**6
    )
    num_ppo_epochs: int = option(2, "epochs over each batch (InstructGPT: 1)", at_least=1, at_most=1000)
    num_mini_batches: int = option(
        2, "minibatches, and so optimizer steps, per epoch (InstructGPT: 8)", at_least=1, at_most=10**6
    )
    micro_batch_size: int | Literal["auto"] | None = option(
        None,
        "rows in one forward pass of the update, by default the whole minibatch; auto: as many as fit; changes memory, "
        "not results",
        at_least=1,
        at_most=10**6,
    )
    learning_rate: float = option(
        2e-4, "peak learning rate of the policy, for AdamW (InstructGPT: 9.65e-6 for 1.3B)", at_least=0
    )
    value_learning_rate: float | None = option(
        4e-4, "peak learning rate of the value model; none: that of the policy (InstructGPT: 9e-6)", at_least=0
    )
    lr_scheduler_type: str = option(
        "linear", "schedule of both learning rates: linear, cosine, constant, or any other that transformers has"
    )
    lr_warmup_steps: int = option(
        0, "optimizer steps over which both learning rates rise from 0 to their peak", at_least=0, at_most=10**9
    )
    adam_beta1: float = option(0.9, "AdamW's beta 1 (InstructGPT: 0.9)", at_least=0, below=1)
    adam_beta2: float = option(0.95, "AdamW's beta 2 (InstructGPT: 0.95)", at_least=0, below=1)
    adam_epsilon: float = option(
        1e-5, "AdamW's epsilon (summarize_from_feedback_details, arXiv 2403.17031: 1e-5)", above=0
    )
    max_grad_norm: float = option(
        1.0, "norm to which the gradients of the policy and of the value model are clipped, separately", above=0
    )
    response_length: int = option(64, "tokens after which a response is truncated", at_least=1, at_most=10**6)
    temperature: float = option(
        1.0, "sampling temperature, divided out of every log-probability (InstructGPT: 1)", at_least=0.01, at_most=100
    )
    missing_eos_penalty: float | None = option(
        1.0, "subtracted from the score of a truncated response; none for no penalty", at_least=0
    )
    mask_truncated: bool = option(
        False,
        "leave truncated responses out of the losses of policy and value model (DAPO, arXiv 2503.14476, section 3.4)",
    )
    kl_coef: float = option(
        0.05, "beta: weight of the KL penalty, the log-ratio to the reference in nats (InstructGPT: 0.02)", at_least=0
    )
    kl_target: float | None = option(
        None,
        "target KL of an adaptive kl_coef, in nats per response; none keeps kl_coef fixed (Ziegler et al., arXiv 1909.08593)",
        above=0,
    )
    kl_horizon: float = option(10_000, "horizon of the adaptive kl_coef, in episodes; smaller adapts faster", above=0)
    advantage_estimator: Literal["gae", "rloo", "grpo", "dr_grpo", "reinforce"] = option(
        "gae",
        "gae: generalised advantage estimation with a value model (InstructGPT). The others need no value model: rloo, "
        "grpo and dr_grpo compare the num_generations responses to a prompt, reinforce compares with earlier batches. "
        "rloo: the return minus the mean of the other responses (arXiv 2402.14740); grpo: standardised (arXiv 2402.03300); "
        "dr_grpo: minus the mean (arXiv 2503.20783); reinforce: minus a running mean (Williams 1992). The KL penalty is in "
        "the reward with all of them, where grpo's paper has a KL loss",
    )
    whiten_advantages: bool | None = option(
        None,
        "scale advantages to mean 0 and variance 1 over the tokens of the batch; none: with gae and rloo only, as the "
        "others define their own normalisation (with reinforce it would cancel the baseline)",
    )
    baseline_decay: float = option(
        0.9,
        "decay per step of the running mean of batches' mean returns, which is the baseline of reinforce",
        at_least=0,
        below=1,
    )
    gamma: float = option(1.0, "discount factor per token; 1 is no discount (InstructGPT: none)", at_least=0, at_most=1)
    lam: float = option(
        0.95,
        "lambda of generalised advantage estimation (Stiennon et al., arXiv 2009.01325: 0.95)",
        at_least=0,
        at_most=1,
    )
    whiten_rewards: bool = option(False, "scale rewards to unit variance, without shifting their mean (Ziegler et al.)")
    policy_loss: Literal["ppo", "gspo", "cispo"] = option(
        "ppo",
        "ppo: the clipped surrogate of each token (arXiv 1707.06347); gspo: with the length-normalised ratio of the whole "
        "response (arXiv 2507.18071); cispo: the clipped ratio is a constant weight of the log-probability, so that "
        "clipped tokens keep a gradient (arXiv 2506.13585)",
    )
    loss_aggregation: Literal["tokens", "responses", "constant"] | None = option(
        None,
        "tokens: the policy's loss is the mean over the tokens of a minibatch; responses: over responses, of the mean over "
        "tokens; constant: the sum over tokens divided by responses x response_length; none: as in the paper of policy_loss "
        "(gspo: responses, cispo: tokens), with ppo in that of advantage_estimator (grpo: responses, dr_grpo: constant, "
        "others: tokens)",
    )
    cliprange: float = option(
        0.2,
        "clip range: the probability ratio is clipped to 1 - cliprange and 1 + cliprange (InstructGPT: 0.2; GSPO's "
        "paper: 3e-4)",
        above=0,
        at_most=1000,
    )
    cliprange_high: float | None = option(
        None,
        "the ratio is clipped to 1 + cliprange_high instead (DAPO, arXiv 2503.14476: 0.28; GSPO's paper: 4e-4); none: to "
        "1 + cliprange",
        above=0,
        at_most=1000,
    )
    cliprange_value: float = option(
        0.2, "clip range of the value around its old value, in units of the score", above=0, at_most=10**6
    )
    vf_coef: float = option(
        0.5,
        "weight of the value loss; matters with share_trunk; without it AdamW cancels the factor, up to gradient clipping",
        at_least=0,
    )
    share_trunk: bool = option(False, "use a value head on the policy instead of a separate value model")
    value_warmup_steps: int = option(
        2, "first steps in which only the value model is trained", at_least=0, at_most=10**9
    )
    ptx_coef: float = option(
        0.5,
        "gamma of PPO-ptx: weight of the mean cross-entropy of a pretraining token relative to the mean PPO loss of a token (InstructGPT: 27.8, normalised differently)",
        at_least=0,
    )
    ptx_batch_size: int = option(
        24,
        "pretraining documents per optimizer step, over all processes (InstructGPT: 8 per episode)",
        at_least=1,
        at_most=10**6,
    )
    ema_decay: float | None = option(
        None,
        "decay per optimizer step of an exponential moving average of the policy's weights, which is saved as the policy; none saves the last weights (InstructGPT: 0.992)",
        at_least=0,
        below=1,
    )
    max_kl: float | None = option(
        100.0,
        "the run stops if the KL to the reference, in nats per response, is higher (1 to 12 is healthy); none never stops",
        above=0,
    )
    min_entropy: float | None = option(
        0.001,
        "the run stops if the entropy, in nats per token, is lower, as the policy has collapsed; none never stops",
        at_least=0,
    )
    skip_nonfinite: bool = option(
        False, "skip and count updates with a gradient that is not finite, instead of stopping"
    )
    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=LARGEST_SEED)

    def __post_init__(self) -> None:
        check_options(self)
        self._check_estimator()
        self.check_split(processes=1)
        if self.total_episodes < self.batch_size:
            raise InputError(f"total_episodes {self.total_episodes} is less than one batch of {self.batch_size}")

    def _check_estimator(self) -> None:
        name = self.advantage_estimator
        if self.compares_responses and self.num_generations < 2:
            raise InputError(
                f"advantage_estimator {name} compares responses to one prompt: num_generations must be at least 2"
            )
        if not self.has_value_model and self.share_trunk:
            raise InputError(
                f"share_trunk adds a value head, and advantage_estimator {name} uses no values: remove one of them"
            )

    def check_split(self, processes: int) -> None:
        """Raises InputError unless batch_size divides evenly into minibatches of whole groups of responses.

        Each process needs at least one prompt of each minibatch.
        """
        if self.batch_size % (self.num_mini_batches * self.num_generations):
            factors = f"{self.num_mini_batches} minibatches"
            factors += f" x {self.num_generations} responses to each prompt" if self.num_generations > 1 else ""
            raise InputError(f"batch_size {self.batch_size} can't be split evenly: it must be a multiple of {factors}")
        if self.batch_size // (self.num_mini_batches * self.num_generations) < processes:
            raise InputError(
                f"batch_size {self.batch_size} has {self.num_mini_batches} minibatches of fewer prompts than there are "
                f"processes, {processes}: start fewer, or raise batch_size"
            )

    @property
    def has_value_model(self) -> bool:
        """Whether the advantage estimator needs a value model."""
        return self.advantage_estimator == "gae"

    @property
    def compares_responses(self) -> bool:
        """Whether the advantage estimator compares the responses to a prompt."""
        return self.advantage_estimator not in ("gae", "reinforce")

    @property
    def whitens_advantages(self) -> bool:
        """`whiten_advantages`, or the default of the advantage estimator."""
        default = self.advantage_estimator in ("gae", "rloo")
        return default if self.whiten_advantages is None else self.whiten_advantages

    @property
    def aggregation(self) -> str:
        """`loss_aggregation`, or that of the paper."""
        of_paper = {"gspo": "responses", "cispo": "tokens", "grpo": "responses", "dr_grpo": "constant"}
        default = of_paper.get(self.policy_loss) or of_paper.get(self.advantage_estimator, "tokens")
        return self.loss_aggregation or default

    @property
    def clip_range(self) -> tuple[float, float]:
        """By how much a ratio may be below 1 and above 1."""
        return self.cliprange, self.cliprange if self.cliprange_high is None else self.cliprange_high

    @property
    def steps(self) -> int:
        """PPO steps of the whole run; each step uses one batch."""
        return self.total_episodes // self.batch_size

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per PPO step."""
        return self.num_ppo_epochs * self.num_mini_batches
