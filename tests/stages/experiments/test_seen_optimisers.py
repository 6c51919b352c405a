"""What `optimisers` and `normalisation` say of their tables, in each outcome."""

import pytest

from rlhf.evaluate import Estimate
from stages.experiments import normalisation, optimisers
from stages.experiments.optimisers import IN_FILE, SHUFFLED, SORTED
from stages.experiments.results import row_of
from tests.stages.experiments.test_seen import drawn, written


def around(value, width=0.1):
    return Estimate(value, value - width, value + width)


def trained(name, loss, behind=None, best=0.1, seconds=20.0):
    """The rows of an optimizer: three learning rates, a point of its curve, and the end of it."""
    rates = [row_of(optimizer=name, rate=rate, loss=loss + 1) for rate in (0.01, 0.1, 1.0)]
    point = row_of(optimizer=name, tokens=5000.0, seconds=seconds / 2, training=loss + 2)
    end = {"tokens": 10_000.0, "seconds": seconds, "training": loss}
    difference = {} if behind is None else {"behind": around(behind)}
    return [*rates, row_of(optimizer=name, best=best, held_out=around(loss), **difference, **end), point]


def ordered(**behind):
    """The rows of the orders; `behind` is what each loses against shuffled documents."""
    rows = [row_of(order=SHUFFLED, held_out=around(1.0))]
    names = {"in_file": IN_FILE, "by_text": SORTED}
    return rows + [row_of(order=names[n], held_out=around(1 + b), behind=around(b)) for n, b in behind.items()]


def test_optimisers_orders_them_by_loss_and_by_seconds_and_names_those_that_are_not_clearly_behind(tmp_path):
    rows = [*trained("SGD", 3.0, 2.0, seconds=18.0), *trained("AdamW", 1.0), *trained("Adam", 1.05, 0.05)]
    text = optimisers.seen(written([*rows, *ordered(in_file=0.0, by_text=0.5)], tmp_path))
    assert text.startswith("After 10,000 tokens")
    assert "AdamW 1.00 [0.90, 1.10], Adam 1.05 [0.95, 1.15], SGD 3.00 [2.90, 3.10] nats per token" in text
    assert ": Adam is not clearly behind AdamW. Seconds, two runs at once: SGD 18, " in text
    assert f"Documents {IN_FILE} change the loss of AdamW by 0.00 [-0.10, 0.10]: no clear difference." in text
    assert text.endswith(f"Documents {SORTED} change the loss of AdamW by 0.50 [0.40, 0.60]: clearly worse.")
    assert drawn(optimisers, rows) == 3


def test_optimisers_says_that_all_others_are_behind_and_which_best_rate_is_at_the_end_of_its_range():
    rows = [*trained("Muon", 0.9), *trained("SGD", 3.0, 2.0, best=1.0), *ordered(in_file=0.0, by_text=-0.5)]
    text = optimisers.seen(rows)
    assert ": all others are clearly behind; best rate at the end of its range: SGD." in text
    assert text.endswith("by -0.50 [-0.60, -0.40]: clearly better.")


def test_each_optimizer_has_five_learning_rates_and_the_orders_train_on_as_many_documents():
    assert [len(set(optimiser.rates)) for optimiser in optimisers.OPTIMISERS.values()] == [5] * 6
    shuffled, in_file, by_text = (optimisers.trained("AdamW", 1e-3, order=order) for order in optimisers.ORDERS)
    assert (shuffled.module, in_file.module) == ("", by_text.module)
    texts = [dict(v.options)["text"] for v in (shuffled, in_file, by_text)]
    assert texts[0] == texts[1] != texts[2]


def ppo_rows(name, gold, difference=None, explained=0.5):
    """The rows of a setting before the first step and after the last."""
    end = row_of(setting=name, step=8, gold=around(gold), kl=1.0, explained_variance=explained, value_error=0.7)
    end |= {} if difference is None else row_of(difference=around(difference))
    return [row_of(setting=name, step=0, gold=around(4.0), kl=0.0), end]


@pytest.mark.parametrize(
    "difference, said",
    [
        (-1.0, "is lowered by: × 10 + 20 (-1.00 [-1.10, -0.90]); raised by: nothing; not clearly changed by: nothing"),
        (1.0, "is lowered by: nothing; raised by: × 10 + 20 (1.00 [0.90, 1.10]); not clearly changed by: nothing"),
        (0.0, "is lowered by: nothing; raised by: nothing; not clearly changed by: × 10 + 20 (0.00 [-0.10, 0.10])"),
    ],
)
def test_normalisation_says_what_gold_and_the_values_become(difference, said, tmp_path):
    name = normalisation.UNNORMALISED
    rows = [*ppo_rows(normalisation.NORMALISED, 6.0), *ppo_rows(name, 6.0 + difference, difference, -0.25)]
    text = normalisation.seen(written(rows, tmp_path))
    assert f"Gold, 6.00 with normalised scores, {said}." in text
    assert "deviations of the score: normalised 0.50, 0.7; × 10 + 20 -0.25, 0.7. The KL is 1.0 nats" in text
    assert drawn(normalisation, rows) == 2


def test_the_error_of_values_is_in_deviations_of_the_score_and_missing_where_rewards_are_whitened():
    steps = [{"explained_variance": 0.2, "vf_loss": 150.0}, {"explained_variance": 0.4, "vf_loss": 250.0}]
    # a mean square of 400 is an error of 20, which is two deviations of scores times ten
    numbers = normalisation.of_values(steps, normalisation.RAW)
    assert numbers == pytest.approx({"explained_variance": 0.3, "value_error": 2.0})
    assert normalisation.of_values(steps, {})["value_error"] == pytest.approx(20.0)
    assert "value_error" not in normalisation.of_values(steps, {"whiten_rewards": True})


def test_scores_with_a_larger_beta_have_the_objective_of_normalised_ones_times_ten():
    same = normalisation.SAME
    assert (same["kl_coef"], same["missing_eos_penalty"], same["reward_model_weight"]) == (1.2, 10.0, 10.0)
