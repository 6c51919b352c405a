"""The order in which variants of a finished run are made, their folders and results."""

import json

from stages.experiments import variants
from stages.experiments.variants import Runs, variant


def test_all_parents_start_before_a_child_which_finds_its_own(tmp_path, monkeypatch):
    parents = [variant("comparisons", seed=seed) for seed in range(20)]
    children = [variant("reward", parent) for parent in parents]
    started = []

    def make(self, made):
        if made.parent:
            self.made[made.parent.name].result()  # a KeyError if the parent is not entered yet
        started.append(made.stage)
        return 0.0

    monkeypatch.setattr(Runs, "_make", make)
    monkeypatch.setattr(variants, "workers_of", lambda count: 1)
    Runs(tmp_path).make(children)
    assert started == ["comparisons"] * 20 + ["reward"] * 20


def test_the_name_of_a_folder_does_not_hold_the_prefix_of_files_of_the_base():
    assert (
        variant("reward", comparisons="<base>/experiments/x/y.jsonl").name == "reward-comparisons-experiments-x-y.jsonl"
    )


def test_the_result_of_a_variant_that_make_found_to_be_the_same_is_that_of_its_parents_run(tmp_path):
    runs, same = Runs(tmp_path), variant("reward", seed=0)
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "stage.json").write_text("{}", encoding="utf-8")
    runs.folder(same).mkdir(parents=True)
    settings = {"recipe": "tiny", "seed": None, "base": str(tmp_path)}
    (runs.folder(same) / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    assert runs.result(same) == tmp_path / "reward"
    (runs.folder(same) / "reward").mkdir()
    (runs.folder(same) / "reward" / "stage.json").write_text("{}", encoding="utf-8")
    assert runs.result(same) == runs.folder(same) / "reward"
