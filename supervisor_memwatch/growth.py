"""Does a stretch of buckets show growth that lasts? The arithmetic, and its few constants.

Growth that lasts climbs to new territory, in every third of the stretch, in many steps
rather than one, about as fast at its end as at its beginning, by more than real healthy
programs drift. A warm-up bends, a big request is one step, a sawtooth comes back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .series import KEPT, Level, Series
from .units import MB, MINUTE

WINDOWS = (KEPT // 2, 14, KEPT)  # in buckets, on every level
# Buckets of the finest level that do where growth is fast, and how uneven its steps may be: the
# largest over the smallest.
BRISK = ((7, 6.0), (5, 1.35))
QUICK, ROUGHLY = 8 * MB, 2.2  # so much growth may be as uneven as this
SEEN = 3.5 * MB  # that it must have brought
SHORT = 6  # buckets that must do where the limit is near
RISING = 4  # samples that must do where it is next to nothing,
LUMPY = 9  # and steps from one to the next where they are uneven;
PAUSE = 3  # the last of those that rose for as long; they stand still where none is lower
STEPS = 7  # that growth is made of, before anything is done about it
RESTS = 0.1  # of the usual step, for as long a pause: a smaller one is the noise of one at rest
RUSHED = 3  # buckets by which what they showed is followed
FLAT = 5  # buckets that make growth a thing of the past

SIGNIFICANT = 3.2  # Mann-Kendall z; chance alone passes it once in 1,400 windows
STRAIGHT = 0.85  # late growth of at least this share of the early growth is as good as straight
BENDING = 0.66  # below this share it is saturation
BENT = 0.2  # and below this one whatever the noise
SINCE = 0.95  # at least this share, since then, makes a bend one that is over
PLENTY = 20 * MB  # of growth: what slows down by its work is not waited for any more
BENT_TOO, CLEAN = 0.7, 0.9  # by time or by work: below the one, the other must not be below this
SURE = 2.0  # standard deviations that make what is between them saturation
NOISE = 1.4  # standard deviations by which the late growth may fall short by chance
HALF = 0.5  # of the growth must remain without its largest step
THIRD = 0.15  # of the growth must be in every third of the stretch
MANY, FEWER = 0.5, 0.3  # of the steps must rise; fewer where those that do are a staircase's:
EVEN, STAIRS = 0.8, 4.5  # as good as equal (the effective number is a share of theirs), and as many

# Healthy workers drift by up to 0.13 MB/min for ten minutes and by less for longer: what
# counts as growth is 0.3 MB/min over 5 minutes, and rises with the third root of the time.
DRIFT_BYTES = 1.5 * MB
DRIFT_SPAN = 5 * MINUTE
RISE = DRIFT_BYTES / 4  # within a stretch; less is none


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


def drift(span: float, unit: float = DRIFT_BYTES) -> float:
    """How much a healthy process may drift in `span` seconds."""
    return float(unit * (span / DRIFT_SPAN) ** (1 / 3))


def least(width: float) -> float:
    """What any stretch has to rise by, of buckets of `width` seconds and more: less is no news."""
    return max(drift(3 * width), RISE)


def rises(level: Level) -> bool:
    """Whether any stretch of a level could have grown: mostly none, and that is all it costs."""
    return level.lows[-1] - level.least >= RISE


def could(level: Level, count: int) -> bool:
    """Whether the last `count` buckets rise by as much as `grows` asks for, at the least."""
    lows = level.lows
    if len(lows) < count:
        return False
    rise = lows[-1] - lows[-count]
    return rise >= RISE and rise >= drift(level.ats[-1] - level.ats[-count])


def grows(
    series: Series,
    index: int,
    count: int,
    unit: float = DRIFT_BYTES,
    above: float = 0.0,
    stairs: float = FEWER,
) -> Growth | None:
    """The growth of the last `count` buckets of a level, if it is growth that lasts.

    `above`: territory known to be healthy, below which nothing counts. `stairs`: how many of an
    even staircase's steps must rise, as a share.
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
    risen = [step for step in steps if step > (last - first) / (4 * count)]
    even = effective(risen) >= max(EVEN * len(risen), STAIRS)
    if len(risen) < (stairs if even else MANY) * (count - 1):
        return None
    if not _is_straight(level, count, _noise(steps)) or _bends(level, count):
        return None
    if mann_kendall(points) < (SIGNIFICANT if count > SHORT else 2.6):
        return None
    return _growth(level, index, count, grown)


