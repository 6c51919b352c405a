"""The K-way ranking loss: the mean over pairs, written out; with K = 2, TRL's own reward trainer."""

import math
import random

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, GPT2Config
from trl import RewardConfig, RewardTrainer

from rlhf.data import pad
from rlhf.forward import asks, packs
from rlhf.kernels import speed_up
from rlhf.models import Scorer, load_scorer
from rlhf.reward import (
    RankingCollator,
    RankingRewardTrainer,
    better_pairs,
    by_prompt,
    pad_ranks,
    pair_accuracy,
    ranking_loss,
    score_sequences,
    score_together,
    set_normalisation,
)
from stages.reward import SCORED, some
from tests.conftest import scorer_of

nan = float("nan")


def classifier(seed: int = 0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, num_labels=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=1, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


rankings = st.lists(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 3)), min_size=2, max_size=5).filter(
        lambda row: len({rank for _, rank in row}) > 1
    ),
    min_size=1,
    max_size=4,
)


def tensors(rows):
    """Scores (B, K) and ranks (B, K) of rows of (score, rank), with rubbish scores where there is no completion."""
    ranks = pad_ranks([[rank for _, rank in row] for row in rows])
    scores = torch.full_like(ranks, 1e9)
    for i, row in enumerate(rows):
        scores[i, : len(row)] = torch.tensor([score for score, _ in row])
    return scores, ranks


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_loss_of_three_completions_by_hand():
    # pairs: 0 beats 1 (2 - 1), 0 beats 2 (2 - 0), 1 beats 2 (1 - 0)
    expected = sum(math.log1p(math.exp(-d)) for d in (1, 2, 1)) / 3
    loss = ranking_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert float(loss) == pytest.approx(expected)


@given(rankings)
def test_loss_is_the_mean_over_prompts_of_the_mean_over_pairs_that_do_not_tie(rows):
    each = []
    for row in rows:
        pairs = [(a - b) for a, rank_a in row for b, rank_b in row if rank_a < rank_b]
        each.append(sum(math.log1p(math.exp(-d)) for d in pairs) / len(pairs))
    assert float(ranking_loss(*tensors(rows))) == pytest.approx(sum(each) / len(each), rel=1e-4)


@given(rankings, st.randoms())
def test_loss_does_not_depend_on_the_order_of_completions_or_prompts(rows, random):
    mixed = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    assert float(ranking_loss(*tensors(mixed))) == pytest.approx(float(ranking_loss(*tensors(rows))), rel=1e-4)


def test_a_tie_gives_no_pair_and_an_absent_completion_none_either():
    better = better_pairs(torch.tensor([[0.0, 1.0, 1.0, nan]]))[0]
    assert better.nonzero().tolist() == [[0, 1], [0, 2]]


def test_a_prompt_weighs_the_same_however_many_completions_it_has():
    two, many = [(0.0, 0), (0.0, 1)], [(1.0, 0), (0.0, 1), (0.0, 2), (0.0, 3)]
    alone = [float(ranking_loss(*tensors([row]))) for row in (two, many)]
    assert float(ranking_loss(*tensors([two, many]))) == pytest.approx(sum(alone) / 2)


def test_gradient_raises_the_better_and_lowers_the_worse():
    scores = torch.zeros(1, 2, requires_grad=True)
    ranking_loss(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]  # the second is better


def test_pair_accuracy_counts_equal_scores_half():
    right, pairs = pair_accuracy(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert (float(right), int(pairs)) == (2.5, 3)


def test_pair_accuracy_is_of_each_prompt_by_itself():
    scores, ranks = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    right, pairs = pair_accuracy(scores, ranks)
    assert (right.tolist(), pairs.tolist()) == ([1.0, 0.0], [1, 1])


@given(rankings)
def test_pair_accuracy_is_a_count_over_pairs_that_do_not_tie(rows):
    right, pairs = pair_accuracy(*tensors(rows))
    for i, row in enumerate(rows):
        untied = [(a, b) for a, rank_a in row for b, rank_b in row if rank_a < rank_b]
        assert int(pairs[i]) == len(untied)
        assert float(right[i]) == sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in untied)


