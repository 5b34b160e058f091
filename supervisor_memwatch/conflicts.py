"""Settings that fight each other, or what they are for: said before it hurts.

Each is a function of one program's case that says what is wrong and what to do, or None, and
stands in one of two tables: with a FAILURE memwatch would not do what it was configured for, with a
WARNING it would, at a price. What the case is is found out elsewhere (rehearsal.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from . import detectors, report, units
from .model import Snapshot, Worker, serves
from .needs import private, room
from .options import Options

GRACEFUL = 30.0  # seconds: gunicorn's own graceful timeout where nobody sets another
AMPLE = 1.5  # times what a fresh worker needs: the limit that is advised
SLOW = 600.0  # seconds between two looks that are many
_TERM, _KILL = 15, 9
_SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 6: "ABRT", 9: "KILL", 10: "USR1", 12: "USR2"}


class Case(NamedTuple):
    """One program, as it is watched and as it is now."""

    options: Options
    own: frozenset[str]  # the options that a section of its own sets
    snapshot: Snapshot
    command: Mapping[str, object]  # Supervisor's configuration of it, possibly empty
    learned: int | None = None  # bytes that its fresh workers were found to need, at most
    period: float | None = None  # seconds between two looks

    @property
    def limit(self) -> int | None:
        ceiling = self.options.limit
        return ceiling.of(self.snapshot.available) if ceiling else None

    @property
    def total_limit(self) -> int | None:
        ceiling = self.options.total_limit
        return ceiling.of(self.snapshot.available) if ceiling else None

    @property
    def gunicorn(self) -> bool:
        return self.snapshot.kind == "gunicorn"

    @property
    def total(self) -> int:
        return detectors.total(self.snapshot)

    @property
    def apart(self) -> int:
        """Bytes of the program that are no worker's own: its master, what is shared."""
        return max(self.total - sum(private(worker) for worker in self.snapshot.workers), 0)

    @property
    def graceful(self) -> tuple[float, str]:
        """gunicorn's graceful timeout, as far as the command line says."""
        found = report.graceful_timeout(str(self.command.get("command", "")))
        if found is not None:
            return found, f"--graceful-timeout {found:g}"
        return GRACEFUL, "gunicorn's graceful timeout of 30 s (if its configuration has no other)"

    def fresh(self) -> tuple[int, str] | None:
        """What a fresh worker needs, and how that is known."""
        if self.learned is not None:
            return self.learned, f"a fresh worker was found to need {units.size(self.learned)}"
        young = self._youngest()
        if young is None:
            return None
        size, measure = detectors.measure(self.options, young, self.snapshot.at)
        age = units.time(young.age)
        return size, f"the youngest worker, {age} old, holds {units.size(size)} ({measure})"

    def _youngest(self) -> Worker | None:
        ready = [worker for worker in self.snapshot.workers if serves(worker)]
        return min(ready, key=lambda worker: worker.age or 0.0, default=None)


def found(case: Case) -> Iterator[tuple[bool, str]]:
    """(whether it is a failure, what is wrong and what to do), in the order of the tables."""
    for table in (FAILURES, WARNINGS):
        for conflict in table:
            text = conflict(case)
            if text is not None:
                yield table is FAILURES, text


# -- sizes


def _limit_too_low(case: Case) -> str | None:
    limit, fresh = case.limit, case.fresh()
    if not case.gunicorn or limit is None or fresh is None or fresh[0] < limit:
        return None
    return (
        f"limit = {units.size(limit)}, and {fresh[1]}: each would be over it as soon as it serves; "
        f"set limit to {units.size(AMPLE * fresh[0])} or more"
    )


def _total_limit_too_low(case: Case) -> str | None:
    limit, count = case.total_limit, len(case.snapshot.workers)
    if limit is None or not count:
        return None
    if case.total >= limit:
        return (
            f"total_limit = {units.size(limit)}, and it holds {units.size(case.total)} now: with "
            "mode = act it is acted on at once; set more"
        )
    if not case.gunicorn or case.learned is None:
        return None
    needed = case.apart + count * case.learned
    if needed < limit:
        return None
    return (
        f"total_limit = {units.size(limit)}, and {count} fresh workers need {units.size(needed)} "
        "with their master: no recycling gets it below; set more, or fewer workers"
    )


def _limits_exceed_total(case: Case) -> str | None:
    limit, whole, count = case.limit, case.total_limit, len(case.snapshot.workers)
    if not case.gunicorn or limit is None or whole is None or limit >= whole:
        return None
    together = case.apart + count * limit
    if together <= whole:
        return None
    return (
        f"{count} workers at their limit of {units.size(limit)} hold {units.size(together)}, and "
        f"total_limit is {units.size(whole)}: where several grow, that is met first"
    )


