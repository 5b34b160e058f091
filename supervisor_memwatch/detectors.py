"""Detectors: what the remembered past says about a program now.

`remember` adds a snapshot and lets every detector of DETECTORS look; `examine` reads the
verdicts that stand. A verdict is *told* once it has held for `confirm`, and *acts* once it
is also material. Detectors know nothing of cooldowns, budgets of actions or modes: whether
something may be done about a verdict is policy.py's.

See also sizes.py (how big), growth.py (what counts as growth), past.py (what is remembered),
trends.py (how fast it grows, and until when).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import NamedTuple, Protocol

from . import growth, units
from .learning import CAP, CUT, LEAKS, Learned
from .model import (
    FD_GROWTH,
    IMBALANCE,
    LEAK,
    LIMIT,
    MASTER_GROWTH,
    PLATEAU,
    SPIKE,
    TOTAL_LIMIT,
    WARMING_UP,
    Snapshot,
    Verdict,
    Worker,
)
from .options import Options
from .past import PLENTY, RUSH, SIGNALS, Life, Opinion, Past, Standing, Subject
from .series import KEPT as KEPT_BUCKETS
from .sizes import (
    MOST,
    at_most,
    ceiling_of,
    counted,
    everyone,
    headroom,
    measure,
    own,
    settled,
    total,
    wants,
)
from .units import HOUR, MB, MINUTE

__all__ = ["DETECTORS", "Past", "ceiling_of", "examine", "headroom", "measure", "remember"]
__all__ += ["settled", "total", "wants"]

INFORMATIVE = (WARMING_UP, PLATEAU, SPIKE)  # never told, never acted on

FEW = 8  # workers compared with all their siblings
BETWEEN = 120.0  # seconds (two looks, at least) from one leak that is acted on to its sibling's
ENOUGH = 2  # leaks to be acted on that nobody acts on: their siblings' are not, until
UNTIL = 0.36  # one of all of them has eaten so much of its headroom
SIZES = 3 * MB, 32 * MB  # of growth that is told: few are leaks, nearly all are
COMMON = 0.75  # of what RSS grew by, that USS grew by at the same time
JITTER = 0.95  # of `confirm`: ticks are not exact

LONGEST_FIRST = tuple(reversed(growth.WINDOWS))

Findings = dict[Subject, Opinion | None]  # None: withdrawn; not named: stands as it did


# --- the detectors --------------------------------------------------------------------------


class Scene(NamedTuple):
    """What a detector sees: the program now, its past, and who has news."""

    options: Options
    snapshot: Snapshot
    past: Past
    closed: list[tuple[Worker, Life]]  # whose series got a closed bucket by this snapshot
    rushing: list[tuple[Worker, Life]]  # whose samples rise far above their last bucket
    coarse: bool  # whether a coarser scale than the finest has news

    def before(self, subject: Subject, kind: str) -> Standing | None:
        return self.past.standing.get((subject, kind))

    def withdrawn(self, kind: str) -> Findings:
        """Findings that begin with every standing opinion of a kind taken back."""
        return {subject: None for subject, other in self.past.standing if other == kind}


class Detector(Protocol):
    """A rule. Its docstring is its manual, its fields are its options."""

    @property
    def kind(self) -> str: ...

    def examine(self, scene: Scene) -> Findings: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """Speaks when a worker holds its `limit` or more, whatever its age."""

    kind: str = LIMIT

    def examine(self, scene: Scene) -> Findings:
        options, snapshot = scene.options, scene.snapshot
        findings = scene.withdrawn(self.kind)
        limit = options.limit and options.limit.of(snapshot.available)
        if not limit:
            return findings
        for worker in snapshot.workers:
            if worker.rss + (worker.swap or 0) < limit:  # no measure is above this sum
                continue
            if not settled(options, worker, snapshot.at):
                findings.pop(worker.id, None)  # whatever stands does, until it was read
                continue
            held, name = measure(options, worker, snapshot.at)
            if held >= limit:
                why = f"{name} {units.size(held)}, limit {units.size(limit)}"
                findings[worker.id] = Opinion(held, limit, 0.99, why)
        return findings


@dataclass(frozen=True, slots=True)
class TotalLimit:
    """Speaks when the program holds its `total_limit` or more, shared pages counted once."""

    kind: str = TOTAL_LIMIT

    def examine(self, scene: Scene) -> Findings:
        snapshot = scene.snapshot
        findings = scene.withdrawn(self.kind)
        whole = scene.options.total_limit and scene.options.total_limit.of(snapshot.available)
        if whole and at_most(snapshot) >= whole:
            held, name = counted(snapshot)
            if held >= whole:
                why = (
                    f"{units.size(held)} in master and {len(snapshot.workers)} workers ({name}), "
                    f"total limit {units.size(whole)}"
                )
                findings[None] = Opinion(held, whole, 0.99, why)
        return findings


@dataclass(frozen=True, slots=True)
class Leak:
    """Speaks when a worker's memory grows on and on.

    Growth is judged on anonymous memory (swap included), on whichever of several time scales
    shows it. Told after `confirm`; told growth stands until a full window hardly grows, or
    half of it comes back. Acts when a share of the headroom is eaten or the limit is near in
    time; where no limit is known, when the worker has outgrown its own past and what healthy
    growth of this program reached.
    """

    kind: str = LEAK
    share: float = 0.25  # of the headroom that growth may eat before it is acted on
    young_share: float = 0.38  # the same, of growth that has just begun; for an hour less and less
    early_share: float = 0.125  # the same, of a program whose workers were seen to leak on and on
    flat_share: float = 0.42  # the same, of growth that is slowing down
    ending: float = 0.35  # growth slower than this share of what it was is about to end
    ending_share: float = 0.65
    soon: float = 10 * MINUTE  # a limit nearer than this is acted on
    least: float = 0.1  # of the headroom, below which nothing is
    hurry: float = 3.0  # a short stretch will do if the limit is within so many of its length
    rush: float = 0.05  # of the headroom above the last bucket: from there on each sample counts
    rushed: float = 0.08  # of the headroom, that they must have risen by
    at_once: float = 6 * MINUTE  # a limit nearer than this makes it so, or nearer than
    looks: float = 12  # so many looks: of RISING samples half as many,
    last: float = MINUTE  # a limit nearer than this ends a trial, or nearer than
    last_looks: float = 4
    each: float = 3  # and these more for each one more
    outgrown: float = 64 * MB  # without any limit: at least this, and at least doubled
    worth: float = 0.02  # of the headroom: less is not worth a word,
    worth_bytes: float = 6 * MB  # and more than this always is,
    worth_rate: float = 0.5 * MB / MINUTE  # or faster growth: no healthy drift is as fast

    def examine(self, scene: Scene) -> Findings:
        if scene.options.growth == "off":
            return scene.withdrawn(self.kind)
        if not scene.closed and not scene.rushing:
            return {}
        master = scene.snapshot.master
        share = ceiling_of(scene.options, scene.snapshot)
        standing, least = scene.past.standing, growth.least(scene.options.confirm)
        findings: Findings = {}
        for worker, life in scene.closed:
            if worker is not master:
                series = life.series
                ceiling = _ceiling(scene, worker, share)
                stands = standing and (worker.id, self.kind) in standing
                if stands or life.rush or series.rise >= least:
                    findings[worker.id] = self.of(scene, worker, life, ceiling)
                self.watch_for_rush(life, series.levels[0].lows[-1], ceiling)
        for worker, life in scene.rushing:
            if worker is not master:
                ceiling = _ceiling(scene, worker, share)
                self.watch_for_rush(life, life.series.low, ceiling)
                if life.series.levels:
                    findings.update(self.hastily(scene, worker, life, ceiling))
        return findings

    def watch_for_rush(self, life: Life, low: float, ceiling: int | None) -> None:
        """From where on each of its samples counts."""
        if len(life.rush) == RUSH and not growth.pauses(life.rush):
            life.rush = []  # it has risen, and does not any more
        if ceiling is not None and not life.rush:
            life.rush_from = low + max(self.rush * (ceiling - low), 8 * MB)

    def hastily(
        self, scene: Scene, worker: Worker, life: Life, ceiling: int | None
    ) -> dict[Subject, Opinion | None]:
        """What each sample says of a process that rushes towards its ceiling."""
        before = scene.before(worker.id, self.kind)
        old = None if before is None else before.opinion.stretch
        found = self._rushes(scene, worker, life, ceiling)
        if found is not None:
            # What is told stays the growth it is: a rush within it may be a sawtooth's.
            told = before is not None and before.told
            stretch = old if told and old is not None else _stretch(found, old)
            return {worker.id: self.judge(scene, worker, life, ceiling, stretch)}
        if before is not None and not before.told and old and old.buckets == growth.RUSHED:
            return {} if growth.pauses(life.rush) else {worker.id: None}
        return {}

    def _rushes(
        self, scene: Scene, worker: Worker, life: Life, ceiling: int | None
    ) -> growth.Growth | None:
        found = growth.rushes(life.rush) if ceiling is not None else None
        if found is None or ceiling is None or self._came_back(scene, found.last, life, ceiling):
            return None
        left = ceiling - measure(scene.options, worker, scene.snapshot.at)[0]
        # Imports rise in a few looks, too: the more looks it rises in, the less they are likely.
        more = len(life.rush) - growth.RISING
        looks = min(self.looks / 2 + self.each * more, self.looks)
        soon = max(self.at_once, looks * scene.past.usual)
        near = left < soon * found.rate and found.grown > self.rushed * (left + found.grown)
        return found if near else None

    def _came_back(self, scene: Scene, level: float, life: Life, ceiling: int) -> bool:
        """Whether memory that rushed as high has come back before: a sawtooth, or a request as
        large. What siblings did counts as far as anything that was learned."""
        if level <= life.peak:
            return True
        base = life.base or 0.0
        if level > base + CAP * max(ceiling - base, 0.0):
            return False
        return any(level <= other.peak for other in scene.past.lives.values())

    def of(self, scene: Scene, worker: Worker, life: Life, ceiling: int | None) -> Opinion | None:
        """The opinion of one process, whose series got a bucket; `ceiling`: what it may hold."""
        before = scene.before(worker.id, self.kind)
        old = None if before is None else before.opinion.stretch
        told = before is not None and before.told
        found = None
        # What is told is only looked at anew when a coarser scale has news.
        if not told or old is None or life.closed > old.level + 1:
            found = self._found(scene, worker, life, ceiling, old, told)
        if found is not None:
            stretch = _stretch(found, old)
            return self.judge(scene, worker, life, ceiling, stretch)
        if before is None or old is None:
            return None
        if not told:
            waits = old.buckets == growth.RUSHED and growth.pauses(life.rush)
            return before.opinion if waits else None
        if not self._goes_on(life, old):
            return None
        if self._is_news(life, before.opinion, old):
            return self.judge(scene, worker, life, ceiling, old)
        return before.opinion

    def _is_news(self, life: Life, opinion: Opinion, stretch: growth.Stretch) -> bool:
        """Whether a told opinion is worth working out again: on coarser news, or after a leap."""
        if life.closed > 1:
            return True
        leap = 4 * MB if opinion.headroom is None else 0.03 * opinion.headroom
        return life.series.levels[0].lows[-1] - stretch.first > opinion.measured + leap

    def _found(
        self,
        scene: Scene,
        worker: Worker,
        life: Life,
        ceiling: int | None,
        old: growth.Stretch | None,
        told: bool,
    ) -> growth.Growth | None:
        """Growth on the scales that have news, the longest that shows it; a short one in haste.

        A suspicion is looked at anew on its own scale, too; what is told on coarser ones only.
        """
        above, highest, lowest = 0.0, life.closed - 1, -1
        if old is not None:
            highest = max(highest, old.level)
            lowest = old.level if told else -1
        if old is None and scene.past.learned.plateau:
            above = scene.past.learned.known(life.base or 0.0, ceiling)
        highest = min(highest, len(life.series.levels) - 1)
        for index in range(highest, lowest, -1):
            level = life.series.levels[index]
            if not growth.rises(level):
                continue
            for count in LONGEST_FIRST:
                if not growth.could(level, count):
                    continue
                found = _grows(life, index, count, above)
                if found is not None and self._matters(scene, found, life, ceiling):
                    return found
        if told or not growth.rises(life.series.levels[0]):
            return self._rushes(scene, worker, life, ceiling) if life.rush else None
        found = _brisk(life, above, roughly=ceiling is None)  # with one, it is a rush before
        if found is not None and self._matters(scene, found, life, ceiling):
            return found
        if ceiling is None:
            return None
        hurry = _grows(life, 0, growth.SHORT, above)
        if hurry is not None:
            held = measure(scene.options, worker, scene.snapshot.at)[0]
            if not settled(scene.options, worker, scene.snapshot.at):
                held = own(worker, scene.snapshot) + (worker.swap or 0)
            if ceiling - held < self.hurry * hurry.span * hurry.rate:
                return hurry
        return self._rushes(scene, worker, life, ceiling) if life.rush else None

    def _matters(self, scene: Scene, found: growth.Growth, life: Life, ceiling: int | None) -> bool:
        """Growth that somebody wants to hear of: not a few MB where there is room for many."""
        slowest = scene.options.growth
        if isinstance(slowest, float):
            return found.rate >= slowest
        if ceiling is None:
            return True
        if found.rate >= self.worth_rate:
            return True
        return found.grown >= min(self.worth * (ceiling - (life.base or 0.0)), self.worth_bytes)

    def _goes_on(self, life: Life, old: growth.Stretch) -> bool:
        levels = life.series.levels
        if old.level >= len(levels) or len(levels[old.level].lows) < old.buckets:
            return bool(life.rush)  # else the signal changed: its history began anew
        peak = max(levels[old.level].lows)
        if life.series.levels[0].lows[-1] < old.first + (peak - old.first) / 2:
            return False
        return growth.still(life.series, old)

    def judge(
        self,
        scene: Scene,
        worker: Worker,
        life: Life,
        ceiling: int | None,
        stretch: growth.Stretch,
    ) -> Opinion:
        first = stretch.first
        until, last = life.known()
        grown = last - first
        seen = max(until - stretch.start, 1.0)
        span = max(scene.past.now - stretch.start, 1.0)
        # The master is no worker: what these taught says nothing of it.
        learned = scene.past.learned if self.kind == LEAK else Learned()
        why = (
            f"{SIGNALS[life.signal]} {units.rate(grown / seen)} for {units.time(seen)} "
            f"({units.size(first)} to {units.size(last)})"
        )
        if ceiling is None:
            bound = max(self.outgrown, first, learned.plateau - first)
            sure = _confidence(grown, bound)
            material = grown >= bound and growth.in_many_steps(life.series, stretch.start)
            return Opinion(grown, bound, sure, why, material, stretch)
        held, name = measure(scene.options, worker, scene.snapshot.at)
        known_size = settled(scene.options, worker, scene.snapshot.at)
        left = ceiling - held
        headroom = max(left + grown, 0.0)
        bound = self.share_of(span, learned, life, stretch) * headroom
        confidence = _confidence(grown, bound)
        pace = growth.pace(life.series, stretch)
        near = left / pace if pace > 0 else float("inf")
        said = left * seen / grown if grown > 0 else float("inf")  # at the rate of the sentence
        if not known_size:
            return Opinion(grown, bound, confidence, why, False, stretch)
        why = f"{name} {units.size(held)}, {why}"
        if 0 < said < 2 * units.DAY:
            why += f", {units.size(ceiling)} in {units.time(said)}"
        else:
            why += f", of {units.size(ceiling)}"
        known = last <= learned.known(life.base or 0.0, ceiling)
        near_enough = near <= self.soon and grown >= self.least * headroom
        rush = self._rushes(scene, worker, life, ceiling) if life.rush else None
        rushes = rush is not None
        if near_enough or rushes:
            # A trial that every haste ends would show nothing: imports rush on, and end.
            fastest = max(pace, rush.rate if rush else 0.0)
            final = max(self.last, self.last_looks * scene.past.usual)
            if grown < learned.share * headroom and left > final * fastest:
                near_enough = rushes = False
        material = (grown >= bound or near_enough or rushes) and not known
        even = rushes or stretch.buckets <= growth.BRISK[0][0]  # as they were found
        if material and not even:
            material = growth.in_many_steps(life.series, stretch.start)
        hurries = near_enough or rushes or learned.state in (LEAKS, CUT)
        can_wait = self.kind == LEAK and not hurries
        spare = min(near / _queue(scene), PLENTY) if can_wait else 0.0
        return Opinion(grown, bound, confidence, why, material, stretch, headroom, spare=spare)

    def share_of(self, span: float, learned: Learned, life: Life, stretch: growth.Stretch) -> float:
        """Of the headroom: what growth may eat before it is acted on. The shorter it was watched,
        and the more it slows down, the more."""
        young = max(0.0, 1 - span / HOUR)
        slows = growth.slows(life.series, stretch.start)
        if learned.state == LEAKS:  # what slows down, or is young, may be a cache of its own
            early = self.share if slows < growth.BENDING else self.early_share
            return early + (self.share - early) * young
        if slows < self.ending:
            return self.ending_share
        if slows < growth.BENDING:
            return max(self.flat_share, learned.share)
        return max(self.share + (self.young_share - self.share) * young, learned.share)


@dataclass(frozen=True, slots=True)
class MasterGrowth:
    """Speaks when the master's own memory grows on and on, by the rule of `leak`.

    Every worker is forked from it and inherits what it holds. Acts when a share of what is
    left to the whole program is eaten.
    """

    kind: str = MASTER_GROWTH
    leak: Leak = Leak(kind=MASTER_GROWTH)

    def examine(self, scene: Scene) -> Findings:
        master = scene.snapshot.master
        if scene.options.growth == "off":
            return scene.withdrawn(self.kind)
        if master is None:
            return {}
        for worker, life in reversed(scene.closed):  # the master is the last
            if worker is master:
                least = growth.least(scene.options.confirm)
                if life.series.rise < least and not scene.before(master.id, self.kind):
                    return {}
                return {master.id: self.leak.of(scene, worker, life, _left_to(scene, worker))}
        return {}


@dataclass(frozen=True, slots=True)
class FdGrowth:
    """Speaks when the open files of a worker or the master grow on and on.

    Acts when they are near the limit of open files, or, where that is unknown, near the
    usual one of 1024.
    """

    kind: str = FD_GROWTH
    levels: int = 3  # the coarser scales would take hours to say what these have said
    unit: float = 15.0  # files that come and go in a stretch of five minutes
    share: float = 0.7
    usual: int = 1024

    def examine(self, scene: Scene) -> Findings:
        if scene.options.growth == "off":
            return scene.withdrawn(self.kind)
        findings: Findings = {}
        few, standing = self.unit / 4, scene.past.standing
        for worker, life in scene.closed:
            if life.series.more >= few or (standing and (worker.id, self.kind) in standing):
                findings[worker.id] = self.of(scene, worker, life)
        return findings

    def of(self, scene: Scene, worker: Worker, life: Life) -> Opinion | None:
        before = scene.before(worker.id, self.kind)
        fds = life.series.of_files()
        old = None if before is None else before.opinion.stretch
        found = None
        levels = life.closed if old is None else max(life.closed, old.level + 1)
        for index in range(min(levels, self.levels, len(fds.levels))):
            # They come in equal steps by nature: of these no staircase is made.
            found = growth.grows(fds, index, KEPT_BUCKETS, self.unit, stairs=growth.MANY) or found
        if found is not None:
            stretch = _stretch(found, old)
        elif before is None or not before.told or old is None:
            return None
        elif old.level >= len(fds.levels) or len(fds.levels[old.level].lows) < old.buckets:
            return before.opinion  # the history began anew: nobody knows how it goes on
        elif growth.still(fds, old):
            stretch = old
        else:
            return None
        start, first = stretch.start, stretch.first
        last = fds.levels[0].lows[-1]
        bound = self.share * (worker.nofile or self.usual)
        span = fds.levels[0].ats[-1] - start
        why = f"open files +{last - first:.0f} in {units.time(span)} ({first:.0f} to {last:.0f})"
        if worker.nofile:
            why += f", limit {worker.nofile}"
        return Opinion(last, bound, 0.9, why, last >= bound, stretch)


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Speaks when a worker, all through a window, held much more than its siblings hold now.

    Compared are workers past their warm-up, with siblings at least half as old. A worker
    that is leaking explains itself; one that did much more work than they is shown, never told.
    """

    kind: str = IMBALANCE
    least: float = 48 * MB  # excess that is worth a word
    sigmas: float = 4.0
    release: float = 0.8  # of what it takes: what is told stands down to there
    busy: float = 1.8  # times its siblings' work
    share: float = 0.25  # of the headroom
    outgrown: float = 64 * MB  # without any limit: at least this, and at least doubled

    def examine(self, scene: Scene) -> Findings:
        ratio, past = scene.options.imbalance, scene.past
        if ratio is None:
            return scene.withdrawn(self.kind)
        if not scene.closed or past.now - past.compared < JITTER * scene.options.confirm:
            return {}
        past.compared = past.now
        findings = scene.withdrawn(self.kind)
        if len(scene.snapshot.workers) < 2:
            return findings
        workers = [(w, past.lives[w.id]) for w in scene.snapshot.workers]
        if self.are_alike([life for _, life in workers]):
            return findings
        known = [(w, life) for w, life in workers if life.buckets() >= growth.WINDOWS[0]]
        for worker, life in self.largest(known):
            if scene.before(worker.id, LEAK) is None:
                half = _age(past, worker) / 2
                siblings = [o for o in known if o[0] is not worker and _age(past, o[0]) >= half]
                if siblings:
                    findings[worker.id] = self.of(scene, worker, life, siblings, ratio)
        return findings

    def are_alike(self, lives: list[Life]) -> bool:
        """Whether nobody can stand out, whatever its work and age: mostly so."""
        lows = [life.latest() for life in lives if life.buckets()]
        return not lows or max(lows) - min(lows) <= self.release * self.least

    def largest(self, known: list[tuple[Worker, Life]]) -> list[tuple[Worker, Life]]:
        """Those that could stand out: most programs have none, and more than a few never do."""
        if len(known) < 2:
            return []
        lows = [life.latest() for _, life in known]
        least = min(lows) + self.release * self.least
        order = sorted(range(len(known)), key=lows.__getitem__, reverse=True)
        return [known[i] for i in order[:FEW] if lows[i] > least]

    def of(
        self,
        scene: Scene,
        worker: Worker,
        life: Life,
        siblings: list[tuple[Worker, Life]],
        ratio: float,
    ) -> Opinion | None:
        level = min(life.recent()[-growth.WINDOWS[0] :])
        levels = [other.latest() for _, other in siblings]
        middle = units.median(levels)
        excess = level - middle
        before = scene.past.standing.get((worker.id, self.kind))
        ease = self.release if before is not None and before.told else 1.0
        if excess <= ease * max(self.least, (ratio - 1) * middle):
            return None
        if excess <= ease * self.sigmas * 1.4826 * units.median(
            [abs(other - middle) for other in levels]
        ):
            return None
        work, usual = _works(worker, [other for other, _ in siblings])
        count = len(siblings)
        them = "its sibling" if count == 1 else f"its {count} siblings"
        why = (
            f"holds {units.size(level)}, {them} {units.size(middle)}{' (median)' * (count > 1)}, "
            f"at {_share(work, usual)} work"
        )
        if work is not None and usual > 0 and work > self.busy * usual:
            why += ": uneven load"
            return Opinion(level, ratio * middle, 0.9, why, False, excused=True)
        ceiling = ceiling_of(scene.options, scene.snapshot)
        if ceiling is None:
            bound = max(self.outgrown, middle)
        else:
            bound = self.share * max(ceiling - middle, 0)
        return Opinion(level, ratio * middle, 0.9, why, excess >= bound)


