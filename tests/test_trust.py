"""Healthy workers that must not be acted on, and words that must be true."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import exp
from pathlib import Path
from typing import Any

import pytest

from supervisor_memwatch import advice, audit, detectors, growth, trends
from supervisor_memwatch.model import (
    IMBALANCE,
    LEAK,
    PLATEAU,
    RUNNING,
    Snapshot,
    Verdict,
    Worker,
    WorkerId,
)
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.past import BOTH, Past
from supervisor_memwatch.releases import CHANGED, Era, Leak, Releases
from supervisor_memwatch.series import Series
from supervisor_memwatch.tally import Tally
from supervisor_memwatch.units import HOUR, MB

Sizes = Callable[[int, float], float]  # of worker n at a time: MB


class Program:
    """Workers past their warm-up, looked at every 5 seconds."""

    def __init__(self, limit: int | None = None, total: int | None = None) -> None:
        ceilings = [None if size is None else Ceiling(bytes=size * MB) for size in (limit, total)]
        self.options = Options(limit=ceilings[0], total_limit=ceilings[1])
        self.past = Past()
        self.acted: list[tuple[float, int, str]] = []
        self.told: list[tuple[float, int, str]] = []
        self.last: Snapshot
        self.verdicts: dict[WorkerId | None, tuple[Verdict, ...]] = {}

    def run(
        self, until: float, size: Sizes, count: int = 1, tick: float = 5.0, **fields: Any
    ) -> None:
        at = 0.0 if not self.past.started else self.past.now + tick
        while at <= until:
            workers = []
            for n in range(count):
                held = int(size(n, at) * MB)
                known: dict[str, Any] = {"shared": 0, "anon": held, "uss": held, "cpu": at * 0.1}
                for name, value in fields.items():
                    known[name] = value(at) if callable(value) else value
                workers.append(Worker(WorkerId(n + 1, 1), 9000 + at, held, **known))
            self.last = Snapshot("web", at, RUNNING, 0, "gunicorn", None, tuple(workers))
            detectors.remember(self.options, self.past, self.last)
            self.verdicts = detectors.examine(self.options, self.last, self.past)
            for who, found in self.verdicts.items():
                pid = 0 if who is None else who.pid
                self.told += [(at, pid, verdict.kind) for verdict in found if verdict.told]
                self.acted += [(at, pid, verdict.kind) for verdict in found if verdict.act]
            at += tick


def test_a_sawtooth_is_no_rush_once_it_came_back() -> None:
    """From 100 to 200 MB in 90 seconds, and back, all day long; its limit is 400 MB."""
    program = Program(limit=400)
    program.run(HOUR, lambda n, at: 100 + 100 * ((at + n * 22) % 90) / 90, count=4)
    assert not [entry for entry in program.acted if entry[0] > 600]


def test_what_one_worker_gave_back_is_no_rush_of_its_sibling() -> None:
    """A job takes 150 MB within a minute, once an hour, in one worker after the other."""
    program = Program(limit=512)
    job: Sizes = lambda n, at: (  # noqa: E731
        120 + (150 * min(at % HOUR / 60, 1) if at % HOUR < 90 and at // HOUR == n else 0)
    )
    program.run(3 * HOUR, job, count=3)
    assert {pid for _, pid, _ in program.acted} <= {1}


def test_a_rush_beyond_what_ever_came_back_is_acted_on() -> None:
    program = Program(limit=400)
    program.run(HOUR, lambda n, at: 100 + 100 * (at % 90) / 90)
    before = len(program.acted)
    program.run(HOUR + 150, lambda n, at: 100 + 100 * (at - HOUR) / 60)
    assert len(program.acted) > before


def test_a_step_that_stays_makes_no_tick_expensive() -> None:
    """What rises no more is no rush: the quiet tick is a comparison again."""
    program = Program(limit=1000)
    program.run(HOUR, lambda n, at: 100 if at < 600 else 250)
    (life,) = program.past.lives.values()
    assert not life.rush


def test_a_worker_above_its_share_of_the_total_limit_is_not_at_its_limit() -> None:
    """One of four does most of the work and holds 700 of 2700 MB; 12 MB more are no danger."""
    program = Program(total=2700)

    def size(n: int, at: float) -> float:
        return 700 + 12 * min(max(at - 1200, 0) / 240, 1) if n == 0 else 60

    program.run(HOUR, size, count=4)
    assert not [entry for entry in program.acted if entry[2] == LEAK]


def test_a_worker_above_its_share_is_acted_on_before_the_total_is_gone() -> None:
    program = Program(total=2700)
    size: Sizes = lambda n, at: 700 + at / 20 if n == 0 else 60  # noqa: E731
    program.run(10 * HOUR, size, count=4)
    first = next(at for at, pid, kind in program.acted if kind == LEAK)
    assert 700 + first / 20 + 180 < 2000


def test_what_work_is_counted_in_is_said_also_where_requests_are_known_later() -> None:
    """Requests that are known only after the CPU time: what is known is bytes per CPU second."""
    program = Program(limit=1000)
    program.run(
        HOUR / 2, lambda n, at: 100 + at / 20, requests=lambda at: None if at < 10 else int(at * 10)
    )
    growing = trends.growing(program.options, program.last, program.past, program.last.workers[0])
    assert growing is not None and growing.unit == "CPU second"
    said = advice.lines(program.options, program.last, program.past, program.verdicts)
    assert said and not any("max_requests" in line or "per request" in line for line in said)


def test_growth_whose_signal_is_lost_is_no_plateau_and_nothing_is_learned() -> None:
    program = Program(limit=2000)
    program.run(1800, lambda n, at: 100 + at / 10)
    assert program.told
    program.run(1900, lambda n, at: 100 + at / 10, anon=None)
    kinds = [verdict.kind for found in program.verdicts.values() for verdict in found]
    assert PLATEAU not in kinds
    assert program.past.learned.plateau == 0


def test_growth_that_came_back_is_not_called_flat() -> None:
    program = Program(limit=2000)
    program.run(2 * HOUR, lambda n, at: 100 + at / 10 if at < 2000 else 185)
    assert program.told and not [v for found in program.verdicts.values() for v in found]


def test_uss_and_rss_are_kept_in_buckets_of_one_width() -> None:
    """Also of those that were there at the first tick, when the pace was not known yet."""
    program = Program()
    for minute in range(30):
        worker = Worker(WorkerId(1, 1), None, 100 * MB, uss=80 * MB)
        look = Snapshot("web", minute * 60.0, RUNNING, 0, "gunicorn", None, (worker,))
        detectors.remember(program.options, program.past, look)
    (life,) = program.past.lives.values()
    assert life.signal == BOTH and life.second is not None
    assert life.second.width == life.series.width == 120


def test_an_imbalance_at_its_bound_stands() -> None:
    """Told, it stands until it is well below what it takes: noise does not tell it again."""
    program = Program()
    noise = [0, 7, -5, 3, -8, 6, 2, -3, 8, -6, 4]
    program.run(
        4 * HOUR, lambda n, at: (164 if n == 0 else 100) + noise[int(at / 30 * 7 + n) % 11], count=4
    )
    told = [at for at, _, kind in program.told if kind == IMBALANCE]
    assert told
    assert len(told) == (told[-1] - told[0]) / 5 + 1


def test_an_era_too_short_to_see_the_leak_does_not_blame_the_release_after_it() -> None:
    """Four workers watched for a quarter of an hour say nothing of 2 MB an hour."""
    seen = Releases()
    seen.eras = [Era(0.0, seconds=HOUR), Era(900.0, "reload", CHANGED, 32 * HOUR)]
    seen.eras[1].leaks = {WorkerId(1, 1): Leak(2 * MB, None, None)}
    origin = seen.origin()
    assert origin is not None and not origin.brought
    seen.eras[0].seconds = 32 * HOUR
    origin = seen.origin()
    assert origin is not None and origin.brought


def test_a_count_that_cannot_be_read_is_not_known() -> None:
    tally = Tally(1)
    tally._handle = os.open("/", os.O_RDONLY)  # reading it is an error
    assert tally.read(1.0) is None


def test_a_program_that_ends_while_it_is_recorded_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look sees it: one line of the program, one tick."""
    own = Worker(WorkerId(1, 1), 9000.0, 100 * MB, 0, 90 * MB)
    alive = Snapshot("web", 1e9, RUNNING, 1, "gunicorn", None, (own,))
    looks = iter([alive, alive])  # the second one reads PSS and USS

    class Sampler:
        def look(self, program: object, at: float, wanted: object = ()) -> Snapshot:
            return next(looks, alive._replace(workers=()))

    monkeypatch.setattr(audit, "Sampler", Sampler)
    path = tmp_path / "recorded"
    audit._watched([audit.Subject("web", 1)], 1.0, str(path))
    assert len(path.read_text().splitlines()) == 2


