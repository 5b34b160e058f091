"""Verdicts and the past in, a decision or the reason why not out.

`wanted` says what the verdicts deserve; `GUARDS` is the ordered table of what may forbid
it, each a function of the decision and the situation that gives a `Held` or None; `decide`
joins them for one program, `choose` for all programs of the host. `manner` says how a recycle
is to be done. The steps of an action are procedures.py's; whether a new worker can boot is
found out elsewhere (preflight.py) and arrives here as a `Proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from . import preflight, units
from .ledger import Ledger
from .model import (
    FD_GROWTH,
    IMBALANCE,
    LEAK,
    LIMIT,
    MASTER_GROWTH,
    PENDING,
    RUNNING,
    TOTAL_LIMIT,
    Decision,
    Held,
    Proof,
    Snapshot,
    Verdict,
    WorkerId,
    oldest,
    serves,
)
from .options import Options

# Who comes first where several verdicts deserve an action.
ORDER = (LIMIT, TOTAL_LIMIT, LEAK, IMBALANCE, FD_GROWTH, MASTER_GROWTH)
URGENT = (LIMIT, TOTAL_LIMIT)
# A proof is asked for anew before each action, and used within so many seconds.
FRESH = 2.0
# A failure stands for so long before it is asked again whether the code has changed.
FAILED = 60.0
# While the code is being changed (a deploy) it is asked again after so long.
SOON = 3.0
DEPLOY = 600.0  # and for no longer than that without a word
# How long a worker may be kept for a quiet moment (seconds): at most, at most where a limit or a
# person presses, and as a share of the time that is left to the limit.
PATIENCE = 60.0
PATIENCE_PRESSED = 10.0
PATIENCE_SHARE = 0.05

Verdicts = Mapping[WorkerId | None, tuple[Verdict, ...]]


class Situation(NamedTuple):
    """Everything the guards look at."""

    options: Options
    snapshot: Snapshot
    plain_restart: bool = False  # the program's own section names `restart`
    state_known: bool = True  # Supervisor told us the program's state just now
    durable: bool = True  # the journal keeps what is written
    paused_until: float | None = None
    in_action: str | None = None  # the action under way
    leaving: tuple[WorkerId, ...] = ()  # asked to leave and still there
    expected: int = 0  # workers the program has when all is well
    rungs: Mapping[str, int] = {}  # of each ladder, how many rungs proved ineffective
    actions: tuple[float, ...] = ()  # when actions took place, ours and others'
    ended: float | None = None  # when our last action ended
    ledger: Ledger | None = None  # what our actions have brought so far
    deploying: float | None = None  # since when the code has been changing
    proof: Proof | None = None  # that a new worker can boot, or cannot
    need: int | None = None  # bytes that one more worker takes
    room: int | None = None  # bytes there are for it


def wanted(
    verdicts: Verdicts, situation: Situation, hours: Mapping[WorkerId, float]
) -> list[Decision]:
    """What the verdicts deserve, most urgent first; guards not yet asked."""
    snapshot, options = situation.snapshot, situation.options
    decisions = []
    for target, opinions in verdicts.items():
        for verdict in opinions:
            if not verdict.act:
                continue
            name, rungs = ladder(verdict.kind, snapshot.kind, options)
            action = rungs[min(situation.rungs.get(name, 0), len(rungs) - 1)]
            whom = target
            if verdict.kind == TOTAL_LIMIT and snapshot.workers:
                whom = _largest(snapshot)
            if action == "reload":
                whom = snapshot.master.id if snapshot.master else None
            decisions.append(
                Decision(
                    action=action,
                    namespec=snapshot.namespec,
                    target=whom,
                    verdict=verdict,
                    urgent=verdict.kind in URGENT,
                    hours=hours.get(target) if target is not None else None,
                    about=target,
                )
            )
    return sorted(decisions, key=_priority)


def ladder(kind: str, of: str, options: Options) -> tuple[str, tuple[str, ...]]:
    """A ladder's name and its rungs, for a verdict's kind and a program's kind.

    Only a restart helps a master, and a plain program knows nothing else.
    """
    if of == "plain" or kind == MASTER_GROWTH:
        return ("restart", ("restart",))
    return ("workers", options.actions)


def _largest(snapshot: Snapshot) -> WorkerId:
    """Whose departure gives back most: by private memory where known, else anonymous."""

    def size(index: int) -> tuple[int, int]:
        worker = snapshot.workers[index]
        return (worker.uss or worker.anon or worker.rss, -index)

    return snapshot.workers[max(range(len(snapshot.workers)), key=size)].id


def _priority(decision: Decision) -> tuple[int, float, float]:
    kind = decision.verdict.kind if decision.verdict else ""
    rank = ORDER.index(kind) if kind in ORDER else -1
    over = 0.0
    if decision.verdict and decision.verdict.bound:
        over = decision.verdict.measured / decision.verdict.bound
    return (rank, decision.hours if decision.hours is not None else float("inf"), -over)


def _observe(decision: Decision, now: Situation) -> Held | None:
    if now.options.mode == "act":
        return None
    return Held("observe", "mode = observe: nothing is touched")


def _paused(decision: Decision, now: Situation) -> Held | None:
    if now.paused_until is None or now.snapshot.at >= now.paused_until:
        return None
    left = units.time(now.paused_until - now.snapshot.at)
    return Held("paused", f"paused for another {left}", now.paused_until)


def _not_running(decision: Decision, now: Situation) -> Held | None:
    if now.snapshot.state == RUNNING:
        return None
    return Held("not_running", f"Supervisor says {now.snapshot.state}")


def _state_unknown(decision: Decision, now: Situation) -> Held | None:
    if now.state_known:
        return None
    return Held("no_rpc", "Supervisor's RPC does not answer: its state is not known")


def _plain(decision: Decision, now: Situation) -> Held | None:
    if now.snapshot.kind != "plain":
        return None
    if decision.action != "restart":
        return Held("plain", "not gunicorn: it can only be restarted")
    if now.plain_restart:
        return None
    return Held(
        "plain",
        f"not gunicorn: restarted only where [memwatch:{now.snapshot.namespec}] itself "
        "names restart in actions",
    )


def _ladder(decision: Decision, now: Situation) -> Held | None:
    actions = now.options.actions
    if decision.verdict is None:
        return None
    if decision.action not in actions and now.snapshot.kind != "plain":
        kind = decision.verdict.kind
        return Held("no_action", f"only a restart would help {kind}, and actions has none")
    name, rungs = ladder(decision.verdict.kind, now.snapshot.kind, now.options)
    if now.rungs.get(name, 0) >= len(rungs):
        return Held("gave_up", f"{', '.join(rungs)} proved ineffective")
    return None


def _second_master(decision: Decision, now: Situation) -> Held | None:
    if now.snapshot.masters <= 1:
        return None
    return Held("second_master", f"{now.snapshot.masters} gunicorn masters: an upgrade by USR2?")


def _no_master(decision: Decision, now: Situation) -> Held | None:
    if now.snapshot.kind == "plain" or decision.action == "restart" or now.snapshot.master:
        return None
    return Held("no_master", "no gunicorn master is seen")


def _evidence(decision: Decision, now: Situation) -> Held | None:
    if now.snapshot.evidence != "cmdline" or decision.action == "restart":
        return None
    return Held(
        "evidence",
        "workers are told apart by their command lines alone, which is not sure enough for a "
        "signal: run the listener as root or as the program's user",
    )


def _in_action(decision: Decision, now: Situation) -> Held | None:
    if now.in_action is None:
        return None
    return Held("in_action", f"{now.in_action} is under way")


def _leaving(decision: Decision, now: Situation) -> Held | None:
    if not now.leaving:
        return None
    pids = ", ".join(str(id.pid) for id in now.leaving)
    return Held("leaving", f"worker {pids} was asked to leave and is still there")


def _unavailable(decision: Decision, now: Situation) -> Held | None:
    """A recycle takes one serving worker away; the others have to be there."""
    if decision.action != "recycle":
        return None
    serving = sum(
        serves(worker) and worker.id != decision.target for worker in now.snapshot.workers
    )
    if any(not serves(w) and w.id != decision.target for w in now.snapshot.workers):
        return Held("max_unavailable", "another worker has not booted yet")
    needed = now.expected - now.options.max_unavailable
    if serving >= needed:
        return None
    others = "1 other worker serves" if serving == 1 else f"{serving} other workers serve"
    return Held("max_unavailable", f"only {others}, {needed} have to")


def _cooldown(decision: Decision, now: Situation) -> Held | None:
    if decision.forced or now.ended is None:
        return None
    last, words = now.ended, "the last action"
    if decision.urgent:
        # Urgent verdicts do not wait for the program's cooldown. But the worker that our last
        # action brought has one of its own, or a program whose fresh workers are over their
        # limit would be recycled at every look. One that grew past it waits as well: recycled at
        # once, again and again, it would soon be a storm, and nothing done for an hour.
        age = next((w.age for w in now.snapshot.workers if w.id == decision.about), None)
        if age is None or now.snapshot.at - age < now.ended - now.options.cooldown:
            return None
        last, words = now.snapshot.at - age, "this worker's birth"
    until = last + now.options.cooldown
    if now.snapshot.at >= until:
        return None
    left = units.time(until - now.snapshot.at)
    return Held("cooldown", f"cooldown for another {left} after {words}", until)


def _storm(decision: Decision, now: Situation) -> Held | None:
    """The same complaint comes back in fresh workers again and again: acting is of no use."""
    if decision.verdict is None or decision.forced or now.ledger is None:
        return None
    return now.ledger.storm(decision.verdict.kind, now.snapshot.at)


def _alone(decision: Decision, now: Situation) -> Held | None:
    """The only worker, and no room for another beside it: its boot would be an outage."""
    if decision.action != "recycle" or decision.urgent or decision.forced:
        return None
    if now.options.surge == "off" or _others(decision, now) or (now.durable and _fits(now)):
        return None
    return Held(
        "no_room", f"it is the only worker, and there is no room to replace it first: {_space(now)}"
    )


def _budget(decision: Decision, now: Situation) -> Held | None:
    budget = now.options.budget
    recent = [at for at in now.actions if at > now.snapshot.at - budget.period]
    if decision.forced or len(recent) < budget.count:
        return None
    until = sorted(recent)[-budget.count] + budget.period
    return Held("budget", budget.words(len(recent)), until)


def _window(decision: Decision, now: Situation) -> Held | None:
    window, clock = now.options.window, now.snapshot.clock
    # A person who asks has looked at the clock.
    if window is None or clock is None or decision.urgent or decision.verdict is None:
        return None
    if window.holds(clock):
        return None
    until = now.snapshot.at + (window.start - clock) % 1440 * 60
    return Held("window", f"outside the window of {window}", until)


def _durable(decision: Decision, now: Situation) -> Held | None:
    if now.durable or decision.action != "restart":
        return None
    return Held("journal", "the journal cannot be written: a stopped program could be forgotten")


# The order is that of the explanation: what is most fundamental is said first.
GUARDS: tuple[Callable[[Decision, Situation], Held | None], ...] = (
    _observe,
    _paused,
    _in_action,
    _not_running,
    _state_unknown,
    _second_master,
    _no_master,
    _plain,
    _ladder,
    _evidence,
    _leaving,
    _unavailable,
    _durable,
    _storm,
    _alone,
    _budget,
    _cooldown,
    _window,
)


def objections(decision: Decision, situation: Situation) -> tuple[Held, ...]:
    """Every guard that forbids the decision, in the table's order."""
    held = (guard(decision, situation) for guard in GUARDS)
    return tuple(reason for reason in held if reason is not None)


