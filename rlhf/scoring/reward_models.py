"""Reward models as published: sequence classifiers with a tokenizer, a chat template and labels of their own.

A `RewardModel` is called like a reward function of TRL: it reads prompts and completions as text, so it need not share
the policy's tokenizer.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf import InputError, first_line
from rlhf.classifiers import Scorer, classifier_config, is_decoder
from rlhf.models import context_length, device, load_classifier
from rlhf.option import did_you_mean
from rlhf.rows import Row, Text
from rlhf.run.placement import freeze
from rlhf.tokens import (
    PLAIN_CHAT_TEMPLATE,
    RefusedChat,
    load_tokenizer,
    pad,
    render_chat,
    same_vocabulary,
    stored_tokenizer,
)
from rlhf.tokens.control_tokens import marked, without_marks
from rlhf.tokens.encoding import encode

BATCH_TOKENS = 2**14  # tokens of a batch, padding included


class RewardModel:
    """The sequence classifier of a folder or hub id as a reward function; the score is one label's logit.

    A decoder is read at the last token that its attention mask shows, whatever its pad token is; an encoder by its own
    head. Scores are normalised to (logit - score_mean) / score_std if the configuration has these numbers.
    """

    def __init__(self, source: str | Path, label: str | None = None, accelerator: Accelerator | None = None):
        """Loads the model, frozen, in the precision and on the device of the accelerator, or on `rlhf.models.device`.

        `label` is a name or an index. Raises InputError if the model has several labels and none is chosen, or if no
        sequence classifier with a tokenizer can be loaded.
        """
        self.source, self.accelerator = source, accelerator
        self.label = check_classifier(source, label)
        self.tokenizer, self.chats = _with_plain_chats(stored_tokenizer(source))
        self.beginning, self.end = _special_tokens(self.tokenizer)
        model = load_classifier(source)
        self.config, self.rows = model.config, cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        self.longest = min(_positions(model), self.tokenizer.model_max_length)
        pads = (self.config.get_text_config().pad_token_id, self.tokenizer.pad_token_id, 0)
        self.pad_id = next(token for token in pads if token is not None and 0 <= token < self.rows)
        self.model = Scorer(_one_label(model, self.label)) if isinstance(_head(model), nn.Linear) else model
        self.one_by_one = isinstance(self.model, PreTrainedModel) and self._reads_padding()
        if self.one_by_one and not self.config.is_encoder_decoder:
            self.config.pad_token_id = None  # the head then reads the last token of a row
        if accelerator:
            freeze(cast(Any, self.model), accelerator)
        else:
            cast(nn.Module, self.model.requires_grad_(False)).to(device())

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        ended: Sequence[bool] | None = None,
        tools: Sequence[Any] | None = None,
        rendered: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[float]:
        """The score of each completion. A completion that has not `ended` is read without the end of its turn.

        A control token of its tokenizer in prompts, completions or tools is text, unless the row is `rendered`. Raises
        InputError if the chat template refuses a conversation.
        """
        count = len(prompts)
        others = ended or [True] * count, tools or [None] * count, rendered or [False] * count
        rows = zip(prompts, completions, *others, strict=True)
        return self.scores([self.text(*row) for row in rows])

    def text(
        self, prompt: Text, completion: Text, ended: bool = True, tools: Any = None, rendered: bool = False
    ) -> str:
        """The conversation as the model reads it, without the special tokens that its tokenizer adds.

        The chat template of its tokenizer renders it; a prompt that is a string is then a message of the user. Without
        a chat template, strings are joined, and chats become lines of `Human:` and `Assistant:`. Marks take the place of
        control tokens that are not `rendered`, see `rlhf.tokens.control_tokens`.
        """
        if not rendered:
            prompt, completion, tools = (marked(self.tokenizer, value) for value in (prompt, completion, tools))
        reply = completion if isinstance(completion, str) else str(completion[-1]["content"])
        eos = self.tokenizer.eos_token or ""
        if isinstance(prompt, str):
            if not self.chats:
                return prompt + reply + (eos if ended else "")
            prompt = [{"role": "user", "content": prompt}]
        # the space before a reply belongs to the policy's template
        messages = [*prompt, {"role": "assistant", "content": reply.lstrip()}]
        whole = render_chat(self.tokenizer, messages, tools=tools)
        return whole if ended else self._open(messages, tools, whole)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises InputError, before hours of sampling, if the chat template refuses the prompt of a row."""
        for row in rows:
            try:
                self.text(row["prompt"], "a", tools=row.get("tools"))
            except InputError as error:
                raise InputError(f"reward model {self.source}: {error}; remove such prompts") from error

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """The score of each text. It depends on the other texts only by rounding."""
        sequences = self._ids(texts)
        scores = torch.zeros(len(sequences))
        for batch in self._batches(sequences):
            with self.accelerator.autocast() if self.accelerator else nullcontext():
                scores[batch] = self._scores([sequences[i] for i in batch]).cpu()
        return scores.tolist()

    def _open(self, messages: list[dict[str, Any]], tools: Any, whole: str) -> str:
        """The rendered chat up to the content of its last message; `whole` if the template changes that content."""
        shown = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, continue_final_message=True)
        except ValueError:
            return whole
        return cast(str, text)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, with each special token of the tokenizer once, cut at the left to the model's context."""
        room = self.longest - len(self.beginning) - len(self.end)
        result = []
        for ids in map(self._encoded, texts):
            if self.beginning and ids[: len(self.beginning)] == self.beginning:
                ids = ids[len(self.beginning) :]
            if self.end and ids[-len(self.end) :] == self.end:
                ids = ids[: -len(self.end)]
            result.append([*self.beginning, *ids[-room:], *self.end] or [self.pad_id])
            if (unknown := max(result[-1])) >= self.rows:
                token = self.tokenizer.convert_ids_to_tokens(unknown)
                raise InputError(f"{self.source}: its tokenizer has the token {token!r}, which its model lacks")
        return result

    def _encoded(self, text: str) -> list[int]:
        try:
            return encode(self.tokenizer, [text])[0]
        except RefusedChat:  # a response must have a score, so its control tokens stay control tokens
            return encode(self.tokenizer, [without_marks(self.tokenizer, text)])[0]

    def _batches(self, sequences: list[list[int]]) -> Iterator[list[int]]:
        """The indices of sequences of similar length, at most BATCH_TOKENS tokens in one batch."""
        batch: list[int] = []
        for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            if batch and (self.one_by_one or (len(batch) + 1) * len(sequences[i]) > BATCH_TOKENS):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _scores(self, sequences: list[list[int]]) -> Tensor:
        place = next(self.model.parameters()).device
        input_ids, mask = (tensor.to(place) for tensor in pad(sequences, self.pad_id, "right"))
        if isinstance(self.model, Scorer):
            return self.model(input_ids, mask, mask.sum(dim=1).cumsum(dim=0) - 1)
        logits = self.model(input_ids=input_ids, attention_mask=mask).logits[:, self.label].float()
        return (logits - getattr(self.config, "score_mean", 0.0)) / getattr(self.config, "score_std", 1.0)

    @torch.no_grad()
    def _reads_padding(self) -> bool:
        """Whether the score of a text changes beside a longer one, as for heads that search for a certain token."""
        if self.config.is_encoder_decoder:
            return True
        short, long = self._ids(["a", "a b c d e f g h"])
        try:
            alone, beside = self._scores([short]), self._scores([short, long])[:1]
        except (ValueError, RuntimeError):
            return True
        return not torch.allclose(alone, beside, atol=1e-4)


