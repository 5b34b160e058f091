"""What the journal says about a span of time, as one document of numbers and words.

`document` takes the journal's rows and gives what a page shows: per program the answer (is it
leaking, which worker, since when, how fast, what to do), the curves, what was told, what was done
and what it cost, what others did, and whether the workers hold about the same.

Not here: verdicts and actions from entries (deeds.py), HTML (markup.py), reading the journal
(chronicle.py), why something is not done (explain.py). Times are epoch seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import curves, deeds, explain, units, wallclock
from .curves import Life
from .deeds import Key
from .detectors import Early
from .model import LEAK, PLATEAU, SPIKE, WARMING_UP, Entry
from .options import Options

MOST_POINTS = 40_000  # on a page, all curves of all programs together
FEWEST_POINTS = 8  # of one curve
MOST_ROWS, FEWEST_ROWS = 100, 10  # of one table: the newest
ALL_ROWS = 400  # of the tables of one kind on a page
ALIKE = 1.6  # `imbalance` where the option is off
STEPS = 24  # rows of the table that stands for a chart

# Measures by which a program is shown, the first that is known.
PREFERRED = {
    "auto": ("uss", "rss"),
    "uss": ("uss", "rss"),
    "pss": ("pss", "rss"),
    "rss": ("rss",),
}
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
    return {
        "version": source.version,
        "host": source.host,
        "made_at": source.now,
        "since": source.since,
        "until": source.until,
        "zone": source.zone,
        "live": source.live,
        "silence": source.silence,
        "programs": [
            _program(name, source, lives[name], drawn[name], share, rows)
            for name in source.programs
        ],
    }


def _drawn(found: Sequence[Life]) -> list[str]:
    """The measures that curves are drawn of: PSS says little that the others do not."""
    known = curves.measured(found)
    return [measure for measure in known if measure != "pss" or "uss" not in known]


def _samples(found: Sequence[Life]) -> int:
    return sum(len(life.samples) for life in found)


def _program(
    name: str,
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
    wanted = PREFERRED.get(options.measure, PREFERRED["auto"])
    measure = next((each for each in wanted if each in drawn), "rss")
    stands = None if now is None else _stand(now)
    told = deeds.told(lines, found, source.procedures, stands, source.since, source.until)
    actions = deeds.actions(within, source.procedures)
    others = deeds.others(within)
    siblings = _siblings(found, measure, options, source)
    thinned = [
        life
        for each in found
        for life in curves.thin([each], FEWEST_POINTS + int(len(each.samples) * share), measure)
    ]
    return {
        "namespec": name,
        "state": now["state"] if now else None,
        "kind": now["kind"] if now else None,
        "mode": now["mode"] if now else options.mode,
        "answer": _answer(now, told, siblings, source, name),
        "summary": _summary(told, actions, others, found),
        "measure": measure,
        "measures": {each: curves.MEASURES[each] for each in (drawn or [measure])},
        "curves": [_curve(life, drawn, source.since) for life in thinned],
        "thinned": _samples(found) - _samples(thinned),
        "lives": [_life(life, measure) for life in found[-rows:]],
        "places": _places(found, measure),
        "table": _table(found, measure, source),
        "lines": _limits(now, measure),
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
        "siblings": siblings,
    }


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


def _limits(now: Mapping[str, Any] | None, measure: str) -> list[dict[str, Any]]:
    """Lines across the chart, as they are now: the worker's limit, and how far one may grow."""
    if now is None or measure == "anon":
        return []
    found = []
    limit = next((worker["limit"] for worker in now["workers"] if worker["limit"]), None)
    if limit:
        found.append({"kind": "limit", "bytes": limit, "text": f"limit {units.size(limit)}"})
    ceilings = [
        held + worker["headroom"]
        for worker in now["workers"]
        if worker["headroom"] is not None and (held := _held(worker, measure)) is not None
    ]
    ceiling = min(ceilings, default=None)
    if ceiling is not None and (not limit or ceiling < limit * 0.99):
        text = f"headroom now ends at {units.size(ceiling)}"
        found.append({"kind": "headroom", "bytes": ceiling, "text": text})
    return found


def _held(worker: Mapping[str, Any], measure: str) -> int | None:
    size = worker[measure]
    return None if size is None else int(size) + int(worker["swap"] or 0)


# -- words -----------------------------------------------------------------------------------


