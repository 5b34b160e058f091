"""Quiet: whether this is a good moment to ask a worker to leave.

A worker that is asked finishes the requests it has begun. What may be lost is a request that a
client sends, over a connection kept alive, while the worker is closing that: so the fewer of its
clients are connected the better, and best is none.

Not here: where the numbers come from (sampler.py, sockets.py), and how long a good moment may be
waited for (policy.py).
"""

from __future__ import annotations

from typing import NamedTuple

# Event loops wake up once or ten times a second to see whether they should end.
IDLING = 0.02  # CPU seconds per second
TICK = 0.011  # CPU time is counted in hundredths of a second


class Quiet(NamedTuple):
    """What one worker has to do, at one instant."""

    at: float  # epoch seconds
    cpu: float  # CPU seconds since its start
    connections: int | None  # to clients; None where that cannot be read
    unread: int | None = None  # bytes that clients have sent and it has not read
    exact: bool = True  # False: connections counts all it has, to a database as well


def idle(now: Quiet, before: Quiet | None = None) -> bool:
    """Whether it has nothing to do. `before`: the same worker at an earlier look; without it only
    a worker without connections is known to be idle."""
    if now.connections == 0:
        return True
    if now.unread or before is None or now.at <= before.at:
        return False
    return now.cpu - before.cpu <= TICK + IDLING * (now.at - before.at)
