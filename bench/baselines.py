"""Published and shipped ways to find a leak, written anew from their descriptions.

Each is a judge as detect.py asks for one: made from a recording's header, fed with ticks, it
answers with the workers it would act on (telling and acting are one to all but our own first
trial). Where a method has constants, they are those it was published or shipped with, unless
TUNED says otherwise; those were chosen on tuning seeds. All are given the same limit as ours,
and none of them the truth. Sizes are MB, times seconds.

Not here: methods that need the heap, the kernel or training on labelled histories.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from living import Tick
from parts import HOUR, MB, MINUTE

from supervisor_memwatch.growth import mann_kendall
from supervisor_memwatch.model import Worker, WorkerId


class Alarm:
    """What a baseline says of a worker; it has no reasons and no doubts."""

    kind, told, act, confidence, why = "leak", True, True, None, ""


class Word(Alarm):
    """A leak that is told, and not acted on (yet)."""

    act = False


ALARM, WORD = (Alarm(),), (Word(),)


class Budget:
    """What a worker may hold, from the header of a recording: its limit, or its share."""

    def __init__(self, header: dict[str, Any]) -> None:
        program = header["program"]
        self.limit = (program.get("limit") or 0) / MB
        self.whole = (program.get("total_limit") or program.get("available") or 0) / MB

    def of(self, workers: int) -> float | None:
        """MB; None: nothing is said of it."""
        if self.limit:
            return self.limit
        return self.whole / max(workers, 1) if self.whole else None


class Baseline:
    """Keeps something per worker, and forgets those that are gone."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.budget = Budget(header)
        self.kept: dict[WorkerId, Any] = {}
        self.tick: Tick | None = None
        self.ceiling: float | None = None
        self.cpu = 0.0
        self.samples = 0

    def feed(self, tick: Tick) -> dict[WorkerId | None, tuple[Alarm, ...]]:
        began = time.process_time()
        self.tick = tick
        self.ceiling = self.budget.of(len(tick.workers))
        kept, answer = self.kept, {}
        for worker in tick.workers:
            state = kept.get(worker.id)
            if state is None:
                state = kept[worker.id] = self.begin(worker, tick.t)
            if self.look(state, worker, tick.t):
                answer[worker.id] = self.say(state)
        if len(kept) > 4 * len(tick.workers) + 8:
            present = {worker.id for worker in tick.workers}
            for gone in [id for id in kept if id not in present]:
                del kept[gone]
        self.cpu += time.process_time() - began
        self.samples += len(tick.workers)
        return answer  # type: ignore[return-value]

    def begin(self, worker: Worker, now: float) -> Any:
        return []

    def look(self, state: Any, worker: Worker, now: float) -> bool:
        raise NotImplementedError

    def say(self, state: Any) -> tuple[Alarm, ...]:
        """What is said of a worker that `look` found to leak."""
        return ALARM


class Memmon(Baseline):
    """superlance's memmon: RSS over a size. Idealised: per worker, and it recycles just that."""

    def __init__(self, header: dict[str, Any], size: float = 200.0) -> None:
        super().__init__(header)
        self.size = size

    def look(self, state: Any, worker: Worker, now: float) -> bool:
        return worker.rss > self.size * MB


class MemmonOracle(Baseline):
    """memmon, with somebody who knows each program's limit and configures a share of it."""

    def __init__(self, header: dict[str, Any], share: float) -> None:
        super().__init__(header)
        self.share = share

    def look(self, state: Any, worker: Worker, now: float) -> bool:
        if self.ceiling is None:
            return False
        return worker.rss + (worker.swap or 0) > self.share * self.ceiling * MB


class Minutes:
    """Readings put together by time: one number a width, at most so many."""

    __slots__ = ("count", "due", "most", "times", "total", "values", "width")

    def __init__(self, width: float, most: int) -> None:
        self.width, self.most = width, most
        self.times: deque[float] = deque(maxlen=most)
        self.values: deque[float] = deque(maxlen=most)
        self.total, self.count = 0.0, 0
        self.due: float | None = None

    def add(self, now: float, value: float) -> bool:
        """Add a reading; whether it completed a number (their mean)."""
        if self.due is None or now < self.due - 2 * self.width:
            self.due = now + self.width
        self.total += value
        self.count += 1
        if now < self.due:
            return False
        self.times.append(now)
        self.values.append(self.total / self.count)
        self.total, self.count, self.due = 0.0, 0, now + self.width
        return True


