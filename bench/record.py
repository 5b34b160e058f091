"""Record real gunicorn programs, healthy and leaking, as `memwatch replay` reads them.

    python bench/record.py OUT [--seed N] [--for 12m] [--tick 5] [--only NAME,...]
                               [--at-once 24] [--cache DIR] [--servers DIR] [--list]

Each scenario (scenarios.py) is a gunicorn of its own with real HTTP load on loopback, looked at
every tick, from its start. Written: OUT/NAME.jsonl.gz, and OUT/labels.json, which says what each
really was. Library versions that leak are installed into the cache, each beside the others; what
cannot be had is left out, and said. Another seed is another set of parameters.

A worker that holds too much is killed as the kernel would kill it. All that was started is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gzip
import json
import math
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE / "recorded"))

import counter  # noqa: E402
from scenarios import Scenario, scenarios  # noqa: E402

from supervisor_memwatch.units import parse_time  # noqa: E402

MB = 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
HERTZ = os.sysconf("SC_CLK_TCK")
STARTING = 4  # programs at a time that start
BOOT = 120.0  # seconds that a program may take until it answers
ENDING = 15.0  # seconds that it may take to end
TIMEOUT = 60.0  # of a request
BUSY = 24  # requests on the way at a time for one program; more are not sent
SETTLED = 60.0  # seconds of a life that say nothing about how fast it leaks
SEEN = 0.15  # MB a minute: a library that leaks less did not leak as promised
CACHE = Path.home() / ".cache" / "memwatch-record"


# -- what is recorded of a process


class Sample(NamedTuple):
    """One process at one instant, in the words of replay."""

    pid: int
    start: int
    age: float
    rss: int
    shared: int
    anon: int
    pss: int
    uss: int
    swap: int
    cpu: float
    fds: int
    threads: int
    requests: int | None


def sample(pid: int, directory: Path | None = None) -> Sample | None:
    """That process now; None if it has gone. `directory`: where its application counts."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read().rpartition(b")")[2].split()
        with open(f"/proc/{pid}/statm", "rb") as file:
            statm = file.read().split()
        rollup = _rollup(pid)
        fds = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return None
    if int(statm[1]) == 0 or not rollup:  # a zombie
        return None
    start = int(stat[19])
    count = counter.read(directory, pid) if directory is not None else None
    return Sample(
        pid=pid,
        start=start,
        age=round(time.clock_gettime(time.CLOCK_BOOTTIME) - start / HERTZ, 2),
        rss=int(statm[1]) * PAGE,
        shared=int(statm[2]) * PAGE,
        anon=rollup[b"Anonymous"],
        pss=rollup[b"Pss"],
        uss=sum(rollup[b"Private_" + part] for part in (b"Clean", b"Dirty", b"Hugetlb")),
        swap=rollup[b"Swap"],
        cpu=(int(stat[11]) + int(stat[12])) / HERTZ,
        fds=fds,
        threads=int(stat[17]),
        requests=None if directory is None else count.requests if count else 0,
    )


def _rollup(pid: int) -> dict[bytes, int]:
    """smaps_rollup in bytes, by name."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file.read().splitlines()[1:]:
            name, _, rest = line.partition(b":")
            found[name] = int(rest.split()[0]) * 1024
    return found


def children(pid: int) -> list[int]:
    """Its children, the zombies too."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    return sorted(found)


# -- libraries beside the installed ones


def directory_of(packages: Sequence[str], python: str | None, cache: Path) -> Path:
    version = python or platform.python_version()
    return cache / "+".join((f"py{version}", *packages))


def install(packages: Sequence[str], python: str | None, cache: Path) -> Path:
    """A directory with these packages; RuntimeError, with pip's last words, if it cannot be."""
    directory = directory_of(packages, python, cache)
    done = directory / ".complete"
    if done.exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    command = [interpreter(python), "-m", "pip", "install", "--quiet", "--target", str(directory)]
    result = subprocess.run(
        [*command, "--disable-pip-version-check", *packages], capture_output=True, text=True
    )
    if result.returncode:
        words = result.stderr.strip().splitlines() or ["pip said nothing"]
        raise RuntimeError(words[-1])
    done.touch()
    return directory


