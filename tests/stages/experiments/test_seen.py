"""What experiments say of their tables: the sentences follow from the numbers, in each outcome."""

import json

import numpy as np
import pytest
from matplotlib import pyplot as plt

from rlhf import InputError
from rlhf.config import PPOConfig
from rlhf.evaluate import Estimate
from stages.experiments import best_of_n, details, estimators, frontier, mix, overoptimisation, seeds
from stages.experiments.__main__ import load, names
from stages.experiments.output import read_table, write_table
from stages.experiments.results import row_of
from stages.experiments.variants import Runs


def around(value, width=0.1):
    return Estimate(value, value - width, value + width)


def point(beta, kl, score, gold):
    numbers = {"score": around(score), "gold": around(gold), "kl": around(kl), "length": around(20.0)}
    return row_of(beta=beta, **numbers, sqrt_kl=kl**0.5)


def written(rows, folder):
    """The rows as they are read from the file of the table."""
    write_table(folder / "table.csv", rows)
    return read_table(folder / "table.csv")


def drawn(module, rows):
    figure = plt.figure()
    module.draw(rows, figure)
    figure.canvas.draw()
    count = len(figure.axes)
    plt.close(figure)
    return count


@pytest.mark.parametrize("name", names())
def test_every_experiment_has_a_question_a_source_and_variants_that_differ(name):
    module = load(name)
    assert module.QUESTION.endswith("?") and module.PAPER and module.LOOK and module.CHANGE
    variants = module.variants()
    assert len({variant.name for variant in variants}) == len(set(variants)) > 0


def test_frontier_says_that_gold_falls_while_the_score_rises():
    rows = [point(0.0, 5.0, 0.5, 5.0), point(0.1, 2.0, 0.4, 6.0), point(0.5, 0.5, 0.1, 5.2)]
    text = frontier.seen(rows)
    assert "highest, 6.00 [5.90, 6.10], at β 0.1, inside the range" in text
    assert text.endswith("gold falls while the score rises.")
    assert drawn(frontier, rows) == 2


def test_frontier_says_that_gold_does_not_fall():
    text = frontier.seen([point(0.0, 5.0, 0.5, 6.05), point(0.1, 2.0, 0.4, 6.1), point(0.5, 0.5, 0.1, 5.2)])
    assert text.endswith("gold does not fall clearly at this length.")
    assert "at the end of the range" in frontier.seen([point(0.0, 5.0, 0.5, 7.0), point(0.5, 0.5, 0.1, 5.2)])


def mixed(recovered, loss, by_beta, beta_loss=1.0):
    rows = [row_of(model="pretrained", perplexity=2.0), row_of(model="SFT", perplexity=4.0, gold=around(4.0))]
    settings = [(0.0, "recipe", 0.0, 0.0), (0.5, "recipe", recovered, loss), (0.0, 0.5, by_beta, beta_loss)]
    for gamma, beta, share, cost in settings:
        numbers = {"recovered": around(share, 0.02), "gold_loss": around(cost), "gold": around(6.0 - cost)}
        rows.append(
            row_of(model="PPO", gamma=gamma, beta=beta, perplexity=around(4 - 2 * share), kl=around(1.0), **numbers)
        )
    return rows


def test_mix_says_what_gamma_and_beta_recover():
    text = mix.seen(mixed(0.9, 0.05, 0.1))
    assert "γ = 0.5 recovers 0.90 [0.88, 0.92]" in text
    assert "loses 0.05 [-0.05, 0.15] of gold against γ = 0, no clear loss" in text
    assert text.endswith("β does not do what the mix does.")
    assert "against γ = 0, a clear loss" in mix.seen(mixed(0.9, 0.5, 0.1))
    assert drawn(mix, mixed(0.9, 0.05, 0.1)) == 1


@pytest.mark.parametrize(
    "recovered, loss, by_beta, beta_loss, verdict",
    [
        (0.9, 0.05, 0.85, 0.05, "β does the same."),
        (0.9, 0.05, 0.85, 1.0, "β does not do what the mix does."),
        (0.5, 0.05, 0.1, 1.0, "neither recovers 0.8 without a clear loss of gold."),
        (0.9, 1.0, 0.85, 1.0, "neither recovers 0.8 without a clear loss of gold."),
        (0.5, 0.05, 0.85, 0.05, "β does it, the mix does not."),
    ],
)
def test_mix_compares_recovery_at_no_clear_loss_of_gold(recovered, loss, by_beta, beta_loss, verdict):
    assert mix.seen(mixed(recovered, loss, by_beta, beta_loss)).endswith(verdict)


def test_mix_does_not_speak_of_recovery_if_sft_forgot_nothing():
    rows = mixed(0.9, 0.05, 0.1)
    rows[1]["perplexity"] = 1.9
    assert "2.00 before SFT and 1.90 after it: SFT forgot nothing" in mix.seen(rows)