@dataclass(frozen=True, slots=True)
class Calm:
    """Says that memory has grown and stands still: in one step (`spike`) or in many (`plateau`).

    Never told. Stands until the memory comes back, or it grows on.
    """

    kind: str
    others: tuple[str, ...] = (LEAK, MASTER_GROWTH, PLATEAU, SPIKE)  # that say what growth it was
    levels: tuple[int, ...] = (1, 2, 3)  # steps show on these scales as steps
    step: float = 0.7  # of the growth, in one bucket

    def examine(self, scene: Scene) -> Findings:
        standing = scene.past.standing
        stood = {subject for subject, kind in standing if kind == self.kind} if standing else ()
        if not stood and not scene.coarse:
            return {}
        findings: Findings = {}
        for worker, life in scene.closed:
            if worker.id in stood:
                if self.is_over(life, standing[worker.id, self.kind].opinion):
                    findings[worker.id] = None
            elif life.closed > 1:
                found = self.of(life)
                if found is not None and not any(scene.before(worker.id, k) for k in self.others):
                    findings[worker.id] = found
        return findings

    def of(self, life: Life) -> Opinion | None:
        for index in self.levels[: life.closed - 1]:
            found = growth.calm(life.series.levels[index])
            if found is None:
                continue
            grown = found.last - found.first
            if (found.largest >= self.step * grown) != (self.kind == SPIKE):
                continue
            sizes = f"({units.size(found.first)} to {units.size(found.last)})"
            why = f"grew {units.size(grown)} in {units.time(found.span)} {sizes}, flat since"
            if self.kind == SPIKE:
                why = f"one step of {units.size(grown)} {sizes}, flat since"
            return Opinion(found.last, found.first, 0.8, why, False, since=found.since)
        return None

    def is_over(self, life: Life, opinion: Opinion) -> bool:
        low, first = life.series.levels[0].lows[-1], opinion.bound or 0.0
        grown = opinion.measured - first
        return low < first + grown / 2 or low > opinion.measured + max(grown / 4, 8 * MB)


