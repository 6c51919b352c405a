"""The picture and the table of a run show the metrics that there are."""

from rlhf.report import agreement_line, benchmark_tables, draw_training, metrics_table, shots_table


def test_a_picture_is_drawn_of_a_run_that_lacks_some_metrics(tmp_path):
    draw_training([{"step": 1, "score": 0.1, "kl": 0.0}, {"step": 2, "score": 0.2, "kl": 0.1}], tmp_path / "ppo.png")
    assert (tmp_path / "ppo.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_one_row_a_metric_with_its_interval_and_no_column_of_seconds():
    table = metrics_table(
        {"sft": {"gold": 3.0, "gold_low": 2.5, "gold_high": 3.5}, "ppo": {"kl": 1.0}, "seconds": {"ppo": 3}}
    )
    lines = table.splitlines()
    assert len(lines) == 4
    assert "3.00 [2.50, 3.50]" in lines[2] and "seconds" not in table


def test_the_report_tells_how_often_people_agree_only_if_several_ranked_the_same():
    people = {"agreement": 0.75, "agreement_low": 0.5, "agreement_high": 1.0}
    assert "0.75 [0.50, 1.00]" in agreement_line({"ppo": {"kl": 1.0}, "people": people})
    assert agreement_line({"ppo": {"kl": 1.0}}) == ""
    assert metrics_table({"ppo": {"kl": 1.0}, "people": people}) == metrics_table({"ppo": {"kl": 1.0}})


def test_a_picture_has_a_panel_for_each_reward_function_and_criterion(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axis, title, **kwargs: titles.append(title))
    names = ("rewards/right", "rewards/right/steps", "gold/correct", "other")
    draw_training([{"step": 1, "score": 0.1, **dict.fromkeys(names, 1.0)}], tmp_path / "ppo.png")
    assert titles == ["score", "rewards/right", "rewards/right/steps", "gold/correct"]


def test_the_table_of_a_benchmark_ends_with_the_mean_over_subsets():
    def interval(name, value):
        return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}

    chat = {"rows": 3, **interval("pair_accuracy", 0.5), **interval("score", 0.5)}
    table = benchmark_tables(
        {"a.jsonl": {"model": "x|y", "rows": 3, "subsets": {"chat": chat}, **interval("mean", 0.5)}}
    )
    lines = table.splitlines()
    assert lines[0] == "a.jsonl, reward model x\\|y"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0] == ["", "rows", "pair_accuracy", "score"]
    assert cells[2] == ["chat", "3", "0.50 [0.40, 0.60]", "0.50 [0.40, 0.60]"]
    assert cells[3] == ["mean", "3", "", "0.50 [0.40, 0.60]"]


def test_the_table_of_shots_has_a_row_for_each_task_model_and_number_with_what_is_known():
    one = {"prompts": 9, "used": 0.84, "accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "logprob": -1.0}
    shots = {
        "facts": {"a|b": {"0": {**one, "used": 0.0}, "4": one}},
        "prompts": {"a|b": {"0": {"used": 0.0, "gold": 3.0}}},
    }
    lines = shots_table({**shots}).splitlines()
    cells = [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in lines]
    assert cells[0] == ["", "", "shots", "used", "accuracy", "logprob", "gold"]
    assert cells[3] == ["facts", "a/b", "4", "0.8", "0.50 [0.25, 0.75]", "-1.00", ""]
    assert cells[4] == ["prompts", "a/b", "0", "0.0", "", "", "3.00"]
    assert metrics_table({"ppo": {"kl": 1.0}, "shots": shots}) == metrics_table({"ppo": {"kl": 1.0}})
