"""Sampler on a /proc of our own: what each number is, what is read when, and what that may cost.

The numbers of real processes are compared with psutil's in test_topology_real.py.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakeproc import ARBITER, EXECED, WORKER, FakeProc

from supervisor_memwatch import host, sampler, tally, topology
from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.sampler import Program, Sampler

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
MB = 1024**2
UPTIME = 100.0  # seconds: of every process here, `start` is 1000 + pid ticks


class Bench:
    """A sampler, the /proc it reads, and the counts of what it does."""

    def __init__(self, proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc = proc
        self.sampler = Sampler()
        self.sampler._counts_files = False  # a directory of ours has another size
        self.uptime = UPTIME
        self.discoveries = 0
        self.rollups: list[int] = []
        self.rollup_cost = 0.01  # seconds of CPU
        self.cpu = 0.0
        discover = topology.discover

        def counting(pid: int, known: topology.Tree | None = None) -> topology.Tree | None:
            self.discoveries += 1
            return discover(pid, known)

        read = sampler._read

        def reading(path: str) -> bytes:
            if path.endswith("/smaps_rollup"):
                self.rollups.append(int(path.split("/")[-2]))
                self.cpu += self.rollup_cost
            return read(path)

        monkeypatch.setattr(topology, "discover", counting)
        monkeypatch.setattr(sampler, "_read", reading)
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: self.uptime)

    def look(
        self,
        at: float = 1000.0,
        exact: tuple[int, ...] = (),
        pid: int = 100,
        state: str = "RUNNING",
    ) -> Snapshot:
        ids = tuple(WorkerId(pid, 1000 + pid) for pid in exact)
        return self.sampler.look(Program("web:web", state, pid, 900.0), at, ids)

    def rollup(self, pid: int, pss: int = 3000, private: int = 2000) -> None:
        """In kilobytes."""
        (self.proc.path / str(pid) / "smaps_rollup").write_text(
            "5590-7ffe ---p 00000000 00:00 0  [rollup]\nRss: 9999 kB\n"
            f"Pss:    {pss} kB\nPss_Dirty: 1 kB\nPss_Anon: 1 kB\nShared_Clean: 9 kB\n"
            f"Private_Clean: 5 kB\nPrivate_Dirty: {private - 5} kB\nSwap: 7 kB\nSwapPss: 7 kB\n"
        )


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    fake = FakeProc(tmp_path)
    monkeypatch.setattr(topology, "PROC", str(fake.path))
    monkeypatch.setattr(host, "PROC", str(fake.path))
    monkeypatch.setattr(host, "CGROUP", str(tmp_path / "cgroup"))
    return fake


@pytest.fixture
def bench(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(proc, monkeypatch)


def pids(snapshot: Snapshot) -> list[int]:
    return [worker.id.pid for worker in snapshot.workers]


def worker(snapshot: Snapshot, pid: int = 101) -> Worker:
    return next(worker for worker in snapshot.workers if worker.id.pid == pid)


def grow_up(bench: Bench) -> None:
    """Everybody is old: no child of the master may still become a worker."""
    bench.uptime = 1000.0


# -- what the numbers are


def test_a_snapshot_of_gunicorn(bench: Bench) -> None:
    bench.proc.process(50, flags=EXECED, cmdline="sh", pages=(300, 100))
    bench.proc.gunicorn(parent=50)
    bench.proc.process(
        101,
        100,
        name="a) S 1 (b",
        catches=WORKER,
        heartbeats=["h101"],
        files=3,
        cpu=(250, 50),
        pages=(2000, 700),
        threads=4,
    )
    bench.proc.process(103, 101, pages=(500, 200))
    bench.proc.beat("h101")
    snapshot = bench.look(pid=50)
    assert snapshot._replace(master=None, workers=(), clock=None) == Snapshot(
        namespec="web:web",
        at=1000.0,
        state="RUNNING",
        pid=50,
        kind="gunicorn",
        master=None,
        workers=(),
        others=(200 + 300) * PAGE,  # the shell's own memory, and the fork's
        available=8192 * MB,
        free=4096 * MB,
        masters=1,
        evidence="heartbeat",
        spawned=900.0,
    )
    assert snapshot.master is not None
    assert snapshot.master.id == WorkerId(100, 1100)
    assert pids(snapshot) == [101, 102]
    assert worker(snapshot) == Worker(
        id=WorkerId(101, 1101),
        age=UPTIME - 1101 / TICKS,
        rss=2000 * PAGE,
        shared=700 * PAGE,
        anon=1300 * PAGE,
        swap=0,
        cpu=300 / TICKS,
        fds=4,
        threads=4,
        ready=True,
        exact=True,
    )
    assert worker(snapshot, 102).ready is False


def counting(bench: Bench, number: int, *pids: int) -> Path:
    """A file that is open in these processes as the count of their requests."""
    path = Path(tally.LINK)
    path.write_bytes(number.to_bytes(8, sys.byteorder))
    for pid in pids:
        os.symlink(path, bench.proc.path / str(pid) / "fd" / "9")
    return path


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a /proc of our own a count has the name of a file."""
    monkeypatch.setattr(tally, "LINK", str(tmp_path / "count"))


