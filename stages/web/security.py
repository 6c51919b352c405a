"""What a request to a local page must satisfy before the page sees it, and the headers of every answer.

Other pages in the same browser, and other programs and people on the same computer, can send requests to a local
server. They don't know the token in the address. A page whose name was made to point to this computer (DNS rebinding)
sends its own name as Host.
"""

import asyncio
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024  # bytes
SLOWEST_REQUEST = 10.0  # seconds until its header, and again until its body, has arrived
EVERYWHERE = ("0.0.0.0", "::")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Bucket:
    """A rate limit: `rate` requests a second, and `burst` at once after a pause."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self.clock = rate, burst, clock
        self.full, self.since = burst, clock()

    def take(self) -> bool:
        """Whether one more request is within the limit."""
        now = self.clock()
        self.full, self.since = min(self.burst, self.full + self.rate * (now - self.since)), now
        if self.full < 1:
            return False
        self.full -= 1
        return True


class Guard:
    """Passes a request on, without the token in its path, if it comes from the page itself or opens the page.

    Otherwise the answer is 400 (Host), 403 (Origin, token), 408, 413 (body), 415 (not JSON) or 429 (too many).
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int):
        self.app, self.token, self.host, self.port = app, token, host, port
        # strangers have a limit of their own, so that they can't use up that of the people who know the token
        self.known, self.strangers = Bucket(50, 200), Bucket(50, 200)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        answer: ASGIApp = self.app

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        known = secrets.compare_digest(first.encode(), self.token.encode())
        refusal = self.refusal(scope["method"], dict(headers), known, opens_page=not rest)
        names = [name for name, _ in headers]
        if names.count("host") != 1 or names.count("origin") > 1:
            refusal = 400, "one Host, please"
        if refusal is None and scope["method"] == "POST":
            try:
                receive = replayed(await asyncio.wait_for(body_of(receive), SLOWEST_REQUEST), receive)
            except TimeoutError:
                refusal = 408, "the request takes too long"
            except ValueError:
                refusal = 413, f"more than {LARGEST_BODY:,} bytes"
        if refusal:
            retry = {"retry-after": "1"} if refusal[0] == 429 else {}
            answer = PlainTextResponse(refusal[1] + "\n", refusal[0], {"connection": "close", **retry})
        elif not slash:
            answer = RedirectResponse(f"/{self.token}/")
        path = f"/{rest}"
        await answer({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)

    def refusal(self, method: str, headers: dict[str, str], known: bool, opens_page: bool) -> tuple[int, str] | None:
        """Status and reason, if a request is refused before its body is read."""
        host = headers.get("host", "")
        if not self.is_own(host):
            return 400, "not the address of this page"
        if "origin" in headers and headers["origin"] != f"http://{host}":
            return 403, "a request of another page"
        # a link to the page from elsewhere, such as a mail, may open it
        followed = opens_page and method == "GET" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed:
            return 403, "a request of another page"
        if not (self.known if known else self.strangers).take():
            return 429, "too many requests"
        if not known:
            return 403, "the address lacks the token that was printed with it"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 9 or int(length) > LARGEST_BODY:
            return 413, f"more than {LARGEST_BODY:,} bytes"
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "not JSON"
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server. A name that somebody else registered never does."""
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "80")
        if port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]").lower()
        if self.host in EVERYWHERE:
            return name in ("localhost", socket.gethostname().lower()) or _is_address(name)
        return name in ("localhost", "127.0.0.1", "::1", self.host.lower())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def body_of(receive: Receive) -> bytes:
    """The body of a request. Raises ValueError if it is too large, as soon as that is known."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            raise ValueError
    return body


def replayed(body: bytes, rest: Receive) -> Receive:
    """A `receive` that returns this body, and then what comes after it: that the client has hung up."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await rest()

    return receive
