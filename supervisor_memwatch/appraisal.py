"""What an audit makes of a program: the document, how sure it is, and what would make it surer.

Takes what was seen of one program (`Watched`) and gives its part of `audit --json`. A verdict is
the detectors' own; that open files or threads keep growing is judged here by a simple rule, for a
watch of minutes is too short for theirs. Where there is no verdict, it says what growth is ruled
out, or why nothing can be told: too early, idle, noise. Who leaves meanwhile is judged by what was
seen of it until then (`departed`).

Not here: sampling and files (audit.py), the comparison of two runs (runs.py, comparison.py), the
table and its words (wording.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from . import advice, comparison, detectors, growth, report, sizes, trends, units
from .comparison import rounded, sure
from .model import WARMING_UP, Snapshot, Verdict, Worker, WorkerId
from .options import Options
from .units import HOUR, MB, MINUTE

WINDOW = 10  # buckets that the detectors' first window takes
RULED_OUT = MB / MINUTE  # growth (bytes per second) that a short watch should rule out
WANTED = 0.25 * MB / MINUTE  # and a longer one would
VAGUE = 5 * RULED_OUT  # growth that is only known to be less than this is not known
FEW_FILES, FEW_THREADS = 4, 3  # growth that is worth a word
CREEP = 0.1 * MB / MINUTE  # growth that healthy workers show for some minutes, and slow leaks too
ASLEEP = 0.0005  # CPU seconds per second: a worker that only keeps its heart beating
END = 15.0  # seconds: what is compared is taken from the last looks, not from the whole watch
LONGEST = 2 * HOUR  # that anybody is asked to watch
AHEAD, EXCESS = 1.3, 10 * MB  # a worker that holds so much more than its siblings is named

LEAKING = ("leak", "master_growth")
BRIEF, POSSIBLE = 30.0, 0.5  # seconds; and what is said of growth in a shorter watch
LEAST = 25.0  # seconds past its warm-up, before a worker is called healthy: growth comes in steps


class Files(NamedTuple):
    """Open files that are new since the watch began, and of one kind."""

    what: str
    number: int
    example: str  # the target of one of them


class Watched(NamedTuple):
    """What was seen of one program."""

    name: str
    options: Options
    seconds: float  # watched
    snapshots: Sequence[Snapshot]
    past: detectors.Past
    verdicts: Mapping[WorkerId | None, tuple[Verdict, ...]]
    files: Mapping[WorkerId, Sequence[Files]] = {}
    before: Mapping[str, Any] | None = None  # what `--save` kept of it
    left: Sequence[Mapping[str, Any]] = ()  # who left meanwhile, as `departed` has them
    ended: float | None = None  # seconds after which nothing was seen of it any more
    available: str = "what is available to it"  # what Snapshot.available is
    command: str = "memwatch audit"  # that audits it
    file: str = "FILE"  # of --save and --since


# -- the document --------------------------------------------------------------------------


def document(watched: Watched) -> dict[str, Any]:
    """One program's part of `audit --json`; sizes in bytes, times in seconds."""
    last = watched.snapshots[-1]
    role = "worker" if last.kind == "gunicorn" else "program"
    workers = [_worker(watched, worker, role) for worker in last.workers]
    master = None if last.master is None else _worker(watched, last.master, "master")
    everyone = [*([master] if master else []), *workers]
    ends = tuple(_end(watched, worker) for worker in last.workers)
    lows = {worker.id: worker.anon or 0 for worker in ends}
    before = watched.before
    compared = comparison.nothing()
    if before:
        now = last._replace(workers=ends)
        compared = comparison.document(lows, now, before, watched.options.warmup)
    found = [text for person in (*everyone, *watched.left) for text in _found(person)]
    found += [f"program: {v.kind}: {v.why}" for v in watched.verdicts.get(None, ()) if v.told]
    surer = _surer(watched, everyone)
    if before:
        surer += comparison.surer(
            compared, watched.command, watched.file, watched.options.warmup, watched.seconds
        )
    first = {worker.id for worker in watched.snapshots[0].workers}
    return {
        "namespec": watched.name,
        "kind": last.kind,
        "evidence": last.evidence,
        "watched": watched.seconds,
        "total": detectors.total(last),
        "master": master,
        "workers": workers,
        "left": list(watched.left),
        "came": [str(worker.id) for worker in last.workers if worker.id not in first],
        "ended": watched.ended,
        "low_anon": {str(id): low for id, low in lows.items()},
        "low_work": {str(w.id): {"cpu": w.cpu, "requests": w.requests} for w in ends},
        **compared,
        "found": found + comparison.found(compared["changes"]),
        "advice": list(advice.lines(watched.options, last, watched.past, watched.verdicts)),
        "may_hold": _may_hold(watched, workers),
        "stands_out": _stands_out(workers),
        "surer": surer,
        "enough": all(worker["judgement"] not in OPEN for worker in workers),
    }


