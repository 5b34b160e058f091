"""Labelled histories of gunicorn programs: every trap and every kind of leak, from a seed.

    for program in programs(seed=1001, count=412):
        world = program.world()       # see living.py
        while (tick := world.step()) is not None:
            ...

A behaviour is a function that draws the traits of a program; BEHAVIOURS holds them all, and
PHRASES says which trap or leak of a detector's duties each is there for. Equal seeds give equal
histories; nothing is read but the seed.

Not covered: threads and sockets, a gunicorn that fails to boot, two programs on one host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp, log, sqrt
from random import Random
from typing import Any

from living import (
    FILLS,
    HEALTHY,
    IMBALANCED,
    LEAKS,
    Known,
    Making,
    Mapped,
    Program,
    Traits,
)
from parts import (
    DAY,
    HOUR,
    MB,
    MINUTE,
    PAGE,
    Arenas,
    Blob,
    Buffers,
    Cache,
    Decay,
    Drift,
    Expiring,
    Fragments,
    Garbage,
    Leak,
    Load,
    Part,
    Peaks,
    Steps,
    Warm,
)

# --- the behaviours -------------------------------------------------------------------------

Behaviour = Callable[[Random], Traits]
BEHAVIOURS: dict[str, Behaviour] = {}
LABELS: dict[str, str] = {}


def behaviour(label: str) -> Callable[[Behaviour], Behaviour]:
    """Enter a function that draws traits into the table, under its own name."""

    def enter(function: Behaviour) -> Behaviour:
        name = function.__name__
        BEHAVIOURS[name] = function
        LABELS[name] = label
        return function

    return enter


def nothing(making: Making) -> list[Part]:
    return []


def lognormal(rng: Random, low: float, high: float) -> float:
    """A number between two, all magnitudes alike."""
    return exp(rng.uniform(log(low), log(high)))


# Traps: nobody is to be told.


@behaviour(HEALTHY)
def plain(rng: Random) -> Traits:
    return Traits(nothing)


@behaviour(HEALTHY)
def drifting(rng: Random) -> Traits:
    """Image work and fragmentation: up to 0.45 MB/min for a while."""
    fastest, lasts = rng.uniform(0.1, 0.45), rng.uniform(8, 30) * MINUTE
    return Traits(lambda m: [Drift(m.rng.uniform(0.05, fastest), lasts)])


@behaviour(HEALTHY)
def warm_up(rng: Random) -> Traits:
    size, tau = rng.uniform(20, 90), lognormal(rng, 8, 150)
    return Traits(
        lambda m: [Warm(min(size, 0.5 * m.program.room) * m.rng.uniform(0.9, 1.1), tau)],
        attach=False,
    )


@behaviour(HEALTHY)
def warm_up_by_requests(rng: Random) -> Traits:
    """Templates, connections, compiled patterns: by the requests, over minutes."""
    size, minutes = rng.uniform(5, 50), rng.uniform(2, 15)

    def parts(m: Making) -> list[Part]:
        of = m.requests(minutes * MINUTE)
        return [Cache(min(size, 0.4 * m.program.room), of / 2, linear=False)]

    return Traits(parts, attach=False)


@behaviour(HEALTHY)
def lazy_imports(rng: Random) -> Traits:
    count, within = rng.randrange(2, 7), lognormal(rng, 0.1, 2.0)

    def parts(m: Making) -> list[Part]:
        last = min(within * HOUR, 0.8 * m.program.length)
        most = min(35.0, 0.5 * m.program.room / count)
        r = m.rng
        return [
            Steps(
                [(r.uniform(30, last), r.uniform(1.5, most), r.uniform(1, 8)) for _ in range(count)]
            )
        ]

    return Traits(parts)


@behaviour(HEALTHY)
def import_cascade(rng: Random) -> Traits:
    """numpy, scipy, pandas, one after the other."""
    sizes = [rng.uniform(4, 45) for _ in range(rng.randrange(4, 9))]
    begins, apart = rng.uniform(20, 600), lognormal(rng, 10, 150)

    def parts(m: Making) -> list[Part]:
        shrink = min(1.0, 0.55 * m.program.room / sum(sizes))
        at, steps = begins * m.rng.uniform(0.7, 1.5), []
        for size in sizes:
            steps.append((at, size * shrink, m.rng.uniform(1.5, 10)))
            at += m.rng.uniform(0.3, 1.7) * apart
        return [Steps(steps)]

    return Traits(parts, attach=False)


def _cache(m: Making, share: float, seconds: float, linear: bool) -> Cache:
    return Cache(share * m.program.room, m.requests(seconds), linear)


@behaviour(HEALTHY)
def lru_saturating(rng: Random) -> Traits:
    share, tau = rng.uniform(0.05, 0.5), rng.uniform(0.02, 0.15)
    return Traits(lambda m: [_cache(m, share, tau * m.program.length, False)])


@behaviour(FILLS)
def lru_linear(rng: Random) -> Traits:
    """Fills in a straight line, then is full."""
    share, part = rng.uniform(0.08, 0.55), rng.uniform(0.03, 0.5)
    return Traits(lambda m: [_cache(m, share, part * m.program.length, True)], label=FILLS)


@behaviour(FILLS)
def lru_linear_quick(rng: Random) -> Traits:
    share, minutes = rng.uniform(0.08, 0.5), rng.uniform(5, 40)
    return Traits(
        lambda m: [_cache(m, share, minutes * MINUTE, True)], label=FILLS, ticks=(5,), attach=False
    )


@behaviour(HEALTHY)
def expiring_cache(rng: Random) -> Traits:
    """Entries live for a while: the cache follows the load."""
    share, ttl = rng.uniform(0.03, 0.3), lognormal(rng, 60, 1800)
    shape = rng.choice(("flat", "diurnal", "bursts"))
    highest = Load.BURST if shape == "bursts" else 1.0  # else a burst would fill all the room

    def parts(m: Making) -> list[Part]:
        each = share * m.program.room / max(m.program.rate * highest * m.weight * ttl, 1.0)
        return [Expiring(each, ttl)]

    return Traits(parts, shape=shape)


@behaviour(HEALTHY)
def giant_requests(rng: Random) -> Traits:
    share, per = rng.uniform(0.1, 0.5), rng.uniform(1, 8)

    def parts(m: Making) -> list[Part]:
        size = max(share * m.program.room, 10.0)
        every = m.requests(m.program.length / per)
        r = m.rng
        return [Peaks(every, lambda: size * r.uniform(0.7, 1.0), r.uniform(0.6, 1.0), size)]

    return Traits(parts, stands_out=True)


@behaviour(HEALTHY)
def high_water(rng: Random) -> Traits:
    """Requests of very different sizes: the largest so far stays. Records get rarer."""
    share, per, sigma = rng.uniform(0.2, 0.5), rng.uniform(10, 300), rng.uniform(0.5, 1.2)

    def parts(m: Making) -> list[Part]:
        most = share * m.program.room
        every = m.requests(m.program.length / per)
        r = m.rng
        return [Peaks(every, lambda: 0.1 * most * exp(r.gauss(0, sigma)), 0.9, most)]

    return Traits(parts, stands_out=True)


@behaviour(HEALTHY)
def big_step(rng: Random) -> Traits:
    share, at = rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.8)

    def parts(m: Making) -> list[Part]:
        when = at * m.program.length + m.rng.uniform(0, 120) - m.born
        return [Steps([(when, share * m.program.room, m.rng.uniform(1, 15))])]

    return Traits(parts, stands_out=True, attach=False)


@behaviour(HEALTHY)
def gc_sawtooth(rng: Random) -> Traits:
    size, period = rng.uniform(2, 40), lognormal(rng, 20, 900)

    def parts(m: Making) -> list[Part]:
        return [Garbage(min(size, 0.4 * m.program.room), m.requests(period), m.rng)]

    return Traits(parts)


@behaviour(HEALTHY)
def gc_sawtooth_slow(rng: Random) -> Traits:
    """A full collection only every so many minutes: between two, a straight line."""
    size, teeth = rng.uniform(5, 40), rng.uniform(8, 60)

    def parts(m: Making) -> list[Part]:
        every = m.requests(min(m.program.length / teeth, 20 * MINUTE))
        return [Garbage(min(size, 0.2 * m.program.room), every, m.rng)]

    return Traits(parts)


@behaviour(HEALTHY)
def max_requests(rng: Random) -> Traits:
    """Healthy workers, whose lives max_requests ends."""
    share, size = lognormal(rng, 0.07, 0.4), rng.uniform(0, 20)

    def parts(m: Making) -> list[Part]:
        return [Cache(min(size, 0.3 * m.program.room), m.requests(6 * MINUTE), linear=False)]

    return Traits(parts, events="max_requests", life=share, shape="flat", ticks=(5, 5, 60))


@behaviour(HEALTHY)
def preload_cow(rng: Random) -> Traits:
    """USS in a straight line, RSS flat: reference counting unshares the master's image."""
    unshare = rng.choice(("line", "line", "curve"))
    return Traits(nothing, preload=True, unshare=unshare, attach=False)