DETECTORS: tuple[Detector, ...] = (
    Leak(),
    Imbalance(),
    Limit(),
    TotalLimit(),
    MasterGrowth(),
    FdGrowth(),
    Calm(PLATEAU),
    Calm(SPIKE),
)


# The others look at growth, of which nothing is new until a bucket is full.
AT_EVERY_LOOK: tuple[Detector, ...] = (Limit(), TotalLimit())
OF_GROWTH = tuple(d for d in DETECTORS if d.kind not in (LIMIT, TOTAL_LIMIT))


def _ceiling(scene: Scene, worker: Worker, share: int | None) -> int | None:
    """ceiling_of a worker, where that of a usual one is known."""
    if share is None or worker.rss + (worker.swap or 0) <= MOST * share:  # no measure is above it
        return share
    return ceiling_of(scene.options, scene.snapshot, worker)


def _queue(scene: Scene) -> float:
    """Seconds in which every worker of the program could be recycled, as far as the options allow.
    Who reaches the limit sooner cannot wait for a sibling."""
    options, siblings = scene.options, max(len(scene.snapshot.workers) - 1, 0)
    periods, rest = divmod(siblings, options.budget.count)
    return periods * options.budget.period + (rest + 1) * max(BETWEEN, options.cooldown)


def _left_to(scene: Scene, master: Worker) -> int | None:
    """What the master may hold: what the program may, less what the others do."""
    whole, snapshot = scene.options.total_limit, scene.snapshot
    ceiling = whole.of(snapshot.available) if whole else None
    if ceiling is None:
        return None
    held = measure(scene.options, master, snapshot.at)[0]
    return max(ceiling - total(snapshot) + held, 0)


