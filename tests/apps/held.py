"""A WSGI application whose requests end when the test says so. `/hold` creates the file
$HOLD.begun and answers once $HOLD exists; everything else answers at once; both with the worker's
pid."""

import os
import time

HOLD = os.environ["HOLD"]


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        open(HOLD + ".begun", "w").close()
        while not os.path.exists(HOLD):
            time.sleep(0.02)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
