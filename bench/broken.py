"""What becomes of a server whose code is broken on disk, when a worker is to be replaced.

    python bench/broken.py [--only PATTERN] [--tries N] [--json]

Every recycle and every reload imports the code that lies on the disk now. Here it is broken in
five ways after the server's start, anew for each try; then the listener is asked for a recycle or
a reload, and the workers before and after are compared, while a slow constant load flows and a
receiver of news listens. Beside it the same without a preflight, on a program of its own. See
bench/README.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from load import OK, Load
from sites import (
    Receiver,
    Site,
    Supervisor,
    free_port,
    gunicorn,
    plain_environment,
    poll,
    program,
    resident,
    tree,
)

WORKERS = 2
TRIES = 20
RATE = 10.0  # requests a second, on each program
FIRST = 3  # the number of the first try
# Seconds the changed code is left alone: within 10 the listener takes it for a deploy under way.
ALONE = 10.5
AGAIN = re.compile("deploy under way|no watched program or worker")
TIMEOUT = 4  # gunicorn's --timeout, for the import that hangs: a preflight is given twice as long
ANSWER = 90.0  # seconds until an action has ended or was held
LEFT_TO = 12.0  # seconds that a program without preflight is watched
LIMIT = 1  # GB for a whole program: what allocates 2 GB finds no room
GB = 1 << 30
ROOM = 8 * GB  # bytes of RAM available, else nobody allocates 2 GB for each worker
LANES = 20
MINUTES = 9.0  # no try begins later
CLASSES = {"sync": "sync", "uvicorn": "uvicorn.workers.UvicornWorker"}
ACTIONS = ("recycle", "reload")

MEMWATCH = """\
[memwatch]
mode = act
actions = recycle, reload
growth = off
imbalance = off
cooldown = 0s
budget = 100000/1h
surge = off
{guard}
notify = {url}
"""

GOOD = """\
import os
{broken}
def create():
    {inside}
    return {application}


def wsgi(environ, start_response):
    body = str(os.getpid()).encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""


class Breakage(NamedTuple):
    """A way to break an application; `{n}` is a letter that differs from try to try. (What differs
    in its figures alone, such as a line's number, is the same news.)"""

    name: str
    words: str
    told: str  # what news has to say of it: a regular expression
    broken: str = ""  # at its import
    inside: str = "pass"  # of the factory

    @property
    def numbered(self) -> bool:
        """Whether each try's error differs from the one before, and is told again."""
        return "{n}" in self.told


ALLOCATE = """\
import time
held = []
for part in range(32):  # {n}
    held.append(b"x" * (64 << 20))
    time.sleep(0.02)
"""
BREAKAGES = (
    Breakage("syntax", "syntax error", r"SyntaxError.*line \d+"),
    Breakage("missing", "missing import", "No module named 'missing_{n}'", "import missing_{n}"),
    Breakage(
        "factory",
        "exception in the factory",
        "RuntimeError: the factory fails, {n}",
        inside="raise RuntimeError('the factory fails, {n}')",
    ),
    Breakage("hang", "import that hangs", "did not end in", "import time\ntime.sleep(3600)  # {n}"),
    Breakage("memory", "import that allocates 2 GB", "memory|no room", ALLOCATE),
)


def letter(number: int) -> str:
    """a, b ... z, aa, ab: of a try."""
    rest, last = divmod(number, 26)
    return (letter(rest - 1) if rest else "") + chr(ord("a") + last)


def code(breakage: Breakage | None, worker: str, number: int) -> str:
    """The application, good or broken."""
    broken, inside = "", "pass"
    if breakage is not None:
        broken, inside = breakage.broken, breakage.inside
        if breakage.name == "syntax":
            # What differs from try to try is the line it stands on.
            broken = "\n" * number + "def broken(:"
    text = GOOD.replace("{broken}", broken).replace("{inside}", inside)
    application = "asgi" if worker == "uvicorn" else "wsgi"
    return text.replace("{n}", letter(number)).format(application=application)


class Cell(NamedTuple):
    """What is broken, and what is asked for."""

    worker: str
    breakage: Breakage
    action: str
    preflight: bool

    def __str__(self) -> str:
        guard = "" if self.preflight else " without preflight"
        return f"{self.worker} {self.breakage.name} {self.action}{guard}"


