"""Pretraining: trains a tokenizer and a GPT-2 from scratch on plain text, or loads an existing causal language model.

make pretrain
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

from rlhf.engine import save_whole
from rlhf.models import load_policy, new_policy
from rlhf.rows import Row, Tally, read_rows
from rlhf.tokens import load_tokenizer, new_tokenizer, text_dataset
from stages.common.console import say
from stages.common.options import PretrainOptions
from stages.common.preview import say_tokens
from stages.common.stage import Stage, main
from stages.common.token_files import token_files
from stages.common.training import SavingSFTTrainer, new_trainer, train, trainer_arguments

# more text changes a vocabulary of some thousand tokens little, and takes a minute for each 200 MB
TOKENIZER_BYTES = 5 * 10**7


def work(options: PretrainOptions, stage: Stage) -> dict[str, Any]:
    """Writes the model and the tokenizer; returns the summary for the record."""
    if options.model:
        source = stage.model(options.model, "pretrain")
        tokenizer = load_tokenizer(source)
        policy = load_policy(source, tokenizer, warn=say)
        say(f"{policy.num_parameters():,} parameters loaded from {source}; not trained")
        summary: dict[str, Any] = {}
    else:
        policy, tokenizer, summary = train_new(options, stage)
    save_whole(policy, stage.partial)
    tokenizer.save_pretrained(stage.partial)
    return summary


def train_new(
    options: PretrainOptions, stage: Stage
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """A new model and its tokenizer, trained on the run's text, and a summary for the record."""
    arguments = trainer_arguments(SFTConfig, options, stage.partial)
    tally = Tally()
    path = stage.rows(options.text, "text.jsonl")
    rows = read_rows(path, "text", tally)
    if options.tokenizer:
        tokenizer = load_tokenizer(stage.input(options.tokenizer))
    else:
        tokenizer = new_tokenizer(tokenizer_text(rows, path), options.vocab_size)
    files = token_files(stage, path)
    dataset = text_dataset(rows, tokenizer, options.context, files, tally, options.packing)
    set_seed(options.seed)
    policy = new_policy(
        tokenizer, options.layers, options.width, options.heads, options.context, options.initializer_range
    )
    stage.check_saving(policy.save_pretrained, tokenizer.save_pretrained)
    tokens = int(dataset.data.column("length").to_numpy().sum())
    say(f"{tally}, {tokens:,} tokens; {policy.num_parameters():,} parameters, vocabulary {len(tokenizer):,}")
    first = dataset[0]["input_ids"]
    say(f"first document, {len(first):,} tokens, all learned:")
    say_tokens(tokenizer, first)

    if options.packing:
        arguments.packing, arguments.packing_strategy, arguments.max_length = True, "wrapped", options.context
        arguments.dataset_kwargs = None  # TRL packs the rows
    trainer = new_trainer(
        SavingSFTTrainer, options, model=policy, arguments=arguments, dataset=dataset, tokenizer=tokenizer
    )
    history = train(trainer, stage, options)
    return policy, tokenizer, {"rows": tally.as_dict(), "tokens": tokens, "history": history}


def tokenizer_text(rows: Sequence[Row], path: Path) -> Iterator[str]:
    """The text that a new tokenizer is trained on: all, or every n-th document of a file above TOKENIZER_BYTES."""
    step = -(-path.stat().st_size // TOKENIZER_BYTES)
    if step > 1:
        say(f"trains the tokenizer on one document in {step}")
    return (_text_of(rows[i]) for i in range(0, len(rows), max(step, 1)))


def _text_of(row: Row) -> str:
    text = row["messages"] if "messages" in row else row["text"]
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


if __name__ == "__main__":
    main("pretrain", work)