def test_growing_files_stay_told_where_the_memory_is_measured_otherwise_from_now_on() -> None:
    program = Program()
    program.run(
        2 * HOUR,
        lambda n, at: 100,
        fds=lambda at: 20 + at // 10,
        anon=lambda at: 100 * MB if at < HOUR else None,
    )
    told = [at for at, _, kind in program.told if kind == "fd_growth"]
    assert told[0] < HOUR and told[-1] == program.last.at


def test_files_that_could_not_be_counted_at_first_have_not_grown_since() -> None:
    program = Program()

    def files(at: float) -> int | None:
        if at < 150:
            return None
        return 12 if at < 630 else 30

    program.run(HOUR, lambda n, at: 100, fds=files)
    assert program.told == []


def test_uneven_leaps_are_a_rush_while_they_go_on() -> None:
    """A leak in a few large requests; an import has ended by then."""
    leaps = [10, 0, 10, 10, 20, 0, 10, 30, 0, 20, 10, 0, 10, 20]
    samples = [(0.0, 0.0)]
    for leap in leaps:
        samples.append((samples[-1][0] + 5, samples[-1][1] + leap * MB))
    assert growth.rushes(samples) is not None
    ended = [(samples[-1][0] + 5 * n, samples[-1][1]) for n in range(1, 4)]
    assert growth.rushes(samples + ended) is None


