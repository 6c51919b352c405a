"""Datasets of token ids: in memory, or in Arrow files that are mapped into memory.

The files are made once for each combination of rows, tokenizer, options and code, by several processes.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.rows import Row, Tally
from rlhf.run.files import read_json, write_json

Columns = dict[str, list[Any]]
Function = Callable[..., tuple[Columns, Counter[str]]]  # (rows, index of the first one) -> columns, dropped rows

CHUNK_ROWS, CHUNK_BYTES = 1000, 2**22  # maximum of rows, and of their bytes, that are tokenised at once
SHARD_BYTES = 2**23  # bytes of rows whose token ids are in one file
DONE, SHARD = "done.json", "tokens-"  # datasets keeps files of its own, cache-*, beside the shards
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

    def find(self, name: str) -> Path | None:
        """The folder of finished files, if there is one."""
        return next((folder / name for folder in self.folders if (folder / name / DONE).is_file()), None)


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
    folder = files.find(_name(function, files.key)) or make_files(rows, function, files)
    dataset, done = _load(folder)
    tally.drop(Counter(done["dropped"]))
    return dataset


def find_dataset(function: "partial[tuple[Columns, Counter[str]]]", files: TokenFiles) -> tuple[Dataset, int] | None:
    """The dataset, if its files have been made, and the number of rows that it was made from."""
    if folder := files.find(_name(function, files.key)):
        dataset, done = _load(folder)
        return dataset, done["rows"]
    return None


def _load(folder: Path) -> tuple[Dataset, dict[str, Any]]:
    shards = [Dataset.from_file(str(path)) for path in sorted(folder.glob(f"{SHARD}*"))]
    return concatenate_datasets(shards), read_json(folder / DONE)


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


def make_files(rows: Sequence[Row], function: "partial[tuple[Columns, Counter[str]]]", files: TokenFiles) -> Path:
    """Writes the dataset to Arrow files; returns their folder."""
    folder = files.folders[0] / _name(function, files.key)
    partial_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    count = max(1, sum(getattr(rows, "size", lambda index: 0)(i) for i in range(len(rows))) // SHARD_BYTES)
    shards = [range(len(rows) * i // count, len(rows) * (i + 1) // count) for i in range(count)]
    dropped: Counter[str] = Counter()
    files.progress(0, count)
    write = partial(_write_shard, rows, function, partial_folder)
    results = map(write, shards) if count == 1 else _in_processes(write, shards)
    for done, counts in enumerate(results, start=1):
        dropped += counts
        files.progress(done, count)
    write_json(partial_folder / DONE, {"rows": len(rows), "dropped": dropped})
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)
    return folder


def _write_shard(rows: Sequence[Row], function: Function, folder: Path, indices: range) -> Counter[str]:
    """Writes the columns of some rows to an Arrow file; returns the counts of dropped rows."""
    dropped: Counter[str] = Counter()
    writer = None
    with pa.OSFile(str(folder / f"{SHARD}{indices.start:012}.arrow"), "wb") as sink:
        for start, part in chunks(rows, indices):
            columns, counts = function(part, start)
            table = _table(columns)
            writer = writer or pa.ipc.new_stream(sink, table.schema)
            writer.write_table(table)
            dropped += counts
        if writer:
            writer.close()
    return dropped


_work: Callable[[range], Counter[str]]  # of a process that writes shards


def _in_processes(work: Callable[[range], Counter[str]], shards: list[range]) -> Iterator[Counter[str]]:
    """The results of `work` for each shard, in order, computed by a process per CPU core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # fork, so that the processes share the tokenizer and the positions of the rows
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(min(cores, len(shards)), context, _start_process, (work, os.getpid()))
    try:
        yield from pool.map(_call, shards)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(work: Callable[[range], Counter[str]], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a signal means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended; a killed parent can't end it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _call(indices: range) -> Counter[str]:
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
