"""The PPO loop: its gradient, what it learns, and which prompts, responses and text it uses."""

import copy

import pytest
import torch
from accelerate import Accelerator

from rlhf import InputError
from rlhf.engine import passes
from rlhf.rollout import Responses, response_logprobs
from rlhf.scoring import RewardFunctions
from rlhf.trainer import PPOTrainer
from tests.conftest import tiny_gpt2, tiny_llama
from tests.trainers import OTHERS, PROMPTS, REINFORCE, RLOO, TEXT, even_tokens, make_trainer, weights

# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(tokenizer, make, rows=None, change=None, **options) -> torch.Tensor:
    """The gradients of policy and value model at the first optimizer step; `rows` is the order of the minibatch.

    `change` changes the trainer before.
    """
    trainer = make_trainer(tokenizer, make, max_grad_norm=1e9, **options)
    if change:
        change(trainer)
    recorded, optimizer_step = [], trainer.optimizer.step
    if rows is not None:
        trainer.minibatches = lambda step: [rows]

    def record():
        models = trainer.trained_models()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for model in models for p in model.parameters()]
        recorded.append(torch.cat([grad.flatten() for grad in grads]).clone())
        optimizer_step()

    trainer.optimizer.step = record
    next(trainer.train())
    return recorded[0]


def off_policy(trainer: PPOTrainer) -> None:
    """Some responses end, and the policy moves after each rollout, so that ratios are not 1, and some are clipped."""
    trainer.stop_ids, collect = list(range(0, 400, 12)), trainer.collect

    def moved(step):
        rollout = collect(step)
        generator = torch.Generator().manual_seed(0)
        for weight in trainer.policy.parameters():
            weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
        return rollout

    trainer.collect, trainer.sanity_report = moved, "not checked"


@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(
    tokenizer, make_policy, micro_batch_size, share_trunk
):
    whole = gradients(tokenizer, make_policy, share_trunk=share_trunk)
    split = gradients(tokenizer, make_policy, share_trunk=share_trunk, micro_batch_size=micro_batch_size)
    torch.testing.assert_close(split, whole, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("options", OTHERS, ids=str)
@pytest.mark.parametrize("mask_truncated", [False, True])
def test_no_estimator_or_loss_makes_the_gradient_depend_on_the_split(tokenizer, options, mask_truncated):
    options = {**options, "mask_truncated": mask_truncated, "ptx_coef": 0.0, "change": off_policy}
    whole = gradients(tokenizer, tiny_gpt2, **options)
    assert whole.any()
    for rows in (1, 3):
        split = gradients(tokenizer, tiny_gpt2, micro_batch_size=rows, **options)
        torch.testing.assert_close(split, whole, atol=2e-6, rtol=1e-4)


def test_the_gradient_does_not_depend_on_the_order_of_the_minibatch(tokenizer, make_policy):
    rows = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    one, other = (gradients(tokenizer, make_policy, order, micro_batch_size=3) for order in (rows, rows.flip(0)))
    torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


def test_the_gradient_is_that_of_ppo_plus_ptx_coef_times_that_of_the_language_model_loss(tokenizer, make_policy):
    """transformers computes the second part: the mean loss of the tokens of the documents that the step draws."""
    without, with_text = (gradients(tokenizer, make_policy, ptx_coef=ptx_coef) for ptx_coef in (0.0, 0.7))
    text = torch.tensor(make_trainer(tokenizer, make_policy).pretraining_text(0))
    policy = make_policy().eval()
    policy(input_ids=text, labels=text).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    size = len(expected)
    torch.testing.assert_close(with_text[:size], without[:size] + 0.7 * expected, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(with_text[size:], without[size:])


@pytest.mark.parametrize("options", [{"num_generations": 4}, RLOO], ids=["gae", "rloo"])
def test_a_shared_prompt_is_read_once_with_the_same_gradient(tokenizer, make_policy, options, monkeypatch):
    """One pass of the policy in the update reads fewer tokens than the responses have together with their prompts."""
    tokens = []

    def results():
        trainer = make_trainer(tokenizer, make_policy, max_grad_norm=1e9, ptx_coef=0.0, **options)
        rollout = trainer.collect(0)
        trainer.policy.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        logprobs, _ = response_logprobs(trainer.policy, rollout, 1.0)
        logprobs.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.policy.parameters() if p.grad is not None])
        return (logprobs, gradient), tokens[-1], int(rollout.attention_mask.sum())

    monkeypatch.setattr(passes, "ROW_MULTIPLE", 1)
    together, read, total = results()
    monkeypatch.setattr(Responses, "prefix_row", None)
    apart, *counts_apart = results()
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert read < total and counts_apart == [total, total]


# --- what is trained --------------------------------------------------------------------------------------------------


