"""Topology against real gunicorns: the workers that are found are those that answer requests.

However they are started, and whatever else lives in the tree. No supervisord is needed: the
process that is started here is the one Supervisor would have started.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from servers import APPS, alive, free_port, gunicorn_env, wait_until

from supervisor_memwatch import topology
from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.topology import Tree

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
NOBODY = 65534
ALL_DECOYS = "fork,subprocess,pool_fork,pool_spawn"


class Served(NamedTuple):
    """Who answers requests: what the application says of itself."""

    master: int
    workers: frozenset[int]


class Running:
    """A process tree under test, on a port and in a directory of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port
        self.log = log

    def served(self, count: int = 2, but: frozenset[int] = frozenset()) -> Served:
        """Ask until `count` workers (`but` those) have answered."""
        seen: dict[int, int] = {}

        def enough() -> bool:
            with contextlib.suppress(OSError):
                url = f"http://127.0.0.1:{self.port}/"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    pid, parent = map(int, answer.read().split())
                if pid not in but:
                    seen[pid] = parent
            assert self.process.poll() is None, self.log.read_text()
            return len(seen) >= count

        wait_until(enough, 60, lambda: f"{count} workers, {seen}:\n{self.log.read_text()}", 0.005)
        assert len(set(seen.values())) == 1, "all workers have one master"
        return Served(next(iter(seen.values())), frozenset(seen))

    def tree(self, known: Tree | None = None) -> Tree:
        tree = topology.discover(self.pid, known)
        assert tree is not None, self.log.read_text()
        return tree


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a command (`{port}` in it is the port), and end everything it left at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(
        command: list[str],
        *,
        version: str | None = None,
        titles: bool = True,
        decoys: str = "",
        **env: str,
    ) -> Running:
        port = free_port()
        environment = {**gunicorn_env(version), "HOME": str(tmp_path), "DECOYS": decoys, **env}
        environment.pop("XDG_RUNTIME_DIR", None)
        if not titles:
            shadow = tmp_path / "shadow"
            shadow.mkdir(exist_ok=True)
            (shadow / "setproctitle.py").write_text("raise ImportError('not here')\n")
            environment["PYTHONPATH"] = f"{shadow}:{environment['PYTHONPATH']}"
        log = tmp_path / f"{port}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in command],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return Running(process, port, log)

    yield run
    for process in started:
        left = [*psutil.Process(process.pid).children(recursive=True)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a session, and so a group, of its own
        process.wait()
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Tree]:
    """discover() as somebody who may not read /proc/PID/fd."""

    def look(pid: int, known: Tree | None = None) -> Tree:
        if os.geteuid() != 0:
            monkeypatch.setattr(topology, "_heartbeat_files", lambda pid: None)
            tree = topology.discover(pid, known)
        else:
            os.seteuid(NOBODY)
            try:
                tree = topology.discover(pid, known)
            finally:
                os.seteuid(0)
        assert tree is not None
        return tree

    return look


def options(*more: str, app: str = "decoys:app", workers: int = 2) -> list[str]:
    return ["--bind", "127.0.0.1:{port}", "--workers", str(workers), *more, app]


MODULE = [sys.executable, "-m", "gunicorn"]


def _shell(shell: str, text: str) -> list[str]:
    return [shell, "-c", text.format(command=shlex.join([*MODULE, *options()]))]


FORMS = {
    "gunicorn": [str(BIN / "gunicorn"), *options()],
    "python -m gunicorn": [*MODULE, *options()],
    "embedded": [sys.executable, str(APPS / "embedded.py"), "127.0.0.1:{port}", "2"],
    "sh -c": _shell("sh", "{command}"),
    "bash -c, and more": _shell("bash", "{command}; echo done"),
    "bash -c exec": _shell("bash", "cd /; exec {command}"),
    "uv run": [str(BIN / "uv"), "run", "--no-project", *MODULE, *options()],
    "pidproxy": [
        str(BIN / "pidproxy"),
        "gunicorn.pid",
        *MODULE,
        *options("--pid", "gunicorn.pid"),
    ],
    "embedded in a fork": [
        sys.executable,
        str(APPS / "embedded.py"),
        "127.0.0.1:{port}",
        "2",
        "fork",
    ],
    "wrapper": [sys.executable, str(APPS / "wrapper.py"), *MODULE, *options()],
    "wrapper in a wrapper": [sys.executable, str(APPS / "wrapper.py"), *_shell("sh", "{command}")],
    "preload": [*MODULE, *options("--preload")],
}


