"""`memwatch history` and `memwatch explain`: what the journal remembers of what was done.

Rows come in, documents and words go out. Why something was or was not done is put into words by
explain.py; what the listener sees now is status.py's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from . import __version__, explain, status, units
from .config import Config, named
from .journal import JournalError, Reader
from .model import Entry
from .report import deed

# What happened other than our actions, which have rows of their own.
EVENTS = ("suspected", "recovered", "gave_up", "request", "release", "seen")
LATELY = 86400.0  # seconds of past that `explain` looks back on


def since(text: str, now: float) -> float:
    """`2h` (ago), `18:10` (the last one) or `2026-01-31 18:10` as epoch seconds; local time.

    Raises ValueError, in words.
    """
    for parse in (_ago, _last, _date):
        with suppress(ValueError, OverflowError):
            return parse(text.strip(), now)
    raise ValueError(
        f"{units.printable(text, 50)}: valid: a time such as 2h or 7d (ago), 18:10 (the last one), "
        "or a date such as 2026-01-31 or '2026-01-31 18:10'"
    )


def _ago(text: str, now: float) -> float:
    return now - units.parse_time(text)


def _last(text: str, now: float) -> float:
    """Today's time of the clock, or yesterday's where that is still to come."""
    shape = "%H:%M:%S" if text.count(":") == 2 else "%H:%M"
    clock = datetime.strptime(text, shape).time()
    days = [date.fromtimestamp(now) - timedelta(days=ago) for ago in (0, 1)]
    # Where summer time ends, the clock shows an hour twice.
    times = [
        datetime.combine(day, clock.replace(fold=fold)).timestamp()
        for day in days
        for fold in (0, 1)
    ]
    return max(at for at in times if at <= now)


def _date(text: str, now: float) -> float:
    return datetime.fromisoformat(text).timestamp()


# -- history


def read(
    config: Config, names: Sequence[str], after: float | None = None, most: int | None = None
) -> dict[str, Any]:
    """The document of `history --json`: the actions and what else happened, oldest first.

    after: epoch seconds; None: all that is remembered. most: so many of the newest, actions and
    events together. Raises JournalError.
    """
    begin = after or 0.0
    reader = Reader(config.journal_path())
    try:
        _make_sure_of(reader, names)
        # Which are of these programs is known here alone, so with names all are read.
        newest = None if names else most
        events = [_event(entry) for entry in entries(reader, begin, EVENTS, newest)]
        actions = _actions(reader, begin, newest)
    finally:
        reader.close()
    wanted = [found for found in [*actions, *events] if _wanted(found, names)]
    wanted.sort(key=_at)
    if most is not None:
        wanted = wanted[max(len(wanted) - most, 0) :]
    return {
        "version": __version__,
        "time": status.now(config),
        "since": after,
        "actions": [found for found in wanted if "action" in found],
        "events": [found for found in wanted if "action" not in found],
    }


def _actions(reader: Reader, begin: float, newest: int | None) -> list[dict[str, Any]]:
    """Those that had not ended by then, oldest first; so many of the newest, or all."""
    rows = reader.rows(
        "SELECT id, namespec, begun, ended, state FROM procedures"
        " WHERE ended IS NULL OR ended >= ? ORDER BY begun DESC LIMIT ?",
        (begin, -1 if newest is None else newest),
    )[::-1]
    # Of a few actions only what was written since the first of them is of use.
    first = rows[0][2] - 1.0 if rows and newest is not None else begin - LATELY
    said = entries(reader, max(first, begin - LATELY), ("intent", "outcome")) if rows else []
    plans, ends = (
        {entry.data.get("procedure"): entry for entry in said if entry.kind == kind}
        for kind in ("intent", "outcome")
    )
    return [
        _action(id, name, begun, ended, _object(state), plans.get(id), ends.get(id))
        for id, name, begun, ended, state in rows
    ]


def entries(
    reader: Reader, after: float, kinds: Sequence[str] = (), newest: int | None = None
) -> list[Entry]:
    """The journal's entries, oldest first; of these kinds only, if any are named; so many of the
    newest, or all."""
    where = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    order = "ORDER BY seq" if newest is None else "ORDER BY at DESC, seq DESC LIMIT ?"
    rows = reader.rows(
        f"SELECT at, namespec, kind, text, data, level FROM entries WHERE at >= ?{where} {order}",
        (after, *kinds, *([] if newest is None else [newest])),
    )
    rows = rows if newest is None else rows[::-1]
    return [
        Entry(at, name, kind, text, _object(data), level)
        for at, name, kind, text, data, level in rows
    ]


def _object(text: str) -> dict[str, Any]:
    """JSON of a row; empty where it is damaged: the rest is worth showing."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _make_sure_of(reader: Reader, names: Sequence[str]) -> None:
    """A name that the journal has never heard of is misspelt. Raises JournalError."""
    if not names:
        return
    known = {
        name
        for table in ("latest", "watches", "procedures", "entries")
        for (name,) in reader.rows(f"SELECT DISTINCT namespec FROM {table}")
        if name
    }
    unknown = [name for name in names if not any(named(name, spec) for spec in known)]
    if unknown:
        listed = [units.printable(", ".join(some), 1000) for some in (unknown, sorted(known))]
        raise JournalError(f"not in the journal: {listed[0]}; it has: {listed[1] or 'nothing'}")


