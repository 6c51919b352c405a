"""What a stage's result depends on beside the results before it: its options, its code, and files of the user's.

`make` has this written to <run>/.settings/ before it decides what to do. A file there is touched only when its content
changes, so that an edit of a recipe's `ppo` section makes PPO run again, and nothing else. This module imports nothing
heavy: it runs each time make does.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from rlhf.errors import InputError
from stages.plan import STAMPED, before_ppo, check_sources
from stages.recipe import STAGES, recipe_options

ROOT = Path(__file__).parent.parent
# where a user's own modules may lie, and no library
OWN = [
    ROOT,
    *(
        place
        for place in map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        if not {"site-packages", "dist-packages"} & set(place.parts)
    ),
]
OUTPUTS = ("folder", "run", "output", "recipe")  # options that name a place, not a file that is read
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# what only reads options and talks: an edit there changes no result
SILENT = {
    "stages.cli", "stages.interruption", "stages.options", "stages.progress", "stages.recipe", "stages.saving",
    "rlhf.checkpoint", "rlhf.errors", "rlhf.report",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("goals", nargs="*", help="what make was asked for; $ARGS holds options for it")
    given = parser.parse_args()
    folder = given.run / ".settings"
    texts, on_command_line, named = {}, {}, {}
    for stage in STAMPED:
        # options of the command line belong to the stage that was asked for, and stay with its result
        kept = folder / f"{stage}.args"
        arguments = shlex.split(os.environ.get("ARGS", "") if stage in given.goals else _read(kept))
        options = {key: value for key, value, _ in recipe_options(given.recipe, stage)}
        named[stage] = options | values_of(arguments)
        inputs = {
            "options": options,
            "arguments": arguments,
            "code": code(stage, named[stage]),
            "files": files(named[stage]),
        }
        texts[kept] = shlex.join(arguments) + "\n"
        texts[folder / f"{stage}.json"] = json.dumps(inputs, indent=1, sort_keys=True, default=str) + "\n"
        on_command_line[stage] = arguments
    texts[folder / "before_ppo"] = before_ppo(named["ppo"]) + "\n"
    changed = {path: text for path, text in texts.items() if _read(path) != text}
    if changed:
        check(given.recipe, on_command_line)  # before the first stage works for minutes, not after
    check_sources(named, given.goals)
    if changed:
        say_why(given.run, {path.stem: text for path, text in changed.items() if path.suffix == ".json"})
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in changed.items():
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)  # a kill leaves no half of it


def values_of(arguments: list[str]) -> dict[str, Any]:
    """What a command line says: option -> text, or a list of texts where there are several; "true" where none follows."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            values = found[key] = [value] if equals else []
        else:
            values.append(argument)
    return {key: values if len(values) > 1 else values[0] if values else "true" for key, values in found.items()}


def say_why(run: Path, changed: dict[str, str]) -> None:
    """Says of results that are out of date what has changed since they were made."""
    for stage, text in changed.items():
        old = _read(run / ".settings" / f"{stage}.json")
        if not old or not (run / stage / "stage.json").is_file():
            continue
        before, now = json.loads(old), json.loads(text)
        files = [
            name for name in {**before["files"], **now["files"]} if before["files"].get(name) != now["files"].get(name)
        ]
        what = [name for name in ("options", "arguments", "code") if before[name] != now[name]] + files[:3]
        print(f"{stage:<13}out of date: {', '.join(what)} changed", flush=True)


def check(recipe: str, arguments: dict[str, list[str]]) -> None:
    """Parses the options of every stage. Raises InputError for what is wrong with them."""
    from stages.options import parse

    for stage in STAGES:
        options = importlib.import_module(f"stages.{stage}").Options
        parse(options, stage, ["--recipe", recipe, *arguments.get(stage, [])])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def code(stage: str, options: dict[str, Any]) -> str:
    """A hash of all code of this project, or on PYTHONPATH, that the stage's result may depend on.

    Comments and docstrings aside.
    """
    named = [value.split(":")[0] for value in options.values() if isinstance(value, str) and ":" in value]
    digest = hashlib.sha256()
    for module, tree in sorted({*_imported([f"stages.{stage}"], [ROOT]), *_imported(named, OWN)}):
        digest.update(f"{module}\n{tree}\n".encode())
    return digest.hexdigest()[:16]


def _imported(modules: list[str], places: list[Path]) -> Iterator[tuple[str, str]]:
    """(module, its code) for modules that lie in one of the places, and all that they import from there."""
    seen = set(SILENT)
    while modules:
        module = modules.pop()
        ends = (f"{module.replace('.', '/')}{end}" for end in (".py", "/__init__.py"))
        path = next((path for end in ends for place in places if (path := place / end).is_file()), None)
        if module in seen or path is None:
            continue
        seen.add(module)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise InputError(f"{path}:{line}: not Python ({getattr(error, 'msg', error)})") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        yield module, ast.dump(tree)


def files(options: dict[str, Any]) -> dict[str, list[int]]:
    """Size and time of change of every local file that the options name."""
    folder = options.get("folder") or ""
    values = [value for key, value in options.items() if key not in OUTPUTS]
    names = [n for value in values for n in (value if isinstance(value, list) else [value]) if isinstance(n, str)]
    found = {}
    for name in names:
        for path in map(Path, glob(str(Path(folder, name).expanduser()))):
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            found |= {str(p): [p.stat().st_size, p.stat().st_mtime_ns] for p in inside if p.is_file()}
    return found


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
