"""The pages say something of everything they promise to cover."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from rlhf.config import PPOConfig
from tests.test_trainer import make_trainer

DOCS = Path(__file__).parent.parent / "docs"

# of trl 1.12.0, trl/experimental/ppo: the fields of PPOConfig, and the arguments of PPOTrainer
TRL_FIELDS = """
learning_rate dataset_num_proc num_mini_batches total_episodes local_rollout_forward_batch_size num_sample_generations
response_length stop_token stop_token_id temperature missing_eos_penalty sft_model_path world_size num_total_batches
micro_batch_size local_batch_size batch_size local_mini_batch_size mini_batch_size push_to_hub reward_model_path
model_adapter_name ref_adapter_name num_ppo_epochs whiten_rewards kl_coef kl_estimator cliprange vf_coef cliprange_value
gamma lam ds3_gather_for_generation
""".split()
TRL_ARGUMENTS = """
args processing_class model ref_model reward_model train_dataset value_model data_collator eval_dataset optimizers
callbacks peft_config
""".split()


def first_column(page: str) -> set[str]:
    """What stands in backticks in the first column of the page's tables."""
    rows = [line.split("|")[1] for line in (DOCS / page).read_text().splitlines() if line.startswith("| ")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("names", [TRL_FIELDS, TRL_ARGUMENTS], ids=["fields", "arguments"])
def test_everything_one_could_tell_trls_trainer_has_a_row(names):
    assert set(names) <= first_column("from-trl.md")


def test_our_names_in_that_page_exist():
    page = (DOCS / "from-trl.md").read_text().split("## What you set")[1].split("## What we do")[0]
    ours = {field.name for field in fields(PPOConfig)}
    second = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")][1:]
    named = {name for cell in second for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named - {"num_mini_batches", "k1", "show_samples"} <= ours


def test_every_test_that_the_table_of_traps_names_exists():
    table = (DOCS / "correctness.md").read_text().split("## The traps")[1]
    named = [re.findall(r"`([^`]+)`", line.split("|")[3]) for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(named) > 15
    for names in named:
        for name in names:
            if ".py" in name:
                file, _, name = name.partition("::")
            assert f"def {name.rstrip('…')}" in (Path(__file__).parent / file).read_text(), name


def test_every_number_that_ppo_logs_is_explained(tokenizer):
    logged = set(next(make_trainer(tokenizer).train()).metrics)
    assert logged <= first_column("metrics.md")
