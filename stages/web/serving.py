"""A local server for a page: its address, which holds a secret token, and how it starts and ends."""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rlhf import InputError
from stages.common.console import say
from stages.common.interruption import interruption
from stages.web.security import EVERYWHERE, SLOWEST_REQUEST, Guard

SAVED = (
    ".address.json"  # the port and the token of the last server, so that a page that is open goes on after a restart
)


class Server:
    """A server on a socket of its own, until Ctrl-C, SIGTERM or `stop`."""

    def __init__(self, host: str, port: int, folder: Path):
        """Binds the port: the given one, for 0 that of the last server of `folder`, or any free one."""
        saved = _saved(folder / SAVED)
        self.host, self.token = host, saved.get("token") or secrets.token_urlsafe(24)
        self.socket = _bind(host, port, saved.get("port", 0))
        self.port: int = self.socket.getsockname()[1]
        self.signal: int | None = None  # that ended it
        self._running: uvicorn.Server | None = None
        self._stopped = False
        _save(folder / SAVED, {"port": self.port, "token": self.token})

    def address(self, host: str | None = None) -> str:
        """The address of the page, for a browser on this computer, or on the computer that sees it as `host`."""
        host = host or ("127.0.0.1" if self.host in EVERYWHERE else self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self.token}/"

    def announce(self, browser: bool) -> None:
        """Prints the address, a warning if other computers can reach it, and opens it if there is a display.

        From now on a signal ends the server and not the program.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self.stop(number))
        say(self.address())
        if self.host not in ("127.0.0.1", "::1", "localhost"):
            if self.host in EVERYWHERE:
                say(f"{self.address(_own_address())} for other computers")
            say("warning: other computers can reach this page. Whoever has the address can use it, and the connection")
            say("is not encrypted: use it only in a network that you trust")
        if browser and _has_display():
            with suppress(webbrowser.Error):
                webbrowser.open(self.address())

    def serve(self, app: ASGIApp) -> None:
        """Serves until a signal arrives, which is then in `signal`, or `stop` is called."""
        config = uvicorn.Config(
            Guard(app, self.token, self.host, self.port),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=500,  # connections; a process may often have 1,024 files open
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16 * 1024,
        )
        try:
            asyncio.run(self._serve(_Uvicorn(config)))
        finally:
            interruption.listen()

    async def _serve(self, server: uvicorn.Server) -> None:
        self._running = server
        if not self._stopped:
            await server.serve(sockets=[self.socket])

    def stop(self, number: int | None = None) -> None:
        """Ends the server within a tenth of a second, from any thread or from a signal, also before it serves."""
        self.signal = number or self.signal
        self._stopped = True
        if self._running:
            self._running.should_exit = True


class _Connection(H11Protocol):
    """Ends a connection without a request. Otherwise some hundred idle ones would keep people out for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(SLOWEST_REQUEST, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None:
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to `Server`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int, last: int) -> socket.socket:
    """A socket that listens. Raises InputError if the host or the port can't be used."""
    error: OSError | None = None
    for candidate in [port] if port else [last, 0] if last else [0]:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, protocol)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
            bound.listen(2048)  # who opens the page before the server runs waits for it
            return bound
        except OSError as problem:
            error = problem
    reason = f"{error.strerror if error else ''}"
    raise InputError(f"no page at {host}, port {port}: {reason}; choose others with HOST= and PORT=")


def _saved(path: Path) -> dict:
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(path.read_text(encoding="utf-8"))
        token, port = saved["token"], saved["port"]
        if isinstance(token, str) and re.fullmatch(r"[\w-]{32,}", token, re.ASCII):
            return {"token": token, "port": port if isinstance(port, int) and 0 < port < 65536 else 0}
    return {}


def _save(path: Path, saved: dict) -> None:
    """Writes a file that only the user may read, because it holds the token."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(saved, file)


def _own_address() -> str:
    """The address of this computer in its network. Nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address for documentation, RFC 5737
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