def test_a_rush_whose_last_step_is_a_trifle_has_come_to_rest() -> None:
    """Four libraries a minute apart, and some KB of noise when they are all there."""
    samples = [(60.0 * n, 30.0 * n * MB) for n in range(6)]
    assert growth.rushes(samples) is not None
    assert growth.rushes([*samples, (360.0, samples[-1][1] + 0.1 * MB)]) is None


def test_a_look_right_after_another_ends_no_rush() -> None:
    """As procedures and Supervisor's events make them: it rose by as much as there was time."""
    samples = [(5.0 * n, 33.0 * n * MB) for n in range(5)]
    soon = (20.4, samples[-1][1] + 2.7 * MB)
    assert growth.rushes([*samples, soon]) is not None
    assert growth.rushes([*samples, soon, (25.0, 165.0 * MB)]) is not None


def test_a_page_cache_that_fills_beside_copy_on_write_is_no_leak() -> None:
    """USS in a straight line, RSS in a curve: what they have in common is a straight line, too."""
    program = Program(limit=200)
    program.run(
        HOUR / 2,
        lambda n, at: 100 + 400 * (1 - exp(-at / 400)),
        anon=None,
        shared=None,
        uss=lambda at: int((20 + at / 120) * MB),
    )
    assert LEAK not in {kind for _, _, kind in program.told}


def test_pages_that_are_shared_no_more_hide_no_leak() -> None:
    """Where only USS and RSS are known: USS leaps by 10 MB, and both grow on by 250 KB a minute."""
    program = Program()

    def uss(at: float) -> int:
        return int((5 + at * 0.25 / 60 + (10 if at > 500 else 0)) * MB)

    program.run(800, lambda n, at: 20 + at * 0.25 / 60, anon=None, shared=None, uss=uss)
    assert [kind for _, _, kind in program.told] == [LEAK] * len(program.told) != []


