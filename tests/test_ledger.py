"""What recycling brings: when a fresh worker is the problem, and when a storm is one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import ledger
from supervisor_memwatch.ledger import Ledger, Turn, baseline
from supervisor_memwatch.model import Held, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.units import MB

MINUTE = 60.0


def turn(before: int | None, after: int | None, **more: Any) -> Turn:
    """A recycle that left `after` MB where `before` MB were."""
    fields = {
        "at": 0.0, "kind": "leak", "action": "recycle", "target": None, "newcomer": None,
        "age": 480.0, "expected": None, "rate": None, **more,
    }  # fmt: skip
    sizes = {
        "before": None if before is None else before * MB,
        "after": None if after is None else after * MB,
    }
    return Turn(**{**fields, **sizes})


def recycle(
    book: Ledger, at: float, target: int, newcomer: int | None, age: float, **more: Any
) -> None:
    """Worker `target`, `age` minutes old, is recycled at minute `at`."""
    new = WorkerId(newcomer, newcomer) if newcomer is not None else None
    ids = {"target": WorkerId(target, target), "newcomer": new}
    book.note(turn(100, 30, at=at * MINUTE, age=age * MINUTE, **ids, **more))


def chain(count: int, minutes: float, **more: Any) -> Ledger:
    """One worker that has to go every so many minutes, and each that takes its place."""
    book = Ledger()
    for n in range(count):
        recycle(book, (n + 1) * minutes, n, n + 1, 500.0 if n == 0 else minutes, **more)
    return book


# -- a fresh worker is the problem


def test_a_fresh_worker_near_its_limit_is_the_problem() -> None:
    assert baseline(turn(410, 380), 400 * MB) == (
        "a fresh worker already holds 380.0MB of its limit of 400.0MB: the baseline is the "
        "problem, not a leak: recycling cannot help"
    )
    assert baseline(turn(410, 340), 400 * MB) is not None
    assert baseline(turn(410, 339), 400 * MB) is None


def test_a_fresh_worker_as_big_as_the_one_before_is_the_problem() -> None:
    text = baseline(turn(300, 295), None)
    assert text is not None
    assert text.startswith("a fresh worker holds 295.0MB, the one before it held 300.0MB")
    assert baseline(turn(300, 260), None) is None


def test_what_came_back_as_hoped_is_no_failure_however_little() -> None:
    """A worker of 300 MB that had leaked 20 of them."""
    assert baseline(turn(300, 280, expected=20 * MB), None) is None
    assert baseline(turn(300, 290, expected=20 * MB), None) is None
    assert baseline(turn(300, 291, expected=20 * MB), None) is not None
    assert baseline(turn(300, 300, expected=-1), None) is not None
    # But where the limit leaves no more room than that, the limit is too low.
    assert baseline(turn(300, 280, expected=20 * MB), 310 * MB) is not None


def test_a_master_that_holds_it_already_is_named() -> None:
    text = baseline(turn(410, 380), 400 * MB, master=370 * MB)
    assert text is not None
    assert "the master itself 370.0MB, which it hands to each" in text
    assert "master" not in (baseline(turn(410, 380), 400 * MB, master=303 * MB) or "")


def test_a_reload_that_brought_nothing_is_said_to() -> None:
    text = baseline(turn(900, 880, action="reload"), 400 * MB)
    assert text is not None
    assert text.startswith("the program after a reload holds 880.0MB")
    assert baseline(turn(900, 500, action="reload"), 400 * MB) is None


def test_open_files_are_counted_not_measured() -> None:
    full = turn(None, None, kind="fd_growth")._replace(before=1000, after=990)
    text = baseline(full, 1 * MB, master=900)
    assert text is not None
    assert "holds 990 open files, the one before it held 1000 open files" in text
    assert "master" not in text
    # The worker's limit is one of bytes.
    assert baseline(full._replace(before=1000, after=20), 10) is None


def test_what_was_not_measured_or_was_asked_for_is_not_judged() -> None:
    assert baseline(turn(410, None), 400 * MB) is None
    assert baseline(turn(None, 100), None) is None
    assert baseline(turn(410, 380, kind="request"), 400 * MB) is None


# -- a storm


def test_one_worker_that_has_to_go_every_eight_minutes_is_a_storm_at_the_fifth() -> None:
    assert chain(4, 8.0).storm("leak", 33 * MINUTE) is None
    held = chain(5, 8.0, rate=9 * MB / 60).storm("leak", 41 * MINUTE)
    assert held == Held(
        "storm",
        "recycled 5 times in 32m: it leaks 9.0MB/min; recycling buys 8m each",
        (40 + 60) * MINUTE,
    )


def test_the_rate_comes_from_the_sizes_where_nothing_else_tells_it() -> None:
    """30 MB when it was new, 100 MB eight minutes later."""
    held = chain(5, 8.0).storm("leak", 41 * MINUTE)
    assert held is not None
    assert "it leaks 8.8MB/min" in held.text
    files = chain(5, 8.0, kind="fd_growth", rate=0.5).storm("fd_growth", 41 * MINUTE)
    assert files is not None
    assert "it leaks 30 open files/min" in files.text


def test_a_rate_that_is_none_of_a_leak_is_not_counted() -> None:
    """A worker that shrank, one whose newcomer was not measured, one without an age."""
    book = Ledger()
    for n, each in enumerate(chain(6, 8.0).turns):
        odd = ({"rate": -5.0}, {"after": None}, {"age": None}, {}, {"rate": 0.0}, {})[n]
        book.note(each._replace(**odd))
    held = book.storm("leak", 49 * MINUTE)
    assert held is not None
    assert "it leaks 8.8MB/min" in held.text


def test_without_any_rate_none_is_said() -> None:
    book = Ledger()
    for each in chain(5, 8.0).turns:
        book.note(each._replace(before=None))
    held = book.storm("leak", 41 * MINUTE)
    assert held is not None
    assert held.text == "recycled 5 times in 32m: recycling buys 8m each"


def test_workers_that_last_long_enough_are_no_storm() -> None:
    assert chain(20, 14.0).storm("leak", 20 * 14 * MINUTE) is not None
    assert chain(20, 15.0).storm("leak", 20 * 15 * MINUTE) is None


def test_eight_leaking_workers_recycled_once_each_are_no_storm() -> None:
    book = Ledger()
    for n in range(8):
        recycle(book, n * 6.0, n, 100 + n, 600.0)
    assert book.storm("leak", 50 * MINUTE) is None


def test_four_workers_that_reach_their_limits_together_are_a_storm_within_the_budget() -> None:
    """All at minute 8, again at minute 16: at the sixth, the last that 6/1h allows."""
    book = Ledger()
    for n in range(6):
        assert book.storm("limit", 16 * MINUTE) is None
        recycle(book, 8.0 if n < 4 else 16.0, n, n + 4, 500.0 if n < 4 else 8.0, kind="limit")
    assert book.storm("limit", 16 * MINUTE) is not None


def test_one_short_life_among_long_ones_is_no_storm() -> None:
    book = chain(4, 25.0)
    recycle(book, 105.0, 4, 5, 5.0)
    assert book.storm("leak", 106 * MINUTE) is None


def test_leak_and_limit_are_one_complaint_open_files_another() -> None:
    book = Ledger()
    for n, each in enumerate(chain(6, 8.0).turns):
        book.note(each._replace(kind="leak" if n % 2 else "limit"))
    assert book.storm("leak", 50 * MINUTE)
    assert book.storm("limit", 50 * MINUTE)
    assert book.storm("fd_growth", 50 * MINUTE) is None


def test_reloads_that_buy_little_are_a_storm() -> None:
    """A program has no newcomer: the next reload ends what the one before it bought."""
    book = Ledger()
    for n in range(5):
        book.note(turn(900, 300, at=n * 600.0, action="reload", kind="total_limit", age=600.0))
    held = book.storm("total_limit", 2500.0)
    assert held is not None
    assert held.text.startswith("reloaded 5 times in 40m:")
    assert held.text.endswith("a reload buys 10m each")


def test_after_a_reload_of_ours_every_worker_is_what_it_brought() -> None:
    book = Ledger()
    book.note(turn(900, 300, at=0.0, action="reload"))
    for n in range(4):
        recycle(book, 8.0 + n, n, 100 + n, 8.0 + n)
    assert book.storm("leak", 12 * MINUTE) is not None


def test_workers_older_than_our_reload_were_not_brought_by_it() -> None:
    book = Ledger()
    book.note(turn(900, 300, at=0.0, action="reload"))
    for n in range(6):
        recycle(book, 8.0 + n, n, None, 500.0)
    assert book.storm("leak", 15 * MINUTE) is None


def test_requests_of_people_do_not_count() -> None:
    book = chain(8, 8.0, kind="request")
    assert book.turns == []
    assert book.storm("request", 70 * MINUTE) is None


def test_others_reload_forgets_the_storm() -> None:
    book = chain(5, 8.0)
    book.clear()
    assert book.storm("leak", 41 * MINUTE) is None


def test_after_an_hour_one_more_is_tried_and_the_storm_is_back_with_it() -> None:
    book = chain(5, 8.0)
    held = book.storm("leak", 41 * MINUTE)
    assert held is not None
    assert held.until is not None
    assert book.storm("leak", held.until - 1) is not None
    assert book.storm("leak", held.until) is None
    recycle(book, held.until / MINUTE, 5, 6, 60.0)
    assert book.storm("leak", held.until + 1) is not None


def play(lives: dict[int, float], minutes: int, kind: str, cooldown: float) -> tuple[float, int]:
    """Workers that need to go at the age of so many minutes, under the default budget: the
    minute of the storm (or -1), and how many recycles there were before the budget held one."""
    book, actions, born, storm = Ledger(), list[float](), dict.fromkeys(lives, 0.0), -1.0
    ids, ended, pid = dict(zip(lives, lives, strict=True)), -100.0, 100
    budget = Options().budget
    for minute in range(minutes):
        for name, life in lives.items():
            recent = [at for at in actions if at > minute - budget.period / 60]
            if minute - born[name] < life or minute - ended < cooldown:
                continue
            if book.storm(kind, minute * MINUTE):
                return float(minute), len(actions)
            if len(recent) >= budget.count:
                return -1.0, len(actions)
            pid += 1
            recycle(book, minute, ids[name], pid, minute - born[name], kind=kind)
            born[name], ids[name], ended = float(minute), pid, float(minute)
            actions.append(minute)
    return storm, len(actions)


@pytest.mark.parametrize(
    ("lives", "kind", "cooldown", "storm"),
    [
        ({1: 6}, "leak", 5, True),
        ({1: 8}, "limit", 0, True),
        ({1: 10, 2: 10}, "leak", 5, True),
        ({1: 8, 2: 8, 3: 8, 4: 8}, "limit", 0, True),
        # Six of them have used up the budget before the first comes back.
        (dict.fromkeys(range(8), 8.0), "limit", 0, False),
        ({1: 30, 2: 30, 3: 30}, "leak", 5, False),
    ],
)
def test_under_the_default_budget_a_storm_is_found_before_the_budget_holds(
    lives: dict[int, float], kind: str, cooldown: float, storm: bool
) -> None:
    minute, actions = play(lives, 300, kind, cooldown)
    assert (minute > 0) == storm
    assert actions <= Options().budget.count or not storm


# -- through the journal

IDS = st.builds(WorkerId, st.integers(1, 9), st.integers(1, 9))
MAYBE = st.none() | st.floats(-1e9, 1e9)
TURNS = st.builds(
    Turn,
    st.floats(0, 1e5),
    st.sampled_from(["leak", "limit", "fd_growth", "request", "imbalance"]),
    st.sampled_from(["recycle", "reload", "restart"]),
    st.none() | IDS,
    st.none() | IDS,
    st.none() | st.floats(0, 1e5),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(-(2**40), 2**40),
    MAYBE,
)


@given(st.lists(TURNS, max_size=90), st.sampled_from(["leak", "fd_growth"]), st.floats(0, 2e5))
def test_a_ledger_read_back_says_the_same(turns: list[Turn], kind: str, at: float) -> None:
    """And it stays small; a storm names an hour that is still to come."""
    book, again = Ledger(), Ledger()
    for each in turns:
        book.note(each)
        baseline(each, 400 * MB, 100 * MB)
    again.load(json.loads(json.dumps(book.dump())))
    held = book.storm(kind, at)
    assert again.turns == book.turns
    assert again.storm(kind, at) == held
    assert len(book.turns) <= ledger.MOST
    if held is not None:
        assert held.until is not None
        assert held.until > at
        assert len(book.turns) >= ledger.STORM


def test_a_clock_that_was_set_back_takes_the_turns_with_it() -> None:
    book, again = chain(5, 8.0), Ledger()
    again.load(book.dump(), back=1800.0)
    assert [each.at for each in again.turns] == [each.at - 1800.0 for each in book.turns]


@pytest.mark.parametrize("data", [[[1]], [None], [["x", "leak", "recycle", None, None, 1, 2, 3]]])
def test_what_is_no_ledger_is_refused(data: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Ledger().load(data)
