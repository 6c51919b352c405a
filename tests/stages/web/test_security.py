"""Requests of strangers: other pages in the browser, other programs, people who guess. Nothing is lost, it still serves."""

import http.client
import json
import secrets
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from stages.web.security import Guard
from stages.web.serving import Server
from tests.pipeline import stage
from tests.stages.web.pages import Page, write_comparisons


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("page"))
    yield page
    assert page.end() == 0


@pytest.fixture(autouse=True)
def still_serving(page):
    """After each test the page answers, and no line is lost."""
    before = len(page.rows())
    yield
    deadline = time.time() + 5  # the limit of requests recovers
    while page.request("GET", "/")[0] == 429 and time.time() < deadline:
        time.sleep(0.1)
    assert page.request("GET", "/")[0] == 200
    assert len(page.rows()) >= before


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "127.0.0.1.evil.example:{port}", ""]
)
def test_a_foreign_host_is_refused(page, host):
    assert page.request("GET", "/", Host=host.format(port=page.port))[0] == 400


def test_localhost_is_the_same_page(page):
    assert page.request("GET", "/", Host=f"localhost:{page.port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(page, origin):
    body = json.dumps({"rater": "Ada"}).encode()
    assert page.request("POST", "/next", body, Origin=origin.format(port=page.port))[0] == 403
    assert page.request("POST", "/next", body, Origin=f"http://127.0.0.1:{page.port}")[0] == 200


def test_a_request_that_another_site_causes_is_refused_but_a_link_opens_the_page(page):
    for site in ("cross-site", "same-site"):
        assert page.request("GET", "/rank.js", Sec_Fetch_Site=site)[0] == 403
        assert page.request("GET", "/", Sec_Fetch_Site=site, Sec_Fetch_Dest="iframe")[0] == 403
        assert page.request("POST", "/next", b"{}", Sec_Fetch_Site=site, Sec_Fetch_Dest="document")[0] == 403
    assert page.request("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200


def test_a_missing_or_wrong_token_is_refused(page):
    wrong = page.token[:-1] + ("a" if page.token[-1] != "a" else "b")
    for token in ("", "x", wrong, page.token + "a", page.token[:-1], "\xff"):
        for method, path in (("GET", "/"), ("GET", "/rank.js"), ("POST", "/next")):
            path = path if token else path.removeprefix("/")
            token = token.encode("utf-8").decode("latin-1") if token.isascii() else "%FF"
            assert page.request(method, path, b'{"rater": "Ada"}', token=token)[0] == 403


def test_tricks_with_paths_reach_no_file(page):
    for path in (
        "/../rank.html", "/..%2f..%2frank.py", "/%2e%2e/app.py", "//etc/passwd", "/rank.js/../app.py", "/rank.html",
        "/rank.js%00", "/app.py", "/.address.json", "/rankings.jsonl", "/items.jsonl", "/static/../../store.py",
    ):  # fmt: skip
        status, body = page.request("GET", path)
        assert status == 404 and page.token.encode() not in body and b"import" not in body


def test_other_methods_are_refused(page):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"):
        assert page.request(method, "/")[0] == 405
    assert page.request("GET", "/next")[0] == 405


def test_a_large_body_is_refused_before_it_is_read(page):
    assert page.request("POST", "/decide", Content_Length=str(10**7))[0] == 413
    assert page.request("POST", "/decide", Content_Length="9" * 30)[0] in (400, 413)
    assert page.request("GET", "/", Content_Length=str(10**7))[0] == 413
    with suppress(ConnectionResetError):  # while 10 MB are sent, the server has answered and hung up
        assert page.request("POST", "/decide", b"x" * 10**7)[0] == 413


def test_a_large_body_in_chunks_is_refused_while_it_is_read(page):
    chunks = b"".join(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.putrequest("POST", f"/{page.token}/decide")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(chunks)
    assert connection.getresponse().status == 413


def test_only_json_is_read(page):
    body = b'{"rater": "Ada"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert page.request("POST", "/next", body, Content_Type=kind)[0] == 415
    for text in (b"", b"[]", b"{", b"null", b'"' * 10, b"[" * 60_000, b"\xff", b'{"rater": NaN}'):
        assert page.request("POST", "/next", text)[0] == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "nowhere"}, {"id": ["x"]}, {"id": None}, {"ranks": [0]}, {"ranks": [0, 1, 2, 4]}, {"ranks": [0, 1, 2, -1]},
        {"ranks": [0, 1, 2, True]}, {"ranks": [0, 1, 2, 1.5]}, {"ranks": "0123"}, {"ranks": {}}, {"rater": ""}, {"rater": " "},
        {"rater": "x" * 41}, {"rater": "a\u202eb"}, {"rater": "\x1b[2J"}, {"rater": "\ud800"}, {"rater": 3}, {"note": "x" * 2001},
        {"note": 3}, {"flag": "yes"}, {"all_bad": 1}, {"seconds": "3"}, {"seconds": True}, {"submission": ""},
        {"submission": "x" * 65}, {"submission": 7},
    ],
)  # fmt: skip
def test_a_submission_that_the_page_does_not_send_is_refused(page, wrong):
    item = page.item("Eve")
    right = {"rater": "Eve", "submission": secrets.token_hex(16), "id": item["id"], "ranks": [0, 1, 2, 3], "seconds": 1}
    before = len(page.rows())
    status, body = page.request("POST", "/decide", json.dumps(right | wrong).encode())
    assert status == 400 and json.loads(body)["error"]
    assert len(page.rows()) == before


