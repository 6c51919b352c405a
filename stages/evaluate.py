"""Evaluation: metrics of the models of a run on held-out prompts and text, most of them with 95 % intervals.

make evaluate
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf import report
from rlhf.classifiers import Scorer
from rlhf.engine import on_main
from rlhf.escape import markdown
from rlhf.evaluate import best_of_n_kl, perplexity, ratio_estimate, sequence_logprobs, win_rate, without_nan
from rlhf.models import context_length, device, load_scorer
from rlhf.reward import score_sequences
from rlhf.rollout import Completion
from rlhf.rows import Row, read_rows
from rlhf.run.files import write_json
from rlhf.scoring import RewardFunction, RewardModel
from rlhf.tokens import completion_ids, is_rendered, load_tokenizer, prompt_ids, same_vocabulary, text_dataset
from stages.common.answer_options import EvaluateOptions
from stages.common.answers import Answerer, answerable, gold_of, load_answerers, say_answering_needs
from stages.common.console import print_lines
from stages.common.needs import scorers
from stages.common.options import CHAIN
from stages.common.rewards import load_reward
from stages.common.run import INPUT
from stages.common.stage import Stage, main

Metrics = dict[str, float]


@dataclass
class Answers:
    """A model's sampled or greedy answers to the held-out prompts, with their gold scores if known."""

    model: Answerer
    rows: list[Row]
    prompts: list[list[int]]
    completions: list[Completion]
    gold: list[float] | None

    @property
    def sequences(self) -> list[list[int]]:
        """The token ids of each prompt with its completion."""
        return [prompt + completion.ids for prompt, completion in zip(self.prompts, self.completions, strict=True)]


Score = Callable[[Answers], Tensor]  # the scores of answers, (B,), on the CPU


def work(options: EvaluateOptions, stage: Stage) -> dict[str, Any]:
    """Writes metrics.json and report.md, and prints the table; returns the metrics for the record."""
    rows = read_rows(stage.rows(None, "prompts_test.jsonl"), "prompts")[: options.count]
    answerers = load_answerers(options.models, stage)
    rows = answerable(rows, answerers, options.response_length)
    metrics: dict[str, Any] = {**measure(answerers, rows, options, stage)}
    if accuracy := stage.record("reward").get("metrics"):
        metrics["reward"] = accuracy
    if agreement := stage.record("comparisons").get("metrics"):
        metrics["people"] = agreement
    metrics["seconds"] = {name: record["seconds"] for name in CHAIN if (record := stage.record(name))}
    write_json(stage.partial / "metrics.json", metrics)
    text = report.metrics_table(metrics) + report.agreement_line(metrics)
    print_lines("", *text.split("\n"))
    heading = f"# {markdown(stage.run.folder.name)}, {len(rows)} held-out prompts"
    (stage.partial / "report.md").write_text(f"{heading}\n\n{text}\n", encoding="utf-8")
    return {"metrics": metrics}


def measure(answerers: list[Answerer], rows: list[Row], options: EvaluateOptions, stage: Stage) -> dict[str, Metrics]:
    """The metrics of each model by name. Models listed after `sft`, but for `pretrain`, are also compared with it."""
    gold = load_reward(options.gold, stage, rows) if options.gold else None
    score = load_score(stage)
    count = len(rows) * max(1, options.best_of)
    say_answering_needs(answerers, [*scorers(gold), *scorers(score)], rows, options.response_length, count)
    metrics: dict[str, Metrics] = {}
    reference: list[Answers] = []
    for model in answerers:
        sampled, greedy = (answer(model, rows, t, options, gold) for t in (options.temperature, 0.0))
        metrics[model.name] = {**answer_metrics(sampled, greedy, score, options), **pretraining_metrics(model, stage)}
        if model.name == "sft":
            reference = [sampled, greedy]
            if options.best_of and score:
                metrics["best_of_n"] = best_of_n(model, rows, score, options, gold)
        elif model.name != "pretrain" and reference:
            metrics[model.name] |= compare_with_sft([sampled, greedy], reference, options)
    return metrics


def load_score(stage: Stage) -> Score | None:
    """Scores of the run's reward model, of token ids or, for a model with another tokenizer, of text; None without one."""
    folder = Path(stage.model(f"{INPUT}reward", "reward"))
    if not folder.is_dir():
        return None
    scorer, tokenizer = load_scorer(folder).to(device()), load_tokenizer(folder)
    text_scorer = cache(partial(RewardModel, folder))  # loaded only if a model has another tokenizer

    def score(scorer: Scorer, answers: Answers) -> Tensor:
        own, finished = answers.model.tokenizer, [completion.finished for completion in answers.completions]
        if same_vocabulary(own, tokenizer):
            return score_sequences(scorer, answers.sequences, own.pad_token_id)
        prompts, texts = (
            [row["prompt"] for row in answers.rows],
            [completion.text for completion in answers.completions],
        )
        tools, rendered = [row.get("tools") for row in answers.rows], [is_rendered(row) for row in answers.rows]
        return torch.tensor(on_main(lambda: text_scorer()(prompts, texts, finished, tools, rendered)))

    return partial(score, scorer)