def test_every_parameter_changes_and_the_reference_does_not(tokenizer):
    trainer = make_trainer(tokenizer)
    before = {name: p.clone() for name, p in trainer.policy.named_parameters()}
    values_before, reference_before = weights(trainer.value_model), weights(trainer.reference)
    list(trainer.train())
    assert all(not torch.equal(before[name], p) for name, p in trainer.policy.named_parameters())
    # embeddings of positions and tokens that never occur have no gradient
    assert (weights(trainer.value_model) != values_before).float().mean() > 0.6
    assert torch.equal(weights(trainer.reference), reference_before)


def test_only_the_value_model_is_trained_in_its_warmup(tokenizer):
    trainer = make_trainer(tokenizer, value_warmup_steps=1)
    policy_before, values_before = weights(trainer.policy), weights(trainer.value_model)
    steps = trainer.train()
    next(steps)
    assert torch.equal(weights(trainer.policy), policy_before)
    assert not torch.equal(weights(trainer.value_model), values_before)
    next(steps)
    assert not torch.equal(weights(trainer.policy), policy_before)


def test_training_does_not_change_prompts_or_text(tokenizer):
    prompts, text = copy.deepcopy(PROMPTS), copy.deepcopy(TEXT)
    list(make_trainer(tokenizer).train())
    assert (prompts, text) == (PROMPTS, TEXT)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tokenizer):
    def trained(seed):
        trainer = make_trainer(tokenizer, seed=seed)
        list(trainer.train())
        return weights(trainer.policy)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


# --- what it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_policy, options",
    [
        *((model, options) for model in ("gpt2", "llama") for options in ({}, {"share_trunk": True}, RLOO)),
        ("stories260K", {}),
        pytest.param("stories260K", {"share_trunk": True}, marks=pytest.mark.slow),
        pytest.param("stories260K", RLOO, marks=pytest.mark.slow),
        *(("gpt2", options) for options in OTHERS),
    ],
    indirect=["make_policy"],
    ids=str,
)
def test_the_score_rises(tokenizer, make_policy, options):
    options = {"batch_size": 64, "total_episodes": 64 * 20, "num_ppo_epochs": 2, "min_entropy": None, **options}
    trainer = make_trainer(tokenizer, make_policy, ptx_coef=0, kl_coef=0.01, learning_rate=1e-2, **options)
    history = [step.metrics for step in trainer.train()]
    assert history[-1]["score"] > history[0]["score"] + 0.15
    assert history[-1]["kl"] > 0


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama], ids=["gpt2", "llama"])
def test_the_penalty_for_truncated_responses_makes_eos_more_likely(tokenizer, make):
    """There is no other reward."""
    options = {"batch_size": 64, "total_episodes": 64 * 40, "ptx_coef": 0, "kl_coef": 0.0, "learning_rate": 1e-2}
    trainer = make_trainer(
        tokenizer, make, reward=lambda responses: torch.zeros(len(responses.mask)), missing_eos_penalty=1.0, **options
    )
    history = [step.metrics for step in trainer.train()]
    assert history[-1]["ended"] > history[0]["ended"] + 0.1


def test_the_pretraining_mix_lowers_the_loss_on_text(tokenizer):
    options = {"batch_size": 8, "total_episodes": 8 * 20, "learning_rate": 1e-3}
    history = [step.metrics for step in make_trainer(tokenizer, ptx_coef=1.0, **options).train()]
    assert history[-1]["ptx_loss"] < history[0]["ptx_loss"] - 0.5


def test_adaptive_kl_raises_the_coefficient_while_the_kl_is_above_its_target(tokenizer):
    trainer = make_trainer(
        tokenizer, total_episodes=8 * 10, kl_coef=0.01, kl_target=1e-4, kl_horizon=100, learning_rate=5e-3
    )
    coefficients = [step.metrics["kl_coef"] for step in trainer.train()]
    assert coefficients[0] == pytest.approx(0.01)
    assert coefficients[-1] > coefficients[2]


# --- prompts, rewards and text ----------------------------------------------------------------------------------------


def test_a_reward_function_gets_the_texts_and_the_columns_of_their_prompts(tokenizer):
    received = {}

    def function(prompts, completions, target, ended):
        received.update(prompts=prompts, completions=completions, target=target, ended=ended)
        return [float(len(text)) for text in completions]

    rows = [{"prompt": f"prompt {i}", "target": i} for i in range(len(PROMPTS))]

    functions = RewardFunctions({"rewards/function": function}, tokenizer, rows)
    step = next(make_trainer(tokenizer, reward=None, functions=functions).train())
    assert received["prompts"] == [f"prompt {i}" for i in received["target"]]
    assert sorted(received["target"]) == list(range(8))
    assert step.rollout.scores.tolist() == [len(text) for text in received["completions"]]
    tokens = [ids[mask].tolist() for ids, mask in zip(step.rollout.tokens, step.rollout.mask, strict=True)]
    assert received["completions"] == tokenizer.batch_decode(tokens, skip_special_tokens=True)


