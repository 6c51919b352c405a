"""Chain of thought on sums of growing length: the answer at once, or after steps; in examples, after SFT, after PPO.

The text, the demonstrations and the prompts are those of `data.sums`, whose truth is exact. PPO sees only whether the
final answer is right. It starts from SFT on answers with steps, and from SFT on answers in both forms.
"""

import random
from typing import Any

import numpy as np

from data import sums
from data.sums import DIRECT, LENGTHS, WITH_STEPS, Numbers
from rlhf.evaluate import ratio_estimate
from rlhf.models import load_policy
from rlhf.rollout import sample_completions
from rlhf.rows import Row, write_rows
from rlhf.rows.few_shot import ExamplePool, with_examples
from rlhf.tokens import load_tokenizer, prompt_ids
from stages.common.run import BASE
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Do steps before the answer help, does PPO keep them, and does the answer follow them?"
PAPER = "Wei et al. (2022), arXiv 2201.11903; faithfulness: Lanham et al. (2023), arXiv 2307.13702"
LOOK = (
    "the gap between the curves of the two forms as sums grow. `accuracy` by length is that of greedy answers; `steps` "
    "and what follows is of answers sampled at temperature 1, as PPO samples them."
)
CHANGE = "HIGHEST and LENGTHS in `data/sums.py`, or DOCUMENTS in `stages/experiments/cot.py`."
PAGE = "paper-experiments.md"

DOCUMENTS = 48_000  # to pretrain on, one epoch
DEMONSTRATIONS = 4000
PROMPTS = 4000
QUESTIONS = 80  # held-out sums of each length
EXAMPLES = 2  # in the prompt of the pretrained model; a document has as many questions before the last
CONTEXT = 256  # tokens; the examples, the question and the answer have at most 156
LONGEST = 48  # tokens of an answer; the longest right one has 36
LEAST = 20  # answers that a conditional accuracy is given for
FOLDER = "cot"  # in the folder of the experiments
BOTH = "both forms"
PRETRAINED, SFT, PPO = "pretrained, examples", "SFT", "PPO after SFT"
FORMS = {DIRECT: (DIRECT,), WITH_STEPS: (WITH_STEPS,), BOTH: (DIRECT, WITH_STEPS)}  # of demonstrations
TRAINED = (WITH_STEPS, BOTH)  # the forms of the SFT from which PPO starts
REWARD = "data.rewards:right_number"
PPO_OPTIONS: dict[str, Any] = {
    "reward_function": REWARD,
    "gold": REWARD,
    "total_episodes": 4096,
    "response_length": LONGEST,
    "advantage_estimator": "rloo",
    "num_generations": 4,
    "learning_rate": 3e-4,
    "kl_coef": 0.05,
    "ptx_coef": 0,  # the pretraining text has both forms, which would hide what PPO does to them
    "eval_steps": "none",
    "show_samples": 0,
}


def prepare(runs: Runs) -> None:
    """Writes the text, the demonstrations of each form and the prompts to the folder of the experiment."""
    folder = runs.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "text.jsonl", list(sums.documents(DOCUMENTS, seed=0)))
    for form, forms in FORMS.items():
        write_rows(folder / file_of(form), list(sums.demonstrations(DEMONSTRATIONS, 0, forms)))
    write_rows(folder / "prompts.jsonl", list(sums.prompts(PROMPTS, seed=0)))


def file_of(form: str) -> str:
    """The name of the file of demonstrations of a form."""
    return f"{form.replace(' ', '-')}.jsonl"


def _path(file: str, has_parent: bool) -> str:
    """The path of a file of the experiment. The base of a variant is its parent, beside which the folder lies."""
    return f"{BASE}{'../..' if has_parent else 'experiments'}/{FOLDER}/{file}"


# --- the models -------------------------------------------------------------------------------------------------------


def pretrained(seed: int) -> Variant:
    """The model pretrained on sums, with a tokenizer of its own, for which each number is one token."""
    options: dict[str, Any] = {"context": CONTEXT, "epochs": 1, "batch_size": 8, "learning_rate": 2e-3}
    return variant("pretrain", text=_path("text.jsonl", False), **options, save_minutes="none", seed=seed)


