"""`memwatch audit`: is my application leaking? From any terminal, with or without Supervisor.

Finds gunicorn masters, watches them for a while with the listener's own detectors at a finer
step, and says of each worker what it saw. `--save` before a test run and `--since` after it
compare each worker with itself, its idle siblings being the control: `compare` is that rule.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import __version__, detectors, report, topology, units
from .config import named
from .model import RUNNING, WARMING_UP, Snapshot, Verdict, Worker, WorkerId
from .options import Options
from .sampler import Program, Sampler
from .units import HOUR, MB, MINUTE

BUCKETS = 14.0  # the watch is cut into so many steps; the first window of a leak is 10 of them
# Growth between two looks at a worker that is no more than this is noise.
LEAST = 4 * MB
SHARE = 0.05
IDLE = 0.1  # of the busiest sibling's CPU time: less is idle


class AuditError(Exception):
    """The audit could not be made; the text says why and what to do."""


class Subject(NamedTuple):
    """One gunicorn, or plain program, to be audited, and what `--save` kept of it."""

    name: str
    pid: int
    before: Mapping[str, Any] | None = None


class Change(NamedTuple):
    """One worker between two looks: bytes and CPU seconds."""

    id: WorkerId
    grown: int  # anonymous memory
    beyond: int  # what idle siblings' growth does not explain
    cpu: float | None
    idle: bool
    before: int | None  # `beyond` of the run before, where it was kept
    found: str  # "leak", "grew", "settled", "same" or "new"
    why: str


def run(
    names: Sequence[str],
    seconds: float,
    *,
    save: str | None,
    since: str | None,
    as_json: bool,
    namespecs: Callable[[], Mapping[str, int]],
) -> int:
    """Audit and print; 0 healthy or not enough to tell, 1 something was found.

    `namespecs` gives Supervisor's running programs where a name is not a pid. Raises AuditError.
    """
    saved = _read_saved(since) if since else None
    if save:
        _try_to_save(save)
    subjects = _subjects(names, namespecs)
    if since and saved is not None:
        subjects = _matched(subjects, since, saved)
    programs = [_program(*watched) for watched in _watch(subjects, seconds)]
    if save:
        _save(save, programs)
    if as_json:
        document = {"version": __version__, "time": time.time(), "programs": programs}
        print(json.dumps(document, indent=2))
    else:
        print("\n\n".join(_text(program, seconds, since) for program in programs))
    return 1 if any(program["found"] for program in programs) else 0


# -- what is audited ---------------------------------------------------------------------


def _subjects(names: Sequence[str], namespecs: Callable[[], Mapping[str, int]]) -> list[Subject]:
    if not names:
        trees = topology.masters()
        if not trees:
            raise AuditError(
                "no gunicorn master is seen (as another user's it may be hidden: try as root, or "
                "name its pid)"
            )
        return [Subject(_label(tree), tree.root.pid) for tree in trees]
    running: Mapping[str, int] | None = None
    subjects = []
    for name in names:
        if name.isascii() and name.isdigit() and len(name) < 20:
            found = topology.tree_of(int(name))
            if found is None and os.path.exists(f"{topology.PROC}/{name}"):
                raise AuditError(f"process {name} is no gunicorn's: name a program of Supervisor's")
            if found is None:
                raise AuditError(f"no process {name}")
            subjects.append(Subject(_label(found), _one_master(found).pid))
            continue
        running = namespecs() if running is None else running
        meant = [Subject(spec, pid) for spec, pid in running.items() if named(name, spec)]
        if not meant:
            raise AuditError(
                f"{units.printable(name)}: not a running program of Supervisor's; running: "
                + (_listed(running) or "none")
            )
        subjects += meant
    return list({subject.pid: subject for subject in subjects}.values())


def _one_master(tree: topology.Tree) -> WorkerId:
    """The master that a pid means. Raises AuditError where there are several below it."""
    if tree.masters > 1:
        raise AuditError(
            f"{tree.masters} gunicorn masters below process {tree.root.pid}: name one of them by "
            "its pid, or no process at all for an audit of each"
        )
    return tree.master or tree.root


def _listed(names: Iterable[str]) -> str:
    return ", ".join(units.printable(name) for name in sorted(names))


def _label(tree: topology.Tree) -> str:
    """What a master found by itself is called: its title or command, and its pid."""
    pid = tree.master.pid if tree.master else tree.root.pid
    try:
        with open(f"{topology.PROC}/{pid}/cmdline", "rb") as file:
            words = file.read(4096).decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError:
        words = ""
    title, found, rest = words.partition("gunicorn: master [")
    name = rest.partition("]")[0] if found and not title else words.split(" ")[-1]
    return units.printable(f"{name or 'gunicorn'} (pid {pid})", 80)


def _matched(
    subjects: Sequence[Subject], path: str, saved: Sequence[Mapping[str, Any]]
) -> list[Subject]:
    """Each with what FILE has of it: by its processes, else (all are new) by its name.

    Raises AuditError where FILE has nothing of any.
    """
    matched = []
    for subject in subjects:
        tree = topology.discover(subject.pid)
        now = {str(id) for id in (tree.root, tree.master, *tree.workers)} if tree else set()
        same = [program for program in saved if now & _ids(program)]
        same += [program for program in saved if program["namespec"] == subject.name]
        matched.append(subject._replace(before=same[0] if same else None))
    if not any(subject.before for subject in matched):
        here = _listed(subject.name for subject in subjects)
        there = _listed(program["namespec"] for program in saved) or "no program"
        raise AuditError(f"--since {path}: nothing in it is of {here}; it has {there}")
    return matched


def _ids(program: Mapping[str, Any]) -> set[str]:
    """The ids of a kept program's master and workers."""
    people = [*program["workers"], *([program["master"]] if program.get("master") else [])]
    return {worker["id"] for worker in people}


