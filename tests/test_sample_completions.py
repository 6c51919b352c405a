"""Completions of many prompts: their order, their text, and resuming an interrupted call."""

import pytest
import torch

from rlhf.rollout import generate, sample_completions
from tests.responses import responses_of, sample


def test_completions_come_in_the_order_of_the_prompts_without_special_tokens_in_their_text(policy, tokenizer):
    prompts = [[20 + i] * (1 + i % 3) for i in range(7)]
    completions = sample_completions(policy, tokenizer, prompts, response_length=6, temperature=0, seed=0, batch_size=2)
    for prompt, completion in zip(prompts, completions, strict=True):
        alone = sample(policy, [prompt], temperature=0, length=6)
        assert completion.ids == responses_of(alone)[0]
        assert completion.finished == bool(alone.finished)
        assert "<|" not in completion.text


def test_a_seed_gives_the_same_completions_and_another_seed_others_and_progress_is_reported(policy, tokenizer):
    prompts, progress = [[20 + i] for i in range(7)], []

    def ids(seed, **kwargs):
        options = {"response_length": 6, "temperature": 1.0, "seed": seed, "batch_size": 3}
        return [completion.ids for completion in sample_completions(policy, tokenizer, prompts, **options, **kwargs)]

    assert ids(0) == ids(0, progress=progress.append) != ids(1)
    assert progress == [3, 3, 1]


def test_a_resumed_call_gives_the_same_completions_and_samples_only_incomplete_batches(policy, tokenizer, monkeypatch):
    prompts, progress, sampled = [[20 + i] * (1 + i // 3) for i in range(7)], [], []
    options = {"response_length": 6, "temperature": 1.0, "seed": 0, "batch_size": 2}
    whole = sample_completions(policy, tokenizer, prompts, **options)

    def counted_generate(model, input_ids, *args, **kwargs):
        sampled.append(len(input_ids))
        return generate(model, input_ids, *args, **kwargs)

    monkeypatch.setattr("rlhf.rollout.generate", counted_generate)
    # complete: the first and the third batch; half of the second; nothing of the last
    kept = [whole[0], whole[1], whole[2], None, whole[4], whole[5], None]
    resumed = sample_completions(policy, tokenizer, prompts, **options, completions=kept, progress=progress.append)
    assert resumed == kept == whole
    assert sampled == [2, 1]
    assert progress == [2, 2, 2, 1]


def test_the_text_of_a_finished_completion_is_its_tokens_without_the_final_eos(policy, tokenizer):
    def make_eos_likely(module, args, output):
        output[..., tokenizer.pad_token_id] = -torch.inf
        output[..., tokenizer.eos_token_id] = output.amax(dim=-1)

    policy.get_output_embeddings().register_forward_hook(make_eos_likely)
    prompts = [[20 + i] for i in range(20)]
    completions = sample_completions(policy, tokenizer, prompts, response_length=12, temperature=1.0, seed=0)
    finished = [completion for completion in completions if completion.finished and len(completion.ids) > 1]
    assert finished
    for completion in finished:
        assert completion.ids[-1] == tokenizer.eos_token_id
        assert completion.text == tokenizer.decode(completion.ids[:-1])


def test_prompts_of_the_same_length_share_a_batch(policy, tokenizer, monkeypatch):
    batches = []

    def recorded_generate(model, input_ids, attention_mask, **kwargs):
        batches.append(attention_mask.sum(dim=1).tolist())
        return generate(model, input_ids, attention_mask, **kwargs)

    monkeypatch.setattr("rlhf.rollout.generate", recorded_generate)
    prompts = [[5], [6, 7], [8], [9, 10]]
    sample_completions(policy, tokenizer, prompts, response_length=2, temperature=1.0, seed=0, batch_size=2)
    assert batches == [[1, 1], [2, 2]]


def test_prompts_are_moved_to_the_device_of_the_model(policy, tokenizer, monkeypatch):
    def raise_devices(model, input_ids, attention_mask, **kwargs):
        raise RuntimeError(input_ids.device.type, attention_mask.device.type)

    monkeypatch.setattr("rlhf.rollout.generate", raise_devices)
    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        sample_completions(policy.to("meta"), tokenizer, [[5]], response_length=2, temperature=1.0, seed=0)
