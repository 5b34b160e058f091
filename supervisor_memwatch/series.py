"""The bounded history of one number of one process, on a ladder of time scales.

A sample costs a comparison. Samples are gathered into buckets that keep their lowest
value: what a process holds on to is the lower envelope, not the peaks of its requests.
Four closed buckets make one of the next level, so that the same few KB show 100 MB a
minute and 1 MB an hour. What growth means is detectors.py's; no clock here, time is given.
"""

from __future__ import annotations

from array import array
from typing import Any

LEVELS = 5
KEPT = 20  # buckets per level
FACTOR = 4  # buckets of one level in a bucket of the next
EARLY = 0.9  # of a bucket's width: ticks jitter, a bucket must not wait for the tick after


class Level:
    """The last KEPT buckets of one width, oldest first: when, how low, how much work by then."""

    __slots__ = ("ats", "group", "lows", "peak", "works")

    def __init__(self) -> None:
        self.ats = array("d")
        self.lows = array("d")
        self.works = array("d")
        self.peak = 0.0  # the highest low ever dropped from here
        self.group: list[float] = []  # at, low, work and count of the next level's open bucket

    def keep(self, at: float, low: float, work: float) -> None:
        if len(self.lows) == KEPT:
            self.peak = max(self.peak, self.lows.pop(0))
            del self.ats[0], self.works[0]
        self.ats.append(at)
        self.lows.append(low)
        self.works.append(work)

    def gather(self, at: float, low: float, work: float) -> tuple[float, float, float] | None:
        """A bucket for the next level, once FACTOR of this one's are there."""
        group = self.group
        if not group:
            self.group = [at, low, work, 1]
            return None
        group[1] = min(group[1], low)
        group[3] += 1
        if group[3] < FACTOR:
            return None
        self.group = []
        return group[0], group[1], group[2]

    def before(self, count: int) -> float:
        """The highest low ever left behind before the last `count` buckets."""
        older = self.lows[:-count]
        return max(self.peak, max(older)) if older else self.peak


class Series:
    """One number's history. `width`: seconds of the finest bucket (at least one sample each)."""

    __slots__ = ("at", "closes", "depth", "levels", "low", "width", "work")

    def __init__(self, width: float, depth: int = LEVELS) -> None:
        self.width = width
        self.depth = depth
        self.levels: list[Level] = []
        self.closes = float("-inf")  # the first sample from here on closes the open bucket
        self.at = 0.0
        self.low = 0.0
        self.work = 0.0

    def append(self, at: float, value: float, work: float = 0.0) -> int:
        """Add a sample; how many levels got a new closed bucket by it (mostly 0)."""
        if at < self.closes:
            if value < self.low:
                self.low = value
            return 0
        return self.turn(at, value, work)

    def turn(self, at: float, value: float, work: float) -> int:
        """Close the open bucket and open one with this sample."""
        began = self.closes != float("-inf")
        closed = self._keep(self.at, self.low, self.work) if began else 0
        self.at, self.low, self.work = at, value, work
        self.closes = at + EARLY * self.width
        return closed

    def _keep(self, at: float, low: float, work: float) -> int:
        for index in range(self.depth):
            if index == len(self.levels):
                self.levels.append(Level())
            level = self.levels[index]
            level.keep(at, low, work)
            bucket = level.gather(at, low, work)
            if bucket is None:
                return index + 1
            at, low, work = bucket
        return self.depth

    def points(self) -> list[tuple[float, float]]:
        """(when, lowest) of all that is kept, oldest first: coarse long ago, fine lately."""
        points: list[tuple[float, float]] = []
        for level in reversed(self.levels):
            finer = level.ats[0]
            while points and points[-1][0] >= finer:
                points.pop()
            points += zip(level.ats, level.lows, strict=True)
        return points

    def dump(self) -> list[Any]:
        """All of it, as JSON-able values; `load` restores it exactly."""
        return [
            self.width,
            self.depth,
            None if self.closes == float("-inf") else self.closes,
            self.at,
            self.low,
            self.work,
            [[list(v.ats), list(v.lows), list(v.works), v.peak, v.group] for v in self.levels],
        ]

    @classmethod
    def load(cls, dumped: list[Any]) -> Series:
        width, depth, closes, at, low, work, levels = dumped
        series = cls(width, depth)
        series.closes = float("-inf") if closes is None else closes
        series.at, series.low, series.work = at, low, work
        for ats, lows, works, peak, group in levels:
            level = Level()
            level.ats, level.lows, level.works = (
                array("d", ats),
                array("d", lows),
                array("d", works),
            )
            level.peak, level.group = peak, list(group)
            series.levels.append(level)
        return series
