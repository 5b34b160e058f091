"""Coming from memmon: superlance's documented examples, and the same migrated, on the same leaks.

    python bench/memmon.py [--seconds N] [--lanes N] [--only PATTERN] [--json]

Each example runs twice under a supervisord of its own: with superlance's memmon, and with what
`memwatch migrate` prints for that very file. Both have the same three programs: `foo`, a gunicorn
whose two workers leak and which is sent requests all the time; `baz`, a leaking program that is no
gunicorn; `ok`, a gunicorn that does not leak. Time is compressed: megabytes instead of hundreds,
TICK_5 instead of TICK_60, and short waits of memwatch's (SCALE). See bench/README.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

# sites makes the package importable.
from load import Load
from sites import (
    Site,
    Supervisor,
    free_port,
    gunicorn,
    plain_environment,
    program,
    resident,
    tree,
    wait_until,
)

MB = 1024 * 1024
APPS = Path(__file__).resolve().parents[1] / "tests" / "apps"

SECONDS = 90.0  # of each run, from when all programs are up
LANES = 10  # runs at a time
ALONE, WHOLE = "50MB", "100MB"  # in place of the documented 200MB: of one process, of a program
LEAK = 1 * MB  # per second and worker of foo; baz leaks twice as fast
RATE = 20.0  # requests a second to foo
# memwatch's waits, to the scale of the leaks: they are minutes, and leaks take hours.
SCALE = "warmup = 5s\nconfirm = 5s\ncooldown = 5s\nbudget = 100/1h\n"

DEPLOYED = 5.0  # seconds from the applications' last change to the first start

PROGRAMS = ("foo", "baz", "ok")
LEAKING = ("foo", "baz")


class Example(NamedTuple):
    """A memmon's section: its options, with the documented 200MB as SIZE."""

    name: str
    options: str
    more: str = ""  # further lines of the section
    group: bool = False  # foo and baz are in the group bar
    auth: tuple[str, str] | None = None
    bug: bool = False  # memmon does not do what it was told

    @property
    def words(self) -> str:
        return self.options.replace("SIZE", WHOLE if "-c" in self.options.split() else ALONE)


MAIL = "-m bob@example.com -s /bin/true"  # nobody wants mail from a bench
LOGIN = ("bob", "secret")
EXAMPLES = [
    Example("1", f"-a SIZE {MAIL}"),
    Example("1, -c", f"-c -a SIZE {MAIL}"),
    Example("2", f"-p foo=SIZE {MAIL}"),
    Example("2, -c", f"-c -p foo=SIZE {MAIL}"),
    Example("3", f"-g bar=SIZE {MAIL}", group=True),
    Example("3, -c", f"-c -g bar=SIZE {MAIL}", group=True),
    Example("4, -c", f"-c -p foo=SIZE {MAIL} -u 2d"),
    Example(
        "5, -c",
        f"-c -a SIZE {MAIL}",
        more='environment=SUPERVISOR_USERNAME="{}",SUPERVISOR_PASSWORD="{}"\n'.format(*LOGIN),
        auth=LOGIN,
    ),
    Example("a namespec", f"-c -p bar:foo=SIZE {MAIL}", group=True, bug=True),
    Example("two rules", f"-c -p foo=SIZE -a SIZE {MAIL}", bug=True),
]


@dataclass
class Program:
    """What became of one program in a run."""

    acts: list[str] = field(default_factory=list)  # restart, recycle, reload: in their order
    first: float | None = None  # seconds until the first
    highest: int = 0  # RSS of all its processes, shared pages counted for each
    requests: int = 0
    lost: dict[str, int] = field(default_factory=dict)  # by the way they failed


@dataclass
class Run:
    """One example under one tool."""

    example: Example
    tool: str
    programs: dict[str, Program] = field(
        default_factory=lambda: {name: Program() for name in PROGRAMS}
    )
    ended: int = 0  # times memmon ended by itself
    error: str = ""  # its last words
    state: str = ""  # of foo at the end


