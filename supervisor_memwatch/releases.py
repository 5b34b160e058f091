"""Releases: when the code of a program changed, and how it leaked before and since.

The time a program is watched falls into eras; a new one begins with each load of other code, by
a reload or a restart, whoever asked for it. What was loaded is told by the fingerprint of its
files where it is known from before, else by whether one of them has changed since the load
before. A load of the same code is no release. Of each era: how long how many workers were
watched, and how those leaked that were told to.

Not here: looking at the files (fingerprint.py, trial.py), and what is said of it (advice.py). Not
seen: code that arrives without a reload, in single workers that are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .model import Snapshot, Worker, WorkerId
from .units import HOUR, MB, lower_median

ERAS = 12  # kept
LEAKS = 16  # of one era: the workers that are remembered, the latest ones
ENDS = 8  # of one era: ends by max_requests
# Workers that were loaded within so long of each other were loaded together.
ONE_LOAD = 10.0
# Ages are rounded.
SAME = 1.0
# A pause between two looks for which nobody was watched.
UNSEEN = 2 * HOUR
# Worker-hours without a leak that say something.
ENOUGH = 1.0
# What today's leak would have brought in that time, of all workers together, to be seen at all.
NOTICED = 32 * MB
# A leak so many times another one is another leak.
TWICE = 2.0

# How a release is known.
PENDING = ""  # not yet: its files are being looked at
CHANGED = "its code changed"
UNKNOWN = "whether its code changed is not known"


class Code(NamedTuple):
    """What the files of a program's code looked like. Times are the listener's."""

    number: str | None  # their fingerprint; None: not all could be seen
    changed: float | None  # when one of them last changed
    at: float  # when they were looked at
    file: str = ""  # the one that changed last


class Rate(NamedTuple):
    """How the workers of an era leaked. None: not watched for long enough to say."""

    per_hour: float | None  # bytes, the median of those told; 0: none was
    per_work: float | None  # bytes, where known
    unit: str | None  # of work: "request" or "CPU second"
    workers: int  # that leaked
    hours: float  # worker-hours watched


class End(NamedTuple):
    """A leaking worker that max_requests ended."""

    grown: float  # bytes in its life
    requests: int | None
    age: float | None


class Origin(NamedTuple):
    """Since when a program leaks as it does, as far as its releases tell."""

    at: float  # of the release in question
    what: str  # reload or restart
    sure: bool  # that its code changed
    brought: bool | None  # whether it brought the leak; None: before, too little was watched
    before: Rate | None
    since: Rate


class Leak(NamedTuple):
    """The last that was seen of one worker's leak."""

    per_hour: float
    per_work: float | None
    unit: str | None


@dataclass(slots=True)
class Era:
    """The time from one release to the next."""

    at: float
    what: str = ""  # the load it began with; empty: watching began
    how: str = ""  # known
    seconds: float = 0.0  # of all workers together
    leaks: dict[WorkerId, Leak] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)

    def rate(self) -> Rate:
        """How its workers leaked."""
        hours, leaks = self.seconds / HOUR, list(self.leaks.values())
        if not leaks:
            return Rate(0.0 if hours >= ENOUGH else None, None, None, 0, hours)
        units = {leak.unit for leak in leaks if leak.per_work is not None}
        unit = "request" if "request" in units else next(iter(units), None)
        works = [leak.per_work for leak in leaks if leak.unit == unit and leak.per_work is not None]
        per_hour = lower_median(leak.per_hour for leak in leaks)
        return Rate(per_hour, lower_median(works) if works else None, unit, len(leaks), hours)

    def absorb(self, later: Era) -> None:
        """What seemed to be another one was not."""
        self.seconds += later.seconds
        self.leaks = _last({**self.leaks, **later.leaks})
        self.ends = [*self.ends, *later.ends][-ENDS:]


