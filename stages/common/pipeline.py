"""The program behind `make STAGE`: decides which stages run, prints why, and runs them.

    The goal, the stage that make was called with, runs if its options, its inputs or its code have changed.
    A stage before the goal runs if its options or its inputs have changed. If only its code has changed, it is kept.

A change is found by comparing with the record of the finished result, not by file times.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rlhf import InputError
from rlhf.run.files import read_json, write_json
from stages.common.code import code_hash
from stages.common.console import duration, say
from stages.common.options import CHAIN, STAGES
from stages.common.parsing import Parsed, check_values, parse_given
from stages.common.recipe import SETTINGS, recipe_base, recipe_path, run_settings
from stages.common.requirements import check_sources, stages_before_ppo
from stages.common.run import BEGUN, INPUT, MISSING, RECORD, Run, record_of, stage_of
from stages.common.stage import difference, functions_of

Options = dict[str, Parsed]
REPORT = "report.md"  # the result of evaluate


@dataclass
class Request:
    """A call of make: its goal and its variables."""

    goal: str
    recipe: str
    run: Run
    seed: str | None
    arguments: list[str]  # command-line options of the goal, from ARGS and PROMPT
    remake: bool  # also run earlier stages whose code alone has changed

    @classmethod
    def read(cls, goal: str, variables: Mapping[str, str]) -> "Request":
        """A request from make's variables. Raises InputError for an invalid one."""
        base = variables.get("BASE") or None
        known = run_settings(base, "BASE") if base else {}
        recipe, folder = variables.get("RECIPE") or None, variables.get("RUN") or None
        if folder and not recipe:
            known = read_json(Path(folder, SETTINGS)) or known
        recipe = recipe or known.get("recipe") or "tiny"
        base = base or recipe_base(recipe) or known.get("base")
        seed = variables.get("SEED") or known.get("seed")
        if seed is not None and not (seed.isascii() and seed.isdigit()):
            raise InputError(f"SEED is {seed!r}; it must be a whole number, 0 or above")
        name = recipe_path(recipe).stem + (f"-seed{seed}" if seed else "")
        return cls(
            goal,
            recipe,
            Run(Path(folder or f"runs/{name}"), base),
            seed,
            _arguments(variables),
            variables.get("REMAKE", "") not in ("", "0"),
        )

    def settings(self) -> dict[str, Any]:
        """The content of the run's run.json: recipe, seed and base."""
        base = str(self.run.folders[1]) if len(self.run.folders) > 1 else None
        return {"recipe": self.recipe, "seed": self.seed, "base": base}

    def argv(self, stage: str) -> list[str]:
        """The command line with which a stage runs."""
        base = [f"--base={self.settings()['base']}"] if self.settings()["base"] else []
        seed = [f"--seed={self.seed}"] if self.seed else []
        places = [f"--recipe={self.recipe}", f"--run={self.run.folder}", *base]
        if stage == self.goal:
            return [*places, *seed, *self.arguments]
        repeated = self.remembered_arguments(stage)
        return [*places, *(_without_seed(repeated) if seed else repeated), *seed]

    def remembered_arguments(self, stage: str) -> list[str]:
        """The arguments of a stage's last finished run, or of an interrupted run if it has never finished."""
        if stage not in CHAIN:
            return []
        records = [record_of(folder / stage) for folder in self.run.folders]
        begun = read_json(self.run.folder / f".{stage}.partial" / BEGUN)
        return next((record["arguments"] for record in [*records, begun] if "arguments" in record), [])


def _arguments(variables: Mapping[str, str]) -> list[str]:
    """ARGS split like a shell command, and PROMPT unchanged, as --prompt."""
    try:
        arguments = shlex.split(variables.get("ARGS", ""))
    except ValueError as error:
        raise InputError(f"ARGS: {error}: {variables['ARGS']}") from error
    prompt = variables.get("PROMPT", "")
    return [*arguments, *([f"--prompt={prompt}"] if prompt else [])]


