"""PPO-ptx: the loop of InstructGPT's third stage, on Accelerate.

Each step samples responses to a batch of prompts, computes reference log-probabilities, values and scores, and updates
the models for a few epochs. Every update adds the gradient of pretraining text. Every random number is a function of
the seed, the step and the row. So the result does not depend on the number of processes, up to rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState

from rlhf import InputError, ppo
from rlhf.config import PPOConfig
from rlhf.engine import balanced_share, most, own_share, release, text_logprobs, to_device
from rlhf.models import mixed_precision, stop_token_ids
from rlhf.rollout import (
    Responses,
    Rollout,
    generate,
    random_numbers,
    response_logprobs,
    response_values,
    score_responses,
)
from rlhf.run.health import check_metrics, check_rollout
from rlhf.run.memory import MicroBatch
from rlhf.run.metrics import Meter, step_metrics
from rlhf.run.placement import distributed, freeze
from rlhf.run.randomness import seed_of, shuffled
from rlhf.run.sanity import check_first_rollout
from rlhf.run.state import TrainingState
from rlhf.scoring import RewardFunctions
from rlhf.tokens import pad


@dataclass
class Experience(Rollout):
    """A rollout with its advantages and returns."""

    loss_mask: Tensor  # (B, T) bool, True on tokens that the losses use; with mask_truncated, only finished responses
    advantages: Tensor  # (B, T) of the advantage estimator; if whitened, over the loss mask
    returns: Tensor  # (B, T) targets of the value model; 0 without one


@dataclass
class Counts:
    """What the losses of a whole minibatch are means over; scalars."""

    tokens: Tensor  # tokens of responses
    policy: Tensor  # tokens, responses or rows: `rlhf.ppo.aggregated_count`
    text_tokens: Tensor  # pretraining tokens


@dataclass
class Step:
    """The metrics and the rollout of one PPO step."""

    number: int  # from 1
    metrics: dict[str, float]  # over all processes; means over tokens exclude padding
    rollout: Rollout  # of all processes


class PPOTrainer(TrainingState):
    """Trains `policy` and `value_model` in place; `value_model` is None unless `advantage_estimator` is gae.

    `reference` is frozen, in place. `prompts` are lists of token ids, and so are the pretraining documents `text`,
    which are required unless ptx_coef is 0. `reward` maps responses to scores (B,); it gets parts of a rollout, of
    micro_batch_size rows. `functions` get the whole rollout; `reward` may be None if there are `functions`. `gold` maps
    responses to their true quality (B,), NaN where unknown, which is only logged. Raises InputError for options that
    contradict each other or the number of processes.
    """

    def __init__(
        self,
        config: PPOConfig,
        *,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        value_model: nn.Module | None,
        reward: Callable[[Responses], Tensor] | None,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[int]],
        text: Sequence[list[int]] = (),
        functions: RewardFunctions | None = None,
        gold: Callable[[Responses], Tensor] | None = None,
        accelerator: Accelerator | None = None,
    ):
        accelerator = accelerator or Accelerator(mixed_precision=mixed_precision(config))
        if config.ptx_coef and not text:
            raise InputError("ptx_coef is above 0, but there is no pretraining text: pass `text`, or set ptx_coef to 0")
        if config.has_value_model != (value_model is not None):
            problem = "needs a value model: pass" if config.has_value_model else "uses no value model: leave out"
            raise InputError(f"advantage_estimator {config.advantage_estimator} {problem} `value_model`")
        if reward is None and functions is None:
            raise InputError("there is no reward: pass `reward`, or `functions`")
        config.check_split(accelerator.num_processes)
        # no dropout: two passes over the same tokens must give the same log-probabilities
        for model in (policy, reference, value_model):
            if model is not None:
                model.eval()
        self.reference = distributed(freeze(reference, accelerator))
        super().__init__(config, accelerator, policy, value_model)
        self.tokenizer = tokenizer
        self.pad_id, self.stop_ids = tokenizer.pad_token_id, stop_token_ids(policy, tokenizer)
        self.prompts, self.text = prompts, text
        self.reward, self.functions, self.gold = reward, functions, gold
        self.micro_batch = MicroBatch(self)
        self.sanity_report = ""  # the checks that passed before the first step

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> Iterator[Step]:
        """Runs the remaining steps and yields the result of each. Raises Diverged if its numbers diverge."""
        config = self.config
        for step in range(self.steps_done, config.steps):
            # responses to a batch of prompts, with log-probabilities, values and scores
            rollout = self.collect(step)
            check_rollout(step + 1, rollout)
            self.sanity_report = self.sanity_report or check_first_rollout(self, rollout)

            rewards = self.rewards(rollout)
            experience = self.experience(rollout, rewards)

            # a few epochs over the batch; every optimizer step also gets new pretraining text
            meter = Meter()
            for update, rows in enumerate(self.minibatches(step)):
                text = self.pretraining_text(step * config.updates_per_step + update)
                warming_up = self.value_model is not None and step < config.value_warmup_steps
                self.update(experience.select(rows), text, meter, train_policy=not warming_up)

            metrics = step_metrics(self, experience, rewards, meter)
            check_metrics(step + 1, metrics, config, rollout)
            self.adapt(metrics)
            self.steps_done = step + 1
            yield Step(self.steps_done, metrics, rollout)

    def collect(self, step: int) -> Rollout:
        """The rollout on the step's prompts. Responses to one prompt are consecutive rows.

        Each process samples and scores its share of the rows; all of them get the whole rollout.
        """
        config, prompt_index = self.config, self.prompt_index(step)
        generator = torch.Generator().manual_seed(seed_of(config.seed, 2, step, 0))
        uniforms = random_numbers(config.response_length, config.batch_size, generator)
        rollout = self.sample(self.accelerator.unwrap_model(self.policy), self.prompts, prompt_index, uniforms)
        if self.functions is not None:
            self.functions.trainer_state = TrainerState(
                global_step=step * config.updates_per_step, max_steps=config.steps * config.updates_per_step
            )
            rollout.scores = self.functions(rollout, None if self.reward is None else rollout.scores)
        return rollout

    def sample(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[list[int]],
        prompt_index: Tensor,
        uniforms: Tensor,
        reward: Callable[[Responses], Tensor] | None = None,
    ) -> Rollout:
        """The policy's responses to the prompts of these indices (B,), scored by `reward`, by default the run's.

        `uniforms` are the random numbers, see `rlhf.rollout.random_numbers`. Scores are 0 without a reward.
        """
        config, device, share = self.config, self.accelerator.device, own_share(len(prompt_index))
        input_ids, attention_mask = pad([prompts[i] for i in prompt_index.tolist()], self.pad_id, "left")
        with self.accelerator.autocast():
            responses = generate(
                policy,
                *(to_device(tensor[share], device) for tensor in (input_ids, attention_mask)),
                response_length=config.response_length,
                temperature=config.temperature,
                stop_ids=self.stop_ids,
                pad_id=self.pad_id,
                uniforms=uniforms[:, share],
                value_head=self.accelerator.unwrap_model(self.value_model) if self.shares_trunk else None,
            )
            responses.prompt_index = to_device(prompt_index[share], device)
            rollout = score_responses(
                responses,
                reference=self.reference,
                value_model=self.value_model,
                reward=reward or self.reward,
                temperature=config.temperature,
                chunk=self.micro_batch.rows or config.batch_size,
            )
        release(self.reference)
        return rollout.gathered(share, len(prompt_index), self.pad_id)

    # --- advantages ---------------------------------------------------------------------------------------------------

    def rewards(self, rollout: Rollout) -> Tensor:
        """A KL penalty on every token, the score on the last one, (B, T) (InstructGPT, equation 2)."""
        config = self.config
        scores = rollout.scores - (config.missing_eos_penalty or 0.0) * ~rollout.finished
        rewards = ppo.kl_penalised_rewards(scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, self.kl_coef)
        return ppo.whiten(rewards, rollout.mask, shift_mean=False) if config.whiten_rewards else rewards

    def experience(self, rollout: Rollout, rewards: Tensor) -> Experience:
        """The rollout with the advantages of the `advantage_estimator`."""
        config, mask, name = self.config, rollout.mask, self.config.advantage_estimator
        returns = torch.zeros_like(rewards)
        if name == "gae":
            advantages, returns = ppo.gae(rewards, rollout.values, mask, config.gamma, config.lam)
        elif name == "reinforce":
            advantages = ppo.reinforce(rewards, mask, self.baseline)
        else:
            advantages = ppo.GROUP_ESTIMATORS[name](rewards, mask, config.num_generations)
        loss_mask = mask & rollout.finished[:, None] if config.mask_truncated else mask
        if config.whitens_advantages:
            advantages = ppo.whiten(advantages, loss_mask)
        return Experience(**vars(rollout), loss_mask=loss_mask, advantages=advantages, returns=returns)

    def adapt(self, metrics: dict[str, float]) -> None:
        """Changes the KL coefficient with `kl_target`, and the baseline of `reinforce`, after a step."""
        config = self.config
        if config.kl_target is not None:
            self.kl_coef = ppo.adapted_kl_coef(
                self.kl_coef, metrics["kl"], config.kl_target, config.batch_size, config.kl_horizon
            )
        if config.advantage_estimator == "reinforce":
            self.baseline = ppo.running_mean(self.baseline, metrics["reward"], config.baseline_decay)

    # --- an update ----------------------------------------------------------------------------------------------------

    def update(self, batch: Experience, text: list[list[int]], meter: Meter, train_policy: bool) -> None:
        """One optimizer step on a minibatch and on pretraining text. Each process computes its share of both.

        Each loss is a mean over the whole minibatch, mostly over its tokens. A micro-batch is weighted by its share of
        what the mean is over, so the gradient does not depend on how the minibatch is split.
        """
        counts = Counts(
            tokens=batch.loss_mask.sum().clamp(min=1),
            policy=ppo.aggregated_count(batch.loss_mask, self.config.aggregation).clamp(min=1),
            text_tokens=torch.tensor(sum(len(ids) - 1 for ids in text), device=self.accelerator.device),
        )
        own = batch.select(balanced_share(batch.attention_mask.sum(dim=1), self.config.num_generations))
        text = [text[i] for i in balanced_share(torch.tensor([len(ids) for ids in text]))]

        def accumulate(count: int) -> Meter:
            losses = Meter()
            parts = [own.select(rows).trimmed() for rows in torch.arange(len(own.mask)).chunk(count)]
            for number, part in enumerate(parts):
                with self.synchronised(last=number == len(parts) - 1):
                    self.add_gradients(part, text[number :: len(parts)], counts, losses)
            # a process with fewer micro-batches computes one without tokens: all call sharded models equally often
            for _ in range(most(len(parts)) - len(parts) if self.sharded else 0):
                empty = replace(parts[0], loss_mask=torch.zeros_like(parts[0].loss_mask))
                self.add_gradients(empty, [], counts, Meter())
            return losses

        losses = self.micro_batch.run(accumulate, len(own.mask))
        if not train_policy:
            self.policy.zero_grad(set_to_none=True)
        self.optimizer_step(batch, losses, meter)

    def add_gradients(self, part: Experience, documents: list[list[int]], counts: Counts, losses: Meter) -> None:
        """Adds the gradients of a micro-batch. `counts` are those of the whole minibatch."""
        config, mask, count = self.config, part.loss_mask, part.loss_mask.sum()
        with self.accelerator.autocast():
            value_head = self.value_model if self.shares_trunk else None
            logprobs, values = response_logprobs(self.policy, part, config.temperature, value_head)
        policy_loss = ppo.LOSSES[config.policy_loss]
        token_losses, ratio = policy_loss(logprobs, part.logprobs, part.advantages, mask, *config.clip_range)
        pg_loss = ppo.aggregate(token_losses, mask, config.aggregation, config.response_length)
        pg_count = ppo.aggregated_count(mask, config.aggregation)
        loss = pg_loss * (pg_count / counts.policy)

        # PPO-ptx: pretraining text in the same optimizer step, against forgetting
        if documents or (self.sharded and config.ptx_coef):
            ptx_loss, ptx_count = self.text_loss(documents or [self.text[0]])
            ptx_count = ptx_count * bool(documents)
            loss = loss + config.ptx_coef * ptx_loss * ptx_count / counts.text_tokens
            losses.add("ptx_loss", ptx_loss, ptx_count)

        if not self.shares_trunk:
            # before the value model's pass, so that both models' activations are not in memory at once
            self.backward(loss)
            loss = torch.zeros_like(pg_loss)
            if self.value_model is not None:
                with self.accelerator.autocast():
                    values = response_values(self.value_model, part)
        if values is not None:
            vf_loss = ppo.value_loss(values, part.values, part.returns, mask, config.cliprange_value)
            self.backward(loss + config.vf_coef * vf_loss * (count / counts.tokens))
            losses.add("vf_loss", vf_loss, count)

        # of a step, the first update counts: its policy is still the one that sampled, so the ratio should be 1
        losses.add_numbers("ratio", (logprobs.detach() - part.logprobs)[part.mask].exp())
        losses.add("pg_loss", pg_loss, pg_count)
        losses.add("approx_kl", ppo.approx_kl(logprobs, part.logprobs, mask), count)
        losses.add("clip_fraction", ppo.clip_fraction(ratio, mask, *config.clip_range), count)

    def text_loss(self, documents: list[list[int]]) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy, in nats, of all tokens but the first of each document, and their count; scalars."""
        padded = pad(documents, self.pad_id, "right")
        input_ids, attention_mask = (to_device(t, self.accelerator.device) for t in padded)
        with self.accelerator.autocast():
            logprobs, mask = text_logprobs(self.policy, input_ids, attention_mask)
        return -ppo.masked_mean(logprobs, mask), mask.sum()

    # --- batches ------------------------------------------------------------------------------------------------------

    def prompt_index(self, step: int) -> Tensor:
        """The index of each row's prompt, (B,). Every prompt is used once before any is used again."""
        size, repeats = self.config.batch_size // self.config.num_generations, self.config.num_generations
        drawn = shuffled(len(self.prompts), step * size, size, (self.config.seed, 1))
        return torch.tensor(drawn).repeat_interleave(repeats)

    def minibatches(self, step: int) -> Iterator[Tensor]:
        """The row indices of each optimizer step. Every epoch uses the whole batch, in a new order."""
        config = self.config
        generator = torch.Generator().manual_seed(seed_of(config.seed, 3, step, 0))
        # the responses to a prompt stay together, so that their shared prompt is computed once
        prompts = torch.arange(config.batch_size).view(-1, config.num_generations)
        for _ in range(config.num_ppo_epochs):
            order = torch.randperm(len(prompts), generator=generator)
            yield from (prompts[chunk].flatten() for chunk in order.chunk(config.num_mini_batches))

    def pretraining_text(self, update: int) -> list[list[int]]:
        """The pretraining documents for optimizer step `update`, counted from 0 over the whole run."""
        config = self.config
        if not config.ptx_coef:
            return []
        size = config.ptx_batch_size
        return [self.text[i] for i in shuffled(len(self.text), update * size, size, (config.seed, 4))]