def _grows(life: Life, index: int, count: int, above: float) -> growth.Growth | None:
    """growth.grows of a life's memory; where USS and RSS are judged, both must grow.

    Or RSS, and most of it at the same time as USS: pages that are shared no more are a leap of
    USS alone, that hides how it grows.
    """
    if index >= len(life.series.levels):
        return None
    found = growth.grows(life.series, index, count, above=above)
    if found is None or life.second is None:
        return found
    if index >= len(life.second.levels):
        return None
    other = growth.grows(life.second, index, count)
    if other is None:
        other = growth.grows(life.series.shared(life.second), index, count)
        if other is None or other.grown < COMMON * found.grown:
            return None
    if other.grown >= found.grown:
        return found
    return found._replace(grown=other.grown, rate=other.rate, per_work=other.per_work)


def _brisk(life: Life, above: float, roughly: bool) -> growth.Growth | None:
    """growth.brisk of a life's memory; where USS and RSS are judged, both must grow."""
    found = growth.brisk(life.series, above, roughly)
    if found is None or life.second is None:
        return found
    both = life.second.levels and growth.brisk(life.second, roughly=roughly)
    return found if both else None


def _stretch(found: growth.Growth, old: growth.Stretch | None) -> growth.Stretch:
    """Where it began stays; how fast, and on which scale, is the latest finding's."""
    start, first = (found.start, found.first) if old is None else (old.start, old.first)
    return growth.Stretch(found.level, found.buckets, start, first, found.rate, found.per_work)


