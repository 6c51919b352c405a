"""Benchmark files of reward models: which rows are read, which are refused, and what make evaluate does with them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf import InputError
from stages.common.benchmarks import read_benchmark
from tests.pipeline import make_here, stage

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "s"}
LISTS = {**PAIR, "chosen": ["a"], "rejected": ["b", "c", "d"]}
TIED = {**LISTS, "subset": "Ties", "chosen": ["a", "e"], "id": "tied:1"}
REF = {**LISTS, "subset": "Ties", "id": "ref:1"}
USER, REPLY = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "prompt", "completions", "chosen"),
    [
        (PAIR, "p", ["a", "b"], 1),
        ({**PAIR, "rejected": ""}, "p", ["a", ""], 1),
        (LISTS, "p", ["a", "b", "c", "d"], 1),
        ({**LISTS, "num_correct": 1, "num_incorrect": 3}, "p", ["a", "b", "c", "d"], 1),
        ({**PAIR, "prompt": [USER], "chosen": [REPLY]}, [USER], ["a", "b"], 1),
        ({**PAIR, "prompt": [USER], "chosen": [USER, REPLY]}, [USER], ["a", "b"], 1),
        ({**PAIR, "chosen": [USER, REPLY]}, "p", ["a", "b"], 1),
        ({**LISTS, "prompt": [USER], "chosen": [[REPLY], [USER, REPLY]]}, [USER], ["a", "a", "b", "c", "d"], 2),
    ],
)
def test_rows_of_both_benchmarks_are_read_as_text_or_messages(tmp_path, row, prompt, completions, chosen):
    (item,) = read_benchmark(write(tmp_path, row))
    assert (item.prompt, item.completions, item.chosen, item.subset) == (prompt, completions, chosen, "s")


def test_a_parquet_file_is_read_as_the_same_rows(tmp_path):
    pq.write_table(pa.Table.from_pylist([TIED, REF]), tmp_path / "rows.parquet")
    assert read_benchmark(tmp_path / "rows.parquet") == read_benchmark(write(tmp_path, TIED, REF))


def test_a_row_without_a_subset_belongs_to_that_of_its_file(tmp_path):
    assert read_benchmark(write(tmp_path, {k: v for k, v in PAIR.items() if k != "subset"}))[0].subset == "rows"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, 'no "rejected"; the row has prompt, chosen'),
        ({**LISTS, "rejected": []}, 'no "rejected"'),
        ({**PAIR, "subset": 3}, '"subset" is 3; it must be a name'),
        ({**PAIR, "chosen": ["a"]}, "must both be one completion, or both lists"),
        ({**LISTS, "num_correct": 2}, 'num_correct is 2, but "chosen" has 1'),
        ({**PAIR, "prompt": " "}, "empty prompt; correct the row, or remove it"),
        ({**PAIR, "chosen": 5}, '"completion" is int; it must be text'),
        ({**PAIR, "prompt": [USER], "chosen": [USER]}, "empty completion; correct the row, or remove it"),
        ({**PAIR, "chosen": [{"role": "user", "content": "x"}]}, "a completion is a text"),
        ({**PAIR, "prompt": [USER], "chosen": [REPLY, USER, REPLY]}, "a completion is a text"),
        ({**TIED, "id": "1"}, "\"id\" is '1'; in the subset Ties it must be ref:NUMBER or tied:NUMBER"),
        ({**TIED, "chosen": ["a"]}, "a row tied:NUMBER needs at least two"),
        ("text", "a row is an object"),
    ],
)
def test_a_row_in_doubt_is_refused_with_its_line(tmp_path, row, message):
    with pytest.raises(InputError) as error:
        read_benchmark(write(tmp_path, TIED, row))
    assert str(error.value).startswith(f"{tmp_path}/rows.jsonl:2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PAIR, LISTS], "rows.jsonl:2: some rows have lists of completions"),
        ([TIED, REF, TIED], "rows.jsonl:3: the id tied:1 is also that of .*rows.jsonl:1"),
        ([TIED, {**REF, "id": "ref:2"}], "rows.jsonl: in the subset Ties no number has both"),
        ([], "rows.jsonl: no rows"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_benchmark(write(tmp_path, *rows))


def test_benchmarks_are_measured_where_nothing_but_a_reward_model_exists(toy_run, tmp_path, capsys):
    path = write(tmp_path, LISTS, TIED, REF)
    options = f"--benchmarks {path} --reward_model {toy_run / 'reward'}"
    output = make_here("evaluate", capsys, tmp_path / "new", ARGS=options)
    assert "to be made in" in output and "pretrain" not in output
    assert "| Ties | 2    |" in output and output.count("mean") == 1
    metrics = json.loads((tmp_path / "new" / "evaluate" / "metrics.json").read_text())
    assert list(metrics) == ["benchmarks"]
    measured = metrics["benchmarks"][str(path)]
    assert measured["mean"] == sum(subset["score"] for subset in measured["subsets"].values()) / 2
    again = make_here("evaluate", capsys, tmp_path / "new", ARGS=options)
    assert "up to date" in again and "| Ties | 2    |" in again
    write(tmp_path, LISTS, TIED, REF, {**LISTS, "subset": "more"})
    assert "has changed" in make_here("evaluate", capsys, tmp_path / "new", ARGS=options)


def test_benchmarks_stand_beside_the_metrics_of_models(run, tmp_path):
    output = stage("evaluate", "--count", 2, "--benchmarks", write(tmp_path, PAIR), run=run)
    report = (run / "evaluate" / "report.md").read_text()
    assert "win_rate" in output and "| s    | 1    |" in output
    assert report.index("win_rate") < report.index("| s    | 1    |")


def test_benchmarks_without_a_reward_model_are_refused(run, tmp_path):
    (run / "reward").rename(run / "reward-elsewhere")
    output = stage("evaluate", "--benchmarks", write(tmp_path, PAIR), run=run, status=2)
    assert "benchmarks measure a reward model, and the run has none: name one with --reward_model" in output