Watched = tuple[
    Subject,
    list[Snapshot],
    dict[WorkerId | None, tuple[Verdict, ...]],
    detectors.Past,
    Options,
]


def _watch(subjects: Sequence[Subject], seconds: float) -> list[Watched]:
    """Look at all of them for `seconds`; a progress line on a terminal."""
    step = 1.0 if seconds <= 300 else 5.0
    options = Options(confirm=max(step, seconds / BUCKETS), total_limit=None)
    watched: list[Watched] = [(s, [], {}, detectors.Past(), options) for s in subjects]
    sampler = Sampler()
    begun = time.monotonic()
    while True:
        at, passed = time.time(), time.monotonic() - begun
        edge = passed == 0 or passed + step > seconds or len(watched[0][1]) == 0
        for i, (subject, snapshots, _, past, _) in enumerate(watched):
            program = Program(subject.name, RUNNING, subject.pid, None)
            snapshot = sampler.look(program, at)
            if edge:
                everyone = [snapshot.master, *snapshot.workers] if snapshot.master else []
                ids = [worker.id for worker in everyone or snapshot.workers]
                snapshot = sampler.look(program, at, ids)
            if snapshot.workers:
                detectors.remember(options, past, snapshot)
                snapshots.append(snapshot)
                verdicts = detectors.examine(options, snapshot, past)
                watched[i] = (subject, snapshots, verdicts, past, options)
        _progress(passed, seconds)
        if passed >= seconds:
            break
        time.sleep(min(step, max(0.0, seconds - passed)))
    for subject, snapshots, *_ in watched:
        if not snapshots:
            raise AuditError(f"{subject.name}: no worker was seen")
    return watched


def _progress(passed: float, seconds: float) -> None:
    if not sys.stderr.isatty() or not seconds:
        return
    text = f"\rwatching: {units.time(passed)} of {units.time(seconds)} "
    print(text if passed < seconds else "\r" + " " * len(text) + "\r", end="", file=sys.stderr)
    sys.stderr.flush()


# -- what is said of it ------------------------------------------------------------------


def _program(
    subject: Subject,
    snapshots: Sequence[Snapshot],
    verdicts: Mapping[WorkerId | None, tuple[Verdict, ...]],
    past: detectors.Past,
    options: Options,
) -> dict[str, Any]:
    """One program's part of the document."""
    last = snapshots[-1]
    lows = {
        worker.id: min(
            (seen.anon or 0) for s in snapshots for seen in s.workers if seen.id == worker.id
        )
        for worker in last.workers
    }
    workers = [_worker(worker, last, verdicts, past, options) for worker in last.workers]
    changes = compare(lows, last.workers, subject.before) if subject.before else []
    told = [
        f"worker {worker['pid']}: {verdict['kind']}: {verdict['why']}"
        for worker in workers
        for verdict in worker["verdicts"]
        if verdict["told"]
    ]
    told += [f"worker {c.id.pid}: {c.why}" for c in changes if c.found in ("leak", "grew")]
    return {
        "namespec": subject.name,
        "kind": last.kind,
        "evidence": last.evidence,
        "total": detectors.total(last),
        "master": _worker(last.master, last, verdicts, past, options) if last.master else None,
        "workers": workers,
        "low_anon": {str(id): low for id, low in lows.items()},
        "changes": [_change_json(change) for change in changes],
        "found": told,
        "enough": _enough(past, last) and not any(map(_is_open, workers)),
    }


