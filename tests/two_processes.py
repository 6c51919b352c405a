"""One PPO step on a fixed batch, its rows shared by however many processes there are; run by test_processes.py.

    python -m torch.distributed.run --nproc-per-node 2 -m tests.two_processes <file>

The first process writes what came out for each model: the metrics, and the gradients.
"""

import json
import sys
from pathlib import Path

import torch

from rlhf.data import pad
from rlhf.models import new_tokenizer
from rlhf.rollout import Responses, generate, score
from rlhf.trainer import PPOTrainer
from tests.conftest import tiny_gpt2, tiny_llama
from tests.test_trainer import PROMPTS, make_trainer, weights


def first_step(make, tokenizer, **options) -> tuple[PPOTrainer, dict]:
    """The trainer, and the metrics and gradients of its first step."""
    trainer = make_trainer(
        tokenizer, make, micro_batch_size=3, max_grad_norm=1e9, whiten_rewards=True, total_episodes=8, **options
    )
    accelerator = trainer.accelerator
    rank, processes = accelerator.process_index, accelerator.num_processes
    share = 8 // processes
    rows = slice(rank * share, (rank + 1) * share)

    def collect(step: int):
        """The same eight responses however many processes there are, each process its own part of them."""
        source = torch.arange(8) // trainer.config.num_generations
        input_ids, attention_mask = pad([PROMPTS[i] for i in source], 1, "left")
        policy = accelerator.unwrap_model(trainer.policy)
        generator = torch.Generator().manual_seed(0)
        options = {"response_length": 6, "temperature": 1.0, "stop_ids": [0], "pad_id": 1, "generator": generator}
        responses: Responses = generate(policy, input_ids, attention_mask, **options)
        responses.source = source
        part = responses.select(rows)
        models = {"reference": trainer.reference, "value_model": trainer.value_model}
        return score(part, **models, reward=trainer.reward, temperature=1.0, chunk=8)

    gradients, step = [], trainer.optimizer.step

    def look():
        for model in trainer.trained():
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        step()

    trainer.collect, trainer.optimizer.step = collect, look
    metrics = next(trainer.train()).metrics
    return trainer, {"metrics": metrics, "gradients": [g.tolist() for g in gradients]}


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = new_tokenizer(["a fox and a dog . 1 2 3"] * 20, 400)
    file, found = Path(sys.argv[1]), {}
    for make in (tiny_gpt2, tiny_llama):
        trainer, found[make.__name__] = first_step(make, tokenizer)
    _, found["rloo"] = first_step(tiny_gpt2, tokenizer, advantage_estimator="rloo", num_generations=2)
    found["whole"], found["resumed"] = weights_whole_and_resumed(tokenizer, file.with_suffix(".state"))
    found["processes"] = trainer.accelerator.num_processes
    if trainer.accelerator.is_main_process:
        file.write_text(json.dumps(found))
    trainer.accelerator.end_training()


def weights_whole_and_resumed(tokenizer, folder: Path) -> tuple[list[float], list[float]]:
    """The policy's weights after three steps, and after one step, a checkpoint, and two more by another trainer."""

    def trainer():
        return make_trainer(tokenizer, total_episodes=24, batch_size=8, dropout=0.1)

    whole, first, second = trainer(), trainer(), trainer()
    list(whole.train())
    next(first.train())
    folder.mkdir(exist_ok=True)
    first.save_state(folder)
    first.accelerator.wait_for_everyone()
    second.load_state(folder)
    list(second.train())
    return weights(whole.policy).tolist(), weights(second.policy).tolist()


if __name__ == "__main__":
    main()
