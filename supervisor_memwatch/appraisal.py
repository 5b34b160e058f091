"""What an audit says of a program: the document, how sure it is, and what would make it surer.

Takes what was seen of one program (`Watched`) and gives its part of `audit --json`, and that as
people read it. A verdict is the detectors' own; that open files or threads keep growing is judged
here by a simple rule, for a watch of minutes is too short for theirs. Where there is no verdict, it
says what growth is ruled out, or why nothing can be told: too early, idle, noise.

Not here: sampling and files (audit.py), the comparison of two runs (runs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import advice, detectors, growth, report, runs, units
from .model import WARMING_UP, Snapshot, Verdict, Worker, WorkerId
from .options import Options
from .units import HOUR, KB, MB, MINUTE

WINDOW = 10  # buckets that the detectors' first window takes
RULED_OUT = MB / MINUTE  # growth (bytes per second) that a short watch should rule out
WANTED = 0.25 * MB / MINUTE  # and a longer one would
FEW_FILES, FEW_THREADS = 4, 3  # growth that is worth a word
CREEP = 0.1 * MB / MINUTE  # growth that healthy workers show for some minutes, and slow leaks too
ASLEEP = 0.0005  # CPU seconds per second: a worker that only keeps its heart beating
LONGEST = 2 * HOUR  # that anybody is asked to watch
AHEAD, EXCESS = 1.3, 10 * MB  # a worker that holds so much more than its siblings is named
BAR = 12  # characters

LEAKING = ("leak", "master_growth")


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


# -- the document --------------------------------------------------------------------------


def document(watched: Watched) -> dict[str, Any]:
    """One program's part of `audit --json`; sizes in bytes, times in seconds."""
    last = watched.snapshots[-1]
    role = "worker" if last.kind == "gunicorn" else "program"
    workers = [_worker(watched, worker, role) for worker in last.workers]
    master = None if last.master is None else _worker(watched, last.master, "master")
    everyone = [*([master] if master else []), *workers]
    lows = {worker.id: _low(watched, worker) for worker in last.workers}
    before = watched.before
    changes = runs.compare(lows, last.workers, before) if before else []
    found = [text for person in everyone for text in _found(person)]
    found += [f"program: {v.kind}: {v.why}" for v in watched.verdicts.get(None, ()) if v.told]
    compared = [
        {**change._asdict(), "id": str(change.id), "pid": change.id.pid} for change in changes
    ]
    return {
        "namespec": watched.name,
        "kind": last.kind,
        "evidence": last.evidence,
        "watched": watched.seconds,
        "total": detectors.total(last),
        "master": master,
        "workers": workers,
        "low_anon": {str(id): low for id, low in lows.items()},
        "changes": compared,
        "since": last.at - before["saved"] if before and before.get("saved") else None,
        "gone": runs.gone(last.workers, before) if before else [],
        "found": found + _grown(compared),
        "advice": list(advice.lines(watched.options, last, watched.past, watched.verdicts)),
        "stands_out": _stands_out(workers),
        "surer": _surer(watched, everyone),
        "enough": all(worker["judgement"] not in _OPEN for worker in workers),
    }


# No verdict, and none to be had without more of something.
GROWS, WARM_UP, EARLY, IDLE, HEALTHY = "grows", "warming up", "too early", "idle", "healthy"
_OPEN = (GROWS, WARM_UP, EARLY, IDLE)


def _worker(watched: Watched, worker: Worker, role: str) -> dict[str, Any]:
    last = watched.snapshots[-1]
    verdicts = watched.verdicts.get(worker.id, ())
    trend = detectors.trend(watched.past, worker.id)
    shown = report.worker_json(
        worker,
        last.at,
        verdicts,
        trend=trend,
        headroom=detectors.headroom(watched.options, last, worker),
        hours=detectors.hours_to_limit(watched.options, last, worker, trend),
    )
    seen = list(_seen(watched, worker.id))
    first = seen[0]
    shown |= {
        "role": role,
        "readable": worker.exact is not False and worker.fds is not None,
        "watched": last.at - first[0],
        "cpu_spent": _less(worker.cpu, first[1].cpu),
        "requests_served": _less(worker.requests, first[1].requests),
        "buckets": _buckets(watched, worker.id),
        "files": _growth(FEW_FILES, [each.fds for _, each in seen]),
        "threads_grown": _growth(FEW_THREADS, [each.threads for _, each in seen]),
        "new_files": [each._asdict() for each in watched.files.get(worker.id, ())],
    }
    judgement, confidence = _judgement(shown, verdicts)
    return {**shown, "judgement": judgement, "confidence": confidence}


