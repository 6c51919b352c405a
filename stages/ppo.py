"""PPO-ptx: the SFT model learns to please the reward model, held back by a KL penalty and by pretraining text."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from rlhf import report
from rlhf.config import PPOConfig, option
from rlhf.data import Row, Tally, prompt_dataset, read_jsonl, read_rows, text_dataset
from rlhf.errors import InputError
from rlhf.health import Diverged
from rlhf.models import (
    ValueHead,
    context_length,
    device,
    frozen,
    load_policy,
    load_scorer,
    load_tokenizer,
    room_for_prompt,
    same_words,
    zero_scorer,
)
from rlhf.rollout import Rollout
from rlhf.scoring import last_token_scores, load_function, text_scores
from rlhf.trainer import PPOTrainer, shuffled
from stages.cli import Stage, main, say, write_rows
from stages.options import SavingOptions
from stages.progress import INDENT, ProgressBar
from stages.saving import Saver

LOG = "log.jsonl"


@dataclass
class Options(PPOConfig, SavingOptions):
    model: str | None = option(None, "policy to start from, and reference; the result of `make sft` if not given")
    reward_model: str | None = option(
        None,
        "reward model, and start of the value model; the result of `make reward` if neither it nor a function is given",
    )
    reward_function: str | None = option(
        None,
        "a Python function, module:function, whose numbers are the score; the value model then starts from the policy, or from a reward_model that is named",
    )
    prompts: str | None = option(None, "JSON Lines file of {prompt}; what `make data` wrote if not given")
    text: str | None = option(
        None, "JSON Lines file of {text} for the pretraining mix; what `make data` wrote if not given"
    )
    gold: str | None = option(
        None, "a Python function, module:function, that knows true quality; it is shown, and not learned from"
    )
    show_samples: int = option(10, "steps between completions that are shown; 0 for none")
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that Accelerate knows")

    def __post_init__(self):
        PPOConfig.__post_init__(self)
        SavingOptions.__post_init__(self)


def work(options: Options, stage: Stage) -> dict:
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    policy, reference = load_policy(source, tokenizer), load_policy(source, tokenizer)
    set_seed(options.seed)
    reward_source = None
    if options.reward_model or not options.reward_function:
        reward_source = stage.model(options.reward_model, "reward")
        check_tokens(tokenizer, reward_source)
    value_model = new_value_model(options, policy, tokenizer, source, reward_source)

    tally = Tally()
    rows = read_rows(stage.rows(options.prompts, "prompts.jsonl"), "prompts", tally)
    prompts = prompt_dataset(rows, tokenizer, room_for_prompt(policy, options.response_length), tally)
    rows = [rows[i] for i in prompts["row"]]
    text = []
    if options.ptx_coef:
        text = pretraining_text(stage.rows(options.text, "text.jsonl"), options, tokenizer, context_length(policy))
    say(
        "",
        f"{tally} as prompts, {len(text):,} pieces of pretraining text; {options.steps} steps of {options.batch_size}",
    )

    accelerator = Accelerator(
        cpu=device().type == "cpu",
        mixed_precision="bf16" if options.bf16 else "no",
        log_with=options.log_with,
        project_dir=stage.folder,
    )
    if options.reward_function:
        reward = partial(text_scores, load_function(options.reward_function), tokenizer, rows)
    else:
        reward = partial(last_token_scores, frozen(load_scorer(reward_source, tokenizer), accelerator))
    trainer = PPOTrainer(
        options,
        policy=policy,
        reference=reference,
        value_model=value_model,
        reward=reward,
        tokenizer=tokenizer,
        prompts=prompts["input_ids"],
        text=text,
        judge=partial(text_scores, load_function(options.gold), tokenizer, rows) if options.gold else None,
        accelerator=accelerator,
    )
    try:
        history = run(trainer, options, stage, rows, tokenizer)
    except Diverged as error:
        path = stage.keep_batch(error.step, responses(error.rollout, rows, tokenizer))
        raise InputError(f"{error}. The batch that did it is in {path}") from error
    trainer.save(stage.folder)
    tokenizer.save_pretrained(stage.folder)
    report.draw_training(history, stage.folder / "ppo.png")
    return {"rows": tally.as_dict(), "metrics": history[-1]}


def check_tokens(tokenizer: PreTrainedTokenizerBase, reward_source: str) -> None:
    """Raises InputError where a reward model has another tokenizer than the policy, whose ids it reads."""
    try:
        its_own = load_tokenizer(reward_source)
    except InputError:
        return  # a folder with nothing but the model
    if not same_words(tokenizer, its_own):
        raise InputError(f"{reward_source} has another tokenizer than the policy, whose tokens it would read")


def new_value_model(
    config: PPOConfig,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | Path,
    reward_source: str | Path | None,
) -> nn.Module | None:
    """What the estimator of advantages wants: a copy of the reward model, or of the policy (with a head that says 0) where
    there is none, a head on the policy's trunk, or nothing."""
    if config.advantage_estimator == "rloo":
        return None
    if config.share_trunk:
        return ValueHead(policy.config.get_text_config().hidden_size)
    return load_scorer(reward_source, tokenizer) if reward_source else zero_scorer(source, tokenizer)


