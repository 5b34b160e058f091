"""How often `memwatch audit` would have been right: audits of stretches of recorded programs.

Every two minutes of a recording an audit begins, of 2, 4 and 8 minutes, each judged as the command
would have, looking every 5 s as the recording does (it looks every second in watches up to five
minutes: what it could say sooner is not measured here). What a worker was is the recording's
label: a leak counts where it has gone on for half of the watch, a cache that fills all the time is
left out. Not covered: `--since`, open files, threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from judging import Recording
from parts import MINUTE

from supervisor_memwatch import appraisal, audit, detectors
from supervisor_memwatch.model import Snapshot
from supervisor_memwatch.recording import Readings, read_program, read_tick

WATCHES = (2 * MINUTE, 4 * MINUTE, 8 * MINUTE)
APART = 2 * MINUTE


class Said(NamedTuple):
    """What an audit of so many seconds said of a worker, and whether it leaked."""

    seconds: float
    judgement: str
    confidence: float | None
    leaks: bool


def audits(recording: Recording) -> list[Said]:
    """Every audit of a recording, a line for each worker."""
    program = read_program(json.loads(recording.lines[0]))
    readings = Readings()
    looks = [readings.carry(read_tick(json.loads(line), program)) for line in recording.lines[1:]]
    said: list[Said] = []
    for seconds in WATCHES:
        for part in _stretches(looks, seconds):
            options = audit.finer(program.options, part[0], seconds, 5.0)
            past = detectors.Past()
            for snapshot in part:
                detectors.remember(options, past, snapshot)
            verdicts = detectors.examine(options, part[-1], past)
            watched = appraisal.Watched("web", options, seconds, part, past, verdicts)
            for worker in appraisal.document(watched)["workers"]:
                leaks = _leaks(recording, worker["pid"], part[0].at, part[-1].at)
                if leaks is not None:
                    judged, confidence = worker["judgement"], worker["confidence"]
                    said.append(Said(seconds, judged, confidence, leaks))
    return said


def _stretches(looks: Sequence[Snapshot], seconds: float) -> Iterator[list[Snapshot]]:
    at, end = looks[0].at + APART / 2, looks[-1].at
    while at + seconds <= end:
        part = [look for look in looks if at <= look.at < at + seconds]
        if part and part[-1].workers:
            yield part
        at += APART


def _leaks(recording: Recording, pid: int, began: float, ended: float) -> bool | None:
    """None: not to be told by anybody, or only just begun."""
    if pid in recording.filling:
        return None
    if pid not in recording.guilty or not recording.truth.startswith("leak"):
        return False
    since = recording.since.get(pid) or 0.0
    if since <= (began + ended) / 2:
        return True
    return None if since < ended else False


def figures(said: Sequence[Said]) -> list[dict[str, Any]]:
    """A row for each length of the watch."""
    rows = []
    for seconds in WATCHES:
        chosen = [each for each in said if each.seconds == seconds]
        leak = [each for each in chosen if each.judgement == "leak"]
        healthy = [each for each in chosen if each.judgement == appraisal.HEALTHY]
        leaking = [each for each in chosen if each.leaks]
        sure = [each for each in leak if (each.confidence or 0.0) >= SURE]
        rows.append(
            {
                "seconds": seconds,
                "workers": len(chosen),
                "leak": len(leak),
                "leak_right": _share(each.leaks for each in leak),
                "sure": len(sure),
                "sure_right": _share(each.leaks for each in sure),
                "healthy": len(healthy),
                "healthy_right": _share(not each.leaks for each in healthy),
                "leaking": len(leaking),
                "found": _share(each.judgement == "leak" for each in leaking),
                "missed": _share(each.judgement == appraisal.HEALTHY for each in leaking),
            }
        )
    return rows


SURE = 0.8  # "very likely", and more


def _share(values: Iterator[bool]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| watched | workers | said to leak: right | very likely, or more: right "
        "| said to be healthy: right | leaking: found | called healthy |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['seconds'] / MINUTE:.0f} min | {row['workers']} "
        f"| {row['leak']}: {_percent(row['leak_right'])} "
        f"| {row['sure']}: {_percent(row['sure_right'])} "
        f"| {row['healthy']}: {_percent(row['healthy_right'])} "
        f"| {row['leaking']}: {_percent(row['found'])} | {_percent(row['missed'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
