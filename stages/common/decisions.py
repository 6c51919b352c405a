"""Which stages have to run, and why.

    The goal, the stage that make was called with, runs if its options, its inputs or its code have changed.
    A stage before the goal runs if its options or its inputs have changed. If only its code has changed, it is kept.

A change is found by comparing with the record of the finished result, not by file times.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf import InputError
from stages.common.code import code_hash
from stages.common.options import CHAIN
from stages.common.parsing import Parsed, functions_of, parse_given
from stages.common.programs import STAGES, TOOLS, place_of
from stages.common.request import Request
from stages.common.requirements import only_benchmarks, stages_before_ppo
from stages.common.run import INPUT, MISSING, record_of, stage_of
from stages.common.stage import difference

Options = dict[str, Parsed]
NEVER_MADE = "it has never been made"
CODE_CHANGED = "the code has changed"


@dataclass
class Decision:
    """The folder of a stage's result, and the reasons to run the stage, if any."""

    stage: str
    folder: Path  # of the result; one that ends in .previous is restored
    reasons: list[str] = field(default_factory=list)  # why the stage runs
    awaited: list[str] = field(default_factory=list)  # stages that run first, and whose results may change
    ignored_changes: list[str] = field(default_factory=list)  # changes that are no reason to run
    seconds: float | None = None  # of the last run

    @property
    def runs(self) -> bool:
        """Whether the stage has to run, or may have to."""
        return bool(self.reasons or self.awaited)


def options_of(request: Request) -> Options:
    """The options of every stage, and of the goal. Raises InputError, which names the record if make repeats options from there."""
    options = {}
    for stage in dict.fromkeys((*STAGES, request.goal)):
        try:
            options[stage] = parse_given(stage, request.argv(stage))
        except InputError as error:
            repeated = [] if stage == request.goal else request.repeated_arguments(stage)
            if not repeated:
                raise
            text = " ".join(repeated)
            raise InputError(
                f"{stage}: {error} (make repeats its last options, {text}; `make {stage}` without ARGS drops them)"
            ) from error
    return options


def stages_up_to(goal: str, options: Options) -> list[str]:
    """The goal, if it is a stage, and the stages before it that it needs, in order."""
    if goal in CHAIN[: CHAIN.index("ppo")]:
        return [*CHAIN[: CHAIN.index(goal)], goal]
    if goal == "task":
        return [*(() if options["task"].options.model else ("data", "pretrain")), goal]
    goals = ("ppo",) if goal in TOOLS else dict.fromkeys(("ppo", goal))
    return [*stages_before_ppo(options["ppo"].options), *goals]


def stages_for(request: Request, options: Options) -> list[str]:
    """The stages that make runs or checks: those up to the goal, or evaluate alone if it only measures benchmarks."""
    if request.goal == "evaluate" and only_benchmarks(options["evaluate"].options, request.run):
        return [request.goal]
    return stages_up_to(request.goal, options)


def plan(request: Request, options: Options) -> list[Decision]:
    """A decision for each stage up to the goal. Chooses the folder of each stage's result for the stages after it."""
    decisions: list[Decision] = []
    for stage in stages_for(request, options):
        pending = {decision.stage for decision in decisions if decision.runs}
        decision = decide(request, stage, options, pending)
        request.run.chosen[stage] = decision.folder
        decisions.append(decision)
    request.run.save_hashes()
    return decisions


def decide(request: Request, stage: str, options: Options, pending: set[str]) -> Decision:
    """Whether the stage can use a finished result of the run or its bases. `pending`: earlier stages that will run."""
    place = place_of(stage, options[stage].options)
    own = request.run.folder / place
    outdated: list[Decision] = []
    for folder in (own, own.with_name(f"{own.name}.previous"), *(base / place for base in request.run.folders[1:])):
        if record := record_of(folder):
            decision = find_changes(request, stage, folder, record, options[stage], pending)
            if not decision.runs:
                return decision
            outdated.append(decision)
    result = outdated[0] if outdated else Decision(stage, own, [NEVER_MADE])
    result.folder = own
    return result


def find_changes(
    request: Request, stage: str, folder: Path, record: dict[str, Any], parsed: Parsed, pending: set[str]
) -> Decision:
    """What has changed since the result in a folder was made."""
    result = Decision(stage, folder, seconds=record["seconds"])
    strict = stage == request.goal or request.remake
    minor = result.reasons if strict else result.ignored_changes
    before, now = record["options"], parsed.as_dict()
    for name in difference(before, now):
        # an option that neither a recipe nor the command line sets changes only with its default, in the code
        is_set = name in parsed.given or name in record.get("given", ())
        (result.reasons if is_set else minor).append(f"{name} {before.get(name)}, now {now[name]}")
    for name, value in record.get("inputs", {}).items():
        producer = stage_of(name)
        if producer in pending:
            result.awaited.append(str(producer))
        elif (found := request.run.hash(name)) != value:
            # a file of the user that no longer exists can't be used to make the stage again
            gone = found == MISSING and producer is None
            text = f"{name.removeprefix(INPUT)} {'has changed' if found != MISSING else 'is gone'}"
            (minor if gone else result.reasons).append(text)
    if "inputs" not in record:
        minor.append("its record is of an earlier version and does not list its inputs")
    elif not minor and record["code"] != code_hash(request.modules.get(stage, stage), functions_of(parsed.options)):
        minor.append(CODE_CHANGED)
    result.awaited = list(dict.fromkeys(result.awaited))
    return result