def test_without_a_value_model_a_response_is_compared_with_the_others_to_its_prompt(tokenizer):
    """The advantages of the update are, whitening aside, the scores minus the mean of the other three."""
    trainer, batches = make_trainer(tokenizer, kl_coef=0.0, missing_eos_penalty=None, **RLOO), []
    update = trainer.update
    trainer.update = lambda batch, *args, **kwargs: (batches.append(batch), update(batch, *args, **kwargs))
    step = next(trainer.train())
    (batch,) = batches
    assert sorted(batch.prompt_index.tolist()) == sorted(4 * batch.prompt_index.unique().tolist())
    expected = []
    for prompt, score in zip(batch.prompt_index, batch.scores, strict=True):
        others = batch.scores[batch.prompt_index == prompt].sum() - score
        expected.append(float(score - others / 3))
    advantages = batch.advantages[:, 0]
    assert torch.corrcoef(torch.stack([advantages, torch.tensor(expected)]))[0, 1] == pytest.approx(1, abs=1e-5)
    assert not step.metrics.keys() & {"vf_loss", "explained_variance"}


def test_the_baseline_of_reinforce_is_the_running_mean_of_the_rewards_of_earlier_steps(tokenizer):
    trainer, batches = make_trainer(tokenizer, total_episodes=24, baseline_decay=0.75, **REINFORCE), []
    update = trainer.update
    trainer.update = lambda batch, *args, **kwargs: (batches.append(batch), update(batch, *args, **kwargs))
    rewards = [step.metrics["reward"] for step in trainer.train()]
    # of the first step its own mean
    for batch, reward, baseline in zip(
        batches, rewards, [rewards[0], rewards[0], 0.75 * rewards[0] + 0.25 * rewards[1]], strict=True
    ):
        assert float(batch.advantages[:, 0].mean()) == pytest.approx(reward - baseline, abs=1e-5)


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo"])
def test_the_advantages_of_grpo_are_those_of_the_paper_unless_whitening_is_set(tokenizer, estimator):
    """Those of each prompt have mean 0 and, divided by their deviation, deviation 1; whitened over the batch they differ."""
    options = {"advantage_estimator": estimator, "num_generations": 4, "kl_coef": 0.0, "missing_eos_penalty": None}
    groups = {}
    for whiten in (None, True):
        trainer = make_trainer(tokenizer, whiten_advantages=whiten, **options)
        rollout = trainer.collect(0)
        experience = trainer.experience(rollout, trainer.rewards(rollout))
        groups[whiten] = experience.advantages[:, 0].view(-1, 4)
    scores = rollout.scores.view(-1, 4)
    expected = scores - scores.mean(dim=1, keepdim=True)
    expected = expected / scores.std(dim=1, keepdim=True) if estimator == "grpo" else expected
    torch.testing.assert_close(groups[None], expected, atol=3e-3, rtol=3e-3)
    assert not torch.allclose(groups[True], expected, atol=3e-2)


@pytest.mark.parametrize("given", [True, False], ids=["given", "missing"])
def test_a_value_model_that_the_estimator_does_not_use_or_lacks_is_refused(tokenizer, given):
    with pytest.raises(InputError, match="advantage_estimator rloo uses no value model|gae needs a value model"):
        refused = make_trainer(tokenizer, **(RLOO if given else {}))
        models = {"policy": refused.policy, "reference": refused.reference}
        value_model = torch.nn.Linear(1, 1) if given else None
        PPOTrainer(
            refused.config, **models, value_model=value_model, reward=even_tokens, tokenizer=tokenizer, prompts=PROMPTS,
            text=TEXT,
        )  # fmt: skip


def test_a_minibatch_has_all_responses_to_its_prompts(tokenizer):
    trainer = make_trainer(tokenizer, num_mini_batches=2, num_ppo_epochs=3, num_generations=2)
    minibatches = list(trainer.minibatches(0))
    assert len(minibatches) == 6 and len({tuple(rows.tolist()) for rows in minibatches}) > 2
    for rows in minibatches:
        assert (rows.view(-1, 2)[:, 0] % 2 == 0).all() and (rows.view(-1, 2).diff() == 1).all()
    assert sorted(torch.cat(minibatches[:2]).tolist()) == list(range(8))


def test_every_prompt_is_used_once_before_any_is_used_again(tokenizer):
    trainer = make_trainer(tokenizer, num_generations=4, total_episodes=64)
    prompts = [trainer.collect(step).prompt_index.view(-1, 4) for step in range(8)]
    assert all((rows == rows[:, :1]).all() for rows in prompts)
    order = torch.cat(prompts)[:, 0].tolist()
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))


def test_a_pretraining_mix_without_text_is_refused(tokenizer):
    trainer = make_trainer(tokenizer)
    models = {"policy": trainer.policy, "reference": trainer.reference, "value_model": trainer.value_model}
    with pytest.raises(InputError, match="no pretraining text"):
        PPOTrainer(
            trainer.config,
            **models,
            reward=even_tokens,
            tokenizer=tokenizer,
            prompts=PROMPTS,
            accelerator=Accelerator(),
        )
