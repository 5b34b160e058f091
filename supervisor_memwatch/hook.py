"""Counts the requests of a gunicorn worker, where memwatch can read it. Runs in your worker.

    # gunicorn.conf.py
    from supervisor_memwatch.hook import post_request

The count lies in eight bytes of shared memory that belong to the worker and end with it: a file
without a name on any disk, which the listener finds among the worker's open files. One request
costs less than a microsecond; nothing is sent, logged or waited for. Where the system has no
such files nothing is counted, and nothing else happens.

This file imports nothing of ours, so that it can also be copied beside your application. Not here:
who reads the count (tally.py).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

NAME = "memwatch-requests"


def post_request(worker: object, req: object, environ: object, resp: object) -> None:
    """gunicorn's hook of this name (sync, gthread, gevent, asgi); call it from your own if you
    have one."""
    answered()


def count(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The ASGI application `app`, its HTTP requests counted: for uvicorn's workers, which do not
    call post_request. Use it as the outermost middleware: `app = count(app)`."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                answered()

    if _cells is None:
        _begin()
    return counted


def answered() -> None:
    """One request more was answered: for a hook of your own."""
    global _cells
    with _lock:
        if _cells is None:
            _cells = _shared_cells()
        # One store of eight bytes: a reader sees the number before or the number after.
        _cells[0] += 1


def _begin() -> None:
    """Count from nought: in a process that was just forked, before it serves. What it finds here
    is its parent's, as may be whoever holds the lock; with the cells goes their descriptor."""
    global _cells, _lock
    _cells, _lock = _shared_cells(), threading.Lock()


def _shared_cells() -> memoryview:
    """A cell in a file that is open in this process for as long as the cell is in use."""
    try:
        handle = os.memfd_create(NAME, os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, 8)
            cells = mmap.mmap(handle, 8)  # which has a descriptor of its own from here on
        finally:
            os.close(handle)
    except (AttributeError, OSError):  # not Linux, or forbidden: a cell that nobody else sees
        return memoryview(bytearray(8)).cast("Q")
    return memoryview(cells).cast("Q")


_lock = threading.Lock()
_cells: memoryview | None = None  # of one cell; a master that only loads this has none
os.register_at_fork(after_in_child=_begin)