def line(times: list[float], values: list[float]) -> tuple[float, float, float]:
    """Slope, intercept and R2 of least squares."""
    n = len(times)
    mean_t, mean_v = sum(times) / n, sum(values) / n
    tt = sum((t - mean_t) ** 2 for t in times)
    vv = sum((v - mean_v) ** 2 for v in values)
    tv = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True))
    if tt == 0:
        return 0.0, mean_v, 0.0
    slope = tv / tt
    return slope, mean_v - slope * mean_t, (tv * tv / (tt * vv) if vv > 0 else 0.0)


class LinearBackwardRegression(Baseline):
    """Linear Backward Regression (arXiv 2106.08938): from the newest reading backwards, over
    longer and longer windows, a line; a leak where one fits (R2) and reaches the limit within
    the critical time."""

    def __init__(
        self, header: dict[str, Any], fits: float = 0.85, critical: float = 12 * HOUR
    ) -> None:
        super().__init__(header)
        self.fits, self.critical = fits, critical
        self.shortest = 10

    def begin(self, worker: Worker, now: float) -> list[Any]:
        sums = deque([(0.0, 0.0, 0.0, 0.0, 0.0)], maxlen=513)
        return [Minutes(MINUTE, 1), False, now, sums]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        minutes: Minutes = state[0]
        if minutes.add(now, (worker.rss + (worker.swap or 0)) / MB):
            t, v = (now - state[2]) / MINUTE, minutes.values[-1]
            a, b, c, d, e = state[3][-1]
            state[3].append((a + t, b + v, c + t * t, d + t * v, e + v * v))
            state[1] = self.leaks(list(state[3]), t)
        return bool(state[1])

    def leaks(self, sums: list[tuple[float, ...]], now: float) -> bool:
        """`sums`: of t, v, tt, tv and vv from the beginning to each reading; t in minutes."""
        if self.ceiling is None or len(sums) <= self.shortest:
            return False
        last, size = sums[-1], self.shortest
        while True:
            t, v, tt, tv, vv = (b - a for a, b in zip(sums[-1 - size], last, strict=True))
            tt, tv, vv = tt - t * t / size, tv - t * v / size, vv - v * v / size
            if tt > 0 and tv > 0 and vv > 1e-9 and tv * tv / (tt * vv) >= self.fits:
                slope = tv / tt
                left = (self.ceiling - v / size) / slope - (now - t / size)
                if left * MINUTE <= self.critical and left <= 20 * size:
                    return True
            if size >= len(sums) - 1:
                return False
            size = min(int(size * 1.5), len(sums) - 1)