# -- one run


def sections(example: Example, apps: Path, port: int, healthy: int) -> str:
    """The programs."""
    away = f"--chdir {apps}"
    leaks = {"LEAK_FLAG": "all", "LEAK_RATE": LEAK, "LEAK_BYTES": 2 * LEAK // 50}
    text = program(
        "foo", gunicorn("leaky:app", port, options=away), environment=leaks, stopwaitsecs=40
    )
    plain = f"{sys.executable} {apps}/plain.py 500"
    text += program("baz", plain, environment={**leaks, "LEAK_RATE": 0})
    text += program("ok", gunicorn("leaky:app", healthy, options=away), stopwaitsecs=40)
    return text + ("[group:bar]\nprograms=foo,baz\n\n" if example.group else "")


def memmon_section(example: Example, directory: Path) -> str:
    return (
        "[eventlistener:memmon]\n"
        f"command={sys.executable} -m superlance.memmon {example.words}\n"
        f"events=TICK_5\nstderr_logfile={directory}/memmon.err\n{example.more}\n"
    )


def migrated(text: str, directory: Path) -> str:
    """What `memwatch migrate` prints for a file; its waits to scale."""
    path = directory / "old.conf"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_memwatch", "migrate", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return (
        f"{done.stdout}\n[memwatch]\njournal = {directory}/journal.db\n{SCALE}"
        f"[eventlistener:memwatch]\nstderr_logfile = {directory}/memwatch.log\n"
    )


def run(example: Example, tool: str, apps: Path, seconds: float, stopping: threading.Event) -> Run:
    """An example under a tool, from its supervisord's start to its end."""
    found = Run(example, tool)
    directory = Path(tempfile.mkdtemp(prefix="memmon-bench-"))
    try:
        port, healthy = free_port(), free_port()
        programs = sections(example, apps, port, healthy)
        listener = memmon_section(example, directory)
        if tool == "memwatch":
            listener = migrated(programs + listener, directory)
        supervisor = Supervisor(
            directory,
            programs + listener,
            auth=example.auth,
            # The applications alone: a change of the project's own files is none of theirs.
            env={**plain_environment(), "PYTHONPATH": str(apps)},
        )
        with supervisor:
            _measure(found, supervisor, port, seconds, stopping)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found


def _measure(
    found: Run, supervisor: Supervisor, port: int, seconds: float, stopping: threading.Event
) -> None:
    grouped = LEAKING if found.example.group else ()
    specs = {name: f"bar:{name}" if name in grouped else name for name in PROGRAMS}
    for spec in specs.values():
        supervisor.wait_for(spec, timeout=120)
    site = Site(supervisor, specs["foo"], port)
    wait_until(site.serves, 60, "foo answers")
    load = Load(port, supervisor.directory)
    load.rate(RATE)
    begun = time.time()
    while time.time() < begun + seconds and not stopping.is_set():
        for name, spec in specs.items():
            pid = Site(supervisor, spec, port).master()
            of = found.programs[name]
            of.highest = max(of.highest, resident(list(tree(pid))) if pid else 0)
        time.sleep(0.4)
    records = load.stop()
    found.programs["foo"].requests = len(records)
    found.programs["foo"].lost = dict(Counter(r.kind for r in records if r.failed))
    found.state = supervisor.state(specs["foo"])
    for name, spec in specs.items():
        acts = list(_acts(site, spec) if found.tool == "memwatch" else _starts(supervisor, name))
        acts = [(at, act) for at, act in acts if at > begun]
        found.programs[name].acts = [act for _, act in acts]
        found.programs[name].first = min((at - begun for at, _ in acts), default=None)
    found.ended = supervisor.log().count("exited: memmon ")
    errors = re.findall(r"^\S*(?:Error|Fault|Exception)\b.*$", supervisor.read("memmon.err"), re.M)
    found.error = errors[-1] if errors else ""


