"""Makes a stage of a variant: `python -m stages.experiments.make_variant STAGE [MODULE]`, with make's variables.

Without the samples that make prints after PPO. MODULE of stages/ runs in place of the stage's own module.
"""

import os
import sys

from rlhf import InputError
from stages.common.console import escape_unencodable, print_error
from stages.common.pipeline import make
from stages.common.request import Request


def main(stage: str, module: str = "") -> None:
    """Makes the stage; exits as make does."""
    escape_unencodable()
    request = Request.read(stage, os.environ)
    request.modules = {stage: module} if module else {}
    try:
        make(request, show_result=False)
    except (InputError, OSError) as error:
        print_error(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