def brisk(series: Series, above: float = 0.0, roughly: bool = False) -> Growth | None:
    """Growth that is so fast and so even that few buckets of the finest level show it; `roughly`:
    less even will do where it brought much.

    A short stretch of a cache that fills is nearly straight: less bending is forgiven than in
    a long one, so that the slowest saturation that passes is the same.
    """
    level = series.levels[0]
    for count, uneven in BRISK:
        lows = level.lows
        if len(lows) < count or lows[-1] - lows[-count] < DRIFT_BYTES:
            continue
        first, last = lows[-count], lows[-1]
        span = level.ats[-1] - level.ats[-count]
        grown = last - max(first, above, level.before(count))
        steps = [b - a for a, b in pairwise(lows[-count:])]
        if span <= 0 or grown < max(2 * drift(span), SEEN):
            continue
        if roughly and grown >= QUICK:
            uneven = max(uneven, ROUGHLY)
        if min(steps) <= 0 or max(steps) > uneven * min(steps):
            continue
        time, work = _ratios(level, count)
        if time < STRAIGHT or 0 < work < STRAIGHT or _bends(level, count):
            continue
        return _growth(level, 0, count, grown)
    return None


def rushes(samples: Sequence[tuple[float, float]]) -> Growth | None:
    """Growth too fast for buckets: samples (when, bytes) that rise one after the other, or, where a
    few large requests bring it, in many steps and in every third.

    An import or a big request rises in a step or two.
    """
    if len(samples) < RISING:
        return None
    steps = [b[1] - a[1] for a, b in pairwise(samples)]
    (start, first), (end, last) = samples[0], samples[-1]
    grown, span = last - first, end - start
    if span <= 0 or grown <= 0:
        return None
    rests = (end - samples[-2][0]) * (len(samples) - 1) / span  # of the usual pause, the last one
    if not _rises_steadily(steps, RESTS * rests) and not _rises_by_and_by(steps, grown):
        return None
    return Growth(0, RUSHED, start, span, first, last, grown, grown / span, None)


def pauses(samples: Sequence[tuple[float, float]]) -> bool:
    """Whether samples that rose for long enough only stand still, as between two large requests."""
    if len(samples) <= LUMPY:
        return False
    values = [value for _, value in samples]
    near = max(values) - 0.02 * (max(values) - values[0])
    return values[-1] >= near > min(values[-PAUSE:])


