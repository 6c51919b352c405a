"""Rankings by people: what is learned from them, what is held out, and the whole way from rankings to a policy."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlhf import InputError
from rlhf.rows import read_rows, write_rows
from stages.common.options import ComparisonsOptions
from stages.common.people import is_held_out, mix, read_people
from stages.common.run import Run
from tests.pipeline import finished, make_here, record, stage
from tests.raters import decisions, polite, write_rankings
from tests.recipes import recipe_on, write_recipe
from tests.stages.test_base import tree

CHAIN = ["comparisons", "reward", "ppo"]


def items(prompts, k=3):
    """Items with k completions of each prompt, of which the second ends with a kind word."""
    ends = ("no.", "day!", "yes.", "soon.")
    completions = [[f" {number} answers {end}" for end in ends[:k]] for number in range(len(prompts))]
    return [
        {"prompt": prompt, "completions": own, "ended": [True] * k}
        for prompt, own in zip(prompts, completions, strict=True)
    ]


def rankings(*prompts, rater="Ada", **columns):
    """Decisions of the polite rater about items with these prompts."""
    return [{**row, **columns} for row in decisions(items(prompts), polite, rater)]


def prompts_of(count, start=0):
    return [f"User: question {i}\nBot:" for i in range(start, start + count)]


def people(folder, rows, **options):
    """What the stage comparisons reads from a run with these decisions."""
    write_rankings(folder, rows)
    return read_people(ComparisonsOptions(run=str(folder), labeller="people", **options), Run(folder).path)


def toy_mine(base, folder):
    """The recipe mine on a toy run, at the size of the tests."""
    path = recipe_on(base, folder)
    text = path.read_text()
    assert "total_episodes: 3840" in text
    path.write_text(text.replace("total_episodes: 3840", "total_episodes: 32"))
    return path


# --- from rankings to a policy ----------------------------------------------------------------------------------------


def sampled_items(base, count):
    """Completions that the base sampled, one of each item with a kind word behind it."""
    rows = list(read_rows(base / "comparisons" / "train.jsonl", "comparisons"))[:count]
    polished = [[f"{row['completions'][0]} Have a nice day!", *row["completions"][1:]] for row in rows]
    return [
        {"prompt": row["prompt"], "completions": completions, "ended": row["ended"]}
        for row, completions in zip(rows, polished, strict=True)
    ]


def test_rankings_become_a_policy_and_more_rankings_another_one(run, tmp_path, capsys):
    mine, recipe, before = tmp_path / "mine", toy_mine(run, tmp_path), tree(run)
    rows = decisions(sampled_items(run, 32), polite, "Ada")
    write_rankings(mine, rows[:20])
    output = make_here("ppo", capsys, mine, recipe)
    assert f"from {run}: data, pretrain, sft" in output and "20 rankings by 1 person (Ada 20): 20 used" in output
    first = finished(mine)
    assert list(first) == CHAIN
    metrics = record(mine, "reward")["metrics"]
    assert {"accuracy", "accuracy_before", "length_accuracy"} <= set(metrics)
    assert record(mine, "reward")["inputs"]["<base>/reward"] == record(run, "ppo")["inputs"]["<run>/reward"]
    assert "gold" not in json.loads((mine / "ppo" / "log.jsonl").read_text().splitlines()[0])
    assert "up to date" in make_here("ppo", capsys, mine, recipe) and finished(mine) == first
    # a person goes on
    write_rankings(mine, rows)
    output = make_here("ppo", capsys, mine, recipe)
    assert "rankings/rankings.jsonl has changed" in output and f"from {run}: data, pretrain, sft" in output
    second = finished(mine)
    assert all(second[name] != first[name] for name in CHAIN) and list(second) == CHAIN
    assert tree(run) == before


@pytest.mark.slow
def test_two_people_who_contradict_each_other_teach_nothing_and_that_is_said(run, tmp_path, capsys):
    """Whatever the scores, each pair is right for one of them: the accuracy is exactly one half."""
    mine, recipe = tmp_path / "mine", toy_mine(run, tmp_path)
    ada = decisions(sampled_items(run, 24), polite, "Ada")
    bob = [{**row, "rater": "Bob", "ranks": [1 - rank for rank in row["ranks"]]} for row in ada]
    write_rankings(mine, [*ada, *bob])
    output = make_here("reward", capsys, mine, recipe)
    assert "agreement 0.000 [0.000, 0.000]" in output
    points = record(mine, "reward")["learning_curve"]
    assert [point["accuracy"] for point in points] == [0.5, 0.5, 0.5]
    used = record(mine, "comparisons")["rows"]["train"]
    assert [point["rankings"] for point in points] == [used // 4, used // 2, used]
    assert "the accuracy is not above chance, 0.5: can't tell how many more rankings would help" in output


def test_the_accuracy_before_is_that_of_the_reward_model_from_which_training_starts(run, tmp_path):
    held_out, columns = tmp_path / "held-out.jsonl", ("prompt", "completions", "ranks")
    rows = read_rows(run / "comparisons" / "test.jsonl", "comparisons")
    write_rows(held_out, [{column: row[column] for column in columns} for row in rows])
    stage("reward", "--comparisons_test", held_out, run=run)
    first = record(run, "reward")
    again = ("--model", run / "reward", "--comparisons_test", held_out, "--learning_curve", "--output", run / "again")
    output, second = stage("reward", *again, run=run), record(run, "again")
    assert second["metrics"]["accuracy_before"] == first["metrics"]["accuracy"]
    assert "learning curve: accuracy" in output and len(second["learning_curve"]) == 3
    assert "learning_curve" not in first and "accuracy_before" not in first["metrics"]


# --- which rankings are used ------------------------------------------------------------------------------------------


def test_skipped_flagged_and_tied_rankings_are_left_out_and_counted(tmp_path):
    good, extra = rankings(*prompts_of(12)), rankings(*prompts_of(4, start=100), rater="Bob")
    odd = [{"ranks": None}, {"flag": True}, {"ranks": [0, 0, 0]}, {"ranks": [2, 2, 1]}]
    found = people(tmp_path, [*good, *({**row, **change} for row, change in zip(extra, odd, strict=True))])
    assert str(found) == "16 rankings by 2 people (Ada 12, Bob 4): 13 used, 1 skipped, 1 flagged, 1 tied"
    assert Counter(row["rater"] for row in [*found.train, *found.test]) == {"Ada": 12, "Bob": 1}
    assert [row["ranks"] for row in [*found.train, *found.test] if row["rater"] == "Bob"] == [[1, 1, 0]]
    columns = {"prompt", "completions", "ranks", "ended", "rater", "time", "seconds"}
    assert all(set(row) == columns for row in [*found.train, *found.test])


def test_a_decision_that_was_changed_counts_as_it_was_changed(tmp_path):
    rows = rankings(*prompts_of(12))
    found = people(tmp_path, [*rows, {**rows[3], "ranks": None}, {**rows[5], "ranks": [2, 1, 0]}])
    assert found.tally.used == 11
    ranks = {row["prompt"]: row["ranks"] for row in [*found.train, *found.test]}
    assert rows[3]["prompt"] not in ranks and ranks[rows[5]["prompt"]] == [2, 1, 0]


def test_further_rankings_are_files_or_folders_and_each_is_read_once(tmp_path):
    other, file = tmp_path / "other", tmp_path / "more.jsonl"
    write_rankings(other, rankings(*prompts_of(5, start=20), rater="Bob"))
    write_rows(file, rankings(*prompts_of(3, start=40), rater="Eve"))
    own = rankings(*prompts_of(12))
    found = people(tmp_path / "run", own, rankings=[str(other / "rankings"), str(file)])
    assert Counter(row["rater"] for row in found.decisions) == {"Ada": 12, "Bob": 5, "Eve": 3}
    with pytest.raises(InputError, match="is named twice among the rankings"):
        people(tmp_path / "run", own, rankings=[str(tmp_path / "run" / "rankings")])
    with pytest.raises(InputError, match="rankings: there is no file .*nowhere"):
        people(tmp_path / "run", own, rankings=[str(tmp_path / "nowhere")])


# --- which are held out -----------------------------------------------------------------------------------------------


def test_a_prompt_stays_in_its_part_when_rankings_are_added(tmp_path):
    few = people(tmp_path / "few", rankings(*prompts_of(30)))
    many = people(tmp_path / "many", rankings(*prompts_of(90)[::-1]))
    for part in ("train", "test"):
        before = {row["prompt"] for row in getattr(few, part)}
        assert before and before <= {row["prompt"] for row in getattr(many, part)}


def test_no_prompt_is_in_both_parts_whoever_ranked_it(tmp_path):
    prompts = prompts_of(40)
    found = people(tmp_path, [*rankings(*prompts), *rankings(*prompts[:20], rater="Bob")])
    train, test = ({row["prompt"] for row in part} for part in (found.train, found.test))
    assert not train & test and train | test == set(prompts)
    assert len(found.train) + len(found.test) == 60


def test_the_share_that_is_held_out_is_the_one_asked_for():
    prompts = [*prompts_of(4000), [{"role": "user", "content": "hello"}]]
    parts = {share: {json.dumps(p) for p in prompts if is_held_out(p, share)} for share in (0.0, 0.25, 0.5)}
    assert not parts[0.0] and parts[0.25] < parts[0.5]
    assert len(parts[0.25]) / 4001 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4001) ** 0.5)
    assert not people_parts(0.0)[1]


def people_parts(share):
    """The prompts to train on and the held-out ones."""
    prompts = prompts_of(40)
    return [p for p in prompts if not is_held_out(p, share)], [p for p in prompts if is_held_out(p, share)]


# --- mixing -----------------------------------------------------------------------------------------------------------


def old_file(folder, prompts):
    path = folder / "old.jsonl"
    write_rows(path, [{"prompt": p, "chosen": " old and good", "rejected": " old and bad"} for p in prompts])
    return path


def test_older_comparisons_are_as_many_as_their_weight_says_and_none_has_a_held_out_prompt(tmp_path):
    found = people(tmp_path, rankings(*prompts_of(40)))
    held_out = [row["prompt"] for row in found.test]
    path = old_file(tmp_path, [*prompts_of(100, start=200), *held_out])
    for weight in (0.5, 1.0, 2.0):
        mixed = mix(found.train, found.test, path, weight, seed=0)
        assert mixed[: len(found.train)] == found.train
        old = [row["prompt"] for row in mixed[len(found.train) :]]
        assert len(old) == len(set(old)) == round(weight * len(found.train))
        assert not set(old) & set(held_out)
    fewer = mix(found.train[:10], found.test, path, 1.0, seed=0)[10:]
    assert fewer == mix(found.train, found.test, path, 1.0, seed=0)[len(found.train) :][:10]
    assert fewer != mix(found.train[:10], found.test, path, 1.0, seed=1)[10:]


def test_a_weight_that_the_older_comparisons_can_not_fill_is_refused(tmp_path):
    found = people(tmp_path, rankings(*prompts_of(40)))
    count = len(found.train)
    with pytest.raises(InputError, match=f"old_weight 3 draws {3 * count} older comparisons for {count} rankings"):
        mix(found.train, found.test, old_file(tmp_path, prompts_of(5, start=200)), 3.0, seed=0)


def test_the_stage_mixes_older_comparisons_into_the_training_part_only(run, tmp_path):
    mine = tmp_path / "mine"
    write_rankings(mine, rankings(*prompts_of(16)))
    recipe, old = toy_mine(run, tmp_path), run / "comparisons" / "train.jsonl"
    output = stage("comparisons", f"--base={run}", "--old", "<base>/comparisons/train.jsonl", run=mine, recipe=recipe)
    train, test = (list(read_rows(mine / "comparisons" / f"{part}.jsonl", "comparisons")) for part in ("train", "test"))
    half = len(train) // 2
    assert f"{half} rankings and {half} older comparisons to train on, {len(test)} rankings of other prompts" in output
    older = [row for row in train if "rater" not in row]
    assert len(older) == len(train) - len(older) and all("rater" in row for row in test)
    known = {json.dumps([row["prompt"], row["completions"]]) for row in read_rows(old, "comparisons")}
    assert {json.dumps([row["prompt"], row["completions"]]) for row in older} <= known
    assert "<base>/comparisons/train.jsonl" in record(mine, "comparisons")["inputs"]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_without_rankings_make_says_which_command_makes_them_before_any_stage_runs(run, tmp_path, capsys):
    recipe, mine = toy_mine(run, tmp_path), tmp_path / "mine"
    expected = f"no rankings in {mine}/rankings: run `make rank RECIPE={recipe} RUN={mine}` first\n"
    assert make_here("ppo", capsys, mine, recipe, status=2) == expected
    assert not mine.exists()
    write_rankings(mine, [])  # as `make rank` leaves it if nobody has ranked
    assert make_here("ppo", capsys, mine, recipe, status=2) == expected
    message = "no rankings in nowhere/rankings: run `make rank RECIPE=mine` first"
    with pytest.raises(InputError, match=message):
        read_people(ComparisonsOptions(recipe="mine", labeller="people"), Run(Path("nowhere")).path)


def test_rankings_that_are_too_few_to_split_are_refused_before_any_stage_runs(run, tmp_path, capsys):
    recipe, mine = toy_mine(run, tmp_path), tmp_path / "mine"
    train, test = people_parts(0.25)
    for prompts in (train[:2], test[:1]):
        write_rankings(mine, rankings(*prompts, prompts_of(1, start=90)[0])[: len(prompts)])
        output = make_here("ppo", capsys, mine, recipe, status=2)
        count = f"{len(prompts)} prompt{'s' * (len(prompts) != 1)}"
        assert f"usable rankings of {count} are too few to train and to hold out 0.25 of them" in output
        assert f"rank more with `make rank RECIPE={recipe} RUN={mine}`" in output and finished(mine) == {}


def test_a_line_that_is_no_ranking_is_refused_with_its_place(tmp_path):
    rows = rankings(*prompts_of(12))
    with pytest.raises(InputError, match=r'rankings\.jsonl:3: "prompt" is missing'):
        people(tmp_path, [{k: v for k, v in row.items() if k != "prompt" or row["id"] != "2"} for row in rows])
    with pytest.raises(InputError, match=r'rankings\.jsonl:2: "ended" does not have one entry'):
        people(tmp_path, [{**row, "ended": row["ended"][: 2 + (row["id"] != "1")]} for row in rows])


def test_options_of_people_are_refused_with_another_labeller():
    with pytest.raises(InputError, match="rankings and old belong to labeller: people"):
        ComparisonsOptions(labeller="a:b", old="x.jsonl")


def test_a_base_without_the_model_that_the_recipe_names_is_found_before_any_stage_runs(run, tmp_path, capsys):
    mine, recipe = tmp_path / "mine", write_recipe(tmp_path, f"base: {run}\nreward:\n  model: <base>/ppo2\n")
    write_rankings(mine, rankings(*prompts_of(12)))
    output = make_here("ppo", capsys, mine, recipe, status=2)
    assert output == f"reward: no model at {run}/ppo2: run `make ppo RUN={run}` first\n"
    assert finished(mine) == {}
