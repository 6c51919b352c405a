"""The end of `make mutate`: how many of the mutants the tests kill, and what those that live have changed.

Writes runs/measured/mutation.json, which `python -m tests.pages runs/measured/mutation.json` puts into docs/mutation.md.
"""

import re
import subprocess
import sys
from collections import Counter

from tests.pages.measured import record

NEEDED = 0.95


def mutmut(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], check=True, capture_output=True, text=True
    ).stdout


def by_file(ended: dict[str, str]) -> dict[str, dict[str, int]]:
    """The mutants of each file, and those that the tests kill; mutants are named `rlhf.ppo.x_rloo__mutmut_1`."""
    files = {name: "/".join(name.split(".")[:2]) + ".py" for name in ended}
    killed = Counter(files[name] for name, how in ended.items() if how == "killed")
    return {file: {"mutants": count, "killed": killed[file]} for file, count in Counter(files.values()).items()}


def main() -> None:
    ended = dict(re.findall(r"^ +(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
    alive = [name for name, how in ended.items() if how != "killed"]
    for name in alive:
        change = [line for line in mutmut("show", name).splitlines() if re.match(r"[-+](?![-+])", line)]
        print(f"{name}: {ended[name]}", *change, sep="\n")
    record("mutation", by_file(ended))
    share = 1 - len(alive) / len(ended)
    print(f"\n{len(ended) - len(alive)} of {len(ended)} mutants killed: {share:.1%}")
    sys.exit(share < NEEDED)


if __name__ == "__main__":
    main()
