"""A journal of days on paper, for what is drawn from it: written by the journal's own functions.

Deterministic: the same arguments give the same rows. One worker leaks and is recycled when it
reaches the limit; the others hold about the same; there is a deploy and an OOM kill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supervisor_memwatch import journal
from supervisor_memwatch.journal import Journal
from supervisor_memwatch.model import LEAK, Decision, Entry, Snapshot, Verdict, Worker, WorkerId
from supervisor_memwatch.procedures import begin, to_json
from supervisor_memwatch.units import MB

DAY = 86400.0
LIMIT = 400 * MB
CONF = """
[supervisord]
[unix_http_server]
file = /nowhere/s.sock
[memwatch]
mode = act
limit = 400MB
journal = {journal}
"""


@dataclass
class Week:
    """One program's past, ending at `now`."""

    directory: Path
    now: float
    namespec: str = "web"
    days: float = 7.0
    workers: int = 8
    leak: float = 8 * MB / 3600  # bytes a second, of the first worker
    reason: str = "USS 410.0MB is over the limit"
    entries: list[Entry] = field(default_factory=list)
    rows: list[tuple[float, list[list[Any]]]] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.directory / "journal.sqlite"

    @property
    def conf(self) -> Path:
        return self.directory / "supervisord.conf"

    def write(self) -> Week:
        """Into a journal, and a configuration that names it."""
        self.directory.mkdir(exist_ok=True)
        self.conf.write_text(CONF.format(journal=self.journal))
        book = Journal(str(self.journal))
        statements = self._past()
        statements += [journal.entry_row(entry) for entry in self.entries]
        statements += [journal.sample_row(self.namespec, at, row) for at, row in self.rows]
        book.write(statements)
        book.close()
        return self

    def _past(self) -> list[journal.Statement]:
        begun = self.now - self.days * DAY
        pids = [1001 + number for number in range(self.workers)]
        births = [begun - 100.0] * self.workers
        statements, at, told = [], begun, False
        while at <= self.now:
            size = self._size(0, births[0], at)
            if size >= LIMIT:
                pid = max(pids) + 1
                statements.append(self._recycle(at, pids[0], pid, size))
                pids[0], births[0], told = pid, at + 10, False
            elif size > 150 * MB and not told:
                told = True
                why = "USS 150.0MB, anonymous memory +8.0MB/h for 11h"
                data = {"pid": pids[0], "verdict": LEAK}
                self._say(at, "suspected", f"worker {pids[0]}: leak: {why}", data)
            self.rows.append((at, self._row(at, pids, births)))
            at += 60 if self.now - at < DAY else 600
        middle = begun + self.days * DAY / 2
        self._say(middle, "release", "reload with changed code (app.py): a release")
        text = f"worker {pids[1]}: killed by the kernel (OOM); it held USS 70.0MB"
        data = {"pid": pids[1], "cause": "oom", "oom": True}
        self._say(middle + 3600, "seen", text, data)
        self.entries.sort(key=lambda entry: entry.at)
        snapshot = self._snapshot(self.rows[-1], births)
        statements.append(journal.latest_row(self.namespec, self.now, snapshot, self._view(told)))
        facts = {"pid": 1, "ticks": 9, "last_tick": self.now, "seen_at": self.now, "rss": 1}
        facts |= {"cpu_seconds": 1.0, "events_dropped": 0, "period": 5.0}
        return [*statements, journal.fact_row("listener", facts)]

    def _size(self, place: int, birth: float, at: float) -> int:
        wave = math.sin(at / 3000 + place) * MB + math.sin(at / 500 + 2 * place) * 300 * 1024
        grown = self.leak * (at - birth) if place == 0 else 0
        return round((62 * MB + place * MB / 2 + wave + grown) / 4096) * 4096

    def _row(self, at: float, pids: list[int], births: list[float]) -> list[list[Any]]:
        rows = [[1000, 5, 30 * MB, 20 * MB, 22 * MB, 18 * MB, 0, 1.5]]
        for place, pid in enumerate(pids):
            uss = self._size(place, births[place], at)
            rows.append([pid, pid, uss + 9 * MB, uss - MB, uss + 2 * MB, uss, 0, 60.0])
        return rows

    def _recycle(self, at: float, old: int, new: int, size: int) -> journal.Statement:
        snapshot = Snapshot(self.namespec, at, "RUNNING", 1000, "gunicorn", None, ())
        target = WorkerId(old, old)
        verdict = Verdict(LEAK, at - 3600, size, LIMIT, 0.97, self.reason, True, True)
        decision = Decision("recycle", self.namespec, target, verdict, way="plain")
        plan = replace(begin(decision, snapshot, size, "USS"), step="settling")
        freed = size - 62 * MB
        self._say(
            at,
            "intent",
            f"worker {old}: leak, {self.reason}; recycling",
            {"procedure": plan.id, "why": self.reason},
        )
        self._say(at + 1, "step", "recycle: leaving", {"procedure": plan.id, "step": "leaving"})
        data = {"procedure": plan.id, "result": "done", "freed_bytes": freed}
        text = f"recycle done: worker {old} replaced by {new}"
        self._say(at + 20, "outcome", text, data)
        return journal.procedure_row(plan.id, self.namespec, at, to_json(plan))

    def _say(self, at: float, kind: str, text: str, data: dict[str, Any] | None = None) -> None:
        self.entries.append(Entry(at, self.namespec, kind, text, data or {}))

    def _snapshot(self, row: tuple[float, list[list[Any]]], births: list[float]) -> Snapshot:
        at, processes = row
        ages = [self.days * DAY, *(at - birth for birth in births)]
        everyone = [
            Worker(
                WorkerId(pid, start),
                age,
                rss,
                9 * MB,
                anon,
                pss,
                uss,
                swap,
                cpu,
                measured_at=self.now,
                ready=True,
                exact=True,
            )
            for (pid, start, rss, anon, pss, uss, swap, cpu), age in zip(
                processes, ages, strict=True
            )
        ]
        return Snapshot(
            self.namespec,
            self.now,
            "RUNNING",
            1000,
            "gunicorn",
            everyone[0],
            tuple(everyone[1:]),
            available=8192 * MB,
            free=4096 * MB,
        )

    def _view(self, told: bool) -> dict[str, Any]:
        id = [self.rows[-1][1][1][0], self.rows[-1][1][1][1]]
        why = "anonymous memory +8.0MB/h for 11h"
        verdict = [LEAK, self.now - 3600, 150.0 * MB, LIMIT, 0.97, why, True, True]
        held = [["cooldown", "cooldown until 13:10", self.now + 60]]
        return {
            "mode": "act",
            "verdicts": [[id, [verdict]]] if told else [],
            "held": held if told else [],
            "action": None,
            "last_action": None,
            "budget": [1, 6, 3600.0],
            "paused_until": None,
            "advice": ["look in the request path"] if told else [],
        }