def requests(snapshot: Snapshot) -> list[int | None]:
    return [worker.requests for worker in snapshot.workers]


@pytest.mark.usefixtures("named")
def test_requests_are_those_a_worker_counts(bench: Bench) -> None:
    """Read at every look; of a worker that does not count, and of the master, unknown."""
    bench.proc.gunicorn()
    counting(bench, 7, 100, 101)
    snapshot = bench.look()
    assert requests(snapshot) == [7, None]
    assert snapshot.master is not None and snapshot.master.requests is None
    counting(bench, 12)
    assert requests(bench.look(1000.5)) == [12, None]


@pytest.mark.usefixtures("named")
def test_a_worker_that_begins_to_count_while_it_boots(bench: Bench) -> None:
    """Its application asked for it, not gunicorn's configuration: found within seconds."""
    bench.proc.gunicorn()
    assert requests(bench.look()) == [None, None]
    counting(bench, 0, 101)
    bench.uptime += 16
    assert requests(bench.look(1016.0)) == [0, None]


@pytest.mark.usefixtures("named")
def test_the_count_of_a_worker_that_has_gone_is_closed(bench: Bench) -> None:
    """A new worker of the same pid is another one."""
    bench.proc.gunicorn()
    path = counting(bench, 7, 101)
    bench.look()
    handles = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert str(path) in handles
    bench.proc.end(101)
    bench.proc.process(101, 100, start=1234, catches=WORKER, heartbeats=["h101"])
    assert requests(bench.look(1005.0)) == [None, None]
    handles = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert str(path) not in handles


