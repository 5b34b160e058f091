"""Recordings: one program's snapshots as text, a JSON object a line.

First the program, then its ticks; what is written here is what is read here. Sizes are bytes, times
seconds from any zero, `start` is opaque. Of a process only pid, start and rss have to be known. A
recording says everything a verdict depends on: no clock, file or machine is asked for more.

Not here: what is thought of it (replay.py, backtest.py). What is wrong with a line is a ValueError
in one sentence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from math import isfinite
from typing import Any, NamedTuple

from .model import RUNNING, Snapshot, Worker, WorkerId
from .options import FIELDS, Ceiling, Options, parse

LARGEST = 2.0**60  # no process holds more bytes than that
LONGEST = 1e13  # seconds; far beyond it, times that differ would be the same float
SIZES = ("rss", "shared", "anon", "pss", "uss", "swap", "fds", "threads", "requests")
DAY = 1440  # minutes


class Program(NamedTuple):
    """What the first line says: whom the ticks are of, and how it is watched."""

    namespec: str = "?"
    options: Options = Options()
    available: int | None = None  # bytes
    kind: str = "gunicorn"  # or "plain": one worker is its whole tree
    clock: int | None = None  # minutes since local midnight at t = 0


# -- read


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # json.loads would make one for each line


def read_object(line: str) -> dict[str, Any]:
    """A line that holds a JSON object. Raises ValueError."""
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        what = "a byte order mark before it" if line.startswith("\ufeff") else error.msg
        raise ValueError(f"not JSON ({what}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("not a tick: nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_program(value: dict[str, Any], options: Callable[[str], Options] | None = None) -> Program:
    """The first line. `options`: those of a namespec, in place of the recorded ones.

    Raises ValueError.
    """
    header = value.get("program")
    if not isinstance(header, dict):
        raise ValueError(
            'the first line must be the program: {"program": {"namespec": "group:name"}}; '
            "watching with the defaults"
        )
    namespec = header.get("namespec")
    if not isinstance(namespec, str) or not namespec:
        raise ValueError("program: namespec must be a name such as web:web")
    available = _size(header, "available")
    _seconds(header, "interval")
    kind, clock = header.get("kind") or "gunicorn", _size(header, "clock")
    if kind not in ("gunicorn", "plain"):
        raise ValueError("program: kind must be gunicorn or plain")
    own = _recorded(header) if options is None else options(namespec)
    return Program(namespec, own, available, kind, None if clock is None else clock % DAY)


def read_tick(value: dict[str, Any], program: Program) -> Snapshot:
    """Any further line. Raises ValueError."""
    if "program" in value:
        raise ValueError("a second program line: a recording holds one program")
    at = value.get("t")
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not abs(at) < LONGEST:
        raise ValueError(f"t must be a number of seconds, and less than {LONGEST:.0e}")
    workers = value.get("workers")
    if not isinstance(workers, list):
        raise ValueError("workers must be a list")
    master = value.get("master")
    found = [_worker(worker, f"workers[{index}]") for index, worker in enumerate(workers)]
    arbiter = None if master is None else _worker(master, "master")
    everyone = found if arbiter is None else [*found, arbiter]
    pids = [worker.id.pid for worker in everyone]
    if len(set(pids)) < len(pids):
        raise ValueError("a pid occurs twice")
    return Snapshot(
        namespec=program.namespec,
        at=float(at),
        state=RUNNING,
        pid=0 if arbiter is None else arbiter.id.pid,
        kind=program.kind,
        master=arbiter,
        workers=tuple(found),
        others=_size(value, "others") or 0,
        available=program.available,
        clock=None if program.clock is None else int(program.clock + at // 60) % DAY,
    )


class Readings:
    """PSS and USS that a recording has only now and then, carried on from tick to tick.

    As the sampler does it: by what anonymous memory has changed since they were read.
    """

    def __init__(self) -> None:
        self._last: dict[WorkerId, tuple[float, Worker]] = {}  # when it was read

    def carry(self, snapshot: Snapshot) -> Snapshot:
        last, self._last = self._last, {}
        workers = tuple(self._carried(worker, snapshot.at, last) for worker in snapshot.workers)
        master = snapshot.master and self._carried(snapshot.master, snapshot.at, last)
        return snapshot._replace(workers=workers, master=master)

    def _carried(
        self, worker: Worker, at: float, last: dict[WorkerId, tuple[float, Worker]]
    ) -> Worker:
        if worker.uss is not None:
            self._last[worker.id] = at, worker
            return worker
        if worker.id not in last:
            return worker
        then, read = self._last[worker.id] = last[worker.id]
        changed = 0
        if worker.anon is not None and read.anon is not None:
            changed = worker.anon - read.anon
        uss, pss = (
            None if size is None else max(size + changed, 0) for size in (read.uss, read.pss)
        )
        return worker._replace(uss=uss, pss=pss, measured_at=then)


def _recorded(header: dict[str, Any]) -> Options:
    """The options a recording was made with; its limits in bytes come last."""
    texts = header.get("options")
    if texts is None:
        texts = {}
    if not isinstance(texts, dict):
        raise ValueError("program: options must be an object of names and texts")
    changes: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in FIELDS:
            valid = ", ".join(FIELDS)
            raise ValueError(f"program: no option is called {name}; valid: {valid}")
        try:
            changes[name] = parse(name, text if isinstance(text, str) else str(text))
        except ValueError as error:
            raise ValueError(f"program: option {name} = {text}: {error}") from None
    for name in ("limit", "total_limit"):
        size = _size(header, name)
        if size:
            changes[name] = Ceiling(bytes=size)
    return dataclasses.replace(Options(), **changes)


def _worker(value: Any, where: str) -> Worker:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object")
    pid, start = value.get("pid"), value.get("start")
    if isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**31:
        raise ValueError(f"{where}: pid must be a whole number above 0")
    if isinstance(start, bool) or not isinstance(start, (str, int, float)):
        raise ValueError(f"{where}: start must be a number or a text")
    if isinstance(start, float) and not isfinite(start):
        raise ValueError(f"{where}: start must be a number or a text")
    try:
        rss, shared, anon, pss, uss, swap, fds, threads, requests = [
            _size(value, name) for name in SIZES
        ]
        age, cpu = _seconds(value, "age"), _seconds(value, "cpu")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if rss is None:
        raise ValueError(f"{where}: rss must be a number of bytes")
    id = WorkerId(pid, start)
    return Worker(id, age, rss, shared, anon, pss, uss, swap, cpu, fds, threads, requests)


def _number(holder: dict[str, Any], name: str, bound: float) -> float | None:
    """A field that may be null or missing, else a number of 0 or more."""
    value = holder.get(name)
    if value is None or (type(value) is float and 0 <= value < bound):  # nearly always
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number or null")
    if not 0 <= value < bound:
        raise ValueError(f"{name} must be 0 or more, and less than {bound:.0e}")
    return float(value)


def _seconds(holder: dict[str, Any], name: str) -> float | None:
    return _number(holder, name, LONGEST)


def _size(holder: dict[str, Any], name: str) -> int | None:
    value = holder.get(name)
    if value is None or (type(value) is int and 0 <= value < LARGEST):  # nearly always
        return value  # exactly: a float would round it
    number = _number(holder, name, LARGEST)
    return None if number is None else int(number)


# -- written


def program_line(first: Snapshot, options: Options, interval: float) -> str:
    """The first line of a recording that begins with this snapshot (t = 0).

    With the limits in bytes, as the machine makes them, and the options that verdicts depend on.
    """
    limit = options.limit.of(first.available) if options.limit else None
    whole = options.total_limit.of(first.available) if options.total_limit else None
    growth, imbalance = options.growth, options.imbalance
    header = {
        "namespec": first.namespec,
        "interval": interval,
        "available": first.available,
        "limit": limit,
        "total_limit": whole,
        "kind": first.kind,
        "clock": first.clock,
        "options": {
            "confirm": f"{options.confirm:.3f}s",
            "warmup": f"{options.warmup:.3f}s",
            "measure": options.measure,
            "growth": growth if isinstance(growth, str) else f"{growth * 3600:.0f}B/h",
            "imbalance": "off" if imbalance is None else f"{imbalance:g}",
            **({} if options.total_limit else {"total_limit": "none"}),
        },
    }
    return json.dumps({"program": header}) + "\n"


def tick_line(snapshot: Snapshot, zero: float) -> str:
    """A snapshot; `zero`: the Snapshot.at of t = 0."""
    tick = {
        "t": round(snapshot.at - zero, 3),
        "master": None if snapshot.master is None else _written(snapshot.master),
        "workers": [_written(worker) for worker in snapshot.workers],
    }
    if snapshot.others:
        tick["others"] = snapshot.others
    return json.dumps(tick) + "\n"


def _written(worker: Worker) -> dict[str, Any]:
    values: dict[str, Any] = {"pid": worker.id.pid, "start": worker.id.start}
    values |= {name: getattr(worker, name) for name in SIZES}
    values["age"] = None if worker.age is None else round(worker.age, 2)
    values["cpu"] = None if worker.cpu is None else round(worker.cpu, 3)
    return {name: value for name, value in values.items() if value is not None}
