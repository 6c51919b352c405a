"""`make chat WEB=1`: the chat of the terminal as a page, with thumbs up and down.

The response to a message is JSON lines, one for each event of the answer. One thread samples, one request after another,
so the server always answers. Closing the page, or the connection, stops the answer.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from data.rankings import CHAT, FOLDER
from rlhf import InputError
from rlhf.rows import Row
from stages.common.answer_options import ChatOptions
from stages.common.answers import Answerer
from stages.common.console import say
from stages.common.conversation import Conversation
from stages.common.interruption import STOPPED, Interrupted
from stages.web.routes import Refused, application, page_routes, person_of
from stages.web.serving import Server
from stages.web.summary import in_words
from stages.web.talks import Job, Talk, Talks, text_of
from stages.web.thumbs import Thumbs


def serve(options: ChatOptions, run: Path, models: Sequence[Answerer], conversation: Conversation) -> None:
    """Serves the page until Ctrl-C; then prints what was marked."""
    thumbs = Thumbs(Path(options.output or run / FOLDER / CHAT))
    server = Server(options.host, options.port, thumbs.path.parent)
    talks = Talks(lambda: Talk(options, models, conversation))
    say(f"{models[-1].name} answers; thumbs are saved in {thumbs.path}", "chat")
    server.announce(options.browser)
    say("Ctrl-C ends it")
    with ThreadPoolExecutor(1, "sampler") as sampler:
        try:
            server.serve(create_app(talks, thumbs, sampler))
        finally:
            talks.stop()
    if decisions := thumbs.decisions():
        say(f"{in_words(decisions)}, in {thumbs.path}", "chat")
    if server.signal == signal.SIGTERM:
        raise Interrupted(signal.SIGTERM, STOPPED)


def create_app(talks: Talks, thumbs: Thumbs, sampler: ThreadPoolExecutor) -> Starlette:
    """The page. `sampler` has one thread."""
    requests = Requests(talks, thumbs, sampler)
    names = ("state", "settings", "new", "ask", "again", "stop", "rate")
    routes = page_routes("chat.html", ["chat.js", "turns.js", "chat.css"], title="Chat", saved=str(thumbs.path))
    return application(routes, {name: getattr(requests, name) for name in names})


class Requests:
    """What the page asks for, a method for each path. Each gets an object, and returns one or a stream of events."""

    def __init__(self, talks: Talks, thumbs: Thumbs, sampler: ThreadPoolExecutor):
        self.talks, self.thumbs, self.sampler = talks, thumbs, sampler

    async def state(self, body: Row) -> Row:
        """The conversation of the tab, as the page shows it."""
        return talk_of(body, self.talks).view()

    async def settings(self, body: Row) -> Row:
        """Changes settings."""
        talk = idle(talk_of(body, self.talks))
        talk.change(body)
        return talk.view()

    async def new(self, body: Row) -> Row:
        """Begins a new conversation."""
        talk = idle(talk_of(body, self.talks))
        talk.clear()
        return talk.view()

    async def ask(self, body: Row) -> StreamingResponse:
        """Answers a new message."""
        talk = idle(talk_of(body, self.talks))
        models, message = models_of(body, talk), text_of(body.get("message"))
        if not message:
            raise Refused("there is no message")
        talk.check_room()
        talk.ask(message)
        return self._answer(talk, models)

    async def again(self, body: Row) -> StreamingResponse:
        """Answers the last message again: one model with the next seed, or all models."""
        talk = idle(talk_of(body, self.talks))
        models = models_of(body, talk)
        if not talk.exchanges:
            raise Refused("there is no message yet")
        talk.check_room()
        if body.get("all") is not True:
            talk.next_seed()
        return self._answer(talk, models)

    async def stop(self, body: Row) -> Row:
        """Ends the answer that is sampled."""
        if job := talk_of(body, self.talks).job:
            job.stop()
        return {}

    async def rate(self, body: Row) -> Row:
        """Marks an answer."""
        talk = talk_of(body, self.talks)
        mark_answer(talk, body, self.thumbs)
        return talk.view()

    def _answer(self, talk: Talk, models: Sequence[Answerer]) -> "Answering":
        waits = self.talks.answering()
        talk.job = Job(talk, models, self.thumbs)
        return Answering(talk.job, waits, self.sampler)


class Answering(StreamingResponse):
    """The events of a job, which waits for those before it, as JSON lines. The end of the response stops the job."""

    def __init__(self, job: Job, waits: bool, sampler: ThreadPoolExecutor):
        self.job, self.waits = job, waits
        self.events: asyncio.Queue[Row | None] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        sampler.submit(self.run)
        super().__init__(self.lines(), media_type="application/x-ndjson")

    def run(self) -> None:
        """Runs the job, in the thread that samples."""
        try:
            self.job.run(self.emit)
        finally:
            self.emit(None)

    def emit(self, event: Row | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def lines(self) -> AsyncIterator[str]:
        yield json.dumps({"event": "accepted", "waits": self.waits}) + "\n"
        while (event := await self.events.get()) is not None:
            yield json.dumps(event) + "\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.stop()


# --- requests ---------------------------------------------------------------------------------------------------------


def talk_of(body: Row, talks: Talks) -> Talk:
    """The conversation of the tab that sends a request."""
    tab = body.get("tab")
    if not isinstance(tab, str) or len(tab) != 32 or not tab.isascii():
        raise Refused("a tab has an id")
    return talks.get(tab)


def idle(talk: Talk) -> Talk:
    """The conversation, if nothing is answered in it. Raises Refused otherwise."""
    if talk.job:
        raise Refused("wait for the answer, or stop it")
    return talk


def models_of(body: Row, talk: Talk) -> Sequence[Answerer]:
    """Who answers: the model in use, or all of them."""
    if not isinstance(all_of_them := body.get("all", False), bool):
        raise Refused("all is true or false")
    return talk.models if all_of_them else [talk.model]


def mark_answer(talk: Talk, body: Row, thumbs: Thumbs) -> None:
    """Marks the answer that a request names. Raises Refused if there is none, or if it is still sampled."""
    turn, number, mark = body.get("turn"), body.get("answer"), body.get("mark")
    rater = person_of(body)
    if type(mark) is not int or mark not in (1, 0, -1):
        raise Refused("a mark is 1, 0 or -1")
    if type(turn) is not int or not 0 <= turn < len(talk.exchanges):
        raise Refused("there is no such turn")
    exchange = talk.exchanges[turn]
    if type(number) is not int or not 0 <= number < len(exchange.answers):
        raise Refused("there is no such answer")
    answer = exchange.answers[number]
    comparison = exchange.comparison_of(answer)
    if comparison is None or not answer.text.strip():
        raise InputError("an answer can be marked when it is there, and if it is not empty")
    thumbs.mark(comparison, answer, mark, rater)