def _confidence(grown: float, bound: float) -> float:
    """How sure a leak is: 0.7 of a few MB, which caches fill and imports take as well, 0.9 of
    many, and surer on the way to what it has to grow by to be acted on, where it is 0.97.

    The figures are fitted to what bench/detect.py and recordings of real programs show.
    """
    few, many = SIZES
    size = log(max(grown, few) / few) / log(many / few)
    told = 0.7 + 0.2 * min(size, 1.0)
    way = min(max(grown, 0.0) / bound, 1.0) if bound > 0 else 1.0
    return round(told + (0.97 - told) * way, 2)


def _age(past: Past, worker: Worker) -> float:
    return past.now - past.lives[worker.id].first if worker.age is None else worker.age


def _works(worker: Worker, siblings: list[Worker]) -> tuple[float | None, float]:
    """Its work, and its siblings' median: in requests where those of all are known."""
    if all(w.requests is not None for w in (worker, *siblings)):
        return worker.requests, units.median([float(w.requests or 0) for w in siblings])
    return worker.cpu, units.median([w.cpu or 0.0 for w in siblings])


def _share(work: float | None, usual: float) -> str:
    if work is None or usual <= 0:
        return "unknown"
    return f"{work / usual:.1f} times their"


# --- a tick ---------------------------------------------------------------------------------


