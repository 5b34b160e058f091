"""The traps that must stay silent, the leaks that must be found, and how verdicts behave."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from histories import DAY, HOUR, MB, MINUTE, Curve, Life, Preloaded, Said, say, ticks
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_memwatch import detectors, growth, trends
from supervisor_memwatch.model import RUNNING, Snapshot, Worker, WorkerId
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.sizes import RECENT


def line(start: float, per_minute: float, after: float = 0.0) -> Curve:
    return lambda age: start + max(age - after, 0) * per_minute / MINUTE


def fill(start: float, size: float, tau: float) -> Curve:
    """A warm-up or a cache: fast at first, then ever slower."""
    return lambda age: start + size * (1 - math.exp(-age / tau))


def steps(start: float, *at: tuple[float, float]) -> Curve:
    """`at`: (minute, MB more)."""
    return lambda age: start + sum(size for minute, size in at if age >= minute * MINUTE)


def saw(start: float, height: float, period: float) -> Curve:
    return lambda age: start + height * (age % period) / period


def both(*curves: Curve) -> Curve:
    return lambda age: sum(curve(age) for curve in curves)


def giants(seed: int) -> Curve:
    """The high-water mark of an allocator under rare giant requests."""
    chance = random.Random(seed)
    marks = [(chance.expovariate(1 / HOUR), 20 + 50 * chance.random()) for _ in range(8)]
    return lambda age: 60 + max((size for at, size in marks if age >= at), default=0)


FLAT = line(60, 0)

SILENT: dict[str, tuple[list[Life], float, float]] = {
    # name: lives, minutes, tick
    "flat": ([Life(FLAT)], 60, 5),
    "flat at TICK_60": ([Life(FLAT, noise=3)], 1440, 60),
    "warm-up curve": ([Life(fill(20, 60, 60))], 60, 5),
    "warm-up curve longer than the option": ([Life(fill(20, 60, 150))], 60, 5),
    "drift of a healthy Flask worker": (
        [Life(lambda age: 60 + min(age, 10 * MINUTE) * 0.13 / MINUTE)],
        60,
        5,
    ),
    "a few lazy imports": ([Life(steps(40, (4, 12), (9, 3), (17, 25)))], 60, 5),
    "a few imports of one size": ([Life(steps(40, (4, 12), (6, 12), (8, 12), (10, 12)))], 60, 5),
    "a cascade of heavy imports": ([Life(steps(40, (4, 20), (5, 35), (6.2, 15)))], 60, 5),
    "one big step": ([Life(steps(60, (10, 150)))], 60, 5),
    "giant requests 1": ([Life(giants(1))], 240, 5),
    "giant requests 2": ([Life(giants(2))], 240, 5),
    "giant requests 3": ([Life(giants(3))], 240, 5),
    "sawtooth of the garbage collector": ([Life(saw(60, 20, 47))], 120, 5),
    "sawtooth at TICK_60": ([Life(saw(60, 20, 47))], 1440, 60),
    "max_requests sawtooth": (
        [
            Life(fill(30, 40, 40), pid=101 + n, born=n * 300, dies=(n + 1) * 300, start=n)
            for n in range(12)
        ],
        60,
        5,
    ),
    "copy-on-write under preload": (
        [Life(FLAT, uss=line(2, 1.5), shared=lambda age: 80.0)],
        120,
        5,
    ),
    "copy-on-write, only USS and RSS known": (
        [Life(FLAT, uss=line(2, 1.5), hide=("anon", "shared"))],
        120,
        5,
    ),
    "page cache": ([Life(FLAT, shared=line(10, 3))], 120, 5),
    "page cache, only USS and RSS known": (
        [Life(FLAT, shared=line(10, 3), hide=("anon", "shared"))],
        120,
        5,
    ),
    "page cache, anonymous unknown": ([Life(FLAT, shared=line(10, 3), hide=("anon",))], 120, 5),
    "uneven load": (
        [
            Life(fill(40, 150, 300), pid=101, work=lambda age: age),
            *(Life(fill(40, 20, 300), pid=pid, work=lambda age: age / 20) for pid in (102, 103)),
        ],
        60,
        5,
    ),
    "siblings of different age": (
        [Life(FLAT, pid=102), Life(FLAT, pid=103), Life(fill(10, 20, 60), pid=101, born=1800)],
        60,
        5,
    ),
    "diurnal load": (
        [Life(lambda age: 60 + 8 * random.Random(age).random() * math.sin(age / DAY * 6) ** 2)],
        2 * 1440,
        60,
    ),
    "swapped out": ([Life(FLAT, swap=lambda age: min(age / 60, 40))], 60, 5),
    "idle, then busy for a while": (
        [Life(lambda age: 60 if age < HOUR else 60 + 30 * (1 - math.exp((HOUR - age) / 120)))],
        180,
        5,
    ),
}

FOUND: dict[str, tuple[Life, float, float, float]] = {
    # name: life, tick, told after so many minutes at least, at most
    "fast": (Life(line(60, 60)), 5, 5, 8.5),
    "3 MB/min": (Life(line(60, 3)), 5, 5, 8.5),
    "0.3 MB/min": (Life(line(60, 0.3)), 5, 5, 15),
    "0.1 MB/min": (Life(line(60, 0.1)), 5, 15, 60),
    "1 MB/h at TICK_60": (Life(line(60, 1 / 60), noise=1), 60, 60, 12 * 60),
    "1 MB/h at TICK_5": (Life(line(60, 1 / 60)), 5, 60, 12 * 60),
    "starting after hours": (Life(line(60, 2, after=2 * HOUR)), 5, 122.5, 135),
    "accelerating": (Life(lambda age: 60 + 4 * (age / 600) ** 2), 5, 5, 20),
    "staircase": (Life(lambda age: 60 + 5 * (age // 180)), 5, 10, 40),
    "an arena every 75 s": (Life(lambda age: 60 + 4 * (age // 75)), 5, 5, 11),
    "under a sawtooth": (Life(both(line(60, 1), saw(0, 10, 47))), 5, 5, 25),
    "after a warm-up": (Life(both(fill(20, 60, 60), line(0, 1))), 5, 5, 25),
    "under swap": (Life(line(60, 2), swap=lambda age: age * 1.9 / MINUTE), 5, 5, 10),
    "under preload": (Life(line(60, 2), shared=lambda age: 90.0, uss=line(2, 3)), 5, 5, 10),
    "only USS and RSS known": (Life(line(60, 1), hide=("anon", "shared")), 5, 5, 10),
    "anonymous unknown": (Life(line(60, 1), hide=("anon",)), 5, 5, 10),
    "slower at night": (
        Life(
            lambda age: 60 + 2 * (age / MINUTE + 150 / math.pi * math.sin(age / 9000)),
            work=lambda age: age + 9000 * math.sin(age / 9000),
        ),
        5,
        5,
        20,
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_is_no_leak_stays_silent(name: str) -> None:
    lives, minutes, tick = SILENT[name]
    said = say(ticks(lives, minutes * MINUTE, tick))
    assert said.told == {}


@pytest.mark.parametrize("name", [name for name in SILENT if name != "flat"])
def test_what_is_no_leak_stays_silent_with_a_limit(name: str) -> None:
    lives, minutes, tick = SILENT[name]
    said = say(ticks(lives, minutes * MINUTE, tick), limit=400)
    assert said.told == {}


@pytest.mark.parametrize("name", FOUND)
def test_what_leaks_is_told_in_time(name: str) -> None:
    life, tick, least, most = FOUND[name]
    siblings = [Life(FLAT, pid=pid, hide=life.hide) for pid in (102, 103)]
    said = say(ticks([life, *siblings], (most + 20) * MINUTE, tick))
    when = said.when("leak")
    assert when is not None and least * MINUTE <= when <= most * MINUTE
    assert {pid for pid, _ in said.told} == {"101"}


def test_a_leak_is_told_until_the_worker_is_gone_and_not_of_its_successor() -> None:
    """A new id is a new life, even with the same pid."""
    lives = [
        Life(line(60, 3), dies=1200, start=1),
        Life(FLAT, born=1200, start=2),
    ]
    said = say(ticks(lives, 2400))
    told = [answer["t"] for answer in said.answers if answer["verdicts"]]
    assert told[-1] == 1195
    assert len(told) == (1195 - told[0]) / 5 + 1


def test_a_cache_that_is_full_is_no_longer_told() -> None:
    life = Life(lambda age: 60 + min(age / MINUTE, 30))
    said = say(ticks([life], 2 * HOUR))
    told = [answer["t"] for answer in said.answers if answer["verdicts"]]
    assert 5 * MINUTE < told[0] < 10 * MINUTE
    assert 30 * MINUTE < told[-1] < 50 * MINUTE


def test_the_next_worker_may_fill_its_cache_as_its_predecessor_did() -> None:
    """Growth that ended by itself is learned; beyond it, growth is a leak again."""
    first = Life(lambda age: 60 + min(age / MINUTE, 30), dies=HOUR, start=1)
    second = Life(lambda age: 60 + min(age / MINUTE, 29), born=HOUR, start=2, pid=102)
    third = Life(lambda age: 60 + age / MINUTE, born=HOUR, start=3, pid=103)
    said = say(ticks([first, second, third], 3 * HOUR))
    assert said.when("leak", 101) is not None
    assert said.when("leak", 102) is None
    when = said.when("leak", 103)
    assert when is not None and HOUR + 30 * MINUTE < when < HOUR + 45 * MINUTE


def test_a_leak_that_pauses_with_its_work_stays_told() -> None:
    life = Life(
        lambda age: 60 + 2 * min(age, HOUR) / MINUTE,
        work=lambda age: min(age, HOUR) + max(age - HOUR, 0) / 1000,
    )
    said = say(ticks([life], 3 * HOUR))
    assert "101" in said.answers[-1]["verdicts"]


@pytest.mark.parametrize(("rate", "least", "most"), [(1, 0.24, 0.28), (8, 0.32, 0.42)])
def test_told_is_early_and_acted_on_when_a_quarter_of_the_headroom_is_gone(
    rate: float, least: float, most: float
) -> None:
    """Of growth that was watched for less than an hour it takes more, but less than half."""
    said = say(ticks([Life(line(60, rate))], 3 * HOUR), limit=460)
    told, acted = said.when("leak"), said.acted("leak")
    assert told is not None and acted is not None
    assert told < 12 * MINUTE
    assert least * 400 < acted / MINUTE * rate < most * 400


def test_a_limit_that_is_near_in_time_is_acted_on_at_once() -> None:
    """60 MB/min towards 400 MB from 60 MB: half of the headroom is left when it acts."""
    said = say(ticks([Life(line(60, 30))], 12 * MINUTE), limit=400)
    acted = said.acted("leak")
    assert acted is not None and acted * 30 / MINUTE < 170


def test_without_any_limit_a_leak_is_acted_on_when_the_worker_has_doubled() -> None:
    said = say(ticks([Life(line(80, 3))], HOUR))
    acted = said.acted("leak")
    assert acted is not None and 27 * MINUTE < acted < 32 * MINUTE


def test_a_share_of_the_total_limit_is_a_limit_too() -> None:
    lives = [Life(line(60, 2)), *(Life(FLAT, pid=pid) for pid in (102, 103, 104))]
    said = say(ticks(lives, 2 * HOUR), available=2000)  # 90 % of it, in four shares
    acted = said.acted("leak")
    assert acted is not None and 46 * MINUTE < acted < 60 * MINUTE


def test_the_product_s_demonstration_is_told_and_acted_on_within_70_seconds() -> None:
    options = {"limit": "150MB", "warmup": "10s", "confirm": "5s"}
    lives = [Life(line(25, 2 * 60)), Life(line(25, 0), pid=102)]
    for phase in (0.0, 1.3, 4.9):
        said = say(ticks(lives, 120, since=phase), options=options)
        acted = said.acted("leak")
        assert acted is not None and acted <= 70
        assert {pid for pid, _ in said.told} == {"101"}


def test_the_demonstration_needs_no_limit_to_find_the_leak() -> None:
    lives = [Life(line(25, 2 * 60)), Life(line(25, 0), pid=102)]
    said = say(ticks(lives, 120), options={"warmup": "10s", "confirm": "5s"})
    when = said.when("leak")
    assert when is not None and when <= 75


def test_growth_off_and_growth_slower_than_asked_for_say_nothing() -> None:
    recorded = ticks([Life(line(60, 0.5))], HOUR)
    assert say(recorded, options={"growth": "off"}).told == {}
    assert say(recorded, options={"growth": "40MB/h"}).told == {}
    assert say(recorded, options={"growth": "20MB/h"}).when("leak") is not None


def test_the_limit_speaks_during_warm_up_once_it_held_for_confirm() -> None:
    said = say(ticks([Life(line(500, 0))], 2 * MINUTE), limit=400)
    assert said.when("limit") == 30 and said.acted("limit") == 30
    assert "leak" not in {kind for _, kind in said.told}


def test_the_limit_is_judged_by_uss_where_it_is_known() -> None:
    """Pages shared with the master are not this worker's."""
    shared = Life(line(100, 0), shared=lambda age: 400.0)
    assert say(ticks([shared], 5 * MINUTE), limit=400).told == {}
    assert say(ticks([shared], 5 * MINUTE), options={"measure": "rss", "limit": "400MB"}).told
    hidden = replace(shared, hide=("uss",))
    assert say(ticks([hidden], 5 * MINUTE), limit=400).when("limit") == 30


