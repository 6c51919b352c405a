"""JSON and JSON Lines: layouts, buffers, and what is refused."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data import json_files
from rlhf import InputError
from tests.data.files import refused, rows_of


@pytest.mark.parametrize(
    "content, rows",
    [
        ('["a", "b"]', ["a", "b"]),
        ('"a" "b"', ["a", "b"]),
        ('{"a": 1}{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a":\n1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("{}", [{}]),
        ("[]", []),
        ('{"version": "1", "data": [{"a": 1}, {"a": [2]}], "info": {"x": [{}]}}', [{"a": 1}, {"a": [2]}]),
        ('{"data": [{"a": 1}], "splits": ["x", "y"]}', [{"a": 1}]),
        ('{"a": {"0": 1, "7": null}, "b": {"0": 2, "7": []}}', [{"a": 1, "b": 2}, {"a": None, "b": []}]),
        ('{"a": [1, 2], "b": [[], [3]]}', [{"a": 1, "b": []}, {"a": 2, "b": [3]}]),
        ('{"0": {"a": 1}, "1": {"b": 2}}', [{"a": 1}, {"b": 2}]),
        ('{"a": {}, "b": {}}', []),
        # one row, with messages
        ('{"messages": [{"role": "user", "content": "q"}]}', [{"messages": [{"role": "user", "content": "q"}]}]),
        ('{"conversations": [{"from": "human", "value": "q"}], "id": 1}',
         [{"conversations": [{"from": "human", "value": "q"}], "id": 1}]),
        ('{"prompt": "q", "completions": ["a", "b"], "ranks": [0, 1]}',
         [{"prompt": "q", "completions": ["a", "b"], "ranks": [0, 1]}]),
        # several rows that have lists of objects
        ('{"prompt": "q", "answers": [{"a": 1}]}\n' * 2, [{"prompt": "q", "answers": [{"a": 1}]}] * 2),
        ('["\\ud800", NaN, 1e400]', ["\ud800", pytest.approx(float("nan"), nan_ok=True), float("inf")]),
    ],
)  # fmt: skip
def test_the_layout_of_json_is_recognised(tmp_path, content, rows):
    (tmp_path / "a.json").write_text(content)
    assert rows_of(tmp_path / "a.json") == rows


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not JSON"),
        ("[1, 2", r"a\.json:1: not JSON \(Expecting '\]'"),
        ('[1,\n{"a": tru}]', r"a\.json:2: not JSON \(Expecting value at column 7"),
        ("[1,]", "not JSON"),
        ("[1] [2]", "more follows the array of rows"),
        ('{"a": 1} x', "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{"a" 1}', "not JSON"),
        ('[{"a": 1, "a": 2}]', 'the key "a" occurs twice'),
        ('{"a": [], "a": []}', 'the key "a" occurs twice'),
        ("[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
        ("[" + "9" * 5000 + "]", "digits"),
        ('{"train": [{"a": 1}], "test": [{"a": 2}]}', r"\(train, test\); keep .*jq -c '\.train\[\]'"),
        ('{"prompt": "q", "answers": [{"a": 1}]}', "is it one row .*prompt"),
        ('{"0": {"0": 1}, "1": {"0": 1}}', "values are columns or rows"),
        ('{"a": [1, 2], "b": [3]}', "different lengths .a 2, b 1"),
        ('{"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [3]]}', "row 2: 1 values for 2 columns"),
    ],
)
def test_json_that_is_damaged_or_can_be_read_in_two_ways_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    refused(tmp_path / "a.json", message)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"a": 1', "not JSON"), ('{"a": 1} {"a": 2}', "Extra data at column 10"), ('{"a": 1, "a": 2}', "occurs twice"),
        ("[" * 100_000, "recursion"), ("9" * 5000, "digits"), ('"a\tb"', "control character"),
    ],
)  # fmt: skip
def test_a_damaged_line_of_json_lines_is_refused_with_its_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n\n{line}\n')
    refused(tmp_path / "a.jsonl", rf"a\.jsonl:3: .*{message}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(json_values, max_size=5), st.integers(1, 9), st.booleans(), st.sampled_from([None, 1]))
@example([1.5e300, -0.0, True, "\\\U0001f600"], 1, False, None)
def test_the_size_of_the_buffer_does_not_change_the_values(tmp_path_factory, values, chunk, ascii_only, indent):
    """Small buffers cut every value at every position; the expected values are those of json.loads."""
    path = tmp_path_factory.mktemp("json") / "a.json"
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    rows = [{"a": value} for value in [*values, 1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK", chunk)
        path.write_text(text, encoding="utf-8", newline="")
        assert rows_of(path) == json.loads(text)
        path.write_text("\n".join(json.dumps(row, indent=indent) for row in [*rows, *rows]))
        assert rows_of(path) == [*rows, *rows]
        path.write_text(json.dumps({"x": [*values, 1], "data": rows, "y": 1}))
        assert rows_of(path) == rows


@given(st.text('[]{}":,\\ 1e-.aN\n', max_size=12), st.integers(1, 4))
def test_the_size_of_the_buffer_does_not_change_what_is_an_error(tmp_path_factory, text, chunk):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(text)
    results = []
    for size in (chunk, 2**18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_files, "CHUNK", size)
            try:
                results.append(repr(rows_of(path)))
            except InputError as error:
                results.append(str(error))
    assert results[0] == results[1]