def _stand(now: Mapping[str, Any]) -> set[Key]:
    """The verdicts that are told now."""
    holders = [(None, now), *((worker["pid"], worker) for worker in _people(now))]
    return {
        (pid, verdict["kind"])
        for pid, holder in holders
        for verdict in holder["verdicts"]
        if verdict["told"]
    }


def _people(now: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*([now["master"]] if now["master"] else []), *now["workers"]]


def _answer(
    now: Mapping[str, Any] | None,
    told: Sequence[Mapping[str, Any]],
    siblings: Mapping[str, Any] | None,
    source: Source,
    name: str,
) -> dict[str, Any]:
    """Is it leaking, which worker, since when, how fast, what to do. `tone`: bad, good, unsure."""
    if now is None:
        return _answer_of_then(told, siblings, source)
    lines: list[str] = []
    if now["state"] != "RUNNING":
        lines.append(f"Supervisor says {now['state']}.")
    leaks = _leaks(now, source)
    other = [
        f"{_who(pid, now)}: {verdict['kind']}: {verdict['why']}."
        for pid, holder in [(None, now), *((w["pid"], w) for w in _people(now))]
        for verdict in holder["verdicts"]
        if verdict["told"] and verdict["kind"] != LEAK
    ]
    lines += leaks[1:] + (other if leaks else other[1:])
    kinds = {verdict["kind"] for worker in _people(now) for verdict in worker["verdicts"]}
    if leaks or other or kinds & {PLATEAU, SPIKE}:  # else it is a minute old
        lines += [f"Advice: {text}." for text in source.advice.get(name, ())]
    paused = source.paused.get(name)
    found = explain.explain(now, (), source.now, source.options.get(name), paused, source.early)
    if leaks or other or paused or now["action"]:
        lines.append(found["answer"])
        lines += [
            f"{verdict['who']}: {verdict['kind']}: {verdict['lacks']}."
            for verdict in found["verdicts"]
            if verdict["told"] and not verdict["act"]
        ]
    lines += [_held_words(held, source) for held in found["held"]]
    if leaks or other:
        lines.append(f"The program holds {_total(now)}.")
        return {"tone": "bad", "headline": (leaks + other)[0], "lines": lines}
    tone, headline = _nothing_told(now, source.early)
    if source.silence:
        tone, headline = "unsure", f"When it was last seen: {headline}"
    return {"tone": tone, "headline": headline, "lines": lines}


def _held_words(held: Mapping[str, Any], source: Source) -> str:
    """What forbids an action, and when it lets go."""
    until = held["until"]
    when = None if until is None else f"at {wallclock.clock(until, source.zone, source.now)}"
    lets_go = ", ".join(filter(None, (when, held["lets_go"])))
    return f"Held: {held['text']}." + (f" It lets go {lets_go}." if lets_go else "")


def _total(now: Mapping[str, Any]) -> str:
    of = f" of the {units.size(now['total_limit'])} it may" if now["total_limit"] else ""
    return f"{units.size(now['total'])}{of}"


def _leaks(now: Mapping[str, Any], source: Source) -> list[str]:
    """A sentence for each leaking worker, the fastest first."""
    found = [
        (worker["trend"]["bytes_per_hour"] if worker["trend"] else 0.0, worker, verdict)
        for worker in _people(now)
        for verdict in worker["verdicts"]
        if verdict["told"] and verdict["kind"] == LEAK
    ]
    return [
        _leak(worker, verdict, now, source) for _, worker, verdict in sorted(found, key=_slower)
    ]


def _slower(found: tuple[float, Any, Any]) -> tuple[float, int]:
    return -found[0], found[1]["pid"]


def _leak(
    worker: Mapping[str, Any],
    verdict: Mapping[str, Any],
    now: Mapping[str, Any],
    source: Source,
) -> str:
    when = wallclock.clock(verdict["since"], source.zone, source.now)
    text = f"{_who(worker['pid'], now)} is leaking, seen since {when}"
    text += f" ({units.time(source.now - verdict['since'])})"
    trend = worker["trend"]
    if trend is not None:
        low, high = units.rate(trend["low"] / 3600), units.rate(trend["high"] / 3600)
        text += f", {units.rate(trend['bytes_per_hour'] / 3600)} (95 %: {low} to {high})"
    if worker["hours_to_limit"] is not None:
        text += f"; at its limit in {units.time(worker['hours_to_limit'] * 3600)}"
    return f"{text}: {verdict['why']}."


