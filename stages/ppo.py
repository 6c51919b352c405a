"""PPO-ptx: the SFT model is trained to raise the reward, with a KL penalty and a mix of pretraining text.

make ppo
make ppo ARGS="--kl_coef 0.1"
make ppo ARGS="--reward_function my_module:my_reward"
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from rlhf import InputError, report
from rlhf.classifiers import Scorer
from rlhf.config import PPOConfig
from rlhf.models import context_length, device, load_scorer, max_prompt_length
from rlhf.rollout import Responses
from rlhf.rows import Row, Subset, Tally, read_lines, read_rows
from rlhf.run.health import Diverged
from rlhf.run.placement import distributed, freeze
from rlhf.run.randomness import shuffled
from rlhf.scoring import RewardFunctions, RewardModel, reads_token_ids, reward_model_scores, text_scores
from rlhf.tokens import TokenFiles, load_tokenizer, prompt_dataset, text_dataset, tokenised_text
from rlhf.trainer import PPOTrainer
from stages.common.console import say, show_output
from stages.common.held_out import HeldOut
from stages.common.needs import say_ppo_needs
from stages.common.options import PPOOptions
from stages.common.parsing import is_function, split_label
from stages.common.ppo_log import response_rows, train_and_log
from stages.common.ppo_models import load_models
from stages.common.preview import say_if_too_long, say_tokens
from stages.common.rewards import load_reward
from stages.common.run import INPUT
from stages.common.stage import Stage, main
from stages.common.token_files import token_files


def work(options: PPOOptions, stage: Stage) -> dict[str, Any]:
    """Writes the policy, the value model, log.jsonl and ppo.png; returns the last metrics for the record."""
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    accelerator = make_accelerator(options, stage)
    set_seed(options.seed)
    reward_source = reward_model_source(options, stage)
    shared = reward_source is not None and reads_token_ids(reward_source, tokenizer)
    models = load_models(options, accelerator, tokenizer, source, reward_source if shared else None)
    rows, prompts, tally = read_prompts(options, stage, models.policy, tokenizer)
    text = read_text(options, stage, models.policy, tokenizer)
    show(options, prompts[0], tally, len(text), tokenizer)

    trainer = PPOTrainer(
        options,
        policy=models.policy,
        reference=models.reference,
        value_model=models.value_model,
        reward=make_reward(options, accelerator, tokenizer, reward_source, shared, rows, models.scorer),
        tokenizer=tokenizer,
        prompts=prompts,
        text=text,
        functions=reward_functions(options, stage, accelerator, tokenizer, rows),
        gold=gold_function(options.gold, stage, accelerator, tokenizer, rows) if options.gold else None,
        accelerator=accelerator,
    )
    held_out = make_held_out(options, stage, trainer, tokenizer) if options.eval_steps else None
    say_ppo_needs(trainer)
    stage.check_saving(trainer.save_models, tokenizer.save_pretrained)
    try:
        history = train_and_log(trainer, options, stage, rows, tokenizer, held_out)
    except Diverged as error:
        path = stage.keep_batch(error.step, response_rows(error.rollout, rows, tokenizer))
        raise InputError(f"{error}. The batch is in {path}") from error
    kept = {"kept": held_out.restore_best()} if held_out and options.keep == "best" else {}
    trainer.save_models(stage.partial, options.merge)
    tokenizer.save_pretrained(stage.partial)
    report.draw_training(history, stage.partial / "ppo.png")
    return {"rows": tally.as_dict(), "metrics": history[-1], **kept}


def read_text(
    options: PPOOptions, stage: Stage, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Sequence[list[int]]:
    """The token ids of the documents of the pretraining mix; none without a mix."""
    if not options.ptx_coef:
        return []
    path = stage.rows(options.text, "text.jsonl")
    return pretraining_text(path, options, tokenizer, context_length(policy), token_files(stage, path))


def make_held_out(
    options: PPOOptions, stage: Stage, trainer: PPOTrainer, tokenizer: PreTrainedTokenizerBase
) -> HeldOut:
    """The evaluation on held-out prompts and text. Raises InputError if there are no held-out prompts."""
    path = stage.rows(options.eval_prompts, "prompts_validation.jsonl") if options.eval_prompts else None
    path = path or stage.input(f"{INPUT}data/prompts_validation.jsonl")
    if not path.is_file() or not any(read_lines(path)):
        raise InputError(
            f"eval_steps needs held-out prompts, and {path} has none: set validation_rows under data, or eval_prompts"
        )
    tally, policy = Tally(), trainer.saved_policy
    rows = read_rows(path, "prompts", tally)[: options.eval_count]
    dataset = prompt_dataset(rows, tokenizer, max_prompt_length(policy, options.response_length), tally)
    say(f"held-out prompts: {tally}; an evaluation every {options.eval_steps} steps")
    text, documents = stage.input(f"{INPUT}data/text_test.jsonl"), []
    if text.is_file() and any(read_lines(text)):
        documents = text_dataset(read_rows(text, "text")[: options.eval_count], tokenizer, context_length(policy))
        documents = documents["input_ids"]
    return HeldOut(options, trainer, [rows[i] for i in dataset["row"]], dataset["input_ids"], documents)


def show(options: PPOOptions, prompt: list[int], tally: Tally, pieces: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prints what PPO trains on, a prompt as the model sees it, and a hint if most prompts are too long."""
    schedule = f"{options.steps} steps of {options.batch_size} responses"
    say(f"prompts: {tally}; {pieces:,} pieces of pretraining text; {schedule}")
    say_if_too_long(tally, "lower response_length, or take a model with a longer context")
    say(f"first prompt, {len(prompt):,} tokens; the model generates [[response]]:")
    say_tokens(tokenizer, prompt, after="[[response]]")


