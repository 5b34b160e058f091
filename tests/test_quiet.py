"""Quiet moments: who is connected to a worker, told apart from whatever else it is connected to."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakeproc import WORKER, FakeProc
from servers import APPS, alive, end_processes, free_port, get, gunicorn_env, wait_until

from supervisor_memwatch import host, sockets, topology
from supervisor_memwatch.model import WorkerId
from supervisor_memwatch.quiet import Quiet, idle
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.sockets import MANY, Connections, Sockets

# -- what is a good moment


def test_who_has_no_connections_is_idle() -> None:
    """Whatever it computed until now: nobody waits for it."""
    assert idle(Quiet(100.0, 7.0, 0))
    assert idle(Quiet(100.0, 7.0, 0), Quiet(95.0, 2.0, 3))


def test_with_connections_it_is_idle_while_it_burns_nothing() -> None:
    """But for what an event loop takes to look at the clock."""
    before = Quiet(100.0, 7.0, 2, 0)
    assert idle(Quiet(105.0, 7.0, 2, 0), before)
    assert idle(Quiet(105.0, 7.1, 2, 0), before)
    assert not idle(Quiet(105.0, 7.2, 2, 0), before)
    assert idle(Quiet(100.2, 7.01, 2, 0), before)
    assert not idle(Quiet(100.2, 7.02, 2, 0), before)


def test_what_is_not_read_yet_is_a_request() -> None:
    before = Quiet(100.0, 7.0, 2, 0)
    assert not idle(Quiet(105.0, 7.0, 2, 180), before)
    assert idle(Quiet(105.0, 7.0, 2, None), before)


def test_one_look_cannot_tell_that_somebody_with_connections_is_idle() -> None:
    now = Quiet(100.0, 7.0, 2, 0)
    assert not idle(now)
    assert not idle(now, now)
    assert not idle(Quiet(100.0, 7.0, None), Quiet(101.0, 7.0, None))


def test_where_connections_cannot_be_read_the_cpu_tells() -> None:
    before = Quiet(100.0, 7.0, None)
    assert idle(Quiet(105.0, 7.0, None), before)
    assert not idle(Quiet(105.0, 8.0, None), before)


# -- whose connections they are, on a /proc of our own


class Kernel:
    """The sockets of a machine, as the kernel lists them; counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inet: dict[int, list[sockets._Socket]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self.local: list[sockets._Socket] = []
        self.asked = 0
        self.cost = 0.0  # seconds of CPU of each question
        self.cpu = 0.0
        self.now = 1000.0
        self.broken = False
        monkeypatch.setattr(sockets, "_inet", self._inet)
        monkeypatch.setattr(sockets, "_unix", self._unix)
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _inet(
        self, family: int, states: int, least: int = 0, most: int = 0
    ) -> list[sockets._Socket]:
        if self.broken:
            raise OSError("no sock_diag")
        listening = states == sockets._LISTEN
        if not listening:
            self.asked += 1
            self.cpu += self.cost
        found = [s for s in self.inet[family] if s.listens == listening]
        return found if listening else [s for s in found if least <= s.port <= most]

    def _unix(self, states: int) -> list[sockets._Socket]:
        return self.local

    def listen(self, inode: int, port: int, family: int = socket.AF_INET) -> None:
        self.inet[family].append(sockets._Socket(inode, 0, True, port))

    def connect(self, inode: int, port: int, unread: int = 0, family: int = socket.AF_INET) -> None:
        self.inet[family].append(sockets._Socket(inode, unread, False, port))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    """A master, 100, that listens with socket 1, and its workers 101 and 102."""
    fake = FakeProc(tmp_path)
    monkeypatch.setattr(topology, "PROC", str(fake.path))
    monkeypatch.setattr(host, "PROC", str(fake.path))
    fake.gunicorn()
    for name in ("self", "100", "101", "102"):
        (fake.path / name / "ns").mkdir(parents=True)
        os.symlink("net:[4026531840]", fake.path / name / "ns/net")
    has(fake, 100, 1)
    return fake


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(monkeypatch)
    kernel.listen(1, 8000)
    return kernel


def has(proc: FakeProc, pid: int, *inodes: int) -> None:
    for inode in inodes:
        os.symlink(f"socket:[{inode}]", proc.path / f"{pid}/fd/{5000 + inode}")


def test_clients_are_who_came_in_where_the_master_listens(proc: FakeProc, kernel: Kernel) -> None:
    """Not the database (5), a pair of sockets (6), or a client of the sibling (9)."""
    has(proc, 101, 1, 5, 6, 7, 8)
    kernel.connect(5, 44444)
    kernel.connect(7, 8000, 30)
    kernel.connect(8, 8000, 12)
    kernel.connect(9, 8000, 500)
    assert Sockets().connections(101, 100) == Connections(2, 42, True)


def test_every_kind_of_address_a_master_listens_on(proc: FakeProc, kernel: Kernel) -> None:
    has(proc, 100, 2, 3, 4)
    has(proc, 101, 1, 2, 3, 4, 11, 12, 13, 14, 15)
    kernel.listen(2, 8010)
    kernel.listen(3, 8000, socket.AF_INET6)
    kernel.local = [
        sockets._Socket(4, 0, True, name=b"/run/web.sock"),
        sockets._Socket(14, 7, False, name=b"/run/web.sock"),
        sockets._Socket(15, 0, False, name=b"/run/other.sock"),
    ]
    kernel.connect(11, 8000)
    kernel.connect(12, 8010)
    kernel.connect(13, 8000, family=socket.AF_INET6)
    assert Sockets().connections(101, 100) == Connections(4, 7, True)


def test_ports_between_those_of_the_master_are_not_its_own(proc: FakeProc, kernel: Kernel) -> None:
    has(proc, 100, 2)
    kernel.listen(2, 8010)
    has(proc, 101, 1, 2, 11)
    kernel.connect(11, 8005)
    assert Sockets().connections(101, 100) == Connections(0, 0, True)


def test_who_has_no_sockets_of_its_own_has_no_clients(proc: FakeProc, kernel: Kernel) -> None:
    """And the kernel is not asked."""
    has(proc, 101, 1)
    assert Sockets().connections(101, 100) == Connections(0, 0, True)
    assert kernel.asked == 0


def test_what_is_known_to_be_something_else_is_not_asked_again(
    proc: FakeProc, kernel: Kernel
) -> None:
    has(proc, 101, 1, 5)
    found = Sockets()
    assert [found.connections(101, 100) for _ in range(3)] == [Connections(0, 0, True)] * 3
    assert kernel.asked == 1
    has(proc, 101, 7)
    kernel.connect(7, 8000)
    assert [found.connections(101, 100) for _ in range(2)] == [Connections(1, 0, True)] * 2


def test_the_kernel_is_asked_for_a_small_share_of_the_time(proc: FakeProc, kernel: Kernel) -> None:
    """Meanwhile what is new counts as a client."""
    kernel.cost = 0.02
    has(proc, 101, 1, 5)
    found = Sockets()
    assert found.connections(101, 100) == Connections(0, 0, True)
    has(proc, 101, 7, 8)
    kernel.connect(7, 8000)
    kernel.now += 3.0
    assert found.connections(101, 100) == Connections(2, None, False)
    kernel.now += 1.1
    assert found.connections(101, 100) == Connections(1, 0, True)
    assert kernel.asked == 2


def test_a_kernel_that_does_not_tell(proc: FakeProc, kernel: Kernel) -> None:
    kernel.broken = True
    has(proc, 101, 1, 5, 7)
    assert Sockets().connections(101, 100) == Connections(2, None, False)


def test_another_network_namespace_is_not_ours_to_ask_about(proc: FakeProc, kernel: Kernel) -> None:
    has(proc, 101, 1, 5, 7)
    (proc.path / "101/ns/net").unlink()
    assert Sockets().connections(101, 100) == Connections(2, None, False)
    os.symlink("net:[4026532000]", proc.path / "101/ns/net")
    assert Sockets().connections(101, 100) == Connections(2, None, False)
    assert kernel.asked == 0


def test_a_master_that_listens_nowhere_tells_nothing(proc: FakeProc, kernel: Kernel) -> None:
    """Its workers may have made the sockets they listen on themselves."""
    kernel.inet[socket.AF_INET].clear()
    has(proc, 101, 1, 5)
    assert Sockets().connections(101, 100) == Connections(1, None, False)


def test_very_many_connections_are_not_looked_at_one_by_one(proc: FakeProc, kernel: Kernel) -> None:
    has(proc, 101, 1, *range(5, 5 + MANY))
    assert Sockets().connections(101, 100) == Connections(MANY + 1, None, False)
    assert kernel.asked == 0


def test_open_files_that_cannot_be_read(proc: FakeProc, kernel: Kernel) -> None:
    assert Sockets().connections(999, 100) is None


def test_quiet_is_asked_of_a_worker(proc: FakeProc, kernel: Kernel) -> None:
    proc.process(101, 100, catches=WORKER, heartbeats=["h101"], sockets=[1, 7], cpu=(250, 50))
    kernel.connect(7, 8000, 30)
    looker = Sampler()
    worker = WorkerId(101, 1101)
    assert looker.quiet("web", worker, 5.0) is None
    looker.look(Program("web", "RUNNING", 100), 5.0)
    ticks = os.sysconf("SC_CLK_TCK")
    assert looker.quiet("web", worker, 6.0) == Quiet(6.0, 300 / ticks, 1, 30)
    assert looker.quiet("web", WorkerId(100, 1100), 6.0) is None
    assert looker.quiet("web", WorkerId(101, 1102), 6.0) is None
    assert looker.quiet("other", worker, 6.0) is None


def test_without_its_open_files_the_cpu_remains(proc: FakeProc, kernel: Kernel) -> None:
    proc.process(101, 100, catches=WORKER, heartbeats=["h101"], cpu=(250, 50))
    looker = Sampler()
    looker.look(Program("web", "RUNNING", 100), 5.0)
    (proc.path / "101/fd").rename(proc.path / "101/hidden")
    quiet = looker.quiet("web", WorkerId(101, 1101), 6.0)
    assert quiet is not None and quiet.connections is None and quiet.cpu > 0


def test_of_one_that_has_ended_nothing_is_known(proc: FakeProc, kernel: Kernel) -> None:
    looker = Sampler()
    looker.look(Program("web", "RUNNING", 100), 5.0)
    proc.end(101)
    assert looker.quiet("web", WorkerId(101, 1101), 6.0) is None
    proc.process(102, 100, start=9999)
    assert looker.quiet("web", WorkerId(102, 1102), 6.0) is None


# -- this machine


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_what_the_kernel_tells_of_real_sockets(
    family: socket.AddressFamily, tmp_path: Path
) -> None:
    """The server's end of each connection, and what was sent to it; not the client's end."""
    where: dict[int, Any] = {
        socket.AF_INET: ("127.0.0.1", 0),
        socket.AF_INET6: ("::1", 0),
        socket.AF_UNIX: os.path.relpath(tmp_path / "s"),
    }
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(family))
        try:
            server.bind(where[family])
        except OSError:
            pytest.skip("this machine has no such address")
        server.listen()
        ends = []
        for text in (b"", b"GET / HTTP/1.1\r\n"):
            client = stack.enter_context(socket.socket(family))
            client.connect(server.getsockname())
            ends.append(stack.enter_context(server.accept()[0]))
            client.sendall(text)
        inode = {end: os.fstat(end.fileno()).st_ino for end in (server, *ends)}
        expected = {inode[ends[0]]: 0, inode[ends[1]]: 16}
        wait_until(lambda: sockets.clients(frozenset([inode[server]])) == expected, 10)


