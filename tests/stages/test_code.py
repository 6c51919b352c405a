"""The hash of the code that a stage depends on."""

import ast
import subprocess
import sys

import pytest

from rlhf import InputError
from stages.common import code, token_files
from stages.common.code import code_hash, imported, modules_hash, own_places
from stages.common.programs import STAGES
from tests.forks import ROOT
from tests.pipeline import environment


def test_it_includes_what_the_stage_imports_and_the_functions_that_its_options_name():
    sft, ppo = code_hash("sft", []), code_hash("ppo", [])
    assert sft != ppo
    assert sft == code_hash("sft", [])
    assert ppo != code_hash("ppo", ["data.world:gold"])


def test_it_depends_on_the_engine_and_not_on_what_only_prints_or_saves():
    modules = {module for module, _ in imported(["stages.ppo"], [ROOT])}
    assert {"stages.ppo", "rlhf.trainer", "rlhf.ppo", "rlhf.engine.attention", "rlhf.run.state"} <= modules
    assert not {"stages.common.console", "stages.common.pipeline", "rlhf.run.files"} & modules


def test_comments_and_docstrings_do_not_matter_and_statements_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hashes = []
    for text in (
        "def good(): return 1",
        "# a comment\ndef good():\n    'a docstring'\n    return 1",
        "def good(): return 2",
    ):
        (tmp_path / "mine.py").write_text(text)
        hashes.append(code_hash("ppo", ["mine:good"]))
    assert hashes[0] == hashes[1] != hashes[2]


def test_libraries_on_pythonpath_are_not_read(tmp_path):
    (tmp_path / "mine.py").write_text("import theirs\n")
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "theirs.py").write_text("")
    for places, modules in (([tmp_path], ["mine"]), ([tmp_path, library], ["mine", "theirs"])):
        assert [module for module, _ in imported(["mine"], places)] == modules
    script = "from stages.common.code import own_places; print(*own_places())"
    variables = environment(PYTHONPATH=f"{tmp_path}:{library}")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout.split() == [str(ROOT), str(tmp_path)]
    assert own_places()[0] == ROOT


def test_a_module_that_is_not_python_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("def f(:\n")
    with pytest.raises(InputError, match="mine.py:1: not Python"):
        list(imported(["mine"], [tmp_path]))


def test_relative_imports_and_the_packages_of_a_module_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = tmp_path / "mine"
    package.mkdir()
    files = {
        "__init__.py": "A = 1",
        "good.py": "from . import words\nfrom .numbers import one\ndef good(): return one",
        "words.py": "B = 1",
        "numbers.py": "one = 1",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    before = code_hash("ppo", ["mine.good:good"])
    for name, text in files.items():
        (package / name).write_text(f"{text}\nchanged = 2")
        assert code_hash("ppo", ["mine.good:good"]) != before, name
        (package / name).write_text(text)
    assert code_hash("ppo", ["mine.good:good"]) == before


@pytest.mark.parametrize("name", ["report.py", "escape.py"])
def test_an_edit_of_the_report_concerns_the_evaluation_only(name, monkeypatch):
    before = {name: code_hash(name, []) for name in STAGES}
    parse = code._parse
    edited = ast.parse("edited = True")
    monkeypatch.setattr(code, "_parse", lambda path: edited if path.name == name else parse(path))
    assert {stage for stage in STAGES if code_hash(stage, []) != before[stage]} == {"evaluate"}


def test_the_code_of_token_ids_is_that_of_the_modules_that_make_them(monkeypatch):
    parse = code._parse

    def key(*names):
        edited = ast.parse("edited = True")
        monkeypatch.setattr(code, "_parse", lambda path: edited if path.name in names else parse(path))
        return modules_hash(token_files.CODE)

    assert key("batches.py", "tokenizers.py", "pretrain.py") == key()
    for name in ("checks.py", "messages.py", "chats.py", "datasets.py", "ids.py", "labels.py"):
        assert key(name) != key()
