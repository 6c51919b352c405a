"""transformers' own server serves an exported model to a client of the chat completions interface."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from rlhf.models import load_policy
from rlhf.tokens import load_tokenizer
from stages.common.answers import Answerer
from stages.common.conversation import Conversation, Reply, Turn
from tests.pipeline import environment, stage

openai = pytest.importorskip("openai", reason="pip install 'transformers[serving]'")
pytest.importorskip("fastapi", reason="pip install 'transformers[serving]'")
QUESTION = "Who is Rose?"


@pytest.fixture(scope="module")
def client(toy_run, tmp_path_factory):
    """A client of a server that serves the toy run's SFT model, exported into a hub cache as toy/sft."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--toy--sft"
    stage("chat", "--models", "sft", "--export", repository / "snapshots" / "main", run=toy_run)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("main")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(words, env=environment(HF_HUB_CACHE=str(cache)))
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(cache)


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not start")


def test_the_served_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["toy/sft"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_gets_the_greedy_answer_of_the_chat(client, toy_run, streaming):
    tokenizer = load_tokenizer(toy_run / "sft")
    model = Answerer("sft", "", load_policy(toy_run / "sft", tokenizer), tokenizer)
    conversation = Conversation("User: {}\nBot:", False, turns=[Turn(QUESTION)])
    expected = "".join(Reply(model, conversation.prompt_for(model, 24)[1], 24, 0.0, 0))
    answer = client.chat.completions.create(
        model="toy/sft",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=24,
        temperature=0,
        stream=streaming,
    )
    if streaming:
        assert "".join(part.choices[0].delta.content or "" for part in answer) == expected
    else:
        assert answer.choices[0].message.content == expected
