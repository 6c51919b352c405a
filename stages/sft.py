"""Supervised fine-tuning (SFT): trains the pretrained model on demonstrations.

The loss covers every reply of a chat, each with its stop token, but not the user's turns and the headers of turns. With
`last_reply_only` it covers only the completion.

    make sft
"""

from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

from rlhf.adapters.lora import save_model
from rlhf.models import context_length, load_trained, stop_token_ids
from rlhf.rows import Tally, read_rows
from rlhf.tokens import IGNORED, demonstration_dataset, load_tokenizer
from stages.common.console import say
from stages.common.options import SFTOptions
from stages.common.preview import say_if_too_long, say_tokens
from stages.common.stage import Stage, main
from stages.common.token_files import token_files
from stages.common.training import SavingSFTTrainer, length_remedy, new_trainer, row_limit, train, trainer_arguments


def work(options: SFTOptions, stage: Stage) -> dict[str, Any]:
    """Writes the model and the tokenizer; returns row counts and the log for the record."""
    arguments = trainer_arguments(SFTConfig, options, stage.partial)
    source = stage.model(options.model, "pretrain")
    tokenizer = load_tokenizer(source)
    set_seed(options.seed)
    policy = load_trained(source, tokenizer, options, warn=say)
    stage.check_saving(partial(save_model, policy), tokenizer.save_pretrained)
    tally = Tally()
    path = stage.rows(options.demonstrations, "demonstrations.jsonl")
    rows = read_rows(path, "demonstrations", tally)
    longest, stops = row_limit(options, context_length(policy)), stop_token_ids(policy, tokenizer)
    files = token_files(stage, path)
    dataset = demonstration_dataset(rows, tokenizer, longest, tally, stops, files, options.last_reply_only)
    say(f"{tally}, {options.epochs:g} epochs")
    say_if_too_long(tally, length_remedy(options, context_length(policy)))
    show(dataset, tokenizer)

    set_seed(options.seed)
    trainer = new_trainer(
        SavingSFTTrainer, options, model=policy, arguments=arguments, dataset=dataset, tokenizer=tokenizer
    )
    history = train(trainer, stage, options)
    save_model(policy, stage.partial, options.merge)
    tokenizer.save_pretrained(stage.partial)
    return {"rows": tally.as_dict(), "history": history}


def show(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prints the first row as the model sees it, and how many replies of all rows are not learned."""
    ids, learned = dataset[0]["input_ids"], [label != IGNORED for label in dataset[0]["labels"]]
    say(f"first row, {len(ids):,} tokens, {sum(learned):,} of them learned, in [[ ]]:")
    say_tokens(tokenizer, ids, learned)
    if missed := int(dataset.data.column("not_located").to_numpy().sum()):
        say(f"{missed:,} replies are not learned: the chat template changes them when other messages follow")


if __name__ == "__main__":
    main("sft", work)
