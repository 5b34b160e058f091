"""`memwatch serve`: the report, live, for this machine alone; and the file of `memwatch report`.

Answers GET and HEAD of one page, on a loopback address or a unix socket, and changes nothing. A
page of somebody else's that a browser has open must not read it: the Host has to be this machine's
own name for itself (a rebound DNS name is not), and no other page may frame or embed it.

Not here: what the page says (page.py, markup.py) and reading the journal (chronicle.py).
"""

from __future__ import annotations

import http.server
import ipaddress
import os
import socket
import socketserver
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import __version__, chronicle, markup, status, units
from .config import Config
from .journal import JournalError

REFRESH = 10.0  # seconds after which an open page asks again
PATIENCE = 10.0  # seconds for a client to say what it wants, and to take it
ASSETS = Path(__file__).with_name("assets")


class ServeError(Exception):
    """It cannot be served there; the text says why and what to do."""


class Address(NamedTuple):
    """A unix socket's path, or a loopback host and a port."""

    path: str | None
    host: str = ""
    port: int = 0


def address(text: str) -> Address:
    """`127.0.0.1:8787`, `[::1]:8787`, `8787` or `unix:/run/memwatch.sock`. Raises ServeError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ServeError(f"--listen {text}: a path has to follow unix:")
        return Address(os.path.abspath(path))
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ServeError(
            f"--listen {text}: valid: 127.0.0.1:PORT, [::1]:PORT, PORT or unix:/path/to/socket"
        )
    if not _is_loopback(host):
        raise ServeError(
            f"--listen {text}: only a loopback address, for it asks for no password; from "
            f"elsewhere: ssh -L {port}:127.0.0.1:{port} HOST, or a web server that asks for one, "
            "in front of --listen unix:/path/to/socket"
        )
    return Address(None, "127.0.0.1" if host == "localhost" else host, int(port))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_name(host: str | None) -> bool:
    """Whether a request's Host is this machine's name for itself, on whatever port (ssh -L)."""
    if not host:
        return False
    name, _, port = host.rpartition(":")
    if not name or not port.isdigit():  # without a port; the colons may be an IPv6 address's
        name = host
    return _is_loopback(name.removeprefix("[").removesuffix("]").lower())


# -- the page ----------------------------------------------------------------------------------


def assets() -> tuple[str, str]:
    """The page's style and script."""
    css, js = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return css, js


def report(document: Mapping[str, Any]) -> str:
    """The page of a span as one file's text."""
    return markup.render(document, *assets())


def written(path: str, document: Mapping[str, Any], size: int) -> str:
    """`page.html: 46KB, 2 programs, 2026-01-31 13:10 to ...`: what a report's file holds."""
    count = len(document["programs"])
    programs = f"{count} program{'' if count == 1 else 's'}"
    return f"{units.printable(path)}: {units.size(size)}, {programs}, {markup.span(document)}"


# -- serving -----------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    server_version = f"memwatch/{__version__}"
    sys_version = ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.server.checks_host and not is_own_name(self.headers.get("Host")):
            self._answer(
                403, "text/plain; charset=utf-8", b"This page is for http://localhost only.\n"
            )
        elif self.path.partition("?")[0] == "/":
            try:
                self._answer(200, "text/html; charset=utf-8", self.server.page().encode())
            except JournalError as error:
                text = f"The journal cannot be read: {error}\n"
                self._answer(503, "text/plain; charset=utf-8", text.encode())
        elif self.path == "/favicon.ico":
            self._answer(204, "text/plain; charset=utf-8", b"")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"There is one page: /\n")

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.policy,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        return "-"  # a unix socket's client has none

    def log_message(self, format: str, *values: Any) -> None:
        """Requests are nobody's business; trouble is answered."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Threads, so that a slow client holds up nobody; the page is made once for all of them."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, where: Address, make: Callable[[], str], policy: str) -> None:
        self.policy = policy
        # A unix socket is no browser's: its file tells who may use it, or the server before it.
        self.checks_host = where.path is None
        self._make = make
        self._lock = threading.Lock()
        self._page = ""
        self._made: float | None = None
        self._took = 0.0  # seconds to make it
        target: Any = (where.host, where.port)
        self.address_family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
        if where.path is not None:
            _clear(where.path)
            self.address_family, target = socket.AF_UNIX, where.path
        super().__init__(target, _Handler)

    def server_bind(self) -> None:
        before = os.umask(0o177)  # of a unix socket: for its owner alone, from its first moment
        try:
            super().server_bind()
        finally:
            os.umask(before)

    def page(self) -> str:
        """The page as of a moment ago. Raises JournalError."""
        with self._lock:
            begun = time.monotonic()
            # Whoever asks, and how often: it costs a fifth of one core at most.
            if self._made is None or begun - self._made >= max(1.0, 4 * self._took):
                self._page = self._make()
                self._made = time.monotonic()
                self._took = self._made - begun
            return self._page

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no trouble of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _clear(path: str) -> None:
    """A socket that nobody serves any more is in the way. Raises ServeError where one is served."""
    if not os.path.exists(path):
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ServeError(f"{path}: is there, and is no socket; name another one with --listen")
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise ServeError(f"{path}: {error.strerror}") from None
    raise ServeError(f"{path}: somebody serves there already; name another one with --listen")


def open_server(
    config: Config, where: Address, names: Sequence[str], length: float
) -> socketserver.BaseServer:
    """A server of the last `length` seconds, listening already. Raises ServeError, JournalError."""
    css, js = assets()

    def make() -> str:
        document = chronicle.document(config, names, status.now(config) - length)
        return markup.render(document, css, js, refresh=REFRESH)

    make()  # what cannot be read is better said now
    try:
        return _Server(where, make, markup.policy(css, js, live=True))
    except OSError as error:
        place = where.path or f"{where.host}:{where.port}"
        raise ServeError(
            f"{place}: {error.strerror or error}; name another one with --listen"
        ) from None


def url(server: socketserver.BaseServer) -> str:
    """Where it listens, for people."""
    at: Any = server.server_address
    if isinstance(at, str | bytes):
        return f"unix:{os.fsdecode(at)}"
    host = f"[{at[0]}]" if ":" in at[0] else at[0]
    return f"http://{host}:{at[1]}/"


def close(server: socketserver.BaseServer) -> None:
    """End it; the file of its socket goes with it."""
    server.server_close()
    if isinstance(server.server_address, str) and os.path.exists(server.server_address):
        os.unlink(server.server_address)