def remember(options: Options, past: Past, snapshot: Snapshot) -> None:
    """Add a snapshot to the past, and let every detector look. The only thing that changes it."""
    closed, rushing = past.remember(options, snapshot)
    if past.anew:
        _judge_anew(Scene(options, snapshot, past, closed, rushing, False))
    detectors = () if _is_within_limits(options, snapshot, past) else AT_EVERY_LOOK
    if closed or rushing:
        detectors = DETECTORS if detectors else OF_GROWTH
    if detectors:
        coarse = False
        for _, life in closed:
            coarse = coarse or life.closed > 1
        scene = Scene(options, snapshot, past, closed, rushing, coarse)
        for detector in detectors:
            findings = detector.examine(scene)
            if findings:
                _settle(scene, detector.kind, findings)
    if past.standing:
        _confirm(options, past)


def _judge_anew(scene: Scene) -> None:
    """Other limits than before: what was said of growth, and whether to act on it, is of those."""
    past, snapshot = scene.past, scene.snapshot
    past.anew = False
    share = ceiling_of(scene.options, snapshot)
    for worker in everyone(snapshot):
        kind = MASTER_GROWTH if worker is snapshot.master else LEAK
        standing, life = past.standing.get((worker.id, kind)), past.lives.get(worker.id)
        stretch = standing and standing.opinion.stretch
        if standing and stretch and life and stretch.level < len(life.series.levels):
            of_workers = kind == LEAK
            ceiling = _ceiling(scene, worker, share) if of_workers else _left_to(scene, worker)
            standing.opinion = Leak().judge(scene, worker, life, ceiling, stretch)
            standing.act, standing.said = False, None


