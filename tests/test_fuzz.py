"""Thousands of inputs that nobody meant to write: never a traceback, never a row that is lost without being counted."""

import json
from importlib import import_module

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.adapters import adapt
from data.sources import read_source
from rlhf.data import (
    Tally,
    checked,
    comparison_dataset,
    demonstration_dataset,
    prompt_dataset,
    read_lines,
    read_rows,
    text_dataset,
)
from rlhf.errors import InputError
from stages.options import parse
from stages.recipe import STAGES

KINDS = ("text", "demonstrations", "comparisons", "prompts")
OPTIONS = {stage: import_module(f"stages.{stage}").Options for stage in STAGES}
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
# near what is right, since what is far from it is refused at once
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


def refused_or(call):
    """What the call returns, or None if it is refused with a message of its own."""
    try:
        return call()
    except InputError as error:
        assert str(error).strip()
        return None


def datasets_of(kind, found, tokenizer):
    tally = Tally(used=len(found))
    if kind == "text":
        return text_dataset(found, tokenizer, 32)
    make = {"demonstrations": demonstration_dataset, "comparisons": comparison_dataset, "prompts": prompt_dataset}[kind]
    made = make(found, tokenizer, 32, tally)
    assert tally.used == len(made) and tally.used + tally.dropped.total() == len(found)
    return made


@fuzzed
@given(st.lists(rows, max_size=4))
@example([{"prompt": "a", "completions": ["b", "c"], "ranks": [float("nan"), 1]}])
@example([{"prompt": "\ud800", "completion": "b"}])
def test_rows_are_used_or_counted_or_refused(tokenizer, found):
    for kind in KINDS:
        tally = Tally()
        good = refused_or(lambda: list(checked([(f"f:{i}", row) for i, row in enumerate(found)], kind, tally)))  # noqa: B023
        if good is not None:
            assert tally.used == len(good) and tally.used + tally.dropped.total() == len(found)
            refused_or(lambda: datasets_of(kind, good, tokenizer))  # noqa: B023


@fuzzed
@given(rows)
def test_rows_of_other_shapes_are_adapted_or_counted_or_refused(raw):
    for kind in KINDS:
        tally = Tally()
        made = refused_or(lambda: [("f:1", row) for row in adapt(raw, kind, tally, "f:1")])  # noqa: B023
        if made is not None:
            assert made or tally.dropped
            refused_or(lambda: list(checked(made, kind, tally)))  # noqa: B023


files = (
    st.binary(max_size=60)
    | st.lists(rows, max_size=3).map(lambda found: "\n".join(map(json.dumps, found)).encode())
    | st.sampled_from(
        [b"[" * 100_000, b"{" * 9, b"9" * 5000, b'{"text": NaN}', b"\xef\xbb\xbf{}", b"\x1f\x8b\x00", b"\r\r\r", b""]
    )
)


@fuzzed
@given(files)
def test_files_of_anything_are_read_or_refused_and_every_line_is_accounted_for(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a"):
        path = folder / name
        path.write_bytes(content)
        for kind in KINDS:
            tally = Tally()
            if name == "a.jsonl" and refused_or(lambda: read_rows(path, kind, tally)) is not None:  # noqa: B023
                assert tally.used + tally.dropped.total() == len(list(read_lines(path)))
        for sample_by in ("line", "paragraph", "document"):
            refused_or(lambda: list(read_source(str(path), None, sample_by)))  # noqa: B023


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "1", "-1", "none", "true", "data.world:gold"])
)
options = st.dictionaries(st.sampled_from(NAMES) | words, scalars | st.lists(scalars, max_size=2) | values, max_size=3)
recipes = st.dictionaries(
    st.sampled_from([*STAGES, "seed", "base"]) | words, options | scalars | st.just("tiny"), max_size=3
).map(lambda recipe: yaml.safe_dump(json.loads(json.dumps(recipe))))


@fuzzed
@given(recipes | st.text(max_size=40))
@example("base: x.yaml")
@example("ppo: {trainer: {a: 1}}")
@example("sft: &a {trainer: {b: *a}}")
@example("[" * 10_000)
def test_recipes_are_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_text(text.replace("x.yaml", str(path)), encoding="utf-8", errors="surrogatepass")
    for stage in STAGES:
        refused_or(lambda: parse(OPTIONS[stage], stage, ["--recipe", str(path)]))  # noqa: B023


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
def test_command_lines_are_understood_or_refused(stage, argv):
    argv = [argument for argument in argv if argument not in ("-h", "--help")]
    options = refused_or(lambda: parse(OPTIONS[stage], stage, argv))
    if options is not None:
        json.dumps(vars(options), allow_nan=False)  # a record of them can be written
