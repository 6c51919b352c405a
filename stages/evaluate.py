"""Evaluation: metrics of the models of a run on held-out prompts and text, most of them with 95 % intervals.

make evaluate
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf import report
from rlhf.escape import markdown
from rlhf.evaluate import (
    best_of_n_kl,
    length_controlled_win_rate,
    perplexity,
    preferences,
    ratio_estimate,
    sequence_logprobs,
    tie_rate,
    win_rate,
    without_nan,
)
from rlhf.models import context_length
from rlhf.rows import Row, read_lines, read_rows, write_rows
from rlhf.run.files import write_json
from rlhf.scoring import RewardFunction
from rlhf.scoring.pairwise_judges import Judge, judge_pairs
from rlhf.tokens import completion_ids, is_rendered, prompt_ids, same_vocabulary, text_dataset
from stages.common.answer_options import EvaluateOptions
from stages.common.answers import Answerer, Answers, answerable, gold_of, load_answerers, say_answering_needs
from stages.common.benchmarks import measure_benchmarks, read_benchmarks
from stages.common.console import print_lines, show_output
from stages.common.few_shot import measure_shots, read_tasks
from stages.common.needs import scorers
from stages.common.options import CHAIN
from stages.common.parsing import load_function
from stages.common.requirements import only_benchmarks
from stages.common.reward_scores import RewardScores, load_reward_scores
from stages.common.rewards import load_reward
from stages.common.run import INPUT
from stages.common.stage import Stage, main

Metrics = dict[str, float]
GREEDY = 0.0  # temperature


@dataclass
class Scoring:
    """What rates answers, each None if there is none."""

    gold: RewardFunction | None
    reward: RewardScores | None
    judge: Judge | None


def work(options: EvaluateOptions, stage: Stage) -> dict[str, Any]:
    """Writes metrics.json, report.md and the rows behind them; prints the tables; returns the metrics for the record."""
    reward = load_reward_scores(options.reward_model, stage)
    benchmarks = read_benchmarks(options.benchmarks, reward, stage)
    metrics: dict[str, Any] = {}
    sections, count = [], None
    if not only_benchmarks(options, stage.run):
        count = evaluate_models(metrics, reward, options, stage)
        sections.append(report.metrics_table(metrics) + report.agreement_line(metrics))
        if shots := metrics.get("shots"):
            sections.append(report.shots_table(shots))
    if reward and benchmarks:
        metrics["benchmarks"] = measure_benchmarks(benchmarks, reward)
        sections.append(report.benchmark_tables(metrics["benchmarks"]))
    write_json(stage.partial / "metrics.json", metrics)
    text = "\n\n".join(sections)
    print_lines("", *text.split("\n"))
    heading = f"# {markdown(stage.run.folder.name)}" + ("" if count is None else f", {count} held-out prompts")
    (stage.partial / "report.md").write_text(f"{heading}\n\n{text}\n", encoding="utf-8")
    return {"metrics": metrics}


def evaluate_models(
    metrics: dict[str, Any], reward: RewardScores | None, options: EvaluateOptions, stage: Stage
) -> int:
    """Adds the metrics of the models and those of earlier stages, and writes the rows; returns the number of prompts."""
    rows = read_rows(stage.rows(None, "prompts_test.jsonl"), "prompts")[: options.count]
    answerers = load_answerers(options.models, stage)
    rows = answerable(rows, answerers, options.response_length)
    gold = load_reward(options.gold, stage, rows) if options.gold else None
    scoring = Scoring(gold, reward, load_function(options.judge) if options.judge else None)
    # first, because it may refuse its tasks
    shots = measure_shots(read_tasks(gold, options, stage), answerers, options) if options.shots else None
    of_models, answers = measure(answerers, rows, scoring, options, stage)
    metrics |= of_models
    write_rows(stage.partial / "answers.jsonl", answers)
    write_rankings(reward, stage)
    if shots:
        metrics["shots"] = shots
    if accuracy := stage.record("reward").get("metrics"):
        metrics["reward"] = accuracy
    if agreement := stage.record("comparisons").get("metrics"):
        metrics["people"] = agreement
    metrics["seconds"] = {name: record["seconds"] for name in CHAIN if (record := stage.record(name))}
    return len(rows)


def measure(
    answerers: list[Answerer], rows: list[Row], scoring: Scoring, options: EvaluateOptions, stage: Stage
) -> tuple[dict[str, Metrics], list[Row]]:
    """The metrics of each model by name, and the rows of answers.jsonl.

    Models listed after `sft`, but for `pretrain`, are also compared with it.
    """
    count = len(rows) * max(1, options.best_of)
    others = [*scorers(scoring.gold), *([scoring.reward.model] if scoring.reward else [])]
    say_answering_needs(answerers, others, rows, options.response_length, count)
    metrics: dict[str, Metrics] = {}
    reference: dict[str, Answers] = {}
    written: list[Row] = []
    for model in answerers:
        answers = {
            suffix: answer(model, rows, temperature, options, scoring)
            for suffix, temperature in temperatures(options).items()
        }
        metrics[model.name] = {**answer_metrics(answers, options), **pretraining_metrics(model, stage)}
        baseline: list[Row] = []
        if model.name == "sft":
            reference = answers
            for own in answers.values():
                own.kl = np.zeros(len(rows)) if own.temperature else None
            if options.best_of and scoring.reward:
                metrics["best_of_n"], baseline = best_of_n(model, rows, options, scoring)
        elif model.name != "pretrain" and reference:
            metrics[model.name] |= compare_with_sft(answers, reference, scoring.judge)
        written += [row for own in answers.values() for row in own.as_rows()] + baseline
    return metrics, written


def temperatures(options: EvaluateOptions) -> dict[str, float]:
    """The temperatures of the answers by the ending of the names of their metrics."""
    known = (options.temperature, GREEDY)
    others = {f"_t{t:g}": t for t in options.temperatures if t not in known}
    return {"": options.temperature, "_greedy": GREEDY, **others}


def answer(model: Answerer, rows: list[Row], temperature: float, options: EvaluateOptions, scoring: Scoring) -> Answers:
    """One answer of a model to each row's prompt, with its gold score and the reward model's."""
    completions = model.answer(rows, options.response_length, temperature, options.seed)
    prompts = prompt_ids(
        model.tokenizer,
        [row["prompt"] for row in rows],
        [row.get("tools") for row in rows],
        [is_rendered(row) for row in rows],
    )
    answers = Answers(model, rows, temperature, prompts, completions, gold_of(scoring.gold, rows, completions))
    answers.scores = scoring.reward.of_answers(answers) if scoring.reward else None
    return answers


def answer_metrics(answers: dict[str, Answers], options: EvaluateOptions) -> Metrics:
    """Gold and reward score if known, the mean length of the sampled answers, and the share that ends with eos."""
    first = {suffix: answers[suffix] for suffix in ("", "_greedy")}
    metrics = score_metrics(first, options)
    metrics["length"] = float(np.mean([len(completion.ids) for completion in answers[""].completions]))
    metrics["ended"] = float(np.mean([completion.finished for completion in answers[""].completions]))
    return metrics | score_metrics({suffix: own for suffix, own in answers.items() if suffix not in first}, options)


def score_metrics(answers: dict[str, Answers], options: EvaluateOptions) -> Metrics:
    """The mean gold score, the share of perfect answers, and the reward model's mean score, if known."""
    metrics: Metrics = {}
    golds = {suffix: without_nan(own.gold) for suffix, own in answers.items() if own.gold is not None}
    for suffix, gold in golds.items():
        metrics |= ratio_estimate(gold.tolist()).named(f"gold{suffix}")
    for suffix, gold in golds.items():
        metrics[f"perfect{suffix}"] = float(np.mean(gold >= options.perfect))
    for suffix, own in answers.items():
        if own.scores is not None:
            metrics[f"score{suffix}"] = float(own.scores.mean())
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


