"""Recipes: YAML files that describe a whole pipeline, with a section of options for each stage.

The top level may also hold `seed`, for every stage, and `base`, the name or path of another recipe, whose options this
one overrides. If `base` is the folder of a run, the recipe overrides that run's recipe, and reads its finished stages
where they would be the same. BASE of make stands in for such a run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlhf import InputError
from rlhf.option import did_you_mean
from stages.common.options import StageOptions
from stages.common.programs import OPTIONS
from stages.common.run import SETTINGS, settings_of

RECIPES = Path(__file__).parent.parent / "recipes"

Option = tuple[str, Any, str]  # name, value, `file:line`


def recipe_options(recipe: str, stage: str, base: str | None = None) -> list[Option]:
    """All options that a recipe sets for a stage, those of its base first; a later entry overrides an earlier one.

    `base`: the folder of a run in place of the one that the recipe names, if it names a run.

    Raises InputError, with file and line, for an invalid recipe.
    """
    options: list[Option] = []
    for layer in _layers(recipe, base):
        options += [("seed", *layer["seed"])] if "seed" in layer else []
        section, where = layer.get(stage, (None, ""))
        if section is not None and not isinstance(section, _Section):
            raise InputError(f"{where}: {stage} must hold options, one a line")
        options += [(name, value, at) for name, (value, at) in (section or {}).items()]
    return options


def recipe_base(recipe: str, base: str | None = None) -> str | None:
    """The folder of the run that the recipe, or a recipe that it is based on, names as base; None without one.

    With `base`, which stands in for it, the folder need not exist.
    """
    bases = [layer["base"][0] for layer in _layers(recipe, base) if "base" in layer]
    return next((name for name in reversed(bases) if not is_recipe(name)), None)


def _layers(
    recipe: str, instead: str | None = None, above: tuple[tuple[Path, str | None], ...] = ()
) -> list["_Section"]:
    """The bases of a recipe, the most distant first, then the recipe itself. `instead`: the run in place of the named one."""
    path = recipe_path(recipe)
    if (path, instead) in above:
        raise InputError(f"{path}: this recipe is based on itself")
    top = _read_yaml(path)
    for name, (_, where) in top.items():
        if name not in (*OPTIONS, "base", "seed"):
            raise InputError(f"{where}: {no_such_option(name, (*OPTIONS, 'base', 'seed'))} in a recipe")
    if "base" not in top:
        return [top]
    base, where = top["base"]
    if not isinstance(base, str):
        raise InputError(f"{where}: base is the name or path of another recipe, or the folder of a run")
    if is_recipe(base):
        return [*_layers(base, instead, (*above, (path, instead))), top]
    base = instead or base
    settings = settings_of(Path(base))
    if not settings:
        raise InputError(
            f"{where}: no recipe {base}, nor a run in a folder of that name{_makes(base)}; "
            f"recipes: {', '.join(_known())}"
        )
    seed = [_Section(seed=(settings["seed"], f"{base}/{SETTINGS}"))] if settings.get("seed") is not None else []
    return [*_layers(settings["recipe"], settings.get("base"), (*above, (path, instead))), *seed, top]


def is_recipe(name: str) -> bool:
    """Whether `name` is a recipe, not the folder of a run: it ends in .yaml or .yml, or stages/recipes has it."""
    return name.endswith((".yaml", ".yml")) or (RECIPES / f"{name}.yaml").is_file()


def recipe_path(recipe: str) -> Path:
    """The path of a recipe's YAML file, from its name or path. Raises InputError if the file does not exist."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise InputError(f"no recipe {recipe}: give the path of a YAML file, or one of {', '.join(_known())}")
    return path


def _makes(folder: str) -> str:
    """What to run first if the folder is that of a known recipe's run, as a part of a sentence; "" otherwise."""
    parent, _, name = folder.rpartition("/")
    if parent != "runs" or name not in _known():
        return ""
    return f": run `make ppo{'' if name == StageOptions.recipe else f' RECIPE={name}'}` first"


def _known() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


class _Section(dict[str, tuple[Any, str]]):
    """A YAML mapping with the position of each key: key -> (value, `file:line`)."""


def _read_yaml(path: Path) -> _Section:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        top = _values(node, path) if node else _Section()
    except RecursionError as error:
        raise InputError(f"{path}: brackets are nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        hint = "; put quotes around a value with any of [ ] { } : # or , in it"
        raise InputError(f"{path}:{line}: not YAML ({getattr(error, 'problem', error)}){hint}") from error
    if not isinstance(top, _Section):
        raise InputError(f"{path}:1: a recipe holds sections, one for each stage")
    return top


def _values(node: yaml.Node, path: Path, depth: int = 0) -> Any:
    """The value of a YAML node. The two upper levels of mappings become `_Section`s."""
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
    return f'there is no option "{name}"{did_you_mean(name, names)}'
