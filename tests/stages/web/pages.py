"""A served page for tests: a process of `stages.rank` or `stages.chat`, and requests to it that no browser would send."""

import http.client
import json
import re
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.forks import ROOT
from tests.pipeline import environment

ANSWERS = ["Thank you, and have a good day!", "No.", "Paris. It lies on the Seine.", "Perhaps."]


def write_comparisons(folder: Path, count: int = 6, answers: list | None = None) -> Path:
    """A file of comparisons, whose own ranks are those of the order in it."""
    answers = answers or ANSWERS
    path = folder / "comparisons.jsonl"
    rows = [
        {"prompt": f"What is the capital of France ({i})?", "completions": answers, "ranks": list(range(len(answers)))}
        for i in range(count)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


class Page:
    """`make rank` of a file, as a process."""

    program = "rank"

    def __init__(self, folder: Path, *arguments: str, comparisons: Path | None = None):
        self.folder = folder / "rankings"
        self.path = self.folder / "rankings.jsonl"
        self.source = comparisons or write_comparisons(folder)
        self.arguments = ["--run", str(folder), "--comparisons", str(self.source), "--no_browser", *arguments]
        self.start()

    def start(self) -> None:
        """Starts the server, or starts it again, and waits for its address."""
        command = [sys.executable, "-u", "-m", f"stages.{self.program}", *self.arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if found := re.search(r"http://([^/:]+):(\d+)/(\S+)/$", line.rstrip()):
                self.address, self.port, self.token = found[0], int(found[2]), found[3]
                return
        raise AssertionError(self.output)

    def kill(self) -> None:
        """Kills the server, which can't clean up."""
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGINT) -> int:
        """Ends the server as Ctrl-C does; its status. What it printed is in `output`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.stdout  # not communicate, which omits the lines that were read ahead
        self.output += self.process.stdout.read()
        self.process.wait(60)
        assert "Traceback" not in self.output, self.output
        return self.process.returncode

    def rows(self) -> list[dict]:
        """The lines of rankings.jsonl."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def request(
        self, method: str, path: str, body: bytes = b"", token: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Status and body of a raw request; `headers` replace those of the page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(
            method, f"/{self.token if token is None else token}{path}", skip_host=True, skip_accept_encoding=True
        )
        defaults = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json"}
        for name, value in {**defaults, "Content-Length": str(len(body)), **given}.items():
            connection.putheader(name, value)
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before the body was read
            connection.send(body)
        answer = connection.getresponse()
        result = answer.status, answer.read()
        connection.close()
        return result

    def post(self, path: str, **body: object) -> dict:
        """The answer to a request as the page sends it."""
        status, answer = self.request("POST", f"/{path}", json.dumps(body).encode())
        assert status == 200, answer
        return json.loads(answer)

    def item(self, rater: str = "Ada") -> dict:
        """A person's next item, for which it waits."""
        while "item" not in (turn := self.post("next", rater=rater)):
            time.sleep(0.1)
        return turn["item"]

    def decide(self, rater: str = "Ada", **columns: object) -> dict:
        """Decides a person's next item, all cards in the order in which they are shown."""
        item = self.item(rater)
        ranks = list(range(len(item["cards"])))
        body = {"rater": rater, "submission": secrets.token_hex(16), "id": item["id"], "ranks": ranks, "seconds": 2}
        return self.post("decide", **(body | columns))


class ChatPage(Page):
    """`make chat WEB=1` with models in folders, as a process."""

    program = "chat"

    def __init__(self, folder: Path, models: list[Path], *arguments: str):
        self.folder = folder / "rankings" / "chat"
        self.path = self.folder / "rankings.jsonl"
        self.arguments = [
            "--run",
            str(folder),
            "--models",
            *map(str, models),
            "--web",
            "--no_browser",
            "--template",
            "chat",
            *arguments,
        ]
        self.start()
