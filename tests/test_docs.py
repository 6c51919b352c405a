"""The pages of docs/ cover what they promise, name what exists, and stay short."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from rlhf.config import PPOConfig
from tests.trainers import make_trainer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WORDS = 1200  # of a page, tables included

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
    """What is in backticks in the first column of the page's tables."""
    rows = [line.split("|")[1] for line in (DOCS / page).read_text().splitlines() if line.startswith("| ")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, without those to other sites and without #sections."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- what the pages promise to cover ----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [TRL_FIELDS, TRL_ARGUMENTS], ids=["fields", "arguments"])
def test_every_option_and_argument_of_trls_ppo_has_a_row(names):
    assert set(names) <= first_column("from-trl.md")


def test_the_options_that_correspond_to_trls_exist():
    page = (DOCS / "from-trl.md").read_text().split("## Fields of PPOConfig")[1].split("\n## ")[0]
    ours = {field.name for field in fields(PPOConfig)}
    second = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")][1:]
    named = {name for cell in second for name in re.findall(r"`([a-z_]+)`", cell)}
    assert len(named) > 20
    assert named - {"k1", "show_samples"} <= ours


def test_every_number_that_ppo_logs_is_explained(tokenizer):
    logged = set(next(make_trainer(tokenizer).train()).metrics)
    assert logged <= first_column("metrics.md")


# --- what the pages name ----------------------------------------------------------------------------------------------


def test_every_test_that_the_table_of_traps_names_exists():
    table = (DOCS / "correctness.md").read_text().split("## The traps")[1]
    named = [re.findall(r"`([^`]+)`", line.split("|")[3]) for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(named) > 15
    for names in named:
        assert names and ".py" in names[0]
        for name in names:
            if ".py" in name:
                file, _, name = name.partition("::")
            assert f"def {name.rstrip('…')}" in (ROOT / "tests" / file).read_text(), name


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_every_python_file_that_a_page_names_exists(page):
    paths = re.findall(r"`((?:rlhf|stages|data|tests)/[\w./-]+\.py)\b", page.read_text())
    # the table of traps names tests relative to tests/
    folders = {path: ROOT / "tests" if Path(path).name.startswith("test_") else ROOT for path in paths}
    assert [path for path in paths if not (ROOT / path).is_file() and not (folders[path] / path).is_file()] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "data" / "README.md", *PAGES], ids=name_of)
def test_every_relative_link_leads_to_a_file_or_folder(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


# --- their size, and the way to them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_short(page):
    assert len(page.read_text().split()) <= WORDS


def test_the_index_links_every_page():
    assert {page.name for page in PAGES} - {"README.md"} <= set(links(DOCS / "README.md"))
