"""The data stage: what it refuses, where prompts come from if none are named, and what it shows."""

from rlhf.rows import read_jsonl, write_rows
from stages.data import _prompts_in
from tests.pipeline import make_here, stage
from tests.recipes import write_recipe


def test_a_split_that_holds_out_all_prompts_of_a_kind_is_refused(tmp_path):
    write_rows(tmp_path / "demonstrations.jsonl", [{"prompt": "0", "completion": "x"}] * 9)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"{i}"} for i in range(5)])
    recipe = write_recipe(
        tmp_path,
        f"data:\n  folder: {tmp_path}\n  demonstrations: [demonstrations.jsonl]\n  prompts: [prompts.jsonl]\n"
        "  test_share: 0.99\n",
    )
    output = stage("data", run=tmp_path / "run", recipe=recipe, status=2)
    assert "all prompts of the demonstrations are held out for the test" in output


def test_prompts_default_to_those_of_the_other_kinds_with_their_further_columns(tmp_path):
    reply = {"role": "assistant", "content": "b"}
    demonstrations = [
        {"prompt": "2 + 3", "completion": "5", "answers": ["5", "five"]},
        {"prompt": [reply | {"weight": 1}], "completion": "c"},
    ]
    comparisons = [
        {"prompt": "2 + 3", "completions": ["5", "6"], "ranks": [0, 1], "quality": [1, 0]},
        {"prompt": "1 + 1", "completions": ["2", "3"], "ranks": [0, 1], "quality": [1, 0], "answer": 2},
    ]
    write_rows(tmp_path / "demonstrations.jsonl", demonstrations)
    write_rows(tmp_path / "comparisons.jsonl", comparisons)
    expected = [
        {"prompt": "2 + 3", "answers": ["5", "five"]}, {"prompt": [reply]}, {"prompt": "2 + 3"},
        {"prompt": "1 + 1", "answer": 2},
    ]  # fmt: skip
    assert [row for _, row in _prompts_in(tmp_path, "")] == expected
    recipe = write_recipe(
        tmp_path,
        f"data:\n  folder: {tmp_path}\n  demonstrations: [demonstrations.jsonl]\n  comparisons: [comparisons.jsonl]\n"
        "  test_share: 0\n",
    )
    stage("data", run=tmp_path / "run", recipe=recipe)
    prompts = [row for _, row in read_jsonl(tmp_path / "run" / "data" / "prompts.jsonl")]
    assert prompts == [expected[0], expected[1], expected[3]]


def test_make_shows_the_rows_also_if_they_are_up_to_date(run, capsys):
    def previews(**variables: str) -> int:
        return make_here("data", capsys, run, **variables).count("completion | [[")

    assert previews(ARGS="--preview 3") == previews(ARGS="--preview 3") == 3
    assert previews() == previews() == 1
    assert "up to date" in make_here("ppo", capsys, run)


def test_as_many_rows_are_shown_as_asked_for(tmp_path):
    rows = [{"prompt": f"question {i}", "completion": f" answer {i}"} for i in range(9)]
    write_rows(tmp_path / "rows.jsonl", rows)
    recipe = write_recipe(tmp_path, f"data:\n  folder: {tmp_path}\n  demonstrations: [rows.jsonl]\n")
    for preview in (0, 1, 5):
        output = stage("data", "--preview", preview, run=tmp_path / "run", recipe=recipe)
        assert output.count("[[ answer ") == preview
        assert (
            "demonstrations: 9 rows; characters (median, 95 %, longest): prompt 10, 10, 10; completion 9, 9, 9"
            in output
        )


def test_rendered_rows_keep_their_control_tokens_in_every_stage(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"prompt": f"<s>{i}", "completion": " x</s>"} for i in range(9)])
    for option, expected in (("", None), ("  rendered: true\n", True)):
        recipe = write_recipe(
            tmp_path, f"data:\n  folder: {tmp_path}\n  demonstrations: [rows.jsonl]\n  test_share: 0.3\n{option}"
        )
        stage("data", run=tmp_path / f"run{expected}", recipe=recipe)
        for file in ("demonstrations", "demonstrations_test", "prompts", "prompts_test"):
            rows = [row for _, row in read_jsonl(tmp_path / f"run{expected}" / "data" / f"{file}.jsonl")]
            assert rows and all(row.get("rendered") is expected for row in rows)
