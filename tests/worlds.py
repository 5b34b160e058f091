"""A gunicorn program on paper: enough of one to show the pure half what would follow.

Deterministic: `World.snapshot(at)` is what a sampler would have seen, `World.obey(commands)`
is what gunicorn and Supervisor would have done. Nothing here is a mock of gunicorn's code;
the rules are the measured ones (a worker leaves after its requests, the master then forks the
replacement, HUP replaces all, a stopped program stays down until it is started).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from supervisor_memwatch.model import Command, Snapshot, Worker, WorkerId
from supervisor_memwatch.units import MB


@dataclass
class Proc:
    """One worker on paper."""

    id: WorkerId
    born: float
    base: float = 50.0  # MB
    leak: float = 0.0  # MB per second
    leaves_at: float | None = None
    cpu_share: float = 0.2

    def size(self, at: float) -> int:
        return int((self.base + self.leak * (at - self.born)) * MB)


@dataclass
class World:
    """One program with `count` workers; the first `leaking` of them leak `leak` MB/s."""

    namespec: str = "web"
    count: int = 3
    leaking: int = 0
    leak: float = 0.0
    fresh_leaks: bool = False
    fresh_base: float = 50.0
    drain: float = 0.5  # seconds from TERM to the end
    boot: float = 1.0  # seconds from fork to ready
    boots: bool = True  # False: no replacement ever becomes ready
    now: float = 0.0
    state: str = "RUNNING"
    pid: int = 100
    plain: bool = False
    available: int | None = None
    procs: list[Proc] = field(default_factory=list)
    next_pid: int = 1000
    starts_at: float | None = None
    stops_at: float | None = None
    start_fails: int = 0
    log: list[tuple[float, Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.procs:
            for i in range(1 if self.plain else self.count):
                self._fork(-1000.0, self.leak if i < self.leaking else 0.0)

    def _fork(self, born: float, leak: float = 0.0) -> None:
        self.next_pid += 1
        base = 50.0 if born < 0 else self.fresh_base
        proc = Proc(WorkerId(self.next_pid, self.next_pid * 10), born, base, 0.0)
        if leak and born < 0:
            proc.base -= leak * 1000  # it has leaked only since zero
        proc.leak = leak
        self.procs.append(proc)

    def advance(self, at: float) -> None:
        """What has happened by `at`."""
        self.now = at
        if self.stops_at is not None and at >= self.stops_at:
            self.state, self.pid, self.procs, self.stops_at = "STOPPED", 0, [], None
        if self.starts_at is not None and at >= self.starts_at:
            self.starts_at = None
            if self.start_fails:
                self.start_fails -= 1
                self.state = "FATAL"
            else:
                self.state, self.pid = "RUNNING", self.next_pid + 5000
                for _ in range(1 if self.plain else self.count):
                    self._fork(at)
        gone = [p for p in self.procs if p.leaves_at is not None and at >= p.leaves_at]
        self.procs = [p for p in self.procs if p not in gone]
        if self.state == "RUNNING" and not self.plain:
            while len(self.procs) < self.count:
                self._fork(at, self.leak if self.fresh_leaks else 0.0)

    def snapshot(self, at: float) -> Snapshot:
        self.advance(at)
        up = self.state in ("RUNNING", "STOPPING")
        workers = tuple(self._worker(p, at) for p in self.procs) if up else ()
        master = Worker(WorkerId(self.pid, 1), at + 5000, 30 * MB, 10 * MB, 20 * MB)
        return Snapshot(
            self.namespec,
            at,
            self.state,
            self.pid,
            "plain" if self.plain else "gunicorn",
            master if up and not self.plain else None,
            workers,
            available=self.available,
            evidence="heartbeat",
        )

    def _worker(self, proc: Proc, at: float) -> Worker:
        size = proc.size(at)
        ready = proc.born < 0 or (self.boots and at - proc.born >= self.boot)
        return Worker(
            proc.id,
            at - proc.born,
            size + 10 * MB,
            10 * MB,
            size,
            swap=0,
            cpu=proc.cpu_share * (at - proc.born),
            fds=10,
            ready=ready,
        )

    def obey(self, commands: Iterable[Command]) -> None:
        """Carry commands out, as gunicorn and Supervisor would."""
        for command in commands:
            self.log.append((self.now, command))
            if command.do == "stop":
                self.state, self.stops_at = "STOPPING", self.now + self.drain
            elif command.do == "start":
                self.state, self.starts_at = "STARTING", self.now + self.boot
            elif command.signal == "HUP":
                for proc in self.procs:
                    proc.leaves_at = self.now + self.drain
            else:
                for proc in self.procs:
                    if proc.id == command.target:
                        hard = command.signal == "KILL"
                        proc.leaves_at = self.now if hard else self.now + self.drain
