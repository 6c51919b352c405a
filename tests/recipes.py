"""Recipes for tests."""

from pathlib import Path

from stages.common.recipe import recipe_path
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


def recipe_on(base: Path, folder: Path) -> Path:
    """The recipe mine, with another base."""
    text = recipe_path("mine").read_text().replace("base: runs/tiny", f"base: {base}")
    path = folder / "mine.yaml"
    path.write_text(text)
    return path
