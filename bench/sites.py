"""A gunicorn under a real supervisord with our listener, for the bench: to start it, to ask the
listener for an action and to see in the journal how it ended, to see who lives and what they hold.

The servers themselves are those of the tests (tests/servers.py); nothing here judges.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from journals import Book, message  # noqa: E402
from servers import (  # noqa: E402
    Receiver,
    Supervisor,
    free_port,
    get,
    gunicorn,
    gunicorn_path,
    program,
    wait_until,
)

# The tests' servers, for who has not the tests on the path.
__all__ = [
    "Receiver",
    "Supervisor",
    "free_port",
    "get",
    "gunicorn",
    "gunicorn_path",
    "program",
    "wait_until",
]

T = TypeVar("T")

PATIENCE = 60.0  # seconds until a request for an action is accepted
# An action and its answer: longer than the longest that procedures.py waits for anything.
LONGEST = 400.0
LISTED = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class Stopped(Exception):
    """The bench was interrupted, or its time is over."""


class Ended(NamedTuple):
    """How an action ended: as its outcome says, or `held`."""

    result: str
    text: str


class Worker(NamedTuple):
    """A process right below the master, in the order of their starts."""

    start: int  # ticks of the kernel's clock
    pid: int


def plain_environment() -> dict[str, str | None]:
    """What to take out of a supervisord's environment: proxies, and traces of another one."""
    names = [name for name in os.environ if name.startswith(("SUPERVISOR_", "GUNICORN_"))]
    proxies = [name for low in PROXIES for name in (low, low.upper())]
    return dict.fromkeys([*names, *proxies, "WEB_CONCURRENCY"])


class Site:
    """One program of a supervisord, watched from outside."""

    def __init__(self, supervisor: Supervisor, name: str, port: int) -> None:
        self.supervisor = supervisor
        self.name = name
        self.port = port
        self.book = Book(supervisor)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def master(self) -> int:
        """Supervisor's pid of the program; 0 where it does not run."""
        try:
            return self.supervisor.program_pid(self.name)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return 0

    def workers(self) -> list[Worker]:
        """The oldest first."""
        return workers_of(self.master())

    def serves(self) -> bool:
        try:
            get(self.url, 10)
        except OSError:
            return False
        return True

    def wait_until_up(self, workers: int, timeout: float = 120) -> None:
        """RUNNING, with all its workers, and answering."""
        wait_until(
            lambda: len(self.workers()) == workers and self.serves(),
            timeout,
            lambda: f"{self.name} is up\n{self.supervisor}",
            every=0.2,
        )

    def ask(self, command: str, target: object) -> tuple[float, int]:
        """Have an action accepted; when it was asked for (monotonic), and where the journal was.

        The listener may not have seen the newest worker yet: so it is asked again until it has.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            asked, seq = time.monotonic(), self.newest()
            answer, reason = self.answer(command, target)
            if answer == "accepted":
                return asked, seq
            if time.monotonic() > deadline:
                raise AssertionError(f"{command} {target}: {answer}: {reason}\n{self.supervisor}")
            time.sleep(1)

    def call(self, method: str, *arguments: object) -> None:
        """One of Supervisor's RPC."""
        getattr(self.supervisor.rpc.supervisor, method)(*arguments)

    def answer(self, command: str, target: object) -> tuple[str, str]:
        """Ask the listener once: its answer and the reason."""
        id = str(uuid.uuid4())
        self.book.send(message(command, target, id, by="the bench"))
        found = poll(lambda: self.book.answer(id), 60, 0.1)
        if found is None:
            raise AssertionError(f"no answer to {command} {target}\n{self.supervisor}")
        return found

    def newest(self) -> int:
        """The number of the journal's newest entry about the program."""
        rows = self.book.rows("SELECT max(seq) FROM entries WHERE namespec = ?", self.name)
        return rows[0][0] or 0 if rows else 0

    def ended(self, seq: int) -> Ended | None:
        """How the action ended that was asked for when the journal was at `seq`."""
        rows = self.book.rows(
            "SELECT kind, text, data FROM entries WHERE namespec = ? AND seq > ?"
            " AND kind IN ('outcome', 'held') ORDER BY seq",
            self.name,
            seq,
        )
        for kind, text, data in rows:
            found: dict[str, Any] = json.loads(data)
            if kind == "outcome":
                return Ended(str(found.get("result")), text)
            if found.get("code") == "preflight":
                return Ended("held", text)
        return None


def workers_of(master: int) -> list[Worker]:
    found = []
    for pid in children(master) if master else ():
        start = _start(pid)
        if start is not None:
            found.append(Worker(start, pid))
    return sorted(found)


def _start(pid: int) -> int | None:
    """None for what has gone, zombies too."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    """Right below it; psutil, which reads all of /proc, only where the kernel has no list."""
    if not LISTED:
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.NoSuchProcess:
            return []
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        pass
    return found


def tree(pid: int) -> Iterator[int]:
    """It and all below it."""
    yield pid
    for child in children(pid):
        yield from tree(child)


def resident(pids: list[int]) -> int:
    """The sum of what each holds, shared pages counted for each: cheap."""
    return sum(_pages(pid) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def proportional(pids: list[int]) -> int:
    """The sum of their PSS, bytes."""
    return sum(_pss(pid) for pid in pids)


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def poll(value: Callable[[], T | None], timeout: float, every: float = 0.2) -> T | None:
    """The first value that is one; None where there was none in time."""
    deadline = time.monotonic() + timeout
    while (found := value()) is None and time.monotonic() < deadline:
        time.sleep(every)
    return found
