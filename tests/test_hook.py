"""Counting requests: what runs in a worker (hook.py), and what reads it from outside (tally.py)."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import fcntl
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from servers import Load, end_processes, free_port, gunicorn_env, wait_until

from supervisor_memwatch import tally
from supervisor_memwatch.model import Snapshot
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.tally import Tally

SOURCE = Path(tally.__file__).with_name("hook.py")
NAME = "memwatch-requests"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """As copied beside an application: a module of its own, which has counted nothing yet.

    It knows of no fork: what is registered for that would stay when the module has gone."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    spec = importlib.util.spec_from_file_location("copied", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module._cells = None


def read() -> int | None:
    """What somebody else sees of the count of this process."""
    return Tally(os.getpid()).read(1000.0)


FORK = """
import fcntl, os, signal, sys, time
from supervisor_memwatch import hook, tally

def read(pid):
    return tally.Tally(pid).read(1000.0)

def files():
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_file()]
    return links.count(tally.LINK)

def child(task):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if task() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def holds(script: str) -> bool:
    """Whether a script, in a process of its own, ends with something true in `answer`."""
    whole = f"{FORK}\n{textwrap.dedent(script)}\nsys.exit(not answer)\n"
    return subprocess.run([sys.executable, "-c", whole], timeout=60, check=False).returncode == 0


# -- in the worker


def test_what_was_answered_can_be_read_from_outside(hook: ModuleType) -> None:
    """A process that only loads the module, as a master does, has no count."""
    assert read() is None
    hook.post_request(None, None, {}, None)
    assert read() == 1
    for _ in range(300):
        hook.answered()
    assert read() == 301


def test_threads_lose_no_request(hook: ModuleType) -> None:
    """The interpreter is made to change threads wherever it can, from the first request on."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        begin = threading.Barrier(8)

        def serve() -> None:
            begin.wait()
            for _ in range(5000):
                hook.post_request(None, None, {}, None)

        threads = [threading.Thread(target=serve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert read() == 40000


@pytest.mark.parametrize("served", [0, 2])
def test_a_child_counts_for_itself(served: int) -> None:
    """From nought, and from the fork on; what its parent has answered is no part of it."""
    assert holds(
        f"""
        def task():
            fresh = read(os.getpid()) == 0
            hook.answered()
            return fresh and read(os.getpid()) == files() == 1

        for _ in range({served}):
            hook.answered()
        own = child(task)
        hook.answered()
        answer = own and read(os.getpid()) == {served} + 1 and files() == 1
        """
    )


def test_a_fork_while_another_thread_counts_does_not_stop_the_child() -> None:
    """The lock may have been held by a thread that the child does not have."""
    assert holds(
        """
        def task():
            hook.answered()
            return read(os.getpid()) == 1

        with hook._lock:
            answer = child(task)
        """
    )


@pytest.mark.parametrize("what", ["no such call", "forbidden", "no descriptor left"])
def test_where_it_cannot_count_the_server_notices_nothing(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError

    if what == "no such call":
        monkeypatch.delattr(os, "memfd_create")
        hook.answered()
    elif what == "forbidden":
        monkeypatch.setattr(os, "memfd_create", forbidden)
        hook.answered()
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            hook.answered()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    hook.answered()
    assert read() is None
    assert not _descriptors()


def test_what_it_opens_is_closed_by_exec(hook: ModuleType) -> None:
    hook.answered()
    (number,) = _descriptors()
    assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def _descriptors() -> list[int]:
    """The numbers under which the count is open in this process."""
    found = []
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself
            if os.readlink(entry.path) == tally.LINK:
                found.append(int(entry.name))
    return found


def test_it_imports_nothing_of_ours() -> None:
    """So it can be copied, and a worker loads nothing but it."""
    nodes = list(ast.walk(ast.parse(SOURCE.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        "." * node.level + str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)
    }
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_both_sides_mean_the_same_file(hook: ModuleType) -> None:
    assert hook.NAME == NAME
    assert f"/memfd:{NAME} (deleted)" == tally.LINK


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("kind", "expected"), [("http", 1), ("websocket", 0), ("lifespan", 0)])
def test_the_middleware_counts_http_requests(
    hook: ModuleType, kind: str, expected: int, fails: bool
) -> None:
    """When the application is done with them, however that went; and it hands everything on."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send, read()))
        if fails:
            raise ValueError("the application's")

    wrapped: Callable[..., Awaitable[None]] = hook.count(app)
    assert read() == 0  # not only from its first request on

    async def serve() -> None:
        await wrapped({"type": kind}, "receive", "send")

    with (
        pytest.raises(ValueError, match="the application's") if fails else contextlib.nullcontext()
    ):
        asyncio.run(serve())
    assert seen == [({"type": kind}, "receive", "send", 0)]
    assert read() == expected


# -- from outside: whatever lies there


@pytest.fixture
def pretend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path, int], None]]:
    """Open some file as if it were a count."""
    opened: list[int] = []

    def lie(path: Path, flags: int = os.O_RDWR) -> None:
        opened.append(os.open(path, flags))
        monkeypatch.setattr(tally, "LINK", str(path))

    yield lie
    for handle in opened:
        os.close(handle)


def counted(number: int, size: int = 8) -> int:
    handle = os.memfd_create(NAME)
    os.ftruncate(handle, size)
    os.pwrite(handle, number.to_bytes(8, sys.byteorder), 0)
    return handle


@pytest.mark.parametrize("size", [0, 7, 9, 1 << 40])
def test_a_file_of_another_size_is_no_count(size: int) -> None:
    handle = os.memfd_create(NAME)
    os.ftruncate(handle, size)
    try:
        assert read() is None
    finally:
        os.close(handle)


def test_what_is_no_plain_file_is_not_opened(
    tmp_path: Path, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe would wait, opening a device may do anything."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pretend(path)
    opened = []
    real = os.open

    def watching(path: str, flags: int) -> int:
        opened.append(flags)
        return real(path, flags)

    monkeypatch.setattr(os, "open", watching)
    assert read() is None
    assert opened == [os.O_PATH | os.O_CLOEXEC]


def test_a_plain_file_is_read(tmp_path: Path, pretend: Callable[..., None]) -> None:
    """What the one before relies on."""
    path = tmp_path / "count"
    path.write_bytes((17).to_bytes(8, sys.byteorder))
    pretend(path)
    assert read() == 17


def test_nobody_waits_for_the_end_of_a_lease() -> None:
    """Opening a file on which its owner holds a lease waits for up to 45 s."""
    assert holds(
        """
        hook.answered()
        (number,) = [
            name for name in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{name}")
            and os.readlink(f"/proc/self/fd/{name}") == tally.LINK
        ]
        # As it was made a file cannot have a lease.
        again = os.open(f"/proc/self/fd/{number}", os.O_RDWR)
        hook._cells = None
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        leased = fcntl.fcntl(again, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        begun = time.monotonic()
        answer = leased and read(os.getpid()) is None and time.monotonic() - begun < 10
        """
    )


@pytest.mark.parametrize("later", [4, 1 << 62, (1 << 64) - 1])
def test_a_count_that_goes_back_or_leaves_every_measure_is_not_believed_again(later: int) -> None:
    handle = counted(5)
    try:
        count = Tally(os.getpid())
        assert count.read(1000.0) == 5
        os.pwrite(handle, later.to_bytes(8, sys.byteorder), 0)
        assert count.read(1005.0) is None
        os.pwrite(handle, (6).to_bytes(8, sys.byteorder), 0)
        assert count.read(1e9) is None
    finally:
        os.close(handle)


def test_a_count_that_shrinks_is_not_believed_again() -> None:
    handle = counted(5)
    try:
        count = Tally(os.getpid())
        assert count.read(1000.0) == 5
        os.ftruncate(handle, 0)
        assert count.read(1005.0) is None
        os.ftruncate(handle, 8)
        assert count.read(1010.0) is None
    finally:
        os.close(handle)


def test_a_process_that_may_not_be_looked_into_or_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> Any:
        raise PermissionError(path)

    assert Tally(2**22 + 1).read(1000.0) is None  # above the highest pid there can be
    monkeypatch.setattr(os, "scandir", denied)
    assert read() is None


def test_a_file_that_is_closed_during_the_search_does_not_end_it(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answered()
    failed: list[str] = []
    real = os.readlink

    def closing(path: str) -> str:
        if not failed:
            failed.append(path)
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "readlink", closing)
    assert read() == 1
    assert failed


def test_half_of_the_descriptors_stay_the_listeners(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answered()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8, 8))
    handles = [os.open("/", os.O_RDONLY) for _ in range(4)]  # so that the next is at least 4
    try:
        assert read() is None
    finally:
        for handle in handles:
            os.close(handle)


def test_its_descriptor_goes_with_it(hook: ModuleType) -> None:
    hook.answered()
    count = Tally(os.getpid())
    assert count.read(1000.0) == 1
    assert len(_descriptors()) == 2
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in _descriptors())
    del count
    assert len(_descriptors()) == 1


def test_it_is_looked_for_a_few_times_and_then_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours of a worker that does not count."""
    found: list[float] = []
    now = 0.0

    def find(pid: int) -> None:
        found.append(now)

    monkeypatch.setattr(tally, "_find", find)
    count = Tally(101)
    while now < 7200:
        assert count.read(5000.0 + now) is None
        now += 5.0
    assert found == [0, 15, 45, 105, 225, 465, 945, *range(1845, 7200, 900)]


# -- real servers


class Server:
    """A gunicorn that counts, and what the sampler sees of it."""

    def __init__(self, directory: Path, options: list[str], version: str | None = None) -> None:
        self.port = free_port()
        self.log = directory / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}"]
        environment = {**gunicorn_env(version), "HOME": str(directory)}
        environment["PYTHONPATH"] += f":{directory}"
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [*command, *options],
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.sampler = Sampler()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        own = psutil.Process(self.process.pid)
        end_processes([own, *own.children(recursive=True)])
        self.process.wait()

    def look(self) -> Snapshot:
        assert self.process.poll() is None, self.log.read_text()
        program = Program("web", "RUNNING", self.process.pid, time.time())
        return self.sampler.look(program, time.time())

    def counts(self) -> dict[str, int | None]:
        return {str(worker.id.pid): worker.requests for worker in self.look().workers}

    def ready(self, but: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
        """The two workers, once both serve."""

        def both() -> set[str]:
            workers = self.look().workers
            found = {str(worker.id.pid) for worker in workers if worker.ready}
            return found if len(workers) == len(found) == 2 and not found & but else set()

        return wait_until(both, 60, self.log.read_text)

    def counts_what_it_answers(self, **load: Any) -> None:
        """Requests are sent to both workers, and to each as many are counted as it answered."""
        pids = self.ready()
        with Load(f"http://127.0.0.1:{self.port}/pid", **load) as sent:
            wait_until(lambda: pids == set(sent.bodies) and sent.answered >= 300, 60)
        assert not sent.failed
        # The hook runs when its answer has been sent.
        wait_until(
            lambda: self.counts() == sent.bodies, 60, lambda: f"{self.counts()} {sent.bodies}"
        )


LOADED = "import supervisor_memwatch.hook\n"  # so that workers count from the fork on
HOOK = "from supervisor_memwatch.hook import post_request\n"
# A master that serves a request before it forks, as some do to warm up.
PRELOADED = "from leaky import app\nfrom supervisor_memwatch import hook\nhook.answered()\n"
MIDDLEWARE = (
    "from leaky_asgi import app\nfrom supervisor_memwatch.hook import count\napp = count(app)\n"
)

SERVERS = {
    "sync": (["leaky:app"], HOOK, None),
    "gthread": (["--threads", "8", "leaky:app"], HOOK, None),
    "gthread 20.1": (["--threads", "8", "leaky:app"], HOOK, "20.1.0"),
    "gevent 23": (["-k", "gevent", "leaky:app"], HOOK, "23.0.0"),
    "asgi": (["-k", "asgi", "leaky_asgi:app"], HOOK, None),
    "preload": (["--preload", "made:app"], HOOK, None),
    "uvicorn": (["-k", "uvicorn.workers.UvicornWorker", "made:app"], LOADED, None),
}


def server(directory: Path, name: str) -> Server:
    options, conf, version = SERVERS[name]
    (directory / "gunicorn.conf.py").write_text(conf)
    (directory / "made.py").write_text(MIDDLEWARE if name == "uvicorn" else PRELOADED)
    return Server(directory, ["--workers", "2", *options], version)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_counts_exactly_what_it_answers(tmp_path: Path, name: str) -> None:
    """Under load by many clients at once, worker by worker."""
    with server(tmp_path, name) as running:
        running.counts_what_it_answers(concurrency=8, rate=None)


@pytest.mark.slow
def test_workers_after_a_reload_count_from_their_own_first_request(tmp_path: Path) -> None:
    with server(tmp_path, "sync") as running:
        running.counts_what_it_answers(concurrency=4, rate=None)
        old = running.ready()
        os.kill(running.process.pid, signal.SIGHUP)
        new = running.ready(but=old)
        assert running.counts() == dict.fromkeys(new, 0)
        running.counts_what_it_answers(concurrency=4, rate=None)
