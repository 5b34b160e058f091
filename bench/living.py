"""A made-up gunicorn program that lives: workers are born, serve, grow, are killed, are born anew.

    world = program.world()
    while (tick := world.step()) is not None:
        ...                       # tick.t, tick.master, tick.workers: as a listener sees them
        world.lives[id].leaked    # as it really is: the ground truth of each worker life

A world is stepped: whoever judges it may `recycle` a worker, which is then born anew under a new
id; the kernel kills at the limit. `lines` gives the same history in the format of `memwatch
replay`.

What a worker holds is the sum of its parts (parts.py), driven by the requests it gets; what is
seen of it (RSS, shared, anonymous, USS, PSS, swap, CPU time) follows from the sum, the pages it
shares with its master, and what the kernel swapped out. Sizes are MB and times seconds inside;
what a tick shows is bytes. Which programs there are is synthetic.py's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil, exp, sqrt
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts import (
    DAY,
    HOUR,
    MB,
    MINUTE,
    PAGE,
    Breath,
    Cache,
    Drift,
    Leak,
    Load,
    Moment,
    Part,
    Warm,
    poisson,
)

from supervisor_memwatch.model import Worker, WorkerId

HEALTHY, LEAKS, FILLS, IMBALANCED = "healthy", "leaking", "filling", "imbalanced"

# --- one worker life ------------------------------------------------------------------------


@dataclass(slots=True)
class Traits:
    """What a behaviour wants of its program and of each of its worker lives."""

    parts: Callable[[Making], list[Part]]  # per life, beyond what every worker has
    label: str = HEALTHY
    shape: str | None = None  # of the load; None: drawn
    ticks: tuple[int, ...] = (5, 60)
    least: float = 0.0  # seconds the history must last
    most: float = 7 * DAY
    weights: tuple[float, ...] | None = None  # share of the work per worker, else drawn
    preload: bool | None = None
    unshare: str = "jump"  # what copy-on-write does: "jump", "line", "curve"
    mapped: Callable[[Making], Mapped] | None = None  # files and shared memory
    swap: bool = False
    quantum: float | None = None  # MB; None: drawn
    quiet: bool = False  # hardly any noise: ties
    gaps: float = 0.02  # share of ticks that come late
    doubled: float = 0.003
    steps: bool = False  # of the clock
    events: str = ""  # "ttin", "hup", "siblings", "ages", "fresh", "max_requests"
    life: float = 0.0  # share of the history after which max_requests ends a life
    guilty: int | None = None  # the only worker (by its place) that leaks, or stands out
    stands_out: bool = False  # a worker may honestly be told to be larger than its siblings
    fds: float = 0.0  # files lost per hour
    master: float = 0.0  # MB the master loses per hour
    attach: bool | None = None  # whether the watch begins when the workers are old
    eats: tuple[float, float] = (0.35, 6.0)  # times the room that a leak takes in the history
    minutes: tuple[float, float] | None = None  # or: minutes in which it takes the room
    begins: tuple[float, float] = (0.0, 0.0)  # share of the history at which it begins


class Making(NamedTuple):
    """What a part is made from."""

    rng: Random  # of this life
    program: Program
    place: int  # which worker: a reborn one has its predecessor's place
    born: float
    weight: float

    @property
    def requests(self) -> Callable[[float], float]:
        """Requests that this worker is likely to get in so many seconds."""
        rate = self.program.load_mean * self.weight
        return lambda seconds: max(rate * seconds, 1.0)


class Mapped(NamedTuple):
    """Pages of files or of shared memory that come with the work: rss and shared, not anonymous."""

    size: float  # MB in the end
    over: float  # seconds
    private: float = 0.0  # share that no other process maps (counts in USS)


class Life:
    """One worker from its fork to its end, and the truth about it."""

    def __init__(self, world: World, place: int, born: float, ordinal: int) -> None:
        program, traits = world.program, world.program.traits
        self.program, self.place, self.born = program, place, born
        rng = self.rng = Random(f"{program.seed}/{place}/{ordinal}")
        weights = traits.weights
        self.weight = rng.uniform(0.76, 1.29) if weights is None else weights[place % len(weights)]
        making = Making(rng, program, place, born, self.weight)
        self.moment = Moment(rng)
        self.parts = [*_usual(making), *traits.parts(making)]
        self.leaks = [part for part in self.parts if isinstance(part, Leak)]
        self.caches = [part for part in self.parts if isinstance(part, Cache)]
        self.base = program.base * rng.uniform(0.97, 1.03)
        self.mapped = traits.mapped(making) if traits.mapped else None
        self.file = program.text * rng.uniform(0.97, 1.03)
        # Copy-on-write: of the master's image so much is still shared.
        image = program.image
        self.cow = image * rng.uniform(0.9, 0.97) if program.preload else min(image, 9.0)
        self.left = self.cow * rng.uniform(0.02, 0.3)
        self.jump_at = 10 ** rng.uniform(1.5, 2.8)
        self.jump = min(rng.uniform(1.6, 6.9), self.cow * 0.7)
        self.unshare_over = world.program.length * rng.uniform(0.3, 1.2)
        self.noise = 0.0 if traits.quiet else program.noise
        self.swap_share = 0.0
        self.requests = 0
        self.cpu = rng.uniform(0.3, 2.5)
        self.cost = program.cost
        self.fds = rng.randrange(8, 24)
        self.lost_fds = 0.0
        self.ends_at: int | None = None  # requests
        if traits.life and traits.events == "max_requests":
            self.ends_at = int(making.requests(program.lasts) * rng.uniform(0.85, 1.15)) + 20
        self.id = WorkerId(world.pid(), int(1e6 + 100 * (born + 1e5)))
        self.imbalanced = traits.label == IMBALANCED and place == traits.guilty
        self.ended: tuple[float, str] | None = None
        self.held = 0.0  # MB, as a limit counts it
        self.first_held: float | None = None
        self.shown: Worker | None = None

    @property
    def leaking_since(self) -> float | None:
        """Seconds of the world at which it began to leak; None: it does not, or not yet."""
        since = [leak.since for leak in self.leaks if leak.since is not None]
        return min(since) if since else None

    @property
    def leaked(self) -> float:
        """MB lost so far."""
        return sum(leak.lost for leak in self.leaks)

    @property
    def share(self) -> float:
        """Of the room it would have without its leaks, the share that they ate."""
        leaked = self.leaked
        room = self.program.ceiling - (self.held - leaked)
        return leaked / room if room > 0 else 1.0

    @property
    def filling(self) -> bool:
        """Whether it has a cache that fills in a straight line, or did."""
        return any(cache.linear for cache in self.caches)

    @property
    def full(self) -> bool:
        return all(cache.full for cache in self.caches)

    @property
    def coarse(self) -> float:
        """MB that its leaks must lose before they differ from a few steps, or from noise."""
        steps = [leak.grain for leak in self.leaks if leak.by in ("stairs", "sporadic")]
        return max([8 * grain for grain in steps] + [8 * self.program.breath])

    def step(self, now: float, dt: float, rate: float) -> int:
        """Live on for `dt`; the requests served."""
        m, rng = self.moment, self.rng
        m.now, m.age, m.dt = now, now - self.born, dt
        m.rate = rate * self.weight
        m.n = n = poisson(rng, m.rate * dt)
        self.requests += n
        self.cpu += n * self.cost + 0.0006 * dt
        level = self.base
        for part in self.parts:
            level += part.step(m)
        self.level = level
        return n

    def show(self, world: World) -> None:
        """What is seen of it now."""
        program, m, rng = self.program, self.moment, self.rng
        age = m.age
        level = self.level
        noise = self.noise
        if noise:
            # In flight at this instant, or freed and not yet given back.
            busy = 1 - exp(-m.rate * program.service)
            if rng.random() < busy:
                level += rng.expovariate(1.0) * noise
            else:
                level += noise * 0.15 * rng.random()
        quantum = program.quantum
        pages = ceil(level / quantum) * quantum
        # Shared with the master, and what copy-on-write has left of it.
        cow, traits = self.cow, program.traits
        if traits.unshare == "line":
            still = self.left + (cow - self.left) * max(1 - age / self.unshare_over, 0.0)
        elif traits.unshare == "curve":
            still = self.left + (cow - self.left) * exp(-3 * age / self.unshare_over)
        else:
            still = cow if age < self.jump_at else cow - self.jump
        still = max(still - world.unshared, 0.0)
        mapped = private = 0.0
        if self.mapped is not None:
            mapped = self.mapped.size * min(age / self.mapped.over, 1.0)
            private = mapped * self.mapped.private
        file = self.file + mapped
        swapped = 0.0
        if world.pressure:
            swapped = pages * world.pressure
        anon = int((pages - swapped) * MB) // PAGE * PAGE
        if program.known.approximate:
            anon += PAGE * rng.randrange(-8, 9)
        shared = int(file * MB) // PAGE * PAGE
        still_bytes = int(min(still, pages * 0.95) * (1 - world.pressure) * MB) // PAGE * PAGE
        uss = max(anon - still_bytes, PAGE) + int(private * MB) // PAGE * PAGE + 300 * 1024
        rss = anon + shared
        swap = int(swapped * MB) // PAGE * PAGE
        pss = uss + (rss - uss) // (program.count + 1)
        known = program.known
        counted = uss if known.uss else rss
        self.held = (counted + swap) / MB
        if self.first_held is None and age > 150:
            self.first_held = self.held
        look = known.uss and (known.every == 1 or world.ticks % known.every == 0)
        if traits.fds:
            self.lost_fds += traits.fds * m.dt / HOUR
        self.shown = Worker(
            self.id,
            age if known.age else None,
            rss,
            shared if known.shared else None,
            anon if known.anon else None,
            pss if look else None,
            uss if look else None,
            swap if known.swap else None,
            round(self.cpu, 2) if known.cpu else None,
            self.fds + min(m.n, 4) + int(self.lost_fds),
            program.threads,
            self.requests if known.requests else None,
        )


def _usual(making: Making) -> list[Part]:
    """What every worker has: a warm-up, a drift after it, noise that remembers."""
    rng, program = making.rng, making.program
    parts: list[Part] = [Warm(program.warm * rng.uniform(0.9, 1.1), program.warm_tau)]
    if not program.traits.quiet:
        parts.append(Drift(rng.uniform(0.0, program.drift), rng.uniform(6, 14) * MINUTE))
        if program.breath:
            parts.append(Breath(program.breath * rng.uniform(0.5, 1.2), program.breath_tau))
    return parts


# --- the world ------------------------------------------------------------------------------


class Tick(NamedTuple):
    """One look at a program, as a listener has it; `now` is the world's own time."""

    t: float
    master: Worker | None
    workers: tuple[Worker, ...]
    now: float


