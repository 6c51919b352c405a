"""The experiment `k`: rankings of K completions, on rows written by hand."""

import pytest

from rlhf import InputError
from stages.experiments import k
from stages.experiments.output import draw_picture
from stages.experiments.variants import SEEDS, Runs


def row(equal, size, accuracy, gain=None):
    """A row of the table, with intervals of 0.01 to both sides."""
    made = {"equal": equal, "k": float(size), "completions": 3600.0, "cost": 4126.0, "accuracy": accuracy}
    for name, number in {"accuracy": accuracy, "gain": gain}.items():
        if number is not None:
            made |= {name: number, f"{name}_low": number - 0.01, f"{name}_high": number + 0.01}
    return made


def rows(gain, gain_at_cost):
    """A table in which the largest K gains as much, for each that is held equal."""
    return [
        made
        for equal, change in ((k.COMPLETIONS, gain), (k.COST, gain_at_cost))
        for made in (row(equal, 2, 0.7), row(equal, 4, 0.71, 0.01), row(equal, 9, 0.7 + change, change))
    ]


def test_the_cost_is_that_of_sorting():
    # two answers take one comparison; four have 24 orders, and 2^4.58 = 24
    assert k.cost(2) == 1
    assert 2 ** k.cost(4) == pytest.approx(24)
    assert 2 ** k.cost(9) == pytest.approx(362_880)


def test_each_number_of_prompts_has_the_completions_or_the_cost_that_are_held_equal():
    assert {size * prompts for size, prompts in k.SIZES[k.COMPLETIONS].items()} == {3600}
    costs = [k.cost(size) * prompts for size, prompts in k.SIZES[k.COST].items()]
    assert max(costs) / min(costs) < 1.005


def test_every_step_has_as_many_completions_and_none_of_another_prompt():
    made = k.variants()
    assert len(set(made)) == len({v.name for v in made}) == len(made) == 5 * len(SEEDS)
    for v in made:
        comparisons, reward = dict(v.parent.options), dict(v.options)
        assert comparisons["completions"] * reward["batch_size"] == 36
        assert comparisons["swapped"] == 0 and comparisons["seed"] == reward["seed"]
    sizes = {(dict(v.parent.options)["completions"], dict(v.parent.options)["count"]) for v in made}
    assert sizes == {(2, 1800), (4, 900), (9, 400), (2, 4126), (9, 223)}


def test_a_run_with_too_few_prompts_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text('{"prompt": "P"}\n' * 3, encoding="utf-8")
    (tmp_path / "data" / "stage.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="has 3 prompts, and 4,126 are needed"):
        k.prepare(Runs(tmp_path))


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.05, "a larger K is better"), (-0.05, "a larger K is worse"), (0.005, "K makes no clear difference")],
)
def test_the_verdict_on_each_budget_follows_the_interval_of_the_difference(gain, verdict):
    equal_completions, equal_cost = k.seen(rows(gain, 0.0)).split(". ")
    assert equal_completions.startswith("With 3,600 completions") and equal_completions.endswith(verdict)
    assert equal_cost.endswith("K makes no clear difference.")
    equal_completions, equal_cost = k.seen(rows(0.0, gain)).split(". ")
    assert equal_completions.endswith("K makes no clear difference")
    assert equal_cost.startswith("At the cost of about 4,126 pairwise") and equal_cost.endswith(f"{verdict}.")


def test_the_picture_is_drawn(tmp_path):
    draw_picture(k, rows(0.05, -0.05), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
