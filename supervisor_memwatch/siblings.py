"""The workers of a program, compared: do they hold about the same?

Age counts: of a leak, or a cache that fills, the older worker holds more. So a worker that holds
much more than its siblings is compared with them once more, as it was when it was as old as they
are now; and what it works, and whether it leaks, is said beside it.

Not here: whether a worker is told to stand out (detectors.py), the table (markup.py).
Times are epoch seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from . import units
from .curves import PAUSE, Life
from .deeds import Key
from .detectors import Imbalance
from .model import IMBALANCE, LEAK

ALIKE = 1.6  # `imbalance` where the option is off

# How a worker that holds much more than its siblings is explained, the worst last.
OLDER, BUSIER, LITTLE, LEAKS, STANDS_OUT = "older", "works more", "little", "leaks", "stands out"
WORDS = (OLDER, BUSIER, LITTLE, LEAKS, STANDS_OUT)


class One(NamedTuple):
    """A worker that was there at the end."""

    life: Life
    measure: str
    born: float | None  # None: before anybody looked
    first: tuple[float, int]  # when it was measured, and what it held
    last: tuple[float, int]

    @property
    def size(self) -> int:
        return self.last[1]

    @property
    def age(self) -> float:
        return self.last[0] - (self.first[0] if self.born is None else self.born)


def compare(
    found: Sequence[Life],
    measure: str,
    name: str,
    bound: float | None,
    born: Mapping[int, float],
    told: Collection[Key],
) -> dict[str, Any] | None:
    """Those that were there at the end, side by side; None: nobody was.

    measure, name: by which size, and how it is called. bound: `imbalance`. born: of a pid, as far
    as that is known. told: the verdicts that stood at the end.
    """
    end = max((life.samples[-1].at for life in found), default=None)
    there = _there(found, measure, born)
    if end is None or not there:
        return None
    bound = bound or ALIKE
    rows = [_row(one, [each for each in there if each is not one], bound, told) for one in there]
    worst = max((row["word"] for row in rows if row["word"]), key=WORDS.index, default="")
    return {
        "at": end,
        "rows": rows,
        "bound": bound,
        "text": _sentence(rows, worst, bound, name),
        "tone": "bad" if worst in (LEAKS, STANDS_OUT) else "unsure" if worst else "good",
    }


def _there(found: Sequence[Life], measure: str, born: Mapping[int, float]) -> list[One]:
    """The workers of the last sample."""
    begin = min((life.samples[0].at for life in found), default=0.0)
    end = max((life.samples[-1].at for life in found), default=0.0)
    there = []
    for life in found:
        first, last = life.first(measure), life.last(measure)
        if life.role == "worker" and life.samples[-1].at == end and first and last:
            seen = life.samples[0].at
            birth = born.get(life.id.pid, None if seen == begin else seen)
            there.append(One(life, measure, birth, first, last))
    return there


def _row(one: One, others: Sequence[One], bound: float, told: Collection[Key]) -> dict[str, Any]:
    middle = units.median([other.size for other in others]) if others else 0
    ratio = one.size / middle if middle else None
    row: dict[str, Any] = {
        "pid": one.life.id.pid,
        "place": one.life.place,
        "since": one.first[0],
        "before": one.first[1],
        "after": one.size,
        "change": one.size - one.first[1],
        "more": one.size - middle,
        "ratio": ratio,
        "age": None if one.born is None else one.age,
        "aged": None,  # the same ratio at the same age,
        "worked": None,  # and of the CPU time they used
        "word": "",
    }
    if (one.life.id.pid, IMBALANCE) in told:
        row["word"] = STANDS_OUT
    elif ratio is not None and ratio >= bound:
        row["aged"] = _median(_aged(one, other) for other in others)
        row["worked"] = _worked(one, others)
        row["word"] = _word(row, bound, told)
    return row


def _word(row: Mapping[str, Any], bound: float, told: Collection[Key]) -> str:
    if row["aged"] is None or row["aged"] < bound:
        return OLDER
    if (row["pid"], LEAK) in told:
        return LEAKS
    if row["worked"] is not None and row["worked"] > Imbalance().busy:
        return BUSIER
    return LITTLE if row["more"] < Imbalance().least else STANDS_OUT


def _aged(one: One, other: One) -> float | None:
    """How many times the other's size it held, when the older was as old as the younger is now."""
    if one.born is None and other.born is None:
        return _quotient(one.size, other.size)
    if one.born is None or (other.born is not None and one.born < other.born):
        return _quotient(_size_at(one, other.age), other.size)
    then = _size_at(other, one.age)
    # Of a younger one that holds more than its elders, age is no excuse.
    return _quotient(one.size, other.size if then is None else then)


