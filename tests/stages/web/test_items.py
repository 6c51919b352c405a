"""The items that people rank: what is sampled does not depend on when, and nothing is sampled twice."""

import json
import os
import threading

import pytest

from stages.common.parsing import parse_given
from stages.common.stage import Stage
from stages.rank import key_of, source_of
from stages.web.app import turn
from stages.web.items import AHEAD, Pool, from_file
from stages.web.store import Desk, Store
from tests.conftest import tiny_gpt2
from tests.pipeline import stage
from tests.stages.web.pages import ANSWERS, write_comparisons


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """The folders of two models: the second one's answers are nearly all the same, because its logits are large."""
    folder = tmp_path_factory.mktemp("models")
    for name, scale in (("small", 1.0), ("sure", 30.0)):
        model = tiny_gpt2()
        model.transformer.ln_f.weight.data *= scale
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prompts = [{"prompt": f"a story about {i}", "task": "story"} for i in range(6)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return folder


def sampled(folder, models, *names, count=6, **options):
    """The pool of a `make rank` that has sampled all it wants, or `count` items, and its lock given back."""
    argv = ["--models", *(str(models / name) for name in names), "--prompts", str(models / "prompts.jsonl")]
    argv += ["--run", str(folder), "--count", str(count), "--response_length", "6"]
    parsed = parse_given("rank", argv + [f"--{name}={value}" for name, value in options.items()])
    of_stage = Stage("rank", parsed)
    source = source_of(parsed.options, of_stage, len(names) > 1)
    return filled(Pool(folder, key_of(parsed.options, of_stage), count), source)


def filled(pool, source):
    pool.start(source, lambda: None)
    if hasattr(pool, "_thread"):
        pool._thread.join()
    os.close(pool.lock)
    return pool


def lines(folder):
    return (folder / "items.jsonl").read_text().splitlines()


def test_a_restart_samples_what_an_uninterrupted_server_would_have(models, tmp_path):
    pool = sampled(tmp_path / "whole", models, "small")
    assert [len(item.distinct) for item in pool.items] == [4] * 6
    assert {item.models[0] for item in pool.items} == {"small"}
    sampled(tmp_path / "parts", models, "small", count=2)
    with open(tmp_path / "parts" / "items.jsonl", "a") as file:
        file.write('{"id": "cut off')
    first = lines(tmp_path / "parts")[:2]
    again = sampled(tmp_path / "parts", models, "small")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert lines(tmp_path / "parts")[:2] == first
    assert [item.id for item in again.items] == [item.id for item in pool.items]


def test_other_options_make_other_items_and_the_same_ones_the_same(models, tmp_path):
    ids = [{item.id for item in sampled(tmp_path, models, "small", seed=seed).items} for seed in (0, 1, 0)]
    assert ids[0] == ids[2] and not ids[0] & ids[1]
    assert len(lines(tmp_path)) == 12


def test_several_models_give_one_completion_each_in_their_order(models, tmp_path):
    pool = sampled(tmp_path, models, "small", "sure")
    assert all(item.models == ["small", "sure"] for item in pool.items) and len(pool.made) == 6
    swapped = sampled(tmp_path, models, "sure", "small")
    for item, other in zip(pool.items, swapped.items, strict=True):
        assert item.completions == other.completions[::-1]


def test_prompts_without_two_different_answers_are_left_out(models, tmp_path):
    pool = sampled(tmp_path, models, "sure", temperature=0.01)
    assert pool.items == [] and pool.nothing_to_rank() == 6 and pool.finished
    desk = Desk(pool, Store(tmp_path), 0.2)
    assert turn(desk, "Ada") == {"state": "done", "progress": desk.progress("Ada")}
    assert desk.progress("Ada")["left"] == 0


def test_a_file_gives_its_completions_without_its_ranks(tmp_path):
    pool = filled(Pool(tmp_path, "key", 4), from_file(write_comparisons(tmp_path, 6), 4))
    assert [item.completions for item in pool.items] == [ANSWERS] * 4
    assert "ranks" not in lines(tmp_path)[0]


def test_items_are_made_only_some_way_ahead_of_the_people(tmp_path):
    made = []

    def make(number):
        made.append(number)
        return {"prompt": "p", "completions": ["a", "b"], "ended": [True, True], "models": ["m", "m"]}

    def wait_for(count):
        for _ in range(500):
            if len(made) >= count:
                return
            threading.Event().wait(0.01)

    pool = Pool(tmp_path, "key", 1000)
    pool.start(lambda: (1000, make), lambda: None)
    for asked in (0, 7):
        if asked:
            pool.ask(asked)
        wait_for(AHEAD + asked)
        threading.Event().wait(0.05)
        assert len(made) == AHEAD + asked
    pool.stop()
    assert not pool._thread.is_alive()


def test_an_error_of_sampling_is_shown_on_the_page(tmp_path):
    def source():
        raise RuntimeError("the model has gone")

    told = []
    pool = Pool(tmp_path, "key", 3)
    pool.start(source, lambda: told.append(True))
    pool._thread.join()
    answer = turn(Desk(pool, Store(tmp_path), 0.2), "Ada")
    assert (answer["state"], answer["message"], told) == ("error", "the model has gone", [True])


def test_an_error_of_sampling_ends_the_program_with_its_message(models, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": ""}\n')
    argv = ("--models", models / "small", "--prompts", tmp_path / "prompts.jsonl", "--no_browser")
    output = stage("rank", *argv, run=tmp_path, status=2)
    assert "rank: " in output and "no usable prompts" in output


def test_a_model_that_was_not_made_is_refused_before_the_page_is_served(tmp_path):
    output = stage("rank", "--models", "sft", "ppo", run=tmp_path, status=2)
    assert "run `make sft` first" in output and "http://" not in output
