"""The bounded history of one process's memory, on a ladder of time scales.

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
UNKNOWN = -1.0  # in place of a count of open files that nobody has read yet
EARLY = 0.9  # of a bucket's width: ticks jitter, a bucket must not wait for the tick after


class Level:
    """The last KEPT buckets of one width, oldest first: when, how low, how much work and how many
    open files by then. Files have a column as long as they are known: that of the last buckets."""

    __slots__ = ("ats", "files", "files_peak", "gathered", "least", "lows", "peak", "works")

    def __init__(self) -> None:
        self.ats = array("d")
        self.lows = array("d")
        self.works = array("f")  # of a day at 1,000 requests a second, 8 are not told apart
        self.files = array("f")
        self.least = float("inf")  # of `lows`
        self.peak = 0.0  # the highest low ever dropped from here
        self.files_peak = 0.0
        self.gathered = 0  # of these buckets, for the next level's open one

    def keep(self, at: float, low: float, work: float, files: float) -> None:
        ats, lows, works, counts = self.ats, self.lows, self.works, self.files
        if len(lows) == KEPT:
            oldest = lows.pop(0)
            del ats[0], works[0]
            if oldest > self.peak:
                self.peak = oldest
            if len(counts) == KEPT:
                self.files_peak = max(self.files_peak, counts.pop(0))
            if oldest <= self.least:
                self.least = min(lows)
        if low < self.least:
            self.least = low
        ats.append(at)
        lows.append(low)
        works.append(work)
        if files != UNKNOWN:
            counts.append(files)
        elif counts:
            del counts[:]  # a column without gaps: known from some bucket on, up to the last
        self.gathered += 1

    def merged(self) -> tuple[float, float, float, float]:
        """The last FACTOR buckets as one of the next level."""
        self.gathered = 0
        counts = self.files[-FACTOR:]
        files = min(counts) if len(counts) == FACTOR else UNKNOWN
        return self.ats[-FACTOR], min(self.lows[-FACTOR:]), self.works[-FACTOR], files

    def columns(self) -> tuple[array[float], ...]:
        return self.ats, self.lows, self.works, self.files

    def before(self, count: int) -> float:
        """The highest low ever left behind before the last `count` buckets."""
        older = self.lows[:-count]
        return max(self.peak, max(older)) if older else self.peak

    def of_files(self) -> Level:
        """The same buckets, with open files in place of memory, from where they are known on."""
        level = Level()
        unknown = len(self.lows) - len(self.files)  # the first ones
        level.ats, level.works = self.ats[unknown:], self.works[unknown:]
        level.lows = array("d", self.files)
        level.peak, level.least = self.files_peak, min(level.lows, default=0.0)
        return level

    def shared(self, other: Level) -> Level:
        """What both rose by in the same buckets, step by step; empty where those differ.

        It ends where this level does, so that its territory is this level's or, if that leaves
        less, the other's.
        """
        level, count = Level(), min(len(self.lows), len(other.lows))
        ats, lows, others = self.ats[-count:], self.lows[-count:], other.lows[-count:]
        if count and ats == other.ats[-count:]:
            low, shared = lows[-1], [lows[-1]]
            for i in range(count - 1, 0, -1):
                low -= min(lows[i] - lows[i - 1], others[i] - others[i - 1])
                shared.append(low)
            level.ats, level.works, level.lows = ats, self.works[-count:], array("d", shared[::-1])
            beyond = max(self.before(count), lows[-1] - others[-1] + other.before(count))
            level.peak, level.least = beyond, min(shared)
        return level


class Series:
    """One number's history. `width`: seconds of the finest bucket (at least one sample each)."""

    __slots__ = ("at", "closes", "files", "levels", "low", "more", "rise", "width", "work")

    def __init__(self, width: float) -> None:
        self.width = width
        self.levels: list[Level] = []
        self.closes = float("-inf")  # the first sample from here on closes the open bucket
        self.at = 0.0
        self.low = 0.0
        self.work = 0.0
        self.files = UNKNOWN
        # Of the levels that got a bucket last, the most: above the lowest that is kept, and files
        # above those of the first.
        self.rise = 0.0
        self.more = 0.0

    def append(self, at: float, value: float, work: float = 0.0, files: float = UNKNOWN) -> int:
        """Add a sample; how many levels got a new closed bucket by it (mostly 0)."""
        if at < self.closes:
            if value < self.low:
                self.low = value
            return 0
        return self.turn(at, value, work, files)

    def turn(self, at: float, value: float, work: float, files: float = UNKNOWN) -> int:
        """Close the open bucket and open one with this sample."""
        began = self.closes != float("-inf")
        closed = self._keep(self.at, self.low, self.work, self.files) if began else 0
        self.at, self.low, self.work, self.files = at, value, work, files
        self.closes = at + EARLY * self.width
        return closed

    def _keep(self, at: float, low: float, work: float, files: float) -> int:
        levels = self.levels
        rise = more = 0.0
        closed = 0
        while closed < LEVELS:
            if closed == len(levels):
                levels.append(Level())
            level = levels[closed]
            closed += 1
            level.keep(at, low, work, files)
            if low - level.least > rise:
                rise = low - level.least
            if level.files and files - level.files[0] > more:
                more = files - level.files[0]
            if level.gathered < FACTOR:
                break
            at, low, work, files = level.merged()
        self.rise, self.more = rise, more
        return closed

    def of_files(self) -> Series:
        """The same history, of open files in place of memory."""
        series = Series(self.width)
        series.at, series.levels = self.at, [level.of_files() for level in self.levels]
        return series

    def shared(self, other: Series) -> Series:
        """What both rose by in the same buckets, of as many levels as both have."""
        series = Series(self.width)
        pairs = zip(self.levels, other.levels, strict=False)
        series.at, series.levels = self.at, [a.shared(b) for a, b in pairs]
        return series

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
            None if self.closes == float("-inf") else self.closes,
            [self.at, self.low, self.work, self.files, self.rise, self.more],
            [
                [
                    *[list(column) for column in v.columns()],
                    v.peak,
                    v.files_peak,
                    v.gathered,
                ]
                for v in self.levels
            ],
        ]

    @classmethod
    def load(cls, dumped: list[Any]) -> Series:
        width, closes, bucket, levels = dumped
        series = cls(width)
        series.closes = float("-inf") if closes is None else closes
        series.at, series.low, series.work, series.files, series.rise, series.more = bucket
        for *columns, peak, files_peak, gathered in levels:
            level = Level()
            for column, kept in zip(level.columns(), columns, strict=True):
                column.extend(kept)
            while UNKNOWN in level.files:  # of a version that kept what it did not know
                level.files.remove(UNKNOWN)
            level.least = min(level.lows)
            level.peak, level.files_peak, level.gathered = peak, files_peak, gathered
            series.levels.append(level)
        return series
