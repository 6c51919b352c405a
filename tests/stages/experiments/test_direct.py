"""The experiment direct: what it says in each outcome, the interpolation, and the pairs that DPO trains on."""

import json
import re

import pytest
from matplotlib import pyplot as plt

from rlhf import InputError
from rlhf.rows import read_jsonl, write_rows
from rlhf.tokens import completion_ids, load_tokenizer, prompt_ids
from stages.common.options import PPOOptions
from stages.experiments import direct, direct_training
from stages.experiments.results import evaluations
from stages.experiments.variants import Runs, ppo


def estimated(name: str, value: float, margin: float = 0.2) -> dict[str, float]:
    return {name: value, f"{name}_low": value - margin, f"{name}_high": value + margin}


def rows_of(gain: float, gain_at_kl: float | None, seconds: float = 200.0) -> list[dict]:
    """A table with PPO at gold 6 and a KL of 1; DPO's best beta, 0.3, differs from it by `gain`."""
    rows = [
        {"model": "SFT", **estimated("gold", 4.5), "perplexity": 3.7},
        {
            "model": "PPO",
            "seconds": 200.0,
            **estimated("gold", 6),
            **estimated("kl", 1),
            "sqrt_kl": 1,
            "perplexity": 2.2,
        },
    ]
    for beta, less, kl in ((0.1, 1.0, 9), (0.3, 0.0, 4), (1.0, 0.5, 0.25)):
        numbers = {**estimated("gold", 6 + gain - less), **estimated("kl", kl), "sqrt_kl": kl**0.5, "perplexity": 4.0}
        rows.append({"model": "DPO", "beta": beta, "seconds": seconds, **numbers, **estimated("gain", gain - less)})
    if gain_at_kl is not None:
        own = {**estimated("gold", 6 + gain_at_kl), "sqrt_kl": 1, "perplexity": 3.9}
        rows.append({"model": "DPO at the KL of PPO", **own, **estimated("gain", gain_at_kl)})
    return rows


@pytest.mark.parametrize(
    ("gain", "at_kl", "first", "second"),
    [
        (-1.0, -1.5, "DPO is worse, by -1.00 [-1.20, -0.80].", "DPO is worse, by -1.50"),
        (1.0, 0.5, "DPO is better, by 1.00 [0.80, 1.20].", "DPO is better, by 0.50"),
        (0.1, -1.0, "no clear difference, 0.10 [-0.10, 0.30].", "DPO is worse, by -1.00"),
        (-1.0, None, "DPO is worse", "No comparison at equal KL is possible: the KL of PPO is 1.0 nats"),
    ],
)
def test_two_sentences_say_which_is_better_in_the_same_time_and_at_the_same_kl(gain, at_kl, first, second):
    sentences = re.split(r"(?<=\.) (?=[A-Z])", direct.seen(rows_of(gain, at_kl)))
    assert len(sentences) == 2
    assert "best β on these prompts, 0.3," in sentences[0] and first in sentences[0]
    assert second in sentences[1]


@pytest.mark.parametrize(("seconds", "words"), [(210, "In the same time"), (100, "In 0.5 times the time")])
def test_the_first_sentence_says_when_the_seconds_are_not_the_same(seconds, words):
    assert direct.seen(rows_of(0, 0, seconds)).startswith(f"{words} ({seconds} seconds against 200)")


def test_the_picture_has_gold_and_perplexity(tmp_path):
    figure = plt.figure()
    direct.draw(rows_of(0.0, None), figure)
    figure.savefig(tmp_path / "picture.png")
    assert [axis.get_title() for axis in figure.axes] == ["gold (true quality)", "perplexity of pretraining text"]
    plt.close(figure)


def test_the_interpolation_is_linear_in_the_root_of_the_kl():
    # roots 4, 1, 2; 1.5 is half-way between the last two
    assert direct.between([16.0, 1.0, 4.0], 2.25) == pytest.approx([0, 0.5, 0.5])
    assert direct.between([16.0, 1.0, 4.0], 1.0) == pytest.approx([0, 1, 0])


