"""PPO with reward functions, as a stage: options, log, output, and functions that leave or wait."""

import json
import signal
import subprocess

import pytest

from data import world
from rlhf import InputError
from stages.common.options import CHAIN, PPOOptions
from stages.common.parsing import parse
from tests.interrupted import start
from tests.pipeline import finished, make_here, stage
from tests.recipes import write_recipe

LEARNS_NOTHING = ("--learning_rate", "0", "--value_learning_rate", "0", "--total_episodes", "32")


def log_of(run):
    return [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_function": "a:b", "reward_weights": [1.0, 2.0]}, "reward_weights has 2 numbers for 1 reward functions"),
        ({"reward_function": "a:b", "reward_functions": ["a:b"]}, "a:b is named twice"),
        ({"reward_model_weight": 0.5}, "reward_model_weight needs reward functions"),
        ({"reward_functions": ["a:b"], "reward_weights": [float("nan")]}, "it must be a list of finite numbers"),
        ({"reward_functions": ["a:b"], "reward_weights": ["x"]}, "it must be a list of finite numbers"),
    ],
)  # fmt: skip
def test_options_of_rewards_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PPOOptions(**options)


def test_reward_functions_and_weights_are_lists_in_a_recipe_and_on_the_command_line(tmp_path):
    functions = ["data.world:gold", "data.world:criteria"]
    text = json.dumps({"ppo": {"reward_functions": functions, "reward_weights": [1, -0.5]}})
    options = parse("ppo", ["--recipe", write_recipe(tmp_path, text)])
    assert (options.named_functions, options.reward_weights) == (functions, [1.0, -0.5])
    typed = ["--reward_functions", *functions, "--reward_weights", "2", "-1", "--reward_model_weight", "0.5"]
    options = parse("ppo", typed)
    assert options.reward_weights == [2.0, -1.0] and options.uses_reward_model
    assert parse("ppo", ["--reward_function=data.world:gold", "--reward_weights=-1"]).reward_weights == [-1.0]
    with pytest.raises(InputError, match="no function 'gild' in module data.world"):
        parse("ppo", ["--reward_functions", "data.world:gild"])


# --- the sum and its parts --------------------------------------------------------------------------------------------


def test_beside_the_reward_model_the_score_is_the_weighted_sum_and_each_part_is_logged(run):
    stage("ppo", *LEARNS_NOTHING, run=run)
    (plain, *_), before = log_of(run), (run / "ppo" / "ppo.png").read_bytes()
    functions = ("--reward_functions", "tests.rewards:exclamation_marks", "data.world:criteria")
    weights = ("--reward_weights", "0.5", "2", "--reward_model_weight", "3")
    stage("ppo", *LEARNS_NOTHING, *functions, *weights, run=run)
    first = log_of(run)[0]
    assert first["rewards/reward_model"] == pytest.approx(plain["score"])
    parts = [first[f"rewards/{name}"] for name in ("reward_model", "exclamation_marks", "criteria")]
    assert first["score"] == pytest.approx(3 * parts[0] + 0.5 * parts[1] + 2 * parts[2], abs=1e-5)
    assert first["gold"] == pytest.approx(first["rewards/criteria"], abs=1e-5)
    assert {"rewards/criteria/grammatical", "rewards/criteria/floor"} <= first.keys()
    assert (run / "ppo" / "ppo.png").read_bytes() != before


def test_functions_that_disturb_the_run_change_none_of_its_numbers_and_do_not_flood_the_terminal(run):
    """Weight 0 of a function that prints, draws random numbers and changes the folder: the run of the reward model."""
    stage("ppo", "--show_samples", "1", run=run)
    plain = log_of(run)
    weights = ("--reward_weights", "0", "--reward_model_weight", "1")
    output = stage("ppo", "--show_samples", "1", "--reward_functions", "tests.rewards:chatters", *weights, run=run)
    noisy = log_of(run)
    for before, after in zip(plain, noisy, strict=True):
        assert after["rewards/chatters/constant"] == 1.0
        assert after["longest"] >= after["rewards/chatters/long"] == after["rewards/chatters"] - 1.0
        assert {name: after[name] for name in before if name != "episodes_per_second"} == {
            name: before[name] for name in before if name != "episodes_per_second"
        }
    assert len(output) < 20_000 and "\x1b" not in output
    assert output.count(r"| \x1b[31mred") == 3 * 10  # the first ten lines in each of three steps
    assert "  | said: " in output


# --- functions that leave or wait -------------------------------------------------------------------------------------


def test_a_function_that_calls_exit_is_an_error_and_leaves_the_finished_result(run):
    before = finished(run)
    output = stage("ppo", "--reward_function", "tests.rewards:leaves", run=run, status=2)
    assert "leaves called exit" in output and "rewards.py:" in output
    assert finished(run) == before


def test_a_second_ctrl_c_stops_a_function_that_waits(run):
    process = start(
        "ppo", "--reward_function", "tests.rewards:waits", run=run, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    while "waiting" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    while "a second signal stops at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors


# --- verifiable rewards -----------------------------------------------------------------------------------------------

SMALL = """
base: sums
data: {world_documents: 300, world_demonstrations: 60, world_prompts: 40, test_rows: 8}
pretrain: {layers: 1, width: 32, heads: 2}
ppo: {total_episodes: 32, batch_size: 16, ptx_batch_size: 4, response_length: 16}
"""


def test_the_recipe_of_sums_needs_no_reward_model_and_its_score_is_a_share_of_right_answers(tmp_path, capsys):
    run, recipe = tmp_path / "run", write_recipe(tmp_path, SMALL)
    make_here("ppo", capsys, run, recipe)
    assert set(finished(run)) == set(CHAIN) - {"comparisons", "reward"}
    rows = [json.loads(line) for line in (run / "data" / "prompts.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"sum"} and all(row["answer"].isdigit() for row in rows)
    assert all(step["score"] * 16 in range(17) for step in log_of(run))


def test_a_task_that_the_world_lacks_is_refused(tmp_path):
    output = stage("data", "--world_tasks", "sums", run=tmp_path / "run", status=2)
    assert "world_tasks: the world has no task 'sums', did you mean \"sum\"?" in output
    assert ", ".join(world.TASKS) in output