def fine_tuned(form: str, seed: int) -> Variant:
    """SFT on demonstrations of a form."""
    options: dict[str, Any] = {"epochs": 1, "save_minutes": "none", "seed": seed}
    return variant("sft", pretrained(seed), demonstrations=_path(file_of(form), True), **options)


def reinforced(form: str, seed: int) -> Variant:
    """PPO that starts from SFT on a form."""
    return variant(
        "ppo",
        fine_tuned(form, seed),
        prompts=_path("prompts.jsonl", True),
        save_minutes="none",
        **PPO_OPTIONS,
        seed=seed,
    )


MODELS = {SFT: fine_tuned, PPO: reinforced}


def variants() -> list[Variant]:
    """All three seeds of SFT on each form, and of PPO."""
    return [
        *(fine_tuned(form, seed) for form in FORMS for seed in SEEDS),
        *(reinforced(form, seed) for form in TRAINED for seed in SEEDS),
    ]


def answers(runs: Runs, made: list[Variant], prompts: list[str], temperature: float = 0.0) -> list[list[str]]:
    """The answer to each prompt by the model of each variant, up to a further question that it asks itself."""
    texts = []
    for seed, v in enumerate(made):
        tokenizer = load_tokenizer(str(runs.result(v)))
        policy, ids = load_policy(str(runs.result(v)), tokenizer).eval(), prompt_ids(tokenizer, prompts)
        sampled = sample_completions(
            policy, tokenizer, ids, response_length=LONGEST, temperature=temperature, seed=seed
        )
        texts.append([answer.text.partition(sums.SEPARATOR)[0] for answer in sampled])
    return texts


# --- what is measured -------------------------------------------------------------------------------------------------


def measure(runs: Runs) -> list[dict[str, Any]]:
    """Rows of three kinds: accuracy by length; the steps of sampled answers; answers after a corrupted step.

    `gain` is what steps gain over direct answers. `kept` is the share of answers with steps minus that of SFT.
    """
    asked = sums.held_out(QUESTIONS, seed=0)
    rows = by_length(runs, asked)
    for form in TRAINED:
        tuned = None
        for stage, model in MODELS.items():
            made = [model(form, seed) for seed in SEEDS]
            texts = answers(runs, made, [sums.question(numbers) for numbers in asked], temperature=1.0)
            entries, with_steps = shares(asked, texts)
            if tuned is not None:
                entries["kept"] = estimate(with_steps, tuned)
            tuned = with_steps
            rows.append(row_of(model=stage, form=form, **entries))
            rows.append(row_of(model=stage, form=form, **after_corruption(runs, asked, made)))
    return rows


def by_length(runs: Runs, asked: list[Numbers]) -> list[dict[str, Any]]:
    """The accuracy of greedy answers by length, of each model and form."""
    plain = [sums.question(numbers) for numbers in asked]
    right: dict[tuple[str, str], np.ndarray] = {}
    for form in (DIRECT, WITH_STEPS):
        made = [pretrained(seed) for seed in SEEDS]
        right[PRETRAINED, form] = are_right(asked, answers(runs, made, with_form(asked, form)))
    for stage, forms in ((SFT, tuple(FORMS)), (PPO, TRAINED)):
        for form in forms:
            made = [MODELS[stage](form, seed) for seed in SEEDS]
            right[stage, form] = are_right(asked, answers(runs, made, plain))
    rows = []
    for (model, form), numbers in right.items():
        for length in LENGTHS:
            chosen = [i for i, its in enumerate(asked) if len(its) == length]
            entries = {"accuracy": estimate(numbers[:, chosen])}
            if form == WITH_STEPS and (model, DIRECT) in right:
                entries["gain"] = estimate(numbers[:, chosen], right[model, DIRECT][:, chosen])
            rows.append(row_of(model=model, form=form, length=length, questions=len(chosen), **entries))
    return rows


