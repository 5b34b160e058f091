"""What a tick costs: memwatch's listener, superlance's memmon and the bare reading of /proc.

    python bench/tick.py [--quick] [--json]

Real gunicorn workers under one real supervisord, with three event listeners side by side on
the same TICK_5: memwatch, `memmon -c -p` for each program, and the floor, a loop that does
nothing but read stat and statm of the same workers. Their CPU time is the kernel's. Before,
a listener is driven inside this process, without the pauses, through an hour of ticks: that
tells the parts of a tick apart, and leaves the real listener an hour's past to think about.

Covers one tick of a quiet machine: no verdict, no action, no news. See bench/README.md.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from supervisor_memwatch import config  # noqa: E402
from supervisor_memwatch.control import RpcError, Supervisor  # noqa: E402
from supervisor_memwatch.journal import Reader  # noqa: E402
from supervisor_memwatch.listener import Listener  # noqa: E402
from supervisor_memwatch.log import Log  # noqa: E402
from supervisor_memwatch.report import snapshot_from_json  # noqa: E402

MB = 1024 * 1024
TICK = 5.0
ROUNDS = 3  # of driven ticks; the cheapest counts, as the machine is not ours alone
MEMMON_PSS = 13.6 * MB  # what a memmon was seen to hold, with nothing of Python shared
APP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"


class Size(NamedTuple):
    """How many there are to watch."""

    programs: int
    each: int

    @property
    def workers(self) -> int:
        return self.programs * self.each


class Plan(NamedTuple):
    """The three sizes (the last two with the same programs), and how long to look at each."""

    sizes: tuple[Size, Size, Size]
    settling: int  # real ticks after the first that are not measured: the trees are discovered
    ticks: int  # real ones that are measured
    past: int  # driven ones before any is measured
    driven: int  # driven ones in a round


FULL = Plan((Size(1, 4), Size(10, 4), Size(10, 40)), settling=1, ticks=12, past=540, driven=60)
QUICK = Plan((Size(1, 4), Size(10, 4), Size(10, 8)), settling=0, ticks=1, past=30, driven=30)


# -- the floor


def read_bare(paths: list[str]) -> None:
    """The least any Python watchdog has to do at a tick."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.read(handle, 1024)
        os.close(handle)


def paths_of(pids: list[int]) -> list[str]:
    return [f"/proc/{pid}/{name}" for pid in pids for name in ("stat", "statm")]


def floor_listener(pids: str, seconds: str) -> None:
    """An event listener that writes down the CPU seconds of the bare loop, a line a tick."""
    with open(seconds, "a", buffering=1) as out:
        while True:
            os.write(1, b"READY\n")
            header = dict(word.split(":", 1) for word in sys.stdin.readline().split())
            sys.stdin.read(int(header["len"]))
            paths = paths_of(json.loads(Path(pids).read_text()))
            begun = time.process_time()
            read_bare(paths)
            out.write(f"{time.process_time() - begun}\n")
            os.write(1, b"RESULT 2\nOK")


# -- a machine to measure on