def _out_of_reach(case: Case) -> str | None:
    available, options = case.snapshot.available, case.options
    if available is None:
        return None
    for name, ceiling in (("limit", options.limit), ("total_limit", options.total_limit)):
        if ceiling is not None and ceiling.bytes is not None and ceiling.bytes >= available:
            return (
                f"{name} = {units.size(ceiling.bytes)}, and only {units.size(available)} are "
                "available to it (RAM, or its control group's limit): the kernel kills first; "
                f"set a share, such as {name} = 80%"
            )
    return None


def _nothing_is_looked_for(case: Case) -> str | None:
    options = case.options
    if options.growth != "off" or options.imbalance or options.limit or options.total_limit:
        return None
    return "growth and imbalance are off, and there is no limit: no memory is ever too much"


# -- how a worker goes


def _killed_by_guess(case: Case) -> str | None:
    options = case.options
    command = str(case.command.get("command", ""))
    if not (case.gunicorn and options.kill and options.grace is None):
        return None
    if report.graceful_timeout(command) is not None:
        return None
    return (
        "kill = on with grace = auto, and no --graceful-timeout on the command line: how long a "
        "worker may take is not known, so none is killed; set `grace`, such as 35s"
    )


def _killed_too_soon(case: Case) -> str | None:
    options = case.options
    seconds, which = case.graceful
    if not (case.gunicorn and options.kill and options.grace is not None):
        return None
    if options.grace >= seconds:
        return None
    return (
        f"kill = on with grace = {units.time(options.grace)}, less than {which}: SIGKILL cuts "
        f"requests short that gunicorn would finish; set grace = {seconds + 5:.0f}s"
    )


def _stopped_too_soon(case: Case) -> str | None:
    patience = case.command.get("stopwaitsecs")
    seconds, which = case.graceful
    if not case.gunicorn or not isinstance(patience, int) or patience >= seconds:
        return None
    return (
        f"stopwaitsecs = {patience}, less than {which}: a stop or restart ends in Supervisor's "
        f"SIGKILL, which cuts requests short; set stopwaitsecs = {seconds + 5:.0f} in its section"
    )


def _stopped_the_wrong_way(case: Case) -> str | None:
    number = case.command.get("stopsignal")
    if not case.gunicorn or not isinstance(number, int) or number == _TERM:
        return None
    name = _SIGNALS.get(number, str(number))
    leaves = "leaves its workers behind" if number == _KILL else "does not let requests finish"
    return f"stopsignal = {name}: gunicorn {leaves} at a stop or restart; set stopsignal = TERM"


def _alone(case: Case) -> str | None:
    options, count = case.options, len(case.snapshot.workers)
    if not case.gunicorn or count != 1 or options.surge != "off" or options.mode != "act":
        return None
    return "one worker, and surge = off: nobody serves while it is replaced; set surge = auto"


def _all_away(case: Case) -> str | None:
    options, count = case.options, len(case.snapshot.workers)
    if not case.gunicorn or count < 2 or options.max_unavailable < count:
        return None
    return (
        f"max_unavailable = {options.max_unavailable} of {count} workers: all may be away at once"
    )


def _no_room_for_surge(case: Case) -> str | None:
    fresh = case.fresh()
    if not case.gunicorn or case.options.surge != "on" or fresh is None:
        return None
    left = room(case.snapshot, case.total, case.total_limit)
    if left is None or fresh[0] <= left:
        return None
    return (
        f"surge = on, and there is no room for one more worker: {units.size(left)} are left, "
        f"{fresh[1]}; it is recycled without"
    )


# -- what is done, and what is said


def _plain_is_left(case: Case) -> str | None:
    options, own = case.options, case.own
    if case.gunicorn or options.mode != "act" or not own:
        return None
    if "restart" in options.actions and "actions" in own:
        return None
    return (
        "no gunicorn is seen in it, and the section of its own does not name restart: nothing is "
        "done to it; set actions = restart there"
    )


def _window_without_use(case: Case) -> str | None:
    options = case.options
    if options.window is None or options.growth != "off" or options.imbalance is not None:
        return None
    return (
        f"window = {options.window} with growth and imbalance off: limit and total_limit are "
        "urgent and do not wait for it"
    )


def _news_of_nothing(case: Case) -> str | None:
    if not case.options.notify or case.options.notify_on:
        return None
    return "notify has targets and notify_on is empty: nothing is ever sent"


def _looks_are_rare(case: Case) -> str | None:
    if case.period is None or case.period < SLOW:
        return None
    return (
        f"it is looked at every {units.time(case.period)}: a leak may pass its limit in between; "
        "set TICK_5 in the listener's events"
    )


FAILURES: tuple[Callable[[Case], str | None], ...] = (
    _limit_too_low,
    _total_limit_too_low,
    _nothing_is_looked_for,
    _killed_by_guess,
)
WARNINGS: tuple[Callable[[Case], str | None], ...] = (
    _limits_exceed_total,
    _out_of_reach,
    _killed_too_soon,
    _stopped_too_soon,
    _stopped_the_wrong_way,
    _alone,
    _all_away,
    _no_room_for_surge,
    _plain_is_left,
    _window_without_use,
    _news_of_nothing,
    _looks_are_rare,
)
