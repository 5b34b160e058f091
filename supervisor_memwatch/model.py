"""The nouns: what the parts of memwatch hand to each other.

Values only; nothing here reads a clock, a file or a process. Times are epoch
seconds (float) unless a field says otherwise, sizes are bytes, durations are
seconds, and what is not known is None, never 0. Everything serialises to JSON:
named tuples and frozen dataclasses of numbers, strings and tuples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

# The kinds a verdict may have. Only the first six can be told or acted on.
LEAK = "leak"
IMBALANCE = "imbalance"
LIMIT = "limit"
TOTAL_LIMIT = "total_limit"
MASTER_GROWTH = "master_growth"
FD_GROWTH = "fd_growth"
WARMING_UP = "warming_up"
PLATEAU = "plateau"
SPIKE = "spike"

# Supervisor's process states that occur in decisions.
RUNNING = "RUNNING"
STOPPING = "STOPPING"
DOWN_STATES = ("STOPPED", "EXITED", "FATAL")
# Supervisor's fault codes that decisions depend on.
BAD_NAME = 10
ALREADY_STARTED = 60
NOT_RUNNING = 70
# Not Supervisor's: it no longer knows the program, or has not told us of it yet.
REMOVED = "REMOVED"
UNKNOWN = "UNKNOWN"


class WorkerId(NamedTuple):
    """What a process is: its pid and its start time, because pids are used again.

    `start` is field 22 of /proc/PID/stat (clock ticks since boot) in the listener and
    opaque in a recording.
    """

    pid: int
    start: float | str

    def __str__(self) -> str:
        return f"{self.pid}:{self.start}"


class Worker(NamedTuple):
    """One worker, the master, or the whole tree of a plain program, at one instant."""

    id: WorkerId
    age: float | None
    rss: int
    shared: int | None = None  # as in statm: file-backed and shared pages
    anon: int | None = None  # anonymous memory: what growth is judged on
    pss: int | None = None  # as read, plus what anonymous memory has changed by since then
    uss: int | None = None
    swap: int | None = None
    cpu: float | None = None  # CPU seconds (user + system) since start
    fds: int | None = None
    threads: int | None = None
    requests: int | None = None
    measured_at: float | None = None  # when pss and uss were read: they are rarer
    ready: bool | None = None  # True: its run loop has started (gunicorn's heartbeat)
    nofile: int | None = None  # soft limit of open files, read only where fds grow
    exact: bool | None = None  # whether pss and uss can be read at all; None: a recording


class Snapshot(NamedTuple):
    """One program at one instant."""

    namespec: str
    at: float
    state: str  # Supervisor's
    pid: int  # the supervised process; 0 if none runs
    kind: str  # "gunicorn" or "plain"
    master: Worker | None
    workers: tuple[Worker, ...]  # of a plain program: its whole tree as one
    others: int = 0  # bytes of the tree's remaining processes (wrapper, helpers)
    available: int | None = None  # tightest of the cgroups' limits and RAM
    free: int | None = None  # what is left of it now
    masters: int = 1  # 2: a USR2 upgrade is under way
    evidence: str = ""  # "heartbeat", "title" or "cmdline": how workers were told apart
    clock: int | None = None  # minutes since local midnight, for `window`
    spawned: float | None = None  # when Supervisor started the program
    oom_kills: int | None = None  # the cgroup's counter of processes the kernel killed


class Verdict(NamedTuple):
    """A detector's opinion of one worker, the master or the program, now."""

    kind: str
    since: float
    measured: float
    bound: float | None
    confidence: float
    why: str
    told: bool = False  # confirmed
    act: bool = False  # also material


# Reasons of a `Held` that pass by themselves within seconds.
PENDING = ("preflight_pending", "deploy")

# Where a worker's readiness cannot be seen, it is taken to serve from this age on (seconds).
UNSEEN_BOOT = 30.0


def serves(worker: Worker) -> bool:
    """Whether its run loop has started, as far as can be known."""
    if worker.ready is None:
        return worker.age is None or worker.age >= UNSEEN_BOOT
    return worker.ready


def oldest(snapshot: Snapshot) -> WorkerId | None:
    """Whom gunicorn's SIGTTOU takes: the worker that was forked first."""
    ids = [worker.id for worker in snapshot.workers]
    return min(ids, key=lambda id: (float(id.start), id.pid)) if ids else None


@dataclass(frozen=True, slots=True)
class Held:
    """Why something that would have been done is not."""

    code: str
    text: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """An action somebody wants: a detector's verdict that deserves it, or a person."""

    action: str  # "recycle", "reload" or "restart"
    namespec: str
    target: WorkerId | None  # the worker, or the master of a reload
    verdict: Verdict | None
    urgent: bool = False
    hours: float | None = None  # time to limit, for who comes first
    expected: int | None = None  # bytes we hope to get back
    by: str = "memwatch"
    forced: bool = False
    about: WorkerId | None = None  # whom the verdict is about
    # How a recycle is done, and why so (policy.way), and how long it may wait for a quiet moment.
    way: str = "plain"  # or "surge"
    reason: str = ""
    patience: float = 0.0  # seconds
    also: WorkerId | None = None  # whom a surge takes beside the target


@dataclass(frozen=True, slots=True)
class Command:
    """One thing the shell does to the outside: a signal, or a call of Supervisor's."""

    do: str  # "signal", "stop" or "start"
    namespec: str
    target: WorkerId | None = None
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended."""

    result: str  # "done", "ineffective", "failed", "overtaken"
    text: str
    freed: int | None = None


class Proof(NamedTuple):
    """Whether a new worker of a program can boot, as far as was found out."""

    ok: bool
    how: str  # by what: "gunicorn --check-config", "its own command", "a worker that booted"
    text: str  # one line; of a failure the application's own error
    at: float  # when it was established, or found to hold still
    output: str = ""  # the end of what the trial printed


class Entry(NamedTuple):
    """A line of the journal: something that was seen, wanted or done."""

    at: float
    namespec: str
    kind: str  # "seen", "suspected", "intent", "step", "outcome", "held", "recovered", ...
    text: str
    data: dict[str, Any] = {}
    level: str = "INFO"


class News(NamedTuple):
    """A sentence worth sending."""

    what: str  # suspected, acted, recovered, failed, gave_up, held
    at: float
    namespec: str
    summary: str
    worker: Worker | None = None
    verdicts: tuple[Verdict, ...] = ()
    action: str | None = None
    outcome: str | None = None
    freed: int | None = None
    series: tuple[tuple[float, float], ...] = ()
    # Of the worker: limit, headroom, hours_to_limit, and the trend's three numbers.
    figures: dict[str, Any] = {}
    advice: tuple[str, ...] = ()  # of "suspected": what there is to say of it
    also: WorkerId | None = None  # who left beside the worker
