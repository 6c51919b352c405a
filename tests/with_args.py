"""Runs a module with its own arguments and those of the environment variable ARGS, split as a shell would.

ARGS="-k 'one test'" python -m tests.with_args pytest -n 2
"""

import os
import shlex
import sys


def main() -> None:
    try:
        arguments = shlex.split(os.environ.get("ARGS", ""))
    except ValueError as error:
        sys.exit(f"ARGS: {error}: {os.environ['ARGS']}")
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:], *arguments])


if __name__ == "__main__":
    main()
