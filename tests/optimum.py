"""A world so small that every response can be listed: the optimum of the whole objective is known, and PPO must find it.

With responses y to a prompt x, of score r (what is taken off for a missing eos included), the objective

    J(pi) = E[r(x, y)] - kl_coef * KL(pi || pi_SFT)    is largest at    pi*(y|x) = pi_SFT(y|x) exp(r(x, y) / kl_coef) / Z(x)

where it is kl_coef * log Z(x). Nothing here uses the project's own log-probabilities or losses: the distribution is read
from the model's plain forward pass, response by response.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedModel

from rlhf.config import PPOConfig
from rlhf.models import Scorer
from rlhf.rollout import Responses
from rlhf.trainer import PPOTrainer

EOS, PAD, TOKENS, LENGTH = 0, 1, 4, 3
PENALTY = 0.5  # for a response without eos
KL_COEFS = (0.4, 0.6, 1.0)
PROMPTS = [[2], [3, 3, 2], [1, 2]]  # none begins another with a response: they would share states


def distinct(model: PreTrainedModel, head: nn.Linear, scale: float) -> PreTrainedModel:
    """The model with words and positions at right angles, so that few updates tell states apart, and a mild head."""
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    with torch.no_grad():
        axes = 5 * nn.init.orthogonal_(torch.empty(words.shape[1], words.shape[1]))
        words.copy_(axes[: len(words)])
        positions.copy_(axes[len(words) : len(words) + len(positions)])
        head.weight.mul_(scale)
    return model.eval()


class TokenizerOfIds:
    """As much of a tokenizer as the trainer asks for."""

    eos_token_id, pad_token_id = EOS, PAD


def listed_responses() -> list[tuple[int, ...]]:
    """Every response of up to LENGTH tokens: ended by its first eos, or cut off without one."""
    found = []
    for length in range(1, LENGTH + 1):
        for response in product(range(TOKENS), repeat=length):
            if EOS not in response[:-1] and (response[-1] == EOS or length == LENGTH):
                found.append(response)
    return found


RESPONSES = listed_responses()
NUMBER = {response: number for number, response in enumerate(RESPONSES)}


@dataclass
class World:
    """Scores of all responses, and the SFT model to start from."""

    scores: Tensor  # (prompts, responses)
    seed: int

    @classmethod
    def of_seed(cls, seed: int) -> "World":
        generator = torch.Generator().manual_seed(seed)
        return cls(0.5 * torch.randn(len(PROMPTS), len(RESPONSES), generator=generator), seed)

    def config(self) -> GPT2Config:
        return GPT2Config(
            vocab_size=TOKENS, n_positions=8, n_embd=32, n_inner=64, n_layer=2, n_head=8, initializer_range=0.3,
            activation_function="gelu_pytorch_tanh", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
            bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, num_labels=1, tie_word_embeddings=False,
        )  # fmt: skip

    def policy(self) -> PreTrainedModel:
        torch.manual_seed(self.seed)
        model = GPT2LMHeadModel(self.config())
        return distinct(model, model.lm_head, 0.4)

    def value_model(self) -> Scorer:
        torch.manual_seed(self.seed + 1)
        model = GPT2ForSequenceClassification(self.config())
        return Scorer(distinct(model, model.score, 0.1))

    def reward(self, responses: Responses) -> Tensor:
        rows = zip(responses.tokens.tolist(), responses.lengths.tolist(), strict=True)
        numbers = [NUMBER[tuple(tokens[:length])] for tokens, length in rows]
        return self.scores[responses.source, torch.tensor(numbers)]

    @property
    def rewards(self) -> Tensor:
        """What each response brings: its score, less the penalty where it has no eos."""
        cut_off = torch.tensor([response[-1] != EOS for response in RESPONSES])
        return self.scores - PENALTY * cut_off

    def trainer(self, **options) -> PPOTrainer:
        """The real trainer, as the stages use it, on this world.

        Many small steps, one update on each: the noise of a batch is pushed once, and the next is drawn where it led.
        """
        defaults = {
            "batch_size": 128, "total_episodes": 128 * 300, "num_ppo_epochs": 1, "num_mini_batches": 1, "learning_rate": 3e-3,
            "value_learning_rate": 3e-3, "lr_scheduler_type": "cosine", "adam_beta2": 0.99, "response_length": LENGTH,
            "missing_eos_penalty": PENALTY, "ptx_coef": 0.0, "value_warmup_steps": 5, "cliprange_value": 10.0,
            "lam": 1.0, "seed": self.seed,
        }  # fmt: skip
        text = options.pop("text", ())
        config = PPOConfig(**(defaults | options))
        return PPOTrainer(
            config,
            policy=self.policy(),
            reference=self.policy(),
            value_model=None if config.advantage_estimator == "rloo" else self.value_model(),
            reward=self.reward,
            tokenizer=TokenizerOfIds(),
            prompts=PROMPTS,
            text=text,
        )


def log_distribution(policy: nn.Module, temperature: float = 1.0) -> Tensor:
    """log pi(y|x) of every prompt and response, (prompts, responses), each from an unpadded forward pass."""
    rows = []
    for prompt in PROMPTS:
        parts = {}
        for length in range(1, LENGTH + 1):
            which = [i for i, response in enumerate(RESPONSES) if len(response) == length]
            ids = torch.tensor([[*prompt, *RESPONSES[i]] for i in which])
            logprobs = torch.log_softmax(
                policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits / temperature, dim=-1
            )
            chosen = logprobs[:, len(prompt) - 1 : -1].gather(2, ids[:, len(prompt) :, None]).squeeze(2)
            parts |= dict(zip(which, chosen.sum(dim=1), strict=True))
        row = torch.stack([parts[i] for i in range(len(RESPONSES))])
        rows.append(row)
    return torch.stack(rows)


def objective(log_pi: Tensor, log_ref: Tensor, scores: Tensor, kl_coef: float) -> Tensor:
    """The exact objective, the mean over prompts. Scalar."""
    return (log_pi.exp() * (scores - kl_coef * (log_pi - log_ref))).sum(dim=1).mean()


def optimum(log_ref: Tensor, scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
    """log pi* (prompts, responses), and the objective there."""
    tilted = log_ref + scores / kl_coef
    log_z = tilted.logsumexp(dim=1, keepdim=True)
    return tilted - log_z, kl_coef * log_z.mean()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats a response, the mean over prompts. Scalar."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def text_loss(policy: nn.Module, text: list[list[int]]) -> Tensor:
    """transformers' own loss on documents of one length: the mean over tokens after each one's first. Scalar."""
    ids = torch.tensor(text)
    return policy(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss


@dataclass
class Course:
    """How a run went, step by step, beginning with the SFT model."""

    kl_coef: float
    away: list[float]  # KL(PPO || optimum), nats a response
    left: list[float]  # the share of the objective, from the SFT model's to the highest, that is still to gain
    log_pis: Tensor  # (steps, prompts, responses)
    log_ref: Tensor  # (prompts, responses)
    best: Tensor  # (prompts, responses)


def course(world: World, kl_coef: float) -> Course:
    """Trains, and looks at the exact distribution after every step."""
    trainer = world.trainer(kl_coef=kl_coef)
    log_ref = log_distribution(trainer.reference).detach()
    log_pis = torch.stack([log_ref, *(log_distribution(trainer.policy).detach() for _ in trainer.train())])
    best, highest = optimum(log_ref, world.rewards, kl_coef)
    gains = [highest - objective(log_pi, log_ref, world.rewards, kl_coef) for log_pi in log_pis]
    away = [float(kl(log_pi, best)) for log_pi in log_pis]
    return Course(kl_coef, away, [float(gain / gains[0]) for gain in gains], log_pis, log_ref, best)


def draw(column, run: Course) -> None:
    """The distance from the optimum, the probability of single responses on the way, and the distribution at the end."""
    distance, way, end = column
    distance.semilogy(run.away, label="KL(PPO ‖ optimum), nats a response")
    distance.semilogy([max(left, 1e-6) for left in run.left], label="share of the objective still to gain")
    distance.axhline(0.01, color="black", linewidth=0.8, linestyle=":", label="0.01")
    distance.set(title=f"kl_coef {run.kl_coef}", xlabel="step", ylim=(1e-5, 2))

    names = ["".join("·_ab"[token] for token in response) for response in RESPONSES]
    moved = (run.best[0].exp() - run.log_ref[0].exp()).abs().argsort(descending=True)[:6].tolist()
    for i in moved:
        (line,) = way.plot(run.log_pis[:, 0, i].exp(), label=names[i], linewidth=1)
        way.axhline(run.best[0, i].exp(), color=line.get_color(), linestyle="--", linewidth=1)
    way.set(title="first prompt, on the way (dashed: the optimum)", xlabel="step", ylabel="probability")
    way.legend(prop={"family": "monospace"}, ncols=3, loc="upper right")

    order = run.best[0].argsort(descending=True)[:16].tolist()
    for shift, (label, log_p) in enumerate({"SFT": run.log_ref, "PPO": run.log_pis[-1], "optimum": run.best}.items()):
        end.bar([x + 0.28 * shift for x in range(len(order))], log_p[0, order].exp(), width=0.28, label=label)
    end.set_xticks([x + 0.28 for x in range(len(order))], [names[i] for i in order], rotation=90, family="monospace")
    end.set(title="first prompt, in the end (· is eos)", ylabel="probability")


def main() -> None:
    """Trains, and draws how PPO's distribution goes to the optimum."""
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from pathlib import Path

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.set_num_threads(1)  # too little work to share
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/optimum.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(3, len(KL_COEFS), figsize=(15, 11), layout="constrained")
    with ProcessPoolExecutor(2) as pool:
        courses = pool.map(partial(course, World.of_seed(0)), KL_COEFS)
    for column, run in zip(axes.T, courses, strict=True):
        way = f"{1 - run.left[-1]:.2%} of the way in the objective"
        print(f"kl_coef {run.kl_coef}: KL to the optimum {run.away[-1]:.1e} nats, {way}")
        draw(column, run)
    axes[0, 0].legend()
    axes[2, 0].legend()
    figure.savefig(path, dpi=90)
    print(f"drawn in {path}")


if __name__ == "__main__":
    main()
