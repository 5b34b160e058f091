"""An audit as people read it: what appraisal.py found of a program, as a table and sentences.

Lines are as long as they are, for a file or a pipe; on a terminal the table does without its least
important columns, and sentences are folded, commands to copy kept whole.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from . import comparison, detectors, report, units
from .appraisal import CREEPS, EARLY, GROWS, HEALTHY, IDLE, LEAKING, OPEN, WARM_UP
from .comparison import BAR, bar, sure
from .units import MB

NOTHING = 3 * MB  # growth an hour: less is 0 to a watch of minutes
VERY = 0.8  # sure: less may as well be a cache
NAMED = 4  # workers that left and are named, each in a line


def text(
    program: Mapping[str, Any],
    since: str | None = None,
    block: str = "#",
    width: int | None = None,
) -> str:
    """One program as people read it. `since`: the file it is compared with; `block`: what bars
    are made of; `width`: of the terminal, None where lines may be as long as they are."""
    in_table = comparison.found(program["changes"])
    said = [
        *_weak_evidence(program),
        *_ended(program),
        *_left(program["left"]),
        *[line for line in program["found"] if line not in in_table],
        *program["advice"],
        *([program["may_hold"]] if program["may_hold"] else []),
        *program["stands_out"],
    ]
    summary = _summary(program)
    if since:
        summary += comparison.not_compared(program, since)
    lines = [
        _title(program),
        *_table(program, block, width).splitlines(),
        *[f"  {line}" for line in said],
        *_compared(program, block, width),
        *[f"  => {line}" for line in summary],
        # With the names of files and programs in commands to copy.
        *[f"  surer: {units.printable(line, 2000)}" for line in program["surer"]],
    ]
    return "\n".join(part for line in lines for part in _folded(line, width))


def _folded(line: str, width: int | None) -> list[str]:
    """A line that a terminal would cut in the middle of a word, as several; a command to copy at
    its end stays whole."""
    if width is None or len(line) <= width:
        return [line]
    words, found, command = line.partition(": memwatch audit ")
    head = f"{words}:" if found else line
    lines = textwrap.wrap(head, max(width, 40), subsequent_indent="    ", break_on_hyphens=False)
    return [*lines, f"    memwatch audit {command}"] if found else lines


def _compared(program: Mapping[str, Any], block: str, width: int | None) -> list[str]:
    lines = "\n".join(comparison.table(program, block)).splitlines()
    if width is None or all(len(line) <= width for line in lines):
        return lines
    return "\n".join(comparison.table(program, "")).splitlines()


def _ended(program: Mapping[str, Any]) -> list[str]:
    if program["ended"] is None:
        return []
    return [
        f"no worker of it was seen any more {units.time(program['ended'])} after the watch began "
        "(it ended, was restarted, or does not boot): this is what was seen until then"
    ]


def _left(left: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that left meanwhile, each a line; of many those that leaked and the last ones."""
    first = sorted(left, key=lambda each: (each["judgement"] not in LEAKING, -each["after"]))
    said = [_left_words(each) for each in sorted(first[:NAMED], key=lambda each: each["after"])]
    if len(left) > NAMED:
        said.append(f"and {len(left) - NAMED} more that left")
    return said


def _left_words(person: Mapping[str, Any]) -> str:
    """`worker 12 left after 23s, 1m 2s old, with 96.1MB (+45.3MB in the 23s it was seen)`."""
    parts = [f"{person['role']} {person['pid']} left after {units.time(person['after'])}"]
    parts.append(f"{units.time(person['age'])} old")
    if person["requests"] is not None:
        parts.append(f"{person['requests']} requests")
    held = units.size(person["anon"])
    if person["grown"] is not None:
        held += f" ({units.signed_size(person['grown'])} in the {units.time(person['watched'])} "
        held += "it was seen)"
    return f"{', '.join(parts)}, with {held}: {_left_verdict(person)}"


def _left_verdict(person: Mapping[str, Any]) -> str:
    judgement = person["judgement"]
    if judgement == WARM_UP:
        return "still warming up, too young to judge"
    if judgement == EARLY:
        return "too short to judge"
    return _verdict_words(person) or judgement


def _title(program: Mapping[str, Any]) -> str:
    count = len(program["workers"])
    workers = f"{count} worker{'s' * (count != 1)}, " if program["kind"] == "gunicorn" else ""
    title = f"{units.printable(program['namespec'])}: {workers}{units.size(program['total'])}"
    seconds = program["watched"]
    title += " in all" + (f", watched for {units.time(seconds)}" if seconds else "")
    left, came = len(program["left"]), len(program["came"])
    if left or came:
        title += f"; {left} left and {came} came meanwhile"
    return title


# What a narrow terminal does without, the least important first.
_NARROW = ("interval", "bar", "PSS", "RSS", "USS", "WORK", "AGE")


def _table(program: Mapping[str, Any], block: str, width: int | None) -> str:
    table = _columns(program, block, ())
    for count in range(1, len(_NARROW) + 1):
        if width is None or max(map(len, table.splitlines())) <= width:
            break
        table = _columns(program, block, _NARROW[:count])
    return table


