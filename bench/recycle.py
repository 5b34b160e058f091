"""What an action costs the requests that come meanwhile: surge, plain recycle, HUP, memmon.

    python bench/recycle.py [--full] [--only PATTERN] [--actions N] [--lanes N] [--json]

Real gunicorns under real supervisords with our listener, several side by side, each with a
constant load of its own (load.py). The listener is asked for an action again and again; memmon
restarts a program that was made to grow over its limit. See bench/README.md.
"""

from __future__ import annotations

import argparse
import bisect
import concurrent.futures
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

# sites makes the package importable.
from load import CLOSED, LATE_CONNECT, OK, Load, Record
from sites import (
    LONGEST,
    Site,
    Stopped,
    Supervisor,
    Worker,
    children,
    free_port,
    get,
    gunicorn,
    gunicorn_path,
    plain_environment,
    poll,
    program,
    proportional,
    resident,
    tree,
    wait_until,
)

from supervisor_memwatch.options import NOT_YET

MB = 1024 * 1024
APPS = Path(__file__).resolve().parent / "apps"

WORKERS = 4
SHARE = 0.4  # of saturation
REQUEST = 0.025  # seconds a request waits, times those that a worker takes at once
HELD = 16 * MB  # by each worker from its start
GROWTH = 96 * MB  # what takes a program over memmon's limit
ROOM = 48 * MB  # from what it holds to memmon's limit
STEADY = 8.0  # seconds of load before the first action
BETWEEN = 1.0  # seconds of load between two actions
ACTIONS = 20
LANES = 13
STARTING = 3  # cells at a time: else they would measure each other's start as their saturation
MINUTES = 19.0  # no action begins later

COLUMNS = ("surge", "plain", "HUP", "memmon")
COMMANDS = {"surge": "recycle", "plain": "recycle", "HUP": "reload"}
# How long an action takes, roughly, and how many imports: for the estimate of what is left.
ABOUT = {"surge": 16.0, "plain": 10.0, "HUP": 10.0, "memmon": 7.0}
IMPORTS = {"surge": 3, "plain": 2, "HUP": 2, "memmon": 1}
CLASSES = {"uvicorn": "uvicorn.workers.UvicornWorker"}
CLASSES_OF_OLD = ("sync", "gthread")
INSTALLED = "27.0.1"


class Row(NamedTuple):
    """A server and its load."""

    gunicorn: str
    worker: str
    keep_alive: bool
    import_seconds: float

    def __str__(self) -> str:
        kept = "keep-alive" if self.keep_alive else "close"
        return f"{self.gunicorn} {self.worker} {kept} {self.import_seconds:g}s"

    @property
    def at_once(self) -> int:
        """Requests a worker works on at a time."""
        return 1 if self.worker == "sync" else 2


class Cell(NamedTuple):
    """A server and what is done to it."""

    row: Row
    column: str

    def __str__(self) -> str:
        return f"{self.row} {self.column}"

    def seconds(self, actions: int) -> float:
        """About how long it takes."""
        imports = IMPORTS[self.column] * self.row.import_seconds
        return 25 + actions * (BETWEEN + ABOUT[self.column] + imports)


def default_cells() -> list[Cell]:
    """Chosen pairs: every worker class and version, each import, keep-alive where it matters."""
    every = COLUMNS
    ours = ("surge", "plain")
    chosen = [
        (Row(INSTALLED, "sync", False, 0.1), every),
        (Row(INSTALLED, "sync", False, 3), every),
        (Row(INSTALLED, "gthread", True, 0.1), every),
        (Row(INSTALLED, "gthread", False, 3), ours),
        (Row(INSTALLED, "gevent", True, 0.1), ours),
        (Row(INSTALLED, "asgi", True, 0.1), ours),
        (Row(INSTALLED, "uvicorn", False, 0.1), ours),
        (Row(INSTALLED, "uvicorn", True, 3), every),
        (Row("20.1.0", "sync", False, 0.1), ours),
        (Row("23.0.0", "sync", False, 0.1), ours),
        (Row("25.3.0", "sync", False, 0.1), ours),
        (Row("20.1.0", "gthread", True, 0.1), ours),
        (Row("23.0.0", "gthread", True, 0.1), (*ours, "HUP")),
        (Row("25.3.0", "gthread", True, 0.1), ours),
    ]
    return [Cell(row, column) for row, columns in chosen for column in columns]


