"""Host: how much memory a process may have, and how much of that is left.

The tightest of the machine's RAM and the limits of the control groups the process is in, its
own and all those above, in cgroup v1, v2 and the hybrid of both. A page of file cache that is
not in use (`inactive_file`) does not count as used: it goes before anything is killed. In v2
`memory.high` counts as a limit where it is lower than `memory.max`: above it nothing is killed,
but everything is slowed until it is of no use.

Inside a container the paths of /proc/PID/cgroup may start above the part of the hierarchy that
is mounted; then the longest end of the path that exists is the group, or else the mount itself.

Not here: how big a process is (sampler.py). What cannot be read is None, never an error. Bytes.
"""

from __future__ import annotations

import os
from typing import NamedTuple

PROC = "/proc"  # the seams: tests lay out trees of their own
CGROUP = "/sys/fs/cgroup"

V1, V2 = "v1", "v2"
_LIMITS = {V1: ("memory.limit_in_bytes",), V2: ("memory.max", "memory.high")}
_USAGE = {V1: "memory.usage_in_bytes", V2: "memory.current"}
# v1 keeps the numbers of a group alone and those with all groups below it ("total_") apart.
_CACHE = {V1: b"total_inactive_file", V2: b"inactive_file"}
_KILLS = {V1: "memory.oom_control", V2: "memory.events"}


class Machine(NamedTuple):
    """RAM, as /proc/meminfo has it."""

    total: int | None
    available: int | None
    swapped: bool  # whether anything at all is in swap space


class Group(NamedTuple):
    """The control group that accounts for a process's memory."""

    version: str
    directory: str
    top: str  # the mount: no limit stands above it


class Level(NamedTuple):
    """A control group with a limit below the machine's RAM."""

    version: str
    directory: str
    limit: int


class Memory(NamedTuple):
    """What is there for a process."""

    limit: int | None  # the tightest of RAM and the control groups' limits
    free: int | None  # what is left to the process before the first of them is reached
    oom_kills: int | None  # processes of its control group killed for want of memory, so far


def available(pid: int) -> Memory:
    """Everything about one process, read now. sampler.py caches the parts."""
    ram = machine()
    group = group_of(pid)
    levels = limits(group, ram)
    return Memory(tightest(levels, ram), free(levels, ram), oom_kills(group))


def machine() -> Machine:
    values = _table(f"{PROC}/meminfo")
    return Machine(
        _kilobytes(values, b"MemTotal:"),
        _kilobytes(values, b"MemAvailable:"),
        values.get(b"SwapTotal:", 0) > values.get(b"SwapFree:", 0),
    )


def pid_space() -> str | None:
    """Which processes' pids we see: those of a container are others than the host's."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def group_of(pid: int) -> Group | None:
    """The memory control group of a process; None where there is none."""
    text = _read(f"{PROC}/{pid}/cgroup")
    unified = None
    for line in (text or b"").splitlines():
        _, _, rest = os.fsdecode(line).partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            top = f"{CGROUP}/memory"
            return Group(V1, _directory(top, path), top)
        if not controllers:
            unified = path
    # Where v1 and v2 are mounted side by side, each controller is in one of them.
    for top in (CGROUP, f"{CGROUP}/unified"):
        if unified is not None and b"memory" in (_read(f"{top}/cgroup.controllers") or b""):
            return Group(V2, _directory(top, unified), top)
    return None


def limits(group: Group | None, ram: Machine) -> tuple[Level, ...]:
    """The limits that bind a process of this group, innermost first."""
    found = []
    for directory in _upwards(group):
        version = group.version if group else V2
        values = [_number(f"{directory}/{name}") for name in _LIMITS[version]]
        limit = min((value for value in values if value is not None), default=None)
        # "No limit" reads "max" in v2, and in v1 a number that no machine has.
        if limit is not None and (ram.total is None or limit < ram.total):
            found.append(Level(version, directory, limit))
    return tuple(found)


def tightest(levels: tuple[Level, ...], ram: Machine) -> int | None:
    bounds = [level.limit for level in levels] + ([] if ram.total is None else [ram.total])
    return min(bounds, default=None)


def free(levels: tuple[Level, ...], ram: Machine) -> int | None:
    """What is left now, never below 0: two small files for each level, usually none or one."""
    left = [] if ram.available is None else [ram.available]
    for version, directory, limit in levels:
        used = _number(f"{directory}/{_USAGE[version]}")
        if used is not None:
            cache = _table(f"{directory}/memory.stat").get(_CACHE[version], 0)
            left.append(max(0, limit - max(0, used - cache)))
    return min(left, default=None)


def oom_kills(group: Group | None) -> int | None:
    if group is None:
        return None
    return _table(f"{group.directory}/{_KILLS[group.version]}").get(b"oom_kill")


def _upwards(group: Group | None) -> list[str]:
    if group is None:
        return []
    found = [group.directory]
    while found[-1] != group.top:
        found.append(os.path.dirname(found[-1]))
    return found


def _directory(top: str, path: str) -> str:
    parts = [part for part in path.split("/") if part]
    # "/.." leads out of our cgroup namespace, to where nothing is mounted.
    while parts and ".." not in parts:
        directory = "/".join([top, *parts])
        if os.path.isdir(directory):
            return directory
        del parts[0]
    return top


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None


def _number(path: str) -> int | None:
    text = (_read(path) or b"").strip()
    return int(text) if text.isdigit() else None


def _table(path: str) -> dict[bytes, int]:
    """Lines of a name and a number, whatever stands behind them."""
    pairs = (line.split() for line in (_read(path) or b"").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _kilobytes(values: dict[bytes, int], name: bytes) -> int | None:
    value = values.get(name)
    return None if value is None else value * 1024