# No verdict, and none to be had without more of something.
GROWS, WARM_UP, EARLY, IDLE, HEALTHY = "grows", "warming up", "too early", "idle", "healthy"
CREEPS = "creeps"  # as healthy workers do for some minutes, and slow leaks for ever
OPEN = (GROWS, CREEPS, WARM_UP, EARLY, IDLE)


def _tempered(verdict: Verdict, seconds: float) -> Verdict:
    """How sure growth is was measured on watches of BRIEF and more; a shorter one earns less."""
    if seconds >= BRIEF or verdict.kind not in LEAKING:
        return verdict
    return verdict._replace(confidence=min(verdict.confidence, POSSIBLE))


def _worker(watched: Watched, worker: Worker, role: str) -> dict[str, Any]:
    last = watched.snapshots[-1]
    verdicts = [
        _tempered(verdict, watched.seconds) for verdict in watched.verdicts.get(worker.id, ())
    ]
    trend = trends.trend(watched.past, worker.id)
    shown = report.worker_json(
        worker,
        last.at,
        verdicts,
        trend=trend,
        headroom=detectors.headroom(watched.options, last, worker),
        hours=trends.hours_to_limit(watched.options, last, worker, trend),
    )
    seen = list(_seen(watched, worker.id))
    first = seen[0]
    buckets, judged, risen = _judged(watched, worker.id)
    shown |= {
        "role": role,
        "readable": worker.exact is not False and worker.fds is not None,
        "watched": last.at - first[0],
        "cpu_spent": _less(worker.cpu, first[1].cpu),
        "requests_served": _less(worker.requests, first[1].requests),
        "buckets": buckets,
        "judged": judged,
        "risen": risen,
        "files": _growth(FEW_FILES, [each.fds for _, each in seen]),
        "threads_grown": _growth(FEW_THREADS, [each.threads for _, each in seen]),
        "new_files": [each._asdict() for each in watched.files.get(worker.id, ())],
    }
    judgement, confidence = _judgement(shown, verdicts)
    return {**shown, "judgement": judgement, "confidence": confidence}


def departed(watched: Watched, worker: Worker, role: str, at: float) -> dict[str, Any]:
    """A worker that is gone at `at`, judged on what was seen of it; `watched`: up to then."""
    seen = list(_seen(watched, worker.id))
    began = watched.snapshots[0].at
    return {
        **_worker(watched, worker, role),
        "left": at,
        "after": at - began,
        "came_after": seen[0][0] - began,
        "grown": _less(worker.anon, seen[0][1].anon),
    }


