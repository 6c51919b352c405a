"""Scores of responses, from a reward model or from Python functions of the text.

`reward_model_scores` reads the sampled token ids, so the reward model must share the policy's tokenizer. Reward
functions, among them `rlhf.scoring.reward_models`, read decoded text.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerState

from rlhf import InputError
from rlhf.classifiers import Scorer
from rlhf.engine import on_main
from rlhf.rollout import Responses
from rlhf.rows import Row
from rlhf.scoring.function_calls import CallLog, Columns, RewardFunction, call_functions, columns_of, total


def reward_model_scores(reward_model: Scorer, responses: Responses) -> Tensor:
    """The reward model's score (B,) at the last token of each response, which is its eos unless it was truncated."""
    last = responses.attention_mask.sum(dim=1).cumsum(dim=0) - 1
    return reward_model(responses.input_ids, responses.attention_mask, last, responses.prefix_row)


def text_scores(
    model: RewardFunction, responses: Responses, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]
) -> Tensor:
    """The score (B,) of each response, from a model that reads text. Of several processes, each scores its own part.

    `tokenizer` decodes responses; `rows[i]` is the row of the prompt with `prompt_index` i.
    """
    return torch.tensor(model(**_columns(responses, tokenizer, rows)), device=responses.mask.device)


class RewardFunctions:
    """The weighted sum of reward functions, as a function from responses to scores (B,).

    `rlhf.scoring.function_calls` describes the functions. `functions` maps names for the log to functions.
    `rows[i]` is the row of the prompt with `prompt_index` i.
    """

    def __init__(
        self,
        functions: Mapping[str, RewardFunction],
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        *,
        weights: Sequence[float] = (),
        model_weight: float = 1.0,
        keep_special_tokens: bool = False,
        show: Callable[[str], None] = lambda text: None,
    ):
        """`weights` are 1 by default; `model_weight` is that of a reward model beside the functions.

        With `keep_special_tokens` the functions see special tokens, except the final stop token. `show` gets what
        functions print. Raises InputError if the number of weights is not that of the functions.
        """
        if weights and len(weights) != len(functions):
            raise InputError(f"{len(weights)} reward_weights for {len(functions)} reward functions")
        self.functions, self.tokenizer, self.rows = functions, tokenizer, rows
        self.weights = torch.tensor(list(weights) or [1.0] * len(functions), dtype=torch.float64)
        self.model_weight = model_weight
        self.keep_special_tokens, self.show = keep_special_tokens, show
        self.trainer_state = TrainerState()  # given to the functions
        # of the last call: numbers by name (of functions, "function/criterion" and log_metric), NaN where none is known
        self.logged: dict[str, Tensor] = {}
        self.extra: dict[str, list] = {}  # of the last call: the columns of log_extra

    @torch.no_grad()
    def __call__(self, responses: Responses, model_scores: Tensor | None = None) -> Tensor:
        """The scores of all responses, from one call of each function, and from `model_scores` (B,) of a reward model.

        Of several processes, the main one calls the functions. A function that returns None for a response adds
        nothing to its score. The score is NaN if all return None and there is no reward model.
        """
        scores, known, self.logged, self.extra = on_main(lambda: self._call(responses))
        device = responses.mask.device
        if model_scores is None:
            return scores.where(known, math.nan).float().to(device)
        self.logged["rewards/reward_model"] = model_scores
        return self.model_weight * model_scores + scores.float().to(device)

    def _call(self, responses: Responses) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, list]]:
        """The weighted sums (B,), whether any function returned a number (B,), and what is logged. All on the CPU."""
        columns, log = _columns(responses, self.tokenizer, self.rows, self.keep_special_tokens), CallLog()
        called = call_functions(self.functions, columns, log=log, trainer_state=self.trainer_state, show=self.show)
        for column, values in log.extra.items():
            if len(values) != len(responses.mask):
                raise InputError(f"log_extra: {column} has {len(values)} values for {len(responses.mask)} completions")
        numbers: dict[str, list[float]] = {}
        for name, criteria in called.items():
            numbers[name] = total(criteria)
            numbers |= {f"{name}/{criterion}": values for criterion, values in criteria.items() if criterion}
        if taken := numbers.keys() & log.metrics.keys():
            raise InputError(f"log_metric: {min(taken)} is the name of a reward; choose another one")
        logged = {name: torch.tensor(values) for name, values in {**numbers, **log.metrics}.items()}
        totals = torch.tensor([numbers[name] for name in called], dtype=torch.float64)
        known = ~totals.isnan()
        scores = (totals.where(known, 0.0) * self.weights[:, None]).sum(dim=0)
        return scores, known.any(dim=0), logged, log.extra


def _columns(
    responses: Responses, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], keep_special_tokens: bool = False
) -> Columns:
    """The columns of decoded responses. The stop token is cut, and other special tokens unless they are kept."""
    ids = [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]
    finished, decoded = responses.finished.tolist(), ids
    if keep_special_tokens:
        decoded = [tokens[:-1] if ended else tokens for tokens, ended in zip(ids, finished, strict=True)]
    texts = tokenizer.batch_decode(decoded, skip_special_tokens=not keep_special_tokens)
    return columns_of([rows[i] for i in responses.prompt_index.tolist()], texts, finished, ids)


def call_reward_function(
    function: RewardFunction,
    rows: Sequence[Row],
    completions: Sequence[str],
    finished: Sequence[bool],
    completion_ids: Sequence[list[int]] | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> list[float]:
    """The scores of completions, from one call of the function; NaN for None. See `rlhf.scoring.function_calls`.

    `rows` holds the row of each completion's prompt, and `show` gets what the function prints. Of several processes, the
    main one calls the function. Raises InputError if the function requires an argument that does not exist, raises an
    error, or does not return a number for each completion.
    """
    columns = columns_of(rows, completions, finished, completion_ids)
    return on_main(lambda: total(call_functions({"": function}, columns, show=show)[""]))
