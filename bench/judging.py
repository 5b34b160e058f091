"""Shows labelled programs to a judge, tick by tick, and notes of each worker life what was said.

Programs are synthetic ones (synthetic.py), recordings of real gunicorn (record.py's, in the
replay format, with labels.json) and traces (samples.csv.gz and meta.json). Judges are the
detectors, called as `memwatch replay` calls them; that command itself; or anybody with a `feed`
(baselines.py). What the notes amount to is figures.py's.
"""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from living import FILLS, HEALTHY, IMBALANCED, LEAKS, Life, Program, Tick, as_line
from parts import MB, MINUTE

from supervisor_memwatch import detectors
from supervisor_memwatch.model import RUNNING, Snapshot, Worker, WorkerId
from supervisor_memwatch.recording import Readings, read_program, read_tick

ROOT = Path(__file__).resolve().parents[1]
KB = 1024
FREE_FILLS = 2  # actions on filling caches that are no error, per program
MATERIAL = 1 / 3  # of the room: leaks that ate as much should have been acted on
FINDABLE_MB, FINDABLE_SECONDS, FINDABLE_TICKS = 8.0, 10 * MINUTE, 20
STALE_FILL = 15 * MINUTE  # a cache that has been full for longer is filling no more


def _clock() -> float:
    """Seconds that reading the clock takes by itself: tens of microseconds in a virtual machine."""
    began = time.process_time()
    for _ in range(500):
        time.process_time()
    return (time.process_time() - began) / 500


CLOCK = _clock()

Answer = Mapping[WorkerId | None, Iterable[Any]]  # verdicts, or anything like them


class Judge(Protocol):
    """Whoever looks at the ticks of one program and says something about its workers."""

    def feed(self, tick: Tick) -> Answer: ...


