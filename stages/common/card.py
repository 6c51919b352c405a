"""The model card of a result, README.md in the hub's format: how the model was made, from the records of its stages."""

import json
import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.escape import markdown
from stages.common.options import PLACES
from stages.common.run import CARD, INPUT, Run, record_of

# stage -> what its model is, and the hub's name of its task
MODELS = {
    "pretrain": ("Pretrained language model", "text-generation"),
    "sft": ("Language model fine-tuned on demonstrations (SFT)", "text-generation"),
    "reward": ("Reward model, trained on ranked completions", "text-classification"),
    "ppo": ("Language model trained with PPO on a reward", "text-generation"),
    "task": ("Language model fine-tuned on a supervised task, with a linear head", "text-classification"),
}
TIMINGS = ("episodes_per_second", "seconds")  # metrics that differ between two runs of the same stage
LIMITS = """Trained by a small research pipeline. Nobody has evaluated this model for safety, bias or factual accuracy: its answers can
be wrong, offensive or harmful. It is not meant for decisions about people. A reward model scores what resembles the
answers that its labeller preferred, on prompts like those of its training; a policy trained against it can exploit its
errors. Languages and topics outside the data above were not tried."""
LOADING = {
    "text-generation": """from transformers import pipeline

generate = pipeline("text-generation", "FOLDER")
print(generate("A prompt", max_new_tokens=50, do_sample=True, top_k=0))""",
    "text-classification": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
print(model(**tokenizer("Prompt and completion", return_tensors="pt")).logits)""",
    # in place of the text above for this stage, whose inputs have tokens around them
    "task": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
text = "<start>First text<delimiter>Second text<extract>"  # one text: without the delimiter
print(model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits)
# model.config.task_form is the form. similarity: add the logits of both orders of the two texts.
# choice: one score for each "<start>context<delimiter>choice<extract>", softmax over the choices""",
}


def write_card(folder: Path, record: dict[str, Any], run: Run) -> None:
    """Writes README.md into a folder that holds a stage's model; nothing if the stage makes none."""
    if record["stage"] in MODELS and (folder / "config.json").is_file() | (folder / "adapter_config.json").is_file():
        (folder / CARD).write_text(card(folder, record, run), encoding="utf-8")


def card(folder: Path, record: dict[str, Any], run: Run) -> str:
    """The card of the model in a folder. All text from options, data and models is escaped."""
    title, task = MODELS[record["stage"]]
    origin = _origin(record, run)
    sections = {
        "How it was made": _table(_making(record, origin)),
        "Data": _bullets(_data(record, run)),
        "Size": _bullets(_size(folder)),
        "Metrics": _table(_metrics(record)) or "None were measured by this stage.",
        "Limits": LIMITS,
        "How to load it": _loading(folder, record["stage"] if record["stage"] in LOADING else task),
    }
    text = "\n\n".join(f"## {heading}\n\n{body}" for heading, body in sections.items())
    return f"{_front_matter(record['stage'], task, origin)}\n# {title}\n\n{text}\n"


def _front_matter(stage: str, task: str, origin: str | None) -> str:
    lines = [
        "license: other  # set the licence under which you publish the model; that of its data and base model may bind you",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in dict.fromkeys(("rlhf", {"reward": "reward-model"}.get(stage, stage)))),
    ]
    if origin and not Path(origin).exists():  # a hub id; the hub refuses a path
        lines.append(f"base_model: {json.dumps(origin)}")
    return "\n".join(["---", *lines, "---", ""])


def _origin(record: dict[str, Any], run: Run) -> str | None:
    """The model of others that training started from; None if it started from random weights."""
    own: str | None = record["options"].get("model")
    pretrained = _record(run, "pretrain").get("options", {}).get("model")
    return own or (pretrained if record["stage"] != "pretrain" else None)


def _record(run: Run, stage: str) -> dict[str, Any]:
    """The record of another stage; empty if it is damaged, because a result must not be lost for its card."""
    with suppress(InputError):
        return record_of(run.find(stage))
    return {}


def _making(record: dict[str, Any], origin: str | None) -> dict[str, str]:
    options = record["options"]
    set_options = [name for name in record["given"] if name not in (*PLACES, "seed") and name in options]
    return {
        "stage": record["stage"],
        "recipe": _name(options["recipe"]),
        "started from": _name(origin) if origin else "random weights, through the earlier stages of the run",
        "seed": str(options["seed"]),
        **{name: _name(options[name]) for name in set_options},
        "versions": ", ".join(f"{library} {number}" for library, number in record["versions"].items()),
        "finished": f"{record['finished']}, after {record['seconds']:g} s in {record['processes']} process(es)",
    }


def _data(record: dict[str, Any], run: Run) -> list[str]:
    """The rows that the stage read, what was dropped and why, and where `make data` has them from."""
    lines = [_rows(name, record[name]) for name in ("rows", "test_rows") if record.get(name)]
    read = sorted(name.removeprefix(INPUT) for name, value in record["inputs"].items() if value != "missing")
    if read:
        lines.append(f"read: {', '.join(map(_name, read))}")
    made = _record(run, "data")
    options = made.get("options", {})
    if options.get("world"):
        lines.append("the embedded world: generated text about people, animals and sums, in English")
    for kind, tally in made.get("sources", {}).items():
        lines.append(f"{_rows(kind, tally)}; from {', '.join(map(_name, options.get(kind, [])))}")
    return lines


def _rows(name: str, tally: dict[str, Any]) -> str:
    """Counts of rows in words."""
    if "used" not in tally:
        return f"{name.replace('_', ' ')}: " + ", ".join(f"{count:,} {kind}" for kind, count in tally.items())
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in tally.get("dropped", {}).items())
    return f"{name.replace('_', ' ')}: {tally['used']:,} used; dropped: {dropped or 'none'}"


def _size(folder: Path) -> list[str]:
    weights = sorted(folder.glob("*.safetensors"))
    config = json.loads(text) if (text := _read(folder / "config.json")) else {}
    family = config.get("model_type") or "an adapter, see adapter_config.json for its base"
    length = config.get("max_position_embeddings") or config.get("n_positions")
    lines = [f"{sum(map(parameters, weights)):,} parameters", f"architecture: {family}"]
    return lines + ([f"context: {length:,} tokens"] if length else [])


def parameters(file: Path) -> int:
    """The number of parameters in a safetensors file, from its header."""
    with open(file, "rb") as weights:
        (length,) = struct.unpack("<Q", weights.read(8))
        header = json.loads(weights.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _metrics(record: dict[str, Any]) -> dict[str, str]:
    """The metrics of the record, with their 95 % intervals; and the last loss of training."""
    metrics = record.get("metrics") or {}
    last = (record.get("history") or [{}])[-1]
    if "loss" in last:
        metrics = {"loss of the last logged step": last["loss"], **metrics}
    result = {}
    for name, value in metrics.items():
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        is_end = any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_low", "_high"))
        if name not in TIMINGS and not is_end and isinstance(value, int | float):
            interval = f" (95 % interval {low:.4g} to {high:.4g})" if low is not None and high is not None else ""
            result[name] = f"{value:.4g}{interval}"
    return result


def _loading(folder: Path, task: str) -> str:
    code = LOADING[task].replace("FOLDER", "path/to/this/folder")
    note = (
        "" if (folder / "config.json").is_file() else "It is an adapter; transformers loads it with peft installed.\n\n"
    )
    return f"{note}```python\n{code}\n```"


def _name(value: Any) -> str:
    """An option's value; of an absolute path only the last part, because folders of a machine concern nobody."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {markdown(name)} | {markdown(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in lines)