@behaviour(HEALTHY)
def page_cache(rng: Random) -> Traits:
    """Files read by mapping them: RSS in a straight line, the pages are everybody's."""
    share, over = rng.uniform(0.1, 0.9), rng.uniform(0.3, 1.5)
    return Traits(
        nothing,
        mapped=lambda m: Mapped(share * m.program.room, over * m.program.length),
    )


@behaviour(HEALTHY)
def mmap_file(rng: Random) -> Traits:
    share, over = rng.uniform(0.1, 0.8), rng.uniform(0.05, 1.0)
    return Traits(
        nothing,
        mapped=lambda m: Mapped(
            min(share * m.program.room, 400.0), over * m.program.length * m.rng.uniform(0.8, 1.3)
        ),
        shape="bursts",
    )


@behaviour(HEALTHY)
def shared_memory(rng: Random) -> Traits:
    share, over = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.8)
    return Traits(
        lambda m: [Buffers(m.rng.uniform(0.5, 3), 300.0)],
        mapped=lambda m: Mapped(share * m.program.room, over * m.program.length),
    )


@behaviour(HEALTHY)
def uneven_load(rng: Random) -> Traits:
    """One worker has most of the requests, and what comes with them."""
    share, tau = rng.uniform(0.1, 0.45), rng.uniform(0.02, 0.2)
    busy = rng.uniform(3.0, 20.0)

    def parts(m: Making) -> list[Part]:
        of = m.program.load_mean * busy * tau * m.program.length
        return [Cache(share * m.program.room, of, linear=False)]

    return Traits(parts, weights=(busy, *[rng.uniform(0.5, 1.2)] * 7))