def answer(
    model: Answerer, rows: list[Row], temperature: float, options: EvaluateOptions, gold: RewardFunction | None
) -> Answers:
    """One answer of a model to each row's prompt, with gold scores."""
    completions = model.answer(rows, options.response_length, temperature, options.seed)
    prompts = prompt_ids(
        model.tokenizer,
        [row["prompt"] for row in rows],
        [row.get("tools") for row in rows],
        [is_rendered(row) for row in rows],
    )
    return Answers(model, rows, prompts, completions, gold_of(gold, rows, completions))


def answer_metrics(sampled: Answers, greedy: Answers, score: Score | None, options: EvaluateOptions) -> Metrics:
    """Gold and reward score if known, the mean length of the sampled answers, and the share that ends with eos."""
    metrics: Metrics = {}
    golds = {"": sampled.gold, "_greedy": greedy.gold}
    known_golds = {suffix: without_nan(gold) for suffix, gold in golds.items() if gold is not None}
    for suffix, gold in known_golds.items():
        metrics |= ratio_estimate(gold.tolist()).named(f"gold{suffix}")
    for suffix, gold in known_golds.items():
        metrics[f"perfect{suffix}"] = float(np.mean(gold >= options.perfect))
    if score is not None:
        metrics["score"] = float(score(sampled).mean())
        metrics["score_greedy"] = float(score(greedy).mean())
    metrics["length"] = float(np.mean([len(completion.ids) for completion in sampled.completions]))
    metrics["ended"] = float(np.mean([completion.finished for completion in sampled.completions]))
    return metrics


def pretraining_metrics(model: Answerer, stage: Stage) -> Metrics:
    """What pretraining taught: perplexity of held-out text, and the share of probes completed correctly, by kind."""
    metrics: Metrics = {}
    if (file := stage.input(f"{INPUT}data/text_test.jsonl")).is_file():
        documents = text_dataset(read_rows(file, "text"), model.tokenizer, context_length(model.policy))["input_ids"]
        metrics["perplexity"] = perplexity(model.policy, documents, model.tokenizer.pad_token_id)
    if (file := stage.input(f"{INPUT}data/probes.jsonl")).is_file():
        probes = read_rows(file, "demonstrations")
        for kind in sorted({row["probe"] for row in probes}):
            metrics[kind] = recall(model, [row for row in probes if row["probe"] == kind])
    return metrics


def recall(model: Answerer, probes: list[Row]) -> float:
    """The share of probes that the model completes correctly in greedy decoding."""
    prompts, completions = ([row[column] for row in probes] for column in ("prompt", "completion"))
    expected = completion_ids(model.tokenizer, prompts, completions, [False] * len(probes))
    answers = model.answer(probes, max(map(len, expected)), temperature=0.0, seed=0)
    return float(np.mean([a.ids[: len(ids)] == ids for a, ids in zip(answers, expected, strict=True)]))


def compare_with_sft(answers: list[Answers], reference: list[Answers], options: EvaluateOptions) -> Metrics:
    """The KL to the SFT model, in nats per response, and the win rates against it, sampled and greedy."""
    metrics: Metrics = {}
    sampled = answers[0]
    for name, ours, theirs in zip(("win_rate", "win_rate_greedy"), answers, reference, strict=True):
        if ours.gold and theirs.gold and (wins := win_rate(ours.gold, theirs.gold)):
            metrics |= wins.named(name)
    if not same_vocabulary(sampled.model.tokenizer, reference[0].model.tokenizer):
        return metrics  # a KL needs the same token ids in both models
    pad_id, starts = sampled.model.tokenizer.pad_token_id, [len(ids) for ids in sampled.prompts]
    logprobs, ref_logprobs = (
        sequence_logprobs(policy, sampled.sequences, starts, pad_id, options.temperature)
        for policy in (sampled.model.policy, reference[0].model.policy)
    )
    return ratio_estimate((logprobs - ref_logprobs).tolist()).named("kl") | metrics


def best_of_n(
    model: Answerer, rows: list[Row], score: Score, options: EvaluateOptions, gold_function: RewardFunction | None
) -> Metrics:
    """Metrics of best-of-n, the highest-scoring of n answers: a baseline without policy training."""
    repeated = [row for row in rows for _ in range(options.best_of)]
    answers = answer(model, repeated, options.temperature, options, gold_function)
    scores = score(answers).view(-1, options.best_of)
    best = scores.argmax(dim=1).numpy() + options.best_of * np.arange(len(rows))
    metrics: Metrics = {
        "n": options.best_of,
        "kl": best_of_n_kl(options.best_of),
        "score": float(scores.amax(dim=1).mean()),
    }
    if answers.gold is not None and len(gold := without_nan(np.array(answers.gold)[best].tolist())):
        metrics |= ratio_estimate(gold.tolist()).named("gold")
    return metrics


if __name__ == "__main__":
    main("evaluate", work)