@dataclass
class Found:
    """A cell's tries."""

    cell: Cell
    tries: int = 0
    lost: int = 0  # workers, of all tries
    masters: int = 0  # ended or replaced
    held: int = 0  # bytes, by the whole program at the end, where there was no preflight
    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    told: int = 0  # tries whose error the news named
    ended: dict[str, int] = field(default_factory=dict)  # how the actions did
    mended: str = ""  # how the action ended once the code was good again
    text: str = ""  # the last reason that was given
    error: str = ""

    @property
    def met(self) -> bool:
        harm = self.lost or self.masters or self.failed or self.error
        return not harm and self.told == self.tries and self.mended == "done"


class Host:
    """A cell's supervisord with its program and the receiver of its news."""

    def __init__(self, cell: Cell, directory: Path) -> None:
        self.cell, self.directory = cell, directory
        self.code = directory / "code"
        self.code.mkdir()
        self.write(None)
        self.receiver = Receiver()
        port = free_port()
        self.supervisor = Supervisor(
            directory, self._program(port), memwatch=self._memwatch(), env=plain_environment()
        )
        self.site = Site(self.supervisor, "web", port)

    def __enter__(self) -> Host:
        try:
            self.supervisor.__enter__()
        except BaseException:
            self.receiver.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.closing(self.receiver):
            self.supervisor.__exit__()

    def _program(self, port: int) -> str:
        hangs = self.cell.breakage.name == "hang"
        command = gunicorn(
            "site_app:create()",
            port,
            worker_class=CLASSES[self.cell.worker],
            workers=WORKERS,
            options=f"--chdir {self.code}" + f" --timeout {TIMEOUT}" * hangs,
        )
        # What is lost stays lost.
        log = self.directory / "web.err"
        return program("web", command, stopwaitsecs=15, autorestart="false", stderr_logfile=log)

    def _memwatch(self) -> str:
        guard = f"total_limit = {LIMIT}GB" if self.cell.preflight else "preflight = off"
        return MEMWATCH.format(guard=guard, url=self.receiver.url)

    def write(self, breakage: Breakage | None, number: int = 0) -> None:
        """Change the program's code, as a deploy does: at once."""
        path = self.code / "site_app.py"
        new = path.with_suffix(".new")
        new.write_text(code(breakage, self.cell.worker, number))
        os.replace(new, path)

    def told(self, pattern: str, since: int) -> bool:
        """Whether news says so, from the `since`th POST on."""
        posts = self.receiver.bodies[since:]
        return any(re.search(pattern, json.dumps(body)) for body in posts)


def measure(host: Host, tries: int, late: Callable[[], bool]) -> Found:
    """All tries of a cell with its preflight, or the one without."""
    found, site = Found(host.cell), host.site
    site.wait_until_up(WORKERS)
    guarded = host.cell.preflight
    load = Load(site.port, host.directory, timeout=30 if guarded else 5)
    load.rate(RATE)
    try:
        if not guarded:
            leave_to(host, found)
            return found
        for number in range(FIRST, FIRST + tries):
            if late():
                break
            attempt(host, found, number)
        mend(host, found)
    except Exception as error:  # a line of the table, not the end of the bench
        found.error = f"{type(error).__name__}: {error}"
    finally:
        count(found, load)
    return found


def attempt(host: Host, found: Found, number: int) -> None:
    """One try: break the code anew, ask, wait, compare."""
    site, breakage = host.site, host.cell.breakage
    before, master = site.workers(), site.master()
    since = len(host.receiver.received)
    host.write(breakage, number)
    time.sleep(ALONE)
    result, text = ask(site, host.cell.action, before[0].pid)
    found.tries += 1
    found.ended[result] = found.ended.get(result, 0) + 1
    found.text = text
    pattern = breakage.told.replace("{n}", letter(number))
    first = since if breakage.numbered else 0  # the same error again is not told again
    found.told += bool(poll(lambda: host.told(pattern, first) or None, 10))
    after = site.workers()
    found.lost += len(set(before) - set(after))
    found.masters += site.master() != master
    if len(after) != WORKERS or site.master() != master:
        repair(host)


