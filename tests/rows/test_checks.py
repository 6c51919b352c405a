"""Rows: reading them, refusing malformed ones with file and line, counting those that are dropped, and writing them."""

import gzip
import json
from collections import Counter
from datetime import datetime

import pytest

from rlhf import InputError
from rlhf.rows import Tally, read_rows, valid_rows, write_rows


def write_lines(path, *rows):
    """Writes each row on a line, strings as they are and everything else as JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def validated(kind, *rows):
    """The valid ones among the rows, and the tally."""
    tally = Tally()
    return list(valid_rows([(f"f:{i}", row) for i, row in enumerate(rows, 1)], kind, tally)), tally


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rows_are_read_from_plain_and_gzipped_jsonl_with_blank_lines_and_a_bom(tmp_path):
    plain = write_lines(tmp_path / "a.jsonl", "\ufeff" + json.dumps({"prompt": "é"}), "", {"prompt": "b"})
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, zipped):
        rows = read_rows(path, "prompts")
        assert list(rows) == [{"prompt": "é"}, {"prompt": "b"}]
        assert (len(rows), rows[1], rows[-2:]) == (2, {"prompt": "b"}, list(rows))


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("prompts", "{", "not JSON"),
        ("prompts", "[1]", "a row is an object"),
        ("prompts", {"text": "a"}, 'no "prompt"; the row has text'),
        ("prompts", {"prompt": 3}, '"prompt" is int'),
        ("prompts", {"prompt": [{"role": "user"}]}, "messages with role and content"),
        (
            "prompts",
            {"prompt": [{"role": "user", "content": {"type": "text", "text": "a"}}]},
            '"prompt": a message has dict as its content',
        ),
        ("prompts", {"prompt": [{"role": "critic", "content": "a"}]}, "unknown role 'critic'"),
        (
            "demonstrations",
            {"prompt": [{"role": "assistant", "content": "a", "weight": 0.5}], "completion": "b"},
            "weight 0.5; it must be 0 or 1",
        ),
        ("text", {"words": "a"}, 'no "text"'),
        ("demonstrations", {"prompt": "a"}, 'no "completion"'),
        ("demonstrations", {"prompt": "a", "completion": ["b"]}, '"completion" is list'),
        ("comparisons", {"prompt": "a", "chosen": "b"}, 'no "rejected"'),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"]}, 'no "ranks"'),
        (
            "comparisons",
            {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [0, 1]},
            '"ranks" has 2 entries for 3',
        ),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"], "ranks": ["0", "1"]}, '"ranks" are numbers'),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"], "ranks": [float("nan"), 1]}, '"ranks" are numbers'),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"], "ranks": [0, 10**400]}, '"ranks" are numbers'),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"], "ranks": [False, True]}, '"ranks" are numbers'),
        ("comparisons", {"prompt": "a", "completions": "b", "ranks": [0]}, "are lists"),
        (
            "comparisons",
            {"prompt": "a", "completions": ["b", "c"], "ranks": [0, 1], "ended": [True]},
            '"ended" is a list',
        ),
        ("comparisons", {"prompt": "a", "completions": ["b", 5], "ranks": [0, 1]}, '"completion" is int'),
    ],
)
def test_a_malformed_row_is_refused_with_file_and_line(tmp_path, kind, row, message):
    good = {"prompt": "p", "text": "t", "completion": "c", "completions": ["x", "y"], "ranks": [0, 1]}
    path = write_lines(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(InputError) as error:
        read_rows(path, kind)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl:2: not UTF-8"):
        read_rows(path, "prompts")


def test_a_missing_or_truncated_file_and_one_without_usable_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        read_rows(tmp_path / "none.jsonl", "prompts")
    truncated = tmp_path / "truncated.jsonl.gz"
    truncated.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 1000)[:-20])
    with pytest.raises(InputError, match="can't be read"):
        read_rows(truncated, "prompts")
    with pytest.raises(InputError, match="no usable prompts .*1 empty prompt"):
        read_rows(write_lines(tmp_path / "empty.jsonl", {"prompt": " "}), "prompts")


def test_further_columns_of_any_type_can_be_written_and_read_again(tmp_path):
    row = {"prompt": "a", "cut": "x\ud83d", "when": datetime(2026, 11, 26), "no number": float("nan"), "你": "好"}
    write_rows(tmp_path / "a.jsonl", [row])
    (again,) = read_rows(tmp_path / "a.jsonl", "prompts")
    assert again["cut"] == row["cut"] and again["when"] == "2026-11-26 00:00:00" and again["你"] == "好"
    assert "你" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


# --- dropping ---------------------------------------------------------------------------------------------------------


def test_rows_with_empty_texts_are_dropped_and_counted():
    rows, tally = validated(
        "demonstrations",
        {"prompt": "a", "completion": "b"},
        {"prompt": " ", "completion": "b"},
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": None},
        {"prompt": [{"role": "user", "content": ""}], "completion": "b"},
    )
    assert len(rows) == tally.used == 1
    assert tally.dropped == {"empty prompt": 2, "empty completion": 2}
    assert str(tally) == "1 rows (4 dropped: 2 empty prompt, 2 empty completion)"


def test_the_share_of_rows_that_are_too_long_is_shown():
    counts = {"longer than 256 tokens": 12, "empty prompt": 8}
    expected = "380 rows (20 dropped: 12 (3 %) longer than 256 tokens, 8 empty prompt)"
    assert str(Tally(used=380, dropped=Counter(counts))) == expected
    assert "1 (under 1 %) longer than 9" in str(Tally(used=999, dropped=Counter({"longer than 9 tokens": 1})))


def test_comparisons_without_a_usable_pair_are_dropped_and_counted():
    _, tally = validated(
        "comparisons",
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": " "},
        {"prompt": "a", "completions": ["b"], "ranks": [0]},
        {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 1]},
    )
    assert tally.used == 0
    assert tally.dropped == {
        "completions all the same": 1,
        "empty completion": 1,
        "fewer than two completions": 1,
        "all completions tied": 1,
    }


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"from": "human", "value": "Hi"}, {"role": "user", "content": "Hi"}),
        ({"role": "User", "content": "Hi", "timestamp": 7, "name": None}, {"role": "user", "content": "Hi"}),
        ({"role": "model", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "Hi", "weight": 0}),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi", "image": None}, {"type": "text", "text": " you"}],
            },
            {"role": "user", "content": "Hi you"},
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": {"b": None}}}],
            },
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        ),
        ({"role": "ipython", "content": ""}, {"role": "tool", "content": ""}),
        *(
            ({"role": "model", "content": "Hi", key: "why"}, {"role": "assistant", "content": "Hi", key: "why"})
            for key in ("reasoning_content", "thinking", "reasoning")
        ),
        ({"role": "user", "content": "Hi", "reasoning": {"effort": "low"}}, {"role": "user", "content": "Hi"}),
    ],
)
def test_messages_of_other_forms_are_normalised_in_a_file_of_demonstrations(given, expected):
    (row,), _ = validated("demonstrations", {"prompt": [given], "completion": "b"})
    assert row["prompt"] == [expected]


def test_messages_that_hold_more_than_text_are_dropped_and_counted():
    parts = ([{"type": "image_url", "image_url": {}}], [{"type": "audio"}], [{"type": "text", "text": 3}])
    rows, tally = validated(
        "prompts",
        *({"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, *part]}]} for part in parts),
    )
    assert rows == []
    assert tally.dropped == {"message with a picture": 1, "message with a part that is not text": 2}


def test_an_empty_system_message_is_removed():
    (row,), _ = validated("prompts", {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]})
    assert row["prompt"] == [{"role": "user", "content": "a"}]


def test_only_demonstrations_keep_the_weights_of_replies():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (row,), _ = validated("demonstrations", {"prompt": chat, "completion": "c"})
    assert row["prompt"] == chat
    (row,), _ = validated("prompts", {"prompt": chat})
    assert row["prompt"] == plain
    (row,), _ = validated("comparisons", {"prompt": chat, "chosen": "c", "rejected": "d"})
    assert row["prompt"] == plain


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_a_pair_becomes_a_ranking_of_two():
    rows, _ = validated("comparisons", {"prompt": "a", "chosen": "b", "rejected": "c", "id": 7})
    assert rows == [{"prompt": "a", "id": 7, "completions": ["b", "c"], "ranks": [0, 1]}]


def test_of_equal_completions_only_the_best_is_kept_with_its_entries_in_other_columns():
    rows, _ = validated(
        "comparisons",
        {"prompt": "a", "completions": ["x", "y", "x", ""], "ranks": [2, 1, 0, 3], "ended": [True, True, False, True]},
    )
    assert rows == [{"prompt": "a", "completions": ["y", "x"], "ranks": [1, 0], "ended": [True, False]}]


def test_ranks_that_single_precision_can_not_distinguish_become_small_integers():
    (row,), _ = validated(
        "comparisons", {"prompt": "a", "completions": ["x", "y", "z"], "ranks": [20000001, 20000000, 20000001]}
    )
    assert row["ranks"] == [1, 0, 1]


def test_a_line_of_hundreds_of_megabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf.rows.files.MAX_LINE", 100)
    path = write_lines(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": "b" * 200})
    with pytest.raises(InputError, match=r"a\.jsonl:2: more than 100 bytes in one line"):
        read_rows(path, "prompts")
