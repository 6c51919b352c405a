"""A language model fine-tuned on a supervised task, as GPT-1 was: inputs, the four heads, L2 and L3.

Radford et al. (2018), Improving Language Understanding by Generative Pre-Training. Equations 1 and 3 to 5:

    L1(U) = sum_i log P(u_i | u_1, ..., u_{i-1})                  the language model's objective
    P(y | x^1, ..., x^m) = softmax(h_l^m W_y)                     h_l^m: the last layer's state at the last token
    L2(C) = sum_(x,y) log P(y | x^1, ..., x^m)
    L3(C) = L2(C) + lambda L1(C)

Inputs (figure 1). A row becomes one or more sequences of tokens, whose last token is `extract`:

    classification    start text extract
    entailment        start premise delimiter hypothesis extract
    similarity        start text1 delimiter text2 extract, start text2 delimiter text1 extract; the two states are added
    choice            start context delimiter choice extract, for each choice; softmax over the choices' scores

The losses here are -L1, -L2 and -L3 with means in place of sums. Shapes: B rows with S sequences in all, of L tokens;
K choices; Y labels; W hidden width.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from rlhf import InputError
from rlhf.engine import hidden_states, next_token_logprobs, packed_index, selected_states, to_device
from rlhf.models import load_policy, save_as_classifier
from rlhf.rows import AS_TEXT, Row, Tally
from rlhf.rows.supervised import COLUMNS, Form
from rlhf.tokens import TOO_LONG, RefusedChat, own_batches, pad, plain_text_ids

TOKENS = ("<start>", "<delimiter>", "<extract>")
HEAD_STD = 0.02  # of the initial W_y, as in the paper's code


# --- inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Special:
    """The ids of the tokens around and between texts. Texts never contain them."""

    start: int
    delimiter: int
    extract: int

    def ids(self) -> tuple[int, int, int]:
        """All three."""
        return self.start, self.delimiter, self.extract


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Special:
    """Adds the three tokens to the tokenizer, in place; returns their ids."""
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    return Special(*cast(list[int], tokenizer.convert_tokens_to_ids(list(TOKENS))))


def texts_of(row: Row, form: Form) -> list[str]:
    """The texts of a row in the order of the layout: one, two, or a context and its K choices."""
    values = (row[column] for column in COLUMNS[form])
    return [text for value in values for text in (value if isinstance(value, list) else [value])]


def layout(form: Form, texts: Sequence[list[int]], special: Special) -> list[list[int]]:
    """The sequences of a row from the token ids of its texts, see `texts_of`: 1, or 2 for similarity, or K choices."""

    def sequence(*parts: list[int]) -> list[int]:
        ids = [special.start]
        for number, part in enumerate(parts):
            ids += [special.delimiter, *part] if number else part
        return [*ids, special.extract]

    if form == "similarity":
        return [sequence(*texts), sequence(*reversed(texts))]
    if form == "choice":
        return [sequence(texts[0], choice) for choice in texts[1:]]
    return [sequence(*texts)]


def task_dataset(
    rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally
) -> Dataset:
    """Rows with a `label` index as columns `sequences`, `label`, `length` of the longest sequence, and `row`.

    The tokenizer must have the special tokens. Rows with a sequence above `max_length` tokens are dropped and counted
    in `tally`; `row` is the index in `rows`. Raises InputError if none is left.
    """
    special = add_special_tokens(tokenizer)
    examples: list[Row] = []
    dropped: Counter[str] = Counter()
    for number, row in enumerate(rows):
        try:
            texts, as_text = plain_text_ids(tokenizer, texts_of(row, form))
        except RefusedChat as error:
            dropped[error.reason] += 1
            continue
        sequences = layout(form, texts, special)
        length = max(map(len, sequences))
        dropped += Counter({AS_TEXT: int(as_text)})
        if length > max_length:
            dropped[f"{TOO_LONG} {max_length} tokens"] += 1
        else:
            examples.append({"sequences": sequences, "label": row["label"], "length": length, "row": number})
    tally.drop(dropped)
    if not examples:
        raise InputError(f"no usable rows are left: {tally}")
    return Dataset.from_list(examples)


@dataclass
class TaskCollator:
    """Collates rows of `task_dataset` into one right-padded batch.

    `input_ids` and `attention_mask` are (S, L), sequences of one row after another; `counts` (B,) has their number in
    each row, `labels` (B,) the labels, and `text` (S, L) is True at tokens of texts, which L1 learns.
    """

    pad_token_id: int
    special: Special

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        sequences = [ids for example in examples for ids in example["sequences"]]
        input_ids, attention_mask = pad(sequences, self.pad_token_id, "right")
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "text": attention_mask.bool() & ~torch.isin(input_ids, torch.tensor(self.special.ids())),
            "counts": torch.tensor([len(example["sequences"]) for example in examples]),
            "labels": torch.tensor([example["label"] for example in examples]),
        }


# --- heads and losses -------------------------------------------------------------------------------------------------


def task_logits(form: Form, score: nn.Linear, states: Tensor, counts: Tensor) -> Tensor:
    """The logits (B, Y), for choices (B, K), from the states (S, W) at the last tokens of the sequences (equation 3).

    `counts` (B,) has the number of sequences of each row. A row with fewer than K choices has -inf at the end.
    """
    if form == "similarity":
        states = states.view(-1, 2, states.shape[1]).sum(dim=1)
    logits = score(states).float()
    if form != "choice":
        return logits
    return pad_sequence(logits.squeeze(1).split(counts.tolist()), batch_first=True, padding_value=-torch.inf)


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-L2: the mean over rows of -log P(label), in nats (equation 4). `logits` (B, Y), `labels` (B,)."""
    return cross_entropy(logits, labels)


