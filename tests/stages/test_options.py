"""Every number has a range: a value outside it is refused with option, value and range, before a model is loaded."""

from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

import pytest
import torch

from rlhf import InputError
from rlhf.option import Range
from stages.common.ending import is_out_of_memory
from stages.common.parsing import parse_given
from stages.common.programs import OPTIONS
from tests.pipeline import make_here, stage
from tests.recipes import write_recipe

VALUES = ("-1", "0", "0.5", "1e18", "NaN", "inf", "", "word")
# the values of this list that each option accepts; "" stands for none
ACCEPTED = {
    "0 0.5 1e18": "kl_coef learning_rate lm_coef min_entropy missing_eos_penalty noise ptx_coef reward_model_weight tie_margin value_learning_rate "
    "vf_coef weight_decay",
    "0.5 1e18": "adam_epsilon keep_max_kl kl_horizon kl_target lora_alpha max_grad_norm max_kl save_minutes",
    "0 0.5": "adam_beta1 adam_beta2 baseline_decay ema_decay gamma held_out lam shared test_share chat.temperature samples.temperature",
    "0.5": "cliprange cliprange_high cliprange_value epochs initializer_range old_weight temperature task.test_share",
    "0": "best_of lora_dropout lr_warmup_steps port preview run_seed seed show_samples swapped test_count test_rows validation_rows "
    "value_warmup_steps warmup_steps task.layers",
    "-1 0 0.5 1e18": "perfect",
    "": "batch_size completions context count eval_count eval_steps heads layers limit lora_r max_length max_steps micro_batch_size num_generations "
    "num_mini_batches num_ppo_epochs ptx_batch_size response_length rows save_steps save_total_limit shot_draws task.test_rows "
    "total_episodes "
    "vocab_size width world_demonstrations world_documents world_prompts",
}
ACCEPTED_BY = {name: values.split() for values, names in ACCEPTED.items() for name in names.split()}
# options without which an option is refused
NEEDED = {"reward_model_weight": ["--reward_function=a:b"], "keep_max_kl": ["--keep=best", "--eval_steps=1"]}
# values at the ends of a range
ENDS = [
    ("pretrain", "vocab_size", "258", "257"),  # 256 bytes, the end of a text, and padding
    ("pretrain", "context", "2", "1"),
    ("pretrain", "width", "8", "100001"),
    ("sft", "max_length", "2", "1"),
    ("sft", "epochs", "1000", "1001"),
    ("sft", "max_steps", "1", "0"),
    ("sft", "adam_beta2", "0.9999", "1"),
    ("data", "test_share", "1", "1.01"),
    ("data", "seed", "4294967295", "4294967296"),
    ("ppo", "gamma", "1", "1.01"),
    ("ppo", "ema_decay", "0.9999", "1"),
    ("ppo", "learning_rate", "1e-30", "-1e-30"),
    ("ppo", "temperature", "0.01", "1e-30"),
    ("ppo", "batch_size", "4", "99999999999999999999"),
    ("comparisons", "completions", "1", "1001"),
    ("rank", "completions", "9", "10"),  # a card for each of the keys 1 to 9
    ("rank", "port", "65535", "65536"),
]


