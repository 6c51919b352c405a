"""The chat page in a real browser: answers, stop, retry, comparison, thumbs, reload, hostile text, looks."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import pytest
import uvicorn

from data.rankings import read_decisions
from rlhf.models import load_policy
from rlhf.tokens import load_tokenizer
from stages.common import conversation
from stages.common.answer_options import ChatOptions
from stages.common.answers import Answerer
from stages.common.conversation import Conversation, Reply, Turn
from stages.common.streaming import stream_text
from stages.web.chat import create_app
from stages.web.security import Guard
from stages.web.talks import Talk, Talks
from stages.web.thumbs import Thumbs
from tests.stages.web.browsing import press, shows, spoken
from tests.stages.web.pages import ChatPage
from tests.stages.web.test_display import CONTRASTS, HOSTILE

LENGTH = "12"


@cache
def answerer(folder):
    tokenizer = load_tokenizer(folder)
    return Answerer(folder.name, str(folder), load_policy(folder, tokenizer), tokenizer)


@pytest.fixture(scope="module")
def page(talkers, tmp_path_factory):
    page = ChatPage(tmp_path_factory.mktemp("chat"), talkers, "--response_length", LENGTH, "--seed", "1")
    yield page
    assert page.end() == 0


@pytest.fixture
def slow_page(talkers, tmp_path, monkeypatch):
    """A page, served in this process, whose answers take minutes, also on a fast machine."""

    def slowly(*arguments):
        for piece in stream_text(*arguments):
            time.sleep(0.02)
            yield piece

    monkeypatch.setattr(conversation, "stream_text", slowly)
    options, token = ChatOptions(response_length=15_000, temperature=0.0), "t" * 32
    talks = Talks(lambda: Talk(options, [answerer(talkers[0])], Conversation()))
    with socket.create_server(("127.0.0.1", 0)) as bound, ThreadPoolExecutor(1) as sampler:
        port = bound.getsockname()[1]
        app = Guard(create_app(talks, Thumbs(tmp_path / "chat"), sampler), token, "127.0.0.1", port)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/{token}/", port=port)
        talks.stop()
        server.should_exit = True
        thread.join()


def ask(tab, message):
    # while the page waits for the end of an answer, it has a button to stop and sends nothing
    tab.wait_for_selector("#send")
    tab.fill("#text", message)
    press(tab, "Enter")


def has(tab, selector, count):
    """Waits until there are as many elements."""
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_count(count, timeout=15_000)


def answered(tab, count):
    """Waits until this number of answers has ended, and can be marked."""
    has(tab, ".answer .thumbs", count)


def sampled(folder, seed, message="Hello", turns=()):
    """The answer as the terminal gives it."""
    model = answerer(folder)
    conversation = Conversation(history=True, turns=[*turns, Turn(message)])
    return "".join(Reply(model, conversation.prompt_for(model, int(LENGTH))[1], int(LENGTH), 1.0, seed)).strip()


def texts(tab):
    return [
        re.sub(r"(… cut off|\(stopped\))$", "", text).strip()
        for text in tab.locator(".answer .text").all_text_contents()
    ]


def rows(page):
    return [json.loads(line) for line in page.path.read_text().splitlines()] if page.path.exists() else []


def test_answers_are_those_of_the_terminal_and_marks_of_retried_ones_a_comparison(open_tab, page, talkers):
    tab, before = open_tab(page), len(rows(page))
    ask(tab, "Hello")
    answered(tab, 1)
    tab.click("#up-0-0")
    shows(tab, ".note >> nth=0", "Kept once there is another answer")
    assert len(rows(page)) == before
    tab.locator("#turns").click()
    press(tab, "Escape", "r")
    answered(tab, 2)
    assert texts(tab) == [sampled(talkers[1], 1), sampled(talkers[1], 2)]
    shows(tab, ".note >> nth=0", "Kept as a comparison.")
    tab.click("#down-0-1")
    tab.wait_for_selector("#down-0-1[aria-pressed=true]")
    tab.click("#up-0-0")  # takes the mark back
    tab.wait_for_selector("#up-0-0[aria-pressed=false]")
    written = rows(page)[before:]
    assert [row["ranks"] for row in written] == [[0, 1], [0, 1], [0, 1]] and len({row["id"] for row in written}) == 1
    assert [completion.strip() for row in written for completion in _texts(row)] == texts(tab) * 3
    row = read_decisions(page.path)[-1]
    assert row["rater"] == "chat" and row["models"] == ["second", "second"] and row["shown"] == [0, 1]
    assert row["prompt"] == [{"role": "user", "content": "Hello"}]


def _texts(row):
    return [completion[0]["content"] for completion in row["completions"]]


def test_all_models_answer_side_by_side_and_a_reload_keeps_the_conversation(open_tab, page, talkers):
    tab = open_tab(page)
    tab.click("#open-settings")
    tab.fill("#name", "Ada")
    tab.fill("#seed", "7")
    press(tab, "Tab")
    shows(tab, "#summary", "temperature 1 · seed 7")
    press(tab, "Escape")
    tab.fill("#text", "Hello")
    press(tab, "Control+Enter")
    answered(tab, 2)
    assert texts(tab) == [sampled(talkers[0], 7), sampled(talkers[1], 7)]
    boxes = [tab.locator(".answer").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    tab.select_option("#model", label="first")
    ask(tab, "Again")
    answered(tab, 3)
    kept = Turn("Hello", sampled(talkers[1], 7))  # that of the model which was chosen then
    assert texts(tab)[2] == sampled(talkers[0], 7, "Again", [kept])
    before = texts(tab)
    tab.reload()
    answered(tab, 3)
    assert texts(tab) == before and tab.locator("#model").input_value() == "0"
    tab.click("#down-0-0")
    tab.wait_for_selector("#down-0-0[aria-pressed=true]")
    row = rows(page)[-1]
    assert (row["rater"], row["models"], row["ranks"]) == ("Ada", ["first", "second"], [1, 0])
    tab.click("#new")
    has(tab, ".turn", 0)
    assert tab.is_visible("#empty")


def test_an_answer_is_shown_while_it_is_sampled_and_stop_ends_it(open_tab, slow_page):
    from playwright.sync_api import expect

    tab = open_tab(slow_page)
    ask(tab, "Hello")
    tab.wait_for_selector(".sampled-now")
    expect(tab.locator(".sampled-now .text")).not_to_be_empty()
    assert tab.locator(".thumbs").count() == 0  # it goes on
    press(tab, "Escape")
    answered(tab, 1)
    shows(tab, ".answer .text", "(stopped)")
    assert tab.locator("#text").evaluate("e => e === document.activeElement")
    # another person's answer comes after the one that is sampled, and closing the tab ends that one
    ask(tab, "And now?")
    tab.wait_for_selector(".sampled-now")
    other = open_tab(slow_page)
    ask(other, "Hello")
    shows(other, "#banner", "this one comes after it")
    tab.close()
    other.wait_for_selector(".sampled-now", timeout=3000)
    other.reload()  # ends it too
    shows(other, ".answer .text", "(stopped)")


def test_keys_and_a_screen_reader_are_enough(open_tab, page):
    tab = open_tab(page)
    ask(tab, "Hello")
    answered(tab, 1)
    press(tab, "ArrowUp")
    assert tab.input_value("#text") == "Hello"
    press(tab, "Escape", "c")
    answered(tab, 3)
    press(tab, "-")
    tab.wait_for_selector("#down-0-2[aria-pressed=true]")
    shows(tab, "#live", "Thumbs down. Kept as a comparison.")
    tab.focus("#up-0-1")
    press(tab, "Space")
    tab.wait_for_selector("#up-0-1[aria-pressed=true]:focus")
    for line in (
        'combobox "Model that answers"',
        'list "Conversation"',
        'button "Thumbs up" [pressed]',
        'textbox "Message"',
    ):
        assert line in spoken(tab)
    press(tab, "Escape", "/")
    assert tab.locator("#text").evaluate("e => e === document.activeElement")


def test_what_is_refused_is_said_and_a_message_is_not_lost(open_tab, page):
    tab = open_tab(page, allow_errors=True)  # the browser reports answers of status 400
    tab.click("#open-settings")
    tab.fill("#temperature", "-1")
    press(tab, "Tab")
    shows(tab, "#settings-error", "temperature is -1")
    press(tab, "Escape", "Escape")
    message = "word " * 12_000
    ask(tab, message)
    shows(tab, "#banner", "the message is too long")
    assert tab.input_value("#text") == message.strip() and tab.locator(".turn").count() == 0
    ask(tab, "Hello")
    answered(tab, 1)
    shows(tab, "#summary", "temperature 1 · seed 1")


def test_hostile_text_is_shown_and_not_run(open_tab, page):
    tab = open_tab(page)
    ask(tab, HOSTILE[1])
    answered(tab, 1)
    state = page.post("state", tab="0" * 32)
    answer = {"seed": 1, "temperature": 1.0, "end": "finished", "kept": True, "can_mark": True, "mark": 0}
    hostile = [{**answer, "model": text, "text": text} for text in HOSTILE]
    turn = {"message": HOSTILE[0], "answers": hostile, "marked": False, "saved": True}
    shown = {**state, "models": [*HOSTILE], "system": HOSTILE[2], "turns": [turn]}
    events = [{"event": "accepted", "waits": False}, {"event": "begin", **hostile[0]}]
    events += [{"event": "piece", "text": piece} for text in HOSTILE for piece in (text[:9], text[9:])]
    events += [{"event": "end"}, {"event": "said", "text": HOSTILE[1]}, {"event": "error", "message": HOSTILE[1]}]
    tab.route("**/again", lambda route: route.fulfill(body="".join(f"{json.dumps(event)}\n" for event in events)))
    tab.route("**/state", lambda route: route.fulfill(json=shown))
    tab.click("#retry")
    shows(tab, "#banner", "<img src=x onerror")
    answered(tab, len(HOSTILE))
    assert texts(tab) == [text.replace("\x00", "\ufffd") for text in HOSTILE] or texts(tab) == HOSTILE
    assert tab.title() == "Chat"
    assert tab.locator("iframe, img, script:not([type=module]), main a, main svg svg").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_400_pixels_nothing_is_cut_off_and_text_has_the_contrast_of_wcag_aa(open_tab, page, scheme):
    tab = open_tab(page, color_scheme=scheme, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    ask(tab, "Hello " + "x" * 100)
    answered(tab, 1)
    tab.tap("#compare")
    answered(tab, 3)
    tab.tap("#up-0-0")
    shows(tab, ".note >> nth=0", "Kept")
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
    assert (
        max(tab.evaluate("[...document.querySelectorAll('button')].map((b) => b.getBoundingClientRect().right)")) <= 400
    )
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 10 and [entry for entry in contrasts if entry[0] < 4.5] == []
    assert (
        tab.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(244, 245, 248)",
            "dark": "rgb(20, 22, 27)",
        }[scheme]
    )
