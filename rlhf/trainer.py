"""PPO-ptx: the loop of InstructGPT's third stage, on Accelerate.

Each step samples one response to each prompt of a batch, has it scored by policy, reference, value model and reward,
and makes a few epochs of updates, into each of which flows the gradient of pretraining text. Every random number is a
function of the seed, the step and the process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from rlhf import ppo
from rlhf.checkpoint import load_state, random_state, save_state, set_random_state
from rlhf.config import PPOConfig
from rlhf.data import pad
from rlhf.errors import InputError
from rlhf.gate import gate
from rlhf.health import check_metrics, check_rollout, check_update
from rlhf.logprobs import text_logprobs
from rlhf.models import ValueHead, frozen, stop_token_ids
from rlhf.rollout import Responses, Rollout, generate, response_logprobs, response_values, score
from rlhf.scoring import last_token_scores


@dataclass
class Experience(Rollout):
    """A rollout and what PPO makes of it."""

    advantages: Tensor  # (B, T) whitened
    returns: Tensor  # (B, T) what the value model learns; 0 where there is none


@dataclass
class Step:
    """What one step of training did."""

    number: int  # from 1
    metrics: dict[str, float]  # over all processes; what is a mean over tokens counts no padding
    rollout: Rollout  # of this process


class PPOTrainer:
    """Trains `policy` and `value_model` in place; `value_model` is None where `advantage_estimator` is rloo.
    `reference` becomes `rlhf.models.frozen`, in place as well.

    `prompts` are the token ids of prompts, `text` those of pretraining documents (needed only where ptx_coef is not 0).
    `reward` scores responses (B,); `judge`, if given, says their true quality (B,), NaN where it is not known, which is
    logged as "gold" and used for nothing else.
    """

    def __init__(
        self,
        config: PPOConfig,
        *,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        value_model: nn.Module | None,
        reward: Callable[[Responses], Tensor],
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[int]],
        text: Sequence[list[int]] = (),
        judge: Callable[[Responses], Tensor] | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.accelerator = accelerator or Accelerator(mixed_precision="bf16" if config.bf16 else "no")
        if config.ptx_coef and not text:
            raise InputError(
                "ptx_coef is above 0, but there is no pretraining text to mix in: name some, or set it to 0"
            )
        config.check_split(self.accelerator.num_processes)
        self.config, self.pad_id, self.stop_ids = config, tokenizer.pad_token_id, stop_token_ids(policy, tokenizer)
        self.prompts, self.text, self.reward, self.judge = prompts, text, reward, judge
        self.kl_coef, self.steps_done, self.checked = config.kl_coef, 0, ""

        self.one_trunk = isinstance(value_model, ValueHead)
        # dropout is off in all of them, always: log-probabilities must not depend on the pass that computes them
        for model in (policy, reference, *([] if value_model is None else [value_model])):
            model.eval()
        self.reference = frozen(reference, self.accelerator)
        groups = [{"params": list(policy.parameters()), "lr": config.learning_rate}]
        if value_model is not None:
            rate = config.value_learning_rate or config.learning_rate
            groups.append({"params": list(value_model.parameters()), "lr": rate})
        optimizer = AdamW(
            groups,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=0.0,
            fused=True,
        )
        self.scheduler = get_scheduler(
            config.lr_scheduler_type, optimizer, config.lr_warmup_steps, config.steps * config.updates_per_step
        )
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.value_model = None if value_model is None else self.accelerator.prepare(value_model)
        self.average = None
        if config.ema_decay is not None:
            self.average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> Iterator[Step]:
        """Runs every step that is left, handing over what it did.

        Raises Diverged where numbers go wrong.
        """
        config = self.config
        for step in range(self.steps_done, config.steps):
            # responses to a batch of prompts, scored by policy, reference, value model and reward
            rollout = self.collect(step)
            check_rollout(step + 1, rollout)
            if not self.checked:
                self.checked = self.check(rollout)

            # a KL penalty on every token, the score on the last one (InstructGPT, equation 2)
            scores = rollout.scores - (config.missing_eos_penalty or 0.0) * ~rollout.ended
            rewards = ppo.kl_penalised_rewards(
                scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, self.kl_coef
            )
            if config.whiten_rewards:
                rewards = ppo.whiten(rewards, rollout.mask, shift_mean=False, total=self.total)
            if self.value_model is None:
                advantages = ppo.rloo(rewards, rollout.mask, config.num_generations)
                returns = torch.zeros_like(advantages)
            else:
                advantages, returns = ppo.gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
            advantages = ppo.whiten(advantages, rollout.mask, total=self.total)

            # a few epochs over the batch, each optimizer step with pretraining text of its own
            experience = Experience(*(getattr(rollout, f.name) for f in fields(Rollout)), advantages, returns)
            meter = Meter(self.total)
            for update, rows in enumerate(self.minibatches(step)):
                text = self.pretraining_text(step * config.updates_per_step + update)
                warming_up = self.value_model is not None and step < config.value_warmup_steps
                self.update(experience.select(rows), text, meter, train_policy=not warming_up)

            metrics = self.measure(experience, rewards, meter)
            check_metrics(step + 1, metrics, config, rollout)
            if config.kl_target is not None:
                self.kl_coef = ppo.adapted_kl_coef(
                    self.kl_coef, metrics["kl"], config.kl_target, config.batch_size, config.kl_horizon
                )
            self.steps_done = step + 1
            yield Step(self.steps_done, metrics, rollout)

    def collect(self, step: int) -> Rollout:
        """A rollout of this process's share of the step's prompts, the responses to one beside each other."""
        config, processes, rank = self.config, self.accelerator.num_processes, self.accelerator.process_index
        share = config.batch_size // processes
        start, each = step * config.batch_size + rank * share, config.num_generations
        asked = shuffled(len(self.prompts), start // each, share // each, (config.seed, 1))
        order = [i for i in asked for _ in range(each)]
        input_ids, attention_mask = pad([self.prompts[i] for i in order], self.pad_id, "left")
        device = self.accelerator.device
        with self.accelerator.autocast():
            responses = generate(
                self.accelerator.unwrap_model(self.policy),
                input_ids.to(device),
                attention_mask.to(device),
                response_length=config.response_length,
                temperature=config.temperature,
                stop_ids=self.stop_ids,
                pad_id=self.pad_id,
                generator=torch.Generator().manual_seed(_seed(config.seed, 2, step, rank)),
                value_head=self.accelerator.unwrap_model(self.value_model) if self.one_trunk else None,
            )
            responses.source = torch.tensor(order, device=device)
            return score(
                responses,
                reference=self.reference,
                value_model=self.value_model,
                reward=self.reward,
                temperature=config.temperature,
                chunk=config.micro_batch_size or share,
            )

    def update(self, batch: Experience, text: list[list[int]], meter: "Meter", train_policy: bool) -> None:
        """One optimizer step on a minibatch and on pretraining text.

        Each loss is a mean over the tokens of the whole minibatch, on all processes; a micro-batch weighs as much of it
        as it has tokens, so that the gradient does not depend on how the minibatch is split.
        """
        config = self.config
        pieces = -(-len(batch.mask) // (config.micro_batch_size or len(batch.mask)))
        parts = [batch.select(rows).trimmed() for rows in torch.arange(len(batch.mask)).chunk(pieces)]
        tokens = self.total(batch.mask.sum())
        text_tokens = self.total(torch.tensor(sum(len(ids) - 1 for ids in text), device=self.accelerator.device))

        found = Meter(self.total)
        for number, part in enumerate(parts):
            with self.synchronised(last=number == len(parts) - 1):
                weight = part.mask.sum() / tokens
                with self.accelerator.autocast():
                    head = self.value_model if self.one_trunk else None
                    logprobs, values = response_logprobs(self.policy, part, config.temperature, head)
                pg_loss = ppo.policy_loss(logprobs, part.logprobs, part.advantages, part.mask, config.cliprange)
                loss = pg_loss * weight

                # keep what pretraining taught (PPO-ptx): text of its own, the same optimizer step
                if documents := text[number :: len(parts)]:
                    ptx_loss, count = self.text_loss(documents)
                    loss = loss + config.ptx_coef * ptx_loss * count / text_tokens
                    found.add("ptx_loss", ptx_loss, count)

                if not self.one_trunk:
                    # now, so that what two models keep for their gradients is not held together
                    self.backward(loss)
                    with self.accelerator.autocast():
                        loss, values = 0.0, self.values(part)
                if values is not None:
                    vf_loss = ppo.value_loss(values, part.values, part.returns, part.mask, config.cliprange_value)
                    self.backward(loss + config.vf_coef * vf_loss * weight)
                    found.add("vf_loss", vf_loss, part.mask.sum())

            count = part.mask.sum()
            found.add("pg_loss", pg_loss, count)
            found.add("approx_kl", ppo.approx_kl(logprobs, part.logprobs, part.mask), count)
            found.add("clip_fraction", ppo.clip_fraction(logprobs, part.logprobs, part.mask, config.cliprange), count)

        if not train_policy:
            self.policy.zero_grad(set_to_none=True)
        # a model without gradients has a norm on the CPU
        norms = torch.stack(
            [
                self.accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm).to(tokens.device)
                for model in self.trained()
            ]
        )
        if not config.skip_nonfinite:
            check_update(self.steps_done + 1, norms, batch)
        skip = ~norms.isfinite().all()
        if not skip:
            self.optimizer.step()
            meter.take(found)
        if config.skip_nonfinite:
            meter.add("skipped", skip, torch.ones_like(skip))
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.accelerator.unwrap_model(self.policy))

    def values(self, part: Experience) -> Tensor | None:
        """What the value model says before each response token, (B, T); None where there is none."""
        return None if self.value_model is None else response_values(self.value_model, part)

    def text_loss(self, documents: list[list[int]]) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of a token of the documents, each after its first, and how many these are."""
        input_ids, attention_mask = (t.to(self.accelerator.device) for t in pad(documents, self.pad_id, "right"))
        with self.accelerator.autocast():
            logprobs, mask = text_logprobs(self.policy, input_ids, attention_mask)
        return -ppo.masked_mean(logprobs, mask), mask.sum()

    def measure(self, batch: Experience, rewards: Tensor, meter: "Meter") -> dict[str, float]:
        """All metrics of a step: what the meter has of its updates, and what is known of the whole batch."""
        responses = torch.tensor(len(batch.mask), device=batch.mask.device)
        meter.add("score", batch.scores.mean(), responses)
        if self.judge is not None:
            gold = self.judge(batch)
            known = ~gold.isnan()
            meter.add("gold", gold.nan_to_num().sum() / known.sum().clamp(min=1), known.sum())
        meter.add("kl", batch.kls.mean(), responses)
        meter.add("reward", rewards.sum(dim=1).mean(), responses)
        meter.add("entropy", ppo.masked_mean(batch.entropies, batch.mask), batch.mask.sum())
        meter.add("length", batch.lengths.float().mean(), responses)
        meter.add("ended", batch.ended.float().mean(), responses)
        if self.value_model is not None:
            explained = ppo.explained_variance(batch.values, batch.returns, batch.mask, self.total)
            meter.add("explained_variance", explained, responses)
        meter.add("kl_coef", torch.tensor(self.kl_coef), responses)
        meter.add("learning_rate", torch.tensor(self.scheduler.get_last_lr()[0]), responses)
        return meter.means()

    def check(self, rollout: Rollout) -> str:
        """See rlhf.gate. A function of the text may say what it likes; a reward model sees nothing but the response."""
        by_model = getattr(self.reward, "func", None) is last_token_scores
        with self.accelerator.autocast():
            return gate(
                rollout.select(slice(0, self.config.micro_batch_size)).trimmed(),
                policy=self.accelerator.unwrap_model(self.policy),
                reference=self.reference,
                reward=self.reward if by_model else None,
                temperature=self.config.temperature,
                precision=self.accelerator.mixed_precision,
            )

    # --- parts of the loop --------------------------------------------------------------------------------------------

    def minibatches(self, step: int) -> Iterator[Tensor]:
        """The rows of each optimizer step of this process: every epoch the whole batch in another order."""
        config, processes, rank = self.config, self.accelerator.num_processes, self.accelerator.process_index
        generator = torch.Generator().manual_seed(_seed(config.seed, 3, step, rank))
        # the responses to a prompt stay together: what they have in common goes through the models once
        prompts = torch.arange(config.batch_size // processes).view(-1, config.num_generations)
        for _ in range(config.num_ppo_epochs):
            order = torch.randperm(len(prompts), generator=generator)
            yield from (prompts[some].flatten() for some in order.chunk(config.num_mini_batches))

    def pretraining_text(self, update: int) -> list[list[int]]:
        """This process's documents for the optimizer step of that number."""
        config, processes, rank = self.config, self.accelerator.num_processes, self.accelerator.process_index
        if not config.ptx_coef:
            return []
        start = update * config.ptx_batch_size
        order = shuffled(len(self.text), start, config.ptx_batch_size, (config.seed, 4))
        return [self.text[i] for i in order[rank::processes]]

    def synchronised(self, last: bool) -> ExitStack:
        """Gradients are exchanged between processes at the last micro-batch only."""
        stack = ExitStack()
        if not last:
            for model in self.trained():
                stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, which Accelerate averages over processes, where our losses want a sum."""
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def total(self, part: Tensor) -> Tensor:
        """The sum of a scalar over all processes."""
        return self.accelerator.reduce(part, "sum")

    def save_state(self, folder: Path) -> None:
        """Writes all that the rest of the run depends on, for `load_state`. To be called by every process."""
        models = {name: self.accelerator.unwrap_model(model).state_dict() for name, model in self.models().items()}
        state = {
            "steps_done": self.steps_done,
            "kl_coef": self.kl_coef,
            "models": models,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": gather_object([random_state()]),
        }
        if self.accelerator.is_main_process:
            save_state(folder / "state", state)

    def load_state(self, folder: Path) -> None:
        """Puts the run back to where `save_state` was called: `train` goes on to the same bits."""
        state = load_state(folder / "state")
        self.steps_done, self.kl_coef = state["steps_done"], state["kl_coef"]
        for name, model in self.models().items():
            self.accelerator.unwrap_model(model).load_state_dict(state["models"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        set_random_state(state["random"][self.accelerator.process_index])

    def models(self) -> dict[str, nn.Module]:
        """The models that change in training."""
        models = {"policy": self.policy, "value_model": self.value_model, "average": self.average}
        return {name: model for name, model in models.items() if model is not None}

    def trained(self) -> list[nn.Module]:
        """The models that have gradients."""
        return [model for model in (self.policy, self.value_model) if model is not None]

    def save(self, folder: Path) -> None:
        """Writes the policy (its average, where there is one) and, in `value_model`, the value model if there is one."""
        policy = self.accelerator.unwrap_model(self.policy)
        (self.average.module if self.average is not None else policy).save_pretrained(folder)
        if self.value_model is not None:
            trunk = {"policy": policy} if self.one_trunk else {}
            self.accelerator.unwrap_model(self.value_model).save_pretrained(folder / "value_model", **trunk)


class Meter:
    """Weighted means of numbers that come in parts, over all processes."""

    def __init__(self, total: Callable[[Tensor], Tensor]):
        self.total = total
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, name: str, mean: Tensor, weight: Tensor) -> None:
        """A part with its mean and its weight: how many tokens or responses it is the mean of; without any it is nothing."""
        part = torch.stack([mean.detach().double() * weight, weight.double()])
        self.parts.setdefault(name, []).append(part)

    def take(self, other: "Meter") -> None:
        """Adds all parts of another meter."""
        for name, parts in other.parts.items():
            self.parts.setdefault(name, []).extend(parts)

    def means(self) -> dict[str, float]:
        sums = {name: self.total(torch.stack(parts).sum(dim=0)) for name, parts in self.parts.items()}
        return {name: float(value / weight) for name, (value, weight) in sums.items() if weight > 0}


def shuffled(size: int, start: int, count: int, seed: tuple[int, ...]) -> list[int]:
    """`count` indices below `size` from position `start` of an endless row of permutations: epoch after epoch."""
    return [int(_permutation(size, (*seed, i // size))[i % size]) for i in range(start, start + count)]


@lru_cache(maxsize=8)
def _permutation(size: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