@behaviour(HEALTHY)
def uneven_work(rng: Random) -> Traits:
    """Siblings whose work differs 1.7 times, each with a cache that follows it."""
    share, tau = rng.uniform(0.1, 0.4), rng.uniform(0.02, 0.12)
    weights = tuple(rng.choice((0.75, 0.9, 1.0, 1.28)) for _ in range(8))

    def parts(m: Making) -> list[Part]:
        of = m.program.load_mean * tau * m.program.length
        return [Cache(share * m.program.room, of, linear=False)]

    return Traits(parts, weights=weights)


@behaviour(HEALTHY)
def mixed_ages(rng: Random) -> Traits:
    """Siblings of different age, with a cache that needs its time."""
    share, tau = rng.uniform(0.1, 0.4), rng.uniform(0.02, 0.1)
    return Traits(
        lambda m: [_cache(m, share, tau * m.program.length, False)], events="ages", attach=True
    )


@behaviour(HEALTHY)
def fresh_without_traffic(rng: Random) -> Traits:
    """Keep-alive clients stay with the old workers: a fresh one has nothing to do at first."""
    share, minutes = rng.uniform(0.1, 0.4), rng.uniform(2, 8)
    return Traits(
        lambda m: [_cache(m, share, minutes * MINUTE, False)], events="fresh", attach=False
    )


@behaviour(HEALTHY)
def diurnal(rng: Random) -> Traits:
    each, decay = rng.uniform(1, 12), lognormal(rng, 60, 7200)
    return Traits(lambda m: [Buffers(_sqrt(each, m), decay)], shape="diurnal")


@behaviour(HEALTHY)
def bursts(rng: Random) -> Traits:
    each, decay = rng.uniform(1, 8), lognormal(rng, 30, 3600)
    return Traits(lambda m: [Buffers(_sqrt(each, m), decay)], shape="bursts")


def _sqrt(each: float, m: Making) -> float:
    """MB per square root of the rate, so that it stays within the room."""
    most = m.program.rate * 8 * m.weight * 1.8
    return min(each, 0.4 * m.program.room / sqrt(most))


@behaviour(HEALTHY)
def idle_then_busy(rng: Random) -> Traits:
    size, minutes = rng.uniform(5, 80), lognormal(rng, 1, 12)

    def parts(m: Making) -> list[Part]:
        of = m.program.rate * m.weight * minutes * MINUTE
        return [
            Cache(min(size, 0.5 * m.program.room), of / 3, linear=False),
            Buffers(_sqrt(rng.uniform(1, 5), m), 600.0),
        ]

    return Traits(parts, shape="idle")


