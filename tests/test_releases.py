"""Releases on paper: which loads are of other code, and how a program leaked before and since."""

from __future__ import annotations

import json

import pytest

from supervisor_memwatch.model import RUNNING, Snapshot, Worker, WorkerId
from supervisor_memwatch.releases import (
    CHANGED,
    ERAS,
    LEAKS,
    UNKNOWN,
    UNSEEN,
    Code,
    End,
    Leak,
    Releases,
)
from supervisor_memwatch.units import HOUR, MB

START = 1e9
OLD, NEW = Code("old", None, START), Code("new", None, START)


def worker(pid: int, age: float | None) -> Worker:
    return Worker(WorkerId(pid, pid), age, 100 * MB)


def look(at: float, *ages: float | None, first: int = 1) -> Snapshot:
    """A program of workers so old."""
    workers = tuple(worker(first + n, age) for n, age in enumerate(ages))
    return Snapshot("web", at, RUNNING, 100, "gunicorn", None, workers)


def watch(seen: Releases, begin: float, end: float, born: float, count: int = 2) -> None:
    """Every minute, by so many workers that were all born at once."""
    for minute in range(int((end - begin) // 60) + 1):
        at = begin + 60 * minute
        seen.watched(look(at, *[at - born] * count))


def leak(seen: Releases, pid: int, at: float, rate: float, born: float = 0.0) -> None:
    seen.leaks(worker(pid, at - born if born else None), at, Leak(rate * MB, None, None))


def deployed(before: float = 0.0, after: float = 0.0, hours: float = 4.0) -> Releases:
    """Two workers, so long before a deploy and after it; one leaks so much an hour."""
    seen = Releases()
    middle, end = START + hours * HOUR, START + 2 * hours * HOUR
    watch(seen, START, middle, START)
    if before:
        leak(seen, 1, middle, before)
    seen.loaded(look(middle, 0.0, 0.0), "reload")
    seen.take(Code("new", middle - 5, middle))
    watch(seen, middle, end, middle)
    if after:
        leak(seen, 1, end, after)
    return seen


# -- which loads are releases


def test_a_load_of_other_code_is_a_release() -> None:
    """By the fingerprint where it was taken before, else by a file that changed since the load."""
    seen = deployed()
    assert seen.latest is not None and seen.latest.how == CHANGED
    at = START + 10 * HOUR
    seen.loaded(look(at, 1.0, 1.0), "restart")
    assert seen.take(Code("newer", None, at)) is True
    assert [era.what for era in seen.eras] == ["", "reload", "restart"]


def test_a_load_of_the_same_code_is_none() -> None:
    """Whichever way that is known; the time goes on as if nothing had been."""
    for before in (None, OLD):
        seen = Releases()
        watch(seen, START, START + HOUR, START)
        if before is not None:
            seen.take(before)
        seen.loaded(look(START + HOUR, 1.0, 1.0), "restart")
        watch(seen, START + HOUR + 60, START + 2 * HOUR, START + HOUR)
        assert seen.take(Code("old", START - 50, START + HOUR)) is False
        assert len(seen.eras) == 1 and seen.latest is None
        assert seen.eras[0].rate().hours == pytest.approx(4.0)


def test_a_rollback_to_older_files_is_a_release() -> None:
    """No file changed lately, and still they are others."""
    seen = deployed()
    at = START + 10 * HOUR
    seen.loaded(look(at, 1.0, 1.0), "restart")
    assert seen.take(Code("old", START - 9999, at)) is True


def test_where_the_code_cannot_be_seen_nobody_knows() -> None:
    """A changed file shows all the same; that the visible ones did not change shows nothing."""
    for code, known in (
        (Code(None, None, START + HOUR), None),
        (Code(None, START - 50, START + HOUR), None),
        (Code(None, START + HOUR - 5, START + HOUR), True),
    ):
        seen = Releases()
        watch(seen, START, START + HOUR, START)
        seen.loaded(look(START + HOUR, 1.0), "reload")
        assert seen.take(code) is known
        assert seen.latest is not None and seen.latest.how == (CHANGED if known else UNKNOWN)


def test_without_the_age_of_its_workers_only_a_fingerprint_tells() -> None:
    """When the code before was loaded is not known."""
    seen = Releases()
    seen.watched(look(START, None, None))
    seen.loaded(look(START + HOUR, None, None), "reload")
    assert seen.take(Code("old", START, START + HOUR)) is None
    seen.loaded(look(START + 2 * HOUR, None, None), "reload")
    assert seen.take(Code("old", START, START + 2 * HOUR)) is False and not seen.pending


def test_workers_that_leave_one_after_the_other_for_one_reload_are_one_load() -> None:
    """The new ones were all born together; the last of the old ones may drain for long."""
    seen = Releases()
    watch(seen, START, START + HOUR, START)
    at = START + HOUR
    seen.loaded(look(at + 2, 1.0, 2.0, HOUR), "reload")
    seen.take(Code("new", at - 5, at))
    for later in (10.0, 300.0, 900.0):
        seen.loaded(look(at + later, later - 1, later, HOUR + later), "reload")
        assert not seen.pending
    assert len(seen.eras) == 2


def test_a_load_that_is_noticed_late_compares_with_what_ran_before_it() -> None:
    """By then the oldest worker is a new one."""
    seen = Releases()
    watch(seen, START, START + HOUR, START)
    at = START + HOUR + 60
    seen.watched(look(at, 30.0, 30.0))
    seen.loaded(look(at + 5, 35.0, 35.0), "reload")
    assert seen.take(Code("new", at - 40, at)) is True


def test_a_second_load_before_the_first_is_known_is_part_of_it() -> None:
    """What is found after it is what runs; what was asked before it says nothing."""
    seen = deployed()
    for later in (20, 21):
        seen.loaded(look(START + later * HOUR, 1.0), "restart")
    assert len(seen.eras) == 3
    assert seen.take(Code("new", None, START + 20 * HOUR)) is False and seen.pending
    assert seen.take(Code("newer", None, START + 21 * HOUR)) is True and not seen.pending


def test_files_that_are_looked_at_without_a_load_are_no_release() -> None:
    seen = Releases()
    watch(seen, START, START + HOUR, START)
    assert seen.take(OLD) is False and seen.take(NEW) is False
    assert len(seen.eras) == 1


def test_a_program_that_starts_without_workers_is_loaded_then() -> None:
    """Its master is there first."""
    seen = Releases()
    seen.loaded(look(START), "restart")
    assert seen.eras[-1].at == START and seen.pending


# -- how it leaked


def test_watched_time_is_that_of_all_workers_without_the_pauses() -> None:
    """A listener that was away has seen nothing."""
    seen = Releases()
    watch(seen, START, START + HOUR, START, count=4)
    assert seen.eras[0].rate().hours == pytest.approx(4.0)
    seen.watched(look(START + HOUR + UNSEEN + 60, 1.0))
    assert seen.eras[0].rate().hours == pytest.approx(4.0)
    again = Releases.load(json.loads(json.dumps(seen.dump())))
    again.watched(look(START + 9 * HOUR, 1.0))
    assert again.eras[0].rate().hours == pytest.approx(4.0)


def test_no_leak_told_is_a_rate_of_zero_only_after_a_while() -> None:
    """Before, nothing is known."""
    seen = Releases()
    watch(seen, START, START + 1200, START)
    assert seen.eras[0].rate().per_hour is None
    watch(seen, START + 1200, START + HOUR, START)
    assert seen.eras[0].rate().per_hour == 0.0


def test_the_rate_is_the_median_of_those_that_leak() -> None:
    """By requests where any worker counts them."""
    seen = Releases()
    seen.watched(look(START))
    for pid, (rate, per_work, unit) in enumerate(
        [(1.0, 9.0, "CPU second"), (2.0, 4.0, "request"), (9.0, 5.0, "request")]
    ):
        seen.leaks(worker(pid, None), START, Leak(rate, per_work, unit))
    rate = seen.eras[0].rate()
    assert rate[:4] == (2.0, 4.0, "request", 3)


def test_a_leak_that_ended_by_itself_was_none() -> None:
    """Once."""
    seen = deployed(after=10.0)
    assert seen.took_back(WorkerId(1, 1)) and not seen.took_back(WorkerId(1, 1))
    assert seen.eras[-1].rate().per_hour == 0.0


def test_an_old_worker_that_is_still_leaving_is_none_of_the_new_code() -> None:
    seen = deployed()
    leak(seen, 7, START + 4 * HOUR + 60, 50.0, born=START)
    assert seen.eras[-1].rate().workers == 0
    leak(seen, 8, START + 5 * HOUR, 50.0, born=START + 4 * HOUR)
    assert seen.eras[-1].rate().workers == 1


def test_max_requests_counts_where_the_worker_leaked() -> None:
    """Others end by it in good health."""
    seen = deployed(after=10.0)
    seen.ended(WorkerId(2, 2), End(5.0, 1000, 60.0))
    seen.ended(WorkerId(1, 1), End(80.0 * MB, 2000, 600.0))
    assert seen.ends() == (End(80.0 * MB, 2000, 600.0),)


# -- since which


def test_the_release_that_brought_a_leak_is_named() -> None:
    """Before and since, with the time that was watched."""
    origin = deployed(after=88.0).origin()
    assert origin is not None and origin.brought and origin.sure and origin.before is not None
    assert (origin.at, origin.before.per_hour) == (START + 4 * HOUR, 0.0)
    assert (origin.before.hours, origin.since.per_hour) == (pytest.approx(8.0), 88.0 * MB)


def test_a_leak_that_grew_by_a_factor_is_another_one() -> None:
    origin = deployed(before=12.0, after=88.0).origin()
    assert origin is not None and origin.brought


def test_a_leak_as_it_was_is_not_the_releases_doing() -> None:
    for after in (80.0, 150.0, 20.0):
        origin = deployed(before=80.0, after=after).origin()
        assert origin is not None and origin.brought is False and origin.before is not None
        assert origin.before.per_hour == 80.0 * MB


def test_by_work_done_more_traffic_is_no_other_leak() -> None:
    """Three times the requests, three times the bytes an hour."""
    seen = deployed(before=1.0, after=1.0)
    for era, rate in zip(seen.eras, (10.0, 30.0), strict=True):
        era.leaks = {WorkerId(1, 1): Leak(rate, 2048.0, "request")}
    origin = seen.origin()
    assert origin is not None and origin.brought is False


def test_releases_that_changed_nothing_are_passed_over() -> None:
    """It leaks since the first of them."""
    seen = deployed(after=50.0)
    first = seen.eras[-1].at
    for n in range(1, 4):
        at = START + (8 + 2 * n) * HOUR
        seen.loaded(look(at, 1.0), "restart")
        seen.take(Code(f"release {n}", at - 5, at))
        leak(seen, 10 + n, at + HOUR, 45.0 + n)
    origin = seen.origin()
    assert origin is not None and origin.brought and origin.at == first


def test_what_was_just_before_is_compared_where_it_always_leaked() -> None:
    """Of several eras the last one; where the first of them is forgotten, nobody knows."""
    seen = deployed(before=80.0, after=60.0)
    at = START + 10 * HOUR
    seen.loaded(look(at, 1.0), "restart")
    seen.take(Code("newer", at - 5, at))
    leak(seen, 9, at + HOUR, 50.0)
    origin = seen.origin()
    assert origin is not None and origin.brought is False and origin.before is not None
    assert origin.before.per_hour == 60.0 * MB and origin.at == seen.eras[-1].at
    del seen.eras[0]
    origin = seen.origin()
    assert origin is not None and origin.brought is None and origin.at == seen.eras[0].at


def test_a_release_that_was_hardly_watched_says_nothing() -> None:
    """Neither that it brought the leak nor that it did not."""
    origin = deployed(after=50.0, hours=0.2).origin()
    assert origin is not None and origin.brought is None and origin.before is None


def test_without_a_release_or_without_a_leak_there_is_no_origin() -> None:
    assert Releases().origin() is None
    assert deployed().origin() is None
    seen = deployed(after=50.0)
    seen.loaded(look(START + 20 * HOUR, 1.0), "reload")
    assert seen.origin() is None, "what was loaded is still being found out"


# -- bounded, and through the journal


def test_what_is_kept_is_bounded() -> None:
    """A program with a deploy every hour and workers that leak in minutes."""
    seen = Releases()
    for n in range(100):
        at = START + n * HOUR
        seen.watched(look(at, HOUR))
        seen.loaded(look(at, 1.0), "reload")
        seen.take(Code(str(n), at, at))
        for pid in range(50):
            leak(seen, pid + 100 * n, at + 60, 10.0)
            seen.ended(WorkerId(pid + 100 * n, pid + 100 * n), End(1.0, 2, 3.0))
    assert len(seen.eras) == ERAS
    assert max(len(era.leaks) for era in seen.eras) == LEAKS
    assert len(json.dumps(seen.dump())) < 25_000


def test_all_of_it_goes_through_the_journal() -> None:
    """And with the clock, when that was set back."""
    seen = deployed(before=3.0, after=50.0)
    seen.ended(WorkerId(1, 1), End(80.0, None, None))
    again = Releases.load(json.loads(json.dumps(seen.dump())))
    assert again.dump() == seen.dump() and again.origin() == seen.origin()
    origin = seen.origin()
    back = Releases.load(json.loads(json.dumps(seen.dump())), back=100.0).origin()
    assert origin is not None and back == origin._replace(at=origin.at - 100.0)


def test_a_load_that_is_not_known_yet_is_found_out_by_the_next_listener() -> None:
    seen = deployed()
    seen.loaded(look(START + 20 * HOUR, 1.0), "reload")
    again = Releases.load(json.loads(json.dumps(seen.dump())))
    assert again.pending and again.take(Code("new", None, START + 20 * HOUR)) is False
    assert not again.pending
