"""What our actions have brought so far: whether recycling helps, and for how long.

Two answers. `baseline`: after one action, whether what came back shows that a fresh worker is
the problem. `Ledger.storm`: over many, whether the same complaint keeps coming back in workers
that are themselves fresh. What counts there is how long an action *buys*: eight leaking workers
that are recycled once each are no storm, one whose replacement has to go eight minutes later,
again and again, is.

Whether to hold, to climb the ladder or to give up for it, is policy.py's and watch.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from . import units
from .model import FD_GROWTH, IMBALANCE, LEAK, LIMIT, TOTAL_LIMIT, Held, WorkerId

REQUEST = "request"  # the kind of what a person asked for: no complaint, it is not counted

# A fresh worker that holds so much of its limit leaves no room for a leak to be cut off.
NEAR = 0.85
# A fresh worker that holds so much of what the one before it held is no smaller.
SAME = 0.9
# So much of what was hoped for has come back: the action did what it was meant to.
ENOUGH = 0.5
# So much of what a fresh worker holds is the master's, that it came from there.
INHERITED = 0.8

# A storm: so many actions for the same complaint within WITHIN, at least BOUGHT of them on what
# an earlier one had brought, which bought less than SHORT each (by the median). The default
# budget of 6 an hour is used up after this is seen, not before: one worker that leaks is in its
# fifth recycle, four that reach their limits together in their sixth.
STORM, BOUGHT = 5, 2
WITHIN = 7200.0
SHORT = 900.0
# After so long one more may be tried.
OVER = 3600.0
# Each action, done and being done, in words.
_DONE = {
    "recycle": ("recycled", "recycling"),
    "reload": ("reloaded", "a reload"),
    "restart": ("restarted", "a restart"),
}
# So many turns are kept.
MOST = 64

# One complaint: of a fast leak now the one is confirmed first, now the other.
_MEMORY = frozenset({LEAK, LIMIT, TOTAL_LIMIT, IMBALANCE})


class Turn(NamedTuple):
    """One action of ours, from its begin to what it brought. What is not known is None."""

    at: float  # when it began
    kind: str  # the verdict's, or REQUEST
    action: str  # "recycle", "reload" or "restart"
    target: WorkerId | None
    newcomer: WorkerId | None  # who stands for the target now
    age: float | None  # the target's when it was asked to leave, seconds
    before: int | None  # bytes (of fd_growth: open files) held by the target, or by all
    after: int | None  # the same of what has come instead, after it settled
    expected: int | None  # hoped to get back
    rate: float | None  # how fast the target grew, bytes (open files) a second


def baseline(turn: Turn, limit: int | None, master: int | None = None) -> str | None:
    """Why recycling cannot help, after one action; None where it may.

    `limit`: the worker's, in bytes; `master`: what the master itself holds, by the measure of
    `turn.after`, where it preloads the application.
    """
    before, after = turn.before, turn.after
    if turn.kind == REQUEST or after is None:
        return None
    near = (
        turn.action == "recycle"
        and turn.kind != FD_GROWTH
        and limit is not None
        and after >= NEAR * limit
    )
    if near:
        holds = f"already holds {units.size(after)} of its limit of {units.size(limit)}"
    elif before and after >= SAME * before and not _as_hoped(before - after, turn.expected):
        holds = f"holds {_much(turn, after)}, the one before it held {_much(turn, before)}"
    else:
        return None
    who = "a fresh worker" if turn.action == "recycle" else f"the program after a {turn.action}"
    if master is not None and turn.kind != FD_GROWTH and master >= INHERITED * after:
        return (
            f"{who} {holds}, and the master itself {units.size(master)}, which it hands to each:"
            " the baseline is the problem, not a leak: recycling workers cannot help"
        )
    _, doing = _DONE.get(turn.action, ("", "it"))
    return f"{who} {holds}: the baseline is the problem, not a leak: {doing} cannot help"


def _as_hoped(freed: int, expected: int | None) -> bool:
    """Whether most of what was hoped for came back, little as it may be."""
    return expected is not None and expected > 0 and freed >= ENOUGH * expected


class Ledger:
    """The latest actions of one program, in their order."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def note(self, turn: Turn) -> None:
        """An action has ended. What a person asked for is not kept."""
        if turn.kind != REQUEST:
            self.turns = [*self.turns, turn][-MOST:]

    def clear(self) -> None:
        """Others have reloaded or restarted the program: perhaps it is another one now."""
        self.turns = []

    def storm(self, kind: str, at: float) -> Held | None:
        """Whether actions for verdicts of this kind are of no lasting use, with the numbers."""
        turns = [
            (turn, bought)
            for turn, bought in zip(self.turns, _bought(self.turns), strict=True)
            if _complaint(turn.kind) == _complaint(kind)
        ]
        if not turns or at >= turns[-1][0].at + OVER:
            return None
        turns = [(turn, bought) for turn, bought in turns if turn.at > turns[-1][0].at - WITHIN]
        times = [bought for _, bought in turns if bought is not None]
        if len(turns) < STORM or len(times) < BOUGHT or units.lower_median(times) >= SHORT:
            return None
        return Held("storm", _sentence([turn for turn, _ in turns], times), turns[-1][0].at + OVER)

    def dump(self) -> list[list[Any]]:
        """JSON-able."""
        return [[_pair(value) for value in turn] for turn in self.turns]

    def load(self, data: Sequence[Sequence[Any]], back: float = 0.0) -> None:
        """Restore what `dump` gave. Raises TypeError or ValueError on anything else.

        `back`: seconds by which the clock was set back since; all times go back with it.
        """
        turns = []
        for at, kind, action, target, newcomer, *numbers in data:
            ids = (_id(target), _id(newcomer))
            turns.append(Turn(at - back, str(kind), str(action), *ids, *numbers))
        self.turns = turns[-MOST:]


