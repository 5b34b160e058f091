"""What the journal says about a span of time, as one document of numbers and words.

`document` takes the journal's rows and gives what a page shows: per program the answer (is it
leaking, which worker, since when, how fast, what to do), the curves, what was told, what was done
and what it cost, what others did, and whether the workers hold about the same.

Not here: the answer (answer.py), verdicts and actions from entries (deeds.py), the workers side by
side (siblings.py), HTML (markup.py), reading the journal (chronicle.py). Times are epoch seconds,
sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import answer, curves, deeds, siblings, units
from .answer import Known
from .curves import Life
from .deeds import Key
from .model import Entry
from .options import Options
from .trends import Early

MOST_POINTS = 40_000  # on a page, all curves of all programs together
FEWEST_POINTS = 8  # of one curve
MOST_ROWS, FEWEST_ROWS = 100, 10  # of one table: the newest
ALL_ROWS = 400  # of the tables of one kind on a page
STEPS = 24  # rows of the table that stands for a chart

# Measures by which a program is shown: the first that nearly every sample has. USS is read when a
# verdict may depend on it: rarely, where all is well.
PREFERRED = {
    "auto": ("uss", "rss"),
    "uss": ("uss", "rss"),
    "pss": ("pss", "rss"),
    "rss": ("rss",),
}
COVERS = 0.9  # of the workers' samples
NAMES = {"uss": "USS", "pss": "PSS", "rss": "RSS", "anon": "anonymous memory"}


class Source(NamedTuple):
    """What was read, for `document`."""

    since: float
    until: float
    now: float
    live: bool  # the span ends now
    version: str
    host: str
    zone: int  # seconds east of UTC, for the clock on the wall
    silence: str  # why what is seen now is old, in words; empty: it is not
    programs: Sequence[str]
    status: Mapping[str, Mapping[str, Any]]  # by namespec, as in `status --json`
    advice: Mapping[str, Sequence[str]]
    paused: Mapping[str, float]  # until when
    options: Mapping[str, Options]
    samples: Mapping[str, Sequence[tuple[float, Sequence[Sequence[Any]]]]]  # of the span
    lines: Mapping[str, Sequence[Entry]]  # up to `until`, also of before
    procedures: Mapping[str, Mapping[str, Any]]  # by id
    early: Mapping[str, Early] = {}  # by worker id: of whom nothing can be said yet


def document(source: Source) -> dict[str, Any]:
    """All that a page shows; JSON-able."""
    lives = {name: curves.lives(source.samples.get(name, ())) for name in source.programs}
    drawn = {name: _drawn(found) for name, found in lives.items()}
    many = sum(len(found) * len(drawn[name]) for name, found in lives.items())
    samples = sum(len(drawn[name]) * _samples(found) for name, found in lives.items())
    # Each curve gives up the same share of its points, where there are too many.
    share = min(1.0, max(0, MOST_POINTS - FEWEST_POINTS * many) / max(samples, 1))
    rows = min(MOST_ROWS, max(FEWEST_ROWS, ALL_ROWS // max(len(lives), 1)))
    programs = [
        _program(name, number, source, lives[name], drawn[name], share, rows)
        for number, name in enumerate(source.programs)
    ]
    return {
        "version": source.version,
        "host": source.host,
        "made_at": source.now,
        "since": source.since,
        "until": source.until,
        "zone": source.zone,
        "live": source.live,
        "silence": source.silence,
        "programs": sorted(programs, key=lambda program: program["answer"]["rank"]),
    }


def _drawn(found: Sequence[Life]) -> list[str]:
    """The measures that curves are drawn of: PSS says little that the others do not."""
    known = curves.measured(found)
    return [measure for measure in known if measure != "pss" or "uss" not in known]


def _measure(found: Sequence[Life], options: Options) -> tuple[str, str]:
    """By which the program is shown, and by which it would be if that were known well enough."""
    known = curves.measured(found)
    wanted = PREFERRED.get(options.measure, PREFERRED["auto"])
    covered = (each for each in wanted if known.get(each, 0.0) >= COVERS)
    return next(covered, "rss"), wanted[0]


def _samples(found: Sequence[Life]) -> int:
    return sum(len(life.samples) for life in found)


def _program(
    name: str,
    number: int,
    source: Source,
    found: list[Life],
    drawn: Sequence[str],
    share: float,
    rows: int,
) -> dict[str, Any]:
    """One program; `share` of its points are drawn, and its tables have `rows` at most."""
    options = source.options.get(name, Options())
    now = source.status.get(name) if source.live else None
    lines = source.lines.get(name, ())
    within = [line for line in lines if line.at >= source.since]
    measure, wanted = _measure(found, options)
    stands = None if now is None else _stand(now)
    told = deeds.told(lines, found, source.procedures, stands, source.since, source.until)
    actions = deeds.actions(within, source.procedures)
    others = deeds.others(within)
    standing = [(span["pid"], span["kind"]) for span in told if span["until"] is None]
    compared = siblings.compare(
        found, measure, NAMES[measure], options.imbalance, _born(now), standing
    )
    known = Known(
        now=now,
        at=source.now,
        zone=source.zone,
        silence=source.silence,
        advice=source.advice.get(name, ()),
        paused=source.paused.get(name),
        options=source.options.get(name),
        early=source.early,
        told=told,
        actions=actions,
        others=others,
        lives={life.id.pid: (life.samples[0].at, life.samples[-1].at) for life in found},
    )
    thinned = [
        life
        for each in found
        for life in curves.thin([each], FEWEST_POINTS + int(len(each.samples) * share), measure)
    ]
    return {
        "id": f"p{number}",  # whatever its place on the page
        "namespec": name,
        "state": now["state"] if now else None,
        "kind": now["kind"] if now else None,
        "mode": now["mode"] if now else options.mode,
        "answer": answer.answer(known),
        "summary": _summary(told, actions, others, found),
        "measure": measure,
        "rather": wanted if wanted in drawn and wanted != measure else None,
        "measures": {each: curves.MEASURES[each] for each in (drawn or [measure])},
        "curves": [_curve(life, drawn, source.since) for life in thinned],
        "thinned": _samples(found) - _samples(thinned),
        "lives": [_life(life, measure) for life in found[-rows:]],
        "places": _places(found, measure),
        "seen_last": max((life.samples[-1].at for life in found), default=source.until),
        "table": _table(found, measure, source),
        "lines": _limits(now, measure, wanted if wanted in drawn else measure),
        "told": told[-rows:],
        "actions": actions[-rows:],
        "others": others[-rows:],
        "left_out": {
            what: max(0, len(all) - rows)
            for what, all in (
                ("told", told),
                ("actions", actions),
                ("others", others),
                ("lives", found),
            )
        },
        "siblings": compared,
    }


def _born(now: Mapping[str, Any] | None) -> dict[int, float]:
    """When its workers were, as far as that is known."""
    workers = now["workers"] if now else []
    return {each["pid"]: each["start"] for each in workers if each["start"] is not None}


# -- curves ----------------------------------------------------------------------------------


def _curve(life: Life, drawn: Sequence[str], since: float) -> dict[str, Any]:
    return {
        "pid": life.id.pid,
        "role": life.role,
        "place": life.place,
        "paths": {measure: curves.path(life, measure, since) for measure in drawn},
    }


def _places(found: Sequence[Life], measure: str) -> list[dict[str, Any]]:
    """Each place, with who had it last and how many before that one."""
    newest = {life.place: life for life in found}
    return [
        {**_life(life, measure), "before": sum(each.place == place for each in found) - 1}
        for place, life in sorted(newest.items())
    ]


def _life(life: Life, measure: str) -> dict[str, Any]:
    points = list(life.points(measure))
    return {
        "pid": life.id.pid,
        "role": life.role,
        "place": life.place,
        "seen_first": life.samples[0].at,
        "seen_last": life.samples[-1].at,
        "first": points[0][1] if points else None,
        "last": points[-1][1] if points else None,
        "highest": max((size for _, size in points), default=None),
    }


def _table(found: Sequence[Life], measure: str, source: Source) -> list[dict[str, Any]]:
    """What the chart shows, at a few moments: the last that was seen of everyone by then."""
    step = (source.until - source.since) / STEPS
    rows = []
    for number in range(STEPS):
        begin = source.since + number * step
        sizes: dict[int, tuple[int, int]] = {}
        for life in found:
            for at, size in life.points(measure):
                if begin <= at < begin + step or (number == STEPS - 1 and at == source.until):
                    sizes[life.place] = (life.id.pid, size)
        if sizes:
            rows.append({"at": begin + step, "sizes": sizes})
    return rows


def _limits(now: Mapping[str, Any] | None, measure: str, wanted: str) -> list[dict[str, Any]]:
    """Lines across the chart, as they are now: the worker's limit (of the size that is `wanted`,
    where others are drawn), and how far one may grow."""
    if now is None:
        return []
    found = []
    limit = next((worker["limit"] for worker in now["workers"] if worker["limit"]), None)
    if limit:
        text = f"limit {units.size(limit)}"
        text += f" of {NAMES[wanted]}" if wanted != measure else ""
        found.append({"kind": "limit", "bytes": limit, "text": text})
    ceilings = [
        held + worker["headroom"]
        for worker in now["workers"]
        if worker["headroom"] is not None and (held := _held(worker, measure)) is not None
    ]
    ceiling = min(ceilings, default=None)
    if ceiling is not None and (not limit or ceiling < limit * 0.99):
        text = f"headroom ends at {units.size(ceiling)}"
        found.append({"kind": "headroom", "bytes": ceiling, "text": text})
    return found


def _held(worker: Mapping[str, Any], measure: str) -> int | None:
    size = worker[measure]
    return None if size is None else int(size) + int(worker["swap"] or 0)


# -- words -----------------------------------------------------------------------------------


def _stand(now: Mapping[str, Any]) -> set[Key]:
    """The verdicts that are told now."""
    holders = [(None, now), *((worker["pid"], worker) for worker in answer.people(now))]
    return {
        (pid, verdict["kind"])
        for pid, holder in holders
        for verdict in holder["verdicts"]
        if verdict["told"]
    }


def _summary(
    told: Sequence[Mapping[str, Any]],
    actions: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    found: Sequence[Life],
) -> str:
    """What happened in this time, in numbers."""
    workers = sum(life.role == "worker" for life in found)
    parts = [_count(workers, "worker was seen", "workers were seen")]
    kinds = [span["kind"] for span in told]
    parts += [f"{kind} told {_times(kinds.count(kind))}" for kind in dict.fromkeys(kinds)]
    for name in dict.fromkeys(action["action"] for action in actions):
        these = [action for action in actions if action["action"] == name]
        results = [action["result"] for action in these]
        how = ", ".join(f"{results.count(each)} {each}" for each in dict.fromkeys(results))
        parts.append(f"{_count(len(these), name, name + 's')} ({how})")
    freed = sum(action["freed"] or 0 for action in actions)
    if any(action["freed"] for action in actions):
        parts.append(f"{units.size(freed)} came back")
    marks = [other["mark"] for other in others if other["mark"]]
    parts += [f"{mark} {_times(marks.count(mark))}" for mark in dict.fromkeys(marks)]
    return "; ".join(parts) + "."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
