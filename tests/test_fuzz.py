"""Hundreds of random inputs to each reader: none raises anything but InputError, and no row is lost without being counted."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.columns import Source
from data.shapes import SHAPES, rows_of
from data.sources import read_source
from rlhf import InputError
from rlhf.rows import Tally, read_lines, read_rows, valid_rows
from rlhf.tokens import comparison_dataset, demonstration_dataset, prompt_dataset, text_dataset
from stages.common.parsing import parse
from stages.common.programs import OPTIONS, STAGES
from tests.data.public_rows import ROWS as PUBLIC_ROWS

KINDS = ("text", "demonstrations", "comparisons", "prompts")
NAMES = sorted({name for options in OPTIONS.values() for name in options.__dataclass_fields__} - {"recipe", "help"})
COLUMNS = (
    "text messages prompt completion completions ranks chosen rejected ended quality swapped role content "
    "instruction input output instances history conversations from value"
).split()
fuzzed = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))

words = st.text(max_size=12) | st.sampled_from(
    ["user", "assistant", "a b", "\n\nHuman: a\n\nAssistant: b", "\ud800", "\0"]
)
numbers = st.integers() | st.floats() | st.just(10**400) | st.booleans() | st.none()
values = st.recursive(
    words | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(COLUMNS) | words, inner, max_size=4),
    max_leaves=12,
)
message = st.fixed_dictionaries({"role": words, "content": words})
texts = words | st.lists(message, max_size=3)
# close to valid rows: others are refused by the first check and never reach the rest of the code
rows = (
    st.fixed_dictionaries(
        {"prompt": texts}, optional={"completion": texts, "text": texts, "messages": texts, "other": values}
    )
    | st.integers(0, 4).flatmap(
        lambda k: st.fixed_dictionaries(
            {
                "prompt": texts,
                "completions": st.lists(texts, min_size=k, max_size=k),
                "ranks": st.lists(st.integers(-2, 3) | st.floats(), min_size=k, max_size=k),
            },
            optional={"ended": st.lists(st.booleans(), min_size=k, max_size=k) | values},
        )
    )
    | st.fixed_dictionaries({"chosen": texts, "rejected": texts}, optional={"prompt": texts})
    | st.dictionaries(st.sampled_from(COLUMNS), values, max_size=4)
    | values
)


def result_or_none(call):
    """The result of a call, or None if it raises InputError, which must have a message."""
    try:
        return call()
    except InputError as error:
        assert str(error).strip()
        return None


# --- rows -------------------------------------------------------------------------------------------------------------


def dataset_of(kind, valid, tokenizer):
    """The dataset of valid rows; asserts that every row is in it or counted as dropped."""
    tally = Tally(used=len(valid))
    if kind == "text":
        return text_dataset(valid, tokenizer, 32)
    make = {"demonstrations": demonstration_dataset, "comparisons": comparison_dataset, "prompts": prompt_dataset}[kind]
    dataset = make(valid, tokenizer, 32, tally)
    assert tally.used == len(dataset) and tally.used + tally.dropped.total() == len(valid)
    return dataset


@fuzzed
@given(st.lists(rows, max_size=4))
@example([{"prompt": "a", "completions": ["b", "c"], "ranks": [float("nan"), 1]}])
@example([{"prompt": "\ud800", "completion": "b"}])
def test_random_rows_are_used_or_counted_or_refused(tokenizer, random_rows):
    places = [(f"f:{i}", row) for i, row in enumerate(random_rows)]
    for kind in KINDS:
        tally = Tally()
        valid = result_or_none(lambda: list(valid_rows(places, kind, tally)))  # noqa: B023
        if valid is not None:
            assert tally.used == len(valid) and tally.used + tally.dropped.total() == len(random_rows)
            result_or_none(lambda: dataset_of(kind, valid, tokenizer))  # noqa: B023


SHAPE_COLUMNS = sorted({name for s in SHAPES for name in f"{s.prompt} {s.answers} {s.may}".replace("|", " ").split()})
column_values = values | texts | st.just([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


def shaped(shape):
    """Rows with the columns of a shape, each by one of its names, and up to two other columns."""
    names = [st.sampled_from(names.split("|")) for names in f"{shape.prompt} {shape.answers} {shape.may}".split()]
    columns = st.tuples(*names).flatmap(lambda chosen: st.fixed_dictionaries(dict.fromkeys(chosen, column_values)))
    others = st.dictionaries(st.sampled_from([*SHAPE_COLUMNS, "system", "tools"]) | words, column_values, max_size=2)
    return st.builds(lambda one, other: {**other, **one}, columns, others)


shaped_rows = st.sampled_from(SHAPES).flatmap(shaped)


@fuzzed
@given(st.lists(rows | shaped_rows, max_size=3), st.booleans())
def test_random_rows_of_every_shape_become_rows_or_are_counted_or_refused(raw, common_prefix):
    places = [(f"f:{i}", row) for i, row in enumerate(raw)]
    for kind in KINDS:
        tally = Tally()
        found = result_or_none(lambda: list(rows_of(places, kind, tally, common_prefix)))  # noqa: B023
        if found is not None:
            assert not raw or found or tally.dropped
            result_or_none(lambda: list(valid_rows(found, kind, tally)))  # noqa: B023


changed = st.lists(
    st.tuples(st.booleans(), st.sampled_from([*SHAPE_COLUMNS, "system", "tools"]) | words, column_values), max_size=2
)


@fuzzed
@given(st.sampled_from(list(PUBLIC_ROWS.values())), st.lists(changed, min_size=3, max_size=3), st.randoms())
def test_rows_of_public_data_sets_with_changed_columns_become_rows_or_are_counted_or_refused(public, changes, rng):
    _, raw, _ = public
    raw = [dict(row) for row in (raw if isinstance(raw, list) else [raw])]
    for row, changes_of_row in zip(raw, changes, strict=False):
        for replaces, column, value in changes_of_row:
            row[rng.choice(sorted(row)) if replaces else column] = value
    for kind in KINDS:
        tally = Tally()
        places = [(f"f:{i}", row) for i, row in enumerate(raw)]
        found = result_or_none(lambda: list(valid_rows(rows_of(places, kind, tally), kind, tally)))  # noqa: B023
        assert found is None or found or tally.dropped


def strings_in(value):
    """All strings in a value, those within JSON texts included."""
    if isinstance(value, str):
        yield value
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


@fuzzed
@given(shaped_rows)
def test_every_text_of_a_prompt_is_in_a_column(raw):
    """The guess that a prompt is what two texts begin with is made for transcripts alone."""
    known = "\n".join(strings_in(raw))
    for kind in ("demonstrations", "comparisons", "prompts"):
        tally = Tally()
        found = result_or_none(lambda: list(valid_rows(rows_of([("f:1", raw)], kind, tally), kind, tally)))  # noqa: B023
        for row in found or ():
            prompt = row["prompt"]
            for content in [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]:
                parts = content.split("\n\n") if content not in known else [content]
                assert all(part.partition(": ")[2] in known or part in known for part in parts), (raw, row)


source_values = st.none() | st.booleans() | st.integers() | st.lists(words, max_size=2) | words
sources = st.fixed_dictionaries(
    {},
    optional={
        "path": st.just("a.jsonl") | source_values,
        "columns": st.dictionaries(
            st.sampled_from(["prompt", "chosen", "rejected", "completions", "ranks", "text", "messages"]) | words,
            st.sampled_from(["a", "a.b", "a[].b", "-a[].b", "a[0]", ["a", "b"]]) | source_values,
            max_size=4,
        ),
        "adapter": st.just("math:sqrt") | source_values,
        "common_prefix": source_values,
    },
) | st.dictionaries(words, source_values, max_size=2)


@fuzzed
@given(sources, st.dictionaries(st.sampled_from(["a", "b", "chosen", "rejected"]), values, max_size=4))
@example({"path": "x", "columns": {"completions": "a[].b", "ranks": "-a[].b"}}, {"a": [{"b": 10**400}, {"b": None}]})
def test_random_columns_are_mapped_or_refused(given_source, raw):
    source = result_or_none(lambda: Source.parse(json.dumps(given_source)))
    for kind in KINDS if source else ():
        tally = Tally()
        rows = source.rows([("f:1", raw)], kind, tally, lambda name: lambda row: row)
        result_or_none(lambda: list(valid_rows(rows, kind, tally)))  # noqa: B023


# --- files ------------------------------------------------------------------------------------------------------------

files = (
    st.binary(max_size=60)
    | st.lists(rows, max_size=3).map(lambda file_rows: "\n".join(map(json.dumps, file_rows)).encode())
    | st.sampled_from(
        [b"[" * 100_000, b"{" * 9, b"9" * 5000, b'{"text": NaN}', b"\xef\xbb\xbf{}", b"\x1f\x8b\x00", b"\r\r\r", b""]
    )
)


@fuzzed
@given(files)
def test_random_files_are_read_or_refused_and_every_line_is_used_or_counted(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a"):
        path = folder / name
        path.write_bytes(content)
        for kind in KINDS:
            tally = Tally()
            if name == "a.jsonl" and result_or_none(lambda: read_rows(path, kind, tally)) is not None:  # noqa: B023
                assert tally.used + tally.dropped.total() == len(list(read_lines(path)))
        for sample_by in ("line", "paragraph", "document"):
            result_or_none(lambda: list(read_source(str(path), None, sample_by)))  # noqa: B023


# --- options ----------------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "1", "-1", "none", "true", "data.world:gold"])
)
sections = st.dictionaries(st.sampled_from(NAMES) | words, scalars | st.lists(scalars, max_size=2) | values, max_size=3)
recipes = st.dictionaries(
    st.sampled_from([*STAGES, "seed", "base"]) | words, sections | scalars | st.just("tiny"), max_size=3
).map(lambda recipe: yaml.safe_dump(json.loads(json.dumps(recipe))))


@fuzzed
@given(recipes | st.text(max_size=40))
@example("base: x.yaml")
@example("ppo: {trainer: {a: 1}}")
@example("sft: &a {trainer: {b: *a}}")
def test_random_recipes_are_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_text(text.replace("x.yaml", str(path)), encoding="utf-8", errors="surrogatepass")
    for stage in STAGES:
        result_or_none(lambda: parse(stage, ["--recipe", str(path)]))  # noqa: B023


def test_a_recipe_of_ten_thousand_open_brackets_is_refused(tmp_path):
    """For one stage, since the time of PyYAML is quadratic in the depth; all stages read recipes with the same code."""
    path = tmp_path / "x.yaml"
    path.write_text("[" * 10_000)
    with pytest.raises(InputError, match="brackets are nested too deeply"):
        parse("ppo", ["--recipe", str(path)])


arguments = st.lists(
    st.sampled_from([f"--{name}" for name in NAMES])
    | st.builds("--{}={}".format, st.sampled_from(NAMES), words | numbers.map(str))
    | words
    | numbers.map(lambda number: str(number)[:20]),
    max_size=4,
)


@fuzzed
@given(st.sampled_from(STAGES), arguments)
@example("sft", ["--recipe"])
@example("ppo", ["--seed", "9" * 5000])
@example("ppo", ["--kl_coef", "nan"])
@example("sft", ["--trainer", '{"a": NaN}'])
def test_random_command_lines_are_parsed_or_refused(stage, argv):
    argv = [argument for argument in argv if argument not in ("-h", "--help")]
    options = result_or_none(lambda: parse(stage, argv))
    if options is not None:
        json.dumps(vars(options), allow_nan=False)  # the stage's record holds them
