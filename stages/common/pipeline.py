"""The program behind `make STAGE`: prints which stages run, and why, and runs them."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rlhf import InputError
from rlhf.run.files import set_aside
from stages.common.console import duration, escape_unencodable, print_error, print_lines, say, stdout_closed
from stages.common.decisions import NEVER_MADE, Decision, Options, decide, options_of, plan, stages_for
from stages.common.evaluation import evaluation_of
from stages.common.interruption import lock
from stages.common.options import CHAIN, PEOPLE
from stages.common.parsing import check_values, parse_given
from stages.common.processes import start
from stages.common.programs import OPTIONS, TOOLS, place_of
from stages.common.request import Request, command
from stages.common.requirements import check_run, check_sources
from stages.common.run import RECORD

SHOWN_REASONS = 4
SINGLE = ("data", "task", "samples", *TOOLS)  # they compute too little for several processes
SHOWN = {
    "data": "preview.txt",
    "task": "report.txt",
    "evaluate": "report.md",
}  # files that make prints if the stage is up to date


def make(request: Request, show_result: bool = True) -> None:
    """Runs the goal and the stages that it needs. Exits with the status of a stage that fails."""
    options = options_of(request)
    if request.goal not in TOOLS:
        check_sources(stages_for(request, options), {name: parsed.options for name, parsed in options.items()})
    decisions = plan(request, options)
    if request.goal == "samples" or request.goal in TOOLS:
        # they use the stages that have finished
        request.run.chosen = {d.stage: d.folder for d in decisions if not d.runs}
        if request.goal == "report":
            evaluate_first(request)
        run_stage(request, request.goal)
        return
    running = [decision.stage for decision in decisions if decision.runs]
    check_run(request.run, running, {name: parsed.options for name, parsed in options.items()})
    for stage in running:
        check_values(options[stage].options)  # before the first stage runs for minutes
    print_plan(request, decisions)
    with locked(request) if running else nullcontext():
        for decision in decisions:
            execute(request, decision, options)
    request.save_settings()
    if show_result:
        show(request, decisions, options)


def evaluate_first(request: Request) -> None:
    """Evaluates the models that exist if `make evaluate` would do so; trains none."""
    if (evaluation := evaluation_of(request)) is None:
        return
    options = {"evaluate": parse_given("evaluate", evaluation.argv("evaluate"))}
    decision = decide(evaluation, "evaluate", options, set())
    request.run.chosen["evaluate"] = decision.folder
    if decision.runs:
        check_values(options["evaluate"].options)
        say(_in_words(decision) if decision.reasons != [NEVER_MADE] else "evaluates first", "evaluate")
        with locked(request):
            execute(evaluation, decision, options)


def print_plan(request: Request, decisions: list[Decision]) -> None:
    """Prints where finished results are read from, and which stages run and why."""
    based: dict[Path, list[str]] = {}
    for decision in decisions:
        if not decision.runs and decision.folder.parent != request.run.folder:
            based.setdefault(decision.folder.parent, []).append(decision.stage)
    for folder, stages in based.items():
        print_lines(f"from {folder}: {', '.join(stages)}")
    for decision in decisions:
        if decision.stage != request.goal and (repeated := request.repeated_arguments(decision.stage)):
            say(f"with the options of its last command line: {' '.join(repeated)}", decision.stage)
    if kept := [decision for decision in decisions if decision.ignored_changes and not decision.runs]:
        names = ", ".join(decision.stage for decision in kept)
        changed = "; ".join(dict.fromkeys(text for decision in kept for text in decision.ignored_changes))
        more = f"`make {kept[0].stage}` runs one again, REMAKE=1 all" if kept[1:] else f"`make {names}` runs it again"
        print_lines(f"kept: {names} ({changed}; {more})")
    new = [decision.stage for decision in decisions if decision.reasons == [NEVER_MADE]]
    if new:
        print_lines(f"to be made in {request.run.folder}: {', '.join(new)}")
    for decision in decisions:
        if decision.runs and decision.stage not in new:
            say(_in_words(decision), decision.stage)


def _in_words(decision: Decision) -> str:
    """Why a stage runs, and how long it took the last time."""
    last = "" if decision.seconds is None else f" (last time {duration(decision.seconds)})"
    if not decision.reasons:
        return f"runs again{last} if {' or '.join(decision.awaited)} changes"
    more = len(decision.reasons) - SHOWN_REASONS
    reasons = decision.reasons[:SHOWN_REASONS] + ([f"and {more} more"] if more > 0 else [])
    return f"runs again{last}: {', '.join(reasons)}"


@contextmanager
def locked(request: Request) -> Iterator[None]:
    """Creates the run's folder and locks it against a second make.

    Raises InputError if another make is running stages of the run.
    """
    request.run.folder.mkdir(parents=True, exist_ok=True)
    descriptor = lock(request.run.folder)
    if not any((request.run.folder / stage / RECORD).is_file() for stage in CHAIN):
        request.save_settings()  # so that an interrupted first stage can be resumed with RUN alone
    try:
        yield
    finally:
        os.close(descriptor)


def execute(request: Request, decision: Decision, options: Options) -> None:
    """Runs the stage or restores its previous result. A stage is kept if the results that it waited for are unchanged.

    If the base has the goal's result, the run's own result is renamed, so that its options are not repeated.
    """
    own = request.run.folder / place_of(decision.stage, options[decision.stage].options)
    if decision.runs:
        decision = decide(request, decision.stage, options, set())
        request.run.chosen[decision.stage] = decision.folder
        if not decision.runs:
            say("kept: the results that it reads have not changed", decision.stage)
    if decision.runs:
        run_stage(request, decision.stage)
        request.save_settings()
    elif decision.folder.name.endswith(".previous"):
        request.run.chosen[decision.stage] = restore(decision.folder, own)
    elif decision.stage == request.goal and decision.folder != own and own.is_dir():
        previous = own.with_name(f"{own.name}.previous")
        set_aside(own, previous)
        say(f"{own}, made with other options, is kept as {previous}", decision.stage)


def restore(previous: Path, result: Path) -> Path:
    """Exchanges a result and the one that it replaced; returns the folder of the result."""
    old = result.with_name(f".{result.name}.old")
    if result.exists():
        result.rename(old)
    previous.rename(result)
    if old.exists():
        old.rename(previous)
    say(f"{previous} is up to date: it is {result.name} again", result.name)
    return result


def show(request: Request, decisions: list[Decision], options: Options) -> None:
    """Prints samples after PPO has run; or, if nothing has run, that the goal is up to date."""
    ran = any(decision.runs for decision in decisions)
    if request.goal == "ppo" and ran:
        run_stage(request, "samples")
        if any(d.stage == "comparisons" for d in decisions) and options["comparisons"].options.labeller == PEOPLE:
            rank = command("rank", options["ppo"].options)
            print_lines("", f'`{rank} MODEL="sft ppo"` shows whether people prefer the answers of PPO')
    elif not ran:
        folder = request.run.find(request.goal)
        say(f"up to date, in {folder}", request.goal)
        path = folder / SHOWN.get(request.goal, "")
        if path.is_file():
            print_lines("", *path.read_text(encoding="utf-8").rstrip("\n").split("\n"))


def run_stage(request: Request, stage: str) -> None:
    """Runs a stage in subprocesses. Exits with its status if it fails."""
    launch = (1, None) if stage in SINGLE else (request.processes, request.accelerate)
    results = {name: str(folder) for name, folder in request.run.chosen.items() if folder != request.run.folder / name}
    argv = [*request.argv(stage), *([f"--results={json.dumps(results)}"] if results else [])]
    if status := start(request.modules.get(stage, stage), argv, *launch):
        sys.exit(128 - status if status < 0 else status)


def main() -> None:
    """`python -m stages GOAL`, with make's variables in the environment."""
    escape_unencodable()
    goals = sys.argv[1:]
    if len(goals) != 1 or goals[0] not in OPTIONS:
        sys.exit(
            f"usage: python -m stages STAGE, one of {', '.join(OPTIONS)}; RECIPE, RUN, ... are environment variables"
        )
    try:
        make(Request.read(goals[0], os.environ))
    except BrokenPipeError:
        sys.exit(stdout_closed())
    except (InputError, OSError) as error:
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
