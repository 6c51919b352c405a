"""Recipes for tests."""

from pathlib import Path

from tests.forks import ROOT
from tests.pipeline import TOY


def write_recipe(folder: Path, text: str, name: str = "mine") -> str:
    """The path of a recipe with this text."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def toy_recipe(folder: Path, **replacements: str) -> str:
    """The path of the toy recipe with lines replaced."""
    text = (ROOT / TOY).read_text()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return write_recipe(folder, text)
