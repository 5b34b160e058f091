"""Growth that has eaten much of the room when the warm-up ends, and what only looks like it."""

from __future__ import annotations

import json
import math

import pytest
from histories import HOUR, MB, MINUTE, Curve, Life, say, ticks

from supervisor_memwatch import growth
from supervisor_memwatch.learning import LEAKS, OPEN, Learned
from supervisor_memwatch.past import EARLY
from supervisor_memwatch.past import Life as Kept

LIMIT = 460.0


def rush(per_second: float, begins: float = 0.0) -> Curve:
    return lambda age: 60 + max(age - begins, 0.0) * per_second


def two(curve: Curve, other: Curve | None = None, **more: object) -> list[Life]:
    """Two workers born with the watch, and a look before them: so their age counts."""
    return [
        Life(curve, born=5, **more),  # type: ignore[arg-type]
        Life(other or curve, pid=102, born=5, **more),  # type: ignore[arg-type]
    ]


def test_workers_that_rush_to_their_limit_from_birth_are_acted_on_when_their_warm_up_ends() -> None:
    """At 1.2 MB/s half of 400 MB is gone in 167 s, of which 120 are warm-up."""
    said = say(ticks(two(rush(1.2)), 4 * MINUTE), limit=LIMIT)
    for pid in (101, 102):
        acted = said.acted("leak", pid)
        assert acted is not None and 125 <= acted <= 135


def test_in_its_warm_up_nothing_is_said_of_a_worker_however_fast_it_grows() -> None:
    said = say(ticks(two(rush(1.2)), 4 * MINUTE), limit=LIMIT)
    young = [answer for answer in said.answers if answer["t"] < 125]
    assert young and not any(answer["verdicts"] or answer["act"] for answer in young)


def test_one_worker_alone_that_loads_something_large_is_given_the_usual_time() -> None:
    """From its first minute to the end of its third: what it needs, and its sibling does not."""
    load: Curve = lambda age: 60 + 1.3 * min(max(age - 45, 0), 100)  # noqa: E731
    said = say(ticks(two(load, rush(0)), 10 * MINUTE), limit=LIMIT)
    assert said.when("leak", 101) is None


def test_the_only_worker_of_a_program_has_no_siblings_to_differ_from() -> None:
    said = say(ticks([Life(rush(1.2), born=5)], 4 * MINUTE), limit=LIMIT)
    acted = said.acted("leak")
    assert acted is not None and acted <= 135


def test_a_warm_up_that_is_still_slowing_down_is_no_rush() -> None:
    warm: Curve = lambda age: 60 + 200 * (1 - math.exp(-age / 100))  # noqa: E731
    said = say(ticks(two(warm), 20 * MINUTE), limit=LIMIT)
    assert not said.told


def test_what_rose_before_the_warm_up_was_over_and_stands_still_since_is_no_rush() -> None:
    boot: Curve = lambda age: 60 + 2.0 * min(age, 110)  # noqa: E731
    said = say(ticks(two(boot), 10 * MINUTE), limit=LIMIT)
    assert not said.told


def test_without_a_limit_the_warm_up_shows_nothing() -> None:
    said = say(ticks(two(rush(1.2)), 4 * MINUTE))
    told = said.when("leak")
    assert told is None or told > 4 * MINUTE - 60


@pytest.mark.parametrize(
    ("hide", "early"), [(("anon",), True), (("anon", "shared"), False)], ids=["private", "both"]
)
def test_the_samples_of_the_warm_up_are_of_the_signal_that_is_judged(
    hide: tuple[str, ...], early: bool
) -> None:
    """Where only USS and RSS are known there are none, and all takes half a minute longer."""
    said = say(ticks(two(rush(1.2), hide=hide), 5 * MINUTE), limit=LIMIT)
    acted = said.acted("leak")
    assert acted is not None and (acted <= 135) == early


def test_anonymous_memory_that_is_missing_once_in_the_warm_up_is_not_mixed_with_another() -> None:
    recorded = ticks(two(rush(0), hide=()), 20 * MINUTE)
    for tick in recorded[4:8]:
        for worker in tick["workers"]:
            del worker["anon"]
            worker["rss"] += 40 * MB  # and the other signal differs by 40 MB
    assert not say(recorded, limit=LIMIT).told


def test_a_journal_that_is_read_again_within_a_warm_up_changes_nothing() -> None:
    kept = Kept(0.0, 30.0)
    kept.rush = [(5.0 * n, 1.0 * n) for n in range(EARLY)]
    again = Kept.load(json.loads(json.dumps(kept.dump())))
    kept.begin()
    again.begin()
    assert again.warm and again.rush == kept.rush and again.rush_from == kept.rush_from


def test_samples_surge_where_they_rise_as_fast_at_their_end_as_at_first() -> None:
    even = [(5.0 * n, 8.0 * MB * n) for n in range(EARLY)]
    bent = [(at, 400 * MB * (1 - math.exp(-at / 80))) for at, _ in even]
    assert growth.surges(even) and not growth.surges(bent)
    assert not growth.surges(even[:6]) and not growth.surges([])


def test_of_workers_that_leak_on_and_on_no_growth_is_known_to_be_healthy() -> None:
    """What looked like an end was a pause: else each new one would be waited for up to there."""
    learned = Learned()
    learned.ended_by_itself(200.0, HOUR)
    assert learned.state == OPEN and learned.known(100.0, 1000.0) == 200.0
    learned.grew(0.7)
    assert learned.state == LEAKS and learned.known(100.0, 1000.0) == 0.0
    learned.ended_by_itself(200.0, HOUR)
    assert learned.known(100.0, 1000.0) == 200.0
