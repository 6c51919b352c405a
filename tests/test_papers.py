"""docs/papers.md names only what exists: files, functions, make targets, options, recipes, experiments and pages."""

import ast
import re

import pytest

from stages.common.options import StageOptions
from stages.common.programs import OPTIONS
from stages.experiments.__main__ import load, names
from stages.experiments.output import page_of
from tests.forks import ROOT

PAGE = ROOT / "docs" / "papers.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1] for line in TEXT.splitlines() if line.startswith("| ")]
IDEAS = [row for row in ROWS if len(row) == 6 and row[0].strip() != "idea"]  # tables of the papers
COMMANDS = re.findall(r"`make ([^`]+)`", TEXT)


def defined(path):
    """The names of the functions, methods and classes of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_paper_has_rows_with_an_equation_a_file_and_a_command():
    assert len(re.findall(r"^## (?:GPT-[123]|InstructGPT|Chain of thought)", TEXT, flags=re.MULTILINE)) == 5
    assert len(IDEAS) > 15
    for row in IDEAS:
        assert row[0].strip() and "`make " in row[3] and re.search(r"`[\w/]+\.(py|yaml)`", row[2]), row


@pytest.mark.parametrize("row", IDEAS, ids=lambda row: row[0].strip())
def test_every_file_exists_and_has_the_functions_named_beside_it(row):
    file, *functions = re.findall(r"`([^`]+)`", row[2])
    assert (ROOT / file).is_file()
    assert set(functions) <= (defined(file) if file.endswith(".py") else set())


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_has_a_target_and_options_that_exist(command):
    target, *_ = command.split()
    lists = re.findall(r"^(?:STAGES :=|TOOLS :=|\.PHONY:) (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert target in " ".join(lists).split()
    kind = OPTIONS.get(target, StageOptions)
    assert set(re.findall(r"--(\w+)", command)) <= set(kind.__dataclass_fields__)
    for recipe in re.findall(r"RECIPE=(\w+)", command):
        assert (ROOT / "stages" / "recipes" / f"{recipe}.yaml").is_file()
    assert set(re.findall(r"NAME=(\w+)", command)) <= set(names())


def test_every_link_leads_to_a_page_or_to_the_section_of_an_experiment_on_its_page():
    links = re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", TEXT)
    assert len(links) > 15
    for page, section in links:
        assert (PAGE.parent / page).is_file(), page
        if section:
            assert section in names() and page_of(load(section)).name == page


def test_every_other_file_that_is_named_exists():
    assert [
        path for path in re.findall(r"`((?:rlhf|stages|tests|docs)/[\w/.-]+)`", TEXT) if not (ROOT / path).exists()
    ] == []
