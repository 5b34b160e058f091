"""The application of the demo and of the sample configuration: WSGI, and nothing else needed.

With MEMWATCH_DEMO_LEAK naming a file that does not exist, the first worker to serve a
request creates it and leaks from then on; its replacement finds it and does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

LEAK_PER_REQUEST = 64 * 1024

_leaked: list[bytes] = []
_leaks: bool | None = None


def _is_the_leaking_one() -> bool:
    flag = os.environ.get("MEMWATCH_DEMO_LEAK")
    if not flag:
        return False
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers every request with the worker's pid."""
    global _leaks
    if _leaks is None:
        _leaks = _is_the_leaking_one()
    if _leaks:
        _leaked.append(os.urandom(64) * (LEAK_PER_REQUEST // 64))
    body = f"worker {os.getpid()}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
