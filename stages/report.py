"""Report: a page and a Markdown file of what a run has made. It is not a stage: it uses what has been made.

`make report` evaluates first if the evaluation is missing or out of date. It never trains.

    make report
    make report RUN=runs/tiny
"""

from pathlib import Path

from stages.common.answer_options import ReportOptions
from stages.common.console import say
from stages.common.stage import Stage, main
from stages.reporting import curves, measured, provenance, reward_model
from stages.reporting.answers import compare
from stages.reporting.files import read_run
from stages.reporting.headline import headline, subtitle
from stages.reporting.provenance import shown_command, without_mix
from stages.reporting.render import Report, write


def work(options: ReportOptions, stage: Stage) -> None:
    """Writes report.html, report.md and the folder report with the pictures."""
    files = read_run(stage.run)
    evaluate = shown_command("evaluate", options)
    comparison = compare(files.answers or [])
    sections = [
        curves.section(files, shown_command("ppo", options)),
        reward_model.section(files, evaluate),
        measured.win_section(files, evaluate),
        measured.tax_section(files, evaluate, without_mix(options)),
        provenance.section(files, options),
    ]
    report = Report(
        name=stage.run.folder.name,
        subtitle=subtitle(files),
        headline=headline(files),
        answers_lead=comparison.lead() if comparison else "",
        comparison=comparison,
        missing_answers=f"There are no answers yet: run `{evaluate}`",
        sections=sections,
    )
    folder = Path(options.output or stage.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in write(report, folder):
        say(str(path), "report" if path.suffix == ".html" else "")
    for section in sections:
        if section.missing:
            say(f"{section.title.lower()}: {section.missing}")


if __name__ == "__main__":
    main("report", work)