def test_a_cache_under_a_load_that_rises_is_no_leak_though_straight_for_minutes() -> None:
    """By its work it bends. What grows by the clock is told all the same."""
    program, other = Program(), Program()

    def work(at: float) -> float:
        return (max(at - 150, 0) / 60) ** 2

    program.run(1200, lambda n, at: 30 + 12 * (1 - exp(-work(at) / 20)), cpu=work)
    assert program.told == []
    other.run(600, lambda n, at: 30 + at / 60, cpu=work)
    assert other.told


def test_a_rush_that_pauses_between_two_large_requests_is_still_confirmed() -> None:
    """One look without a step begins no confirmation anew; two do."""
    leaps = [10, 0, 10, 0, 10, 0, 10, 0, 40, 0, 20, 20, 20, 0, 10, 0, 0, 0, 30, 0, 10, 0, 10, 10, 0]
    leaps += [10, 0, 10, 0, 0]

    program = Program(limit=634)
    program.run(600 + 5 * len(leaps), lambda n, at: 70 + sum(leaps[: max(0, int(at - 600) // 5)]))
    assert [kind for _, _, kind in program.acted][:1] == [LEAK]
    samples = [(5.0 * n, 20.0 * n * MB) for n in range(11)]
    still = [(55.0 + 5 * n, 200.0 * MB) for n in range(2)]
    assert growth.pauses(samples + still[:1]) and not growth.pauses(samples + still)
    assert not growth.pauses(samples[:6])


def test_a_break_without_a_look_neither_slows_the_history_down_nor_hides_a_leak() -> None:
    """A listener that was stopped for 18 minutes: what it was told before is acted on at once."""
    program = Program(limit=400)
    program.run(600, lambda n, at: 60 + at * 0.1)
    assert program.told and not program.acted
    program.past.interval = 5.0
    at = 600 + 18 * 60.0
    worker = Worker(WorkerId(1, 1), 9000 + at, int((60 + at * 0.1) * MB), 0, cpu=at * 0.1)
    worker = worker._replace(anon=worker.rss, uss=worker.rss)
    seen = Snapshot("web", at, RUNNING, 0, "gunicorn", None, (worker,))
    detectors.remember(program.options, program.past, seen)
    program.run(at + 180, lambda n, at: 60 + at * 0.1)
    assert program.past.usual == pytest.approx(5.0)
    assert program.acted
    growing = trends.growing(program.options, program.last, program.past, program.last.workers[0])
    assert growing is not None
    assert growing.last - growing.first == pytest.approx(growing.span * 0.1 * MB, rel=0.05)


def test_growth_that_slows_down_per_work_done_is_given_more_room() -> None:
    """Under a load that rises, a cache grows as fast as before until it is full."""

    def acted_on_at(work: Callable[[float], float]) -> float:
        program = Program(limit=500)
        program.run(3 * HOUR, lambda n, at: 100 + at / 30, cpu=work)
        return program.acted[0][0]

    per_work = acted_on_at(lambda at: at)
    slowing = acted_on_at(lambda at: 100.0 * 2 ** (at / 1200))
    assert per_work < HOUR < 1.2 * HOUR < slowing


def test_a_leak_that_begins_when_a_cache_has_filled_is_told_while_that_is_still_remembered() -> (
    None
):
    """The cache took four times as much in its first minutes and has bent; the leak has not."""
    program = Program()
    program.run(600, lambda n, at: 30 + 24 * (1 - exp(-at / 30)) + max(at - 200, 0) * 0.02)
    assert [kind for _, _, kind in program.told][:1] == [LEAK]


def level_of(
    lows: Sequence[float], works: Sequence[float] | None = None, width: float = 30.0
) -> Series:
    """A history whose finest level has these MB in buckets of so many seconds."""
    series = Series(width)
    for n, low in enumerate([*lows, lows[-1]]):
        work = n * 1.0 if works is None else works[min(n, len(lows) - 1)]
        series.turn(n * width, low * MB, work)
    return series


def test_a_step_of_a_third_of_the_usual_one_goes_on_and_one_of_a_twentieth_rests() -> None:
    samples = [(5.0 * n, 30.0 * n * MB) for n in range(6)]
    assert growth.rushes([*samples, (30.0, (150 + 10) * MB)]) is not None
    assert growth.rushes([*samples, (30.0, (150 + 1.5) * MB)]) is None


def test_growth_that_is_told_early_has_brought_more_than_three_megabytes() -> None:
    """In minutes, however even it is: healthy processes drift by as much."""
    assert growth.brisk(level_of([30 + 0.53 * n for n in range(7)])) is None  # 3.2 MB
    found = growth.brisk(level_of([30 + 0.65 * n for n in range(7)]))  # 3.9 MB
    assert found is not None and found.buckets == 7


def test_an_earlier_bend_is_forgiven_to_what_is_straight_since_and_to_nothing_else() -> None:
    cache = [30.0, 40.0, 46.0, 48.0, 49.0, 49.0]
    noise = [0.05 * (-1) ** n for n in range(1, 15)]
    straight = [49 + 0.5 * n + noise[n - 1] for n in range(1, 15)]
    bent = [49 + 20 * (1 - exp(-n / 40)) + noise[n - 1] for n in range(1, 15)]
    assert growth.grows(level_of(bent), 0, 14) is not None
    assert growth.grows(level_of([*cache, *straight]), 0, 14) is not None
    assert growth.grows(level_of([*cache, *bent]), 0, 14) is None


def test_what_bends_by_time_must_not_bend_by_its_work_either() -> None:
    """Slowing down to 60 % per second is forgiven to a leak whose work slowed down as much, and not
    where per work it slowed down, too."""
    grown, steps = [30.0], [1.0 - 0.4 * max(0, min(1, (n - 6) / 6)) for n in range(19)]
    for step in steps:
        grown.append(grown[-1] + 1.6 * step)

    def works(less: float) -> list[float]:
        done = [0.0]
        for step in steps:
            done.append(done[-1] + 10 * (1 - less * (1 - step) / 0.4))
        return done

    assert growth.grows(level_of(grown, works(0.4)), 0, 20) is not None
    assert growth.grows(level_of(grown, works(0.31)), 0, 20) is None


def test_what_both_rose_by_is_of_the_same_buckets_or_of_none() -> None:
    rss = level_of([30 + n for n in range(10)])
    uss = level_of([10 + n for n in range(10)])
    assert list(rss.shared(uss).levels[0].lows) == [(30 + n) * MB for n in range(10)]
    assert rss.shared(uss).levels[0].ats == rss.levels[0].ats
    assert not rss.shared(level_of([10 + n for n in range(10)], width=31.0)).levels[0].lows


def test_territory_that_either_ever_held_is_no_growth_of_both() -> None:
    """USS was at 39 MB before it fell: up to there, nothing that both rise by is new."""
    rss = level_of([30.0] * 11 + [30 + n for n in range(20)])
    fell = level_of([39.0] * 11 + [20 + n for n in range(20)])
    shared = rss.shared(fell).levels[0]
    assert shared.before(20) == pytest.approx(49 * MB)
    assert rss.shared(level_of([10.0] * 11 + [20 + n for n in range(20)])).levels[0].before(
        20
    ) == pytest.approx(30 * MB)


@pytest.mark.parametrize(("grown", "said"), [(1, 0.7), (3, 0.7), (9.8, 0.8), (32, 0.9), (90, 0.9)])
def test_a_few_megabytes_are_seventy_percent_sure_and_thirty_are_ninety(
    grown: float, said: float
) -> None:
    assert detectors._confidence(grown * MB, 1e6 * MB) == pytest.approx(said, abs=0.01)
    assert detectors._confidence(grown * MB, grown * MB) == 0.97
