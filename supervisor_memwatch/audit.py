"""`memwatch audit`: is my application leaking? From any terminal, with or without Supervisor.

Finds gunicorn masters (or the program that was named), watches them for a while with the listener's
own detectors at a finer step, and prints what appraisal.py makes of it. `--save` before a test run
and `--since` after it compare each worker with itself (runs.py); `--record` writes what was seen in
the format that `memwatch replay` reads. Here are the processes, the clock and the files.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TextIO

import psutil

from . import (
    __version__,
    appraisal,
    detectors,
    host,
    openfiles,
    recording,
    topology,
    units,
    wording,
)
from .config import named
from .model import RUNNING, Snapshot, Verdict, Worker, WorkerId
from .options import Options
from .sampler import Program, Sampler

BUCKETS = 14.0  # the watch is cut into so many steps; the first window of a leak is 10 of them
COARSEST = 30.0  # seconds of a step, however long the watch is
MANY = 2000  # looks that are kept; of a longer watch half of them


_APPLICATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(.*\))?")  # module:name


class AuditError(Exception):
    """The audit could not be made; the text says why and what to do."""


class Subject(NamedTuple):
    """One gunicorn, or plain program, to be audited, and what `--save` kept of it."""

    name: str
    pid: int
    options: Options = Options()
    before: Mapping[str, Any] | None = None
    command: str = "memwatch audit"  # that audits it, and only it


@dataclass
class _Watch:
    """One subject while it is watched."""

    subject: Subject
    options: Options
    snapshots: list[Snapshot] = field(default_factory=list)
    past: detectors.Past = field(default_factory=detectors.Past)
    verdicts: Mapping[WorkerId | None, tuple[Verdict, ...]] = field(default_factory=dict)
    files: dict[WorkerId, dict[int, str]] = field(default_factory=dict)  # as first seen
    left: dict[WorkerId, dict[str, Any]] = field(default_factory=dict)  # as they were judged
    unseen: float | None = None  # since when there is nothing to be seen of it


def run(
    names: Sequence[str],
    seconds: float,
    *,
    save: str | None,
    since: str | None,
    as_json: bool,
    namespecs: Callable[[], Mapping[str, int]],
    record: str | None = None,
    options: Callable[[str], Options] = lambda namespec: Options(),
    file: str | None = None,
) -> int:
    """Audit and print; 0 healthy or not enough to tell, 1 something was found.

    `namespecs` gives Supervisor's running programs where a name is not a pid, `options` what the
    configuration has for one of them, `file` is the configuration's where one was named. Raises
    AuditError.
    """
    saved = _read_saved(since) if since else None
    for option, path in (("save", save), ("record", record)):
        if path:
            _try_to_write(option, path)
    command = shlex.join(["memwatch", "audit", *(["-c", file] if file else [])])
    subjects = _subjects(names, namespecs, options, command, file is not None)
    if since and saved is not None:
        subjects = _matched(subjects, since, saved)
    if record and len(subjects) > 1:
        raise AuditError(
            f"--record holds one program: name one of {_listed(s.name for s in subjects)}"
        )
    watched = _watched(subjects, seconds, record)
    compared_with = shlex.quote(since or save or "FILE")
    programs = [appraisal.document(each._replace(file=compared_with)) for each in watched]
    if save:
        _save(save, programs)
    if as_json:
        document = {"version": __version__, "time": time.time(), "programs": programs}
        print(json.dumps(document, indent=2))
    else:
        block, width = _block(sys.stdout), _width(sys.stdout)
        print("\n\n".join(wording.text(program, since, block, width) for program in programs))
    return 1 if any(program["found"] for program in programs) else 0


def _block(stream: TextIO) -> str:
    """What bars are made of, as far as the terminal knows it."""
    try:
        "\u2588".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return "#"
    return "\u2588"


def _width(stream: TextIO) -> int | None:
    """Of the terminal; None for a file or a pipe, where lines are as long as they are."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


# -- what is audited ---------------------------------------------------------------------


