"""What was run: commands, versions, machine, seeds, seconds, options, and the data with what was dropped."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from stages.common.console import duration
from stages.common.machine import this_machine
from stages.common.options import StageOptions
from stages.common.request import command
from stages.common.stage import SILENT_OPTIONS
from stages.reporting.content import Block, Command, Section, Table, Text, is_number, number, place
from stages.reporting.files import RunFiles

LEAD = (
    "Everything that the results depend on, from the record that each stage writes when it finishes. The same options, "
    "seed and versions give the same results on the same machine."
)


def section(files: RunFiles, options: StageOptions) -> Section:
    """The section on how the run was made; `options` name the recipe, the folder and the base."""
    result = Section("run", "What was run", LEAD)
    if not files.records:
        result.missing = f"No stage has finished: run `{shown_command('ppo', options)}`"
        return result
    commands = [Command(_of_stage(name, record, options)) for name, record in files.records.items()]
    made = [name for name, record in files.records.items() if record.get("arguments")]
    if not made:  # one command makes all stages, another one the evaluation
        last = [name for name in files.records if name != "evaluate"][-1:]
        commands = [Command(shown_command(name, options)) for name in (*last, "evaluate") if name in files.records]
    result.blocks = [Text("Commands:"), *commands, _stages(files), _environment(files), *_data(files), *_options(files)]
    return result


def shown_command(goal: str, options: StageOptions, *arguments: str) -> str:
    """A command of make for the reader, without the folders of this machine."""
    base, run = (Path(path).name if path and Path(path).is_absolute() else path for path in (options.base, options.run))
    recipe = place(options.recipe)
    text = command(goal, StageOptions(recipe=recipe, run=run, base=base, run_seed=options.run_seed))
    return f"{text} ARGS={quote(' '.join(map(quote, arguments)))}" if arguments else text


def without_mix(options: StageOptions) -> str:
    """The command that trains a policy without the pretraining mix, in a folder that the report finds."""
    folder = options.run_folder.name if options.run_folder.is_absolute() else str(options.run_folder)
    run = f" --run {quote(folder)}" if options.run else ""
    recipe = quote(place(options.recipe))
    return (
        f".venv/bin/python -m stages.ppo --recipe {recipe}{run} --ptx_coef 0 --output {quote(f'{folder}/ppo-no-mix')}"
    )


def _of_stage(name: str, record: Mapping[str, Any], options: StageOptions) -> str:
    return shown_command(name, options, *map(place, record.get("arguments", [])))


def _stages(files: RunFiles) -> Table:
    rows = []
    for name, record in files.records.items():
        memory = record["peak_memory"] if is_number(record.get("peak_memory")) else None  # bytes
        rows.append(
            [
                name,
                str(record["options"].get("seed", "–")),
                duration(record["seconds"]),
                "–" if memory is None else f"{memory / 10**9:.2f} GB",
                str(record.get("processes", "–")),
                str(record.get("finished", "–")).replace("T", " ")[:16],
            ]
        )
    columns = ["stage", "seed", "time", "memory", "processes", "finished"]
    if all(row[3] == "–" for row in rows):
        rows, columns = [[*row[:3], *row[4:]] for row in rows], [*columns[:3], *columns[4:]]
    return Table("Stages", columns, rows)


def _environment(files: RunFiles) -> Table:
    """Versions from the records, and the machine: from a record if it has one, else the one that writes the report."""
    versions: dict[str, dict[str, None]] = {}
    for record in files.records.values():
        for library, version in record.get("versions", {}).items():
            versions.setdefault(library, {})[str(version)] = None
    rows = [["libraries", " · ".join(f"{library} {', '.join(found)}" for library, found in versions.items())]]
    recorded = next((r["machine"] for r in [*files.records.values()][::-1] if isinstance(r.get("machine"), dict)), None)
    machine = {str(name): place(value) for name, value in recorded.items()} if recorded else this_machine()
    title = "Versions and machine" if recorded else "Versions, and the machine that wrote this report"
    return Table(title, ["", ""], [*rows, *([name, value] for name, value in machine.items())], numeric=False)


def _data(files: RunFiles) -> list[Block]:
    """The rows that each stage read, and why others were dropped."""
    rows = []
    for stage, record in files.records.items():
        for name in ("rows", "test_rows"):
            rows += _tallies(stage, name.replace("_", " "), record.get(name))
        for kind, tally in record.get("sources", {}).items():
            rows += _tallies(stage, f"{kind}, from {place(record['options'].get(kind))}", tally)
    return [Table("Data", ["stage", "rows", "used", "dropped"], rows, numeric=False)] if rows else []


def _tallies(stage: str, name: str, tally: Any) -> list[list[str]]:
    """Rows of the table of data, from a tally of used and dropped rows or from counts by kind."""
    if not isinstance(tally, dict):
        return []
    if "used" not in tally:
        return [[stage, str(kind), number(count), ""] for kind, count in tally.items() if is_number(count)]
    dropped = tally.get("dropped")
    reasons = dropped.items() if isinstance(dropped, dict) else ()
    text = ", ".join(f"{number(count)} {reason}" for reason, count in reasons)
    return [[stage, name, number(tally["used"]), text or "none"]]


def _options(files: RunFiles) -> list[Block]:
    """The options that the recipe or a command line set, and the others, which have their defaults, in a fold."""
    tables = []
    for title, is_given in (("Options that were set", True), ("Options with their defaults", False)):
        rows = []
        for stage, record in files.records.items():
            names = [
                n for n in record["options"] if n not in SILENT_OPTIONS and (n in record.get("given", ())) == is_given
            ]
            if names:
                rows.append([stage, " · ".join(f"{name} {place(record['options'][name])}" for name in names)])
        tables.append(Table(title, ["stage", "options"], rows, fold=not is_given, numeric=False))
    return list(tables)
