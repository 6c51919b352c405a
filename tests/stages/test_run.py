"""The hashes that tell whether inputs are still what a result was made from."""

import os

import pytest

from rlhf import InputError
from rlhf.run.files import write_json
from stages.common.run import BASE, INPUT, MISSING, RECORD, SETTINGS, Run, stage_of


def test_the_hash_of_a_file_changes_with_its_content_only(tmp_path):
    path, run = tmp_path / "a.jsonl", Run(tmp_path)
    path.write_text("1")
    first = run.hash(str(path))
    os.utime(path, (1, 1))
    assert run.hash(str(path)) == first
    path.write_text("2")
    assert run.hash(str(path)) != first
    path.unlink()
    assert run.hash(str(path)) == MISSING


def test_the_hash_of_a_folder_or_a_pattern_depends_on_every_file(tmp_path):
    run = Run(tmp_path / "run")
    (tmp_path / "books").mkdir()
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / "books" / name).write_text(name)
    folder, pattern = str(tmp_path / "books"), str(tmp_path / "books" / "*.txt")
    hashes = [(run.hash(folder), run.hash(pattern))]
    for name, text in (("c.md", "other"), ("d.txt", "new")):
        (tmp_path / "books" / name).write_text(text)
        hashes.append((run.hash(folder), run.hash(pattern)))
    folders, patterns = zip(*hashes, strict=True)
    assert len(set(folders)) == 3
    assert patterns[0] == patterns[1] != patterns[2]  # a file beside the pattern does not matter


def test_the_hash_of_a_result_leaves_out_its_record_and_its_checkpoints(tmp_path):
    run, result = Run(tmp_path), tmp_path / "sft"
    (result / "checkpoints").mkdir(parents=True)
    (result / "model.safetensors").write_text("weights")
    first = run.hash(f"{INPUT}sft")
    (result / "stage.json").write_text('{"seconds": 1}')
    (result / "checkpoints" / "state.json").write_text("{}")
    assert run.hash(f"{INPUT}sft") == first
    (result / "model.safetensors").write_text("other weights")
    assert run.hash(f"{INPUT}sft") != first


def test_hashes_are_kept_and_computed_again_only_for_files_that_changed(tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr("stages.common.run.sha256", lambda path: computed.append(path) or path.read_text())
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        run = Run(tmp_path)
        assert [run.hash(str(tmp_path / name)) for name in ("a", "b")] == ["a", "b"]
        run.save_hashes()
    assert computed == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "b").write_text("longer")
    assert Run(tmp_path).hash(str(tmp_path / "b")) == "longer"


def test_results_are_told_from_files_of_the_user():
    assert stage_of(f"{INPUT}data/text.jsonl") == "data" and stage_of(f"{INPUT}sft") == "sft"
    assert stage_of("data/text.jsonl") is None and stage_of(f"{INPUT}elsewhere") is None


def test_a_result_of_the_base_is_that_of_the_nearest_base_that_has_it(tmp_path):
    first, second, run = (tmp_path / name for name in ("first", "second", "run"))
    for folder, stages in ((first, ("sft", "reward")), (second, ("sft",)), (run, ("reward",))):
        for stage in stages:
            (folder / stage).mkdir(parents=True)
            write_json(folder / stage / RECORD, {"options": {}, "seconds": 1})
    write_json(second / SETTINGS, {"recipe": "tiny", "seed": None, "base": str(first)})
    based = Run(run, second)
    assert based.path(f"{BASE}sft/model") == second / "sft" / "model"
    assert based.path(f"{BASE}reward") == first / "reward"
    assert based.path(f"{BASE}ppo") == second / "ppo" and based.hash(f"{BASE}ppo") == MISSING
    with pytest.raises(InputError, match="<base>/reward: .*run has no base: name the folder of a run with BASE="):
        Run(run).path(f"{BASE}reward")
