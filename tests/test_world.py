"""The embedded world: the judge reads exactly what the generator wrote, and the test asks what training never asked."""

import random
import subprocess
import sys

import pytest

from data import world
from data.labeller import rank
from data.world.gold import assess
from data.world.grammar import split_sentences
from data.world.requests import ask, draw_request, is_held_out, prompt_of, understand
from data.world.sentences import GRAMMAR, REQUESTS
from data.world.tasks import TASKS
from data.world.words import FACTS, STRANGERS, VILLAGERS


def judged(prompt: str, completion: str, ended: bool = True) -> float:
    return world.gold([prompt], [completion], [ended])[0]


# --- deterministic, and split -----------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_rows_each_time_and_another_seed_others():
    makers = {
        "text": lambda seed: list(world.text(50, seed)),
        "demonstrations": lambda seed: list(world.demonstrations(50, seed)),
        "prompts": lambda seed: list(world.prompts(50, seed)),
    }
    for make in makers.values():
        assert make(0) == make(0)
        assert make(0) != make(1)


def test_rows_do_not_depend_on_the_hash_seed():
    """Python's generators are the same everywhere; what is drawn from them must not depend on the order of a set."""
    code = "from data import world; import hashlib; print(hashlib.sha256(repr([*world.text(300, 0), *world.demonstrations(300, 0), *world.prompts(300, 0, True)]).encode()).hexdigest())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_no_combination_of_the_test_is_asked_in_training():
    asked = {
        test: {understand(row["prompt"]) is not None for row in world.prompts(2000, 0, test)} for test in (False, True)
    }
    assert asked == {False: {True}, True: {True}}  # every prompt is understood
    combinations = {
        test: {
            (r.kind.split()[0], r.task.combination(r))
            for row in world.prompts(4000, 0, test)
            for r in [understand(row["prompt"])]
        }
        for test in (False, True)
    }
    assert not combinations[False] & combinations[True]
    assert {task for task, _ in combinations[True]} == set(TASKS)
    trained = [understand(row["prompt"]) for row in world.demonstrations(2000, 0)]
    assert not any(map(is_held_out, trained))


def test_every_fact_is_probed_and_every_probe_has_one_answer():
    probes = list(world.probes())
    facts = [probe for probe in probes if probe["probe"] == "facts"]
    assert len(facts) == len(FACTS)
    assert all(len(probe["completion"].split()) == 1 for probe in probes if probe["probe"] == "equations")
    assert len({probe["prompt"] for probe in probes if probe["probe"] == "equations"}) > 150


# --- the generator and the judge agree --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TASKS))
def test_an_answer_breaks_exactly_the_criteria_it_was_made_to_break(name):
    rng, task, seen = random.Random(f"exact {name}"), TASKS[name], 0
    for _ in range(1500):
        request = task.draw(rng)
        flaws = {criterion for criterion in task.weights if rng.random() < 0.25}
        if name == "fact" and FACTS.get((request.slots["name"], request.subject)) is None:
            flaws -= {"correct"}  # of whom nobody knows, a wrong claim is another kind of answer
        if name == "list" and "distinct" in flaws:
            flaws -= {"members"}  # the copy may fall on the foreign member
        good = assess(request, task.answer(request, flaws, rng), ended=True)
        assert {criterion for criterion, met in good.items() if not met} == flaws
        seen += not flaws
    assert seen > 100


@pytest.mark.parametrize("name", list(TASKS))
def test_an_answer_without_flaws_is_perfect_and_faults_cost_two_points_each(name):
    rng, task = random.Random(f"perfect {name}"), TASKS[name]
    for _ in range(300):
        request = task.draw(rng)
        prompt, answer = prompt_of(ask(request, rng)), task.answer(request, set(), rng)
        assert judged(prompt, f" {answer}") == 10.0
        assert judged(prompt, f" {answer}", ended=False) == 8.0
        assert judged(prompt, f" {task.answer(request, {'grammatical'}, rng)}") <= 8.0


