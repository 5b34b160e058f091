"""A Flask application whose paths do what an audit has to tell apart. Each answers with the
worker's pid."""

import os
import tempfile
import threading
import time

from flask import Flask

KB = 1024

app = Flask(__name__)
kept, cache, files = [], {}, []


def kilobytes(count):
    return os.urandom(count * KB)


@app.get("/leak")
def leak():
    """400 KB for good."""
    kept.append(kilobytes(400))
    return str(os.getpid())


@app.get("/cached")
def cached():
    """400 KB for good, the first thirty times."""
    if len(cache) < 30:
        cache[len(cache)] = kilobytes(400)
    return str(os.getpid())


@app.get("/healthy")
def healthy():
    """400 KB for as long as the request takes."""
    return str(os.getpid() + 0 * len(kilobytes(400)))


@app.get("/file")
def file():
    """A file that is not closed."""
    files.append(tempfile.TemporaryFile())  # noqa: SIM115
    return str(os.getpid())


@app.get("/thread")
def thread():
    """A thread that does not end."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return str(os.getpid())
