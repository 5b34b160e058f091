"""A gunicorn program on paper: enough of one to show what would follow, also where it misbehaves.

Deterministic: `World.snapshot(at)` is what a sampler would have seen, `World.obey(commands)`
is what gunicorn and Supervisor would have done, `World.others(what)` what somebody else does to
it. Nothing here is a mock of gunicorn's code; the rules are the measured ones:

- SIGTERM: a worker leaves after its requests, however long they take, and counts as a child until
  then; the master forks a replacement only after it has gone.
- SIGTTIN: one worker more, forked at once. SIGTTOU: one fewer, unless only one is left: the oldest
  is asked to leave, one that is leaving already or not. Both are the master's to remember, and
  forgotten at a HUP or a restart, when the number is the configuration's again.
- SIGHUP: as many new ones as the file says, and the old ones are asked to leave. Newer masters do
  nothing else until these are gone: signals wait, ends of workers are not made good.
- A new worker may boot slowly, hang (and be ended by gunicorn's timeout, and forked again), or exit
  with status 3 or 4, whereupon the master asks everyone to leave, and ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from supervisor_memwatch.model import Command, Snapshot, Worker, WorkerId
from supervisor_memwatch.units import MB

FOREVER = float("inf")


@dataclass
class Proc:
    """One worker on paper."""

    id: WorkerId
    born: float
    base: float = 50.0  # MB
    leak: float = 0.0  # MB per second
    leaves_at: float | None = None
    cpu_share: float = 0.2
    order: int = 0  # gunicorn's own count of spawns: who is the oldest
    boot: float | None = None  # seconds from fork to ready, where not the world's
    drain: float | None = None  # seconds from SIGTERM to the end, where not the world's
    asked: int = 0  # the SIGTERMs it was sent
    booted: float | None = None  # the birth after which its run loop has started

    @property
    def up(self) -> bool:
        """Its run loop has started; a test that moves `born` has made another worker of it."""
        return self.booted == self.born

    def size(self, at: float) -> int:
        return int((self.base + self.leak * (at - self.born)) * MB)


@dataclass
class World:
    """One program with `count` workers; the first `leaking` of them leak `leak` MB/s."""

    namespec: str = "web"
    count: int = 3  # as configured; SIGTTIN and SIGTTOU since then are in `shift`
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
    free: int | None = None  # what is left of it
    procs: list[Proc] = field(default_factory=list)
    next_pid: int = 1000
    starts_at: float | None = None
    stops_at: float | None = None
    start_fails: int = 0
    log: list[tuple[float, Command]] = field(default_factory=list)
    shift: int = 0  # workers more (or fewer) than configured
    in_file: int | None = None  # what the configuration says by now: read at HUP and start
    hup_waits: bool = True  # gunicorn >= 24: HUP holds the master up until the old ones are gone
    holds_up: float = 30.0  # but for no longer: gunicorn's graceful timeout
    beat: float = 0.0  # seconds until the master does what it has to: its loop takes up to 1
    queue_holds: int | None = None  # signals that wait at most, the rest is lost: 5 before 24
    timeout: float | None = None  # a worker that is not ready by then is ended and forked again
    broken: int = 0  # the status a new worker exits with: the code on disk is broken
    shown: bool = True  # False: readiness cannot be seen
    shy: float = 0.0  # seconds until a new worker is seen at all
    pids_again: bool = False  # a pid that became free is the next one given
    masters: int = 1
    oom_kills: int | None = None  # the kernel's counter
    theirs: int = 0  # what `shift` would be without us
    deeds: list[str] = field(default_factory=list)  # what others did
    to_come: list[tuple[float, str]] = field(default_factory=list)  # what they will do, and when
    fewest: int | None = None  # workers that served at the worst moment while it was RUNNING
    halting: bool = False  # a new worker did not boot: the master ends when all have left
    halted: float = 0.0  # when that began
    revived_at: float | None = None  # Supervisor starts it again
    _blocked: tuple[WorkerId, ...] = ()  # the old workers a HUP waits for
    _until: float = 0.0
    _queue: list[tuple[str, bool]] = field(default_factory=list)  # signal, by others
    _wakes: float | None = None
    _spawned: int = 0
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.procs:
            for i in range(1 if self.plain else self.count):
                self._fork(-1000.0, self.leak if i < self.leaking else 0.0)

    @property
    def number(self) -> int:
        """How many workers the master wants to have."""
        return self.count + self.shift

    @property
    def number_without_us(self) -> int:
        """How many it would want, had we done nothing."""
        return self.count + self.theirs

    @property
    def master(self) -> WorkerId:
        return WorkerId(self.pid, 1)

    def serving(self) -> list[Proc]:
        """Who answers requests: booted, and not asked to leave."""
        if self.state not in ("RUNNING", "STOPPING"):
            return []
        return [p for p in self.procs if p.leaves_at is None and p.up]

    def quiet(self) -> bool:
        """Nothing more will happen by itself: as many serve as are wanted."""
        return (
            self.state == "RUNNING"
            and not self._queue
            and not self.halting
            and len(self.procs) == len(self.serving()) == self.number
        )

    # -- what happens by itself --------------------------------------------------------

    def _fork(self, born: float, leak: float = 0.0) -> None:
        self.next_pid += 1
        self._spawned += 1
        pid = self._free.pop() if self.pids_again and self._free else self.next_pid
        base = 50.0 if born < 0 else self.fresh_base
        id = WorkerId(pid, self.next_pid * 10)
        proc = Proc(id, born, base, order=self._spawned)
        proc.booted = born if born < 0 else None
        if leak and born < 0:
            proc.base -= leak * 1000  # it has leaked only since zero
        proc.leak = leak
        self.procs.append(proc)

    def _boots_in(self, proc: Proc) -> float:
        return self.boot if proc.boot is None else proc.boot

    def advance(self, at: float) -> None:
        """What has happened by `at`, one thing after the other."""
        while (moment := self._next_moment()) <= at:
            self.now = max(self.now, moment)
            self._happen()
        self.now = max(self.now, at)
        self._happen()

    def _next_moment(self) -> float:
        moments = [self.stops_at, self.starts_at, self.revived_at, self._wakes]
        moments += [min(self.to_come)[0]] if self.to_come else []
        moments += [proc.leaves_at for proc in self.procs]
        moments += [self._dies_at(proc) for proc in self.procs]
        if self._blocked and self.state == "RUNNING" and not self.halting:
            moments.append(self._until)
        return min((moment for moment in moments if moment is not None), default=FOREVER)

    def _dies_at(self, proc: Proc) -> float | None:
        """When a new worker that does not come up ends."""
        if self.plain or proc.up:
            return None
        if self.broken:
            return proc.born + self._boots_in(proc)
        return None if self.timeout is None or self.boots else proc.born + self.timeout

    def _happen(self) -> None:
        at = self.now
        for proc in self.procs:
            if self.boots and not self.broken and at - proc.born >= self._boots_in(proc):
                proc.booted = proc.born
        if self.stops_at is not None and at >= self.stops_at:
            self._down("STOPPED")
        if self.starts_at is not None and at >= self.starts_at:
            self.starts_at = None
            if self.start_fails:
                self.start_fails -= 1
                self.state = "FATAL"
            else:
                self._up()
        if self.revived_at is not None and at >= self.revived_at:
            self.revived_at = None
            if self.broken:
                self.state = "FATAL"
            else:
                self._up()
        self._ends()
        if self._wakes is not None and at >= self._wakes:
            self._wakes = None
            self._wake()
        if self.state == "RUNNING":
            served = len(self.serving())
            self.fewest = served if self.fewest is None else min(served, self.fewest)
        for deed in [deed for deed in self.to_come if deed[0] <= at]:
            self.to_come.remove(deed)
            self.others(deed[1])

    def _ends(self) -> None:
        at = self.now
        gone = [p for p in self.procs if p.leaves_at is not None and at >= p.leaves_at]
        dead = [p for p in self.procs if (end := self._dies_at(p)) is not None and at >= end]
        left = [p for p in self.procs if p not in gone and p not in dead]
        self._free += [p.id.pid for p in self.procs if p not in left]
        self.procs = left
        if self.plain or self.state != "RUNNING":
            return
        if self.broken and any(p not in gone for p in dead) and not self.halting:
            self.halting, self.halted = True, at
            for proc in self.procs:
                self._ask(proc)
        if self.halting:
            if not self.procs:
                self._down("EXITED")
                self.revived_at = at + 1.0
            return
        self._blocked = tuple(p.id for p in self.procs if p.id in self._blocked)
        if self._blocked and at >= self._until:
            self._blocked = ()
        if len(self.procs) != self.number or self._queue:
            self._soon()

    def _down(self, state: str) -> None:
        self.state, self.pid, self.procs, self.stops_at = state, 0, [], None
        self._queue, self._blocked, self._wakes, self.halting = [], (), None, False

    def _up(self) -> None:
        self.state, self.pid, self.masters = "RUNNING", self.next_pid + 5000, 1
        self._read_file()
        for _ in range(1 if self.plain else self.count):
            self._fork(self.now)

    def _read_file(self) -> None:
        self.shift = self.theirs = 0
        if self.in_file is not None:
            self.count, self.in_file = self.in_file, None

    # -- the master --------------------------------------------------------------------

    def _soon(self) -> None:
        """The master has something to do: now, or at its next loop."""
        if self._blocked:
            return
        if not self.beat:
            self._wake()
        elif self._wakes is None:
            self._wakes = self.now + self.beat

    def _wake(self) -> None:
        while self._queue and not self._blocked:
            self._handle(*self._queue.pop(0))
        if not self._blocked and not self.halting:
            self._manage()

    def _handle(self, signal: str, by_others: bool) -> None:
        if signal == "TTIN":
            self.shift += 1
            self.theirs += by_others
        elif signal == "TTOU":
            self.shift -= self.number > 1
            self.theirs -= by_others and self.number_without_us > 1
        elif signal == "HUP":
            self._read_file()
            old = list(self.procs)
            for _ in range(self.count):
                self._fork(self.now)
            for proc in old:
                self._ask(proc)
            if self.hup_waits:
                self._blocked = tuple(proc.id for proc in old)
                self._until = self.now + self.holds_up
            return
        self._manage()

    def _manage(self) -> None:
        while len(self.procs) < self.number:
            self._fork(self.now, self.leak if self.fresh_leaks else 0.0)
        oldest_first = sorted(self.procs, key=lambda proc: proc.order)
        for proc in oldest_first[: len(self.procs) - self.number]:
            if not proc.asked or proc.leaves_at is None:
                self._ask(proc)

    def _ask(self, proc: Proc) -> None:
        """SIGTERM: it leaves after its requests; a second one changes nothing."""
        proc.asked += 1
        if proc.leaves_at is None:
            drain = self.drain if proc.drain is None else proc.drain
            if not proc.up:
                drain = 0.0  # no handler yet: SIGTERM ends it
            proc.leaves_at = self.now + drain

    # -- what is seen ------------------------------------------------------------------

    def snapshot(self, at: float) -> Snapshot:
        self.advance(at)
        up = self.state in ("RUNNING", "STOPPING")
        seen = [p for p in self.procs if p.born < 0 or at - p.born >= self.shy] if up else []
        master = Worker(self.master, at + 5000, 30 * MB, 10 * MB, 20 * MB)
        return Snapshot(
            self.namespec,
            at,
            self.state,
            self.pid,
            "plain" if self.plain else "gunicorn",
            master if up and not self.plain else None,
            tuple(self._worker(p, at) for p in seen),
            available=self.available,
            free=self.free,
            masters=self.masters,
            oom_kills=self.oom_kills,
            evidence="heartbeat",
        )

    def _worker(self, proc: Proc, at: float) -> Worker:
        size = proc.size(at)
        return Worker(
            proc.id,
            at - proc.born,
            size + 10 * MB,
            10 * MB,
            size,
            swap=0,
            cpu=proc.cpu_share * (at - proc.born),
            fds=10,
            ready=proc.up if self.shown else None,
        )

    # -- what is done to it ------------------------------------------------------------

    def obey(self, commands: Iterable[Command]) -> None:
        """Carry commands out, as gunicorn and Supervisor would."""
        for command in commands:
            self.log.append((self.now, command))
            if command.do == "stop":
                self._stop()
            elif command.do == "start":
                self.state, self.starts_at = "STARTING", self.now + self.boot
            else:
                self._receive(command.target, command.signal)

    def _stop(self) -> None:
        self.state, self.stops_at = "STOPPING", self.now + self.drain
        self.revived_at = None

    def here(self, id: WorkerId | None) -> bool:
        """Whether that very process exists."""
        if self.state not in ("RUNNING", "STOPPING"):
            return False
        return id == self.master or any(proc.id == id for proc in self.procs)

    def _receive(self, id: WorkerId | None, signal: str) -> None:
        if signal in ("HUP", "TTIN", "TTOU"):
            if id in (self.master, None):
                self._signal_master(signal)
            return
        for proc in self.procs:
            if proc.id == id and signal == "KILL":
                proc.leaves_at = self.now
            elif proc.id == id:
                self._ask(proc)

    def _signal_master(self, signal: str, by_others: bool = False) -> None:
        if self.state != "RUNNING" or self.halting:
            return
        if self.queue_holds is None or len(self._queue) < self.queue_holds:
            self._queue.append((signal, by_others))
            self._soon()

    def others(self, what: str) -> None:
        """Somebody else does something: a signal, Supervisor's restart, the kernel, a crash."""
        self.deeds.append(what)
        if what in ("TTIN", "TTOU", "HUP"):
            self._signal_master(what, True)
        elif what == "USR2":
            self.masters = 2
        elif what in ("crash", "oom") and self.procs:  # a bug, gunicorn's abort; the kernel
            self.oom_kills = (self.oom_kills or 0) + 1 if what == "oom" else self.oom_kills
            self.procs[len(self.deeds) % len(self.procs)].leaves_at = self.now
        elif what == "retire" and self.procs:  # max_requests: it leaves as if asked
            self._ask(self.procs[len(self.deeds) % len(self.procs)])
        elif what == "restart" and self.state == "RUNNING":
            self._down("STOPPED")
            self._up()
        elif what == "stop" and self.state == "RUNNING":
            self._stop()
        elif what == "start" and self.state in ("STOPPED", "EXITED", "FATAL"):
            self.revived_at = None
            self.state, self.starts_at = "STARTING", self.now + self.boot
        self.advance(self.now)