def tree_from(pid: int) -> Tree:
    """The tree from a process in its middle on: what is above is not seen."""
    tree = topology.discover(pid)
    assert tree is not None
    return tree


def pids(ids: tuple[WorkerId, ...]) -> set[int]:
    return {id.pid for id in ids}


def check(tree: Tree, served: Served, evidence: str = topology.HEARTBEAT) -> None:
    assert tree.master is not None
    assert tree.master.pid == served.master
    assert pids(tree.workers) == served.workers
    assert tree.masters == 1
    assert tree.evidence == evidence
    assert all(topology.identity(id.pid) == id for id in (tree.root, tree.master, *tree.workers))
    assert not {tree.root, tree.master, *tree.workers} & set(tree.others)


@pytest.mark.parametrize("titles", [True, False], ids=["titles", "no titles"])
@pytest.mark.parametrize("form", FORMS)
def test_the_workers_found_are_those_that_answer(
    start: Callable[..., Running], form: str, titles: bool
) -> None:
    """Every start form, with a forked and a started child of each worker beside it."""
    running = start(FORMS[form], titles=titles, decoys="fork,subprocess")
    served = running.served()
    tree = running.tree()
    check(tree, served)
    assert all(topology.ready(tree, worker) for worker in tree.workers)
    assert len(tree.others) >= 4


@pytest.mark.parametrize("version", ["20.1.0", "23.0.0"])
@pytest.mark.parametrize("form", ["python -m gunicorn", "embedded", "sh -c", "preload"])
def test_older_gunicorns(start: Callable[..., Running], form: str, version: str) -> None:
    running = start(FORMS[form], version=version, decoys="fork,subprocess")
    served = running.served()
    tree = running.tree()
    check(tree, served)
    assert all(topology.ready(tree, worker) for worker in tree.workers)


@pytest.mark.parametrize("titles", [True, False], ids=["titles", "no titles"])
def test_no_decoy_is_a_worker(
    start: Callable[..., Running],
    unreadable: Callable[..., Tree],
    monkeypatch: pytest.MonkeyPatch,
    titles: bool,
) -> None:
    """Forks, subprocesses, pools and resource trackers of workers and of a preloading master;
    also where only titles, or only command lines and signals, can be read."""
    decoys = f"import_fork,import_subprocess,{ALL_DECOYS}"
    running = start([*MODULE, *options("--preload")], titles=titles, decoys=decoys)
    served = running.served()
    check(running.tree(), served)
    # 2 of the master; of each worker a fork, a subprocess, 2 pools of 2 and a resource tracker
    assert len(running.tree().others) == 16
    check(unreadable(running.pid), served, topology.TITLE if titles else topology.CMDLINE)
    monkeypatch.setattr(topology, "_children", lambda process: None)  # CONFIG_PROC_CHILDREN=n
    check(running.tree(), served)
    assert len(running.tree().others) == 16


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi", "uvicorn"])
def test_every_worker_class_is_known_by_its_signals(
    start: Callable[..., Running], unreadable: Callable[..., Tree], worker_class: str
) -> None:
    app = "decoys:app"
    if worker_class in ("asgi", "uvicorn"):
        app = "decoys:asgi"
    name = {"uvicorn": "uvicorn.workers.UvicornWorker"}.get(worker_class, worker_class)
    running = start([*MODULE, *options("-k", name, app=app)], titles=False)
    served = running.served()
    tree = running.tree()
    check(tree, served)
    assert all(topology.ready(tree, worker) for worker in tree.workers)
    check(unreadable(running.pid), served, topology.CMDLINE)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("titles", [True, False], ids=["titles", "no titles"])