@given(rankings, st.floats(-3, 3, width=32))
def test_loss_does_not_see_what_is_added_to_all_scores_or_stands_where_there_is_no_completion(rows, shift):
    scores, ranks = tensors(rows)
    elsewhere = (scores + shift).where(~ranks.isnan(), -7.0)
    torch.testing.assert_close(ranking_loss(elsewhere, ranks), ranking_loss(scores, ranks), atol=1e-5, rtol=1e-4)


# --- the trainer ------------------------------------------------------------------------------------------------------


def reward_config(folder, learning_rate=1e-3, **kwargs) -> RewardConfig:
    return RewardConfig(
        output_dir=str(folder), bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, max_length=None, num_train_epochs=1, learning_rate=learning_rate,
        train_sampling_strategy="sequential", logging_steps=1, **kwargs,
    )  # fmt: skip


PAIRS = [
    ([5, 6, 7, 0], [5, 6, 8, 9, 0]),
    ([10, 11, 0], [10, 0]),
    ([12, 0], [12, 13, 14, 15, 0]),
    ([16, 17, 0], [16, 18, 0]),
]


@pytest.mark.parametrize(
    ("attention", "batch_size", "tolerance"), [("eager", 1, 0.0), ("eager", 2, 1e-4), (None, 1, 1e-4), (None, 2, 1e-4)]
)
def test_k_equals_two_trains_to_the_same_weights_as_trl(
    tmp_path, tokenizer, make_policy, attention, batch_size, tolerance
):
    """Bit for bit where each row is read whole and rows are in one order: with two prompts TRL puts all chosen first.

    To rounding, where a prompt is read once for both; Adam would make steps of full size of what is rounding only.
    """
    start, ours, theirs = (scorer_of(make_policy()).model for _ in range(3))
    for model in (ours, theirs):
        speed_up(model)
        if attention:
            model.set_attn_implementation(attention)
    ranked = Dataset.from_list([{"sequences": list(pair), "ranks": [0, 1]} for pair in PAIRS])
    paired = Dataset.from_list([{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in PAIRS])
    config = {"per_device_train_batch_size": batch_size}
    if tolerance:
        config |= {"optim": "sgd", "learning_rate": 0.1}
    mine = RankingRewardTrainer(
        model=ours, args=reward_config(tmp_path / "a", **config), train_dataset=ranked, processing_class=tokenizer
    )
    other = RewardTrainer(
        model=theirs, args=reward_config(tmp_path / "b", **config), train_dataset=paired, processing_class=tokenizer
    )
    mine.train()
    other.train()
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (mine, other)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=0)
    torch.testing.assert_close(*(dict(m.named_parameters()) for m in (ours, theirs)), atol=tolerance, rtol=tolerance)
    start = dict(start.named_parameters())
    still = [name for name, parameter in ours.named_parameters() if torch.equal(parameter, start[name])]
    shift = "transformer.ln_f.bias"  # of all scores alike: it has no gradient, or one of rounding
    assert set(still) <= {shift}
    assert attention is None or still == [name for name in start if name == shift]


RANKED = [
    {"sequences": [[5, i, 0] for i in range(6, 11)], "ranks": [0, 1, 2, 3, 4]},
    {"sequences": [[5, 0], [6, 0]], "ranks": [1, 0]},
]


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("eager", [5, 6, 0, 5, 7, 0, 5, 8, 0, 5, 9, 0, 5, 10, 0, 5, 0, 6, 0]),
        ("sdpa", [5, 6, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10, 0]),
    ],
)
def test_each_completion_goes_through_the_model_once(tmp_path, tokenizer, monkeypatch, attention, expected):
    """K forward passes for K completions, not two for each of the K (K - 1) / 2 pairs; and one for their prompt."""
    model, seen = classifier(), []
    model.set_attn_implementation(attention)
    packs(model)  # is tried
    asks(model)
    forward = model.transformer.forward

    def watched(*args, **kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        seen.append(ids[ids != 1].tolist())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.transformer, "forward", watched)
    trainer = RankingRewardTrainer(
        model,
        args=reward_config(tmp_path, per_device_train_batch_size=2),
        train_dataset=Dataset.from_list(RANKED),
        processing_class=tokenizer,
    )
    trainer.train()
    assert len(seen) == 1
    assert seen[0][: len(expected)] == expected
    assert not any(seen[0][len(expected) :])  # what fills the row


