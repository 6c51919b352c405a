"""The stages of the pipeline: `python -m stages.NAME --help`. They meet only on disk, in runs/<recipe>/."""

import gc
import os
import sys

if sys.argv[0] == "-m":
    # garbage collection takes two fifths of the time of a stage's imports, which leave nothing to collect;
    # stages.common.stage.main turns it on again
    gc.disable()

# before any library is imported: no telemetry, no progress bars and no warnings besides the stages' own
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DATASETS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns at each fork
# spins that a waiting OpenMP thread makes before it sleeps: with none a step takes 1.5 times as long; with libgomp's
# default, several times as long beside another busy program
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