def test_dirty_arbiters_and_their_workers_are_no_workers(
    start: Callable[..., Running],
    unreadable: Callable[..., Tree],
    tmp_path: Path,
    titles: bool,
    workers: int,
) -> None:
    """Nor is the dirty arbiter a second master, nor one that was forked late and so holds the
    web workers' heartbeat files."""
    dirty = ("--dirty-app", "decoys:Dirty", "--dirty-workers", "2")
    # The name is in the path of a file all dirty arbiters of that name share.
    more = options(*dirty, "--name", tmp_path.name + str(os.getpid()), workers=workers)
    running = start([*MODULE, *more], titles=titles)
    weak = topology.TITLE if titles else topology.CMDLINE

    def arbiter(served: Served) -> psutil.Process | None:
        """The master's child that is no worker, once its two workers have forked their decoy."""
        below = psutil.Process(served.master).children()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may just be ending
                if process.pid not in served.workers and len(process.children(True)) == 4:
                    return process
        return None

    served = running.served(workers)
    first = wait_until(lambda: arbiter(served), 60, "a dirty arbiter with its workers")
    tree = running.tree()
    check(tree, served)
    check(unreadable(running.pid), served, weak)
    assert {first.pid, *(child.pid for child in first.children(recursive=True))} == pids(
        tree.others
    )

    assert tree_from(first.pid).master is None
    left = first.children(recursive=True)
    first.kill()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    second = wait_until(
        lambda: (found := arbiter(served)) and found.pid != first.pid and found,
        60,
        "a second dirty arbiter",
    )
    assert second.pid in pids(running.tree().others)
    check(running.tree(), served)
    check(running.tree(tree), served)
    check(unreadable(running.pid), served, weak)
    assert all(known.root.pid not in (first.pid, second.pid) for known in topology.masters())


def test_a_usr2_upgrade_is_seen_and_so_is_its_end(
    start: Callable[..., Running], unreadable: Callable[..., Tree]
) -> None:
    """The second master counts from the moment it is there; the workers are the first one's."""
    running = start(FORMS["python -m gunicorn"], titles=False)
    served = running.served()
    first = running.tree()
    check(first, served)
    os.kill(running.pid, signal.SIGUSR2)
    tree = wait_until(lambda: (now := running.tree(first)).masters == 2 and now, 60, "2 masters")
    assert (tree.master, tree.workers) == (first.master, first.workers)
    both = wait_until(
        lambda: (trees := _trees_below(running.pid)) and len(trees) == 2 and trees,
        60,
        "the second master has workers",
    )
    new = both[1]
    assert running.tree(tree).masters == 2
    assert running.tree().master == first.master
    assert unreadable(running.pid).masters == 2
    assert pids(new.workers) | {new.root.pid} <= pids(running.tree().others)
    os.kill(new.root.pid, signal.SIGTERM)
    wait_until(lambda: running.tree(tree).masters == 1, 60, "the second master has gone")
    check(running.tree(tree), served)


def test_a_usr2_upgrade_is_seen_by_its_title(start: Callable[..., Running]) -> None:
    running = start(FORMS["gunicorn"])
    served = running.served()
    check(running.tree(), served)
    os.kill(running.pid, signal.SIGUSR2)
    wait_until(lambda: running.tree().masters == 2, 60, "2 masters")
    wait_until(lambda: len(_trees_below(running.pid)) == 2, 60, "the second one has workers")
    assert running.tree().masters == 2


def _trees_below(pid: int) -> list[Tree]:
    """masters() of this test: others may be running gunicorns on this machine, too."""
    below = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return [tree for tree in topology.masters() if tree.root.pid in below and tree.workers]


def test_two_gunicorns_below_one_program_are_two_masters(start: Callable[..., Running]) -> None:
    one = shlex.join([*MODULE, *options()])
    two = shlex.join([*MODULE, "--bind", f"127.0.0.1:{free_port()}", "decoys:app"])
    running = start(["bash", "-c", f"{one} & {two} & wait"])
    wait_until(lambda: running.tree().masters == 2, 60, "2 masters")
    assert len(_trees_below(running.pid)) == 2


