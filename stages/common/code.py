"""A hash of the code that a stage's result depends on: the stage, and its imports from the project or from the user."""

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf import InputError

ROOT = Path(__file__).parent.parent.parent
# modules that read options, print, save or decide what to run: an edit of these changes no result
IRRELEVANT = {
    *(f"stages.common.{name}" for name in (
        "card", "code", "console", "decisions", "ending", "interruption", "libraries", "needs", "options", "parsing",
        "pipeline", "processes", "recipe", "request", "requirements", "resume", "run", "stage",
    )),
    "rlhf.run.checkpoint", "rlhf.run.files",
}  # fmt: skip
REPORT = {"rlhf.report", "rlhf.escape"}  # change the result of evaluate only
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def own_places() -> list[Path]:
    """The folders with modules of the project or the user: the root and PYTHONPATH, without installed libraries."""
    entries = map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    return [ROOT, *(place for place in entries if not {"site-packages", "dist-packages"} & set(place.parts))]


def code_hash(stage: str, functions: list[str]) -> str:
    """A hash of the code of a stage and of `functions` ("module:function"), ignoring comments and docstrings.

    Raises InputError for a file that is not valid Python.
    """
    named = [function.partition(":")[0] for function in functions]
    digest = hashlib.sha256()
    for module, tree in sorted({*imported([f"stages.{stage}"], [ROOT]), *imported(named, own_places())}):
        if module in REPORT and stage != "evaluate":
            continue
        digest.update(f"{module}\n{tree}\n".encode())
    return digest.hexdigest()[:16]


def modules_hash(modules: Iterable[str]) -> str:
    """A hash of the code of these modules of the project, without those that they import."""
    trees = (next(imported([module], [ROOT])) for module in modules)
    return hashlib.sha256("".join(f"{module}\n{tree}\n" for module, tree in trees).encode()).hexdigest()


def imported(modules: list[str], places: list[Path]) -> Iterator[tuple[str, str]]:
    """(module name, dump of its syntax tree) for the modules and, recursively, for their imports found in `places`.

    An import that is computed, with importlib, is not found.
    """
    waiting, seen = list(modules), set(IRRELEVANT)
    while waiting:
        module = waiting.pop()
        if "." in module:
            waiting.append(module.rpartition(".")[0])  # importing a module runs the __init__ of its package
        endings = (f"{module.replace('.', '/')}{ending}" for ending in (".py", "/__init__.py"))
        path = next((path for ending in endings for place in places if (path := place / ending).is_file()), None)
        if module in seen or path is None:
            continue
        seen.add(module)
        tree = _parse(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(node, module, path)
                waiting += [source, *(f"{source}.{alias.name}" for alias in node.names)]
            if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        yield module, ast.dump(tree)


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The absolute name of the module that a statement `from ... import` in a module names."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise InputError(f"{path}:{line}: not Python ({getattr(error, 'msg', error)})") from error
