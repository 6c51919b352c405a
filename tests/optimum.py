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
PROMPTS = [[2], [3, 3, 2], [1, 2]]  # none begins another with a response: they would share states


def distinct(model: PreTrainedModel) -> PreTrainedModel:
    """The model with words and positions that differ enough for so few updates to tell prompts apart."""
    with torch.no_grad():
        model.transformer.wte.weight.mul_(10)
        model.transformer.wpe.weight.mul_(10)
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
            vocab_size=TOKENS, n_positions=16, n_embd=64, n_layer=2, n_head=4, initializer_range=0.1,
            resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
            num_labels=1, tie_word_embeddings=False,
        )  # fmt: skip

    def policy(self) -> PreTrainedModel:
        torch.manual_seed(self.seed)
        return distinct(GPT2LMHeadModel(self.config()))

    def value_model(self) -> Scorer:
        torch.manual_seed(self.seed + 1)
        return Scorer(distinct(GPT2ForSequenceClassification(self.config())))

    def reward(self, responses: Responses) -> Tensor:
        rows = [tuple(ids[mask].tolist()) for ids, mask in zip(responses.tokens, responses.mask, strict=True)]
        numbers = [RESPONSES.index(row) for row in rows]
        return self.scores[responses.source, torch.tensor(numbers)]

    @property
    def rewards(self) -> Tensor:
        """What each response brings: its score, less the penalty where it has no eos."""
        cut_off = torch.tensor([response[-1] != EOS for response in RESPONSES])
        return self.scores - PENALTY * cut_off

    def trainer(self, **options) -> PPOTrainer:
        """The real trainer, as the stages use it, on this world."""
        defaults = {
            "batch_size": 512, "total_episodes": 512 * 120, "num_ppo_epochs": 2, "num_mini_batches": 2, "learning_rate": 3e-3,
            "value_learning_rate": 3e-3, "lr_scheduler_type": "cosine", "adam_beta2": 0.99, "response_length": LENGTH,
            "missing_eos_penalty": PENALTY, "ptx_coef": 0.0, "value_warmup_steps": 5, "cliprange_value": 10.0,
            "lam": 1.0, "seed": self.seed,
        }  # fmt: skip
        text = options.pop("text", ())
        return PPOTrainer(
            PPOConfig(**(defaults | options)),
            policy=self.policy(),
            reference=self.policy(),
            value_model=self.value_model(),
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


def main() -> None:
    """Trains, and draws how PPO's distribution goes to the optimum."""
    import sys
    from pathlib import Path

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/optimum.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    kl_coefs = (0.5, 1.0)
    figure, axes = pyplot.subplots(2, len(kl_coefs), figsize=(11, 7), layout="constrained")
    world = World.of_seed(0)
    for column, kl_coef in zip(axes.T, kl_coefs, strict=True):
        trainer, away, gains = world.trainer(kl_coef=kl_coef), [], []
        with torch.no_grad():
            log_ref = log_distribution(trainer.reference)
            best, highest = optimum(log_ref, world.rewards, kl_coef)
            start = objective(log_ref, log_ref, world.rewards, kl_coef)
        for _ in trainer.train():
            with torch.no_grad():
                log_pi = log_distribution(trainer.policy)
            away.append(float(kl(log_pi, best)))
            gains.append(float((objective(log_pi, log_ref, world.rewards, kl_coef) - start) / (highest - start)))
        print(f"kl_coef {kl_coef}: KL to the optimum {away[-1]:.4f} nats, {gains[-1]:.1%} of the way in the objective")
        column[0].semilogy(away, label="KL(PPO ‖ optimum), nats")
        column[0].semilogy([max(1 - gain, 1e-5) for gain in gains], label="share of the objective still to gain")
        column[0].set(title=f"kl_coef {kl_coef}", xlabel="step")
        order = best[0].argsort(descending=True)[:16]
        names = ["".join("·_ab"[token] for token in RESPONSES[i]) for i in order]
        for shift, (label, values) in enumerate({"SFT": log_ref, "PPO": log_pi, "optimum": best}.items()):
            column[1].bar(
                [x + 0.28 * shift for x in range(len(order))], values[0, order].exp(), width=0.28, label=label
            )
        column[1].set_xticks([x + 0.28 for x in range(len(order))], names, rotation=90, family="monospace")
        column[1].set(title="the 16 likeliest responses to the first prompt (· is eos)")
    axes[0, 0].legend()
    axes[1, 0].legend()
    figure.savefig(path, dpi=110)
    print(f"drawn in {path}")


if __name__ == "__main__":
    main()
