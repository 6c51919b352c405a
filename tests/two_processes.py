"""One PPO step on a fixed batch, split between the processes; run by test_processes.py.

    python -m torch.distributed.run --nproc-per-node 2 -m tests.two_processes <file>

The first process writes the metrics and gradients of each model to the file. With ACCELERATE_USE_FSDP the models are
sharded.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from rlhf.engine import (
    clip_gradients,
    gathered,
    is_sharded,
    own_share,
    process_index,
    release,
    start_sharding,
)
from rlhf.rollout import Rollout, generate, score_responses
from rlhf.tokens import new_tokenizer, pad
from rlhf.trainer import PPOTrainer
from tests.conftest import VOCABULARY, tiny_gpt2, tiny_llama
from tests.trainers import PROMPTS, TEXT, make_trainer


def first_step(make, tokenizer, **options) -> tuple[PPOTrainer, dict]:
    """The trainer, and the metrics and gradients of its first step."""
    trainer = make_trainer(
        tokenizer, make, micro_batch_size=3, max_grad_norm=1e9, whiten_rewards=True, total_episodes=8, **options
    )
    gradients, step = [], trainer.optimizer.step

    def record():
        for model in trainer.trained_models():
            gradients.append(torch.cat([whole(p.grad).flatten() for p in model.parameters() if p.grad is not None]))
        step()

    trainer.collect = lambda number: fixed_rollout(trainer)
    trainer.optimizer.step = record
    metrics = next(trainer.train()).metrics
    return trainer, {"metrics": metrics, "gradients": [gradient.tolist() for gradient in gradients]}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or the whole of which the processes hold parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fixed_rollout(trainer: PPOTrainer) -> Rollout:
    """Eight responses, which do not depend on the number of processes; each process scores its share."""
    accelerator = trainer.accelerator
    prompt_index = torch.arange(8) // trainer.config.num_generations
    input_ids, attention_mask = pad([PROMPTS[i] for i in prompt_index], 1, "left")
    responses = generate(
        accelerator.unwrap_model(trainer.policy),
        input_ids,
        attention_mask,
        response_length=6,
        temperature=1.0,
        stop_ids=[0],
        pad_id=1,
        generator=torch.Generator().manual_seed(0),
    )
    responses.prompt_index = prompt_index
    rollout = score_responses(
        responses.select(own_share(8)),
        reference=trainer.reference,
        value_model=trainer.value_model,
        reward=trainer.reward,
        temperature=1.0,
        chunk=8,
    )
    return rollout.gathered(own_share(8), 8, pad_id=1)


def lengths_and_gradient(trainer: PPOTrainer) -> list[float]:
    """The longest response of each process, and the norm of a gradient that they then compute together.

    The responses of the main process end with their first token, and those of the others never.
    """
    ids = torch.tensor(PROMPTS[:1])
    stops = range(VOCABULARY) if process_index() == 0 else []
    responses = generate(
        trainer.accelerator.unwrap_model(trainer.policy),
        ids,
        torch.ones_like(ids),
        response_length=6,
        temperature=1.0,
        stop_ids=stops,
        pad_id=1,
    )
    trainer.text_loss(TEXT[:2])[0].backward()
    return [*gathered([responses.mask.shape[1]]), float(clip_gradients(trainer.policy, 1.0))]


def resumed_weights(tokenizer, folder: Path) -> list[list[float]]:
    """The policy's weights after three steps, and after one step, a checkpoint, and two steps of another trainer."""
    uninterrupted, first, second = (
        make_trainer(tokenizer, total_episodes=24, batch_size=8, dropout=0.1) for _ in range(3)
    )
    list(uninterrupted.train())
    next(first.train())
    folder.mkdir(exist_ok=True)
    first.save_state(folder)
    first.accelerator.wait_for_everyone()
    second.load_state(folder)
    list(second.train())
    return [weights_of(trainer) for trainer in (uninterrupted, second)]


def weights_of(trainer: PPOTrainer) -> list[float]:
    release(trainer.policy)
    return torch.cat([whole(p.detach()).flatten() for p in trainer.policy.parameters()]).tolist()


def main() -> None:
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        start_sharding(cpu=True, precision="no")
    tokenizer = new_tokenizer(["a fox and a dog . 1 2 3"] * 20, 400)
    file, results = Path(sys.argv[1]), {}
    for make in (tiny_gpt2, tiny_llama):
        trainer, results[make.__name__] = first_step(make, tokenizer)
    _, results["rloo"] = first_step(tiny_gpt2, tokenizer, advantage_estimator="rloo", num_generations=2)
    if not is_sharded(trainer.policy):
        _, results["lora"] = first_step(tiny_gpt2, tokenizer, lora_r=4)
    results["ended"] = lengths_and_gradient(trainer)
    results["whole"], results["resumed"] = resumed_weights(tokenizer, file.with_suffix(".state"))
    results["sharded"] = is_sharded(trainer.policy)
    results["processes"] = trainer.accelerator.num_processes
    if trainer.accelerator.is_main_process:
        file.write_text(json.dumps(results))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
