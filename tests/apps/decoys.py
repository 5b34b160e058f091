"""A WSGI application that answers `its pid, its parent's pid` and surrounds itself with processes
that are no workers. DECOYS names them, separated by commas:

in whoever imports the application (the master, under --preload): import_fork, import_subprocess;
in each worker, at its first request: fork, subprocess, pool_fork, pool_spawn.

All of them end with the process that started them.
"""

import multiprocessing
import os
import subprocess
import sys
import time

try:
    from gunicorn.dirty.app import DirtyApp
except ImportError:  # before gunicorn 25
    DirtyApp = object

DECOYS = os.environ.get("DECOYS", "").split(",")
ORIGIN = os.getpid()

kept = []  # a pool that is let go of ends
_started = set()  # pids of the workers that have theirs


def _fork():
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(0)


def _subprocess():
    code = "import os, sys, time\nwhile os.getppid() == int(sys.argv[1]): time.sleep(0.1)"
    kept.append(subprocess.Popen([sys.executable, "-c", code, str(os.getpid())]))


def _pool(method):
    pool = multiprocessing.get_context(method).Pool(2)
    pool.map(abs, range(8))
    kept.append(pool)


START = {
    "import_fork": _fork,
    "import_subprocess": _subprocess,
    "fork": _fork,
    "subprocess": _subprocess,
    "pool_fork": lambda: _pool("fork"),
    "pool_spawn": lambda: _pool("spawn"),
}


def _start(names):
    for name in names:
        START[name]()


def _once_per_worker():
    if os.getpid() not in _started:
        _started.add(os.getpid())
        _start(name for name in DECOYS if name and not name.startswith("import_"))


if multiprocessing.parent_process() is None:  # a spawned pool imports this again
    _start(name for name in DECOYS if name.startswith("import_"))


def app(environ, start_response):
    _once_per_worker()
    body = f"{os.getpid()} {os.getppid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """The same, without decoys, for uvicorn's workers and gunicorn's own `asgi`."""
    if scope["type"] != "http":
        return
    body = f"{os.getpid()} {os.getppid()}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Dirty(DirtyApp):
    """What dirty workers run: a fork of a dirty worker is a decoy, too."""

    def init(self):
        _fork()
