"""What make is told, and what the stages of a recipe require of each other."""

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf import InputError
from stages.common.decisions import stages_up_to
from stages.common.options import CHAIN
from stages.common.parsing import Parsed, parse_given
from stages.common.programs import STAGES
from stages.common.request import Request, split_words
from stages.common.requirements import check_sources
from tests.pipeline import TOY, make_here, stage
from tests.recipes import write_recipe


@pytest.mark.parametrize(
    ("variables", "folder", "arguments"),
    [
        ({}, "runs/tiny", []),
        ({"RECIPE": TOY}, "runs/toy", []),
        ({"SEED": "3"}, "runs/tiny-seed3", []),
        ({"RUN": "elsewhere", "SEED": "3"}, "elsewhere", []),
        ({"ARGS": """--a 'b c' --d "e's" --f \\$5"""}, "runs/tiny", ["--a", "b c", "--d", "e's", "--f", "$5"]),
        ({"PROMPT": "It costs $5, `x` and 'y'"}, "runs/tiny", ["--prompt=It costs $5, `x` and 'y'"]),
    ],
)
def test_variables_decide_recipe_folder_and_options(variables, folder, arguments):
    request = Request.read("samples", variables)
    assert (str(request.run.folder), request.arguments) == (folder, arguments)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SEED": "1; rm -rf x"}, "SEED is '1; rm -rf x'; it must be a whole number"),
        ({"SEED": "-1"}, "SEED is '-1'"),
        ({"SEED": "1.5"}, "SEED is '1.5'"),
        ({"SEED": "4294967296"}, "SEED is '4294967296'"),
        ({"SEED": "\u0663"}, "SEED is '\u0663'"),
        ({"REMAKE": "perhaps"}, "REMAKE is 'perhaps'; it must be 1 or 0"),
        ({"RUN": "\udcff"}, "RUN is not UTF-8"),
        ({"ARGS": "--run elsewhere"}, "ARGS can't have --run: give RUN="),
        ({"ARGS": "--output=x"}, "ARGS can't have --output: start the stage with it"),
        ({"ARGS": "--epochs 2", "GOALS": "sft reward"}, "ARGS is for one stage, and make was given sft and reward"),
        ({"RECIPE": "a b"}, "no recipe a b"),
        ({"ARGS": "--prompt 'unclosed"}, "ARGS ends within a quote: --prompt 'unclosed"),
    ],
)
def test_variables_that_make_no_sense_are_refused(variables, message):
    with pytest.raises(InputError, match=message):
        Request.read("ppo", variables)


# --- words ------------------------------------------------------------------------------------------------------------


# no character that a shell expands, or that ends a command
@given(st.text("ab \t'\"\\=-,.:", max_size=20))
def test_words_are_those_of_a_shell(text):
    script = f"set -- {text}\nfor word; do printf '%s\\0' \"$word\"; done"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    ends_within_an_escape = (len(text) - len(text.rstrip("\\"))) % 2 == 1  # for the shell it goes on in the next line
    if done.returncode or ends_within_an_escape:
        with pytest.raises(InputError, match="ARGS ends within"):
            split_words(text)
    else:
        assert split_words(text) == done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$HOME `id` * ~ #a;b|c&d", ["$HOME", "`id`", "*", "~", "#a;b|c&d"]),
        (r""""\$5 \` \" \\ \n" '\$5' \$5""", [r"""$5 ` " \ \n""", r"\$5", "$5"]),
        ("a''b ''", ["ab", ""]),
    ],
)
def test_nothing_in_a_word_is_expanded(text, words):
    assert split_words(text) == words


# --- what stages require of each other --------------------------------------------------------------------------------

WORLD = {"world": True}
OWN = {"text": ["a"], "demonstrations": ["b"], "comparisons": ["c"]}


def options_of(recipe: str) -> dict[str, Parsed]:
    request = Request.read("ppo", {"RECIPE": recipe})
    return {name: parse_given(name, request.argv(name)) for name in STAGES}


def recipe_of(folder: Path, **sections: dict) -> str:
    return write_recipe(folder, json.dumps(sections))


