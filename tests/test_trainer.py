"""The loop: what it checks before it starts, what its gradient is, and that it does not depend on how work is split."""

import copy
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification

from rlhf import forward
from rlhf.config import PPOConfig
from rlhf.errors import InputError
from rlhf.models import Scorer, ValueHead, load_policy, load_scorer
from rlhf.rollout import Responses, generate, response_logprobs
from rlhf.scoring import last_token_scores, text_scores
from rlhf.trainer import PPOTrainer, shuffled
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13], [14], [15, 16], [17, 18, 19, 20, 21], [22], [23, 24]]
TEXT = [[30 + i, 40 + i, 50, 60, 0] for i in range(9)]


def even_tokens(responses):
    """A reward that is easy to earn: the share of even tokens."""
    return ((responses.tokens % 2 == 0) & responses.mask).sum(dim=1) / responses.lengths


def make_trainer(tokenizer, make=tiny_gpt2, reward=even_tokens, dropout=0.0, value_model=None, **options) -> PPOTrainer:
    defaults = {
        "batch_size": 8, "total_episodes": 16, "num_ppo_epochs": 1, "num_mini_batches": 1, "response_length": 6,
        "learning_rate": 1e-3, "value_learning_rate": 1e-3, "ptx_coef": 0.5, "ptx_batch_size": 4, "value_warmup_steps": 0,
    }  # fmt: skip
    config = PPOConfig(**(defaults | options))
    policy, reference = make(dropout=dropout), make(dropout=dropout)
    if value_model is None and config.advantage_estimator == "gae":
        value_model = ValueHead(policy.config.hidden_size) if config.share_trunk else classifier(make(dropout=dropout))
    return PPOTrainer(
        config,
        policy=policy.train(),
        reference=reference.train(),
        value_model=value_model,
        reward=reward,
        tokenizer=tokenizer,
        prompts=PROMPTS,
        text=TEXT,
    )


def classifier(policy) -> Scorer:
    """A value model of the same size as the policy."""
    policy.config.num_labels = 1
    torch.manual_seed(1)
    return Scorer(AutoModelForSequenceClassification.from_config(policy.config))


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ratio_is_one_and_kl_zero_before_the_first_step_with_dropout_modules_and_temperature(
    tokenizer, make_policy, temperature
):
    trainer = make_trainer(tokenizer, make_policy, dropout=0.5, temperature=temperature)
    first = next(trainer.train())
    assert first.metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert first.metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert first.metrics["clip_fraction"] == 0
    assert trainer.checked.startswith("ratio = 1")
    assert "KL to the reference = 0" in trainer.checked
    assert "as without padding" in trainer.checked


def test_a_policy_that_changes_between_passes_is_refused(tokenizer):
    trainer = make_trainer(tokenizer, dropout=0.5)
    trainer.policy.train()  # someone turns dropout on again
    with pytest.raises(InputError, match=r"disagrees with itself.*dropout"):
        next(trainer.train())


def test_a_reference_that_runs_otherwise_than_the_policy_is_refused(tokenizer):
    trainer = make_trainer(tokenizer, dropout=0.5)
    trainer.reference.train()
    with pytest.raises(InputError, match="policy and reference are the same model, but"):
        next(trainer.train())


def test_a_decoder_that_forgets_the_padding_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("rlhf.rollout.with_positions", lambda model, attention_mask: {"attention_mask": attention_mask})
    with pytest.raises(InputError, match="of the update and of sampling differ by .* position_ids"):
        next(make_trainer(tokenizer).train())


def test_a_decoder_at_another_temperature_is_refused(tokenizer, monkeypatch):
    def cooler(*args, temperature, **kwargs):
        return generate(*args, temperature=temperature / 2, **kwargs)

    monkeypatch.setattr("rlhf.trainer.generate", cooler)
    with pytest.raises(InputError, match="of the update and of sampling differ by .* temperature"):
        next(make_trainer(tokenizer).train())