def test_the_clock_is_the_local_time_of_day(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-2")  # two hours ahead of Greenwich
    time.tzset()
    try:
        assert bench.look(3600.0 * 5 + 60 * 7).clock == 7 * 60 + 7
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_program_that_does_not_run_has_no_processes(bench: Bench) -> None:
    bench.proc.gunicorn()
    assert bench.look(pid=0, state="STOPPED").kind == "plain"
    bench.look()
    snapshot = bench.look(pid=0, state="STOPPED")
    assert (snapshot.state, snapshot.pid, snapshot.master, snapshot.workers) == (
        "STOPPED",
        0,
        None,
        (),
    )
    assert snapshot.kind == "gunicorn"  # what it was
    assert bench.look(pid=999).workers == ()


def test_readiness_is_not_taken_back(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.proc.beat("h101")
    assert worker(bench.look()).ready is True
    os.utime(bench.proc.heartbeat("h101"), (1.8e9, 1.8e9))
    snapshot = bench.look(1005.0)
    assert (worker(snapshot).ready, worker(snapshot, 102).ready) == (True, False)
    bench.proc.beat("h102")
    assert worker(bench.look(1010.0), 102).ready is True


def test_the_peaks_of_young_workers(bench: Bench) -> None:
    """The most they ever held resident, however short that was; of those that may have settled
    long ago nobody asks."""
    bench.proc.gunicorn()
    for pid, peak in ((101, 300 << 10), (102, 200 << 10)):
        bench.proc.process(pid, 100, catches=WORKER, heartbeats=[f"h{pid}"], peak=peak)
    assert bench.sampler.peaks("web:web") == {}
    bench.look()
    young = {WorkerId(101, 1101): 300 * MB, WorkerId(102, 1102): 200 * MB}
    assert bench.sampler.peaks("web:web") == young
    bench.proc.end(102)
    assert bench.sampler.peaks("web:web") == {WorkerId(101, 1101): 300 * MB}
    bench.uptime += sampler.YOUNG
    assert bench.sampler.peaks("web:web") == {}


def test_swap_is_read_only_where_something_is_swapped(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], swap=300)
    bench.proc.meminfo(swap=1000, swap_free=1000)
    assert worker(bench.look()).swap == 0
    bench.proc.meminfo(swap=1000, swap_free=700)
    assert worker(bench.look(1005.0)).swap == 300 * 1024


def test_open_files_are_counted_now_and_then(bench: Bench) -> None:
    """The limit is read once, where there are many of them."""
    bench.proc.gunicorn()
    assert worker(bench.look(1000.0)).fds == 1
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], files=300)
    limits = bench.proc.path / "101/limits"
    limits.write_text(
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max open files            1024                 524288               files\n"
    )
    assert worker(bench.look(1005.0)).fds == 1
    found = worker(bench.look(1015.0))
    assert (found.fds, found.nofile) == (301, 1024)
    limits.write_text("Max open files  unlimited unlimited files\n")
    assert worker(bench.look(1030.0)).nofile == 1024
    assert worker(bench.look(1030.0), 102).nofile is None


def test_the_kernel_counts_open_files_where_it_can(proc: FakeProc) -> None:
    """Linux 6.2: the size of /proc/PID/fd."""
    proc.gunicorn()
    looker = Sampler()
    looker._counts_files = True
    found = looker.look(Program("web:web", "RUNNING", 100), 1000.0)
    assert worker(found).fds == os.stat(proc.path / "101/fd").st_size


# -- what is read when


def test_the_tree_is_discovered_again_only_where_something_changed(bench: Bench) -> None:
    bench.proc.gunicorn()
    grow_up(bench)
    bench.look(1000.0)
    bench.look(1005.0)  # of a new master the list of children was not known before
    assert bench.discoveries == 2
    for at in (1010.0, 1015.0, 1020.0, 1025.0, 1030.0):
        assert pids(bench.look(at)) == [101, 102]
    assert bench.discoveries == 2
    bench.look(1035.0)  # half a minute has passed
    assert bench.discoveries == 3
    bench.proc.process(103, 100, catches=WORKER, heartbeats=["h103"])
    files = ["h101", "h102", "h103"]
    bench.proc.process(100, flags=EXECED, catches=ARBITER, heartbeats=files)
    assert pids(bench.look(1040.0)) == [101, 102, 103]
    assert bench.discoveries == 4
    bench.look(1045.0)
    assert bench.discoveries == 4


def test_a_clock_that_was_set_back_is_no_reason_to_wait(bench: Bench) -> None:
    bench.proc.gunicorn()
    grow_up(bench)
    for at in (1000.0, 1005.0):
        bench.look(at)
    bench.look(10.0)
    assert bench.discoveries == 3


def test_a_young_child_of_the_master_is_looked_at_again(bench: Bench) -> None:
    """For as long as it may become a worker; a dirty arbiter is not examined for ever."""
    bench.proc.gunicorn()
    everybody = ["h101", "h102", "h103"]
    bench.proc.process(100, flags=EXECED, catches=ARBITER, heartbeats=everybody)
    bench.proc.process(103, 100, start=9900, heartbeats=everybody)  # 1 s old
    for at in (1000.0, 1005.0):
        assert pids(bench.look(at)) == [101, 102]
    bench.proc.process(103, 100, start=9900, catches=WORKER, heartbeats=["h103"])
    assert pids(bench.look(1010.0)) == [101, 102, 103]
    bench.proc.process(104, 100, start=9900)
    bench.look(1015.0)
    bench.uptime += 20
    bench.look(1020.0)
    count = bench.discoveries
    bench.look(1025.0)
    assert bench.discoveries == count


