"""A Listener in this process, between two pipes, beside a Supervisor and a program on paper."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from worlds import World

from supervisor_memwatch.config import load
from supervisor_memwatch.control import RpcError, Tail
from supervisor_memwatch.journal import Reader
from supervisor_memwatch.listener import Listener
from supervisor_memwatch.log import Log
from supervisor_memwatch.model import Command, Proof, Snapshot, WorkerId
from supervisor_memwatch.releases import Code
from supervisor_memwatch.sampler import Program

CONF = """
[supervisord]
[unix_http_server]
file = /nowhere/s.sock
[memwatch]
journal = {journal}
preflight = off
"""


def event(name: str, payload: str = "", serial: int = 1, poolserial: int | None = None) -> bytes:
    """An event, byte for byte as Supervisor sends it."""
    number = serial if poolserial is None else poolserial
    header = (
        f"ver:3.0 server:supervisor serial:{serial} pool:memwatch poolserial:{number} "
        f"eventname:{name} len:{len(payload)}\n"
    )
    return (header + payload).encode()


def tick(serial: int, when: float | None = None, name: str = "TICK_5") -> bytes:
    return event(name, f"when:{int(time.time() if when is None else when)}", serial)


def ticks(count: int, first: int = 1) -> bytes:
    return b"".join(tick(serial) for serial in range(first, first + count))


class PaperSupervisor:
    """The calls of control.Supervisor, answered by worlds; `trouble` makes them fail."""

    def __init__(self, *worlds: World) -> None:
        self.worlds = {world.namespec: world for world in worlds}
        self.trouble: str | None = None
        self.refused: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.asked: Callable[[], None] = lambda: None

    def programs(self) -> list[dict[str, Any]]:
        self.asked()
        self._fail()
        return [
            {
                "group": world.namespec,
                "name": world.namespec,
                "statename": world.state,
                "pid": world.pid,
                "start": 1000,
            }
            for world in self.worlds.values()
        ]

    def configs(self) -> list[dict[str, Any]]:
        self._fail()
        return []

    def tail_stderr(self, name: str, offset: int, length: int) -> Tail:
        return Tail("", 0, False)

    tail_stdout = tail_stderr

    def stop(self, namespec: str) -> None:
        self._do("stop", namespec)

    def start(self, namespec: str) -> None:
        self._do("start", namespec)

    def _do(self, call: str, namespec: str) -> None:
        self.calls.append((call, namespec))
        self._fail(call)
        self.worlds[namespec].obey([Command(call, namespec)])

    def _fail(self, call: str = "") -> None:
        if call in self.refused:
            raise RpcError(None, f"{call} was not heard")
        if self.trouble is not None:
            raise RpcError(None, self.trouble)


class PaperSampler:
    """What sampler.Sampler would have seen of the worlds."""

    def __init__(self, worlds: dict[str, World]) -> None:
        self.worlds = worlds

    def look(self, program: Program, at: float, wants: object = ()) -> Snapshot:
        world = self.worlds.get(program.namespec)
        if world is None or not program.pid:
            return Snapshot(program.namespec, at, program.state, 0, "plain", None, ())
        return world.snapshot(at)._replace(state=program.state, pid=program.pid)

    def quiet(self, namespec: str, id: WorkerId, at: float) -> None:
        return None

    def peaks(self, namespec: str) -> dict[WorkerId, int]:
        return {}

    def forget(self, namespec: str) -> None:
        pass


class PaperPreflights:
    """Every worker can boot, as far as it knows; `proof` says otherwise."""

    def __init__(self) -> None:
        self.proof = Proof(True, "on paper", "it boots", 0.0)
        self.asked: list[str] = []
        self.rooms: list[int | None] = []  # bytes that each of them may take
        self._found: list[tuple[str, Proof]] = []
        self.busy = False
        self.code: Code | None = None  # that is found where it is asked for
        self._codes: list[tuple[str, Code]] = []

    def ask(self, question: Any, at: float) -> None:
        if question.code:
            if self.code is not None:
                self._codes.append((question.namespec, self.code._replace(at=at)))
            return
        self.asked.append(question.namespec)
        self.rooms.append(question.room)
        self._found.append((question.namespec, self.proof._replace(at=at)))

    def look(self, at: float) -> list[tuple[str, Proof]]:
        found, self._found = self._found, []
        return found

    def codes(self) -> list[tuple[str, Code]]:
        codes, self._codes = self._codes, []
        return codes

    def forget(self, namespec: str) -> None:
        pass

    def close(self) -> None:
        pass

    def dump(self) -> dict[str, Any]:
        return {}

    def load(self, data: object) -> None:
        pass


class PaperClock:
    """Goes on by `step` seconds each time Supervisor is asked."""

    def __init__(self, step: float = 5.0) -> None:
        self.now = time.time()
        self.step = step

    def at(self) -> float:
        return self.now

    def stepped(self) -> float:
        return 0.0


class Rig:
    """A listener that has its whole input before it starts: what it said, wrote and did."""

    def __init__(self, directory: Path, options: str = "", *worlds: World) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.journal = directory / "state" / "journal.db"
        self.conf = directory / "supervisord.conf"
        self.conf.write_text(CONF.format(journal=self.journal) + options)
        self.supervisor = PaperSupervisor(*worlds)
        self.clock = PaperClock()
        self.now_asked: Callable[[], None] = lambda: None
        self.supervisor.asked = self._asked
        self.preflights = PaperPreflights()
        self.listener: Listener
        self.status: int | None = None
        self.output = b""
        self._log = directory / "memwatch.log"
        self._out = -1

    def _asked(self) -> None:
        self.clock.now += self.clock.step
        for world in self.supervisor.worlds.values():
            world.advance(self.clock.now)
        self.now_asked()

    def believe_events(self) -> None:
        """From the second question on Supervisor does not answer: events are all there is."""

        def silence() -> None:
            self.supervisor.trouble = "nobody there" if self.listener.ticks > 1 else None

        self.now_asked = silence

    def run(self, data: bytes, *, end: bool = True) -> Rig:
        """A listener's life, with this input; `end`: end of input after it."""
        with self.between_pipes(data, end=end):
            self.status = self.listener.run()
        return self

    @contextmanager
    def between_pipes(self, data: bytes, *, end: bool = True) -> Iterator[None]:
        """The listener is made and may be run; its pipes are closed at the end."""
        events_in, feed = os.pipe()
        self._out, events_out = os.pipe()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            assert len(data) <= 60_000, "more than a pipe holds"
            os.write(feed, data)
            if end:
                os.close(feed)
            supervisor: Any = self.supervisor
            self.listener = Listener(
                load(str(self.conf), {}), supervisor, Log(log), events_in, events_out
            )
            if self.supervisor.worlds:
                sampler: Any = PaperSampler(self.supervisor.worlds)
                clock: Any = self.clock
                self.listener.sampler, self.listener.clock = sampler, clock
                preflights: Any = self.preflights
                self.listener.preflights = preflights
            with mock.patch("supervisor_memwatch.log._now", self.clock.at):
                yield
            self.output = self.said()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for fd in (events_in, self._out, events_out, log, *([] if end else [feed])):
                os.close(fd)

    def said(self) -> bytes:
        """What has arrived on the protocol's side until now, and was not taken before."""
        while select.select([self._out], [], [], 0)[0]:
            data = os.read(self._out, 65536)
            if not data:
                break
            self.output += data
        return self.output

    def nobody_reads(self) -> None:
        """Supervisor's end of the answers is closed."""
        os.close(self._out)
        self._out = os.open(os.devnull, os.O_RDONLY)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What the journal says, read as every other command reads it."""
        reader = Reader(str(self.journal))
        try:
            return reader.rows(sql, values)
        finally:
            reader.close()