@pytest.mark.parametrize("gold, verdict", [(7.0, "PPO is better"), (5.0, "best-of-n is better"), (6.0, "within PPO's")])
def test_best_of_n_says_which_is_better_at_the_same_kl(gold, verdict):
    pool = [(1, 0.0, 4.0), (4, 0.6, 5.0), (64, 3.2, 6.0)]
    rows = [
        row_of(method="best of n", n=n, kl=kl, sqrt_kl=kl**0.5, score=around(0.3), gold=around(g)) for n, kl, g in pool
    ]
    rows.append(row_of(method="PPO", beta=0.1, kl=3.2, sqrt_kl=3.2**0.5, score=around(0.5), gold=around(gold)))
    text = best_of_n.seen(rows)
    assert verdict in text and "best-of-n at the same KL has 6.00" in text
    rows[-1]["kl"] = 9.0
    assert "even n = 64" in best_of_n.seen(rows)
    assert drawn(best_of_n, rows) == 2


def test_details_lists_what_lowers_gold():
    rows = [row_of(detail="the recipe", gold=around(6.0))]
    rows += [row_of(detail=f"d{x}", gold=around(6.0 + x), difference=around(x, 0.3)) for x in (-1.0, 0.1, 1.0)]
    text = details.seen(rows)
    assert "is lowered by d-1.0 (-1.00 [-1.30, -0.70]), and raised by d1.0" in text
    assert "beyond its interval: d0.1" in text
    assert drawn(details, rows) == 1


def curve(method, size, peak, top, count=9):
    """Points on Gao's form for training, whose peak is at this square root of the KL."""
    beta = top / peak
    alpha = beta * (1 + np.log(peak))
    rows = []
    for step, d in enumerate(np.linspace(0, 2 * peak, count)):
        gain = d * (alpha - beta * np.log(max(d, 1e-9)))
        numbers = {"score": float(d), "gold": 4 + float(gain), "length": 20.0 + step, "entropy": 0.5}
        numbers["disagreement"] = -abs(step - 1.0)
        rows.append(row_of(method=method, size=size, seed=0, step=step, kl=float(d * d), sqrt_kl=float(d), **numbers))
    return [*rows, overoptimisation.fit(method, size, rows)]


def test_overoptimisation_finds_the_peaks_of_the_forms_and_the_signals_that_turn_before_gold(tmp_path):
    rows = [
        row for size, peak in zip((0.25, 1, 4), (1.0, 2.0, 3.0), strict=True) for row in curve("PPO", size, peak, 2.0)
    ]
    rows = written(rows, tmp_path)
    peaks = [row["peak_kl"] for row in rows if "peak_kl" in row]
    np.testing.assert_allclose(peaks, [1.0, 4.0, 9.0], rtol=1e-3)
    text = overoptimisation.seen(rows)
    assert "peaks at 1.0 nats with 0.25 ×, at 4.0 nats with 1 ×, at 9.0 nats with 4 × the comparisons" in text
    assert "more comparisons move the peak out, with one reward model of each size." in text
    assert text.endswith("disagreement turns before gold does.")
    assert "only fitted" not in text
    far = [row for row in rows if "step" not in row or row["step"] == 0 or row["kl"] > 1.5]
    assert "(a peak below 1.6 nats, the first evaluation, is only fitted)" in overoptimisation.seen(far)
    assert drawn(overoptimisation, rows) == 3


def test_overoptimisation_says_that_a_form_has_no_peak():
    rising = [
        row_of(
            method="PPO", size=s, step=i, seed=0, kl=d * d, sqrt_kl=d, score=d, gold=4 + d * (1 + np.log(max(d, 1e-9)))
        )
        for s in (0.25, 1, 4)
        for i, d in enumerate((0.0, 1.0, 2.0, 3.0))
    ]
    rows = rising + [overoptimisation.fit("PPO", s, [r for r in rising if r["size"] == s]) for s in (0.25, 1, 4)]
    text = overoptimisation.seen(rows)
    assert "beyond the range with 0.25 ×" in text and "do not move the peak out steadily" in text
    assert all(row["peak_kl"] == np.inf for row in rows if "alpha" in row)
    assert text.endswith("gold does not fall after its highest, so no signal can warn of it.")


def seeded(size, *peaks):
    """The curve of a size with a seed for each peak."""
    rows = [{**row, "seed": seed} for seed, peak in enumerate(peaks) for row in curve("PPO", size, peak, 2.0)[:-1]]
    return [*rows, overoptimisation.fit("PPO", size, rows)]


