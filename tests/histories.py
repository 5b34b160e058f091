"""Made-up histories: curves of megabytes in, what replay says of them out."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

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
