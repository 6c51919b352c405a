"""Supervised fine-tuning: the pretrained model learns to answer as the demonstrations do, and to stop.

The loss is that of the completion and its eos; the prompt is given.
"""

from dataclasses import dataclass

from transformers import set_seed
from trl import SFTConfig

from rlhf.config import option
from rlhf.data import Tally, demonstration_dataset, read_rows
from rlhf.models import context_length, load_policy, load_tokenizer, stop_token_ids
from stages.cli import Stage, main, say
from stages.training import SavingSFTTrainer, TrainingOptions, in_batches, train, trainer_arguments


@dataclass
class Options(TrainingOptions):
    model: str | None = option(None, "model to start from; the result of `make pretrain` if not given")
    demonstrations: str | None = option(
        None, "JSON Lines file of {prompt, completion}; what `make data` wrote if not given"
    )


def work(options: Options, stage: Stage) -> dict:
    source = stage.model(options.model, "pretrain")
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    tally = Tally()
    rows = read_rows(stage.rows(options.demonstrations, "demonstrations.jsonl"), "demonstrations", tally)
    longest, stops = options.longest(context_length(policy)), stop_token_ids(policy, tokenizer)
    dataset = demonstration_dataset(rows, tokenizer, longest, tally, stops)
    say("", f"{tally}, {options.epochs:g} epochs")

    set_seed(options.seed)
    arguments = trainer_arguments(SFTConfig, options, stage.folder)
    trainer = SavingSFTTrainer(
        model=policy, args=arguments, train_dataset=in_batches(dataset, options), processing_class=tokenizer
    )
    history = train(trainer, stage, options)
    policy.save_pretrained(stage.folder)
    tokenizer.save_pretrained(stage.folder)
    return {"rows": tally.as_dict(), "history": history}


if __name__ == "__main__":
    main("sft", Options, work)
