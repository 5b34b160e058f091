"""What bench/recycle.py serves: requests that mostly wait, as those of most sites do.

IMPORT_SECONDS: how long the import takes. REQUEST_SECONDS: how long a request waits. AT_ONCE: how
many requests of a worker may wait at a time, as with a pool of database connections: so every
worker class has a capacity that can be measured and does not depend on the machine. HELD_BYTES:
what every worker holds from its start.

`/grow` makes the worker that answers it hold GROW_BYTES more for good.
"""

import asyncio
import os
import threading
import time

REQUEST = float(os.environ["REQUEST_SECONDS"])
AT_ONCE = int(os.environ["AT_ONCE"])
GROW = int(os.environ["GROW_BYTES"])

time.sleep(float(os.environ["IMPORT_SECONDS"]))
held = [b"x" * int(os.environ["HELD_BYTES"])]

_slots = threading.Semaphore(AT_ONCE)
_async_slots = asyncio.Semaphore(AT_ONCE)


def app(environ, start_response):
    """For the worker classes that speak WSGI."""
    if environ["PATH_INFO"] == "/grow":
        held.append(b"y" * GROW)
    else:
        with _slots:
            time.sleep(REQUEST)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """The same for uvicorn's workers and gunicorn's own `asgi`."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/grow":
        held.append(b"y" * GROW)
    else:
        async with _async_slots:
            await asyncio.sleep(REQUEST)
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