def _wanted(found: Mapping[str, Any], names: Sequence[str]) -> bool:
    if not names:
        return True
    if not found["namespec"]:
        # What was asked of several programs at once stands under none of them; what was refused
        # there was about none.
        return bool(found["data"].get("answer") != "refused")
    return any(named(name, found["namespec"]) for name in names)


def _action(
    id: str,
    namespec: str,
    begun: float,
    ended: float | None,
    procedure: Mapping[str, Any],
    plan: Entry | None,
    end: Entry | None,
) -> dict[str, Any]:
    """One action of ours: what, why, how it ended; what is not known is None."""
    target = procedure.get("target")
    return {
        "id": id,
        "namespec": namespec,
        "action": procedure.get("action", "an action"),
        "pid": target[0] if target and procedure.get("action") == "recycle" else None,
        # Who left beside it; of an action under way, who is to.
        "also_pid": said.data.get("also_pid") if (said := end or plan) else None,
        "kind": procedure.get("kind"),
        "why": procedure.get("why"),
        "plan": plan.text if plan else None,
        "by": procedure.get("by"),
        "begun": begun,
        "ended": ended,
        "step": procedure.get("step") if ended is None else None,
        "result": end.data.get("result") if end else None,
        "text": end.text if end else None,
        "freed_bytes": end.data.get("freed_bytes") if end else None,
    }


def _event(entry: Entry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "namespec": entry.namespec,
        "kind": entry.kind,
        "level": entry.level,
        "text": entry.text,
        "data": entry.data,
    }


def _at(found: Mapping[str, Any]) -> float:
    at: float = found["begun"] if "action" in found else found["at"]
    return at


def words(document: Mapping[str, Any]) -> str:
    """`memwatch history` as people read it, the newest last."""
    found = sorted([*document["actions"], *document["events"]], key=_at)
    out = [
        line
        for each in found
        for line in (_action_words(each) if "action" in each else _said(each))
    ]
    if not out:
        when = "yet" if document["since"] is None else f"since {stamp(document['since'])}"
        return f"nothing was done {when}"
    return "\n".join(units.printable(line, 1000) for line in out)


def _said(event: Mapping[str, Any]) -> list[str]:
    subject = f"{event['namespec']}: " if event["namespec"] else ""
    return [f"{stamp(event['at'])}  {subject}{event['text']}"]


def _action_words(action: Mapping[str, Any]) -> list[str]:
    head = f"{stamp(action['begun'])}  {action['namespec']}: {deed(action, ' of ')}"
    lines = [f"{head} by {action['by']}: {_outcome(action)}"]
    lines.append(f"    why: {action['plan'] or action['why']}")
    if action["text"]:
        lines.append(f"    result: {action['text']}")
    return lines


def _outcome(action: Mapping[str, Any]) -> str:
    if action["ended"] is None:
        return f"under way ({action['step']})"
    took = units.time(action["ended"] - action["begun"])
    back = action["freed_bytes"]
    freed = f", {units.size(back)} back" if back is not None and back > 0 else ""
    return f"{action['result'] or 'ended, how is not known'} in {took}{freed}"


def stamp(at: float) -> str:
    """2026-01-31 12:00:05, local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):  # a damaged row: no year has that time
        return f"at {at:g}"


# -- explain


class Explained(NamedTuple):
    """The document of `explain --json`, and why there is no listener to trust it, if so."""

    document: dict[str, Any]
    silence: str


def explained(config: Config, names: Sequence[str], after: float | None = None) -> Explained:
    """Why it did, and did not, act on each of the programs. Raises JournalError.

    after: epoch seconds, how far back requests and refusals are told; None: a day.
    """
    found = status.read(config, names)
    now = found.document["time"]
    after = now - LATELY if after is None else after
    reader = Reader(config.journal_path())
    try:
        past = entries(reader, after, ("held", "gave_up", "request"))
        past += _plans(reader, found.document["programs"])
    finally:
        reader.close()
    past.sort(key=lambda entry: entry.at)
    programs = []
    for program in found.document["programs"]:
        options = config.options_of(program["namespec"])
        paused = found.paused.get(program["namespec"])
        programs.append(explain.explain(program, past, now, options, paused, found.early))
    document = {
        "version": __version__,
        "time": now,
        "since": after,
        "silence": found.silence or None,
        "programs": programs,
    }
    return Explained(document, found.silence)


def _plans(reader: Reader, programs: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """The plans of the last actions, however long ago they were."""
    begun = [program["last_action"]["begun"] for program in programs if program["last_action"]]
    return entries(reader, min(begun) - 1.0, ("intent",)) if begun else []


def explained_words(document: Mapping[str, Any]) -> str:
    """`memwatch explain` as people read it."""
    blocks = [explain.words(program, document["time"]) for program in document["programs"]]
    if document["silence"]:
        # First, for all that follows is the past.
        old = f"This is what the listener saw last, and no longer so: {document['silence']}."
        blocks.insert(0, [units.printable(old, 1000)])
    elif not blocks:
        return "no program is watched"
    return "\n\n".join("\n".join(lines) for lines in blocks)
