"""The stages of the pipeline: `python -m stages.NAME --help`. They meet only on disk, in runs/<recipe>/."""

import os

# before any library is imported: nothing is reported to anyone, and nothing is said that a user can't act on
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# a thread that waits for the other spins for some microseconds, then sleeps: without spinning a step takes half as long
# again, with libgomp's own milliseconds of it five times as long beside another busy program
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
