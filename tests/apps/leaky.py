"""A WSGI application without a framework. `/` leaks (leak.py), `/pid` does not; both answer with
the worker's pid; `/slow/SECONDS` takes that long."""

import os
import time

from leak import leak


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow/"):
        time.sleep(float(path.rpartition("/")[2]))
    elif path != "/pid":
        leak()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
