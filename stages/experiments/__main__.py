"""The program behind `make experiment NAME=frontier BASE=runs/tiny`: runs an experiment on a finished run.

Without a NAME it lists the experiments. ARGS=--docs also writes the results into docs/.
"""

import importlib
import os
import shlex
import signal
import sys
import time
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf import InputError
from rlhf.option import did_you_mean
from rlhf.run.files import write_json
from stages.common.console import duration, escape_unencodable, print_error, print_lines
from stages.common.processes import cores
from stages.common.run import RECORD, Run, record_of, settings_of
from stages.experiments.variants import Runs

FOLDER = Path(__file__).parent
DEFAULT = "runs/tiny"


def names() -> list[str]:
    """The names of all experiments: the modules that ask a question."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\nQUESTION = " in path.read_text(encoding="utf-8"))


def load(name: str) -> ModuleType:
    """The module of an experiment, whose name may also be written with hyphens. Raises InputError if there is none."""
    name = name.replace("-", "_")
    if name not in names():
        raise InputError(
            f"NAME={name}: no such experiment{did_you_mean(name, names())}; there are {', '.join(names())}"
        )
    return importlib.import_module(f"stages.experiments.{name}")


def finished_run(name: str) -> Path:
    """The folder of the finished run. Raises InputError if it has no PPO."""
    folder = Path(name)
    if not settings_of(folder) or not (folder / "ppo" / RECORD).is_file():
        command = "make ppo" if name == DEFAULT else f"make ppo RUN={name}"
        raise InputError(
            f"experiments work on a finished run, and {name} is none: run `{command}` first, or give BASE="
        )
    return folder


def check_gold(module: ModuleType, runs: Runs) -> None:
    """Raises InputError if the experiment trains policies, whose gold it compares, and the finished run has no gold."""
    path = Run(runs.base).find("ppo")
    if any(v.stage == "ppo" for v in module.variants()) and not record_of(path)["options"].get("gold"):
        raise InputError(
            f"{path} was made without gold, which the experiment compares: set gold under ppo in the recipe"
        )


def run(name: str, base: Path, docs: bool) -> None:
    """Runs an experiment and writes its output."""
    module, runs, started = load(name), Runs(base), time.time()
    name = module.__name__.rpartition(".")[2]
    check_gold(module, runs)
    print_lines(f"{module.QUESTION} ({module.PAPER})", "")
    if hasattr(module, "prepare"):  # files that the options of its variants name, and checks of the finished run
        module.prepare(runs)
    runs.make(module.variants())
    rows = module.measure(runs)
    from stages.experiments.output import FACTS, publish, write_output

    write_output(name, module, rows, runs.root / name)
    taken, work = time.time() - started, runs.cpu_seconds() + time.process_time()
    print_lines(duration(taken))
    write_json(runs.root / name / FACTS, facts(taken, work))
    if docs:
        publish(name, module, runs.root / name, facts(taken, work))


def facts(taken: float, work: float) -> dict[str, Any]:
    """When, where and how long an experiment ran: the CPU time of its work over the number of cores, or time on a GPU."""
    import torch

    if torch.cuda.is_available():
        return {"date": f"{date.today()}", "minutes": round(taken / 60, 1), "machine": torch.cuda.get_device_name()}
    machine = f"{cores()} CPU cores, {torch.backends.cpu.get_cpu_capability()}"
    return {"date": f"{date.today()}", "minutes": round(work / cores() / 60, 1), "machine": machine}


def main() -> None:
    """`python -m stages.experiments`, with make's variables NAME, BASE and ARGS in the environment."""
    escape_unencodable()
    name, base, arguments = (os.environ.get(variable, "") for variable in ("NAME", "BASE", "ARGS"))
    try:
        given = shlex.split(arguments)
        if unknown := [word for word in given if word != "--docs"]:
            raise InputError(f"ARGS={unknown[0]}: the only option of an experiment is --docs, which writes into docs/")
        if not name:
            print_lines("make experiment NAME=..., one of", *(f"  {n:<18}{load(n).QUESTION}" for n in names()))
            return
        run(name, finished_run(base or DEFAULT), "--docs" in given)
    except (InputError, OSError) as error:
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print_error("interrupted: the same command goes on", blank=True)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