def _subjects(
    names: Sequence[str],
    namespecs: Callable[[], Mapping[str, int]],
    options: Callable[[str], Options],
    command: str,
    configured: bool,
) -> list[Subject]:
    """`configured`: what is found by itself, or named by its pid, is looked up in Supervisor."""
    running: Mapping[str, int] | None = namespecs() if configured else None

    def subject(spec: str, pid: int) -> Subject:
        return Subject(spec, pid, options(spec), command=f"{command} {shlex.quote(spec)}")

    def by_pid(tree: topology.Tree, pid: int) -> Subject:
        above = {pid, *_parents(pid)} if running else set()
        for spec, its in (running or {}).items():
            if its in above:
                return subject(spec, pid)
        return Subject(_label(tree), pid, command=f"memwatch audit {pid}")

    if not names:
        trees = topology.masters()
        if not trees:
            raise AuditError(
                "no gunicorn master is seen (as another user's it may be hidden: try as root, or "
                "name its pid)"
            )
        return [by_pid(tree, tree.root.pid) for tree in trees]
    subjects = []
    for name in names:
        if name.isascii() and name.isdigit() and len(name) < 20:
            found = topology.tree_of(int(name))
            if found is None:
                found = topology.discover(int(name))  # a plain program
            if found is None:
                raise AuditError(f"no process {name}")
            subjects.append(by_pid(found, _one_master(found).pid))
            continue
        running = namespecs() if running is None else running
        meant = [subject(spec, pid) for spec, pid in running.items() if named(name, spec)]
        if not meant:
            raise AuditError(
                f"{units.printable(name)}: not a running program of Supervisor's; running: "
                + (_listed(running) or "none")
            )
        subjects += meant
    return list({subject.pid: subject for subject in subjects}.values())


def _parents(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).parents()]
    except psutil.Error:
        return []


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
    if found and not title:
        name = rest.partition("]")[0]
    elif tree.master:
        name = next(filter(_APPLICATION.fullmatch, words.split(" ")), words.split(" ")[-1])
    else:
        name = _command(words.split(" "))
    return units.printable(f"{name or 'gunicorn'} (pid {pid})", 80)


def _command(argv: Sequence[str]) -> str:
    """What a plain program is called: its own name, or that of the script it runs."""
    interpreted = len(argv) > 1 and os.path.basename(argv[0]).startswith("python")
    return os.path.basename(argv[1] if interpreted and argv[1][:1] != "-" else argv[0])


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


# -- the watch ---------------------------------------------------------------------------


def _watched(
    subjects: Sequence[Subject], seconds: float, record: str | None
) -> list[appraisal.Watched]:
    """Look at all of them for `seconds`, or until Ctrl-C; a progress line on a terminal."""
    step = _step(seconds)
    watches = [_Watch(subject, subject.options) for subject in subjects]
    sampler = Sampler()
    out = _open(record, "record", os.O_TRUNC) if record else None
    begun = time.monotonic()
    passed = 0.0
    try:
        while True:
            at, passed = time.time(), time.monotonic() - begun
            for watch in watches:
                seen = _look(watch, sampler, at, seconds, step, last=passed + step > seconds)
                if out is not None and seen:
                    _write_tick(out, watch, step)
            over = passed >= seconds or all(map(_is_gone, watches))
            _progress(passed, seconds, over)
            if over:
                break
            time.sleep(min(step, max(0.0, seconds - passed)))
    except KeyboardInterrupt:
        if passed <= 0:
            raise
        print(f"\nended after {units.time(passed)} of {units.time(seconds)}", file=sys.stderr)
    except OSError as error:
        raise AuditError(f"--record {record}: {error.strerror}") from None
    finally:
        if out is not None:
            out.close()
    known = [watch for watch in watches if watch.snapshots]
    unseen = _listed(watch.subject.name for watch in watches if not watch.snapshots)
    if not known:
        raise AuditError(f"{unseen}: no worker was seen")
    if unseen:
        print(f"left out, no worker was seen: {unseen}", file=sys.stderr)
    return [_result(watch, min(passed, seconds)) for watch in known]


