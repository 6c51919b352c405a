"""`make STAGE`: which stages are made again, and why.

    The stage that is asked for: if its options, its inputs or its code have changed.
    A stage before it:           if its options or its inputs have changed. If only code has changed, it is kept.

What counts is what the finished result was made from, by its record, and not which file is newer.
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
REPORT = "report.md"  # of evaluate


@dataclass
class Request:
    """What make was told."""

    goal: str
    recipe: str
    run: Run
    seed: str | None
    arguments: list[str]  # options on the command line, for the goal
    remake: bool  # also make stages again of which only the code has changed

    @classmethod
    def read(cls, goal: str, variables: Mapping[str, str]) -> "Request":
        """From make's variables. Raises InputError for one that makes no sense, before anything runs."""
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
        """What the run remembers for the next time."""
        base = str(self.run.folders[1]) if len(self.run.folders) > 1 else None
        return {"recipe": self.recipe, "seed": self.seed, "base": base}

    def argv(self, stage: str) -> list[str]:
        """The command line of a stage."""
        base = [f"--base={self.settings()['base']}"] if self.settings()["base"] else []
        seed = [f"--seed={self.seed}"] if self.seed else []
        places = [f"--recipe={self.recipe}", f"--run={self.run.folder}", *base]
        if stage == self.goal:
            return [*places, *seed, *self.arguments]
        repeated = self.remembered_arguments(stage)
        return [*places, *(_without_seed(repeated) if seed else repeated), *seed]

    def remembered_arguments(self, stage: str) -> list[str]:
        """The command line that a stage was made with, or was interrupted with if it has never finished."""
        if stage not in CHAIN:
            return []
        records = [record_of(folder / stage) for folder in self.run.folders]
        begun = read_json(self.run.folder / f".{stage}.partial" / BEGUN)
        return next((record["arguments"] for record in [*records, begun] if "arguments" in record), [])


def _arguments(variables: Mapping[str, str]) -> list[str]:
    """ARGS, split as a shell would, and PROMPT as it is."""
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


# --- what is to be done -----------------------------------------------------------------------------------------------

NEVER_MADE = "it has never been made"
CODE_CHANGED = "its code has changed"
SHOWN_REASONS = 4


@dataclass
class Decision:
    """Where a stage's finished result is, or why the stage is made."""

    stage: str
    folder: Path  # of the result
    reasons: list[str] = field(default_factory=list)  # why it is made; empty if the result is used as it is
    despite: list[str] = field(default_factory=list)  # what has changed without being a reason
    seconds: float | None = None  # that it took last time


def decide(request: Request, stage: str, options: Options, pending: set[str]) -> Decision:
    """Whether there is a result that can be used; `pending` are the stages before it that are to be made."""
    outdated: list[Decision] = []
    for folder in request.run.folders:
        if record := record_of(folder / stage):
            reasons, despite = changes(request, record, options[stage], pending)
            decision = Decision(stage, folder / stage, reasons, despite, record.get("seconds"))
            if not reasons:
                return decision
            outdated.append(decision)
    result = outdated[0] if outdated else Decision(stage, Path(), [NEVER_MADE])
    result.folder = request.run.folder / stage
    return result


def changes(request: Request, record: dict[str, Any], parsed: Parsed, pending: set[str]) -> tuple[list[str], list[str]]:
    """Why a finished result can't be used; and what else has changed, for which it would be made only if asked for."""
    if "inputs" not in record:
        return ["its record does not say what it was made from"], []
    stage, before, now = record["stage"], record["options"], parsed.as_dict()
    reasons: list[str] = []
    lesser: list[str] = []
    for name in difference(before, now):
        # an option that nobody has set differs if its default has changed, in the code
        given = name in parsed.given or name in record["given"]
        (reasons if given else lesser).append(f"{name} {before.get(name)}, now {now[name]}")
    for name, value in record["inputs"].items():
        if (producer := stage_of(name)) in pending:
            reasons.append(f"{producer} is made first")
        elif (found := request.run.hash(name)) != value:
            gone = found == MISSING
            text = f"{name.removeprefix(INPUT)} {'is gone' if gone else 'has changed'}"
            (lesser if gone and producer is None else reasons).append(text)
    if not lesser and record["code"] != code_hash(stage, functions_of(parsed.options)):
        lesser.append(CODE_CHANGED)
    strict = stage == request.goal or request.remake
    return list(dict.fromkeys(reasons + lesser if strict else reasons)), [] if strict else lesser