@behaviour(HEALTHY)
def swap_out(rng: Random) -> Traits:
    return Traits(nothing, swap=True)


@behaviour(HEALTHY)
def huge_pages(rng: Random) -> Traits:
    size, period = rng.uniform(1, 8), lognormal(rng, 30, 900)
    return Traits(lambda m: [Garbage(size, m.requests(period), m.rng)], quantum=2.0)


@behaviour(HEALTHY)
def quantised(rng: Random) -> Traits:
    """Memory that comes in arenas: long level stretches, small steps."""
    return Traits(lambda m: [Fragments(m.rng.uniform(0.2, 1), m.requests(300))], quantum=1.0)


@behaviour(HEALTHY)
def ties(rng: Random) -> Traits:
    """The same number for hours."""
    return Traits(nothing, quiet=True, quantum=rng.choice((0.25, 1.0)))


@behaviour(HEALTHY)
def sampling_gaps(rng: Random) -> Traits:
    size = rng.uniform(2, 15)
    return Traits(lambda m: [Garbage(size, m.requests(200), m.rng)], gaps=rng.uniform(0.12, 0.35))


@behaviour(HEALTHY)
def doubled_ticks(rng: Random) -> Traits:
    size = rng.uniform(2, 15)
    return Traits(
        lambda m: [Garbage(size, m.requests(200), m.rng)], doubled=rng.uniform(0.02, 0.15)
    )


@behaviour(HEALTHY)
def clock_steps(rng: Random) -> Traits:
    share, tau = rng.uniform(0.02, 0.3), rng.uniform(0.02, 0.1)
    return Traits(lambda m: [_cache(m, share, tau * m.program.length, False)], steps=True)


@behaviour(HEALTHY)
def ttin_ttou(rng: Random) -> Traits:
    size = rng.uniform(2, 20)
    return Traits(
        lambda m: [Cache(min(size, 0.3 * m.program.room), m.requests(300), linear=False)],
        events="ttin",
    )


@behaviour(HEALTHY)
def hup(rng: Random) -> Traits:
    size = rng.uniform(2, 25)
    return Traits(
        lambda m: [Cache(min(size, 0.3 * m.program.room), m.requests(200), linear=False)],
        events="hup",
    )


@behaviour(HEALTHY)
def sibling_recycled(rng: Random) -> Traits:
    """PSS and USS of the others jump when a worker goes."""
    return Traits(nothing, preload=True, events="siblings")


@behaviour(HEALTHY)
def jemalloc(rng: Random) -> Traits:
    size, every = rng.uniform(2, 30), lognormal(rng, 10, 120)
    return Traits(
        lambda m: [
            Decay(min(size, 0.3 * m.program.room), every),
            Fragments(m.rng.uniform(0.3, 2), m.requests(600)),
        ],
        quantum=rng.choice((PAGE / MB, 0.0625)),
    )


@behaviour(HEALTHY)
def arenas(rng: Random) -> Traits:
    count, size = rng.choice((4, 8, 16)), rng.uniform(1, 6)
    share = rng.uniform(0.02, 0.15)

    def parts(m: Making) -> list[Part]:
        most = min(size, 0.4 * m.program.room / count)
        every = m.requests(share * m.program.length) / (count * most)
        return [Arenas(count, most, every * count / 2, m.rng)]

    return Traits(parts)


@behaviour(HEALTHY)
def fragmentation(rng: Random) -> Traits:
    size, scale = rng.uniform(0.5, 5), lognormal(rng, 60, 1200)
    return Traits(lambda m: [Fragments(min(size, 0.05 * m.program.room), m.requests(scale))])


@behaviour(HEALTHY)
def trap_mixture(rng: Random) -> Traits:
    """Several traps at once."""
    return _dressed(rng, None)


DRESSES = (
    "drifting",
    "lazy_imports",
    "giant_requests",
    "gc_sawtooth",
    "expiring_cache",
    "fragmentation",
    "arenas",
    "jemalloc",
)
SCENES = (
    "page_cache",
    "swap_out",
    "sampling_gaps",
    "ttin_ttou",
    "preload_cow",
    "huge_pages",
    "diurnal",
)


