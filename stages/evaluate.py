"""Numbers for every model of a run, on held-out prompts and text, each with the interval it may be wrong by."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf import report
from rlhf.config import option
from rlhf.data import Row, completion_ids, prompt_ids, read_rows, text_dataset
from rlhf.evaluate import best_of_n_kl, known, perplexity, ratio_estimate, sequence_logprobs, win_rate
from rlhf.models import Scorer, context_length, device, load_scorer, load_tokenizer, same_words
from rlhf.reward import score_sequences
from rlhf.rollout import Completion
from stages.answers import Answerer, answerable, answerers, gold_of
from stages.cli import Stage, main, say, write_json
from stages.options import StageOptions
from stages.recipe import STAGES

Metrics = dict[str, float]


@dataclass
class Options(StageOptions):
    models: list[str] = option(
        ["pretrain", "sft", "ppo"],
        "what to evaluate: stages of the run, or folders of more policies, which are compared with sft as ppo is",
    )
    count: int = option(400, "held-out prompts, at most")
    temperature: float = option(1.0, "sampling temperature; greedy decoding is evaluated as well")
    response_length: int = option(64, "tokens after which a completion is cut off")
    best_of: int = option(
        0, "n: also take, of n answers of the SFT model, the one the reward model likes best; 0 for no"
    )
    gold: str | None = option(None, "a Python function, module:function, that knows true quality")
    perfect: float = option(10.0, "gold of an answer that could not be better")


@dataclass
class Answers:
    """What a model answers to the held-out prompts, sampled or greedily."""

    model: Answerer
    prompts: list[list[int]]
    completions: list[Completion]
    gold: list[float] | None

    @property
    def sequences(self) -> list[list[int]]:
        return [prompt + completion.ids for prompt, completion in zip(self.prompts, self.completions, strict=True)]


def work(options: Options, stage: Stage) -> dict:
    rows = read_rows(stage.rows(None, "prompts_test.jsonl"), "prompts")[: options.count]
    reward = load_reward(stage)
    metrics: dict[str, Metrics] = {}
    reference: list[Answers] = []
    who = answerers(options.models, stage)
    rows = answerable(rows, who, options.response_length)
    for model in who:
        scorer = reward[0] if reward and same_words(model.tokenizer, reward[1]) else None
        if reward and scorer is None:
            say("", f"{model.name} has another tokenizer than the reward model, which can't score its answers")
        answers = [answer(model, rows, temperature, options) for temperature in (options.temperature, 0.0)]
        metrics[model.name] = {**quality(*answers, scorer, options), **knowledge(model, stage)}
        if model.name == "sft":
            reference = answers
            if options.best_of and scorer:
                metrics["best_of_n"] = best_of_n(model, rows, scorer, options)
        elif model.name != "pretrain" and reference:
            metrics[model.name] |= compared(answers, reference, options)
    if accuracy := stage.record("reward").get("metrics"):
        metrics["reward"] = accuracy
    metrics["seconds"] = {name: record["seconds"] for name in STAGES if (record := stage.record(name))}
    write_json(stage.folder / "metrics.json", metrics)
    text = report.metrics_table(metrics)
    say("", "\n" + text)
    (stage.folder / "report.md").write_text(
        f"# {stage.run.name}, {len(rows)} held-out prompts\n\n{text}\n", encoding="utf-8"
    )
    return {"metrics": metrics}


def load_reward(stage: Stage) -> tuple[Scorer, PreTrainedTokenizerBase] | None:
    """The run's reward model and its tokenizer; None if it has none."""
    folder = stage.run / "reward"
    return (load_scorer(folder).to(device()), load_tokenizer(folder)) if folder.is_dir() else None


def answer(model: Answerer, rows: list[Row], temperature: float, options: Options) -> Answers:
    completions = model.answer(rows, options.response_length, temperature, options.seed)
    prompts = prompt_ids(model.tokenizer, [row["prompt"] for row in rows])
    return Answers(model, prompts, completions, gold_of(options.gold, rows, completions))


