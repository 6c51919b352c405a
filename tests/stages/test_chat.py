"""make chat: answers, commands, several turns and Ctrl-C."""

import copy
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from rlhf import InputError
from rlhf.escape import printable
from rlhf.models import load_policy
from rlhf.rollout import sample_completions
from rlhf.rows import read_rows
from rlhf.tokens import load_tokenizer, prompt_ids
from stages.chat import work
from stages.common.answers import Answerer
from stages.common.conversation import Conversation, Reply, Turn
from stages.common.export import chat_template
from stages.common.parsing import parse_given
from stages.common.stage import Stage
from tests.conftest import tiny_gpt2
from tests.forks import ROOT
from tests.pipeline import TOY, checked, command, environment, stage, venv
from tests.test_escape import FORBIDDEN

TEMPLATE = "User: {}\nBot:"  # of the toy recipe


def piped(lines: list[str], *arguments: str, run, status: int = 0) -> str:
    """The output of a chat in a process of its own whose input is a pipe."""
    done = subprocess.run(
        command("chat", *arguments, run=run), input="".join(f"{line}\n" for line in lines).encode(), cwd=ROOT,
        env=environment(), timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return checked(done.returncode, done.stdout.decode(), status)


@pytest.fixture
def chat(toy_run, monkeypatch, capsys):
    """A function that gives the output of a chat in this process for lines of input and options."""

    def output(lines: list[str], *arguments: str) -> str:
        typed = io.BytesIO("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(typed, encoding="utf-8"))
        parsed = parse_given("chat", ["--recipe", TOY, "--run", str(toy_run), *arguments])
        work(parsed.options, Stage("chat", parsed))
        return capsys.readouterr().out

    return output


@pytest.fixture(scope="module")
def sft(toy_run) -> Answerer:
    tokenizer = load_tokenizer(toy_run / "sft")
    return Answerer("sft", str(toy_run / "sft"), load_policy(toy_run / "sft", tokenizer), tokenizer)


def sampled(model: Answerer, prompt: str, seed: int, temperature: float = 1.0) -> str:
    """What `make samples` shows for the prompt, and then what the terminal shows of it."""
    ids = prompt_ids(model.tokenizer, [prompt])
    (completion,) = sample_completions(
        model.policy, model.tokenizer, ids, response_length=24, temperature=temperature, seed=seed
    )
    lines = completion.text.lstrip().split("\n")
    return f"\n{' ' * 5}".join(map(printable, lines)) + ("" if completion.finished else " ...")


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_one_that_samples_gives_with_the_same_seed_and_temperature(toy_run, sft):
    lines = ["Who is Rose?", "/retry", "/seed 7", "/temperature 0.5", "Who is Rose?"]
    output = piped(lines, "--models", "sft", "--response_length", "24", run=toy_run)
    prompt = "User: Who is Rose?\nBot:"
    expected = [sampled(sft, prompt, 1), sampled(sft, prompt, 2), sampled(sft, prompt, 7, 0.5)]
    assert [f"sft: {text}\n" in output for text in expected] == [True] * 3
    assert len(set(expected)) == 3
    assert not FORBIDDEN.search(output.replace("\n", ""))


def test_compare_shows_the_answer_of_every_model_and_keeps_that_of_the_model_in_use(chat):
    output = chat(["/compare Hello", "/model sft", "/compare", "/retry"])
    answers = [line.split(":")[0] for line in output.split("\n") if re.match(r"(pretrain|sft|ppo): ", line)]
    assert answers == [*["pretrain", "sft", "ppo"] * 2, "sft"]
    first, second = output.split("> /model sft")
    compared = [line for line in first.split("\n") if line.startswith(("pretrain: ", "sft: ", "ppo: "))]
    assert all(line in second for line in compared)


def test_what_can_not_be_done_is_said_and_the_chat_goes_on(chat):
    lines = ["/modle sft", "/temperature hot", "/temperature -1", "/seed 1.5", "/retry", "/save", "/history maybe"]
    lines += ["/model no/such/model", "\udcff", "word " * 300, "/save no/such/folder/a.jsonl", "/new", "Hello", "/quit"]
    output = chat([*lines, "never read"], "--models", "sft")
    for said in (
        'no command /modle, did you mean "model"?; there are /model, /compare, /retry', "temperature is 'hot'; it must be",
        "temperature is -1.0", "seed is '1.5'; it must be a whole number", "there is no message yet", "name a file",
        "/history on or /history off", "no/such/model", "the line is not UTF-8", "the message is too long",
    ):  # fmt: skip
        assert said in output, said
    assert output.rstrip().endswith("> /quit") and "\nsft: " in output.split("> Hello")[1]


def test_saved_answers_are_demonstrations(chat, tmp_path):
    saved = tmp_path / "a.jsonl"
    # among so many seeds some answers of the toy model end
    lines = [line for _ in range(12) for line in ("Hello", "/retry")]
    chat([*lines, f"/save {saved}", f"/save {saved}"], "--models", "sft", "--response_length", "60")
    rows = list(read_rows(saved, "demonstrations"))
    assert rows and rows == 2 * rows[: len(rows) // 2]
    assert {row["prompt"] for row in rows} == {"User: Hello\nBot:"}


# --- several turns ----------------------------------------------------------------------------------------------------

TURNS = [Turn("a", " b\n", True), Turn("c", "d"), Turn("e")]


def test_earlier_turns_are_rendered_by_the_chat_template(tokenizer):
    conversation = Conversation(system="s", turns=TURNS)
    ids = prompt_ids(tokenizer, [conversation.prompt(0)])[0]
    end = tokenizer.eos_token
    assert tokenizer.decode(ids) == (
        f"s\n\nHuman: a\n\nAssistant: b{end}\n\nHuman: c\n\nAssistant: d{end}\n\nHuman: e\n\nAssistant:"
    )


def test_a_template_of_text_is_put_around_each_message():
    conversation = Conversation(TEMPLATE, system="s", turns=TURNS)
    assert conversation.prompt(0) == "s\nUser: a\nBot: b\n\nUser: c\nBot:d\nUser: e\nBot:"
    assert conversation.prompt(2) == "s\nUser: e\nBot:"
    with pytest.raises(InputError, match="template is 'Bot:'"):
        Conversation("Bot:")


def test_only_finished_answers_are_demonstrations():
    turns = [Turn("a", " b", True, "User: a\nBot:"), Turn("c", " d", False, "User: c\nBot:")]
    assert Conversation(TEMPLATE, turns=turns).demonstrations() == [{"prompt": "User: a\nBot:", "completion": " b"}]
    messages = [{"role": "user", "content": "a"}]
    chats = Conversation(turns=[Turn("a", " b", True, messages)]).demonstrations()
    assert chats == [{"prompt": messages, "completion": [{"role": "assistant", "content": "b"}]}]


def test_the_oldest_turns_are_left_out_when_the_context_is_full(sft):
    turns = [Turn("word " * 12, " yes" * 5, True) for _ in range(6)]
    conversation = Conversation(TEMPLATE, turns=turns)
    prompt, ids, left_out = conversation.prompt_for(sft, 24)
    assert 0 < left_out < 5 and prompt == conversation.prompt(left_out)
    # the turn before would not fit into the toy context of 128 tokens beside the answer
    assert len(ids) <= 128 - 24 < len(prompt_ids(sft.tokenizer, [conversation.prompt(left_out - 1)])[0])
    assert len(list(Reply(sft, ids, 24, 0.0, 0).ids)) <= 24
    conversation.history = False
    assert conversation.prompt_for(sft, 24)[0] == conversation.prompt(5)


def test_left_out_turns_are_mentioned_once(chat):
    output = chat(["/history on", *["word " * 8] * 6], "--models", "sft", "--response_length", "24")
    assert output.count("the context of sft is full: from now on the oldest turns are left out") == 1
    assert output.count("\nsft: ") == 6


# --- on a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, *words: str):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=environment(TERM="xterm"), stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Reads until the text comes; what was read, with the text, which is then forgotten."""
        until = time.time() + seconds
        while text not in self.output:
            assert time.time() < until and select.select([self.master], [], [], max(until - time.time(), 0))[0], (
                self.output
            )
            self.output += os.read(self.master, 4096).decode(errors="replace")
        read, _, self.output = self.output.partition(text)
        return read + text


@pytest.fixture
def endless(tokenizer, tmp_path):
    """The folder of a model whose greedy answers go on for thousands of tokens."""
    model = tiny_gpt2()
    model.config.n_positions = 8000
    model = type(model)(model.config)
    model.save_pretrained(tmp_path / "endless")
    tokenizer.save_pretrained(tmp_path / "endless")
    return tmp_path / "endless"


def test_ctrl_c_stops_the_answer_and_neither_the_chat_nor_make(endless, toy_run):
    variables = (f"VENV={venv()}", f"RECIPE={TOY}", f"RUN={toy_run}", f"MODEL={endless}")
    terminal = Terminal("make", "chat", *variables, "ARGS=--temperature 0 --response_length 7000")
    try:
        terminal.wait_for("> ")
        terminal.type("Hello\n")
        terminal.wait_for("endless: ")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("> ")
        terminal.type("\x1b[A\n")  # arrow up brings the message back
        assert "Hello" in terminal.wait_for("endless: ")
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("> ")
        terminal.type("half a mess")
        terminal.wait_for("half a mess")
        time.sleep(0.5)  # a signal that comes before readline waits for a key is seen with the next key only
        terminal.type("\x03")
        terminal.wait_for("/quit or Ctrl-D leaves")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


# --- for other programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
def test_the_exported_chat_template_renders_prompts_as_the_chat_does(tokenizer, history):
    conversation = Conversation('<<{}>>\nBot "x":', history, "s", [Turn("a", " b", True), Turn("c {}")])
    tokenizer = load_tokenizer_with(tokenizer, chat_template(conversation))
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("system", "user", "assistant", "user"), "sabc", strict=True)
    ]
    messages[-1]["content"] = "c {}"
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == conversation.prompt(0 if history else 1)


def load_tokenizer_with(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def test_an_exported_model_answers_in_transformers_as_in_the_chat(toy_run, sft, tmp_path):
    from transformers import pipeline

    folder = tmp_path / "mine"
    stage("chat", "--models", "sft", "--export", folder, run=toy_run)
    assert "is not empty" in stage("chat", "--models", "sft", "--export", folder, run=toy_run, status=2)
    assert {path.name for path in folder.iterdir()} >= {"README.md", "model.safetensors", "chat_template.jinja"}
    generate = pipeline("text-generation", str(folder))
    messages = [{"role": "user", "content": "Who is Rose?"}]
    (answer,) = generate(messages, max_new_tokens=24, do_sample=False)
    text = Conversation(TEMPLATE, False, turns=[Turn("Who is Rose?")])
    reply = Reply(sft, text.prompt_for(sft, 24)[1], 24, 0.0, 0)
    assert answer["generated_text"][-1]["content"] == "".join(reply)
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["do_sample"] and (settings["top_k"], settings["top_p"], settings["temperature"]) == (0, 1.0, 1.0)
