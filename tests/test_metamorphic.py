"""What must not change a verdict: properties of the detectors over made-up programs.

Each takes a program, changes something that says nothing about its memory (or more growth, which
says something), and compares what the detectors say, through `remember` and `examine` alone.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from histories import MB, MINUTE, Curve
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisor_memwatch import detectors
from supervisor_memwatch.model import LEAK, RUNNING, Snapshot, Verdict, Worker, WorkerId
from supervisor_memwatch.options import Ceiling, Options

LENGTH = 30 * MINUTE
TICK = 5.0
NOW = 1.7e9  # epoch seconds, exact in binary as are all ticks
WINDOW = 10 * Options().confirm  # seconds: the first one in which growth is looked for

SETTINGS = settings(
    derandomize=True,
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# -- programs


def noise(t: float, pid: int) -> float:
    """Between 0 and 1: requests in flight. Of the moment alone, so it can be sampled at any."""
    return math.sin(t * 12.9898 + pid * 78.233) * 43758.5453 % 1.0


@dataclass(frozen=True)
class Life:
    """A worker: MB of anonymous memory by the seconds since its start."""

    name: str
    curve: Curve
    pid: int = 0  # given by the program
    work: float = 0.1  # units of work per second
    counts: bool = False  # its requests
    noise: float = 0.3
    start: int = 1

    def at(self, t: float) -> Worker:
        anon = int((self.curve(t) + self.noise * noise(t, self.pid)) * MB)
        done = self.work * t
        return Worker(
            WorkerId(self.pid, self.start),
            300.0 + t,
            anon + 12 * MB,
            12 * MB,
            anon,
            swap=0,
            cpu=done,
            fds=20,
            threads=1,
            requests=int(100 * done) if self.counts else None,
        )


Program = tuple[Life, ...]


def program(lives: Iterable[Life]) -> Program:
    return tuple(replace(life, pid=101 + n) for n, life in enumerate(lives))


def leak(rate: float, after: float = 0.0) -> Life:
    """MB per minute, from a minute on."""
    return Life("leak", lambda t: 60 + rate * max(t / MINUTE - after, 0.0))


def staircase(rate: float, every: float) -> Life:
    """The same in steps that are `every` seconds apart."""
    return Life("staircase", lambda t: 60 + rate * (t // every) * every / MINUTE)


def sawing_leak(rate: float, height: float) -> Life:
    return Life("sawing leak", lambda t: 60 + rate * t / MINUTE + height * (t % 47) / 47)


def filling(size: float, minutes: float) -> Life:
    """A cache that fills, ever slower; with `minutes` of a few, a warm-up."""
    return Life("filling", lambda t: 60 + size * (1 - math.exp(-t / (minutes * MINUTE))))


def full(rate: float, minutes: float) -> Life:
    """A cache that fills in a straight line, until it is full."""
    return Life("full", lambda t: 60 + rate * min(t / MINUTE, minutes))


def step(size: float, minute: float) -> Life:
    return Life("step", lambda t: 60 + (size if t >= minute * MINUTE else 0.0))


def saw(height: float, period: float) -> Life:
    return Life("saw", lambda t: 60 + height * (t % period) / period)


def plus(life: Life, rate: float) -> Life:
    """The same worker, growing faster by MB per minute."""
    return replace(life, curve=lambda t: life.curve(t) + rate * t / MINUTE)


def tenths(least: int, most: int) -> st.SearchStrategy[float]:
    return st.integers(least * 10, most * 10).map(lambda n: n / 10)


LEAKS = st.one_of(
    st.builds(leak, tenths(2, 20), st.integers(0, 10)),
    st.builds(sawing_leak, tenths(3, 20), tenths(0, 15)),
)
HEALTHY = st.one_of(
    st.builds(leak, st.just(0.0)),
    st.builds(filling, tenths(5, 60), tenths(1, 2).map(lambda n: n / 2)),
    st.builds(step, tenths(10, 200), st.integers(3, 20)),
    st.builds(saw, tenths(1, 20), st.integers(31, 90)),
)
GROWING = st.one_of(
    LEAKS,
    st.builds(full, tenths(1, 10), st.integers(3, 28)),
    st.builds(staircase, tenths(1, 10), st.integers(60, 300)),
    st.builds(leak, tenths(0, 2)),
)
FILLING = st.builds(filling, tenths(20, 200), tenths(2, 20))


def some(
    lives: st.SearchStrategy[Life], least: int = 1, most: int = 4
) -> st.SearchStrategy[Program]:
    """Programs of such workers, each of its own load, all of them counting requests or none."""

    def made(lives: list[Life], loads: list[int], counts: bool) -> Program:
        return program(
            replace(life, work=load / 50, counts=counts)
            for life, load in zip(lives, loads, strict=False)
        )

    loads = st.lists(st.integers(1, 40), min_size=most, max_size=most)
    return st.builds(made, st.lists(lives, min_size=least, max_size=most), loads, st.booleans())


ANY = some(st.one_of(GROWING, FILLING, HEALTHY))


# -- what the detectors say of them


class Said(NamedTuple):
    """At one look."""

    at: float
    verdicts: dict[WorkerId | None, tuple[Verdict, ...]]

    def leaks(self, acted: bool = False) -> set[int]:
        """The pids of those that are told to leak."""
        return {
            id.pid
            for id, verdicts in self.verdicts.items()
            for verdict in verdicts
            if id is not None and verdict.kind == LEAK and (verdict.act if acted else verdict.told)
        }


def times(offset: float = 0.0, tick: float = TICK) -> list[float]:
    return [offset + tick * n for n in range(int(LENGTH / tick))]


def snapshots(
    lives: Program, at: Iterable[float] | None = None, begin: float = NOW
) -> list[Snapshot]:
    return [
        Snapshot(
            "web", begin + t, RUNNING, 1, "gunicorn", None, tuple(life.at(t) for life in lives)
        )
        for t in (times() if at is None else at)
    ]


LIMITED = Options(limit=Ceiling(bytes=600 * MB))
UNLIMITED = Options(limit=None, total_limit=None)
OPTIONS = st.sampled_from([LIMITED, Options(limit=Ceiling(bytes=250 * MB)), UNLIMITED])


def judge(
    seen: Iterable[Snapshot], options: Options = LIMITED, reloaded: Collection[int] = ()
) -> list[Said]:
    """What is said at each look. `reloaded`: before which looks the listener was started anew."""
    past = detectors.Past()
    said = []
    for index, snapshot in enumerate(seen):
        if index in reloaded:
            past = detectors.Past.load(json.loads(json.dumps(past.dump())))
        detectors.remember(options, past, snapshot)
        said.append(Said(snapshot.at, detectors.examine(options, snapshot, past)))
    return said


def told_at(said: list[Said], pid: int) -> float | None:
    return next((look.at for look in said if pid in look.leaks()), None)


def renamed(said: list[Said], names: Callable[[WorkerId], WorkerId]) -> list[Said]:
    return [
        Said(look.at, {id and names(id): found for id, found in look.verdicts.items()})
        for look in said
    ]


def in_short(said: Said, since: float = 0.0) -> dict[int, list[tuple[str, float, bool, bool]]]:
    """Verdicts without what depends on the last bits of a sum."""
    return {
        id.pid if id is not None else 0: [(v.kind, v.since - since, v.told, v.act) for v in found]
        for id, found in said.verdicts.items()
    }


# -- what changes no verdict


def test_the_programs_show_all_there_is_to_be_shown() -> None:
    """Else the properties say nothing: leaks are told, the others are not."""
    leaking = program([leak(20.0), sawing_leak(5.0, 10.0), leak(5.0, after=10.0)])
    healthy = program([leak(0.0), filling(40.0, 1.0), step(100.0, 10.0), saw(15.0, 60.0)])
    assert judge(snapshots(leaking))[-1].leaks() == {101, 102, 103}
    assert 101 in judge(snapshots(leaking))[-1].leaks(acted=True)
    assert not judge(snapshots(healthy))[-1].leaks()


@SETTINGS
@given(ANY, OPTIONS, st.randoms(use_true_random=False), st.integers(1, 30000))
def test_neither_the_order_of_workers_nor_their_pids(
    lives: Program, options: Options, chance: random.Random, by: int
) -> None:
    """Nor the start times by which a pid is told from the one before it."""
    seen = snapshots(lives)
    moved = []
    for snapshot in seen:
        workers = [
            worker._replace(id=WorkerId(worker.id.pid + by, worker.id.start))
            for worker in snapshot.workers
        ]
        chance.shuffle(workers)
        moved.append(snapshot._replace(workers=tuple(workers)))
    back = renamed(judge(moved, options), lambda id: WorkerId(id.pid - by, id.start))
    assert judge(seen, options) == back


@SETTINGS
@given(ANY, OPTIONS, st.sets(st.integers(1, len(times()) - 1), min_size=1, max_size=6))
def test_no_interruption_of_the_listener(
    lives: Program, options: Options, breaks: set[int]
) -> None:
    """What it remembers is written down and read again, exactly."""
    seen = snapshots(lives)
    assert judge(seen, options) == judge(seen, options, reloaded=breaks)


@SETTINGS
@given(ANY, OPTIONS, st.integers(-int(NOW), int(NOW)))
def test_not_the_zero_of_time(lives: Program, options: Options, offset: int) -> None:
    """Seconds since 1970 or since the recording began."""
    plain = judge(snapshots(lives), options)
    moved = judge(snapshots(lives, begin=NOW + offset), options)
    assert [in_short(look, NOW) for look in plain] == [
        in_short(look, NOW + offset) for look in moved
    ]


@SETTINGS
@given(some(st.one_of(LEAKS, HEALTHY)), st.integers(0, 49), st.sampled_from([5.0, 7.0]))
def test_not_the_phase_of_the_ticks(lives: Program, phase: int, tick: float) -> None:
    """Nor their period: of curves that are clear the same is said in the end, and a leak is told
    at the same time but for a window."""
    plain = judge(snapshots(lives))
    moved = judge(snapshots(lives, times(phase / 10, tick)))
    assert plain[-1].leaks() == moved[-1].leaks()
    for pid in plain[-1].leaks():
        before, after = told_at(plain, pid), told_at(moved, pid)
        assert before is not None and after is not None
        assert abs(after - before) <= WINDOW


@SETTINGS
@given(ANY, HEALTHY, st.integers(0, 4))
def test_not_a_healthy_sibling(lives: Program, other: Life, place: int) -> None:
    """Where there is no budget to share, what is said of a worker's growth is its own."""
    alone = judge(snapshots(lives), UNLIMITED)
    joined = (*lives[:place], replace(other, pid=999), *lives[place:])
    together = judge(snapshots(joined), UNLIMITED)
    assert [look.leaks() for look in alone] == [look.leaks() - {999} for look in together]


