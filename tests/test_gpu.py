"""The accelerator computes what the CPU computes, on every path; run by `make gpu`.

Without an accelerator both sides are the CPU: the tests then only show that they run.
"""

import copy
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from rlhf.classifiers import Scorer
from rlhf.evaluate import sequence_logprobs
from rlhf.models import device
from rlhf.reward import score_sequences
from rlhf.rollout import generate, random_numbers
from rlhf.tokens import pad
from tests.conftest import tiny_gpt2, tiny_llama
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
