"""Sources of raw rows: files, folders, patterns of files, and hub data sets. Rows have places, for errors."""

import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from data.files import DECOMPRESSORS, FORMATS, is_data, read_path
from rlhf import InputError, first_line

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*){0,2}")  # name, owner/name or owner/name/configuration
_URL = re.compile(r"(https?|ftp|s3|gs)://", re.IGNORECASE)


def read_source(name: str, folder: str | None, sample_by: str) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row of `name`: a file, a folder, a pattern of files, or a hub data set.

    Paths are relative to `folder`. A hub data set is "owner/name" or "owner/name/configuration"; ":split" after it
    selects another split than train ("test", "train[:1000]"). A file of a hub data set is
    "hf://datasets/owner/name/file" or "hf://datasets/owner/name@revision/file".
    `sample_by` is the unit of a text file that becomes a document: a "line", a "paragraph" (separated by blank lines;
    one above 20,000 characters is split into lines) or the whole "document". Raises InputError if nothing can be read.
    """
    pattern = path_of(name, folder)
    if not name:
        raise InputError("a source without a name: name a file, a folder or a hub data set")
    if _URL.match(name):
        raise InputError(f"{name}: URLs are not read; download the file, and name the file")
    if name.startswith("hf://"):
        yield from read_path(_hub_file(name), sample_by)
        return
    if os.path.exists(pattern):  # Path.exists raises OSError for a very long name
        yield from read_path(pattern, sample_by)
        return
    paths = sorted(map(Path, glob(str(pattern))))
    for path in paths:
        # "notes/*.md" names the suffix, "notes/*" does not
        if path.is_dir() or path.suffix == pattern.suffix != "" or is_data(path, str(path)):
            yield from read_path(path, sample_by)
    if not paths:
        if not _may_be_on_the_hub(name):
            raise InputError(f"no file at {pattern}: name an existing file or folder, or a hub data set (owner/name)")
        yield from _read_hub(name, pattern)


def path_of(name: str, folder: str | None) -> Path:
    """The path or pattern of a source in `folder`. For a hub data set no such file exists."""
    path = Path(folder or "", name)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such user, whose home folder ~ means; write the whole path") from error


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _may_be_on_the_hub(name: str) -> bool:
    """Whether a name, for which there is no file, has the form of a hub data set's id."""
    dataset = name.partition(":")[0]
    if (
        len(dataset) > 300
        or not _HUB_ID.fullmatch(dataset)
        or Path(dataset).suffix.lower() in (*FORMATS, *DECOMPRESSORS, ".zip")
    ):
        return False
    # names without an owner are those of old data sets ("squad"), which have no dot
    return "/" in dataset or "." not in dataset


def _hub_file(name: str) -> Path:
    """The local copy of a file on the hub, which is downloaded if it is not in the cache."""
    import datasets
    from huggingface_hub import HfFileSystem, hf_hub_download

    _silence(datasets)
    try:
        file: Any = HfFileSystem().resolve_path(name)
        return Path(hf_hub_download(file.repo_id, file.path_in_repo, repo_type=file.repo_type, revision=file.revision))
    except Exception as error:  # whatever the network and the hub raise
        raise InputError(f"{name}: can't be downloaded ({first_line(error)}){_offline(datasets)}") from error


def _read_hub(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a hub data set, read from the disk one at a time. `path` is for messages: no file is there."""
    dataset, _, split = name.partition(":")
    owner, *rest = dataset.split("/")
    repository, configuration = "/".join([owner, *rest[:1]]), rest[1:]
    # for these names load_dataset would read files in the working directory
    if os.path.exists(repository) or (not rest and importlib.util.find_spec(f"datasets.packaged_modules.{owner}")):
        raise InputError(f"no file at {path}: name an existing file or folder, or a hub data set (owner/name)")
    import datasets  # here, because it takes a second, and files don't need it

    _silence(datasets)
    number = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = datasets.load_dataset(repository, *configuration, split=split or "train")
        for number, row in enumerate(rows, start=1):
            yield f"{name}, row {number}", row
    except Exception as error:  # whatever its readers and the network raise
        # the message of DatasetGenerationError has no reason
        generation_failed = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = first_line(error.__cause__ if generation_failed and isinstance(error.__cause__, Exception) else error)
        raise InputError(
            f"{name}: no file at {path}, and datasets can't load it ({reason})"
            f"{_offline(datasets)}; name an existing file or a hub data set"
        ) from error


def _offline(datasets: Any) -> str:
    """The reason why the hub can't be reached, if the user has turned it off."""
    is_off = datasets.config.HF_HUB_OFFLINE
    return "; the hub is off (HF_HUB_OFFLINE is set): only cached data sets can be read" if is_off else ""


def _silence(datasets: Any) -> None:
    """Turns off progress bars and log lines: the InputError has the reason."""
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub", "fsspec", "filelock"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
