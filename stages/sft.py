"""Supervised fine-tuning (SFT): trains the pretrained model on demonstrations.

The loss covers the completion and its eos, but not the prompt.

    make sft
"""

from typing import Any

from transformers import set_seed
from trl import SFTConfig

from rlhf.models import context_length, load_policy, stop_token_ids
from rlhf.rows import Tally, read_rows
from rlhf.tokens import demonstration_dataset, load_tokenizer
from stages.common.console import say
from stages.common.options import SFTOptions
from stages.common.stage import Stage, main
from stages.common.token_files import token_files
from stages.common.training import SavingSFTTrainer, new_trainer, row_limit, train, trainer_arguments


def work(options: SFTOptions, stage: Stage) -> dict[str, Any]:
    """Writes the model and the tokenizer; returns row counts and the log for the record."""
    arguments = trainer_arguments(SFTConfig, options, stage.partial)
    source = stage.model(options.model, "pretrain")
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    tally = Tally()
    path = stage.rows(options.demonstrations, "demonstrations.jsonl")
    rows = read_rows(path, "demonstrations", tally)
    longest, stops = row_limit(options, context_length(policy)), stop_token_ids(policy, tokenizer)
    dataset = demonstration_dataset(rows, tokenizer, longest, tally, stops, token_files(stage, path))
    say(f"{tally}, {options.epochs:g} epochs")

    set_seed(options.seed)
    trainer = new_trainer(
        SavingSFTTrainer, options, model=policy, arguments=arguments, dataset=dataset, tokenizer=tokenizer
    )
    history = train(trainer, stage, options)
    policy.save_pretrained(stage.partial)
    tokenizer.save_pretrained(stage.partial)
    return {"rows": tally.as_dict(), "history": history}


if __name__ == "__main__":
    main("sft", work)
