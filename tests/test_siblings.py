"""The workers side by side: what explains that one of them holds more, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from supervisor_memwatch import curves, siblings
from supervisor_memwatch.deeds import Key
from supervisor_memwatch.model import IMBALANCE, LEAK
from supervisor_memwatch.units import MB

MINUTE = 60.0
Size = Callable[[float], float]  # age in seconds -> MB


def compare(
    *workers: tuple[float, Size, float],
    told: Collection[Key] = (),
    until: float = 40 * MINUTE,
    since: float = 0.0,
) -> dict[str, Any]:
    """Of workers 10, 11, ...: when each was born, what it holds at an age, and its share of a CPU.
    They are seen once a minute, from `since` on."""
    rows = []
    at = since
    while at <= until:
        row = [[1, 1, 9 * MB, None, None, None, 0, 0.1]]
        for number, (born, size, work) in enumerate(workers):
            if at >= born:
                pid, held = 10 + number, round(size(at - born) * MB)
                row.append([pid, pid, held, None, None, None, 0, work * (at - born)])
        rows.append((at, row))
        at += MINUTE
    born = {10 + number: worker[0] for number, worker in enumerate(workers)}
    found = siblings.compare(curves.lives(rows), "rss", "RSS", None, born, told)
    assert found is not None
    return found


def words(found: dict[str, Any]) -> list[str]:
    return [row["word"] for row in found["rows"]]


def grows(age: float) -> float:
    return 40 + age / MINUTE * 10


def steady(age: float) -> float:
    return 100.0


def large(age: float) -> float:
    return 300.0


def test_those_that_hold_the_same_are_alike() -> None:
    """With the span, and the most."""
    found = compare((0, steady, 0.1), (0, steady, 0.1), (0, steady, 0.1))
    assert (words(found), found["tone"]) == (["", "", ""], "good")
    assert found["text"] == (
        "Yes: RSS 100.0MB to 100.0MB; the most, worker 10 holds 1.0 times its siblings' median."
    )


def test_an_older_worker_that_held_as_much_at_their_age_does_not_stand_out() -> None:
    """All leak alike; one is older by far."""
    told = [(10, LEAK), (11, LEAK)]
    found = compare((0, grows, 0.1), (30 * MINUTE, grows, 0.1), told=told)
    assert (words(found), found["tone"]) == (["older", ""], "unsure")
    assert found["text"] == (
        "For their age, yes: RSS 140.0MB to 440.0MB; worker 10 holds 3.1 times its sibling, "
        "but is older: at their age it held 1.0 times as much."
    )


def test_an_older_worker_that_nobody_saw_at_their_age_is_not_judged() -> None:
    """The page begins later than it."""
    found = compare((-400 * MINUTE, large, 0.1), (30 * MINUTE, grows, 0.1))
    assert (words(found), found["tone"]) == (["older", ""], "unsure")
    assert found["text"].endswith("but is older (7h 20m, not 10m): too early to compare.")


@pytest.mark.parametrize(
    ("told", "work", "word", "tone", "said"),
    [
        ((), 0.1, "stands out", "bad", "No: RSS 100.0MB to 300.0MB; worker 10 holds 3.0 times its "
         "siblings' median (1.6 stands out)."),
        ([(10, LEAK)], 0.1, "leaks", "bad", "holds 3.0 times its siblings' median: it leaks."),
        ((), 0.3, "works more", "unsure", "and has worked 3.0 times."),
        ([(10, IMBALANCE)], 0.3, "stands out", "bad", "(1.6 stands out)."),
    ],
)  # fmt: skip
def test_what_explains_more_at_the_same_age_is_said(
    told: Collection[Key], work: float, word: str, tone: str, said: str
) -> None:
    """Work, a leak; what was told to stand out, does."""
    found = compare((0, large, work), (0, steady, 0.1), (0, steady, 0.1), told=told)
    assert (words(found), found["tone"]) == ([word, "", ""], tone)
    assert found["text"].endswith(said)


def test_a_younger_worker_that_holds_more_stands_out() -> None:
    """Its siblings held less when they were as old."""
    found = compare((0, steady, 0.1), (0, steady, 0.1), (30 * MINUTE, large, 0.1))
    assert words(found) == ["", "", "stands out"]


def test_a_younger_worker_than_anybody_saw_the_others_is_not_called_older() -> None:
    """The page begins later than its siblings."""
    long_ago = -400 * MINUTE
    found = compare((long_ago, steady, 0.1), (long_ago, steady, 0.1), (30 * MINUTE, large, 0.1))
    assert (words(found), found["tone"]) == (["", "", "stands out"], "bad")


def test_a_younger_worker_whose_siblings_held_as_much_is_not_called_older() -> None:
    """They gave it back since."""

    def gives_back(age: float) -> float:
        return 90.0 if age < 20 * MINUTE else 45.0

    found = compare((0, gives_back, 0.1), (0, gives_back, 0.1), (30 * MINUTE, lambda _: 95.0, 0.1))
    assert found["text"].endswith(", but at the same age it held 1.1 times as much.")


def test_samples_of_one_moment_have_no_pace() -> None:
    """As where a journal was written twice."""
    sizes = {1: 9, 10: 300, 11: 100}
    row = [[pid, pid, size * MB, None, None, None, 0, 0.1] for pid, size in sizes.items()]
    found = siblings.compare(curves.lives([(0.0, row)] * 2), "rss", "RSS", None, {}, ())
    assert found is not None and words(found) == ["stands out", ""]


def test_a_few_megabytes_are_not_worth_red() -> None:
    """As the detector has it."""
    found = compare((0, lambda age: 45.0, 0.1), (0, lambda age: 20.0, 0.1))
    assert (words(found), found["tone"]) == (["little", ""], "unsure")
    assert found["text"].endswith("holds 2.2 times its sibling, which is 25.0MB more.")


def test_one_worker_has_nobody_to_be_compared_with() -> None:
    """And nobody at all is no table."""
    found = compare((0, steady, 0.1))
    assert found["text"] == "There is one worker only: nothing to compare it with."
    assert siblings.compare([], "rss", "RSS", None, {}, ()) is None
