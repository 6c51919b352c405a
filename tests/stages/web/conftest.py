"""A browser, a served page, and a person who opens it."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_gpt2
from tests.stages.web.browsing import FLAGS, chromium
from tests.stages.web.pages import Page


@pytest.fixture(scope="module")
def browser():
    """Chromium. The tests that need it are skipped where it, or playwright, is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (path := chromium()) is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path):
    server = Page(tmp_path, "--shared", "1")
    yield server
    server.end()


@pytest.fixture
def open_tab(browser):
    """A function that opens a page. At the end: no error on the console, no request to another host."""
    contexts, problems, hosts, own = [], [], set(), set()

    def open_tab(page, allow_errors=False, **options):
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(20_000)  # milliseconds; CI computes other tests at the same time
        contexts.append(context)
        own.add(f"127.0.0.1:{page.port}")
        tab = context.new_page()
        if not allow_errors:
            tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.goto(page.address)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert problems == []
    assert hosts == own


@pytest.fixture
def visit(open_tab, server):
    """A function that opens the page for a person who ranks."""

    def visit(name="Ada", **options):
        tab = open_tab(server, **options)
        tab.fill("#name", name)
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".card")
        return tab

    return visit


@pytest.fixture(scope="session")
def talkers(tokenizer, tmp_path_factory):
    """Folders of two models that talk nonsense; their context of 20,000 tokens lets an answer take minutes."""
    folders = []
    for number, name in enumerate(("first", "second")):
        config = tiny_gpt2().config
        config.n_positions = 20_000
        torch.manual_seed(number)
        folder = tmp_path_factory.mktemp("talkers") / name
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    return folders