def test_a_break_begins_the_confirmation_anew() -> None:
    life = Life(lambda age: 100 if age % 30 < 5 else 500, noise=0)
    assert say(ticks([life], 10 * MINUTE), limit=400).told == {}


def test_the_total_limit_counts_shared_pages_once() -> None:
    lives = [Life(FLAT, pid=pid, shared=lambda age: 300.0) for pid in (101, 102, 103)]
    assert say(ticks(lives, 5 * MINUTE), total_limit=500).told == {}
    assert say(ticks(lives, 5 * MINUTE), total_limit=470).act == {("program", "total_limit"): 30}


def test_a_worker_that_holds_more_than_its_siblings_for_no_reason_is_imbalanced() -> None:
    lives = [Life(steps(60, (10, 150))), *(Life(FLAT, pid=pid) for pid in (102, 103, 104))]
    said = say(ticks(lives, HOUR))
    when = said.when("imbalance")
    assert when is not None and 14 * MINUTE < when < 18 * MINUTE
    assert {pid for pid, _ in said.told} == {"101"}
    assert say(ticks(lives, HOUR), options={"imbalance": "off"}).told == {}
    assert say(ticks(lives, HOUR), options={"imbalance": "4"}).told == {}


def test_a_master_that_grows_is_told_under_its_own_pid() -> None:
    said = say(ticks([Life(FLAT)], HOUR, master=Life(line(40, 2), pid=100)))
    assert set(said.told) == {("100", "master_growth")}