def _without_seed(arguments: list[str]) -> list[str]:
    """Arguments without --seed and its value."""
    result, skip = [], False
    for argument in arguments:
        skip = argument == "--seed" or (skip and not argument.startswith("--"))
        if not skip and not argument.startswith("--seed="):
            result.append(argument)
    return result


# --- planning ---------------------------------------------------------------------------------------------------------

NEVER_MADE = "it has never been made"
CODE_CHANGED = "its code has changed"
SHOWN_REASONS = 4


@dataclass
class Decision:
    """Whether a stage runs, and why. If it does not, `folder` is the finished result that is used."""

    stage: str
    folder: Path  # of the result
    reasons: list[str] = field(default_factory=list)  # why the stage runs; empty if its result is used
    ignored_changes: list[str] = field(default_factory=list)  # changes for which an earlier stage does not run again
    seconds: float | None = None  # duration of the last run


def decide(request: Request, stage: str, options: Options, pending: set[str]) -> Decision:
    """The decision for one stage; `pending` holds the earlier stages that are going to run."""
    outdated: list[Decision] = []
    for folder in request.run.folders:
        if record := record_of(folder / stage):
            reasons, ignored_changes = find_changes(request, record, options[stage], pending)
            decision = Decision(stage, folder / stage, reasons, ignored_changes, record.get("seconds"))
            if not reasons:
                return decision
            outdated.append(decision)
    result = outdated[0] if outdated else Decision(stage, Path(), [NEVER_MADE])
    result.folder = request.run.folder / stage
    return result


def find_changes(
    request: Request, record: dict[str, Any], parsed: Parsed, pending: set[str]
) -> tuple[list[str], list[str]]:
    """The reasons to run a stage again, and the changes that are a reason only for the goal or with REMAKE.

    For the goal, and with REMAKE, all changes are reasons.
    """
    if "inputs" not in record:
        return ["its record does not say what it was made from"], []
    stage, before, now = record["stage"], record["options"], parsed.as_dict()
    reasons: list[str] = []
    minor: list[str] = []
    for name in difference(before, now):
        # an option that is not set differs if its default, which is part of the code, has changed
        is_set = name in parsed.given or name in record["given"]
        (reasons if is_set else minor).append(f"{name} {before.get(name)}, now {now[name]}")
    for name, value in record["inputs"].items():
        if (producer := stage_of(name)) in pending:
            reasons.append(f"{producer} is made first")
        elif (current := request.run.hash(name)) != value:
            gone = current == MISSING
            text = f"{name.removeprefix(INPUT)} {'is gone' if gone else 'has changed'}"
            (minor if gone and producer is None else reasons).append(text)
    if not minor and record["code"] != code_hash(stage, functions_of(parsed.options)):
        minor.append(CODE_CHANGED)
    strict = stage == request.goal or request.remake
    return list(dict.fromkeys(reasons + minor if strict else reasons)), [] if strict else minor


def plan(request: Request, options: Options) -> list[Decision]:
    """The decisions for all stages up to the goal, in order."""
    decisions: list[Decision] = []
    for stage in stages_up_to(request.goal, options):
        pending = {decision.stage for decision in decisions if decision.reasons}
        decision = decide(request, stage, options, pending)
        request.run.chosen[stage] = decision.folder
        decisions.append(decision)
    request.run.save_hashes()
    return decisions


def stages_up_to(goal: str, options: Options) -> list[str]:
    """The stages up to the goal, in order. None for samples, which use the models that have finished."""
    if goal == "samples":
        return []
    if goal in CHAIN[: CHAIN.index("ppo")]:
        return [*CHAIN[: CHAIN.index(goal)], goal]
    return [*stages_before_ppo(options["ppo"].options), *dict.fromkeys(("ppo", goal))]


