"""Tries every family of causal language models in transformers, and writes docs/models.md.

python -m tests.sweep
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill, shorten

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    logging,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from rlhf import InputError
from rlhf.engine import supports_packing, text_logprobs, token_logprobs
from rlhf.models import load_policy, load_scorer, new_scorer
from rlhf.rollout import Responses, generate, response_logprobs
from rlhf.tokens import new_tokenizer, pad
from tests.families import ROWS, model_types, tiny_model

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
# several rows of each prompt, so that finished ones are dropped at different steps
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [12, 13], [20, 21, 22, 23]] * 4
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@dataclass(frozen=True)
class Result:
    """What is supported of a family."""

    family: str
    model: str  # the name of its class
    policy: str  # "packed", "plain", "only trained" or "refused"
    scorer: str = ""  # "own class" of transformers, "our head", or "none" if the family has no reward model
    reason: str = ""  # why it is refused, or only trained


def a_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer with fewer tokens than the models have rows."""
    tokenizer = new_tokenizer(["the quick brown fox jumps over the lazy dog"], 280)
    assert len(tokenizer) < ROWS - 20
    return tokenizer


def examine(model: PreTrainedModel, family: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Result:
    """Saves the random model, and tries it as a policy and as a scorer.

    Raises AssertionError if the family is neither refused nor gives the results of transformers.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name = type(model).__name__
    try:
        policy = load_policy(folder, tokenizer)
    except InputError as error:
        reason = str(error).removeprefix(f"{name} is not supported: ").replace(str(folder), "the folder")
        reason = reason.partition(". Usual cause")[0].replace("|", "/")
        return only_trained(Result(family, name, "refused", reason=shorten(reason, 150, placeholder=" ...")), folder)
    check_policy(policy, AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
    own = check_scorer(folder, tokenizer)
    return Result(family, name, "packed" if supports_packing(policy) else "plain", "own class" if own else "our head")


def only_trained(refused: Result, folder: Path) -> Result:
    """The result for a model that PPO refuses: whether stages that do not sample accept it.

    Raises AssertionError if they accept it, but its log-probabilities in training are not those of transformers.
    """
    tokenizer = a_tokenizer()
    try:
        policy = load_policy(folder, tokenizer, warn=lambda message: None)
    except InputError:
        return refused
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logprobs, _ = text_logprobs(policy, *pad(PROMPTS[:4], 1, "right"))
        for row, found in zip(PROMPTS, logprobs, strict=False):
            ids = torch.tensor([row])
            expected = token_logprobs(plain(input_ids=ids).logits[:, :-1, : len(tokenizer)], ids[:, 1:], 1.0)[0]
            torch.testing.assert_close(found[: len(expected)], expected, **TOLERANCE)
    try:
        scorer = "own class" if check_scorer(folder, tokenizer) else "our head"
    except InputError:
        scorer = "none"
    return replace(refused, policy="only trained", scorer=scorer)


def check_policy(policy: PreTrainedModel, plain: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log-probabilities of sampling and of the update are those of transformers, over the tokenizer's tokens."""
    responses = generate(
        policy, *pad(PROMPTS, 1, "left"), response_length=10, temperature=1.0, stop_ids=list(range(50)), pad_id=1,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert responses.tokens.max() < len(tokenizer) and responses.finished.any()
    responses.prompt_index = torch.tensor([0, 1, 1, 2] * 4)
    with torch.no_grad():
        updated, _ = response_logprobs(policy, responses, 1.0)
        for row, length in enumerate(responses.lengths.tolist()):
            expected = alone(plain, responses, row, len(tokenizer))
            torch.testing.assert_close(responses.logprobs[row, :length], expected, **TOLERANCE)
            torch.testing.assert_close(updated[row, :length], expected, **TOLERANCE)


def alone(plain: PreTrainedModel, responses: Responses, row: int, tokens: int) -> torch.Tensor:
    """The log-probabilities (T,) of one response, without padding, from transformers' forward pass."""
    length = int(responses.lengths[row])
    ids = responses.input_ids[row][responses.attention_mask[row].bool()][None]
    logits = plain(input_ids=ids).logits[:, -length - 1 : -1, :tokens]
    return token_logprobs(logits, ids[:, -length:], 1.0)[0]


@torch.no_grad()
def check_scorer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """A saved scorer gives the scores that it gave before, and those of each row alone; whether transformers has it."""
    scorer = new_scorer(folder, tokenizer)
    scorer.save_pretrained(folder / "scorer")
    ids, mask = pad(PROMPTS[:4], 1, "right")
    last = mask.sum(dim=1).cumsum(dim=0) - 1
    scores = load_scorer(folder / "scorer", tokenizer)(ids, mask, last)
    torch.testing.assert_close(scores, scorer(ids, mask, last))
    own = type(scorer.model) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.values()
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "scorer").eval() if own else scorer.model
    for row, score in zip(PROMPTS, scores, strict=False):
        torch.testing.assert_close(plain(input_ids=torch.tensor([row])).logits[0, 0], score, **TOLERANCE)
    return own


# --- the page ---------------------------------------------------------------------------------------------------------

HEADING = """# Model families

`python -m tests.sweep` tries a random model of two layers of every family in `AutoModelForCausalLM`, and writes this page.
For each, the log-probabilities of sampling and of the update must equal those of transformers' own forward pass of one row
without padding to 1e-4 (the reference model uses the function of the update), and a scorer must score the same after it is
saved and loaded. Otherwise the model is refused when it is loaded, with a reason.

- **packed**: the sequences of a batch are computed in one row. **plain**: they are padded, which takes longer.
- **only trained**: pretrain, SFT and the reward model accept it with a warning, because their log-probabilities are right;
  comparisons, PPO, samples and evaluate, which sample, refuse it for the reason in the table.
- **own class**: reward and value models load as `AutoModelForSequenceClassification`. **our head**: transformers has no
  such class with a linear head for the family; the trunk gets one, and the result loads in this project. **none**: there
  is no reward model of this family.
"""


def is_on_page(result: Result, text: str) -> bool:
    """Whether the page lists the family with this result."""
    section = text.partition(f"## {title(result)}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if not result.reason or line.startswith(f"| {result.reason} |")]
    return any(f"`{result.family}`" in line for line in lines)


def title(result: Result) -> str:
    """The title of the families with the same support."""
    if result.policy == "refused":
        return "Refused"
    return f"Policy {result.policy}, scorer with {result.scorer}"


def page(results: list[Result], missing: list[str]) -> str:
    """The page, for results and for families of which no model was made."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        groups[title(result)][result.reason].append(f"`{result.family}`")
    lines = [HEADING]
    for name, reasons in sorted(groups.items(), key=lambda group: ("" not in group[1], group[0])):
        lines += [f"## {name}", ""]
        if "" in reasons:
            lines += [wrapped(reasons[""]), ""]
            continue
        lines += ["| reason | families |", "|---|---|"]
        lines += [f"| {reason} | {', '.join(families)} |" for reason, families in sorted(reasons.items())] + [""]
    lines += ["## Not tried", "", "The random configuration makes no model.", "", wrapped(missing), ""]
    return "\n".join(lines)


def wrapped(families: list[str]) -> str:
    """A list of families in lines of at most 120 characters."""
    return fill(", ".join(families), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    logging.set_verbosity_error()
    results, missing, tokenizer = [], [], a_tokenizer()
    for family in model_types():
        try:
            model = tiny_model(family)
        except Exception as error:
            print(family, type(error).__name__, error, file=sys.stderr)
            missing.append(f"`{family}`")
            continue
        with TemporaryDirectory() as folder:
            results.append(examine(model, family, tokenizer, Path(folder, "model")))
    PAGE.write_text(page(results, missing), encoding="utf-8")


if __name__ == "__main__":
    main()
