"""Copies measured numbers to docs/measured/, and writes them into the pages.

    python -m tests.pages                             writes the pages again
    python -m tests.pages runs/tiny runs/tiny-seed1   runs after `make evaluate`
    python -m tests.pages runs/measured/*.json        what the programs of tests/ have written

A test compares the pages with the files.
"""

import json
import sys
from pathlib import Path

from tests.pages.blocks import rewrite
from tests.pages.measured import PUBLISHED, ROOT, merge
from tests.pages.runs import FILE, entry_of_run


def publish(path: Path) -> Path:
    """Copies the numbers of a run's folder, or the entries of a file, and returns the published file."""
    if path.is_dir():
        return merge(FILE, {path.name: entry_of_run(path)}, PUBLISHED)
    return merge(path.stem, json.loads(path.read_text(encoding="utf-8")), PUBLISHED)


def publish_all(paths: list[Path]) -> None:
    """Copies the numbers of runs and of programs, writes the pages, and prints what has changed."""
    for path in paths:
        print(publish(path).relative_to(ROOT))
    for path in rewrite():
        print(path.relative_to(ROOT))


def main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        if not path.exists() or (path.is_dir() and not (path / "evaluate" / "metrics.json").is_file()):
            sys.exit(f"{name}: neither a file of a program nor a run after `make evaluate`\n\n{__doc__}")
    publish_all([Path(name) for name in sys.argv[1:]])


if __name__ == "__main__":
    main()