def test_files_that_are_never_closed_are_told_and_acted_on_near_their_limit() -> None:
    said = say(ticks([Life(FLAT, fds=line(20, 5))], 4 * HOUR))
    told, acted = said.when("fd_growth"), said.acted("fd_growth")
    assert told is not None and 5 * MINUTE < told < 15 * MINUTE
    assert acted is not None and acted > 2 * HOUR
    busy = Life(FLAT, fds=lambda age: 20 + 100 * math.sin(age / 50) ** 2)
    assert say(ticks([busy], 4 * HOUR)).told == {}


def test_ids_of_the_first_tick_without_age_are_past_their_warm_up() -> None:
    early = say(ticks([Life(line(60, 3), hide=("age",))], 20 * MINUTE)).when("leak")
    later = say(ticks([Life(line(60, 3))], 20 * MINUTE)).when("leak")
    assert early is not None and later is not None
    assert 2 * MINUTE <= later - early <= 3 * MINUTE


def test_a_recording_with_gaps_and_doubled_ticks_gives_the_same_verdicts() -> None:
    chance = random.Random(7)
    lives = [Life(line(60, 1)), Life(FLAT, pid=102)]
    recorded = [tick for tick in ticks(lives, 40 * MINUTE) if chance.random() < 0.8]
    recorded = [tick for tick in recorded for _ in range(1 + (chance.random() < 0.1))]
    said = say(recorded)
    assert {pid for pid, _ in said.told} == {"101"}


