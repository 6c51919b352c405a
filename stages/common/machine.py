"""The machine on which a stage runs, and the memory that it took."""

import os
import platform
import resource
import sys
from pathlib import Path

from stages.common.processes import cores


def this_machine() -> dict[str, str]:
    """The processor, its cores, the threads of torch, and the GPU, as far as torch is imported, and the system."""
    machine = {"processor": _processor(), "cores": f"{cores()}"}
    if torch := sys.modules.get("torch"):
        machine["torch threads"] = f"{torch.get_num_threads()}"
        machine["instructions"] = torch.backends.cpu.get_cpu_capability()
        if torch.cuda.is_available():
            machine["GPU"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return {**machine, "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"}


def peak_memory() -> int:
    """The largest memory of this process so far, in bytes, without that of a GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or os.name)
