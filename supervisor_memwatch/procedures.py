"""Recycle, reload and restart as state machines stepped by looks.

A procedure is a value: `begin` makes one from a decision, `step` takes it and a snapshot
and gives the next one with the commands to carry out, or the outcome. Its whole state is
in its fields, so one read back from the journal goes on where the other stopped.

Not here: whether an action may begin (policy.py) and carrying a command out (control.py).
The order of a step is: the shell writes the procedure down, then does the commands, then
reports each failure through `failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from . import units
from .model import (
    ALREADY_STARTED,
    BAD_NAME,
    DOWN_STATES,
    NOT_RUNNING,
    REMOVED,
    RUNNING,
    STOPPING,
    UNKNOWN,
    Command,
    Decision,
    Outcome,
    Snapshot,
    WorkerId,
    serves,
)

# How long a replacement may take from the old worker's end until it serves. Longer than any
# import seen; what takes longer is reported, not undone.
BOOT = 120.0
# A newcomer is measured this long after it began to serve.
SETTLE = 5.0
# After a stop call whose effect is not seen yet: Supervisor needs a loop or two. Where the call's
# answer was lost, the stop may still be waiting in a hung supervisord.
PATIENCE = 10.0
PATIENCE_LOST = 120.0
# Fewer workers than before that all serve for so long are what there will be: somebody else
# has changed their number (SIGTTIN, SIGTTOU).
STEADY = 20.0
# The reading it takes may be a few looks away: after so long it goes unmeasured.
UNMEASURED = 30.0
# A rung that gives back less than this share of what was held is no remedy.
USELESS = 0.1


@dataclass(frozen=True, slots=True)
class Procedure:
    """An action under way."""

    id: str
    action: str
    namespec: str
    begun: float
    step: str
    stepped: float  # when this step began
    pid: int  # the supervised process when it began
    master: WorkerId | None
    target: WorkerId | None
    before: tuple[WorkerId, ...]  # the workers when it began
    size: int  # the target's size, or the program's, before
    measure: str  # by which measure: the size after is taken by the same
    kind: str  # the verdict's kind, or "request"
    why: str
    by: str = "memwatch"
    attempts: int = 0  # starts that were tried
    up: bool = False  # it was seen starting or running since the last of them
    trouble: str = ""  # the last thing that went wrong


class Step(NamedTuple):
    """What a look makes of a procedure: its next state, what to do now, or how it ended."""

    procedure: Procedure
    commands: tuple[Command, ...] = ()
    outcome: Outcome | None = None


def begin(decision: Decision, snapshot: Snapshot, size: int, measure: str) -> Procedure:
    """The procedure for a decision, with nothing done yet.

    `size`: what is held before, bytes (for fd_growth: open files), and by which measure.
    """
    verdict = decision.verdict
    return Procedure(
        id=f"{decision.namespec}@{snapshot.at:.3f}",
        action=decision.action,
        namespec=decision.namespec,
        begun=snapshot.at,
        step="planned",
        stepped=snapshot.at,
        pid=snapshot.pid,
        master=snapshot.master.id if snapshot.master else None,
        target=decision.target,
        before=tuple(worker.id for worker in snapshot.workers),
        size=size,
        measure=measure,
        kind=verdict.kind if verdict else "request",
        why=verdict.why if verdict else f"asked for by {decision.by}",
        by=decision.by,
    )


def first_commands(procedure: Procedure) -> Step:
    """The plan is written down: what to do first."""
    namespec, at = procedure.namespec, procedure.begun
    if procedure.action == "recycle":
        command = Command("signal", namespec, procedure.target, "TERM")
        return Step(_to(procedure, "leaving", at), (command,))
    if procedure.action == "reload":
        command = Command("signal", namespec, procedure.master, "HUP")
        return Step(_to(procedure, "reloading", at), (command,))
    return Step(_to(procedure, "stopping", at), (Command("stop", namespec),))


def step(
    procedure: Procedure, snapshot: Snapshot, grace: float, kill: bool, size: int | None
) -> Step:
    """One look at a procedure in progress.

    `grace`: seconds a worker may finish its requests; `kill`: whether SIGKILL may follow;
    `size`: what the newcomer (recycle) or the program (reload, restart) holds now, by the same
    measure as before; None while that is not known.
    """
    return STEPS[procedure.action](procedure, snapshot, grace, kill, size)


def resume(procedure: Procedure, at: float) -> Procedure:
    """A procedure read back from the journal.

    Where it stood at "planned" the listener may have died before or after its first command.
    It is taken as done: a worker is never asked twice, and a program that was not stopped
    after all is seen running. SIGKILL never follows a SIGTERM that is not sure (`trouble`).
    """
    if procedure.step == "planned":
        procedure = first_commands(procedure).procedure
    if procedure.action == "recycle":
        procedure = replace(procedure, trouble="the listener was restarted")
    return replace(procedure, stepped=max(procedure.stepped, at - PATIENCE))


def failed(procedure: Procedure, command: Command, error: str, code: int | None = None) -> Step:
    """A command could not be carried out; `code`: Supervisor's fault, None for any other trouble.

    A stop or start whose answer was lost (no code) may have its effect all the same, or have it
    later: the next looks decide.
    """
    text = f"{command.signal or command.do}: {error}"
    if command.do == "signal" or code == BAD_NAME:
        return Step(procedure, (), Outcome("failed", text))
    if command.do == "stop" and code is not None and code != NOT_RUNNING:
        return Step(procedure, (), Outcome("failed", text))
    if code in (NOT_RUNNING, ALREADY_STARTED):
        return Step(procedure)
    return Step(replace(procedure, trouble=text))


def _to(procedure: Procedure, name: str, at: float) -> Procedure:
    return replace(procedure, step=name, stepped=at)


def _serving(snapshot: Snapshot) -> list[WorkerId]:
    """The workers whose run loop has started, as far as can be known."""
    return [worker.id for worker in snapshot.workers if serves(worker)]


def _complete(procedure: Procedure, snapshot: Snapshot, waited: float) -> bool:
    """As many workers as before serve; or fewer, which all do and have for a while."""
    serving = len(_serving(snapshot))
    if serving >= len(procedure.before):
        return True
    return 0 < serving == len(snapshot.workers) and waited >= STEADY


def _overtaken(procedure: Procedure, snapshot: Snapshot) -> Outcome | None:
    """The program is no longer the one the procedure began on."""
    master = snapshot.master.id if snapshot.master else None
    if snapshot.state != RUNNING or snapshot.pid != procedure.pid:
        return Outcome("overtaken", f"the program is {snapshot.state}, pid {snapshot.pid}")
    if master is not None and master != procedure.master:
        return Outcome("overtaken", f"the master is now {master.pid}")
    return None


def _recycle(
    procedure: Procedure, snapshot: Snapshot, grace: float, kill: bool, size: int | None
) -> Step:
    at, target = snapshot.at, procedure.target
    assert target is not None
    overtaken = _overtaken(procedure, snapshot)
    if overtaken is not None:
        return Step(procedure, (), overtaken)
    waited = at - procedure.stepped
    if any(worker.id == target for worker in snapshot.workers):
        if waited < grace:
            return Step(procedure)
        if kill and procedure.step == "leaving" and not procedure.trouble:
            command = Command("signal", procedure.namespec, target, "KILL")
            return Step(_to(procedure, "killed", at), (command,))
        text = f"worker {target.pid} is still finishing its requests after {units.time(waited)}"
        return Step(procedure, (), Outcome("failed", text + ("" if kill else "; it is left to")))
    if procedure.step in ("leaving", "killed"):
        procedure, waited = _to(procedure, "replacing", at), 0.0
    newcomers = [id for id in _serving(snapshot) if id not in procedure.before]
    if procedure.step == "replacing":
        if newcomers and _complete(procedure, snapshot, waited):
            return Step(_to(procedure, "settling", at))
        if waited > BOOT:
            text = f"no replacement serves {units.time(waited)} after worker {target.pid} left"
            return Step(procedure, (), Outcome("failed", text))
        return Step(procedure)
    if _settles(procedure, at, size):
        return Step(procedure)
    newcomer = newcomers[-1].pid if newcomers else "?"
    return Step(
        procedure,
        (),
        _judged(procedure, size, f"worker {target.pid} replaced by {newcomer}"),
    )


def newcomer(procedure: Procedure, snapshot: Snapshot) -> WorkerId | None:
    """The worker that stands for the recycled one: the youngest that was not there before."""
    new = [worker for worker in snapshot.workers if worker.id not in procedure.before]
    return min(new, key=lambda worker: worker.age or 0.0).id if new else None


def _reload(
    procedure: Procedure, snapshot: Snapshot, grace: float, kill: bool, size: int | None
) -> Step:
    overtaken = _overtaken(procedure, snapshot)
    if overtaken is not None:
        return Step(procedure, (), overtaken)
    waited = snapshot.at - procedure.stepped
    old = [worker.id for worker in snapshot.workers if worker.id in procedure.before]
    serving = _serving(snapshot)
    if procedure.step == "reloading":
        if not old and serving:
            return Step(_to(procedure, "settling", snapshot.at))
        if waited > grace + BOOT:
            text = (
                f"{len(old)} old workers are still there, {len(serving)} serve, "
                f"{units.time(waited)} after the reload"
            )
            return Step(procedure, (), Outcome("failed", text))
        return Step(procedure)
    # gunicorn's HUP sets the number of workers back to its configuration's: with workers
    # added by SIGTTIN fewer come back, which is said and is no failure.
    if _settles(procedure, snapshot.at, size):
        return Step(procedure)
    text = f"{len(procedure.before)} workers replaced by {len(serving)}"
    return Step(procedure, (), _judged(procedure, size, text))


def _restart(
    procedure: Procedure, snapshot: Snapshot, grace: float, kill: bool, size: int | None
) -> Step:
    at, state = snapshot.at, snapshot.state
    if state == REMOVED:
        return Step(procedure, (), Outcome("failed", "Supervisor no longer knows the program"))
    if state == UNKNOWN:
        # Supervisor does not answer: patience is counted from when it does.
        return Step(_to(procedure, procedure.step, at))
    if procedure.step == "stopping":
        return _restart_stopping(procedure, snapshot)
    if procedure.step == "settling":
        return _restart_settling(procedure, snapshot, size)
    return _restart_starting(procedure, snapshot)


def _restart_stopping(procedure: Procedure, snapshot: Snapshot) -> Step:
    at, state = snapshot.at, snapshot.state
    if state in DOWN_STATES:
        return _start(procedure, at, procedure.trouble)
    if state == STOPPING:
        return Step(procedure)
    if snapshot.pid != procedure.pid:
        # It went down and came up by itself while nobody looked.
        return Step(_to(procedure, "starting", at))
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
    if snapshot.kind == "plain" or _complete(procedure, snapshot, waited):
        return Step(_to(procedure, "settling", at))
    if waited > BOOT:
        text = f"{len(_serving(snapshot))} of {len(procedure.before)} workers serve again"
        return Step(procedure, (), Outcome("failed", text))
    return Step(procedure)


def _restart_settling(procedure: Procedure, snapshot: Snapshot, size: int | None) -> Step:
    at, state = snapshot.at, snapshot.state
    if state in (STOPPING, "STOPPED"):
        return Step(procedure, (), Outcome("overtaken", "somebody else stopped it"))
    if state != RUNNING:
        return Step(_to(procedure, "starting", at))
    if _settles(procedure, at, size):
        return Step(procedure)
    text = f"running again, pid {snapshot.pid}"
    missing = len(procedure.before) - len(snapshot.workers)
    if missing > 0:
        text += f", {missing} workers fewer"
    return Step(procedure, (), _judged(procedure, size, text))


def _start(procedure: Procedure, at: float, trouble: str) -> Step:
    """Call start, for the first time or again."""
    attempts = procedure.attempts + 1
    procedure = replace(_to(procedure, "starting", at), attempts=attempts, up=False)
    command = Command("start", procedure.namespec)
    return Step(replace(procedure, trouble=trouble if attempts > 1 else ""), (command,))


def _backoff(attempts: int) -> float:
    """Seconds before start is called again: 2, 4, 8 ... 60."""
    return float(min(60, 2 ** min(attempts, 6)))


def _settles(procedure: Procedure, at: float, size: int | None) -> bool:
    """Whether it is too early to measure what came back."""
    waited = at - procedure.stepped
    return waited < SETTLE or (size is None and waited < UNMEASURED)


def _judged(procedure: Procedure, size: int | None, text: str) -> Outcome:
    """Done, with what came back; ineffective where hardly anything did."""
    if size is None:
        return Outcome("done", text)
    freed = procedure.size - size
    if procedure.kind == "fd_growth":
        return Outcome("done", f"{text}; open files {procedure.size} -> {size}")
    words = f"{text}; {procedure.measure} {units.size(procedure.size)} -> {units.size(size)}"
    if procedure.kind != "request" and freed < USELESS * procedure.size:
        return Outcome("ineffective", f"{words}: hardly anything came back", freed)
    return Outcome("done", f"{words}, {units.size(freed)} back", freed)


STEPS: dict[str, Callable[[Procedure, Snapshot, float, bool, int | None], Step]] = {
    "recycle": _recycle,
    "reload": _reload,
    "restart": _restart,
}


def summary(procedure: Procedure) -> dict[str, object]:
    """The action in progress, as `status` shows it."""
    return {
        "id": procedure.id,
        "action": procedure.action,
        "step": procedure.step,
        "kind": procedure.kind,
        "pid": procedure.target.pid if procedure.target else None,
        "why": procedure.why,
        "by": procedure.by,
        "begun": procedure.begun,
    }


def to_json(procedure: Procedure) -> dict[str, object]:
    """As the journal keeps it."""
    return {name: getattr(procedure, name) for name in Procedure.__slots__}


def from_json(data: dict[str, object]) -> Procedure:
    """Raises TypeError or ValueError where the fields are not a procedure's."""
    fields = dict(data)
    for name in ("master", "target"):
        fields[name] = _id(fields.get(name))
    before = fields.get("before")
    if not isinstance(before, list | tuple):
        raise ValueError("before: not a list of ids")
    fields["before"] = tuple(_id(pair) for pair in before)
    return Procedure(**fields)  # type: ignore[arg-type]


def _id(pair: object) -> WorkerId | None:
    return None if pair is None else WorkerId(*pair)  # type: ignore[misc]