def _seen(watched: Watched, id: WorkerId) -> Iterable[tuple[float, Worker]]:
    for snapshot in watched.snapshots:
        for worker in (*snapshot.workers, *([snapshot.master] if snapshot.master else [])):
            if worker.id == id:
                yield snapshot.at, worker


def _low(watched: Watched, worker: Worker) -> int:
    return min(each.anon or 0 for _, each in _seen(watched, worker.id))


def _buckets(watched: Watched, id: WorkerId) -> int:
    life = watched.past.lives.get(id)
    return len(life.series.points()) if life is not None and life.warm else 0


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
    if worker["buckets"] < WINDOW or worker["trend"] is None:
        return EARLY, None
    if _is_idle(worker):
        return IDLE, None
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


def _grown(changes: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the comparison with an earlier run found."""
    bad = [change for change in changes if change["found"] in (runs.LEAK, runs.GREW)]
    return [f"worker {change['pid']}: {change['found']}: {change['why']}" for change in bad]


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
        text = f"worker {worker['pid']} holds {units.size(held)}, its siblings {units.size(usual)}"
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


def sure(confidence: float) -> str:
    """`very likely (90 %)`."""
    words = ("possible", "likely", "very likely", "almost certain")
    return f"{words[sum(confidence >= bound for bound in (0.6, 0.8, 0.95))]} ({confidence:.0%})"


def _surer(watched: Watched, everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """What would make it surer; sentences."""
    said = []
    workers = [each for each in everyone if each["role"] != "master"]
    wait, why = max((_wait(watched, each) for each in workers), default=(0.0, ""))
    if wait > 0 and (watched.seconds or not watched.before):
        wait = _rounded(min(wait, LONGEST))
        whole = units.time(_rounded(wait + watched.seconds)).replace(" ", "")
        said.append(f"watch {units.time(wait)} more ({why}): --for {whole}")
    idle = [str(each["pid"]) for each in workers if each["judgement"] == IDLE]
    if idle:
        who = "all" if len(idle) == len(workers) else f"worker{'s' * (len(idle) > 1)}"
        names = "workers" if len(idle) == len(workers) else ", ".join(idle)
        said.append(f"send requests meanwhile: {who} {names} did nothing, and that proves nothing")
    if any(each["judgement"] in (*LEAKING, GROWS) for each in workers):
        said.append(
            "send it the same requests again, between --save and --since: a cache that has "
            "filled costs nothing the second time, a leak as much again"
        )
    if not all(each["readable"] for each in everyone):
        said.append("run it as root, or as the program's user: PSS, USS and open files are hidden")
    return said


def _wait(watched: Watched, worker: Mapping[str, Any]) -> tuple[float, str]:
    """How many seconds more would tell more of a worker, and why."""
    options, judgement, trend = watched.options, worker["judgement"], worker["trend"]
    who = f"{worker['role']} {worker['pid']}"
    window = (WINDOW + 2) * options.confirm if watched.seconds else 60.0
    seen = max(worker["watched"], 1.0)
    wait, why = 0.0, ""
    if judgement == WARM_UP:
        left = max(options.warmup - (worker["age"] or 0.0), 0.0)
        wait, why = left + window, f"{who} is still warming up"
    elif judgement == EARLY:
        missing = (WINDOW + 1 - worker["buckets"]) * options.confirm
        wait = max(missing, 1.0) if watched.seconds else window
        why = "that was too short for a window of the detectors"
    elif judgement == GROWS:
        wait, why = _until_clear(seen, trend), f"{who} grows, and why is not clear yet"
    elif judgement in LEAKING and (worker["confidence"] or 0.0) < 0.95:
        wait, why = seen, f"growth of {who} that goes on for twice as long is surer"
    elif judgement == HEALTHY and trend["low"] / HOUR > CREEP:
        # What healthy workers drift by rises with the third root of the time, a leak with the time.
        clear = (growth.drift(1.0) / (trend["low"] / HOUR)) ** 1.5
        wait, why = max(clear - seen, seen), f"{who} creeps: drift or a slow leak"
    elif judgement == HEALTHY and trend["high"] / HOUR > RULED_OUT:
        # The interval of a slope shrinks with the time to the power of 1.5.
        factor = (trend["high"] / HOUR / WANTED) ** (2 / 3)
        wait, why = seen * (factor - 1), f"{who}'s noise could hide slow growth"
    return wait, why


def _until_clear(seen: float, trend: Mapping[str, float] | None) -> float:
    """Until the trend's interval is half as wide as the trend is steep; as long again at least."""
    if trend is None or trend["bytes_per_hour"] <= 0:
        return seen
    half = (trend["high"] - trend["low"]) / 2
    return float(seen * max(1.0, (2 * half / trend["bytes_per_hour"]) ** (2 / 3) - 1))


def _rounded(seconds: float) -> float:
    """Up to full minutes, below two minutes to ten seconds."""
    step = MINUTE if seconds > 2 * MINUTE else 10.0
    return step * -(-seconds // step)


# -- words ---------------------------------------------------------------------------------


def text(program: Mapping[str, Any], since: str | None = None, block: str = "#") -> str:
    """One program as people read it. `since`: the file it is compared with; `block`: what bars
    are made of."""
    in_table = _grown(program["changes"])
    said = [
        *_weak_evidence(program),
        *[line for line in program["found"] if line not in in_table],
        *program["advice"],
        *program["stands_out"],
    ]
    summary = _summary(program) + (_not_compared(program, since) if since else [])
    lines = [
        _title(program),
        _table(program, block),
        *[f"  {line}" for line in said],
        *_compared(program, block),
        *[f"  => {line}" for line in summary],
        *[f"  surer: {line}" for line in program["surer"]],
    ]
    return "\n".join(lines)


def _title(program: Mapping[str, Any]) -> str:
    count = len(program["workers"])
    workers = f"{count} worker{'s' * (count != 1)}, " if program["kind"] == "gunicorn" else ""
    title = f"{units.printable(program['namespec'])}: {workers}{units.size(program['total'])}"
    seconds = program["watched"]
    return f"{title} in all" + (f", watched for {units.time(seconds)}" if seconds else "")


def _table(program: Mapping[str, Any], block: str) -> str:
    people = [*([program["master"]] if program["master"] else []), *program["workers"]]
    head = ["  ", "PID", "AGE", "RSS", "PSS", "USS", "ANON", " " * BAR, "WORK", "GROWTH", "VERDICT"]
    largest = max((person["anon"] or 0 for person in program["workers"]), default=0)
    rows = [
        [
            f"  {person['role']}",
            str(person["pid"]),
            units.time(person["age"]),
            *(units.size(person[key]) for key in ("rss", "pss", "uss", "anon")),
            bar(person["anon"] if person["role"] != "master" else None, largest, block),
            _work_words(person),
            _growth_words(person["trend"]),
            _verdict_words(person),
        ]
        for person in people
    ]
    return report.table(head, rows)


def _weak_evidence(program: Mapping[str, Any]) -> list[str]:
    how = program["evidence"]
    if how not in ("title", "cmdline"):
        return []
    return [
        f"workers told apart by {how} only: as root, or as the program's user, heartbeat files "
        "would make it sure"
    ]


def bar(value: float | None, largest: float, block: str) -> str:
    """As long as the value is large, of BAR characters."""
    if not value or largest <= 0:
        return " " * BAR
    return (block * max(1, round(BAR * min(value / largest, 1.0)))).ljust(BAR)


def _work_words(person: Mapping[str, Any]) -> str:
    """What it did while it was watched, and the work of its life."""
    if person["requests"] is not None:
        served = f"{person['requests_served'] or 0:.0f} of " if person["watched"] else ""
        return f"{served}{person['requests']} requests"
    whole = report.cpu_words(person["cpu"])
    return whole if not person["watched"] else f"{person['cpu_spent'] or 0:.2f}s of {whole}"


def _growth_words(trend: Mapping[str, float] | None) -> str:
    """`+3.1MB/min (2.9 to 3.3)`."""
    if trend is None:
        return ""
    per_minute = [trend[name] * MINUTE / HOUR for name in ("bytes_per_hour", "low", "high")]
    if max(map(abs, per_minute)) < 50 * KB:
        return "0"
    rate, low, high = (f"{value / MB:+.1f}" for value in per_minute)
    return f"{rate}MB/min ({low} to {high})"


def _verdict_words(person: Mapping[str, Any]) -> str:
    judgement, trend = person["judgement"], person["trend"]
    if judgement == GROWS:
        return "grows: not confirmed"
    if person["role"] == "master" and judgement in (*_OPEN, HEALTHY):
        return ""
    if judgement == WARM_UP:
        return report.verdict_words(person["verdicts"])
    if judgement == EARLY:
        return "not enough to tell"
    if judgement == IDLE:
        return "idle: nothing to tell"
    if judgement != HEALTHY:
        return f"{judgement}: {sure(person['confidence'] or 0.0)}"
    words = "healthy: "
    known = [v for v in person["verdicts"] if v["kind"] in detectors.INFORMATIVE]
    if known:
        return words + "; ".join(verdict["why"] for verdict in known)
    if trend["high"] <= 0:
        return words + "does not grow (95%)"
    if trend["low"] / HOUR > CREEP:
        return words + "creeps, as healthy ones do for a while"
    return words + f"less than {units.rate(trend['high'] / HOUR)} (95%)"


def _compared(program: Mapping[str, Any], block: str) -> list[str]:
    """Before and after, each worker a line."""
    changes = program["changes"]
    if not changes:
        return []
    largest = max(change["after"] for change in changes)
    rows = [
        [
            f"  worker {change['pid']}",
            "new" if change["before"] is None else units.size(change["before"]),
            units.size(change["after"]),
            bar(change["after"], largest, block),
            _found_words(change),
            change["why"],
        ]
        for change in changes
    ]
    since, held = program["since"], [change["after"] for change in changes]
    lines = [] if since is None else [f"  compared with {units.time(since)} ago:"]
    lines.append(report.table(["  ", "BEFORE", "NOW", " " * BAR, "", ""], rows))
    if len(held) > 1 and not program["stands_out"]:
        least, most = units.size(min(held)), units.size(max(held))
        lines.append(f"  the workers hold about the same: {least} to {most}")
    return lines


def _found_words(change: Mapping[str, Any]) -> str:
    if change["found"] in (runs.LEAK, runs.SETTLED):
        return f"{change['found']}: {sure(change['confidence'])}"
    return "" if change["found"] == runs.NEW else str(change["found"])


def _summary(program: Mapping[str, Any]) -> list[str]:
    changes = program["changes"]
    found = {change["found"] for change in changes}
    leaks = [c for c in changes if c["found"] == runs.LEAK]
    said = []
    if leaks:
        pids = ", ".join(str(change["pid"]) for change in leaks)
        said.append(
            f"a leak, {sure(max(change['confidence'] for change in leaks))}: worker"
            f"{'s' * (len(leaks) > 1)} {pids} grew again for the same work"
        )
    grew = [change for change in changes if change["found"] == runs.GREW]
    if grew and all(change["idle"] for change in grew):
        said.append(
            "what grew did no work: look at threads, timers and background tasks, and watch it "
            "with --for 10m"
        )
    elif grew:
        said.append(
            "holds on to what the run left: a cache that filled, or a leak (one run cannot tell). "
            "Save again, do the same run once more, and compare: a cache stays, a leak grows by "
            "as much again"
        )
    if runs.UNCLEAR in found:
        said.append("too little work since then to tell: do the same run again, in full")
    if runs.SETTLED in found and not leaks:
        said.append(
            "what grew in the run before has settled: if this was the same run, it is no leak but "
            "a cache that has filled"
        )
    bad = [p for p in program["workers"] if p["judgement"] in LEAKING]
    if bad:
        surest = max(person["confidence"] for person in bad)
        count = f"{len(bad)} of {len(program['workers'])} workers leak{'s' * (len(bad) == 1)}"
        said.append(f"{count if program['kind'] == 'gunicorn' else 'it leaks'}, {sure(surest)}")
    if said:
        return said
    if program["found"]:
        return [f"found: {len(program['found'])}, as above"]
    old = [change for change in changes if change["found"] != runs.NEW]
    if old and all(map(_did_nothing, old)):
        return ["no worker did any work meanwhile: that proves nothing; do the run, then compare"]
    if old and len(old) == len(changes):
        return ["every worker holds about what it held before"]
    if old:
        return ["the workers that were there before hold about what they held then"]
    return [_nothing_found(program)]


def _nothing_found(program: Mapping[str, Any]) -> str:
    seconds = program["watched"]
    states = {worker["judgement"] for worker in program["workers"]}
    if not seconds:
        return "one look tells how much, not whether it grows: watch it with --for 60s"
    if program["enough"]:
        return f"no worker grows or stands out, as far as {units.time(seconds)} can tell"
    if GROWS in states:
        return f"something grows, and {units.time(seconds)} cannot tell what: watch it longer"
    if WARM_UP in states:
        return "not enough to tell: a worker is still warming up"
    if EARLY in states:
        return f"not enough to tell in {units.time(seconds)}"
    if HEALTHY in states:
        return "no worker that did anything grows; of the idle ones nothing can be told"
    return "not enough to tell: no worker did anything meanwhile"


def _not_compared(program: Mapping[str, Any], since: str) -> list[str]:
    """What `--since` was asked for and could not tell."""
    changes = program["changes"]
    new = [str(change["pid"]) for change in changes if change["found"] == runs.NEW]
    if not changes:
        return [f"not in {units.printable(since)}: nothing to compare"]
    if len(new) == len(changes):
        return ["no worker of before is left: nothing to compare"]
    if not new:
        return []
    left = f" (gone since: {', '.join(program['gone'])})" if program["gone"] else ""
    return [f"not compared, as they are new: workers {', '.join(new)}{left}"]


def _did_nothing(change: Mapping[str, Any]) -> bool:
    """Known to have answered no request, or to have used next to no CPU time."""
    work = change["work"]
    return work is not None and work <= (0 if change["unit"] == "request" else 0.05)
