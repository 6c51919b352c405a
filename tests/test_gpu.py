"""The accelerator computes what the CPU computes, on every path; run by `make gpu`.

Without an accelerator both sides are the CPU: the tests then only show that they run.
"""

import copy
import sys
import warnings

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import rlhf.engine.gpu.varlen
from rlhf.classifiers import Scorer
from rlhf.engine import to_device
from rlhf.engine.gpu import fixed_decoding
from rlhf.engine.packing import pack
from rlhf.evaluate import sequence_logprobs
from rlhf.models import device
from rlhf.reward import score_sequences
from rlhf.rollout import generate, random_numbers
from rlhf.tokens import pad
from tests.conftest import tiny_gpt2, tiny_llama
from tests.engine.test_attention import DISTINCT, AttentionModule, packed_outputs, random_states, with_gradients
from tests.pipeline import make, record, shell
from tests.trainers import PROMPTS, RLOO, make_trainer, random_scorer, weights

pytestmark = pytest.mark.gpu
MAKERS = [tiny_gpt2, tiny_llama]


@pytest.fixture
def place():
    """The accelerator, or the CPU if there is none."""
    return device()


def on_both(module, place):
    return module.eval(), copy.deepcopy(module).eval().to(place)


@pytest.mark.parametrize("make_model", MAKERS)
def test_log_probabilities_equal_those_of_the_cpu(make_model, place):
    here, there = on_both(make_model(), place)
    sequences = [prompt + [40 + i, 50, 60 + i] for i, prompt in enumerate(PROMPTS)]
    starts = [len(prompt) for prompt in PROMPTS]
    expected = sequence_logprobs(here, sequences, starts, pad_id=1)
    assert sequence_logprobs(there, sequences, starts, pad_id=1) == pytest.approx(expected, abs=1e-4)