def _dressed(rng: Random, leak: Traits | None) -> Traits:
    """Two traps together, and a leak among them."""
    scene = BEHAVIOURS[rng.choice(SCENES)](rng)
    dress = BEHAVIOURS[rng.choice(DRESSES)](rng)
    inner = scene.parts
    if leak is None:
        scene.parts = lambda m: [*inner(m), *dress.parts(m)]
    else:
        lost = leak.parts
        scene.parts = lambda m: [*inner(m), *dress.parts(m), *lost(m)]
        scene.label, scene.eats, scene.begins = leak.label, leak.eats, leak.begins
        scene.guilty = leak.guilty
    scene.stands_out = scene.stands_out or dress.stands_out
    return scene


# Leaks.


def _lose(m: Making, by: str = "requests", grain: float = 1.0, factor: float = 1.0) -> Leak:
    program = m.program
    return Leak(
        program.leak_rate * factor * (m.rng.uniform(0.9, 1.1) if by == "time" else 1.0),
        program.load_mean,
        by,
        program.begins,
        grain,
        max(program.length - program.begins, 1.0),
    )


def _leak(**traits: Any) -> Traits:
    parts = traits.pop("parts", lambda m: [_lose(m)])
    return Traits(parts, label=LEAKS, **traits)


@behaviour(LEAKS)
def leak_steady(rng: Random) -> Traits:
    """The same per request."""
    return _leak()


@behaviour(LEAKS)
def leak_by_time(rng: Random) -> Traits:
    """A thread of its own that loses memory, requests or not."""
    return _leak(parts=lambda m: [_lose(m, "time")])


@behaviour(LEAKS)
def leak_fast(rng: Random) -> Traits:
    """The room is gone in 2 to 30 minutes, of a leak that begins in a warm worker."""
    begins = (0.1, 0.6)
    return _leak(
        minutes=(2.5, 30), begins=begins, ticks=(5,), most=3 * HOUR, attach=False, shape="flat"
    )


@behaviour(LEAKS)
def leak_fast_from_birth(rng: Random) -> Traits:
    return _leak(minutes=(5, 30), ticks=(5,), most=2 * HOUR, attach=False, shape="flat")


@behaviour(LEAKS)
def leak_fast_slow_ticks(rng: Random) -> Traits:
    """Gone within an hour or two, at a tick a minute."""
    return _leak(minutes=(20, 150), ticks=(60,), most=1.5 * DAY, begins=(0.0, 0.3))


@behaviour(LEAKS)
def leak_slow(rng: Random) -> Traits:
    """About 1 MB/h: told by its length and its straightness."""
    by = rng.choice(("requests", "time"))
    return _leak(parts=lambda m: [_lose(m, by)], eats=(0.15, 0.7), least=5 * HOUR, attach=None)


@behaviour(LEAKS)
def leak_stairs(rng: Random) -> Traits:
    size = lognormal(rng, 0.5, 12)
    return _leak(parts=lambda m: [_lose(m, "stairs", min(size, 0.05 * m.program.room))])


@behaviour(LEAKS)
def leak_masked(rng: Random) -> Traits:
    """max_requests ends each life before the leak has gone far."""
    return _leak(
        events="max_requests",
        life=rng.uniform(0.15, 0.4),
        shape="flat",
        ticks=(5,),
        least=4 * HOUR,
        eats=(0.1, 0.7),
        attach=False,
    )


@behaviour(LEAKS)
def leak_one_worker(rng: Random) -> Traits:
    return _leak(parts=lambda m: [_lose(m)] if m.place == 0 else [], guilty=0, stands_out=True)


@behaviour(LEAKS)
def leak_one_endpoint(rng: Random) -> Traits:
    """Few requests lose much: only one endpoint leaks."""
    grain = lognormal(rng, 0.1, 3)
    return _leak(parts=lambda m: [_lose(m, "sporadic", grain)])


@behaviour(LEAKS)
def leak_under_preload(rng: Random) -> Traits:
    return _leak(preload=True, unshare=rng.choice(("line", "curve", "jump")))


@behaviour(LEAKS)
def leak_under_swap(rng: Random) -> Traits:
    return _leak(swap=True)


@behaviour(LEAKS)
def leak_after_cache(rng: Random) -> Traits:
    """A cache fills, then the leak shows."""
    share, part = rng.uniform(0.1, 0.35), rng.uniform(0.03, 0.15)
    linear = rng.random() < 0.5
    return _leak(
        parts=lambda m: [_cache(m, share, part * m.program.length, linear), _lose(m)],
        begins=(0.2, 0.4),
        eats=(0.6, 6.0),
    )


@behaviour(LEAKS)
def leak_under_cache(rng: Random) -> Traits:
    """It leaks while a saturating cache fills."""
    share, tau = rng.uniform(0.05, 0.3), rng.uniform(0.03, 0.15)
    return _leak(parts=lambda m: [_cache(m, share, tau * m.program.length, False), _lose(m)])