def compare_with_sft(answers: dict[str, Answers], reference: dict[str, Answers], judge: Judge | None) -> Metrics:
    """The KL to the SFT model, in nats per response, and the win rates against it, for each temperature."""
    metrics: Metrics = {}
    for suffix, own in answers.items():
        own.kl = log_ratios(own, reference[suffix].model)
        if own.kl is not None:
            metrics |= ratio_estimate(own.kl.tolist()).named(f"kl{suffix}")
    for suffix, own in answers.items():
        theirs = reference[suffix]
        if own.gold and theirs.gold and (wins := win_rate(own.gold, theirs.gold)):
            metrics |= wins.named(f"win_rate{suffix}")
    for suffix, own in answers.items():
        theirs = reference[suffix]
        if own.gold and theirs.gold:
            metrics |= win_metrics(preferences(own.gold, theirs.gold).tolist(), own, theirs, suffix)
    if judge is not None:
        for suffix, own in answers.items():
            metrics |= judge_metrics(judge, own, reference[suffix], suffix)
    return metrics


def win_metrics(preference: list[float], answers: Answers, others: Answers, suffix: str, judged: str = "") -> Metrics:
    """The share of ties and the win rate at equal length, in characters; `preference` has 1 for a win, 0.5 for a tie."""
    difference = [float(len(a) - len(b)) for a, b in zip(answers.texts, others.texts, strict=True)]
    estimates = {
        "ties": tie_rate(preference),
        "win_rate_length_controlled": length_controlled_win_rate(preference, difference),
    }
    return {
        name: value
        for kind, estimate in estimates.items()
        if estimate
        for name, value in estimate.named(f"{judged}{kind}{suffix}").items()
    }


