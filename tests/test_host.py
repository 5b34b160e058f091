"""Host: RAM and control groups, laid out as v1, v2 and the hybrid of both show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakeproc import FakeProc

from supervisor_memwatch import host
from supervisor_memwatch.host import Group, Level, Memory

MB = 1024**2
UNLIMITED = 9223372036854771712  # v1's "no limit"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    """A machine of 8 GB, half of them available."""
    fake = FakeProc(tmp_path)
    fake.process(7)
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(host, "PROC", str(fake.path))
    monkeypatch.setattr(host, "CGROUP", str(tmp_path / "cgroup"))
    return fake


@pytest.fixture
def cgroup(tmp_path: Path, proc: FakeProc) -> Path:
    return tmp_path / "cgroup"


def belongs(proc: FakeProc, *lines: str) -> None:
    (proc.path / "7/cgroup").write_text("\n".join(lines) + "\n")


def v1(directory: Path, limit: int, used: int = 0, cache: int = 0, kills: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {cache}\n")
    (directory / "memory.oom_control").write_text(
        f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    )


def v2(
    directory: Path, limit: int | str, used: int = 0, cache: int = 0, high: int | str = "max"
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.high").write_text(f"{high}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    (directory / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")


def is_v2(cgroup: Path) -> None:
    (cgroup / "cgroup.controllers").write_text("cpu io memory pids\n")


def test_without_control_groups_there_is_the_machine(proc: FakeProc) -> None:
    assert host.available(7) == Memory(8192 * MB, 4096 * MB, None)
    assert host.group_of(7) is None


def test_a_v1_group_without_a_limit_has_the_machine(proc: FakeProc, cgroup: Path) -> None:
    belongs(proc, "4:memory:/app", "0::/")
    v1(cgroup / "memory", UNLIMITED)
    v1(cgroup / "memory/app", UNLIMITED, used=300 * MB, kills=2)
    assert host.available(7) == Memory(8192 * MB, 4096 * MB, 2)
    assert host.limits(host.group_of(7), host.machine()) == ()


def test_a_v1_limit_of_a_group_above_binds(proc: FakeProc, cgroup: Path) -> None:
    """File cache that is not in use counts as free, with that of the groups below."""
    belongs(proc, "5:cpu,cpuacct:/", "4:hugetlb,memory:/pod/app")
    v1(cgroup / "memory", UNLIMITED)
    v1(cgroup / "memory/pod", 1000 * MB, used=700 * MB, cache=100 * MB)
    v1(cgroup / "memory/pod/app", 2000 * MB, used=300 * MB)
    assert host.available(7) == Memory(1000 * MB, 400 * MB, 0)


def test_the_least_free_of_several_limits_counts(proc: FakeProc, cgroup: Path) -> None:
    """Which need not be the tightest of them."""
    belongs(proc, "4:memory:/pod/app")
    v1(cgroup / "memory", UNLIMITED)
    v1(cgroup / "memory/pod", 2000 * MB, used=1990 * MB)
    v1(cgroup / "memory/pod/app", 1000 * MB, used=300 * MB)
    assert host.available(7) == Memory(1000 * MB, 10 * MB, 0)


def test_v2_limits(proc: FakeProc, cgroup: Path) -> None:
    """memory.high counts where it is lower: above it nothing runs as it should any more."""
    is_v2(cgroup)
    belongs(proc, "0::/system.slice/supervisor.service")
    v2(cgroup / "system.slice", "max", used=5000 * MB)
    service = cgroup / "system.slice/supervisor.service"
    v2(service, 1000 * MB, used=600 * MB, cache=100 * MB)
    assert host.available(7) == Memory(1000 * MB, 500 * MB, 3)
    v2(service, 1000 * MB, used=600 * MB, high=700 * MB)
    assert host.available(7) == Memory(700 * MB, 100 * MB, 3)
    v2(service, "max", used=600 * MB)
    assert host.available(7) == Memory(8192 * MB, 4096 * MB, 3)


def test_beyond_the_limit_nothing_is_free(proc: FakeProc, cgroup: Path) -> None:
    is_v2(cgroup)
    belongs(proc, "0::/app")
    v2(cgroup / "app", "max", used=900 * MB, high=700 * MB)
    assert host.available(7) == Memory(700 * MB, 0, 3)


def test_the_machine_may_be_fuller_than_the_group(proc: FakeProc, cgroup: Path) -> None:
    is_v2(cgroup)
    belongs(proc, "0::/app")
    v2(cgroup / "app", 1000 * MB)
    proc.meminfo(available=50 * 1024)
    assert host.available(7) == Memory(1000 * MB, 50 * MB, 3)


def test_a_limit_above_ram_is_none(proc: FakeProc, cgroup: Path) -> None:
    is_v2(cgroup)
    belongs(proc, "0::/app")
    v2(cgroup / "app", 9000 * MB)
    assert host.available(7).limit == 8192 * MB


@pytest.mark.parametrize("path", ["/", "/docker/0123abc", "/..", "/../../elsewhere"])
def test_inside_a_container_the_mount_is_its_group(proc: FakeProc, cgroup: Path, path: str) -> None:
    """With a cgroup namespace, without one, and for a process outside of ours."""
    is_v2(cgroup)
    belongs(proc, f"0::{path}")
    v2(cgroup, 500 * MB, used=100 * MB)
    assert host.group_of(7) == Group("v2", str(cgroup), str(cgroup))
    assert host.available(7) == Memory(500 * MB, 400 * MB, 3)


def test_inside_a_container_the_end_of_the_path_is_found(proc: FakeProc, cgroup: Path) -> None:
    belongs(proc, "4:memory:/docker/0123abc/app")
    v1(cgroup / "memory", 500 * MB)
    v1(cgroup / "memory/app", 300 * MB)
    levels = host.limits(host.group_of(7), host.machine())
    assert levels == (
        Level("v1", str(cgroup / "memory/app"), 300 * MB),
        Level("v1", str(cgroup / "memory"), 500 * MB),
    )


@pytest.mark.parametrize("memory_in_v1", [True, False])
def test_in_the_hybrid_memory_is_in_one_of_both(
    proc: FakeProc, cgroup: Path, memory_in_v1: bool
) -> None:
    unified = cgroup / "unified"
    v2(unified / "app", 700 * MB)
    v1(cgroup / "memory/app", 600 * MB)
    (unified / "cgroup.controllers").write_text("" if memory_in_v1 else "memory\n")
    belongs(proc, *(["4:memory:/app"] if memory_in_v1 else ["4:cpu:/app"]), "0::/app")
    assert host.available(7).limit == (600 if memory_in_v1 else 700) * MB


def test_what_cannot_be_read_is_unknown(proc: FakeProc, cgroup: Path) -> None:
    belongs(proc, "4:memory:/app")
    (proc.path / "meminfo").unlink()
    assert host.available(7) == Memory(None, None, None)
    assert host.available(8) == Memory(None, None, None)
    is_v2(cgroup)
    belongs(proc, "0::/app", "nonsense", "")
    (cgroup / "app").mkdir()
    (cgroup / "app/memory.max").write_text("")
    assert host.available(7) == Memory(None, None, None)


def test_swap_is_in_use_or_not(proc: FakeProc) -> None:
    assert host.machine().swapped is False
    proc.meminfo(swap=1000, swap_free=1000)
    assert host.machine().swapped is False
    proc.meminfo(swap=1000, swap_free=999)
    assert host.machine().swapped is True


def test_this_machine_can_be_read() -> None:
    memory = host.available(os.getpid())
    assert memory.limit is not None
    assert memory.free is not None
    assert 0 <= memory.free <= memory.limit
