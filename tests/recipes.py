"""Recipes for tests."""

from pathlib import Path


def write_recipe(folder: Path, text: str, name: str = "mine") -> str:
    """The path of a recipe with this text."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)
