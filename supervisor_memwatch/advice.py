"""Advice: what is known of a program's leak, in sentences with numbers, and what helps.

How fast, per hour and per unit of work; which workers, since when, since which release; when the
limit is met; the max_requests that would keep a worker below it; where in the program to look. And
of growth that is no leak, why it is none. For the log, the journal, the news, `status` and
`audit`: when something is said, and said again, is theirs; `gist` tells whether it has changed.

Bytes, seconds; times are Snapshot.at's, and shown as the clock on the wall has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import trends, units
from .model import (
    FD_GROWTH,
    LEAK,
    MASTER_GROWTH,
    PLATEAU,
    SPIKE,
    Snapshot,
    Verdict,
    Worker,
    WorkerId,
)
from .options import Options
from .past import Past
from .releases import Origin, Rate, Releases
from .trends import Growing
from .units import DAY, HOUR, MINUTE

Verdicts = Mapping[WorkerId | None, tuple[Verdict, ...]]

NAMED = 4  # workers that are named by their pids
# What max_requests and its jitter may use up of the headroom of a fresh worker, and the jitter's
# share of max_requests: workers that began together must not all go at once.
SPENT, JITTER = 0.7, 0.2
# A worker that ends after fewer requests is no help.
FEWEST = 100
# A fresh worker that holds so much of what it may leaves nothing to recycle for.
FULL = 0.9
# A worker that was as young, or did not grow for as long, had not leaked before.
YOUNG = 10 * MINUTE
# Paces that differ by no more than this factor are said as one.
EVEN = 1.25
# Siblings whose growth or work differs by no more than this factor are alike.
ALIKE = 1.6
# Work of siblings that differs by this factor shows whether growth follows it.
UNEQUAL = 2.0
# A sibling that grows at this share of the others' pace does as they do.
PACE = 0.3
# A worker was told for so long before its siblings are said to be healthy.
SOLE = 15 * MINUTE
# Within so long the hour alone says which day is meant.
TODAY = 20 * HOUR
# A limit further away is not worth a time.
FAR = 30 * DAY


class Case(NamedTuple):
    """A worker, or the master, that was told to grow."""

    worker: Worker
    verdict: Verdict
    growing: Growing
    files: bool  # its open files were told to grow, too


class Sibling(NamedTuple):
    """A worker that was not told."""

    worker: Worker
    per_hour: float | None  # bytes; None: too young to say


class Facts(NamedTuple):
    """All that advice is made of."""

    options: Options
    snapshot: Snapshot
    cases: tuple[Case, ...]  # leaking workers
    master: Case | None
    siblings: tuple[Sibling, ...]
    releases: Releases | None = None


class Gist(NamedTuple):
    """What advice says, as far as it matters whether it says something new."""

    kinds: tuple[str, ...]
    release: float | None  # when the last one was
    pattern: str  # which workers: "one", "some" or "all"
    material: bool
    rate: float  # bytes per hour


def facts(
    options: Options,
    snapshot: Snapshot,
    past: Past,
    verdicts: Verdicts,
    releases: Releases | None = None,
) -> Facts:
    """Look up what there is to say of those that were told; costs what two of their trends do."""
    master = snapshot.master
    grown = None if master is None else _case(options, snapshot, past, verdicts, master)
    cases, siblings = [], []
    for worker in snapshot.workers:
        case = _case(options, snapshot, past, verdicts, worker)
        if case is not None:
            cases.append(case)
    for worker in snapshot.workers if cases else ():
        if not any(case.worker is worker for case in cases):
            trend = trends.trend(past, worker.id)
            siblings.append(Sibling(worker, None if trend is None else trend.bytes_per_hour))
    return Facts(options, snapshot, tuple(cases), grown, tuple(siblings), releases)


def _case(
    options: Options, snapshot: Snapshot, past: Past, verdicts: Verdicts, worker: Worker
) -> Case | None:
    found = verdicts.get(worker.id, ())
    told = [v for v in found if v.told and v.kind in (LEAK, MASTER_GROWTH)]
    growing = trends.growing(options, snapshot, past, worker) if told else None
    if growing is None or growing.trend.bytes_per_hour <= 0:
        return None
    files = any(v.told and v.kind == FD_GROWTH for v in found)
    return Case(worker, told[0], growing, files)


def lines(
    options: Options,
    snapshot: Snapshot,
    past: Past,
    verdicts: Verdicts,
    releases: Releases | None = None,
) -> tuple[str, ...]:
    """All there is to say now, the most important first; nothing where nothing was told."""
    known = facts(options, snapshot, past, verdicts, releases)
    return (*sentences(known), *no_leaks(snapshot, verdicts))


def sentences(known: Facts) -> tuple[str, ...]:
    """Of the leaks."""
    said = []
    if known.cases:
        said += [
            _growth(known),
            _release(known),
            _forecast(known),
            _masked(known),
            _remedy(known),
            _place(known),
        ]
    if known.master is not None:
        said += [_masters_growth(known.master, known.snapshot), _of_the_master(known)]
    return tuple(text for text in said if text)


def gist(known: Facts) -> Gist | None:
    """What `sentences` says, in short; None where it says nothing."""
    cases = [*known.cases, *([known.master] if known.master is not None else [])]
    if not cases:
        return None
    latest = known.releases.latest if known.releases is not None else None
    return Gist(
        tuple(sorted({case.verdict.kind for case in cases})),
        latest.at if latest is not None else None,
        _pattern(known),
        any(case.verdict.act for case in cases),
        units.median([case.growing.trend.bytes_per_hour for case in cases]),
    )


def is_news(said: Gist | None, now: Gist) -> bool:
    """Whether advice has materially changed since it was last given."""
    if said is None or set(now.kinds) - set(said.kinds) or now.release != said.release:
        return True
    if now.material and not said.material:
        return True
    return not said.rate / 2 <= now.rate <= said.rate * 2 or now.pattern != said.pattern


# -- how fast, who, since when ---------------------------------------------------------------


def _growth(known: Facts) -> str:
    """`workers 11, 12 of 4 leak 88.0MB/h each (80.0MB to 96.0MB), 2KB per request; since ...`"""
    cases, snapshot = known.cases, known.snapshot
    count, all = len(cases), len(snapshot.workers)
    if snapshot.kind == "plain":
        who = "the program"
    elif count == 1:
        who = f"worker {cases[0].worker.id.pid}" + (f" of {all}" if all > 1 else "")
    elif count <= NAMED:
        pids = ", ".join(str(case.worker.id.pid) for case in cases)
        who = f"{'all' if count == all else f'{count} of {all}'} workers ({pids})"
    else:
        who = f"{'all' if count == all else f'{count} of'} {all} workers"
    first = min(case.growing.began for case in cases)
    grown = sum(max(case.growing.last - case.growing.first, 0) for case in cases)
    text = f"{who} leak{'s' if count == 1 else ''} {_speed(cases)}, {_since(first, snapshot)}"
    return f"{text}: {units.size(grown)} so far"


def _speed(cases: Sequence[Case]) -> str:
    """How fast, with the interval or from the slowest to the fastest; what a unit of work costs."""
    trends = [case.growing.trend for case in cases]
    rate = units.median([trend.bytes_per_hour for trend in trends])
    low, high = min(trend.low for trend in trends), max(trend.high for trend in trends)
    each = " each" if len(cases) > 1 else ""
    text = f"{_per_hour(rate)}{each}{_between(units.size(max(low, 0.0)), units.size(high))}"
    rates = [trend.bytes_per_hour for trend in trends]
    if _spread(rates) > EVEN:
        text = f"{units.size(min(rates))} to {_per_hour(max(rates))}"
    per_work, unit = _per_work(cases)
    return text if per_work is None else f"{text}, {_size(per_work)} per {unit}"


def _per_work(cases: Sequence[Case]) -> tuple[float | None, str | None]:
    """Bytes for one unit of work, the median of those that have it."""
    units_known = [case.growing.unit for case in cases if case.growing.per_work is not None]
    unit = "request" if "request" in units_known else next(iter(units_known), None)
    works = [c.growing.per_work for c in cases if c.growing.unit == unit]
    found = [per_work for per_work in works if per_work is not None and per_work > 0]
    return (units.median(found), unit) if found else (None, None)


def _release(known: Facts) -> str:
    origin = known.releases.origin() if known.releases is not None else None
    if origin is None:
        return ""
    event = f"the {'deploy' if origin.sure else origin.what} {_at(origin.at, known.snapshot)}"
    if not origin.sure:
        event += " (whether its code changed is not known)"
    since = _pace(origin.since, origin)
    if origin.brought is None or origin.before is None:
        return f"{since} since {event}; before it was not watched for long enough to compare"
    before = _pace(origin.before, origin)
    if not origin.before.per_hour:
        before = f"no leak in {origin.before.hours:.0f} worker-hours"
    if origin.brought:
        return f"since {event}: {before} before, {since} since"
    return f"not from {event}: {before} before it, {since} since"


def _pace(rate: Rate, origin: Origin) -> str:
    """Per hour, and by work where both sides have that."""
    text = _per_hour(rate.per_hour or 0.0)
    other = origin.before
    both = other is not None and other.unit == origin.since.unit and other.per_work is not None
    if both and rate.per_work is not None:
        text += f" ({_size(rate.per_work)} per {rate.unit})"
    return text


# -- what comes of it, and what helps ----------------------------------------------------------


def _forecast(known: Facts) -> str:
    """When the first of them meets what it may hold."""
    found = [(case.growing.hours, case) for case in known.cases if case.growing.hours is not None]
    if not found:
        return ""
    (expected, earliest, latest), case = min(found, key=lambda pair: pair[0])
    seconds = expected * HOUR
    ceiling = _ceiling(known, case)
    if not case.growing.left:
        return ""
    if seconds > FAR:
        return f"not at {ceiling} within {units.time(FAR)}"
    between = f" ({_about(earliest * HOUR)} at the earliest)"
    if latest * HOUR <= FAR:
        between = _between(_about(earliest * HOUR), _about(latest * HOUR))
    first = "the first of them" if len(known.cases) > 1 else "it"
    text = f"{first} is at {ceiling} in {_about(seconds)}{between}"
    if known.snapshot.clock is None or seconds >= TODAY:
        return text
    return f"{text}, at about {_clock(known.snapshot.at + seconds, known.snapshot)}"


def _ceiling(known: Facts, case: Case) -> str:
    size = units.size(case.growing.ceiling)
    return f"its limit of {size}" if known.options.limit is not None else f"the {size} it may hold"


def _masked(known: Facts) -> str:
    """Workers that leak and are gone before it shows."""
    ends = known.releases.ends() if known.releases is not None else ()
    if not ends:
        return ""
    grown = units.median([end.grown for end in ends])
    requests = [float(end.requests) for end in ends if end.requests is not None]
    ages = [end.age for end in ends if end.age is not None]
    life = f"{units.median(requests):.0f} requests" if requests else "life"
    if ages:
        life += f" ({_about(units.median(ages))})"
    return f"max_requests hides it: each worker leaks {units.size(grown)} in its {life}"


class Room(NamedTuple):
    """How far a fresh worker may leak: the worst of the cases."""

    base: float  # what it holds before
    headroom: float
    case: Case


def _room(known: Facts) -> Room | None:
    rooms = []
    for case in known.cases:
        growing = case.growing
        if growing.ceiling is not None and growing.left is not None:
            base = growing.ceiling - growing.left - max(growing.last - growing.first, 0)
            rooms.append(Room(base, growing.ceiling - base, case))
    return min(rooms, key=lambda room: room.headroom) if rooms else None


def _remedy(known: Facts) -> str:
    """The max_requests that keeps a worker below what it may hold, or how often one is to go."""
    room = _room(known)
    if room is None or known.snapshot.kind == "plain":
        return ""
    ceiling = room.base + room.headroom
    held = f"{units.size(room.base)} of {units.size(ceiling)}"
    before = (
        f"a worker held {held} when it was first seen, and may have leaked before: "
        "a recycle shows what a fresh one holds"
    )
    if room.base >= FULL * ceiling:
        if not _from_the_start(room.case.growing):
            return before
        return f"a worker holds {held} before it leaks: raise the limit, recycling cannot help"
    costs = [cost for case in known.cases if (cost := _cost(case)) is not None]
    if len(costs) < len(known.cases):
        return _recycle_every(known, room)
    total = SPENT * room.headroom / max(costs)
    most = _round_down(total / (1 + JITTER))
    if most < FEWEST:
        if not _from_the_start(room.case.growing):
            return before
        return (
            f"a worker lasts {SPENT * room.headroom / max(costs):.0f} requests: "
            "no max_requests makes up for that"
        )
    jitter = _round_down(JITTER * most)
    peak = room.base + (most + jitter) * max(costs)
    text = (
        f"max_requests = {most} and max_requests_jitter = {jitter} keep a worker below "
        f"{units.size(peak)} of {units.size(ceiling)}"
    )
    rates = [rate for case in known.cases if (rate := case.growing.work_rate)]
    if not rates:
        return text
    every = most / max(rates)
    return f"{text}: the busiest lasts about {_about(every)}" if every <= FAR else ""


def _from_the_start(growing: Growing) -> bool:
    """Whether what a worker held when its growth began is what one holds that has not leaked."""
    return growing.watched >= YOUNG or (growing.age is not None and growing.age <= YOUNG)


def _cost(case: Case) -> float | None:
    """Bytes a request may cost, by the upper end of the interval; None: not known by requests."""
    growing = case.growing
    if growing.unit != "request" or not growing.per_work or growing.per_work <= 0:
        return None
    surely = growing.trend.high / growing.trend.bytes_per_hour
    return growing.per_work * min(max(surely, 1.0), 2.0)


def _recycle_every(known: Facts, room: Room) -> str:
    fastest = max(case.growing.trend.high for case in known.cases)
    seconds = SPENT * room.headroom / fastest * HOUR
    if seconds > FAR:
        return ""
    ceiling = units.size(room.base + room.headroom)
    who = "each of them" if len(known.cases) > 1 else "it"
    return f"to stay below {ceiling}, {who} needs a recycle about every {_about(seconds)}"


# -- where to look -----------------------------------------------------------------------------


def _pattern(known: Facts) -> str:
    """Which workers grow, those included that were not told yet."""
    if not known.cases:
        return "one"
    with_them = len(known.cases) + sum(_goes_along(known, other) for other in known.siblings)
    if with_them == len(known.snapshot.workers):
        return "all"
    return "one" if with_them == 1 else "some"


def _goes_along(known: Facts, other: Sibling) -> bool:
    """Whether a worker that was not told grows like those that were, or is too young to say."""
    if other.per_hour is None:
        return True
    pace = units.median([case.growing.trend.bytes_per_hour for case in known.cases])
    return other.per_hour >= PACE * pace


def _place(known: Facts) -> str:
    """Where in the program it is likely to be."""
    files = [case for case in known.cases if case.files]
    if files:
        return "its open files grow with it: look for files, sockets or clients that are not closed"
    if known.snapshot.kind == "plain" or len(known.snapshot.workers) < 2:
        return _alone(known)
    pattern = _pattern(known)
    if pattern == "one":
        return _sole(known)
    by = _follows(known)
    if by == "time":
        return (
            "it grows by time, not by work (workers with unequal work leak alike): "
            "look at threads, timers and background tasks"
        )
    if pattern == "all":
        if len(known.cases) + sum(other.per_hour is not None for other in known.siblings) < 2:
            return ""  # its siblings are too young to say whether they leak alike
        if by == "work":
            return "its workers leak by the work they do: look in the request path"
        return "its workers leak alike: look at what every request does, or at a background task"
    if by == "work":
        return "it grows by work, faster where more is done: look in the request path"
    if _lately(known):
        return ""
    return "some workers leak, others not: look at what only they do, an endpoint or a job"


def _alone(known: Facts) -> str:
    if not _is_idle(known.cases[0]):
        return ""
    return "it grows though it does no work: look at threads, timers and background tasks"


def _is_idle(case: Case) -> bool:
    growing = case.growing
    return growing.unit == "request" and growing.work_rate == 0


def _sole(known: Facts) -> str:
    """Only one of several, and it was seen for long enough."""
    (case,) = known.cases
    if _lately(known):
        return ""
    name = f"worker {case.worker.id.pid}"
    mine = _work(case.worker)
    others = [work for other in known.siblings if (work := _work(other.worker)) is not None]
    if mine is None or not others or not (usual := units.median(others)):
        return f"only {name} leaks: look for what it alone does, a job or an endpoint"
    times = mine / usual
    text = f"only {name} leaks, at {times:.1f} times its siblings' work: "
    if times > UNEQUAL:
        return f"{text}it may just be ahead of them"
    return f"{text}look for what it alone does, a job or an endpoint"


def _lately(known: Facts) -> bool:
    """Whether the others may just not have been told yet."""
    return known.snapshot.at - min(case.verdict.since for case in known.cases) < SOLE


def _work(worker: Worker) -> float | None:
    return worker.cpu if worker.requests is None else float(worker.requests)


def _follows(known: Facts) -> str:
    """Whether growth follows work or time; empty: their work is too equal to tell."""
    found = [c.growing for c in known.cases if c.growing.work_rate and c.growing.per_work]
    if len(found) < 2:
        return ""
    work = _spread([growing.work_rate or 0.0 for growing in found])
    pace = _spread([growing.trend.bytes_per_hour for growing in found])
    cost = _spread([growing.per_work or 0.0 for growing in found])
    if work < UNEQUAL:
        return ""
    if cost <= ALIKE:
        return "work"
    return "time" if pace <= ALIKE else ""


def _spread(values: Sequence[float]) -> float:
    return max(values) / min(values) if min(values) > 0 else math.inf


# -- the master ----------------------------------------------------------------------------------


def _masters_growth(case: Case, snapshot: Snapshot) -> str:
    since = _since(case.growing.began, snapshot)
    grown = units.size(max(case.growing.last - case.growing.first, 0))
    return f"the master grows {_speed([case])}, {since}: {grown} so far"


def _of_the_master(known: Facts) -> str:
    case = known.master
    assert case is not None
    if case.files:
        return "its open files grow with it: look for what the master opens and does not close"
    return (
        "every new worker inherits it: look at what runs in the master, preloaded code and its "
        "threads, server hooks; only a restart gives it back"
    )


# -- what is no leak -----------------------------------------------------------------------------


def no_leaks(snapshot: Snapshot, verdicts: Verdicts) -> tuple[str, ...]:
    """Of growth that ended by itself; of each worker the most, of many workers the first ones."""
    texts = []
    for id, found in verdicts.items():
        calm = [verdict for verdict in found if no_leak(id, verdict, snapshot)]
        if calm:
            most = max(calm, key=lambda verdict: verdict.measured - (verdict.bound or 0.0))
            texts.append(no_leak(id, most, snapshot))
    more = [f"and {len(texts) - NAMED} more that are no leaks"] if len(texts) > NAMED else []
    return (*texts[:NAMED], *more)


def no_leak(id: WorkerId | None, verdict: Verdict, snapshot: Snapshot) -> str:
    """Why growth of a worker is none; empty for any other verdict."""
    if id is None or verdict.kind not in (PLATEAU, SPIKE):
        return ""
    master = snapshot.master is not None and snapshot.master.id == id
    who = "the master" if master else f"worker {id.pid}"
    grown, _, _ = verdict.why.partition(", flat")  # when, is said here by the clock on the wall
    if verdict.kind == SPIKE:
        when = _at(verdict.since, snapshot)
        why = f"allocator high-water mark after one large request or import {when}: {grown}"
    else:
        fresh = snapshot.at - verdict.since < MINUTE
        when = "now" if fresh else _since(verdict.since, snapshot)
        why = f"{grown} while its cache filled, flat {when}"
    return f"{who}: not a leak: {why}"


# -- words -----------------------------------------------------------------------------------------


def _per_hour(rate: float) -> str:
    return f"{units.size(rate)}/h"


def _size(bytes: float) -> str:
    """As units.size, and below 10KB with a decimal: what one request costs is small."""
    return f"{bytes / units.KB:.1f}KB" if units.KB <= bytes < 10 * units.KB else units.size(bytes)


def _between(low: str, high: str) -> str:
    """An interval, unless it is narrower than can be said."""
    return f" ({low} to {high})" if low != high else ""


def _since(at: float, snapshot: Snapshot) -> str:
    """`since 13:10 (50m)`, or for how long alone."""
    span = _about(max(snapshot.at - at, 0.0))
    if snapshot.clock is None or snapshot.at - at >= TODAY:
        return f"for {span}"
    return f"since {_clock(at, snapshot)} ({span})"


def _at(at: float, snapshot: Snapshot) -> str:
    """`at 14:02`, or how long ago."""
    if snapshot.clock is None or snapshot.at - at >= TODAY:
        return f"{_about(max(snapshot.at - at, 0.0))} ago"
    return f"at {_clock(at, snapshot)}"


def _clock(at: float, snapshot: Snapshot) -> str:
    """`14:02`, as the clock on the wall has it, where that is known."""
    into = snapshot.at % MINUTE  # time zones differ by full minutes, or nearly so
    minutes = (snapshot.clock or 0) + math.floor((at - snapshot.at + into) / MINUTE)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _about(seconds: float) -> str:
    """A time no finer than it is known: seconds below 2 minutes, minutes below 10 hours."""
    if seconds >= DAY:
        return units.time(round(seconds / HOUR) * HOUR)
    return units.time(round(seconds / MINUTE) * MINUTE if seconds >= 2 * MINUTE else round(seconds))


def _round_down(value: float) -> int:
    """To two digits."""
    if value < 100:
        return int(value)
    step = 10 ** (len(str(int(value))) - 2)
    return int(value // step * step)
