"""`memwatch status`: what the listener sees now, read from its journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from . import __version__, host, report, units
from .config import Config, named
from .detectors import Past
from .journal import JournalError, Reader
from .model import WorkerId
from .trends import Early

LISTENER = ("pid", "ticks", "last_tick", "rss", "cpu_seconds", "events_dropped")
MISSED = 3.0  # ticks after which the listener is silent
SLACK = 10.0  # seconds: Supervisor is late with ticks, and a look takes its time
BORN = 60.0  # seconds: the clock that dates a process may differ from the listener's so much


class Status(NamedTuple):
    """The document of `status --json`, and whether there is a listener to trust it."""

    document: dict[str, Any]
    silence: str  # why there is none, in words; empty: there is one
    advice: dict[str, list[str]] = {}  # of each program that has some
    paused: dict[str, float] = {}  # until when, of each program that is
    early: dict[str, Early] = {}  # of each worker's id that nothing can be said of yet

    @property
    def silent(self) -> bool:
        return bool(self.silence)


def now(config: Config) -> float:
    """Now by the listener's clock, as all times of the journal are. Raises JournalError."""
    reader = Reader(config.journal_path())
    try:
        told = _facts(reader)
    finally:
        reader.close()
    return time.time() - _stepped(told)


def read(config: Config, names: Sequence[str] = ()) -> Status:
    """What the listener wrote down last. Raises JournalError."""
    reader = Reader(config.journal_path())
    try:
        told = _facts(reader)
        latest = reader.rows("SELECT namespec, snapshot, view FROM latest ORDER BY namespec")
        saved = dict(reader.rows("SELECT namespec, state FROM watches"))
    finally:
        reader.close()
    known = {row[0] for row in latest}
    unknown = [name for name in names if not any(named(name, spec) for spec in known)]
    if unknown:
        listed = [units.printable(", ".join(some), 1000) for some in (unknown, sorted(known))]
        pids = "; a worker is no name: give its program" * all(name.isdigit() for name in unknown)
        raise JournalError(f"not watched: {listed[0]}; watched: {listed[1] or 'nothing'}{pids}")
    programs = []
    advice = {}
    paused = {}
    early: dict[str, Early] = {}
    machine = time.time()
    now = machine - _stepped(told)
    for namespec, snapshot, view in latest:
        if names and not any(named(name, namespec) for name in names):
            continue
        options = config.options_of(namespec)
        try:
            seen = json.loads(view)
            told_of = report.snapshot_from_json(json.loads(snapshot))
            past = _past(saved.get(namespec))
            programs.append(report.program_json(told_of, seen, options, past))
            early |= {str(WorkerId(*id)): Early(*times) for id, times in seen.get("early", ())}
            if seen.get("advice"):
                advice[namespec] = [str(text) for text in seen["advice"]]
            if (seen.get("paused_until") or 0.0) > now:
                paused[namespec] = float(seen["paused_until"])
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            raise _damaged(reader.path, f"the row of {units.printable(namespec)}") from None
    document = {
        "version": __version__,
        "time": now,
        "listener": _listener(told) if told else None,
        "programs": programs,
    }
    return Status(document, _silence(told, machine), advice, paused, early)


def _facts(reader: Reader) -> dict[str, Any]:
    facts = reader.rows("SELECT value FROM facts WHERE key = 'listener'")
    return _told(reader.path, facts[0][0]) if facts else {}


def _told(path: str, text: str) -> dict[str, Any]:
    """What the listener says of itself. Raises JournalError."""
    try:
        told = json.loads(text)
        if told.keys() >= {"pid", "ticks"} and isinstance(told["pid"], int):
            return dict(told)
    except (ValueError, TypeError, AttributeError):
        pass
    raise _damaged(path, "what the listener says of itself")


def _damaged(path: str, what: str) -> JournalError:
    return JournalError(
        f"{path}: {what} is damaged; the listener writes it anew at its next look: if it does "
        "not, restart it"
    )


def document(config: Config, names: Sequence[str] = ()) -> dict[str, Any]:
    """The document of `status --json` alone. Raises JournalError."""
    return read(config, names).document


def _listener(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: told.get(name) for name in LISTENER}, "last_tick": _last_seen(told)}


def _stepped(told: Mapping[str, Any]) -> float:
    """By how much the machine's clock was set since the listener started, whose own goes on."""
    step = told.get("stepped")
    return step if isinstance(step, int | float) else 0.0


def _last_seen(told: Mapping[str, Any]) -> float | None:
    """When it was last seen, by its own clock, as all times of the document are."""
    last = _last_tick(told)
    return None if last is None else last - _stepped(told)


def _last_tick(told: Mapping[str, Any]) -> float | None:
    """The same by the machine's clock."""
    last: float | None = told.get("seen_at") or told.get("last_tick")
    return last


def _silence(told: Mapping[str, Any], now: float) -> str:
    """Why what the journal says is no news any more; empty where it is."""
    last, period = _last_tick(told), told.get("period")
    if not last or not period:
        return "the listener has not ticked yet"
    # From another container its pid says nothing.
    here = told.get("pid_space") == host.pid_space()
    if here and _is_gone(int(told["pid"]), last):
        gone = f"the listener (pid {told['pid']}) is gone"
        return f"{gone}, and no other has ticked since: this is the last it saw"
    if now - last > MISSED * period + SLACK:
        return f"the listener is silent since {units.time(now - last)}"
    return ""


def _is_gone(pid: int, seen: float) -> bool:
    """Whether there is no such process, or one that is younger than what the listener last saw."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it is there, and somebody else's
    except (ProcessLookupError, OverflowError):
        return True
    try:
        born = psutil.Process(pid).create_time()
    except psutil.Error:
        return False  # hidden from us
    return born > seen + BORN


def _past(state: str | None) -> Past | None:
    """What the listener remembered when it last saved, for the trends."""
    if state is None:
        return None
    try:
        return Past.load(json.loads(state)["past"])
    except (KeyError, TypeError, ValueError):
        return None


def exit_status(found: Status) -> int:
    """0: nothing is told; 1: something is; 2: the listener is silent."""
    if found.silent:
        return 2
    told = any(
        verdict["told"]
        for program in found.document["programs"]
        for holder in [program, *program["workers"], program["master"] or {"verdicts": ()}]
        for verdict in holder["verdicts"]
    )
    return 1 if told else 0
