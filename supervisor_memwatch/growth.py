"""Does a stretch of buckets show growth that lasts? The arithmetic, and its few constants.

Growth that lasts climbs to new territory, in every third of the stretch, in many steps
rather than one, about as fast at its end as at its beginning, by more than real healthy
programs drift. A warm-up bends, a big request is one step, a sawtooth comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .series import KEPT, Level, Series
from .units import MB, MINUTE

WINDOWS = (KEPT // 2, KEPT)  # in buckets, on every level
SHORT = 6  # buckets that must do where the limit is near

SIGNIFICANT = 3.2  # Mann-Kendall z; chance alone passes it once in 1,400 windows
BENDING = 0.66  # late growth below this share of the early growth is saturation
HALF = 0.5  # of the growth must remain without its largest step
THIRD = 0.15  # of the growth must be in every third of the stretch

# Healthy workers drift by up to 0.13 MB/min for ten minutes and by less for longer: what
# counts as growth is 0.22 MB/min over 5 minutes, and rises with the third root of the time.
DRIFT_BYTES = 1.1 * MB
DRIFT_SPAN = 5 * MINUTE


class Growth(NamedTuple):
    """A stretch that grew. Values in the series' unit, times in seconds."""

    level: int
    buckets: int
    start: float  # when the stretch begins
    span: float
    first: float
    last: float
    grown: float  # above `first` and above all older territory
    rate: float  # per second
    per_work: float | None  # per unit of work (CPU seconds or requests)
    straight: float  # late growth over early growth, at most 1
    z: float


def drift(span: float, unit: float = DRIFT_BYTES) -> float:
    """How much a healthy process may drift in `span` seconds."""
    return float(unit * (span / DRIFT_SPAN) ** (1 / 3))


def grows(
    series: Series, index: int, count: int, unit: float = DRIFT_BYTES, above: float = 0.0
) -> Growth | None:
    """The growth of the last `count` buckets of a level, if it is growth that lasts.

    `above`: territory known to be healthy, below which nothing counts.
    """
    level = series.levels[index]
    lows = level.lows
    if len(lows) < count:
        return None
    first, last = lows[-count], lows[-1]
    if last - first < unit * 0.25:  # almost always, and all a quiet process costs
        return None
    span = level.ats[-1] - level.ats[-count]
    if span <= 0:  # times so large that they differ by less than a float can tell
        return None
    grown = last - max(first, above, level.before(count))
    if grown < drift(span, unit):
        return None
    points = lows[-count:]
    steps = [b - a for a, b in pairwise(points)]
    if grown - max(steps) < HALF * grown:
        return None
    rises = sum(step > (last - first) / (4 * count) for step in steps)
    if rises < (count - 1) / 2:
        return None
    straight = _straight(level, count)
    if straight < BENDING or _bends(level):
        return None
    z = mann_kendall(points)
    if z < (SIGNIFICANT if count > SHORT else 2.6):
        return None
    work = level.works[-1] - level.works[-count]
    per_work = (last - first) / work if work > 0 else None
    return Growth(
        index,
        count,
        level.ats[-count],
        span,
        first,
        last,
        grown,
        (last - first) / span,
        per_work,
        min(straight, 1.0),
        z,
    )


def _bends(level: Level) -> bool:
    """Did it grow faster in the earliest third of all that the level keeps?"""
    count = len(level.lows)
    return 0 < _ratio(level, count) < BENDING


def _straight(level: Level, count: int) -> float:
    """As `_ratio`; 0 where a third has hardly a part in the growth."""
    third = (count - 1) // 3
    lows = level.lows
    early = lows[third - count] - lows[-count]
    middle = lows[-1 - third] - lows[third - count]
    late = lows[-1] - lows[-1 - third]
    if min(early, middle, late) < THIRD * (lows[-1] - lows[-count]):
        return 0.0
    return _ratio(level, count)


def _ratio(level: Level, count: int) -> float:
    """Growth of the last third over that of the first, per second or per work done.

    The kinder of the two: a leak per request slows down at night, one by a timer does not
    speed up at noon. 0 where the first third did not grow.
    """
    third = (count - 1) // 3
    lows, ats, works = level.lows, level.ats, level.works
    early = lows[third - count] - lows[-count]
    if early <= 0:
        return 0.0
    ratio = (lows[-1] - lows[-1 - third]) / early
    passed = ats[-1] - ats[-1 - third]
    time = ratio * (ats[third - count] - ats[-count]) / passed if passed > 0 else 0.0
    worked = works[-1] - works[-1 - third]
    work = ratio * (works[third - count] - works[-count]) / worked if worked > 0 else 0.0
    return max(time, work)


class Stretch(NamedTuple):
    """What is remembered of growth once it is a suspicion: where it began, where it was seen."""

    level: int
    buckets: int
    start: float
    first: float
    rate: float
    per_work: float | None


def still(series: Series, stretch: Stretch) -> bool:
    """Does growth that was told go on? It ends with a full window that hardly grew.

    Hardly: a quarter of what the time, or the work done since, would have brought. A worker
    that does no work proves nothing.
    """
    level, count = series.levels[stretch.level], stretch.buckets
    recent = level.lows[-1] - level.lows[-count]
    expected = stretch.rate * (level.ats[-1] - level.ats[-count])
    if stretch.per_work is not None:
        by_work = stretch.per_work * (level.works[-1] - level.works[-count])
        if by_work < 0.25 * expected:
            return True
        expected = min(expected, by_work)
    return recent > 0.25 * expected


def pace(series: Series, stretch: Stretch) -> float:
    """How fast it grows now, per second: over the last window as long as the one that showed it."""
    level, count = series.levels[stretch.level], stretch.buckets
    span = level.ats[-1] - level.ats[-count]
    return (level.lows[-1] - level.lows[-count]) / span if span > 0 else 0.0


def flattens(series: Series, start: float) -> bool:
    """Has all the growth since `start` been slowing down, as a cache that fills does?"""
    ratio = 0.0
    for level in series.levels:
        count = sum(at >= start for at in level.ats)
        if count >= SHORT:
            ratio = _ratio(level, count)
        if level.ats[0] <= start:
            break  # coarser ones see no further back
    return 0 < ratio < BENDING


def mann_kendall(points: Sequence[float]) -> float:
    """The Mann-Kendall statistic as a z score, corrected for ties; 0 for no trend."""
    n = len(points)
    s = 0
    for i in range(n - 1):
        a = points[i]
        for b in points[i + 1 :]:
            s += (b > a) - (b < a)
    ties: dict[float, int] = {}
    for point in points:
        ties[point] = ties.get(point, 0) + 1
    variance = n * (n - 1) * (2 * n + 5)
    for tied in ties.values():
        variance -= tied * (tied - 1) * (2 * tied + 5)
    if variance <= 0 or s == 0:
        return 0.0
    return float((s - 1 if s > 0 else s + 1) / (variance / 18) ** 0.5)


def sen(ats: Sequence[float], points: Sequence[float]) -> tuple[float, float, float]:
    """The median of all pairwise slopes, and its 95 % interval. Per second; 3 points or more.

    0 where they are all of one time.
    """
    n = len(points)
    slopes = sorted(
        (points[j] - points[i]) / (ats[j] - ats[i])
        for i in range(n - 1)
        for j in range(i + 1, n)
        if ats[j] > ats[i]
    )
    count = len(slopes)
    if not count:
        return 0.0, 0.0, 0.0
    half = 1.96 * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5 / 2
    low = slopes[max(0, round(count / 2 - half) - 1)]
    high = slopes[min(count - 1, round(count / 2 + half))]
    return slopes[count // 2], low, high