def with_form(asked: list[Numbers], form: str) -> list[str]:
    """The questions, each after EXAMPLES drawn ones that are answered in a form; the same questions for each form."""
    pool = ExamplePool(list(sums.demonstrations(DEMONSTRATIONS, 1, FORMS[form])))
    rng = random.Random(0)
    rows: list[Row] = [{"prompt": sums.question(numbers)} for numbers in asked]
    return [str(with_examples(row, pool.draw(row, EXAMPLES, rng), sums.SEPARATOR)["prompt"]) for row in rows]


def are_right(asked: list[Numbers], texts: list[list[str]]) -> np.ndarray:
    """1 for each answer with the right sum at its end, else 0, (seeds, questions)."""
    pairs = [zip(asked, of_seed, strict=True) for of_seed in texts]
    return np.array([[float(sums.read(text).result == sum(numbers)) for numbers, text in its] for its in pairs])


def shares(asked: list[Numbers], texts: list[list[str]]) -> tuple[dict[str, Any], np.ndarray]:
    """Entries of a row on sampled answers: which have steps, which of these are right, how often the answer then is.

    Also which have steps, (seeds, questions). An accuracy of fewer than LEAST answers is left out.
    """
    right = are_right(asked, texts)
    steps = [[sums.read(text).steps for text in of_seed] for of_seed in texts]
    has = np.array([[float(bool(its)) for its in of_seed] for of_seed in steps])
    good = np.array([[float(sums.all_right(*pair)) for pair in zip(asked, its, strict=True)] for its in steps])
    entries: dict[str, Any] = {"sampled_accuracy": estimate(right), "steps": estimate(has)}
    groups = {"accuracy_right": good, "accuracy_wrong": has - good, "accuracy_none": 1 - has}
    if has.sum() >= LEAST:
        entries["right_steps"] = ratio_estimate(good.sum(axis=0), has.sum(axis=0))
    for name, group in groups.items():
        entries[name.replace("accuracy", "answers")] = int(group.sum())
        if group.sum() >= LEAST:
            entries[name] = ratio_estimate((right * group).sum(axis=0), group.sum(axis=0))
    return entries, has


def after_corruption(runs: Runs, asked: list[Numbers], made: list[Variant]) -> dict[str, Any]:
    """How often the greedy answer follows the changed step, and how often it is the true sum."""
    rng = random.Random(0)
    corrupted = [sums.corrupt(numbers, rng) for numbers in asked]
    prompts = [sums.question(numbers) + its.text for numbers, its in zip(asked, corrupted, strict=True)]
    results = [[sums.read(text).result for text in of_seed] for of_seed in answers(runs, made, prompts)]

    def share(truths: list[int]) -> np.ndarray:
        return np.array([[float(r == t) for r, t in zip(its, truths, strict=True)] for its in results])

    return {
        "follows": estimate(share([its.follows for its in corrupted])),
        "true_sum": estimate(share([sum(numbers) for numbers in asked])),
    }


# --- what is shown ----------------------------------------------------------------------------------------------------


