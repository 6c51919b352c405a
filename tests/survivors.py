"""The end of `make mutate`: how many of the mutants the tests kill, and what those that live have changed."""

import re
import subprocess
import sys

NEEDED = 0.95


def mutmut(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    ended = dict(re.findall(r"^ +(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
    alive = [name for name, how in ended.items() if how != "killed"]
    for name in alive:
        change = [line for line in mutmut("show", name).splitlines() if re.match(r"[-+](?![-+])", line)]
        print(f"{name}: {ended[name]}", *change, sep="\n")
    share = 1 - len(alive) / len(ended)
    print(f"\n{len(ended) - len(alive)} of {len(ended)} mutants killed: {share:.1%}")
    sys.exit(share < NEEDED)


if __name__ == "__main__":
    main()
