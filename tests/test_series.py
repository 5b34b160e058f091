"""The bounded history: lows in buckets, on a ladder of widths, restored exactly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch.growth import (
    BENDING,
    Stretch,
    grows,
    mann_kendall,
    pace,
    sen,
    slows,
    still,
)
from supervisor_memwatch.series import KEPT, LEVELS, UNKNOWN, Series


def test_a_bucket_keeps_its_lowest_sample() -> None:
    series = Series(30)
    for t, value in enumerate([9, 5, 7, 8, 6, 9, 4]):
        closed = series.append(t * 5.0, value)
    assert closed == 1
    assert list(series.levels[0].lows) == [5]
    assert series.low == 4


def test_four_buckets_make_one_of_the_next_level() -> None:
    series = Series(10)
    closed = [series.append(t * 10.0, 100 - t, t) for t in range(17)]
    assert [closes for closes in closed if closes > 1] == [2, 2, 2, 3]
    assert list(series.levels[1].lows) == [97, 93, 89, 85]
    assert list(series.levels[1].ats) == [0, 40, 80, 120]
    assert list(series.levels[1].works) == [0, 4, 8, 12]


def test_ticks_that_jitter_give_one_bucket_each_where_confirm_is_a_tick() -> None:
    series = Series(5)
    closed = [series.append(t * 5 + (0.4 if t % 2 else 0.0), 1) for t in range(20)]
    assert closed[0] == 0 and all(closed[1:])


def test_ticks_rarer_than_a_bucket_give_one_bucket_each() -> None:
    series = Series(30)
    assert [series.append(t * 60.0, 1) > 0 for t in range(4)] == [False, True, True, True]


def test_open_files_that_were_unknown_for_a_while_keep_their_own_times() -> None:
    """A history whose column of files had a gap would say each count at another bucket's time."""
    series = Series(10)
    for t in range(8):
        series.append(t * 10.0, 100, t, files=20 + t if t != 4 else UNKNOWN)
    of_files = series.of_files().levels[0]
    assert list(of_files.ats) == [50, 60]
    assert list(of_files.lows) == [25, 26]
    assert list(of_files.works) == [5, 6]


def test_what_is_dropped_is_remembered_as_territory() -> None:
    series = Series(10)
    series.append(0, 500)
    for t in range(1, 60):
        series.append(t * 10.0, 100)
    level = series.levels[0]
    assert len(level.lows) == KEPT and max(level.lows) == 100
    assert level.before(KEPT) == 500
    assert level.before(10) == 500


def test_points_run_from_coarse_to_fine_without_overlap() -> None:
    series = Series(10)
    for t in range(1000):
        series.append(t * 10.0, t)
    points = series.points()
    assert points == sorted(points)
    assert points[-1] == (9980, 998)
    assert points[-1][0] - points[-2][0] == 10
    assert points[1][0] - points[0][0] > 100


samples = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 2**50), st.floats(0, 1e6)), max_size=200
)


@given(samples, samples)
def test_a_dump_restores_it_exactly(before: list[tuple[float, int, float]], after: list) -> None:
    one = Series(30)
    now = 0.0
    for gap, value, work in before:
        now += gap
        one.append(now, value, work)
    other = Series.load(json.loads(json.dumps(one.dump())))
    for gap, value, work in after:
        now += gap
        assert one.append(now, value, work) == other.append(now, value, work)
    assert one.dump() == other.dump()


@given(samples)
def test_no_history_outgrows_its_bounds(recorded: list[tuple[float, int, float]]) -> None:
    series = Series(1)
    now = 0.0
    for gap, value, work in recorded * 5:
        now += gap
        series.append(now, value, work)
    assert len(series.levels) <= LEVELS
    assert all(len(level.lows) <= KEPT for level in series.levels)
    for level in series.levels:
        assert len(level.ats) == len(level.lows) == len(level.works)
        assert list(level.ats) == sorted(level.ats)


def test_mann_kendall_is_high_for_a_climb_and_small_for_noise() -> None:
    assert mann_kendall(range(10)) == pytest.approx(44 / (10 * 9 * 25 / 18) ** 0.5)
    assert mann_kendall(range(10, 0, -1)) < -3
    assert abs(mann_kendall([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])) < 2
    assert mann_kendall([7] * 10) == 0


def test_sen_gives_the_median_slope_whatever_one_outlier_says() -> None:
    ats = [float(t) for t in range(12)]
    values = [2.0 * t for t in range(12)]
    values[5] = 900
    slope, low, high = sen(ats, values)
    assert slope == 2 and low <= 2 <= high


def test_no_time_at_all_between_samples_is_no_growth() -> None:
    """Where times are so large that a float cannot tell them apart; nothing divides by zero."""
    series = Series(1)
    for n in range(100):
        series.turn(1e18, n * 2**20, float(n))
    stretch = Stretch(0, 10, 1e18, 0.0, 1.0, None)
    assert grows(series, 0, 10) is None
    assert pace(series, stretch) == 0.0
    assert slows(series, 0.0) >= BENDING
    assert still(series, stretch)
    assert sen([1e18] * 5, [1, 2, 3, 4, 5]) == (0.0, 0.0, 0.0)
    assert sen([0, 0, 10], [1, 2, 11])[0] == pytest.approx(0.95, abs=0.06)
