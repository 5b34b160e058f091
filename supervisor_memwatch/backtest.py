"""Back-testing: what these options would have done over a recording.

The policy's own guards decide which actions would have begun. What cannot be known from a recording
is not held against an action: whether a new worker would have booted, whether there was room, what
Supervisor said. Each recorded worker is recycled once at most: then its replacement would have been
seen, and the recording goes on with the worker as it was. That is the point from which history
would have gone another way; what follows of that worker serves one purpose, to tell whether the
action was needed:

- *needed*: it went on to reach what it may hold, or grew on for as long as it had grown until then
- *needless*: its growth ended by itself, far below what it may hold, while it worked on
- *cannot be told*: its recording ends too early, or it did too little work afterwards

Not here: the verdicts (detectors.py), the format (recording.py). No clock: time is `Snapshot.at`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from . import detectors, growth, policy, trends, units
from .model import (
    LEAK,
    LIMIT,
    MASTER_GROWTH,
    TOTAL_LIMIT,
    Decision,
    Snapshot,
    Verdict,
    Worker,
    WorkerId,
)
from .options import Options
from .past import Past
from .trends import Growing

NEEDED, NEEDLESS, UNTOLD = "needed", "needless", "cannot be told"

# Refusals for which a recording has no evidence, one way or the other.
UNKNOWABLE = frozenset({"no_master", "no_room", "evidence"})
# Ends of workers within so many seconds are one action of somebody's; STEADY is how long the number
# of workers stands until it is the program's normal one.
ONE_ACTION = STEADY = 60.0
FAR = 0.75  # of what it may hold: growth that ended by itself below this was no danger
FLAT = 0.25  # of the growth that its pace, or its work, would have brought: less has ended
GONE = 60.0  # seconds after which an id that is not seen has ended
MANY = 40  # lines of what happened
WINDOW = 10  # times `confirm`: what a verdict takes, and what it takes to see it pass

Verdicts = Mapping[WorkerId | None, tuple[Verdict, ...]]
Key = tuple[WorkerId | None, str]


class Told(NamedTuple):
    """A verdict that was told, when it began to be."""

    at: float
    about: WorkerId | None
    kind: str
    confidence: float
    why: str


class Point(NamedTuple):
    """The least a worker held in a while, and its work by then."""

    at: float
    low: float
    work: float | None


@dataclass
class Action:
    """One that would have begun, and what the recording shows of its worker afterwards."""

    at: float
    action: str
    about: WorkerId | None
    target: WorkerId | None
    kind: str
    why: str
    fresh: float  # the least that any worker of the program had held by then (bytes)
    growing: Growing | None
    ceiling: int | None
    after: list[Point] = field(default_factory=list)
    stands: bool = True  # the verdict, at the last look at it
    end: float = 0.0  # of its recording
    highest: int = 0  # bytes it held afterwards, and when it first held what it may
    reached: float | None = None
    shortest: float = 1.0  # seconds from one action to the next
    window: float = 0.0  # seconds that a verdict takes


class Judged(NamedTuple):
    """Whether an action was needed, and why one thinks so."""

    outcome: str
    text: str
    more: int  # further ones that its replacements would have needed, had they grown as it did


class Backtest:
    """Follows a recording look by look; `result` says what would have been done.

    `plain_restart`: the program's own section names `restart` (see policy.Situation).
    """

    def __init__(self, plain_restart: bool = False) -> None:
        self.plain_restart = plain_restart
        self.namespec = "?"
        self.options = Options()
        self.mode = self.options.mode  # as configured; what is tested is `act`
        self.first: float | None = None
        self.last = 0.0
        self.ticks = 0
        self.seen: dict[WorkerId, float] = {}  # every worker and master, and when it was seen last
        self.told: list[Told] = []
        self.actions: list[Action] = []
        self.held: dict[tuple[WorkerId | None, str, str], tuple[float, str]] = {}
        self.reached: dict[WorkerId, tuple[float, int]] = {}  # when it first held what it may hold
        self.masters: set[WorkerId] = set()
        self.blind = False  # the program's total was judged on after an action
        self.clock = False  # the hour of the day is recorded
        self.remarks: list[str] = []  # about the options, by whoever chose them
        self._begun: list[float] = []  # actions, ours and others'
        self._ended: float | None = None
        self._other: float | None = None
        self._gone: set[WorkerId] = set()
        self._standing: set[Key] = set()
        self._fresh = float("inf")
        self._expected = 0
        self._count = (0, 0.0)
        self._present: set[WorkerId] = set()
        self._end: tuple[Snapshot, Past] | None = None  # the last look

    def look(self, options: Options, snapshot: Snapshot, verdicts: Verdicts, past: Past) -> None:
        """One tick, after the detectors have seen it."""
        at = snapshot.at
        if self.first is None:
            self.namespec, self.mode = snapshot.namespec, options.mode
            self.options = replace(options, mode="act")
        self.first = at if self.first is None else self.first
        self.last = max(self.last, at) if self.ticks else at
        self.ticks += 1
        self._end = (snapshot, past)
        self._note(snapshot)
        self._note_told(at, verdicts)
        self._follow(snapshot, verdicts)
        known = {who: found for who, found in verdicts.items() if who not in self._gone}
        if self.actions and None in known:
            self.blind |= any(verdict.act for verdict in known.pop(None))
        if any(verdict.act for found in known.values() for verdict in found):
            self._act(snapshot, known, past)

    def result(self) -> dict[str, Any]:
        """What is known in the end, as JSON-able values. Times are the recording's."""
        judged = [(action, judge(action)) for action in self.actions]
        outcomes = [found.outcome for _, found in judged]
        reached = [self._reached(*entry) for entry in self.reached.items()]
        leads = [r["told_before"] for r in reached if r["told_before"] is not None]
        return {
            "namespec": self.namespec,
            "from": self.first,
            "to": self.last if self.ticks else None,
            "span": self.last - self.first if self.first is not None else 0.0,
            "mode": self.mode,
            "ticks": self.ticks,
            "processes": len(self.seen),
            "told": [{**told._asdict(), "about": self._who(told.about)} for told in self.told],
            "actions": [
                {
                    "at": action.at,
                    "action": action.action,
                    "target": self._who(action.target),
                    "about": self._who(action.about),
                    "kind": action.kind,
                    "why": action.why,
                    "outcome": found.outcome,
                    "text": found.text,
                }
                for action, found in judged
            ],
            "needed": outcomes.count(NEEDED),
            "needless": outcomes.count(NEEDLESS),
            "cannot_be_told": outcomes.count(UNTOLD),
            "more": sum(found.more for _, found in judged),
            "another_way_from": self.actions[0].at if self.actions else None,
            "held": [
                {"at": at, "about": self._who(who), "kind": kind, "code": code, "text": text}
                for (who, kind, code), (at, text) in self.held.items()
            ],
            "reached": reached,
            "earliest_warning": max(leads, default=None),
            "latest_warning": min(leads, default=None),
            "unwarned": sum(entry["told_before"] is None for entry in reached),
            "too_short": self._too_short(),
            "notes": self._notes(),
        }

    def _too_short(self) -> dict[str, float] | None:
        """How long the workers were watched past their warm-up, and how long it takes until growth
        that is not fast is told: where nothing was, and none of them was watched for so long."""
        if self.told or self._end is None or self.options.growth == "off":
            return None
        snapshot, past = self._end
        found = [_early(past, worker.id) for worker in snapshot.workers]
        early = [each for each in found if each is not None]
        if not early or len(early) < len(found):
            return None
        return {
            "watched": max(each.watched for each in early),
            "warmup": self.options.warmup,
            "needed": max(each.needed for each in early),
        }

    # -- what is noted at each look

    def _note(self, snapshot: Snapshot) -> None:
        """Who came and went; how many workers there are; who holds what it may."""
        at = snapshot.at
        workers = snapshot.workers
        everyone = (*workers, *([snapshot.master] if snapshot.master else []))
        self.clock = snapshot.clock is not None
        for worker in everyone:
            self.seen[worker.id] = at
        if snapshot.master is not None:
            self.masters.add(snapshot.master.id)
        for worker in workers:
            self._fresh = min(self._fresh, _size(worker))
        left = {id for id in self._present if self.seen[id] < at - GONE}
        self._present = (self._present | {worker.id for worker in everyone}) - left
        if left - self._gone:  # a deploy, max_requests, a kill, or the listener that was there
            if self._other is None or at - self._other > ONE_ACTION:
                self._begun.append(at)
            self._other = at
        if len(workers) != self._count[0]:
            self._count = (len(workers), at)
        if len(workers) > self._expected or at - self._count[1] >= STEADY:
            self._expected = len(workers)
        ceiling = detectors.ceiling_of(self.options, snapshot)
        for worker in workers if ceiling else ():
            size = detectors.measure(self.options, worker, at)[0]
            if ceiling and size >= ceiling and worker.id not in self.reached:
                self.reached[worker.id] = (at, ceiling)

    def _note_told(self, at: float, verdicts: Verdicts) -> None:
        standing: set[Key] = set()
        for who, found in verdicts.items():
            for verdict in found:
                if verdict.told and who not in self._gone:
                    standing.add((who, verdict.kind))
                    if (who, verdict.kind) not in self._standing:
                        told = Told(at, who, verdict.kind, verdict.confidence, verdict.why)
                        self.told.append(told)
        self._standing = standing

    def _follow(self, snapshot: Snapshot, verdicts: Verdicts) -> None:
        """What becomes of those that would have been recycled."""
        for action in self.actions:
            worker = _find(snapshot, action.about)
            if worker is None:
                continue
            action.end = snapshot.at
            found = verdicts.get(worker.id, ())
            action.stands = any(v.told and v.kind == action.kind for v in found)
            size = detectors.measure(self.options, worker, snapshot.at)[0]
            action.highest = max(action.highest, size)
            if action.ceiling is not None and size >= action.ceiling and action.reached is None:
                action.reached = snapshot.at
            unit = None if action.growing is None else action.growing.unit
            point = Point(snapshot.at, _size(worker), _work(worker, unit))
            last = action.after[-1] if action.after else None
            if last is None or snapshot.at - last.at >= self.options.confirm:
                action.after.append(point)
            elif point.low < last.low:
                action.after[-1] = last._replace(low=point.low)

    # -- what would have been done

    def _act(self, snapshot: Snapshot, verdicts: Verdicts, past: Past) -> None:
        """Begin the first action that nothing forbids; note what is refused before it."""
        situation = policy.Situation(
            self.options,
            snapshot,
            plain_restart=self.plain_restart,
            expected=self._expected,
            actions=tuple(self._begun),
            ended=self._ended,
        )
        hours = {}
        for worker in snapshot.workers:
            speed = trends.trend(past, worker.id)
            left = trends.hours_to_limit(self.options, snapshot, worker, speed)
            if left is not None:
                hours[worker.id] = left
        for decision in policy.wanted(verdicts, situation, hours):
            if decision.target in self._gone:
                continue  # the largest of the program: its replacement would be another's size
            held = [
                reason
                for reason in policy.objections(decision, situation)
                if reason.code not in UNKNOWABLE
            ]
            if not held:
                self._begin(decision, snapshot, past)
                return
            kind = decision.verdict.kind if decision.verdict else ""
            for reason in held:
                key = (decision.about, kind, reason.code)
                self.held.setdefault(key, (snapshot.at, reason.text))

    def _begin(self, decision: Decision, snapshot: Snapshot, past: Past) -> None:
        verdict = decision.verdict
        assert verdict is not None  # nobody asks for anything in a recording
        worker = _find(snapshot, decision.about)
        growing = None
        if worker is not None and verdict.kind in (LEAK, MASTER_GROWTH):
            growing = trends.growing(self.options, snapshot, past, worker)
        action = Action(
            snapshot.at,
            decision.action,
            decision.about,
            decision.target,
            verdict.kind,
            verdict.why,
            self._fresh,
            growing,
            detectors.ceiling_of(self.options, snapshot, worker),
            end=snapshot.at,
            shortest=max(self.options.cooldown, 1.0),
            window=WINDOW * self.options.confirm,
        )
        self.actions.append(action)
        self._begun.append(snapshot.at)
        self._ended = snapshot.at
        if decision.action == "recycle" and decision.target is not None:
            self._gone.add(decision.target)
        else:
            self._gone |= {worker.id for worker in snapshot.workers}
            if decision.action == "restart" and snapshot.master is not None:
                self._gone.add(snapshot.master.id)

    # -- what is said in the end

    def _who(self, id: WorkerId | None) -> str:
        if id is None:
            return "program"
        return f"master {id.pid}" if id in self.masters else f"worker {id.pid}"

    def _reached(self, id: WorkerId, when: tuple[float, int]) -> dict[str, Any]:
        """A worker that held what it may: how long before that it was told, and acted on."""
        at, ceiling = when
        told = [t.at for t in self.told if t.about == id and t.kind != LIMIT and t.at < at]
        acted = [a.at for a in self.actions if id in (a.about, a.target) and a.at < at]
        return {
            "about": self._who(id),
            "at": at,
            "ceiling": ceiling,
            "told_before": at - told[0] if told else None,
            "acted_before": at - acted[0] if acted else None,
        }

    def _notes(self) -> list[str]:
        notes = list(self.remarks)
        if self.options.window is not None and not self.clock:
            notes.append("the hour of the day is not recorded: `window` was not applied")
        if self.options.preflight != "off" and self.actions:
            notes.append("each new worker was taken to boot")
        if self.blind:
            notes.append(
                "total_limit was not judged after the first action: what it gave back is not known"
            )
        return notes