def _is_gone(watch: _Watch) -> bool:
    """Not only without workers: there is no such process any more."""
    return watch.unseen is not None and topology.identity(watch.subject.pid) is None


def _step(seconds: float) -> float:
    """From one look to the next: a second, more for a long watch, less for a very short one."""
    return 5.0 if seconds > 300 else min(1.0, max(0.2, seconds / 30))


def _look(
    watch: _Watch, sampler: Sampler, at: float, seconds: float, step: float, last: bool
) -> bool:
    """Whether workers were seen."""
    program = Program(watch.subject.name, RUNNING, watch.subject.pid, None)
    snapshot = sampler.look(program, at)
    # PSS and USS of all at both ends; the sampler's budget may need more than one look for them.
    wanted = [w.id for w in _everyone(snapshot) if last or (w.exact is not False and w.uss is None)]
    if wanted:
        snapshot = sampler.look(program, at, wanted)
    if not snapshot.workers:
        watch.unseen = at if watch.unseen is None else watch.unseen
        return False
    watch.unseen = None
    snapshot = snapshot._replace(
        workers=tuple(map(_with_files, snapshot.workers))
        if snapshot.kind == "gunicorn"
        else snapshot.workers,
        master=None if snapshot.master is None else _with_files(snapshot.master),
    )
    if not watch.snapshots:
        watch.options = finer(watch.subject.options, snapshot, seconds, step)
    for worker in _everyone(snapshot):
        if worker.id not in watch.files:
            watch.files[worker.id] = openfiles.targets(worker.id.pid) or {}
    _part(watch, snapshot)
    watch.snapshots.append(snapshot)
    if len(watch.snapshots) > MANY:
        del watch.snapshots[1:-1:2]
    watch.past.anew = last  # the sentence of a verdict is to have the sizes of the table
    detectors.remember(watch.options, watch.past, snapshot)
    watch.verdicts = detectors.examine(watch.options, snapshot, watch.past)
    return True


def _part(watch: _Watch, now: Snapshot) -> None:
    """Judge those that were there at the last look and are gone, while all is known of them."""
    here = {worker.id for worker in _everyone(now)}
    for id in here & watch.left.keys():
        del watch.left[id]  # one look had missed it
    before = watch.snapshots[-1] if watch.snapshots else now
    for worker in _everyone(before):
        if worker.id not in here:
            role = "master" if worker is before.master else "worker"
            seen = _as_seen(watch, before.at - watch.snapshots[0].at)
            watch.left[worker.id] = appraisal.departed(seen, worker, role, now.at)


def _everyone(snapshot: Snapshot) -> tuple[Worker, ...]:
    return (*snapshot.workers, *([snapshot.master] if snapshot.master else []))


def _with_files(worker: Worker) -> Worker:
    """Its open files counted now: the sampler counts them too rarely for a short watch."""
    try:
        return worker._replace(fds=len(os.listdir(f"{topology.PROC}/{worker.id.pid}/fd")))
    except OSError:
        return worker


def finer(options: Options, first: Snapshot, seconds: float, step: float) -> Options:
    """The program's options, with a step so fine that the watch shows what it can."""
    left = max(options.warmup - min((w.age or 0.0 for w in first.workers), default=0.0), 0.0)
    useful = seconds - left if left < seconds else seconds
    growth = "auto" if options.growth == "off" else options.growth  # it is what was asked
    return replace(options, growth=growth, confirm=min(max(step, useful / BUCKETS), COARSEST))


def _write_tick(out: TextIO, watch: _Watch, step: float) -> None:
    """The last look; the first one with the line of the program before it."""
    first, last = watch.snapshots[0], watch.snapshots[-1]
    if first is last:
        out.write(recording.program_line(first, watch.options, step))
    out.write(recording.tick_line(last, first.at))
    out.flush()