def _rises_steadily(steps: Sequence[float], rests: float) -> bool:
    """`rests`: of the usual step, what is none at the end."""
    usual = sorted(steps)[len(steps) // 2]
    if usual <= 0 or steps[-1] <= rests * usual or max(steps) > 2.5 * usual:
        return False
    return sum(step <= 0 for step in steps) <= 0.2 * len(steps)


def _rises_by_and_by(steps: Sequence[float], grown: float) -> bool:
    if len(steps) < LUMPY or max(steps[-3:]) <= 0 or effective(steps) < STEPS:
        return False
    third = len(steps) // 3
    thirds = sum(steps[:third]), sum(steps[third:-third]), sum(steps[-third:])
    return min(thirds) >= 0.2 * grown and sum(step for step in steps if step < 0) > -0.1 * grown


class Calm(NamedTuple):
    """Memory that grew, and has not since."""

    since: float
    first: float
    last: float
    span: float  # how long it took
    largest: float  # step


def calm(level: Level) -> Calm | None:
    """Growth within what a level keeps that is over: its last buckets hold what they held."""
    lows, ats = level.lows, level.ats
    count = len(lows)
    if count < 2 * FLAT or lows[-1] - lows[0] < 8 * MB:
        return None
    end = count - FLAT
    if max(lows[end:]) - min(lows[end:]) > drift(ats[-1] - ats[end]):
        return None
    low = min(range(end), key=lows.__getitem__)
    steps = [b - a for a, b in pairwise(lows[low : end + 1])]
    if not steps or lows[end] - lows[low] < 8 * MB:
        return None
    if max(lows) > lows[-1] + (lows[-1] - lows[low]) / 4:
        return None  # part of it came back since: neither is what happened
    risen = [i for i, step in enumerate(steps) if step > 0.05 * (lows[end] - lows[low])]
    begun, ended = low + risen[0], low + risen[-1] + 1
    return Calm(ats[ended], lows[low], lows[-1], ats[ended] - ats[begun], max(steps))


def _growth(level: Level, index: int, count: int, grown: float) -> Growth:
    first, last = level.lows[-count], level.lows[-1]
    span = level.ats[-1] - level.ats[-count]
    work = level.works[-1] - level.works[-count]
    per_work = (last - first) / work if work > 0 else None
    rate = (last - first) / span
    start = level.ats[-count]
    return Growth(index, count, start, span, first, last, grown, rate, per_work)


def _noise(steps: Sequence[float]) -> float:
    """The standard deviation of steps about their trend.

    From the differences of neighbours, which a slow bend leaves out (von Neumann, 1941).
    """
    return float((sum((b - a) ** 2 for a, b in pairwise(steps)) / (2 * len(steps) - 2)) ** 0.5)


def _bends(level: Level, count: int) -> bool:
    """Did it grow faster in the earliest third of all that the level keeps? Not where the last
    `count` buckets are many and quite straight: a leak after a cache has filled."""
    lows = level.lows
    if len(lows) < SHORT:
        return False
    noise = _noise([b - a for a, b in pairwise(lows)])
    ratio = max(_ratios(level, len(lows)))
    # A warm-up at its beginning bends a straight line as well, but not by so much.
    if not 0 < ratio < BENDING or not _is_bent(level, len(lows), ratio, noise):
        return False
    return count < WINDOWS[1] or _ratio(level, count) < SINCE


def _is_bent(level: Level, count: int, ratio: float, noise: float) -> bool:
    """Whether growth slows down by more than chance makes of many small steps.

    Chance is no excuse where its last third could be chance altogether.
    """
    if ratio >= STRAIGHT:
        return False
    third = (count - 1) // 3
    early = level.lows[third - count] - level.lows[-count]
    late = level.lows[-1] - level.lows[-1 - third]
    chance: float = noise * third**0.5
    slower: float = early * (1 - ratio) / 2**0.5
    if ratio >= BENDING:
        return slower > SURE * chance
    return ratio < BENT or late < NOISE * chance or slower > NOISE * chance


def _is_straight(level: Level, count: int, noise: float) -> bool:
    """Whether every third has its part in the growth, and it does not bend."""
    third = (count - 1) // 3
    lows = level.lows
    early = lows[third - count] - lows[-count]
    middle = lows[-1 - third] - lows[third - count]
    late = lows[-1] - lows[-1 - third]
    grown = lows[-1] - lows[-count]
    least = min(early, middle, late)
    if least <= 0 or least < min(THIRD * grown, grown / 3 - NOISE * noise * third**0.5):
        return False
    return not _is_bent(level, count, _ratio(level, count), noise)


def _ratio(level: Level, count: int) -> float:
    """Growth of the last third over that of the first, per second or per work done.

    The kinder of the two: a leak per request slows down at night, one by a timer does not
    speed up at noon. But not where that one bends as well, and, as long as it is not much, not
    before a whole window was seen of what slows down by its work: a cache under a load that rises
    is straight for minutes. 0 where the first third did not grow.
    """
    time, work = _ratios(level, count)
    if work <= 0 or count <= SHORT:
        return max(time, work)
    if work < BENDING and count < KEPT and level.lows[-1] - level.lows[-count] < PLENTY:
        return work
    if min(time, work) < BENT_TOO and max(time, work) < CLEAN:
        return min(time, work)
    return max(time, work)


def _ratios(level: Level, count: int) -> tuple[float, float]:
    """Per second, and per work done (0: unknown)."""
    third = (count - 1) // 3
    lows, ats, works = level.lows, level.ats, level.works
    early = lows[third - count] - lows[-count]
    if early <= 0:
        return 0.0, 0.0
    ratio = (lows[-1] - lows[-1 - third]) / early
    passed = ats[-1] - ats[-1 - third]
    time = ratio * (ats[third - count] - ats[-count]) / passed if passed > 0 else 0.0
    worked = works[-1] - works[-1 - third]
    work = ratio * (works[third - count] - works[-count]) / worked if worked > 0 else 0.0
    return time, work


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


def of(level: Level, stretch: Stretch) -> int:
    """How many of the last buckets of its level are the stretch's."""
    return min(max(_since(level, stretch.start), stretch.buckets), len(level.lows))


def pace(series: Series, stretch: Stretch) -> float:
    """How fast it grows now, per second: over the last window as long as the one that showed it."""
    level = series.levels[stretch.level]
    count = min(stretch.buckets, len(level.lows))
    span = level.ats[-1] - level.ats[-count]
    return (level.lows[-1] - level.lows[-count]) / span if span > 0 else 0.0


def slows(series: Series, start: float) -> float:
    """The pace of the latest third of all the growth since `start`, over that of its first; 1 where
    that cannot be told. A cache that fills slows down.

    Per work done, where known: under a load that rises, a cache grows as fast as before.
    """
    ratio = 1.0
    for level in series.levels:
        count = _since(level, start)
        if count >= SHORT:
            time, work = _ratios(level, count)
            ratio = work or time or 1.0
        if level.ats[0] <= start:
            break  # coarser ones see no further back
    return ratio


def _since(level: Level, start: float) -> int:
    """How many buckets of a level there are since a time."""
    return len(level.ats) - bisect_left(level.ats, start)


def in_many_steps(series: Series, start: float) -> bool:
    """Whether the growth since `start` came in many steps of about one size, on some scale.

    A few imports one after the other make a few large ones. What counts is the effective number
    of steps, (sum s)^2 / sum s^2 (the inverse Herfindahl index).
    """
    for level in series.levels:
        count = _since(level, start)
        if count < STEPS:
            continue
        steps = [b - a for a, b in pairwise(level.lows[-count:])]
        if effective(_unfolded(steps, level.ats[-count:])) >= min(STEPS, 0.8 * (count - 1)):
            return True
    return False


def _unfolded(steps: Sequence[float], ats: Sequence[float]) -> list[float]:
    """Steps over times of about one length: one over a break, in which nobody looked, as the many
    it stands for."""
    spans = [b - a for a, b in pairwise(ats)]
    usual = sorted(spans)[len(spans) // 2]
    if max(spans) < 3 * usual or usual <= 0:
        return list(steps)
    counts = [max(round(span / usual), 1) for span in spans]
    parts = zip(steps, counts, strict=True)
    return [step / count for step, count in parts for _ in range(min(count, 2 * KEPT))]


def effective(steps: Sequence[float]) -> float:
    """The effective number of those that rise."""
    rising = [step for step in steps if step > 0]
    squares = sum(step * step for step in rising)
    return float(sum(rising) ** 2 / squares) if squares > 0 else 0.0


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
