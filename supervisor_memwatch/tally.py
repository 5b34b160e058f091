"""Tally: how many requests a worker has answered, where it counts them (hook.py).

The count is found among the worker's open files by its name, opened once, and read from then on
by a single call. What is opened is another process's doing, and may be anything: it is looked at
before it is opened, never waited for, and read as a number that does not go back; else the count
of this worker is unknown from then on.

Not here: the counting, and what it is good for. Nothing here raises for a process that ends.
"""

from __future__ import annotations

import os
import resource
import stat
import sys
from itertools import islice

from . import topology

LINK = "/memfd:memwatch-requests (deleted)"
FILES = 1024  # open files that are looked through: the count is opened early
SOON = 15.0  # seconds to the second search: an application may begin to count while it boots
RARELY = 900.0  # between two searches at last: most applications do not count
MOST = 2**53  # what any reader of JSON takes as it is

_NEVER = float("inf")


class Tally:
    """Of one worker: looked for now and then, and read once it is there."""

    __slots__ = ("_handle", "_last", "_pid", "_searched", "_wait")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._handle: int | None = None
        self._last = 0
        self._searched = -_NEVER
        self._wait = 0.0

    def read(self, uptime: float) -> int | None:
        """Requests answered since the worker's start; None where it is not known.

        uptime: seconds since boot."""
        if self._handle is None:
            if uptime < self._searched + self._wait:
                return None
            self._searched = uptime
            self._wait = min(max(SOON, 2 * self._wait), RARELY)
            self._handle = _find(self._pid)
            if self._handle is None:
                return None
        try:
            found = os.pread(self._handle, 8, 0)
        except OSError:  # whatever it is, it is no count
            found = b""
        number = int.from_bytes(found, sys.byteorder)
        if len(found) == 8 and self._last <= number <= MOST:
            self._last = number
            return number
        self._close()
        self._searched = _NEVER
        return None

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        self._close()


def _find(pid: int) -> int | None:
    """A descriptor of the count of a process, opened for reading."""
    try:
        with os.scandir(f"{topology.PROC}/{pid}/fd") as files:  # the lowest numbers first
            for file in islice(files, FILES):
                if _link(file.path) == LINK:
                    return _open(file.path)
    except OSError:  # it has ended, or is another user's
        return None
    return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _open(path: str) -> int | None:
    """Only a plain file of eight bytes, and only where many descriptors are left."""
    seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        about = os.fstat(seen)
        few = seen < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        if not (stat.S_ISREG(about.st_mode) and about.st_size == 8 and few):
            return None
        # Of a file that somebody holds a lease on one would otherwise wait for its end.
        return os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(seen)
