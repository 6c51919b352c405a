"""Which parts of a report docs/smollm2.md takes over."""

import json

from tests.smollm2 import judge_line, tables

REPORT = """# smollm2

recipe smollm2

| | | |
|---|---:|---|
| KL to SFT | 1.79 | nats |

## Answers

# a line of a prompt

| model | answer | |
|---|---|---|
| sft | an answer | |

## The reward model

### Over all pairs

A sentence.

| | share | pairs |
|---|---:|---:|
| chance | 0.500 | |

<details><summary>The same</summary>

| by length | 0.6 |

</details>
"""


def test_the_page_has_the_tables_of_a_report_without_its_answers_and_folds():
    assert tables(REPORT).splitlines() == [
        "| | | |",
        "|---|---:|---|",
        "| KL to SFT | 1.79 | nats |",
        "",
        "### Over all pairs",
        "",
        "| | share | pairs |",
        "|---|---:|---:|",
        "| chance | 0.500 | |",
    ]


def test_the_accuracies_and_minutes_are_those_of_the_records_of_both_runs(tmp_path):
    for name, accuracy, seconds in (("run/reward", 0.6, 60), ("run/ppo", None, 120), ("judge/reward", 0.58, 180)):
        metrics = {
            f"accuracy{end}": accuracy + plus for end, plus in (("", 0), ("_low", -0.05), ("_high", 0.05)) if accuracy
        }
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "stage.json").write_text(json.dumps({"metrics": metrics, "seconds": seconds}))
    assert judge_line(tmp_path / "run", tmp_path / "judge") == (
        "Accuracy on held-out pairs: judge: 0.580 [0.530, 0.630]; reward model: 0.600 [0.550, 0.650]. "
        "6 minutes for all stages of both runs."
    )