@pytest.mark.parametrize("kl", [0.5, 17.0])
def test_there_is_no_extrapolation(kl):
    assert direct.between([16.0, 1.0, 4.0], kl) == []


def test_a_ranking_gives_all_its_pairs_without_ties_and_truncated_completions():
    row = {
        "prompt": "p",
        "completions": ["a", "b", "c", "d"],
        "ranks": [1, 0, 1, 2],
        "ended": [True, True, True, False],
    }
    pairs = direct_training.preference_pairs([row])
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("b", "a"), ("b", "c")]


@pytest.mark.slow
def test_dpo_trains_on_the_token_ids_that_sampling_has(toy_run, tmp_path):
    rows = [row for _, row in read_jsonl(toy_run / "data" / "demonstrations.jsonl")]
    replies = [row["completion"] for row in rows]
    pairs = [
        {"prompt": row["prompt"], "chosen": reply, "rejected": other}
        for row, reply, other in zip(rows, replies, [*replies[1:], replies[0]], strict=True)
    ]
    source = toy_run / "sft"
    tokenizer = load_tokenizer(str(source))
    arguments = direct_training.dpo_arguments(PPOOptions(total_episodes=16, batch_size=8), tmp_path)
    dataset = direct_training.dpo_trainer(str(source), arguments, pairs, tokenizer, tmp_path).train_dataset
    prompts = [pair["prompt"] for pair in pairs]
    assert dataset["prompt_ids"][:] == prompt_ids(tokenizer, prompts)
    for column in ("chosen", "rejected"):
        expected = completion_ids(tokenizer, prompts, [pair[column] for pair in pairs])
        assert dataset[f"{column}_ids"][:] == expected
        assert all(ids[-1] == tokenizer.eos_token_id for ids in expected)


def test_rankings_without_a_pair_are_an_error(tmp_path):
    row = {"prompt": "p", "completions": ["a", "b"], "ranks": [0, 1], "ended": [True, False]}
    with pytest.raises(InputError, match="raise response_length under comparisons"):
        direct_training.preference_pairs([row])


@pytest.fixture
def small(run, monkeypatch) -> Runs:
    """The toy run, and the variants of the experiment at its size, with two betas."""
    # no completion of the toy model ends; the reward model is made again, on the same rankings
    path = run / "comparisons" / "train.jsonl"
    write_rows(path, [{**row, "ended": [True] * len(row["ranks"])} for _, row in read_jsonl(path)])
    prompts = str(run / "data" / "prompts_test.jsonl")
    own = {"total_episodes": 32, "batch_size": 16, "eval_count": 8, "ptx_coef": 0.0, "eval_prompts": prompts}
    monkeypatch.setattr(direct, "PPO", [ppo(**own)])
    monkeypatch.setattr(direct, "BETAS", (0.03, 1.0))
    monkeypatch.setattr(direct, "dpo", lambda beta: ppo(module="experiments.direct_training", kl_coef=beta, **own))
    return Runs(run)


@pytest.mark.slow
def test_dpo_is_made_like_a_variant_of_ppo_and_measured_beside_it(small):
    small.make(direct.variants())
    result = small.result(direct.dpo(1.0))
    first, final = evaluations(result)
    assert (first["step"], final["step"]) == (0, 2)
    assert len(final["gold"]) == 8 and final["perplexity"] > 1
    assert abs(sum(first["kl"])) < 1e-3 < abs(sum(final["kl"]))  # the policy starts at the reference, and moves
    losses = [row["loss"] for _, row in read_jsonl(result / "log.jsonl") if row["step"]]
    assert losses[0] == pytest.approx(0.693, abs=0.1)  # log 2 at the reference
    rows = direct.measure(small)
    assert [row["model"] for row in rows][:4] == ["SFT", "PPO", "DPO", "DPO"]
    record = json.loads((small.result(direct.REWARD) / "stage.json").read_text())
    assert rows[1]["seconds"] > record["seconds"] and rows[2]["seconds"] > 0
    assert "DPO with its best β" in direct.seen(rows)
    made = (result / "stage.json").read_text()
    Runs(small.base).make(direct.variants())
    assert (result / "stage.json").read_text() == made