def proven(decision: Decision, situation: Situation) -> Held | None:
    """Whether a new worker can boot. Asked last: what it takes to know is not free."""
    proof, at = situation.proof, situation.snapshot.at
    if situation.options.preflight == "off":
        return None
    pending = Held("preflight_pending", "whether a new worker can boot is being found out")
    if proof is None:
        return pending
    changing = proof.how == preflight.DEPLOY and not proof.ok
    endless = changing and at - (situation.deploying or at) > DEPLOY
    lasts = FRESH if proof.ok else SOON if changing and not endless else FAILED
    if at - proof.at > lasts:
        return pending
    if proof.ok:
        # A restart loads the code anew, where a preloading master's new worker does not.
        return pending if decision.action == "restart" and proof.how == preflight.PRELOAD else None
    if endless:
        text = (
            "such files have changed for more than 10m: if the program writes them, set preflight"
        )
        return Held("preflight", f"{proof.text} {text}")
    if changing:
        return Held("deploy", proof.text)
    return Held("preflight", f"a new worker would not boot ({proof.how}): {proof.text}")


def decide(
    verdicts: Verdicts,
    situation: Situation,
    hours: Mapping[WorkerId, float],
    asked: Decision | None = None,
) -> tuple[Decision | None, tuple[tuple[Decision, Held], ...]]:
    """The most urgent action that nothing forbids, and each refusal before it.

    `asked`: what a person has asked for comes first.
    """
    refused: list[tuple[Decision, Held]] = []
    for decision in [*([asked] if asked else []), *wanted(verdicts, situation, hours)]:
        reasons = objections(decision, situation)
        if not reasons:
            reason = proven(decision, situation)
            if reason is None:
                return manner(decision, situation), tuple(refused)
            reasons = (reason,)
        refused.extend((decision, reason) for reason in reasons)
        if reasons[0].code in PENDING:
            break  # what is less urgent does not overtake it
    return None, tuple(refused)


