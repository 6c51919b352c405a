"""Models, checkpoints and recipes of others: reading them runs no code and writes nowhere else."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

from rlhf import InputError
from rlhf.models import load_policy
from rlhf.run.checkpoint import MANIFEST, _manifest
from rlhf.tokens import load_tokenizer
from tests.conftest import tiny_gpt2
from tests.forks import ROOT
from tests.interrupted import SAVING, kill_at_step
from tests.pipeline import stage
from tests.recipes import write_recipe


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of torch, about the second file
def test_weights_that_would_run_code_are_refused(tokenizer, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"w": Payload(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="would run code"):
        load_policy(tmp_path, tokenizer)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError):
        load_policy(tmp_path, tokenizer)
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_refused_without_a_question(tokenizer, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.C", "AutoModelForCausalLM": "odd.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["odd.T", null]}}'
    )
    (tmp_path / "odd.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    for load in (lambda: load_policy(tmp_path, tokenizer), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(InputError):
            load()
    assert not (tmp_path / "ran").exists()


def forge_manifest(folder) -> None:
    """Makes the manifest agree with the files that are there, as an attacker would."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(_manifest(folder)))


def test_a_checkpoint_that_would_run_code_is_refused(run, tmp_path):
    folder = kill_at_step(1, "sft", run=run)
    for name in ("optimizer.pt", "rng_state.pth"):
        path = sorted(folder.glob("step-*"))[-1]
        original = (path / name).read_bytes()
        torch.save({"state": Payload(tmp_path / "ran")}, path / name)
        forge_manifest(path)
        assert "would run code" in stage("sft", *SAVING, run=run, status=2)
        (path / name).write_bytes(original)
        forge_manifest(path)
    assert not (tmp_path / "ran").exists()


def test_a_ppo_checkpoint_with_a_path_for_a_tensor_is_refused(run):
    path = sorted(kill_at_step(2, "ppo", "--total_episodes", "320", run=run).glob("step-*"))[-1]
    (path / "state.json").write_text('{"dict": [["steps_done", {"tensor": "../../../etc/passwd"}]]}')
    forge_manifest(path)
    assert "can't resume from the checkpoint" in stage("ppo", *SAVING, "--total_episodes", "320", run=run, status=2)


@pytest.mark.parametrize("text, message", [
    ("ppo: {output: ../elsewhere}", "a recipe's section can't set output"),
    ("sft: {run: /tmp}", "a recipe's section can't set run"),
    ("sft: {trainer: {push_to_hub: true}}", "outside the run's folder"),
    ("sft: {trainer: {output_dir: /tmp}}", "output_dir"),
])  # fmt: skip
def test_a_recipe_can_not_write_outside_its_run(run, tmp_path, text, message):
    recipe = write_recipe(tmp_path, f"base: {ROOT}/tests/toy.yaml\n{text}\n")
    assert message in stage(text.split(":")[0], run=run, recipe=recipe, status=2)


def test_telemetry_is_off():
    code = "import stages, os; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY; assert os.environ['HF_HUB_DISABLE_TELEMETRY'] == '1'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
