"""One program under watch: the pure half of a tick.

`Watch.look` takes a snapshot and gives what follows from it: verdicts, what is to be
written down and told, the commands of the procedure in progress, and the action this
program would like to begin. Whether it may is settled for all programs of the host by
policy.choose; then `begin` makes the plan, the shell writes it down, and `launch` gives
its first commands. All memory is in fields that `dump` and `load` carry through the
journal.

No clock and no I/O: time is `Snapshot.at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from . import advice, attribution, detectors, policy, preflight, procedures, releases, trends, units
from .ledger import Ledger, Turn, baseline
from .model import (
    FD_GROWTH,
    LEAK,
    LIMIT,
    PENDING,
    PLATEAU,
    RUNNING,
    SPIKE,
    TOTAL_LIMIT,
    Command,
    Decision,
    Entry,
    Held,
    News,
    Outcome,
    Proof,
    Snapshot,
    Verdict,
    Worker,
    WorkerId,
    oldest,
    serves,
)
from .needs import Needs, room
from .options import Options
from .quiet import Quiet

# Ends of workers that we did not cause, within so many seconds of each other, are one action
# of somebody's (a reload ends them all).
ONE_ACTION = 60.0
# The number of workers that is the program's normal one has stood so long.
STEADY = 60.0
# A program whose processes come and go at more than FEW looks in so long is said to do so,
# and not each time any more.
FLAPPING = 600.0
FEW = 12
# gunicorn's default graceful timeout, and 5 s: where `grace = auto` cannot know better.
ASSUMED_GRACE = 35.0
# A ladder that was climbed is forgotten after so long.
LADDER = 86400.0
# The same refusal is said again after so long.
SAID = 3600.0
# Buckets of `confirm` in which growth shows, if it is not slow.
WINDOW = 10
# Refusals that pass by themselves or are somebody's will: logged, shown, not sent as news.
QUIET = frozenset(
    {"observe", "in_action", "cooldown", "window", "paused", "max_programs_at_once", "leaving"}
    | set(PENDING)
)
# Refusals that pass within seconds: shown, not even logged.
PASSING = frozenset({"in_action", "preflight_pending"})
# Ends that somebody should look into.
UNHAPPY = (attribution.TIMEOUT, attribution.SIGNAL, attribution.EXIT)
# What takes no look of its own is done so often: watched time is counted, advice reconsidered.
NOW_AND_THEN = 60.0
# Advice that has changed is given again after so long at the earliest, the same after so long.
ADVICE_APART, ADVICE_AGAIN = 1800.0, 86400.0
# What a person asked for waits so long for its preflight and for other programs.
ASKED = 300.0

# What sizes before and after an action are compared by, where no single process is.
ANONYMOUS = "anonymous memory"
FILES = "open files"

Key = tuple[WorkerId | None, str]


class Seen(NamedTuple):
    """What follows from a look."""

    verdicts: dict[WorkerId | None, tuple[Verdict, ...]]
    entries: tuple[Entry, ...] = ()
    news: tuple[News, ...] = ()
    commands: tuple[Command, ...] = ()
    decision: Decision | None = None
    changed: bool = False  # the procedure moved: write it down
    prove: bool = False  # find out whether a new worker can boot
    anew: bool = False  # and that of a new master, which loads all code itself
    code: bool = False  # find out which code was loaded


class Watch:
    """What is known of one program, and what follows from the next snapshot of it."""

    def __init__(self, namespec: str, options: Options, plain_restart: bool = False) -> None:
        self.namespec = namespec
        self.options = options
        self.plain_restart = plain_restart
        self.past = detectors.Past()
        self.procedure: procedures.Procedure | None = None
        self.held: tuple[Held, ...] = ()
        self.paused_until: float | None = None
        self.rungs: dict[str, int] = {}  # of each ladder, how many rungs proved ineffective
        self.climbed: float | None = None  # when the last one did
        self.actions: list[float] = []  # when actions took place, ours and others'
        self.ended: float | None = None  # when our last one ended
        self.last_action: dict[str, Any] | None = None
        self.leaving: dict[WorkerId, float] = {}
        self.expected = 0
        self._count: tuple[int, float] = (0, 0.0)
        self._told: dict[Key, float] = {}
        self._said: dict[str, float] = {}
        self._last: Snapshot | None = None
        self._other_at: float | None = None
        self._halt: tuple[float, str] = (0.0, "")  # when a master ended itself, and why
        self._changed: list[float] = []  # looks at which something came, went or changed
        self._unsaid = 0
        self.needs = Needs()
        self.ledger = Ledger()
        self.witness = attribution.Witness()
        self.releases = releases.Releases()
        self.advice: tuple[str, ...] = ()  # what there is to say of what was told,
        self._advised: frozenset[Key] = frozenset()  # and of these verdicts
        self._gist: tuple[float, advice.Gist] | None = (
            None  # when advice was given, and what it was
        )
        self._ran = 0  # the pid that Supervisor started last
        self._next = 0.0  # when NOW_AND_THEN is over
        self._look_at_code = 0.0  # when it may be asked for again
        self._sent: list[str] = []  # our signals to the master since the last look
        self.proof: Proof | None = None  # that a new worker can boot, or cannot
        self.asked: tuple[Decision, float, str] | None = None  # by a person, when, and its id
        self._answers: list[tuple[str, str, str]] = []  # to what was accepted: id, answer, reason
        self.proving = False  # an action waits for its proof
        self._anew = False  # and it is a restart
        self._deploying: float | None = None  # since when the code has been changing
        # Whom the action under way is about, for its news; a listener that resumes it has none.
        self._subject: tuple[Worker | None, tuple[Verdict, ...]] = (None, ())

    # -- a look ------------------------------------------------------------------------

    def look(
        self,
        snapshot: Snapshot,
        *,
        state_known: bool = True,
        durable: bool = True,
        quiet: Quiet | None = None,
        log: str | None = None,
        peaks: Mapping[WorkerId, int] | None = None,
    ) -> Seen:
        """Everything that follows from one snapshot; nothing is done yet.

        `quiet`: how busy the worker is whose quiet moment the procedure awaits; `log`: what
        gunicorn has logged since the last look, where `wants_log` asked for it and it can be
        read; `peaks`: the most that fresh workers ever held resident (bytes).
        """
        entries, news_of_changes = self._note_changes(snapshot, log)
        verdicts: dict[WorkerId | None, tuple[Verdict, ...]] = {}
        if snapshot.state == RUNNING:
            detectors.remember(self.options, self.past, snapshot)
            verdicts = detectors.examine(self.options, snapshot, self.past)
            self.needs.remember(snapshot, peaks or {})
        told_before = self.told_count
        told, news = self._tell(verdicts, snapshot)
        news = news_of_changes + news
        entries += told
        stale = self.advice and _said_of(verdicts) != self._advised
        if stale or not 0 < self._next - snapshot.at <= NOW_AND_THEN:
            entries += self._now_and_then(verdicts, snapshot)
        commands: tuple[Command, ...] = ()
        before = self.procedure
        if before is not None:
            grace = self.options.grace if self.options.grace is not None else ASSUMED_GRACE
            size = self._size_now(before, snapshot)
            hindered = self._hindered(before, snapshot, state_known)
            also = self._second_size(before, snapshot)
            kill = self._may_kill(snapshot.at)
            terms = procedures.Terms(grace, kill, size, quiet, hindered, also)
            step = procedures.step(before, snapshot, terms)
            commands = step.commands
            self._note_asked(commands, snapshot)
            moved, told_news = self._moved(step, snapshot)
            entries += moved
            news += told_news
        self._last = snapshot
        decision = None
        self.proving = False
        if self.procedure is not None:
            self.held = ()
            waits = self.procedure.step == "quiet" and before is not None
            self.proving = waits and hindered is not None and hindered.code in PENDING
        else:
            decision, held, news_of_held = self._decide(verdicts, snapshot, state_known, durable)
            entries += held
            news += news_of_held
        # A verdict is told some time before it is acted on: while there is memory for a trial.
        ahead = self.told_count > told_before and self.options.mode == "act"
        return Seen(
            verdicts,
            tuple(entries),
            tuple(news),
            commands,
            decision,
            changed=_moved_on(before, self.procedure),
            prove=self.proving or ahead,
            anew=self._anew,
            code=self.releases.pending and self._may_look_at_code(snapshot),
        )

    def _decide(
        self,
        verdicts: dict[WorkerId | None, tuple[Verdict, ...]],
        snapshot: Snapshot,
        state_known: bool,
        durable: bool,
    ) -> tuple[Decision | None, list[Entry], list[News]]:
        """The action this program would begin, and what is to be said of those it may not."""
        hours = {}
        for id, opinions in verdicts.items():
            worker = _worker(snapshot, id)
            if worker is not None and any(verdict.act for verdict in opinions):
                speed = trends.trend(self.past, worker.id)
                left = trends.hours_to_limit(self.options, snapshot, worker, speed)
                if left is not None:
                    hours[worker.id] = left
        asked, self.asked = self.asked, None
        request = asked[0] if asked else None
        if asked is not None and snapshot.at - asked[1] > ASKED:
            text = f"{asked[0].action} asked for by {asked[0].by}: given up, it could not begin"
            self._answers.append((asked[2], "held", text))
            return None, [self._entry(snapshot.at, "held", text, level="WARN")], []
        situation = self._situation(snapshot, state_known, durable)
        if request or any(verdict.act for found in verdicts.values() for verdict in found):
            situation = self._with_space(situation)
        decision, refused = policy.decide(verdicts, situation, hours, request)
        self.held = tuple(dict.fromkeys(reason for _, reason in refused))
        pending = [wanted for wanted, reason in refused if reason.code in PENDING]
        self.proving = bool(pending)
        self._anew = any(wanted.action == "restart" for wanted in pending)
        if request is not None and (self.proving if decision is None else not decision.verdict):
            self.asked = asked  # until it begins
        if asked is not None and self.asked is None:
            reasons = (reason.text for wanted, reason in refused if wanted is request)
            self._answers.append((asked[2], "held", "; ".join(reasons)))
        entries: list[Entry] = []
        news: list[News] = []
        for wanted, group in groupby(refused, key=lambda each: each[0]):
            always = wanted is request and self.asked is None
            said, sent = self.hold(wanted, *(reason for _, reason in group), always=always)
            entries += said
            news += sent
        return decision, entries, news

    def _hindered(
        self, procedure: procedures.Procedure, snapshot: Snapshot, state_known: bool
    ) -> Held | None:
        """What has come up against asking the worker to leave, while a quiet moment was awaited."""
        if procedure.action != "recycle" or procedure.step not in ("adding", "quiet"):
            return None
        decision = Decision("recycle", self.namespec, procedure.target, None, forced=True)
        now = self._situation(snapshot, state_known, True)._replace(in_action=None, leaving=())
        now = now._replace(expected=max(self.expected, len(procedure.before)))
        reasons = policy.objections(decision, now)
        if reasons:
            return reasons[0]
        if procedure.extra and procedure.target == oldest(snapshot):
            return None  # SIGTTOU: nobody is forked for it
        return policy.proven(decision, now)

    def _may_kill(self, at: float) -> bool:
        """SIGKILL is configured, may be sent now, and the grace it waits for is no guess."""
        options = self.options
        paused = self.paused_until is not None and at < self.paused_until
        return options.kill and options.grace is not None and options.mode == "act" and not paused

    def wants(self) -> tuple[WorkerId, ...]:
        """Whose exact size could change something at the next look, most important first."""
        if self._last is None or self._last.state != RUNNING:
            return ()
        wanted = [
            *detectors.wants(self.options, self._last, self.past),
            *self.needs.wants(self._last),
        ]
        if self.procedure is not None and self.procedure.step == "settling":
            new = procedures.newcomers(self.procedure, self._last)
            if self.procedure.action == "restart" and self._last.kind == "plain":
                new = [worker.id for worker in self._last.workers]
            wanted[:0] = new[: 2 if self.procedure.also is not None else 1]
        elif self.procedure is not None and self.procedure.step in ("leaving", "replacing"):
            second = oldest(self._last) if self.procedure.also is not None else None
            wanted[:0] = [second] if second is not None else []
        return tuple(dict.fromkeys(wanted))

    def workers(self) -> tuple[Worker, ...]:
        """Those of the last look."""
        return self._last.workers if self._last is not None else ()

    @property
    def busy(self) -> bool:
        """Whether the next look should not wait for the next TICK."""
        return self.procedure is not None or self.proving or self.asked is not None

    @property
    def seeks_quiet(self) -> WorkerId | None:
        """The worker whose quiet moment is awaited."""
        waits = self.procedure is not None and self.procedure.step == "quiet"
        return self.procedure.target if waits and self.procedure else None

    def wants_log(self, snapshot: Snapshot) -> bool:
        """Whether what gunicorn has logged since the last look may say who ended a worker."""
        return self._last is None or self.witness.wants_log(self._last, snapshot)

    @property
    def told_count(self) -> int:
        """How many verdicts stand."""
        return len(self._told)

    # -- an action ---------------------------------------------------------------------

    def objections(
        self, decision: Decision, snapshot: Snapshot, state_known: bool, durable: bool
    ) -> tuple[Held, ...]:
        """What forbids an action that somebody asked for."""
        situation = self._with_space(self._situation(snapshot, state_known, durable))
        return policy.objections(decision, situation)

    def ask(self, decision: Decision, at: float, id: str = "") -> None:
        """Somebody asked for this, and nothing objects: begin as soon as a worker can boot."""
        self.asked = (decision, at, id)
        self.proof = None

    def answers(self) -> list[tuple[str, str, str]]:
        """What has become of requests since the last call: id, answer, reason."""
        answers, self._answers = self._answers, []
        return answers

    def take(self, proof: Proof) -> list[Entry]:
        """What was found out about its code."""
        changing = not proof.ok and proof.how == preflight.DEPLOY
        self._deploying = (self._deploying or proof.at) if changing else None
        before, self.proof = self.proof, proof
        if before is None or before.ok or before.how == preflight.DEPLOY or not proof.ok:
            return []
        text = f"a new worker boots again ({proof.how}: {proof.text})"
        return [self._entry(proof.at, "seen", text)]

    def _may_look_at_code(self, snapshot: Snapshot) -> bool:
        """Once, and again only where no answer came: it runs by now, in its directory."""
        if snapshot.state != RUNNING or not snapshot.workers or snapshot.at < self._look_at_code:
            return False
        self._look_at_code = snapshot.at + NOW_AND_THEN
        return True

    def take_code(self, code: releases.Code) -> list[Entry]:
        """The files were looked at: where the last load was of other code, it is a release."""
        was_pending, other = self.releases.pending, self.releases.take(code)
        self._look_at_code = 0.0
        if not was_pending or self.releases.pending or other is False:
            return []
        self.past.forget_learned()
        what = self.releases.eras[-1].what
        text = f"{what}: whether its code changed is not known"
        if other:
            file = units.printable(code.file, 120)
            text = f"{what} with changed code{f' ({file})' if file else ''}: a release"
        return [self._entry(code.at, "release", f"{text}; what was learned before is forgotten")]

    def room(self, snapshot: Snapshot) -> int | None:
        """Bytes there are for one more worker."""
        ceiling = self.options.total_limit
        limit = ceiling.of(snapshot.available) if ceiling else None
        return room(snapshot, detectors.total(snapshot), limit)

    def begin(self, decision: Decision) -> list[Entry]:
        """Make the plan. The shell writes it down before it calls `launch`."""
        snapshot = self._last
        assert snapshot is not None and self.procedure is None
        size, measure = self._size(decision, snapshot)
        procedure = procedures.begin(decision, snapshot, size, measure)
        self.procedure = replace(procedure, **self._prospects(decision, snapshot, size, measure))
        self.actions.append(snapshot.at)
        if self.asked is not None:
            self.procedure = replace(self.procedure, request=self.asked[2])
            text = f"{decision.action} has begun{as_well(decision)}"
            self._answers.append((self.asked[2], "accepted", text))
            self.asked = None
        told = (decision.verdict,) if decision.verdict else ()
        self._subject = (_worker(snapshot, decision.target), told)
        who = self._who(decision.target, snapshot) if decision.action == "recycle" else "program"
        why = self.procedure.why
        how = f"recycling ({decision.way}: {decision.reason})" if decision.reason else "recycling"
        doing = {"recycle": how, "reload": "reloading", "restart": "restarting"}
        kind = f"{decision.verdict.kind}, " if decision.verdict else ""
        text = f"{who}: {kind}{why}; {doing[decision.action]}"
        cost = {
            "reload": " (HUP to the master; without preload nothing is served while it imports)",
            "restart": " (Supervisor's stop and start: the port is closed meanwhile)",
        }.get(decision.action, "")
        return [
            self._entry(
                snapshot.at,
                "intent",
                text + cost,
                {"procedure": self.procedure.id, "why": why, "also_pid": _pid(decision.also)},
            )
        ]

    def planned(self, durable: bool) -> Decision | procedures.Procedure | None:
        """What is under way, or was asked for, as it would be done now."""
        if self.procedure is not None or self.asked is None or self._last is None:
            return self.procedure
        situation = self._with_space(self._situation(self._last, True, durable))
        return policy.manner(self.asked[0], situation)

    def launch(self) -> tuple[Command, ...]:
        """The plan is written down: its first commands."""
        assert self.procedure is not None
        step = procedures.first_commands(self.procedure)
        self.procedure = step.procedure
        if self._last is not None:
            self._note_asked(step.commands, self._last)
        return step.commands

    def carried_out(self) -> None:
        """The command of the procedure's step was carried out."""
        if self.procedure is not None:
            self.procedure = procedures.carried_out(self.procedure)

    def _note_asked(self, commands: tuple[Command, ...], snapshot: Snapshot) -> None:
        """Whom a signal of ours asks to leave, and what the master was told."""
        for command in commands:
            if command.signal in ("HUP", "TTIN", "TTOU"):
                self._sent.append(command.signal)
            whom = oldest(snapshot) if command.signal == "TTOU" else command.target
            if command.signal in ("TERM", "KILL", "TTOU") and whom is not None:
                self.leaving[whom] = snapshot.at

    def failed(self, command: Command, error: str, code: int | None = None) -> Seen:
        """A command of the procedure could not be carried out."""
        assert self.procedure is not None and self._last is not None
        if command.target is not None:
            self.leaving.pop(command.target, None)
        step = procedures.failed(self.procedure, command, error, code)
        entries, news = self._moved(step, self._last)
        text = f"{command.signal or command.do} failed: {error}"
        entries.insert(0, self._entry(self._last.at, "step", text, level="WARN"))
        return Seen({}, tuple(entries), tuple(news), changed=True)

    def _moved(self, step: procedures.Step, snapshot: Snapshot) -> tuple[list[Entry], list[News]]:
        """The procedure took a step, or ended."""
        before, after, at = self.procedure, step.procedure, snapshot.at
        assert before is not None
        if step.outcome is None:
            self.procedure = after
            same_trouble = after.trouble == before.trouble or not after.trouble
            if (after.step, after.attempts) == (before.step, before.attempts) and same_trouble:
                return [], []
            text = procedures.words(after)
            entries = [self._entry(at, "step", text, {"procedure": after.id, "step": after.step})]
            if after.attempts > 1:
                entries[0] = entries[0]._replace(level="WARN")
                if after.attempts == 2:
                    summary = f"{self.namespec}: it does not start: {after.trouble}; trying on"
                    return entries, [self._news("failed", at, summary, action=after.action)]
            elif after.trouble and not same_trouble and after.action == "recycle":
                entries[0] = entries[0]._replace(level="WARN")
                summary = f"{self.namespec}: recycle: {after.trouble}"
                return entries, [self._news("failed", at, summary, action=after.action)]
            return entries, []
        return self._over(after, step.outcome, snapshot)

    def _over(
        self, procedure: procedures.Procedure, outcome: Outcome, snapshot: Snapshot
    ) -> tuple[list[Entry], list[News]]:
        at = snapshot.at
        outcome = self._settle_up(procedure, outcome, snapshot)
        outcome = self._own_fault(procedure, outcome, snapshot)
        if procedure.action == "reload" and outcome.result != "overtaken":
            self.releases.loaded(snapshot, "reload")
        self.procedure = None
        self.ended = at
        if not procedure.sent and procedure.target is not None:
            self.leaving.pop(procedure.target, None)  # perhaps it was never asked
        asked_too = procedure.step in ("removing", "settling", "evening")
        also = procedure.also if asked_too else None
        if procedure.step not in ("leaving", "killed"):  # SIGTTOU may have taken nobody
            self.leaving = {id: asked for id, asked in self.leaving.items() if id == also}
        name, rungs = policy.ladder(procedure.kind, snapshot.kind, self.options)
        rung = self.rungs.get(name, 0)
        if outcome.result == "ineffective" and procedure.action == rungs[min(rung, len(rungs) - 1)]:
            self.rungs[name] = rung + 1
            self.climbed = at
        elif outcome.result == "done":
            self.rungs.pop(name, None)
        self.last_action = {
            "id": procedure.id,
            "action": procedure.action,
            "kind": procedure.kind,
            "pid": _pid(procedure.target),
            "also_pid": _pid(also),
            "why": procedure.why,
            "by": procedure.by,
            "begun": procedure.begun,
            "ended": at,
            "result": outcome.result,
            "text": outcome.text,
            "freed_bytes": outcome.freed,
        }
        level = "INFO" if outcome.result in ("done", "overtaken") else "WARN"
        text = f"{procedure.action} {outcome.result}: {outcome.text}"
        data = {"procedure": procedure.id, "result": outcome.result, "freed_bytes": outcome.freed}
        entries = [self._entry(at, "outcome", text, {**data, "also_pid": _pid(also)}, level)]
        what = {"done": "acted", "overtaken": None}.get(outcome.result, "failed")
        news = []
        if what is not None:
            news.append(
                self._news(
                    what,
                    at,
                    f"{self.namespec}: {procedure.kind}: {procedure.why}; {text}",
                    target=procedure.target,
                    subject=self._subject,
                    action=procedure.action,
                    outcome=outcome.result,
                    freed=outcome.freed,
                    also=also,
                )
            )
        if outcome.result == "ineffective" and self.rungs.get(name, 0) >= len(rungs):
            text = f"gave up: {', '.join(rungs)} proved ineffective; {outcome.text}"
            entries.append(self._entry(at, "gave_up", text, level="ERROR"))
            summary = f"{self.namespec}: {text}"
            news.append(self._news("gave_up", at, summary, action=procedure.action))
        return entries, news

    def _prospects(
        self, decision: Decision, snapshot: Snapshot, size: int, measure: str
    ) -> dict[str, Any]:
        """What the ledger will want to know of the target: age, growth, what is hoped for."""
        worker = _worker(snapshot, decision.target) if decision.action == "recycle" else None
        if worker is None:
            return {}
        trend = trends.trend(self.past, worker.id)
        need = self.needs.fresh(snapshot)
        hoped = max(0, size - need) if need is not None and measure != FILES else None
        rate = trend.bytes_per_hour / 3600 if trend is not None and measure != FILES else None
        return {"age": worker.age, "rate": rate, "expected": hoped}

    def _own_fault(
        self, procedure: procedures.Procedure, outcome: Outcome, snapshot: Snapshot
    ) -> Outcome:
        """An action in whose middle the program goes down by itself was not overtaken by others."""
        at, halt = self._halt
        halted = halt and 0 <= snapshot.at - at <= ONE_ACTION
        down = halted or snapshot.state in ("EXITED", "BACKOFF", "FATAL")
        if outcome.result != "overtaken" or procedure.step in ("planned", "quiet") or not down:
            return outcome
        return Outcome("failed", f"{outcome.text}; {halt}" if halted else outcome.text)

    def _settle_up(
        self, procedure: procedures.Procedure, outcome: Outcome, snapshot: Snapshot
    ) -> Outcome:
        """Into the ledger with it; where a fresh worker is the problem, that is how it ended."""
        if outcome.result not in ("done", "ineffective"):
            return outcome
        after = self._size_now(procedure, snapshot) if outcome.freed is not None else None
        turn = Turn(
            procedure.begun,
            procedure.kind,
            procedure.action,
            procedure.target if procedure.action == "recycle" else None,
            procedures.newcomer(procedure, snapshot) if procedure.action == "recycle" else None,
            procedure.age,
            procedure.size,
            after,
            procedure.expected,
            procedure.rate,
        )
        self.ledger.note(turn)
        limit = self.options.limit.of(snapshot.available) if self.options.limit else None
        master = snapshot.master.anon if snapshot.master else None
        text = baseline(turn, limit, master)
        if text is None:
            return outcome
        return Outcome("ineffective", f"{outcome.text}; {text}", outcome.freed)

    # -- what others did ---------------------------------------------------------------

    def _note_changes(self, snapshot: Snapshot, log: str | None) -> tuple[list[Entry], list[News]]:
        """Compare with the look before: who came, who went, and whose doing that was."""
        entries: list[Entry] = []
        news: list[News] = []
        last, at = self._last, snapshot.at
        here = {worker.id for worker in snapshot.workers}
        asked_to_leave = set(self.leaving)
        self.leaving = {id: asked for id, asked in self.leaving.items() if id in here}
        self._note_count(snapshot)
        self._note_start(snapshot)
        if last is None:
            return entries, news
        change = self.witness.look(last, snapshot, asked_to_leave, log, self._sent)
        self._sent = []
        if change.halt:
            error = preflight.error_line(log or "")
            text = f"gunicorn's master has ended: {change.halt}{f': {error}' if error else ''}"
            self._halt = (at, text)
            entries.append(self._entry(at, "seen", text, {"cause": attribution.MASTER}, "ERROR"))
            if f"halt {error}" not in self._said:
                self._said[f"halt {error}"] = at
                news.append(self._news("failed", at, f"{self.namespec}: {text}"))
        restarted = snapshot.pid != last.pid and snapshot.pid != 0 and last.pid != 0
        ours = self.procedure is not None and self.procedure.action == "restart"
        if restarted and not ours:
            entries += self.note(at, f"restarted by others: pid {last.pid} -> {snapshot.pid}")
            self._another_program()
            self._count_other(at)
        elif snapshot.state != last.state and not ours:
            entries += self.note(at, f"Supervisor: {last.state} -> {snapshot.state}")
        if snapshot.pid != last.pid or ours or snapshot.state != RUNNING:
            return entries, news  # its workers end with it
        if change.reloaded:
            self._another_program()
            self.releases.loaded(snapshot, "reload")
        for end in change.ends:
            if end.cause != attribution.OURS:
                entries += self._note_end(end, at)
        for count in change.counts:
            entries += self.note(at, count.text, {"cause": count.cause, "by": count.by})
        self.actions += [at] * change.actions
        return entries, news

    def _note_end(self, end: attribution.End, at: float) -> list[Entry]:
        """A worker that ended by somebody else's doing. The kernel's victims are always named."""
        if end.cause == attribution.MAX_REQUESTS:
            self._note_masked(end.worker)
        size, name = detectors.measure(self.options, end.worker, at)
        text = f"worker {end.worker.id.pid}: {end.text}; it held {name} {units.size(size)}"
        oom = end.cause == attribution.OOM
        data = {"pid": end.worker.id.pid, "cause": end.cause, "oom": oom}
        if oom:
            return [self._entry(at, "seen", text, data, "WARN")]
        return self.note(at, text, data, "WARN" if end.cause in UNHAPPY else "INFO")

    def _note_masked(self, worker: Worker) -> None:
        """max_requests has ended it: of a leaking one, how far it came is kept for the advice."""
        points = self.past.points(worker.id)
        if points:
            grown = max(points[-1][1] - points[0][1], 0.0)
            self.releases.ended(worker.id, releases.End(grown, worker.requests, worker.age))

    def _note_start(self, snapshot: Snapshot) -> None:
        """Whether Supervisor has started the program anew, also while nobody watched; or somebody
        has reloaded it then."""
        if snapshot.state != RUNNING or not snapshot.pid:
            return
        if self._ran and snapshot.pid != self._ran:
            self.releases.loaded(snapshot, "restart")
        elif self._last is None and self.past.lives:
            known = [worker.id in self.past.lives for worker in snapshot.workers]
            if known and not any(known):
                self.releases.loaded(snapshot, "reload")
        self._ran = snapshot.pid

    def note(
        self, at: float, text: str, data: dict[str, Any] | None = None, level: str = "INFO"
    ) -> list[Entry]:
        """Something came, went or changed; where it does so again and again, that is said."""
        entries = []
        if self._unsaid:
            if at - self._changed[-1] < FLAPPING:
                self._unsaid += 1
                self._changed = [at]
                return []
            text_before = f"has been steady for a while; {self._unsaid} changes were not said"
            entries.append(self._entry(at, "seen", text_before))
            self._unsaid = 0
        self._changed = [then for then in self._changed if at - then < FLAPPING and then != at]
        self._changed.append(at)
        if len(self._changed) > FEW:
            self._unsaid = 1
            text = f"changes again and again: not said until {units.time(FLAPPING)} are quiet"
            data, level = None, "WARN"
        return [*entries, self._entry(at, "seen", text, data, level)]

    def _another_program(self) -> None:
        """Others reloaded or restarted it: perhaps another code, another ladder."""
        self.rungs.clear()
        self.ledger.clear()

    def _count_other(self, at: float) -> None:
        if self._other_at is None or at - self._other_at > ONE_ACTION:
            self.actions.append(at)
        self._other_at = at

    def _note_count(self, snapshot: Snapshot) -> None:
        """The number of workers the program has when all is well."""
        count = len(snapshot.workers)
        if snapshot.state != RUNNING or self.procedure is not None:
            return
        if count != self._count[0]:
            self._count = (count, snapshot.at)
        if count > self.expected or snapshot.at - self._count[1] >= STEADY:
            self.expected = count

    # -- telling -----------------------------------------------------------------------

    def _tell(
        self, verdicts: dict[WorkerId | None, tuple[Verdict, ...]], snapshot: Snapshot
    ) -> tuple[list[Entry], list[News]]:
        """Each told verdict once when it begins; the return to health once when all are over."""
        now: dict[Key, Verdict] = {
            (id, verdict.kind): verdict
            for id, opinions in verdicts.items()
            for verdict in opinions
            if verdict.told
        }
        entries: list[Entry] = []
        news: list[News] = []
        at = snapshot.at
        known = None
        if any(key not in self._told for key in now):
            known = self._consider(verdicts, snapshot)
        for (id, kind), verdict in now.items():
            if (id, kind) in self._told:
                continue
            self._told[id, kind] = at
            text = f"{self._who(id, snapshot)}: {kind}: {verdict.why}"
            data = {"pid": id.pid if id else None, "verdict": kind}
            entries.append(self._entry(at, "suspected", text, data))
            news.append(
                self._news(
                    "suspected",
                    at,
                    f"{self.namespec} {text}",
                    target=id,
                    subject=(_worker(snapshot, id), (verdict,)),
                    advice=self.advice,
                )
            )
        if known is not None:
            entries += self._advise(known)
        over = [key for key in self._told if key not in now]
        entries += self._no_leaks(over, verdicts, snapshot)
        if over and not now and self.procedure is None and self._is_judged(snapshot, over):
            self._told.clear()
            held = units.size(detectors.total(snapshot))
            summary = f"{self.namespec}: nothing stands out any more; the program holds {held}"
            entries.append(self._entry(at, "recovered", f"recovered; the program holds {held}"))
            news.append(self._news("recovered", at, summary))
        elif now:
            for id, kind in over:
                del self._told[id, kind]
                if id is None or _worker(snapshot, id) is not None:  # else it has gone
                    data = {"pid": id.pid if id else None, "verdict": kind}
                    text = f"{self._who(id, snapshot)}: {kind}: no longer told"
                    entries.append(self._entry(at, "over", text, data))
        return entries, news

    def _consider(self, verdicts: advice.Verdicts, snapshot: Snapshot) -> advice.Facts:
        """What there is to say now, and into the releases with what is known of the leaks."""
        known = advice.facts(self.options, snapshot, self.past, verdicts, self.releases)
        for case in known.cases:
            found = case.growing
            leak = releases.Leak(found.trend.bytes_per_hour, found.per_work, found.unit)
            self.releases.leaks(case.worker, snapshot.at, leak)
        self.advice = (*advice.sentences(known), *advice.no_leaks(snapshot, verdicts))
        self._advised = _said_of(verdicts)
        return known

    def _advise(self, known: advice.Facts) -> list[Entry]:
        """Give advice, unless it says nothing that was not said before."""
        gist, at = advice.gist(known), known.snapshot.at
        if gist is None:
            return []
        if self._gist is not None:
            said_at, said = self._gist
            urgent = gist.release != said.release or (gist.material and not said.material)
            new = advice.is_news(said, gist) and (urgent or at - said_at >= ADVICE_APART)
            if not new and 0 <= at - said_at < ADVICE_AGAIN:
                return []
        self._gist = (at, gist)
        texts = advice.sentences(known)
        return [self._entry(at, "advice", f"advice: {text}") for text in texts]

    def _no_leaks(
        self, over: list[Key], verdicts: advice.Verdicts, snapshot: Snapshot
    ) -> list[Entry]:
        """Leaks that were told and are none after all."""
        entries = []
        for id, kind in over:
            if id is None or kind != LEAK:
                continue
            said = [advice.no_leak(id, verdict, snapshot) for verdict in verdicts.get(id, ())]
            if any(said) and self.releases.took_back(id):
                entries += [self._entry(snapshot.at, "advice", text) for text in said if text]
        return entries

    def _now_and_then(self, verdicts: advice.Verdicts, snapshot: Snapshot) -> list[Entry]:
        """What does not have to be done at every look."""
        self._next = snapshot.at + NOW_AND_THEN
        if snapshot.state == RUNNING:
            self.releases.watched(snapshot)
        self.advice = ()
        return self._advise(self._consider(verdicts, snapshot)) if verdicts else []

    def _is_judged(self, snapshot: Snapshot, over: list[Key]) -> bool:
        """Whether that nothing is told means that nothing is wrong: it runs, and all of its
        workers serve and are past their warm-up; where some grew, by as long as that shows in."""
        if snapshot.state != RUNNING or not snapshot.workers:
            return False
        grew = any(kind not in (LIMIT, TOTAL_LIMIT) for _, kind in over)
        known = self.options.warmup + (WINDOW * self.options.confirm if grew else 0.0)
        return all(
            serves(worker) and (worker.age is None or worker.age >= known)
            for worker in snapshot.workers
        )

    def hold(
        self, decision: Decision, *reasons: Held, always: bool = False
    ) -> tuple[list[Entry], list[News]]:
        """Say why it is not done, in one line; each reason once an hour at most for the same target
        and kind.

        `always`: to somebody who asked and is refused for good.
        """
        snapshot = self._last
        assert snapshot is not None
        self.held += tuple(reason for reason in reasons if reason not in self.held)
        at = snapshot.at
        self._said = {key: said for key, said in self._said.items() if at - said < SAID}
        kind = decision.verdict.kind if decision.verdict else "request"
        fresh = []
        for reason in reasons:
            key = _said_as(decision, kind, reason)
            if reason.code not in PASSING and (always or key not in self._said):
                self._said[key] = at
                fresh.append(reason)
        begin = f"{self._who(decision.target, snapshot)}: {kind}: {decision.action} held: "
        entries: list[Entry] = []
        news: list[News] = []
        storms = [reason for reason in fresh if reason.code == "storm"]
        others = [reason for reason in fresh if reason.code != "storm"]
        for what, level, found in (("gave_up", "ERROR", storms), ("held", "INFO", others)):
            if found:
                text = begin + "; ".join(reason.text for reason in found)
                entries.append(self._entry(at, what, text, {"code": found[0].code}, level))
            loud = [reason.text for reason in found if reason.code not in (*QUIET, "gave_up")]
            if loud:
                summary = f"{self.namespec} {begin}{'; '.join(loud)}"
                about = (decision.verdict,) if decision.verdict else ()
                subject = (_worker(snapshot, decision.target), about)
                news.append(self._news(what, at, summary, decision.target, subject))
        return entries, news

    # -- details -----------------------------------------------------------------------

    def _situation(self, snapshot: Snapshot, state_known: bool, durable: bool) -> policy.Situation:
        period = self.options.budget.period
        self.actions = [at for at in self.actions if at > snapshot.at - period]
        if self.climbed is not None and snapshot.at - self.climbed > LADDER:
            self.rungs.clear()
        return policy.Situation(
            options=self.options,
            snapshot=snapshot,
            plain_restart=self.plain_restart,
            state_known=state_known,
            durable=durable,
            paused_until=self.paused_until,
            in_action=self._in_action(),
            leaving=tuple(self.leaving),
            expected=self.expected,
            rungs=self.rungs,
            actions=tuple(self.actions),
            ended=self.ended,
            proof=self.proof,
            deploying=self._deploying,
            ledger=self.ledger,
        )

    def _in_action(self) -> str | None:
        """The action under way, or asked for and waiting for its preflight."""
        if self.procedure is not None:
            return self.procedure.action
        return self.asked[0].action if self.asked is not None else None

    def _with_space(self, situation: policy.Situation) -> policy.Situation:
        """With what is not worth working out at a look that wants nothing."""
        snapshot = situation.snapshot
        return situation._replace(need=self.needs.fresh(snapshot), room=self.room(snapshot))

    def _size(self, decision: Decision, snapshot: Snapshot) -> tuple[int, str]:
        """What is held before, and by which measure: by the worker of a recycle, else by all."""
        worker = _worker(snapshot, decision.target) if decision.action == "recycle" else None
        if snapshot.kind == "plain" and snapshot.workers:
            worker = snapshot.workers[0]
        if worker is None:
            return _anonymous(snapshot), ANONYMOUS
        if decision.verdict and decision.verdict.kind == FD_GROWTH:
            return worker.fds or 0, FILES
        if not detectors.settled(self.options, worker, snapshot.at):
            return _anonymous_of(worker), ANONYMOUS
        return detectors.measure(self.options, worker, snapshot.at)

    def _size_now(self, procedure: procedures.Procedure, snapshot: Snapshot) -> int | None:
        """The same, of what has come instead, by the same measure; None while it is not known."""
        if procedure.action == "recycle":
            worker = _worker(snapshot, procedures.newcomer(procedure, snapshot))
        elif snapshot.kind == "plain":
            worker = snapshot.workers[0] if snapshot.workers else None
        else:
            return _anonymous(snapshot) if snapshot.workers else None
        return self._size_by(procedure.measure, worker, snapshot.at)

    def _second_size(self, procedure: procedures.Procedure, snapshot: Snapshot) -> int | None:
        """Of the second worker that a surge takes: what it holds; once it was asked, what came
        instead."""
        if procedure.also is None:
            return None
        id = oldest(snapshot)
        if procedure.step in ("removing", "settling"):
            id = next(iter(procedures.newcomers(procedure, snapshot)[1:]), None)
        return self._size_by(procedure.measure, _worker(snapshot, id), snapshot.at)

    def _size_by(self, measure: str, worker: Worker | None, at: float) -> int | None:
        if worker is None:
            return None
        if measure == FILES:
            return worker.fds
        if measure == ANONYMOUS:
            return _anonymous_of(worker)
        if measure == "RSS":
            return worker.rss + (worker.swap or 0)
        size, name = detectors.measure(self.options, worker, at)
        return size if name == measure else None

    def _who(self, id: WorkerId | None, snapshot: Snapshot) -> str:
        if id is None or snapshot.kind == "plain":
            return "program"
        if snapshot.master is not None and snapshot.master.id == id:
            return f"master {id.pid}"
        return f"worker {id.pid}"

    def _entry(
        self,
        at: float,
        kind: str,
        text: str,
        data: dict[str, Any] | None = None,
        level: str = "INFO",
    ) -> Entry:
        return Entry(at, self.namespec, kind, text, data or {}, level)

    def _news(
        self,
        what: str,
        at: float,
        summary: str,
        target: WorkerId | None = None,
        subject: tuple[Worker | None, tuple[Verdict, ...]] | None = None,
        action: str | None = None,
        outcome: str | None = None,
        freed: int | None = None,
        advice: tuple[str, ...] = (),
        also: WorkerId | None = None,
    ) -> News:
        worker, told = subject or (_worker(self._last, target), ())
        series = self.past.points(target) if target is not None else ()
        figures = self._figures(worker) if worker is not None else {}
        return News(
            what,
            at,
            self.namespec,
            summary,
            worker,
            told,
            action,
            outcome,
            freed,
            series,
            figures,
            advice,
            also,
        )

    def _figures(self, worker: Worker) -> dict[str, Any]:
        """What is told of a worker beside its numbers, in the words of `status --json`."""
        snapshot, options = self._last, self.options
        if snapshot is None:
            return {}
        trend = trends.trend(self.past, worker.id)
        of_workers = snapshot.master is None or worker.id != snapshot.master.id
        return {
            "limit": options.limit.of(snapshot.available) if options.limit and of_workers else None,
            "headroom": detectors.headroom(options, snapshot, worker),
            "trend": None if trend is None else trend._asdict(),
            "hours_to_limit": trends.hours_to_limit(options, snapshot, worker, trend),
        }

    # -- through the journal -----------------------------------------------------------

    def view(self, verdicts: policy.Verdicts) -> dict[str, Any]:
        """What `status` shows beside the snapshot itself; written at every tick, so kept short."""
        budget, procedure = self.options.budget, self.procedure
        judged = self.workers() if self.options.growth != "off" else ()
        return {
            "mode": self.options.mode,
            "early": [[w.id, early] for w in judged if (early := trends.early(self.past, w.id))],
            "trends": [
                [id, trend]
                for id in trends.moving(self.past)
                if (trend := trends.trend(self.past, id))
            ],
            "verdicts": [[id, opinions] for id, opinions in verdicts.items() if opinions],
            "held": [[held.code, held.text, held.until] for held in self.held],
            "action": procedures.summary(procedure) if procedure is not None else None,
            "last_action": self.last_action,
            "budget": [len(self.actions), budget.count, budget.period],
            "paused_until": self.paused_until,
            "advice": self.advice,
        }

    def dump(self) -> dict[str, Any]:
        """Everything a later `load` needs to give the same verdicts and plans; JSON-able."""
        return {
            "past": self.past.dump(),
            "ceilings": None if self.past.anew else self._ceilings(),  # nothing is of these yet
            "paused_until": self.paused_until,
            "rungs": self.rungs,
            "climbed": self.climbed,
            "actions": self.actions,
            "ended": self.ended,
            "last_action": self.last_action,
            "leaving": [[*id, asked] for id, asked in self.leaving.items()],
            "expected": self.expected,
            "count": self._count,
            "told": [[list(id) if id else None, kind, at] for (id, kind), at in self._told.items()],
            "said": self._said,
            "other_at": self._other_at,
            "needs": self.needs.dump(),
            "ledger": self.ledger.dump(),
            "witness": self.witness.dump(),
            "releases": self.releases.dump(),
            "ran": self._ran,
            "gist": self._gist and [self._gist[0], list(self._gist[1])],
        }

    def _ceilings(self) -> list[Any]:
        """What verdicts are measured against, as JSON gives it back."""
        ceilings = (self.options.limit, self.options.total_limit)
        return [each and [each.bytes, each.share] for each in ceilings]

    def load(self, data: dict[str, Any], back: float = 0.0) -> None:
        """Restore what `dump` gave. Raises KeyError, TypeError, ValueError on anything else.

        `back`: seconds by which the clock was set back since; all times go back with it.
        """
        past = detectors.Past.load(data["past"])
        leaving = {WorkerId(pid, start): asked - back for pid, start, asked in data["leaving"]}
        told = {(WorkerId(*id) if id else None, kind): at - back for id, kind, at in data["told"]}
        count, since = data["count"]

        def time(name: str) -> float | None:
            return None if data[name] is None else data[name] - back

        self.paused_until, self.climbed = time("paused_until"), time("climbed")
        self.ended, self._other_at = time("ended"), time("other_at")
        self.actions = [at - back for at in data["actions"]]
        self._said = {key: at - back for key, at in data["said"].items()}
        self.past, self.leaving, self._told = past, leaving, told
        self.past.anew = data.get("ceilings") != self._ceilings()
        self._count = (count, since - back)
        self.rungs = dict(data["rungs"])
        self.last_action = data["last_action"]
        self.expected = data["expected"]
        if "needs" in data:  # as of the first version that has them
            self.needs = Needs.load(data["needs"])
            self.ledger.load(data["ledger"], back)
            self.witness.load(data["witness"], back)
        if "releases" in data:
            self.releases = releases.Releases.load(data["releases"], back)
            self._ran = int(data["ran"])
            gist = data["gist"]
            self._gist = gist and (gist[0] - back, advice.Gist(tuple(gist[1][0]), *gist[1][1:]))

    def resume(self, procedure: procedures.Procedure, at: float) -> None:
        """Go on with a procedure that another listener began."""
        self.procedure = procedures.resume(procedure, at)
        asked = self.procedure.step in ("leaving", "killed")
        if self.procedure.action == "recycle" and self.procedure.target is not None and asked:
            self.leaving[self.procedure.target] = self.procedure.begun


