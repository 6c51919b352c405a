"""Numbers that a program has measured: files in runs/measured/, which `python -m tests.pages` copies to docs/measured/.

A file has entries by name, a line each, with date, machine and numbers. A later entry of a name replaces it.
"""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WRITTEN, PUBLISHED = ROOT / "runs" / "measured", ROOT / "docs" / "measured"
Entries = dict[str, dict[str, Any]]


class Missing(KeyError):
    """No program has written the numbers yet."""


def entry(numbers: Any, day: str | None = None, machine: str | None = None) -> dict[str, Any]:
    """An entry of today and of this machine, unless they are given."""
    return {
        "date": day or f"{date.today()}",
        "machine": this_machine() if machine is None else machine,
        "numbers": numbers,
    }


def this_machine() -> str:
    """The GPU, or the processor and the number of cores that this process may use."""
    from stages.common.machine import this_machine as described  # not at the top, which TRL's side imports

    facts = described()
    return facts.get("GPU") or describe(facts)


def describe(facts: Mapping[str, str]) -> str:
    """The processor and its cores in words."""
    instructions = f", {facts['instructions']}" if "instructions" in facts else ""
    return f"{facts['cores']} cores of an {facts['processor']}{instructions}"


def record(name: str, numbers: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Adds entries to the file of that name in runs/measured/, and returns its path."""
    return merge(name, {key: entry(value) for key, value in numbers.items()}, folder or WRITTEN)


def merge(name: str, entries: Entries, folder: Path) -> Path:
    """Adds entries to the file of that name in a folder, in the order in which they first came."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lines = (f"{json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in {**old, **entries}.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def read(name: str, folder: Path | None = None) -> Entries:
    """The published entries of a file. Raises Missing if there is none."""
    path = (folder or PUBLISHED) / f"{name}.json"
    if not path.is_file():
        raise Missing(name)
    return json.loads(path.read_text(encoding="utf-8"))


def where(entries: Entries) -> str:
    """The dates and the machines of entries in words: `2026-11-28, 2 cores of an AMD EPYC`."""
    days = sorted({one["date"] for one in entries.values()})
    machines = list(dict.fromkeys(one["machine"] for one in entries.values() if one["machine"]))
    return ", ".join([days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}", *machines])
