"""Reads a span of the journal, for a page.

Owns the reading; what it means is page.py's. Never opens the journal for writing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from . import __version__, page, report, status, units
from .config import Config, named
from .journal import JournalError, Reader
from .model import Entry
from .page import Source

DAY = 86400.0
SHORTEST = 60.0  # seconds of a span, and of what is shown before the first that was seen
# Entries that a page shows; of before the span those that tell what stands at its beginning.
BEFORE = ("suspected", "over", "recovered")
KINDS = (*BEFORE, "intent", "step", "outcome", "release", "seen", "request", "gave_up")


def read(
    config: Config,
    names: Sequence[str] = (),
    since: float | None = None,
    until: float | None = None,
) -> Source:
    """What the journal says of these programs (default: all) from `since` (default: a day before
    the end; not before the journal begins) to `until` (default: now). Raises JournalError."""
    found = status.read(config)
    now = found.document["time"]
    live = until is None or until >= now
    end = now if until is None else min(until, now)
    begin = end - DAY if since is None else since
    if begin > end - SHORTEST:
        raise JournalError("--since has to be a minute before --until, and before now")
    reader = Reader(config.journal_path())
    try:
        samples = _samples(reader, begin, end)
        if live:
            _add_latest(reader, samples, end)
        lines = _lines(reader, begin, end)
        procedures = _procedures(reader, begin)
    except ValueError as error:
        raise JournalError(f"{reader.path}: a row of the journal is damaged: {error}") from None
    finally:
        reader.close()
    begin = _first(begin, end, samples, lines)
    shown = {program["namespec"]: program for program in found.document["programs"]}
    known = sorted({*shown, *samples, *lines} - {""})
    programs = [name for name in known if not names or any(named(one, name) for one in names)]
    _complain([one for one in names if not any(named(one, name) for name in known)], known)
    options = {}
    for name in programs:
        options[name] = config.options_of(name)
    return Source(
        since=begin,
        until=end,
        now=now,
        live=live,
        version=__version__,
        host=os.uname().nodename,
        zone=time.localtime(now).tm_gmtoff,
        silence=found.silence if live else "",
        programs=programs,
        status=shown,
        advice=found.advice,
        paused=found.paused,
        early=found.early,
        options=options,
        samples=samples,
        lines=lines,
        procedures=procedures,
    )


def _first(
    begin: float,
    end: float,
    samples: dict[str, list[tuple[float, Any]]],
    lines: dict[str, list[Entry]],
) -> float:
    """Where there is something to show: the journal may begin later."""
    times = [rows[0][0] for rows in samples.values() if rows]
    times += [line.at for found in lines.values() for line in found if line.at >= begin]
    return max(begin, min([*times, end]) - SHORTEST)


def document(
    config: Config,
    names: Sequence[str] = (),
    since: float | None = None,
    until: float | None = None,
) -> dict[str, Any]:
    """The same as a page's document. Raises JournalError."""
    return page.document(read(config, names, since, until))


def _complain(unknown: Sequence[str], known: Sequence[str]) -> None:
    if unknown:
        listed = [units.printable(", ".join(some), 1000) for some in (unknown, known)]
        raise JournalError(f"not in the journal: {listed[0]}; known: {listed[1] or 'nothing'}")


def _samples(reader: Reader, begin: float, end: float) -> dict[str, list[tuple[float, Any]]]:
    rows = reader.rows(
        "SELECT namespec, at, workers FROM samples WHERE at BETWEEN ? AND ? ORDER BY at",
        (begin, end),
    )
    found: dict[str, list[tuple[float, Any]]] = {}
    for name, at, workers in rows:
        found.setdefault(name, []).append((at, json.loads(workers)))
    return found


def _add_latest(reader: Reader, samples: dict[str, list[tuple[float, Any]]], end: float) -> None:
    """The last look, which is younger than the last sample."""
    for name, at, text in reader.rows("SELECT namespec, at, snapshot FROM latest"):
        seen = report.snapshot_from_json(json.loads(text))
        rows = samples.setdefault(name, [])
        if seen.workers and (rows[-1][0] + 1.0 if rows else end - DAY) < at <= end:
            rows.append((at, report.sample(seen)))


def _lines(reader: Reader, begin: float, end: float) -> dict[str, list[Entry]]:
    rows = reader.rows(
        "SELECT at, namespec, kind, level, text, data FROM entries WHERE at <= ?"
        f" AND ((at >= ? AND kind IN ({_marks(KINDS)})) OR (at < ? AND kind IN ({_marks(BEFORE)})))"
        " ORDER BY seq",
        (end, begin, *KINDS, begin, *BEFORE),
    )
    found: dict[str, list[Entry]] = {}
    for at, name, kind, level, text, data in rows:
        found.setdefault(name, []).append(Entry(at, name, kind, text, json.loads(data), level))
    return found


def _procedures(reader: Reader, begin: float) -> dict[str, dict[str, Any]]:
    rows = reader.rows("SELECT id, state FROM procedures WHERE begun >= ?", (begin,))
    return {id: json.loads(state) for id, state in rows}


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
