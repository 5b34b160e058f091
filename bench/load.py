"""A constant HTTP load on one port of this machine, in a process of its own.

Open loop: requests are due at fixed times, whatever became of those before them, and the time of
an answer counts from when its request was due. A server that stands still for a second thus has a
second's requests late, and not a single one, as with clients that wait for each other.

With keep-alive, up to KEPT connections are used in turn. One that the server closes while it is
idle is dropped, as every pool of connections does (`closed`: no failure, but a connection more to
be made); a request that was sent on a kept connection and is not answered is a failure (`reused`).
Nothing is retried. No connection is used again after IDLE seconds: the server's own patience with
idle ones (2 s for gunicorn, 5 s for uvicorn) is then never a failure.

`Load` is for the bench; the rest of this file is what it starts.
"""

from __future__ import annotations

import argparse
import errno
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, TextIO

KEPT = 8  # connections; where all are busy, one more is made for the one request
IDLE = 1.0  # seconds
TIMEOUT = 30.0  # seconds from when a request was due, where nobody says otherwise
LATE_CONNECT = 0.9  # the kernel repeats a SYN that a full listen queue dropped after 1 s

OK = "ok"
CLOSED = "closed"  # a kept connection, by the server, with no request under way or by notice
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Record(NamedTuple):
    """What became of a request, or of a kept connection (`closed`)."""

    due: float  # monotonic seconds
    done: float
    kind: str  # ok, refused, reset, eof, timeout, http500, ..., closed
    reused: bool
    connect: float  # seconds the connecting took; 0 for a reused connection
    late: float  # seconds by which it was begun after it was due: ours, not the server's

    @property
    def seconds(self) -> float:
        return self.done - self.due

    @property
    def failed(self) -> bool:
        return self.kind not in (OK, CLOSED)

    @property
    def name(self) -> str:
        """The failure in words."""
        return f"{self.kind} ({'reused' if self.reused else 'fresh'})"


# -- for the bench