def all_cells() -> list[Cell]:
    servers = [(INSTALLED, name) for name in ("sync", "gthread", "gevent", "asgi", "uvicorn")]
    servers += [
        (version, name)
        for version in ("20.1.0", "23.0.0", "25.3.0")
        for name in ("sync", "gthread")
    ]
    return [
        Cell(Row(version, name, kept, seconds), column)
        for version, name in servers
        for kept in ((False, True) if name != "sync" else (False,))  # sync knows no keep-alive
        for seconds in (0.1, 3)
        for column in COLUMNS
    ]


# -- what was measured


@dataclass
class Span:
    """A stretch of time and what became of the requests that were under way in it."""

    begin: float
    end: float
    failed: dict[str, int] = field(default_factory=dict)
    closed: int = 0  # kept connections that the server closed, with no request lost
    late_connects: int = 0
    worst: float = 0.0  # seconds, of those that were answered
    answered: int = 0  # in it, whenever they were due
    slowest: float | None = None  # answers per second in its worst second

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass
class Act(Span):
    """An action: how it went."""

    result: str = ""
    text: str = ""
    most: int = 0  # workers at a time
    after: int = 0  # workers at its end


@dataclass
class Measured:
    """A cell."""

    cell: Cell
    saturation: float = 0.0
    rate: float = 0.0
    steady: Span = field(default_factory=lambda: Span(0, 0))
    acts: list[Act] = field(default_factory=list)
    outside: Span = field(default_factory=lambda: Span(0, 0))  # before, between and after actions
    memory: int = 0  # PSS before the first action
    peak: int = 0  # PSS, the highest seen in an action
    late: float = 0.0  # by how much the load generator itself was late at worst
    error: str = ""

    @property
    def control(self) -> Span:
        """The time without an action; for memmon, whose restarts have an aftermath, that before."""
        return self.steady if self.cell.column == "memmon" else self.outside

    def failed(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for act in self.acts:
            total.update(act.failed)
        return total

    def steady_rate(self) -> float:
        return self.steady.answered / self.steady.seconds if self.steady.seconds else 0.0

    def throughput(self) -> float | None:
        """During the actions, as a share of that before."""
        seconds = sum(act.seconds for act in self.acts)
        if not seconds or not self.steady_rate():
            return None
        return sum(act.answered for act in self.acts) / seconds / self.steady_rate()

    def worst_second(self) -> float | None:
        slowest = [act.slowest for act in self.acts if act.slowest is not None]
        if not slowest or not self.steady_rate():
            return None
        return min(slowest) / self.steady_rate()


def attribute(found: Measured, records: list[Record], since: float) -> None:
    """Give every record to the action it was under way in, or to the time outside of them.

    A request belongs to an action if any moment from its due time to its end does.
    """
    acts = found.acts
    begins = [act.begin for act in acts]
    outside = found.outside
    outside.begin = since
    outside.end = max([since, *(record.done for record in records)])
    for record in records:
        if record.done < since:
            continue
        index = bisect.bisect_right(begins, record.done) - 1
        inside = index >= 0 and record.due <= acts[index].end
        _count(acts[index] if inside else outside, record)
        found.late = max(found.late, record.late)
        if found.steady.begin <= record.done < found.steady.end:
            _count(found.steady, record)
    answers = sorted(record.done for record in records if record.kind == OK)
    for span in (found.steady, *acts):
        first, last = (bisect.bisect_left(answers, at) for at in (span.begin, span.end))
        span.answered = last - first
        span.slowest = _slowest(answers, span)


def _count(span: Span, record: Record) -> None:
    if record.failed:
        span.failed[record.name] = span.failed.get(record.name, 0) + 1
    elif record.kind == CLOSED:
        span.closed += 1
    else:
        span.worst = max(span.worst, record.seconds)
    if record.connect >= LATE_CONNECT:
        span.late_connects += 1


def _slowest(answers: list[float], span: Span) -> float | None:
    """The fewest answers in any second of it, by tenths."""
    counts = []
    at = span.begin
    while at + 1 <= span.end:
        counts.append(bisect.bisect_left(answers, at + 1) - bisect.bisect_left(answers, at))
        at += 0.1
    return min(counts, default=None)


# -- one cell


MEMWATCH = """\
[memwatch:web]
mode = act
actions = recycle, reload, restart
surge = {surge}
preflight = auto
cooldown = 0s
budget = 100000/1h
growth = off
imbalance = off
total_limit = none
"""


class Host:
    """A cell's supervisord with its program and the load on it."""

    def __init__(self, cell: Cell, directory: Path, stopping: threading.Event) -> None:
        self.cell, self.row, self.directory = cell, cell.row, directory
        self.stopping = stopping
        self.port = free_port()
        memwatch = None
        if cell.column in COMMANDS:
            memwatch = MEMWATCH.format(surge="on" if cell.column == "surge" else "off")
        self.supervisor = Supervisor(
            directory, self._program(), memwatch=memwatch, env=plain_environment()
        )
        self.site = Site(self.supervisor, "web", self.port)
        self.load: Load | None = None
        self.found = Measured(cell)
        self._highest = 0

    def _program(self) -> str:
        row = self.row
        app = "waits:asgi" if row.worker in ("asgi", "uvicorn") else "waits:app"
        threads = f"--threads {row.at_once}" if row.worker == "gthread" else ""
        command = gunicorn(
            app,
            self.port,
            worker_class=CLASSES.get(row.worker, row.worker),
            workers=WORKERS,
            options=f"--chdir {APPS} {threads}",
        )
        environment = {
            **gunicorn_path(row.gunicorn),
            "IMPORT_SECONDS": row.import_seconds,
            "REQUEST_SECONDS": REQUEST * row.at_once,
            "AT_ONCE": row.at_once,
            "HELD_BYTES": HELD,
            "GROW_BYTES": GROWTH,
        }
        log = self.directory / "web.err"
        return program("web", command, environment=environment, stderr_logfile=log, stopwaitsecs=40)

    def begin(self) -> None:
        """Until the load is constant."""
        self.site.wait_until_up(WORKERS)
        found = self.found
        self.load = Load(self.port, self.directory, keep_alive=self.row.keep_alive)
        found.saturation = self.load.saturation(3 * WORKERS * self.row.at_once)
        found.rate = SHARE * found.saturation
        self.load.rate(found.rate)

    def steady_state(self) -> None:
        """Nothing but the load, for a while."""
        time.sleep(2)
        begin = time.monotonic()
        time.sleep(STEADY)
        self.found.steady = Span(begin, time.monotonic())
        self.found.memory = proportional(self._pids())

    def _pids(self) -> list[int]:
        """The program's, and what the listener has started: a preflight holds memory, too."""
        found = list(tree(self.site.master()))
        if self.cell.column in COMMANDS:
            for child in children(self.supervisor.program_pid("memwatch")):
                found += tree(child)
        return found

    def watch_memory(self) -> None:
        """PSS is dear: it is read where the cheap sum is higher than ever.

        Raises Stopped: it is what every wait for an action calls.
        """
        if self.stopping.is_set():
            raise Stopped("interrupted")
        pids = self._pids()
        cheap = resident(pids)
        if cheap > self._highest:
            self._highest = cheap
            self.found.peak = max(self.found.peak, proportional(pids))

    def act(self, number: int) -> None:
        if self.cell.column == "memmon":
            self._memmon()
        else:
            self._ask(number)

    def _ask(self, number: int) -> None:
        workers = self.site.workers()
        target = "web" if self.cell.column == "HUP" else str(_target(workers, number).pid)
        begin, seq = self.site.ask(COMMANDS[self.cell.column], target)
        act = Act(begin, begin)

        def ended() -> object:
            self.watch_memory()
            act.most = max(act.most, len(self.site.workers()))
            return self.site.ended(seq)

        end = poll(ended, LONGEST, 0.15)
        act.end = time.monotonic()
        act.after = len(self.site.workers())
        act.result, act.text = end if end else ("silent", "no outcome in the journal")  # type: ignore[misc]
        self.found.acts.append(act)
        if len(self.site.workers()) != WORKERS:
            self.site.wait_until_up(WORKERS)

    # -- memmon

    def start_memmon(self) -> None:
        """memmon itself, with a limit somewhat above what the program holds now."""
        limit = resident(self._pids()) + ROOM
        section = (
            "[eventlistener:memmon]\n"
            f"command={sys.executable} -m superlance.memmon -c -p web={limit}\n"
            f"events=TICK_5\nstderr_logfile={self.directory}/memmon.err\n"
        )
        with open(self.supervisor.conf, "a") as file:
            file.write(section)
        self.supervisor.rpc.supervisor.reloadConfig()
        self.supervisor.rpc.supervisor.addProcessGroup("memmon")
        self.supervisor.wait_for("memmon")

    def _memmon(self) -> None:
        before = len(self._moments("waiting for web to stop"))
        get(self.site.url + "grow")
        wait_until(
            lambda: len(self._moments("waiting for web to stop")) > before,
            60,
            lambda: f"memmon restarts it\n{self.supervisor.read('memmon.err')[-2000:]}",
        )
        wait_until(self._is_back, 120, lambda: f"it is back\n{self.supervisor}")
        act = Act(self._moments("waiting for web to stop")[before], time.monotonic())
        act.result, act.after = "done", len(self.site.workers())
        self.found.acts.append(act)

    def _is_back(self) -> bool:
        self.watch_memory()
        stopped, started = self._moments("waiting for web to stop"), self._moments("spawned: 'web'")
        if started[-1] < stopped[-1] or self.supervisor.state("web") != "RUNNING":
            return False
        return len(self.site.workers()) == WORKERS and self.site.serves()

    def _moments(self, words: str) -> list[float]:
        """When supervisord's log said so: monotonic."""
        offset = time.time() - time.monotonic()
        stamps = re.findall(rf"^(\S+ \S+),(\d+) \w+ {words}", self.supervisor.log(), re.MULTILINE)
        return [
            time.mktime(time.strptime(at, "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000 - offset
            for at, ms in stamps
        ]

    def _shorten(self, records: list[Record]) -> None:
        """memmon's action ends with the first answer after the new start."""
        starts = self._moments("spawned: 'web'")
        answers = sorted(record.done for record in records if record.kind == OK)
        for act in self.found.acts:
            start = max(at for at in starts if at < act.end)  # the last, if there were several
            first = bisect.bisect_right(answers, start)
            if first < len(answers):
                act.end = answers[first]

    def finish(self) -> None:
        """End the load, and say what it has seen."""
        if self.load is None:
            return
        records = self.load.stop()
        if self.cell.column == "memmon":
            self._shorten(records)
        attribute(self.found, records, self.found.steady.begin)


def _target(workers: list[Worker], number: int) -> Worker:
    """In turn the oldest, which a surge swaps exactly, and another one."""
    return workers[0] if number % 2 == 0 else workers[len(workers) // 2]


class Run:
    """All cells, several at a time."""

    def __init__(self, cells: list[Cell], actions: int, lanes: int, minutes: float) -> None:
        self.cells, self.actions, self.lanes = cells, actions, lanes
        self.begun = time.monotonic()
        self.deadline = self.begun + 60 * minutes
        self.stopping = threading.Event()
        self.done = dict.fromkeys(cells, 0)
        self._lock = threading.Lock()
        self._starting = threading.Semaphore(STARTING)

    def measure(self) -> list[Measured]:
        """In the order of the cells; the longest are begun first."""
        order = sorted(self.cells, key=lambda cell: -cell.seconds(self.actions))
        with concurrent.futures.ThreadPoolExecutor(self.lanes) as pool:
            futures = {cell: pool.submit(self._measure, cell) for cell in order}
            try:
                concurrent.futures.wait(futures.values())
            except BaseException:
                self.stopping.set()
                for future in futures.values():
                    future.cancel()
                raise
        return [futures[cell].result() for cell in self.cells]

    def _measure(self, cell: Cell) -> Measured:
        directory = Path(tempfile.mkdtemp(prefix="memwatch-bench-", dir="/tmp"))
        host = Host(cell, directory, self.stopping)
        try:
            if self._late():
                raise Stopped("no time was left")
            with contextlib.ExitStack() as stack:
                with self._starting:
                    stack.enter_context(host.supervisor)
                    stack.callback(host.finish)
                    host.begin()
                self._act(host)
        except Exception as error:  # a cell that cannot be measured is a line of the table
            host.found.error = f"{type(error).__name__}: {error}"
            self._say(f"{cell}: {host.found.error.splitlines()[0]}")
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            self.done[cell] = self.actions
        return host.found

    def _act(self, host: Host) -> None:
        host.steady_state()
        if host.cell.column == "memmon":
            host.start_memmon()
        for number in range(self.actions):
            if self._late():
                break
            host.act(number)
            self.done[host.cell] = number + 1
            if (number + 1) % 5 == 0 or number + 1 == self.actions:
                self._say(f"{host.cell}: {number + 1} of {self.actions}")
            time.sleep(BETWEEN)

    def _late(self) -> bool:
        return self.stopping.is_set() or time.monotonic() > self.deadline

    def _say(self, text: str) -> None:
        """A line of progress."""
        with self._lock:
            passed = time.monotonic() - self.begun
            whole = sum(cell.seconds(self.actions) for cell in self.cells)
            share = {cell: count / self.actions for cell, count in self.done.items()}
            made = sum(cell.seconds(self.actions) * share[cell] for cell in self.cells)
            left = passed * (whole - made) / made if made else whole / self.lanes
            ended = sum(count >= self.actions for count in self.done.values())
            print(
                f"[{passed:5.0f} s] {text}; {ended} of {len(self.cells)} cells done,"
                f" about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )


# -- what it says


def report(found: list[Measured], actions: int) -> Iterator[str]:
    """The table, in Markdown, and below it what it cannot show."""
    yield (
        f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs; "
        f"{WORKERS} workers, {actions} actions a cell unless it says otherwise, "
        f"open loop at {100 * SHARE:.0f} % of saturation."
    )
    yield (
        "A cell: requests that failed in all its actions (those on a reused connection, which "
        "clients may repeat) · worst latency · throughput during the "
        "actions as a share of steady state (in its worst second) · peak memory as a multiple of "
        "steady state's."
    )
    yield ""
    head = ("gunicorn", "worker", "keep-alive", "import", "load", "steady", *COLUMNS)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    rows = list(dict.fromkeys(measured.cell.row for measured in found))
    for row in rows:
        cells = {m.cell.column: m for m in found if m.cell.row == row}
        kept = "on" if row.keep_alive else "off"
        loads = [measured.rate for measured in cells.values() if measured.rate]
        rate = f"{statistics.median(loads):.0f}/s" if loads else "?"
        shown = [_cell(cells.get(column), actions) for column in COLUMNS]
        yield (
            f"| {row.gunicorn} | {row.worker} | {kept} | {row.import_seconds:g} s | {rate} | "
            + " | ".join([_steady(list(cells.values())), *shown])
            + " |"
        )
    yield ""
    yield from _details(found)


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f} %"


def _steady(cells: list[Measured]) -> str:
    """The control: all the time without an action."""
    measured = [m for m in cells if m.steady.seconds]
    if not measured:
        return "?"
    failed = sum(sum(m.control.failed.values()) for m in measured)
    worst = max(m.control.worst for m in measured)
    offered = sum(m.rate * m.steady.seconds for m in measured)
    answered = sum(m.steady.answered for m in measured)
    slowest = min((m.steady.slowest or 0) / m.rate for m in measured)
    return f"{failed} · {worst:.2f} s · {_percent(answered / offered)} ({_percent(slowest)})"


def _cell(measured: Measured | None, actions: int) -> str:
    if measured is None:
        return "-"
    if not measured.acts:
        return "could not" if measured.error else "no time"
    failed = sum(measured.failed().values())
    reused = sum(count for kind, count in measured.failed().items() if "reused" in kind)
    worst = max(act.worst for act in measured.acts)
    share = _percent(measured.throughput())
    second = _percent(measured.worst_second())
    peak = measured.peak / measured.memory if measured.memory else 0
    losses = f"**{failed}**" + (f" ({reused} reused)" if reused else "")
    text = f"{losses} · {worst:.2f} s · {share} ({second}) · x{peak:.2f}"
    if len(measured.acts) != actions:
        text += f" [{len(measured.acts)} actions]"
    return text


def _details(found: list[Measured]) -> Iterator[str]:
    """What failed, and what else was seen."""
    for measured in found:
        acts, words = measured.acts, []
        kinds = measured.failed()
        if kinds:
            words.append(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
            hit = sum(bool(act.failed) for act in acts)
            words.append(f"in {hit} of {len(acts)} actions")
        if measured.cell.row.keep_alive and acts:
            lost = sum(act.closed for act in acts) / len(acts)
            words.append(f"{lost:.1f} kept connections closed per action without a loss")
        late = sum(act.late_connects for act in acts)
        if late:
            words.append(f"{late} connects were repeated by the kernel: the listen queue was full")
        outside = measured.control.failed
        if outside:
            kinds_outside = ", ".join(f"{count} {kind}" for kind, count in outside.items())
            words.append(f"outside of any action: {kinds_outside}")
        other = Counter(act.result for act in acts if act.result != "done")
        if other:
            words.append(", ".join(f"{count} {result}" for result, count in other.items()))
            words.append(next(act.text for act in acts if act.result != "done"))
        astray = sum(act.after != WORKERS for act in acts)
        if astray:
            words.append(f"after {astray} actions not {WORKERS} workers")
        if measured.cell.column == "surge" and acts:
            swapped = sum(act.most > WORKERS for act in acts)
            if swapped < len(acts):
                words.append(f"only {swapped} of {len(acts)} were seen with a worker more")
        if measured.late > 0.25:
            words.append(f"the load itself was late by up to {measured.late:.2f} s")
        if measured.error:
            words.append(measured.error.splitlines()[0])
        if words:
            yield f"- {measured.cell}: " + "; ".join(words)
    if "surge" in NOT_YET:
        yield "- surge: this version has none, its column is a plain recycle's"
    yield ""


@dataclass
class Aim:
    """What is hoped for, of some cells."""

    words: str
    cells: int = 0  # that it was asked of
    missed: list[str] = field(default_factory=list)  # by which of them, and how

    def ask(self, met: bool, cell: Cell, how: object) -> None:
        self.cells += 1
        if not met:
            self.missed.append(f"{cell}: {how}")


def aims(found: list[Measured]) -> list[Aim]:
    """What was hoped for, and what came of it; what concerns no cell is left out."""
    control = Aim("steady state: no request fails, at least 97 % of the load is answered")
    whole = Aim("every cell is measured, every action done, with as many workers as before")
    sure = Aim("surge and plain lose no request on 27.0.1, but uvicorn with keep-alive")
    sync = Aim("surge and plain lose no request on sync of every version")
    steady = Aim("throughput during a surge at least 95 % of steady state")
    for measured in found:
        cell, acts = measured.cell, measured.acts
        if measured.steady.seconds:
            share = measured.steady_rate() / measured.rate
            lost = sum(measured.control.failed.values())
            words = f"{lost} failed, {_percent(share)}"
            control.ask(not lost and share >= 0.97, cell, words)
        wrong = sum(act.result != "done" or act.after != WORKERS for act in acts)
        error = measured.error.partition("\n")[0]
        whole.ask(bool(acts) and not wrong and not error, cell, error or f"{wrong} not")
        if cell.column not in ("surge", "plain") or not acts:
            continue
        failed = sum(measured.failed().values())
        excepted = cell.row.worker == "uvicorn" and cell.row.keep_alive
        if cell.row.gunicorn == INSTALLED and not excepted:
            sure.ask(not failed, cell, failed)
        if cell.row.worker == "sync":
            sync.ask(not failed, cell, failed)
        if cell.column == "surge":
            during = measured.throughput() or 0
            steady.ask(during >= 0.95, cell, _percent(during))
    return [aim for aim in (control, whole, sure, sync, steady) if aim.cells]


def document(found: list[Measured], met: bool) -> dict[str, object]:
    """Everything: seconds and bytes, times monotonic."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "met": met,
        "cells": [
            {
                **asdict(m),
                "cell": {**m.cell.row._asdict(), "column": m.cell.column},
                "failed": sum(m.failed().values()),
                "throughput": m.throughput(),
                "worst_second": m.worst_second(),
            }
            for m in found
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every server, load, import and action")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cells whose name it matches")
    parser.add_argument("--list", action="store_true", help="the names of the cells, and no more")
    parser.add_argument("--actions", type=int, default=ACTIONS, help="in a cell (%(default)s)")
    parser.add_argument("--lanes", type=int, default=LANES, help="cells at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, help="no action begins later (19; --full: 300)")
    parser.add_argument("--json", action="store_true", help="everything, in seconds and bytes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cells = all_cells() if arguments.full else default_cells()
    cells = [cell for cell in cells if re.search(arguments.only, str(cell))]
    if not cells or arguments.list:
        print("\n".join(map(str, cells)) or "no such cell; --list shows them")
        return 0 if cells else 2
    minutes = arguments.minutes or (300 if arguments.full else MINUTES)
    found = Run(cells, arguments.actions, arguments.lanes, minutes).measure()
    reached = aims(found)
    met = not any(aim.missed for aim in reached)
    if arguments.json:
        print(json.dumps(document(found, met), indent=2))
    else:
        for line in report(found, arguments.actions):
            print(line)
        for aim in reached:
            print(f"{'MISSED' if aim.missed else 'met':<7}{aim.words}")
            for missed in aim.missed:
                print(f"       {missed}")
    return 0 if met else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
