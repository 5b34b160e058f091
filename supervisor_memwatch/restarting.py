"""Reload and restart: all workers at once, step by step.

A reload is SIGHUP to the master; a restart is Supervisor's stop and start. Both take the
program below its number of workers by nature, and say so in the plan (watch.py).
"""

from __future__ import annotations

from dataclasses import replace

from . import units
from .model import (
    DOWN_STATES,
    REMOVED,
    RUNNING,
    STOPPING,
    UNKNOWN,
    Command,
    Outcome,
    Snapshot,
)
from .procedure import (
    BOOT,
    Procedure,
    Step,
    Terms,
    complete,
    judged,
    overtaken,
    serving,
    settles,
    to,
)

# After a stop call whose effect is not seen yet: Supervisor needs a loop or two. Where the call's
# answer was lost, the stop may still be waiting in a hung supervisord.
PATIENCE = 10.0
PATIENCE_LOST = 120.0


def reload(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """One look at a reload."""
    others = overtaken(procedure, snapshot)
    if others is not None:
        return Step(procedure, (), others)
    waited = snapshot.at - procedure.stepped
    old = [worker.id for worker in snapshot.workers if worker.id in procedure.before]
    ready = len(serving(snapshot))
    if procedure.step == "reloading":
        if not old and ready:
            return Step(to(procedure, "settling", snapshot.at))
        if waited > terms.grace + BOOT:
            text = (
                f"{len(old)} old workers are still there, {ready} serve, "
                f"{units.time(waited)} after the reload"
            )
            return Step(procedure, (), Outcome("failed", text))
        return Step(procedure)
    # gunicorn's HUP sets the number of workers back to its configuration's: with workers
    # added by SIGTTIN fewer come back, which is said and is no failure.
    if settles(procedure, snapshot.at, terms.size):
        return Step(procedure)
    text = f"{len(procedure.before)} workers replaced by {ready}"
    return Step(procedure, (), judged(procedure, terms.size, text))


def restart(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """One look at a restart."""
    at, state = snapshot.at, snapshot.state
    if state == REMOVED:
        return Step(procedure, (), Outcome("failed", "Supervisor no longer knows the program"))
    if state == UNKNOWN:
        # Supervisor does not answer: patience is counted from when it does.
        return Step(to(procedure, procedure.step, at))
    if procedure.step == "stopping":
        return _restart_stopping(procedure, snapshot)
    if procedure.step == "settling":
        return _restart_settling(procedure, snapshot, terms)
    return _restart_starting(procedure, snapshot)


def _restart_stopping(procedure: Procedure, snapshot: Snapshot) -> Step:
    at, state = snapshot.at, snapshot.state
    if state in DOWN_STATES:
        return _start(procedure, at, procedure.trouble)
    if state == STOPPING:
        return Step(procedure)
    if snapshot.pid != procedure.pid:
        # It went down and came up by itself while nobody looked.
        return Step(to(procedure, "starting", at))
    if at - procedure.stepped < (PATIENCE_LOST if procedure.trouble else PATIENCE):
        return Step(procedure)
    text = procedure.trouble or f"Supervisor has not stopped it, it is {state}"
    return Step(procedure, (), Outcome("failed", text))


def _restart_starting(procedure: Procedure, snapshot: Snapshot) -> Step:
    at, state = snapshot.at, snapshot.state
    waited = at - procedure.stepped
    if procedure.up and state in (STOPPING, "STOPPED"):
        return Step(procedure, (), Outcome("overtaken", "somebody else stopped it"))
    if state == STOPPING:
        return Step(procedure)
    if state in DOWN_STATES:
        if waited < _backoff(procedure.attempts):
            return Step(procedure)
        # We stopped it, so it is started again, for as long as it takes.
        return _start(procedure, at, f"it went {state} when it was started")
    if not procedure.up:
        procedure = replace(procedure, up=True)
    if state != RUNNING or snapshot.pid == procedure.pid:
        return Step(procedure)
    if snapshot.kind == "plain" or complete(snapshot, len(procedure.before), waited):
        return Step(to(procedure, "settling", at))
    if waited > BOOT:
        text = f"{len(serving(snapshot))} of {len(procedure.before)} workers serve again"
        return Step(procedure, (), Outcome("failed", text))
    return Step(procedure)


def _restart_settling(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    at, state = snapshot.at, snapshot.state
    if state in (STOPPING, "STOPPED"):
        return Step(procedure, (), Outcome("overtaken", "somebody else stopped it"))
    if state != RUNNING:
        return Step(to(procedure, "starting", at))
    if settles(procedure, at, terms.size):
        return Step(procedure)
    text = f"running again, pid {snapshot.pid}"
    missing = len(procedure.before) - len(snapshot.workers)
    if missing > 0:
        text += f", {missing} workers fewer"
    return Step(procedure, (), judged(procedure, terms.size, text))


def _start(procedure: Procedure, at: float, trouble: str) -> Step:
    """Call start, for the first time or again."""
    attempts = procedure.attempts + 1
    procedure = replace(to(procedure, "starting", at), attempts=attempts, up=False)
    command = Command("start", procedure.namespec)
    return Step(replace(procedure, trouble=trouble if attempts > 1 else ""), (command,))


def _backoff(attempts: int) -> float:
    """Seconds before start is called again: 2, 4, 8 ... 60."""
    return float(min(60, 2 ** min(attempts, 6)))
