"""The stages of the pipeline: `python -m stages.NAME --help`. They meet only on disk, in runs/<recipe>/."""

import gc
import os
import sys

if sys.argv[0] == "-m":
    # a stage is being started: what imports make stays, and looking for garbage among it takes two fifths of their time;
    # stages.cli.main lets it begin again
    gc.disable()

# before any library is imported: nothing is reported to anyone, and nothing is said that a user can't act on
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said, or it warns at each fork
# a thread that waits for the other spins for some microseconds, then sleeps: without spinning a step takes half as long
# again, with libgomp's own milliseconds of it five times as long beside another busy program
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
