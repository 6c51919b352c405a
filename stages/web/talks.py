"""The conversations of the chat page, one for each browser tab, and how their answers are sampled."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf import InputError, first_line
from rlhf.option import check_option
from rlhf.rows import Row
from stages.common.answer_options import ChatOptions
from stages.common.answers import Answerer
from stages.common.console import say
from stages.common.conversation import Conversation, Reply, Turn
from stages.web.thumbs import UNMARKED, Answer, Comparison, Thumbs

MOST_TALKS = 100  # the one that was not used for longest is forgotten
MOST_ANSWERS = 1000  # in a conversation


@dataclass
class Exchange:
    """A turn with all of its answers, of which the turn keeps one, and their comparisons, one for each prompt."""

    turn: Turn
    answers: list[Answer] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    kept: Answer | None = None

    def comparison_of(self, answer: Answer) -> Comparison | None:
        """The comparison that has an answer; None while it is sampled."""
        return next((c for c in self.comparisons if any(answer is known for known in c.answers)), None)

    def compare(self, answer: Answer, thumbs: Thumbs) -> None:
        """Adds a sampled answer to the comparison of its prompt."""
        comparison = next((c for c in self.comparisons if c.prompt == answer.prompt), None)
        if comparison is None:
            comparison = Comparison(answer.prompt)
            self.comparisons.append(comparison)
        thumbs.add(comparison, answer)

    def view(self) -> Row:
        """The exchange as the page shows it."""
        marked = [c for c in self.comparisons if any(c.marks.values())]
        return {
            "message": self.turn.message,
            "answers": [self._answer_view(answer) for answer in self.answers],
            "marked": bool(marked),
            "saved": all(comparison.saved for comparison in marked),
        }

    def _answer_view(self, answer: Answer) -> Row:
        comparison = self.comparison_of(answer)
        end = "finished" if answer.finished else "stopped" if answer.stopped else "cut"
        return {
            **{"model": answer.model, "seed": answer.seed, "temperature": answer.temperature, "text": answer.text},
            **{"end": end, "kept": answer is self.kept, "can_mark": bool(comparison and answer.text.strip())},
            "mark": comparison.mark_of(answer) if comparison else UNMARKED,
        }


class Talk:
    """A conversation with its settings, which are those of the terminal's chat."""

    def __init__(self, options: ChatOptions, models: Sequence[Answerer], conversation: Conversation):
        self.options, self.models = options, models
        self.conversation = replace(conversation, turns=[])
        self.model = models[-1]
        self.temperature, self.seed = options.temperature, options.seed
        self.exchanges: list[Exchange] = []
        self.said_left_out = False
        self.job: Job | None = None

    def change(self, settings: Row) -> None:
        """Changes some settings. Raises InputError, and changes none, if one of the values is not allowed."""
        index = settings.get("model", self.models.index(self.model))
        temperature, seed = settings.get("temperature", self.temperature), settings.get("seed", self.seed)
        history = settings.get("history", self.conversation.history)
        system = settings.get("system", self.conversation.system)
        check_option(ChatOptions, "temperature", temperature)
        check_option(ChatOptions, "seed", seed)
        if type(index) is not int or not 0 <= index < len(self.models):
            raise InputError("model is the number of a loaded model")
        if not isinstance(history, bool):
            raise InputError("history is true or false")
        self.model, self.temperature, self.seed = self.models[index], float(temperature), seed
        self.conversation.history, self.conversation.system = history, text_of(system)

    def ask(self, message: str) -> None:
        """Adds a turn."""
        exchange = Exchange(Turn(message))
        self.exchanges.append(exchange)
        self.conversation.turns.append(exchange.turn)

    def take_back(self) -> None:
        """Removes the last turn."""
        self.exchanges.pop()
        self.conversation.turns.pop()

    def next_seed(self) -> None:
        """Takes the next seed. Raises InputError if there is none."""
        check_option(ChatOptions, "seed", self.seed + 1)
        self.seed += 1

    def clear(self) -> None:
        """Begins a new conversation with the same settings."""
        self.exchanges.clear()
        self.conversation.turns.clear()
        self.said_left_out = False

    def check_room(self) -> None:
        """Raises InputError if there are as many answers as a conversation may have."""
        if sum(len(exchange.answers) for exchange in self.exchanges) >= MOST_ANSWERS:
            raise InputError(f"the conversation has {MOST_ANSWERS:,} answers: begin a new one")

    def view(self) -> Row:
        """The conversation as the page shows it."""
        return {
            "models": [model.name for model in self.models],
            "model": self.models.index(self.model),
            **{"temperature": self.temperature, "seed": self.seed, "busy": self.job is not None},
            **{"history": self.conversation.history, "system": self.conversation.system},
            "turns": [exchange.view() for exchange in self.exchanges],
        }


