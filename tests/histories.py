"""Made-up histories: curves of megabytes in, what replay says of them out; and a program under
--preload, whose exact figures are read now and then, as the sampler reads them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from supervisor_memwatch import detectors
from supervisor_memwatch.model import RUNNING, Snapshot, Verdict, Worker, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.replay import replay

MB = 1024 * 1024
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

Curve = Callable[[float], float]  # seconds since the worker's start -> MB of anonymous memory


@dataclass
class Life:
    """One worker: when it starts and ends (seconds of the recording), and its curves in MB."""

    anon: Curve
    pid: int = 101
    born: float = 0.0
    dies: float = float("inf")
    shared: Curve = lambda age: 12.0
    uss: Curve | None = None
    swap: Curve | None = None
    work: Curve = lambda age: age * 0.1
    fds: Curve = lambda age: 20.0
    noise: float = 0.3  # MB of requests in flight, above the curve, anew at each tick
    hide: tuple[str, ...] = ()  # fields the recording does not have
    start: Any = None

    def at(self, t: float, chance: random.Random) -> dict[str, Any]:
        age = t - self.born
        anon = self.anon(age) + chance.random() * self.noise
        swap = self.swap(age) if self.swap else 0.0
        rss = anon - swap + self.shared(age)
        process = {
            "pid": self.pid,
            "start": self.pid if self.start is None else self.start,
            "age": age,
            "rss": int(rss * MB),
            "shared": int(self.shared(age) * MB),
            "anon": int((anon - swap) * MB),
            "uss": int((self.uss(age) if self.uss else anon - swap) * MB),
            "pss": None,
            "swap": int(swap * MB),
            "cpu": self.work(age),
            "fds": int(self.fds(age)),
            "threads": 1,
        }
        return {key: value for key, value in process.items() if key not in self.hide}


@dataclass
class Said:
    """What replay said of a history: when each (pid, kind) was first told, first acted on."""

    told: dict[tuple[str, str], float] = field(default_factory=dict)
    act: dict[tuple[str, str], float] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def when(self, kind: str, pid: int | str = 101) -> float | None:
        return self.told.get((str(pid), kind))

    def acted(self, kind: str, pid: int | str = 101) -> float | None:
        return self.act.get((str(pid), kind))


def ticks(
    lives: Iterable[Life],
    until: float,
    tick: float = 5.0,
    seed: int = 1,
    since: float = 0.0,
    master: Life | None = None,
) -> list[dict[str, Any]]:
    """The ticks of a recording of these lives."""
    chance = random.Random(seed)
    lives = list(lives)
    recorded = []
    t = since
    while t < until:
        workers = [life.at(t, chance) for life in lives if life.born <= t < life.dies]
        arbiter = None if master is None else master.at(t, chance)
        recorded.append({"t": t, "master": arbiter, "workers": workers})
        t += tick
    return recorded


def say(recorded: Iterable[dict[str, Any]], **header: Any) -> Said:
    """What replay says of ticks; `header`: limit, total_limit, available (MB), options."""
    for name in ("limit", "total_limit", "available"):
        if name in header:
            header[name] = int(header[name] * MB)
    lines = [json.dumps({"program": {"namespec": "web:web", **header}})]
    lines += [json.dumps(tick) for tick in recorded]
    out, err = io.StringIO(), io.StringIO()
    assert replay(lines, out, err) == 0, err.getvalue()
    said = Said()
    for line in out.getvalue().splitlines():
        answer = json.loads(line)
        said.answers.append(answer)
        for name, found in (("verdicts", said.told), ("act", said.act)):
            for pid, kinds in answer[name].items():
                for kind in kinds:
                    found.setdefault((pid, kind), answer["t"])
    return said


@dataclass
class Preloaded:
    """A healthy gunicorn whose workers share the master's image, and its listener's reading.

    `image` and `own` are MB; `leaks`: MB a minute of one worker more. At each tick as many
    processes are read as `reads` says, in the order in which `wants` asks for them.
    """

    count: int = 16
    image: float = 700.0
    own: float = 2.0
    leaks: float = 0.0  # of the first worker
    enough: float = float("inf")  # MB after which it leaks no more
    reads: int = 1
    readable: bool = True
    now: float = 1e9
    readings: dict[WorkerId, float] = field(default_factory=dict)  # when it was read
    order: list[WorkerId] = field(default_factory=list)  # whom was read, one after the other
    past: detectors.Past = field(default_factory=detectors.Past)
    began: float = 1e9

    def true_total(self) -> float:
        return self.image + 12 + self.own * self.count + self.leaked(101)

    def leaked(self, pid: int) -> float:
        leaked = min(self.leaks * (self.now - self.began) / MINUTE, self.enough)
        return leaked if pid == 101 else 0.0

    def process(self, pid: int) -> Worker:
        id, anon = WorkerId(pid, pid), self.image + (0 if pid == 100 else self.own)
        anon += self.leaked(pid)
        reading = self.readings.get(id)
        pss = uss = at = None
        if reading is not None:  # carried on by what anonymous memory has changed since
            at = reading
            uss = int(((0 if pid == 100 else self.own) + self.leaked(pid)) * MB)
            pss = uss + int((self.image + 12) * MB / (self.count + 1))
        return Worker(
            id,
            1000.0 + self.now - self.began,
            int((anon + 12) * MB),
            12 * MB,
            int(anon * MB),
            pss,
            uss,
            0,
            0.0,
            measured_at=at,
            exact=self.readable,
        )

    def snapshot(self) -> Snapshot:
        workers = tuple(self.process(101 + n) for n in range(self.count))
        master = self.process(100)
        return Snapshot("web", self.now, RUNNING, 100, "gunicorn", master, workers)

    def live(self, options: Options, seconds: float) -> list[Verdict]:
        """Ticks of five seconds; every verdict that was told meanwhile."""
        told = []
        until = self.now + seconds
        while self.now < until:
            seen = self.snapshot()
            detectors.remember(options, self.past, seen)
            verdicts = detectors.examine(options, seen, self.past)
            told += [v for opinions in verdicts.values() for v in opinions if v.told]
            self.now += 5
            wanted = detectors.wants(options, seen, self.past) if self.readable else ()
            for id in wanted[: self.reads]:
                self.readings[id] = self.now
                self.order.append(id)
        return told