def _is_within_limits(options: Options, snapshot: Snapshot, past: Past) -> bool:
    """Whether no limit has anything to say, and nothing to take back: mostly so."""
    for _, kind in past.standing:
        if kind in (LIMIT, TOTAL_LIMIT):
            return False
    available, master = snapshot.available, snapshot.master
    limit = (options.limit and options.limit.of(available)) or float("inf")
    whole = (options.total_limit and options.total_limit.of(available)) or float("inf")
    held = snapshot.others
    if master is not None:
        held += master.rss + (master.swap or 0)
    for worker in snapshot.workers:
        each = worker.rss + (worker.swap or 0)
        if each >= limit:
            return False
        held += each
    return held < whole


def _settle(scene: Scene, kind: str, findings: Findings) -> None:
    past = scene.past
    # What ended comes first: the order of workers is not to decide what was learned.
    for subject, opinion in sorted(findings.items(), key=lambda item: item[1] is not None):
        key = (subject, kind)
        standing = past.standing.get(key)
        if opinion is None:
            if standing is not None:
                del past.standing[key]
                if kind == LEAK and standing.told and scene.options.growth != "off":
                    _learn(past, subject, standing.opinion.stretch)
        elif standing is None:
            since = past.now if opinion.since is None else opinion.since
            past.standing[key] = Standing(since, opinion)
            if kind in (LEAK, MASTER_GROWTH):
                for calm in (PLATEAU, SPIKE):
                    past.standing.pop((subject, calm), None)
        else:
            standing.opinion, standing.said = opinion, None
            if kind == LEAK and standing.told and opinion.material:
                past.learned.grew(opinion.eaten)


