"""A stage's options from its recipe and its command line.

The same parser reads both, so both refuse a misspelt name, a wrong type or an impossible value. An error in a recipe is
reported with file and line.
"""

import importlib
import json
import sys
from argparse import (
    SUPPRESS,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
)
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from data.columns import Source, source_text
from rlhf import InputError
from rlhf.escape import printable
from rlhf.option import check_option, kind_of
from rlhf.run.files import as_json
from stages.common.libraries import check_library_values
from stages.common.options import PEOPLE, PLACES, SourceText, StageOptions
from stages.common.programs import OPTIONS
from stages.common.recipe import no_such_option, recipe_options

SCORING = ("gold", "labeller", "reward_function")  # options that name a Python function or a sequence classifier


@dataclass
class Parsed:
    """The options of a stage, and the names of those that a recipe or the command line sets."""

    options: Any  # of the stage's class
    given: set[str]

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON values, as a record holds them."""
        return as_json(asdict(self.options))


def parse(stage: str, argv: list[str] | None = None) -> Any:
    """The stage's options: defaults, then the recipe's section of that name, then the command line.

    Raises InputError, with file and line for an error in a recipe.
    """
    parsed = parse_given(stage, sys.argv[1:] if argv is None else argv)
    check_values(parsed.options)
    return parsed.options


def parse_given(stage: str, argv: list[str]) -> Parsed:
    """The same as `parse`, with the names of the options that are set.

    What options name, such as functions and trackers, is not looked up, see `check_values`.
    """
    for argument in argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise InputError(f"{argument}: the command line is not UTF-8")
    options_class = OPTIONS[stage]
    recipe = _named_in(argv, "recipe") or StageOptions.recipe
    parser = _parser(options_class, stage)
    parse_argv = partial(_parse, parser, options_class)
    parser.description = f"Defaults are those of the recipe {recipe}; add --recipe NAME for those of another."
    typed = {argument[2:].split("=")[0].replace("-", "_") for argument in argv if argument.startswith("--")}
    given = set(typed)
    for name, value, where in recipe_options(recipe, stage, _named_in(argv, "base")):
        if name in PLACES:
            raise InputError(f"{where}: a recipe's section can't set {name}; give --{name} on the command line")
        names = [field.name for field in fields(options_class)]
        if name not in names:
            raise InputError(f"{where}: {no_such_option(name, names)} in {stage}")
        # an empty list overrides that of a base recipe; argparse can't parse an empty list
        is_empty_list = value == [] and isinstance(parser.get_default(name), list)
        parsed = [] if is_empty_list else getattr(parse_argv(_as_argv(name, value), where), name)
        parser.set_defaults(**{name: parsed})
        given.add(name)
    values = vars(parse_argv(argv, "command line"))
    if values["run_seed"] is not None and "seed" not in typed:
        values["seed"] = values["run_seed"]
    return Parsed(options_class(**values), given)


def check_values(options: StageOptions) -> None:
    """Raises InputError if options name a function, a classifier, a schedule, a tracker or an argument that is none."""
    judge = getattr(options, "judge", None)
    if judge and not is_function(judge):
        raise InputError(f"judge is {judge!r}; a pairwise judge is a Python function, named module:function")
    for function in functions_of(options):
        load_function(function)
    for name in _scoring(options):
        if not is_function(name):
            _check_classifier(name, "; a function is named module:function")
    if reward_model := getattr(options, "labelled_reward_model", None):
        _check_classifier(reward_model)
    check_library_values(options)


def functions_of(options: StageOptions) -> list[str]:
    """The user's functions ("module:function") that the options and their sources of rows name."""
    judges = [judge] if (judge := getattr(options, "judge", None)) else []
    named = filter(is_function, [*_scoring(options), *judges])
    hints = get_type_hints(type(options))
    lists = [getattr(options, name) for name, hint in hints.items() if hint == list[SourceText]]
    adapters = [Source.parse(source).adapter for sources in lists for source in sources]
    return [*named, *(adapter for adapter in adapters if adapter)]


def _scoring(options: StageOptions) -> list[str]:
    """The functions and classifiers that score completions."""
    named = [value for name in SCORING if (value := getattr(options, name, None))]
    if getattr(options, "labeller", None) == PEOPLE:
        named.remove(PEOPLE)
    return [*named, *getattr(options, "reward_functions", [])]


def _check_classifier(name: str, hint: str = "") -> None:
    from rlhf.scoring import check_classifier  # only here, because torch takes seconds to import

    source, label = split_label(name)
    try:
        check_classifier(source, label)
    except InputError as error:
        raise InputError(f"{error}{'' if Path(source).is_dir() else hint}") from error


def is_function(name: str) -> bool:
    """Whether the name of what scores completions is that of a function, module:function, and not of a classifier."""
    source, _ = split_label(name)
    return ":" in source and not Path(source).is_dir()


def split_label(name: str) -> tuple[str, str | None]:
    """The folder or hub id of a classifier, and its label, if the name is "folder#label"."""
    source, mark, label = name.rpartition("#")
    return (source, label) if mark and not Path(name).is_dir() else (name, None)