def choose(
    decisions: Iterable[Decision],
    under_way: Collection[str],
    at_once: int,
    also_open: Collection[str] = (),
) -> tuple[list[Decision], list[tuple[Decision, Held]]]:
    """Which programs may begin now, most urgent first, and which wait for the others.

    `under_way`: the namespecs of those in action; `also_open`: and of those whose action drags on.
    The members of a group go one after the other, however many programs may be in action at once.
    """
    busy = list(under_way)
    begin: list[Decision] = []
    wait: list[tuple[Decision, Held]] = []
    for decision in sorted(decisions, key=_priority):
        group = decision.namespec.partition(":")[0]
        siblings = [name for name in (*busy, *also_open) if name.partition(":")[0] == group]
        if len(busy) >= at_once:
            text = f"{at_once} program at a time is in action on this host"
        elif siblings and ":" in decision.namespec:
            text = f"{siblings[0]} of the same group is in action"
        else:
            begin.append(decision)
            busy.append(decision.namespec)
            continue
        wait.append((decision, Held("max_programs_at_once", text)))
    return begin, wait


# -- how a recycle is done


def manner(decision: Decision, situation: Situation) -> Decision:
    """The decision with how it is done: the way, why, and for how long a quiet moment is sought."""
    if decision.action != "recycle":
        return decision
    way, reason = _way(decision, situation)
    senior = oldest(situation.snapshot)
    also = senior if way == "surge" and decision.target != senior else None
    if also is not None:
        reason += f"; takes the oldest worker {also.pid} as well"
    patience = _patience(decision)
    return replace(decision, way=way, reason=reason, patience=patience, also=also)


