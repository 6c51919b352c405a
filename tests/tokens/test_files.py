"""Token ids in files: the same as in memory, made once, and found again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from rlhf.rows import Tally, read_rows, write_rows
from rlhf.tokens import TokenFiles, demonstration_dataset, new_tokenizer, text_dataset, tokenised_text
from rlhf.tokens import files as files_module
from tests.forks import ROOT
from tests.pipeline import environment


@pytest.fixture
def tokenizer():
    return new_tokenizer(["the quick brown fox jumps over the lazy dog"], 300)


@pytest.fixture
def calls(monkeypatch):
    """The numbers of parts that were reported."""
    reported = []
    monkeypatch.setattr(files_module, "SHARD_BYTES", 500)
    return reported


def token_files(folder, key="key", calls=None):
    return TokenFiles([folder], key, lambda done, total: calls.append((done, total)) if calls is not None else None)


def documents(folder, count=100):
    path = folder / "text.jsonl"
    write_rows(path, [{"text": f"document {i}: " + "the quick fox " * (i % 7)} for i in range(count)])
    return read_rows(path, "text")


def test_files_made_by_several_processes_hold_the_same_rows_as_memory(tmp_path, tokenizer, calls):
    rows = documents(tmp_path)
    dataset = text_dataset(rows, tokenizer, 16, token_files(tmp_path / "tokens", calls=calls))
    assert dataset.to_list() == text_dataset(rows, tokenizer, 16).to_list()
    assert len(calls) > 5 and calls[-1] == (len(calls) - 1, len(calls) - 1)


def test_dropped_rows_are_counted_in_every_process(tmp_path, tokenizer, calls):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"prompt": "fox", "completion": " dog" * (40 if i % 3 == 0 else 2)} for i in range(60)])
    tallies = []
    for key in ("one", "one", "two"):
        tally = Tally()
        rows = read_rows(path, "demonstrations", tally)
        dataset = demonstration_dataset(rows, tokenizer, 20, tally, (), token_files(tmp_path / "tokens", key))
        tallies.append((len(dataset), tally.used, tally.dropped))
    assert tallies == [(40, 40, Counter({"longer than 20 tokens": 20}))] * 3


def test_files_are_made_once_for_rows_tokenizer_and_options(tmp_path, tokenizer, calls):
    rows, folder = documents(tmp_path), tmp_path / "tokens"
    text_dataset(rows, tokenizer, 16, token_files(folder, calls=calls))
    made = len(calls)
    text_dataset(rows, tokenizer, 16, token_files(folder, calls=calls))
    assert len(calls) == made
    for other in ((tokenizer, 8, "key"), (tokenizer, 16, "other rows"), (new_tokenizer(["dog fox"], 280), 16, "key")):
        text_dataset(rows, *other[:2], token_files(folder, other[2], calls))
        assert len(calls) > made
        made = len(calls)


def test_a_saved_tokenizer_finds_the_tokens_of_the_one_in_memory(tmp_path, tokenizer):
    from rlhf.tokens import load_tokenizer

    rows, files = documents(tmp_path), token_files(tmp_path / "tokens")
    assert tokenised_text(tokenizer, 16, files) is None
    dataset = text_dataset(rows, tokenizer, 16, files)
    tokenizer.save_pretrained(tmp_path / "model")
    found, count = tokenised_text(load_tokenizer(tmp_path / "model"), 16, files)
    assert found.to_list() == dataset.to_list() and count == len(rows)


def test_files_of_a_second_folder_are_found_and_new_ones_are_made_in_the_first(tmp_path, tokenizer):
    rows = documents(tmp_path)
    text_dataset(rows, tokenizer, 16, token_files(tmp_path / "base"))
    both = TokenFiles([tmp_path / "run", tmp_path / "base"], "key", lambda done, total: None)
    text_dataset(rows, tokenizer, 16, both)
    assert not (tmp_path / "run").exists()
    text_dataset(rows, tokenizer, 8, both)
    assert len(list((tmp_path / "run").iterdir())) == 1


KILLED = """
import sys, time
from rlhf.rows import read_rows
from rlhf.tokens import TokenFiles, files, new_tokenizer, text_dataset
files.SHARD_BYTES = 500
tokenizer = new_tokenizer(["fox"], 280)
def progress(done, total):
    print(done, flush=True)
    if done == 2:
        time.sleep(60)
text_dataset(read_rows(sys.argv[1], "text"), tokenizer, 16, TokenFiles([files.Path(sys.argv[2])], "key", progress))
"""


def test_a_kill_leaves_no_finished_files_and_no_process(tmp_path):
    documents(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "text.jsonl"), str(tmp_path / "tokens")]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline().strip() != "2":
            pass
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        process.send_signal(signal.SIGKILL)
    assert children.stdout.split()
    deadline = time.time() + 10
    while time.time() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in children.stdout.split()):
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children.stdout.split())
    assert not [path for path in (tmp_path / "tokens").glob("*/done.json") if not path.parent.name.startswith(".")]


def test_the_run_keeps_tokens_and_ppo_takes_those_of_pretraining(toy_run):
    names = Counter(path.parent.name.partition("-")[0] for path in (toy_run / ".tokens").glob("*/done.json"))
    assert names["text"] == 1 and set(names) >= {"text", "demonstration", "comparison", "prompt"}
    (text,) = (toy_run / ".tokens").glob("text-*/done.json")
    assert json.loads(text.read_text())["rows"] == 800
