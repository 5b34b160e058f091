"""An action under way, as a value: what a procedure is, and what its steps have in common.

`Procedure` holds the whole state in its fields, so one read back from the journal goes on
where the other stopped. The steps themselves are recycling.py's and restarting.py's; which
action has which is procedures.py's table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from . import units
from .model import RUNNING, Command, Held, Outcome, Snapshot, WorkerId, serves
from .quiet import Quiet

# How long a replacement may take from the old worker's end until it serves. Longer than any
# import seen; what takes longer is reported, not undone.
BOOT = 120.0
# A newcomer is measured, or stands in for another, this long after it began to serve.
SETTLE = 5.0
# Fewer workers than before that all serve for so long are what there will be: somebody else
# has changed their number (SIGTTIN, SIGTTOU).
STEADY = 20.0
# The reading it takes may be a few looks away: after so long it goes unmeasured.
UNMEASURED = 30.0
# A rung that gives back less than this share of what was held is no remedy.
USELESS = 0.1
# What a second worker held before and after, where there is none.
ALONE = (0, 0)


# The steps of each action, in their order.
STEPS = {
    "recycle": (
        *("planned", "adding", "quiet", "leaving", "killed", "replacing", "removing"),
        *("settling", "evening"),
    ),
    "reload": ("planned", "reloading", "settling"),
    "restart": ("planned", "stopping", "starting", "settling"),
}


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
    request: str = ""  # the id of the request it answers
    attempts: int = 0  # starts that were tried
    up: bool = False  # it was seen starting or running since the last of them
    trouble: str = ""  # the last thing that went wrong
    # What the ledger wants to know of the target before: age (s), growth (bytes/s), and how much
    # of its size was hoped for.
    age: float | None = None
    rate: float | None = None
    expected: int | None = None
    # Of a recycle.
    way: str = "plain"  # or "surge"
    reason: str = ""  # why this way
    patience: float = 0.0  # seconds that may be spent waiting for a quiet moment
    sent: bool = False  # the last command is known to have been carried out
    extra: int = 0  # by how many our signals have raised the master's number of workers
    unsure: int = 0  # a signal of ours (+1 SIGTTIN, -1 SIGTTOU) that may not have had its effect
    seen: tuple[WorkerId, ...] = ()  # the workers of the last look
    since: float | None = None  # since when these, and all of them serving; None: not all do
    joined: float | None = None  # since when a newcomer serves
    known: tuple[WorkerId, ...] = ()  # those that were there before somebody else acted
    oom_kills: int | None = None  # the kernel's counter when it began
    heard: Quiet | None = None  # how busy the target was at the last look for a quiet moment
    fewest: int | None = None  # connections it had at the quietest of them
    ends: str = ""  # how it will end once the number of workers is right again
    also: WorkerId | None = None  # whom SIGTTOU takes beside the target: as planned, then as asked
    also_size: int | None = None  # what that one held when it was asked, by the same measure


class Step(NamedTuple):
    """What a look makes of a procedure: its next state, what to do now, or how it ended."""

    procedure: Procedure
    commands: tuple[Command, ...] = ()
    outcome: Outcome | None = None


class Terms(NamedTuple):
    """What a step may know beside the snapshot."""

    grace: float = 35.0  # seconds a worker may finish its requests
    kill: bool = False  # whether SIGKILL may follow
    size: int | None = None  # of what came instead, by the measure of before; None: not known yet
    quiet: Quiet | None = None  # how busy the target is at this very moment
    hindered: Held | None = None  # what forbids to ask the target to leave now
    # Of the second worker that a surge takes: what it holds; once it was asked, what came instead.
    also: int | None = None


def to(procedure: Procedure, name: str, at: float) -> Procedure:
    return replace(procedure, step=name, stepped=at)


def serving(snapshot: Snapshot) -> list[WorkerId]:
    """The workers whose run loop has started, as far as can be known."""
    return [worker.id for worker in snapshot.workers if serves(worker)]


def complete(snapshot: Snapshot, count: int, waited: float) -> bool:
    """As many workers as there should be serve; or fewer, which all do and have for a while."""
    ready = len(serving(snapshot))
    if ready >= count:
        return True
    return 0 < ready == len(snapshot.workers) and waited >= STEADY


def overtaken(procedure: Procedure, snapshot: Snapshot) -> Outcome | None:
    """The program is no longer the one the procedure began on."""
    master = snapshot.master.id if snapshot.master else None
    if snapshot.state != RUNNING or snapshot.pid != procedure.pid:
        return Outcome("overtaken", f"the program is {snapshot.state}, pid {snapshot.pid}")
    if master is not None and master != procedure.master:
        return Outcome("overtaken", f"the master is now {master.pid}")
    return None


def settles(procedure: Procedure, at: float, size: int | None) -> bool:
    """Whether it is too early to measure what came back."""
    waited = at - procedure.stepped
    return waited < SETTLE or (size is None and waited < UNMEASURED)


def judged(
    procedure: Procedure,
    size: int | None,
    text: str,
    whose: str = "",
    second: tuple[int, int] = ALONE,
) -> Outcome:
    """Done, with what came back; ineffective where of the target hardly anything did. Of two
    workers: `whose`, a word before the sizes; `second`, what the other one held, before and after.
    """
    if size is None:
        return Outcome("done", text)
    before, after = procedure.size + second[0], size + second[1]
    if procedure.kind == "fd_growth":
        return Outcome("done", f"{text}; {whose}open files {before} -> {after}")
    freed = before - after
    words = f"{text}; {whose}{procedure.measure} {units.size(before)} -> {units.size(after)}"
    if procedure.kind != "request" and procedure.size - size < USELESS * procedure.size:
        of = f" of worker {procedure.target.pid}" if second != ALONE and procedure.target else ""
        return Outcome("ineffective", f"{words}: hardly anything came back{of}", freed)
    return Outcome("done", f"{words}, {units.size(freed)} back", freed)


def summary(procedure: Procedure) -> dict[str, object]:
    """The action in progress, as `status` shows it."""
    return {
        "id": procedure.id,
        "action": procedure.action,
        "step": procedure.step,
        "kind": procedure.kind,
        "pid": procedure.target.pid if procedure.target else None,
        "also_pid": procedure.also.pid if procedure.also else None,
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
    for name in ("master", "target", "also"):
        fields[name] = _id(fields.get(name))
    for name in ("before", "seen", "known"):
        ids = fields.get(name, ())
        if not isinstance(ids, list | tuple):
            raise ValueError(f"{name}: not a list of ids")
        fields[name] = tuple(_id(pair) for pair in ids)
    heard = fields.get("heard")
    fields["heard"] = None if heard is None else Quiet(*heard)  # type: ignore[misc]
    if fields.get("step") not in STEPS.get(str(fields.get("action")), ()):
        raise ValueError(f"{fields.get('action')!r} has no step {fields.get('step')!r}")
    return Procedure(**fields)  # type: ignore[arg-type]


def _id(pair: object) -> WorkerId | None:
    return None if pair is None else WorkerId(*pair)  # type: ignore[misc]
