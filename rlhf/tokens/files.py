"""Datasets of token ids: in memory, or in Arrow files that are mapped into memory.

The files are made once for each combination of rows, tokenizer, options and code, by several processes. Damaged files
are made again.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf import InputError
from rlhf.engine import on_main, process_count
from rlhf.rows import Row, Tally
from rlhf.run.files import read_json, replace, write_json

Columns = dict[str, list[Any]]
Function = Callable[..., tuple[Columns, Counter[str]]]  # (rows, index of the first one) -> columns, dropped rows
Written = tuple[int, Counter[str]]  # examples in a file, and dropped rows

CHUNK_ROWS, CHUNK_BYTES = 1000, 2**22  # maximum of rows, and of their bytes, that are tokenised at once
# Bytes of rows per file of token ids; more if that would give over MAX_SHARDS files: the system limits mapped files.
SHARD_BYTES, MAX_SHARDS = 2**21, 1000
DONE, SHARD, PARTIAL = "done.json", "tokens-", ".partial"
_TOKENS = pa.list_(pa.int32())
_TYPES = {
    "input_ids": _TOKENS,
    "labels": _TOKENS,
    "sequences": pa.list_(_TOKENS),
    "ranks": pa.list_(pa.float64()),
    "length": pa.int32(),
    "not_located": pa.int32(),
    "row": pa.int64(),
}


@dataclass
class TokenFiles:
    """Folders of token ids, and a key of the rows that they are made from."""

    folders: Sequence[Path]  # files are looked for in all, and made in the first one
    key: str
    progress: Callable[[int, int], None]  # called with the numbers of parts made and of all parts

    def find(self, name: str) -> "Found | None":
        """What is in the first folder with finished files that are not damaged; None if there is none."""
        return next((found for folder in self.folders if (found := _load(folder / name))), None)


@dataclass
class Found:
    """Token ids in finished files, the number of rows that they were made from, and the counts of dropped rows."""

    dataset: Dataset
    rows: int
    dropped: Counter[str]


def dataset_of(
    rows: Sequence[Row],
    function: "partial[tuple[Columns, Counter[str]]]",
    files: TokenFiles | None,
    tally: Tally | None = None,
) -> Dataset:
    """The columns that `function` makes of the rows. Rows that it drops are counted in `tally`."""
    tally = Tally() if tally is None else tally
    if files is None:
        tables = []
        for start, part in list(chunks(rows, range(len(rows)))) or [(0, [])]:
            columns, dropped = function(part, start)
            tables.append(_table(columns))
            tally.drop(dropped)
        return Dataset(InMemoryTable(pa.concat_tables(tables)))
    name = _name(function, files.key)
    if process_count() > 1:  # the main process makes the files, and the others find them
        on_main(lambda: bool(files.find(name) or make_files(rows, function, files)))
    found = files.find(name) or make_files(rows, function, files)
    tally.drop(found.dropped)
    return found.dataset


def find_dataset(function: "partial[tuple[Columns, Counter[str]]]", files: TokenFiles) -> tuple[Dataset, int] | None:
    """The dataset, if its files have been made, and the number of rows that it was made from."""
    found = files.find(_name(function, files.key))
    return (found.dataset, found.rows) if found else None


def _load(folder: Path) -> Found | None:
    """The finished files in a folder; None if there are none, or if one is damaged, missing or unreadable."""
    try:
        done = read_json(folder / DONE)
        dataset = concatenate_datasets([Dataset.from_file(str(path)) for path in sorted(folder.glob(f"{SHARD}*"))])
        found = Found(dataset, int(done["rows"]), Counter(done["dropped"]))
        # a file that ends between two batches is no error for Arrow
        return found if len(dataset) == done["examples"] else None
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def chunks(rows: Sequence[Row], indices: range) -> Iterator[tuple[int, Sequence[Row]]]:
    """(index of the first row, rows): consecutive rows, up to CHUNK_ROWS and CHUNK_BYTES at once."""
    size = getattr(rows, "size", lambda index: 0)
    start = indices.start
    while start < indices.stop:
        stop, bytes_left = start + 1, CHUNK_BYTES - size(start)
        while stop < min(indices.stop, start + CHUNK_ROWS) and (bytes_left := bytes_left - size(stop)) > 0:
            stop += 1
        yield start, rows[start:stop]
        start = stop


def _table(columns: Columns) -> pa.Table:
    return pa.table({name: pa.array(values, _TYPES[name]) for name, values in columns.items()})


# --- making files -----------------------------------------------------------------------------------------------------


def make_files(rows: Sequence[Row], function: "partial[tuple[Columns, Counter[str]]]", files: TokenFiles) -> Found:
    """Writes the dataset to Arrow files; returns it.

    Waits for another process that is making files in the same folder. Raises InputError if a process is killed.
    """
    name = _name(function, files.key)
    with _locked(files.folders[0]) as place:
        if found := files.find(name):
            return found
        partial_folder = place / f".{name}{PARTIAL}"
        partial_folder.mkdir()
        try:
            _write(rows, function, partial_folder, files.progress)
            replace(partial_folder, place / name)
        except BaseException:
            shutil.rmtree(partial_folder, ignore_errors=True)  # the disk may be full
            raise
    found = _load(place / name)
    if found is None:
        raise InputError(f"{place / name}: token ids that have just been written can't be read; remove the folder")
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The folder, in which no other process makes files now. What a killed process has left there is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for rest in folder.glob(f".*{PARTIAL}"):
            shutil.rmtree(rest, ignore_errors=True)
        yield folder
    finally:
        os.close(descriptor)


def _write(
    rows: Sequence[Row],
    function: "partial[tuple[Columns, Counter[str]]]",
    folder: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Writes the files of a dataset, and last the one that marks them as finished."""
    size = sum(getattr(rows, "size", lambda index: 0)(i) for i in range(len(rows)))
    count = max(1, min(size // SHARD_BYTES, MAX_SHARDS, len(rows)))
    shards = [range(len(rows) * i // count, len(rows) * (i + 1) // count) for i in range(count)]
    examples, dropped = 0, Counter[str]()
    progress(0, count)
    with closing(_results(partial(_write_shard, rows, function, folder), shards)) as results:
        for done, (its_examples, its_dropped) in enumerate(results, start=1):
            examples, dropped = examples + its_examples, dropped + its_dropped
            progress(done, count)
    write_json(folder / DONE, {"rows": len(rows), "examples": examples, "dropped": dropped})


def _write_shard(rows: Sequence[Row], function: Function, folder: Path, indices: range) -> Written:
    """Writes the columns of some rows to an Arrow file."""
    examples, dropped = 0, Counter[str]()
    writer = None
    with pa.OSFile(str(folder / f"{SHARD}{indices.start:012}.arrow"), "wb") as sink:
        for start, part in chunks(rows, indices):
            columns, counts = function(part, start)
            table = _table(columns)
            writer = writer or pa.ipc.new_stream(sink, table.schema)
            writer.write_table(table)
            examples, dropped = examples + len(table), dropped + counts
        if writer:
            writer.close()
    return examples, dropped


_work: Callable[[range], Written]  # of a process that writes shards


def _results(work: Callable[[range], Written], shards: list[range]) -> Generator[Written, None, None]:
    """The results of `work` for each shard, in order, computed by a process per CPU core if there are several."""
    if len(shards) == 1:
        yield work(shards[0])
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # fork, so that the processes share the tokenizer and the positions of the rows
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(min(cores, len(shards)), context, _start_process, (work, os.getpid()))
    try:
        yield from pool.map(_call, shards)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that computes token ids was killed, usually because memory is exhausted: free memory, or allow "
            "fewer processes, for instance with `taskset -c 0`"
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # otherwise the shards that have begun would be finished first
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(work: Callable[[range], Written], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a signal means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, because a killed parent can't do it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _call(indices: range) -> Written:
    return _work(indices)


# --- keys -------------------------------------------------------------------------------------------------------------


def _name(function: "partial[tuple[Columns, Counter[str]]]", key: str) -> str:
    """The name of the folder: the function, and a hash of the key, of the tokenizer and of the other arguments."""
    arguments = {
        name: _fingerprint(value) if isinstance(value, PreTrainedTokenizerBase) else value
        for name, value in function.keywords.items()
    }
    text = json.dumps([key, arguments], sort_keys=True)
    return f"{function.func.__name__.removesuffix('_columns')}-{sha256(text.encode()).hexdigest()[:16]}"


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything in a tokenizer that changes token ids."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["truncation"] = backend["padding"] = None  # not used
    else:
        backend = [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs]
    parts = [backend, tokenizer.chat_template, tokenizer.special_tokens_map]
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
