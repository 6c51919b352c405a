"""The stages of the pipeline: `python -m stages.NAME --help`. They exchange data only as files in runs/<recipe>/."""

import gc
import os
import signal
import sys

if sys.argv[0] == "-m":
    # Ctrl-C while a stage imports ends it without a traceback; stages.common.stage.main handles signals afterwards
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # garbage collection takes two fifths of the time of a stage's imports and finds nothing to collect;
    # stages.common.stage.main enables it again
    gc.disable()

# before any library is imported: turns off telemetry, and the libraries' progress bars and warnings
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DATASETS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # if it is unset, tokenizers warns at each fork
# How often a waiting OpenMP thread spins before it sleeps. Without spinning a step takes 1.5 times as long. With
# libgomp's default it takes several times as long when another program is busy.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
