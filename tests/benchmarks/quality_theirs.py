"""TRL 1.12's side of the time to a given quality: its PPOTrainer on the same models and prompts, nothing of ours."""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from tests.benchmarks.quality import Clock


class Ends(TrainerCallback):
    """Tells the clock of each step's end."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, args, state, control, **kwargs):
        self.clock.step(state.global_step)


def scorer(folder: Path):
    """The reward model with the normalisation that is kept in its configuration as part of its last layer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    mean, std = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_std", 1.0)
    head = torch.nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight / std)
        head.bias.fill_(-mean / std)
    model.score = head
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--worker", nargs=2)
    given = parser.parse_args()
    run, folder, changed = given.run, Path(given.worker[0]), json.loads(given.worker[1])
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(run / "sft", padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(run / "sft", dtype=torch.float32) for _ in range(2))
    rows = [json.loads(line)["prompt"] for line in (run / "data/prompts.jsonl").read_text().splitlines()]
    prompts = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in rows]
    settings = {
        "vf_coef": 0.5, "adam_beta2": 0.95, "adam_epsilon": 1e-5, "max_grad_norm": 1.0, **changed
    }  # fmt: skip
    config = PPOConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=128, gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=128, response_length=64, temperature=1.0, stop_token="eos",
        missing_eos_penalty=1.0, gamma=1.0, lam=0.95, cliprange=0.2, cliprange_value=0.2, num_sample_generations=0,
        gradient_checkpointing=False, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
        **settings,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=scorer(run / "reward"),
        value_model=scorer(run / "reward"), train_dataset=Dataset.from_list(prompts),
        eval_dataset=Dataset.from_list(prompts[:1]),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Ends(Clock(folder, policy)))
    trainer.train()


if __name__ == "__main__":
    main()
