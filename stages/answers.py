"""Who answers, and what: shared by samples and evaluate."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.data import Row, Tally, prompt_dataset
from rlhf.errors import InputError
from rlhf.evaluate import known
from rlhf.models import device, load_policy, load_tokenizer, room_for_prompt
from rlhf.rollout import Completion, complete
from rlhf.scoring import load_function, score_texts
from stages.cli import Stage, say


@dataclass
class Answerer:
    """A model that answers, under the name it is shown with."""

    name: str
    source: str
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def answer(self, rows: list[Row], response_length: int, temperature: float, seed: int) -> list[Completion]:
        """One completion to each row's prompt. Raises InputError for a prompt that does not fit into the context."""
        tally = Tally(used=len(rows))
        prompts = prompt_dataset(rows, self.tokenizer, room_for_prompt(self.policy, response_length), tally)
        if tally.dropped:
            raise InputError(f"{self.name} can't answer every prompt: {tally}; shorten them, or lower response_length")
        return complete(
            self.policy,
            self.tokenizer,
            prompts["input_ids"],
            response_length=response_length,
            temperature=temperature,
            seed=seed,
        )


def answerable(rows: list[Row], who: list[Answerer], response_length: int) -> list[Row]:
    """The rows whose prompts fit into the context of each model with an answer behind; how many don't is said."""
    for model in who:
        room, tally = room_for_prompt(model.policy, response_length), Tally(used=len(rows))
        rows = [rows[i] for i in prompt_dataset(rows, model.tokenizer, room, tally)["row"]]
        if tally.dropped:
            say("", f"{model.name}: {tally}, which no model is asked")
    return rows


def answerers(names: list[str], stage: Stage) -> list[Answerer]:
    """The models named: stages of the run that have finished, folders, or hub ids.

    Raises InputError if a folder holds no model, or if no stage that is named has finished.
    """
    found = []
    for name in names:
        of_run = stage.run / name
        source = str(of_run) if of_run.is_dir() else name
        if source == name and name in ("pretrain", "sft", "ppo"):
            continue  # not yet made
        tokenizer = load_tokenizer(source)
        policy = load_policy(source, tokenizer).to(device())
        found.append(Answerer(Path(name).name, source, policy, tokenizer))
    if not found:
        raise InputError(f"none of {', '.join(names)} is in {stage.run}: run `make sft` or `make ppo` first")
    return found


def gold_of(function: str | None, rows: list[Row], completions: list[Completion]) -> list[float] | None:
    """What the named function says of the completions' true quality, NaN where it says nothing; None if it never does."""
    if function is None:
        return None
    texts, ended = [c.text for c in completions], [c.ended for c in completions]
    gold = score_texts(load_function(function), rows, texts, ended)
    return gold if len(known(gold)) else None
