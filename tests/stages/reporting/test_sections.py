"""Tables of the report: evaluations while PPO trained, win rates in words, benchmarks, prompts that differ."""

from stages.common.run import Run
from stages.reporting import curves
from stages.reporting.answers import compare
from stages.reporting.files import read_run
from stages.reporting.measured import in_words, is_win
from stages.reporting.reward_model import benchmark_tables
from tests.stages.reporting.runs import answer, write_json, write_lines, write_run


def held_out(step, gold, kl):
    return {"step": step, "held_out/score": gold / 10, "held_out/gold": gold, "held_out/kl": kl}


def table_of(folder, kept=None):
    rows = [held_out(0, 4.0, 0.0), {"step": 1, "score": 0.1}, held_out(2, 6.5, 1.0), held_out(4, 6.0, 2.0)]
    write_lines(folder / "ppo" / "log.jsonl", rows)
    files = read_run(Run(folder))
    if kept is not None:
        files.records["ppo"]["kept"] = {"step": kept}
    return curves.evaluations(files)


def test_the_last_and_the_best_evaluation_are_shown_and_which_was_kept(tmp_path):
    folder = write_run(tmp_path / "toy")
    table = table_of(folder)
    assert list(table.columns) == ["", "step", "score", "gold", "kl"]
    assert [row[:2] for row in table.rows] == [["before PPO", "0"], ["highest gold", "2"], ["last, kept", "4"]]
    assert table.rows[1][3] == "6.50"
    assert [row[0] for row in table_of(folder, kept=2).rows] == ["before PPO", "highest gold, kept", "last"]


def test_an_evaluation_whose_gold_is_unknown_is_not_the_best(tmp_path):
    folder = write_run(tmp_path / "toy")
    unknown = {"step": 2, "held_out/score": 0.9, "held_out/kl": 1.0}
    write_lines(folder / "ppo" / "log.jsonl", [held_out(0, 4.0, 0.0), unknown, held_out(4, 6.0, 2.0)])
    table = curves.evaluations(read_run(Run(folder)))
    assert [row[:2] for row in table.rows] == [["before PPO", "0"], ["highest gold, kept", "4"], ["last, kept", "4"]]


def test_a_run_without_evaluations_has_no_such_table(tmp_path):
    folder = write_run(tmp_path / "toy")
    write_lines(folder / "ppo" / "log.jsonl", [{"step": 1, "score": 0.1}])
    assert curves.evaluations(read_run(Run(folder))) is None


def test_the_names_of_win_metrics_are_in_words():
    assert in_words("win_rate_length_controlled_greedy") == "at equal length, greedy"
    assert in_words("ties_greedy") == "ties, share of prompts, greedy"
    assert in_words("win_rate_t0.7") == "at temperature 0.7"
    assert is_win("ties") and not is_win("ties_low") and not is_win("gold")


def test_a_benchmark_has_a_row_for_each_subset_and_one_for_their_mean():
    subsets = {"chat": {"rows": 3, "pair_accuracy": 0.5, "best_of_n": 0.25}, "Ties": {"rows": 1, "ties_score": 1.0}}
    benchmark = {"model": "/a/reward", "rows": 4, "mean": 0.625, "mean_low": 0.5, "mean_high": 0.75, "subsets": subsets}
    (table,) = benchmark_tables({"rb2.jsonl": benchmark})
    assert table.title == "rb2.jsonl, reward model reward"
    assert list(table.columns) == ["", "rows", "pair accuracy", "best of n", "ties score"]
    assert [list(row) for row in table.rows] == [
        ["chat", "3", "0.50", "0.25", "–"],
        ["Ties", "1", "–", "–", "1.00"],
        ["mean of the subsets", "4", "", "", "0.62 [0.50, 0.75]"],
    ]


def test_a_benchmark_is_shown_without_rankings(tmp_path):
    folder = write_run(tmp_path / "toy")
    (folder / "evaluate" / "rankings.jsonl").unlink()
    subsets = {"chat": {"rows": 1, "pair_accuracy": 1.0}}
    benchmark = {"model": "reward", "rows": 1, "mean": 1.0, "mean_low": 1.0, "mean_high": 1.0, "subsets": subsets}
    write_json(folder / "evaluate" / "metrics.json", {"benchmarks": {"rb.jsonl": benchmark}})
    from stages.reporting.reward_model import section

    shown = section(read_run(Run(folder)), "make evaluate")
    assert not shown.missing and shown.blocks[0].title == "rb.jsonl, reward model reward"


def test_the_first_prompts_of_a_group_differ():
    rows = [
        row
        for number in range(20)
        for row in (
            answer(f"prompt {number // 4}", "sft", 5.0),
            answer(f"prompt {number // 4}", "ppo", 5.0 + number),
        )
    ]
    for name, group in compare(rows).groups.items():
        assert len({tuple(prompt.turns) for prompt in group}) == len(group) == 3, name
