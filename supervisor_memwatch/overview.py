"""`memwatch status` as people read it: each program, its people, and what is said of them.

Lines are as wide as the terminal at most, broken between words and never cut: what does not fit
stands below, further in. The document that is read here is report.py's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from . import cells, report, units
from .keyboard import people, role
from .trends import Early

HEAD = ("  ", "PID", "AGE", "RSS", "ANON", "PSS", "USS", "SWAP", "CPU", "FDS", "TREND")
NARROW = 40  # columns: in fewer, lines are broken for that many
# How sizes are written and columns set apart: as it is nicest, and as it is narrower.
WAYS = ((units.size, "  "), (units.size, " "), (cells.short, " "))


def text(
    document: Mapping[str, Any],
    columns: int,
    advice: Mapping[str, Sequence[str]] | None = None,
    paused: Mapping[str, float] | None = None,
    early: Mapping[str, Early] | None = None,
) -> str:
    """The document of `status --json` in words. Of a program: `advice`, what is to be said of it;
    `paused`, until when it is. Of a worker's id: `early`, where nothing can be said yet."""
    columns = max(columns, NARROW)
    out = [_listener(document)]
    for program in document["programs"]:
        name = program["namespec"]
        out += ["", _heading(program), *_table(program, early or {}, columns)]
        out += _said(program, (advice or {}).get(name, ()))
        if paused and name in paused:
            left = units.time(paused[name] - document["time"])
            out.append(f"  paused for another {left}: nothing is begun; `memwatch resume` ends it")
    return "\n".join(part for line in out for part in _broken(line, columns))


def _broken(line: str, columns: int) -> list[str]:
    safe = units.printable(line, 1000)
    if len(safe) <= columns:
        return [safe]
    margin = " " * (len(safe) - len(safe.lstrip()) + 2)
    return textwrap.wrap(
        safe,
        columns,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listener(document: Mapping[str, Any]) -> str:
    listener = document["listener"]
    if listener is None:
        return "the listener has not ticked yet"
    last = listener["last_tick"]  # which the clock may have been set back behind
    ago = max(0.0, document["time"] - last) if last else None
    return (
        f"listener {listener['pid']}: last tick {units.time(ago)} ago, "
        f"{listener['ticks']} ticks, RSS {units.size(listener['rss'])}, "
        f"{listener['cpu_seconds']:.1f} s of CPU, {listener['events_dropped']} events dropped"
    )


def _heading(program: Mapping[str, Any]) -> str:
    limit = f" of {units.size(program['total_limit'])}" if program["total_limit"] else ""
    return (
        f"{program['namespec']}: {program['state']}, {program['kind']}, {program['mode']}, "
        f"{units.size(program['total'])}{limit}, {report.budget_words(program['budget'])}"
    )


def _table(program: Mapping[str, Any], early: Mapping[str, Early], columns: int) -> list[str]:
    """A line each; its verdicts at the end where there is room for all of them, else below it."""
    everyone = people(program)
    if not everyone:
        return []
    said = [
        report.verdict_words(one["verdicts"]) or _early_words(early.get(one["id"]))
        for one in everyone
    ]
    for size, gap in WAYS:
        rows = [_row(role(program, one), one, size) for one in everyone]
        whole = report.table(
            [*HEAD, "VERDICT"], [[*row, text] for row, text in zip(rows, said, strict=True)], gap
        ).split("\n")
        if _fit(whole, columns):
            return whole
        lines = report.table([*HEAD, ""], [[*row, ""] for row in rows], gap).split("\n")
        if _fit(lines, columns):
            break
    below = [
        [line, f"    {text}"] if text else [line]
        for line, text in zip(lines[1:], said, strict=True)
    ]
    return [lines[0], *(part for parts in below for part in parts)]


def _fit(lines: Sequence[str], columns: int) -> bool:
    return max(map(len, lines)) <= columns


def _row(role: str, worker: Mapping[str, Any], size: Any) -> list[str]:
    return [
        f"  {role}",
        str(worker["pid"]),
        units.time(worker["age"]),
        *(size(worker[key]) for key in ("rss", "anon", "pss", "uss", "swap")),
        report.cpu_words(worker["cpu"]),
        "?" if worker["fds"] is None else str(worker["fds"]),
        report.trend_words(worker["trend"]),
    ]


def _said(program: Mapping[str, Any], advice: Sequence[str]) -> list[str]:
    lines = [f"  program: {v['kind']}: {v['why']}" for v in program["verdicts"]]
    lines += [f"  advice: {text}" for text in advice]
    if program["action"]:
        action = program["action"]
        lines.append(f"  now: {report.deed(action)}, {action['step']}: {action['why']}")
    lines += [f"  held: {held['text']}" for held in program["held"]]
    if program["last_action"]:
        last = program["last_action"]
        lines.append(f"  last: {last['action']} {last['result']}: {last['text']}")
    return lines


def _early_words(early: Early | None) -> str:
    """Of a worker that nothing is said of, where nothing can be said yet."""
    if early is None:
        return ""
    return f"too early: watched {units.time(early.watched)} of {units.time(early.needed)}"
