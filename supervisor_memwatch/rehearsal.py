"""`memwatch check`: the configuration in words, and a rehearsal of what it will need.

Nothing is changed: workers get signal 0, a file without a name is written where the journal goes,
the names of notification targets are resolved, and for a program that would be acted on the
preflight is run as the listener runs it. Each line that fails says what to do. It is the listener's
rights that count: where it runs as somebody else, theirs are tried (by root) or worked out.

Settings that fight each other are conflicts.py's.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from . import conflicts, preflight, report, topology, units
from .config import Config, namespec
from .conflicts import Case
from .control import RpcError, Supervisor
from .detectors import measure
from .inifile import IniFile
from .journal import JournalError, Reader
from .model import Snapshot, Worker
from .options import words
from .rights import (
    User,
    everybody_reads,
    may_read,
    may_signal,
    may_write,
    named,
    parent_of,
    uids_of,
)
from .sampler import Program, Sampler
from .trial import Preflights, Question

PREFLIGHT_SECONDS = 60.0  # for those of all programs together
_DEPLOY_PAUSE = 2.0  # seconds between two questions while the code is changing
_BURST = 3  # events of a program while supervisord starts, and more where it fails
_LEAST_BUFFER, _BUFFER = 50, 100


class Line(NamedTuple):
    """One line: good, bad, or (None) said for information; `warn`: that should not be as it is."""

    ok: bool | None
    subject: str
    text: str
    warn: bool = False

    def __str__(self) -> str:
        mark = {True: "ok   ", False: "FAIL ", None: "warn " if self.warn else "     "}[self.ok]
        return f"{mark}{units.printable(self.subject)}: {units.printable(self.text, 1000)}"


def _warn(subject: str, text: str) -> Line:
    return Line(None, subject, text, True)


def rehearse(config: Config, *, preflights: bool = True) -> Iterator[Line]:
    """Every line, in the order of reading, each as soon as it is known.

    `preflights`: also try whether new workers boot, which takes up to PREFLIGHT_SECONDS.
    """
    ini = IniFile(config.path, os.environ)
    yield Line(None, "configuration", ", ".join(config.files))
    for warning in config.warnings:
        yield _warn("configuration", warning)
    yield from _secrets(ini)
    supervisor = None
    programs: list[dict[str, Any]] = []
    commands: dict[tuple[str, str], dict[str, Any]] = {}
    trouble = "no [unix_http_server] and no [inet_http_server]: add one, and [rpcinterface:...]"
    if config.server_url:
        with Supervisor(config.server_url, config.username, config.password) as supervisor:
            try:
                programs = supervisor.programs()
                commands = {(c["group"], c["name"]): c for c in supervisor.configs()}
                trouble = ""
            except RpcError as error:
                trouble = str(error)
    yield from _listener_section(config, ini, len(programs))
    user = _listeners_user(config, ini, programs)
    if isinstance(user, Line):
        yield user
        user = None
    user = user or named(os.geteuid())
    yield from _files(config, user)
    yield _journal(config, user)
    yield from _targets(config)
    if trouble or supervisor is None:
        yield Line(False, "RPC", trouble)
        return
    yield Line(True, "RPC", f"{supervisor.url} answers")
    yield from _socket(config, user)
    yield from _listener_runs(config, programs)
    yield from _programs(config, programs, commands, user, preflights)


# -- the programs


def _programs(
    config: Config,
    programs: list[dict[str, Any]],
    commands: Mapping[tuple[str, str], dict[str, Any]],
    user: User,
    preflights: bool,
) -> Iterator[Line]:
    pairs = [(str(found["group"]), str(found["name"])) for found in programs]
    for name in config.unmatched(pairs):
        there = ", ".join(sorted(namespec(*p) for p in pairs if p[0] not in config.listeners))
        text = f"matches no program; there are: {there or 'none'}"
        yield _warn(f"[memwatch:{name}]", text)
    watched = [found for found in programs if config.watched(found["group"], found["name"])]
    left = [namespec(g, n) for g, n in pairs if not config.watched(g, n)]
    usual = config.options("", "")
    for option, globs in (("programs", usual.programs), ("exclude", usual.exclude)):
        for glob in words(globs):
            if not any(fnmatchcase(n, glob) for p in pairs for n in (namespec(*p), ":".join(p))):
                yield _warn("[memwatch]", f"{option}: {glob} matches no program")
    yield Line(None, "watched", ", ".join(namespec(f["group"], f["name"]) for f in watched))
    yield Line(None, "not watched", ", ".join(left) or "none")
    if not watched:
        yield Line(False, "programs", "none is watched: see `programs` and `exclude`")
    needs = _learned(config)
    cases = []
    for found in watched:
        group, name = str(found["group"]), str(found["name"])
        options, spec = config.options(group, name), namespec(group, name)
        yield Line(None, spec, report.promise(options))
        snapshot = yield from _look(spec, found)
        if snapshot is None:
            continue
        case = Case(
            options,
            config.own_options(group, name),
            snapshot,
            commands.get((group, name), {}),
            needs.get(spec),
            _period(config),
        )
        cases.append(case)
        for worker in snapshot.workers:
            yield from _worker(case, worker, user)
        for serious, text in conflicts.found(case):
            yield Line(False, spec, text) if serious else _warn(spec, text)
    if preflights:
        yield from _preflights(config, cases)


def _look(spec: str, found: Mapping[str, Any]) -> Generator[Line, None, Snapshot | None]:
    """Says what it is; returns its snapshot, None where there is nothing to look at."""
    pid, state = int(found["pid"]), str(found["statename"])
    if not pid:
        why = f" ({found['spawnerr']})" if found.get("spawnerr") else ""
        text = f"{state}{why}: nothing to look at now"
        yield Line(None, spec, text, warn=state in ("FATAL", "BACKOFF"))
        return None
    tree = topology.discover(pid)
    if tree is None:
        yield Line(None, spec, "ended while it was looked at")
        return None
    sampler, at = Sampler(), time.time()
    snapshot = sampler.look(Program(spec, state, pid, None), at, tree.workers or (tree.root,))
    if snapshot.kind == "plain":
        yield Line(None, spec, "no gunicorn seen: watched as a whole")
    elif snapshot.master is None:
        yield Line(None, spec, "gunicorn, which has no workers yet")
    else:
        sure = snapshot.evidence == "heartbeat"
        text = f"gunicorn, {len(snapshot.workers)} workers told apart by {snapshot.evidence}"
        advice = "; run the listener as root or as the program's user to be sure"
        yield Line(sure or None, spec, text if sure else text + advice)
    return snapshot


def _worker(case: Case, worker: Worker, user: User) -> Iterator[Line]:
    options, snapshot, pid = case.options, case.snapshot, worker.id.pid
    who = f"{snapshot.namespec} {pid}"
    may = may_signal(user, pid)
    if may is None:
        yield Line(None, who, "it ended while it was looked at")
        return
    if not may:
        theirs = f"{named(uids_of(pid)[0]).name}'s, and the listener runs as {user.name}"
        advice = f"it cannot be signalled, nor its USS read: it is {theirs}"
        advice += ": run the listener as root or as its user"
        yield Line(False, who, advice)
    elif worker.exact is False:
        hidden = "USS cannot be read (not root, not its user)"
        yield Line(None, who, f"{hidden}: RSS is used" if user.is_us else f"{hidden} by this user")
    else:
        sizes = f"RSS {units.size(worker.rss)}, USS {units.size(worker.uss)}"
        yield Line(True, who, f"{sizes}; it can be signalled")
    size, name = measure(options, worker, snapshot.at)
    limit = case.limit
    if limit is not None and size >= limit:
        text = f"{name} {units.size(size)} is over its limit of {units.size(limit)}"
        yield Line(False, who, text + ": with mode = act it is acted on at once; set more")


def _learned(config: Config) -> dict[str, int]:
    """What the listener has learned that fresh workers of each program need; bytes."""
    try:
        reader = Reader(config.journal_path())
    except JournalError:
        return {}
    try:
        rows = reader.rows("SELECT namespec, state FROM watches")
    except JournalError:
        return {}
    finally:
        reader.close()
    needs = {}
    for spec, state in rows:
        try:
            needs[spec] = max(int(need) for _, need in json.loads(state)["needs"]["settled"])
        except (KeyError, TypeError, ValueError):  # nothing learned yet, or by another version
            continue
    return needs


# -- the preflight


def _preflights(config: Config, cases: list[Case]) -> Iterator[Line]:
    """Of each gunicorn that would be acted on, one after the other, until the time is over."""
    until = time.monotonic() + PREFLIGHT_SECONDS
    for case in cases:
        snapshot = case.snapshot
        spec = snapshot.namespec
        if case.options.mode != "act" or not case.gunicorn or snapshot.master is None:
            continue
        theirs = uids_of(snapshot.workers[0].id.pid if snapshot.workers else snapshot.pid)
        if case.options.preflight == "off":
            text = "preflight = off: a worker is asked to leave whether a new one boots or not"
            yield _warn(spec, text)
        elif os.geteuid() not in (0, *theirs):
            text = "the preflight cannot be rehearsed by this user: run check as root or as its own"
            yield Line(None, spec, text)
        else:
            left = until - time.monotonic()
            how = _how(case)
            yield Line(None, spec, f"preflight: {how} (at most {units.time(max(left, 0))})")
            yield _preflight(config, case, until)


def _how(case: Case) -> str:
    own = case.options.preflight
    if not isinstance(own, str):
        return "running " + " ".join(own)
    if preflight.gunicorn_word(preflight.split(str(case.command.get("command", "")))) is None:
        return "its command is not gunicorn itself, so a worker that has booted is the proof"
    return "running gunicorn --check-config, which imports the application"


def _preflight(config: Config, case: Case, until: float) -> Line:
    snapshot = case.snapshot
    spec = snapshot.namespec
    question = Question(spec, case.options, snapshot, case.command, snapshot.free)
    trials = Preflights(config, parent_of(snapshot.pid))
    ask = 0.0
    try:
        while (now := time.monotonic()) < until:
            if now >= ask:
                trials.ask(question, time.time())
                ask = float("inf")
            for _, proof in trials.look(time.time()):
                if proof.ok:
                    return Line(
                        True, spec, f"preflight: {proof.how}: {proof.text.removesuffix(', ?')}"
                    )
                if proof.how != preflight.DEPLOY:
                    text = f"preflight: a new worker would not boot ({proof.how}): {proof.text}"
                    return Line(False, spec, f"{text}; while that is so, nothing is recycled")
                ask = now + _DEPLOY_PAUSE
            time.sleep(0.02)
    finally:
        trials.close()
    text = f"preflight: not known after {units.time(PREFLIGHT_SECONDS)}, and check takes no longer"
    return _warn(spec, f"{text}: the listener's log will have its outcome")


# -- the listener


def _listener_section(config: Config, ini: IniFile, programs: int) -> Iterator[Line]:
    """Whether supervisord will start us, and send what we need."""
    if config.listener is None:
        text = (
            "no [eventlistener:...] section starts `memwatch listen`: see the README's first page"
        )
        yield Line(False, "listener", text)
        return
    group, settings = config.listener
    who = f"[eventlistener:{group}]"
    events = _events(config)
    if _period(config) is None:
        yield Line(False, who, "events has no TICK: nothing would ever be looked at; add TICK_5")
    for event in ("PROCESS_STATE", "REMOTE_COMMUNICATION", "SUPERVISOR_STATE_CHANGE"):
        if event not in events and "EVENT" not in events:
            yield Line(None, who, f"events has no {event}: what it tells comes with the next TICK")
    size = settings.get("buffer_size", "10")
    least = max(_LEAST_BUFFER, _BURST * programs) if programs else _LEAST_BUFFER
    if size.isdigit() and int(size) < least:
        text = f"buffer_size = {size} overflows when supervisord starts: set buffer_size = "
        yield Line(False, who, text + str(max(_BUFFER, 2 * least)))
    else:
        yield Line(True, who, f"buffer_size = {size} is enough")
    if settings.get("redirect_stderr", "false").lower() in ("true", "1", "yes", "on"):
        text = "redirect_stderr = true: supervisord refuses it for a listener; remove it"
        yield Line(False, who, text)
    if settings.get("autorestart", "unexpected").lower() not in ("true", "1", "yes", "on"):
        yield _warn(who, "without autorestart = true it stays down once it has ended; set it")
    if settings.get("stderr_logfile", "").upper() == "NONE":
        yield _warn(who, "stderr_logfile = NONE: its log goes nowhere; leave it out")
    yield from _neighbours(ini, f"eventlistener:{group}")


def _neighbours(ini: IniFile, ours: str) -> Iterator[Line]:
    """The other event listeners, as far as they matter."""

    def priority(section: str) -> str:
        return (ini.get(section, "priority") or "-1").strip()

    def command(section: str) -> str:
        setting = ini.sections[section].get("command")
        return setting.text if setting else ""

    others = [s for s in ini.sections if s.startswith("eventlistener:") and s != ours]
    for section in others:
        if "memwatch" in command(section):
            text = f"[{ours}] starts memwatch, too, and both write one journal: keep one of them"
            yield Line(False, f"[{section}]", text)
        elif "memmon" in command(section):
            text = "memmon still restarts whole programs: `memwatch migrate` says what replaces it"
            yield _warn(f"[{section}]", text)
    alike = [f"[{section}]" for section in others if priority(section) == priority(ours)]
    if alike:
        text = (
            f"priority = {priority(ours)}, as in {', '.join(alike)}: where that one fails on an "
            "event, it is repeated to this one, without end; set priority = 50"
        )
        yield _warn(f"[{ours}]", text)


def _events(config: Config) -> list[str]:
    settings = config.listener[1] if config.listener else {}
    return settings.get("events", "").replace(" ", "").split(",")


def _period(config: Config) -> float | None:
    """Seconds between two TICKs; None where there are none."""
    periods = []
    for event in _events(config):
        if event in ("EVENT", "TICK"):
            periods.append(5.0)
        elif event.startswith("TICK_") and event[5:].isdigit():
            periods.append(float(event[5:]))
    return min(periods, default=None)


def _listener_runs(config: Config, programs: list[dict[str, Any]]) -> Iterator[Line]:
    if config.listener is None:
        return
    for found in programs:
        if found["group"] == config.listener[0]:
            running = found["statename"] == "RUNNING"
            why = f": {found['spawnerr']}" if found.get("spawnerr") else ""
            advice = "" if running else "; its stderr says why (supervisorctl tail NAME stderr)"
            if found["statename"] == "STOPPED":  # by somebody
                advice = f"; supervisorctl start {config.listener[0]}"
            yield Line(running, "listener", f"{found['statename']}{why}{advice}")
            return
    text = f"supervisord does not know {config.listener[0]}: run supervisorctl update"
    yield Line(False, "listener", text)


def _listeners_user(
    config: Config, ini: IniFile, programs: list[dict[str, Any]]
) -> User | Line | None:
    """Whom the listener runs as: what it does run as, else what the file says, else supervisord's
    user; None where nobody knows. A Line is what is wrong with it."""
    import pwd

    name = ini.listeners_user()
    if name and not name.isdigit():
        try:
            pwd.getpwnam(name)
        except KeyError:
            group = config.listener[0] if config.listener else ""
            text = f"user = {name}: there is no such user here; supervisord will not start it"
            return Line(False, f"[eventlistener:{group}]", text)
    ours = [f for f in programs if config.listener and f["group"] == config.listener[0]]
    for found in [found for found in ours if found["pid"]]:
        uids = uids_of(int(found["pid"]))
        if uids:
            return named(uids[0])
    if name:
        return named(int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid)
    for found in programs:
        uids = uids_of(parent_of(int(found["pid"])) or 0) if found["pid"] else ()
        if uids:
            return named(uids[0])
    return None


# -- files


def _files(config: Config, user: User) -> Iterator[Line]:
    """The configuration files that the listener cannot read."""
    for file in config.files:
        if may_read(file, user) is False:
            text = f"cannot be read by {user.name}, whom the listener runs as: chgrp it to a group "
            yield Line(False, file, f"{text}of theirs, and chmod 640")


def _journal(config: Config, user: User) -> Line:
    path = config.journal_path()
    place = path
    while place and not os.path.exists(place):
        place = os.path.dirname(place)
    directory = place if place != path else os.path.dirname(path)
    ok = os.path.isdir(directory) and may_write(directory, user)
    if ok and place == path:
        ok = os.path.isfile(path) and may_write(path, user)
        if ok and os.path.getsize(path) and os.access(path, os.R_OK):
            try:
                Reader(path).close()
            except JournalError as error:
                return Line(False, "journal", str(error))
    if ok:
        return Line(True, "journal", f"{path}, as {user.name}")
    if ok is None:
        text = f"{path}: whether {user.name} can write there cannot be tried by this user"
        return Line(None, "journal", f"{text}: run check as root or as {user.name}")
    return Line(
        False,
        "journal",
        f"{path}: {place} cannot be written by {user.name}, whom the listener runs as: name "
        "another place in `journal`, or give it that directory",
    )


def _socket(config: Config, user: User) -> Iterator[Line]:
    """Whether the listener, too, can open the RPC's socket."""
    path = (config.server_url or "").removeprefix("unix://")
    if user.is_us or user.uid == 0 or path == config.server_url:
        return
    if may_write(path, user) is False:
        text = f"{path} cannot be opened by {user.name}, whom the listener runs as: set chown = "
        yield Line(False, "RPC", f"{text}{user.name} in [unix_http_server]")