def as_well(plan: Decision | procedures.Procedure | None) -> str:
    """How it is done, in brackets, where one more worker leaves than was asked for."""
    return f" ({plan.way}: {plan.reason})" if plan is not None and plan.also is not None else ""


def _pid(id: WorkerId | None) -> int | None:
    return id.pid if id is not None else None


def _said_as(decision: Decision, kind: str, reason: Held) -> str:
    """Refusals that are said as this one are not said again."""
    if reason.code == "storm":  # of the program, whoever is its next victim
        return reason.code
    if reason.code == "preflight":  # so too, and another error is another story
        return units.without_numbers(reason.text)
    return f"{decision.target} {kind} {reason.code}"


def _moved_on(before: procedures.Procedure | None, after: procedures.Procedure | None) -> bool:
    """Whether there is something to write down; what a quiet moment is measured by is not."""
    if before is None or after is None:
        return before is not after
    return replace(after, heard=before.heard, fewest=before.fewest) != before


def _said_of(verdicts: advice.Verdicts) -> frozenset[Key]:
    """What advice is about: whatever is told, and growth that is over."""
    return frozenset(
        (id, verdict.kind)
        for id, found in verdicts.items()
        for verdict in found
        if verdict.told or verdict.kind in (PLATEAU, SPIKE)
    )


def _anonymous(snapshot: Snapshot) -> int:
    """The anonymous memory of all. Cheap, and of the same kind before and after an action;
    what workers share with a preloading master counts more than once in both."""
    everyone = (*snapshot.workers, *([snapshot.master] if snapshot.master else []))
    return sum(map(_anonymous_of, everyone))


def _anonymous_of(worker: Worker) -> int:
    return (worker.rss if worker.anon is None else worker.anon) + (worker.swap or 0)


def _worker(snapshot: Snapshot | None, id: WorkerId | None) -> Worker | None:
    if snapshot is None or id is None:
        return None
    if snapshot.master is not None and snapshot.master.id == id:
        return snapshot.master
    return next((worker for worker in snapshot.workers if worker.id == id), None)