@pytest.mark.parametrize(
    "largest, end", [(3.0, "peak out, with one"), (1.1, "but the seeds of the ends overlap, with one")]
)
def test_overoptimisation_has_the_range_of_the_peaks_over_seeds(largest, end, tmp_path):
    rows = [*seeded(0.25, 1.0, 1.2), *seeded(1, 1.2, 1.3), *seeded(4, largest, 4.0)]
    text = overoptimisation.seen(written(rows, tmp_path))
    assert "(seeds: 1.0 to 1.4) with 0.25 ×" in text and f"(seeds: {largest**2:.1f} to 16.0) with 4 ×" in text
    assert end in text


def test_a_form_that_only_falls_peaks_at_the_start():
    assert overoptimisation.peak_of("best of n", -1.0, 0.5) == 0
    assert overoptimisation.peak_of("PPO", -1.0, -0.5) == 0
    assert overoptimisation.peak_of("PPO", 1.0, -0.5) == np.inf


def test_a_signal_turns_only_if_it_does_in_each_seed():
    def rows_of(*by_seed):
        return [
            row_of(method="PPO", size=1, seed=seed, step=step, kl=value)
            for seed, values in enumerate(by_seed)
            for step, value in enumerate(values)
        ]

    assert overoptimisation.turn_of(rows_of([0.0, 3.0, 1.0], [0.0, 4.0, 2.0]), "kl", 3) == 1
    assert overoptimisation.turn_of(rows_of([0.0, 9.0, 1.0], [0.0, 1.0, 2.0]), "kl", 3) is None
    assert overoptimisation.turn_of(rows_of([0.0, 9.0, 1.0]), "length", 3) is None


def test_overoptimisation_refuses_a_run_with_another_number_of_rankings(tmp_path):
    (tmp_path / "comparisons").mkdir()
    record = {"options": {"count": 500}, "seconds": 1.0}
    (tmp_path / "comparisons" / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="has 500 rankings, and SIZES are parts of 3000"):
        overoptimisation.prepare(Runs(tmp_path))


def test_the_form_of_best_of_n_is_fitted_exactly():
    points = [row_of(sqrt_kl=d, gold=4 + d * (2.0 - 0.5 * d)) for d in (0.0, 0.5, 1.0, 1.5, 3.0)]
    row = overoptimisation.fit("best of n", 1, points)
    assert (row["alpha"], row["beta"], row["peak_kl"]) == (pytest.approx(2), pytest.approx(0.5), pytest.approx(4))
    np.testing.assert_allclose(overoptimisation.fitted(row, np.array([1.0])), [5.5], rtol=1e-5)


@pytest.mark.parametrize("values, index", [([0, 3, 1], 1), ([5, 1, 4], 1), ([0, 1, 2], None), ([2, 2, 2], None)])
def test_a_signal_turns_at_its_extremum_beyond_both_ends(values, index):
    assert overoptimisation.turn(values) == index


def test_seeds_has_mean_deviation_and_smallest_gain():
    rows = [
        row_of(seed=s, gold_sft=4.0, gold=g, kl=1.0 + s, perplexity_sft=3.0, perplexity=2.0)
        for s, g in enumerate((5.0, 6.0, 7.0))
    ]
    text = seeds.seen(rows)
    assert (
        "gold after PPO is 6.00 with a standard deviation of 1.00 (from 5.00 to 7.00), at a KL of 2.00 ± 1.00" in text
    )
    assert text.endswith("The gain over SFT is 2.00 ± 1.00, at least 1.00.")
    assert drawn(seeds, rows) == 2


@pytest.mark.parametrize("name, lowest, highest", [("GSPO", 0.997, 1.004), ("CISPO", 0, 5), ("DAPO's clip", 0.8, 1.28)])
def test_the_ratios_of_the_losses_are_clipped_as_in_their_papers_and_of_gspo_ten_times_as_wide(name, lowest, highest):
    low, high = PPOConfig(**estimators.SETTINGS[name]).clip_range
    assert (1 - low, 1 + high) == (lowest, highest)


def test_estimators_says_which_bounds_overlap_and_which_is_fastest():
    golds = {"PPO": (6.0, 90), "RLOO": (6.3, 60), "GRPO": (6.2, 62), "GSPO": (5.0, 61)}
    rows = [row_of(method=m, episodes=0, seconds=0.0, gold=around(4.0), score=0.0, kl=0.0) for m in golds]
    rows += [
        row_of(method=m, episodes=4096, seconds=float(s), gold=around(g), score=0.1, kl=1.0, clip_fraction=g / 1e3)
        for m, (g, s) in golds.items()
    ]
    text = estimators.seen(rows)
    assert "After 4,096 episodes RLOO has the highest gold, 6.30 [6.20, 6.40]" in text
    assert "overlap with those of GRPO; PPO, GSPO are lower" in text
    assert "RLOO takes the least time, 60 s, with a gold of 6.30 [6.20, 6.40]; PPO takes 90 s." in text
    assert text.endswith("with one epoch for each batch: PPO 0.6%, RLOO 0.6%, GRPO 0.6%, GSPO 0.5%.")
    assert drawn(estimators, rows) == 2
