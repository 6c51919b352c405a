"""The model card that a stage writes beside its model."""

import json
import shutil

import yaml

from rlhf.models import load_policy
from rlhf.tokens import load_tokenizer
from stages.common.card import card, parameters
from stages.common.run import Run, record_of
from tests.pipeline import finished, make_here
from tests.test_escape import rendered


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_every_model_of_a_run_has_a_card_and_other_results_have_none(toy_run):
    cards = {name for name in finished(toy_run) if (toy_run / name / "README.md").is_file()}
    assert cards == {"pretrain", "sft", "reward", "ppo"}
    task = front_matter((toy_run / "reward" / "README.md").read_text())["pipeline_tag"]
    assert task == "text-classification"


def test_the_card_has_the_numbers_of_the_record(toy_run):
    record, text = record_of(toy_run / "reward"), (toy_run / "reward" / "README.md").read_text()
    accuracy = [record["metrics"][f"label_accuracy{end}"] for end in ("", "_low", "_high")]
    assert "| label_accuracy | {:.4g} (95 % interval {:.4g} to {:.4g}) |".format(*accuracy) in text
    assert f"{record['rows']['used']} used" in text and f"after {record['seconds']:g} s" in text
    assert text == card(toy_run / "reward", record, Run(toy_run))


def test_the_size_is_the_number_of_parameters(toy_run):
    policy = load_policy(toy_run / "sft", load_tokenizer(toy_run / "sft"))
    assert parameters(toy_run / "sft" / "model.safetensors") == sum(p.numel() for p in policy.parameters())


def test_text_of_options_and_data_can_not_be_markup_and_folders_are_not_named(toy_run):
    record = record_of(toy_run / "ppo")
    evil = '<script>|\n# x [a](javascript:y) `"\x1b'
    record["options"] |= {"recipe": "/home/me/secret/toy.yaml", "reward_function": evil, "model": f"org/{evil}"}
    record["given"] = [*record["given"], "reward_function"]
    record["rows"] = {"used": 3, "dropped": {evil: 2}}
    record["metrics"] = {"kl": float("nan"), evil: 1.0}
    text = card(toy_run / "ppo", record, Run(toy_run))
    assert "secret" not in text and "<script>" not in text.split("---\n", 2)[2] and "\x1b" not in text
    assert front_matter(text)["base_model"] == f"org/{evil}"
    body = text.split("## Limits")[0].split("---\n", 2)[2]
    cells = [words for kind, words in rendered(body) if kind == "td"]
    assert any("<script>|" in words for words in cells) and "nan" in cells


def test_the_base_model_of_a_run_is_the_one_that_its_pretraining_loaded(toy_run, tmp_path):
    shutil.copytree(toy_run / "pretrain", tmp_path / "pretrain")
    record = record_of(toy_run / "pretrain")
    record["options"]["model"] = "gpt2"
    (tmp_path / "pretrain" / "stage.json").write_text(json.dumps(record))
    text = card(toy_run / "sft", record_of(toy_run / "sft"), Run(tmp_path))
    assert front_matter(text)["base_model"] == "gpt2"
    (tmp_path / "pretrain" / "stage.json").write_text("{")
    assert "base_model" not in front_matter(card(toy_run / "sft", record_of(toy_run / "sft"), Run(tmp_path)))


def test_a_changed_card_makes_no_later_stage_out_of_date(run, capsys):
    (run / "sft" / "README.md").write_text("edited")
    assert "up to date" in make_here("ppo", capsys, run)


def test_the_readme_of_a_model_that_no_stage_made_is_part_of_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("a")
    before = Run(tmp_path).hash(str(folder))
    (folder / "README.md").write_text("another")
    assert Run(tmp_path).hash(str(folder)) != before