def _way(decision: Decision, now: Situation) -> tuple[str, str]:
    """ "surge" or "plain", and why."""
    if now.options.surge == "off":
        return "plain", "surge = off"
    others, count = _others(decision, now), len(now.snapshot.workers)
    if decision.target == oldest(now.snapshot):
        reason = "it is the oldest worker: SIGTTOU takes exactly it"
    elif 2 * others <= count:
        reason = f"only {others} of {count} workers would serve meanwhile"
    elif now.options.surge == "on":
        reason = "surge = on"
    else:
        return "plain", f"{others} other workers serve meanwhile"
    if not now.durable:
        return (
            "plain",
            "no surge: the journal cannot be written, an extra worker could be forgotten",
        )
    if others < count - 1 or count != now.expected:
        return "plain", "no surge: not all workers serve just now"
    if not _fits(now):
        return "plain", f"no surge: {_space(now)}"
    return "surge", reason


def _others(decision: Decision, now: Situation) -> int:
    return sum(serves(w) for w in now.snapshot.workers if w.id != decision.target)


def _fits(now: Situation) -> bool:
    return now.need is not None and now.room is not None and now.need <= now.room


def _space(now: Situation) -> str:
    if now.need is None or now.room is None:
        return "it is not known whether one more worker fits"
    return f"one more worker needs {units.size(now.need)}, {units.size(max(0, now.room))} are left"


def _patience(decision: Decision) -> float:
    """Seconds: little where somebody or something presses, never much of what is left."""
    if decision.forced:
        return 0.0
    pressed = decision.urgent or decision.verdict is None
    patience = PATIENCE_PRESSED if pressed else PATIENCE
    if decision.hours is not None:
        patience = min(patience, PATIENCE_SHARE * decision.hours * 3600)
    return patience