def ask(site: Site, action: str, worker: int) -> tuple[str, str]:
    """How the action ended, and the reason; asked again while a deploy may be under way."""
    target = worker if action == "recycle" else site.name
    deadline = time.monotonic() + ANSWER
    while True:
        seq = site.newest()
        answer, reason = site.answer(action, target)
        if answer == "accepted":
            ended = poll(partial(site.ended, seq), ANSWER)
            answer, reason = ended or ("silent", f"nothing after {ANSWER:g} s: {reason}")
        if answer in ("done", "silent") or not AGAIN.search(reason) or time.monotonic() > deadline:
            return answer, reason
        time.sleep(2)


def repair(host: Host) -> None:
    """After a loss: the next try starts with a whole program."""
    host.write(None)
    with contextlib.suppress(xmlrpc.client.Fault):  # where it does not run any more
        host.site.call("stopProcess", "web")
    host.site.call("startProcess", "web", False)
    host.site.wait_until_up(WORKERS)


def mend(host: Host, found: Found) -> None:
    """The control: with good code again the same action is done."""
    host.write(None)
    time.sleep(ALONE)
    found.mended, text = ask(host.site, host.cell.action, host.site.workers()[0].pid)
    if found.mended != "done":
        found.error = f"after the code was mended: {found.mended}: {text}"


def leave_to(host: Host, found: Found) -> None:
    """What a preflight is for: have it done without one, and see what is left after a while."""
    cell, site = host.cell, host.site
    if cell.breakage.name == "memory" and psutil.virtual_memory().available < ROOM:
        raise RuntimeError("not tried: too little RAM on this machine")
    before, master = site.workers(), site.master()
    host.write(cell.breakage, FIRST)
    found.tries = 1
    target = before[0].pid if cell.action == "recycle" else "web"
    # Until the listener has seen its workers.
    poll(lambda: site.answer(cell.action, target)[0] == "accepted" or None, ANSWER, 1)
    time.sleep(LEFT_TO)
    found.lost = len(set(before) - set(site.workers()))
    found.masters = int(site.master() != master)
    found.held = resident(list(tree(site.master()))) if site.master() else 0


def count(found: Found, load: Load) -> None:
    for record in load.stop():
        if record.kind == OK:
            found.answered += 1
        elif record.failed:
            found.failed[record.name] = found.failed.get(record.name, 0) + 1