class Ours:
    """The detectors, called as `memwatch replay` calls them."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.program = read_program(header)
        self.past = detectors.Past()
        self.readings = Readings()
        self.cpu = 0.0
        self.samples = 0

    def feed(self, tick: Tick) -> Answer:
        program, master = self.program, tick.master
        snapshot = Snapshot(
            program.namespec,
            float(tick.t),
            RUNNING,
            0 if master is None else master.id.pid,
            program.kind,
            master,
            tick.workers,
            available=program.available,
        )
        snapshot = self.readings.carry(snapshot)
        began = time.process_time()
        detectors.remember(program.options, self.past, snapshot)
        answer = detectors.examine(program.options, snapshot, self.past)
        self.cpu += max(time.process_time() - began - CLOCK, 0.0)
        self.samples += len(tick.workers) + (master is not None)
        return answer


class Said(NamedTuple):
    """What a judge other than ours says of a worker."""

    kind: str
    told: bool
    act: bool
    confidence: float | None = None
    why: str = ""


class ThroughCommand:
    """`memwatch replay -` in a process of its own."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.command = subprocess.Popen(
            [sys.executable, "-m", "supervisor_memwatch", "replay", "-"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(header)

    def _write(self, value: dict[str, Any]) -> None:
        assert self.command.stdin is not None
        self.command.stdin.write(json.dumps(value) + "\n")
        self.command.stdin.flush()

    def feed(self, tick: Tick) -> Answer:
        self._write(as_line(tick))
        assert self.command.stdout is not None
        said = json.loads(self.command.stdout.readline())
        ids: dict[str, WorkerId | None] = {str(w.id.pid): w.id for w in tick.workers}
        if tick.master is not None:
            ids[str(tick.master.id.pid)] = tick.master.id
        ids["program"] = None
        answer: dict[WorkerId | None, list[Said]] = {}
        for name, kinds in said["verdicts"].items():
            acts = said["act"].get(name, ())
            answer[ids[name]] = [Said(kind, True, kind in acts) for kind in kinds]
        return answer

    def close(self) -> None:
        assert self.command.stdin is not None
        assert self.command.stdout is not None
        self.command.stdin.close()
        self.command.stdout.close()
        if self.command.wait(60):
            raise RuntimeError(f"memwatch replay ended with status {self.command.returncode}")


# --- what is noted of a life ----------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """One worker life: the truth, and what was said of it. Times are seconds of the world."""

    id: str
    place: int
    born: float
    ended: float = 0.0
    end: str = "end"
    guilty: bool = False  # it leaks
    caches: bool = False  # it has a cache of any kind
    filling: bool = False  # one that fills in a straight line
    imbalanced: bool = False
    tolerated: bool = False  # it may be told to be larger than its siblings
    since: float | None = None
    leaked: float = 0.0  # MB in the end
    share: float = 0.0  # of its room, in the end
    third_at: float | None = None
    half_at: float | None = None
    full_at: float | None = None  # when its caches were full
    told_at: float | None = None  # `leak`, the first time since it leaks (or ever)
    told_mb: float = 0.0
    told_early: float | None = None  # before it leaked
    told_why: str = ""
    confidence: float | None = None
    act_at: float | None = None
    act_mb: float = 0.0
    act_early: float | None = None
    act_why: str = ""
    imbalance_at: float | None = None
    imbalance_act: float | None = None
    imbalance_why: str = ""
    others: dict[str, tuple[float, str]] = field(default_factory=dict)  # other kinds told
    other_acts: dict[str, float] = field(default_factory=dict)
    findable: bool = False  # it leaked so much, for so long, that one could know

    def note(self, verdict: Any, now: float, early: bool, leaked: float) -> None:
        """A verdict told. `early`: it does not leak (yet); `leaked`: MB so far."""
        if verdict.kind == "imbalance":
            if self.imbalance_at is None:
                self.imbalance_at, self.imbalance_why = now, verdict.why
            if verdict.act and self.imbalance_act is None:
                self.imbalance_act = now
        elif verdict.kind != "leak":
            self.others.setdefault(verdict.kind, (now, verdict.why))
            if verdict.act:
                self.other_acts.setdefault(verdict.kind, now)
        elif self.guilty and early:
            if not fills(self, now):
                self.told_early = now if self.told_early is None else self.told_early
                self.told_why = self.told_why or verdict.why
                if verdict.act and self.act_early is None:
                    self.act_early = now
        else:
            if self.told_at is None:
                self.told_at, self.told_mb = now, leaked
                self.told_why, self.confidence = verdict.why, verdict.confidence
            if verdict.act and self.act_at is None:
                self.act_at, self.act_mb, self.act_why = now, leaked, verdict.why


@dataclass(slots=True)
class Result:
    """One program: its lives, and what judging it cost."""

    name: str
    behaviour: str
    label: str
    tick: float
    healthy: float = 0.0  # seconds of workers that did not leak
    records: list[Record] = field(default_factory=list)
    others: dict[str, tuple[float, str]] = field(default_factory=dict)  # of master and program
    other_acts: dict[str, float] = field(default_factory=dict)
    free: tuple[str, ...] = ()  # other kinds that may be said of it
    cpu: float = 0.0
    samples: int = 0
    bytes_per_worker: float | None = None
    kills: int = 0
    recycles: int = 0
    false_recycles: list[str] = field(default_factory=list)

    def note(self, verdict: Any, now: float) -> None:
        """A verdict told of the master or of the program."""
        self.others.setdefault(verdict.kind, (now, verdict.why))
        if verdict.act:
            self.other_acts.setdefault(verdict.kind, now)


def run(program: Program, judge: Judge, closed: bool = False, weigh: bool = False) -> Result:
    """Show a program to a judge; `closed`: an act recycles the worker; `weigh`: its memory too."""
    hearing = Hearing(program, closed)
    world = hearing.world
    while (tick := world.step()) is not None:
        hearing.see(tick)
        hearing.hear(judge.feed(tick), tick.now)
    result = hearing.close()
    result.cpu, result.samples = getattr(judge, "cpu", 0.0), getattr(judge, "samples", 0)
    past = getattr(judge, "past", None)
    if weigh and past is not None and past.lives:
        result.bytes_per_worker = weight(past.lives) / len(past.lives)
    return result


class Hearing:
    """One synthetic program before a judge: the notes, while it goes on."""

    def __init__(self, program: Program, closed: bool) -> None:
        self.program, self.closed = program, closed
        self.world = program.world()
        self.records: dict[WorkerId, Record] = {}
        self.result = Result(program.name, program.behaviour, program.label, program.tick)
        self.result.free = _free(program)
        self.healthy, self.before = 0, 0.0
        self.fills = 0  # filling caches recycled

    def see(self, tick: Tick) -> None:
        """Note what is true now."""
        now, records = tick.now, self.records
        self.result.healthy += self.healthy * (now - self.before)
        self.healthy, self.before = 0, now
        for life in self.world.current:
            record = records.get(life.id)
            if record is None:
                record = records[life.id] = self.begin(life)
            if record.caches and record.full_at is None and life.full:
                record.full_at = now
            if not record.guilty:
                self.healthy += 1
            elif record.half_at is None and life.leaking_since is not None:
                _truth(record, life, now)

    def begin(self, life: Life) -> Record:
        record = Record(str(life.id), life.place, life.born)
        record.guilty, record.imbalanced = bool(life.leaks), life.imbalanced
        record.caches, record.filling = bool(life.caches), life.filling
        record.tolerated = self.program.traits.stands_out or record.guilty
        return record

    def hear(self, answer: Answer, now: float) -> None:
        """Note what was said, and, in a closed loop, do it."""
        for subject, verdicts in answer.items():
            life = self.world.lives.get(subject) if subject is not None else None
            for verdict in verdicts:
                if not verdict.told:
                    continue
                if life is None:
                    self.result.note(verdict, now)
                else:
                    early = life.leaking_since is None
                    self.records[life.id].note(verdict, now, early, life.leaked)
                if self.closed and verdict.act:
                    self.act(life, verdict.kind, now)

    def act(self, life: Life | None, kind: str, now: float) -> None:
        if kind == "total_limit":  # the program's: the largest goes
            life = max(self.world.current, key=lambda life: life.held, default=None)
        if life is None or life.ended is not None:
            return
        if kind not in ("leak", "limit", "imbalance", "total_limit"):
            return
        record = self.records[life.id]
        filled = life.filling and kind == "leak"
        self.fills += filled
        right = life.leaking_since is not None or (filled and self.fills <= FREE_FILLS)
        if kind != "leak":
            right = right or record.imbalanced
        if kind == "imbalance":
            right = right or record.tolerated
        if kind == "total_limit":  # nobody's fault among the workers
            right = right or self.program.traits.master > 0
        self.result.recycles += 1
        if not right:
            self.result.false_recycles.append(f"{kind} {life.id} at {now:.0f}: {record.act_why}")
        self.world.recycle(life.id)

    def close(self) -> Result:
        world, result = self.world, self.result
        result.kills = world.kills
        end = min(world.now, self.program.length)
        for id, record in self.records.items():
            life = world.lives[id]
            record.ended, record.end = life.ended or (end, "end")
            record.since, record.leaked, record.share = life.leaking_since, life.leaked, life.share
            record.findable = record.guilty and _findable(record, life, self.program.tick)
            result.records.append(record)
        return result


def _free(program: Program) -> tuple[str, ...]:
    free = []
    if program.traits.fds:
        free.append("fd_growth")
    if program.traits.master:
        free += ["master_growth", "total_limit"]
    if program.label == LEAKS:
        free.append("total_limit")
    return tuple(free)


def _truth(record: Record, life: Life, now: float) -> None:
    share = life.share
    if share >= MATERIAL and record.third_at is None:
        record.third_at = now
    if share >= 0.5:
        record.half_at = now


def _findable(record: Record, life: Life, tick: float) -> bool:
    """Whether it leaked enough, for long enough, that an observer could know."""
    if record.since is None:
        return False
    if record.half_at is not None:
        return True
    lasted = record.ended - max(record.since, record.born)
    if lasted < max(FINDABLE_SECONDS, FINDABLE_TICKS * tick) or not life.full:
        return False
    return record.leaked >= max(FINDABLE_MB, life.coarse)


def weight(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of an object and all it holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (type, type(sys), str, bool, type(None))):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return size + sum(weight(k, seen) + weight(v, seen) for k, v in thing.items())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return size + sum(weight(item, seen) for item in thing)
    for cls in type(thing).__mro__:
        slots = getattr(cls, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                size += weight(getattr(thing, name), seen)
    return size + (weight(vars(thing), seen) if hasattr(thing, "__dict__") else 0)


def fills(r: Record, at: float) -> bool:
    """Whether a cache filled in a straight line then, or had just done so."""
    return r.filling and (r.full_at is None or at <= r.full_at + STALE_FILL)


# --- recordings ------------------------------------------------------------------------------


class Recording(NamedTuple):
    """A program that really ran: its lines in the replay format, and what it was."""

    name: str
    lines: list[str]
    truth: str  # healthy, leak, leak_one, leak_late, imbalance or filling
    guilty: tuple[int, ...]  # pids that leak, or stand out
    since: dict[int, float]
    filling: tuple[int, ...] = ()
    leaked: Mapping[int, float] = {}  # MB in the end, by the application's own account
    files: bool = False  # its open files leak


def recordings(directory: Path) -> list[Recording]:
    """What record.py wrote: NAME.jsonl.gz and labels.json."""
    found = []
    for name, label in sorted(json.loads((directory / "labels.json").read_text()).items()):
        with gzip.open(directory / f"{name}.jsonl.gz", "rt") as file:
            lines = file.read().splitlines()
        since = {int(pid): t or 0.0 for pid, t in (label.get("since") or {}).items()}
        guilty = tuple(label.get("guilty") or since)
        filling = tuple(label.get("filling") or ())
        lives = label.get("lives") or {}
        leaked = {int(pid): life.get("leaked_mb") or 0.0 for pid, life in lives.items()}
        files = (label.get("scenario") or {}).get("behaviour") == "files"
        truth = label["truth"]
        found.append(Recording(name, lines, truth, guilty, since, filling, leaked, files))
    return found


FILLING_TRACES = ("lru", "lru_uneven")  # of the traces: in a straight line, all the time


def traces(directory: Path, tick: float = 5.0, stretch: float = 5.0) -> list[Recording]:
    """samples.csv.gz and meta.json: a second is read as `stretch`, a row kept per `tick`."""
    meta = json.loads((directory / "meta.json").read_text())["programs"]
    ticks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(directory / "samples.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            looks, t = ticks[row["program"]], float(row["t"]) * stretch
            if not looks or t != looks[-1]["t"]:
                looks.append({"t": t, "master": None, "workers": []})
            process = {
                "pid": int(row["pid"]),
                "start": int(row["start"]),
                **{name: int(row[name] or 0) * KB for name in ("rss", "pss", "uss", "swap")},
                "requests": int(row["requests"]) if row["requests"] else None,
            }
            if row["role"] == "master":
                looks[-1]["master"] = process
            else:
                looks[-1]["workers"].append(process)
    found = []
    for name, looks in ticks.items():
        kept: list[dict[str, Any]] = []
        for look in looks:
            if not kept or look["t"] - kept[-1]["t"] >= 0.8 * tick:
                kept.append(look)
        truth = meta[name]["truth"]
        begun = {w["pid"]: w["rss"] for look in reversed(kept) for w in look["workers"]}
        grown = {w["pid"]: w["rss"] - begun[w["pid"]] for look in kept for w in look["workers"]}
        guilty: tuple[int, ...] = ()
        if truth in ("leak", "leak_late"):
            guilty = tuple(begun)
        elif truth in ("leak_one", "imbalance"):
            guilty = (max(grown, key=grown.__getitem__),)
        after = meta[name]["param"].get("after", 0.0) * stretch
        filling = tuple(begun) if name in FILLING_TRACES else ()
        header = {"program": {"namespec": f"web:{name}", "interval": tick}}
        lines = [json.dumps(header), *map(json.dumps, kept)]
        since = dict.fromkeys(guilty, after)
        found.append(Recording(f"trace {name}", lines, truth, guilty, since, filling))
    return found


TRUTHS = {"healthy": HEALTHY, "imbalance": IMBALANCED, "filling": FILLS}
SETTLED = 60.0  # seconds of a life whose growth is its warm-up's
SHORT = 4 * MINUTE  # a leaking life of less is left out, if nothing was said of it


def run_recording(recording: Recording, make: Callable[[dict[str, Any]], Judge]) -> Result:
    """Show a recording to a judge."""
    header = json.loads(recording.lines[0])
    program = read_program(header)
    judge = make(header)
    label = TRUTHS.get(recording.truth, LEAKS)
    interval = float(header["program"].get("interval") or 5.0)
    result = Result(recording.name, recording.name, label, interval)
    result.free = ("fd_growth",) if recording.files else ()
    records: dict[WorkerId, Record] = {}
    levels: dict[WorkerId, float] = {}
    before = None
    for line in recording.lines[1:]:
        snapshot = read_tick(json.loads(line), program)
        now = snapshot.at
        for worker in snapshot.workers:
            record = records.get(worker.id)
            if record is None:
                record = records[worker.id] = _recorded(recording, label, worker, now)
                result.records.append(record)
            record.ended = now
            if worker.id not in levels or now <= max(record.since or 0.0, record.born + SETTLED):
                levels[worker.id] = _level(worker)
            record.leaked = (_level(worker) - levels[worker.id]) / MB if record.guilty else 0.0
        healthy = sum(not records[w.id].guilty for w in snapshot.workers)
        if before is not None:
            result.healthy += healthy * (now - before)
        before = now
        answer = judge.feed(Tick(snapshot.at, snapshot.master, snapshot.workers, now))
        for subject, verdicts in answer.items():
            for verdict in verdicts:
                if not verdict.told:
                    continue
                record = records.get(subject) if subject is not None else None
                if record is None:
                    result.note(verdict, now)
                else:
                    early = record.since is not None and now < record.since
                    record.note(verdict, now, early, record.leaked)
    for record in result.records:
        lasted = record.ended - max(record.since or 0.0, record.born)
        record.findable = record.guilty and record.since is not None and lasted >= SHORT
        _account(recording, record, lasted)
    result.cpu, result.samples = getattr(judge, "cpu", 0.0), getattr(judge, "samples", 0)
    if isinstance(judge, ThroughCommand):
        judge.close()
    return result


def _account(recording: Recording, record: Record, lasted: float) -> None:
    """What was leaked when it was told: of the application's own account, the time's share."""
    whole = recording.leaked.get(int(record.id.partition(":")[0]), 0.0)
    if whole and lasted > 0:
        for at, name in ((record.told_at, "told_mb"), (record.act_at, "act_mb")):
            if at is not None:
                passed = at - max(record.since or 0.0, record.born)
                setattr(record, name, whole * min(passed / lasted, 1.0))


def _level(worker: Worker) -> float:
    if worker.anon is not None:
        return worker.anon
    if worker.shared is not None:
        return worker.rss - worker.shared
    return worker.rss


def _recorded(recording: Recording, label: str, worker: Worker, now: float) -> Record:
    pid = worker.id.pid
    record = Record(str(worker.id), 0, now - (worker.age or 0.0))
    named = pid in recording.guilty
    record.guilty = named and label == LEAKS
    record.imbalanced = named and label == IMBALANCED
    record.tolerated = record.guilty
    record.filling = pid in recording.filling or label == FILLS
    if record.guilty:
        record.since = max(recording.since.get(pid) or 0.0, record.born)
    return record