def test_another_reference_than_the_policy_is_allowed_and_its_kl_is_counted(tokenizer):
    trainer = make_trainer(tokenizer)
    with torch.no_grad():
        trainer.reference.lm_head.weight.add_(0.3 * torch.randn_like(trainer.reference.lm_head.weight))
    assert next(trainer.train()).metrics["kl"] > 0.01
    assert "KL to the reference" not in trainer.checked


class SeesItsNeighbours(torch.nn.Module):
    """A layer that adds something of the whole batch to each row."""

    def forward(self, hidden):
        return hidden + 0.1 * hidden.mean(dim=0, keepdim=True)


def test_a_policy_that_sees_other_rows_is_refused(tokenizer):
    trainer = make_trainer(tokenizer)
    for policy in (trainer.policy, trainer.reference):
        policy.transformer.h.append(_Block(SeesItsNeighbours()))
    with pytest.raises(InputError, match="of the update and of sampling differ by .* sees other rows"):
        next(trainer.train())


class _Block(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, *args, **kwargs):
        return self.layer(hidden)


def test_a_reward_model_whose_score_depends_on_its_batch_is_refused(tokenizer):
    class Neighbourly(torch.nn.Module):
        def forward(self, input_ids, attention_mask, at, first):
            return input_ids[attention_mask.bool()][at] / 100 + input_ids.float().mean()

    good = make_trainer(tokenizer, reward=partial(last_token_scores, scorer_of(tiny_gpt2())))
    next(good.train())
    assert "scores as without a batch" in good.checked
    with pytest.raises(InputError, match="depends on the rows beside it"):
        next(make_trainer(tokenizer, reward=partial(last_token_scores, Neighbourly())).train())


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(tokenizer, make, rows=None, **options) -> torch.Tensor:
    """What the optimizer is given at its first step: the gradients of the policy and of the value model.

    `rows`, if given, is the order of the minibatch.
    """
    trainer = make_trainer(tokenizer, make, max_grad_norm=1e9, **options)
    seen = []
    if rows is not None:
        trainer.minibatches = lambda step: [rows]

    def look():
        models = trainer.trained()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for model in models for p in model.parameters()]
        seen.append(torch.cat([grad.flatten() for grad in grads]).clone())

    trainer.optimizer.step = look
    next(trainer.train())
    return seen[0]


@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_gradient_does_not_depend_on_how_the_minibatch_is_split(tokenizer, make_policy, micro_batch_size, share_trunk):
    whole = gradients(tokenizer, make_policy, share_trunk=share_trunk)
    split = gradients(tokenizer, make_policy, share_trunk=share_trunk, micro_batch_size=micro_batch_size)
    torch.testing.assert_close(split, whole, atol=2e-6, rtol=1e-4)


def test_gradient_does_not_depend_on_the_order_of_the_minibatch(tokenizer, make_policy):
    rows = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    one, other = (gradients(tokenizer, make_policy, order, micro_batch_size=3) for order in (rows, rows.flip(0)))
    torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


