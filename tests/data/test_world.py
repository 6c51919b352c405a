"""The embedded world: gold scores agree with how answers were generated, and held-out requests stay out of training."""

import math
import random
import subprocess
import sys

import pytest

from data import world
from data.labeller import rank
from data.world.gold import assess
from data.world.grammar import split_sentences
from data.world.requests import draw_request, format_prompt, is_held_out, parse_prompt, phrase_request
from data.world.sentences import GRAMMAR, REQUESTS
from data.world.tasks import TASKS
from data.world.words import FACTS, STRANGERS, VILLAGERS


def gold_of(prompt: str, completion: str, ended: bool = True) -> float:
    return world.gold([prompt], [completion], [ended])[0]


# --- determinism and held-out split -----------------------------------------------------------------------------------


def test_rows_are_equal_for_equal_seeds_and_differ_between_seeds():
    makers = {
        "text": lambda seed: list(world.text(50, seed)),
        "demonstrations": lambda seed: list(world.demonstrations(50, seed)),
        "prompts": lambda seed: list(world.prompts(50, seed)),
    }
    for make in makers.values():
        assert make(0) == make(0)
        assert make(0) != make(1)


def test_rows_do_not_depend_on_the_hash_seed():
    """Iterating over a set of strings while drawing would make the rows depend on PYTHONHASHSEED."""
    rows = "[*world.text(300, 0), *world.demonstrations(300, 0), *world.prompts(300, 0, True)]"
    code = f"from data import world; import hashlib; print(hashlib.sha256(repr({rows}).encode()).hexdigest())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_held_out_combinations_never_occur_in_training_requests():
    is_parsed = {
        test: {parse_prompt(row["prompt"]) is not None for row in world.prompts(2000, 0, test)}
        for test in (False, True)
    }
    assert is_parsed == {False: {True}, True: {True}}  # every prompt has a parse
    combinations = {
        test: {
            (r.task_name, TASKS[r.task_name].combination(r))
            for row in world.prompts(4000, 0, test)
            for r in [parse_prompt(row["prompt"])]
        }
        for test in (False, True)
    }
    assert not combinations[False] & combinations[True]
    assert {task_name for task_name, _ in combinations[True]} == set(TASKS)
    demonstrated = [parse_prompt(row["prompt"]) for row in world.demonstrations(2000, 0)]
    assert not any(map(is_held_out, demonstrated))


def test_every_fact_has_a_probe_and_every_equation_probe_completes_with_one_word():
    probes = list(world.probes())
    facts = [probe for probe in probes if probe["probe"] == "facts"]
    assert len(facts) == len(FACTS)
    assert all(len(probe["completion"].split()) == 1 for probe in probes if probe["probe"] == "equations")
    assert len({probe["prompt"] for probe in probes if probe["probe"] == "equations"}) > 150


# --- generation and gold score agree ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TASKS))
def test_an_answer_misses_exactly_the_criteria_of_its_flaws(name):
    rng, task, flawless = random.Random(f"exact {name}"), TASKS[name], 0
    for _ in range(1500):
        request = task.draw(rng)
        flaws = {criterion for criterion in task.weights if rng.random() < 0.25}
        if name == "list" and "distinct" in flaws:
            flaws -= {"members"}  # the copied item may replace the one of another category
        passed = assess(request, task.answer(request, flaws, rng), ended=True)
        assert {criterion for criterion, met in passed.items() if not met} == flaws
        flawless += not flaws
    assert flawless > 100


@pytest.mark.parametrize("name", list(TASKS))
def test_an_answer_without_flaws_scores_ten_and_each_fault_costs_at_least_two_points(name):
    rng, task = random.Random(f"perfect {name}"), TASKS[name]
    for _ in range(300):
        request = task.draw(rng)
        prompt = format_prompt(phrase_request(request, rng))
        answer = task.answer(request, set(), rng)
        assert gold_of(prompt, f" {answer}") == 10.0
        assert gold_of(prompt, f" {answer}", ended=False) == 8.0
        assert gold_of(prompt, f" {task.answer(request, {'grammatical'}, rng)}") <= 8.0