def _is_open(worker: Mapping[str, Any]) -> bool:
    """Something seems to be the matter, and more time would tell."""
    suspected = any(
        not verdict["told"] and verdict["kind"] not in detectors.INFORMATIVE
        for verdict in worker["verdicts"]
    )
    return suspected or _rises(worker)


def _rises(worker: Mapping[str, Any]) -> bool:
    """No verdict, but a trend that is not noise: +1 MB in a minute, at the least."""
    trend = worker["trend"]
    told = any(verdict["told"] for verdict in worker["verdicts"])
    return trend is not None and not told and trend["low"] / HOUR * MINUTE > MB


def _worker(
    worker: Worker,
    last: Snapshot,
    verdicts: Mapping[WorkerId | None, tuple[Verdict, ...]],
    past: detectors.Past,
    options: Options,
) -> dict[str, Any]:
    return report.worker_json(
        worker,
        last.at,
        verdicts.get(worker.id, ()),
        trend=detectors.trend(past, worker.id),
        headroom=detectors.headroom(options, last, worker),
    )


def _enough(past: detectors.Past, last: Snapshot) -> bool:
    """Whether each worker, past its warm-up, was watched for the detectors' first window."""
    lives = [past.lives.get(worker.id) for worker in last.workers]
    return all(life and life.warm and len(life.series.points()) >= 10 for life in lives)