class Machine:
    """A supervisord with gunicorn programs and the three listeners, which do not run yet."""

    def __init__(self, size: Size, directory: Path) -> None:
        self.size = size
        self.directory = directory
        self.conf = directory / "supervisord.conf"
        self.url = f"unix://{directory}/s.sock"
        self.names = [f"web{number}" for number in range(size.programs)]
        self.workers: list[int] = []

    def text(self) -> str:
        here = self.directory
        programs = "".join(
            f"[program:{name}]\ndirectory={here}\nstartsecs=0\n"
            f"command={sys.executable} -m gunicorn --preload"
            f" --no-control-socket -w {self.size.each} -b unix:{here}/{name}.sock app:app\n"
            for name in self.names
        )
        limits = " ".join(f"-p {name}=100GB" for name in self.names)
        commands = {
            "memwatch": f"{sys.executable} -m supervisor_memwatch listen",
            "memmon": f"{sys.executable} -m superlance.memmon -c {limits}",
            "floor": f"{sys.executable} {__file__} --floor {here}/pids {here}/floor",
        }
        listeners = "".join(
            f"[eventlistener:{name}]\ncommand={command}\nevents=TICK_5\nautostart=false\nstartsecs=0\n"
            # Listeners of equal priority get each other's rejected events again.
            f"priority={priority}\n"
            for priority, (name, command) in enumerate(commands.items(), start=50)
        )
        return (
            f"[supervisord]\nlogfile={here}/supervisord.log\n"
            f"pidfile={here}/supervisord.pid\nchildlogdir={here}\n"
            f"[unix_http_server]\nfile={here}/s.sock\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory ="
            " supervisor.rpcinterface:make_main_rpcinterface\n"
            f"{programs}{listeners}"
            # The workers are young, and the past of an hour that they get is made up.
            f"[memwatch]\njournal={here}/journal.db\nwarmup=0s\n"
        )

    def __enter__(self) -> Machine:
        # Compiled beforehand, as an installed package is: compiling leaves memory behind.
        package = shutil.copytree(
            ROOT / "supervisor_memwatch", self.directory / "supervisor_memwatch"
        )
        compileall.compile_dir(package, quiet=1)
        (self.directory / "app.py").write_text(APP)
        self.conf.write_text(self.text())
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.conf)]
        with open(self.directory / "supervisord.out", "wb") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            until(self._is_up, "supervisord and its workers")
        except BaseException:
            self.__exit__()
            raise
        (self.directory / "pids").write_text(json.dumps(self.workers))
        return self

    def __exit__(self, *_: object) -> None:
        """supervisord first, so that it starts nothing anew, then everything below it."""
        left: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        alive = psutil.wait_procs(left, 10)[1]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit((self.directory / "supervisord.out").read_text())
        try:
            with Supervisor(self.url) as rpc:
                programs = rpc.programs()
            masters = {found["pid"] for found in programs if found["statename"] == "RUNNING"}
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.workers = [process.pid for process in below if process.ppid() in masters]
        except (RpcError, psutil.NoSuchProcess):
            return False
        return (len(masters), len(self.workers)) == (self.size.programs, self.size.workers)

    def start_listeners(self) -> dict[str, int]:
        """Start them; name -> pid once each has had a tick."""
        with Supervisor(self.url) as rpc:
            for name in ("memwatch", "memmon", "floor"):
                rpc.start(name)
            self.wait_ticks(1)
            found = {info["name"]: info for info in rpc.programs()}
        for name in ("memwatch", "memmon", "floor"):
            if found[name]["statename"] != "RUNNING":
                logs = sorted(self.directory.glob(f"{name}-stderr*"))
                raise SystemExit("\n".join(log.read_text() for log in logs))
        return {name: found[name]["pid"] for name in ("memwatch", "memmon", "floor")}

    def check(self, since: float) -> None:
        """A listener that saw nothing would cost little."""
        with contextlib.closing(Reader(str(self.directory / "journal.db"))) as reader:
            rows = reader.rows("SELECT snapshot FROM latest WHERE at > ?", (since,))
        seen = sum(len(snapshot_from_json(json.loads(row[0])).workers) for row in rows)
        if seen != self.size.workers:
            raise SystemExit(f"bench: the listener saw {seen} of {self.size.workers} workers")

    def floors(self) -> list[float]:
        """CPU seconds of the bare loop at each tick so far."""
        try:
            return [float(line) for line in (self.directory / "floor").read_text().split()]
        except FileNotFoundError:
            return []

    def wait_ticks(self, count: int) -> None:
        """So many ticks, and then until every listener is done with the last one."""
        wanted = len(self.floors()) + count
        until(lambda: len(self.floors()) >= wanted, f"{count} ticks", 30 + count * TICK)
        time.sleep(TICK / 2)