def quality(sampled: Answers, greedy: Answers, scorer: Scorer | None, options: Options) -> Metrics:
    """How good the answers are, as far as that is known, how long, and whether they end."""
    metrics = {}
    judged = {"": sampled.gold, "_greedy": greedy.gold}
    judged = {ending: known(gold) for ending, gold in judged.items() if gold is not None}
    for ending, gold in judged.items():
        metrics |= ratio_estimate(gold).named(f"gold{ending}")
    for ending, gold in judged.items():
        metrics[f"perfect{ending}"] = float(np.mean(gold >= options.perfect))
    if scorer is not None:
        pad_id = sampled.model.tokenizer.pad_token_id
        metrics["score"] = float(score_sequences(scorer, sampled.sequences, pad_id).mean())
        metrics["score_greedy"] = float(score_sequences(scorer, greedy.sequences, pad_id).mean())
    metrics["length"] = float(np.mean([len(completion.ids) for completion in sampled.completions]))
    metrics["ended"] = float(np.mean([completion.ended for completion in sampled.completions]))
    return metrics


def knowledge(model: Answerer, stage: Stage) -> Metrics:
    """What the model still knows of its pretraining: perplexity of held-out text, and the share of probes it completes."""
    metrics = {}
    if (file := stage.run / "data" / "text_test.jsonl").is_file():
        documents = text_dataset(read_rows(file, "text"), model.tokenizer, context_length(model.policy))["input_ids"]
        metrics["perplexity"] = perplexity(model.policy, documents, model.tokenizer.pad_token_id)
    if (file := stage.run / "data" / "probes.jsonl").is_file():
        probes = read_rows(file, "demonstrations")
        for kind in sorted({row["probe"] for row in probes}):
            metrics[kind] = probed(model, [row for row in probes if row["probe"] == kind])
    return metrics


def probed(model: Answerer, probes: list[Row]) -> float:
    """Share of beginnings that the model, decoding greedily, continues with the right words."""
    prompts, completions = ([row[column] for row in probes] for column in ("prompt", "completion"))
    wanted = completion_ids(model.tokenizer, prompts, completions, [False] * len(probes))
    continuations = model.answer(probes, max(map(len, wanted)), temperature=0.0, seed=0)
    return float(np.mean([c.ids[: len(ids)] == ids for c, ids in zip(continuations, wanted, strict=True)]))


def compared(answers: list[Answers], reference: list[Answers], options: Options) -> Metrics:
    """KL to the SFT model, in nats a response, and how often the answers are better than its answers."""
    metrics, (sampled, _) = {}, answers
    for name, ours, theirs in zip(("win_rate", "win_rate_greedy"), answers, reference, strict=True):
        if ours.gold and theirs.gold and (won := win_rate(ours.gold, theirs.gold)):
            metrics |= won.named(name)
    if not same_words(sampled.model.tokenizer, reference[0].model.tokenizer):
        return metrics  # one can't read the other's tokens
    pad_id, starts = sampled.model.tokenizer.pad_token_id, [len(ids) for ids in sampled.prompts]
    logprobs, ref_logprobs = (
        sequence_logprobs(policy, sampled.sequences, starts, pad_id, options.temperature)
        for policy in (sampled.model.policy, reference[0].model.policy)
    )
    return ratio_estimate(logprobs - ref_logprobs).named("kl") | metrics


def best_of_n(model: Answerer, rows: list[Row], scorer: Scorer, options: Options) -> Metrics:
    """The answer with the highest score of n: what the reward model can do without any training of the policy."""
    repeated = [row for row in rows for _ in range(options.best_of)]
    many = answer(model, repeated, options.temperature, options)
    scores = score_sequences(scorer, many.sequences, model.tokenizer.pad_token_id).view(-1, options.best_of)
    best = scores.argmax(dim=1) + options.best_of * np.arange(len(rows))
    metrics = {"n": options.best_of, "kl": best_of_n_kl(options.best_of), "score": float(scores.amax(dim=1).mean())}
    if many.gold is not None and len(gold := known(np.array(many.gold)[best])):
        metrics |= ratio_estimate(gold).named("gold")
    return metrics


if __name__ == "__main__":
    main("evaluate", Options, work)
