"""`memwatch check`: the configuration in words, and a rehearsal of what it will need.

Nothing is changed: workers get signal 0, the journal's directory is asked whether it can be
written, the names of notification targets are resolved. Each line that fails says what to do.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import report, topology, units
from .config import Config, namespec
from .control import RpcError, Supervisor
from .detectors import measure
from .options import Options
from .sampler import Program, Sampler


class Line(NamedTuple):
    """One line: good, bad, or (None) said for information."""

    ok: bool | None
    subject: str
    text: str

    def __str__(self) -> str:
        mark = {True: "ok   ", False: "FAIL ", None: "     "}[self.ok]
        return f"{mark}{units.printable(self.subject)}: {units.printable(self.text, 1000)}"


def rehearse(config: Config) -> list[Line]:
    """Every line, in the order of reading."""
    lines = [Line(None, "configuration", ", ".join(config.files))]
    lines += [Line(None, "configuration", warning) for warning in config.warnings]
    lines += _listener_section(config)
    lines.append(_journal(config))
    lines += _targets(config)
    if not config.server_url:
        text = "no [unix_http_server] and no [inet_http_server]: add one, and [rpcinterface:...]"
        return [*lines, Line(False, "RPC", text)]
    with Supervisor(config.server_url, config.username, config.password) as supervisor:
        try:
            programs, configs = supervisor.programs(), supervisor.configs()
        except RpcError as error:
            return [*lines, Line(False, "RPC", str(error))]
        lines.append(Line(True, "RPC", f"{supervisor.url} answers"))
    lines += _listener_runs(config, programs)
    commands = {(found["group"], found["name"]): str(found.get("command")) for found in configs}
    pairs = [(str(found["group"]), str(found["name"])) for found in programs]
    for name in config.unmatched(pairs):
        lines.append(Line(False, f"[memwatch:{name}]", "matches no program"))
    watched = [found for found in programs if config.watched(found["group"], found["name"])]
    left = [namespec(g, n) for g, n in pairs if not config.watched(g, n)]
    lines.append(Line(None, "not watched", ", ".join(left) or "none"))
    if not watched:
        lines.append(Line(False, "programs", "none is watched: see `programs` and `exclude`"))
    for found in watched:
        options = config.options(found["group"], found["name"])
        spec = namespec(found["group"], found["name"])
        command = commands.get((found["group"], found["name"]), "")
        lines += _program(spec, options, found["statename"], found["pid"], command)
    return lines


def _program(spec: str, options: Options, state: str, pid: int, command: str) -> Iterator[Line]:
    yield Line(None, spec, report.promise(options))
    if not pid:
        yield Line(None, spec, f"{state}: nothing to look at now")
        return
    tree = topology.discover(pid)
    if tree is None:
        yield Line(None, spec, "ended while it was looked at")
        return
    snapshot = Sampler().look(Program(spec, state, pid, None), 0.0, tree.workers or (tree.root,))
    if snapshot.kind == "plain":
        yield Line(None, spec, "no gunicorn seen: watched as a whole")
    elif snapshot.master is None:
        yield Line(None, spec, "gunicorn, which has no workers yet")
    else:
        sure = snapshot.evidence == "heartbeat"
        text = f"gunicorn, {len(snapshot.workers)} workers told apart by {snapshot.evidence}"
        advice = "; run the listener as root or as the program's user to be sure"
        yield Line(sure or None, spec, text if sure else text + advice)
    if snapshot.kind != "plain":
        yield from _kill(spec, options, command)
    for worker in snapshot.workers:
        who = f"{spec} {worker.id.pid}"
        if worker.exact is False:
            yield Line(None, who, "USS cannot be read (not root, not its user): RSS is used")
        else:
            yield Line(True, who, f"RSS {units.size(worker.rss)}, USS {units.size(worker.uss)}")
        limit = options.limit.of(snapshot.available) if options.limit else None
        size, name = measure(options, worker, snapshot.at)
        if limit is not None and size >= limit:
            text = f"{name} {units.size(size)} is over its limit of {units.size(limit)}"
            yield Line(False, who, text + ": with mode = act it is acted on at once")
        try:
            os.kill(worker.id.pid, 0)
        except PermissionError:
            advice = "it cannot be signalled: run the listener as root or as its user"
            yield Line(False, who, advice)
        except ProcessLookupError:
            yield Line(None, who, "it ended while it was looked at")


def _kill(spec: str, options: Options, command: str) -> Iterator[Line]:
    if options.kill and options.grace is None and report.graceful_timeout(command) is None:
        text = (
            "kill = on with grace = auto, and no --graceful-timeout on the command line: how long "
            "a worker may take is not known, so none is killed; set `grace`, such as 35s"
        )
        yield Line(False, spec, text)


def _listener_section(config: Config) -> Iterator[Line]:
    """Whether supervisord will start us, and send what we need."""
    if config.listener is None:
        text = (
            "no [eventlistener:...] section starts `memwatch listen`: see the README's first page"
        )
        yield Line(False, "listener", text)
        return
    group, settings = config.listener
    who = f"[eventlistener:{group}]"
    events = settings.get("events", "").replace(" ", "").split(",")
    if not any(event in ("EVENT", "TICK") or event.startswith("TICK_") for event in events):
        yield Line(False, who, "events has no TICK: nothing would ever be looked at; add TICK_5")
    for event in ("PROCESS_STATE", "REMOTE_COMMUNICATION", "SUPERVISOR_STATE_CHANGE"):
        if event not in events and "EVENT" not in events:
            yield Line(None, who, f"events has no {event}: what it tells comes with the next TICK")
    size = settings.get("buffer_size", "10")
    if size.isdigit() and int(size) < 50:
        text = f"buffer_size = {size} overflows when supervisord starts: set buffer_size = 100"
        yield Line(False, who, text)
    if settings.get("redirect_stderr", "false").lower() in ("true", "1", "yes", "on"):
        text = "redirect_stderr = true: supervisord refuses it for a listener; remove it"
        yield Line(False, who, text)


def _listener_runs(config: Config, programs: list[dict[str, Any]]) -> Iterator[Line]:
    if config.listener is None:
        return
    for found in programs:
        if found["group"] == config.listener[0]:
            running = found["statename"] == "RUNNING"
            why = f": {found['spawnerr']}" if found.get("spawnerr") else ""
            advice = "" if running else "; its stderr says why (supervisorctl tail NAME stderr)"
            yield Line(running, "listener", f"{found['statename']}{why}{advice}")
            return
    text = f"supervisord does not know {config.listener[0]}: run supervisorctl update"
    yield Line(False, "listener", text)


def _journal(config: Config) -> Line:
    path = config.journal_path()
    place = path
    while place and not os.path.exists(place):
        place = os.path.dirname(place)
    if place == path and os.access(path, os.W_OK) and os.path.isfile(path):
        return Line(True, "journal", path)
    try:
        # Only an attempt tells: for root everything seems writable.
        with tempfile.TemporaryFile(dir=place):
            return Line(True, "journal", path)
    except OSError:
        pass
    return Line(
        False,
        "journal",
        f"{path}: {place} cannot be written by this user: run check as the listener's user, or "
        "name another place in `journal`",
    )


def _targets(config: Config) -> Iterator[Line]:
    from urllib.parse import urlsplit

    from .notifiers import redacted

    for target in config.targets():
        parts = urlsplit(target)
        try:
            socket.getaddrinfo(parts.hostname, parts.port or 443)
        except (OSError, ValueError, UnicodeError) as error:
            text = f"{redacted(target)}: its name cannot be resolved ({type(error).__name__})"
            yield Line(False, "notify", text)
        else:
            yield Line(True, "notify", f"{redacted(target)}: `memwatch notify --test` sends to it")