def make_accelerator(options: PPOOptions, stage: Stage) -> Accelerator:
    """An Accelerator with the device, precision and tracker of the options."""
    return Accelerator(
        cpu=device().type == "cpu",
        mixed_precision=options.mixed_precision,
        log_with=options.log_with,
        project_dir=stage.partial,
    )


def reward_model_source(options: PPOOptions, stage: Stage) -> str | None:
    """The folder or hub id of the reward model; None if reward functions take its place and none is named."""
    if options.reward_model:
        return stage.model(split_label(options.reward_model)[0], "reward")
    return stage.model(None, "reward") if options.uses_reward_model else None


def read_prompts(
    options: PPOOptions, stage: Stage, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[Sequence[Row], Sequence[list[int]], Tally]:
    """The prompts that leave room for a response, as rows and as token ids, and the tally of dropped ones."""
    tally = Tally()
    path = stage.rows(options.prompts, "prompts.jsonl")
    rows = read_rows(path, "prompts", tally)
    longest = max_prompt_length(policy, options.response_length)
    dataset = prompt_dataset(rows, tokenizer, longest, tally, token_files(stage, path))
    return Subset(rows, dataset.data.column("row").to_numpy()), dataset["input_ids"], tally


def pretraining_text(
    path: Path,
    config: PPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    files: TokenFiles | None = None,
) -> Sequence[list[int]]:
    """The token ids of as many random documents as the mix needs.

    They are those of pretraining, if it has tokenised the same text; otherwise only these documents are tokenised.
    """
    needed = config.steps * config.updates_per_step * config.ptx_batch_size

    def order(count: int) -> list[int]:
        # random stream 5, because the trainer uses 1 to 4
        return shuffled(count, 0, min(needed, count), (config.seed, 5))

    if files and (tokenised := tokenised_text(tokenizer, max_length, files)):
        dataset, count = tokenised
        row = dataset.data.column("row").to_numpy()
        ends = zip(*(np.searchsorted(row, order(count), side) for side in ("left", "right")), strict=True)
        return dataset.select(np.concatenate([np.arange(first, last) for first, last in ends]))["input_ids"]
    documents = read_rows(path, "text")
    chosen = Subset(documents, order(len(documents)))
    tally = Tally(used=len(chosen))
    dataset = text_dataset(chosen, tokenizer, max_length, tally=tally)
    if tally.dropped or tally.as_text:
        say(f"pretraining text: {tally}")
    return dataset["input_ids"]


def make_reward(
    options: PPOOptions,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None,
    shared: bool,
    rows: Sequence[Row],
    scorer: Scorer | None = None,
) -> Callable[[Responses], Tensor] | None:
    """The frozen reward model as a function from responses to scores (B,); None if reward functions take its place.

    It reads text, with its own tokenizer, unless `shared`. `scorer` is the model, if it is loaded already.
    """
    if source is None or not options.uses_reward_model:
        return None
    if shared:
        return partial(reward_model_scores, distributed(freeze(scorer or load_scorer(source, tokenizer), accelerator)))
    _, label = split_label(options.labelled_reward_model or source)
    model = RewardModel(source, label, accelerator)
    model.check(rows)
    say(f"{source} reads the text of responses with its own tokenizer; the value model starts from the policy")
    return partial(text_scores, model, tokenizer=tokenizer, rows=rows)


def reward_functions(
    options: PPOOptions,
    stage: Stage,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
) -> RewardFunctions | None:
    """The reward functions of the options, None if there are none.

    Each has the name rewards/function, or rewards/module:function if two functions have the same name.
    """
    named = options.named_functions
    short = [name.partition(":")[2] if is_function(name) else Path(name).name for name in named]
    names = [f"rewards/{name if short.count(one) > 1 else one}" for name, one in zip(named, short, strict=True)]
    functions = {key: load_reward(name, stage, rows, accelerator) for key, name in zip(names, named, strict=True)}
    if not functions:
        return None
    return RewardFunctions(
        functions,
        tokenizer,
        rows,
        weights=options.reward_weights,
        model_weight=1.0 if options.reward_model_weight is None else options.reward_model_weight,
        keep_special_tokens=options.keep_special_tokens,
        show=show_output,
    )


def gold_function(
    name: str, stage: Stage, accelerator: Accelerator, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]
) -> RewardFunctions:
    """The gold function, whose criteria are logged as gold/criterion."""
    return RewardFunctions({"gold": load_reward(name, stage, rows, accelerator)}, tokenizer, rows, show=show_output)


if __name__ == "__main__":
    main("ppo", work)