def _complaint(kind: str) -> str:
    return "memory" if kind in _MEMORY else kind


def _bought(turns: Sequence[Turn]) -> list[float | None]:
    """Of each, how long the earlier action lasted that brought its target; None: there was none.

    A reload or a restart brings all workers, and is followed by another of the program's.
    """
    newcomers: set[WorkerId] = set()
    all_new: float | None = None  # when all were brought last
    bought: list[float | None] = []
    for turn in turns:
        lasted = None
        since = turn.at - all_new if all_new is not None else None
        if turn.action != "recycle":
            lasted = since
        elif turn.age is not None:
            brought = since is not None and turn.age <= since
            lasted = turn.age if turn.target in newcomers or brought else None
        bought.append(lasted)
        if turn.newcomer is not None:
            newcomers.add(turn.newcomer)
        if turn.action != "recycle":
            all_new = turn.at
    return bought


def _sentence(turns: Sequence[Turn], times: Sequence[float]) -> str:
    """`recycled 5 times in 32m: it leaks 9.0MB/min; recycling buys 8m each`."""
    done, doing = _DONE.get(turns[-1].action, ("acted", "it"))
    if len({turn.action for turn in turns}) > 1:
        done = "acted"
    span, bought = units.time(turns[-1].at - turns[0].at), units.time(units.lower_median(times))
    speed, rates = "", _rates(turns)
    if rates and turns[-1].kind == FD_GROWTH:
        speed = f" it leaks {units.lower_median(rates) * 60:.0f} open files/min;"
    elif rates:
        speed = f" it leaks {units.rate(units.lower_median(rates)).lstrip('+')};"
    return f"{done} {len(turns)} times in {span}:{speed} {doing} buys {bought} each"


def _rates(turns: Iterable[Turn]) -> list[float]:
    """How fast the targets grew: as it was seen, else from their first size to their last."""
    first: dict[WorkerId, int] = {}
    rates = []
    for turn in turns:
        rate = turn.rate
        start = first.get(turn.target) if turn.target is not None else None
        if rate is None and start is not None and turn.before is not None and turn.age:
            rate = (turn.before - start) / turn.age
        if rate is not None and rate > 0:
            rates.append(rate)
        if turn.newcomer is not None and turn.after is not None:
            first[turn.newcomer] = turn.after
    return rates


def _much(turn: Turn, value: float) -> str:
    return f"{value:.0f} open files" if turn.kind == FD_GROWTH else units.size(value)


def _pair(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _id(pair: Sequence[Any] | None) -> WorkerId | None:
    return None if pair is None else WorkerId(*pair)
