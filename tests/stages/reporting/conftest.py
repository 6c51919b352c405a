"""A report of a run, opened in a browser."""

import pytest

from tests.pipeline import stage
from tests.stages.reporting.runs import write_run
from tests.stages.web.conftest import browser  # noqa: F401


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """The folder of a run with a report."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "toy", seeds=(1, 2))
    stage("report", run=folder)
    return folder


@pytest.fixture
def open_report(browser, reported):  # noqa: F811
    """A function that opens the report. At the end: no error on the console, and no request but for the page itself."""
    contexts, problems, requests = [], [], []

    def open_report(**options):
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((reported / "report.html").as_uri())
        return tab

    yield open_report
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", "file://"))] == []
    assert len([url for url in requests if url.startswith("file://")]) == len(contexts)
