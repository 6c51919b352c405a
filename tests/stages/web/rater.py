"""`make rank` as a process, and a rater that reads the answers on its page and ranks them by keys or by mouse."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.common.processes import cores
from tests.forks import ROOT
from tests.pipeline import environment, venv
from tests.raters import Score, ranks_of
from tests.stages.web.browsing import decided, drag_card, press

DRAGS_EVERY = 5  # of so many rankings one is dragged, the others are typed
CUT_OFF = "… cut off"  # what the page puts behind a truncated answer
SAMPLED = 120_000  # milliseconds that the first answers may take


def make_command(*words: str) -> list[str]:
    """make with its words, and with the Python of this process."""
    return ["make", "--no-print-directory", f"VENV={venv()}", *words]


def variables() -> dict[str, str]:
    """The environment of make, with as many threads as there are cores."""
    return environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(cores())))


class RankServer:
    """`make rank` in a process group of its own, as in a terminal."""

    def __init__(self, *words: str, arguments: str = ""):
        """Starts it and waits for the address, while its output is shown."""
        self.started = time.time()
        self.process = subprocess.Popen(
            make_command("rank", *words, f"ARGS=--no_browser {arguments}"),
            cwd=ROOT,
            env=variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = self.address = ""
        for line in self._lines():
            if found := re.search(r"http://\S+/$", line.rstrip()):
                self.address = found[0]
                return
        raise AssertionError(self.output)

    def _lines(self) -> Iterator[str]:
        assert self.process.stdout
        for line in self.process.stdout:
            print(line, end="", flush=True)
            self.output += line
            yield line

    def interrupt(self) -> str:
        """Ctrl-C: a signal to every process of the group; all that was printed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        for _ in self._lines():
            pass
        self.process.wait()
        return self.output


@contextmanager
def rank_server(*words: str, arguments: str = "") -> Iterator[RankServer]:
    """A server that has ended when the block has, also by an error."""
    server = RankServer(*words, arguments=arguments)
    try:
        yield server
    finally:
        server.interrupt()


class Rater:
    """Somebody who opens the page and ranks what it shows by a score, 0 for a bad answer."""

    def __init__(self, browser: Any, address: str, name: str, score: Score):
        self.name, self.score = name, score
        self.seconds = 0.0  # of work on the page
        self.waited = 0.0  # seconds until the first answers were sampled
        self.problems: list[str] = []  # errors and warnings on the console
        self.tab = browser.new_page(viewport={"width": 1000, "height": 1400}, reduced_motion="reduce")
        self.tab.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.goto(address)
        self.tab.fill("#name", name)
        self.tab.keyboard.press("Enter")

    def rank_all(self, screenshot: Path | None = None) -> int:
        """Ranks until the page says that all is done; the number of rankings. Saves a picture of the third item."""
        started, count = time.time(), 0
        while self.is_asked():
            if not count:
                self.waited, started = time.time() - started, time.time()
            self.rank(drags=count % DRAGS_EVERY == DRAGS_EVERY - 1)
            if screenshot and count == 2:
                self.tab.screenshot(path=screenshot)
            press(self.tab, "Enter")
            count += 1
            decided(self.tab, count)
        self.seconds = time.time() - started
        return count

    def is_asked(self) -> bool:
        """Waits for the next item, or for the end. Whether there is an item."""
        item, end = "#item:not([hidden]) .card", "#message[data-kind=done]:not([hidden])"
        self.tab.wait_for_selector(f"{item}, {end}", timeout=SAMPLED)
        return bool(self.tab.locator(item).count())

    def rank(self, drags: bool) -> None:
        """Puts the cards in order and ties those that are equally good; nothing is saved yet."""
        answers = [self.read(card) for card in self.tab.locator(".card").all()]
        keys = [card.inner_text() for card in self.tab.locator(".card .number").all()]
        scores = self.score(answers)
        if not any(scores):
            press(self.tab, "b")  # all bad: they tie
            return
        ranks = ranks_of(scores)
        order = sorted(range(len(keys)), key=ranks.__getitem__)
        for place, card in enumerate(order):
            last = place == len(order) - 1  # it has ranked itself
            if drags and not last:
                drag_card(self.tab, self.tab.locator(f"#card-{keys[card]}"), ".next", 0.5)
            else:
                press(self.tab, *(["End"] if last else keys[card]))
            if place and ranks[card] == ranks[order[place - 1]]:
                press(self.tab, "=")

    @staticmethod
    def read(card: Any) -> str:
        """The answer on a card."""
        return str(card.locator(".text").inner_text()).removesuffix(CUT_OFF)