def _who(pid: int | None, now: Mapping[str, Any]) -> str:
    if pid is None or now["kind"] == "plain":
        return "The program"
    if now["master"] and now["master"]["pid"] == pid:
        return f"Master {pid}"
    return f"Worker {pid}"


def _nothing_told(now: Mapping[str, Any], early: Mapping[str, Early]) -> tuple[str, str]:
    if now["state"] != "RUNNING" or not now["workers"]:
        return "unsure", "Not running: there is nothing to judge."
    held = f"the program holds {_total(now)}"
    kinds = [{verdict["kind"] for verdict in worker["verdicts"]} for worker in now["workers"]]
    if all(WARMING_UP in each for each in kinds):
        return "unsure", f"Too early to tell: its workers are still warming up; {held}."
    young = [early[worker["id"]] for worker in now["workers"] if worker["id"] in early]
    if young:
        watched = units.time(min(each.watched for each in young))
        needed = units.time(max(each.needed for each in young))
        return "unsure", (
            f"Too early to tell: {len(young)} of {len(now['workers'])} workers watched for "
            f"{watched} of {needed}, none told to leak; {held}."
        )
    many = len(now["workers"])
    whose = f"none of its {many} workers is told to leak" if many > 1 else "it is not told to leak"
    return "good", f"Not leaking, as far as can be seen: {whose}; {held}."


def _answer_of_then(
    told: Sequence[Mapping[str, Any]], siblings: Mapping[str, Any] | None, source: Source
) -> dict[str, Any]:
    """Of a span that is over, or of a program that is no longer watched."""
    leaks = [span for span in told if span["kind"] == LEAK]
    lines = [
        f"{span['who']}: {span['kind']} told at "
        f"{wallclock.clock(span['since'], source.zone, source.now)}: {span['why']}."
        for span in (leaks or list(told))[-5:]
    ]
    if leaks:
        who = ", ".join(dict.fromkeys(str(span["who"]) for span in leaks[:5]))
        more = ", ..." if len({span["who"] for span in leaks}) > 5 else ""
        return {"tone": "bad", "headline": f"It was told to leak: {who}{more}.", "lines": lines}
    if told:
        kinds = ", ".join(dict.fromkeys(str(span["kind"]) for span in told))
        return {"tone": "bad", "headline": f"No leak was told, but: {kinds}.", "lines": lines}
    if siblings is None:
        return {"tone": "unsure", "headline": "Nothing was told; little was seen.", "lines": []}
    return {"tone": "good", "headline": "No leak was told in this time.", "lines": lines}


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


def _siblings(
    found: Sequence[Life], measure: str, options: Options, source: Source
) -> dict[str, Any] | None:
    """Those that were there at the end, compared: do they hold about the same?"""
    end = max((life.samples[-1].at for life in found), default=None)
    there = [life for life in found if life.role == "worker" and life.samples[-1].at == end]
    rows = []
    for life in there:
        first, last = life.first(measure), life.last(measure)
        if first is not None and last is not None:
            rows.append((life, first, last))
    if end is None or not rows:
        return None
    result = []
    for life, first, last in rows:
        others = [size for each, _, (_, size) in rows if each is not life]
        middle = units.median(others) if others else None
        result.append(
            {
                "pid": life.id.pid,
                "place": life.place,
                "since": first[0],
                "before": first[1],
                "after": last[1],
                "change": last[1] - first[1],
                "ratio": last[1] / middle if middle else None,
            }
        )
    bound = options.imbalance or ALIKE
    return {
        "at": end,
        "rows": result,
        "bound": bound,
        "text": _comparison(result, bound, NAMES[measure]),
        "alike": all(row["ratio"] is None or row["ratio"] < bound for row in result),
    }


def _comparison(rows: Sequence[Mapping[str, Any]], bound: float, measure: str) -> str:
    if len(rows) < 2:
        return "There is one worker only: nothing to compare it with."
    sizes = [row["after"] for row in rows]
    span = f"{measure} {units.size(min(sizes))} to {units.size(max(sizes))}"
    biggest = max(rows, key=lambda row: row["ratio"] or 0.0)
    times = f"{biggest['ratio']:.1f} times its siblings' median"
    if biggest["ratio"] < bound:
        return f"Yes: {span}; the most, worker {biggest['pid']}, holds {times}."
    return f"No: {span}; worker {biggest['pid']} holds {times} ({bound:g} stands out)."
