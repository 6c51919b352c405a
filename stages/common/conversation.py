"""Conversations: turns as a prompt for a model, its reply while it is sampled, and the turns as demonstrations.

A prompt is rendered by the tokenizer's chat template, or by a template of plain text such as "User: {}\\nBot:", which
is that of a recipe whose models were trained on such text.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rlhf import InputError
from rlhf.models import context_length, stop_token_ids
from rlhf.rows import Row, Text
from rlhf.tokens import prompt_ids
from stages.common.answers import Answerer
from stages.common.streaming import stream_text, stream_tokens

CHAT = "chat"  # the template that stands for the tokenizer's


@dataclass
class Turn:
    """What the user says, and the model's answer as it was sampled."""

    message: str
    answer: str = ""
    finished: bool = False  # True if the answer ends with eos, False if it was truncated or stopped
    prompt: Text = ""  # what the model saw: a text or messages


@dataclass
class Conversation:
    """The turns of a conversation. `history`: the model sees the earlier turns, not only the last one."""

    template: str = CHAT
    history: bool = True
    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.template != CHAT and "{}" not in self.template:
            raise InputError(
                f'template is {self.template!r}; it must be "chat", or a text in which {{}} is the message'
            )

    def prompt(self, first: int) -> Text:
        """The prompt for an answer to the last turn, with the turns from index `first` on."""
        turns = self.turns[first:]
        if self.template == CHAT:
            messages = self._opening()
            for turn in turns[:-1]:
                messages += _as_messages(turn)
            return [*messages, {"role": "user", "content": turns[-1].message}]
        texts = [self.template.replace("{}", turn.message) for turn in turns]
        earlier = [text + turn.answer for text, turn in zip(texts, turns[:-1], strict=False)]
        return "\n".join([*filter(None, [self.system]), *earlier, texts[-1]])

    def prompt_for(self, model: Answerer, response_length: int) -> tuple[Text, list[int], int]:
        """The prompt, its token ids, and the number of oldest turns left out so that it fits.

        The answer gets room for `response_length` tokens, or half of the model's context if that is less. Raises
        InputError if the last message alone does not fit, or if the chat template refuses the chat.
        """
        start = 0 if self.history else len(self.turns) - 1
        room = context_length(model.policy) - min(response_length, context_length(model.policy) // 2)
        for first in range(start, len(self.turns)):
            prompt = self.prompt(first)
            ids = prompt_ids(model.tokenizer, [prompt])[0]
            if len(ids) <= room:
                return prompt, ids, first - start
        raise InputError(
            f"the message is too long: {len(ids):,} tokens, and {model.name} has room for {room:,} beside its answer"
        )

    def demonstrations(self) -> list[Row]:
        """The finished answers with the prompts that they were sampled for, as rows that SFT learns from."""
        rows: list[Row] = []
        for turn in self.turns:
            if turn.finished:
                is_text = isinstance(turn.prompt, str)
                rows.append({"prompt": turn.prompt, "completion": turn.answer if is_text else [_reply(turn)]})
        return rows

    def _opening(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []


def _as_messages(turn: Turn) -> list[dict[str, Any]]:
    return [{"role": "user", "content": turn.message}, _reply(turn)]


def _reply(turn: Turn) -> dict[str, Any]:
    return {"role": "assistant", "content": turn.answer.strip()}


class Reply:
    """A model's answer to a prompt. Iterating samples it and gives its text, piece by piece.

    It has the tokens that `make samples` samples for this prompt alone with the same seed and temperature.
    """

    def __init__(self, model: Answerer, prompt: list[int], response_length: int, temperature: float, seed: int):
        self.model, self.prompt = model, prompt
        self.length = min(response_length, context_length(model.policy) - len(prompt))
        self.temperature, self.seed = temperature, seed
        self.ids: list[int] = []
        self.text, self.finished = "", False
        self.stopping = False

    def stop(self) -> None:
        """Ends the sampling after the token that is being sampled. Any thread may call it."""
        self.stopping = True

    def __iter__(self) -> Generator[str, None, None]:
        with closing(self._tokens()) as tokens:
            for piece in stream_text(self.model.tokenizer, tokens):
                self.text += piece
                yield piece

    def _tokens(self) -> Generator[int, None, None]:
        stops = stop_token_ids(self.model.policy, self.model.tokenizer)
        tokens = stream_tokens(
            self.model.policy,
            self.prompt,
            response_length=self.length,
            temperature=self.temperature,
            seed=self.seed,
            stop_ids=stops,
        )
        with closing(tokens):
            for token in tokens:
                self.ids.append(token)
                self.finished = token in stops
                yield token
                if self.stopping:
                    return