class Talks:
    """The conversations by the id of their tab."""

    def __init__(self, new: Callable[[], Talk]):
        self.new = new
        self.by_tab: OrderedDict[str, Talk] = OrderedDict()

    def get(self, tab: str) -> Talk:
        """The conversation of a tab, which may be a new one."""
        talk = self.by_tab.pop(tab, None) or self.new()
        self.by_tab[tab] = talk
        if len(self.by_tab) > MOST_TALKS:
            _, forgotten = self.by_tab.popitem(last=False)
            if forgotten.job:
                forgotten.job.stop()
        return talk

    def answering(self) -> bool:
        """Whether an answer is sampled, or waits."""
        return any(talk.job for talk in self.by_tab.values())

    def stop(self) -> None:
        """Stops all answers."""
        for talk in self.by_tab.values():
            if talk.job:
                talk.job.stop()


class Job:
    """Answers of some models to the last turn of a conversation."""

    def __init__(self, talk: Talk, models: Sequence[Answerer], thumbs: Thumbs):
        self.talk, self.models, self.thumbs = talk, models, thumbs
        self.exchange = talk.exchanges[-1]
        self.stopped = False
        self.reply: Reply | None = None

    def stop(self) -> None:
        """Ends the answer that is sampled, and leaves out those after it. Any thread may call it."""
        self.stopped = True
        if self.reply:
            self.reply.stop()

    def run(self, emit: Callable[[Row], None]) -> None:
        """Samples the answers. `emit` gets what happens, see `_answer`; an error is an event too.

        A new turn that gets no answer is taken back.
        """
        try:
            for model in self.models:
                if not self.stopped:
                    self._answer(model, emit)
        except InputError as error:
            emit({"event": "error", "message": str(error)})
        except OSError as error:
            emit({"event": "error", "message": f"not saved: {error.strerror}"})
        except Exception as error:  # of a library: memory, a defect of a model's code
            say(f"no answer: {type(error).__name__}: {first_line(error)}")
            emit({"event": "error", "message": f"no answer: {type(error).__name__}: {first_line(error)}"})
        finally:
            if not self.exchange.answers:
                self.talk.take_back()
            self.talk.job = None

    def _answer(self, model: Answerer, emit: Callable[[Row], None]) -> None:
        """Samples an answer. Events: `said` (a remark), `begin` (the answer's settings), `piece` (of its text), `end`."""
        talk, exchange = self.talk, self.exchange
        prompt, ids, left_out = talk.conversation.prompt_for(model, talk.options.response_length)
        if left_out and not talk.said_left_out:
            talk.said_left_out = True
            text = f"The context of {model.name} is full: from now on the oldest turns are left out."
            emit({"event": "said", "text": text})
        answer = Answer(model.name, talk.seed, talk.temperature, prompt)
        exchange.answers.append(answer)
        emit({"event": "begin", "model": answer.model, "seed": answer.seed, "temperature": answer.temperature})
        reply = self.reply = Reply(model, ids, talk.options.response_length, talk.temperature, talk.seed)
        with closing(iter(reply)) as pieces:
            for piece in () if self.stopped else pieces:
                answer.text = reply.text
                emit({"event": "piece", "text": piece})
        answer.text, answer.finished = reply.text, reply.finished
        answer.stopped = self.stopped and not reply.finished
        if model is talk.model:
            turn, exchange.kept = exchange.turn, answer
            turn.answer, turn.finished, turn.prompt = reply.text, reply.finished, prompt
        exchange.compare(answer, self.thumbs)
        emit({"event": "end"})


def text_of(value: Any) -> str:
    """A text that a person typed, without space around it. Raises InputError if it is none."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError("this is not a text")
    return value.strip()
