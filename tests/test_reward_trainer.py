"""Training a reward model: with K = 2 as TRL trains it, and each completion is read once."""

import math

import pytest
import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from rlhf.classifiers import Scorer
from rlhf.engine import optimize, supports_packing
from rlhf.engine.support import supports_pruning
from rlhf.reward import RankingRewardTrainer, pad_ranks, score_completions, score_sequences
from rlhf.tokens import pad
from tests.classifiers import tiny_classifier
from tests.conftest import scorer_of


def reward_config(folder, learning_rate=1e-3, **kwargs) -> RewardConfig:
    return RewardConfig(
        output_dir=str(folder), bf16=False, use_cpu=True, activation_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, max_length=None, num_train_epochs=1, learning_rate=learning_rate,
        train_sampling_strategy="sequential", logging_steps=1, **kwargs,
    )  # fmt: skip


# --- the same weights as TRL ------------------------------------------------------------------------------------------

PAIRS = [
    ([5, 6, 7, 0], [5, 6, 8, 9, 0]),
    ([10, 11, 0], [10, 0]),
    ([12, 0], [12, 13, 14, 15, 0]),
    ([16, 17, 0], [16, 18, 0]),
]


@pytest.mark.parametrize(
    ("attention", "batch_size", "tolerance"), [("eager", 1, 0.0), ("eager", 2, 1e-4), (None, 1, 1e-4), (None, 2, 1e-4)]
)
def test_with_two_completions_it_trains_to_the_same_weights_as_trl(
    tmp_path, tokenizer, make_policy, attention, batch_size, tolerance
):
    """Bit for bit if each row is read whole and rows are in the same order; TRL puts the chosen of a batch first.

    To rounding if a prompt is read once; then with SGD, because Adam makes full steps of gradients that are rounding only.
    """
    initial, ours, theirs = (scorer_of(make_policy()).model for _ in range(3))
    for model in (ours, theirs):
        optimize(model)
        if attention:
            model.set_attn_implementation(attention)
    ranked = Dataset.from_list([{"sequences": list(pair), "ranks": [0, 1]} for pair in PAIRS])
    paired = Dataset.from_list([{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in PAIRS])
    config = {"per_device_train_batch_size": batch_size}
    if tolerance:
        config |= {"optim": "sgd", "learning_rate": 0.1}
    our_trainer = RankingRewardTrainer(
        model=ours, args=reward_config(tmp_path / "a", **config), train_dataset=ranked, processing_class=tokenizer
    )
    their_trainer = RewardTrainer(
        model=theirs, args=reward_config(tmp_path / "b", **config), train_dataset=paired, processing_class=tokenizer
    )
    losses = []
    for trainer in (our_trainer, their_trainer):
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=0)
    torch.testing.assert_close(*(dict(m.named_parameters()) for m in (ours, theirs)), atol=tolerance, rtol=tolerance)
    initial = dict(initial.named_parameters())
    unchanged = [name for name, parameter in ours.named_parameters() if torch.equal(parameter, initial[name])]
    shift = "transformer.ln_f.bias"  # shifts all scores: its gradient is 0, or rounding
    assert set(unchanged) <= {shift}
    assert attention is None or unchanged == [name for name in initial if name == shift]


# --- one pass of each completion --------------------------------------------------------------------------------------

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
def test_each_completion_is_read_once_and_so_is_a_shared_prompt(tmp_path, tokenizer, monkeypatch, attention, expected):
    """K completions are read in one pass, not two for each of the K (K - 1) / 2 pairs."""
    model, passes = tiny_classifier(), []
    model.set_attn_implementation(attention)
    supports_packing(model)  # probes the model
    supports_pruning(model)
    forward = model.transformer.forward

    def recorded_forward(*args, **kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        passes.append(ids[ids != 1].tolist())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.transformer, "forward", recorded_forward)
    trainer = RankingRewardTrainer(
        model=model,
        args=reward_config(tmp_path, per_device_train_batch_size=2),
        train_dataset=Dataset.from_list(RANKED),
        processing_class=tokenizer,
    )
    trainer.train()
    assert len(passes) == 1
    assert passes[0][: len(expected)] == expected
    assert not any(passes[0][len(expected) :])  # filler


def test_scores_and_gradients_are_the_same_if_prompts_are_read_once(make_policy):
    """Several completions begin like the first, and one equals it."""
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
    results = []
    for attention in (None, "eager"):
        model = scorer_of(make_policy()).model
        if attention:
            model.set_attn_implementation(attention)
        assert supports_packing(model) == (attention is None)
        scores = score_completions(model, input_ids, attention_mask, ranks).logits[:, 0]
        (scores * torch.linspace(-1, 2, 8)).sum().backward()
        results.append([scores, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


# --- the trainer ------------------------------------------------------------------------------------------------------


def test_the_logged_accuracy_is_the_share_of_correctly_ordered_pairs(tmp_path, tokenizer):
    """In training that of the model before the step; on held-out rows that of the trained model."""
    rows = [{"sequences": [[5, i, 0] for i in range(6, 11)], "ranks": [0, 1, 2, 3, 4]}]
    held_out = [{"sequences": [[7, 8, 0], [9, 10, 11, 0], [12, 0], [13, 14, 0]], "ranks": [1, 1, 0, 2]}]

    def accuracy(model, row):
        scores = [model(input_ids=torch.tensor([ids])).logits.item() for ids in row["sequences"]]
        ranked = list(zip(scores, row["ranks"], strict=True))
        correct = [a > b for a, rank_a in ranked for b, rank_b in ranked if rank_a < rank_b]
        return sum(correct) / len(correct)

    before, model = tiny_classifier(), tiny_classifier()
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
def test_compute_loss_returns_the_outputs_of_the_model_on_request_and_makes_no_cache(tmp_path, tokenizer, attention):
    model, sequences = tiny_classifier(), [[5, 6, 0], [7, 0]]
    model.set_attn_implementation(attention)
    rows = Dataset.from_list([{"sequences": sequences, "ranks": [0, 1]}])
    trainer = RankingRewardTrainer(
        model=model, args=reward_config(tmp_path), train_dataset=rows, processing_class=tokenizer
    )
    model.config.use_cache = True  # the default of a model; TRL sets it to False
    batch = trainer.data_collator(list(rows))
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    alone = [model(input_ids=torch.tensor([ids])).logits.item() for ids in sequences]
    assert outputs.logits[:, 0].tolist() == pytest.approx(alone, abs=1e-5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(alone[1] - alone[0])), abs=1e-5)
    assert outputs.get("past_key_values") is None


def test_a_trained_model_orders_new_completions_as_it_was_taught(tmp_path, tokenizer):
    """Completions with more of token 40 are better; 64 rankings of four completions teach it."""
    generator = torch.Generator().manual_seed(0)

    def row():
        amounts = torch.randperm(6, generator=generator)[:4].tolist()
        sequences = [[30, *[40] * n, *[41] * (6 - n), 0] for n in amounts]
        return {"sequences": sequences, "ranks": [-n for n in amounts]}

    rows = [row() for _ in range(64)]
    model = tiny_classifier()
    RankingRewardTrainer(
        model=model,
        args=reward_config(tmp_path, per_device_train_batch_size=8),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    new = [[30, *[40] * n, *[41] * (6 - n), 0] for n in range(6)]
    scores = score_sequences(Scorer(model.eval()), new, pad_id=1)
    assert scores.tolist() == sorted(scores.tolist())