def _may_hold(watched: Watched, workers: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the figure comes from that growth is measured against, if nobody has set it."""
    options, last = watched.options, watched.snapshots[-1]
    leaking = {each["id"] for each in workers if each["judgement"] in LEAKING}
    found = [w for w in last.workers if str(w.id) in leaking]
    ceilings = [sizes.ceiling_of(options, last, worker) for worker in found]
    most = max((each for each in ceilings if each is not None), default=None)
    if most is None or options.limit is not None or options.total_limit is None:
        return None
    total = f"total_limit, {units.size(options.total_limit.of(last.available))}"
    if options.total_limit.share is not None:
        default = " (the default)" if options.total_limit == Options().total_limit else ""
        total = f"total_limit, {options.total_limit.share:.0%}{default} of {watched.available}"
    if len(last.workers) > 1:
        total = f"what a worker, of {len(last.workers)}, may have of {total}"
    return f"{units.size(most)} because no limit is set: {total}"


def _seen(watched: Watched, id: WorkerId) -> Iterable[tuple[float, Worker]]:
    for snapshot in watched.snapshots:
        for worker in (*snapshot.workers, *([snapshot.master] if snapshot.master else [])):
            if worker.id == id:
                yield snapshot.at, worker


def _end(watched: Watched, worker: Worker) -> Worker:
    """It at the end of the watch, at the (last) look that found it with the least memory: what it
    holds between two requests, and the work of that very moment."""
    since = watched.snapshots[-1].at - END
    looks = [each for at, each in _seen(watched, worker.id) if at >= since]
    known = [each for each in reversed(looks) if each.anon is not None]
    return min(known, key=lambda each: each.anon or 0, default=worker)


def _judged(watched: Watched, id: WorkerId) -> tuple[int, float, bool]:
    """Buckets that are kept of it; seconds of the watch in which it was past its warm-up; whether
    it holds more all through the last quarter of them than ever in the first half, and not by a
    single step."""
    life = watched.past.lives.get(id)
    points = life.series.points() if life is not None and life.warm else None
    if life is None or not points:
        return 0, 0.0, False
    lows, seconds = [low for _, low in points], life.seen - points[0][0]
    late, early = lows[-max(len(lows) // 4, 2) :], lows[: max(len(lows) // 2, 1)]
    step = max((b - a for a, b in pairwise(lows)), default=0.0)
    risen = min(late) - max(early) > 2 * growth.drift(seconds)
    return len(lows), seconds, risen and lows[-1] - max(early) > 1.5 * step


def _less(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then


def _growth(least: int, values: Sequence[int | None]) -> list[int] | None:
    """[first, last] of a number that keeps growing: the least of each third of the time is above
    that of the third before; None for any other."""
    known = [value for value in values if value is not None]
    third = len(known) // 3
    if third < 2:
        return None
    lows = [min(known[:third]), min(known[third : 2 * third]), min(known[2 * third :])]
    grown = lows[2] - lows[0]
    # What only fills up (a pool, connections when the load begins) has no part in the last third.
    if grown < least or min(lows[1] - lows[0], lows[2] - lows[1]) < grown / 4:
        return None
    return [known[0], known[-1]]


def _judgement(worker: Mapping[str, Any], verdicts: Sequence[Verdict]) -> tuple[str, float | None]:
    told = [verdict for verdict in verdicts if verdict.told]
    if told:
        first = max(told, key=lambda verdict: verdict.confidence)
        return first.kind, first.confidence
    if _suspected(verdicts) or _rises(worker):
        return GROWS, None
    if any(verdict.kind == WARMING_UP for verdict in verdicts):
        return WARM_UP, None
    if worker["buckets"] < WINDOW or worker["trend"] is None or worker["judged"] < LEAST:
        return EARLY, None
    if worker["risen"] and not verdicts:
        return GROWS, None
    if _is_idle(worker):
        return IDLE, None
    if worker["trend"]["low"] / HOUR > CREEP and not verdicts:
        return CREEPS, None
    if worker["trend"]["high"] / HOUR > VAGUE and not verdicts:
        return EARLY, None
    # The interval of the trend is a 95 % one.
    return HEALTHY, 0.95


def _suspected(verdicts: Sequence[Verdict]) -> bool:
    return any(v.kind not in detectors.INFORMATIVE and not v.told for v in verdicts)


def _rises(worker: Mapping[str, Any]) -> bool:
    """No verdict, but a trend that is not noise."""
    trend = worker["trend"]
    return trend is not None and trend["low"] / HOUR > RULED_OUT


def _is_idle(worker: Mapping[str, Any]) -> bool:
    """It did nothing while it was watched, as far as that is known: it proves nothing."""
    if worker["requests_served"] is not None:
        return not worker["requests_served"]
    spent = worker["cpu_spent"]
    grows = worker["files"] or worker["threads_grown"]
    return spent is not None and not grows and spent <= max(ASLEEP * worker["watched"], 0.011)


def _found(worker: Mapping[str, Any]) -> list[str]:
    """What is the matter with it, in sentences."""
    who = f"{worker['role']} {worker['pid']}"
    if "after" in worker:
        who += f", gone after {units.time(worker['after'])}"
    said = [
        f"{who}: {verdict['kind']}, {sure(verdict['confidence'])}: {verdict['why']}"
        for verdict in worker["verdicts"]
        if verdict["told"]
    ]
    if worker["files"]:
        first, last = worker["files"]
        text = f"{who}: open files keep growing: {first} to {last}"
        if worker["new_files"]:
            text += ", new: " + ", ".join(_files_words(files) for files in worker["new_files"][:3])
        said.append(text)
    if worker["threads_grown"]:
        first, last = worker["threads_grown"]
        said.append(f"{who}: threads keep growing: {first} to {last}")
    return said


def _files_words(files: Mapping[str, Any]) -> str:
    text = f"{files['number']} {units.printable(files['what'], 120)}"
    example: str = files["example"]
    return text if not example.startswith("/") else f"{text} ({units.printable(example, 120)})"


def _stands_out(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who holds much more than its siblings, and whether work explains it. Not a verdict."""
    said = []
    for worker in workers:
        others = [each for each in workers if each is not worker]
        held, usual = worker["anon"], _median([each["anon"] for each in others])
        if held is None or not usual or held < max(AHEAD * usual, usual + EXCESS):
            continue
        them = "sibling" if len(others) == 1 else "siblings"
        text = f"worker {worker['pid']} holds {units.size(held)}, its {them} {units.size(usual)}"
        name = "requests" if worker["requests"] is not None else "cpu"
        work, their = worker[name], _median([each[name] for each in others])
        if work is not None and their:
            times = work / their
            text += f", at {times:.1f} times their work since they started"
            text += ": that may be all" if times >= held / usual else ""
        said.append(text)
    return said


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return units.median(known) if known else None


# -- how sure, and what would make it surer --------------------------------------------------


def _surer(watched: Watched, everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """What would make it surer; sentences."""
    said = []
    workers = [each for each in everyone if each["role"] != "master"]
    short = _short_lives(watched, workers)
    long, why = max((_watch(watched, each) for each in workers), default=(0.0, ""))
    if short:
        said.append(short)
    elif watched.ended is not None:
        said.append(f"once it runs again: {watched.command} --for 1m")
    elif long > 0 and (watched.seconds or not watched.before):
        said.append(f"{why}: {watched.command} --for {_time(rounded(min(long, LONGEST)))}")
    idle = [str(each["pid"]) for each in workers if each["judgement"] == IDLE]
    if idle:
        who = "all" if len(idle) == len(workers) else f"worker{'s' * (len(idle) > 1)}"
        names = "workers" if len(idle) == len(workers) else ", ".join(idle)
        said.append(
            f"send requests meanwhile ({who} {names} did nothing, and that proves nothing): "
            f"{watched.command} --for {_time(max(watched.seconds, MINUTE))}"
        )
    if any(each["judgement"] in (*LEAKING, GROWS) for each in workers):
        said.append(
            "send it the same requests again, between --save and --since: a cache that has "
            "filled costs nothing the second time, a leak as much again"
        )
    if not all(each["readable"] for each in everyone):
        said.append("run it as root, or as the program's user: PSS, USS and open files are hidden")
    return said


def _time(seconds: float) -> str:
    """As --for takes it, in one word."""
    return f"{seconds:.0f}s" if seconds % MINUTE else f"{seconds / MINUTE:.0f}m"


def _short_lives(watched: Watched, workers: Sequence[Mapping[str, Any]]) -> str:
    """Workers that are gone before they are judged: no watch is long enough for them."""
    warmup = watched.options.warmup
    ages = [each["age"] or 0.0 for each in watched.left]
    if len(ages) < 2 or max(ages) >= warmup or any(w["judgement"] != WARM_UP for w in workers):
        return ""
    return (
        f"workers leave at an age of {units.time(max(ages))}, before their warm-up of "
        f"{units.time(warmup)} is over, and no watch is long enough for that: raise max_requests "
        "while you look, or set a shorter `warmup`"
    )


def _watch(watched: Watched, worker: Mapping[str, Any]) -> tuple[float, str]:
    """For how many seconds to watch anew so that more can be told of a worker, and why."""
    options, judgement, trend = watched.options, worker["judgement"], worker["trend"]
    who = f"{worker['role']} {worker['pid']}"
    seen = max(worker["watched"], 1.0)
    if judgement == WARM_UP:
        left = max(options.warmup - (worker["age"] or 0.0), 0.0)
        return left + MINUTE, f"{who} is still warming up"
    if judgement == EARLY and (trend is None or trend["high"] / HOUR <= VAGUE):
        why = f"{who} was seen for too short a time" if watched.seconds else "one look has no trend"
        return max(watched.seconds, MINUTE), why
    if judgement == GROWS:
        return seen + _until_clear(seen, trend), f"{who} grows, and why is not clear yet"
    if judgement in LEAKING and (worker["confidence"] or 0.0) < 0.95:
        return 2 * seen, f"a cache is full some time: see whether {who} grows for twice as long"
    if judgement == CREEPS:
        # What healthy workers drift by rises with the third root of the time, a leak with the time.
        clear = (growth.drift(1.0) / (trend["low"] / HOUR)) ** 1.5
        return max(clear, 2 * seen), f"{who} creeps: drift or a slow leak"
    if judgement in (EARLY, HEALTHY) and trend["high"] / HOUR > RULED_OUT:
        # The interval of a slope shrinks with the time to the power of 1.5.
        factor = (trend["high"] / HOUR / WANTED) ** (2 / 3)
        return seen * factor, f"{who}'s noise could hide slow growth"
    return 0.0, ""


def _until_clear(seen: float, trend: Mapping[str, float] | None) -> float:
    """Until the trend's interval is half as wide as the trend is steep; as long again at least."""
    if trend is None or trend["bytes_per_hour"] <= 0:
        return seen
    half = (trend["high"] - trend["low"]) / 2
    return float(seen * max(1.0, (2 * half / trend["bytes_per_hour"]) ** (2 / 3) - 1))
