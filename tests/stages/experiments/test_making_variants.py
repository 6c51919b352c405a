"""The order in which variants of a finished run are made."""

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