def judge_metrics(judge: Judge, answers: Answers, others: Answers, suffix: str) -> Metrics:
    """The win rates by a pairwise judge, and how often its verdict depends on the order of the answers."""
    prompts = [row["prompt"] for row in answers.rows]
    verdicts = judge_pairs(judge, prompts, answers.texts, others.texts, show_output)
    preference = verdicts.preferences.tolist()
    return {
        **ratio_estimate(preference).named(f"judge_win_rate{suffix}"),
        **ratio_estimate(verdicts.disagreements.tolist()).named(f"judge_disagreement{suffix}"),
        **win_metrics(preference, answers, others, suffix, "judge_"),
    }


def log_ratios(answers: Answers, reference: Answerer) -> np.ndarray | None:
    """The log-ratio (B,) of each answer to the reference, in nats, at the temperature of the answers.

    None for greedy answers, and if the two models have different tokens.
    """
    if answers.temperature == GREEDY or not same_vocabulary(answers.model.tokenizer, reference.tokenizer):
        return None
    pad_id, starts = answers.model.tokenizer.pad_token_id, [len(ids) for ids in answers.prompts]
    logprobs, ref_logprobs = (
        sequence_logprobs(policy, answers.sequences, starts, pad_id, answers.temperature)
        for policy in (answers.model.policy, reference.policy)
    )
    return logprobs - ref_logprobs


def best_of_n(
    model: Answerer, rows: list[Row], options: EvaluateOptions, scoring: Scoring
) -> tuple[Metrics, list[Row]]:
    """Metrics of best-of-n, the highest-scoring of n answers: a baseline without policy training; and its answers."""
    repeated = [row for row in rows for _ in range(options.best_of)]
    answers = answer(model, repeated, options.temperature, options, scoring)
    assert answers.scores is not None
    scores = answers.scores.view(-1, options.best_of)
    best = scores.argmax(dim=1).numpy() + options.best_of * np.arange(len(rows))
    metrics: Metrics = {
        "n": options.best_of,
        "kl": best_of_n_kl(options.best_of),
        "score": float(scores.amax(dim=1).mean()),
    }
    if answers.gold is not None and len(known := without_nan(np.array(answers.gold)[best].tolist())):
        metrics |= ratio_estimate(known.tolist()).named("gold")
    return metrics, answers.as_rows("best_of_n", best.tolist())


def write_rankings(reward: RewardScores | None, stage: Stage) -> None:
    """Writes rankings.jsonl, the held-out rankings with the reward model's scores, if there are both."""
    file = stage.input(f"{INPUT}comparisons/test.jsonl")
    if reward and file.is_file() and any(read_lines(file)):
        write_rows(stage.partial / "rankings.jsonl", reward.of_rankings(read_rows(file, "comparisons")))


if __name__ == "__main__":
    main("evaluate", work)