def test_a_clock_that_is_set_neither_hides_a_leak_nor_makes_one() -> None:
    for jump in (-HOUR, HOUR):
        lives = [Life(line(60, 1)), Life(FLAT, pid=102)]
        recorded = ticks(lives, 40 * MINUTE)
        for tick in recorded[60:]:
            tick["t"] += jump
        said = say(recorded)
        assert {pid for pid, _ in said.told} == {"101"}


# --- properties -----------------------------------------------------------------------------


def mixed(seed: int) -> list[Life]:
    chance = random.Random(seed)
    return [
        Life(line(60, 0.5 + 3 * chance.random()), pid=101),
        Life(fill(30, 40, 100), pid=102),
        Life(saw(60, 15, 60), pid=103, born=200),
        Life(steps(50, (9, 200)), pid=104, fds=line(20, 10)),
    ]


def kinds(said: Said, renamed: dict[str, str] | None = None) -> list[Any]:
    names = renamed or {}
    return [
        [{names.get(pid, pid): kinds for pid, kinds in answer[name].items()} for name in answer]
        for answer in ({k: v for k, v in a.items() if k != "t"} for a in said.answers)
    ]


@settings(max_examples=8)
@given(st.integers(0, 1000), st.permutations([0, 1, 2, 3]), st.integers(2, 30000))
def test_the_order_of_workers_and_their_pids_change_no_verdict(
    seed: int, order: list[int], shift: int
) -> None:
    recorded = ticks(mixed(seed), 20 * MINUTE)
    renamed = {str(pid + shift): str(pid) for pid in (101, 102, 103, 104)}
    moved = json.loads(json.dumps(recorded))
    for tick in moved:
        workers = tick["workers"]
        tick["workers"] = [workers[i] for i in order if i < len(workers)]
        for worker in tick["workers"]:
            worker["pid"] += shift
    said = say(recorded, limit=600)
    assert said.told
    assert kinds(said) == kinds(say(moved, limit=600), renamed)


@settings(max_examples=8)
@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_the_zero_of_time_and_the_phase_of_ticks_change_no_verdict(seed: int, phase: float) -> None:
    recorded = ticks(mixed(seed), 20 * MINUTE)
    moved = [{**tick, "t": tick["t"] + round(phase, 3)} for tick in recorded]
    assert kinds(say(recorded)) == kinds(say(moved))


@settings(max_examples=8)
@given(st.floats(0, 4.99))
def test_another_phase_of_the_same_curves_gives_the_same_kinds(phase: float) -> None:
    base = say(ticks(mixed(3), 20 * MINUTE))
    moved = say(ticks(mixed(3), 20 * MINUTE, since=phase))
    assert set(base.told) == set(moved.told) and set(base.act) == set(moved.act)
    for key, when in base.told.items():
        assert abs(moved.told[key] - when) <= 60


def snapshots(seed: int, until: float) -> list[Snapshot]:
    """The ticks of `mixed` as the listener would see them."""
    seen = []
    for tick in ticks(mixed(seed), until):
        workers = tuple(
            Worker(
                WorkerId(p["pid"], p["start"]),
                **{k: v for k, v in p.items() if k not in ("pid", "start")},
            )
            for p in tick["workers"]
        )
        seen.append(Snapshot("web", 1e9 + tick["t"], RUNNING, 1, "gunicorn", None, workers))
    return seen


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sets(st.integers(0, 239), max_size=4))
def test_a_past_dumped_and_loaded_in_the_middle_changes_no_verdict(
    seed: int, breaks: set[int]
) -> None:
    options = Options(limit=Ceiling(bytes=600 * MB))
    one, other = detectors.Past(), detectors.Past()
    said = 0
    for index, snapshot in enumerate(snapshots(seed, 20 * MINUTE)):
        if index in breaks:
            other = detectors.Past.load(json.loads(json.dumps(other.dump())))
        for past in (one, other):
            detectors.remember(options, past, snapshot)
        verdicts = detectors.examine(options, snapshot, one)
        assert verdicts == detectors.examine(options, snapshot, other)
        said += len(verdicts)
    assert said
    assert one.dump() == other.dump()