def pretraining_text(path: Path, config: PPOConfig, tokenizer, max_length: int) -> Sequence[list[int]]:
    """The token ids of documents for the mix: of those in a file as many as there is time for, the rest is not tokenised."""
    documents = read_rows(path, "text")
    needed = config.steps * config.updates_per_step * config.ptx_batch_size
    # 5: the trainer draws with 1 to 4
    order = shuffled(len(documents), 0, min(needed, len(documents)), (config.seed, 5))
    return text_dataset([documents[i] for i in order], tokenizer, max_length)["input_ids"]


def run(trainer: PPOTrainer, options: Options, stage: Stage, rows: list[Row], tokenizer) -> list[dict[str, float]]:
    """All steps that are left, with a line for each on the screen and in log.jsonl; returns the metrics of all."""
    saver, history = Saver(stage, options), []
    with saver.going_on() as checkpoint:
        if checkpoint:
            trainer.load_state(checkpoint)
            history = [row for _, row in read_jsonl(checkpoint / LOG)]
    if options.log_with:
        trainer.accelerator.init_trackers(f"{stage.run.name}-{stage.name}")
        for metrics in history:
            trainer.accelerator.log(metrics, metrics["step"])

    def save(folder: Path) -> None:
        trainer.save_state(folder)
        trainer.save(folder)  # a model that loads, to look at or to start from
        tokenizer.save_pretrained(folder)
        write_rows(folder / LOG, history)

    begun, started = len(history), time.time()
    bar = ProgressBar(options.steps, done=begun)
    write_rows(stage.folder / LOG, history)
    with open(stage.folder / LOG, "a", encoding="utf-8") as log, saver:
        for step in trainer.train():
            seconds, started = time.time() - started, time.time()
            metrics = {"step": step.number, **step.metrics, "episodes_per_second": options.batch_size / seconds}
            if step.number == begun + 1:
                bar.write(f"{INDENT}{trainer.checked}")
            if step.number == begun + 1 or step.number % 20 == 1:
                bar.write(INDENT + "".join(f"{name:>9}" for name in _columns(metrics)))
            bar.write(INDENT + "".join(f"{number:9.{digits}f}" for number, digits in _columns(metrics).values()))
            if options.show_samples and (step.number == 1 or step.number % options.show_samples == 0):
                bar.write(samples(step.rollout, rows, tokenizer))
            bar.update()
            history.append(metrics)
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            trainer.accelerator.log(metrics, step.number)
            if saver.asked_to_stop or saver.due(step.number):
                saver.save(step.number, save)
            if saver.asked_to_stop and step.number < options.steps:
                saver.stop(step.number)
    bar.close()
    trainer.accelerator.end_training()
    return history


def _columns(metrics: dict[str, float]) -> dict[str, tuple[float, int]]:
    """What is shown of a step: heading -> (number, digits)."""
    shown = {
        "step": ("step", 0),
        "score": ("score", 2),
        "gold": ("gold", 2),
        "kl": ("KL", 2),
        "entropy": ("entropy", 2),
        "ptx_loss": ("ptx loss", 3),
        "length": ("length", 1),
        "ended": ("ended", 3),
        "episodes_per_second": ("ep/s", 1),
    }
    return {heading: (metrics[name], digits) for name, (heading, digits) in shown.items() if name in metrics}


def responses(rollout: Rollout, rows: list[Row], tokenizer) -> list[Row]:
    """Each response with all that is known of it, its numbers as text, since JSON has no NaN."""
    found = []
    for i in range(len(rollout.mask)):
        ids = rollout.tokens[i][rollout.mask[i]]
        numbers = {name: getattr(rollout, name)[i][rollout.mask[i]] for name in ("logprobs", "ref_logprobs", "values")}
        found.append(
            {
                "prompt": rows[rollout.source[i]]["prompt"],
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "ended": bool(rollout.ended[i]),
                "score": f"{rollout.scores[i]:.4g}",
                "kl": f"{rollout.kls[i]:.4g}",
                **{name: " ".join(f"{number:.4g}" for number in tensor) for name, tensor in numbers.items()},
            }
        )
    return found


def samples(rollout: Rollout, rows: list[Row], tokenizer, count: int = 2) -> str:
    """A few of a step's responses, each with its score and its KL to the reference."""
    lines, kls = [], rollout.kls
    for i in range(min(count, len(kls))):
        prompt = rows[rollout.source[i]]["prompt"]
        words = tokenizer.decode(rollout.tokens[i][rollout.mask[i]], skip_special_tokens=True)
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        lines += [*asked.split("\n"), words.strip(), f"(score {rollout.scores[i]:.2f}, KL {kls[i]:.2f})", ""]
    return "\n".join(f"{INDENT}  | {line}" for line in ["", *lines])


if __name__ == "__main__":
    main("ppo", Options, work)
