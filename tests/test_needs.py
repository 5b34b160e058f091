"""Needs: what one more worker takes, learned from those that were started before it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.needs import KEPT, SETTLE, Needs, private, room

MB = 1024**2
SPARE = 1.1  # what is asked for, of what was measured


def worker(
    pid: int,
    anon: float,
    age: float = 3600.0,
    *,
    uss: float | None = None,
    swap: float | None = 0.0,
    ready: bool | None = True,
    measured_at: float | None = None,
) -> Worker:
    """Sizes in megabytes; 20 of them are files."""
    return Worker(
        WorkerId(pid, pid),
        age,
        rss=int((anon + 20) * MB),
        shared=20 * MB,
        anon=int(anon * MB),
        uss=None if uss is None else int(uss * MB),
        swap=None if swap is None else int(swap * MB),
        ready=ready,
        measured_at=measured_at,
        exact=True,
    )


def look(at: float, *workers: Worker, master: float = 10.0, free: int | None = None) -> Snapshot:
    image = worker(1, master, at)
    return Snapshot("web", at, "RUNNING", 1, "gunicorn", image, workers, free=free)


def about(expected: float) -> Any:
    """Page tables are less than a megabyte here."""
    return pytest.approx(expected, abs=1.0)


def megabytes(needs: Needs, snapshot: Snapshot) -> float:
    found = needs.fresh(snapshot)
    assert found is not None
    return found / MB


def grown_up(needs: Needs, *sizes: float, begun: float = 10_000.0) -> float:
    """A fresh worker for each size, one after the other, each past its SETTLE; when that ended."""
    at = begun
    for number, size in enumerate(sizes):
        pid = int(begun) + number
        old = worker(2, 500)
        needs.remember(look(at, old, worker(pid, size / 2, 1.0, ready=False)))
        needs.remember(look(at + 5, old, worker(pid, size, 6.0)))
        at += SETTLE + 10
        needs.remember(look(at, old, worker(pid, size, SETTLE + 11)))
    return at


def test_it_is_what_the_largest_of_the_last_few_fresh_workers_needed() -> None:
    """However much the old ones have grown since."""
    needs = Needs()
    at = grown_up(needs, 80, 100, 90)
    assert megabytes(needs, look(at, worker(2, 900))) == about(100 * SPARE)


def test_what_grows_after_the_settle_time_is_no_need() -> None:
    needs = Needs()
    at = grown_up(needs, 100)
    for minute in range(30):
        late = worker(10_000, 100 + 20 * minute, SETTLE + 60 * minute)
        needs.remember(look(at + 60 * minute, worker(2, 500), late))
    assert megabytes(needs, look(at, worker(2, 500))) == about(100 * SPARE)


def test_the_peak_of_the_boot_counts() -> None:
    """It is when the newcomer is most dangerous."""
    needs = Needs()
    old = worker(2, 500)
    needs.remember(look(0, old, worker(7, 300, 2.0, ready=False)))
    needs.remember(look(5, old, worker(7, 100, 7.0)))
    needs.remember(look(70, old, worker(7, 100, 72.0)))
    assert megabytes(needs, look(71, old)) == about(300 * SPARE)


def test_a_peak_between_two_looks_counts() -> None:
    """The kernel keeps the most a process has ever held resident."""
    needs = Needs()
    old = worker(2, 500)
    for at, age in ((0.0, 5.0), (90.0, 95.0)):
        needs.remember(look(at, old, worker(7, 100, age)), {WorkerId(7, 7): 270 * MB})
    assert megabytes(needs, look(91, old)) == about((270 - 20) * SPARE)


def test_a_boot_may_take_longer_than_the_settle_time() -> None:
    """Fresh is who serves for less than that, not who is younger."""
    needs = Needs()
    old = worker(2, 500)
    needs.remember(look(0, old, worker(7, 20, 100.0, ready=False)))
    needs.remember(look(5, old, worker(7, 100, 105.0)))
    needs.remember(look(50, old, worker(7, 150, 150.0)))
    needs.remember(look(70, old, worker(7, 120, 170.0)))
    needs.remember(look(80, old, worker(7, 400, 180.0)))
    assert megabytes(needs, look(80, old)) == about(150 * SPARE)


def test_what_is_shared_with_the_master_is_there_already() -> None:
    """Under --preload: of 200 MB a fresh worker has but 30 of its own. Until that is known, all
    of it counts."""
    needs = Needs()
    young = [worker(7, 200, 5.0), worker(7, 205, 90.0, uss=30, measured_at=60.0)]
    old = worker(2, 220, uss=100)
    needs.remember(look(0, old, young[0], master=200))
    assert megabytes(needs, look(0, old, young[0], master=200)) == about(200 * SPARE)
    needs.remember(look(90, old, young[1], master=200))
    assert megabytes(needs, look(90, old, young[1], master=200)) == about(36)


def test_a_large_image_has_large_page_tables() -> None:
    """A fork copies them, whatever it shares."""
    needs = Needs()
    needs.remember(look(0, worker(2, 5200), worker(7, 5100, 5.0, uss=3), master=5000))
    snapshot = look(90, worker(2, 5200), worker(7, 5100, 95.0, uss=3), master=5000)
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(3 + 10 + 6)


def test_while_all_are_fresh_what_they_share_may_yet_be_copied() -> None:
    """Just after a fork nearly all is shared with the master; nobody has written to it yet."""
    needs = Needs()
    snapshot = look(0, worker(7, 200, 5.0, uss=2), worker(8, 190, 5.0, uss=2), master=190)
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(200 * SPARE)
    older = look(20, worker(2, 220, uss=70), *snapshot.workers, master=190)
    assert megabytes(needs, older) == about(70 * SPARE)


def test_swap_counts() -> None:
    assert private(worker(7, 100, uss=60, swap=5)) == 65 * MB
    assert private(worker(7, 100, swap=5)) == 105 * MB
    assert private(worker(7, 100, swap=None)) == 100 * MB
    assert private(Worker(WorkerId(7, 7), 1.0, rss=9 * MB)) == 9 * MB


def test_what_was_swapped_out_counts_once() -> None:
    needs = Needs()
    old = worker(2, 500)
    needs.remember(look(0, old, worker(7, 100, 5.0)))
    needs.remember(look(90, old, worker(7, 60, 95.0, swap=40)))
    assert megabytes(needs, look(90, old)) == about(100 * SPARE)


def test_a_small_need_has_a_least_reserve() -> None:
    needs = Needs()
    at = grown_up(needs, 10)
    assert megabytes(needs, look(at, worker(2, 500))) == about(10 + 6)


def test_before_anything_is_learned_the_smallest_sibling_tells() -> None:
    needs = Needs()
    snapshot = look(0, worker(2, 500), worker(3, 120), worker(4, 700))
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(120 * SPARE)


def test_a_fresh_sibling_may_have_most_of_it_still_before_it() -> None:
    """One that has just come makes the estimate larger, never smaller."""
    needs = Needs()
    snapshot = look(0, worker(2, 500), worker(7, 30, 3.0))
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(500 * SPARE)
    snapshot = look(0, worker(2, 100), worker(7, 200, 3.0))
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(200 * SPARE)


def test_those_that_are_still_booting_have_yet_to_take_theirs() -> None:
    needs = Needs()
    at = grown_up(needs, 100)
    snapshot = look(at, worker(2, 500), worker(8, 40, 1.0, ready=False))
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(110 + (110 - 40))


def test_while_nobody_serves_nothing_is_known() -> None:
    needs = Needs()
    needs.remember(look(0))
    assert needs.fresh(look(0)) is None
    booting = look(0, worker(5, 15, 1.0, ready=False))
    needs.remember(booting)
    assert needs.fresh(booting) is None
    needs = Needs()
    needs.remember(look(0)._replace(kind="plain", workers=(worker(5, 100, 1.0),)))
    assert needs.fresh(look(0)) is None


def test_a_worker_that_never_settled_teaches_nothing() -> None:
    needs = Needs()
    at = grown_up(needs, 100)
    needs.remember(look(at, worker(2, 500), worker(7, 800, 1.0, ready=False)))
    needs.remember(look(at + 5, worker(2, 500)))
    assert megabytes(needs, look(at + 5, worker(2, 500))) == about(100 * SPARE)


def test_what_was_long_ago_is_forgotten() -> None:
    needs = Needs()
    at = grown_up(needs, 300, *[100] * KEPT)
    assert megabytes(needs, look(at, worker(2, 500))) == about(100 * SPARE)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_when_all_workers_are_new_the_old_ones_tell_nothing(count: int) -> None:
    """A deploy: the old figure holds until the first of the new ones has settled."""
    needs = Needs()
    grown_up(needs, 300)
    at = 20_000.0
    new = [
        (pid, age) for pid, age in zip(range(50, 50 + count), (3.0, 3.1, 3.2, 3.3), strict=False)
    ]
    needs.remember(look(at, *(worker(pid, 60, age) for pid, age in new)))
    assert megabytes(needs, look(at, worker(2, 500))) == about(300 * SPARE)
    at += SETTLE
    snapshot = look(at, *(worker(pid, 60, age + SETTLE) for pid, age in new))
    needs.remember(snapshot)
    assert megabytes(needs, snapshot) == about(60 * SPARE)


def test_one_new_worker_is_no_deploy() -> None:
    """The smaller need of one does not make the larger one of another forgotten."""
    needs = Needs()
    at = grown_up(needs, 300, 60)
    assert megabytes(needs, look(at, worker(2, 500))) == about(300 * SPARE)


def test_uss_is_wanted_of_fresh_workers_of_a_large_image() -> None:
    """And again from time to time: what is shared becomes less with the requests."""
    needs = Needs()

    def wanted(at: float, *young: Worker, image: float = 150.0) -> list[int]:
        snapshot = look(at, worker(2, 500), *young, master=image)
        needs.remember(snapshot)
        return [id.pid for id in needs.wants(snapshot)]

    assert wanted(1000, worker(7, 200, 5.0, ready=False)) == []
    assert wanted(1005, worker(7, 200, 10.0)) == [7]
    assert wanted(1010, worker(7, 200, 15.0, uss=10, measured_at=1005.0)) == []
    assert wanted(1030, worker(7, 200, 35.0, uss=10, measured_at=1005.0)) == [7]
    assert wanted(1030, worker(7, 200, 35.0), image=12) == []
    assert wanted(1030, worker(7, 200, 35.0)._replace(exact=False)) == []
    assert wanted(1090, worker(7, 200, 95.0)) == []


def test_a_dump_restores_it_exactly() -> None:
    needs = Needs()
    at = grown_up(needs, 100, 80)
    young = worker(8, 40, 1.0, ready=False)
    needs.remember(look(at, worker(2, 500), young, worker(9, 60, 4.0)))
    dumped = json.loads(json.dumps(needs.dump()))
    again = Needs.load(dumped)
    assert again.dump() == needs.dump()
    assert again.fresh(look(at, young)) == needs.fresh(look(at, young))


def test_memory_is_bounded() -> None:
    needs = Needs()
    grown_up(needs, *range(50, 150))
    assert len(json.dumps(needs.dump())) < 300


def test_room_is_what_the_tightest_limit_leaves() -> None:
    snapshot = look(0, free=300 * MB)
    assert room(snapshot, 700 * MB, 900 * MB) == 200 * MB
    assert room(snapshot, 100 * MB, 900 * MB) == 300 * MB
    assert room(snapshot, 100 * MB, None) == 300 * MB
    assert room(look(0), 100 * MB, 900 * MB) == 800 * MB
    assert room(look(0), 100 * MB, None) is None


def test_beyond_a_limit_there_is_no_room() -> None:
    assert room(look(0, free=300 * MB), 950 * MB, 900 * MB) == 0
