"""The run of docs/smollm2.md in that page: tables of its report, the accuracy of the judge, and the picture of PPO.

    .venv/bin/python -m tests.smollm2 runs/smollm2 runs/smollm2-judge

The whole report is too long for a page, because it has the answers to all prompts.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "smollm2.md"
PICTURE = "smollm2.png"
MEASURED = "## Measured"  # the heading of the page below which everything is replaced
# the headings of report.md whose tables are taken; the first table has no heading but the title
KEPT = (
    "Over all pairs",
    "Win rates against the SFT model",
    "All models on held-out prompts",
    "The alignment tax",
    "Stages",
)
ENDS = ("", "_low", "_high")  # of the names of a metric and its interval


def tables(report: str) -> str:
    """The tables of report.md under its title and under the headings KEPT, each with its heading."""
    _, *parts = re.split(r"^#+ (.+)\n", re.sub(r"<details>.*?</details>", "", report, flags=re.DOTALL), flags=re.M)
    kept = []
    for number, (heading, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        rows = [line for line in text.splitlines() if line.startswith("|")]
        if rows and (number == 0 or heading in KEPT):
            kept += [f"### {heading}" if number else "", "\n".join(rows)]
    return "\n\n".join(filter(None, kept))


def record(run: Path, stage: str) -> dict[str, Any]:
    """The record of a finished stage."""
    return json.loads((run / stage / "stage.json").read_text(encoding="utf-8"))


def judge_line(run: Path, judge: Path) -> str:
    """The accuracies of the judge and of the reward model on the same held-out pairs, and the minutes of both runs."""
    accuracies = []
    for name, folder in (("judge", judge), ("reward model", run)):
        metrics = record(folder, "reward")["metrics"]
        accuracies.append("{}: {:.3f} [{:.3f}, {:.3f}]".format(name, *(metrics[f"accuracy{end}"] for end in ENDS)))
    stages = [(run, path.parent.name) for path in run.glob("*/stage.json")] + [(judge, "reward")]
    minutes = sum(record(folder, stage)["seconds"] for folder, stage in stages if ".previous" not in stage) / 60
    return f"Accuracy on held-out pairs: {'; '.join(accuracies)}. {minutes:.0f} minutes for all stages of both runs."


def main() -> None:
    run, judge = map(Path, sys.argv[1:])
    measured = [judge_line(run, judge), tables((run / "report.md").read_text(encoding="utf-8"))]
    shutil.copy(run / "ppo" / "ppo.png", PAGE.with_name(PICTURE))
    above, _, _ = PAGE.read_text(encoding="utf-8").partition(f"\n{MEASURED}\n")
    text = "\n\n".join([above.rstrip(), MEASURED, *measured, f"![PPO, each step]({PICTURE})"])
    PAGE.write_text(text + "\n", encoding="utf-8")
    print(f"{PAGE}, {len(text.split()):,} words")


if __name__ == "__main__":
    main()
