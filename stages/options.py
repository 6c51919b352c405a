"""A stage's options: fields of a dataclass, set by a recipe and then by the command line.

One parser reads both, so that a misspelt name, a wrong type or an impossible value is refused alike in either.
"""

import json
import math
import sys
from argparse import ArgumentError
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from transformers import HfArgumentParser

from rlhf.config import option
from rlhf.errors import InputError
from rlhf.scoring import load_function
from stages.recipe import recipe_options, unknown

T = TypeVar("T", bound="StageOptions")


@dataclass
class StageOptions:
    """What every stage can be told."""

    recipe: str = option("tiny", "a name in stages/recipes, or the path of a YAML file")
    run: str | None = option(None, "folder in which the stages meet; runs/<recipe> if not given")
    output: str | None = option(None, "folder for this stage's result; <run>/<stage> if not given")
    seed: int = option(0, "decides every random number of the stage")

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/{Path(self.recipe).stem}")


@dataclass
class SavingOptions(StageOptions):
    """What a stage can be told that saves checkpoints and goes on from them."""

    save_steps: int | None = option(None, "steps between checkpoints; none leaves it to save_minutes alone")
    save_minutes: float | None = option(
        0.5,
        "minutes between checkpoints, or more where saving would take more than a twentieth of the time; none leaves it to save_steps alone",
    )
    save_total_limit: int = option(2, "checkpoints that are kept, the newest; they stay beside the finished model")

    def __post_init__(self):
        for name in ("save_steps", "save_minutes", "save_total_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; it must be above 0")


def parse(options_class: type[T], stage: str, argv: list[str] | None = None) -> T:
    """The stage's options: defaults, then the recipe's section of that name, then the command line.

    Raises InputError, with file and line for what is wrong in a recipe.
    """
    argv = sys.argv[1:] if argv is None else argv
    recipe = _recipe_named_in(argv)
    parser = _parser(options_class, stage)
    parser.description = f"Defaults are those of the recipe {recipe}; --recipe before --help shows another's."
    for key, value, where in recipe_options(recipe, stage):
        _refuseunknown(key, options_class, where, f" in {stage}")
        empties = value == [] and isinstance(parser.get_default(key), list)  # what a base names, and argparse can't say
        parser.set_defaults(**{key: [] if empties else getattr(_parse(parser, _as_argv(key, value), where), key)})
    options = options_class(**vars(_parse(parser, argv, "command line")))
    if written := {key: where for key, _, where in recipe_options(recipe, stage) if key in ("run", "output")}:
        key, where = next(iter(written.items()))
        raise InputError(f"{where}: a recipe does not say where results go; give --{key} on the command line")
    for name, value in vars(options).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}; it must be a finite number")
    for name in ("gold", "labeller", "reward_function"):
        if getattr(options, name, None):
            load_function(getattr(options, name))  # now, not when it is called for the first time
    tracker = getattr(options, "log_with", None)
    if tracker and find_spec(tracker) is None:
        raise InputError(f"log_with {tracker}: no package of that name; install it, `pip install {tracker}`")
    return options


def _parser(options_class: type, stage: str) -> HfArgumentParser:
    parser = HfArgumentParser(options_class, prog=f"python -m stages.{stage}", allow_abbrev=False, exit_on_error=False)
    types = get_type_hints(options_class)
    for action in parser._actions:
        of = types.get(action.dest)
        if dict in (of, *get_args(of)):
            action.type = _json_object
        if type(None) in get_args(of):
            action.type = _optional(action.type)
    return parser


def _json_object(text: str) -> dict:
    value = json.loads(text)
    json.dumps(value, allow_nan=False)  # refuses NaN and infinity, which JSON does not have
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _optional(of: Any):
    def convert(text: str) -> Any:
        return None if text.lower() in ("none", "null") else of(text)

    convert.__name__ = getattr(of, "__name__", str(of))
    return convert


def _parse(parser: HfArgumentParser, argv: list[str], where: str):
    try:
        namespace, strange = parser.parse_known_args(argv)
    except ArgumentError as error:
        raise InputError(f"{where}: {error}") from error
    for argument in strange:
        if argument.startswith("--"):
            raise InputError(f"{where}: {unknown(argument[2:].split('=')[0], vars(namespace))}")
        raise InputError(f"{where}: {argument!r} belongs to no option; options begin with --")
    return namespace


def _refuseunknown(key: str, options_class: type, where: str, place: str) -> None:
    names = [f.name for f in fields(options_class)]
    if key not in names:
        raise InputError(f"{where}: {unknown(key, names)}{place}")


def _recipe_named_in(argv: list[str]) -> str:
    for i, argument in enumerate(argv):
        if argument == "--recipe" and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith("--recipe="):
            return argument.split("=", 1)[1]
    return "tiny"


def _as_argv(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value)]
    return [f"--{key}={'none' if value is None else value}"]
