"""Which evaluation a report needs: that of the models that exist, with the options of the last one."""

from dataclasses import replace
from pathlib import Path

from stages.common.options import CHAIN
from stages.common.parsing import parse_given
from stages.common.request import Request
from stages.common.run import RECORD, record_of

MODELS = ("pretrain", "sft", "ppo")


def evaluation_of(request: Request) -> Request | None:
    """A request of the evaluation of all finished models of a run; None if it has no model or no held-out prompts.

    The options are those of the run's last evaluation. Its models are those of the run, those that it had, and the
    further policies of the run.
    """
    run = request.run
    arguments = record_of(run.find("evaluate")).get("arguments", [])
    options = parse_given("evaluate", replace(request, goal="evaluate", arguments=arguments).argv("evaluate")).options
    further = map(str, further_policies(run.folder))
    named = dict.fromkeys((*(name for name in MODELS if name in options.models), *options.models, *further))
    models = [name for name in named if name not in CHAIN or (run.find(name) / RECORD).is_file()]
    models = [name for name in models if name in CHAIN or not name.startswith(f"{run.folder}/") or Path(name).is_dir()]
    if not models or not (run.find("data") / "prompts_test.jsonl").is_file():
        return None
    others = [argument for argument in arguments if not argument.startswith("--models=")]
    if models != options.models:  # a list that is given as --models=NAME replaces one that is given as --models NAME
        arguments = [*others, *(f"--models={name}" for name in models)]
    return replace(request, goal="evaluate", arguments=arguments)


def further_policies(folder: Path) -> list[Path]:
    """The folders <run>/ppo-* of policies that PPO made with other options, in alphabetical order."""
    folders = (path for path in sorted(folder.glob("ppo-*")) if ".previous" not in path.name)
    return [path for path in folders if (path / RECORD).is_file()]
