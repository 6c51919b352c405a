"""Runs a module with its own arguments and those of the environment variable ARGS, split as a shell would.

ARGS="-k 'one test'" python -m tests.with_args pytest -n 2
"""

import os
import sys

from rlhf import InputError
from stages.common.request import split_words


def main() -> None:
    try:
        arguments = split_words(os.environ.get("ARGS", ""))
    except InputError as error:
        sys.exit(str(error))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:], *arguments])


if __name__ == "__main__":
    main()