def test_a_worker_that_vanished_leads_to_a_discovery(bench: Bench) -> None:
    """Also where the master's list of children has not changed."""
    bench.proc.gunicorn()
    grow_up(bench)
    for at in (1000.0, 1005.0):
        bench.look(at)
    bench.proc.end(101, listed=True)
    assert pids(bench.look(1010.0)) == [102]
    assert bench.discoveries == 2
    assert pids(bench.look(1011.0)) == [102]
    assert bench.discoveries == 3


def test_another_process_with_a_workers_pid_is_not_that_worker(bench: Bench) -> None:
    bench.proc.gunicorn()
    grow_up(bench)
    for at in (1000.0, 1005.0):
        bench.look(at)
    bench.proc.process(101, 100, start=5, catches=WORKER, heartbeats=["h101"])
    assert pids(bench.look(1010.0)) == [102]
    snapshot = bench.look(1015.0)
    assert WorkerId(101, 5) in [found.id for found in snapshot.workers]


def test_a_worker_whose_master_has_gone_is_not_ours(bench: Bench) -> None:
    bench.proc.process(50, flags=EXECED, cmdline="sh")
    bench.proc.gunicorn(parent=50)
    grow_up(bench)
    assert pids(bench.look(1000.0, pid=50)) == [101, 102]
    bench.proc.process(102, 1, catches=WORKER, heartbeats=["h102"])
    bench.proc.end(100)
    bench.proc.process(101, 1, catches=WORKER, heartbeats=["h101"])
    snapshot = bench.look(1005.0, pid=50)
    assert (snapshot.kind, snapshot.master, snapshot.workers) == ("gunicorn", None, ())