def language_loss(logprobs: Tensor, text: Tensor) -> Tensor:
    """-L1: the mean over sequences of the mean -log P over the tokens of their texts, in nats (equation 1).

    `logprobs` has one entry for each True of `text` (S, L), row after row. Every sequence must have one.
    """
    sequence = text.nonzero()[:, 0]
    sums = logprobs.new_zeros(len(text)).index_add(0, sequence, logprobs)
    return -(sums / text.sum(dim=1)).mean()


def joint_loss(task: Tensor, language: Tensor, lm_coef: float) -> Tensor:
    """-L3 = -L2 - lambda L1 (equation 5)."""
    return task + lm_coef * language


def task_outputs(
    model: PreTrainedModel, form: Form, batch: dict[str, Tensor], with_language: bool
) -> tuple[Tensor, Tensor | None]:
    """The logits (B, Y) of a batch of `TaskCollator`, and -L1 if `with_language`; from one forward pass.

    The model is a language model with the linear head `score`. The context that choices share is computed once.
    """
    input_ids, attention_mask, counts = batch["input_ids"], batch["attention_mask"], batch["counts"]
    last = attention_mask.sum(dim=1).cumsum(dim=0) - 1
    first = (counts.cumsum(dim=0) - counts).repeat_interleave(counts) if form == "choice" else None
    score = cast(nn.Linear, model.score)
    if not with_language:
        states = hidden_states(model, input_ids, attention_mask, last, first)
        return task_logits(form, score, states, counts), None
    before = packed_index(batch["text"], attention_mask) - 1
    selected = selected_states(model, input_ids, attention_mask, torch.cat([before, last]), first)
    logits = task_logits(form, score, selected.hidden[len(before) :], counts)
    selected.index, selected.hidden = before, selected.hidden[: len(before)]
    return logits, language_loss(next_token_logprobs(selected, 1.0), batch["text"])


class TaskTrainer(Trainer):
    """transformers' Trainer with -L3 as its loss, for datasets made by `task_dataset`. Logs L2, L1 and the accuracy."""

    form: Form
    lm_coef: float  # lambda; at 0, L1 is not computed

    def __init__(self, *, processing_class: PreTrainedTokenizerBase, **kwargs: Any):
        special = add_special_tokens(processing_class)
        kwargs.setdefault("data_collator", TaskCollator(processing_class.pad_token_id, special))
        super().__init__(processing_class=processing_class, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean, which gradient accumulation must divide
        self._parts: list[dict[str, float]] = []

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, ["sequences", "label"])

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-L3, a scalar."""
        with self.accelerator.autocast():
            logits, language = task_outputs(cast(PreTrainedModel, model), self.form, inputs, self.lm_coef != 0)
        task, labels = task_loss(logits, inputs["labels"]), inputs["labels"]
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self._parts.append({"task_loss": task.item(), "accuracy": accuracy.item()})
        if language is not None:
            self._parts[-1]["language_loss"] = language.item()
        loss = task if language is None else joint_loss(task, language, self.lm_coef)
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss, as means since the last entry of the log."""
        if self._parts and "loss" in logs:
            names = self._parts[0]
            logs = {**logs, **{name: sum(part[name] for part in self._parts) / len(self._parts) for name in names}}
            self._parts = []
        super().log(logs, *args, **kwargs)


