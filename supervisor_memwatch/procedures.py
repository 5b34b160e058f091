"""Recycle, reload and restart: how a procedure begins, goes on and ends.

`begin` makes one from a decision, `first_commands` begins it, `step` takes it and a snapshot
and gives the next one with the commands to carry out, or the outcome.

Not here: whether an action may begin (policy.py) and carrying a command out (control.py).
The order of a step is: the shell writes the procedure down, then does the commands, then
reports each that was carried out through `carried_out`, each failure through `failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import recycling, restarting, units
from .model import ALREADY_STARTED, BAD_NAME, NOT_RUNNING, Command, Decision, Outcome, Snapshot
from .procedure import BOOT, Procedure, Step, Terms, from_json, summary, to, to_json
from .recycling import newcomer, newcomers

__all__ = [
    "Procedure",
    "Step",
    "Terms",
    "begin",
    "carried_out",
    "drags",
    "failed",
    "first_commands",
    "from_json",
    "newcomer",
    "newcomers",
    "resume",
    "step",
    "summary",
    "to_json",
    "untouched",
    "words",
]

STEPS: dict[str, Callable[[Procedure, Snapshot, Terms], Step]] = {
    "recycle": recycling.recycle,
    "reload": restarting.reload,
    "restart": restarting.restart,
}


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
        seen=tuple(sorted(worker.id for worker in snapshot.workers)),
        size=size,
        measure=measure,
        kind=verdict.kind if verdict else "request",
        why=verdict.why if verdict else f"asked for by {decision.by}",
        by=decision.by,
        way=decision.way,
        reason=decision.reason,
        patience=decision.patience,
        also=decision.also,
        oom_kills=snapshot.oom_kills,
    )


def first_commands(procedure: Procedure) -> Step:
    """The plan is written down: what to do first."""
    namespec, at = procedure.namespec, procedure.begun
    if procedure.action == "recycle":
        return recycling.first(procedure)
    if procedure.action == "reload":
        command = Command("signal", namespec, procedure.master, "HUP")
        return Step(to(procedure, "reloading", at), (command,))
    return Step(to(procedure, "stopping", at), (Command("stop", namespec),))


def step(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """One look at a procedure in progress."""
    return STEPS[procedure.action](procedure, snapshot, terms)


def carried_out(procedure: Procedure) -> Procedure:
    """The command of this step was carried out: a listener that resumes it need not doubt that."""
    return replace(procedure, sent=True)


def untouched(procedure: Procedure) -> bool:
    """Whether nothing has been done yet: then there is nothing to go on with either."""
    planned = procedure.step == "planned" and procedure.patience > 0 and procedure.way == "plain"
    waits = procedure.step == "quiet" and not procedure.extra
    return procedure.action == "recycle" and (planned or waits)


def words(procedure: Procedure) -> str:
    """Where it stands, as a line of the log."""
    worker = f"worker {procedure.target.pid}" if procedure.target else "the program"
    oldest = f"the oldest worker {procedure.also.pid}" if procedure.also else "the oldest worker"
    said = {
        "adding": "one more worker asked for (SIGTTIN)",
        "quiet": f"up to {units.time(procedure.patience)} for a quiet moment of {worker}",
        "leaving": f"{worker} asked to leave",
        "killed": f"{worker} sent SIGKILL",
        "replacing": f"{worker} has left, waiting for its replacement",
        "removing": f"{oldest} asked to leave as well (SIGTTOU)",
        "evening": "putting the number of workers right",
    }.get(procedure.step, "")
    text = f"{procedure.action}: {procedure.step}{f': {said}' if said else ''}"
    return f"{text} ({procedure.trouble})" if procedure.trouble else text


def drags(procedure: Procedure, at: float) -> bool:
    """Whether it may take long or for ever: it does not start, however often it is tried; an extra
    worker does not boot; a worker is busy with a long request."""
    if procedure.action == "restart":
        return procedure.attempts >= 2
    return bool(procedure.trouble) or at - procedure.stepped > BOOT


def resume(procedure: Procedure, at: float) -> Procedure:
    """A procedure read back from the journal.

    Where `sent` is not set the listener may have died before or after its last command. It is
    taken as done: a worker is never asked twice, a program that was not stopped after all is
    seen running, and how many workers there are tells whether a SIGTTIN or SIGTTOU had its
    effect. SIGKILL never follows a SIGTERM that is not sure.
    """
    if procedure.step == "planned":
        procedure = first_commands(procedure).procedure
    return replace(procedure, stepped=max(procedure.stepped, at - restarting.PATIENCE), since=at)


def failed(procedure: Procedure, command: Command, error: str, code: int | None = None) -> Step:
    """A command could not be carried out; `code`: Supervisor's fault, None for any other trouble.

    A stop or start whose answer was lost (no code) may have its effect all the same, or have it
    later: the next looks decide.
    """
    text = f"{command.signal or command.do}: {error}"
    if procedure.action == "recycle" and command.do == "signal":
        return recycling.failed(procedure, command, text)
    if command.do == "signal" or code == BAD_NAME:
        return Step(procedure, (), Outcome("failed", text))
    if command.do == "stop" and code is not None and code != NOT_RUNNING:
        return Step(procedure, (), Outcome("failed", text))
    if code in (NOT_RUNNING, ALREADY_STARTED):
        return Step(procedure)
    return Step(replace(procedure, trouble=text))
