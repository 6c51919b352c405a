"""Which tokens of a demonstration are learned: those of its replies, each as the model would generate it."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlhf.rows import Row
from rlhf.tokens.chats import render_chat
from rlhf.tokens.control_tokens import marked_row
from rlhf.tokens.encoding import ids_with_offsets
from rlhf.tokens.ids import count_to_stop
from rlhf.tokens.replies import Completion, render_completion, reply_span

IGNORED = -100  # a label that the loss ignores


@dataclass
class Labeller:
    """Labels demonstrations.

    The replies of the completion are learned, except those with `weight` 0. Replies in the prompt are learned if their
    `weight` is above 0 and `last_reply_only` is false. A learned reply is what the model would generate: it begins
    after the generation prompt and ends with its stop token. User turns and headers of turns within a completion are
    not learned.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_ids: Sequence[int] = ()
    last_reply_only: bool = False

    def labels(self, row: Row, prompt: list[int], completion: list[int]) -> tuple[list[int], int]:
        """The labels of prompt + completion, whose ids are given, and the number of replies that can't be located.

        A reply can't be located if the chat template changes it when other messages follow it. It is not learned.
        """
        row = marked_row(self.tokenizer, row)
        before, missed = self._in_prompt(row, prompt)
        after, missed_after = self._in_completion(row, prompt, completion)
        learned = [*before, *after]
        ids = zip([*prompt, *completion], learned, strict=True)
        return [token if is_learned else IGNORED for token, is_learned in ids], missed + missed_after

    def _in_prompt(self, row: Row, prompt: list[int]) -> tuple[list[bool], int]:
        learned, missed, messages = [False] * len(prompt), 0, row["prompt"]
        if self.last_reply_only or isinstance(messages, str):
            return learned, 0
        wanted = [i for i, m in enumerate(messages) if m["role"] == "assistant" and (m.get("weight") or 0) > 0]
        if not wanted:
            return learned, 0
        tools = row.get("tools")
        text = render_chat(self.tokenizer, messages, True, tools)
        ids, offsets = ids_with_offsets(self.tokenizer, text)
        for index in wanted:
            span = reply_span(self.tokenizer, messages, index, text, True, tools)
            tokens = self._tokens(prompt, offsets if ids == prompt else [], span)
            learned[tokens.start : tokens.stop] = [True] * len(tokens)
            missed += not tokens
        return learned, missed

    def _in_completion(self, row: Row, prompt: list[int], completion: list[int]) -> tuple[list[bool], int]:
        messages = row["completion"]
        if isinstance(messages, str):
            return [True] * len(completion), 0
        if len(messages) == 1 or isinstance(row["prompt"], str):
            return [messages[-1].get("weight") != 0] * len(completion), 0
        chat, tools = [*row["prompt"], *messages], row.get("tools")
        rendered = render_completion(self.tokenizer, row["prompt"], messages, tools)
        offsets, shift = self._offsets(rendered, prompt), rendered.shift
        learned, missed = [False] * len(completion), 0
        for index in range(len(row["prompt"]), len(chat)):
            if chat[index]["role"] == "assistant" and chat[index].get("weight") != 0:
                span = reply_span(self.tokenizer, chat, index, rendered.whole, tools=tools)
                if span is not None:  # the first reply begins after the generation prompt
                    start = len(rendered.prompt) if index == len(row["prompt"]) else span[0] + shift
                    span = start, span[1] + shift
                tokens = self._tokens(completion, offsets, span)
                # the last reply may end with an eos that the template does not render
                stop = len(completion) if tokens and index == len(chat) - 1 else tokens.stop
                learned[tokens.start : stop] = [True] * (stop - tokens.start)
                missed += not tokens
        return learned, missed

    def _offsets(self, rendered: Completion, prompt: list[int]) -> list[tuple[int, int]]:
        """The characters of prompt + completion that each token of the completion covers."""
        ids, offsets = ids_with_offsets(self.tokenizer, rendered.prompt + rendered.text)
        if ids[: len(prompt)] == prompt:
            return offsets[len(prompt) :]
        # the completion was tokenised alone
        offsets, shift = ids_with_offsets(self.tokenizer, rendered.text, continued=True)[1], len(rendered.prompt)
        return [(start + shift, end + shift) for start, end in offsets]

    def _tokens(self, ids: list[int], offsets: list[tuple[int, int]], span: tuple[int, int] | None) -> range:
        """The indices of the tokens that lie within a span of characters, up to the stop token.

        A stop token that follows the span is included: in some templates it is the first token of the next turn.
        """
        if span is None:
            return range(0)
        inside = [i for i, (start, end) in enumerate(offsets) if span[0] <= start < span[1] and end <= span[1]]
        inside = [i for i in inside if i < len(ids)]
        if not inside:
            return range(0)
        start, stop = inside[0], inside[-1] + 1
        count = count_to_stop(ids[start:stop], self.tokenizer, self.stop_ids)
        if count is not None:
            return range(start, start + count)
        return range(start, stop + (ids[stop : stop + 1] in [[token] for token in self.stop_ids]))