# --- what a folder or hub id holds ------------------------------------------------------------------------------------


def check_classifier(source: str | Path, label: str | None = None) -> int:
    """The index of a label, which may be None if there is only one. Reads only the configuration, no weights.

    Raises InputError if there is no sequence classifier, or if it has several labels and not the one that is named.
    """
    try:
        config = classifier_config(source)
    except (OSError, ValueError, KeyError) as error:
        path = Path(source)
        near = [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        raise InputError(
            f"no sequence classifier at {source}{did_you_mean(source, near)} ({first_line(error)}); name its folder or "
            "hub id"
        ) from error
    classes = config.architectures or []
    if classes and not any(name.endswith("ForSequenceClassification") for name in classes):
        raise InputError(f"{source} is not a sequence classifier but a {classes[0]}: name a reward model")
    names = {**config.label2id, **{name: index for index, name in config.id2label.items()}}
    count = len(config.id2label)
    listed = ", ".join(config.id2label[index] for index in sorted(config.id2label))
    if label is None:
        if count == 1:
            return 0
        raise InputError(f"{source} has {count} labels: name one of {listed}, as reward_label or as {source}#LABEL")
    if label in names:
        return int(names[label])
    if label.isdecimal() and int(label) < count:
        return int(label)
    raise InputError(f"{source} has no label {label!r}{did_you_mean(label, names)}; labels: {listed}")


def reads_token_ids(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the classifier can read the ids of `tokenizer`: same tokens, a decoder, one label, a linear head.

    Also true for a folder without a tokenizer.
    """
    try:
        own = load_tokenizer(source)
    except InputError:
        return True
    config = classifier_config(source)
    return same_vocabulary(tokenizer, own) and is_decoder(config) and config.num_labels == 1


def _with_plain_chats(tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer, with a plain chat template if it has none; and whether it has one of its own."""
    if tokenizer.chat_template not in (None, PLAIN_CHAT_TEMPLATE):
        return tokenizer, True
    has_eos = tokenizer.eos_token is not None
    tokenizer.chat_template = PLAIN_CHAT_TEMPLATE if has_eos else PLAIN_CHAT_TEMPLATE.replace(" + eos_token", "")
    return tokenizer, False


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text: [CLS] and [SEP] for BERT."""
    plain, whole = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]


def _positions(model: PreTrainedModel) -> int:
    """The longest sequence, in tokens. RoBERTa's positions are counted from its pad token on."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return context_length(model)


def _head(model: PreTrainedModel) -> Any:
    return getattr(model, "score", None)


def _one_label(model: PreTrainedModel, label: int) -> PreTrainedModel:
    """The decoder with the row of its head that gives this label's logit, in place."""
    head = cast(nn.Linear, _head(model))
    for name in ("weight", "bias"):
        if (parameter := getattr(head, name)) is not None:
            setattr(head, name, nn.Parameter(parameter.detach()[[label]]))
    head.out_features = model.config.num_labels = 1
    return model