def load_function(name: str) -> Callable[..., Any]:
    """The function named "module:function". Raises InputError if it can't be imported."""
    hint = "a function is named module:function, and its module is in the current folder or on PYTHONPATH"
    module, _, function = name.partition(":")
    try:
        result = getattr(importlib.import_module(module), function or "-", None)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {error.name} for {name}; {hint}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{module!r} is not the name of a module; {hint}") from error
    except Exception as error:
        raise InputError(f"module {module} can't be imported ({type(error).__name__}: {error})") from error
    if not callable(result):
        raise InputError(f"no function {function!r} in module {module}; {hint}")
    return result


# --- argparse ---------------------------------------------------------------------------------------------------------


class _Parser(ArgumentParser):
    """A parser whose help shows names and values of a recipe escaped."""

    def format_help(self) -> str:
        return "\n".join(map(printable, super().format_help().split("\n")))


def _parser(options_class: type[StageOptions], stage: str) -> ArgumentParser:
    """A parser with one argument per field of the options. A field that may be None accepts "none"."""
    parser = _Parser(
        prog=f"python -m stages.{stage}",
        usage="%(prog)s [--OPTION VALUE ...]",
        allow_abbrev=False,
        exit_on_error=False,
    )
    types = get_type_hints(options_class)
    for field in fields(options_class):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        flags = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        kwargs = _argument_type(types[field.name])
        notes = "; ".join(filter(None, [str(field.metadata["range"]), "default: %(default)s"]))
        help_text = f"{field.metadata['help'].replace('%', '%%')} ({notes})"
        parser.add_argument(*flags, dest=field.name, default=default, help=help_text, **kwargs)
        if default is True:
            parser.add_argument(f"--no_{field.name}", dest=field.name, action="store_false", help=SUPPRESS)
    return parser


def _argument_type(hint: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for a field of this type."""
    kind, optional = kind_of(hint)
    if get_origin(kind) is Literal:
        return {"metavar": f"{{{','.join(get_args(kind))}}}", "type": _or_none(str) if optional else str}
    if get_origin(kind) is list:
        return {"type": _converter(get_args(kind)[0]), "nargs": "+", "metavar": "VALUE"}
    convert = _or_none(_converter(kind)) if optional else _converter(kind)
    return {"type": convert, "metavar": "VALUE"} | ({"nargs": "?", "const": True} if kind is bool else {})


def _converter(kind: Any) -> Callable[[str], Any]:
    if kind in (int, float):
        return partial(_number, kind)
    return {bool: _boolean, dict: _json_object, SourceText: _source}.get(kind, kind)


def _number(kind: type[int | float], text: str) -> Any:
    """The number that a text holds; the text itself if it holds none, which `check_option` refuses."""
    try:
        return kind(text)
    except ValueError:
        return text


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise ArgumentTypeError(f"{text!r} is not true or false")


def _source(text: str) -> str:
    try:
        return source_text(text)
    except InputError as error:
        raise ArgumentTypeError(str(error)) from error


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    json.dumps(value, allow_nan=False)  # refuses NaN and infinity, which JSON lacks
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def optional(text: str) -> Any:
        return None if text.lower() in ("none", "null") else convert(text)

    optional.__name__ = getattr(convert, "__name__", str(convert)).strip("_")  # argparse prints this name in errors
    return optional


def _parse(parser: ArgumentParser, options_class: type[StageOptions], argv: list[str], where: str) -> Namespace:
    try:
        lists, argv = _list_values(parser, argv)
        namespace, unknown = parser.parse_known_args(argv)
    except (ArgumentError, ArgumentTypeError) as error:
        raise InputError(f"{where}: {error}") from error
    vars(namespace).update(lists)
    for argument in unknown:
        if argument.startswith("--"):
            raise InputError(f"{where}: {no_such_option(argument[2:].split('=')[0], vars(namespace))}")
        raise InputError(f"{where}: {argument!r} belongs to no option; options begin with --")
    for name, value in vars(namespace).items():
        try:
            check_option(options_class, name, value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return namespace


def _list_values(parser: ArgumentParser, argv: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """The values of lists that are given as --name=value, and the other arguments: argparse would drop a value "--"."""
    types: dict[str, Any] = {action.dest: action.type for action in parser._actions if action.nargs == "+"}
    lists: dict[str, list[Any]] = {}
    others = []
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and equals and (name := name.replace("-", "_")) in types:
            lists.setdefault(name, []).append(types[name](value))
        else:
            others.append(argument)
    return lists, others


def _named_in(argv: list[str], option: str) -> str | None:
    for i, argument in enumerate(argv):
        if argument == f"--{option}" and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith(f"--{option}="):
            return argument.split("=", 1)[1]
    return None


def _as_argv(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *(json.dumps(v, default=str) if isinstance(v, dict) else str(v) for v in value)]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}={'none' if value is None else value}"]