def test_scores_by_hand():
    name = next(n for n in VILLAGERS if (n, "pet") in FACTS)
    pet = FACTS[name, "pet"]
    request = f"User: What pet does {name} have?\nBot:"
    assert judged(request, f" {name} has a {pet} at home. I hope that helps!") == 10.0
    assert judged(request, f" {name} has a {pet} at home.") == pytest.approx(10 * 5 / 7)  # not friendly: 2 of 7
    wrong = "dog" if pet != "dog" else "cat"
    assert judged(request, f" {name} has a {wrong} at home. I hope that helps!") == pytest.approx(10 * 3 / 7)
    assert judged(request, f" {name} has a {pet} at at home. I hope that helps!") == pytest.approx(10 * 2 / 7 - 2)
    assert judged(request, " Words that mean nothing") == 0.0


def test_of_a_stranger_the_right_answer_is_that_one_does_not_know():
    request = f"User: What pet does {STRANGERS[0]} have?\nBot:"
    rng = random.Random(0)
    unknown = GRAMMAR.write("unknown", rng, name=STRANGERS[0])
    assert judged(request, f" {unknown} I hope that helps!") == 10.0
    assert judged(request, f" {STRANGERS[0]} has a dog at home. I hope that helps!") < 5


def test_three_courtesies_are_too_many():
    name = next(n for n in VILLAGERS if (n, "pet") in FACTS)
    request, answer = f"User: What pet does {name} have?\nBot:", f"{name} has a {FACTS[name, 'pet']} at home."
    assert judged(request, f" Of course! {answer} I hope that helps!") == 10.0
    assert judged(request, f" Of course! Good question! {answer} I hope that helps!") < 10.0


def test_what_is_not_asked_in_this_world_has_no_gold():
    assert world.gold(["Hello?"], [" Yes."], [True]) == [None]


def test_every_template_reads_what_it_writes():
    rng = random.Random(0)
    for grammar in (GRAMMAR, REQUESTS):
        for kind, templates in grammar.templates.items():
            for template in templates:
                for _ in range(3):
                    given = {"name": "Anna"} if {"he", "him", "his"} & set(template.slots) else {}
                    given |= {"items": "red, blue and green"} if "items" in template.slots else {}
                    sentence = template.fill(rng, given)
                    assert kind in {reading.kind for reading in grammar.read(sentence)}, sentence


def test_every_request_is_understood_as_it_was_meant():
    rng = random.Random(1)
    for _ in range(2000):
        request = draw_request(rng)
        understood = understand(prompt_of(ask(request, rng)))
        assert understood.kind == request.kind
        assert understood.slots.items() <= request.slots.items() | understood.slots.items()
        assert all(request.slots[slot] == value for slot, value in understood.slots.items())


def test_sentences_are_split_at_their_ends_and_a_rest_counts():
    assert split_sentences(" Hello! It is 3. And so") == ["Hello!", "It is 3.", "And so"]


def test_demonstrations_are_of_mixed_quality():
    rows = list(world.demonstrations(2000, 0))
    quality = world.gold([r["prompt"] for r in rows], [r["completion"] for r in rows], [True] * len(rows))
    assert 5.0 < sum(quality) / len(quality) < 6.5
    assert 0.05 < sum(q == 10 for q in quality) / len(quality) < 0.25


# --- the labeller -----------------------------------------------------------------------------------------------------


def test_without_noise_the_ranking_is_that_of_quality_and_equals_tie():
    assert rank(["a", "b", "c", "d"], [1.0, 3.0, 1.0, 5.0], 0, 0, random.Random(0)) == [2, 1, 2, 0]


@pytest.mark.parametrize("difference", [0.5, 1.5, 4.0])
def test_the_better_of_two_is_preferred_as_often_as_the_model_says(difference):
    import math

    rng = random.Random(0)
    preferred = sum(rank(["a", "b"], [difference, 0.0], 1.5, 0, rng) == [0, 1] for _ in range(20_000)) / 20_000
    assert preferred == pytest.approx(1 / (1 + math.exp(-difference / 1.5)), abs=0.012)


def test_a_margin_makes_close_ones_tie():
    assert rank(["a", "b", "c"], [5.0, 4.9, 1.0], 0, 0.2, random.Random(0)) == [0, 0, 1]


def test_the_same_words_always_tie():
    rng = random.Random(0)
    for _ in range(100):
        ranks = rank(["same", "other", "same"], [2.0, 2.0, 2.0], 1.5, 0, rng)
        assert ranks[0] == ranks[2] != ranks[1]
