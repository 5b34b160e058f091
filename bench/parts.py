"""What a worker of a made-up gunicorn program holds, part by part, and the traffic it gets.

A part is stepped through a worker's life and says how many MB it holds: imports, caches,
garbage, leaks, noise. Sizes are MB, times seconds. What is seen of their sum is living.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, log1p, pi, sqrt
from random import Random

PAGE = 4096
MB = 1024 * 1024
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

# --- the traffic ----------------------------------------------------------------------------


class Load:
    """Requests per second that an average worker gets, over time."""

    BURST = 8.0  # times the usual, at most

    def __init__(self, rate: float, shape: str, length: float, rng: Random) -> None:
        self.peak = rate
        self.shape = shape
        self.day = DAY if length > 1.5 * DAY else length / rng.uniform(1.2, 3.5)
        self.phase = rng.random() * self.day
        self.night = rng.choice((0.0, 0.01, 0.05)) if shape == "nights" else rng.uniform(0.05, 0.5)
        self.begins = 0.0
        if shape == "idle":
            self.begins = length * rng.uniform(0.15, 0.7)
        self.bursts: list[tuple[float, float, float]] = []
        if shape == "bursts":
            at = 0.0
            while at < length:
                at += rng.expovariate(1.0) * length / rng.uniform(4, 20)
                lasts = min(rng.uniform(1, 30) * MINUTE, length / 8)
                self.bursts.append((at, at + lasts, rng.uniform(2, self.BURST)))
                at += lasts
        self.next = 0
        steps = 400
        points = [self.at(length * (i + 0.5) / steps) for i in range(steps)]
        self.next = 0
        self.mean = max(sum(points) / steps, rate / 50)

    def at(self, now: float) -> float:
        if self.shape == "flat":
            return self.peak
        if self.shape == "diurnal":
            wave = 0.5 - 0.5 * cos(2 * pi * (now + self.phase) / self.day)
            return self.peak * (self.night + (1 - self.night) * wave)
        if self.shape == "nights":
            return self.peak * (
                1.0 if (now + self.phase) % self.day < 0.6 * self.day else self.night
            )
        if self.shape == "idle":
            return self.peak if now >= self.begins else 0.002 * self.peak
        while self.next < len(self.bursts) and now > self.bursts[self.next][1]:
            self.next += 1
        if self.next < len(self.bursts) and now >= self.bursts[self.next][0]:
            return self.peak * self.bursts[self.next][2]
        return self.peak


def poisson(rng: Random, mean: float) -> int:
    if mean > 12:
        return max(int(rng.gauss(mean, sqrt(mean)) + 0.5), 0)
    if mean <= 0:
        return 0
    limit, count, product = exp(-mean), 0, rng.random()
    while product > limit:
        product *= rng.random()
        count += 1
    return count


# --- what a worker holds --------------------------------------------------------------------


class Moment:
    """What a part may look at when it is stepped."""

    __slots__ = ("age", "dt", "level", "n", "now", "rate", "rng")

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = self.age = self.dt = 0.0
        self.n = 0  # requests since the last step
        self.rate = 0.0  # requests per second at present


class Part:
    """Something that takes memory: `step` returns what it holds now, MB."""

    def step(self, m: Moment) -> float:
        raise NotImplementedError


class Warm(Part):
    """A(1 - e^(-age/tau)): what the first seconds or minutes take, whatever the traffic."""

    def __init__(self, size: float, tau: float) -> None:
        self.size, self.tau, self.done = size, tau, 12 * tau

    def step(self, m: Moment) -> float:
        return self.size * (1 - exp(-m.age / self.tau)) if m.age < self.done else self.size


class Drift(Part):
    """What healthy workers still gain after their warm-up; it slows down and ends."""

    def __init__(self, rate: float, lasts: float) -> None:
        self.rate, self.lasts = rate / MINUTE, lasts

    def step(self, m: Moment) -> float:
        if m.age < self.lasts:
            return self.rate * m.age
        return self.rate * self.lasts * (1.5 - 0.5 * exp(-(m.age - self.lasts) / self.lasts))


class Steps(Part):
    """Imports: each lifts memory once, within a few seconds, for good. `(age, MB, seconds)`."""

    def __init__(self, steps: list[tuple[float, float, float]]) -> None:
        self.steps = sorted(steps)
        self.done = 0.0
        self.next = 0

    def step(self, m: Moment) -> float:
        while self.next < len(self.steps):
            at, size, ramp = self.steps[self.next]
            if m.age < at + ramp:
                break
            self.done += size
            self.next += 1
        held = self.done
        for at, size, ramp in self.steps[self.next :]:
            if m.age <= at:
                break
            held += size * min((m.age - at) / ramp, 1.0)
        return held


class Cache(Part):
    """A cache that fills by the requests (or by time) and is full one day. `of`: work to fill it.

    linear: every request brings a new entry until it is full. saturating: fewer and fewer are
    new. `full` tells the truth about it.
    """

    def __init__(self, size: float, of: float, linear: bool, by_time: bool = False) -> None:
        self.size, self.of, self.linear, self.by_time = size, of, linear, by_time
        self.work = 0.0

    def step(self, m: Moment) -> float:
        self.work += m.dt if self.by_time else m.n
        x = self.work / self.of
        if self.linear:
            return self.size * min(x, 1.0)
        return self.size * (1 - exp(-x)) if x < 30 else self.size

    @property
    def full(self) -> bool:
        return self.work >= self.of * (1.0 if self.linear else 3.5)


class Expiring(Part):
    """A cache with a time to live: holds what the last `ttl` seconds brought."""

    def __init__(self, each: float, ttl: float) -> None:
        self.each, self.ttl, self.held = each, ttl, 0.0

    def step(self, m: Moment) -> float:
        self.held += m.n * self.each - self.held * min(m.dt / self.ttl, 1.0)
        return self.held


class Garbage(Part):
    """Cyclic garbage: grows with the requests until a full collection takes (most of) it."""

    def __init__(self, size: float, every: float, rng: Random) -> None:
        self.size, self.every, self.rng = size, every, rng
        self.work = every * rng.random()
        self.due, self.rest = every, 0.0

    def step(self, m: Moment) -> float:
        self.work += m.n
        if self.work >= self.due:
            self.work = (self.work - self.due) % self.every
            self.due = self.every * self.rng.uniform(0.7, 1.3)
            self.rest = self.size * self.rng.choice((0.0, 0.0, 0.05, 0.15))
        return self.rest + self.size * self.work / self.due


class Peaks(Part):
    """Big requests: one in `every` takes `draw()` MB; `keep` of the largest so far stays."""

    def __init__(self, every: float, draw: Callable[[], float], keep: float, most: float) -> None:
        self.every, self.draw, self.keep, self.most = every, draw, keep, most
        self.high = 0.0
        self.due: float | None = None

    def step(self, m: Moment) -> float:
        if self.due is None:
            self.due = m.rng.expovariate(1 / self.every)
        self.due -= m.n
        size = 0.0
        while self.due <= 0:
            size = max(size, min(self.draw(), self.most))
            self.due += m.rng.expovariate(1 / self.every)
        if size > self.high:
            self.high = size
        return max(self.high * self.keep, size)


class Buffers(Part):
    """What requests in flight hold together: follows the load, comes back slowly."""

    def __init__(self, each: float, decay: float) -> None:
        self.each, self.decay, self.held = each, decay, 0.0

    def step(self, m: Moment) -> float:
        wanted = self.each * sqrt(m.rate)
        if wanted >= self.held:
            self.held = wanted
        else:
            self.held += (wanted - self.held) * min(m.dt / self.decay, 1.0)
        return self.held


class Arenas(Part):
    """Threads that each get an arena, and grow it to what the largest request needs."""

    def __init__(self, count: int, size: float, every: float, rng: Random) -> None:
        self.left = [size * rng.uniform(0.4, 1.0) for _ in range(count)]
        self.every, self.held = every, 0.0

    def step(self, m: Moment) -> float:
        if self.left and m.n and m.rng.random() < 1 - exp(-m.n * len(self.left) / self.every):
            index = m.rng.randrange(len(self.left))
            part = min(self.left[index], m.rng.uniform(0.3, 4.0))
            self.left[index] -= part
            self.held += part
            if self.left[index] < 0.05:
                self.left.pop(index)
        return self.held


class Fragments(Part):
    """Fragmentation: grows with the logarithm of the work."""

    def __init__(self, size: float, scale: float) -> None:
        self.size, self.scale, self.work = size, scale, 0.0

    def step(self, m: Moment) -> float:
        self.work += m.n
        return self.size * log1p(self.work / self.scale)


class Breath(Part):
    """Noise that remembers: the allocator's and the collector's ups and downs."""

    def __init__(self, sigma: float, tau: float) -> None:
        self.sigma, self.tau, self.x = sigma, tau, 0.0

    def step(self, m: Moment) -> float:
        a = exp(-m.dt / self.tau)
        self.x = a * self.x + sqrt(1 - a * a) * self.sigma * m.rng.gauss(0.0, 1.0)
        return self.x + 2.5 * self.sigma


class Decay(Part):
    """jemalloc: dirty pages are kept for a while and purged at once."""

    def __init__(self, size: float, every: float) -> None:
        self.size, self.every, self.held, self.age = size, every, 0.0, 0.0

    def step(self, m: Moment) -> float:
        self.age += m.dt
        if m.n:
            self.held = min(self.held + self.size * 0.2 * m.rng.random(), self.size)
        if self.age >= self.every:
            self.held *= m.rng.uniform(0.0, 0.4)
            self.age = self.every * m.rng.uniform(-0.5, 0.3)
        return self.held


class Blob(Part):
    """One thing of `size` MB that this worker alone holds from `at` (seconds of the world) on."""

    def __init__(self, size: float, at: float) -> None:
        self.size, self.at = size, at

    def step(self, m: Moment) -> float:
        return self.size if m.now >= self.at else 0.0


class Leak(Part):
    """Memory nobody gives back. `rate`: MB a second at the usual load.

    by: "requests" (each loses about the same), "time", "sporadic" (few requests lose much),
    "stairs" (in steps of `grain`: containers that double, arenas), "accelerating".
    `begins`: seconds of the world; `usual`: requests a second that make `rate`.
    """

    def __init__(
        self,
        rate: float,
        usual: float,
        by: str = "requests",
        begins: float = 0.0,
        grain: float = 1.0,
        span: float = HOUR,
    ) -> None:
        self.rate, self.usual, self.by = rate, usual, by
        self.begins, self.grain, self.span = begins, grain, span
        self.lost = 0.0
        self.since: float | None = None

    def step(self, m: Moment) -> float:
        if m.now < self.begins:
            return 0.0
        if self.since is None:
            self.since = m.now - m.dt
        by = self.by
        if by == "time":
            self.lost += self.rate * m.dt
        elif by == "accelerating":
            x = (m.now - self.since) / self.span
            self.lost += self.rate * (0.05 + 2.0 * x) * m.n / self.usual
        elif by == "sporadic":
            events = poisson(m.rng, m.n * self.rate / self.usual / self.grain)
            for _ in range(events):
                self.lost += self.grain * m.rng.uniform(0.5, 1.5)
        else:
            self.lost += self.rate * m.n / self.usual * m.rng.uniform(0.95, 1.05)
            if by == "stairs":
                return self.grain * (self.lost // self.grain)
        return self.lost