def _acts(site: Site, spec: str) -> Iterator[tuple[float, str]]:
    """What memwatch did, by its journal."""
    for line in site.book.lines(spec, "intent"):
        word = re.search(r"; (recycl|reload|restart)ing", line.text)
        if word:
            yield line.at, {"recycl": "recycle"}.get(word[1], word[1])


def _starts(supervisor: Supervisor, name: str) -> Iterator[tuple[float, str]]:
    """When the program was started, by supervisord's log."""
    stamps = re.findall(rf"^(\S+ \S+),\d+ \w+ spawned: '{name}'", supervisor.log(), re.MULTILINE)
    for at in stamps:
        yield time.mktime(time.strptime(at, "%Y-%m-%d %H:%M:%S")), "restart"


def runs(examples: list[Example], seconds: float, lanes: int) -> list[Run]:
    """All of them, several at a time: both of an example side by side."""
    stopping = threading.Event()
    tasks = [(example, tool) for example in examples for tool in ("memmon", "memwatch")]
    with tempfile.TemporaryDirectory() as directory:
        apps = Path(directory) / "apps"
        shutil.copytree(APPS, apps)
        time.sleep(DEPLOYED)
        with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
            futures = [pool.submit(run, *task, apps, seconds, stopping) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stopping.set()
                pool.shutdown(cancel_futures=True)
                raise


# -- what it says


def report(found: list[Run]) -> Iterator[str]:
    """A table in Markdown: a row for each leaking program of each example."""
    yield ("| documented example | program | memmon | highest | lost | memwatch | highest | lost |")
    yield "|---|---|---|---|---|---|---|---|"
    for old, new in zip(found[::2], found[1::2], strict=True):
        shown = old.example.words.replace(f" {MAIL}", "")
        for name in LEAKING:
            if not (old.programs[name].acts or new.programs[name].acts):
                continue  # neither was told of it
            cells = [f"{old.example.name}: `{shown}`", f"`{name}`"]
            for one in (old, new):
                cells += _cells(one, one.programs[name])
            yield f"| {' | '.join(cells)} |"


def _cells(one: Run, of: Program) -> list[str]:
    counts = Counter(of.acts)
    did = ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items())
    if one.ended:
        did = f"{did or 'nothing'}; ends {one.ended} times: {one.error}"
    highest = f"{of.highest / MB:.0f} MB"
    lost = f"{sum(of.lost.values())} of {of.requests}" if of.requests else ""
    return [did or "nothing", highest, lost]


def faults(found: list[Run]) -> Iterator[str]:
    """Where memwatch falls short of memmon, or of what it promises."""
    for old, new in zip(found[::2], found[1::2], strict=True):
        name = old.example.name
        for leaking in LEAKING:
            if old.programs[leaking].acts and not new.programs[leaking].acts:
                yield f"{name}: memmon restarts {leaking}, and memwatch does nothing"
        if new.programs["ok"].acts and not old.programs["ok"].acts:
            yield f"{name}: memwatch does something to ok, which is healthy"
        if new.programs["foo"].lost:
            yield f"{name}: memwatch loses requests of foo: {new.programs['foo'].lost}"
        if new.state != "RUNNING":
            yield f"{name}: foo is {new.state} at the end"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a run (%(default)g)")
    parser.add_argument("--lanes", type=int, default=LANES, help="runs at a time (%(default)s)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="examples it matches")
    parser.add_argument("--json", action="store_true", help="everything, in seconds and bytes")
    arguments = parser.parse_args()
    examples = [e for e in EXAMPLES if re.search(arguments.only, f"{e.name}: {e.options}")]
    found = runs(examples, arguments.seconds, arguments.lanes)
    wrong = list(faults(found))
    if arguments.json:
        print(json.dumps({"runs": [asdict(one) for one in found], "faults": wrong}, indent=2))
    else:
        print("\n".join(report(found)))
        print(*(f"MISSED {text}" for text in wrong), sep="\n")
        if not wrong:
            print("met: what memmon restarts, memwatch deals with")
    return 1 if wrong else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