def of(rows: list[dict[str, Any]], model: str, form: str, name: str) -> list[dict[str, Any]]:
    """The rows of a model and form that have a column, the shortest sums first."""
    own = [row for row in rows if (row["model"], row["form"]) == (model, form) and name in row]
    return sorted(own, key=lambda row: row.get("length", 0))


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracy by length, a curve for each model and form; and the shares of steps, of models that have them."""
    left, right = figure.subplots(1, 2)
    colours = {PRETRAINED: "tab:blue", SFT: "tab:orange", PPO: "tab:green"}
    styles = {DIRECT: ":", WITH_STEPS: "-", BOTH: "--"}
    for model, form in dict.fromkeys((row["model"], row["form"]) for row in rows):
        style = {"color": colours[model], "linestyle": styles[form], "label": f"{model}, {form}"}
        plot(left, of(rows, model, form, "accuracy"), "length", "accuracy", **style)
    left.set(xlabel="numbers in the sum", ylabel="accuracy of greedy answers", xticks=list(LENGTHS))
    models = [(model, form) for form in TRAINED for model in MODELS]
    names = {"steps": "with steps", "right_steps": "of these, all steps right", "follows": "follows a changed step"}
    for number, (name, label) in enumerate(names.items()):
        own = [{**row, "x": i + 0.15 * (number - 1)} for i, key in enumerate(models) for row in of(rows, *key, name)]
        plot(right, own, "x", name, linestyle="none", label=label)
    right.set(xticks=range(len(models)), title="share of answers")
    right.set_xticklabels([f"{model},\n{form}" for model, form in models], fontsize=7)
    for axis in (left, right):
        axis.legend(fontsize=6)


def seen(rows: list[dict[str, Any]]) -> str:
    """Whether steps help as sums grow; and whether PPO keeps them, and answers follow them."""
    courses = "; ".join(_course(rows, model) for model in (PRETRAINED, SFT))
    longest = [of(rows, model, WITH_STEPS, "gain")[-1] for model in (PRETRAINED, SFT)]
    helped = sum(row["gain_low"] > 0 for row in longest)
    claim = ("does not show at this size", "shows in one of the two cases", "shows")[helped]
    kept = "; ".join(_kept(rows, form) for form in TRAINED)
    return (
        f"From {min(LENGTHS)} to {max(LENGTHS)} numbers the accuracy goes: {courses}: that steps help on long sums "
        f"{claim}. Starting {kept}; {_where(rows)}; {_faithful(rows)}."
    )


def _course(rows: list[dict[str, Any]], model: str) -> str:
    """The accuracies of a model with the shortest and the longest sums, and what steps gain on the longest."""
    direct, steps = of(rows, model, DIRECT, "accuracy"), of(rows, model, WITH_STEPS, "accuracy")
    return (
        f"{model}, direct {direct[0]['accuracy']:.2f} to {direct[-1]['accuracy']:.2f}, with steps "
        f"{steps[0]['accuracy']:.2f} to {steps[-1]['accuracy']:.2f} (difference {interval(steps[-1], 'gain')})"
    )


def _kept(rows: list[dict[str, Any]], form: str) -> str:
    """Whether PPO drops steps from sampled answers, or adds them."""
    (before,), (after,) = (of(rows, model, form, "steps") for model in (SFT, PPO))
    verb = "neither clearly drops nor adds"
    if after["kept_high"] < 0:
        verb = "drops"
    elif after["kept_low"] > 0:
        verb = "adds"
    return (
        f"from SFT on {'answers with steps' if form == WITH_STEPS else form} PPO {verb} steps: they are in "
        f"{before['steps']:.2f} of the answers before and {after['steps']:.2f} after (change "
        f"{interval(after, 'kept')}; accuracy {before['sampled_accuracy']:.2f} and {after['sampled_accuracy']:.2f})"
    )


def _where(rows: list[dict[str, Any]]) -> str:
    """The accuracy of sampled answers where all steps are right and where one is wrong, of each model with steps."""
    parts = []
    for model in MODELS:
        (row,) = of(rows, model, WITH_STEPS, "steps")
        right, wrong = (
            interval(row, name) if name in row else f"unknown ({row[name.replace('accuracy', 'answers')]:.0f} answers)"
            for name in ("accuracy_right", "accuracy_wrong")
        )
        parts.append(f"{right} and {wrong} ({model})")
    return f"the accuracy where all steps are right and where not is {', '.join(parts)}"


def _faithful(rows: list[dict[str, Any]]) -> str:
    """Whether answers follow a step that was changed by hand, or are the true sum."""
    parts = []
    for model in MODELS:
        (row,) = of(rows, model, WITH_STEPS, "follows")
        verdict = "undecided"
        if row["follows_low"] > row["true_sum_high"]:
            verdict = "faithful"
        elif row["true_sum_low"] > row["follows_high"]:
            verdict = "not faithful"
        shares = f"{interval(row, 'follows')} against {row['true_sum']:.2f}"
        parts.append(f"{shares} ({model}: {verdict})")
    return f"after a step changed by hand the answer follows it, against the true sum, in {', '.join(parts)}"
