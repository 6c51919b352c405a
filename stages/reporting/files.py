"""The files of a run that its report is made of. A file that does not exist is None; a damaged one is an error."""

import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.report import OTHERS
from rlhf.rows import Row, read_jsonl
from rlhf.run.files import read_json
from stages.common.options import CHAIN
from stages.common.run import Run, record_of, settings_of
from stages.common.stage import difference

SEED = re.compile(r"-seed\d+$")
Kinds = tuple[type, ...]
NUMBER: Kinds = (int, float)
OPTIONAL: Kinds = (int, float, type(None))
ANSWER: dict[str, Kinds] = {
    "prompt": (str, list),
    "task": (str, type(None)),
    "model": (str,),
    "temperature": NUMBER,
    "completion": (str, list),
    "finished": (bool,),
    "length": (int,),
    "score": OPTIONAL,
    "gold": OPTIONAL,
    "kl": OPTIONAL,
}
# column -> type of its entries; one entry for each completion
RANKING: dict[str, Kinds] = {"completions": (str, list), "ranks": NUMBER, "scores": NUMBER, "lengths": (int,)}
RANKING_OPTIONAL: dict[str, Kinds] = {"quality": OPTIONAL, "swapped": (bool,)}


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds, and the logs of its sibling runs with other seeds."""

    run: Run
    records: dict[str, dict[str, Any]]  # stage -> its record, of finished stages and of evaluate
    log: list[Row] | None  # metrics of PPO's steps
    seeds: dict[str, list[Row]]  # name of a run -> its log; with siblings, also the run's own
    other_options: dict[str, list[str]]  # name of a sibling -> options of PPO that differ from the run's
    metrics: dict[str, dict[str, Any]] | None
    answers: list[Row] | None
    rankings: list[Row] | None
    probes: list[str]  # kinds of probes, whose recall is a metric

    @property
    def models(self) -> list[str]:
        """The names in metrics.json that are models."""
        return [name for name in self.metrics or {} if name not in OTHERS]

    def coefficient(self, model: str) -> float | None:
        """γ, the coefficient of the pretraining mix with which a policy was trained; None for any other model."""
        folder = self.run.find("ppo") if model == "ppo" else self.run.folder / model
        value = record_of(folder).get("options", {}).get("ptx_coef") if model.startswith("ppo") else None
        return None if value is None else float(value)


def read_run(run: Run) -> RunFiles:
    """Reads the files of a run. Raises InputError, with file and line, for one that is damaged."""
    evaluation = run.find("evaluate")
    log = _rows(run.find("ppo") / "log.jsonl")
    _check_log(run.find("ppo") / "log.jsonl", log or [])
    seeds = {path.name: rows for path in _siblings(run.folder) if (rows := _rows(path / "ppo" / "log.jsonl"))}
    records = {name: record for name in (*CHAIN, "evaluate") if (record := record_of(run.find(name)))}
    probes = _rows(run.find("data") / "probes.jsonl") or []
    return RunFiles(
        run=run,
        records=records,
        log=log,
        seeds={run.folder.name: log, **seeds} if log and seeds else {},
        other_options={path.name: _other_options(path, records) for path in _siblings(run.folder)},
        metrics=_metrics(evaluation / "metrics.json"),
        answers=_rows(evaluation / "answers.jsonl", _check_answer),
        rankings=_rows(evaluation / "rankings.jsonl", _check_ranking),
        probes=sorted({str(row["probe"]) for row in probes if isinstance(row, dict) and "probe" in row}),
    )


def _siblings(folder: Path) -> list[Path]:
    """The finished or running runs beside a run that differ from it in the seed only, by their names and recipes."""
    stem = SEED.sub("", folder.name)
    named = [folder.with_name(stem), *sorted(folder.parent.glob(f"{escape(stem)}-seed*"))]
    recipe = settings_of(folder).get("recipe")
    others = (path for path in named if path.name != folder.name and SEED.sub("", path.name) == stem)
    return [path for path in others if path.is_dir() and settings_of(path).get("recipe") == recipe]


def _other_options(sibling: Path, records: dict[str, dict[str, Any]]) -> list[str]:
    """Options of PPO, besides the seed, with which a sibling was made and the run was not."""
    own, other = (record.get("options", {}) for record in (records.get("ppo", {}), record_of(sibling / "ppo")))
    return [name for name in difference(own, other) if name != "seed"] if own and other else []


def _rows(path: Path, check: Any = None) -> list[Row] | None:
    if not path.is_file():
        return None
    rows = []
    for where, row in read_jsonl(path):
        if not isinstance(row, dict):
            raise InputError(f"{where}: not an object; `make evaluate` writes the file again")
        if check:
            check(where, row)
        rows.append(row)
    return rows


def _metrics(path: Path) -> dict[str, dict[str, Any]] | None:
    metrics = read_json(path)
    if not all(isinstance(values, dict) for values in metrics.values()):
        raise InputError(f"{path}: damaged; `make evaluate` writes it again")
    return metrics or None


def _check_log(path: Path, log: list[Row]) -> None:
    for line, row in enumerate(log, start=1):
        if not isinstance(row.get("step"), int):
            raise InputError(f"{path}:{line}: no step; `make ppo` writes the file again")


def _check_answer(where: str, row: Row) -> None:
    for column, kinds in ANSWER.items():
        if not isinstance(row.get(column), kinds):
            raise InputError(f"{where}: {column} is {row.get(column)!r}; `make evaluate` writes the file again")


def _check_ranking(where: str, row: Row) -> None:
    """Every column has an entry of the right type for each completion."""
    columns = {**RANKING, **{name: kinds for name, kinds in RANKING_OPTIONAL.items() if row.get(name) is not None}}
    for column, kinds in columns.items():
        values = row.get(column)
        if not isinstance(values, list) or not all(isinstance(value, kinds) for value in values):
            raise InputError(f"{where}: no usable {column}; `make evaluate` writes the file again")
        if len(values) != len(row["completions"]):
            raise InputError(f"{where}: {len(values)} {column} for {len(row['completions'])} completions")
