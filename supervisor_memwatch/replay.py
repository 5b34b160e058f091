"""`memwatch replay`: recorded snapshots through the listener's own detectors.

One JSON object per line: first the program, then its ticks; one line of verdicts out for
each tick, flushed. Reads no clock, file, RAM, cgroup or environment: the recording is all
there is. What is wrong with a line is said by its number, and the next line is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, TextIO

from . import detectors, units
from .model import RUNNING, Snapshot, Worker, WorkerId
from .options import FIELDS, Ceiling, Options, parse

LARGEST = 2.0**60  # no process holds more bytes than that
LONGEST = 1e13  # seconds; far beyond it, times that differ would be the same float
SIZES = ("rss", "shared", "anon", "pss", "uss", "swap", "fds", "threads", "requests")


class Program:
    """What the first line says: whom the ticks are of, and how it is watched."""

    def __init__(self, namespec: str, options: Options, available: int | None) -> None:
        self.namespec = namespec
        self.options = options
        self.available = available


def replay(
    lines: Iterable[str],
    out: TextIO,
    err: TextIO,
    options: Callable[[str], Options] | None = None,
) -> int:
    """Print the verdicts of each tick of a recording; the exit status (0, or 2: bad lines).

    `options`: the options of a namespec, in place of those recorded (`--config`).
    """
    program = None
    past = detectors.Past()
    bad = 0
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            value = _object(line)
            if number == 1:
                program = _program(value, options)
                continue
            snapshot = _snapshot(value, program or Program("?", Options(), None))
        except ValueError as error:
            err.write(f"line {number}: {units.printable(error)}\n")
            bad += 1
            continue
        watched = program.options if program is not None else Options()
        detectors.remember(watched, past, snapshot)
        out.write(json.dumps(_answer(value["t"], watched, snapshot, past)) + "\n")
        out.flush()
    if number == 0:
        err.write('no input: the first line is {"program": {"namespec": "group:name"}}\n')
        return 2
    return 2 if bad else 0


def _answer(t: float, watched: Options, snapshot: Snapshot, past: detectors.Past) -> dict[str, Any]:
    told: dict[str, list[str]] = {}
    act: dict[str, list[str]] = {}
    for subject, verdicts in detectors.examine(watched, snapshot, past).items():
        name = "program" if subject is None else str(subject.pid)
        kinds = [verdict.kind for verdict in verdicts if verdict.told]
        acted = [verdict.kind for verdict in verdicts if verdict.act]
        if kinds:
            told[name] = kinds
        if acted:
            act[name] = acted
    return {"t": t, "verdicts": told, "act": act}


def _object(line: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    try:
        value = json.loads(line, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("not a tick: nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _program(value: dict[str, Any], options: Callable[[str], Options] | None) -> Program:
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
    if options is not None:
        return Program(namespec, options(namespec), available)
    return Program(namespec, _recorded(header), available)


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


def _snapshot(value: dict[str, Any], program: Program) -> Snapshot:
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
        kind="gunicorn",
        master=arbiter,
        workers=tuple(found),
        available=program.available,
    )


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
        sizes = {name: _size(value, name) for name in SIZES}
        age, cpu = _seconds(value, "age"), _seconds(value, "cpu")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    rss = sizes["rss"]
    if rss is None:
        raise ValueError(f"{where}: rss must be a number of bytes")
    return Worker(
        id=WorkerId(pid, start),
        age=age,
        rss=rss,
        shared=sizes["shared"],
        anon=sizes["anon"],
        pss=sizes["pss"],
        uss=sizes["uss"],
        swap=sizes["swap"],
        cpu=cpu,
        fds=sizes["fds"],
        threads=sizes["threads"],
        requests=sizes["requests"],
    )


def _number(holder: dict[str, Any], name: str, bound: float) -> float | None:
    """A field that may be null or missing, else a number of 0 or more."""
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number or null")
    if not 0 <= value < bound:
        raise ValueError(f"{name} must be 0 or more, and less than {bound:.0e}")
    return float(value)


def _seconds(holder: dict[str, Any], name: str) -> float | None:
    return _number(holder, name, LONGEST)


def _size(holder: dict[str, Any], name: str) -> int | None:
    value = _number(holder, name, LARGEST)
    return None if value is None else int(value)
