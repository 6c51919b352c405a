"""A problem so small that every response can be listed, and PPO's optimum is known in closed form.

With responses y to a prompt x and rewards r(x, y), the penalty for a missing eos included, the objective

    J(pi) = E[r(x, y)] - kl_coef * KL(pi || pi_SFT)    has its maximum at    pi*(y|x) = pi_SFT(y|x) exp(r(x, y) / kl_coef) / Z(x)

and its value there is kl_coef * log Z(x). Distributions are computed by the model's plain forward pass, one response at a
time, independently of the project's log-probabilities and losses.
"""

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedModel

from rlhf.classifiers import Scorer
from rlhf.config import PPOConfig
from rlhf.rollout import Responses
from rlhf.trainer import PPOTrainer
from tests.trainers import adapted

EOS, PAD, TOKENS, LENGTH = 0, 1, 4, 3
PENALTY = 0.5  # for a response without eos
KL_COEFS = (0.4, 0.6, 1.0)
PROMPTS = [[2], [3, 3, 2], [1, 2]]  # none is a prefix of another: they would share states


def with_orthogonal_embeddings(model: PreTrainedModel, head: nn.Linear, scale: float) -> PreTrainedModel:
    """The model with orthogonal embeddings, so that few updates distinguish all states, and its head scaled down."""
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    with torch.no_grad():
        axes = 5 * nn.init.orthogonal_(torch.empty(tokens.shape[1], tokens.shape[1]))
        tokens.copy_(axes[: len(tokens)])
        positions.copy_(axes[len(tokens) : len(tokens) + len(positions)])
        head.weight.mul_(scale)
    return model.eval()


class Tokenizer:
    """The attributes of a tokenizer that the trainer reads."""

    eos_token_id, pad_token_id = EOS, PAD


def listed_responses() -> list[tuple[int, ...]]:
    """Every response of up to LENGTH tokens: up to its first eos, or truncated without one."""
    responses = []
    for length in range(1, LENGTH + 1):
        for response in product(range(TOKENS), repeat=length):
            if EOS not in response[:-1] and (response[-1] == EOS or length == LENGTH):
                responses.append(response)
    return responses


RESPONSES = listed_responses()
INDEX = {response: index for index, response in enumerate(RESPONSES)}


