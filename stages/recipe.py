"""Recipes: YAML files, each a whole pipeline at a glance, with a section of options for each stage."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import InputError

RECIPES = Path(__file__).parent / "recipes"
STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo", "samples", "evaluate")


def recipe_options(recipe: str, stage: str, above: tuple[Path, ...] = ()) -> list[tuple[str, Any, str]]:
    """(option, value, `file:line`) for all that a recipe says of a stage, what it is based on first.

    The top level may hold `base`, another recipe to start from, and `seed`, for every stage.
    """
    path = recipe_path(recipe)
    if path in above:
        raise InputError(f"{path}: this recipe is, in the end, based on itself")
    top = _read_yaml(path)
    found = []
    for key, (value, where) in top.items():
        if key not in (*STAGES, "base", "seed"):
            raise InputError(f"{where}: {unknown(key, (*STAGES, 'base', 'seed'))} in a recipe")
        if key == "base":
            if not isinstance(value, str):
                raise InputError(f"{where}: base is the name or path of another recipe")
            found = recipe_options(value, stage, (*above, path)) + found
        elif key == "seed":
            found.append(("seed", value, where))
        elif key == stage and value is not None:
            if not isinstance(value, _Section):
                raise InputError(f"{where}: {key} must hold options, one a line")
            found += [(name, v, at) for name, (v, at) in value.items()]
    return found


def recipe_path(recipe: str) -> Path:
    """The YAML file of a recipe that was named or given by path."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"no recipe {recipe}: give the path of a YAML file, or one of {known}")
    return path


class _Section(dict):
    """A mapping of YAML whose values know their line: key -> (value, `file:line`)."""


def _read_yaml(path: Path) -> _Section:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        top = _values(node, path) if node else _Section()
    except RecursionError as error:
        raise InputError(f"{path}: brackets without end") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise InputError(f"{path}:{line}: not YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(top, _Section):
        raise InputError(f"{path}:1: a recipe holds sections, one for each stage")
    return top


def _values(node: yaml.Node, path: Path, depth: int = 0) -> Any:
    """The value of a YAML node; the two upper levels of mappings keep their lines."""
    if not isinstance(node, yaml.MappingNode) or depth > 1:
        loader = yaml.SafeLoader("")
        return loader.construct_object(node, deep=True)
    section = _Section()
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if key.value in section:
            raise InputError(f"{where}: {key.value} is given twice")
        section[key.value] = (_values(value, path, depth + 1), where)
    return section


def unknown(key: str, names: Iterable[str]) -> str:
    """What to say of an option that does not exist."""
    close = difflib.get_close_matches(key, list(names), n=1)
    return f'there is no option "{key}"' + (f', did you mean "{close[0]}"?' if close else "")
