"""The stages of the pipeline: `python -m stages.NAME --help`. They meet only on disk, in runs/<recipe>/."""

import os

# before any library is imported: nothing is reported to anyone, and nothing is said that a user can't act on
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# threads that wait sleep instead of spinning: beside another busy program that is several times faster, alone as fast
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
