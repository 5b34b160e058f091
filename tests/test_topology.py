"""Topology on a /proc of our own: the rules one by one, and the moments no real server holds
still for. Real servers are in test_topology_real.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakeproc import ARBITER, DIRTY_ARBITER, EXECED, WORKER, FakeProc

from supervisor_memwatch import topology
from supervisor_memwatch.model import WorkerId
from supervisor_memwatch.topology import Tree


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    fake = FakeProc(tmp_path)
    monkeypatch.setattr(topology, "PROC", str(fake.path))
    return fake


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the open files of these processes (all of them, if none is named) unreadable."""

    def make(*pids: int) -> None:
        original = os.listdir

        def listdir(path: Any) -> list[str]:
            parts = str(path).split("/")
            if parts[-1] == "fd" and (not pids or int(parts[-2]) in pids):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return original(path)

        monkeypatch.setattr(os, "listdir", listdir)

    return make


def discover(pid: int = 100, known: Tree | None = None) -> Tree:
    tree = topology.discover(pid, known)
    assert tree is not None
    return tree


def shape(tree: Tree) -> tuple[int | None, list[int], list[int], int]:
    """(master, workers, others, masters), as pids."""
    return (
        tree.master.pid if tree.master else None,
        [worker.pid for worker in tree.workers],
        sorted(other.pid for other in tree.others),
        tree.masters,
    )


# -- identity


def test_an_identity_is_pid_and_start_time(proc: FakeProc) -> None:
    """Whatever the process calls itself."""
    proc.process(7, start=123, name=") R 1 (x) Z 9")
    assert topology.identity(7) == WorkerId(7, 123)


def test_what_has_ended_has_no_identity(proc: FakeProc) -> None:
    proc.process(7, state="Z")
    assert topology.identity(7) is None
    assert topology.identity(8) is None
    assert topology.discover(7) is None
    assert topology.discover(8) is None


# -- the heartbeat rule


def test_workers_hold_one_file_that_their_master_holds(proc: FakeProc) -> None:
    proc.gunicorn()
    tree = discover()
    assert shape(tree) == (100, [101, 102], [], 1)
    assert tree.root == tree.master == WorkerId(100, 1100)
    assert tree.evidence == "heartbeat"


def test_a_master_is_found_below_wrappers(proc: FakeProc) -> None:
    proc.process(50, flags=EXECED, cmdline="sh\0-c\0gunicorn app")
    proc.process(51, 50, flags=EXECED, cmdline="uv\0run\0gunicorn")
    proc.gunicorn(parent=51)
    assert shape(discover(50)) == (100, [101, 102], [51], 1)


def test_without_gunicorn_there_is_no_master(proc: FakeProc) -> None:
    proc.process(100, flags=EXECED, cmdline="celery")
    proc.process(101, 100, cmdline="celery")
    tree = discover()
    assert shape(tree) == (None, [], [101], 0)
    assert (tree.evidence, tree.heartbeats) == ("", {})


def test_a_just_forked_worker_is_one_as_soon_as_it_let_go_of_its_siblings_files(
    proc: FakeProc,
) -> None:
    proc.gunicorn()
    proc.process(100, flags=EXECED, catches=ARBITER, heartbeats=["h101", "h102", "new"])
    proc.process(103, 100, catches=ARBITER, heartbeats=["h101", "h102", "new"])
    tree = discover()
    assert shape(tree) == (100, [101, 102], [103], 1)
    proc.process(103, 100, catches=WORKER, heartbeats=["new"])
    assert shape(discover(known=tree)) == (100, [101, 102, 103], [], 1)


def test_of_two_children_with_the_same_file_the_older_is_the_worker(proc: FakeProc) -> None:
    """The younger is something the master forked while it had one worker."""
    proc.gunicorn(workers=1)
    proc.process(90, 100, start=5000, heartbeats=["h101"])
    assert shape(discover()) == (100, [101], [90], 1)
    assert shape(discover(known=discover())) == (100, [101], [90], 1)