@SETTINGS
@given(ANY, st.integers(1, len(times()) - 1), st.sampled_from([1, 5, 59, 3600, 86400, 10**8]))
def test_not_a_clock_that_is_set_back(lives: Program, when: int, back: int) -> None:
    """Nothing that is told is lost by it; and in the end the same is told as without."""
    seen = snapshots(lives)
    stepped = [
        snapshot._replace(at=snapshot.at - (back if index >= when else 0))
        for index, snapshot in enumerate(seen)
    ]
    plain, moved = judge(seen), judge(stepped)
    assert moved[when].leaks() >= plain[when - 1].leaks() & plain[when].leaks()
    assert moved[-1].leaks() == plain[-1].leaks()


# -- what may only make a verdict worse


@SETTINGS
@example(program([sawing_leak(2.5, 14.0)]), Options(limit=Ceiling(bytes=250 * MB)), 0.9)
@given(some(GROWING, most=2), OPTIONS, tenths(0, 10))
def test_more_growth_is_never_healthier(lives: Program, options: Options, more: float) -> None:
    """A straight line on top of a worker that is told in the end: it is told still.

    Not of a cache that fills ever slower: when that is told no more is a moment of its own."""
    steeper = tuple(plus(life, more) for life in lives)
    plain = judge(snapshots(lives), options)[-1].leaks()
    assert plain <= judge(snapshots(steeper), options)[-1].leaks()
