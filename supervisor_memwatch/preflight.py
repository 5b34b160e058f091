"""The preflight: proof that a new worker can boot, before any worker is asked to leave.

Every recycle imports the code that lies on the disk now; where that is broken, gunicorn's master
ends, and takes the healthy workers with it. So it is tried first: `gunicorn --check-config`, or a
command of the user's own, as the program's user, in its directory and environment. What cannot be
tried is taken from evidence: a worker that serves and was started after the code last changed.

Decided here: what to try and which code counts (`plan`), what is known without trying (`known`),
and what a trial that has ended proves (`judge`). The processes are trial.py's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import units
from .model import Proof, Snapshot, Worker
from .options import Options

CHECK_CONFIG = "gunicorn --check-config"
OWN_COMMAND = "its own command"
EVIDENCE = "a worker that booted"
PRELOAD = "preload: a new worker loads no code"
FILES = "its files"
DEPLOY = "its files are changing"  # passes by itself

DEADLINE = 60.0  # seconds for a trial, where gunicorn's timeout is not known
DEADLINES = (5.0, 600.0)  # and within these where it is
QUIET = 10.0  # seconds the code must have been left alone
MARGIN = 2.0  # seconds by which a worker must be younger than the code
AGAIN = 300.0  # seconds after which what failed is tried again
LEAST_ROOM = 32 * units.MB  # a Python with next to nothing imported
SPARE = 1.2  # how much more room than the last trial took the next one wants
KEPT = 4096  # characters of a trial's output
SHOWN = 300


class User(NamedTuple):
    """Whom a process runs as. `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: frozenset[int]
    umask: int | None = None

    @property
    def ids(self) -> tuple[int, int, frozenset[int]]:
        return self.uid, self.gid, self.groups


class Facts(NamedTuple):
    """What was found out about a program and about us."""

    inherited: Mapping[str, str]  # what supervisord gives to all its children
    environment: Mapping[str, str] | None  # what the configuration adds for this one
    trouble: str  # why that is not known
    server_url: str | None  # supervisord's
    start: str  # the directory Supervisor starts it in
    real_start: str  # the same without symbolic links
    cwd: str | None  # the directory its master is in now
    worker: User | None
    master: User | None
    us: User


class Scan(NamedTuple):
    """Which files are the program's code."""

    roots: tuple[str, ...] = ()  # directories
    files: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # the command line, for its Python's packages
    packages: bool = True  # whether those count
    path: str = ""  # PATH
    home: str = ""
    cwd: str = "/"
    pid: int = 0  # the master's: what it has loaded counts too


class Scanned(NamedTuple):
    """What the files looked like. Times are epoch seconds of the wall clock."""

    number: str | None  # the same as long as no file changes; None: not all could be seen
    why: str  # what was not seen
    newest: float  # when a file last changed
    changed: str  # which
    touched: float  # the same, or when one last came or went
    absent: tuple[str, ...]  # those of `files` that are not there
    unseen: tuple[str, ...]  # settings in them that --check-config does not know
    wall: float  # when this was asked
    at: float  # the same by the listener's clock
    clock: str = ""  # `touched` for people


class Trial(NamedTuple):
    """A process to run: exit status 0 is the proof."""

    argv: tuple[str, ...]
    environ: dict[str, str]
    cwd: str
    user: User | None  # None: as we are
    umask: int | None
    deadline: float  # seconds
    how: str
    guest: bool = False  # it runs as the workers' user, and its master as another


class Plan(NamedTuple):
    """What to do about a question."""

    scan: Scan
    trial: Trial | None
    reason: str = ""  # why there is none
    broken: str = ""  # why a new worker cannot boot, known without any trial
    preload: bool = False  # a new worker loads no code
    shares: bool = False  # nor did those there are: their master did


class Ended(NamedTuple):
    """How a trial ended."""

    status: int | None  # exit status, or the negative of a signal; None: we ended it
    output: str
    took: float  # seconds
    peak: int | None  # bytes
    starved: bool = False  # ended by us because it outgrew its room


class Unproven(NamedTuple):
    """A trial could not be made, or proves nothing: the evidence decides."""

    reason: str


# -- without looking at anything


def settled(options: Options, snapshot: Snapshot, at: float) -> Proof | None:
    """The answer where nothing needs to be found out."""
    if options.preflight == "off":
        return Proof(True, "off", "preflight = off", at)
    if options.preflight == "auto" and snapshot.kind == "plain":
        return Proof(True, "not gunicorn", "a plain program: nothing is tried", at)
    return None


# -- what to try


def plan(
    options: Options,
    snapshot: Snapshot,
    command: Mapping[str, object],
    facts: Facts,
    anew: bool = False,
) -> Plan:
    """What to try for a program, and which code counts. `command`: Supervisor's configuration;
    `anew`: a new master is to boot, which loads all code, preloading or not."""
    argv = split(str(command.get("command", "")))
    environ = environment(snapshot.namespec, command, facts)
    entry = gunicorn_word(argv)
    flags = _flags(argv, entry, environ)
    shares = options.preflight == "auto" and _preloads([*argv, *flags])
    preload = shares and not anew
    cwd = start_directory(flags, facts)
    user = facts.master if shares else facts.worker
    scan = _scan(snapshot, argv, entry, flags, environ, cwd or facts.start, facts)
    if preload:
        scan = scan._replace(roots=(), packages=False)
    if cwd is None:
        gone = (facts.cwd or "").removesuffix(_DELETED)
        text = f"its working directory {gone} has been deleted: reload or restart it yourself"
        return Plan(scan, None, "", text, preload, shares)

    _add_gunicorns_own(environ, flags, cwd)
    reason = ""
    if options.preflight == "auto":
        reason = _not_gunicorn(argv, entry)
    reason = reason or _unknown_environment(facts) or _another_user(user, facts.us)
    if reason:
        return Plan(scan, None, reason, "", preload, shares)
    assert user is not None
    words, how = _words(options, argv, entry)
    trial = Trial(
        argv=words,
        environ=environ,
        cwd=cwd,
        user=None if user.ids == facts.us.ids else user,
        umask=user.umask,
        deadline=deadline(flags),
        how=how,
        guest=facts.master is not None and facts.master.uid != user.uid,
    )
    return Plan(scan, trial, "", "", preload, shares)


def split(command: str) -> list[str]:
    """A command line as supervisord splits it; empty where it cannot."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


_PYTHON = re.compile(r"(python|pypy)[0-9.]*t?")
_PYTHON_OPTION = re.compile(r"-(?=[A-Za-z])([^mWX]*)([mWX]?)(.*)")  # those three take a value
_MODULES = ("gunicorn", "gunicorn.app.wsgiapp")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _join(directory: str, path: str) -> str:
    return path if path.startswith("/") else f"{directory}/{path}"


def _tidy(path: str) -> str:
    """Without what means nothing; `..` stays, for behind a symbolic link it means something."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" * path.startswith("/") + "/".join(parts)


def gunicorn_word(argv: Sequence[str]) -> int | None:
    """Where in a command line gunicorn itself is started, so that `--check-config` may follow.

    None for everything else: a shell, a wrapper, an application with gunicorn embedded, which
    would not know the flag and start a second server.
    """
    if not argv:
        return None
    name = _name(argv[0])
    if name == "gunicorn":
        return 0
    if not _PYTHON.fullmatch(name):
        return None
    index = 1
    while index < len(argv) and (option := _PYTHON_OPTION.fullmatch(argv[index])):
        letters, last, value = option.groups()
        if "c" in letters:
            return None
        if last and not value:
            index += 1
            value = argv[index] if index < len(argv) else ""
        if last == "m":
            return index if value in _MODULES else None
        index += 1
    return None


def _flags(argv: Sequence[str], entry: int | None, environ: Mapping[str, str]) -> list[str]:
    """The arguments of gunicorn, where it is known that they are; the last one holds."""
    if entry is None:
        return []
    return [*split(environ.get("GUNICORN_CMD_ARGS", "")), *argv[entry + 1 :]]


def _add_gunicorns_own(environ: dict[str, str], flags: Sequence[str], cwd: str) -> None:
    """What gunicorn itself sets from its command line, and --check-config ends before it does."""
    for setting in values(flags, "--env", "-e"):
        name, equals, text = setting.partition("=")
        if equals:
            environ[name] = text
    added = _added_path(flags, cwd)
    if added:
        known = environ.get("PYTHONPATH")
        environ["PYTHONPATH"] = ":".join([*reversed(added), *([known] if known else [])])


def _added_path(flags: Sequence[str], cwd: str) -> list[str]:
    """The directories of --pythonpath; gunicorn puts each before those there are."""
    places = (flag(flags, "--pythonpath") or "").split(",")
    home = _join(cwd, flag(flags, "--chdir") or "")
    return [_tidy(_join(home, place)) for place in places if place]


def flag(words: Sequence[str], long: str, short: str = "") -> str | None:
    """The value of one of gunicorn's flags, the last one; None where it is not there."""
    found = values(words, long, short)
    return found[-1] if found else None


def values(words: Sequence[str], long: str, short: str = "") -> list[str]:
    """Every `--long VALUE`, `--long=VALUE`, `-s VALUE` and `-sVALUE`."""
    found: list[str] = []
    for index, word in enumerate(words):
        if word in (long, short):
            found += words[index + 1 : index + 2]
        elif word.startswith(long + "="):
            found.append(word[len(long) + 1 :])
        elif short and word.startswith(short) and not word.startswith("--"):
            found.append(word[2:].removeprefix("="))
    return found


def deadline(flags: Sequence[str]) -> float:
    """Seconds for a trial: gunicorn gives a worker its timeout to import the application."""
    value = flag(flags, "--timeout", "-t") or ""
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        return DEADLINE
    shortest, longest = DEADLINES
    return min(max(2.0 * int(value), shortest), longest)


def inherited(
    ours: Mapping[str, str], parents: Mapping[str, str] | None, given: Iterable[str]
) -> dict[str, str]:
    """The environment that supervisord gives to all its children, from what it gave to us.

    `parents`: our parent's, None where it cannot be read. It is supervisord's where it agrees
    with ours, and was not itself started as we were (by a shell in between); that is then
    all there is to know. Else what is only for us goes: `given` by our section of the
    configuration, a login of the RPC perhaps, and what is said of us by name.
    """
    only_ours = {*given, *_OF_A_PROGRAM}
    same = {name: value for name, value in ours.items() if name not in only_ours}
    if parents is not None and ours.get("SUPERVISOR_ENABLED"):
        between = parents.get("SUPERVISOR_PROCESS_NAME") == ours.get("SUPERVISOR_PROCESS_NAME")
        missing = [name for name in parents if name not in same and name not in only_ours]
        if parents and not between and not missing:
            return dict(parents)
    return same


_OF_A_PROGRAM = (
    "SUPERVISOR_ENABLED",
    "SUPERVISOR_SERVER_URL",
    "SUPERVISOR_PROCESS_NAME",
    "SUPERVISOR_GROUP_NAME",
)


def environment(namespec: str, command: Mapping[str, object], facts: Facts) -> dict[str, str]:
    """What a program's environment is when supervisord has started it."""
    group, _, name = namespec.partition(":")
    own = {
        "SUPERVISOR_ENABLED": "1",
        "SUPERVISOR_PROCESS_NAME": str(command.get("name") or name or group),
        "SUPERVISOR_GROUP_NAME": str(command.get("group") or group),
    }
    if facts.server_url:
        own["SUPERVISOR_SERVER_URL"] = facts.server_url
    return {**facts.inherited, **own, **(facts.environment or {})}


_DELETED = " (deleted)"
_USUAL_CONFIG = "gunicorn.conf.py"  # read where it is there and no other is named


def start_directory(flags: Sequence[str], facts: Facts) -> str | None:
    """Where to start a trial so that it finds what a new worker would; None: that is deleted.

    A new worker is forked where its master is: in the release that was current when it started,
    also where a symbolic link leads to another one by now. Where --chdir is given it follows
    that from where Supervisor starts the program; so does a chdir in gunicorn.conf.py, and there
    the file itself is found. Without symbolic links both are the same place, or were until
    somebody moved it; then it is the name that Python looks for.
    """
    if facts.cwd is None:
        return facts.start
    if facts.cwd.endswith(_DELETED):
        return None
    chdir = flag(flags, "--chdir")
    if chdir is None:
        return facts.start if facts.real_start == facts.start else facts.cwd
    relative = "/" + _tidy(chdir)
    if not chdir.startswith("/") and facts.cwd.endswith(relative):
        return facts.cwd.removesuffix(relative) or "/"
    return facts.start


def _scan(
    snapshot: Snapshot,
    argv: Sequence[str],
    entry: int | None,
    flags: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    facts: Facts,
) -> Scan:
    """Its directory and what it names: roots are searched, files looked at."""
    roots, files = [], []
    home = cwd
    if entry is None:
        roots.append((facts.cwd or facts.start).removesuffix(_DELETED))
    else:
        chdir = flag(flags, "--chdir")
        home = _join(cwd, chdir or "")
        live = (facts.cwd or "").removesuffix(_DELETED)
        if chdir is None and live:  # its configuration may have led it there
            roots.append(live)
        if chdir is not None or cwd != "/" or live in ("", "/"):
            roots.append(home)
        if entry > 0 and cwd != "/":  # python -m looks where it was started, too
            roots.append(cwd)
        roots += _added_path(flags, cwd)
        config = flag(flags, "--config", "-c") or _USUAL_CONFIG
        if not config.startswith("python:"):
            files.append(_join(home, config.removeprefix("file:")))
        named = (flag(flags, "--log-config"), (flag(flags, "--paste") or "").partition("#")[0])
        files += [_join(home, file) for file in named if file]
    roots += [_join(cwd, p) for p in environ.get("PYTHONPATH", "").split(":") if p]
    master = snapshot.master.id.pid if snapshot.master else snapshot.pid
    return Scan(
        roots=tuple(dict.fromkeys(map(_tidy, roots))),
        files=tuple(dict.fromkeys(map(_tidy, files))),
        words=tuple(argv),
        path=environ.get("PATH", "/bin:/usr/bin"),
        home=environ.get("HOME", ""),
        cwd=cwd,
        pid=master,
    )


def _preloads(argv: Sequence[str]) -> bool:
    """Whether --preload stands in the command, also in one that a shell is given."""
    return any("--preload" in (word, *split(word)) for word in argv)


def _not_gunicorn(argv: Sequence[str], entry: int | None) -> str:
    if not argv:
        return "its command is not known"
    if entry is None:
        return f"its command is {units.printable(_name(argv[0]), 40)}, not gunicorn"
    return ""


def _unknown_environment(facts: Facts) -> str:
    return f"its environment= is not known: {facts.trouble}" if facts.environment is None else ""


def _another_user(user: User | None, us: User) -> str:
    if user is None:
        return "its user is not known"
    if us.uid != 0 and user.ids != us.ids:
        return "it runs as another user, and the listener not as root"
    return ""


def _words(options: Options, argv: list[str], entry: int | None) -> tuple[tuple[str, ...], str]:
    if not isinstance(options.preflight, str):
        return options.preflight, OWN_COMMAND
    assert entry is not None
    return (*argv[: entry + 1], "--check-config", *argv[entry + 1 :]), CHECK_CONFIG


# -- what the files say


class Remembered(NamedTuple):
    """How a trial of exactly this code ended."""

    key: str
    tried: float
    proof: Proof


def known(
    plan: Plan,
    snapshot: Snapshot,
    scanned: Scanned,
    remembered: Remembered | None,
    room: int | None,
    need: int | None,
    at: float,
) -> Proof | None:
    """The answer as far as it is known without a trial; None: try.

    `remembered`: of this same code. `room` bytes are left for a trial, the last one took `need`.
    """
    if plan.broken:
        return Proof(False, FILES, plan.broken, at)
    if plan.preload and (plan.trial is None or _as_the_master_read_it(snapshot, scanned)):
        return Proof(True, PRELOAD, "its workers are forked from what the master has loaded", at)
    if remembered is not None and (remembered.proof.ok or 0 <= at - remembered.tried < AGAIN):
        return remembered.proof._replace(at=at)
    age = scanned.wall - scanned.newest
    if abs(age) < QUIET:
        file = units.printable(scanned.changed, 120)
        text = f"the code changed {units.time(max(age, 0.0))} ago ({file}): is a deploy under way?"
        return Proof(False, DEPLOY, text, at)
    if plan.trial is None:
        return evidence(snapshot, scanned, plan.reason, at)
    least = max(LEAST_ROOM, int(SPARE * (need or 0)))
    if room is not None and room < least:
        text = f"no room for it: {units.size(room)} are left, it takes {units.size(least)}"
        return evidence(snapshot, scanned, text, at)
    return None


def _as_the_master_read_it(snapshot: Snapshot, scanned: Scanned) -> bool:
    """Whether its configuration is the one the master was started with: SIGHUP reads it again."""
    master = snapshot.master
    if master is None:
        return True
    gone = [file for file in scanned.absent if _name(file) != _USUAL_CONFIG]
    return not scanned.why and not gone and _older(scanned.newest, master, snapshot, scanned)


def of_the_master(snapshot: Snapshot) -> Snapshot:
    """Whose birth is evidence where workers are forked from what a master had loaded before."""
    master = snapshot.master
    return snapshot._replace(workers=(master._replace(ready=True),) if master else ())


def evidence(
    snapshot: Snapshot, scanned: Scanned, reason: str, at: float, output: str = ""
) -> Proof:
    """What the workers there are say of the code there is, where a trial says nothing."""
    for worker in snapshot.workers:
        if worker.ready and not scanned.why and _older(scanned.touched, worker, snapshot, scanned):
            text = f"worker {worker.id.pid} was started after the code last changed"
            return Proof(True, EVIDENCE, f"{text} ({scanned.clock})", at)
    if scanned.why:
        text = f"whether the code has changed is not known ({units.printable(scanned.why, 120)})"
    else:
        text = f"the code changed at {scanned.clock}, after the start of every worker seen serving"
    text += f", and whether it boots cannot be tried ({reason})"
    advice = "reload or restart it yourself, or set preflight"
    return Proof(False, EVIDENCE, f"{text}: {advice}", at, output)


def _older(changed: float, worker: Worker, snapshot: Snapshot, scanned: Scanned) -> bool:
    """Whether a change lies before a worker's start: by their ages, which no set clock alters."""
    if worker.age is None:
        return False
    age = worker.age + max(0.0, scanned.at - snapshot.at)
    return age + MARGIN < scanned.wall - changed


# -- what a trial says


def judge(
    trial: Trial, ended: Ended, scanned: Scanned, preload: bool, room: int | None, at: float
) -> Proof | Unproven:
    """What the end of a trial proves."""
    output = ended.output[-KEPT:]
    if ended.status == 0:
        text = f"it boots: {ended.took:.1f} s, {units.size(ended.peak)}"
        return Proof(True, trial.how, text, at)
    if ended.starved or ended.status == -9:
        return Unproven(f"it took more memory than there is ({units.size(room)})")
    if ended.status is None:
        what = "the application's import" if trial.how == CHECK_CONFIG else "the command"
        text = f"{what} did not end in {units.time(trial.deadline)}"
        return Proof(False, trial.how, text, at, output)
    text = error_line(ended.output)
    if room is not None and _STARVED.search(text):
        return Unproven(f"{text}, with {units.size(room)} of memory to use")
    if preload and _LOADING in ended.output:
        return Proof(True, PRELOAD, "its configuration is read; no worker loads more", at)
    if trial.guest and _AS_THE_MASTER.search(ended.output):
        return Unproven(f"what its master reads, its workers' user cannot: {text}")
    if scanned.unseen and trial.how == CHECK_CONFIG:
        names = " and ".join(scanned.unseen)
        return Unproven(f"{text}; {names} of its configuration count in a real start alone")
    if not text:
        by = f"signal {-ended.status}" if ended.status < 0 else f"exit status {ended.status}"
        text = f"it ended with {by} and said nothing"
    return Proof(False, trial.how, text, at, output)


_LOADING = "Error while loading the application"
_AS_THE_MASTER = re.compile(
    r"^(Failed to read config file|Error: can't chdir|Error: .* doesn't exist)", re.MULTILINE
)
_STARVED = re.compile(r"MemoryError|Cannot allocate memory|can't start new thread|bad_alloc")
_TRACEBACK = "Traceback (most recent call last):"
_PLACE = re.compile(r'\s+File "(.*)", line (\d+)')


def error_line(output: str) -> str:
    """The application's own error, in one line: that of the last traceback, else the last line."""
    lines = [line for line in output.splitlines() if line.strip()]
    heads = [index for index, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if not heads:
        return units.printable(lines[-1].strip(), SHOWN) if lines else ""
    place = None
    for line in lines[heads[-1] + 1 :]:
        if not line.startswith(" "):
            if place and line.startswith(("SyntaxError", "IndentationError", "TabError")):
                line = f"{line} ({_name(place[1])}, line {place[2]})"
            return units.printable(line, SHOWN)
        place = _PLACE.fullmatch(line) or place
    return units.printable(lines[-1].strip(), SHOWN)


def not_started(trial: Trial, error: OSError | ValueError, at: float) -> Proof | Unproven:
    """What it means that a trial could not be started."""
    text = units.printable(error, SHOWN)
    if trial.how == OWN_COMMAND or isinstance(error, FileNotFoundError | NotADirectoryError):
        return Proof(False, trial.how, f"it cannot be started: {text}", at)
    return Unproven(f"it cannot be started: {text}")