@dataclass
class World:
    """The scores of all responses, and the SFT model."""

    scores: Tensor  # (prompts, responses)
    seed: int
    lora_r: int | None = None  # rank of adapters; none trains all weights

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
        return with_orthogonal_embeddings(model, model.lm_head, 0.4)

    def value_model(self) -> Scorer:
        torch.manual_seed(self.seed + 1)
        model = GPT2ForSequenceClassification(self.config())
        return Scorer(with_orthogonal_embeddings(model, model.score, 0.1))

    def trained(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, or a copy of it with an adapter."""
        return adapted(model, self.lora_r) if self.lora_r else model

    def reward(self, responses: Responses) -> Tensor:
        rows = zip(responses.tokens.tolist(), responses.lengths.tolist(), strict=True)
        index = [INDEX[tuple(tokens[:length])] for tokens, length in rows]
        return self.scores[responses.prompt_index, torch.tensor(index)]

    @property
    def rewards(self) -> Tensor:
        """The reward of each response (prompts, responses): its score minus the penalty if it has no eos."""
        truncated = torch.tensor([response[-1] != EOS for response in RESPONSES])
        return self.scores - PENALTY * truncated

    def trainer(self, **options) -> PPOTrainer:
        """The project's trainer with these models and scores; `options` override those of PPOConfig.

        Each batch is used for one update only, so that the noise of a batch moves the policy once.
        """
        defaults = {
            "batch_size": 128, "total_episodes": 128 * 300, "num_ppo_epochs": 1, "num_mini_batches": 1, "learning_rate": 3e-3,
            "value_learning_rate": 3e-3, "lr_scheduler_type": "cosine", "adam_beta2": 0.99, "response_length": LENGTH,
            "missing_eos_penalty": PENALTY, "ptx_coef": 0.0, "value_warmup_steps": 5, "cliprange_value": 10.0,
            "lam": 1.0, "seed": self.seed,
        }  # fmt: skip
        text = options.pop("text", ())
        config = PPOConfig(**(defaults | options))
        value_model = Scorer(self.trained(self.value_model().model)) if config.has_value_model else None
        return PPOTrainer(
            config,
            policy=self.trained(self.policy()),
            reference=self.policy(),
            value_model=value_model,
            reward=self.reward,
            tokenizer=Tokenizer(),
            prompts=PROMPTS,
            text=text,
        )


def log_distribution(policy: nn.Module, temperature: float = 1.0) -> Tensor:
    """log pi(y|x) of every prompt and response, (prompts, responses), each from an unpadded forward pass."""
    rows = []
    for prompt in PROMPTS:
        parts = {}
        for length in range(1, LENGTH + 1):
            index = [i for i, response in enumerate(RESPONSES) if len(response) == length]
            ids = torch.tensor([[*prompt, *RESPONSES[i]] for i in index])
            logprobs = torch.log_softmax(
                policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits / temperature, dim=-1
            )
            token_logprobs = logprobs[:, len(prompt) - 1 : -1].gather(2, ids[:, len(prompt) :, None]).squeeze(2)
            parts |= dict(zip(index, token_logprobs.sum(dim=1), strict=True))
        rows.append(torch.stack([parts[i] for i in range(len(RESPONSES))]))
    return torch.stack(rows)


def objective(log_pi: Tensor, log_ref: Tensor, scores: Tensor, kl_coef: float) -> Tensor:
    """The exact objective, a mean over prompts. Scalar."""
    return (log_pi.exp() * (scores - kl_coef * (log_pi - log_ref))).sum(dim=1).mean()


def optimum(log_ref: Tensor, scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
    """log pi* (prompts, responses), and the maximum of the objective."""
    tilted = log_ref + scores / kl_coef
    log_z = tilted.logsumexp(dim=1, keepdim=True)
    return tilted - log_z, kl_coef * log_z.mean()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats a response, a mean over prompts. Scalar."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def text_loss(policy: nn.Module, text: list[list[int]]) -> Tensor:
    """The loss of transformers on documents of equal length, a mean over tokens after the first of each. Scalar."""
    ids = torch.tensor(text)
    return policy(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss


def assert_ppo_reaches_the_optimum(seed: int, kl_coef: float, lora_r: int | None = None, **options) -> None:
    """After training, the KL to the optimum is below 0.01 nats a response, and the objective gained over 99 %."""
    world = replace(World.of_seed(seed), lora_r=lora_r)
    trainer = world.trainer(kl_coef=kl_coef, **options)
    list(trainer.train())
    with torch.no_grad():
        log_ref, log_pi = log_distribution(trainer.reference), log_distribution(trainer.policy)
    best, maximum = optimum(log_ref, world.rewards, kl_coef)
    assert kl(best, log_ref) > 0.05  # the SFT model is not the optimum
    assert kl(log_pi, best) < 0.01
    reached, start = (objective(log_p, log_ref, world.rewards, kl_coef) for log_p in (log_pi, log_ref))
    assert (maximum - reached) / (maximum - start) < 0.01


# --- the picture ------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """A run of PPO step by step, from the SFT model on."""

    kl_coef: float
    distances: list[float]  # KL(PPO || optimum), nats a response
    remaining: list[float]  # the share of the possible gain in the objective that is not reached yet
    log_pis: Tensor  # (steps, prompts, responses)
    log_ref: Tensor  # (prompts, responses)
    best: Tensor  # (prompts, responses)


def train(world: World, kl_coef: float) -> History:
    """Trains, and computes the exact distribution after every step."""
    trainer = world.trainer(kl_coef=kl_coef)
    log_ref = log_distribution(trainer.reference).detach()
    log_pis = torch.stack([log_ref, *(log_distribution(trainer.policy).detach() for _ in trainer.train())])
    best, maximum = optimum(log_ref, world.rewards, kl_coef)
    gains = [maximum - objective(log_pi, log_ref, world.rewards, kl_coef) for log_pi in log_pis]
    distances = [float(kl(log_pi, best)) for log_pi in log_pis]
    return History(kl_coef, distances, [float(gain / gains[0]) for gain in gains], log_pis, log_ref, best)


def draw(column, history: History) -> None:
    """Draws the distance from the optimum, the probabilities of single responses, and the final distribution."""
    distance, probabilities, final = column
    distance.semilogy(history.distances, label="KL(PPO ‖ optimum), nats a response")
    distance.semilogy([max(share, 1e-6) for share in history.remaining], label="share of the objective still to gain")
    distance.axhline(0.01, color="black", linewidth=0.8, linestyle=":", label="0.01")
    distance.set(title=f"kl_coef {history.kl_coef}", xlabel="step", ylim=(1e-5, 2))

    names = ["".join("·_ab"[token] for token in response) for response in RESPONSES]
    best, log_ref = history.best[0], history.log_ref[0]
    for i in (best.exp() - log_ref.exp()).abs().argsort(descending=True)[:6].tolist():
        (line,) = probabilities.plot(history.log_pis[:, 0, i].exp(), label=names[i], linewidth=1)
        probabilities.axhline(best[i].exp(), color=line.get_color(), linestyle="--", linewidth=1)
    probabilities.set(title="first prompt, on the way (dashed: the optimum)", xlabel="step", ylabel="probability")
    probabilities.legend(prop={"family": "monospace"}, ncols=3, loc="upper right")

    order = best.argsort(descending=True)[:16].tolist()
    for shift, (label, log_p) in enumerate({"SFT": log_ref, "PPO": history.log_pis[-1, 0], "optimum": best}.items()):
        final.bar([x + 0.28 * shift for x in range(len(order))], log_p[order].exp(), width=0.28, label=label)
    final.set_xticks([x + 0.28 for x in range(len(order))], [names[i] for i in order], rotation=90, family="monospace")
    final.set(title="first prompt, in the end (· is eos)", ylabel="probability")


def main() -> None:
    """Trains, prints the final distance from the optimum, and draws the runs."""
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from pathlib import Path

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from tests.pages.measured import record

    torch.set_num_threads(1)  # the models are too small for more
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/optimum.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(3, len(KL_COEFS), figsize=(15, 11), layout="constrained")
    with ProcessPoolExecutor(2) as pool:
        histories = list(pool.map(partial(train, World.of_seed(0)), KL_COEFS))
    numbers = {f"{h.kl_coef}": {"kl": h.distances[-1], "remaining": h.remaining[-1]} for h in histories}
    record("optimum", numbers)
    for column, history in zip(axes.T, histories, strict=True):
        gain = f"{1 - history.remaining[-1]:.2%} of the possible gain in the objective"
        print(f"kl_coef {history.kl_coef}: KL to the optimum {history.distances[-1]:.1e} nats, {gain}")
        draw(column, history)
    axes[0, 0].legend()
    axes[2, 0].legend()
    figure.savefig(path, dpi=90)
    print(f"drawn in {path}")


if __name__ == "__main__":
    main()