@behaviour(LEAKS)
def leak_late(rng: Random) -> Traits:
    """Begins hours after the boot."""
    return _leak(begins=(0.2, 0.6), eats=(0.6, 6.0))


@behaviour(LEAKS)
def leak_accelerating(rng: Random) -> Traits:
    return _leak(parts=lambda m: [_lose(m, "accelerating")], eats=(0.6, 6.0))


@behaviour(LEAKS)
def leak_nights(rng: Random) -> Traits:
    """Pauses at night."""
    return _leak(shape="nights", eats=(0.5, 6.0))


@behaviour(LEAKS)
def leak_diurnal(rng: Random) -> Traits:
    each = rng.uniform(0.5, 4)
    return _leak(parts=lambda m: [_lose(m), Buffers(_sqrt(each, m), 900.0)], shape="diurnal")


@behaviour(LEAKS)
def leak_bursts(rng: Random) -> Traits:
    return _leak(shape="bursts")


@behaviour(LEAKS)
def leak_sawtooth(rng: Random) -> Traits:
    """Under the teeth of the garbage collector."""
    size, period = rng.uniform(2, 30), lognormal(rng, 20, 600)
    return _leak(
        parts=lambda m: [
            Garbage(min(size, 0.15 * m.program.room), m.requests(period), m.rng),
            _lose(m),
        ]
    )


@behaviour(LEAKS)
def leak_uneven(rng: Random) -> Traits:
    """Slopes of siblings differ."""
    return _leak(weights=(1.6, 0.94, 1.2, 0.95, 1.1, 1.3, 1.0, 1.5), stands_out=True)


@behaviour(LEAKS)
def leak_with_giants(rng: Random) -> Traits:
    share, per = rng.uniform(0.05, 0.2), rng.uniform(2, 12)

    def parts(m: Making) -> list[Part]:
        size = share * m.program.room
        every = m.requests(m.program.length / per)
        return [Peaks(every, lambda: size, m.rng.uniform(0.0, 0.8), size), _lose(m)]

    return _leak(parts=parts, stands_out=True)


@behaviour(LEAKS)
def leak_with_page_cache(rng: Random) -> Traits:
    share, over = rng.uniform(0.1, 0.5), rng.uniform(0.1, 1.0)
    return _leak(mapped=lambda m: Mapped(share * m.program.room, over * m.program.length))


@behaviour(LEAKS)
def leak_huge_pages(rng: Random) -> Traits:
    return _leak(quantum=2.0)


@behaviour(LEAKS)
def leak_with_gaps(rng: Random) -> Traits:
    gaps, doubled = rng.uniform(0.1, 0.3), rng.uniform(0.0, 0.1)
    return _leak(gaps=gaps, doubled=doubled, steps=rng.random() < 0.5)


@behaviour(LEAKS)
def leak_through_restarts(rng: Random) -> Traits:
    """HUPs and recycles by others cut its lives."""
    return _leak(events=rng.choice(("hup", "siblings", "ttin")), eats=(1.0, 8.0))


@behaviour(LEAKS)
def leak_mixture(rng: Random) -> Traits:
    """A leak among traps."""
    by = rng.choice(("requests", "requests", "time", "sporadic", "stairs"))
    begins = rng.choice(((0.0, 0.0), (0.0, 0.4)))
    return _dressed(rng, _leak(parts=lambda m: [_lose(m, by)], begins=begins, eats=(0.6, 6.0)))


# Imbalance, and what else detectors speak of.


@behaviour(IMBALANCED)
def one_job(rng: Random) -> Traits:
    """One worker ran a job, and keeps what it took."""
    share, at = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.6)

    def parts(m: Making) -> list[Part]:
        if m.place != 0:
            return []
        size = max(share * m.program.room, 1.2 * (m.program.base + m.program.warm), 70.0)
        return [Blob(min(size, 0.8 * m.program.room), at * m.program.length)]

    return Traits(parts, label=IMBALANCED, guilty=0)


@behaviour(IMBALANCED)
def born_large(rng: Random) -> Traits:
    """One worker loaded what the others did not, soon after it was born."""
    share, minutes = rng.uniform(0.25, 0.6), rng.uniform(0.1, 2)

    def parts(m: Making) -> list[Part]:
        if m.place != 0:
            return []
        size = max(share * m.program.room, 1.2 * (m.program.base + m.program.warm), 70.0)
        return [Steps([(60.0, min(size, 0.8 * m.program.room), minutes * MINUTE)])]

    return Traits(parts, label=IMBALANCED, guilty=0)