@settings(max_examples=8)
@given(st.floats(0, 5), st.floats(0.1, 5))
def test_more_growth_never_turns_told_into_healthy(rate: float, more: float) -> None:
    slow = say(ticks([Life(line(60, rate))], 15 * MINUTE))
    fast = say(ticks([Life(line(60, rate + more))], 15 * MINUTE))
    assert set(slow.told) <= set(fast.told)


def test_a_signal_that_is_lost_in_mid_life_begins_the_history_anew() -> None:
    """Anonymous memory is never mixed with another number within one life."""
    recorded = ticks([Life(line(60, 3))], 40 * MINUTE)
    for tick in recorded[200:]:
        tick["workers"][0]["anon"] = None
    said = say(recorded)
    assert said.answers[199]["verdicts"] and not said.answers[210]["verdicts"]
    assert said.answers[-1]["verdicts"]


sizes = st.one_of(st.none(), st.integers(0, 2**40))
processes = st.fixed_dictionaries(
    {
        "age": st.one_of(st.none(), st.floats(0, 1e6)),
        "rss": st.integers(0, 2**40),
        **dict.fromkeys(["shared", "anon", "pss", "uss", "swap", "fds", "requests"], sizes),
        "cpu": st.one_of(st.none(), st.floats(0, 1e9)),
    }
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-100, 300), st.lists(processes, max_size=4)), max_size=80))
def test_no_history_whatever_is_in_it_makes_a_detector_fail(recorded: list[Any]) -> None:
    options = Options(limit=Ceiling(bytes=2**30), confirm=5, warmup=0)
    past, at = detectors.Past(), 0.0
    for gap, found in recorded:
        at += gap
        workers = tuple(Worker(WorkerId(n, n), **fields) for n, fields in enumerate(found))
        seen = snapshot(*workers[1:], available=2**34)._replace(
            at=at, master=workers[0] if workers else None
        )
        detectors.wants(options, seen, past)
        detectors.remember(options, past, seen)
        detectors.examine(options, seen, past)
        for worker in workers:
            trends.hours_to_limit(options, seen, worker, trends.trend(past, worker.id))
            detectors.headroom(options, seen, worker)
        past = detectors.Past.load(json.loads(json.dumps(past.dump())))


# --- the small functions --------------------------------------------------------------------


def worker(**fields: Any) -> Worker:
    return Worker(WorkerId(1, 1), 1000.0, **{"rss": 100 * MB, **fields})


def snapshot(*workers: Worker, **fields: Any) -> Snapshot:
    return Snapshot("web", 1000.0, RUNNING, 1, "gunicorn", None, workers, **fields)


def test_a_measure_says_which_it_is_and_counts_swap() -> None:
    seen = worker(uss=40 * MB, pss=60 * MB, swap=5 * MB, measured_at=990.0)
    assert detectors.measure(Options(), seen, 1000.0) == (45 * MB, "USS")
    assert detectors.measure(Options(measure="pss"), seen, 1000.0) == (65 * MB, "PSS")
    assert detectors.measure(Options(measure="rss"), seen, 1000.0) == (105 * MB, "RSS")


def test_a_reading_is_a_measure_for_a_quarter_of_an_hour() -> None:
    """The sampler carries it on in the meantime."""
    seen = worker(uss=40 * MB, measured_at=100.0)
    assert detectors.measure(Options(), seen, 1000.0) == (40 * MB, "USS")
    assert detectors.measure(Options(), seen, 1001.0) == (100 * MB, "RSS")


def test_rss_is_what_it_comes_to_only_where_nothing_better_can_be_read() -> None:
    for exact, uss, expected in [
        (True, None, False),
        (True, 40 * MB, True),
        (False, None, True),
        (None, None, True),
    ]:
        seen = worker(uss=uss, exact=exact)
        assert detectors.settled(Options(), seen, 1000.0) is expected
    unread = worker(uss=40 * MB, exact=True)
    assert not detectors.settled(Options(measure="pss"), unread, 1000.0)
    assert detectors.settled(Options(measure="rss"), worker(exact=True), 1000.0)


def test_wanted_is_who_may_be_over_the_limit_and_was_not_read_lately() -> None:
    options, past = Options(limit=Ceiling(bytes=90 * MB)), detectors.Past()
    over, small = worker(), worker(rss=50 * MB)._replace(id=WorkerId(2, 2))
    assert detectors.wants(options, snapshot(over, small), past) == (over.id,)
    read = over._replace(uss=50 * MB, pss=60 * MB, measured_at=999.0)
    assert detectors.wants(options, snapshot(read, small), past) == ()
    old = read._replace(measured_at=900.0)
    assert detectors.wants(options, snapshot(old, small), past) == (over.id,)
    ahead = read._replace(measured_at=5000.0)  # the clock was set back
    assert detectors.wants(options, snapshot(ahead, small), past) == (over.id,)
    assert detectors.wants(replace(options, measure="rss"), snapshot(over), past) == ()