def test_gradient_is_that_of_ppo_plus_gamma_times_that_of_the_models_own_loss_on_text(tokenizer, make_policy):
    """transformers computes the second part: the mean loss of the tokens of the documents that the step draws."""
    without, with_text = (gradients(tokenizer, make_policy, ptx_coef=ptx_coef) for ptx_coef in (0.0, 0.7))
    text = torch.tensor(make_trainer(tokenizer, make_policy).pretraining_text(0))
    policy = make_policy().eval()
    policy(input_ids=text, labels=text).loss.backward()
    own = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(with_text[: len(own)], without[: len(own)] + 0.7 * own, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(with_text[len(own) :], without[len(own) :])


def test_every_parameter_moves_and_the_reference_does_not(tokenizer):
    trainer = make_trainer(tokenizer)
    before = {name: p.clone() for name, p in trainer.policy.named_parameters()}
    values_before, reference_before = weights(trainer.value_model), weights(trainer.reference)
    list(trainer.train())
    assert all(not torch.equal(before[name], p) for name, p in trainer.policy.named_parameters())
    assert (weights(trainer.value_model) != values_before).float().mean() > 0.6  # positions and tokens never seen stay
    assert torch.equal(weights(trainer.reference), reference_before)


def test_only_the_value_model_learns_in_its_warmup(tokenizer):
    trainer = make_trainer(tokenizer, value_warmup_steps=1)
    policy_before, values_before = weights(trainer.policy), weights(trainer.value_model)
    steps = trainer.train()
    next(steps)
    assert torch.equal(weights(trainer.policy), policy_before)
    assert not torch.equal(weights(trainer.value_model), values_before)
    next(steps)
    assert not torch.equal(weights(trainer.policy), policy_before)


# --- what it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"share_trunk": True}, {"advantage_estimator": "rloo", "num_generations": 4}], ids=str
)
def test_the_score_rises(tokenizer, make_policy, options):
    options = {"batch_size": 64, "total_episodes": 64 * 20, "num_ppo_epochs": 2, "min_entropy": None, **options}
    history = [
        s.metrics
        for s in make_trainer(tokenizer, make_policy, ptx_coef=0, kl_coef=0.01, learning_rate=1e-2, **options).train()
    ]
    assert history[-1]["score"] > history[0]["score"] + 0.15
    assert history[-1]["kl"] > 0


def test_gold_is_the_mean_over_what_the_judge_knows_and_absent_where_it_knows_nothing(tokenizer):
    def judge(responses):
        return torch.where(responses.source % 2 == 0, responses.source.float(), torch.nan)

    trainer = make_trainer(tokenizer)
    trainer.judge = judge
    step = next(trainer.train())
    even = [float(i) for i in step.rollout.source if i % 2 == 0]
    assert step.metrics["gold"] == pytest.approx(sum(even) / len(even))
    trainer.judge = lambda responses: torch.full((len(responses.mask),), torch.nan)
    assert "gold" not in next(trainer.train()).metrics


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama], ids=["gpt2", "llama"])
def test_a_response_that_is_cut_off_costs_the_penalty(tokenizer, make):
    """With no other reward, the probability of ending must rise."""
    options = {"batch_size": 64, "total_episodes": 64 * 40, "ptx_coef": 0, "kl_coef": 0.0, "learning_rate": 1e-2}
    trainer = make_trainer(
        tokenizer, make, reward=lambda responses: torch.zeros(len(responses.mask)), missing_eos_penalty=1.0, **options
    )
    history = [step.metrics for step in trainer.train()]
    assert history[-1]["ended"] > history[0]["ended"] + 0.1


def test_the_pretraining_mix_keeps_the_loss_on_text_lower(tokenizer):
    options = {"batch_size": 8, "total_episodes": 8 * 20, "learning_rate": 1e-3}
    with_text = [step.metrics for step in make_trainer(tokenizer, ptx_coef=1.0, **options).train()]
    assert with_text[-1]["ptx_loss"] < with_text[0]["ptx_loss"] - 0.5


def test_adaptive_kl_raises_the_coefficient_where_the_kl_is_above_its_target(tokenizer):
    trainer = make_trainer(
        tokenizer, total_episodes=8 * 10, kl_coef=0.01, kl_target=1e-4, kl_horizon=100, learning_rate=5e-3
    )
    coefficients = [step.metrics["kl_coef"] for step in trainer.train()]
    assert coefficients[0] == pytest.approx(0.01)
    assert coefficients[-1] > coefficients[2]


# --- randomness and averages ------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tokenizer):
    def trained(seed):
        trainer = make_trainer(tokenizer, seed=seed)
        list(trainer.train())
        return weights(trainer.policy)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_every_prompt_comes_once_an_epoch():
    order = shuffled(7, 0, 21, (0, 1))
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert order[:7] != order[7:14]
    assert shuffled(7, 5, 9, (0, 1)) == order[5:14]