# -- real gunicorns


class Server:
    """A gunicorn of one worker, and a sampler that looks at it."""

    def __init__(self, directory: Path, app: str, *options: str, database: int = 0) -> None:
        self.port = free_port()
        self.hold = directory / "hold"
        environment = {**gunicorn_env(), "HOME": str(directory), "HOLD": str(self.hold)}
        environment["DATABASE"] = str(database)
        address = ("--bind", f"127.0.0.1:{self.port}", "--chdir", str(APPS))
        with open(directory / "gunicorn.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *address, *options, app],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{self.port}/pid"
        self.sampler = Sampler()

    def quiet(self) -> Quiet:
        at = time.time()
        snapshot = self.sampler.look(Program("web", "RUNNING", self.process.pid), at)
        assert [worker.ready for worker in snapshot.workers] == [True]
        quiet = self.sampler.quiet("web", snapshot.workers[0].id, at)
        assert quiet is not None
        return quiet

    def becomes(self, connections: int) -> Quiet:
        """The first look that shows so many clients, told apart from everything else."""

        def look() -> Quiet | None:
            self.last = self.quiet()
            return self.last if self.last[2:5:2] == (connections, True) else None

        quiet = wait_until(look, 30, lambda: f"{connections} connections: {self.last}")
        assert quiet is not None
        return quiet


@contextmanager
def serving(directory: Path, app: str, *options: str, database: int = 0) -> Iterator[Server]:
    server = Server(directory, app, *options, database=database)
    try:
        wait_until(
            lambda: responds(server), 60, lambda: (directory / "gunicorn.log").read_text(), 0.1
        )
        yield server
    finally:
        tree = [psutil.Process(server.process.pid)]
        tree += tree[0].children(recursive=True) if alive(tree[0]) else []
        end_processes(tree)
        server.process.wait()


def responds(server: Server) -> bool:
    assert server.process.poll() is None
    try:
        return bool(get(server.url))
    except OSError:
        return False


@pytest.fixture
def database() -> Iterator[int]:
    """A server that accepts and says nothing; its port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.slow
def test_a_sync_worker_with_a_database_is_quiet_between_requests(
    tmp_path: Path, database: int
) -> None:
    with serving(tmp_path, "attached:app", database=database) as server:
        assert idle(server.becomes(0))
        asking = threading.Thread(
            target=get, args=(f"http://127.0.0.1:{server.port}/hold",), daemon=True
        )
        asking.start()
        server.becomes(1)
        server.hold.touch()
        asking.join(30)
        assert idle(server.becomes(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "options"),
    [
        ("attached:app", ("--worker-class", "gthread", "--threads", "2", "--keep-alive", "60")),
        (
            "leaky_asgi:app",
            ("--worker-class", "uvicorn.workers.UvicornWorker", "--keep-alive", "60"),
        ),
        ("attached:app", ("--worker-class", "gevent", "--keep-alive", "60")),
    ],
    ids=["gthread", "uvicorn", "gevent"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kept_alive_connections_are_counted(
    app: str, options: tuple[str, ...], tmp_path: Path, database: int
) -> None:
    """And no others: neither the database's nor those of an event loop to itself."""
    with serving(tmp_path, app, *options, database=database) as server:
        assert idle(server.becomes(0))
        clients = []
        for _ in range(2):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            client.request("GET", "/pid")
            client.getresponse().read()
            clients.append(client)
        first = server.becomes(2)
        assert not idle(first)
        assert server.becomes(2).unread == 0
        # Nobody asks anything: sooner or later two looks show that.
        wait_until(lambda: idle(server.becomes(2), first), 30)
        clients[0].close()
        server.becomes(1)
        clients[1].close()
        assert idle(server.becomes(0))
