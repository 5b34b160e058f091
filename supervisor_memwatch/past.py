"""Everything remembered about one program, bounded: what the detectors look back on.

Per process a life: its memory (one number, chosen once, never mixed), its open files, its
work. Per program: the verdicts that stand, what was learned. Forgets ids that are gone for
good. All of it can be dumped as JSON-able values and loaded again, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .growth import Stretch
from .learning import Learned
from .model import LEAK, Snapshot, Verdict, Worker, WorkerId
from .options import Options
from .series import UNKNOWN, Series

# What growth is judged on, best first. A life that cannot have one begins anew with the next.
ANON, PRIVATE, BOTH = range(3)
SIGNALS = ("anonymous memory", "private memory (RSS - shared)", "USS and RSS")

VERSION = 2  # of what `dump` gives
GONE = 60.0  # seconds after which an id that was not seen is gone (at least three ticks)
RUSH = 24  # samples
PLENTY = 2.0  # times that all workers could be recycled before the limit
SAMPLES = 2  # in the finest bucket, at the least: one alone is no lower envelope
UNSEEN = 15.0  # seconds without a look that are a break (and three times the usual pause)

Subject = WorkerId | None  # None: the program itself


class Opinion(NamedTuple):
    """What a detector thinks of one subject now; see model.Verdict for the fields."""

    measured: float
    bound: float | None
    confidence: float
    why: str
    material: bool = True
    stretch: Stretch | None = None  # the growth it is about, which its detector follows
    headroom: float | None = None  # bytes there were for it when it began
    since: float | None = None  # Past.now's clock; None: since it is known
    excused: bool = False  # something explains it: shown, never told
    spare: float = 0.0  # the time to its limit, in those in which all workers could be recycled

    @property
    def eaten(self) -> float:
        """Of the headroom, the share."""
        return self.measured / self.headroom if self.headroom else 0.0


@dataclass(slots=True)
class Standing:
    """An opinion that holds, since when (Past.now's clock), and what has come of it."""

    since: float
    opinion: Opinion
    told: bool = False
    act: bool = False
    gone: float = -1.0  # its subject was to be acted on, was seen then and not at the next look
    # The verdict, until something of it changes.
    said: Verdict | None = field(default=None, compare=False, repr=False)


class Life:
    """One process, from the first sight of its id to its end."""

    __slots__ = (
        "base",
        "closed",
        "counts",
        "files",
        "first",
        "offset",
        "peak",
        "rush",
        "rush_from",
        "second",
        "seen",
        "series",
        "signal",
        "swap",
        "warm",
    )

    def __init__(self, now: float, width: float) -> None:
        self.first = now
        self.seen = now
        self.warm = False  # past its warm-up: nothing before is kept
        self.signal = ANON
        self.swap = 0  # read rarely, so the last one known
        self.series = Series(width)
        self.second: Series | None = None  # USS, where growth must show in both USS and RSS
        self.offset = 0  # RSS beyond it at first
        self.files = UNKNOWN  # open ones, as last counted
        self.closed = 0  # levels of `series` that got a bucket by the last sample
        self.base: float | None = None  # what it held in its first bucket
        self.counts: bool | None = None  # its work is counted in requests; else in CPU seconds
        # Samples above `rush_from`, the latest RUSH of them: growth too fast for buckets.
        self.rush_from = float("inf")
        self.rush: list[tuple[float, float]] = []
        self.peak = 0.0  # the highest sample of the rushes that came back

    def remember(self, now: float, worker: Worker, width: float) -> None:
        """Add a sample; `closed` then says how many levels got a bucket by it."""
        if worker.swap is not None:
            self.swap = worker.swap
        if worker.fds is not None:
            self.files = worker.fds
        anon = worker.anon
        signal = self.signal
        if signal == ANON and anon is not None:  # the quiet tick is this and a comparison
            value = anon + self.swap
        elif signal == PRIVATE and worker.shared is not None:
            value = worker.rss - worker.shared + self.swap
        else:
            value = self._other(now, worker, width)
        series = self.series
        if value > self.rush_from and (self.second is None or self._both(worker) > self.rush_from):
            self.rush.append((now, value))
            if len(self.rush) > RUSH:
                del self.rush[0]
        elif self.rush:
            self.peak = max(self.peak, max(value for _, value in self.rush))  # it came back
            self.rush = []
        if now < series.closes:
            if value < series.low:
                series.low = value
            self.closed = 0
            return
        work = self.work(worker)
        series.width = width  # the pace of ticks is known from the second one on
        self.closed = series.turn(now, value, work, self.files)
        if self.base is None and self.closed:
            self.base = series.levels[0].lows[0]

    def _begin_anew(self, signal: int, width: float) -> None:
        """Another signal: nothing of the one before can be compared with it."""
        self.signal = signal
        self.series = Series(width)
        self.base, self.rush_from, self.rush, self.peak = None, float("inf"), [], 0.0

    def _other(self, now: float, worker: Worker, width: float) -> int:
        """The sample, where anonymous memory is not known all through this life."""
        if self.signal == ANON:
            self._begin_anew(PRIVATE, width)
        if self.signal == PRIVATE:
            if worker.shared is not None:
                return worker.rss - worker.shared + self.swap
            self._begin_anew(BOTH, width)
        if worker.uss is not None:
            if self.second is None:
                self.second = Series(width)
                self.offset = worker.rss - worker.uss
            self.second.width = width
            self.second.append(now, worker.uss + self.swap, self.work(worker))
        return worker.rss + self.swap

    def _both(self, worker: Worker) -> float:
        """RSS, or less where USS has grown by less since it was first known."""
        if worker.uss is None:
            return 0.0
        return worker.uss + self.offset + self.swap

    def work(self, worker: Worker) -> float:
        """What it has done so far, in one unit all through its life."""
        if self.counts is None and (worker.requests is not None or worker.cpu is not None):
            self.counts = worker.requests is not None
        work = worker.requests if self.counts else worker.cpu
        return work if work is not None else self.series.work  # as far as is known

    def buckets(self) -> int:
        """How many finest buckets are kept."""
        count = len(self.series.levels[0].lows) if self.series.levels else 0
        if self.second is None or not count:
            return count
        return min(count, len(self.second.levels[0].lows) if self.second.levels else 0)

    def latest(self) -> float:
        """What it held in its last finest bucket, of which there is one; of RSS and USS the
        smaller."""
        low = self.series.levels[0].lows[-1]
        return low if self.second is None else min(low, self.second.levels[0].lows[-1])

    def known(self) -> tuple[float, float]:
        """Up to when its growth is known, and what it held then: the bucket since is still open."""
        if self.rush:
            return self.rush[-1]
        finest = self.series.levels[0]
        return finest.ats[-1], finest.lows[-1]

    def recent(self) -> Sequence[float]:
        """What it held in its last finest buckets; of RSS and USS the smaller."""
        first = self.series.levels[0].lows if self.series.levels else ()
        if self.second is None:
            return first
        second = self.second.levels[0].lows if self.second.levels else ()
        count = min(len(first), len(second))
        if not count:
            return ()
        return [min(a, b) for a, b in zip(first[-count:], second[-count:], strict=True)]

    def dump(self) -> list[Any]:
        return [
            self.first,
            self.seen,
            self.warm,
            self.signal,
            self.swap,
            self.series.dump(),
            None if self.second is None else self.second.dump(),
            self.files,
            self.base,
            self.counts,
            None if self.rush_from == float("inf") else self.rush_from,
            [list(sample) for sample in self.rush],
            self.offset,
            self.peak,
        ]

    @classmethod
    def load(cls, dumped: list[Any]) -> Life:
        first, seen, warm, signal, swap, series, second, files, *rest = dumped
        life = cls(first, 0.0)
        life.seen, life.warm, life.signal, life.swap = seen, warm, signal, swap
        life.series = Series.load(series)
        life.second = None if second is None else Series.load(second)
        life.files = files
        life.base, life.counts, rush_from, rush, life.offset, life.peak = rest
        life.rush_from = float("inf") if rush_from is None else rush_from
        life.rush = [(at, value) for at, value in rush]
        return life


Changed = tuple[list[tuple[Worker, Life]], list[tuple[Worker, Life]]]


@dataclass(slots=True)
class Past:
    """Everything remembered about one program."""

    lives: dict[WorkerId, Life] = field(default_factory=dict)
    standing: dict[tuple[Subject, str], Standing] = field(default_factory=dict)
    now: float = 0.0  # the last snapshot's time, on a clock that never goes back
    shift: float = 0.0  # that clock minus Snapshot.at: sums up the steps back
    interval: float = 0.0  # between the last two snapshots
    usual: float = 0.0  # between snapshots, as a rule
    unseen: bool = False  # nobody looked for longer than usual before this snapshot
    started: bool = False
    young: int = 0  # workers of the last snapshot that are not past their warm-up
    compared: float = float("-inf")  # when siblings were last compared
    acted: float = float("-inf")  # when a leak that could wait was last to be acted on
    learned: Learned = field(default_factory=Learned)
    anew: bool = False  # other limits than before: judge what stands by them

    def remember(self, options: Options, snapshot: Snapshot) -> Changed:
        """Add a snapshot; the lives that got a closed bucket by it, and those that may rush."""
        now = self._tick(snapshot.at)
        width = max(options.confirm, SAMPLES * self.usual)
        closed, rushing = [], []
        self.young = 0
        workers = snapshot.workers
        if snapshot.master is not None:
            workers = (*workers, snapshot.master)
        lives = self.lives
        for worker in workers:
            life = lives.get(worker.id)
            if life is None:
                life = lives[worker.id] = Life(now, width)
                life.warm = not self.started and worker.age is None
            life.seen = now
            if not life.warm:
                age = now - life.first if worker.age is None else worker.age
                if age < options.warmup:
                    self.young += 1
                    continue
                life.warm = True
                rushing.append((worker, life))  # from where on, is still to be said
            life.remember(now, worker, width)
            if life.closed:
                closed.append((worker, life))
            elif life.rush:
                rushing.append((worker, life))
        self.started = True
        if len(lives) > len(workers):
            self._forget()
        return closed, rushing

    def _tick(self, at: float) -> float:
        """A clock that was set back makes a tick of the usual length, not a life in reverse."""
        if not self.started:
            self.now = at
            return at
        if at + self.shift < self.now:
            self.shift = self.now + self.interval - at
        now = at + self.shift
        self.unseen = now - self.now > max(UNSEEN, 3 * self.interval)
        self.interval = now - self.now
        if not (self.unseen and self.usual):  # a break is not the pace of the ticks
            self.usual += (self.interval - self.usual) * (0.1 if self.usual else 1.0)
        self.now = now
        return now

    def _forget(self) -> None:
        horizon = self.now - max(GONE, 3 * self.interval)
        # What is learned of them depends on their order: the one that grew most comes first.
        acted = [
            (standing, self.lives[subject])
            for (subject, kind), standing in self.standing.items()
            if kind == LEAK and standing.act and subject in self.lives
        ]
        for standing, life in sorted(acted, key=lambda each: -each[0].opinion.eaten):
            if life.seen not in (self.now, standing.gone):
                self._left(standing, life)  # as was to be expected
        ended = [(life.seen, id) for id, life in self.lives.items() if life.seen < horizon]
        for seen, gone in sorted(ended):
            life, leak = self.lives.pop(gone), self.standing.get((gone, LEAK))
            if leak is not None and leak.told and not leak.act:
                self.learned.cut_short(leak.opinion.eaten, life.first, seen)
            for key in [key for key in self.standing if key[0] == gone]:
                del self.standing[key]

    def _left(self, leak: Standing, life: Life) -> None:
        leak.gone = life.seen
        if leak.opinion.headroom:
            # Where the next trial leaves no time for all of them, its siblings are no proof.
            plenty = leak.opinion.spare >= PLENTY
            began = self.now if plenty else life.first
            self.learned.left(leak.opinion.eaten, began, self.now)

    def forget_learned(self) -> None:
        """The code changed: what its workers used to reach says nothing any more."""
        self.learned = Learned()

    def points(self, id: WorkerId) -> tuple[tuple[float, float], ...]:
        """What is kept of one process's memory: (Snapshot.at, bytes), oldest first."""
        life = self.lives.get(id)
        if life is None:
            return ()
        return tuple((at - self.shift, low) for at, low in life.series.points())

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON-able values; `load` restores it exactly."""
        return {
            "version": VERSION,
            "clock": [self.now, self.shift, self.interval, self.started, self.usual],
            "compared": None if self.compared == float("-inf") else self.compared,
            "acted": None if self.acted == float("-inf") else self.acted,
            "learned": self.learned.dump(),
            "lives": [[*id, life.dump()] for id, life in self.lives.items()],
            "standing": [
                [subject and list(subject), kind, s.since, list(s.opinion), s.told, s.act, s.gone]
                for (subject, kind), s in self.standing.items()
            ],
        }

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Past:
        """What `dump` gave; of another version's nothing is kept, and all begins anew."""
        past = cls()
        if dumped.get("version") != VERSION:
            return past
        past.now, past.shift, past.interval, past.started, *usual = dumped["clock"]
        past.usual = usual[0] if usual else past.interval
        if dumped["compared"] is not None:
            past.compared = dumped["compared"]
        if dumped.get("acted") is not None:
            past.acted = dumped["acted"]
        if "learned" in dumped:
            past.learned = Learned.load(dumped["learned"])
        for pid, start, life in dumped["lives"]:
            past.lives[WorkerId(pid, start)] = Life.load(life)
        past.young = sum(not life.warm for life in past.lives.values())
        for subject, kind, since, opinion, *rest in dumped["standing"]:
            key = None if subject is None else WorkerId(*subject)
            said = Opinion(*opinion)
            if said.stretch is not None:
                said = said._replace(stretch=Stretch(*said.stretch))
            past.standing[key, kind] = Standing(since, said, *rest)
        return past