class Load:
    """A load process: idle at first. Not for several threads."""

    def __init__(
        self, port: int, directory: Path, *, keep_alive: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self._records = directory / f"load-{port}"
        command = [sys.executable, __file__, str(port), str(self._records), str(timeout)]
        self._process = subprocess.Popen(
            command + ["--keep-alive"] * keep_alive,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _say(self, *words: object) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def saturation(self, clients: int, seconds: float = 3.0) -> float:
        """Answers per second when `clients` requests are always under way."""
        self._say("saturate", clients, seconds)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the load generator has ended")
        return float(answer)

    def rate(self, per_second: float) -> None:
        """From now on so many requests a second."""
        self._say("rate", per_second)

    def stop(self) -> list[Record]:
        """End it; everything since rate()."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self.records()

    def records(self) -> list[Record]:
        """Those so far."""
        lines = self._records.read_text().splitlines(True) if self._records.exists() else []
        return [_record(line) for line in lines if line.endswith("\n")]


def _record(line: str) -> Record:
    due, done, kind, reused, connect, late = line.split()
    return Record(float(due), float(done), kind, reused == "reused", float(connect), float(late))


# -- the process


class Connection:
    """A connection, and the request that is under way on it."""

    __slots__ = ("begun", "buffer", "connected", "due", "idle_since", "reused", "sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.begun = self.due = self.idle_since = 0.0
        self.connected: float | None = None
        self.buffer = b""
        self.reused = False
        self.waiting = False  # for an answer


class Generator:
    """One thread, one selector: commands from stdin, requests by the clock."""

    def __init__(self, port: int, out: TextIO, keep_alive: bool, timeout: float) -> None:
        self.address = ("127.0.0.1", port)
        self.out = out
        self.keep_alive = keep_alive
        self.timeout = timeout
        header = "keep-alive" if keep_alive else "close"
        self.request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: {header}\r\n\r\n".encode()
        )
        self.selector = selectors.DefaultSelector()
        self.kept: set[Connection] = set()
        self.idle: deque[Connection] = deque()  # of those that are kept
        self.busy: set[Connection] = set()
        self.every: float | None = None  # seconds between two requests
        self.due = 0.0
        self.since = float("inf")  # what was due before is not recorded
        self.clients = 0  # closed loop: so many requests always under way
        self.answered = 0
        self.counted = self.until = 0.0  # from when to when answers count
        self.ending = False

    def run(self) -> None:
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        swept = time.monotonic()
        while not (self.ending and not self.busy):
            now = time.monotonic()
            self._begin_due(now)
            if self.clients and now >= self.until:
                self._report()
            if now - swept > 0.2:
                swept = now
                self._sweep(now)
            for key, _ in self.selector.select(self._pause(now)):
                if key.data is None:
                    self._command(sys.stdin.readline())
                else:
                    self._ready(key.data)

    def _pause(self, now: float) -> float:
        if self.every is None:
            return 0.2
        return min(0.2, max(0.0, self.due - now))

    def _command(self, line: str) -> None:
        words = line.split()
        if not words:
            self.selector.unregister(sys.stdin)
            self.ending, self.every = True, None
        elif words[0] == "rate":
            self.every, self.due = 1 / float(words[1]), time.monotonic()
            self.since = self.due
        else:
            self.clients, self.answered = int(words[1]), 0
            # The first second is not counted.
            self.until = time.monotonic() + 1 + float(words[2])
            self.counted = time.monotonic() + 1
            for _ in range(self.clients):
                self._fresh(time.monotonic())

    def _report(self) -> None:
        self.clients = 0
        print(self.answered / (self.until - self.counted), flush=True)

    def _begin_due(self, now: float) -> None:
        while self.every is not None and self.due <= now:
            self._begin(self.due, now)
            self.due += self.every

    def _begin(self, due: float, now: float) -> None:
        while self.idle:
            connection = self.idle.popleft()
            if now - connection.idle_since > IDLE:
                self._close(connection)
            elif self._is_open(connection):
                connection.reused = True
                connection.due, connection.begun = due, now
                self.busy.add(connection)
                self._send(connection)
                return
            else:
                self._lost(connection)
        self._fresh(due)

    @staticmethod
    def _is_open(connection: Connection) -> bool:
        """Whether the server has not closed it yet, as far as this machine knows."""
        try:
            connection.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _fresh(self, due: float) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock)
        connection.due, connection.begun = due, time.monotonic()
        self.busy.add(connection)
        if self.keep_alive and not self.clients and len(self.kept) < KEPT:
            self.kept.add(connection)
        error = sock.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            self._failed(connection, error)
            return
        self.selector.register(sock, selectors.EVENT_WRITE, connection)

    def _ready(self, connection: Connection) -> None:
        if connection.sock.fileno() < 0:
            return  # closed by an earlier event of this round
        if connection.connected is None:
            error = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._failed(connection, error)
                return
            connection.connected = time.monotonic()
            self.selector.modify(connection.sock, selectors.EVENT_READ, connection)
            self._send(connection)
        elif connection.waiting:
            self._receive(connection)
        else:
            self.idle.remove(connection)
            self._lost(connection)

    def _send(self, connection: Connection) -> None:
        connection.buffer, connection.waiting = b"", True
        try:
            connection.sock.send(self.request)  # small: it fits into any socket's buffer
        except OSError as error:
            self._failed(connection, error.errno)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(connection, error.errno)
            return
        if not data:
            self._end(connection, "eof")
            return
        connection.buffer += data
        head, end, body = connection.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        status = head[9:12].decode("ascii", "replace")
        self._end(
            connection,
            OK if status == "200" else f"http{status}",
            last=_CLOSE.search(head) is not None,
        )

    def _failed(self, connection: Connection, number: int | None) -> None:
        names = {
            errno.ECONNREFUSED: "refused",
            errno.ECONNRESET: "reset",
            errno.EPIPE: "reset",
        }
        self._end(connection, names.get(number or 0, errno.errorcode.get(number or 0, "error")))

    def _end(self, connection: Connection, kind: str, last: bool = True) -> None:
        """A request is over; `last`: the server said that the connection is, too."""
        now = time.monotonic()
        self._write(connection, now, kind)
        self.busy.discard(connection)
        connection.waiting = False
        if self.clients:
            self.answered += kind == OK and now >= self.counted
            self._close(connection)
            self._fresh(now)
            return
        if connection in self.kept and kind == OK and not self.ending:
            if not last:
                connection.idle_since = now
                self.idle.append(connection)
                return
            self._note(now, connection.reused)
        self._close(connection)

    def _lost(self, connection: Connection) -> None:
        self._close(connection)
        self._note(time.monotonic(), True)

    def _close(self, connection: Connection) -> None:
        self.kept.discard(connection)
        if connection.sock in self.selector.get_map():
            self.selector.unregister(connection.sock)
        connection.sock.close()

    def _sweep(self, now: float) -> None:
        """What has waited too long, and what was not needed for a while."""
        for connection in [c for c in self.busy if now - c.due > self.timeout]:
            self._end(connection, "timeout")
        while self.idle and now - self.idle[0].idle_since > IDLE:
            self._close(self.idle.popleft())

    def _note(self, now: float, reused: bool) -> None:
        name = "reused" if reused else "fresh"
        self.out.write(f"{now:.6f} {now:.6f} {CLOSED} {name} 0 0\n")

    def _write(self, connection: Connection, now: float, kind: str) -> None:
        if connection.due < self.since:
            return
        connect = 0.0
        if not connection.reused:
            connect = (connection.connected or now) - connection.begun
        name = "reused" if connection.reused else "fresh"
        late = connection.begun - connection.due
        self.out.write(f"{connection.due:.6f} {now:.6f} {kind} {name} {connect:.6f} {late:.6f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("records")
    parser.add_argument("timeout", type=float)
    parser.add_argument("--keep-alive", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.records, "w", buffering=1) as out:
        Generator(arguments.port, out, arguments.keep_alive, arguments.timeout).run()


if __name__ == "__main__":
    main()
