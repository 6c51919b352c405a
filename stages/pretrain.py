"""Pretraining: trains a tokenizer and a GPT-2 from scratch on plain text, or loads an existing causal language model.

make pretrain
"""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

from rlhf.models import load_policy, new_policy
from rlhf.rows import Row, Tally, read_rows
from rlhf.tokens import load_tokenizer, new_tokenizer, text_dataset
from stages.common.console import say
from stages.common.options import PretrainOptions
from stages.common.preview import say_tokens
from stages.common.stage import Stage, main
from stages.common.training import SavingSFTTrainer, in_batches, train, trainer_arguments


def work(options: PretrainOptions, stage: Stage) -> dict[str, Any]:
    """Writes the model and the tokenizer; returns the summary for the record."""
    if options.model:
        source = stage.model(options.model, "pretrain")
        tokenizer = load_tokenizer(source)
        policy = load_policy(source, tokenizer)
        say(f"{policy.num_parameters():,} parameters loaded from {source}; not trained")
        summary: dict[str, Any] = {}
    else:
        policy, tokenizer, summary = train_new(options, stage)
    policy.save_pretrained(stage.partial)
    tokenizer.save_pretrained(stage.partial)
    return summary


def train_new(
    options: PretrainOptions, stage: Stage
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """A new model and its tokenizer, trained on the run's text, and a summary for the record."""
    tally = Tally()
    rows = read_rows(stage.rows(options.text, "text.jsonl"), "text", tally)
    if options.tokenizer:
        tokenizer = load_tokenizer(stage.input(options.tokenizer))
    else:
        tokenizer = new_tokenizer((_text_of(row) for row in rows), options.vocab_size)
    dataset = text_dataset(rows, tokenizer, options.context, tally=tally)
    set_seed(options.seed)
    policy = new_policy(
        tokenizer, options.layers, options.width, options.heads, options.context, options.initializer_range
    )
    tokens = sum(dataset["length"][:])
    say(f"{tally}, {tokens:,} tokens; {policy.num_parameters():,} parameters, vocabulary {len(tokenizer):,}")
    first = dataset[0]["input_ids"]
    say(f"first document, {len(first):,} tokens, all learned:")
    say_tokens(tokenizer, first)

    arguments = trainer_arguments(SFTConfig, options, stage.partial)
    if options.packing:
        arguments.packing, arguments.packing_strategy, arguments.max_length = True, "wrapped", options.context
    trainer = SavingSFTTrainer(
        model=policy, args=arguments, train_dataset=in_batches(dataset, options), processing_class=tokenizer
    )
    history = train(trainer, stage, options)
    return policy, tokenizer, {"rows": tally.as_dict(), "tokens": tokens, "history": history}


def _text_of(row: Row) -> str:
    text = row["messages"] if "messages" in row else row["text"]
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


if __name__ == "__main__":
    main("pretrain", work)