def test_saved_average_is_the_running_mean_of_the_weights(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, ema_decay=0.9, total_episodes=8 * 3)
    seen = []
    for _ in trainer.train():
        seen.append(weights(trainer.policy))
    trainer.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # the first update is where the average starts
    average = seen[0]
    for later in seen[1:]:
        average = 0.9 * average + 0.1 * later
    torch.testing.assert_close(weights(load_policy(tmp_path, tokenizer)), average, atol=1e-6, rtol=1e-5)
    assert not torch.equal(weights(trainer.policy), average)


def test_policy_and_value_model_are_saved_beside_each_other(tokenizer, tmp_path):
    for share_trunk in (False, True):
        trainer = make_trainer(tokenizer, share_trunk=share_trunk)
        list(trainer.train())
        trainer.save(tmp_path)
        ids = torch.tensor([[5, 6, 7]])
        values = load_scorer(tmp_path / "value_model")(ids, torch.ones_like(ids))
        if share_trunk:
            hidden = trainer.policy(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            expected = trainer.value_model(hidden)[0]
        else:
            expected = trainer.value_model(ids, torch.ones_like(ids))
        torch.testing.assert_close(values, expected)


# --- rewards that are functions, and settings -------------------------------------------------------------------------


def test_a_reward_function_sees_the_words_and_the_columns_of_their_prompts(tokenizer):
    seen = {}

    def function(prompts, completions, wanted, ended):
        seen.update(prompts=prompts, completions=completions, wanted=wanted, ended=ended)
        return [float(len(text)) for text in completions]

    rows = [{"prompt": f"prompt {i}", "wanted": i} for i in range(len(PROMPTS))]

    def reward(responses):
        return text_scores(function, tokenizer, rows, responses)

    step = next(make_trainer(tokenizer, reward=reward).train())
    assert seen["prompts"] == [f"prompt {i}" for i in seen["wanted"]]
    assert sorted(seen["wanted"]) == list(range(8))
    assert step.rollout.scores.tolist() == [len(text) for text in seen["completions"]]
    tokens = [ids[mask].tolist() for ids, mask in zip(step.rollout.tokens, step.rollout.mask, strict=True)]
    assert seen["completions"] == tokenizer.batch_decode(tokens, skip_special_tokens=True)


def test_pretraining_text_that_processes_can_not_share_is_refused():
    config = PPOConfig(batch_size=8, total_episodes=16, num_mini_batches=2, ptx_batch_size=3)
    config.check_split(1)
    with pytest.raises(InputError, match="ptx_batch_size 3 can't be shared by 2 processes"):
        config.check_split(2)
    PPOConfig(**{**vars(config), "ptx_coef": 0.0}).check_split(2)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"batch_size": 6, "num_mini_batches": 4}, "batch_size 6 can't be split into 4 minibatches"),
        ({"total_episodes": 4}, "less than one batch"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs is 0"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"num_generations": 3}, "minibatches of one size of 3 responses to each prompt"),
        ({"advantage_estimator": "grpo"}, "advantage_estimator is 'grpo'; it must be gae or rloo"),
        ({"advantage_estimator": "rloo"}, "num_generations must be above 1"),
        ({"advantage_estimator": "rloo", "num_generations": 2, "share_trunk": True}, "has no values"),
    ],
)
def test_settings_that_can_not_be_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        PPOConfig(**({"batch_size": 8, "total_episodes": 16} | options))


RLOO = {"advantage_estimator": "rloo", "num_generations": 4}