def numeric(name: str) -> list:
    """The fields of a stage's options that hold a number."""
    hints = get_type_hints(OPTIONS[name])
    return [
        field
        for field in fields(OPTIONS[name])
        if {int, float} & {hints[field.name], *get_args(hints[field.name])}
        and get_origin(hints[field.name]) is not list
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_number_is_accepted_within_its_range_and_refused_with_its_range(name, tmp_path):
    recipe = write_recipe(tmp_path, "")
    for field in numeric(name):
        own = f"{name}.{field.name}"
        accepted = ACCEPTED_BY[own if own in ACCEPTED_BY else field.name]
        others = NEEDED.get(field.name, [])
        for value in VALUES:
            try:
                parse_given(name, ["--recipe", recipe, f"--{field.name}={value}", *others])
            except InputError as error:
                assert value not in accepted, error
                quoted = (f"{value!r};", f"{value};", f"{value.lower()};", f"{value}.0;", "1e+18;")
                assert str(error).startswith(f"command line: {field.name} is ")
                assert any(f"is {text} it must be" in str(error) for text in quoted)
                assert str(error).removesuffix(" or none").endswith(str(field.metadata["range"]))
            else:
                assert value in accepted, f"{field.name} {value}"


@pytest.mark.parametrize("name, option, inside, outside", ENDS)
def test_the_ends_of_a_range_are_where_they_must_be(name, option, inside, outside):
    parse_given(name, [f"--{option}", inside])
    with pytest.raises(InputError, match=f"{option} is .*; it must be"):
        parse_given(name, [f"--{option}={outside}"])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_a_number_shows_its_range(name, capsys):
    with pytest.raises(SystemExit):
        parse_given(name, ["--help"])
    text = "".join(capsys.readouterr().out.split())
    for field in numeric(name):
        if field.name != "perfect":  # any number
            assert field.metadata["range"] != Range()
            assert "".join(f"{field.metadata['help']} ({field.metadata['range']}; default: ".split()) in text


@pytest.mark.parametrize(
    "name, argv, message",
    [
        ("pretrain", ["--width", "20", "--heads", "3"], "width 20 can't be shared by 3 heads"),
        ("comparisons", ["--completions", "1", "--swapped", "0"], "at least two completions"),
        ("data", ["--sample_by", "paragraf"], 'line, paragraph or document, did you mean "paragraph"?'),
        ("reward", ["--normalise_on", "comparison"], 'did you mean "comparisons"?'),
    ],
)
def test_options_that_contradict_each_other_and_misspelt_names_are_refused(name, argv, message):
    with pytest.raises(InputError) as error:
        parse_given(name, argv)
    assert message in str(error.value)


# --- in the stages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, argv, message",
    [
        ("sft", "--epochs 1e-9", "epochs is 1e-09, which is less than one of the 200 rows"),
        ("sft", "--weight_decay 1e30", "the loss is nan"),
        ("sft", "--lr_scheduler_type greedy", "follows a metric"),
        ("sft", "--log_with tensorbord", 'did you mean "tensorboard"?'),
        (
            "sft",
            '--trainer {"pad_to_multiple_of":0}',
            "the arguments in trainer (pad_to_multiple_of): ZeroDivisionError",
        ),
        ("sft", '--trainer {"eval_strategy":"steps"}', "the arguments in trainer (eval_strategy): ValueError"),
        ("sft", '--trainer {"optim":"lomo"}', "the arguments in trainer (optim): ImportError"),
        ("ppo", "--kl_coef 1e300", "the norms of the gradients"),
        ("ppo", "--temperature 1e-30", "temperature is 1e-30; it must be from 0.01 to 100"),
        ("ppo", "--cliprange 1e300", "cliprange is 1e+300; it must be above 0 and at most 1,000"),
        ("ppo", "--lr_scheduler_type polynomial --learning_rate 1e-9", "lr_end (1e-07) must be smaller"),
        ("evaluate", "--temperature 0", "temperature is 0.0; it must be from 0.01"),
        ("samples", "--response_length 1000000", "leaves no room for a prompt in a context of 128"),
    ],
)
def test_nonsense_ends_a_stage_with_a_message(toy_run, tmp_path, name, argv, message):
    output = tmp_path / "result"
    assert message in stage(name, *argv.split(), "--output", output, run=toy_run, status=2)
    assert not output.exists()


def test_an_error_of_torch_that_memory_is_exhausted_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert is_out_of_memory(error.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize("section", ["sft: {trainer: {optm: sgd}}", "ppo: {lr_scheduler_type: cosin}"])
def test_make_refuses_a_misspelt_name_before_the_first_stage(tmp_path, capsys, section):
    run = tmp_path / "run"
    output = make_here("ppo", capsys, run, write_recipe(tmp_path, f"base: tests/toy.yaml\n{section}\n"), status=2)
    assert "did you mean" in output
    assert not run.exists()


def test_held_out_prompts_are_not_needed(tmp_path, capsys):
    recipe = write_recipe(tmp_path, "base: tests/toy.yaml\ndata: {test_rows: 0}\n")
    output = make_here("reward", capsys, tmp_path / "run", recipe)
    assert "test: 0 rows" in output
