"""How well models answer with examples in the prompt: GPT-3's zero-, one- and few-shot evaluation (arXiv 2005.14165).

    facts, equations   the probes of the embedded world, in the words of the pretraining text
    demonstrations     held-out demonstrations
    prompts            held-out prompts, if there are no held-out demonstrations, but a gold function

Examples are drawn from training demonstrations, of a probe from the other probes of its kind.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf import InputError
from rlhf.evaluate import mean_over_draws, sequence_logprobs
from rlhf.models import context_length, max_prompt_length
from rlhf.rollout import Completion, sample_completions
from rlhf.rows import Row, read_lines, read_rows
from rlhf.rows.few_shot import ExamplePool, is_same_answer, with_examples
from rlhf.scoring import RewardFunction
from rlhf.tokens import RefusedChat, completion_ids, is_rendered, prompt_ids
from stages.common.answer_options import EvaluateOptions
from stages.common.answers import Answerer, gold_of
from stages.common.console import say
from stages.common.run import INPUT
from stages.common.stage import Stage

Measures = dict[str, np.ndarray]  # (draws, prompts) each


@dataclass
class Task:
    """Prompts to ask, and what their examples are drawn from. A row's `completion`, if it has one, is the right answer."""

    name: str
    rows: Sequence[Row]
    examples: Sequence[Row]
    is_probe: bool = False  # text goes on after a probe's completion: a right answer begins with it
    gold: RewardFunction | None = None

    @property
    def has_reference(self) -> bool:
        """Whether right answers are known."""
        return all("completion" in row for row in self.rows)


def read_tasks(gold: RewardFunction | None, options: EvaluateOptions, stage: Stage) -> list[Task]:
    """The tasks of a run. Raises InputError if it has none, or no demonstrations to draw examples from."""
    tasks = []
    if _has_rows(stage, "probes.jsonl"):
        probes = read_rows(stage.input(f"{INPUT}data/probes.jsonl"), "demonstrations")
        for kind in sorted({row["probe"] for row in probes}):
            own = [row for row in probes if row["probe"] == kind]
            tasks.append(Task(kind, own[: options.count], own, is_probe=True))
    asked = "demonstrations" if _has_rows(stage, "demonstrations_test.jsonl") else "prompts" if gold else None
    if asked:
        rows = read_rows(stage.rows(None, f"{asked}_test.jsonl"), asked)[: options.count]
        if not _has_rows(stage, "demonstrations.jsonl"):
            file = stage.run.path(f"{INPUT}data/demonstrations.jsonl")
            raise InputError(f"shots: no demonstrations at {file} to draw examples from: name some under data")
        examples = read_rows(stage.rows(None, "demonstrations.jsonl"), "demonstrations")
        tasks.append(Task(asked, rows, examples, gold=gold))
    if not tasks:
        raise InputError(
            "shots: nothing to ask: the run has no held-out demonstrations, no probes and no gold function; name "
            "demonstrations and a test_share above 0 under data, or gold under evaluate"
        )
    return tasks


def _has_rows(stage: Stage, file: str) -> bool:
    path = stage.input(f"{INPUT}data/{file}")
    return path.is_file() and any(read_lines(path))


def measure_shots(tasks: list[Task], answerers: list[Answerer], options: EvaluateOptions) -> dict[str, Any]:
    """The metrics of each task, model and number of examples: {task: {model: {"4": {"used": ..., "accuracy": ...}}}}.

    Every model is asked with the same examples, as far as they fit into its context. Raises InputError if for some task
    and model none fits beside a prompt.
    """
    metrics: dict[str, Any] = {}
    for task in tasks:
        askers = [Asker(model, task, options) for model in answerers]
        rows = [i for i in range(len(task.rows)) if all(asker.can_ask(i) for asker in askers)]
        if left_out := len(task.rows) - len(rows):
            say(f"{left_out:,} rows of {task.name} left out: longer than a context, or refused by a chat template")
        if not rows:
            raise InputError(
                f"shots: no row of {task.name} fits into the context of every model: lower response_length"
            )
        drawn = draw_examples(task, rows, options)
        metrics[task.name] = {
            asker.model.name: {str(shots): named(measures) for shots, measures in asker.measure(drawn).items()}
            for asker in askers
        }
    return metrics


Drawn = dict[tuple[int, int], list[tuple[int, list[Row]]]]  # (shots, draw) -> (index of a row, its examples)


def draw_examples(task: Task, rows: Sequence[int], options: EvaluateOptions) -> Drawn:
    """The examples of each row for each number of shots and draw; for 0 shots there is one draw.

    They are drawn for each row anew. Those of fewer shots are the first of those of more. Raises InputError if there
    are none.
    """
    pool, most = ExamplePool(task.examples), max(options.numbers_of_shots)
    drawn: Drawn = {}
    for draw in range(options.shot_draws if most else 1):
        for i in rows:
            rng = random.Random(f"shots {options.seed} {task.name} {draw} {i}")
            examples = pool.draw(task.rows[i], most, rng)
            for shots in options.numbers_of_shots if draw == 0 else filter(None, options.numbers_of_shots):
                drawn.setdefault((shots, draw), []).append((i, examples[:shots]))
    if most and not any(examples for asked in drawn.values() for _, examples in asked):
        raise InputError(
            f"shots: no demonstration can be an example for {task.name}: their prompts are texts and those that are "
            "asked are chats, or the other way round, or all are the prompt that is asked"
        )
    return drawn


def named(measures: Measures) -> dict[str, float]:
    """The number of prompts, the mean number of examples used, and the other measures with intervals."""
    metrics = {"prompts": measures["used"].shape[1], "used": float(measures["used"].mean())}
    for name, values in measures.items():
        known = values[:, ~np.isnan(values).any(axis=0)]
        if name != "used" and known.size:
            metrics |= mean_over_draws(known).named(name)
    return metrics


