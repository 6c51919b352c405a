"""A stage computes in several processes what it computes in one, and all of its processes end together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from rlhf import InputError
from rlhf.models import load_policy
from rlhf.rows import read_jsonl
from rlhf.tokens import load_tokenizer, new_tokenizer
from stages.common import processes
from stages.common.request import Request
from tests.forks import ROOT
from tests.interrupted import SAVING
from tests.pipeline import TOY, environment, forks, record, shell, stage
from tests.scoring.test_reward_models import save

PPO = ("--total_episodes", "96", "--show_samples", "0", *SAVING)


@pytest.fixture(scope="module")
def base(toy_run, tmp_path_factory):
    """A copy of the toy run, for runs that stand on it."""
    folder = tmp_path_factory.mktemp("processes") / "toy"
    shutil.copytree(toy_run, folder)
    return folder


def launch(count, name, *arguments, run, base, code=None, **kwargs):
    """Starts a stage in `count` processes, each running `code` or the stage."""
    program = ["-c", code] if code else ["-m", f"stages.{name}"]
    places = ["--recipe", TOY, "--run", str(run), "--base", str(base)]
    environments = processes._environments(count) if count > 1 else [dict(os.environ)]
    return [
        subprocess.Popen(
            [sys.executable, *program, *places, *map(str, arguments)],
            cwd=ROOT,
            env={**variables, **environment(), **{k: variables[k] for k in variables if k not in os.environ}},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **kwargs,
        )
        for variables in environments
    ]


def ended(children, seconds=60):
    """The statuses and outputs of processes, which must end within some seconds of each other."""
    outputs = [child.communicate(timeout=seconds)[0] for child in children]
    return [child.returncode for child in children], outputs


def run_stage(count, name, *arguments, run, base):
    """The outputs of a stage in `count` processes, forked, so that they need not import everything again."""
    argv = ["--recipe", TOY, "--run", str(run), "--base", str(base), *map(str, arguments)]
    launched = {name: os.environ[name] for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))}
    environments = [
        {**launched, **{k: v for k, v in variables.items() if k not in os.environ}}
        for variables in (processes._environments(count) if count > 1 else [{}])
    ]
    results = forks().run_several(name, argv, environments)
    assert [status for status, _ in results] == [0] * count, results
    return [output for _, output in results]


def log_of(run):
    return [row for _, row in read_jsonl(run / "ppo" / "log.jsonl")]


def assert_same_log(one, other):
    assert len(one) == len(other)
    for expected, step in zip(one, other, strict=True):
        assert step.keys() == expected.keys()
        for name in expected.keys() - {"episodes_per_second"}:
            assert step[name] == pytest.approx(expected[name], abs=1e-5, rel=1e-4), (step["step"], name)


# --- the same result --------------------------------------------------------------------------------------------------


COMPARED = ("sft", "comparisons", "reward", "ppo", "evaluate")


@pytest.fixture(scope="module")
def one(base, tmp_path_factory):
    """The folder of runs whose stages computed in one process, each on the results of the base."""
    folder = tmp_path_factory.mktemp("one")
    for name in COMPARED:
        stage(name, "--base", base, run=folder / name)
    return folder


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def several(base, tmp_path_factory, request):
    """The same with several processes."""
    folder = tmp_path_factory.mktemp("several")
    for name in COMPARED:
        run_stage(request.param, name, run=folder / name, base=base)
    return folder


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_a_training_stage_has_the_losses_and_gradients_of_one_process(one, several, name):
    histories = [record(run / name, name)["history"] for run in (one, several)]
    for expected, row in zip(*histories, strict=True):
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_comparisons_have_the_completions_of_one_process(one, several):
    files = [run / "comparisons" / "comparisons" / "train.jsonl" for run in (one, several)]
    assert files[0].read_text() == files[1].read_text()


def test_ppo_has_the_metrics_of_one_process(one, several):
    assert_same_log(log_of(one / "ppo"), log_of(several / "ppo"))


def test_evaluate_has_the_metrics_of_one_process(one, several):
    files = [run / "evaluate" / "evaluate" / "metrics.json" for run in (one, several)]
    expected, metrics = (json.loads(file.read_text()) for file in files)
    assert metrics.keys() == expected.keys()
    for name in expected.keys() - {"seconds"}:
        assert metrics[name] == pytest.approx(expected[name], abs=1e-4, rel=1e-4)


def test_the_record_names_the_processes(one, several):
    assert record(several / "ppo", "ppo")["processes"] > record(one / "ppo", "ppo")["processes"] == 1
    assert record(several / "ppo", "ppo")["distributed"] == "MULTI_CPU"
    assert record(one / "ppo", "ppo")["distributed"] == "NO"


def test_only_the_main_process_prints(base, tmp_path):
    first, second = run_stage(2, "evaluate", "--count", "4", run=tmp_path / "run", base=base)
    assert first.strip().startswith("evaluate  (2 processes, distributed: MULTI_CPU)")
    assert second == ""


# --- reward models and functions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A reward model with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("judge")
    save(folder, "llama", new_tokenizer(["Bot: User: the quick brown fox! yes no 1 2 3"] * 9, 300))
    return folder


FUNCTION = "tests.rewards:only_the_main_process"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--reward_model", "JUDGE", "--micro_batch_size", "3", "--batch_size", "12", "--total_episodes", "36"),
        pytest.param(("--reward_functions", "JUDGE", FUNCTION, "--gold", "JUDGE"), marks=pytest.mark.slow),
        ("--reward_model", "JUDGE", "--reward_functions", FUNCTION, "--reward_model_weight", "2"),
    ],
)
def test_ppo_has_the_scores_of_one_process_from_a_reward_model_that_reads_text(base, judge, tmp_path, arguments):
    arguments = [str(judge) if word == "JUDGE" else word for word in (*arguments, "--show_samples", "0")]
    stage("ppo", "--base", base, *arguments, run=tmp_path / "one")
    run_stage(2, "ppo", *arguments, run=tmp_path / "two", base=base)
    assert_same_log(log_of(tmp_path / "one"), log_of(tmp_path / "two"))


@pytest.mark.parametrize("scorer", [pytest.param("JUDGE", marks=pytest.mark.slow), FUNCTION])
def test_labeller_and_gold_are_called_by_the_main_process_alone(base, judge, tmp_path, scorer):
    name = str(judge) if scorer == "JUDGE" else scorer
    for stage_name, option in (("comparisons", "--labeller"), ("evaluate", "--gold"), ("samples", "--gold")):
        run_stage(2, stage_name, option, name, run=tmp_path / "two", base=base)
    stage("comparisons", "--base", base, "--labeller", name, run=tmp_path / "one")
    stage("evaluate", "--base", base, "--gold", name, run=tmp_path / "one")
    one, two = ((tmp_path / run / "comparisons" / "train.jsonl").read_text() for run in ("one", "two"))
    assert one == two
    one, two = (json.loads((tmp_path / run / "evaluate" / "metrics.json").read_text()) for run in ("one", "two"))
    assert two["ppo"]["gold"] == pytest.approx(one["ppo"]["gold"], abs=1e-4)


def test_what_a_chat_template_refuses_ends_all_processes_with_one_message(base, judge, tmp_path):
    tokenizer = load_tokenizer(judge)
    tokenizer.chat_template = "{% for m in messages if m.content != 'a' %}{{ raise_exception('too long') }}{% endfor %}"
    shutil.copytree(judge, tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    arguments = ("--reward_functions", tmp_path / "judge")
    codes, outputs = ended(launch(2, "ppo", *arguments, run=tmp_path / "run", base=base))
    assert codes == [2, 2], outputs
    assert outputs[0].count("refuses") == 1 and outputs[1] == ""
    assert "Traceback" not in "".join(outputs)


# --- interruptions ----------------------------------------------------------------------------------------------------


def wait_for_step(step, run, children):
    folder = run / ".ppo.partial" / "checkpoints"
    while not list(folder.glob(f"step-*{step}")):
        assert all(child.poll() is None for child in children), [child.communicate()[0] for child in children]
        time.sleep(0.02)


def kill_at_step(step, count, run, base):
    children = launch(count, "ppo", *PPO, run=run, base=base)
    wait_for_step(step, run, children)
    for child in children:
        child.kill()
    ended(children)


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory):
    """PPO's six steps in one process, and in two."""
    runs = {count: tmp_path_factory.mktemp("uninterrupted") / "run" for count in (1, 2)}
    stage("ppo", "--base", base, *PPO, run=runs[1])
    run_stage(2, "ppo", *PPO, run=runs[2], base=base)
    return runs