def test_the_oldest_reading_is_wanted_first_and_none_at_all_before_it() -> None:
    options, past = Options(limit=Ceiling(bytes=90 * MB)), detectors.Past()
    ages = {1: 700.0, 2: 500.0, 3: None, 4: 600.0, 5: 990.0}
    workers = [
        worker(uss=at and MB, pss=at and MB, measured_at=at)._replace(id=WorkerId(pid, pid))
        for pid, at in ages.items()
    ]
    wanted = detectors.wants(options, snapshot(*workers), past)
    assert [id.pid for id in wanted] == [3, 2, 4, 1]


def test_whoever_could_change_a_verdict_is_read_in_turn() -> None:
    """One a tick is little: nobody is read twice before everybody was read once."""
    program = Preloaded(reads=1)
    program.live(Options(limit=Ceiling(bytes=300 * MB), total_limit=None), 16 * 5)
    assert len(set(program.order)) == len(program.order) == 16
    program = Preloaded(reads=1)
    program.live(Options(total_limit=Ceiling(bytes=4000 * MB)), 17 * 5)
    assert len(set(program.order)) == len(program.order) == 17


@pytest.mark.parametrize("reads", [0, 1, 20])
def test_a_healthy_preloaded_program_is_not_told(reads: int) -> None:
    """Sixteen workers that share 700 MB hold 0.76 GB, not 12; each of them holds 2 MB."""
    limits = Options(limit=Ceiling(bytes=300 * MB), total_limit=Ceiling(bytes=4000 * MB))
    assert Preloaded(reads=reads).live(limits, 30 * MINUTE) == []


@pytest.mark.parametrize("reads", [0, 1, 20])
@pytest.mark.parametrize("readable", [False, True])
def test_the_total_is_never_more_than_what_is_there(reads: int, readable: bool) -> None:
    program = Preloaded(reads=reads, readable=readable)
    options = Options(total_limit=Ceiling(bytes=760 * MB))
    for _ in range(30):
        program.live(options, 5)
        held = detectors.total(program.snapshot()) / MB
        assert 0.95 * program.true_total() < held <= program.true_total() + 1


def test_a_preloaded_program_over_its_total_limit_is_told_by_pss() -> None:
    options = Options(total_limit=Ceiling(bytes=740 * MB))
    told = Preloaded(reads=3).live(options, 5 * MINUTE)
    assert told and {verdict.kind for verdict in told} == {"total_limit"}
    assert told[-1].why == "744.0MB in master and 16 workers (PSS), total limit 740.0MB"


def test_where_nothing_can_be_read_what_may_be_the_masters_counts_once() -> None:
    """And the sentence says that it is at least so much."""
    program = Preloaded(readable=False, own=200)
    told = program.live(Options(total_limit=Ceiling(bytes=3000 * MB)), MINUTE)
    assert told and told[-1].why.startswith(
        "3.82GB in master and 16 workers (at least: what is shared counts once), total limit"
    )
    assert program.live(Options(total_limit=Ceiling(bytes=4000 * MB)), MINUTE) == []


def test_a_leak_in_a_preloaded_program_meets_its_limit_by_uss() -> None:
    program = Preloaded(reads=1, leaks=30)
    told = program.live(
        Options(limit=Ceiling(bytes=300 * MB), total_limit=None, growth="off"), 15 * MINUTE
    )
    assert told and {verdict.kind for verdict in told} == {"limit"}
    assert all(verdict.why.startswith("USS 3") for verdict in told[:3])
    assert 300 * MB <= told[0].measured < 340 * MB


def test_rss_is_judged_where_nothing_better_can_be_read() -> None:
    told = Preloaded(readable=False).live(
        Options(limit=Ceiling(bytes=300 * MB), total_limit=None), MINUTE
    )
    assert told and told[0].why == "RSS 714.0MB, limit 300.0MB"


def test_a_limit_waits_for_the_reading_and_what_stood_stands_meanwhile() -> None:
    """A listener that starts anew has no readings yet: nothing recovers by that."""
    options, past = Options(limit=Ceiling(bytes=90 * MB)), detectors.Past()
    read = worker(uss=95 * MB, pss=95 * MB, exact=True)
    unread = worker(exact=True)

    def kinds_after(seen: Worker, at: float) -> list[str]:
        now = snapshot(seen)._replace(at=at)
        detectors.remember(options, past, now)
        return [v.kind for v in detectors.examine(options, now, past).get(seen.id, ()) if v.told]

    assert [kinds_after(unread, at) for at in (0.0, 40.0)] == [[], []]
    assert [kinds_after(read, at) for at in (50.0, 60.0, 70.0)] == [[], [], []]
    assert [kinds_after(read, at) for at in (80.0, 90.0)] == [["limit"], ["limit"]]
    assert kinds_after(unread, 95.0) == ["limit"]
    assert kinds_after(read._replace(uss=80 * MB), 100.0) == []