def until(true: Callable[[], bool], what: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: not within {timeout:g} s: {what}")
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    """What a process and its ended children used: to the nanosecond, the children to 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    own = sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, int]:
    info = psutil.Process(pid).memory_full_info()
    return {"rss": info.rss, "pss": info.pss, "uss": info.uss}


# -- real ticks


def real_ticks(machine: Machine, plan: Plan) -> dict[str, Any]:
    """CPU seconds of a tick, and bytes held after it, of the three listeners."""
    begun = time.time()
    pids = machine.start_listeners()
    if plan.settling:
        machine.wait_ticks(plan.settling)
    seen = len(machine.floors())
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    machine.wait_ticks(plan.ticks)
    count = len(machine.floors()) - seen
    cpu = {name: (cpu_seconds(pid) - before[name]) / count for name, pid in pids.items()}
    cpu["floor"] = statistics.fmean(machine.floors()[seen:])
    machine.check(begun)
    held = {name: memory(pids[name]) for name in ("memwatch", "memmon")}
    return {"cpu": cpu, "memory": held}


# -- ticks driven from here


class Stopwatch:
    """CPU seconds by part; what a part spends inside another is its own alone."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self._inner = 0.0

    def begin(self) -> None:
        self.rounds.append(defaultdict(float))

    def wrap(self, part: str, owner: Any, method: str) -> None:
        """Time `owner.method` from now on."""
        function = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            begun = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent = time.process_time() - begun
                self.rounds[-1][part] += spent - self._inner
                self._inner = outer + spent

        setattr(owner, method, timed)


class Hour:
    """A clock on which a tick's period passes when we say so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def at(self) -> float:
        return self.now

    def stepped(self) -> float:
        return 0.0


PARTS = {
    "rpc": "Supervisor's RPC",
    "sample": "sampling",
    "look": "look (detectors, policy)",
    "rows": "rows as JSON",
    "journal": "SQLite",
    "save": "the past saved, every 5m",
    "rest": "protocol and the rest",
}


def driven_ticks(machine: Machine, plan: Plan) -> dict[str, float]:
    """CPU seconds of a tick by part, and of the floor, one tick straight after the other."""
    events_in, events = os.pipe()
    answers, events_out = os.pipe()
    with open(os.devnull, "w") as nowhere:
        found = config.load(str(machine.conf), os.environ, strict=True)
        rpc = Supervisor(machine.url)
        listener = Listener(found, rpc, Log(nowhere.fileno()), events_in, events_out, "memwatch")
        clock = Hour(time.time() - (plan.past + ROUNDS * plan.driven) * TICK)
        listener.clock = clock  # type: ignore[assignment]

        def tick() -> None:
            clock.now += TICK
            os.write(events, tick_event())
            listener._wait()
            os.read(answers, 4096)

        for _ in range(plan.past):
            tick()
        watch = Stopwatch()
        watch.wrap("rpc", listener.rpc, "programs")
        watch.wrap("sample", listener.sampler, "look")
        for program in listener.watches.values():
            watch.wrap("look", program, "wants")
            watch.wrap("look", program, "look")
        watch.wrap("rows", listener, "_write_down")
        watch.wrap("journal", listener.journal, "write")
        watch.wrap("save", listener, "_now_and_then")
        watch.wrap("rest", listener, "_wait")
        for _ in range(ROUNDS):
            watch.begin()
            for _ in range(plan.driven):
                tick()
        listener._end()
        rpc.close()
    for handle in (events_in, events, answers, events_out):
        os.close(handle)
    spent = {part: min(taken[part] for taken in watch.rounds) / plan.driven for part in PARTS}
    return {**spent, "floor": _floor(machine.workers, plan.driven)}


def tick_event() -> bytes:
    payload = f"when:{int(time.time())}"
    return f"ver:3.0 eventname:TICK_5 len:{len(payload)}\n{payload}".encode()


def _floor(workers: list[int], rounds: int) -> float:
    paths = paths_of(workers)
    taken = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(rounds):
            read_bare(paths)
        taken.append((time.process_time() - begun) / rounds)
    return min(taken)


# -- what it says


def shares(costs: tuple[float, float, float], sizes: tuple[Size, Size, Size]) -> dict[str, float]:
    """A tick's cost as so much, plus so much per program, plus so much per worker."""
    one, few, many = sizes
    worker = (costs[2] - costs[1]) / (many.workers - few.workers)
    more = costs[1] - costs[0] - worker * (few.workers - one.workers)
    program = more / (few.programs - one.programs)
    fixed = costs[0] - program * one.programs - worker * one.workers
    return {"fixed": fixed, "program": program, "worker": worker}


def document(plan: Plan, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that was measured: seconds and bytes."""

    def split(cost: Callable[[dict[str, Any]], float]) -> dict[str, float]:
        return shares((cost(runs[0]), cost(runs[1]), cost(runs[2])), plan.sizes)

    def total(run: dict[str, Any]) -> float:
        return float(sum(run["driven"][part] for part in PARTS))

    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "quick": plan is QUICK,
        "ticks": plan.ticks,
        "runs": runs,
        "real": {
            name: split(lambda run, name=name: run["cpu"][name])  # type: ignore[misc]
            for name in ("memwatch", "memmon", "floor")
        },
        "driven": {
            "memwatch": split(total),
            "floor": split(lambda run: run["driven"]["floor"]),
            **{part: split(lambda run, part=part: run["driven"][part]) for part in PARTS},  # type: ignore[misc]
        },
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The table."""
    runs = found["runs"]

    def row(name: str, cells: list[str]) -> str:
        return f"{name:<34}" + "".join(f"{cell:>13}" for cell in cells)

    def ms(values: list[float]) -> list[str]:
        return [f"{1000 * value:.3f}" for value in values]

    def times(over: list[float], under: list[float]) -> list[str]:
        return [f"{a / b:.3g}x" for a, b in zip(over, under, strict=True)]

    yield (
        f"Python {found['python']}, Linux {found['kernel']}, {found['cpus']} CPUs, "
        f"{runs[-1]['processes']} processes on the machine at most"
    )
    yield ""
    yield row("", [f"{run['workers']} workers" for run in runs])
    yield row("", [f"{run['programs']} program{'s'[: run['programs'] > 1]}" for run in runs])
    yield f"CPU of a tick, ms: mean of {found['ticks']} real TICK_5"
    cpu = {name: [run["cpu"][name] for run in runs] for name in ("memwatch", "memmon", "floor")}
    yield row("  memwatch", ms(cpu["memwatch"]))
    yield row("  memmon -c, its ps included", ms(cpu["memmon"]))
    yield row("  floor: stat and statm, bare", ms(cpu["floor"]))
    yield row("  memwatch / memmon", times(cpu["memwatch"], cpu["memmon"]))
    yield row("  memwatch / floor", times(cpu["memwatch"], cpu["floor"]))
    yield ""
    yield "CPU of a tick, ms: driven, one straight after the other; cheapest of three rounds"
    totals = [sum(run["driven"][part] for part in PARTS) for run in runs]
    yield row("  memwatch", ms(totals))
    for part, words in PARTS.items():
        yield row(f"    {words}", ms([run["driven"][part] for run in runs]))
    floors = [run["driven"]["floor"] for run in runs]
    yield row("  floor", ms(floors))
    yield row("  memwatch / floor", times(totals, floors))
    yield ""
    yield row("CPU of a tick, us", ["fixed", "per program", "per worker"])
    for kind in ("real", "driven"):
        for name, split in found[kind].items():
            indent = "      " if name in PARTS else "    "
            yield row(
                f"  {kind} {name}" if name not in PARTS else f"{indent}{PARTS[name]}",
                [f"{1e6 * split[share]:.1f}" for share in ("fixed", "program", "worker")],
            )
    yield ""
    yield row("memory, MB", ["RSS", "PSS", "USS"])
    for run in runs:
        for name in ("memwatch", "memmon"):
            held = run["memory"][name]
            where = f"  {name}, {run['workers']} workers"
            yield row(where, [f"{held[key] / MB:.1f}" for key in ("rss", "pss", "uss")])
    yield ""
    if found["quick"]:
        yield "A rough idea. The aims, and the costs per program and worker: without --quick."
    else:
        yield from aims(found)


def aims(found: dict[str, Any]) -> Iterator[str]:
    """What was hoped for, and what came of it."""

    def aim(words: str, measured: float, bound: float, unit: str) -> str:
        verdict = "met" if measured <= bound else "MISSED"
        return f"{verdict:<7}{words}: {measured:.3g}{unit}, aim at most {bound:.3g}{unit}"

    for kind in ("real", "driven"):
        split = found[kind]
        ratio = split["memwatch"]["worker"] / split["floor"]["worker"]
        yield aim(f"CPU per worker, times the floor ({kind})", ratio, 3, "x")
    for run in found["runs"][1:]:
        where = f"{run['workers']} workers in {run['programs']} programs"
        ratio = run["cpu"]["memwatch"] / run["cpu"]["memmon"]
        yield aim(f"CPU of a tick, times memmon's ({where})", ratio, 0.1, "x")
    for run in found["runs"]:
        held = run["memory"]["memwatch"]["pss"] / MB
        yield aim(
            f"PSS before any news ({run['workers']} workers)", held, 1.3 * MEMMON_PSS / MB, "MB"
        )


def measure(size: Size, plan: Plan) -> dict[str, Any]:
    """One size, on a machine of its own."""
    # /tmp: the address of a unix socket holds 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="memwatch-bench-", dir="/tmp"))
    try:
        with Machine(size, directory) as machine:
            print(f"programs: {size.programs}, workers: {size.workers} ...", file=sys.stderr)
            driven = driven_ticks(machine, plan)
            real = real_ticks(machine, plan)
            processes = len(psutil.pids())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {
        **size._asdict(),
        "workers": size.workers,
        "processes": processes,
        "driven": driven,
    } | real


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller, shorter: a rough idea")
    parser.add_argument("--json", action="store_true", help="everything, in seconds and bytes")
    parser.add_argument("--floor", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        floor_listener(*arguments.floor)
    plan = QUICK if arguments.quick else FULL
    found = document(plan, [measure(size, plan) for size in plan.sizes])
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