@pytest.mark.parametrize(
    "before, after", [(2, 1), *(pytest.param(*n, marks=pytest.mark.slow) for n in ((1, 2), (2, 4)))]
)
def test_a_run_goes_on_with_another_number_of_processes(uninterrupted, base, tmp_path, before, after):
    kill_at_step(3, before, tmp_path / "run", base)
    outputs = run_stage(after, "ppo", *PPO, run=tmp_path / "run", base=base)
    assert "resumes after step" in outputs[0]
    assert_same_log(log_of(uninterrupted[1]), log_of(tmp_path / "run"))


def test_a_run_of_two_processes_resumes_to_the_same_bits(uninterrupted, base, tmp_path):
    kill_at_step(3, 2, tmp_path / "run", base)
    run_stage(2, "ppo", *PPO, run=tmp_path / "run", base=base)
    for file in ("model.safetensors", "value_model/model.safetensors"):
        whole, resumed = ((run / "ppo" / file).read_bytes() for run in (uninterrupted[2], tmp_path / "run"))
        assert resumed == whole


@pytest.mark.slow
def test_sigterm_to_make_saves_a_step_on_all_processes_and_the_same_command_resumes(uninterrupted, base, tmp_path):
    run, arguments = tmp_path / "run", " ".join(PPO)
    variables = {"RECIPE": "tests/toy.yaml", "RUN": str(run), "PROCESSES": "2", "BASE": str(base), "ARGS": arguments}
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "ppo"],
        cwd=ROOT,
        env=environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_for_step(2, run, [process])
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert output.count("interrupted; saved after step") == 1
    assert "Traceback" not in output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no process is left
    assert "resumes after step" in shell(sys.executable, "-m", "stages", "ppo", **variables)
    assert_same_log(log_of(uninterrupted[1]), log_of(run))