def test_a_reload_replaces_the_workers(start: Callable[..., Running]) -> None:
    running = start(FORMS["sh -c"], decoys="fork")
    before = running.served()
    tree = running.tree()
    check(tree, before)
    os.kill(before.master, signal.SIGHUP)
    after = running.served(but=before.workers)
    wait_until(
        lambda: pids(running.tree(tree).workers) == after.workers, 60, "the new workers alone"
    )
    check(running.tree(tree), after)


@pytest.mark.parametrize("titles", [True, False], ids=["titles", "no titles"])
def test_in_a_storm_of_reloads_nobody_is_taken_for_a_worker(
    start: Callable[..., Running], unreadable: Callable[..., Tree], tmp_path: Path, titles: bool
) -> None:
    """Workers and dirty arbiters come and go while discoveries follow each other without a
    pause: whoever is ever called a worker was forked as one."""
    forked = tmp_path / "forked"
    config = tmp_path / "config.py"
    # Also at its end: one that was killed right after its fork has not written anything itself.
    config.write_text(
        "def post_fork(server, worker):\n"
        f"    with open({str(forked)!r}, 'a') as file:\n"
        "        file.write(f'{worker.pid}\\n')\n"
        "child_exit = post_fork\n"
    )
    dirty = ("--dirty-app", "decoys:Dirty", "--dirty-workers", "1")
    name = ("--name", tmp_path.name + str(os.getpid()))
    more = options(*dirty, *name, "--config", str(config), workers=1)
    running = start([*MODULE, *more], titles=titles)
    master = running.served(1).master
    known = weakly_known = None
    seen: set[int] = set()
    weakly_seen: set[int] = set()
    deadline = time.monotonic() + 8
    next_blow = 0.0
    blows = 0
    while time.monotonic() < deadline:
        known = running.tree(known)
        assert known.masters <= 1
        seen |= pids(known.workers)
        seen |= pids(running.tree().workers)
        weakly_known = unreadable(running.pid, weakly_known)
        if titles:  # what signals say may be wrong for a moment
            weakly_seen |= pids(weakly_known.workers)
        if time.monotonic() > next_blow:
            next_blow = time.monotonic() + 0.4
            blows += 1
            if blows % 3 == 0:
                os.kill(master, signal.SIGHUP)
            started = [worker for worker in known.workers if topology.ready(known, worker)]
            for victim in (started, known.others)[blows % 2]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGKILL)
    assert len(seen) > 3

    def strangers() -> set[int]:
        return (seen | weakly_seen) - {int(line) for line in forked.read_text().split()}

    wait_until(lambda: not strangers(), 30, lambda: f"called workers, and are none: {strangers()}")

    def calm() -> Tree | None:
        """One worker that serves, a dirty arbiter, its worker, and the fork of that."""
        tree = running.tree(known)
        serves = [topology.ready(tree, worker) for worker in tree.workers] == [True]
        return tree if serves and len(tree.others) == 3 else None

    after = wait_until(calm, 60, "one worker after the storm")
    check(after, running.served(1, but=frozenset(seen - pids(after.workers))))
    weak = topology.TITLE if titles else topology.CMDLINE
    check(unreadable(running.pid, weakly_known), running.served(1), weak)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_workers_of_another_user(
    start: Callable[..., Running], unreadable: Callable[..., Tree]
) -> None:
    """setuid'd workers are found by root, and by others from their titles."""
    more = ("--preload", "-u", str(NOBODY), "-g", str(NOBODY), "--worker-tmp-dir", "/tmp")
    running = start([*MODULE, *options(*more)])
    served = running.served()
    assert {psutil.Process(pid).uids().effective for pid in served.workers} == {NOBODY}
    tree = running.tree()
    check(tree, served)
    assert all(topology.ready(tree, worker) for worker in tree.workers)
    check(unreadable(running.pid), served, topology.TITLE)