def test_without_a_value_model_a_response_is_held_against_the_others_to_its_prompt(tokenizer, tmp_path):
    """The advantages that the update gets, undone of their whitening, are the scores less those of the other three."""
    trainer, seen = make_trainer(tokenizer, kl_coef=0.0, missing_eos_penalty=None, **RLOO), []
    update = trainer.update
    trainer.update = lambda batch, *args, **kwargs: (seen.append(batch), update(batch, *args, **kwargs))
    step = next(trainer.train())
    (batch,) = seen
    assert sorted(batch.source.tolist()) == sorted(4 * batch.source.unique().tolist())
    expected = []
    for prompt, score in zip(batch.source, batch.scores, strict=True):
        others = batch.scores[batch.source == prompt].sum() - score
        expected.append(float(score - others / 3))
    found = batch.advantages[:, 0]
    assert torch.corrcoef(torch.stack([found, torch.tensor(expected)]))[0, 1] == pytest.approx(1, abs=1e-5)
    assert not step.metrics.keys() & {"vf_loss", "explained_variance"}
    trainer.save(tmp_path)
    assert not (tmp_path / "value_model").exists() and trainer.models().keys() == {"policy"}


@pytest.mark.parametrize("options", [{"num_generations": 4}, RLOO], ids=["gae", "rloo"])
def test_what_responses_to_a_prompt_have_in_common_is_read_once_and_changes_nothing(
    tokenizer, make_policy, options, monkeypatch
):
    """One pass of the policy in the update: fewer tokens than the responses have with their prompts, the same gradient."""
    tokens = []

    def found():
        trainer = make_trainer(tokenizer, make_policy, max_grad_norm=1e9, ptx_coef=0.0, **options)
        rollout = trainer.collect(0)
        trainer.policy.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        logprobs, _ = response_logprobs(trainer.policy, rollout, 1.0)
        logprobs.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.policy.parameters() if p.grad is not None])
        return (logprobs, gradient), tokens[-1], int(rollout.attention_mask.sum())

    monkeypatch.setattr(forward, "ROUND", 1)
    together, read, whole = found()
    monkeypatch.setattr(Responses, "first", None)
    apart, *read_whole = found()
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert read < whole and read_whole == [whole, whole]


def test_a_minibatch_has_all_responses_to_its_prompts(tokenizer):
    trainer = make_trainer(tokenizer, num_mini_batches=2, num_ppo_epochs=3, num_generations=2)
    rows = list(trainer.minibatches(0))
    assert len(rows) == 6 and len({tuple(some.tolist()) for some in rows}) > 2
    for some in rows:
        assert (some.view(-1, 2)[:, 0] % 2 == 0).all() and (some.view(-1, 2).diff() == 1).all()
    assert sorted(torch.cat(rows[:2]).tolist()) == list(range(8))


def test_every_prompt_is_asked_once_before_any_is_asked_again(tokenizer):
    trainer = make_trainer(tokenizer, num_generations=4, total_episodes=64)
    asked = [trainer.collect(step).source.view(-1, 4) for step in range(8)]
    assert all((prompts == prompts[:, :1]).all() for prompts in asked)
    order = torch.cat(asked)[:, 0].tolist()
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))


def test_a_mix_without_text_is_refused(tokenizer):
    trainer = make_trainer(tokenizer)
    parts = {"policy": trainer.policy, "reference": trainer.reference, "value_model": trainer.value_model}
    with pytest.raises(InputError, match="no pretraining text"):
        PPOTrainer(
            trainer.config, **parts, reward=even_tokens, tokenizer=tokenizer, prompts=PROMPTS, accelerator=Accelerator()
        )


@pytest.mark.usefixtures("another_precision")
def test_bf16_trains_and_passes_its_own_check(tokenizer):
    trainer = make_trainer(tokenizer, bf16=True)
    first, second = trainer.train()
    assert "ratio = 1" in trainer.checked
    assert "KL to the reference = 0" in trainer.checked  # though its matrices are kept rounded
    assert all(p.dtype == torch.float32 for p in trainer.policy.parameters())
    assert torch.bfloat16 in {p.dtype for p in trainer.reference.parameters()}
    assert abs(first.metrics["kl"]) < 0.3


def test_training_leaves_prompts_and_text_as_they_were(tokenizer):
    prompts, text = copy.deepcopy(PROMPTS), copy.deepcopy(TEXT)
    list(make_trainer(tokenizer).train())
    assert (prompts, text) == (PROMPTS, TEXT)
