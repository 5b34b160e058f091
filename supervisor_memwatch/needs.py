"""Needs: what one more worker of a program would take, and whether there is room for it.

Learned from the program's own fresh workers: of each, what it holds of its own at the end of
SETTLE, and beyond that the most it held at once since its fork, which is usually while it loads
the application. Private memory is what counts: what a fork shares with its master is there
already, and what it copies of that by writing to it is not.

Not here: how much is left to the control group (host.py), and what follows from it (policy.py).
Bytes; unknown is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .model import Snapshot, Worker, WorkerId, serves
from .units import MB

SETTLE = 60.0  # seconds after its run loop started for which a worker is fresh: first requests
KEPT = 5  # settled workers that are remembered
# On top of what is measured: what the kernel keeps for it (1 to 2 MB), and what its siblings and
# its master take meanwhile.
SPARE, LEAST_SPARE = 0.1, 6 * MB
PAGE_TABLE = 512  # bytes of memory for which there is one in a page table


class _Fresh(NamedTuple):
    """A worker that is booting or has not settled."""

    highest: int  # the most it ever held, what it shares included
    need: int  # the most it held of its own, as far as is known
    ready: float | None  # its age when it was first seen to serve


class Needs:
    """What is known of one program. Bounded: a line for each fresh worker, and the last KEPT."""

    def __init__(self) -> None:
        self._fresh: dict[WorkerId, _Fresh] = {}
        self._settled: list[tuple[float, int]] = []  # (when it was forked, need), oldest first

    def remember(self, snapshot: Snapshot, peaks: Mapping[WorkerId, int] = {}) -> None:
        """Add a look. `peaks`: the most that young workers ever held resident, which a look every
        few seconds may miss."""
        if snapshot.kind != "gunicorn":
            return
        fresh = self._fresh
        for worker in snapshot.workers:
            age = worker.age
            if age is None or (
                age >= SETTLE and worker.ready and not (fresh and worker.id in fresh)
            ):
                continue
            if age < SETTLE or worker.id in fresh or not serves(worker):
                self._follow(snapshot, worker, age, peaks.get(worker.id, 0))
        for gone in fresh.keys() - {worker.id for worker in snapshot.workers} if fresh else ():
            del fresh[gone]

    def fresh(self, snapshot: Snapshot) -> int | None:
        """What has to be free for one more worker, those that are still booting included.

        Until one has settled: what the smallest of the older ones holds; with none of those, all
        that the fresh ones hold, what they may yet copy of their master included. No less than any
        fresh one had. None where nobody serves: then nothing is known.
        """
        ready = [worker for worker in snapshot.workers if serves(worker)]
        if not ready:
            return None
        known = [need for _, need in self._settled]
        older = [private(worker) for worker in ready if worker.id not in self._fresh]
        known = known or [min(older, default=max(map(_all, ready)))]
        one = max([*known, *(fresh.need for fresh in self._fresh.values())])
        one += max(int(SPARE * one), LEAST_SPARE)
        booting = (worker for worker in snapshot.workers if not serves(worker))
        return one + sum(max(one - private(worker), 0) for worker in booting)

    def wants(self, snapshot: Snapshot) -> tuple[WorkerId, ...]:
        """The fresh workers whose USS is to be read, or read again: they may share with their
        master most of what they hold, and share less with every request."""
        image = (snapshot.master.anon if snapshot.master is not None else None) or 0
        return tuple(
            worker.id
            for worker in snapshot.workers
            if worker.id in self._fresh
            and serves(worker)
            and worker.exact is not False
            and image > (worker.anon or 0) / 2
            and snapshot.at - (worker.measured_at or 0.0) >= SETTLE / 3
        )

    def _follow(self, snapshot: Snapshot, worker: Worker, age: float, peak: int) -> None:
        before = self._fresh.get(worker.id)
        held = worker.rss + (worker.swap or 0)
        highest = max(held, peak, before.highest if before else 0)
        need = private(worker) + highest - held + highest // PAGE_TABLE
        ready = before.ready if before else None
        if ready is None and serves(worker):
            ready = age if before else 0.0  # seen late: it may have been so from the start
        if ready is None or age < ready + SETTLE:
            self._fresh[worker.id] = _Fresh(highest, need, ready)
        else:
            del self._fresh[worker.id]
            self._learn(snapshot, snapshot.at - age, need)

    def _learn(self, snapshot: Snapshot, born: float, need: int) -> None:
        """Once nobody is left of those that lived when it was learned, it tells nothing any more:
        then all workers are new, and often their code (a deploy, a restart)."""
        oldest = snapshot.at - max(worker.age or 0.0 for worker in snapshot.workers)
        kept = [entry for entry in self._settled if entry[0] >= oldest - 1.0]  # ages are rounded
        self._settled = sorted([*kept, (born, need)])[-KEPT:]

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON-able values; `load` restores it exactly."""
        return {
            "fresh": [[*id, *fresh] for id, fresh in self._fresh.items()],
            "settled": [list(entry) for entry in self._settled],
        }

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Needs:
        needs = cls()
        for pid, start, *fresh in dumped["fresh"]:
            needs._fresh[WorkerId(pid, start)] = _Fresh(*fresh)
        needs._settled = [(born, need) for born, need in dumped["settled"]]
        return needs


def private(worker: Worker) -> int:
    """What a worker holds of its own, and gives back when it leaves: swap included, and where its
    USS is not known what it shares with its master too."""
    return _all(worker) if worker.uss is None else worker.uss + (worker.swap or 0)


def _all(worker: Worker) -> int:
    """With what it shares with its master."""
    return (worker.rss if worker.anon is None else worker.anon) + (worker.swap or 0)


def room(snapshot: Snapshot, total: int, total_limit: int | None) -> int | None:
    """What is left for one more worker: to the tightest of the control groups' limits and RAM, and
    to the program's own limit, `total` being what it holds. Never below 0; None where nothing is
    known."""
    left = [] if snapshot.free is None else [snapshot.free]
    if total_limit is not None:
        left.append(total_limit - total)
    return max(min(left), 0) if left else None
