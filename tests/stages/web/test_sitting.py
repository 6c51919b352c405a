"""The whole sitting at toy size: rankings in a browser, Ctrl-C, then comparisons, reward model and PPO."""

import json
import re

import pytest

from data.rankings import read_decisions
from rlhf.rows import read_rows
from tests.pipeline import finished, make_here, record
from tests.raters import brief, ranks_of
from tests.recipes import recipe_on
from tests.stages.test_base import tree
from tests.stages.web.rater import Rater, rank_server

COUNT, K = 12, 3


@pytest.fixture
def recipe(toy_run, tmp_path):
    """The recipe mine at the size of the tests. It names a base that does not exist: BASE stands in for it."""
    path = recipe_on(tmp_path / "nowhere", tmp_path)
    small = {"total_episodes: 3840": "total_episodes: 32", "epochs: 12": "epochs: 1"}
    text = path.read_text()
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.mark.slow
def test_what_a_rater_ranks_in_the_browser_is_what_the_reward_model_and_ppo_learn_from(
    browser, toy_run, recipe, tmp_path, capsys
):
    mine, before = tmp_path / "my run", tree(toy_run)
    place = (f"RECIPE={recipe}", f"RUN={mine}", f"BASE={toy_run}")
    with rank_server(*place, f"COUNT={COUNT}", f"K={K}", arguments="--response_length 12") as server:
        rater = Rater(browser, server.address, "Ada", brief)
        count = rater.rank_all()
        rater.tab.close()
    assert rater.problems == [] and count > COUNT / 2
    # the files say what the rater thinks of the completions, and the last line what to do next
    rows = read_decisions(mine / "rankings" / "rankings.jsonl")
    assert len(rows) == count
    assert all(row["ranks"] == ranks_of(brief(row["completions"])) and row["rater"] == "Ada" for row in rows)
    usable = [row for row in rows if len(set(row["ranks"])) > 1]
    assert f"{count} rankings by 1 person (Ada {count})" in server.output
    assert server.output.endswith(f"`make ppo RECIPE={recipe} RUN='{mine}' BASE={toy_run}` trains on them\n")
    assert "***" not in server.output and "Traceback" not in server.output
    # reward model and PPO
    output = make_here("ppo", capsys, mine, recipe, BASE=str(toy_run))
    assert re.search(rf"{count} rankings by 1 person \(Ada {count}\): {len(usable)} used", output)
    compare = f"`make rank RECIPE={recipe} RUN='{mine}' BASE={toy_run} MODEL=\"sft ppo\"`"
    assert output.rstrip().endswith(f"{compare} shows whether people prefer the answers of PPO")
    parts = [[*read_rows(mine / "comparisons" / f"{part}.jsonl", "comparisons")] for part in ("train", "test")]
    learned = {json.dumps([row["prompt"], row["completions"], row["ranks"]]) for row in [*parts[0], *parts[1]]}
    assert learned == {json.dumps([row["prompt"], row["completions"], row["ranks"]]) for row in usable}
    assert list(finished(mine)) == ["comparisons", "reward", "ppo"]
    log = [json.loads(line) for line in (mine / "ppo" / "log.jsonl").read_text().splitlines()]
    assert record(mine, "ppo")["options"]["batch_size"] == 16 and [row["step"] for row in log] == [1, 2]
    assert tree(toy_run) == before
    # BASE is remembered, although the recipe names another run
    assert "up to date" in make_here("ppo", capsys, mine, recipe)