class MannKendall(Baseline):
    """Mann-Kendall's test for a trend on a window of readings, and Sen's slope for its size.
    TUNED: the window, z, and how much must have grown."""

    def __init__(
        self,
        header: dict[str, Any],
        window: int = 40,
        z: float = 5.0,
        grown: float = 0.06,
    ) -> None:
        super().__init__(header)
        self.window, self.z, self.grown = window, z, grown

    def begin(self, worker: Worker, now: float) -> list[Any]:
        return [Minutes(MINUTE, self.window), False, 0]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        minutes: Minutes = state[0]
        if minutes.add(now, (worker.rss + (worker.swap or 0)) / MB):
            state[2] = state[2] + 1 if self.rises(minutes) else 0
            state[1] = state[2] >= 2
        return bool(state[1])

    def rises(self, minutes: Minutes) -> bool:
        values, times = list(minutes.values), list(minutes.times)
        n = len(values)
        if n < 15:
            return False
        s = 0
        for i in range(n - 1):
            base = values[i]
            for later in values[i + 1 :]:
                s += (later > base) - (later < base)
        z = (s - 1) / sqrt(n * (n - 1) * (2 * n + 5) / 18)
        if z < self.z:
            return False
        slopes = sorted(
            (values[j] - values[i]) / (times[j] - times[i])
            for i in range(0, n - 1, 2)
            for j in range(i + 1, n, 2)
            if times[j] > times[i]
        )
        least = self.grown * self.ceiling if self.ceiling else 2.0
        return bool(slopes) and slopes[len(slopes) // 2] * (times[-1] - times[0]) >= least


class GitLab(Baseline):
    """GitLab's memory watchdog for Puma: private memory over 3 times the master's, six looks a
    minute apart in a row. Without a master: over 3 times what the worker began with."""

    def __init__(self, header: dict[str, Any], times: float = 3.0, strikes: int = 6) -> None:
        super().__init__(header)
        self.times, self.strikes = times, strikes

    def begin(self, worker: Worker, now: float) -> list[Any]:
        return [now + MINUTE, 0, _private(worker)]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        if now < state[0] and now > state[0] - 2 * MINUTE:
            return bool(state[1] >= self.strikes)
        state[0] = now + MINUTE
        master = self.tick.master if self.tick is not None else None
        reference = state[2] if master is None else _private(master)
        state[1] = state[1] + 1 if _private(worker) > self.times * reference else 0
        return bool(state[1] >= self.strikes)


def _private(worker: Worker) -> int:
    if worker.uss is not None:
        return worker.uss
    return worker.rss - (worker.shared or 0)


class Socketry(Baseline):
    """socketry/memory-leak: every 10 s, an increase of 10 MB over the highest so far counts;
    20 of them are a leak."""

    def __init__(self, header: dict[str, Any], increase: float = 10.0, limit: int = 20) -> None:
        super().__init__(header)
        self.increase, self.limit = increase * MB, limit

    def begin(self, worker: Worker, now: float) -> list[Any]:
        return [now, worker.rss, 0]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        if not now - 600 < state[0] <= now - 9.5 and state[0] <= now:
            return bool(state[2] >= self.limit)
        state[0] = now
        if worker.rss > state[1] + self.increase:
            state[1] = worker.rss
            state[2] += 1
        return bool(state[2] >= self.limit)


class Precog(Baseline):
    """Precog (arXiv 2101.09799): lines between change points; the trends that ended by
    themselves are remembered, and a leak is a trend that would reach the limit within the
    critical time and is steeper or longer than any of them. Its training on history is done on
    the way, with what the program's workers have shown so far."""

    def __init__(
        self, header: dict[str, Any], fits: float = 0.75, critical: float = 12 * HOUR
    ) -> None:
        super().__init__(header)
        self.fits, self.critical = fits, critical
        self.steepest = self.longest = 0.0

    def begin(self, worker: Worker, now: float) -> list[Any]:
        return [Minutes(MINUTE, 1), [], [], 0, False]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        minutes: Minutes = state[0]
        if minutes.add(now, (worker.rss + (worker.swap or 0)) / MB):
            state[4] = self.trend(state, minutes.times[-1], minutes.values[-1])
        return bool(state[4])

    def trend(self, state: list[Any], now: float, value: float) -> bool:
        times, values = state[1], state[2]
        if times and now <= times[-1]:
            times.clear(), values.clear()
        slope = fit = 0.0
        if len(times) >= 8:
            slope, intercept, fit = line(times, values)
            rest = [v - intercept - slope * t for t, v in zip(times, values, strict=True)]
            spread = sqrt(sum(r * r for r in rest) / len(rest))
            off = abs(value - intercept - slope * now) > 4 * spread + 1.0
            state[3] = state[3] + 1 if off else 0
            if state[3] >= 3:  # a change point: what was a trend has ended
                if fit >= self.fits and slope > 0:
                    self.steepest = max(self.steepest, slope)
                    self.longest = max(self.longest, times[-1] - times[0])
                del times[:-3], values[:-3]
                state[3] = 0
                slope = fit = 0.0
        times.append(now)
        values.append(value)
        if len(times) > 240:
            del times[::2], values[::2]
        if self.ceiling is None or fit < self.fits or slope <= 0 or len(times) < 15:
            return False
        lasted = now - times[0]
        near = (self.ceiling - value) / slope <= self.critical
        return near and (slope > self.steepest or lasted > self.longest)


class PumaWorkerKiller(Baseline):
    """puma_worker_killer: where all processes together hold more than 98 % of what there is,
    the largest worker goes. Looked at every 10 s."""

    def __init__(self, header: dict[str, Any], share: float = 0.98) -> None:
        super().__init__(header)
        self.share = share
        self.next = float("-inf")

    def feed(self, tick: Tick) -> dict[WorkerId | None, tuple[Alarm, ...]]:
        began = time.process_time()
        answer: dict[WorkerId | None, tuple[Alarm, ...]] = {}
        if not self.next - 60 < tick.t < self.next:
            self.next = tick.t + 9.5
            ram = self.budget.whole or len(tick.workers) * self.budget.limit
            held = sum(worker.rss for worker in tick.workers)
            if self.budget.whole and tick.master is not None:
                held += tick.master.rss
            if ram and held > self.share * ram * MB:
                answer[max(tick.workers, key=lambda worker: worker.rss).id] = ALARM
        self.cpu += time.process_time() - began
        self.samples += len(tick.workers)
        return answer


class EveryThird(Baseline):
    """Thirty lines: does the lower envelope of anonymous memory keep growing in every third of
    the last six minutes (or eighteen readings, where they are rarer)? TUNED: the least growth."""

    def __init__(self, header: dict[str, Any], window: float = 6 * MINUTE) -> None:
        super().__init__(header)
        self.window = window

    def begin(self, worker: Worker, now: float) -> list[Any]:
        return [now, now, None, deque(maxlen=4), 0]

    def look(self, state: list[Any], worker: Worker, now: float) -> bool:
        born, begun, low, lows, readings = state
        if now - born < 2 * MINUTE and now >= born:
            state[1] = now
            return False
        value = self.signal(worker)
        low = value if low is None else tuple(map(min, low, value))
        readings += 1
        if (now - begun < self.window / 4 or readings < 4) and now >= begun:
            state[2], state[4] = low, readings
            return self.grows(lows)
        lows.append(low)
        state[1], state[2], state[4] = now, None, 0
        return self.grows(lows)

    def signal(self, worker: Worker) -> tuple[float, ...]:
        swap = worker.swap or 0
        if worker.anon is not None:
            return (worker.anon + swap,)
        if worker.shared is not None:
            return (worker.rss - worker.shared + swap,)
        if worker.uss is not None:
            return (worker.rss + swap, worker.uss + swap)
        return (worker.rss + swap,)

    def grows(self, lows: deque[tuple[float, ...]]) -> bool:
        if len(lows) < 4 or len({len(low) for low in lows}) > 1:
            return False
        return all(
            all(b - a > 0.15 * MB for a, b in pairwise(column))
            and column[-1] - column[0] > 1.0 * MB
            for column in zip(*lows, strict=True)
        )


class Bucket(NamedTuple):
    at: float  # seconds, when it began
    low: float  # MB
    work: float  # done by then, requests or CPU seconds


def merged(buckets: list[Bucket]) -> Bucket:
    return Bucket(buckets[0].at, min(bucket.low for bucket in buckets), buckets[0].work)


def keeps_on(buckets: Sequence[Bucket], least: float = 0.6) -> bool:
    """Whether the late third grew nearly as much as the early one, by time and by work."""
    third = (len(buckets) - 1) // 3
    first, early, late, last = buckets[0], buckets[third], buckets[-1 - third], buckets[-1]
    before, now = early.low - first.low, last.low - late.low
    worked, works = early.work - first.work, last.work - late.work
    by_work = worked <= 0 or works <= 0 or now / works >= least * before / worked
    return now >= least * before and by_work


class Rung:
    """The last 20 buckets of one width, and what was found in them."""

    kept = 20

    def __init__(self) -> None:
        self.buckets: list[Bucket] = []
        self.gathered: list[Bucket] = []  # four make one of the next rung
        self.left_behind = float("-inf")  # the highest minimum that is no longer kept
        self.strikes = self.quiet = 0
        self.told = self.near = False

    def add(self, bucket: Bucket) -> Bucket | None:
        """Keep a bucket; the next rung's, if this one completes it."""
        self.buckets.append(bucket)
        if len(self.buckets) > self.kept:
            self.left_behind = max(self.left_behind, self.buckets.pop(0).low)
        self.gathered.append(bucket)
        if len(self.gathered) < 4:
            return None
        wide, self.gathered = merged(self.gathered), []
        return wide


class Ladder:
    """What the first trial keeps of a worker."""

    def __init__(self, worker: Worker, now: float) -> None:
        self.at, self.clock = now, 0.0  # the last look; seconds since the first, never backwards
        self.uss, self.first = 0, worker  # how much USS has grown since the first look
        self.readings = 0  # in the open bucket
        self.open = Bucket(0.0, 0.0, 0.0)
        self.rungs = [Rung() for _ in range(5)]
        self.life: list[Bucket] = []  # at most 48, of `every` of the finest each
        self.gathered: list[Bucket] = []
        self.every = 1
        self.base: tuple[float, float] | None = None  # after warm-up: the signal, and all it holds
        self.told = self.act = False

    def signal(self, worker: Worker) -> float:
        """Anonymous memory and swap, MB; else the smaller of the growths of USS and RSS."""
        swap = worker.swap or 0
        if worker.anon is not None:
            return (worker.anon + swap) / MB
        if worker.shared is not None:
            return (worker.rss - worker.shared + swap) / MB
        if self.first.uss is None:
            return (worker.rss + swap) / MB
        if worker.uss is not None:
            self.uss = worker.uss - self.first.uss
        return (min(worker.rss, self.first.rss + self.uss) + swap) / MB

    def remember(self, bucket: Bucket) -> None:
        self.gathered.append(bucket)
        if len(self.gathered) == self.every:
            self.life.append(merged(self.gathered))
            self.gathered = []
        if len(self.life) == 48:
            self.life = [merged(self.life[i : i + 2]) for i in range(0, 48, 2)]
            self.every *= 2


class FirstTrial(Baseline):
    """Our own first trial: the lower envelope of anonymous memory on five time scales, each with
    a test for a trend that is no step, is new territory and does not saturate. Told after some
    strikes; acted on once a quarter of the room is eaten or the limit is near. Its comparison of
    siblings and what it learned from recycling are left out. TUNED: `fewest` and `strikes`."""

    def __init__(self, header: dict[str, Any], fewest: int = 10, strikes: int = 3) -> None:
        super().__init__(header)
        self.fewest, self.strikes = fewest, strikes

    def begin(self, worker: Worker, now: float) -> Ladder:
        return Ladder(worker, now)

    def say(self, state: Ladder) -> tuple[Alarm, ...]:
        return ALARM if state.act else WORD

    def look(self, state: Ladder, worker: Worker, now: float) -> bool:
        passed, state.at = now - state.at, now
        state.clock += passed if 0 < passed < HOUR else 0.0
        if (state.clock if worker.age is None else worker.age) < 2 * MINUTE:
            return False
        value = state.signal(worker)
        if state.readings >= 2 and state.clock - state.open.at >= 0.9 * 30:  # ticks jitter
            self.close(state, worker)
            state.readings = 0
        if state.readings == 0:
            work = worker.cpu if worker.requests is None else worker.requests
            state.open = Bucket(state.clock, value, work or 0.0)
        elif value < state.open.low:
            state.open = state.open._replace(low=value)
        state.readings += 1
        return state.told

    def close(self, state: Ladder, worker: Worker) -> None:
        bucket: Bucket | None = state.open
        if state.base is None:
            held = worker.rss if worker.uss is None else worker.uss
            state.base = (state.open.low, (held + (worker.swap or 0)) / MB)
        room = float("inf") if self.ceiling is None else self.ceiling - state.base[1]
        grown = state.open.low - state.base[0]
        state.remember(state.open)
        for rung in state.rungs:
            if bucket is not None:
                bucket = rung.add(bucket)
                self.judge(rung, state.life, room - grown)
        state.told = any(rung.told for rung in state.rungs)
        near = any(rung.told and rung.near for rung in state.rungs)
        state.act = state.told and (grown >= 0.25 * room or near)

    def judge(self, rung: Rung, life: list[Bucket], left: float) -> None:
        """Strikes up and down; at once if the limit is nearer than 1.5 windows."""
        found = self.grows(rung) and keeps_on(life)
        rung.near = found and left < 1.5 * (rung.buckets[-1].low - rung.buckets[0].low)
        strikes = rung.strikes + (1 if found else -1)
        rung.strikes = self.strikes if rung.near else min(max(strikes, 0), self.strikes)
        rung.quiet = 0 if found else rung.quiet + 1
        rung.told = rung.strikes == self.strikes or (rung.told and rung.quiet < rung.kept)

    def grows(self, rung: Rung) -> bool:
        buckets = rung.buckets
        grown = buckets[-1].low - max(buckets[0].low, rung.left_behind)
        if grown <= 0 or len(buckets) < self.fewest:
            return False
        lows = [bucket.low for bucket in buckets]
        largest = max(b - a for a, b in pairwise(lows))
        return grown - largest >= 0.5 * grown and keeps_on(buckets) and mann_kendall(lows) >= 3.2


TABLE: dict[str, Callable[[dict[str, Any]], Baseline]] = {
    "our own first trial": FirstTrial,
    "memmon, 0.8 of each program's limit": lambda header: MemmonOracle(header, 0.8),
    "memmon, 0.7 of each program's limit": lambda header: MemmonOracle(header, 0.7),
    "memmon, one fixed limit": Memmon,
    "Linear Backward Regression": LinearBackwardRegression,
    "Mann-Kendall and Sen, tuned": MannKendall,
    "GitLab's watchdog": GitLab,
    "socketry/memory-leak": Socketry,
    "Precog": Precog,
    "puma_worker_killer": PumaWorkerKiller,
    "the envelope grows in every third": EveryThird,
}
