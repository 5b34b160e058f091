"""Memory control groups for tests: made below our own, in v1 or v2, and removed at the end.

    with Group(400 * MB) as group, Group(900 * MB, group) as inner:
        with inner.entered():
            process = subprocess.Popen(...)  # and whatever it starts
        assert group.oom_kills == 0

Only processes that were started in a group are ended with it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import end_processes, wait_until

from supervisor_memwatch import host

_NUMBERS = itertools.count()
_UNLIMITED = {host.V1: "-1", host.V2: "max"}
_LIMIT = {host.V1: "memory.limit_in_bytes", host.V2: "memory.max"}
_SWAP = {host.V1: "memory.memsw.limit_in_bytes", host.V2: "memory.swap.max"}
_USAGE = {host.V1: "memory.usage_in_bytes", host.V2: "memory.current"}
_KILLS = {host.V1: "memory.oom_control", host.V2: "memory.events"}


class Group:
    """A group with a limit (bytes, None for none); skips the test where none can be made."""

    def __init__(self, limit: int | None, above: Group | None = None) -> None:
        self._limit = limit
        self._above = above
        self.path = Path()
        self.version = ""

    def __enter__(self) -> Group:
        try:
            self._make()
        except OSError as error:
            self.__exit__()
            pytest.skip(f"no memory control group can be made here: {error}")
        return self

    def _make(self) -> None:
        own = host.group_of(os.getpid())
        if own is None:
            raise OSError(errno.ENOENT, "memory is not controlled")
        self.version = own.version
        # In v2 a group has either processes or groups below it: a sibling of ours, then.
        parent = Path(own.top if own.version == host.V2 else own.directory)
        if self._above is not None:
            parent = self._above.path
        if self.version == host.V2:
            (parent / "cgroup.subtree_control").write_text("+memory")
        path = parent / f"memwatch-test-{os.getpid()}-{next(_NUMBERS)}"
        path.mkdir()
        self.path = path
        (path / "cgroup.procs").read_text()
        self.set_limit(self._limit)

    def __exit__(self, *_: object) -> None:
        if not self.path.name:
            return
        end_processes(self.processes())
        wait_until(self._remove, 30, lambda: f"{self.path} is empty: {self.processes()}")

    def _remove(self) -> bool:
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            end_processes(self.processes())
            return False
        return True

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it meanwhile, and so whoever is started."""
        own = host.group_of(os.getpid())
        assert own is not None
        self._move_to(self.path)
        try:
            yield
        finally:
            self._move_to(Path(own.directory))

    def _move_to(self, path: Path) -> None:
        try:
            (path / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            pytest.skip(f"we may not move to another control group: {error}")

    def processes(self) -> list[psutil.Process]:
        """Those in it, but ourselves."""
        found = []
        for word in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                if int(word) != os.getpid():
                    found.append(psutil.Process(int(word)))
        return found

    def set_limit(self, limit: int | None) -> None:
        """Swap does not stand in for memory; raised before, and lowered after, what it covers."""
        text = _UNLIMITED[self.version] if limit is None else str(limit)
        memory, swap = self.path / _LIMIT[self.version], self.path / _SWAP[self.version]
        if self.version == host.V2:
            memory.write_text(text)
            if swap.exists():
                swap.write_text("0")
            return
        if swap.exists():
            swap.write_text("-1")
        memory.write_text(text)
        if swap.exists():
            swap.write_text(text)

    def room(self, bytes: int) -> None:
        """Set the limit so that this much is left, file cache that is not in use included."""
        cache = self.table("memory.stat")[host._CACHE[self.version].decode()]
        self.set_limit(self.usage - cache + bytes)

    @property
    def limit(self) -> int:
        return int((self.path / _LIMIT[self.version]).read_text())

    @property
    def usage(self) -> int:
        return int((self.path / _USAGE[self.version]).read_text())

    @property
    def oom_kills(self) -> int:
        """Processes the kernel killed in it for want of memory."""
        return self.table(_KILLS[self.version])["oom_kill"]

    @property
    def file_cache(self) -> int:
        """Pages of files, in use or not: most of it the kernel takes back before it kills."""
        total = "total_" if self.version == host.V1 else ""
        table = self.table("memory.stat")
        return table[total + "inactive_file"] + table[total + "active_file"]

    def table(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self.path / name).read_text().splitlines())
        return {line[0]: int(line[1]) for line in lines if line[1].isdigit()}
