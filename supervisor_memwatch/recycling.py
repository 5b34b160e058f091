"""Recycle one worker, step by step, in one of two ways.

plain: SIGTERM to the worker; gunicorn's master forks the replacement once it has left.

    [quiet] -> leaving -> [killed] -> replacing -> settling

surge: SIGTTIN to the master first, so that the replacement serves before anybody leaves. Where
the worker is the oldest, SIGTTOU takes exactly it; else it gets SIGTERM, is replaced, and SIGTTOU
then takes the oldest as well, which is replaced by the extra worker. No order of signals spares the
oldest: from SIGTTIN on the master forks a replacement for whoever leaves, and its SIGTTOU asks the
oldest unless it has just reaped a worker and not replaced it yet, a moment nobody can aim at.

    adding -> [quiet] -> leaving -> replacing -> [removing] -> settling

The number of workers ends where it began. Whatever somebody else does meanwhile that makes it
uncertain (a reload, SIGTTIN, SIGTTOU) leads to `evening`: wait until the workers stand still, then
take back what our own signals have added or removed, once, and end.

Not here: which way (policy.py), and what `quiet` means to the eye (sampler.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import units
from .model import PENDING, Command, Outcome, Snapshot, WorkerId, oldest
from .procedure import (
    BOOT,
    SETTLE,
    STEADY,
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
from .quiet import Quiet, idle

# A SIGTTIN whose newcomer is not seen after so long, nobody else coming or going, had no effect.
UNSEEN = 30.0
# A SIGTTOU that may never have been sent is sent again only after so long: until then a worker
# may be finishing its requests because of it.
DOUBTFUL = 120.0


def first(procedure: Procedure) -> Step:
    """The plan is written down: what to do first."""
    at = procedure.begun
    if procedure.way == "surge":
        return _signal(replace(procedure, extra=1), "adding", at, procedure.master, "TTIN")
    if procedure.patience > 0:
        return Step(to(procedure, "quiet", at))
    return _signal(procedure, "leaving", at, procedure.target, "TERM")


def recycle(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """One look at a recycle."""
    others = overtaken(procedure, snapshot)
    if others is not None:  # a new master has the number of workers that its file says
        return Step(procedure, (), others)
    if procedure.way == "surge" and procedure.step not in ("evening", "settling"):
        trouble = _disturbed(procedure, snapshot)
        if trouble:
            return Step(_to_evening(procedure, snapshot.at, "overtaken", trouble))
    return _STEPS[procedure.step](_noted(procedure, snapshot), snapshot, terms)


def failed(procedure: Procedure, command: Command, text: str) -> Step:
    """A signal could not be sent. Only before the first one is that the end of it."""
    if command.signal == "TTOU":
        procedure = replace(procedure, extra=1, unsure=0, known=procedure.seen, since=None)
        procedure = replace(procedure, also=None)  # not asked after all
        ends = procedure.ends or "failed"
        return Step(replace(procedure, step="evening", ends=ends, trouble=text))
    if command.signal in ("TERM", "KILL") and procedure.extra:
        if not text.endswith("gone") and command.signal == "TERM":  # not permitted: undo
            return Step(_to_evening(procedure, procedure.stepped, "failed", text))
        return Step(replace(procedure, trouble=text))  # it has left by itself: look again
    return Step(procedure, (), Outcome("failed", text))


def newcomer(procedure: Procedure, snapshot: Snapshot) -> WorkerId | None:
    """The worker that stands for the recycled one: the youngest that was not there before."""
    return next(iter(newcomers(procedure, snapshot)), None)


def newcomers(procedure: Procedure, snapshot: Snapshot) -> list[WorkerId]:
    """Those that were not there before, the youngest first. The second of a surge that took two
    is the extra worker, which stands for the oldest."""
    new = [worker for worker in snapshot.workers if worker.id not in procedure.before]
    return [worker.id for worker in sorted(new, key=lambda worker: worker.age or 0.0)]


# -- the steps


def _adding(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """SIGTTIN was sent: wait until one more serves, and has for a while."""
    at, number = snapshot.at, len(procedure.before)
    stood = _standing(procedure, at)
    newcomers = [id for id in serving(snapshot) if id not in procedure.before]
    if not newcomers:
        procedure = replace(procedure, joined=None)
    elif procedure.joined is None:
        procedure = replace(procedure, joined=at)
    added = procedure.sent or len(snapshot.workers) > number
    if (
        added
        and (snapshot.oom_kills or 0) > (procedure.oom_kills or 0)
        and set(procedure.before) <= set(serving(snapshot))
    ):
        text = "the kernel's OOM killer struck while an extra worker started"
        procedure = replace(_to_evening(procedure, at, "failed", text), extra=0, unsure=-1)
        return _signal(procedure, "evening", at, procedure.master, "TTOU")
    settled = procedure.joined is not None and at - procedure.joined >= SETTLE
    if settled and len(serving(snapshot)) > number:
        procedure = replace(to(procedure, "quiet", at), trouble="")
        # How quiet it is will be seen at the next looks.
        return Step(procedure) if procedure.patience > 0 else _quiet(procedure, snapshot, terms)
    waited = at - procedure.stepped
    if len(snapshot.workers) <= number and stood >= UNSEEN:
        text = "the master did not add a worker"
        return Step(_to_evening(procedure, at, "failed", text))
    if waited > BOOT and not procedure.trouble:
        # Nobody is asked to leave while a newcomer does not boot, the newcomer neither: SIGTTOU
        # would take the oldest.
        text = f"the extra worker does not serve after {units.time(waited)}; waiting for it"
        return Step(replace(procedure, trouble=text))
    return Step(procedure)


def _quiet(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """Wait for a moment at which the worker has the fewest requests to lose."""
    target, at = procedure.target, snapshot.at
    assert target is not None
    if not _is_there(target, snapshot):
        if procedure.extra:
            return _replacing(to(procedure, "replacing", at), snapshot, terms)
        text = f"worker {target.pid} left before it was asked to"
        return Step(procedure, (), Outcome("overtaken", text))
    waited = at - procedure.stepped
    calm = _calm(procedure, terms.quiet, waited)
    if not calm and waited < procedure.patience:
        return Step(_listened(procedure, terms.quiet))
    if procedure.extra and len(serving(snapshot)) <= len(procedure.before):
        return Step(to(procedure, "adding", at))  # one has left meanwhile: its successor first
    if terms.hindered is not None:
        if terms.hindered.code in PENDING:
            return Step(_listened(procedure, terms.quiet))
        text = f"worker {target.pid} was not asked to leave: {terms.hindered.text}"
        if procedure.extra:
            return Step(_to_evening(procedure, at, "overtaken", text))
        return Step(procedure, (), Outcome("overtaken", text))
    procedure = replace(procedure, known=procedure.seen)
    if procedure.extra and target == oldest(snapshot):
        procedure = replace(procedure, extra=0, also=None)
        return _signal(procedure, "leaving", at, procedure.master, "TTOU")
    return _signal(procedure, "leaving", at, target, "TERM")


def _leaving(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """It was asked to leave (or, in `killed`, was not asked any more)."""
    target, at = procedure.target, snapshot.at
    assert target is not None
    if not _is_there(target, snapshot):
        return _replacing(to(procedure, "replacing", at), snapshot, terms)
    waited, number = at - procedure.stepped, len(procedure.before)
    by_number = procedure.way == "surge" and not procedure.extra  # by SIGTTOU
    if by_number and len(snapshot.workers) <= number and _standing(procedure, at) >= SETTLE:
        # To ask this one as well would be another action, with a preflight of its own.
        text = f"worker {target.pid} is still there: SIGTTOU took another one, or one had just left"
        return Step(procedure, (), Outcome("failed", text))
    if waited < terms.grace:
        return Step(procedure)
    if terms.kill and procedure.step == "leaving" and procedure.sent:
        return _signal(procedure, "killed", at, target, "KILL")
    text = f"worker {target.pid} is still finishing its requests after {units.time(waited)}"
    if by_number and not procedure.sent:
        if waited < max(terms.grace, DOUBTFUL):
            return Step(procedure)
        return Step(_to_evening(procedure, at, "failed", text))
    if procedure.extra:  # the number of workers is still ours to put right: go on looking
        if not procedure.sent and waited >= max(terms.grace, DOUBTFUL):  # perhaps never asked
            return _signal(procedure, "leaving", at, target, "TERM")
        return Step(procedure if procedure.trouble else replace(procedure, trouble=text))
    return Step(procedure, (), Outcome("failed", text + ("" if terms.kill else "; it is left to")))


def _replacing(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """It has left: wait until as many serve as there should."""
    target, at = procedure.target, snapshot.at
    assert target is not None
    waited = at - procedure.stepped
    number = len(procedure.before) + procedure.extra
    newcomers = [id for id in serving(snapshot) if id not in procedure.before]
    patient = waited if waited >= terms.grace or not procedure.extra else 0.0
    if newcomers and complete(snapshot, number, patient):
        if not procedure.extra:
            return Step(to(procedure, "settling", at))
        procedure = replace(procedure, also=oldest(snapshot), also_size=terms.also)
        procedure = replace(procedure, extra=0, known=procedure.seen)
        return _signal(procedure, "removing", at, procedure.master, "TTOU")
    if waited > BOOT and not procedure.trouble:
        text = f"no replacement serves {units.time(waited)} after worker {target.pid} left"
        if not procedure.extra:
            return Step(procedure, (), Outcome("failed", text))
        return Step(replace(procedure, trouble=text))
    return Step(procedure)


def _removing(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """SIGTTOU was sent after the replacement came: wait until the oldest has left."""
    at, here = snapshot.at, _is_there(procedure.also, snapshot)
    waited = at - procedure.stepped
    if procedure.sent and (not here or waited >= terms.grace):
        return Step(to(procedure, "settling", at))
    if len(snapshot.workers) <= len(procedure.before) and _standing(procedure, at) >= SETTLE:
        # Where it is still there, another one had just left: SIGTTOU took nobody.
        procedure = replace(procedure, also=None) if here else procedure
        return Step(to(procedure, "settling", at))
    if procedure.sent:
        return Step(procedure)
    if waited < max(terms.grace, DOUBTFUL):
        return Step(procedure)
    return Step(_to_evening(procedure, at, "failed", "the extra worker has not left"))


def _settling(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """All is done: measure what came back."""
    target, also, size = procedure.target, procedure.also, terms.size
    assert target is not None
    gone = also is not None and not _is_there(also, snapshot)
    if settles(procedure, snapshot.at, None if gone and terms.also is None else size):
        return Step(procedure)
    new = [str(id.pid) for id in newcomers(procedure, snapshot)]
    text = f"worker {target.pid} replaced by {new[0] if new else '?'}"
    if also is not None and gone:
        text += f", the oldest worker {also.pid} by {new[1] if len(new) > 1 else '?'}"
    if procedure.way == "surge":
        text += " (surge)"
    if also is None:
        return Step(procedure, (), judged(procedure, size, text))
    if not gone:
        text += f"; the oldest worker {also.pid} was asked to leave as well, and is still there"
    if not gone or procedure.also_size is None or terms.also is None:
        whose = f"of worker {target.pid} alone "
        return Step(procedure, (), judged(procedure, size, text, whose))
    second = procedure.also_size, terms.also
    return Step(procedure, (), judged(procedure, size, text, "together ", second))


def _evening(procedure: Procedure, snapshot: Snapshot, terms: Terms) -> Step:
    """Wait until the workers stand still, take back what our signals changed, and end.

    A signal whose effect was seen is taken back for sure, unless a reload has done that. One
    whose effect was not seen (`unsure`) is judged by the number of workers there are now.
    """
    late = snapshot.at - procedure.stepped >= BOOT + STEADY  # they come and go all the time
    taken = procedure.unsure < 0 and procedure.sent
    enough = late and (taken or len(serving(snapshot)) > len(procedure.before))
    fresh = [w.id for w in snapshot.workers if w.id not in procedure.known]
    mixed = len(fresh) > 1 and len(fresh) < len(snapshot.workers)
    if _standing(procedure, snapshot.at) < (DOUBTFUL if mixed else STEADY) and not enough:
        return Step(procedure)
    excess = len(snapshot.workers) - len(procedure.before)
    reloaded = not any(_is_there(id, snapshot) for id in procedure.known)
    if procedure.unsure > 0:  # SIGTTIN
        too_many, too_few = excess > 0, excess < 0 and not procedure.sent and not procedure.extra
    elif procedure.unsure < 0:  # SIGTTOU
        too_many, too_few = excess > 0 and not procedure.sent, excess < 0 and reloaded
    else:
        too_many, too_few = procedure.extra > 0 and (excess > 0 or not reloaded), False
    if too_many or too_few:
        signal = "TTOU" if too_many else "TTIN"
        known = tuple(worker.id for worker in snapshot.workers)
        unsure = -1 if too_many else 1
        procedure = replace(procedure, extra=0, unsure=unsure, known=known, since=None)
        return _signal(procedure, "evening", snapshot.at, procedure.master, signal)
    return _evened(procedure, snapshot)


def _evened(procedure: Procedure, snapshot: Snapshot) -> Step:
    """The end of it, with whom SIGTTOU took, as far as that can be told."""
    gone = [id for id in procedure.known if not _is_there(id, snapshot)]
    taken = gone[0] if procedure.unsure < 0 and procedure.sent and len(gone) == 1 else None
    if procedure.also is not None and not _is_there(procedure.also, snapshot):
        taken = procedure.also
    text = procedure.trouble + (f"; SIGTTOU took worker {taken.pid}" if taken else "")
    procedure = replace(procedure, also=None if taken == procedure.target else taken)
    return Step(procedure, (), Outcome(procedure.ends, text))


# -- what they have in common


def _signal(procedure: Procedure, step: str, at: float, target: WorkerId | None, name: str) -> Step:
    """The next step, which begins with a signal."""
    command = Command("signal", procedure.namespec, target, name)
    return Step(replace(to(procedure, step, at), sent=False), (command,))


def _noted(procedure: Procedure, snapshot: Snapshot) -> Procedure:
    """With the workers of this look, and since when they are the same and all of them serve."""
    ids = tuple(sorted(worker.id for worker in snapshot.workers))
    all_serve = len(serving(snapshot)) == len(ids)
    since = procedure.since
    if ids != procedure.seen or since is None:
        since = snapshot.at
    if not all_serve:
        since = None
    if ids == procedure.seen and since == procedure.since:
        return procedure
    return replace(procedure, seen=ids, since=since)


def _standing(procedure: Procedure, at: float) -> float:
    """For how many seconds the workers have been the same, all of them serving."""
    return 0.0 if procedure.since is None else at - procedure.since


def _disturbed(procedure: Procedure, snapshot: Snapshot) -> str:
    """What shows that somebody else has changed the set of workers; empty where nothing does."""
    count, seen = len(snapshot.workers), procedure.seen
    if count > len(procedure.before) + 1:
        return "somebody else has added workers, or reloaded the master"
    if count and len(seen) > 1 and not any(_is_there(id, snapshot) for id in seen):
        return "somebody else has reloaded the master"
    return ""


def _to_evening(procedure: Procedure, at: float, ends: str, trouble: str) -> Procedure:
    """Give up: what is left is to put the number of workers right."""
    unsure = 0
    newcomers = set(procedure.seen) - set(procedure.before)
    unseen = len(procedure.seen) <= len(procedure.before) and not (procedure.sent and newcomers)
    if procedure.step == "adding" and unseen:
        unsure = 1
    by_number = procedure.step in ("leaving", "killed", "removing") and not procedure.extra
    if by_number and len(procedure.seen) > len(procedure.before):
        unsure = -1
    known = procedure.known or procedure.before
    procedure = replace(
        procedure, unsure=unsure, known=known, ends=ends, trouble=trouble, since=None
    )
    if procedure.step != "removing":  # not asked yet
        procedure = replace(procedure, also=None)
    return to(procedure, "evening", at)


def _calm(procedure: Procedure, quiet: Quiet | None, waited: float) -> bool:
    """Whether there is no better moment to come, as far as can be seen."""
    if quiet is None:
        return True
    if not quiet.connections:
        return idle(quiet, procedure.heard)
    if quiet.unread or waited < procedure.patience / 2:
        return False
    return procedure.fewest is not None and quiet.connections <= procedure.fewest


def _listened(procedure: Procedure, quiet: Quiet | None) -> Procedure:
    if quiet is None:
        return procedure
    fewest = [n for n in (procedure.fewest, quiet.connections) if n is not None]
    return replace(procedure, heard=quiet, fewest=min(fewest, default=None))


def _is_there(id: WorkerId | None, snapshot: Snapshot) -> bool:
    return any(worker.id == id for worker in snapshot.workers)


_STEPS: dict[str, Callable[[Procedure, Snapshot, Terms], Step]] = {
    "adding": _adding,
    "quiet": _quiet,
    "leaving": _leaving,
    "killed": _leaving,
    "replacing": _replacing,
    "removing": _removing,
    "settling": _settling,
    "evening": _evening,
}