def print_plan(request: Request, decisions: list[Decision]) -> None:
    """Prints which stages will run, and why, and which results are used."""
    based: dict[Path, list[str]] = {}
    for decision in decisions:
        if not decision.reasons and decision.folder.parent != request.run.folder:
            based.setdefault(decision.folder.parent, []).append(decision.stage)
    for folder, stages in based.items():
        print(f"from {folder}: {', '.join(stages)}", flush=True)
    if kept := [decision for decision in decisions if decision.ignored_changes and not decision.reasons]:
        names = ", ".join(decision.stage for decision in kept)
        changed = "; ".join(dict.fromkeys(text for decision in kept for text in decision.ignored_changes))
        print(f"kept: {names} ({changed}; `make {kept[0].stage}` or REMAKE=1 makes it again)", flush=True)
    new = [decision.stage for decision in decisions if decision.reasons == [NEVER_MADE]]
    if new:
        print(f"to be made in {request.run.folder}: {', '.join(new)}", flush=True)
    for decision in decisions:
        if decision.reasons and decision.stage not in new:
            last = "" if decision.seconds is None else f" (last time {duration(decision.seconds)})"
            more = len(decision.reasons) - SHOWN_REASONS
            reasons = decision.reasons[:SHOWN_REASONS] + ([f"and {more} more"] if more > 0 else [])
            say(f"to be made{last}: {', '.join(reasons)}", decision.stage)


# --- running ----------------------------------------------------------------------------------------------------------


def make(request: Request) -> None:
    """Runs the goal and the stages that it needs. Exits with the status of a stage that fails."""
    options = {stage: parse_given(stage, request.argv(stage)) for stage in STAGES}
    check_sources(stages_up_to(request.goal, options), {stage: parsed.options for stage, parsed in options.items()})
    decisions = plan(request, options)
    if any(decision.reasons for decision in decisions):
        for parsed in options.values():
            check_values(parsed.options)  # now, and not after minutes of the first stage
    print_plan(request, decisions)
    for decision in decisions:
        if decision.reasons:
            # decided again, because the stages before it may have given the same results as last time
            decision = decide(request, decision.stage, options, set())
            request.run.chosen[decision.stage] = decision.folder
            if not decision.reasons:
                say("kept: the results that it reads are the same as before", decision.stage)
        execute(request, decision)
    show(request, decisions)


def execute(request: Request, decision: Decision) -> None:
    """Runs a stage.

    If a base's result is used, moves the run's own result aside, so that later stages don't read it.
    """
    own = request.run.folder / decision.stage
    if decision.reasons:
        save_settings(request)
        run_stage(decision.stage, request.argv(decision.stage))
    elif decision.folder != own and (own / RECORD).is_file():
        # stages look for results in their own run first
        previous = own.with_name(f"{own.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        own.rename(previous)
        say(f"{decision.folder} is used, {own} is kept as {previous}", decision.stage)


def show(request: Request, decisions: list[Decision]) -> None:
    """Shows the goal's result: samples after PPO, the report of evaluate, or a line that it is up to date."""
    made = any(decision.reasons for decision in decisions)
    if request.goal == "samples" or (request.goal == "ppo" and made):
        run_stage("samples", request.argv("samples"))
    elif not made:
        folder = request.run.find(request.goal)
        say(f"up to date, in {folder}", request.goal)
        if request.goal == "evaluate":
            print(f"\n{(folder / REPORT).read_text(encoding='utf-8')}", end="")


def save_settings(request: Request) -> None:
    """Writes recipe, seed and base into run.json, so that RUN alone is enough the next time."""
    path = request.run.folder / SETTINGS
    if read_json(path) != request.settings():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, request.settings())


def run_stage(stage: str, argv: list[str]) -> None:
    """Runs a stage in a process of its own. Exits with its status if it fails."""
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        if process is None:
            sys.exit(128 + number)
        if number == signal.SIGTERM:  # SIGINT from a terminal reaches the stage without forwarding
            process.send_signal(number)

    handlers = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", *argv])
    if status := process.wait():
        sys.exit(128 - status if status < 0 else status)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def main() -> None:
    """`python -m stages GOAL`, with make's variables in the environment."""
    goals = sys.argv[1:]
    if len(goals) != 1 or goals[0] not in STAGES:
        sys.exit(
            f"usage: python -m stages STAGE, where STAGE is one of {', '.join(STAGES)}; "
            "make's variables, such as RECIPE and RUN, are environment variables"
        )
    try:
        make(Request.read(goals[0], os.environ))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