def plan(request: Request, options: Options) -> list[Decision]:
    """A decision for each stage up to the goal."""
    decisions: list[Decision] = []
    for stage in chain(request.goal, options):
        pending = {decision.stage for decision in decisions if decision.reasons}
        decision = decide(request, stage, options, pending)
        request.run.chosen[stage] = decision.folder
        decisions.append(decision)
    request.run.save_hashes()
    return decisions


def chain(goal: str, options: Options) -> list[str]:
    """The stages up to the goal, in order. Samples use whatever has finished."""
    if goal == "samples":
        return []
    if goal in CHAIN[: CHAIN.index("ppo")]:
        return [*CHAIN[: CHAIN.index(goal)], goal]
    return [*stages_before_ppo(options["ppo"].options), *dict.fromkeys(("ppo", goal))]


def announce(request: Request, decisions: list[Decision]) -> None:
    """Prints what is going to be done, and why, before it is done."""
    based: dict[Path, list[str]] = {}
    for decision in decisions:
        if not decision.reasons and decision.folder.parent != request.run.folder:
            based.setdefault(decision.folder.parent, []).append(decision.stage)
    for folder, stages in based.items():
        print(f"from {folder}: {', '.join(stages)}", flush=True)
    if kept := [decision for decision in decisions if decision.despite and not decision.reasons]:
        names = ", ".join(decision.stage for decision in kept)
        changed = "; ".join(dict.fromkeys(text for decision in kept for text in decision.despite))
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


# --- doing it ---------------------------------------------------------------------------------------------------------


def make(request: Request) -> None:
    """Makes the goal and what it needs. Exits with the status of a stage that fails."""
    options = {stage: parse_given(stage, request.argv(stage)) for stage in STAGES}
    check_sources(chain(request.goal, options), {stage: parsed.options for stage, parsed in options.items()})
    decisions = plan(request, options)
    if any(decision.reasons for decision in decisions):
        for parsed in options.values():
            check_values(parsed.options)  # before the first stage works for minutes
    announce(request, decisions)
    for decision in decisions:
        if decision.reasons:
            # again: the stages before it may have ended with the same results as last time
            decision = decide(request, decision.stage, options, set())
            request.run.chosen[decision.stage] = decision.folder
            if not decision.reasons:
                say("kept: the results that it reads are the same as before", decision.stage)
        carry_out(request, decision)
    show(request, decisions)


def carry_out(request: Request, decision: Decision) -> None:
    """Runs a stage, or makes sure that the stages after it read the result that is used."""
    own = request.run.folder / decision.stage
    if decision.reasons:
        remember(request)
        run_stage(decision.stage, request.argv(decision.stage))
    elif decision.folder != own and (own / RECORD).is_file():
        # stages look into their own run first
        previous = own.with_name(f"{own.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        own.rename(previous)
        say(f"{decision.folder} is used, {own} is kept as {previous}", decision.stage)


def show(request: Request, decisions: list[Decision]) -> None:
    """Prints the result of the goal."""
    made = any(decision.reasons for decision in decisions)
    if request.goal == "samples" or (request.goal == "ppo" and made):
        run_stage("samples", request.argv("samples"))
    elif not made:
        folder = request.run.find(request.goal)
        say(f"up to date, in {folder}", request.goal)
        if request.goal == "evaluate":
            print(f"\n{(folder / REPORT).read_text(encoding='utf-8')}", end="")


def remember(request: Request) -> None:
    """Writes what make was told into the run, so that RUN alone is enough the next time."""
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
        if number == signal.SIGTERM:  # the terminal sends SIGINT to the stage as well
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
            f"usage: python -m stages STAGE, one of {', '.join(STAGES)}; RECIPE, RUN, ... are environment variables"
        )
    try:
        make(Request.read(goals[0], os.environ))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