WRONG_ROW = "from rlhf import InputError; raise InputError('this row is wrong')"
KILLED = (
    "import os, signal; from rlhf.trainer import PPOTrainer; from stages.ppo import main, work\n"
    "update = PPOTrainer.update\n"
    "def failing(self, *args, **kwargs):\n"
    "    if os.environ['RANK'] == '1' and self.steps_done == 1: {failure}\n"
    "    update(self, *args, **kwargs)\n"
    "PPOTrainer.update = failing\n"
    "main('ppo', work)\n"
)


@pytest.mark.parametrize(
    "failure, statuses, messages",
    [
        pytest.param("raise ValueError('a defect')", [1, 1], ["", "ValueError: a defect"], marks=pytest.mark.slow),
        pytest.param(WRONG_ROW, [2, 2], ["", "ppo: this row is wrong"], marks=pytest.mark.slow),
        ("os.kill(os.getpid(), signal.SIGKILL)", [137, -9], ["another process of this stage was killed", ""]),
    ],
)
def test_all_processes_end_when_one_fails(base, tmp_path, failure, statuses, messages):
    run = tmp_path / "run"
    children = launch(2, "ppo", *PPO, run=run, base=base, code=KILLED.format(failure=failure))
    codes, outputs = ended(children)
    assert codes == statuses, outputs
    for output, message in zip(outputs, messages, strict=True):
        assert message in output
        assert ("Traceback" in output) == ("ValueError" in message), output
    assert not (run / "ppo").exists()
    assert "resumes after step 1" in run_stage(2, "ppo", *PPO, run=run, base=base)[0]
    load_policy(run / "ppo", load_tokenizer(run / "ppo"))


def test_an_error_that_all_processes_have_is_printed_once(base, tmp_path):
    children = launch(2, "ppo", "--model", tmp_path / "none", run=tmp_path / "run", base=base)
    codes, outputs = ended(children)
    assert codes == [2, 2]
    assert "no tokenizer at" in outputs[0]
    assert outputs[1] == ""


def test_make_returns_the_status_of_the_process_that_fails_first_and_stops_the_others(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    programs = ["import time; time.sleep(600)", "raise SystemExit(7)"]
    started = time.time()
    assert processes._wait([subprocess.Popen([sys.executable, "-c", program]) for program in programs]) == 7
    assert time.time() - started < 30


# --- launchers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_launchers_start_a_stage_by_hand(base, tmp_path, launcher):
    count = {
        "torch.distributed.run": ("--standalone", "--nproc-per-node=2"),
        "accelerate.commands.launch": ("--multi_gpu", "--num_processes=2", "--main_process_port=0"),
    }
    end = ("--",) if launcher == "torch.distributed.run" else ()
    arguments = ("stages.evaluate", "--recipe", "tests/toy.yaml", "--run", tmp_path / "run", "--base", base)
    output = shell(sys.executable, "-m", launcher, *count[launcher], "-m", *end, *map(str, arguments), "--count", "4")
    assert "(2 processes, distributed: MULTI_CPU)" in output


def test_processes_that_accelerate_leaves_alone_are_told_how_to_start(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("accelerate.PartialState", lambda **settings: SimpleNamespace(num_processes=1))
    with pytest.raises(InputError, match="2 processes were started, but Accelerate sees 1: start them with `make"):
        processes.connect()


def test_processes_must_be_a_number_and_accelerate_a_file():
    with pytest.raises(InputError, match="PROCESSES is '0'; it must be a whole number from 1"):
        Request.read("ppo", {"PROCESSES": "0"})
    with pytest.raises(InputError, match="there is no such file; `accelerate config` writes one"):
        Request.read("ppo", {"ACCELERATE": "none.yaml"})