def _size_at(one: One, age: float) -> float | None:
    """What it held when it was so old, between the two samples next to that; None: not known."""
    if one.born is None:
        return None
    at = one.born + age
    if at >= one.last[0]:
        return one.size
    for (begin, before), (end, after) in pairwise(one.life.points(one.measure)):
        if begin <= at <= end and end - begin <= PAUSE:
            return before + (after - before) * (at - begin) / (end - begin)
    return None


def _worked(one: One, others: Sequence[One]) -> float | None:
    """How many times its siblings' median it worked, a second, while it was seen."""
    own, usual = _pace(one), _median(_pace(other) for other in others)
    return None if own is None or not usual else own / usual


def _pace(one: One) -> float | None:
    """CPU seconds a second."""
    known = [(sample.at, sample.cpu) for sample in one.life.samples if sample.cpu is not None]
    if not known:
        return None
    (begin, before), (end, after) = known[0], known[-1]
    return (after - before) / (end - begin) if end > begin else None


def _quotient(size: float | None, other: float | None) -> float | None:
    return None if size is None or not other else size / other


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return units.median(known) if known else None


def _sentence(rows: Sequence[Mapping[str, Any]], worst: str, bound: float, name: str) -> str:
    """The answer, with the numbers of the worker that it is about."""
    if len(rows) < 2:
        return "There is one worker only: nothing to compare it with."
    sizes = [row["after"] for row in rows]
    span = f"{name} {units.size(min(sizes))} to {units.size(max(sizes))}"
    row = max((row for row in rows if row["word"] == worst), key=lambda row: row["ratio"] or 0.0)
    whose = "its sibling" if len(rows) == 2 else "its siblings' median"
    holds = f"worker {row['pid']} holds {row['ratio'] or 0.0:.1f} times {whose}"
    if worst == STANDS_OUT:
        return f"No: {span}; {holds} ({bound:g} stands out)."
    if worst == LEAKS:
        return f"No: {span}; {holds}: it leaks."
    if worst == LITTLE:
        return f"Nearly: {span}; {holds}, which is {units.size(row['more'])} more."
    if worst == BUSIER:
        return f"For their work, yes: {span}; {holds}, and has worked {row['worked']:.1f} times."
    if worst == OLDER and row["aged"] is None:
        return f"Not known: {span}; {holds}, but is older{_ages(row, rows)}."
    if worst == OLDER:
        older = "is older: " if _is_older(row, rows) else ""
        same = f"at {'their' if older else 'the same'} age it held {row['aged']:.1f} times as much"
        return f"For their age, yes: {span}; {holds}, but {older}{same}."
    return f"Yes: {span}; the most, {holds}."


def _is_older(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Than its siblings' median; who was there before anybody looked, is."""
    usual = _median(other["age"] for other in rows if other is not row)
    return row["age"] is None or (usual is not None and row["age"] > usual)


def _ages(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """How much older, where that is known."""
    usual = _median(other["age"] for other in rows if other is not row)
    if row["age"] is None or usual is None:
        return ", and what it held at their age was not seen"
    return f" ({units.time(row['age'])}, not {units.time(usual)}): too early to compare"