@behaviour(HEALTHY)
def leak_of_files(rng: Random) -> Traits:
    """Open files grow; memory does not."""
    return Traits(nothing, fds=rng.uniform(20, 300))


@behaviour(HEALTHY)
def leak_of_master(rng: Random) -> Traits:
    return Traits(nothing, master=rng.uniform(5, 60))


# Each phrase of the lists of traps and of leaks, and who covers it.
PHRASES: dict[str, tuple[str, ...]] = {
    "warm-up": ("warm_up", "warm_up_by_requests"),
    "a few lazy imports": ("lazy_imports",),
    "a cascade of heavy imports": ("import_cascade",),
    "LRU saturating": ("lru_saturating",),
    "LRU filling linearly, then flat": ("lru_linear", "lru_linear_quick"),
    "giant requests": ("giant_requests",),
    "allocator high-water mark": ("high_water", "giant_requests"),
    "one big step": ("big_step",),
    "gc sawtooth": ("gc_sawtooth", "gc_sawtooth_slow"),
    "max_requests sawtooth": ("max_requests",),
    "copy-on-write under `--preload`": ("preload_cow",),
    "page cache": ("page_cache",),
    "mmap": ("mmap_file",),
    "shared memory": ("shared_memory",),
    "uneven load": ("uneven_load", "uneven_work"),
    "siblings of different age": ("mixed_ages",),
    "a fresh worker without traffic": ("fresh_without_traffic",),
    "diurnal load": ("diurnal", "expiring_cache"),
    "bursts": ("bursts",),
    "long idle then busy": ("idle_then_busy",),
    "swap-out": ("swap_out",),
    "a leak under it must be found": ("leak_under_swap",),
    "huge pages": ("huge_pages",),
    "page quantisation": ("quantised",),
    "ties": ("ties",),
    "sampling gaps of 10 s": ("sampling_gaps",),
    "doubled ticks": ("doubled_ticks",),
    "clock steps": ("clock_steps",),
    "TTIN/TTOU": ("ttin_ttou",),
    "HUP": ("hup",),
    "a sibling's recycle": ("sibling_recycled",),
    "jemalloc": ("jemalloc",),
    "arenas": ("arenas",),
    "fast leaks": ("leak_fast", "leak_fast_from_birth", "leak_fast_slow_ticks"),
    "slow ones (1 MB/h)": ("leak_slow",),
    "staircases": ("leak_stairs",),
    "leaks masked by max_requests": ("leak_masked",),
    "leak in one worker only": ("leak_one_worker",),
    "in one endpoint only": ("leak_one_endpoint",),
    "leak under preload": ("leak_under_preload",),
    "under swap": ("leak_under_swap",),
    "after a cache has filled": ("leak_after_cache", "leak_under_cache"),
    "starting hours after boot": ("leak_late",),
    "accelerating": ("leak_accelerating",),
    "leaks with pauses at night": ("leak_nights",),
}

# One behaviour for each phrase, and the plain ones; the others are variants, mostly harder.
BASIC = {"plain", "leak_steady", "one_job", *(names[0] for names in PHRASES.values())}


# --- drawing programs -----------------------------------------------------------------------


def programs(seed: int, count: int, kinds: tuple[str, ...] = ()) -> Iterator[Program]:
    """`count` programs of a seed; every behaviour comes up about equally often."""
    names = [name for name in BEHAVIOURS if not kinds or name in kinds]
    order: list[str] = []
    rng = Random(f"order {seed}")
    for index in range(count):
        if not order:
            order = list(names)
            rng.shuffle(order)
        yield draw(f"{seed} {index}", order.pop())