def test_the_reading_of_a_master_from_before_a_fork_is_not_added_to_its_workers() -> None:
    """Its image was its own until then: 700 MB that the young worker's reading has as shared."""
    program = Preloaded(count=2)
    seen = program.snapshot()
    assert seen.master is not None
    at = seen.at
    master = seen.master._replace(uss=712 * MB, pss=712 * MB, measured_at=at - 60)
    first, second = (w._replace(uss=2 * MB, pss=240 * MB, measured_at=at) for w in seen.workers)
    young = seen._replace(master=master, workers=(first, second._replace(age=30.0)))
    assert detectors.total(young) == (712 + 2 + 2) * MB
    settled = seen._replace(master=master._replace(uss=0, pss=240 * MB, measured_at=at))
    read = settled._replace(workers=(first, second._replace(age=30.0)))
    assert detectors.total(read) == 720 * MB


def test_a_leak_that_was_told_is_measured_on_and_always_the_same_way() -> None:
    """At the moment of an action its figures are those of a reading."""
    options = Options(limit=Ceiling(bytes=900 * MB), total_limit=None)
    program = Preloaded(reads=1, leaks=20)
    whys, oldest = [], RECENT + 5
    for _ in range(360):
        told = program.live(options, 5)
        whys += [verdict.why for verdict in told if verdict.kind == "leak"]
        if any(verdict.act for verdict in told):
            oldest = options.confirm / 2 + 5
        if whys:
            leaking = program.snapshot().workers[0]
            assert leaking.measured_at is not None
            assert program.now - leaking.measured_at <= oldest
    assert len(whys) > 200 and oldest < 30
    assert all(why.startswith("USS ") for why in whys)


def test_a_leak_is_not_acted_on_for_its_rss() -> None:
    """714 MB of RSS are over the limit; of its own it holds some 30 MB."""
    options = Options(limit=Ceiling(bytes=900 * MB), total_limit=None)
    program = Preloaded(reads=0, leaks=20, image=800)
    told = program.live(options, 9 * MINUTE)
    assert told and not any(verdict.act for verdict in told)
    assert not any("RSS " in verdict.why for verdict in told)


def test_there_is_no_haste_over_a_limit_that_is_near_by_rss_alone() -> None:
    """For 32 MB in four minutes, of which none follow; 30 MB of the 760 are its own."""
    options = Options(limit=Ceiling(bytes=760 * MB), total_limit=None)
    told = Preloaded(reads=0, leaks=8, enough=32).live(options, 10 * MINUTE)
    assert not any(verdict.act for verdict in told)


def test_a_growing_master_has_left_what_the_total_limit_leaves_by_either_measure() -> None:
    """A master is most of its image by RSS and next to nothing by USS."""
    bounds = []
    for readable in (False, True):
        past, options = detectors.Past(), Options(total_limit=Ceiling(bytes=3000 * MB))
        for t in range(0, 1200, 5):
            anon = int((700 + t / 20) * MB)
            own = None if not readable else int((5 + t / 20) * MB)
            master = Worker(
                WorkerId(9, 9), 200.0 + t, anon + 12 * MB, 12 * MB, anon, own, own, exact=readable
            )
            one = snapshot()._replace(at=float(t), master=master)
            detectors.remember(options, past, one)
        [verdict] = detectors.examine(options, one, past)[master.id]
        assert (verdict.kind, verdict.bound is not None) == ("master_growth", True)
        bounds.append(verdict.bound)
    # What is left is 3000 MB less the total, of which the one who reads PSS sees 700 MB less.
    assert 0.3 * 707 * MB < bounds[1] - bounds[0] < 0.42 * 707 * MB


def test_headroom_is_the_tightest_of_what_is_known() -> None:
    seen = worker(shared=20 * MB)
    options = Options(limit=Ceiling(bytes=150 * MB), total_limit=Ceiling(share=0.5))
    assert detectors.headroom(options, snapshot(seen), seen) == 50 * MB
    assert detectors.headroom(options, snapshot(seen, available=220 * MB), seen) == 10 * MB
    assert detectors.headroom(options, snapshot(seen, free=7 * MB), seen) == 7 * MB
    assert detectors.headroom(Options(), snapshot(seen), seen) is None


def test_the_limit_counts_in_the_headroom_of_a_worker_as_it_was_seen_before() -> None:
    """News is of a worker as it was told of: it has been looked at again since, or has left. A
    master has no such limit."""
    seen, master = worker(), worker()._replace(id=WorkerId(9, 9))
    options = Options(limit=Ceiling(bytes=150 * MB), total_limit=Ceiling(bytes=900 * MB))
    later = snapshot(seen._replace(rss=120 * MB, anon=1))._replace(master=master)
    assert detectors.headroom(options, later, seen) == 50 * MB
    assert detectors.headroom(options, later._replace(workers=()), seen) == 50 * MB
    left = detectors.headroom(options, later, master)
    assert left is not None and left > 600 * MB


def test_trend_and_hours_to_limit_are_of_the_leak() -> None:
    options, past = Options(limit=Ceiling(bytes=600 * MB)), detectors.Past()
    for seen in snapshots(1, 15 * MINUTE):
        detectors.remember(options, past, seen)
    id = WorkerId(101, 101)
    trend = trends.trend(past, id)
    rate = (0.5 + 3 * random.Random(1).random()) * 60 * MB
    assert trend is not None and trend.low <= trend.bytes_per_hour <= trend.high
    assert trend.bytes_per_hour == pytest.approx(rate, rel=0.1)
    speed = trends.trend(past, seen.workers[0].id)
    hours = trends.hours_to_limit(options, seen, seen.workers[0], speed)
    assert hours is not None and hours == pytest.approx((600 - 75) * MB / rate, rel=0.15)
    assert trends.trend(past, WorkerId(9, 9)) is None
    points = past.points(id)
    assert points[0][0] >= 1e9 and [at for at, _ in points] == sorted({at for at, _ in points})