def judge(action: Action) -> Judged:
    """Was it needed? By what the recording shows of its worker afterwards."""
    if action.kind in (LIMIT, TOTAL_LIMIT):
        return Judged(NEEDED, "it held what it may hold", 0)
    if not action.after or action.about is None:
        return Judged(UNTOLD, "its recording ends here", 0)
    if action.growing is None:
        return _judge_other(action)
    return _judge_growth(action, action.growing)


def _judge_growth(action: Action, growing: Growing) -> Judged:
    after, ceiling = action.after, action.ceiling
    watched = action.end - action.at
    start, end = after[0], _tail(after)
    grown = end.low - start.low
    more = _more(action, growing, end.low)
    if action.reached is not None:
        text = f"it reached {units.size(ceiling)} {units.time(action.reached - action.at)} later"
        return Judged(NEEDED, text, more)
    lived = f"in the {units.time(watched)} recorded of it afterwards"
    if watched < growing.span:
        return Judged(UNTOLD, f"{units.signed_size(grown)} {lived}: too short to tell", 0)
    middle = _tail(after[: len(after) // 2 + 1])
    expected = _expected(growing, middle, end)
    if expected is None:
        return Judged(UNTOLD, f"it did little work {lived}", 0)
    if end.low - middle.low >= FLAT * expected:
        return Judged(NEEDED, f"it grew on: {units.signed_size(grown)} {lived}", more)
    ended = f"its growth ended by itself at {units.size(end.low)}"
    if ceiling is None:
        return Judged(NEEDLESS, ended, 0)
    if action.highest >= FAR * ceiling:
        return Judged(NEEDED, f"{ended}, near the {units.size(ceiling)} it may hold", more)
    return Judged(NEEDLESS, f"{ended}, of {units.size(ceiling)} it may hold", 0)


def _judge_other(action: Action) -> Judged:
    """Imbalance and open files: does the verdict stand to the end of what is recorded?"""
    watched = action.end - action.at
    if watched < action.window:
        return Judged(UNTOLD, f"only {units.time(watched)} are recorded of it afterwards", 0)
    if action.stands:
        return Judged(NEEDED, f"it stood for the {units.time(watched)} that are recorded", 0)
    return Judged(NEEDLESS, f"it passed by itself, within {units.time(watched)}", 0)


def _expected(growing: Growing, since: Point, until: Point) -> float | None:
    """What the growth would have brought from one point to another; None: it did too little work
    for that to say anything."""
    pace = (growing.last - growing.first) / growing.span if growing.span > 0 else 0.0
    expected = pace * (until.at - since.at)
    if not growing.per_work or since.work is None or until.work is None:
        return expected
    by_work = growing.per_work * (until.work - since.work)
    return None if by_work < FLAT * expected else min(expected, by_work)


def _more(action: Action, growing: Growing, last: float) -> int:
    """How often what it went on to grow would have been recycled away again."""
    bought = growing.last - action.fresh
    if bought <= 0 or last <= growing.last:
        return 0
    return int(min((last - growing.last) / bought, (action.end - action.at) / action.shortest))


def _tail(points: list[Point]) -> Point:
    """The lowest of the last tenth of them, as of the last one."""
    tail = points[-max(1, len(points) // 10) :]
    return points[-1]._replace(low=min(point.low for point in tail))


def _size(worker: Worker) -> float:
    """What growth is judged on, as far as it is recorded."""
    swap = worker.swap or 0
    if worker.anon is not None:
        return worker.anon + swap
    if worker.shared is not None:
        return worker.rss - worker.shared + swap
    return min(worker.rss, worker.uss or worker.rss) + swap


def _work(worker: Worker, unit: str | None) -> float | None:
    return worker.requests if unit == "request" else worker.cpu


def _early(past: Past, id: WorkerId) -> trends.Early | None:
    """Whether a worker was watched for too short a time, its warm-up being none."""
    life = past.lives.get(id)
    if life is None or not life.warm:
        width = 0.0 if life is None else life.series.width
        return trends.Early(0.0, (growth.WINDOWS[0] + 1) * width)
    return trends.early(past, id)


def _find(snapshot: Snapshot, id: WorkerId | None) -> Worker | None:
    if snapshot.master is not None and snapshot.master.id == id:
        return snapshot.master
    return next((worker for worker in snapshot.workers if worker.id == id), None)


# -- words


def words(result: Mapping[str, Any]) -> Iterable[str]:
    """The summary as people read it; the last line is the answer."""
    span = units.time(result["span"])
    name = units.printable(result["namespec"])
    count = result["processes"]
    yield (
        f"{name}: {span} recorded, {result['ticks']} ticks, {count} process{'es' * (count != 1)}"
    )
    if result["mode"] == "observe":
        yield "mode = observe: nothing would have been touched; with mode = act:"
    events = sorted(_events(result), key=lambda event: event[0])
    for at, text in events[:MANY]:
        yield f"  after {units.time(at - result['from'])}: {units.printable(text, 1000)}"
    if len(events) > MANY:
        yield f"  and {len(events) - MANY} lines like these: --summary --json has them all"
    for note in result["notes"]:
        yield f"  {note}"
    if result["another_way_from"] is not None:
        yield (
            f"  from {units.time(result['another_way_from'] - result['from'])} on history would "
            "have gone another way: what replaces a recycled worker is not in the recording"
        )
    yield _answer(result, span)


def _events(result: Mapping[str, Any]) -> Iterable[tuple[float, str]]:
    """What happened when, as a sentence each. What led to an action at once is said with it."""
    acted = {(action["at"], action["about"], action["kind"]) for action in result["actions"]}
    for told in result["told"]:
        if (told["at"], told["about"], told["kind"]) not in acted:
            yield told["at"], f"{told['about']}: told {told['kind']}: {told['why']}"
    for action in result["actions"]:
        text = f"{action['action']} for {action['kind']}: {action['why']}"
        yield action["at"], f"{action['target']}: {text}; {action['outcome']}: {action['text']}"
    for held in result["held"]:
        yield held["at"], f"{held['about']}: {held['kind']} held: {held['text']}"
    for reached in result["reached"]:
        yield reached["at"], _reached_words(reached)


def _reached_words(reached: Mapping[str, Any]) -> str:
    text = f"{reached['about']} held the {units.size(reached['ceiling'])} it may hold"
    if reached["told_before"] is None:
        return text + ": not told before"
    text += f": told {units.time(reached['told_before'])} before"
    if reached["acted_before"] is None:
        return text
    return (
        f"as recorded, {text}; would have been recycled {units.time(reached['acted_before'])} "
        "before"
    )


def _answer(result: Mapping[str, Any], span: str) -> str:
    counts = {
        name: sum(action["action"] == name for action in result["actions"])
        for name in ("recycle", "reload", "restart")
    }
    done = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    told = len(result["told"])
    text = f"with these options: {told} told, {', '.join(done) or '0 recycles'} in {span}"
    if result["more"]:
        more = result["more"]
        text += f" (and about {more} more, had the replacements grown as the recorded workers did)"
    if result["actions"]:
        text += f", {result['needless']} of them needless"
    if result["cannot_be_told"]:
        text += f", of {result['cannot_be_told']} it cannot be told"
    if result["earliest_warning"] is not None:
        text += f", earliest warning {units.time(result['earliest_warning'])} before the limit"
        if result["latest_warning"] != result["earliest_warning"]:
            text += f", latest {units.time(result['latest_warning'])}"
    if result["unwarned"]:
        text += f", {result['unwarned']} reached it without a warning"
    short = result["too_short"]
    if short is not None:
        text += (
            f"; too short to tell a leak: watched for {units.time(short['watched'])} past the "
            f"warm-up of {units.time(short['warmup'])}, it takes {units.time(short['needed'])}, "
            "less where growth is fast"
        )
    return text