def test_scores_and_gradients_are_the_same_when_prompts_are_read_once(make_policy):
    """With more than one completion that begins like the first, and one that is the same."""
    sequences = [
        [5, 6, 7, 8, 9],
        [5, 6, 7, 10],
        [5, 6, 7, 8, 9],
        [5, 6, 7, 8, 9, 11, 12],
        [5, 6],
        [20, 21, 22],
        [23],
        [20, 21],
    ]
    ranks = pad_ranks([[0, 1, 2, 3, 4], [1, 0, 2]])
    input_ids, attention_mask = pad(sequences, 1, "right")
    found = []
    for attention in (None, "eager"):
        model = scorer_of(make_policy()).model
        if attention:
            model.set_attn_implementation(attention)
        assert packs(model) == (attention is None)
        scores = score_together(model, input_ids, attention_mask, ranks).logits[:, 0]
        (scores * torch.linspace(-1, 2, 8)).sum().backward()
        found.append([scores, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_the_accuracy_it_logs_is_the_share_of_pairs_that_the_model_orders_as_they_are_ranked(tmp_path, tokenizer):
    """In training, of the model as it was before the step; and on rows held out, of the model that comes out."""
    rows = [{"sequences": [[5, i, 0] for i in range(6, 11)], "ranks": [0, 1, 2, 3, 4]}]
    held_out = [{"sequences": [[7, 8, 0], [9, 10, 11, 0], [12, 0], [13, 14, 0]], "ranks": [1, 1, 0, 2]}]

    def accuracy(model, row):
        scores = [float(model(input_ids=torch.tensor([ids])).logits) for ids in row["sequences"]]
        rated = list(zip(scores, row["ranks"], strict=True))
        right = [a > b for a, rank_a in rated for b, rank_b in rated if rank_a < rank_b]
        return sum(right) / len(right)

    before, model = classifier(), classifier()
    trainer = RankingRewardTrainer(
        model=model,
        args=reward_config(tmp_path, per_device_train_batch_size=1, eval_strategy="epoch"),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = {name: value for log in trainer.state.log_history for name, value in log.items()}
    assert logged["accuracy"] == pytest.approx(accuracy(before, rows[0]))
    assert logged["eval_accuracy"] == pytest.approx(accuracy(model.eval(), held_out[0]))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_its_loss_comes_with_the_models_outputs_where_they_are_asked_for_and_without_a_cache(
    tmp_path, tokenizer, attention
):
    model, sequences = classifier(), [[5, 6, 0], [7, 0]]
    model.set_attn_implementation(attention)
    rows = Dataset.from_list([{"sequences": sequences, "ranks": [0, 1]}])
    trainer = RankingRewardTrainer(
        model=model, args=reward_config(tmp_path), train_dataset=rows, processing_class=tokenizer
    )
    model.config.use_cache = True  # as a model comes; TRL turns it off
    batch = trainer.data_collator(list(rows))
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    alone = [float(model(input_ids=torch.tensor([ids])).logits) for ids in sequences]
    assert outputs.logits[:, 0].tolist() == pytest.approx(alone, abs=1e-5)
    assert float(loss) == pytest.approx(math.log1p(math.exp(alone[1] - alone[0])), abs=1e-5)
    assert outputs.get("past_key_values") is None


def test_collator_puts_scores_back_beside_their_ranks():
    rows = [{"sequences": [[5], [6]], "ranks": [0, 1]}, {"sequences": [[7], [8], [9]], "ranks": [2, 0, 1]}]
    batch = RankingCollator(pad_token_id=1)(rows)
    scores = by_prompt(batch["input_ids"][:, 0].float(), batch["ranks"])
    assert scores.tolist() == [[5, 6, 0], [7, 8, 9]]


def test_a_trained_model_prefers_what_it_was_taught(tmp_path, tokenizer):
    """Completions with more of one token are better: learned from four rankings, and right about a new one."""
    generator = torch.Generator().manual_seed(0)

    def row():
        amounts = torch.randperm(6, generator=generator)[:4].tolist()
        sequences = [[30, *[40] * n, *[41] * (6 - n), 0] for n in amounts]
        return {"sequences": sequences, "ranks": [-n for n in amounts]}

    rows = [row() for _ in range(64)]
    model = classifier()
    RankingRewardTrainer(
        model=model,
        args=reward_config(tmp_path, per_device_train_batch_size=8),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    new = [[30, *[40] * n, *[41] * (6 - n), 0] for n in range(6)]
    scores = score_sequences(Scorer(model.eval()), new, pad_id=1)
    assert scores.tolist() == sorted(scores.tolist())


# --- scores and their normalisation -----------------------------------------------------------------------------------


def test_score_of_a_batch_is_the_score_of_each_alone_and_that_of_transformers(policy):
    scorer = scorer_of(policy)
    sequences = [[5, 6, 7, 0], [8, 0], [9, 10, 11, 12, 13, 0]]
    scores = score_sequences(scorer, sequences, pad_id=1, batch_size=3)
    for score, ids in zip(scores, sequences, strict=True):
        own = scorer.model(input_ids=torch.tensor([ids])).logits[0, 0]
        torch.testing.assert_close(score, own, atol=1e-5, rtol=1e-5)


def test_each_sequence_is_scored_once_among_others_of_its_length():
    seen = []

    class Watched(Scorer):
        def forward(self, input_ids, attention_mask, at):
            seen.append(attention_mask.tolist())
            return super().forward(input_ids, attention_mask, at)

    score_sequences(Watched(classifier()), [[5, 0], [6, 7, 0], [8, 0], [9, 10, 0], [11, 0]], pad_id=1, batch_size=2)
    assert [[sum(row) for row in mask] for mask in seen] == [[2, 2], [2, 3], [3]]


def test_sequences_go_to_the_device_of_the_model():
    class Elsewhere(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

        def forward(self, input_ids, attention_mask, at):
            raise RuntimeError(input_ids.device.type, attention_mask.device.type)

    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        score_sequences(Elsewhere(), [[5, 0]], pad_id=1)


def test_normalisation_is_saved_in_the_folder_and_applied_when_it_is_loaded(tmp_path):
    scorer = Scorer(classifier())
    sequences = [[5, 6, 7, 0], [8, 0], [9, 10, 11, 12, 13, 0], [14, 15, 0]]
    raw = score_sequences(scorer, sequences, pad_id=1)
    set_normalisation(scorer, float(raw.mean()), float(raw.std()))
    scorer.save_pretrained(tmp_path)
    scores = score_sequences(load_scorer(tmp_path), sequences, pad_id=1)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
    assert float(scores.std()) == pytest.approx(1, abs=1e-5)
    # without this project the folder is an ordinary classifier, with the scores as they were trained
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(input_ids=torch.tensor([sequences[1]])).logits[0, 0], raw[1], atol=1e-5, rtol=1e-5)


def test_normalising_twice_is_normalising_the_normalised():
    scorer = Scorer(classifier())
    sequences = [[5, 6, 0], [7, 0]]
    raw = score_sequences(scorer, sequences, pad_id=1)
    set_normalisation(scorer, 1.0, 2.0)
    set_normalisation(scorer, 3.0, 4.0)
    expected = ((raw - 1) / 2 - 3) / 4
    torch.testing.assert_close(score_sequences(scorer, sequences, pad_id=1), expected)


def test_normalisation_looks_at_all_of_a_few_and_at_a_sample_of_many():
    assert some([3, 1, 2], random.Random(0)) == [3, 1, 2]
    many = list(range(100_000))
    sample = some(many, random.Random(0))
    assert len(set(sample)) == SCORED
    # three standard errors of a mean over so many, whose deviation is that of a uniform distribution
    assert abs(sum(sample) / SCORED - 49_999.5) < 3 * 100_000 / 12**0.5 / 64
    assert sample == some(many, random.Random(0)) != some(many, random.Random(1))
