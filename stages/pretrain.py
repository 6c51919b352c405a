"""A GPT-2 from scratch on plain text, with a tokenizer of its own; or any causal language model, loaded as it is."""

from dataclasses import dataclass

from transformers import set_seed
from trl import SFTConfig

from rlhf.config import option
from rlhf.data import Tally, read_rows, text_dataset
from rlhf.models import load_policy, load_tokenizer, new_policy, new_tokenizer
from stages.cli import Stage, main, say
from stages.training import SavingSFTTrainer, TrainingOptions, in_batches, train, trainer_arguments


@dataclass
class Options(TrainingOptions):
    model: str | None = option(None, "load this model (a folder or a hub id) instead; then nothing is trained")
    text: str | None = option(None, "JSON Lines file of {text}; what `make data` wrote if not given")
    tokenizer: str | None = option(
        None, "give the new model this tokenizer (a folder or a hub id) instead of one trained on the text"
    )
    vocab_size: int = option(2048, "tokens of the new tokenizer, at most")
    layers: int = option(3, "transformer blocks of the new model")
    width: int = option(128, "its hidden size")
    heads: int = option(8, "its attention heads")
    context: int = option(128, "its context in tokens; longer documents are cut into pieces")
    initializer_range: float = option(0.1, "spread of its first weights (GPT-2: 0.02, too small for narrow models)")
    packing: bool = option(False, "fill rows with several documents, for many short ones in a long context")


def work(options: Options, stage: Stage) -> dict:
    if options.model:
        tokenizer = load_tokenizer(options.model)
        policy = load_policy(options.model, tokenizer)
        say("", f"{policy.num_parameters():,} parameters loaded from {options.model}, nothing to train")
        summary = {}
    else:
        policy, tokenizer, summary = from_scratch(options, stage)
    policy.save_pretrained(stage.folder)
    tokenizer.save_pretrained(stage.folder)
    return summary


def from_scratch(options: Options, stage: Stage):
    """A new model and a new tokenizer, trained on the run's text."""
    tally = Tally()
    rows = read_rows(stage.rows(options.text, "text.jsonl"), "text", tally)
    if options.tokenizer:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        tokenizer = new_tokenizer((_words(row) for row in rows), options.vocab_size)
    dataset = text_dataset(rows, tokenizer, options.context)
    set_seed(options.seed)
    policy = new_policy(
        tokenizer, options.layers, options.width, options.heads, options.context, options.initializer_range
    )
    tokens = sum(dataset["length"][:])
    say("", f"{tally}, {tokens:,} tokens; {policy.num_parameters():,} parameters, vocabulary {len(tokenizer):,}")

    arguments = trainer_arguments(SFTConfig, options, stage.folder)
    if options.packing:
        arguments.packing, arguments.packing_strategy, arguments.max_length = True, "wrapped", options.context
    trainer = SavingSFTTrainer(
        model=policy, args=arguments, train_dataset=in_batches(dataset, options), processing_class=tokenizer
    )
    history = train(trainer, stage, options)
    return policy, tokenizer, {"rows": tally.as_dict(), "tokens": tokens, "history": history}


def _words(row: dict) -> str:
    text = row["messages"] if "messages" in row else row["text"]
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


if __name__ == "__main__":
    main("pretrain", Options, work)