@pytest.mark.parametrize("cmdline", ["gunicorn: dirty-arbiter", "python\0-m\0gunicorn\0app"])
def test_nobody_inherits_the_file_of_a_worker_that_is_not_reaped_yet(
    proc: FakeProc, cmdline: str
) -> None:
    """The master holds it until then, and so does what it forked when there was that worker."""
    proc.gunicorn(workers=1)
    known = discover()
    proc.process(110, 100, cmdline=cmdline, catches=DIRTY_ARBITER, heartbeats=["h101"])
    proc.process(101, 100, state="Z")
    assert shape(discover(known=known)) == (100, [], [110], 1)
    proc.end(101)
    proc.process(100, flags=EXECED, catches=ARBITER, heartbeats=["h102"])
    proc.process(102, 100, start=9999, catches=WORKER, heartbeats=["h102"])
    assert shape(discover(known=known)) == (100, [102], [110], 1)


def test_a_titled_worker_need_not_wait_until_others_are_reaped(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(100, flags=EXECED, cmdline="gunicorn: master [app]", heartbeats=["h101", "h102"])
    proc.process(101, 100, state="Z")
    assert discover().master is None
    proc.process(102, 100, cmdline="gunicorn: worker [app]", heartbeats=["h102"])
    assert shape(discover()) == (100, [102], [], 1)


def test_what_signals_said_is_asked_again(proc: FakeProc, unreadable: Callable[..., None]) -> None:
    """A dirty arbiter looks like a worker while it sets up its handlers."""
    proc.gunicorn()
    proc.process(103, 100, catches=["TERM"])
    unreadable()
    known = discover()
    assert shape(known) == (100, [101, 102, 103], [], 1)
    proc.process(103, 100, catches=DIRTY_ARBITER)
    assert shape(discover(known=known)) == (100, [101, 102], [103], 1)


def test_a_child_with_a_foreign_or_with_no_file_is_no_worker(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(103, 100, heartbeats=["elsewhere"])
    proc.process(104, 100)
    assert shape(discover()) == (100, [101, 102], [103, 104], 1)


def test_a_fork_of_a_worker_is_no_worker(proc: FakeProc) -> None:
    """Nor does it make a master of the worker, in whatever order one looks."""
    proc.gunicorn()
    proc.process(103, 101, catches=WORKER, heartbeats=["h101"])
    assert shape(discover()) == (100, [101, 102], [103], 1)
    assert discover(101).master is None


def test_a_worker_stays_a_worker(proc: FakeProc) -> None:
    """By its id: whatever files it shows later."""
    proc.gunicorn()
    known = discover()
    proc.process(101, 100, heartbeats=["h101", "h102"])
    proc.process(102, 100, start=9999, heartbeats=["h101", "h102"])
    assert shape(discover(known=known)) == (100, [101], [102], 1)
    assert discover().master is None


def test_a_master_stays_the_master_while_it_has_no_worker(proc: FakeProc) -> None:
    proc.gunicorn(workers=1)
    known = discover()
    proc.end(101)
    assert discover().master is None
    tree = discover(known=known)
    assert shape(tree) == (100, [], [], 1)
    assert tree.evidence == "heartbeat"


def test_nothing_is_known_of_another_process_with_the_same_pid(proc: FakeProc) -> None:
    proc.gunicorn()
    known = discover()
    proc.end(101)
    proc.end(102)
    proc.process(100, flags=EXECED, start=77, cmdline="redis")
    assert shape(discover(known=known)) == (None, [], [], 0)


@pytest.mark.parametrize("title", ["gunicorn: dirty-arbiter", "python\0-m\0gunicorn\0app"])
def test_a_dirty_arbiter_is_neither_a_worker_nor_a_master(proc: FakeProc, title: str) -> None:
    """With its own workers' files alone; with the web workers' as well; before there are any."""
    proc.process(100, flags=EXECED, catches=ARBITER)
    proc.process(110, 100, catches=DIRTY_ARBITER, cmdline=title, heartbeats=["d1", "d2"])
    proc.process(111, 110, heartbeats=["d1"])
    proc.process(112, 110, heartbeats=["d1", "d2"])
    assert shape(discover()) == (None, [], [110, 111, 112], 0)
    assert topology.masters() == []
    proc.gunicorn()
    assert shape(discover()) == (100, [101, 102], [110, 111, 112], 1)
    proc.process(110, 100, catches=DIRTY_ARBITER, cmdline=title, heartbeats=["h101", "h102", "d1"])
    proc.process(111, 110, heartbeats=["h101", "h102", "d1"])
    proc.end(112)
    assert shape(discover()) == (100, [101, 102], [110, 111], 1)


def test_a_fork_of_the_master_with_files_of_workers_long_gone_is_no_master(
    proc: FakeProc,
) -> None:
    """It has the master's title and signals, and a child that shares one of its files."""
    proc.gunicorn()
    proc.process(103, 100, catches=ARBITER, heartbeats=["gone"])
    proc.process(104, 103, catches=ARBITER, heartbeats=["gone"])
    assert shape(discover()) == (100, [101, 102], [103, 104], 1)


# -- two masters


def test_an_upgrade_counts_as_two_masters_from_its_start(proc: FakeProc) -> None:
    """Before and after the second master has workers; the first one's workers are the tree's."""
    proc.gunicorn()
    proc.process(120, 100, flags=EXECED, environ="A=1\0GUNICORN_PID=100\0")
    assert shape(discover()) == (100, [101, 102], [120], 2)
    proc.gunicorn(120, parent=100)
    assert shape(discover()) == (100, [101, 102], [120, 121, 122], 2)
    assert [tree.root.pid for tree in topology.masters()] == [100, 120]


def test_an_upgrade_is_known_by_its_title(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(120, 100, flags=EXECED, cmdline="gunicorn: master [app.2]")
    assert discover().masters == 2


def test_a_subprocess_of_the_master_is_no_upgrade(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(120, 100, flags=EXECED, cmdline="sleep\09", environ="A=1\0")
    proc.process(121, 120, cmdline="sleep\09", environ="A=1\0")
    assert shape(discover()) == (100, [101, 102], [120, 121], 1)


def test_two_gunicorns_below_one_program(proc: FakeProc) -> None:
    """The older one is the tree's, and stays it."""
    proc.process(50, flags=EXECED, cmdline="bash\0start")
    proc.gunicorn(100, parent=50)
    assert discover(50).masters == 1
    proc.gunicorn(200, parent=50)
    tree = discover(50)
    assert shape(tree) == (100, [101, 102], [200, 201, 202], 2)
    proc.process(60, 50, start=5, flags=EXECED, cmdline="sh\0-c\0gunicorn")
    proc.gunicorn(300, parent=60)
    assert shape(discover(50, tree))[0] == 100


# -- where open files cannot be read


def test_titles_tell_workers_where_files_cannot_be_read(
    proc: FakeProc, unreadable: Callable[..., None]
) -> None:
    proc.process(100, flags=EXECED, cmdline="gunicorn: master [app]")
    proc.process(101, 100, cmdline="gunicorn: worker [app]")
    proc.process(102, 100, cmdline="gunicorn: master [app]")  # has not changed its title yet
    proc.process(103, 100, cmdline="gunicorn: dirty-arbiter")
    proc.process(104, 103, cmdline="gunicorn: dirty-worker [app]")
    proc.process(105, 101, cmdline="gunicorn: worker [app]")
    unreadable()
    tree = discover()
    assert shape(tree) == (100, [101], [102, 103, 104, 105], 1)
    assert tree.evidence == "title"
    assert topology.ready(tree, tree.workers[0]) is None


def test_signals_tell_workers_where_there_are_no_titles(
    proc: FakeProc, unreadable: Callable[..., None]
) -> None:
    """A fork while a preloading master started, one of a running master, a dirty arbiter, a
    program the master started, and a worker's fork are none."""
    proc.gunicorn()
    proc.process(103, 100)
    proc.process(104, 100, catches=ARBITER)
    proc.process(105, 100, catches=DIRTY_ARBITER)
    proc.process(106, 105, catches=WORKER)
    proc.process(107, 100, catches=["TERM"], flags=EXECED, cmdline="python\0-c\0pass")
    proc.process(108, 101, catches=WORKER)
    proc.process(109, 100, catches=WORKER, cmdline="another\0program")
    unreadable()
    tree = discover()
    assert shape(tree) == (100, [101, 102], [103, 104, 105, 106, 107, 108, 109], 1)
    assert tree.evidence == "cmdline"


def test_an_unreadable_child_weakens_the_evidence_of_all(
    proc: FakeProc, unreadable: Callable[..., None]
) -> None:
    proc.gunicorn()
    unreadable(102)
    tree = discover()
    assert shape(tree) == (100, [101, 102], [], 1)
    assert tree.evidence == "cmdline"
    assert set(tree.heartbeats) == {101}


def test_evidence_grows_with_what_can_be_read(
    proc: FakeProc, unreadable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not shrink for a master whose workers are known by their files."""
    proc.gunicorn()
    with monkeypatch.context() as patch:
        patch.setattr(topology, "_heartbeat_files", lambda pid: None)
        weak = discover()
    assert weak.evidence == "cmdline"
    sure = discover(known=weak)
    assert (sure.evidence, sure.workers) == ("heartbeat", weak.workers)
    unreadable()
    assert discover(known=sure)._replace(heartbeats=sure.heartbeats) == sure


@pytest.mark.parametrize(
    ("cmdline", "catches"),
    [("unicorn\0app", ARBITER), ("nginx", ["HUP", "TERM"]), ("python\0own.py", ["HUP", "TERM"])],
)
def test_other_preforking_servers_are_not_taken_for_gunicorn(
    proc: FakeProc, unreadable: Callable[..., None], cmdline: str, catches: list[str]
) -> None:
    proc.process(100, flags=EXECED, cmdline=cmdline, catches=catches)
    proc.process(101, 100, cmdline=cmdline, catches=["TERM"])
    unreadable()
    assert discover().master is None


def test_an_embedded_gunicorn_is_known_by_its_signals(
    proc: FakeProc, unreadable: Callable[..., None]
) -> None:
    proc.process(100, flags=EXECED, cmdline="/usr/bin/python3\0serve.py", catches=ARBITER)
    proc.process(101, 100, cmdline="/usr/bin/python3\0serve.py", catches=WORKER)
    unreadable()
    assert shape(discover()) == (100, [101], [], 1)


def test_an_unreadable_upgrade_is_one_where_it_names_gunicorn(
    proc: FakeProc, unreadable: Callable[..., None]
) -> None:
    proc.gunicorn()
    proc.process(120, 100, flags=EXECED, cmdline="python\0-m\0gunicorn\0app")
    assert discover().masters == 2


# -- processes that come and go


def test_who_is_listed_but_has_gone_is_left_out(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.end(101, listed=True)
    assert shape(discover()) == (100, [102], [], 1)


def test_a_stranger_with_the_pid_of_a_child_is_left_out(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(101, 1, start=9999, heartbeats=["h101"])
    children = proc.path / "100/task/100/children"
    children.write_text("101 102 ")
    assert shape(discover()) == (100, [102], [], 1)


def test_a_zombie_is_left_out(proc: FakeProc) -> None:
    proc.gunicorn()
    known = discover()
    proc.process(101, 100, state="Z", heartbeats=["h101"])
    assert shape(discover(known=known)) == (100, [102], [], 1)


def test_a_worker_is_not_lost_because_the_list_of_children_lacks_it(proc: FakeProc) -> None:
    proc.gunicorn()
    known = discover()
    (proc.path / "100/task/100/children").write_text("102 ")
    assert shape(discover(known=known)) == (100, [101, 102], [], 1)


def test_children_of_every_thread_are_found(proc: FakeProc) -> None:
    proc.gunicorn()
    proc.process(100, flags=EXECED, catches=ARBITER, threads=2, heartbeats=["h101", "h102"])
    thread = proc.path / "100/task/140"
    thread.mkdir()
    (thread / "children").write_text("103 ")
    proc.process(103, 100, listed=False, cmdline="sleep")
    assert shape(discover()) == (100, [101, 102], [103], 1)


def test_a_kernel_without_lists_of_children_is_scanned(proc: FakeProc) -> None:
    proc.process(50, flags=EXECED, cmdline="sh")
    proc.gunicorn(parent=50)
    proc.process(103, 101)
    proc.process(300, 1, cmdline="somebody else's")
    proc.without_children_files()
    assert shape(discover(50)) == (100, [101, 102], [103], 1)


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError, PermissionError, OSError])
def test_no_error_of_proc_is_ever_raised(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Whichever of its calls fails, each in turn, and all of them from then on."""
    proc.process(50, flags=EXECED, cmdline="sh")
    proc.gunicorn(parent=50)
    proc.process(110, 100, catches=DIRTY_ARBITER, heartbeats=["d1"])
    proc.process(111, 110, heartbeats=["d1"])
    proc.process(120, 100, flags=EXECED, environ="GUNICORN_PID=1\0")
    known = discover(50)
    names = ("open", "read", "listdir", "readlink", "stat")
    originals = {name: getattr(os, name) for name in names}

    def run(first: int, last: float) -> int:
        calls = 0

        def failing(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if first <= calls <= last:
                    raise error(errno.ESRCH, "it has gone")
                return originals[name](*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, failing(name))
            for tree in (topology.discover(50), topology.discover(50, known)):
                if tree is not None:
                    assert {worker.pid for worker in tree.workers} <= {101, 102}
                    topology.names_gunicorn(tree)
                    [topology.ready(tree, worker) for worker in tree.workers]
        return calls

    total = run(0, 0)
    assert total > 100
    for number in range(1, total + 1):
        run(number, number)
        run(number, float("inf"))


# -- readiness, names, the whole machine


def test_a_worker_is_ready_from_its_first_heartbeat_on(proc: FakeProc) -> None:
    """The file's mtime leaves the wall clock (gunicorn 22), or its mode 0600 (older ones)."""
    proc.gunicorn()
    tree = discover()
    one, two = tree.workers
    assert (topology.ready(tree, one), topology.ready(tree, two)) == (False, False)
    proc.beat("h101")
    assert (topology.ready(tree, one), topology.ready(tree, two)) == (True, False)
    proc.heartbeat("h102").chmod(0o001)
    assert topology.ready(tree, two) is True
    proc.end(100)
    assert topology.ready(tree, two) is None
    assert topology.ready(tree, WorkerId(999, 1)) is None


@pytest.mark.parametrize(
    "cmdline",
    [
        "/opt/venv/bin/python\0/opt/venv/bin/gunicorn\0app:app",
        "python\0-m\0gunicorn\0app:app",
        "gunicorn: master [app]",
        "sh\0-c\0cd /srv&&exec gunicorn app",
    ],
)
def test_a_program_that_names_gunicorn(proc: FakeProc, cmdline: str) -> None:
    proc.process(50, flags=EXECED, cmdline="wrapper")
    proc.process(100, 50, flags=EXECED, cmdline=cmdline)
    assert topology.names_gunicorn(discover(50))
    assert topology.names_gunicorn(discover(100))


@pytest.mark.parametrize(
    "cmdline", ["tail\0-f\0/var/log/gunicorn.log", "vi\0/etc/gunicorn/conf.py", "gunicornc"]
)
def test_a_program_that_only_sounds_like_gunicorn(proc: FakeProc, cmdline: str) -> None:
    proc.process(100, flags=EXECED, cmdline=cmdline)
    assert not topology.names_gunicorn(discover())


def test_all_masters_of_the_machine(proc: FakeProc) -> None:
    """Each with its own tree; strangers and dirty arbiters left behind by a dead master are none.

    And the way from any pid to its tree.
    """
    proc.process(1, 0, flags=EXECED, cmdline="init")
    proc.process(50, flags=EXECED, cmdline="sh")
    proc.gunicorn(100, parent=50)
    proc.gunicorn(200, workers=3)
    proc.process(204, 201, heartbeats=["h201"])
    proc.process(300, 1, cmdline="redis", flags=EXECED)
    proc.process(400, 1, catches=DIRTY_ARBITER, heartbeats=["d1"])
    proc.process(401, 400, heartbeats=["d1"])
    assert [shape(tree) for tree in topology.masters()] == [
        (100, [101, 102], [], 1),
        (200, [201, 202, 203], [204], 1),
    ]
    for pid, root in ((100, 100), (102, 100), (50, 50), (200, 200), (204, 200)):
        tree = topology.tree_of(pid)
        assert tree is not None
        assert tree.root.pid == root
    assert topology.tree_of(300) is None
    assert topology.tree_of(999) is None