def draw(seed: str, name: str) -> Program:
    """The program of a behaviour; the same for the same seed."""
    rng = Random(f"{seed} {name}")
    traits = BEHAVIOURS[name](rng)
    p = Program(seed, name, LABELS[name], traits)
    p.tick = rng.choice(traits.ticks)
    low, high = (1 * HOUR, 8 * HOUR) if p.tick == 5 else (12 * HOUR, 7 * DAY)
    high = min(high, traits.most)
    p.length = lognormal(rng, min(max(low, traits.least), high), max(high, low))
    p.count = rng.choice((2, 2, 3, 3, 4, 4, 5, 6, 8))
    p.base = lognormal(rng, 20, 180)
    p.warm, p.warm_tau = rng.uniform(2, 40), rng.uniform(4, 45)
    p.drift = rng.choice((0.0, 0.05, 0.13, 0.13))
    p.room = lognormal(rng, 90, 1500)
    p.noise = rng.choice((0.3, 1.0, 3.0, rng.uniform(0.1, 8.0))) * min(1.0, p.room / 300)
    if rng.random() < 0.6:
        p.breath, p.breath_tau = lognormal(rng, 0.05, 1.5), lognormal(rng, 20, 1500)
        p.breath *= min(1.0, p.room / 300)
    quanta = (PAGE / MB, PAGE / MB, 0.125, 0.25, 1.0)
    p.quantum = traits.quantum if traits.quantum is not None else rng.choice(quanta)
    p.preload = traits.preload if traits.preload is not None else rng.random() < 0.2
    p.image = min(p.base * rng.uniform(0.6, 0.95), 120.0) if p.preload else rng.uniform(6, 25)
    p.text = rng.uniform(6, 28)
    p.rate = lognormal(rng, 0.15, 40)
    shapes = ("flat", "flat", "flat", "diurnal", "bursts")
    p.shape = traits.shape if traits.shape is not None else rng.choice(shapes)
    p.load_mean = Load(p.rate, p.shape, p.length, Random(f"{seed}/load")).mean
    p.cost, p.service = lognormal(rng, 0.002, 0.05), lognormal(rng, 0.005, 0.3)
    p.threads = rng.choice((1, 1, 1, 4, 8))
    p.shuffled = rng.random() < 0.15
    p.known = _known(rng, traits)
    if traits.attach is not False and (traits.attach or not p.known.age or rng.random() < 0.3):
        p.attached = lognormal(rng, 15 * MINUTE, max(0.5 * p.length, 20 * MINUTE))
    elif not p.known.age:
        p.known = p.known._replace(age=True)
    _limits(rng, p)
    if traits.label == LEAKS:
        _leaks(rng, p)
    return p


def _known(rng: Random, traits: Traits) -> Known:
    sort = rng.random()
    shared = anon = uss = True
    every = 1
    if sort < 0.5:
        every = rng.choice((1, 1, 1, 6))
    elif sort < 0.75:
        anon = False
    elif sort < 0.85:
        anon = uss = False
    else:
        shared = anon = False
    age = rng.random() < 0.85
    return Known(
        shared=shared,
        anon=anon,
        uss=uss,
        every=every,
        swap=traits.swap or rng.random() < 0.9,
        cpu=rng.random() < 0.9,
        requests=rng.random() < 0.4,
        age=age,
        master=bool(traits.master) or rng.random() < 0.85,
        approximate=rng.random() < 0.5,
    )


def _limits(rng: Random, p: Program) -> None:
    """What a worker may hold, as a limit counts it, and who says so."""
    settled = p.base * 1.03 + p.warm * 1.1 + (0.0 if p.traits.quiet else 3.0)
    if not p.known.uss:
        settled += p.text * 1.03
    if p.traits.mapped is not None and not p.known.uss:
        settled += 0.9 * p.room  # what is mapped is no leak, and no reason to die
    p.ceiling = settled + p.room
    sort = rng.random()
    if sort < 0.85 or p.traits.events in ("ttin", "hup"):
        return
    p.announced = "available" if sort < 0.95 else "total_limit"
    share = 0.9 if p.announced == "available" else 0.95
    p.shared_room = (p.count * p.ceiling + p.image + p.text + 8) / share


def _leaks(rng: Random, p: Program) -> None:
    """How fast it leaks, and from when on."""
    traits = p.traits
    p.begins = p.length * rng.uniform(*traits.begins)
    if p.attached and traits.begins == (0.0, 0.0):
        # What leaked before the watch is in nobody's books: begin with the watch, or lately.
        p.attached = min(p.attached, 30 * MINUTE)
        p.begins = 0.0
    if traits.minutes is not None:
        p.leak_rate = p.room / (lognormal(rng, *traits.minutes) * MINUTE)
    else:
        span = p.lasts or (p.length - p.begins)
        p.leak_rate = p.room * lognormal(rng, *traits.eats) / span
        # Nothing that no observer could tell from noise: enough is lost by the end.
        p.leak_rate = max(p.leak_rate, (15.0 + 8 * p.breath) / span)
        fastest = 200 if p.tick == 5 else 40
        p.leak_rate = min(p.leak_rate, p.room / (fastest * p.tick))