def test_scores_equal_those_of_the_cpu(place):
    here, there = on_both(random_scorer(tiny_gpt2()), place)
    assert isinstance(there, Scorer)
    expected = score_sequences(here, PROMPTS, pad_id=1)
    torch.testing.assert_close(score_sequences(there, PROMPTS, pad_id=1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make_model", MAKERS)
def test_a_seed_samples_the_tokens_of_the_cpu(make_model, place):
    uniforms = random_numbers(12, len(PROMPTS), torch.Generator().manual_seed(0))
    responses = []
    for model in on_both(make_model(), place):
        input_ids, mask = (tensor.to(next(model.parameters()).device) for tensor in pad(PROMPTS, 1, "left"))
        responses.append(
            generate(
                model, input_ids, mask, response_length=12, temperature=1.0, stop_ids=[0], pad_id=1, uniforms=uniforms
            )
        )
    assert torch.equal(responses[1].input_ids.cpu(), responses[0].input_ids)
    torch.testing.assert_close(responses[1].logprobs.cpu(), responses[0].logprobs, atol=1e-4, rtol=1e-4)


# --- paths that a GPU has of its own ----------------------------------------------------------------------------------


def sample_on(place, model, length=24):
    """Responses of at most `length` tokens, of which some end early. The model is on `place`."""
    return generate(
        model, *(tensor.to(place) for tensor in pad(PROMPTS * 4, 1, "left")), response_length=length, temperature=1.0,
        stop_ids=range(0, 400, 9), pad_id=1, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def assert_same_responses(result, expected):
    assert torch.equal(result.input_ids, expected.input_ids)
    torch.testing.assert_close(result.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make_model", MAKERS)
def test_the_interval_between_looks_at_finished_rows_changes_no_response(make_model, place, monkeypatch):
    model, responses = make_model().eval().to(place), []
    for interval in (1, 4, 16):
        monkeypatch.setattr("rlhf.rollout.check_interval", lambda device, interval=interval: interval)
        responses.append(sample_on(place, model))
    assert len(set(responses[0].lengths.tolist())) > 2
    assert_same_responses(responses[1], responses[0])
    assert_same_responses(responses[2], responses[0])


@pytest.mark.parametrize("make_model", MAKERS)
def test_captured_steps_give_the_responses_of_uncaptured_ones_and_of_the_usual_decoder(make_model, place, monkeypatch):
    model, captured, replayed = make_model().eval().to(place), fixed_decoding.captured, []

    def recorded(step, device):
        run = captured(step, device)
        replayed.append(run is not step)
        return run

    usual = sample_on(place, model)
    monkeypatch.setattr(fixed_decoding, "FIXED_SHAPES", True)
    monkeypatch.setattr(fixed_decoding, "captured", lambda step, device: step)
    assert_same_responses(sample_on(place, model), usual)
    monkeypatch.setattr(fixed_decoding, "captured", recorded)
    assert_same_responses(sample_on(place, model), usual)
    assert replayed == [place.type == "cuda"]


@pytest.mark.parametrize("make_model", MAKERS)
def test_captured_steps_in_bf16_compute_the_logits_of_uncaptured_ones(make_model, place, monkeypatch):
    model, prompts = make_model().eval().to(place), [tensor.to(place) for tensor in pad(PROMPTS, 1, "left")]
    results = []
    for capture in (fixed_decoding.captured, lambda step, device: step):
        monkeypatch.setattr(fixed_decoding, "captured", capture)
        steps = []
        with (
            torch.autocast(place.type, torch.bfloat16),
            fixed_decoding.FixedDecoder(model, *prompts, response_length=6) as decoder,
        ):
            for token in range(5, 11):
                steps.append(decoder.forward()[1].float().clone())
                decoder.append(torch.full((len(PROMPTS),), token, device=place))
        results.append(torch.stack(steps))
    torch.testing.assert_close(*results, atol=1e-2, rtol=1e-2)


@pytest.mark.skipif(device().type != "cuda", reason="torch reports on CUDA only when it waits")
@pytest.mark.parametrize("fixed", [False, True])
def test_more_tokens_wait_no_more_often_for_the_gpu(place, monkeypatch, fixed):
    monkeypatch.setattr(fixed_decoding, "FIXED_SHAPES", fixed)
    monkeypatch.setattr("rlhf.rollout.check_interval", lambda device: 64)
    model, counts = tiny_gpt2().eval().to(place), []
    sample_on(place, model)  # probes the model
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for length in (4, 24):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sample_on(place, model, length)
            counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 < counts[0] == counts[1]


@pytest.mark.skipif(device().type != "cuda", reason="torch's kernel for sequences of different lengths needs CUDA")
def test_varlen_attention_equals_attention_in_groups_to_two_percent(place, monkeypatch):
    layout = pack(torch.tensor(DISTINCT[0], device=place))
    inputs = [random_states(1, layout.length + 3, seed=i).detach().to(place).requires_grad_() for i in range(3)]

    def run():
        with torch.autocast("cuda", torch.bfloat16):
            return with_gradients(lambda *qkv: packed_outputs(layout, AttentionModule(1), *qkv).float(), *inputs)

    expected = run()
    calls, kernel = [], rlhf.engine.gpu.varlen._kernel
    monkeypatch.setattr(rlhf.engine.gpu.varlen, "VARLEN", True)
    monkeypatch.setattr(rlhf.engine.gpu.varlen, "_kernel", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    for result, number in zip(run(), expected, strict=True):
        assert (result - number).abs().max() < 0.02 * number.abs().max()
    assert calls


def test_pinned_copies_have_the_values_of_plain_ones(place):
    tensors = [torch.randn(1000, 100, dtype=torch.float64), torch.arange(7), torch.tensor([True, False]), torch.ones(0)]
    for tensor in tensors:
        assert torch.equal(to_device(tensor, place).cpu(), tensor)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, RLOO, {"share_trunk": True}, {"micro_batch_size": 3}])
def test_two_steps_have_the_metrics_of_the_cpu(tokenizer, monkeypatch, options):
    there = [step.metrics for step in make_trainer(tokenizer, **options).train()]
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr("rlhf.trainer.Accelerator", lambda **kwargs: Accelerator(cpu=True))
    here = [step.metrics for step in make_trainer(tokenizer, **options).train()]
    AcceleratorState._reset_state(reset_partial_state=True)
    for expected, metrics in zip(here, there, strict=True):
        assert metrics == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_a_resumed_run_ends_like_an_uninterrupted_one(tokenizer, tmp_path):
    whole, first, second = (make_trainer(tokenizer, total_episodes=24) for _ in range(3))
    list(whole.train())
    next(first.train())
    first.save_state(tmp_path)
    second.load_state(tmp_path)
    list(second.train())
    torch.testing.assert_close(weights(second.policy).cpu(), weights(whole.policy).cpu(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("precision", ["", "--bf16", "--fp16"])
def test_the_whole_pipeline_runs(toy_run, tmp_path, precision):
    if precision == "--fp16" and device().type == "cpu":
        pytest.skip("fp16 needs a GPU")
    output = make("ppo", f"BASE={toy_run}", f"ARGS={precision} --total_episodes 32", run=tmp_path / "run")
    assert "checks passed: ratio = 1, KL to the reference = 0" in output
    assert record(tmp_path / "run", "ppo")["metrics"]["kl"] == pytest.approx(0, abs=0.5)


@pytest.mark.skipif(device().type != "cuda", reason="a limit of the memory that torch may use exists on CUDA only")
def test_out_of_memory_ends_with_a_message(toy_run, tmp_path):
    program = (
        "import torch; torch.cuda.set_per_process_memory_fraction(0.002)\n"
        "from stages.ppo import main, work\nmain('ppo', work)"
    )
    arguments = ("--recipe", "tests/toy.yaml", "--run", str(tmp_path / "run"), "--base", str(toy_run))
    size = ("--batch_size", "4096", "--total_episodes", "4096")
    output = shell(sys.executable, "-c", program, *arguments, *size, status=2)
    assert "ppo: not enough memory" in output