class Run:
    """All cells side by side, but for those without preflight: they cost more than they wait."""

    def __init__(self, cells: list[Cell], tries: int, lanes: int, minutes: float) -> None:
        self.cells, self.tries, self.lanes = cells, tries, lanes
        self.begun = time.monotonic()
        self.deadline = self.begun + 60 * minutes
        self.stopping = threading.Event()

    def measure(self) -> list[Found]:
        """In the order of the cells."""
        with (
            concurrent.futures.ThreadPoolExecutor(self.lanes) as lanes,
            concurrent.futures.ThreadPoolExecutor(1) as alone,
        ):
            # The import that hangs takes longest.
            order = sorted(self.cells, key=lambda cell: cell.breakage.name != "hang")
            futures = {
                cell: (lanes if cell.preflight else alone).submit(self._measure, cell)
                for cell in order
            }
            try:
                return [futures[cell].result() for cell in self.cells]
            except BaseException:
                self.stopping.set()
                for future in futures.values():
                    future.cancel()
                raise

    def _measure(self, cell: Cell) -> Found:
        if self._late():
            return Found(cell, error="no time was left")
        directory = Path(tempfile.mkdtemp(prefix="memwatch-bench-", dir="/tmp"))
        try:
            with Host(cell, directory) as host:
                found = measure(host, self.tries, self._late)
        except Exception as error:
            found = Found(cell, error=f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        words = found.error.partition("\n")[0] or outcome(found).strip("*")
        passed = time.monotonic() - self.begun
        print(f"[{passed:4.0f} s] {cell}: {words}", file=sys.stderr, flush=True)
        return found

    def _late(self) -> bool:
        return self.stopping.is_set() or time.monotonic() > self.deadline


# -- what it says


def outcome(found: Found) -> str:
    """A cell of the table."""
    failed = sum(found.failed.values())
    requests = found.answered + failed
    if not found.tries:
        return "could not"
    if found.cell.preflight:
        text = f"{found.lost} · {failed} · {found.told} of {found.tries}"
        return text if found.met else f"**{text}**"
    master = "the master ended, " if found.masters else ""
    text = f"{master}{found.lost} of {WORKERS} gone, {failed} of {requests} failed"
    if found.cell.breakage.name == "memory":
        text += f", {found.held / GB:.1f} GB held"
    return text


def report(found: list[Found], tries: int) -> Iterator[str]:
    yield (
        f"Python {platform.python_version()}, Linux {platform.release()}; {WORKERS} workers, "
        f"{tries} tries of each, {RATE:g} requests a second on each program all along."
    )
    yield (
        "With preflight: workers lost · requests failed · tries whose error the news named. "
        f"Without: one try, and how things stand {LEFT_TO:g} s later."
    )
    yield ""
    columns = [(action, guard) for action in ACTIONS for guard in (True, False)]
    names = [action if guard else f"{action}, no preflight" for action, guard in columns]
    yield "| broken by | worker | " + " | ".join(names) + " |"
    yield "|---|---|" + "---|" * len(names)
    by_cell = {f.cell: f for f in found}
    for breakage in BREAKAGES:
        for worker in CLASSES:
            cells = [by_cell.get(Cell(worker, breakage, *column)) for column in columns]
            if any(cells):
                shown = [outcome(f) if f else "-" for f in cells]
                yield f"| {breakage.words} | {worker} | " + " | ".join(shown) + " |"
    yield ""
    for each in found:
        if each.cell.preflight and not each.met:
            ended = ", ".join(f"{count} {result}" for result, count in each.ended.items())
            kinds = ", ".join(f"{count} {kind}" for kind, count in each.failed.items())
            words = (ended, kinds, each.text, each.error.partition("\n")[0])
            yield f"- {each.cell}: " + "; ".join(word for word in words if word)
    yield ""


def aims(found: list[Found]) -> Iterator[tuple[bool, str]]:
    """What was hoped for, and whether it came so."""
    guarded = [each for each in found if each.cell.preflight]
    tries = sum(each.tries for each in guarded)
    lost = sum(each.lost + each.masters for each in guarded)
    failed = sum(sum(each.failed.values()) for each in guarded)
    told = sum(each.told for each in guarded)
    mended = sum(each.mended == "done" for each in guarded)
    yield lost == 0, f"no worker is lost: {lost} in {tries} tries"
    yield failed == 0, f"the site answers all along: {failed} requests failed"
    yield told == tries, f"the news names the application's own error: {told} of {tries}"
    whole = mended == len(guarded)
    yield whole, f"with good code again the action is done: {mended} of {len(guarded)} cells"


def document(found: list[Found], met: bool) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "met": met,
        "cells": [
            {**asdict(each), "cell": str(each.cell), "preflight": each.cell.preflight}
            for each in found
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="cells whose name it matches")
    parser.add_argument("--list", action="store_true", help="the names of the cells, and no more")
    parser.add_argument("--tries", type=int, default=TRIES, help="in a cell (%(default)s)")
    parser.add_argument("--lanes", type=int, default=LANES, help="cells at a time (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="no try begins later (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="everything")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cells = [
        Cell(worker, breakage, action, preflight)
        for worker in CLASSES
        for breakage in BREAKAGES
        for action in ACTIONS
        for preflight in (True, False)
    ]
    cells = [cell for cell in cells if re.search(arguments.only, str(cell))]
    if not cells or arguments.list:
        print("\n".join(map(str, cells)) or "no such cell; --list shows them")
        return 0 if cells else 2
    found = Run(cells, arguments.tries, arguments.lanes, arguments.minutes).measure()
    reached = list(aims(found))
    met = all(good for good, _ in reached)
    if arguments.json:
        print(json.dumps(document(found, met), indent=2))
    else:
        for line in report(found, arguments.tries):
            print(line)
        for good, words in reached:
            print(f"{'met' if good else 'MISSED':<7}{words}")
    return 0 if met else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