def test_every_answer_has_the_headers_that_bound_what_a_page_may_do(page):
    for path, status in ((f"/{page.token}/", 200), ("/", 403), (f"/{page.token}/nothing", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", page.port)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == status
        policy = answer.getheader("content-security-policy") or ""
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.getheader("referrer-policy") == "no-referrer"
        assert answer.getheader("cache-control") == "no-store"
        assert answer.getheader("server") is None


def test_the_page_has_no_inline_code_and_names_no_other_host(page):
    html = page.request("GET", "/")[1].decode()
    assert "style=" not in html and " on" not in html.replace(" one", "").replace(" on your", "").split("<body>")[0]
    for name in ("/", "/rank.js", "/cards.js", "/server.js", "/style.css"):
        text = page.request("GET", name)[1].decode()
        assert "://" not in text and "innerHTML" not in text and "eval(" not in text


def test_a_flood_is_answered_with_429_and_loses_nothing(page):
    statuses, lines = [], len(page.rows())

    def flood(token):
        for _ in range(150):
            statuses.append(page.request("POST", "/next", b'{"rater": "Flood"}', token=token)[0])

    threads = [threading.Thread(target=flood, args=(token,)) for token in (page.token, page.token, "wrong", "wrong")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 600 and set(statuses) <= {200, 403, 429} and statuses.count(429) > 50
    time.sleep(1)
    page.decide("Flood")
    assert len(page.rows()) == lines + 1


@pytest.mark.slow
def test_idle_connections_are_ended_so_that_they_keep_nobody_out(page):
    idle = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(500)]
    assert page.request("GET", "/")[0] == 503
    deadline = time.time() + 20
    while page.request("GET", "/")[0] != 200 and time.time() < deadline:
        time.sleep(0.5)
    assert page.request("GET", "/")[0] == 200
    for connection in idle:
        connection.close()


def test_strangers_do_not_use_up_the_requests_of_the_people():
    guard = Guard(None, "token", "127.0.0.1", 80)
    own = {"host": "127.0.0.1"}
    refused = [guard.refusal("GET", own, known=False, opens_page=True)[0] for _ in range(500)]
    assert set(refused) == {403, 429}
    assert guard.refusal("GET", own, known=True, opens_page=True) is None


def test_on_all_addresses_a_host_is_an_address_or_the_name_of_this_computer():
    guard = Guard(None, "token", "0.0.0.0", 8000)
    assert guard.is_own("192.168.1.7:8000") and guard.is_own("[fe80::1]:8000") and guard.is_own("localhost:8000")
    assert (
        not guard.is_own("evil.example:8000")
        and not guard.is_own("192.168.1.7:8001")
        and not guard.is_own("192.168.1.7")
    )


def test_serving_other_computers_prints_a_warning(tmp_path):
    page = Page(tmp_path, "--host", "0.0.0.0", comparisons=write_comparisons(tmp_path))
    assert page.end() == 0
    assert "warning: other computers can reach this page" in page.output


def test_the_address_without_its_last_slash_leads_to_the_page(page):
    assert page.request("GET", "")[0] == 307


def test_sigterm_ends_the_server_with_the_files_for_training_and_its_status(tmp_path):
    page = Page(tmp_path)
    page.decide()
    assert page.end(signal.SIGTERM) == 143
    assert len((page.folder / "comparisons.jsonl").read_text().splitlines()) == 1


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(page, tmp_path):
    argv = ("--comparisons", page.source, "--port", page.port)
    assert "choose others with HOST= and PORT=" in stage("rank", *argv, run=tmp_path, status=2)
    assert "another process is working in" in stage("rank", *argv, run=page.folder.parent, status=2)


@pytest.mark.parametrize(
    "saved", ["{", "[]", "{}", '{"token": "x", "port": 1}', json.dumps({"token": "\u00e9" * 40, "port": 1})]
)
def test_a_saved_address_that_is_none_is_replaced(tmp_path, saved):
    (tmp_path / ".address.json").write_text(saved)
    server = Server("127.0.0.1", 0, tmp_path)
    server.socket.close()
    assert len(server.token) == 32 and server.token.isascii() and server.port > 1


def test_only_the_user_can_read_the_token(page):
    assert (page.folder / ".address.json").stat().st_mode & 0o077 == 0
