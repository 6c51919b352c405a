"""Recipes: YAML files, each a whole pipeline, with a section of options for each stage.

The top level may also hold `seed`, for every stage, and `base`: another recipe to start from, by name or path, or the
folder of a run, whose recipe it then starts from, and whose finished stages it reads where they would be the same.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlhf import InputError
from rlhf.run.files import read_json
from stages.common.options import STAGES

RECIPES = Path(__file__).parent.parent / "recipes"
SETTINGS = "run.json"  # in the folder of a run: the recipe, the seed and the base that make was given

Option = tuple[str, Any, str]  # name, value, `file:line`


def recipe_options(recipe: str, stage: str) -> list[Option]:
    """All options that a recipe sets for a stage, those of its base first."""
    found: list[Option] = []
    for layer in _layers(recipe):
        found += [("seed", *layer["seed"])] if "seed" in layer else []
        section, where = layer.get(stage, (None, ""))
        if section is not None and not isinstance(section, _Section):
            raise InputError(f"{where}: {stage} must hold options, one a line")
        found += [(name, value, at) for name, (value, at) in (section or {}).items()]
    return found


def recipe_base(recipe: str) -> str | None:
    """The folder of the run that a recipe, or one that it starts from, is based on."""
    bases = [layer["base"][0] for layer in _layers(recipe) if "base" in layer]
    return next((base for base in reversed(bases) if not is_recipe(base)), None)


def _layers(recipe: str, above: tuple[Path, ...] = ()) -> list["_Section"]:
    """The recipe and, before it, those that it starts from."""
    path = recipe_path(recipe)
    if path in above:
        raise InputError(f"{path}: this recipe is based on itself")
    top = _read_yaml(path)
    for name, (_, where) in top.items():
        if name not in (*STAGES, "base", "seed"):
            raise InputError(f"{where}: {no_such_option(name, (*STAGES, 'base', 'seed'))} in a recipe")
    if "base" not in top:
        return [top]
    base, where = top["base"]
    if not isinstance(base, str):
        raise InputError(f"{where}: base is the name or path of another recipe, or the folder of a run")
    if is_recipe(base):
        return [*_layers(base, (*above, path)), top]
    settings = run_settings(base, where)
    seed = [_Section(seed=(settings["seed"], f"{base}/{SETTINGS}"))] if settings.get("seed") is not None else []
    return [*_layers(settings["recipe"], (*above, path)), *seed, top]


def is_recipe(name: str) -> bool:
    """Whether `name` is that of a recipe, by its form or because there is one, and not a folder."""
    return name.endswith((".yaml", ".yml")) or (RECIPES / f"{name}.yaml").is_file()


def run_settings(folder: str | Path, where: str) -> dict[str, Any]:
    """What the run in a folder was made with. Raises InputError if no run has been made there."""
    settings = read_json(Path(folder, SETTINGS))
    if "recipe" not in settings:
        raise InputError(
            f"{where}: no recipe {folder}, nor a run in a folder of that name; recipes: {', '.join(_known())}"
        )
    return settings


def recipe_path(recipe: str) -> Path:
    """The YAML file of a recipe, given by name or path."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise InputError(f"no recipe {recipe}: give the path of a YAML file, or one of {', '.join(_known())}")
    return path


def _known() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


class _Section(dict[str, tuple[Any, str]]):
    """A YAML mapping whose values keep their line: key -> (value, `file:line`)."""


def _read_yaml(path: Path) -> _Section:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        top = _values(node, path) if node else _Section()
    except RecursionError as error:
        raise InputError(f"{path}: brackets are nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise InputError(f"{path}:{line}: not YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(top, _Section):
        raise InputError(f"{path}:1: a recipe holds sections, one for each stage")
    return top


def _values(node: yaml.Node, path: Path, depth: int = 0) -> Any:
    """The value of a YAML node; the two upper levels of mappings keep their lines."""
    if not isinstance(node, yaml.MappingNode) or depth > 1:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    section = _Section()
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if key.value in section:
            raise InputError(f"{where}: {key.value} is given twice")
        section[key.value] = (_values(value, path, depth + 1), where)
    return section


def no_such_option(name: str, names: Iterable[str]) -> str:
    """The message for an option that does not exist."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f'there is no option "{name}"' + (f', did you mean "{close[0]}"?' if close else "")