def _result(watch: _Watch, seconds: float) -> appraisal.Watched:
    last = watch.snapshots[-1]
    files = {}
    for worker in _everyone(last):
        now = openfiles.targets(worker.id.pid)
        if now is not None:
            new = openfiles.added(watch.files.get(worker.id, {}), now)
            files[worker.id] = openfiles.kinds(worker.id.pid, new)
    return _as_seen(watch, seconds)._replace(
        files=files,
        left=list(watch.left.values()),
        ended=None if watch.unseen is None else watch.unseen - watch.snapshots[0].at,
        available=_available(last),
    )


def _as_seen(watch: _Watch, seconds: float) -> appraisal.Watched:
    return appraisal.Watched(
        watch.subject.name,
        watch.options,
        seconds,
        watch.snapshots,
        watch.past,
        watch.verdicts,
        before=watch.subject.before,
        command=watch.subject.command,
    )


def _available(last: Snapshot) -> str:
    """`23.5GB of RAM`, or whose limit it is."""
    ram = host.machine().total
    if ram is not None and last.available is not None and last.available < ram:
        return f"the {units.size(last.available)} that its control group may hold"
    return f"{units.size(last.available)} of RAM"


def _progress(passed: float, seconds: float, over: bool) -> None:
    if not sys.stderr.isatty() or not seconds:
        return
    text = f"\rwatching: {units.time(passed)} of {units.time(seconds)} "
    print("\r" + " " * len(text) + "\r" if over else text, end="", file=sys.stderr)
    sys.stderr.flush()


# -- the kept file -----------------------------------------------------------------------


def _boot() -> str:
    """Start times, and so ids, are those of one boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _open(path: str, option: str, flags: int) -> TextIO:
    """For writing, and for its user alone. Raises AuditError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        return open(handle, "w")
    except OSError as error:
        raise AuditError(f"--{option} {path}: {error.strerror}") from None


def _try_to_write(option: str, path: str) -> None:
    """Better before the watch than after it. What is there stays as it is. Raises AuditError."""
    there = os.path.lexists(path)
    _open(path, option, 0).close()
    if not there:
        os.unlink(path)


def _save(path: str, programs: Sequence[Mapping[str, Any]]) -> None:
    document = {
        "memwatch": "audit",
        "v": 1,
        "boot": _boot(),
        "time": time.time(),
        "programs": programs,
    }
    try:
        with _open(path, "save", os.O_TRUNC) as file:
            json.dump(document, file)
    except OSError as error:
        raise AuditError(f"--save {path}: {error.strerror}") from None


def _read_saved(path: str) -> list[Mapping[str, Any]]:
    """The programs as `--save` kept them, each with when that was. Raises AuditError."""
    try:
        with open(path) as file:
            document = json.load(file)
        if document["memwatch"] != "audit" or document["v"] != 1:
            raise KeyError
        boot, at = document["boot"], document.get("time")
        programs: list[Mapping[str, Any]] = [
            {**program, "saved": at} for program in document["programs"]
        ]
        for program in programs:
            _shape_of_saved(program)
    except OSError as error:
        raise AuditError(f"--since {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AuditError(f"--since {path}: not a file that `memwatch audit --save` made") from None
    if boot != _boot():
        raise AuditError(f"--since {path}: the machine was booted since: its workers are gone")
    return programs


def _shape_of_saved(program: Mapping[str, Any]) -> None:
    """What is read of it is there, and a number where one is. Raises KeyError or TypeError."""
    _ = program["namespec"] + "", {id + "" for id in _ids(program)}, 0 + (program["saved"] or 0)
    for worker in program["workers"]:
        _ = worker["id"], 0 + (worker["cpu"] or 0) + (worker.get("requests") or 0)
        _ = 0 + (worker.get("age") or 0)
    for change in program["changes"]:
        _ = change["id"], 0 + change["beyond"]
        _ = 0 + (change.get("work") or 0) + (change.get("runs") or 0)
    _ = [int(id.partition(":")[0]) for id in _ids(program)]
    _ = [0 + program["low_anon"][worker["id"]] for worker in program["workers"]]
    for done in program.get("low_work", {}).values():
        _ = 0 + (done.get("cpu") or 0) + (done.get("requests") or 0)