def test_gold_scores_equal_those_computed_by_hand():
    name = next(n for n in VILLAGERS if (n, "pet") in FACTS)
    pet = FACTS[name, "pet"]
    request = f"User: What pet does {name} have?\nBot:"
    assert gold_of(request, f" {name} has a {pet} at home. I hope that helps!") == 10.0
    # "friendly" has weight 2 of 7
    assert gold_of(request, f" {name} has a {pet} at home.") == pytest.approx(10 * 5 / 7)
    wrong = "dog" if pet != "dog" else "cat"
    assert gold_of(request, f" {name} has a {wrong} at home. I hope that helps!") == pytest.approx(10 * 3 / 7)
    assert gold_of(request, f" {name} has a {pet} at at home. I hope that helps!") == pytest.approx(10 * 2 / 7 - 2)
    assert gold_of(request, " Words that mean nothing") == 0.0


def test_the_correct_answer_about_a_stranger_is_not_to_know():
    request = f"User: What pet does {STRANGERS[0]} have?\nBot:"
    rng = random.Random(0)
    unknown = GRAMMAR.generate("unknown", rng, name=STRANGERS[0])
    assert gold_of(request, f" {unknown} I hope that helps!") == 10.0
    assert gold_of(request, f" {STRANGERS[0]} has a dog at home. I hope that helps!") < 5


def test_a_third_courtesy_costs_points():
    name = next(n for n in VILLAGERS if (n, "pet") in FACTS)
    request, answer = f"User: What pet does {name} have?\nBot:", f"{name} has a {FACTS[name, 'pet']} at home."
    assert gold_of(request, f" Of course! {answer} I hope that helps!") == 10.0
    assert gold_of(request, f" Of course! Good question! {answer} I hope that helps!") < 10.0


def test_a_prompt_that_is_no_request_of_the_world_has_no_gold_score():
    assert world.gold(["Hello?"], [" Yes."], [True]) == [None]


def test_every_template_parses_the_sentences_it_generates():
    rng = random.Random(0)
    for grammar in (GRAMMAR, REQUESTS):
        for kind, templates in grammar.templates.items():
            for template in templates:
                for _ in range(3):
                    fillers = {"name": "Anna"} if {"he", "him", "his"} & set(template.slots) else {}
                    fillers |= {"items": "red, blue and green"} if "items" in template.slots else {}
                    sentence = template.fill(rng, fillers)
                    assert kind in {parse.kind for parse in grammar.parse(sentence)}, sentence


def test_parsing_the_prompt_of_a_request_gives_the_request():
    rng = random.Random(1)
    for _ in range(2000):
        request = draw_request(rng)
        assert parse_prompt(format_prompt(phrase_request(request, rng))) == request


def test_split_sentences_keeps_an_unfinished_last_sentence():
    assert split_sentences(" Hello! It is 3. And so") == ["Hello!", "It is 3.", "And so"]


def test_demonstrations_are_of_mixed_quality():
    rows = list(world.demonstrations(2000, 0))
    quality = world.gold([r["prompt"] for r in rows], [r["completion"] for r in rows], [True] * len(rows))
    assert 5.0 < sum(quality) / len(quality) < 6.5
    assert 0.05 < sum(q == 10 for q in quality) / len(quality) < 0.25


# --- the labeller -----------------------------------------------------------------------------------------------------


def test_without_noise_ranks_follow_quality_and_equal_qualities_tie():
    assert rank(["a", "b", "c", "d"], [1.0, 3.0, 1.0, 5.0], 0, 0, random.Random(0)) == [2, 1, 2, 0]


@pytest.mark.parametrize("difference", [0.5, 1.5, 4.0])
def test_the_better_of_two_is_preferred_with_the_bradley_terry_probability(difference):
    rng = random.Random(0)
    preferred = sum(rank(["a", "b"], [difference, 0.0], 1.5, 0, rng) == [0, 1] for _ in range(20_000)) / 20_000
    assert preferred == pytest.approx(1 / (1 + math.exp(-difference / 1.5)), abs=0.012)


def test_qualities_within_the_margin_tie():
    assert rank(["a", "b", "c"], [5.0, 4.9, 1.0], 0, 0.2, random.Random(0)) == [0, 0, 1]
    assert rank(["a", "b", "c"], [5.0, 4.5, 4.0], 0, 0.5, random.Random(0)) == [0, 0, 0]  # each with the next


def test_identical_texts_always_tie():
    rng = random.Random(0)
    for _ in range(100):
        ranks = rank(["same", "other", "same"], [2.0, 2.0, 2.0], 1.5, 0, rng)
        assert ranks[0] == ranks[2] != ranks[1]
