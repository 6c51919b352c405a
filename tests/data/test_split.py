"""The split into training and test rows: as a computation in memory gives it, with a few bytes for each row."""

import json
import random
import tracemalloc
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.split import Split, key_of
from rlhf.rows import read_jsonl


def divided(folder, rows, **options):
    """The training and the test rows of each kind."""
    split = Split(folder)
    for kind, kind_rows in rows.items():
        split.add(kind, kind_rows)
    split.divide(**{"test_share": 0.1, "test_rows": 400, "seed": 0, **options})
    parts = {}
    for kind in rows:
        files = folder / f"{kind}.jsonl", folder / f"{kind}_test.jsonl"
        split.write(kind, files)
        parts[kind] = [[row for _, row in read_jsonl(file)] for file in files]
    split.close()
    return parts


def in_memory(rows, test_share, test_rows, seed):
    """The definition: of a random order of all keys, the first of each kind are held out."""
    keys = {kind: {json.dumps([next(iter(row.items()))]) for row in kind_rows} for kind, kind_rows in rows.items()}
    order = sorted(set().union(*keys.values()))
    random.Random(f"split {seed}").shuffle(order)
    test = set()
    for kind_keys in keys.values():
        share = round(test_share * len(kind_keys))
        share = max(share, 1) if len(kind_keys) >= 5 and test_share else share
        test |= set([key for key in order if key in kind_keys][: min(share, test_rows)])
    return {
        kind: [[row for row in kind_rows if (json.dumps([next(iter(row.items()))]) in test) == part] for part in (0, 1)]
        for kind, kind_rows in rows.items()
    }


def test_validation_prompts_are_neither_test_nor_training_prompts_and_do_not_move_the_others(tmp_path):
    rows = {
        "demonstrations": [{"prompt": str(i % 50), "completion": str(i)} for i in range(100)],
        "text": [{"text": str(i)} for i in range(100)],
    }
    split = Split(tmp_path)
    for kind, kind_rows in rows.items():
        split.add(kind, kind_rows)
    split.divide(0.1, 400, 0, validation_rows=3)
    files = [tmp_path / f"{part}.jsonl" for part in ("train", "test", "validation")]
    counts = split.write("demonstrations", files)
    train, test, validation = ({row["prompt"] for _, row in read_jsonl(file)} for file in files)
    assert counts == [84, 10, 6]
    assert len(validation) == 3
    assert not train & test | train & validation | test & validation
    assert split.write("text", files[:2]) == [90, 10]
    split.close()
    before = divided(tmp_path, rows)["demonstrations"]
    assert test == {row["prompt"] for row in before[1]}
    assert train | validation == {row["prompt"] for row in before[0]}


texts = st.lists(st.text("aZ\\é中\ud800\n", min_size=1, max_size=3), max_size=30)


@given(texts, texts, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 9), st.integers(0, 3))
def test_it_is_that_of_a_computation_in_memory(tmp_path_factory, prompts, others, share, most, seed):
    rows = {
        "demonstrations": [{"prompt": prompt, "completion": str(i)} for i, prompt in enumerate(prompts)],
        "prompts": [{"prompt": prompt} for prompt in others],
        "text": [{"text": text} for text in others],
    }
    parts = divided(tmp_path_factory.mktemp("split"), rows, test_share=share, test_rows=most, seed=seed)
    assert parts == in_memory(rows, share, most, seed)


@pytest.mark.parametrize("same_prompts", [True, False], ids=["all kinds share their prompts", "half of them"])
def test_a_held_out_prompt_is_in_the_training_rows_of_no_kind(tmp_path, same_prompts):
    def rows_of(kind, count, start=0):
        return [{"prompt": f"{i}", kind: "x"} for i in range(start, start + count) for _ in range(2)]

    rows = {
        "demonstrations": rows_of("completion", 40),
        "comparisons": rows_of("ranks", 40, 0 if same_prompts else 20),
        "prompts": rows_of("answer", 30, 0 if same_prompts else 10),
        "text": [{"text": f"document {i}"} for i in range(30)],
    }
    parts = divided(tmp_path, rows, test_share=0.2)
    training, test = (
        {row["prompt"] for kind in rows if kind != "text" for row in parts[kind][part]} for part in (0, 1)
    )
    assert not training & test
    for kind, kind_rows in rows.items():
        assert sorted(map(str, chain(*parts[kind]))) == sorted(map(str, kind_rows))
        share = len(parts[kind][1]) / len(kind_rows)
        assert share == pytest.approx(0.2, abs=0.04) if same_prompts or kind == "text" else 0.2 <= share < 0.5


def test_of_five_prompts_one_is_held_out_and_of_four_texts_none(tmp_path):
    rows = {"prompts": [{"prompt": f"{i}"} for i in range(5)], "text": [{"text": f"{i}"} for i in range(4)]}
    parts = divided(tmp_path, rows)
    assert {kind: list(map(len, kind_parts)) for kind, kind_parts in parts.items()} == {
        "prompts": [4, 1],
        "text": [4, 0],
    }


def test_no_more_rows_are_held_out_than_the_options_allow(tmp_path):
    rows = {"prompts": [{"prompt": f"{i}"} for i in range(100)]}
    assert len(divided(tmp_path, rows, test_rows=5)["prompts"][1]) == 5
    assert len(divided(tmp_path, rows, test_share=0.0)["prompts"][1]) == 0


def test_weights_of_messages_do_not_make_another_prompt():
    reply = {"role": "assistant", "content": "b"}
    assert key_of({"prompt": [reply | {"weight": 1}]}) == key_of({"prompt": [reply]})


def test_no_temporary_file_is_left(tmp_path):
    divided(tmp_path, {"text": [{"text": str(i)} for i in range(10)]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.jsonl", "text_test.jsonl"]


def test_memory_does_not_grow_with_the_length_of_the_rows(tmp_path):
    peaks = []
    for length in (10, 10_000):
        folder = tmp_path / str(length)
        folder.mkdir()
        tracemalloc.start()
        split = Split(folder)
        split.add("text", ({"text": f"{i} " + "x" * length} for i in range(3000)))
        split.divide(0.1, 400, 0)
        split.write("text", [folder / "a", folder / "b"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 10_000_000  # 30 MB of rows


def test_a_plain_prompt_and_a_chat_in_which_the_user_says_it_are_held_out_together(tmp_path):
    rows = {
        "demonstrations": [{"prompt": f"q{i}", "completion": "a"} for i in range(20)],
        "prompts": [{"prompt": [{"role": "user", "content": f"q{i}"}]} for i in range(20)],
    }
    parts = divided(tmp_path, rows)
    held_out = {row["prompt"] for row in parts["demonstrations"][1]}
    assert held_out and held_out == {row["prompt"][0]["content"] for row in parts["prompts"][1]}