def predict(
    model: PreTrainedModel, form: Form, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64
) -> list[list[float]]:
    """The probabilities of the labels, or of the choices, of each row of a dataset."""
    collate = TaskCollator(cast(int, tokenizer.pad_token_id), add_special_tokens(tokenizer))
    device, result = next(cast(nn.Module, model).parameters()).device, [[0.0]] * len(dataset)
    with torch.no_grad():
        for rows in own_batches([sequences[0] for sequences in dataset["sequences"]], batch_size):
            examples = [dataset[i] for i in rows]
            batch = {name: to_device(value, device) for name, value in collate(examples).items()}
            probabilities = task_outputs(model, form, batch, False)[0].softmax(dim=1).cpu().tolist()
            for i, example, row in zip(rows, examples, probabilities, strict=True):
                result[i] = row[: len(example["sequences"])] if form == "choice" else row
    return result


# --- the model --------------------------------------------------------------------------------------------------------


def new_task_model(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    labels: int,
    layers: int | None = None,
    scratch: bool = False,
) -> PreTrainedModel:
    """The language model at `source` with a new linear head `score` of `labels` outputs, without bias.

    Its embeddings and its first `layers` layers are those at `source`, by default all; the others are drawn anew, and
    the final norm too. With `scratch` all weights are. The embeddings of the special tokens always are. Raises
    InputError if the model has fewer layers.
    """
    special = add_special_tokens(tokenizer)
    model = load_policy(source, tokenizer)
    config = model.config.get_text_config()
    if scratch or layers is not None:
        _reinitialise(model, 0 if layers is None else layers, scratch)
    embedding = cast(nn.Embedding, model.get_input_embeddings()).weight
    std = embedding.data.std()
    for token in special.ids():
        nn.init.normal_(embedding.data[token], std=float(std))
    score = nn.Linear(cast(int, config.hidden_size), labels, bias=False)
    nn.init.normal_(score.weight, std=HEAD_STD)
    model.score = score
    model.config.num_labels = labels
    return model


def layer_count(model: PreTrainedModel) -> int:
    """The number of transformer layers."""
    return int(model.config.get_text_config().num_hidden_layers)


def _reinitialise(model: PreTrainedModel, layers: int, scratch: bool) -> None:
    """Draws new weights, in place, for all but the embeddings and the first `layers` layers; with `scratch` for all."""
    count = layer_count(model)
    if not scratch and layers == count:
        return
    if layers > count:
        raise InputError(f"layers is {layers}, and the model has {count}: lower it")
    stacks = [
        name
        for name, part in cast(nn.Module, model).named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(stacks) != 1 and not scratch:
        raise InputError(f"can't tell the layers of {type(model).__name__} apart: leave layers out")
    modules = {id(part): name for name, part in cast(nn.Module, model).named_modules(remove_duplicate=False)}
    kept = [name for name, part in cast(nn.Module, model).named_modules() if isinstance(part, nn.Embedding)]
    kept += [modules[id(head)]] if (head := model.get_output_embeddings()) is not None else []
    kept += [f"{stacks[0]}.{i}" for i in range(layers)] if not scratch else []
    fresh = AutoModelForCausalLM.from_config(model.config).state_dict()
    state = model.state_dict()
    for name, weight in fresh.items():
        if scratch or not name.startswith(tuple(f"{prefix}." for prefix in kept)):
            state[name] = weight
    model.load_state_dict(state)


def save_task_model(model: PreTrainedModel, folder: str | Path, form: Form, names: Sequence[str]) -> None:
    """Saves trunk and head as a sequence classifier, which AutoModelForSequenceClassification loads.

    `names` are those of the labels; for choices there is one score. Its logits at the last token are, for
    classification and entailment, those of the task. For similarity those of the two orders are to be added. For
    choices the scores of a row's sequences are the logits. config.json names the form, `task_form`.
    """
    save_as_classifier(model, folder, names, task_form=form)
