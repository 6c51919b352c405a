"""A browser, a served page, and a person who opens it."""

import pytest

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
def visit(browser, server):
    """A function that opens the page for a person. At the end: no error on the console, no request to another host."""
    contexts, problems, hosts = [], [], set()

    def visit(name="Ada", allow_errors=False, **options):
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(8000)
        contexts.append(context)
        tab = context.new_page()
        if not allow_errors:
            tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.goto(server.address)
        tab.fill("#name", name)
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".card")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert problems == []
    assert hosts == {f"127.0.0.1:{server.port}"}
