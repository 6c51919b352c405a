"""The state of a PPO run: everything that updates change, saved to and restored from checkpoints."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel

from rlhf import InputError
from rlhf.adapters.lora import FINGERPRINT, save_model, shared_copy
from rlhf.config import PPOConfig
from rlhf.engine import (
    clip_gradients,
    is_sharded,
    load_whole_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)
from rlhf.models import ValueHead
from rlhf.rollout import Rollout
from rlhf.run.checkpoint import load_state, save_state
from rlhf.run.health import check_update
from rlhf.run.metrics import Meter
from rlhf.run.placement import distributed
from rlhf.run.randomness import random_state, set_random_state
from rlhf.run.schedule import new_schedule


class TrainingState:
    """Policy, value model, their optimizer and schedule, and the counters of a run."""

    def __init__(
        self, config: PPOConfig, accelerator: Accelerator, policy: PreTrainedModel, value_model: nn.Module | None
    ):
        self.config, self.accelerator = config, accelerator
        self.trunk = getattr(policy.config, FINGERPRINT, None)  # of a policy with an adapter
        self.kl_coef, self.steps_done = config.kl_coef, 0
        self.baseline: float | None = None  # of advantage_estimator reinforce, after the first step
        self.shares_trunk = isinstance(value_model, ValueHead)  # the value model is a head on the policy
        policy = distributed(policy)
        value_model = None if value_model is None else distributed(value_model)
        self.sharded = is_sharded(policy)
        if self.sharded and config.ema_decay is not None:
            raise InputError("ema_decay is not supported with FSDP: leave it out, or use another kind of distribution")
        groups = [{"params": trainable(policy), "lr": config.learning_rate}]
        if value_model is not None:
            rate = config.learning_rate if config.value_learning_rate is None else config.value_learning_rate
            groups.append({"params": trainable(value_model), "lr": rate})
        optimizer = AdamW(
            groups,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=0.0,
            fused=True,
        )
        self.scheduler = new_schedule(
            config.lr_scheduler_type, optimizer, config.lr_warmup_steps, config.steps * config.updates_per_step
        )
        self.policy, self.value_model = policy, value_model
        if self.sharded:
            self.optimizer = accelerator.prepare_optimizer(optimizer)
        else:
            self.policy, self.optimizer = accelerator.prepare(policy, optimizer)
            self.value_model = None if value_model is None else accelerator.prepare(value_model)
        self.average = None  # moving average of the policy's weights
        if config.ema_decay is not None:
            self.average = AveragedModel(nn.Identity(), multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
            self.average.module = shared_copy(policy)  # AveragedModel would also copy a frozen trunk

    def trained_models(self) -> list[nn.Module]:
        """The policy and, if there is one, the value model."""
        return [model for model in (self.policy, self.value_model) if model is not None]

    @property
    def saved_policy(self) -> PreTrainedModel:
        """The policy that is saved: its moving average, if there is one."""
        policy = self.accelerator.unwrap_model(self.policy) if self.average is None else self.average.module
        return cast(PreTrainedModel, policy)

    def models(self) -> dict[str, nn.Module]:
        """All models whose weights change, by name: policy, value model and moving average, as far as they exist."""
        models = {"policy": self.policy, "value_model": self.value_model, "average": self.average}
        return {name: model for name, model in models.items() if model is not None}

    def synchronised(self, last: bool) -> ExitStack:
        """A context in which processes exchange gradients only if this is the `last` micro-batch.

        Sharded models exchange them in each, because a process would otherwise hold whole gradients.
        """
        stack = ExitStack()
        if not last and not self.sharded:
            for model in self.trained_models():
                stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss. These losses need the sum over processes, and Accelerate takes the average."""
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def optimizer_step(self, batch: Rollout, losses: Meter, meter: Meter) -> None:
        """Clips gradients and steps. If a gradient is not finite, raises Diverged, or skips with `skip_nonfinite`.

        With fp16 the loss scaler skips such a step and lowers its scale, until that is below 1. Schedule and moving
        average then wait.
        """
        config, scaler = self.config, self.accelerator.scaler
        self.accelerator.unscale_gradients()  # for both models at once; torch refuses a second time
        # moved to one device, because the norm of a model without gradients is on the CPU
        norms = torch.stack(
            [clip_gradients(model, config.max_grad_norm).to(batch.mask.device) for model in self.trained_models()]
        )
        if not config.skip_nonfinite and (scaler is None or scaler.get_scale() < 1):
            check_update(self.steps_done + 1, norms, batch)
        skip = ~norms.isfinite().all()
        if not skip or scaler is not None:
            self.optimizer.step()  # the scaler skips by itself, and must see every step
        if not skip:
            meter.extend(losses)
        if config.skip_nonfinite or scaler is not None:
            meter.add("skipped", skip, torch.ones_like(skip))
        self.optimizer.zero_grad(set_to_none=True)
        if scaler is not None and skip:
            return
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.accelerator.unwrap_model(self.policy))

    def save_state(self, folder: Path) -> None:
        """Writes the whole training state. Every process must call it; the main process writes."""
        state = {
            "steps_done": self.steps_done,
            "kl_coef": self.kl_coef,
            "models": self.weights(),
            "optimizer": whole_optimizer_state(self.optimizer),
            "scheduler": self.scheduler.state_dict(),
            "random": [random_state()],
        }
        if self.baseline is not None:
            state["baseline"] = self.baseline
        if self.trunk is not None:
            state["trunk"] = self.trunk
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            save_state(folder / "state", state)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The weights of each model of `models`, not copied. Every process must call it."""
        return {name: self.trained(model) for name, model in self.models().items()}

    def load_weights(self, weights: dict[str, dict[str, Tensor]]) -> None:
        """Restores what `weights` returned. Raises KeyError if the models have other weights."""
        for name, model in self.models().items():
            trained = weights[name]
            model = self.accelerator.unwrap_model(model)
            if self.sharded:
                load_whole_state(model, trained)
                continue
            if trained.keys() != self.trained(model).keys():
                raise KeyError(f"{name} has other weights")
            model.load_state_dict(trained, strict=False)  # without those of a frozen trunk

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of a model by name, without those of a frozen trunk."""
        model = self.accelerator.unwrap_model(model)
        frozen = {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}
        return {name: weight for name, weight in whole_state(model).items() if name not in frozen}

    def load_state(self, folder: Path) -> None:
        """Restores what `save_state` wrote, so that training continues bit for bit.

        Raises InputError for a checkpoint of an adapter on another trunk.
        """
        state = load_state(folder / "state")
        if state.get("trunk") != self.trunk:
            raise InputError(f"the checkpoint {folder} is of an adapter on another model: remove it, and start anew")
        self.steps_done, self.kl_coef, self.baseline = state["steps_done"], state["kl_coef"], state.get("baseline")
        self.load_weights(state["models"])
        load_whole_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"][0])

    def save_models(self, folder: Path, merge: bool = False) -> None:
        """Writes the policy, or its moving average if there is one, and the value model, if any, in `value_model/`.

        Of a model with an adapter only that is written, unless `merge`.
        """
        policy = self.accelerator.unwrap_model(self.policy)
        save_model(self.saved_policy, folder, merge)
        if self.value_model is not None:
            trunk = {"policy": policy} if self.shares_trunk else {}
            value_model = cast(Any, self.accelerator.unwrap_model(self.value_model))
            value_model.save_pretrained(folder / "value_model", **trunk, merge=merge)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights of a model that are not frozen."""
    return [weight for weight in model.parameters() if weight.requires_grad]