def compare(
    lows: Mapping[WorkerId, int], workers: Sequence[Worker], before: Mapping[str, Any]
) -> list[Change]:
    """Each worker with itself before a run. `before`: a program as `--save` kept it.

    What idle siblings grew by (their median) is not the run's doing. What a worker grew by
    beyond that, it holds on to: a leak, or a cache that filled. The same run again tells: kept
    files remember the growth of the run before, a leak repeats it, a cache does not.
    """
    old = {worker["id"]: worker for worker in before["workers"]}
    kept = {change["id"]: change["beyond"] for change in before.get("changes", ())}
    spent = {
        worker.id: worker.cpu - old[str(worker.id)]["cpu"]
        for worker in workers
        if str(worker.id) in old and worker.cpu is not None and old[str(worker.id)]["cpu"]
    }
    busiest = max(spent.values(), default=0.0)
    grown = {
        worker.id: lows[worker.id] - before["low_anon"][str(worker.id)]
        for worker in workers
        if str(worker.id) in before["low_anon"]
    }
    idle = {id for id, cpu in spent.items() if busiest > 0 and cpu < IDLE * busiest}
    controls = sorted(grown[id] for id in idle if id in grown)
    control = controls[len(controls) // 2] if controls else 0
    changes = []
    for worker in workers:
        id = worker.id
        if id not in grown:
            changes.append(Change(id, 0, 0, None, False, None, "new", "not there before"))
            continue
        beyond = grown[id] - (control if id not in idle else 0)
        earlier = kept.get(str(id))
        noise = max(LEAST, int(SHARE * before["low_anon"][str(id)]))
        words = f"{units.signed_size(grown[id])} anonymous memory"
        if controls and id not in idle:
            words += f" ({units.signed_size(control)} in idle siblings)"
        if spent.get(id) is not None:
            words += f" in {spent[id]:.1f} s of CPU"
        if earlier is not None:
            words += f", {units.signed_size(earlier)} in the run before"
        found = _judge(beyond, noise, earlier)
        changes.append(
            Change(id, grown[id], beyond, spent.get(id), id in idle, earlier, found, words)
        )
    return changes


def _judge(beyond: int, noise: int, earlier: int | None) -> str:
    if beyond <= noise:
        return "settled" if earlier is not None and earlier > noise else "same"
    if earlier is not None and earlier > noise:
        return "leak" if beyond >= earlier / 2 else "settled"
    return "grew"


def _change_json(change: Change) -> dict[str, Any]:
    return {**change._asdict(), "id": str(change.id), "pid": change.id.pid}


def _text(program: Mapping[str, Any], seconds: float, since: str | None) -> str:
    """One program as people read it."""
    lines = [f"{units.printable(program['namespec'])}: {units.size(program['total'])} in all"]
    people = [("worker", worker) for worker in program["workers"]]
    if program["master"]:
        people.insert(0, ("master", program["master"]))
    head = ["  ", "PID", "AGE", "RSS", "PSS", "USS", "ANON", "CPU", "TREND", "VERDICT"]
    rows = [
        [
            f"  {role}",
            str(worker["pid"]),
            units.time(worker["age"]),
            *(units.size(worker[key]) for key in ("rss", "pss", "uss", "anon")),
            report.cpu_words(worker["cpu"]),
            report.trend_words(worker["trend"]),
            _words(worker, role, program["enough"]),
        ]
        for role, worker in people
    ]
    lines.append(report.table(head, rows))
    if program["evidence"] in ("title", "cmdline"):
        lines.append(
            f"  workers told apart by {program['evidence']} only: as root, or as the program's "
            "user, heartbeat files would make it sure"
        )
    lines += [
        f"  worker {change['pid']}: {change['found']}: {change['why']}"
        for change in program["changes"]
        if change["found"] != "same"
    ]
    lines.append("  => " + _summary(program, seconds))
    if since:
        lines += [f"  => {text}" for text in _not_compared(program, since)]
    return "\n".join(lines)


def _words(worker: Mapping[str, Any], role: str, enough: bool) -> str:
    words = report.verdict_words(worker["verdicts"])
    if _is_open(worker):
        return f"{words or 'grows'}: not confirmed"
    if words or role == "master":
        return words
    return "healthy" if enough else "not enough to tell"


def _summary(program: Mapping[str, Any], seconds: float) -> str:
    if any(change["found"] == "grew" for change in program["changes"]):
        return (
            "holds on to what the run left: a cache that filled, or a leak. Save again, do the "
            "same run once more, and compare: a cache stays, a leak grows by as much again"
        )
    if program["found"]:
        return f"found: {len(program['found'])}, as the table says"
    old = [change for change in program["changes"] if change["found"] != "new"]
    if old and len(old) == len(program["changes"]):
        return "every worker holds about what it held before"
    if old:
        return "the workers that were there before hold about what they held then"
    if program["enough"]:
        return f"no worker grows or stands out, as far as {units.time(seconds)} can tell"
    if not seconds:
        return "one look tells how much, not whether it grows: watch it with --for 60s"
    if any(map(_is_open, program["workers"])):
        return f"something grows, and {units.time(seconds)} cannot tell what: watch it longer"
    young = any(
        verdict["kind"] == WARMING_UP
        for worker in program["workers"]
        for verdict in worker["verdicts"]
    )
    if young:
        return "not enough to tell: a worker younger than 2m is still warming up"
    return f"not enough to tell in {units.time(seconds)}: watch it for 60s"


def _not_compared(program: Mapping[str, Any], since: str) -> list[str]:
    """What `--since` was asked for and could not tell."""
    changes = program["changes"]
    new = [str(change["pid"]) for change in changes if change["found"] == "new"]
    if not changes:
        return [f"not in {units.printable(since)}: nothing to compare"]
    if len(new) == len(changes):
        return ["no worker of before is left: nothing to compare"]
    return [f"not compared, as they are new: workers {', '.join(new)}"] if new else []


# -- the kept file -----------------------------------------------------------------------


def _boot() -> str:
    """Start times, and so ids, are those of one boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _open_to_save(path: str, flags: int) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        raise AuditError(f"--save {path}: {error.strerror}") from None


def _try_to_save(path: str) -> None:
    """Better before the watch than after it. What is there stays as it is. Raises AuditError."""
    there = os.path.lexists(path)
    os.close(_open_to_save(path, 0))
    if not there:
        os.unlink(path)


def _save(path: str, programs: Sequence[Mapping[str, Any]]) -> None:
    document = {"memwatch": "audit", "v": 1, "boot": _boot(), "programs": programs}
    try:
        with open(_open_to_save(path, os.O_TRUNC), "w") as file:
            json.dump(document, file)
    except OSError as error:
        raise AuditError(f"--save {path}: {error.strerror}") from None


def _read_saved(path: str) -> list[Mapping[str, Any]]:
    """The programs as `--save` kept them. Raises AuditError."""
    try:
        with open(path) as file:
            document = json.load(file)
        if document["memwatch"] != "audit" or document["v"] != 1:
            raise KeyError
        programs: list[Mapping[str, Any]] = document["programs"]
        boot = document["boot"]
        for program in programs:
            _shape_of_saved(program)
    except OSError as error:
        raise AuditError(f"--since {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuditError(f"--since {path}: not a file that `memwatch audit --save` made") from None
    if boot != _boot():
        raise AuditError(f"--since {path}: the machine was booted since: its workers are gone")
    return programs


def _shape_of_saved(program: Mapping[str, Any]) -> None:
    """What is read of it is there. Raises KeyError or TypeError where it is not."""
    _ = program["namespec"] + "", {id + "" for id in _ids(program)}
    for worker in program["workers"]:
        _ = worker["id"], 0 + (worker["cpu"] or 0)
    for change in program["changes"]:
        _ = change["id"], 0 + change["beyond"]
    _ = [0 + program["low_anon"][worker["id"]] for worker in program["workers"]]