class Releases:
    """Of one program, the latest eras."""

    def __init__(self) -> None:
        self.eras: list[Era] = []
        self.code: Code | None = None  # of the last load
        self.pending = False  # what was loaded is to be found out
        # Births of the oldest worker: of late, of the one before it, at the last load.
        self._oldest: float | None = None
        self._older: float | None = None
        self._before: float | None = None
        self._load: float | None = None  # when the last load was
        self._looked: float | None = None  # when `watched` was last called; of this listener only

    @property
    def latest(self) -> Era | None:
        """The last release."""
        return next((era for era in reversed(self.eras) if era.how != PENDING), None)

    def watched(self, snapshot: Snapshot) -> None:
        """The workers were watched since the last call; every minute or so is enough."""
        at = snapshot.at
        if not self.eras:
            self.eras.append(Era(at))
        passed = at - self._looked if self._looked is not None else 0.0
        if 0 < passed <= UNSEEN:
            self.eras[-1].seconds += passed * len(snapshot.workers)
        self._looked = at
        oldest = min(_births(snapshot), default=None)
        if oldest is None:
            return
        if self._oldest is not None and oldest > self._oldest + SAME:
            self._older = self._oldest
        self._oldest = oldest

    def loaded(self, snapshot: Snapshot, what: str) -> None:
        """The program was reloaded or restarted: its youngest workers run what was loaded then."""
        births = _births(snapshot)
        youngest = max(births, default=snapshot.at)
        at = min((birth for birth in births if birth > youngest - ONE_LOAD), default=snapshot.at)
        if not self.eras:
            self.eras.append(Era(at))
        if self._load is not None and at - self._load < ONE_LOAD:
            return  # that is known
        if self.pending:
            self._load = at  # both together: what is looked at from now on is what runs
            return
        new = self._oldest is not None and self._oldest >= at - SAME
        self._before = self._older if new else self._oldest
        self._load, self.pending = at, True
        self.eras.append(Era(at, what))

    def take(self, code: Code) -> bool | None:
        """Its files were looked at: whether the last load was of other code; None: not known."""
        if self.pending and self._load is not None and code.at < self._load:
            return False  # it was asked for before the last load: that is still to be found out
        before, self.code = self.code, code
        if not self.pending:
            return False
        self.pending = False
        other = self._is_other(before, code)
        if other is False:
            era = self.eras.pop()
            self.eras[-1].absorb(era)
        else:
            self.eras[-1].how = CHANGED if other else UNKNOWN
            del self.eras[:-ERAS]
        return other

    def _is_other(self, before: Code | None, now: Code) -> bool | None:
        if before is not None and before.number is not None and now.number is not None:
            return before.number != now.number
        if now.changed is None or self._before is None:
            return None
        if now.changed > self._before:
            return True
        return False if now.number is not None else None

    def leaks(self, worker: Worker, at: float, leak: Leak) -> None:
        """A worker was told to leak. One that is leaving runs the code of the era before."""
        era = self.eras[-1] if self.eras else None
        if era is None or (worker.age is not None and at - worker.age < era.at - SAME and era.what):
            return
        era.leaks.pop(worker.id, None)
        era.leaks[worker.id] = leak
        era.leaks = _last(era.leaks)

    def took_back(self, id: WorkerId) -> bool:
        """It was no leak after all: its growth has ended by itself. False: it was none before."""
        found = [era.leaks.pop(id, None) for era in self.eras]
        return any(leak is not None for leak in found)

    def ended(self, id: WorkerId, end: End) -> None:
        """max_requests ended a worker; of those that leaked it is kept how far they came."""
        if self.eras and id in self.eras[-1].leaks:
            self.eras[-1].ends = [*self.eras[-1].ends, end][-ENDS:]

    def ends(self) -> tuple[End, ...]:
        """The ends by max_requests since the last release."""
        return tuple(self.eras[-1].ends) if self.eras else ()

    def origin(self) -> Origin | None:
        """Which release brought the leak there is; None: there is none, or no release was seen.

        The earliest one since which it leaks about as now; where it leaked so before all that were
        seen, the last one is named, which did not bring it.
        """
        last = self.latest
        if self.pending or last is None or len(self.eras) < 2:
            return None
        now = self.eras[-1].rate()
        if not now.per_hour:
            return None
        since, known = self.eras[-1], None
        for index in range(len(self.eras) - 2, -1, -1):
            before = self.eras[index].rate()
            if before.per_hour is None:
                continue
            if not before.per_hour and now.per_hour * before.hours < NOTICED:
                continue  # it would not have been seen: that says nothing
            if not alike(before, now):
                return Origin(since.at, since.what, since.how == CHANGED, True, before, now)
            since, known = self.eras[index], known or before
        if since.what and known is not None:  # all that is kept leak so: an older one brought it
            return Origin(since.at, since.what, since.how == CHANGED, None, None, now)
        brought = None if known is None else False
        return Origin(last.at, last.what, last.how == CHANGED, brought, known, now)

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON-able values."""
        return {
            "code": self.code,
            "times": [self._oldest, self._older, self._before, self._load],
            "eras": [
                [
                    era.at,
                    era.what,
                    era.how,
                    era.seconds,
                    [[*id, *leak] for id, leak in era.leaks.items()],
                    [list(end) for end in era.ends],
                ]
                for era in self.eras
            ],
        }

    @classmethod
    def load(cls, data: dict[str, Any], back: float = 0.0) -> Releases:
        """What `dump` gave. Raises KeyError, TypeError or ValueError on anything else.

        `back`: seconds by which the clock was set back since; all times go back with it. The
        time from `dump` to `load` does not count as watched.
        """
        self = cls()
        if data["code"] is not None:
            code = Code(*data["code"])
            changed = None if code.changed is None else code.changed - back
            self.code = code._replace(changed=changed, at=code.at - back)
        times = [None if at is None else at - back for at in data["times"]]
        self._oldest, self._older, self._before, self._load = times
        for at, what, how, seconds, leaks, ends in data["eras"]:
            era = Era(at - back, str(what), str(how), float(seconds))
            era.leaks = {WorkerId(pid, start): Leak(*leak) for pid, start, *leak in leaks}
            era.ends = [End(*end) for end in ends]
            self.eras.append(era)
        self.pending = bool(self.eras) and self.eras[-1].what != "" and not self.eras[-1].how
        return self


def alike(before: Rate, now: Rate) -> bool:
    """Whether it leaked before about as it does now, or more; by work done where that is known."""
    if before.per_work is not None and now.per_work is not None and before.unit == now.unit:
        return before.per_work * TWICE > now.per_work
    return (before.per_hour or 0.0) * TWICE > (now.per_hour or 0.0)


def _births(snapshot: Snapshot) -> list[float]:
    return [snapshot.at - worker.age for worker in snapshot.workers if worker.age is not None]


def _last(leaks: dict[WorkerId, Leak]) -> dict[WorkerId, Leak]:
    return dict(list(leaks.items())[-LEAKS:])
