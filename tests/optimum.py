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
PROMPTS = [[2], [3, 2, 2], [3, 3]]


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
        return cls(torch.randn(len(PROMPTS), len(RESPONSES), generator=generator), seed)

    def config(self) -> GPT2Config:
        return GPT2Config(
            vocab_size=TOKENS, n_positions=16, n_embd=32, n_layer=1, n_head=4, initializer_range=0.1,
            resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
            num_labels=1,
        )  # fmt: skip

    def policy(self) -> PreTrainedModel:
        torch.manual_seed(self.seed)
        return GPT2LMHeadModel(self.config()).eval()

    def value_model(self) -> Scorer:
        torch.manual_seed(self.seed + 1)
        return Scorer(GPT2ForSequenceClassification(self.config()).eval())

    def reward(self, responses: Responses) -> Tensor:
        rows = [tuple(ids[mask].tolist()) for ids, mask in zip(responses.tokens, responses.mask, strict=True)]
        numbers = [RESPONSES.index(row) for row in rows]
        return self.scores[responses.source, torch.tensor(numbers)]

    def penalised(self, missing_eos_penalty: float | None) -> Tensor:
        """What each response brings: its score, less the penalty where it has no eos."""
        cut_off = torch.tensor([response[-1] != EOS for response in RESPONSES])
        return self.scores - (missing_eos_penalty or 0.0) * cut_off

    def trainer(self, **options) -> PPOTrainer:
        """The real trainer, as the stages use it, on this world."""
        defaults = {
            "batch_size": 384, "total_episodes": 384 * 100, "num_ppo_epochs": 2, "num_mini_batches": 1, "learning_rate": 4e-3,
            "value_learning_rate": 4e-3, "response_length": LENGTH, "ptx_coef": 0.0, "value_warmup_steps": 5,
            "cliprange_value": 10.0, "seed": self.seed,
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
