"""What make was told: its goal, and its variables as they were typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from rlhf import InputError
from rlhf.run.files import write_json
from stages.common.options import CHAIN, PLACES, StageOptions
from stages.common.recipe import recipe_base, recipe_path
from stages.common.run import SETTINGS, Run, record_of, saved_settings, settings_of

NAMES = ("RECIPE", "RUN", "BASE", "SEED", "ARGS", "REMAKE", "GOALS", "PROCESSES", "ACCELERATE")
# variables of make that are options of one program
OPTION_VARIABLES = {
    "task": {"TASK": "task"},
    "samples": {"PROMPT": "prompt"},
    "rank": {"MODEL": "models", "COUNT": "count", "K": "completions", "HOST": "host", "PORT": "port"},
    "chat": {"MODEL": "models", "WEB": "web", "HOST": "host", "PORT": "port"},
}
MOST_PROCESSES = 4096
SWITCH = {"": False, "0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}


@dataclass
class Request:
    """A call of make."""

    goal: str
    recipe: str
    run: Run
    seed: str | None
    arguments: list[str]  # command-line options of the goal, from ARGS and the variables of the goal
    remake: bool  # also run earlier stages whose code alone has changed
    processes: int | None = None  # in which each stage computes
    accelerate: str | None = None  # the file of Accelerate's configuration with which stages are launched
    modules: dict[str, str] = field(default_factory=dict)  # of stages/, which run in place of a stage's own

    @classmethod
    def read(cls, goal: str, variables: Mapping[str, str]) -> "Request":
        """A request from make's variables. Raises InputError for an invalid one."""
        names = (*NAMES, *OPTION_VARIABLES.get(goal, ()))
        given = {name: variables[name] for name in names if variables.get(name)}
        for name, value in given.items():
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise InputError(f"{name} is not UTF-8")
        recipe, base, seed = _settings(given)
        if seed is not None and not (seed.isascii() and seed.isdigit() and int(seed) < 2**32):
            raise InputError(f"SEED is {seed!r}; it must be a whole number from 0 to 4294967295")
        remake = given.get("REMAKE", "").lower()
        if remake not in SWITCH:
            raise InputError(f"REMAKE is {given['REMAKE']!r}; it must be 1 or 0")
        processes = given.get("PROCESSES")
        if processes and not (processes.isascii() and processes.isdigit() and 0 < int(processes) <= MOST_PROCESSES):
            raise InputError(f"PROCESSES is {processes!r}; it must be a whole number from 1 to {MOST_PROCESSES}")
        if (configuration := given.get("ACCELERATE")) and not Path(configuration).is_file():
            raise InputError(f"ACCELERATE={configuration}: there is no such file; `accelerate config` writes one")
        folder = given.get("RUN") or f"runs/{recipe_path(recipe).stem}" + (f"-seed{seed}" if seed else "")
        run, count = Run(Path(folder), base), int(processes) if processes else None
        return cls(goal, recipe, run, seed, _arguments(goal, given), SWITCH[remake], count, configuration)

    def settings(self) -> dict[str, Any]:
        """The content of the run's run.json: recipe, seed and base, and whether BASE replaced the base of the recipe."""
        base = str(self.run.folders[1]) if len(self.run.folders) > 1 else None
        replaced = {"base_given": True} if replaces_base(self.recipe, base) else {}
        return {"recipe": self.recipe, "seed": self.seed, "base": base, **replaced}

    def save_settings(self) -> None:
        """Writes run.json, so that the next command needs only RUN."""
        path = self.run.folder / SETTINGS
        if saved_settings(self.run.folder) != self.settings():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self.settings())

    def argv(self, stage: str) -> list[str]:
        """The command line with which a stage runs, without --results."""
        settings = self.settings()
        places = {"recipe": self.recipe, "run": self.run.folder, "base": settings["base"], "run_seed": self.seed}
        arguments = self.arguments if stage == self.goal else self.repeated_arguments(stage)
        return [*(f"--{name}={value}" for name, value in places.items() if value is not None), *arguments]

    def repeated_arguments(self, stage: str) -> list[str]:
        """The command-line options of the last finished run of a stage, which make repeats when it is not the goal."""
        records = (record_of(folder / stage) for folder in self.run.folders if stage in CHAIN)
        return next((record.get("arguments", []) for record in records if record), [])