@dataclass(frozen=True)
class Question:
    """A prompt with its examples."""

    row: int  # its index in the task
    ids: tuple[int, ...]
    used: int  # examples that it has


class Asker:
    """A model that is asked the prompts of a task."""

    def __init__(self, model: Answerer, task: Task, options: EvaluateOptions):
        self.model, self.task, self.options = model, task, options
        self.references = [self._reference(row) if "completion" in row else [] for row in task.rows]
        longest = max((len(ids) for ids in self.references if ids), default=0)
        ending = max(1, len(model.tokenizer(options.shot_separator, add_special_tokens=False).input_ids))
        whole = options.response_length if task.gold else min(options.response_length, longest + ending)
        self.length = longest if task.is_probe else whole  # of an answer, in tokens
        self.longest = max_prompt_length(model.policy, self.length)

    def _reference(self, row: Row) -> list[int] | None:
        """The tokens of the right answer, without a stop token; None if the chat template refuses it."""
        texts, tools, rendered = ([row["prompt"]], [row["completion"]]), [row.get("tools")], [is_rendered(row)]
        try:
            (ids,) = completion_ids(self.model.tokenizer, *texts, [False], tools=tools, rendered=rendered)
        except RefusedChat:
            return None
        return ids or None

    def can_ask(self, row: int) -> bool:
        """Whether the prompt fits without examples, with its answer and the right one."""
        return self._question(row, []) is not None

    def _question(self, row: int, examples: Sequence[Row]) -> Question | None:
        """The prompt with as many of the first examples as fit; None if it does not fit without any."""
        reference = self.references[row]
        if reference is None:
            return None
        longest = min(self.longest, context_length(self.model.policy) - len(reference))
        for used in range(len(examples), -1, -1):
            shown = with_examples(self.task.rows[row], examples[:used], self.options.shot_separator)
            try:
                (ids,) = prompt_ids(self.model.tokenizer, [shown["prompt"]], [shown.get("tools")], [is_rendered(shown)])
            except RefusedChat:
                continue
            if len(ids) <= longest:
                return Question(row, tuple(ids), used)
        return None

    def measure(self, drawn: Drawn) -> dict[int, Measures]:
        """For each number of shots `used`, and, where known, `accuracy`, `logprob` and `gold`, (draws, prompts) each.

        Raises InputError if there are examples, and none fits.
        """
        questions = {key: [self._question(i, examples) for i, examples in asked] for key, asked in drawn.items()}
        distinct = [q for q in dict.fromkeys(q for asked in questions.values() for q in asked) if q]
        if any(shots for shots, _ in drawn) and not any(question.used for question in distinct):
            raise InputError(
                f"shots: no example of {self.task.name} fits into the context of {self.model.name}, "
                f"{context_length(self.model.policy):,} tokens, beside a prompt and an answer of {self.length}: lower "
                "response_length, or take shorter demonstrations"
            )
        values = dict(zip(distinct, self._values(distinct), strict=True))
        measures: dict[int, Measures] = {}
        for shots in sorted({shots for shots, _ in drawn}):
            draws = [[values[q] for q in asked if q] for (its, _), asked in questions.items() if its == shots]
            names = draws[0][0]
            measures[shots] = {name: np.array([[v[name] for v in row] for row in draws]) for name in names}
        return measures

    def _values(self, questions: list[Question]) -> list[dict[str, float]]:
        """What is known of the greedy answer to each question."""
        policy, tokenizer, rows = self.model.policy, self.model.tokenizer, [self.task.rows[q.row] for q in questions]
        sampled = sample_completions(
            policy, tokenizer, [list(q.ids) for q in questions], response_length=self.length, temperature=0.0, seed=0
        )
        first = [self._cut(question, answer) for question, answer in zip(questions, sampled, strict=True)]
        columns: dict[str, Sequence[float]] = {"used": [q.used for q in questions]}
        if self.task.has_reference:
            references = [self.references[q.row] or [] for q in questions]
            pairs = zip(sampled, first, references, strict=True)
            columns["accuracy"] = [self._is_right(*pair) for pair in pairs]
            sequences = [[*q.ids, *ids] for q, ids in zip(questions, references, strict=True)]
            sums = sequence_logprobs(policy, sequences, [len(q.ids) for q in questions], tokenizer.pad_token_id)
            columns["logprob"] = [float(s) / len(ids) for s, ids in zip(sums, references, strict=True)]
        # without examples no model knows of the separator
        judged = [cut if q.used else whole for q, cut, whole in zip(questions, first, sampled, strict=True)]
        if gold := gold_of(self.task.gold, rows, judged):
            columns["gold"] = gold
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _cut(self, question: Question, answer: Completion) -> Completion:
        """The answer up to the separator, where a model goes on with an example of its own; it is finished there.

        A chat has no separator, and one of blanks ends no answer.
        """
        separator = self.options.shot_separator
        is_text = isinstance(self.task.rows[question.row]["prompt"], str)
        if is_text and separator.strip(" ") and separator in answer.text:
            return Completion(answer.ids, answer.text.partition(separator)[0], True)
        return answer

    def _is_right(self, answer: Completion, first: Completion, reference: list[int]) -> float:
        """1 for a right answer, as it was sampled or as it was cut."""
        if self.task.is_probe:
            return float(answer.ids[: len(reference)] == reference)
        text = str(self.model.tokenizer.decode(reference, skip_special_tokens=True))
        return float(any(a.finished and is_same_answer(a.text, text) for a in (answer, first)))