class World:
    """A program that runs. `step` until it returns None."""

    def __init__(self, program: Program) -> None:
        self.program = program
        traits = program.traits
        self.rng = Random(f"{program.seed}/world")
        self.load = Load(
            program.rate, program.shape, program.length, Random(f"{program.seed}/load")
        )
        self.now = 0.0
        self.clock = self.rng.choice((0.0, 1.0e3, 1.7e9))  # t minus now
        self.ticks = 0
        self.born = 0
        self.last_pid = self.rng.randrange(300, 30000)
        self.wander = 1.0
        self.unshared = 0.0  # MB that siblings' ends made private
        self.pressure = 0.0
        self.kills = 0
        self.lives: dict[WorkerId, Life] = {}  # all there ever were
        self.current: list[Life] = []
        self.empty: list[int] = []  # places to be filled
        self.doubling = False
        self.master_id = WorkerId(self.pid(), 9_000_000)
        self.master_lost = 0.0
        self.events = self._plan()
        self.swaps = self._swaps() if traits.swap else []
        for place in range(program.count):
            self._bear(place, self._offset(place))
        if self.current and min(life.born for life in self.current) < 0:
            self._fast_forward()

    # -- births and deaths

    def pid(self) -> int:
        self.last_pid += self.rng.randrange(1, 40)
        if self.last_pid > 4_000_000:
            self.last_pid = 300
        return self.last_pid

    def _offset(self, place: int) -> float:
        """How long before the watch a first worker was born."""
        program, rng = self.program, self.rng
        if program.traits.events == "ages":
            return 0.0 if place == 0 else rng.uniform(0.2, 1.0) * program.attached
        if program.attached:
            return program.attached * rng.uniform(0.97, 1.0)
        return 0.0

    def _fast_forward(self) -> None:
        for life in self.current:
            age = -life.born
            if age <= 0:
                continue
            steps = max(int(age / 60), 30)
            for i in range(steps):
                now = life.born + age * (i + 1) / steps
                life.step(now, age / steps, self.load.mean)

    def _bear(self, place: int, before: float = 0.0) -> Life:
        self.born += 1
        life = Life(self, place, self.now - before, self.born)
        self.lives[life.id] = life
        self.current.append(life)
        return life

    def _end(self, life: Life, why: str, again: bool = True) -> None:
        life.ended = (self.now, why)
        self.current.remove(life)
        if again:
            self.empty.append(life.place)
        if self.program.preload or self.rng.random() < 0.5:
            self.unshared += self.rng.uniform(0.2, 1.5)

    def recycle(self, id: WorkerId) -> None:
        """Ask a worker to leave: another one takes its place at the next tick."""
        life = self.lives[id]
        if life.ended is None:
            self._end(life, "recycled")

    # -- what happens to the program

    def _plan(self) -> list[tuple[float, str]]:
        program, rng = self.program, self.rng
        kind, length = program.traits.events, program.length
        plan: list[tuple[float, str]] = []
        if kind in ("ttin", "hup", "siblings"):
            count = rng.randrange(2, 9)
            plan += [(length * rng.uniform(0.05, 0.95), kind) for _ in range(count)]
        elif kind == "fresh":
            plan.append((length * rng.uniform(0.15, 0.6), "fresh"))
        elif rng.random() < 0.12 and kind == "" and program.traits.guilty is None:
            plan.append((length * rng.uniform(0.1, 0.9), "siblings"))
        return sorted(plan)

    def _swaps(self) -> list[tuple[float, float, float]]:
        """(from, until, share swapped out in the end)"""
        rng, length = self.rng, self.program.length
        begin = length * rng.uniform(0.05, 0.6)
        end = length if rng.random() < 0.6 else begin + (length - begin) * rng.uniform(0.2, 0.8)
        return [(begin, end, rng.uniform(0.15, 0.6))]

    def _happen(self, kind: str) -> None:
        rng = self.rng
        if not self.current:
            return
        if kind == "ttin":
            if rng.random() < 0.5 or len(self.current) < 2:
                places = {life.place for life in self.current} | set(self.empty)
                self.empty.append(next(p for p in range(100) if p not in places))
            else:
                self._end(min(self.current, key=lambda life: life.born), "ttou", again=False)
        elif kind == "hup":
            for life in list(self.current):
                self._end(life, "hup")
        elif kind == "siblings":
            self._end(rng.choice(self.current), "recycled by another")
        elif kind == "fresh":
            life = rng.choice(self.current)
            self._end(life, "recycled by another")

    # -- the tick

    def step(self) -> Tick | None:
        program, rng, traits = self.program, self.rng, self.program.traits
        interval = program.tick
        if self.ticks == 0:
            dt = 0.0
        elif self.doubling:
            dt, self.doubling = rng.uniform(0.003, 0.9), False
        else:
            dt = interval + rng.uniform(-0.4, 0.4)
            late = rng.random()
            if late < traits.gaps:
                dt += rng.uniform(2.0, 5.0) if interval == 5 else rng.uniform(2.0, 70.0)
                if traits.gaps > 0.1 and rng.random() < 0.02:
                    dt += rng.uniform(1, 20) * interval * 6
            elif late > 1 - traits.doubled:
                self.doubling = True
        self.now += dt
        if self.now > program.length or self.kills > program.count:
            return None
        now = self.now
        self.ticks += 1
        while self.events and self.events[0][0] <= now:
            self._happen(self.events.pop(0)[1])
        for place in self.empty:
            self._bear(place)
        self.empty.clear()
        if traits.steps and rng.random() < 4 * dt / program.length:
            self.clock += rng.choice((-1, 1)) * 10 ** rng.uniform(0, 3.8)
        self.pressure = 0.0
        for begin, end, share in self.swaps:
            if begin <= now < end:
                self.pressure = share * min((now - begin) / (0.1 * program.length), 1.0)
        self.wander += (1 - self.wander) * min(dt / 600, 1) + 0.02 * sqrt(dt) * rng.gauss(0, 0.3)
        self.wander = min(max(self.wander, 0.4), 1.8)
        rate = self.load.at(now) * self.wander
        for life in self.current:
            life.step(now, dt, 0.0 if self._untouched(life) else rate)
            life.show(self)
        self._kernel()
        if traits.life:
            for life in list(self.current):
                if life.ends_at is not None and life.requests >= life.ends_at:
                    self._end(life, "max_requests")
        workers = [life.shown for life in self.current if life.shown is not None]
        if program.shuffled and len(workers) > 1:
            rng.shuffle(workers)
        return Tick(now + self.clock, self._master(), tuple(workers), now)

    def _untouched(self, life: Life) -> bool:
        """A fresh worker that keep-alive clients have not found yet."""
        if self.program.traits.events != "fresh" or life.born <= 0:
            return False
        return self.now - life.born < 0.12 * self.program.length

    def _kernel(self) -> None:
        program = self.program
        if program.shared_room is None:
            for life in [life for life in self.current if life.held >= program.ceiling]:
                self._end(life, "oom")
                self.kills += 1
            return
        total = program.image + 8 + sum(life.held for life in self.current)
        if total >= program.shared_room and self.current:
            self._end(max(self.current, key=lambda life: life.held), "oom")
            self.kills += 1

    def _master(self) -> Worker | None:
        program = self.program
        if not program.known.master:
            return None
        self.master_lost += program.traits.master / HOUR * (self.now - self._master_at)
        self._master_at = self.now
        own = program.image if program.preload else min(program.image, 9.0) + 6
        anon = int((own + self.master_lost) * MB) // PAGE * PAGE
        shared = int(program.text * 0.8 * MB) // PAGE * PAGE
        known = program.known
        age = self.now + program.attached + 2
        return Worker(
            self.master_id,
            age if known.age else None,
            anon + shared,
            shared if known.shared else None,
            anon if known.anon else None,
            (anon // 2 + shared // 3) if known.uss else None,
            anon // 2 + 4 * MB if known.uss else None,
            0 if known.swap else None,
            round(0.4 + 0.0008 * age, 2) if known.cpu else None,
            12 + len(self.current),
            1,
            None,
        )

    _master_at = 0.0


class Known(NamedTuple):
    """What a tick shows of a worker."""

    shared: bool
    anon: bool
    uss: bool
    every: int  # uss and pss at every so many ticks
    swap: bool
    cpu: bool
    requests: bool
    age: bool
    master: bool
    approximate: bool  # statm's counters, off by some pages


EVERYTHING = Known(True, True, True, 1, True, True, True, True, True, False)


@dataclass(slots=True)
class Program:
    """A labelled program: `world` runs it, always in the same way."""

    seed: str
    behaviour: str
    label: str
    traits: Traits = field(repr=False)
    tick: int = 5
    length: float = HOUR
    count: int = 3
    base: float = 60.0
    warm: float = 10.0
    warm_tau: float = 20.0
    drift: float = 0.1
    breath: float = 0.0
    breath_tau: float = 300.0
    noise: float = 1.0
    quantum: float = PAGE / MB
    image: float = 20.0
    text: float = 15.0
    preload: bool = False
    rate: float = 5.0
    shape: str = "flat"
    load_mean: float = 5.0
    cost: float = 0.01
    service: float = 0.03
    threads: int = 1
    room: float = 300.0  # MB a worker has beyond its warm-up
    ceiling: float = 400.0  # MB one worker may hold
    shared_room: float | None = None  # MB the whole program may hold, where that is the limit
    announced: str = "limit"
    attached: float = 0.0
    shuffled: bool = False
    known: Known = EVERYTHING
    leak_rate: float = 0.0  # MB a second, of the usual worker
    begins: float = 0.0
    dice: tuple[float, ...] = ()  # drawn once, for what all workers have in common

    @property
    def name(self) -> str:
        return f"{self.behaviour}:{self.seed.replace(' ', '-')}"

    def world(self) -> World:
        return World(self)

    def header(self) -> dict[str, Any]:
        """The first line of the replay format."""
        return {
            "program": {
                "namespec": f"web:{self.behaviour}",
                "interval": float(self.tick),
                "preload": self.preload,
                "available": self.available,
                "total_limit": self.total_limit,
                "limit": self.limit,
                "options": {},
            }
        }

    @property
    def lasts(self) -> float:
        """Seconds after which max_requests ends a life; 0: it does not."""
        return max(self.traits.life * self.length, 6 * MINUTE) if self.traits.life else 0.0

    @property
    def limit(self) -> int | None:
        return int(self.ceiling * MB) if self.announced == "limit" else None

    @property
    def total_limit(self) -> int | None:
        if self.announced != "total_limit" or self.shared_room is None:
            return None
        return int(0.95 * self.shared_room * MB)

    @property
    def available(self) -> int | None:
        if self.announced != "available" or self.shared_room is None:
            return None
        return int(self.shared_room * MB)


def as_line(tick: Tick) -> dict[str, Any]:
    """A tick in the replay format."""
    master = None if tick.master is None else _shown(tick.master)
    return {"t": tick.t, "master": master, "workers": [_shown(w) for w in tick.workers]}


FIELDS = ("age", "rss", "shared", "anon", "pss", "uss", "swap", "cpu", "fds", "threads", "requests")


def _shown(worker: Worker) -> dict[str, Any]:
    shown = {name: getattr(worker, name) for name in FIELDS}
    return {"pid": worker.id.pid, "start": worker.id.start, **shown}


def lines(program: Program) -> Iterator[str]:
    """The whole history in the replay format, nobody acting on it."""
    yield json.dumps(program.header())
    world = program.world()
    while (tick := world.step()) is not None:
        yield json.dumps(as_line(tick))