def test_a_pid_leads_to_its_tree(start: Callable[..., Running]) -> None:
    """masters() and tree_of(): what a command without Supervisor finds."""
    running = start(FORMS["sh -c"], decoys="fork")
    served = running.served()
    wrapped = topology.tree_of(running.pid)
    assert wrapped is not None
    check(wrapped, served)
    decoy = psutil.Process(min(served.workers)).children()[0].pid
    for pid in (served.master, *served.workers, decoy):
        tree = topology.tree_of(pid)
        assert tree is not None
        assert tree.root.pid == served.master
        check(tree, served)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        assert topology.tree_of(stranger.pid) is None
        stranger.kill()


def test_a_program_that_is_not_up_yet_is_said_to_be_gunicorn(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    running = start([*MODULE, *options("--preload", "--chdir", str(tmp_path), app="slow:app")])
    wait_until(lambda: topology.names_gunicorn(running.tree()), 60, "gunicorn is named")
    snapshot = look(Sampler(), running, 0)
    assert (snapshot.kind, snapshot.master, snapshot.workers) == ("gunicorn", None, ())


# -- the sampler on the same trees


def look(sampler: Sampler, running: Running, at: float) -> Snapshot:
    return sampler.look(Program("web:web", "RUNNING", running.pid), at)


def test_a_worker_that_is_killed_in_the_middle_of_a_look_is_left_out(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(FORMS["python -m gunicorn"])
    served = running.served()
    sampler = Sampler()
    wait_until(lambda: len(look(sampler, running, 0).workers) == 2, 60, "two workers")
    victim = psutil.Process(max(served.workers))
    original = os.open

    def kill_first(path: str | bytes, *arguments: int, **options: int) -> int:
        if path == f"/proc/{victim.pid}/stat".encode() and alive(victim):
            victim.kill()
            wait_until(lambda: not alive(victim), 60, "it has gone")
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", kill_first)
    assert [worker.id.pid for worker in look(sampler, running, 1).workers] == [min(served.workers)]
    monkeypatch.undo()
    after = running.served(but=frozenset({victim.pid}))
    wait_until(
        lambda: {worker.id.pid for worker in look(sampler, running, 2).workers} == after.workers,
        60,
        "its replacement",
    )


def test_the_numbers_are_those_psutil_reads(start: Callable[..., Running]) -> None:
    """As soon as the processes have settled: right after a fork, pages stop being shared."""
    running = start(FORMS["sh -c"], decoys="fork")
    served = running.served()
    sampler = Sampler()

    def look_closely(at: float) -> list[Worker]:
        found = sampler.tree("web:web")
        ids = (*found.workers, found.master) if found and found.master else ()
        program = Program("web:web", "RUNNING", running.pid, 5.0)
        snapshot = sampler.look(program, at, ids)
        assert (snapshot.kind, snapshot.spawned) == ("gunicorn", 5.0)
        assert snapshot.others > 0
        assert snapshot.master is not None
        return [snapshot.master, *snapshot.workers]

    def agree() -> bool:
        nonlocal at
        at += 100
        workers = look_closely(at)
        assert {worker.id.pid for worker in workers} == {served.master, *served.workers}
        return all(is_like(worker, psutil.Process(worker.id.pid)) for worker in workers)

    def is_like(worker: Worker, process: psutil.Process) -> bool:
        memory, cpu = process.memory_full_info(), process.cpu_times()
        numbers = (
            (worker.rss, memory.rss, 0.02 * memory.rss),
            (worker.shared, memory.shared, 0.02 * memory.shared),
            (worker.anon, memory.rss - memory.shared, 0.02 * memory.rss),
            (worker.uss, memory.uss, 0.05 * memory.uss),
            (worker.pss, memory.pss, 0.05 * memory.pss),
            (worker.measured_at, at, 0),
            (worker.threads, process.num_threads(), 0),
            (worker.fds, process.num_fds(), 0),
            (worker.cpu, cpu.user + cpu.system, 0.1),
            (worker.age, time.time() - process.create_time(), 5),
        )
        return all(ours == pytest.approx(theirs, abs=error) for ours, theirs, error in numbers)

    at = 1e9
    wait_until(agree, 60, "the same numbers")