def test_a_new_process_under_the_same_name_starts_from_nothing(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.rollup(101)
    assert worker(bench.look(1000.0, (101,))).uss is not None
    for pid in (101, 102):
        bench.proc.end(pid)
    bench.proc.process(100, start=5, flags=EXECED, cmdline="redis")
    bench.uptime = 5000.0
    snapshot = bench.look(1005.0)
    assert snapshot.kind == "plain"
    assert worker(snapshot, 100).uss is None


def test_forgotten_is_forgotten(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.look()
    assert bench.sampler.tree("web:web") is not None
    bench.sampler.forget("web:web")
    bench.sampler.forget("never:seen")
    assert bench.sampler.tree("web:web") is None
    assert bench.look(pid=0).kind == "plain"


def test_limits_are_shared_by_the_programs_of_a_control_group(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read every ten seconds, what is left of them once per look."""
    reads = {"limits": 0, "free": 0, "machine": 0}
    for name in reads:
        original = getattr(host, name)

        def counting(*arguments: Any, name: str = name, original: Any = original) -> Any:
            reads[name] += 1
            return original(*arguments)

        monkeypatch.setattr(host, name, counting)
    bench.proc.gunicorn(100)
    bench.proc.gunicorn(200)
    for at in (1000.0, 1005.0, 1009.0, 1011.0):
        for name, pid in (("a", 100), ("b", 200)):
            bench.sampler.look(Program(name, "RUNNING", pid), at)
    assert reads == {"limits": 2, "free": 4, "machine": 4}


# -- PSS and USS


def test_exact_numbers_are_read_where_they_are_asked_for(bench: Bench) -> None:
    bench.proc.gunicorn()
    for pid in (100, 101, 102):
        bench.rollup(pid, 3000 + pid, 2000 + pid)
    assert worker(bench.look(1000.0)).pss is None
    assert bench.rollups == []
    snapshot = bench.look(1005.0, (101, 100))
    found = worker(snapshot)
    assert (found.pss, found.uss, found.measured_at) == (3101 * 1024, 2101 * 1024, 1005.0)
    assert snapshot.master is not None
    assert snapshot.master.uss == 2100 * 1024
    assert worker(snapshot, 102).uss is None
    assert bench.rollups == [101, 100]


def test_exact_numbers_are_kept_for_a_quarter_of_an_hour(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.rollup(101)
    bench.look(1000.0, (101,))
    found = worker(bench.look(1900.0))
    assert (found.pss, found.uss, found.measured_at) == (3000 * 1024, 2000 * 1024, 1000.0)
    found = worker(bench.look(1901.0))
    assert (found.pss, found.uss, found.measured_at) == (None, None, None)


def test_a_reading_of_the_future_is_none(bench: Bench) -> None:
    """The clock was set back: how old it is, nobody knows."""
    bench.proc.gunicorn()
    bench.rollup(101)
    bench.look(1000.0, (101,))
    assert worker(bench.look(995.0)).uss is None


def test_between_two_readings_they_change_with_anonymous_memory(bench: Bench) -> None:
    """Never below nothing, and never above what is resident."""

    def pages(resident: int, shared: int) -> None:
        bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(resident, shared))

    bench.proc.gunicorn()
    bench.rollup(101)
    bench.look(1000.0, (101,))
    for resident, shared, change in [(1600, 200, 600), (1600, 800, 0), (900, 200, -100)]:
        pages(resident, shared)
        found = worker(bench.look(1005.0))
        assert found.pss == 3000 * 1024 + change * PAGE
        assert found.uss == 2000 * 1024 + change * PAGE
        assert found.measured_at == 1000.0
    pages(300, 200)
    found = worker(bench.look(1005.0))
    assert (found.pss, found.uss) == (3000 * 1024 - 700 * PAGE, 0)
    pages(1000, 0)
    assert worker(bench.look(1005.0)).pss == 3000 * 1024 + 200 * PAGE
    bench.rollup(101, 2500, 1500)
    found = worker(bench.look(1010.0, (101,)))
    assert (found.pss, found.uss, found.measured_at) == (2500 * 1024, 1500 * 1024, 1010.0)


def test_what_is_carried_on_is_never_above_what_is_resident(bench: Bench) -> None:
    """So that what is below a limit by its RSS is below it by any measure."""
    bench.proc.gunicorn()
    bench.rollup(101, pss=3900, private=3900)
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(1000, 900))
    bench.look(1000.0, (101,))
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(1000, 0))
    found = worker(bench.look(1005.0))
    assert (found.pss, found.uss) == (1000 * PAGE, 1000 * PAGE)


def test_reading_them_takes_a_small_share_of_the_time(bench: Bench) -> None:
    """0.3 s at once, then half a percent."""
    bench.proc.gunicorn(workers=20)
    everybody = tuple(range(101, 121))
    for pid in everybody:
        bench.rollup(pid)
    bench.rollup_cost = 0.1
    bench.look(1000.0, everybody)
    assert bench.rollups == [101, 102, 103]
    bench.look(1005.0, everybody)
    assert len(bench.rollups) == 4  # 0.025 s saved up; the last one may overdraw
    bench.look(1010.0, everybody)
    assert len(bench.rollups) == 4
    for at in range(1015, 2015, 5):
        bench.look(float(at), everybody)
    assert bench.cpu == pytest.approx(0.3 + 0.005 * 1010, abs=0.2)


def test_the_most_important_one_is_not_overtaken_by_cheaper_ones(bench: Bench) -> None:
    bench.proc.gunicorn()
    gigabytes = 8 * 1024**3 // PAGE
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(gigabytes, 0))
    for pid in (100, 101, 102):
        bench.rollup(pid)
    bench.rollup_cost = 0.2
    bench.look(1000.0, (101, 102))
    assert bench.rollups == [101, 102]
    bench.rollups.clear()
    for at in range(1005, 1045, 5):
        bench.look(float(at), (101, 102))
    assert bench.rollups == []
    bench.look(1100.0, (101, 102))
    assert bench.rollups[0] == 101


def test_a_process_too_dear_for_the_budget_is_never_read(bench: Bench) -> None:
    """100 GB, say; those behind it are."""
    bench.proc.gunicorn()
    pages = 100 * 1024**3 // PAGE
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(pages, 0))
    bench.rollup(101)
    bench.rollup(102)
    assert worker(bench.look(500.0)).exact is True  # nobody has asked yet
    for at in (1000.0, 5000.0, 90000.0):
        snapshot = bench.look(at, (101, 102))
        assert (worker(snapshot).exact, worker(snapshot, 102).exact) == (False, True)
    assert bench.rollups == [102, 102, 102]


def test_programs_take_turns_where_the_budget_is_short(bench: Bench) -> None:
    """One that always wants more does not keep another from being read."""
    for master in (100, 200):
        bench.proc.gunicorn(master, workers=8)
        for pid in range(master + 1, master + 9):
            bench.rollup(pid)
    bench.rollup_cost = 0.1

    def look(name: str, master: int, at: float, exact: bool = True) -> None:
        ids = [WorkerId(pid, 1000 + pid) for pid in range(master + 1, master + 9)]
        ids.sort(
            key=lambda id: bench.rollups[::-1].index(id.pid) if id.pid in bench.rollups else 99
        )
        bench.sampler.look(Program(name, "RUNNING", master), at, ids[::-1] if exact else ())

    for tick in range(300):
        look("a", 100, 1000.0 + 5 * tick)
        look("b", 200, 1000.0 + 5 * tick)
    read = [pid // 100 for pid in bench.rollups]
    assert len(read) > 60
    assert abs(read.count(1) - read.count(2)) <= 5
    # Whoever wants nothing any more, or has gone, is not waited for.
    count = len(read)
    for tick in range(300, 500):
        look("a", 100, 1000.0 + 5 * tick, exact=False)
        look("b", 200, 1000.0 + 5 * tick)
    assert len(bench.rollups) > count + 40
    look("a", 100, 3500.0)
    look("a", 100, 3500.0)
    bench.sampler.forget("a")
    count = len(bench.rollups)
    for tick in range(600, 800):
        look("b", 200, 1000.0 + 5 * tick)
    assert len(bench.rollups) > count + 40


def test_what_a_process_costs_is_learned(bench: Bench) -> None:
    """One in huge pages is a hundred times cheaper than its size says."""
    bench.proc.gunicorn(workers=1)
    pages = 11 * 1024**3 // PAGE  # 0.275 s expected
    bench.proc.process(101, 100, catches=WORKER, heartbeats=["h101"], pages=(pages, 0))
    bench.rollup(101)
    bench.rollup_cost = 0.002
    for at in range(1000, 1050, 5):
        bench.look(float(at), (101,))
    assert len(bench.rollups) >= 8
    bench.rollup_cost = 5.0
    for at in range(10000, 100000, 1000):
        bench.look(float(at), (101,))
    assert bench.cpu < 5.1


def test_a_refusal_is_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.proc.gunicorn()
    bench.rollup(101)
    asked = []

    def refuse(path: str) -> bytes:
        if path.endswith("smaps_rollup"):
            asked.append(path)
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return Path(path).read_bytes()

    monkeypatch.setattr(sampler, "_read", refuse)
    for at in (1000.0, 1100.0):
        found = worker(bench.look(at, (101,)))
        assert (found.uss, found.exact) == (None, False)
    assert len(asked) == 1


def test_a_failure_that_may_pass_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it does there are no exact numbers; nobody waits for them."""
    bench.proc.gunicorn()
    bench.rollup(101)
    read = sampler._read

    def fail(path: str) -> bytes:
        if path.endswith("smaps_rollup"):
            raise OSError(errno.ENOMEM, "no memory", path)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "_read", fail)
        found = worker(bench.look(1000.0, (101,)))
        assert (found.uss, found.exact) == (None, False)
    found = worker(bench.look(1005.0, (101,)))
    assert (found.uss, found.exact) == (2000 * 1024, True)


def test_a_kernel_without_any_of_these_files_is_known_at_once(bench: Bench) -> None:
    bench.proc.gunicorn()
    found = worker(bench.look(1000.0, (101,)))
    assert (found.uss, found.exact) == (None, False)


def test_where_there_is_no_rollup_all_mappings_are_added_up(bench: Bench) -> None:
    """Linux before 4.14."""
    bench.proc.gunicorn()
    mapping = "55-56 r--p 0 0 0 x\nPss: 100 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n"
    (bench.proc.path / "101/smaps").write_text(mapping * 3)
    found = worker(bench.look(1000.0, (101,)))
    assert (found.pss, found.uss) == (300 * 1024, 9 * 1024)


def test_nothing_is_measured_of_a_process_that_ended_meanwhile(bench: Bench) -> None:
    bench.proc.gunicorn()
    bench.look(1000.0)
    (bench.proc.path / "101/smaps_rollup").write_text("")
    found = worker(bench.look(1005.0, (101, 999)))
    assert (found.pss, found.measured_at, found.exact) == (None, None, True)


# -- programs without gunicorn


def celery(bench: Bench) -> None:
    grow_up(bench)
    bench.proc.process(
        100, flags=EXECED, cmdline="celery", cpu=(100, 50), pages=(1000, 600), threads=3, files=2
    )
    bench.proc.process(101, 100, cmdline="celery", cpu=(10, 0), pages=(900, 500), files=5)
    bench.proc.process(102, 101, cmdline="celery", pages=(900, 100))


def test_a_plain_program_is_its_whole_tree(bench: Bench) -> None:
    """Shared pages count once."""
    celery(bench)
    for pid, pss in ((100, 30), (101, 3), (102, 1)):
        bench.rollup(pid, pss, 6)
    snapshot = bench.look(1000.0)
    assert (snapshot.kind, snapshot.master, snapshot.others) == ("plain", None, 0)
    assert snapshot.workers == (
        Worker(
            id=WorkerId(100, 1100),
            age=bench.uptime - 1100 / TICKS,
            rss=(600 + 400 + 400 + 800) * PAGE,
            shared=600 * PAGE,
            anon=1600 * PAGE,
            swap=0,
            cpu=160 / TICKS,
            fds=7,
            threads=5,
            exact=True,
        ),
    )
    found = worker(bench.look(1005.0, (100,)), 100)
    assert (found.pss, found.uss, found.measured_at) == (34 * 1024, 18 * 1024, 1005.0)


def test_of_a_tree_that_was_read_in_part_the_rest_is_what_the_root_does_not_have(
    bench: Bench,
) -> None:
    """The root, read first, has 400 pages; 102 has 400 more, for which no reading is needed."""
    celery(bench)
    for pid in (100, 101, 102):
        bench.rollup(pid, 30, 20)
    bench.rollup_cost = 1.0  # one reading, and then for long none
    found = worker(bench.look(1000.0, (100,)), 100)
    assert bench.rollups == [100]
    assert (found.pss, found.uss, found.measured_at) == (None, 20 * 1024 + 400 * PAGE, 1000.0)
    bench.look(1400.0, (100,))
    found = worker(bench.look(1800.0, (100,)), 100)
    assert bench.rollups == [100, 101, 102]  # never read, or longest ago, first
    assert (found.pss, found.uss, found.measured_at) == (90 * 1024, 60 * 1024, 1000.0)


def test_what_a_root_gave_to_a_fork_is_not_its_own_any_more(bench: Bench) -> None:
    """PSS is known again when all were read after the fork."""
    celery(bench)
    for pid in (100, 101, 102):
        bench.rollup(pid, 30, 20)
    assert worker(bench.look(1000.0, (100,)), 100).pss == 90 * 1024
    bench.uptime += 60
    bench.proc.process(
        103, 100, start=int((bench.uptime - 5) * TICKS), cmdline="celery", pages=(900, 100)
    )
    bench.rollup(103, 30, 20)
    bench.rollup_cost = 1.0
    found = worker(bench.look(1060.0, (100,)), 100)
    assert bench.rollups[3:] == [103]
    assert (found.pss, found.uss) == (None, 80 * 1024)
    for at in (1400.0, 1700.0, 1950.0):
        bench.uptime += 300
        found = worker(bench.look(at, (100,)), 100)
    assert found.pss == 120 * 1024


def test_a_tree_with_a_process_that_cannot_be_read_has_no_exact_numbers(bench: Bench) -> None:
    celery(bench)
    bench.rollup(100, 30, 20)
    bench.rollup(101, 30, 20)
    found = worker(bench.look(1000.0, (100,)), 100)
    assert (found.pss, found.uss, found.measured_at, found.exact) == (None, None, None, False)


def test_a_small_plain_tree_is_walked_at_every_look(bench: Bench) -> None:
    grow_up(bench)
    bench.proc.process(100, flags=EXECED, cmdline="celery")
    bench.look(1000.0)
    bench.proc.process(101, 100, cmdline="celery", pages=(900, 0))
    assert worker(bench.look(1005.0), 100).anon == (800 + 900) * PAGE
    bench.proc.end(101)
    assert worker(bench.look(1010.0), 100).anon == 800 * PAGE


def test_a_large_one_every_half_minute(bench: Bench) -> None:
    grow_up(bench)
    bench.proc.process(100, flags=EXECED, cmdline="postgres")
    for pid in range(101, 131):
        bench.proc.process(pid, 100, cmdline="postgres")
    for at in range(1000, 1030, 5):
        assert worker(bench.look(float(at)), 100).anon == 31 * 800 * PAGE
    assert bench.discoveries == 1
    bench.proc.process(131, 100, cmdline="postgres")
    assert worker(bench.look(1030.0), 100).anon == 32 * 800 * PAGE
    bench.proc.end(131)
    assert worker(bench.look(1035.0), 100).anon == 31 * 800 * PAGE


def test_a_program_that_names_gunicorn_gets_time_to_show_one(bench: Bench) -> None:
    """Ten minutes; then it is watched as what it seems to be."""
    bench.proc.process(100, flags=EXECED)
    snapshot = bench.look(1000.0)
    assert (snapshot.kind, snapshot.master, snapshot.workers) == ("gunicorn", None, ())
    bench.uptime += 700
    assert bench.look(1700.0).kind == "plain"
    bench.proc.gunicorn()
    assert bench.look(1705.0).kind == "gunicorn"


def test_once_a_gunicorn_always_a_gunicorn(bench: Bench) -> None:
    """While its master has gone, and while the program starts again under another pid."""
    bench.proc.process(50, flags=EXECED, cmdline="start-everything")
    assert bench.look(1000.0, pid=50).kind == "plain"
    bench.proc.gunicorn(parent=50)
    assert bench.look(1005.0, pid=50).kind == "gunicorn"
    for pid in (101, 102, 100):
        bench.proc.end(pid)
    bench.uptime += 7000
    assert bench.look(8000.0, pid=50).kind == "gunicorn"
    bench.proc.end(50)
    bench.proc.process(60, start=int((bench.uptime - 1) * TICKS), cmdline="start-everything")
    assert bench.look(8010.0, pid=60).kind == "gunicorn"


# -- nothing is ever raised


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError, PermissionError])
@pytest.mark.parametrize("plain", [False, True])
def test_no_error_of_proc_is_ever_raised(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[OSError], plain: bool
) -> None:
    """Whichever of its calls fails, each in turn, and all of them from then on."""
    bench.proc.meminfo(swap=10)
    if plain:
        bench.proc.process(100, flags=EXECED, cmdline="celery")
        bench.proc.process(101, 100, cmdline="celery")
    else:
        bench.proc.gunicorn()
    bench.rollup(101)
    names = ("open", "read", "listdir", "readlink", "stat")
    originals = {name: getattr(os, name) for name in names}
    real_open = open

    def run(first: int, last: float) -> int:
        calls = 0

        def failing(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if first <= calls <= last:
                    raise error(errno.ESRCH, "it has gone")
                return original(*arguments, **options)

            return call

        bench.sampler = Sampler()
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, failing(originals[name]))
            patch.setattr("builtins.open", failing(real_open))
            for at in (1000.0, 1005.0, 1040.0):
                assert set(pids(bench.look(at, (101, 100)))) <= {100, 101, 102}
        return calls

    total = run(0, 0)
    assert total > 50
    for number in range(1, total + 1):
        run(number, number)
        run(number, float("inf"))
