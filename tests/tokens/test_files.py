"""Token ids in files: the same as in memory, made once, and found again."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from unittest.mock import patch

import pyarrow as pa
import pytest

from rlhf import InputError
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


def cut_within_a_batch(shards, done):
    shards[1].write_bytes(shards[1].read_bytes()[:-200])


def cut_between_batches(shards, done):
    """What is left is a shorter file, which Arrow reads without an error."""
    with pa.OSFile(str(shards[1])) as source, pa.ipc.open_stream(source) as reader:
        batches = list(reader)
    with pa.OSFile(str(shards[1]), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        writer.write_batch(batches[0].slice(0, 1))


def without_a_shard(shards, done):
    shards[1].unlink()


def without_shards(shards, done):
    for path in shards:
        path.unlink()


def shard_is_a_folder(shards, done):
    shards[1].unlink()
    shards[1].mkdir()


def empty_record(shards, done):
    done.write_text("{}")


def no_json(shards, done):
    done.write_bytes(b"\x80")


def wrong_types(shards, done):
    done.write_text('{"rows": [], "examples": null, "dropped": 3}')


@pytest.mark.parametrize(
    "damage",
    [cut_within_a_batch, cut_between_batches, without_a_shard, without_shards, shard_is_a_folder, empty_record, no_json,
     wrong_types],
)  # fmt: skip
@pytest.mark.parametrize("place", ["run", "base"])
def test_damaged_files_are_made_again_in_the_run(tmp_path, tokenizer, calls, damage, place):
    rows = documents(tmp_path)
    folders = [tmp_path / "run", tmp_path / "base"]
    text_dataset(rows, tokenizer, 16, token_files(tmp_path / place))
    (done,) = (tmp_path / place).glob("*/done.json")
    damage(sorted(done.parent.glob("tokens-*")), done)
    damaged = {path: path.stat().st_mtime_ns for path in (tmp_path / place).rglob("*")}
    files = TokenFiles(folders, "key", lambda done, total: None)
    assert tokenised_text(tokenizer, 16, files) is None
    expected = text_dataset(rows, tokenizer, 16)
    assert text_dataset(rows, tokenizer, 16, files).to_list() == expected.to_list()
    assert tokenised_text(tokenizer, 16, TokenFiles(folders[:1], "key", files.progress))[1] == len(rows)
    if place == "base":
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / place).rglob("*")} == damaged


def test_rows_that_are_each_larger_than_a_file_are_written_to_files_of_one_row(tmp_path, tokenizer, calls):
    write_rows(tmp_path / "text.jsonl", [{"text": "the quick fox " * 200} for _ in range(2)])
    rows = read_rows(tmp_path / "text.jsonl", "text")
    dataset = text_dataset(rows, tokenizer, 16, token_files(tmp_path / "tokens", calls=calls))
    assert dataset.to_list() == text_dataset(rows, tokenizer, 16).to_list()
    assert calls[-1] == (2, 2)


def test_the_number_of_cpu_cores_changes_no_byte(tmp_path, tokenizer, calls, monkeypatch):
    rows, contents = documents(tmp_path), []
    for cores in (1, 2, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        text_dataset(rows, tokenizer, 16, token_files(tmp_path / str(cores)))
        contents.append([path.read_bytes() for path in sorted((tmp_path / str(cores)).glob("*/*"))])
    assert contents[0] == contents[1] == contents[2] and len(contents[0]) > 5


def failing(rows, start, marker, action):
    """Columns of prompts; in the second part of the rows the action is taken."""
    if start > 20:
        marker.touch()
        action()
    return {"input_ids": [[1]] * len(rows), "length": [1] * len(rows), "row": [0] * len(rows)}, Counter()


def test_a_killed_process_is_an_error_that_says_so_and_leaves_no_files(tmp_path, calls):
    rows = documents(tmp_path)
    function = partial(failing, marker=tmp_path / "marker", action=lambda: os.kill(os.getpid(), signal.SIGKILL))
    with patch.object(files_module, "_name", lambda function, key: "text-1"), pytest.raises(InputError, match="memory"):
        files_module.make_files(rows, function, token_files(tmp_path / "tokens"))
    assert list((tmp_path / "tokens").iterdir()) == []


def test_an_interruption_does_not_wait_for_the_parts_that_have_begun(tmp_path, calls):
    rows, started = documents(tmp_path), time.time()
    function = partial(failing, marker=tmp_path / "marker", action=lambda: time.sleep(60))

    def progress(done, total):
        if done == 1:
            raise KeyboardInterrupt

    files = TokenFiles([tmp_path / "tokens"], "key", progress)
    with patch.object(files_module, "_name", lambda function, key: "text-1"), pytest.raises(KeyboardInterrupt):
        files_module.make_files(rows, function, files)
    assert time.time() - started < 30
    assert list((tmp_path / "tokens").iterdir()) == []


def in_processes(work, count):
    """The results of `work` in `count` forked processes that begin at the same time."""
    context = multiprocessing.get_context("fork")
    results, barrier = context.Queue(), context.Barrier(count)

    def run():
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
        barrier.wait()
        results.put(work())

    processes = [context.Process(target=run) for _ in range(count)]
    for process in processes:
        process.start()
    return [results.get(timeout=60) for _ in processes]


@pytest.mark.parametrize("shard_bytes", [500, 10**6])
def test_a_file_that_can_not_be_written_is_an_error_of_the_system_and_frees_the_disk(
    tmp_path, tokenizer, monkeypatch, shard_bytes
):
    rows = documents(tmp_path)
    monkeypatch.setattr(files_module, "SHARD_BYTES", shard_bytes)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            return len(text_dataset(rows, tokenizer, 16, token_files(tmp_path / "tokens")))
        except OSError as error:
            return f"errno {error.errno}"

    assert in_processes(work, 1) == [f"errno {errno.EFBIG}"]
    assert list((tmp_path / "tokens").iterdir()) == []


def test_processes_that_need_the_same_files_make_them_once(tmp_path, tokenizer, calls):
    rows = documents(tmp_path, 1000)

    def work():
        calls = []
        text_dataset(rows, tokenizer, 16, token_files(tmp_path / "tokens", calls=calls))
        return len(calls)

    made = sorted(in_processes(work, 3))
    assert made[:2] == [0, 0] and made[2] > 5


def test_what_a_killed_process_left_is_removed(tmp_path, tokenizer):
    (tmp_path / "tokens" / ".text-0.partial").mkdir(parents=True)
    text_dataset(documents(tmp_path), tokenizer, 16, token_files(tmp_path / "tokens"))
    assert len(list((tmp_path / "tokens").iterdir())) == 1


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
