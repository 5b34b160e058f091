"""How fast a worker grows, and when it meets what it may hold: the numbers behind the words.

Looked up where there is something to say; no verdict depends on them (detectors.py).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from . import growth
from .model import LEAK, MASTER_GROWTH, Snapshot, Worker, WorkerId
from .options import Options
from .past import Life, Past
from .sizes import ceiling_of, measure
from .units import HOUR


class Trend(NamedTuple):
    """How fast memory grows, bytes per hour, with its 95 % interval."""

    bytes_per_hour: float
    low: float
    high: float


def trend(past: Past, id: WorkerId) -> Trend | None:
    """The trend of the stretch on which growth was found, else of the last finest buckets.

    Of such a stretch it is what the verdict says of it, its growth over its time; the interval is
    that of Sen's slope, and has room for one step more or less: growth that comes in steps may
    have begun, and been seen last, just before or just after one.
    """
    life = past.lives.get(id)
    if life is None or not life.series.levels:
        return None
    stretch = _stretch(past, id)
    slopes = []
    for series in (life.series, life.second):
        index = 0 if stretch is None else stretch.level
        if series is not None and index < len(series.levels):
            level = series.levels[index]
            # What was before the growth would hide it.
            count = len(level.lows) if stretch is None else growth.of(level, stretch)
            if count >= 5:
                slopes.append(growth.sen(level.ats[-count:], level.lows[-count:]))
    if not slopes and stretch is not None and len(life.rush) >= growth.RISING:
        slopes.append(growth.sen(*zip(*life.rush, strict=True)))
    if not slopes:
        return None
    found = Trend(*(slope * HOUR for slope in min(slopes)))
    if stretch is None:
        return found
    rate, step = (HOUR * each for each in _pace(life, stretch))
    return Trend(rate, min(found.low, rate - step), max(found.high, rate + step))


def _pace(life: Life, stretch: growth.Stretch) -> tuple[float, float]:
    """Bytes per second, and what one step more or less makes of it."""
    until, last = life.known()
    seconds, step = max(until - stretch.start, 1.0), 0.0
    if stretch.level < len(life.series.levels):
        level = life.series.levels[stretch.level]
        lows = level.lows[-growth.of(level, stretch) :]
        step = max((b - a for a, b in pairwise(lows)), default=0.0)
    return (last - stretch.first) / seconds, step / seconds


def _stretch(past: Past, id: WorkerId) -> growth.Stretch | None:
    """The growth that a standing `leak` or `master_growth` is about."""
    standing = past.standing.get((id, LEAK)) or past.standing.get((id, MASTER_GROWTH))
    return None if standing is None else standing.opinion.stretch


def hours_to_limit(
    options: Options, snapshot: Snapshot, worker: Worker, speed: Trend | None
) -> float | None:
    """Hours until a worker that grows at that speed meets what it may hold; None: no growth, no
    limit."""
    ceiling = ceiling_of(options, snapshot, worker)
    if speed is None or ceiling is None or speed.low <= 0:
        return None
    left = ceiling - measure(options, worker, snapshot.at)[0]
    return max(left / speed.bytes_per_hour, 0.0)


class Early(NamedTuple):
    """A worker of whose growth nothing can be said yet: seconds watched past its warm-up, and how
    many it takes until growth that is not fast is told."""

    watched: float
    needed: float


def early(past: Past, id: WorkerId) -> Early | None:
    """Whether a worker past its warm-up was watched for too short a time; None: long enough, or
    still in its warm-up."""
    life = past.lives.get(id)
    if life is None or not life.warm or life.buckets() >= growth.WINDOWS[0]:
        return None
    series = life.series
    began = series.levels[0].ats[0] if series.levels else series.at
    return Early(max(past.now - began, 0.0), (growth.WINDOWS[0] + 1) * series.width)


def moving(past: Past) -> list[WorkerId]:
    """Whose trend is worth a look: an opinion stands about its growth, or it has grown lately."""
    ids = {id for id, kind in past.standing if kind in (LEAK, MASTER_GROWTH) and id is not None}
    for id, life in past.lives.items():
        if life.series.levels and growth.rises(life.series.levels[0]):
            ids.add(id)
    return sorted(ids)


class Growing(NamedTuple):
    """What is known of the growth of a worker, or the master, that is suspected or told.

    Bytes are those of the growth signal. `hours`: to the ceiling, expected, earliest, latest.
    """

    began: float  # Snapshot.at
    watched: float  # seconds before that in which the process was watched
    age: float | None  # the process's when the watch of it began, seconds
    first: float
    last: float
    span: float  # seconds
    trend: Trend
    per_work: float | None  # bytes per unit of work
    unit: str | None  # "request" or "CPU second"
    work_rate: float | None  # units per second
    ceiling: int | None
    left: int | None
    hours: tuple[float, float, float] | None


def growing(options: Options, snapshot: Snapshot, past: Past, worker: Worker) -> Growing | None:
    """The growth that a standing `leak` or `master_growth` of a worker is about."""
    life = past.lives.get(worker.id)
    stretch, speed = _stretch(past, worker.id), trend(past, worker.id)
    if life is None or stretch is None or speed is None:
        return None
    until, last = life.known()
    span = until - stretch.start
    per_work = stretch.per_work
    work_rate = stretch.rate / per_work if per_work else None
    unit = None
    if per_work is not None:
        unit = "request" if life.counts else "CPU second"
    ceiling = ceiling_of(options, snapshot, worker)
    left = hours = None
    if ceiling is not None:
        left = max(ceiling - measure(options, worker, snapshot.at)[0], 0)
        if speed.bytes_per_hour > 0:
            latest = left / speed.low if speed.low > 0 else float("inf")
            hours = (left / speed.bytes_per_hour, left / speed.high, latest)
    return Growing(
        began=stretch.start - past.shift,
        watched=stretch.start - life.first,
        age=None if worker.age is None else worker.age - (past.now - life.first),
        first=stretch.first,
        last=last,
        span=span,
        trend=speed,
        per_work=per_work,
        unit=unit,
        work_rate=work_rate,
        ceiling=ceiling,
        left=left,
        hours=hours,
    )
