"""What an application tells the recorder about itself: one small file per process.

    requests      served by this process
    leaked        bytes that it knows it keeps for no reason (0 where a library leaks)
    operations    leaking operations done: what is left where a library leaks
    since         epoch seconds of the first of them, 0 if there was none
    full          epoch seconds when its cache was full, 0 if it is not or there is none

Written with one pwrite after each request; a process that was forked opens its own.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

_FORMAT = struct.Struct("5d")


class Count(NamedTuple):
    requests: int = 0
    leaked: int = 0
    operations: int = 0
    since: float = 0.0
    full: float = 0.0


class Counter:
    """This process's own account; `directory` is the recorder's."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self.pid = os.getpid()
        self.file = -1
        self.requests = self.leaked = self.operations = 0
        self.since = self.full = 0.0

    def served(self) -> int:
        """Count a request of this process; which one it is, from 1."""
        with self.lock:
            if self.pid != os.getpid():
                self._reset()
            self.requests += 1
            return self.requests

    def leak(self, size: int) -> None:
        """Count a leaking operation and the bytes it is known to have leaked."""
        with self.lock:
            if self.pid != os.getpid():
                self._reset()
            self.operations += 1
            self.leaked += size
            self.since = self.since or time.time()

    def filled(self) -> None:
        self.full = self.full or time.time()

    def write(self) -> None:
        with self.lock:
            if self.file < 0:
                path = os.path.join(self.directory, str(self.pid))
                self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            row = (self.requests, self.leaked, self.operations, self.since, self.full)
            os.pwrite(self.file, _FORMAT.pack(*row), 0)


def read(directory: Path, pid: int) -> Count | None:
    """What that process has told so far; None: nothing yet."""
    try:
        data = (directory / str(pid)).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _FORMAT.size:
        return None
    requests, leaked, operations, since, full = _FORMAT.unpack(data)
    return Count(int(requests), int(leaked), int(operations), since, full)
