"""The picture and the table of a run show the metrics that there are."""

from rlhf.report import agreement_line, draw_training, metrics_table


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