def _learn(past: Past, subject: Subject, stretch: growth.Stretch | None) -> None:
    """Growth that was told has ended by itself: up to here this program's workers may grow."""
    life = past.lives.get(subject) if subject is not None else None
    if life is None or stretch is None or not life.series.levels:
        return
    levels = life.series.levels
    if stretch.level >= len(levels) or len(levels[stretch.level].lows) < growth.RUSHED:
        return  # the signal changed: nobody knows how it goes on
    level = levels[0].lows[-1]
    past.learned.ended_by_itself(level, past.now - life.first)
    grown = level - stretch.first
    if grown <= 0 or grown < (max(levels[stretch.level].lows) - stretch.first) / 2:
        return  # it came back: not flat
    span = units.time(past.now - stretch.start)
    why = (
        f"grew {units.size(grown)} in {span} "
        f"({units.size(stretch.first)} to {units.size(level)}), flat since"
    )
    opinion = Opinion(level, stretch.first, 0.8, why, False)
    past.standing[subject, PLATEAU] = Standing(past.now, opinion)


def _confirm(options: Options, past: Past) -> None:
    waiting = []
    for (_, kind), standing in past.standing.items():
        if kind in INFORMATIVE:
            continue
        if past.unseen and not standing.told:
            standing.since = past.now  # time that nobody saw confirms nothing
        opinion = standing.opinion
        held = past.now - standing.since >= JITTER * options.confirm
        standing.told = held and not opinion.excused
        if kind == LEAK and opinion.spare > 1 and opinion.material and not standing.act:
            # On trial since it was judged? Its siblings are before the trial's result.
            if standing.told and opinion.eaten >= past.learned.share:
                waiting.append(standing)
        else:
            standing.act = standing.told and (standing.act or opinion.material)
    if waiting and past.now - past.acted >= max(BETWEEN, 1.5 * past.usual):
        most = max(standing.opinion.eaten for standing in waiting)
        if most < UNTIL and _enough_wait(past):
            return
        # One after the other: what comes of the first decides how far its siblings may grow.
        past.acted = past.now
        for standing in waiting:
            standing.act = standing.opinion.eaten >= most


def _enough_wait(past: Past) -> bool:
    """Whether enough leaks are to be acted on already, whose workers are still there (`observe`, a
    window), and none has grown on by much: a cache that fills in all may end any moment."""
    seen = {id for id, life in past.lives.items() if life.seen == past.now}
    there = [
        standing.opinion.eaten
        for (subject, kind), standing in past.standing.items()
        if kind == LEAK and standing.act and subject in seen
    ]
    return len(there) >= ENOUGH and max(there) < UNTIL


def examine(options: Options, snapshot: Snapshot, past: Past) -> dict[Subject, tuple[Verdict, ...]]:
    """The verdicts that stand, for those who have any; None stands for the program itself."""
    verdicts: dict[Subject, tuple[Verdict, ...]] = {}
    if not past.standing and not past.young:
        return verdicts
    present = {w.id for w in everyone(snapshot)} if past.standing else ()
    for (subject, kind), s in past.standing.items():
        if subject is None or subject in present:
            since, o = s.since - past.shift, s.opinion
            said = s.said
            if said is None or said.since != since or said.told != s.told or said.act != s.act:
                said = Verdict(kind, since, o.measured, o.bound, o.confidence, o.why, s.told, s.act)
                s.said = said
            verdicts[subject] = (*verdicts.get(subject, ()), said)
    for worker in snapshot.workers if past.young else ():
        life = past.lives.get(worker.id)
        if life is not None and not life.warm:
            why = f"younger than {units.time(options.warmup)}"
            verdict = Verdict(WARMING_UP, life.first - past.shift, 0.0, options.warmup, 1.0, why)
            verdicts[worker.id] = (*verdicts.get(worker.id, ()), verdict)
    return verdicts
