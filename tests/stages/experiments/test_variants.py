"""Variants of a finished run: their names and options, what is made again, and what is said of one that fails."""

import shutil

import pytest

from rlhf import InputError
from rlhf.run.files import read_json, write_json
from stages.experiments import frontier, k
from stages.experiments import variants as module
from stages.experiments.__main__ import check_gold
from stages.experiments.variants import Runs, lineage, ppo, variant


@pytest.fixture
def runs(toy_run, tmp_path, monkeypatch):
    shutil.copytree(toy_run, tmp_path / "toy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Runs(tmp_path / "toy")


def test_a_name_tells_the_options_that_differ_from_those_of_every_experiment():
    assert ppo(seed=1).name == "ppo-seed-1"
    assert ppo(kl_coef=0.0, total_episodes=64).name == "ppo-total_episodes-64-kl_coef-0.0"
    chain = ppo(variant("reward", variant("comparisons", count=750)))
    assert chain.name == "comparisons-count-750--reward--ppo"
    assert [v.stage for v in lineage(chain)] == ["comparisons", "reward", "ppo"]


def test_the_names_of_long_chains_stay_short_and_different():
    chains = []
    for seed in (1, 2):
        chain = None
        for stage in ("data", "pretrain", "sft", "comparisons", "reward", "ppo"):
            chain = variant(stage, chain, seed=seed, learning_rate=0.123456789)
        chains.append(chain.name)
    assert len(set(chains)) == 2
    assert all(len(name) < 200 for name in chains)


def test_arguments_are_words_of_a_shell():
    assert (
        variant("ppo", reward_functions=("a:b", "c d:e"), seed=1).arguments == "--reward_functions a:b 'c d:e' --seed 1"
    )


def test_a_module_in_place_of_the_stage_names_the_variant():
    assert ppo(module="experiments.faults.dropout", seed=0).name == "dropout-seed-0"


@pytest.mark.slow
def test_a_variant_has_its_options_and_is_made_once(runs):
    parent = variant("reward", seed=3)
    child = variant("ppo", parent, total_episodes=16, show_samples=0)
    runs.make([child, parent])
    record = read_json(runs.result(child) / "stage.json")
    assert record["options"]["total_episodes"] == 16
    assert record["inputs"]["<run>/sft"] == read_json(runs.base / "ppo" / "stage.json")["inputs"]["<run>/sft"]
    assert record["inputs"]["<run>/reward"] != read_json(runs.base / "ppo" / "stage.json")["inputs"]["<run>/reward"]
    assert not (runs.folder(child) / "samples").exists()
    finished = record["finished"]
    Runs(runs.base).make([child])
    assert read_json(runs.result(child) / "stage.json")["finished"] == finished


def test_a_variant_that_fails_is_named_with_the_end_of_its_output(runs):
    with pytest.raises(InputError, match=r"ppo-kl_coef--1 failed(.|\n)*kl_coef"):
        runs.make([variant("ppo", kl_coef=-1)])


def test_an_experiment_that_compares_gold_refuses_a_run_without_gold_before_it_trains(tmp_path):
    (tmp_path / "ppo").mkdir()
    write_json(tmp_path / "ppo" / "stage.json", {"options": {"gold": None}, "seconds": 1.0})
    with pytest.raises(InputError, match="was made without gold, which the experiment compares"):
        check_gold(frontier, Runs(tmp_path))
    check_gold(k, Runs(tmp_path))  # it trains reward models only


def test_one_variant_at_a_time_runs_on_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert module.workers_of(9) == 1