def _secrets(ini: IniFile) -> Iterator[Line]:
    """Secrets in files that everybody on this machine may read."""
    found: dict[str, list[str]] = {}
    for section, settings in ini.sections.items():
        for option, setting in settings.items():
            if _is_secret(section, option, setting.text):
                found.setdefault(setting.file, []).append(f"[{section}] {option}")
    for file, options in found.items():
        if everybody_reads(file):
            text = (
                f"holds secrets ({', '.join(options)}), and everybody on this machine may read it: "
                "chmod 640, or take them from supervisord's environment as %(ENV_X)s"
            )
            yield _warn(file, text)


def _is_secret(section: str, option: str, text: str) -> bool:
    kind = section.partition(":")[0].strip()
    if option == "password" and kind in ("unix_http_server", "inet_http_server", "supervisorctl"):
        return bool(text) and not text.startswith("{SHA}") and "%(ENV_" not in text
    if option == "environment" and kind == "eventlistener":
        return "SUPERVISOR_PASSWORD" in text and "%(ENV_" not in text
    if option == "notify" and kind == "memwatch":
        return any(_holds_token(url) for url in text.split() if "%(ENV_" not in url)
    return False


def _holds_token(url: str) -> bool:
    """A login, or a path or query that nobody could guess: of a webhook the address is the key."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    pieces = f"{parts.path}/{parts.query}".replace("&", "/").replace("=", "/").split("/")
    unguessable = (len(piece) >= 16 and any(c.isdigit() for c in piece) for piece in pieces)
    names = ("token", "key", "secret", "password", "sig")
    return "@" in parts.netloc or any(unguessable) or any(n in pieces for n in names)


# -- the targets


def _targets(config: Config) -> Iterator[Line]:
    from urllib.parse import urlsplit

    from .notifiers import redacted

    if not config.targets():
        yield Line(None, "notify", "no target: what is seen and done is said in its log only")
    for target in config.targets():
        parts = urlsplit(target)
        if not parts.hostname:
            yield Line(None, "notify", "a target without a host: `memwatch notify --test` tries it")
            continue
        try:
            socket.getaddrinfo(parts.hostname, parts.port or 443)
        except (OSError, ValueError, UnicodeError) as error:
            text = f"{redacted(target)}: its name cannot be resolved ({type(error).__name__})"
            yield Line(False, "notify", f"{text}: is it spelled right, and is there a resolver?")
        else:
            yield Line(True, "notify", f"{redacted(target)}: `memwatch notify --test` sends to it")