def replaces_base(recipe: str, base: str | None) -> bool:
    """Whether the run `base` is read in place of another one that the recipe names."""
    named = recipe_base(recipe, base) if base else None
    return base is not None and named is not None and Path(named) != Path(base)


def command(goal: str, options: StageOptions) -> str:
    """The command that makes a goal with the recipe, the folder, the seed and the base that a stage has."""
    recipe, seed, base = options.recipe, options.run_seed, options.base
    default = f"runs/{Path(recipe).stem}" + (f"-seed{seed}" if seed is not None else "")
    values = {
        "RECIPE": recipe,
        "SEED": None if seed is None else str(seed),
        "RUN": None if options.run_folder == Path(default) else str(options.run_folder),
        "BASE": base if base and (replaces_base(recipe, base) or not recipe_base(recipe, base)) else None,
    }
    return " ".join(["make", goal, *(f"{name}={quote(value)}" for name, value in values.items() if value)])


def _settings(given: Mapping[str, str]) -> tuple[str, str | None, str | None]:
    """Recipe, base and seed: as given, else as the run was made with, else as its base was, else the defaults."""
    base = given.get("BASE")
    known = settings_of(Path(base)) if base else {}
    if base and not known:
        raise InputError(f"BASE={base}: there is no run in that folder")
    of_run = settings_of(Path(given["RUN"])) if "RUN" in given else {}
    if of_run and given.get("RECIPE", of_run["recipe"]) == of_run["recipe"]:
        known = of_run
    elif "RECIPE" in given:
        known = {}
    recipe = given.get("RECIPE") or known.get("recipe") or "tiny"
    base = base or (known.get("base") if known.get("base_given") else recipe_base(recipe)) or known.get("base")
    return recipe, base, given.get("SEED") or known.get("seed")


def _arguments(goal: str, given: Mapping[str, str]) -> list[str]:
    """ARGS split like a shell command, and the variables that are options of the goal; PROMPT is one value, unchanged."""
    arguments = split_words(given.get("ARGS", ""))
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in PLACES:
            variable = {"recipe": "RECIPE", "run": "RUN", "base": "BASE", "run_seed": "SEED"}.get(name)
            hint = f"give {variable}=" if variable else f"start the stage with it: .venv/bin/python -m stages.{goal}"
            raise InputError(f"ARGS can't have --{name}: {hint}")
    goals = given.get("GOALS", "").split()
    if arguments and len(goals) > 1:
        raise InputError(f"ARGS is for one stage, and make was given {' and '.join(goals)}: make them one at a time")
    for variable, option in OPTION_VARIABLES.get(goal, {}).items():
        if value := given.get(variable):
            arguments += [
                f"--{option}={word}" for word in ([value] if variable in ("PROMPT", "TASK") else value.split())
            ]
    return arguments


def split_words(text: str) -> list[str]:
    """The words of a text as a POSIX shell splits them, without expansion. Raises InputError for an unclosed quote."""
    words: list[str] = []
    word, quote, escaped, begun = "", "", False, False
    for character in text:
        if escaped:
            # within double quotes a backslash escapes only these
            word += character if not quote or character in '$`"\\' else f"\\{character}"
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "'\"":
            quote, begun = character, True
        elif character.isspace():
            words, word, begun = [*words, word] if begun else words, "", False
        else:
            word, begun = word + character, True
    if quote or escaped:
        raise InputError(f"ARGS ends within {'a quote' if quote else 'an escape'}: {text}")
    return [*words, word] if begun else words