@pytest.mark.parametrize(("calm", "per_second"), [(20.0, 2.0), (400.0, 2.0), (900.0, 0.2)])
def test_the_trend_of_a_told_leak_is_of_its_growth_however_short(
    calm: float, per_second: float
) -> None:
    """What was flat before does not hide it; where few buckets have closed, its samples show it."""
    options, past = Options(limit=Ceiling(bytes=400 * MB), warmup=0.0), detectors.Past()
    told, at = False, 0.0
    while not told:
        assert at < calm + 900.0
        held = int((60 + max(at - calm, 0.0) * per_second) * MB)
        seen = snapshot(worker(rss=held + 9 * MB, anon=held, swap=0))._replace(at=at)
        detectors.remember(options, past, seen)
        verdicts = detectors.examine(options, seen, past)
        told = any(v.told and v.kind == "leak" for v in verdicts.get(WorkerId(1, 1), ()))
        at += 5.0
    trend = trends.trend(past, WorkerId(1, 1))
    assert trend is not None and 0 < trend.low <= trend.bytes_per_hour <= trend.high
    assert trend.bytes_per_hour == pytest.approx(per_second * HOUR * MB, rel=0.3)
    assert trends.hours_to_limit(options, seen, seen.workers[0], trend) is not None


def test_a_verdict_is_explained_in_words_with_numbers() -> None:
    options, past = Options(limit=Ceiling(bytes=600 * MB)), detectors.Past()
    for seen in snapshots(1, 15 * MINUTE):
        detectors.remember(options, past, seen)
    [verdict] = [
        verdict
        for verdict in detectors.examine(options, seen, past)[WorkerId(101, 101)]
        if verdict.kind == "leak"
    ]
    assert ", anonymous memory +" in verdict.why and "/min for " in verdict.why
    assert ", 600.0MB in " in verdict.why
    assert 0.7 < verdict.confidence < 1 and verdict.since < seen.at


def test_growth_that_ended_by_itself_is_explained() -> None:
    options, past = Options(), detectors.Past()
    for t in range(0, 3600, 5):
        seen = worker(anon=int(60 * MB + min(t, 1200) * 0.02 * MB))._replace(age=200.0 + t)
        now = snapshot(seen)._replace(at=float(t))
        detectors.remember(options, past, now)
    [verdict] = detectors.examine(options, now, past)[seen.id]
    assert (verdict.kind, verdict.told, verdict.act) == ("plateau", False, False)
    assert verdict.why.startswith("grew 2") and verdict.why.endswith("to 84.0MB), flat since")


def test_a_young_worker_is_warming_up_and_nothing_else() -> None:
    options, past = Options(), detectors.Past()
    seen = snapshots(1, 60)
    for one in seen:
        detectors.remember(options, past, one)
    verdicts = detectors.examine(options, seen[-1], past)[WorkerId(101, 101)]
    assert [(v.kind, v.told, v.act) for v in verdicts] == [("warming_up", False, False)]


def test_what_is_remembered_is_bounded() -> None:
    """12 KB per worker, whatever its age; ids that are gone are forgotten."""
    options, past = Options(), detectors.Past()
    for t in range(0, 2_000_000, 60):
        number = t // 50_000
        life = Worker(
            WorkerId(number + 10, number), 1000.0 + t, 50 * MB + t, uss=40 * MB + t, cpu=t, fds=9
        )
        detectors.remember(options, past, snapshot(life)._replace(at=float(t)))
    assert len(past.lives) <= 2
    assert len(json.dumps(past.dump())) < 20_000


def test_time_that_nobody_saw_confirms_nothing() -> None:
    """A limit that was exceeded before and after the listener was away begins to count anew."""
    options, past = Options(limit=Ceiling(bytes=100 * MB)), detectors.Past()
    big = Worker(WorkerId(1, 1), 900.0, 200 * MB, 0, 200 * MB)

    def told(at: float) -> bool:
        seen = Snapshot("web", at, "RUNNING", 9, "gunicorn", None, (big,))
        detectors.remember(options, past, seen)
        [verdict] = detectors.examine(options, seen, past)[big.id]
        return verdict.told

    assert not any(told(at) for at in (0.0, 5.0, 10.0))
    assert not told(60.0) and not told(80.0)
    assert told(90.0)


@pytest.mark.parametrize(
    ("after", "waits"), [((), True), ((0,), True), ((0, 0), False), ((-5,), False)]
)
def test_a_rush_may_pause_for_a_look_and_no_longer(after: tuple[int, ...], waits: bool) -> None:
    """As between two large requests; what gives memory back does not pause."""
    values = [*range(0, 110, 10), *(100 + step for step in after)]
    samples = [(5.0 * number, value * 1.0 * MB) for number, value in enumerate(values)]
    assert growth.pauses(samples) == waits