@pytest.mark.parametrize(
    ("ppo", "before"),
    [
        ({}, ["data", "pretrain", "sft", "comparisons", "reward"]),
        ({"reward_function": "a:b"}, ["data", "pretrain", "sft"]),
        ({"reward_model": "x"}, ["data", "pretrain", "sft"]),
        ({"reward_function": None}, ["data", "pretrain", "sft", "comparisons", "reward"]),
    ],
)
def test_ppo_needs_a_reward_model_unless_it_is_given_a_reward(tmp_path, ppo, before):
    options = options_of(recipe_of(tmp_path, ppo=ppo))
    assert stages_up_to("ppo", options) == [*before, "ppo"]
    assert stages_up_to("evaluate", options) == [*before, "ppo", "evaluate"]
    assert stages_up_to("reward", options) == list(CHAIN[:5])


@pytest.mark.parametrize(
    ("data", "sections", "message"),
    [
        (WORLD, {"comparisons": {"labeller": "a:b"}}, None),
        (WORLD, {}, "comparisons: no rankings and no labeller"),
        (WORLD, {"ppo": {"reward_function": "a:b"}}, None),
        (OWN, {}, None),
        ({**OWN, "text": []}, {}, "pretrain: no text to train on"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}}, "ppo: ptx_coef is 0.5, and there is no pretraining text"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}, "ppo": {"ptx_coef": 0}}, None),
        ({**OWN, "demonstrations": []}, {}, "sft: no demonstrations to train on"),
        ({**OWN, "demonstrations": []}, {"sft": {"demonstrations": "a.jsonl"}}, None),
        ({"text": ["a"]}, {"sft": {"demonstrations": "a"}, "ppo": {"reward_function": "a:b"}}, "ppo: no prompts"),
        ({"world": False}, {}, "pretrain: no text to train on"),
        (OWN, {"ppo": {"eval_steps": 2}}, "ppo: eval_steps needs held-out prompts: set validation_rows under data"),
        (OWN, {"ppo": {"eval_steps": 2, "eval_prompts": "a.jsonl"}}, None),
        ({**OWN, "validation_rows": 9}, {"ppo": {"eval_steps": 2}}, None),
    ],
)  # fmt: skip
def test_a_recipe_that_lacks_rows_is_refused_before_the_first_stage(tmp_path, data, sections, message):
    parsed = options_of(recipe_of(tmp_path, data=data, **sections))
    options = {name: one.options for name, one in parsed.items()}
    if message is None:
        check_sources(stages_up_to("ppo", parsed), options)
    else:
        with pytest.raises(InputError, match=message):
            check_sources(stages_up_to("evaluate", parsed), options)
        check_sources(stages_up_to("data", parsed), options)  # the data stage itself can be made


@pytest.mark.parametrize("data, refused", [(OWN, True), (WORLD, False)])
def test_validation_rows_of_files_without_a_test_share_are_refused(tmp_path, data, refused):
    parsed = options_of(recipe_of(tmp_path, data={**data, "validation_rows": 9, "test_share": 0}))
    options = {name: one.options for name, one in parsed.items()}
    with pytest.raises(InputError, match="test_share, which is 0") if refused else nullcontext():
        check_sources(stages_up_to("data", parsed), options)


def test_a_recipe_that_can_not_work_leaves_no_folder(tmp_path, capsys):
    recipe = write_recipe(tmp_path, "data:\n  world: true\n")
    assert "comparisons: no rankings and no labeller" in make_here("ppo", capsys, tmp_path / "run", recipe, status=2)
    recipe = write_recipe(tmp_path, "ppo:\n  kl_ceof: 1\n")
    assert 'mine.yaml:2: there is no option "kl_ceof"' in make_here("data", capsys, tmp_path / "run", recipe, status=2)
    assert not (tmp_path / "run").exists()


def test_a_stage_without_its_input_says_what_to_run(tmp_path):
    for name, before in (
        ("sft", "pretrain"),
        ("comparisons", "sft"),
        ("reward", "sft"),
        ("ppo", "sft"),
        ("samples", "data"),
    ):
        assert f"run `make {before}` first" in stage(name, run=tmp_path / "empty", status=2)