def _columns(program: Mapping[str, Any], block: str, without: Sequence[str]) -> str:
    people = [*([program["master"]] if program["master"] else []), *program["workers"]]
    largest = max((person["anon"] or 0 for person in program["workers"]), default=0)
    columns = {
        "  ": [f"  {person['role']}" for person in people],
        "PID": [str(person["pid"]) for person in people],
        "AGE": [units.time(person["age"]) for person in people],
        **{
            name: [units.size(person[name.lower()]) for person in people]
            for name in ("RSS", "PSS", "USS", "ANON")
        },
        "bar": [
            bar(person["anon"] if person["role"] != "master" else None, largest, block)
            for person in people
        ],
        "WORK": [_work_words(person) for person in people],
        "GROWTH": [_growth_words(person["trend"], "interval" not in without) for person in people],
        "VERDICT": [_verdict_words(person) for person in people],
    }
    shown = [name for name in columns if name not in without]
    head = [" " * BAR if name == "bar" else name for name in shown]
    return report.table(head, zip(*(columns[name] for name in shown), strict=True))


def _weak_evidence(program: Mapping[str, Any]) -> list[str]:
    how = program["evidence"]
    if how not in ("title", "cmdline"):
        return []
    return [
        f"workers told apart by {how} only: as root, or as the program's user, heartbeat files "
        "would make it sure"
    ]


def _work_words(person: Mapping[str, Any]) -> str:
    """What it did while it was watched, and the work of its life."""
    if person["requests"] is not None:
        served = f"{person['requests_served'] or 0:.0f} of " if person["watched"] else ""
        return f"{served}{person['requests']} requests"
    whole = report.cpu_words(person["cpu"])
    return whole if not person["watched"] else f"{person['cpu_spent'] or 0:.2f}s of {whole}"


def _growth_words(trend: Mapping[str, float] | None, interval: bool) -> str:
    """`+174.0MB/h (+168.0MB to +181.0MB)`."""
    if trend is None:
        return ""
    rate, low, high = (trend[name] for name in ("bytes_per_hour", "low", "high"))
    if max(abs(rate), abs(low), abs(high)) < NOTHING:
        return "0"
    words = f"{units.signed_size(rate)}/h"
    if not interval:
        return words
    return f"{words} ({units.signed_size(low)} to {units.signed_size(high)})"


def _verdict_words(person: Mapping[str, Any]) -> str:
    judgement, trend = person["judgement"], person["trend"]
    if judgement == GROWS:
        return "grows: not confirmed"
    if person["role"] == "master" and judgement in (*OPEN, HEALTHY):
        return ""
    if judgement == WARM_UP:
        return report.verdict_words(person["verdicts"])
    if judgement == CREEPS:
        return "creeps: a drift that ends, or a slow leak"
    if judgement == EARLY:
        return "not enough to tell" if person["watched"] else "one look: nothing to tell"
    if judgement == IDLE:
        return "idle: nothing to tell"
    if judgement != HEALTHY:
        return f"{judgement}: {sure(person['confidence'] or 0.0)}"
    words = "healthy: "
    known = [v for v in person["verdicts"] if v["kind"] in detectors.INFORMATIVE]
    if known:
        return words + "; ".join(verdict["why"] for verdict in known)
    if trend["high"] <= 0:
        return words + "does not grow (95%)"
    return words + f"less than {units.size(trend['high'])}/h (95%)"


def _summary(program: Mapping[str, Any]) -> list[str]:
    said = comparison.summary(program)
    bad = [p for p in program["workers"] if p["judgement"] in LEAKING]
    gone = [p for p in program["left"] if p["judgement"] in LEAKING]
    if bad or gone:
        surest = max(person["confidence"] for person in (*bad, *gone))
        count = f"{len(bad)} of {len(program['workers'])} workers leak{'s' * (len(bad) == 1)}"
        count = count if program["kind"] == "gunicorn" else "it leaks"
        if gone:
            count += f", and {len(gone)} of {len(program['left'])} that left did"
        cache = "" if surest >= VERY else ", or a cache fills"
        said.append(f"{count}, {sure(surest)}{cache}")
    elif program["found"] and not said:
        said.append(f"found: {len(program['found'])}, as above")
    elif not said and (program["watched"] or not program["changes"]):
        said.append(_nothing_found(program))
    unknown = sum(person["judgement"] in (WARM_UP, EARLY) for person in program["left"])
    if unknown:
        who = "those" if unknown == len(program["left"]) else f"{unknown} of those"
        said.append(f"not enough to tell of {who} that left: they were seen for too short a time")
    return said


def _nothing_found(program: Mapping[str, Any]) -> str:
    seconds = program["watched"]
    states = {worker["judgement"] for worker in program["workers"]}
    if not seconds:
        return "one look tells how much, not whether it grows"
    if program["enough"]:
        return f"no worker grows or stands out, as far as {units.time(seconds)} can tell"
    if GROWS in states:
        return f"something grows, and {units.time(seconds)} cannot tell what"
    if CREEPS in states:
        return f"something creeps, and {units.time(seconds)} cannot tell a drift from a slow leak"
    young = sum(worker["judgement"] in (WARM_UP, EARLY) for worker in program["workers"])
    whom = f" of {young} of {len(program['workers'])} workers" if HEALTHY in states else ""
    if WARM_UP in states:
        return f"not enough to tell{whom}: still warming up"
    if EARLY in states:
        return f"not enough to tell{whom} in {units.time(seconds)}"
    if HEALTHY in states:
        return "no worker that did anything grows; of the idle ones nothing can be told"
    return "not enough to tell: no worker did anything meanwhile"