def interpreter(python: str | None) -> str:
    """That version of Python; RuntimeError if there is none."""
    if python is None:
        return sys.executable
    path = Path.home() / ".pyenv" / "versions" / python / "bin" / "python"
    if not path.exists():
        raise RuntimeError(f"there is no Python {python}: {path} does not exist")
    return str(path)


# -- load


class Load:
    """Requests to one program: at random times, some on connections that are kept."""

    def __init__(self, scenario: Scenario, port: int, seconds: float, r: random.Random) -> None:
        self.scenario = scenario
        self.port = port
        self.seconds = seconds
        self.r = r
        self.begun = time.monotonic()
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.busy: set[asyncio.Task[None]] = set()
        self.number = self.ok = self.failed = self.unsent = 0
        self.pinned = asyncio.Lock()
        self.pin: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        while (now := time.monotonic() - self.begun) < self.seconds:
            rate = self.scenario.rate * shaped(self.scenario.shape, now, self.seconds)
            # In small waits, so that a change of the load is noticed.
            wait = self.r.expovariate(max(rate, 0.01))
            await asyncio.sleep(min(1.0, wait))
            if wait > 1.0:
                continue  # waiting has no memory: draw again
            if len(self.busy) >= BUSY:
                self.unsent += 1
                continue
            self.send(self._path())

    async def end(self) -> None:
        for task in list(self.busy):
            task.cancel()
        await asyncio.gather(*self.busy, return_exceptions=True)
        for _, writer in [*self.idle, *([self.pin] if self.pin else [])]:
            writer.close()

    def _path(self) -> str:
        paths, weights = zip(*self.scenario.paths, strict=True)
        path: str = self.r.choices(paths, weights)[0]
        self.number += 1
        return f"/missing/{self.number}" if path == "/missing" else path

    async def _request(self, path: str) -> None:
        try:
            await asyncio.wait_for(self._choose(path), TIMEOUT)
            self.ok += 1
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            self.failed += 1

    async def _choose(self, path: str) -> None:
        if self.scenario.shape == "pinned" and self.r.random() < 0.9:
            async with self.pinned:
                self.pin = await self._exchange(path, self.pin, True)
        elif self.r.random() < self.scenario.keep:
            connection = self.idle.pop() if self.idle else None
            if kept := await self._exchange(path, connection, True):
                self.idle.append(kept)
        else:
            await self._exchange(path, None, False)

    def send(self, path: str) -> None:
        task = asyncio.create_task(self._request(path))
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)

    async def _exchange(
        self,
        path: str,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None,
        keep: bool,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A request; the connection, if it is still good."""
        for used in (connection, None):
            reader, writer = used or await asyncio.open_connection("127.0.0.1", self.port)
            try:
                head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: "
                writer.write((head + ("keep-alive" if keep else "close") + "\r\n\r\n").encode())
                good = await _answer(reader)
            except (OSError, EOFError):
                writer.close()
                if used is None:
                    raise
                continue  # the server had closed it: once more, on a fresh one
            except BaseException:
                writer.close()
                raise
            if keep and good:
                return reader, writer
            writer.close()
            return None
        raise AssertionError("a fresh connection either answers or raises")


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read one answer; whether the connection stays. ValueError: it was that of a failure."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"content-length:" in head:
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    else:
        await reader.read()
        return False
    if head.split(maxsplit=2)[1].startswith(b"5"):
        raise ValueError("the application failed")
    return b"connection: close" not in head


def shaped(shape: str, now: float, seconds: float) -> float:
    """How many times the usual load there is now."""
    share = now / seconds
    if shape == "diurnal":
        return 0.1 + 0.95 * (1 - math.cos(share * 2 * math.pi * 2.5))
    if shape == "bursts":
        return 8.0 if now % 75 < 6 else 0.5
    if shape == "idle_busy":
        return 0.02 if share < 0.45 else 1.6
    if shape == "pauses":
        return 0.0 if now % 150 > 85 else 1.7
    return 1.0


# -- one program


@dataclass
class Life:
    """One worker, as it was seen."""

    start: int
    begun: float  # t of the first look
    ended: float = 0.0
    count: counter.Count = field(default_factory=counter.Count)
    anon: list[tuple[float, int]] = field(default_factory=list)  # t, bytes


class Program:
    """One scenario: gunicorn, its load, what is seen of it."""

    def __init__(self, scenario: Scenario, options: argparse.Namespace, out: Path) -> None:
        self.scenario = scenario
        self.options = options
        self.out = out
        self.directory = Path(tempfile.mkdtemp(prefix=f"record-{scenario.name}-"))
        self.port = 0
        self.master: subprocess.Popen[bytes] | None = None
        self.lives: dict[int, Life] = {}
        self.killed: list[tuple[float, int]] = []
        self.done: list[tuple[float, str]] = []
        self.load: Load | None = None
        self.epoch = 0.0

    def start(self, library: Path | None) -> None:
        self.port = free_port()
        self.epoch = time.time()
        s = self.scenario
        parts = [str(library)] if library else []
        if s.gunicorn is not None:
            parts.append(str(self.options.servers / f"gunicorn-{s.gunicorn}"))
        parts.append(str(HERE / "recorded"))
        spec = {
            "framework": s.framework,
            "behaviour": s.behaviour,
            "parameters": s.parameters,
            "directory": str(self.directory),
            "begin": self.epoch,
        }
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("GUNICORN", "PYTHON"))},
            "PYTHONPATH": os.pathsep.join(parts),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
            "OPENBLAS_NUM_THREADS": "1",
            "MEMWATCH_RECORDED": json.dumps(spec),
            **s.environment,
        }
        target = "served:make" if s.framework == "aiohttp" else "served:application"
        command = [
            interpreter(s.python), "-m", "gunicorn", target, "-b", f"127.0.0.1:{self.port}",
            "-w", str(s.workers), "-k", s.worker_class, "--log-level", "warning",
            "--worker-tmp-dir", "/dev/shm",
        ]  # fmt: skip
        if s.threads > 1:
            command += ["--threads", str(s.threads)]
        with open(self.directory / "log", "ab") as log:
            self.master = subprocess.Popen(
                [*command, *s.arguments],
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def last_word(self) -> str:
        return (self.log().strip().splitlines() or ["it said nothing"])[-1]

    async def answers(self) -> None:
        """Wait for the first answer; RuntimeError if none comes."""
        assert self.master is not None
        deadline = time.monotonic() + BOOT
        while time.monotonic() < deadline:
            if self.master.poll() is not None:
                break
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                if children(self.master.pid):
                    return
            await asyncio.sleep(0.2)
        raise RuntimeError(f"does not answer: {self.last_word()}")

    async def record(self, seconds: float) -> None:
        """Load, looks, events, for so long."""
        r = random.Random(f"{self.options.seed} load {self.scenario.name}")
        self.epoch = time.time()
        self.load = Load(self.scenario, self.port, seconds, r)
        load = asyncio.create_task(self.load.run())
        zero = time.monotonic()
        events = sorted(self.scenario.events)
        path = self.out / f"{self.scenario.name}.jsonl.gz"
        partial = path.with_suffix(".partial")
        try:
            with gzip.open(partial, "wt", compresslevel=6) as file:
                file.write(json.dumps({"program": self._header()}) + "\n")
                tick = 0
                while (t := time.monotonic() - zero) < seconds:
                    file.write(json.dumps(self.look(t)) + "\n")
                    while events and events[0][0] * seconds <= t:
                        self._event(events.pop(0)[1], t)
                    tick += 1
                    due = zero + tick * self.options.tick
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.master is None or self.master.poll() is not None or not self.load.ok:
                raise RuntimeError(f"did not last: {self.last_word()}")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await self.load.end()

    def _header(self) -> dict[str, Any]:
        return {
            "namespec": f"{self.scenario.name}:{self.scenario.name}",
            "interval": self.options.tick,
            "preload": "--preload" in self.scenario.arguments,
            "available": None,
            "total_limit": None,
            "limit": None,
            "options": {},
        }

    def look(self, t: float) -> dict[str, Any]:
        """A tick; a worker that holds too much is killed after it."""
        assert self.master is not None
        master = sample(self.master.pid)
        workers = []
        for pid in children(self.master.pid):
            if (seen := sample(pid, self.directory)) is not None:
                workers.append(seen._asdict())
                self._remember(t, seen)
                if seen.rss > self.scenario.most_mb * MB:
                    self.killed.append((round(t, 1), pid))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return {"t": round(t, 2), "master": master and master._asdict(), "workers": workers}

    def _remember(self, t: float, seen: Sample) -> None:
        life = self.lives.get(seen.pid)
        if life is None or life.start != seen.start:
            life = self.lives[seen.pid] = Life(seen.start, t)
        life.ended = t
        life.anon.append((t, seen.anon + seen.swap))
        life.count = counter.read(self.directory, seen.pid) or life.count

    def _event(self, event: str, t: float) -> None:
        assert self.master is not None and self.load is not None
        self.done.append((round(t, 1), event))
        if event == "JOB":
            self.load.send("/job")
        elif event == "TERM":
            workers = children(self.master.pid)
            if workers:
                os.kill(workers[0], signal.SIGTERM)
        else:
            os.kill(self.master.pid, getattr(signal, f"SIG{event}"))

    async def end(self) -> None:
        """gunicorn and what is left of its session."""
        if self.master is not None:
            await self._end(self.master)
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _end(self, master: subprocess.Popen[bytes]) -> None:
        workers = children(master.pid)
        if master.poll() is None:
            master.terminate()
            deadline = time.monotonic() + ENDING
            while master.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            if master.poll() is None:
                master.kill()
        for pid in workers:
            with contextlib.suppress(OSError):
                if os.getsid(pid) == master.pid:
                    os.kill(pid, signal.SIGKILL)
        master.wait()

    def label(self, versions: dict[str, str]) -> dict[str, Any]:
        s = self.scenario
        facts = dataclasses.asdict(s)
        for name in ("name", "truth", "what"):
            facts.pop(name)
        caches = not {"lru", "queries"}.isdisjoint(
            (s.behaviour, *s.parameters.get("first", ())[:1])
        )
        found = judge(s.truth, self.lives, self.epoch, caches)
        rate = found["rate_mb_min"]
        if s.parameters.get("leaks") is False and rate is not None and rate > 2 * SEEN:
            found["said"] = f"meant as the version that does not leak, but grew: {rate} MB/min"
        load = self.load
        return {
            **found,
            "what": s.what,
            "events_done": self.done,
            "killed": self.killed,
            "seed": self.options.seed,
            "versions": versions,
            "answered": load.ok if load else 0,
            "failed": load.failed if load else 0,
            "unsent": load.unsent if load else 0,
            "scenario": facts,
        }


def judge(
    meant: str, lives: Mapping[int, Life], epoch: float, caches: bool = False
) -> dict[str, Any]:
    """What the recording really was: the application's own account, and what was measured.

    `epoch`: when the recording began; `caches`: there is one that tells when it is full.
    """
    told: dict[str, dict[str, Any]] = {}
    for pid, life in sorted(lives.items()):
        since = max(0.0, life.count.since - epoch) if life.count.since else None
        told[str(pid)] = {
            "begun": round(life.begun, 1),
            "ended": round(life.ended, 1),
            "requests": life.count.requests,
            "leaked_mb": round(life.count.leaked / MB, 2),
            "operations": life.count.operations,
            "since": None if since is None else round(since, 1),
            "full": round(life.count.full - epoch, 1) if life.count.full else None,
            "grown_mb": grown(life.anon, since or 0.0),
            "rate_mb_min": slope(life.anon, max(life.begun + SETTLED, since or 0.0)),
        }
    guilty = [int(pid) for pid, life in told.items() if life["operations"]]
    judged = guilty or [int(pid) for pid in told]
    rates = [rate for pid in judged if (rate := told[str(pid)]["rate_mb_min"]) is not None]
    rate = round(statistics.median(rates), 3) if rates else None
    truth, said = meant, None
    library = bool(guilty) and not any(life["leaked_mb"] for life in told.values())
    if library and rate is None:
        said = "too short to be measured"
    elif library and meant == "leak" and rate is not None and rate < SEEN:
        truth, said = "healthy", f"did not leak as promised: {rate} MB/min"
        guilty = []
    elif meant not in ("healthy", "filling") and not guilty:
        truth, said = "healthy", "nothing was leaked"
    for name, account in told.items():
        leaked, more = account["leaked_mb"], account["grown_mb"]
        if leaked > 2 and more < leaked / 2:
            said = f"{name} says it keeps {leaked} MB, but grew by {more} MB"
    return {
        "truth": truth,
        "guilty": guilty,
        "since": {str(pid): told[str(pid)]["since"] for pid in guilty},
        "filling": [int(pid) for pid, life in told.items() if caches and life["full"] is None],
        "rate_mb_min": rate,
        "said": said,
        "lives": told,
    }


def slope(points: Sequence[tuple[float, int]], since: float) -> float | None:
    """MB a minute from then on, by least squares; None where there is less than a minute."""
    used = [(t / 60, size / MB) for t, size in points if t >= since]
    if len(used) < 3 or used[-1][0] - used[0][0] < 0.5:
        return None
    return round(statistics.linear_regression(*zip(*used, strict=True)).slope, 3)


def grown(points: Sequence[tuple[float, int]], since: float) -> float:
    """MB from then, or from the first look, to the end."""
    before = [size for t, size in points if t <= since] or [points[0][1]]
    return round((points[-1][1] - before[-1]) / MB, 2)


# -- all of them


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def versions_of(scenario: Scenario, library: Path | None) -> dict[str, str]:
    """Of what it ran on: from its own directory, else as installed."""
    own = {} if library is None else _found(str(library))
    everywhere = {} if scenario.python else _found(*sys.path)
    names = {"gunicorn", scenario.framework, *(name.partition("==")[0] for name in own)}
    names |= {name for name in ("gevent", "uvicorn") if name in scenario.worker_class}
    found = {"python": scenario.python or platform.python_version()}
    for name in sorted(names):
        if version := own.get(name) or everywhere.get(name):
            found[name] = version
    if scenario.gunicorn is not None:
        found["gunicorn"] = scenario.gunicorn
    return found


def _found(*path: str) -> dict[str, str]:
    """The distributions in these directories, by their names in lower case."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions(path=list(path)):
        found.setdefault(distribution.metadata["Name"].lower(), distribution.version)
    return found


def needed(scenario: Scenario, servers: Path) -> None:
    """RuntimeError if something is missing that pip cannot install."""
    preloaded = scenario.environment.get("LD_PRELOAD")
    if preloaded and find_library(preloaded.removeprefix("lib").partition(".")[0]) is None:
        # The dynamic linker would merely warn, and record something else.
        raise RuntimeError(f"there is no {preloaded}: on Debian, apt install libjemalloc2")
    if scenario.gunicorn is not None:
        directory = servers / f"gunicorn-{scenario.gunicorn}"
        if not directory.is_dir():
            raise RuntimeError(f"there is no {directory}: run `make servers`, or say --servers")


async def one(
    scenario: Scenario, options: argparse.Namespace, starting: asyncio.Semaphore
) -> dict[str, Any] | None:
    """Record one scenario; its label, or None where it could not be."""
    program = Program(scenario, options, options.out)
    try:
        async with starting:
            needed(scenario, options.servers)
            library = None
            if scenario.packages:
                library = await asyncio.to_thread(
                    install, scenario.packages, scenario.python, options.cache
                )
            program.start(library)
            await program.answers()
        await program.record(options.seconds)
        label = program.label(versions_of(scenario, library))
        if program.load and program.load.failed > program.load.ok / 4:
            say(f"{scenario.name}: many requests failed; its log: {program.log()[-600:]}")
        rate = label["rate_mb_min"]
        say(f"{scenario.name}: {label['truth']}, {rate} MB/min {label['said'] or ''}")
        return label
    except (RuntimeError, OSError) as error:
        say(f"{scenario.name}: left out: {error}")
        return None
    finally:
        await program.end()


async def _main(wanted: Sequence[Scenario], options: argparse.Namespace) -> int:
    """Some at a time, in their order; what is ready is in labels.json at once."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    starting = asyncio.Semaphore(STARTING)
    room = asyncio.Semaphore(options.at_once)
    path = options.out / "labels.json"
    labels = json.loads(path.read_text()) if path.exists() else {}
    missing = []

    async def turn(scenario: Scenario) -> None:
        async with room:
            label = await one(scenario, options, starting)
        if label is None:
            missing.append(scenario.name)
            return
        labels[scenario.name] = label
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(labels, indent=1, sort_keys=True) + "\n")
        partial.replace(path)

    say(f"{len(wanted)} scenarios, {options.at_once} at a time, {options.seconds:g} s each")
    # Every second one first: so both of a kind are not waited for, and what is early is a mix.
    mixed = [*wanted[::2], *wanted[1::2]]
    turns = [asyncio.create_task(turn(scenario)) for scenario in mixed]
    try:
        # Not gather: it would be over at the first that is cancelled, and the others, cancelled
        # once more, would not end what they had started.
        await asyncio.wait(turns, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in turns:
            each.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
    for each in turns:
        each.result()
    say(f"{len(wanted) - len(missing)} recorded; left out: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="the directory they are written to")
    parser.add_argument("--seed", type=int, default=1, help="of the parameters (default 1)")
    parser.add_argument(
        "--for",
        dest="seconds",
        type=parse_time,
        default=720.0,
        metavar="TIME",
        help="how long each is recorded (default 12m)",
    )
    parser.add_argument(
        "--tick", type=float, default=5.0, help="seconds from look to look (default 5)"
    )
    parser.add_argument("--only", default="", metavar="NAME,...", help="these scenarios alone")
    parser.add_argument(
        "--at-once", type=int, default=24, metavar="N", help="programs at a time (default 24)"
    )
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="where libraries are kept"
    )
    parser.add_argument(
        "--servers",
        type=Path,
        default=Path(sys.prefix) / "servers",
        metavar="DIR",
        help="where `make servers` put the gunicorns",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios, record none")
    options = parser.parse_args(arguments)
    wanted = scenarios(options.seed, options.seconds)
    if options.only:
        names = options.only.split(",")
        unknown = set(names) - {s.name for s in wanted}
        if unknown:
            parser.error(f"no scenario is called {', '.join(sorted(unknown))}: see --list")
        wanted = [s for s in wanted if s.name in names]
    if options.list:
        for s in wanted:
            print(f"{s.name:24} {s.truth:10} {s.rate:5.1f}/s {s.workers} {s.what}")
        return 0
    if options.out is None:
        parser.error("where to? python bench/record.py OUT")
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(_main(wanted, options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        say("ended early: what was ready is in labels.json")
        return 1


if __name__ == "__main__":
    sys.exit(main())
