"""Requests to the chat page, without a browser: what is refused, one answer at a time, the end of a connection."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhf.models import load_policy
from rlhf.tokens import load_tokenizer
from stages.common.answer_options import ChatOptions
from stages.common.answers import Answerer
from stages.common.conversation import Conversation, Reply
from stages.web import talks as talks_module
from stages.web.chat import create_app
from stages.web.security import Guard
from stages.web.talks import MOST_TALKS, Talk, Talks
from stages.web.thumbs import Thumbs

TOKEN, TAB, OTHER = "t" * 32, "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def model(talkers):
    tokenizer = load_tokenizer(talkers[0])
    return Answerer("first", str(talkers[0]), load_policy(talkers[0], tokenizer), tokenizer)


class Client:
    """Requests to the page, as uvicorn hands them on."""

    def __init__(self, folder, model, **options):
        self.thumbs = Thumbs(folder)
        self.talks = Talks(lambda: Talk(ChatOptions(**options), [model], Conversation()))
        self.sampler = ThreadPoolExecutor(1)
        self.app = Guard(create_app(self.talks, self.thumbs, self.sampler), TOKEN, "127.0.0.1", 80)

    async def events(self, path, gone=None, tab=TAB, **body):
        """Status, and the JSON values of the answer; the client hangs up when the event `gone` is set."""
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}/{path}", "headers": headers, "query_string": b""}
        requests = [{"type": "http.request", "body": json.dumps({"tab": tab, **body}).encode()}]
        sent = []

        async def receive():
            if requests:
                return requests.pop()
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        lines = b"".join(message.get("body", b"") for message in sent).splitlines()
        return sent[0]["status"], [json.loads(line) for line in lines]

    async def post(self, path, **body):
        status, (value,) = await self.events(path, **body)
        return status, value


@pytest.fixture
def client(tmp_path, model):
    client = Client(tmp_path / "chat", model, response_length=8)
    yield client
    client.talks.stop()
    client.sampler.shutdown()


@pytest.fixture
def slow(tmp_path, model):
    """Its answers take minutes."""
    client = Client(tmp_path / "slow", model, response_length=15_000, temperature=0.0)
    yield client
    client.talks.stop()
    client.sampler.shutdown()


async def until(client, condition, **body):
    """Waits until the conversation is as it should be; its state."""
    for _ in range(300):
        status, state = await client.post("state", **body)
        if condition(state):
            return state
        await asyncio.sleep(0.02)
    raise AssertionError(state)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("state", {"tab": ""}), ("state", {"tab": 3}), ("state", {"tab": "x" * 33}), ("state", {"tab": "\u00e9" * 32}),
        ("ask", {}), ("ask", {"message": " \n"}), ("ask", {"message": ["x"]}), ("ask", {"message": "\ud800"}),
        ("ask", {"message": "x", "all": 1}), ("again", {}), ("again", {"all": True}), ("settings", {"model": 1}),
        ("settings", {"model": -1}), ("settings", {"model": True}), ("settings", {"model": "first"}),
        ("settings", {"temperature": -1}), ("settings", {"temperature": "1"}), ("settings", {"temperature": float("nan")}),
        ("settings", {"seed": -1}), ("settings", {"seed": 1.5}), ("settings", {"seed": 10**30}), ("settings", {"history": 1}),
        ("settings", {"system": 3}), ("settings", {"system": "\udfff"}), ("rate", {"turn": 0, "answer": 0, "mark": 1}),
    ],
)  # fmt: skip
def test_a_request_that_the_page_does_not_send_changes_nothing(client, path, body):
    async def check():
        before = (await client.post("state"))[1]
        status, answer = await client.post(path, **body)
        assert status == 400 and set(answer) == {"error"}, answer
        assert (await client.post("state"))[1] == before and before["turns"] == []

    asyncio.run(check())


@pytest.mark.parametrize(
    "wrong",
    [{"mark": 2}, {"mark": True}, {"mark": "1"}, {"turn": 1}, {"turn": -1}, {"answer": 1}, {"answer": -1}, {"answer": None},
     {"rater": ""}, {"rater": "x" * 41}, {"rater": "a\u202eb"}, {"rater": None}],
)  # fmt: skip
def test_a_mark_that_can_not_be_one_is_refused(client, wrong):
    async def check():
        await client.events("ask", message="Hello")
        body = {"turn": 0, "answer": 0, "mark": 1, "rater": "Ada"}
        assert (await client.post("rate", **(body | wrong)))[0] == 400
        status, state = await client.post("rate", **body)
        assert status == 200 and state["turns"][0]["answers"][0]["mark"] == 1

    asyncio.run(check())


def test_a_client_that_hangs_up_ends_its_answer_and_the_server_answers_meanwhile(slow):
    async def check():
        gone = asyncio.Event()
        answer = asyncio.create_task(slow.events("ask", gone, message="Hello"))
        await until(slow, lambda state: state["busy"] and any(a["text"] for a in state["turns"][0]["answers"]))
        assert (await slow.post("ask", message="And?"))[0] == (await slow.post("new"))[0] == 400
        gone.set()
        await asyncio.wait_for(answer, 5)
        state = await until(slow, lambda state: not state["busy"])
        (only,) = state["turns"][0]["answers"]
        assert only["end"] == "stopped" and only["can_mark"] and not state["busy"]

    asyncio.run(check())


def test_one_answer_is_sampled_at_a_time_and_one_that_waits_can_be_stopped(slow):
    async def check():
        first = asyncio.create_task(slow.events("ask", message="Hello"))
        await until(slow, lambda state: state["busy"])
        second = asyncio.create_task(slow.events("ask", tab=OTHER, message="Hello"))
        await until(slow, lambda state: state["busy"], tab=OTHER)
        assert (await slow.post("state", tab=OTHER))[1]["turns"][0]["answers"] == []
        await slow.post("stop", tab=OTHER)
        await slow.post("stop")
        assert (await first)[1][0] == {"event": "accepted", "waits": False}
        assert (await second)[1] == [{"event": "accepted", "waits": True}]
        assert (await slow.post("state", tab=OTHER))[1]["turns"] == []  # the turn without an answer is taken back
        assert not (await slow.post("state"))[1]["busy"]

    asyncio.run(check())


def test_an_answer_that_fails_is_an_event_and_its_turn_is_taken_back(client, monkeypatch, capsys):
    async def check():
        long = (await client.events("ask", message="word " * 12_000))[1]
        assert long[1]["event"] == "error" and "the message is too long" in long[1]["message"]
        monkeypatch.setattr(talks_module, "Reply", lambda *arguments: 1 / 0)
        assert (await client.events("ask", message="x"))[1][-1][
            "message"
        ] == "no answer: ZeroDivisionError: division by zero"
        monkeypatch.setattr(talks_module, "Reply", Reply)
        assert (await client.events("ask", message="x"))[1][-1] == {"event": "end"}

    asyncio.run(check())
    assert "no answer: ZeroDivisionError" in capsys.readouterr().out


def test_the_conversation_that_was_not_used_for_longest_is_forgotten(client):
    async def check():
        await client.events("ask", message="Hello")
        for number in range(MOST_TALKS):
            await client.post("state", tab=f"{number:032}")
        assert len(client.talks.by_tab) == MOST_TALKS
        assert (await client.post("state"))[1]["turns"] == []

    asyncio.run(check())
