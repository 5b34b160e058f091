"""The leak the sample applications share: one worker of a program keeps what it is sent.

LEAK_FLAG: path of a file that does not exist yet. The first worker to create it leaks, for as
long as it lives; its replacement finds the file and stays healthy. `all`: every worker leaks.
Unset: nobody does. LEAK_BYTES: how much each request leaves behind.

The kernel may give most requests to one worker. Where that matters: LEAK_AFTER, the requests a
worker has to serve before it may be the one that leaks; LEAK_RATE, the bytes a second that its
requests leave behind together, however many they are.
"""

import os
import threading
import time

FLAG = os.environ.get("LEAK_FLAG", "")
BYTES = int(os.environ.get("LEAK_BYTES", "100000"))
AFTER = int(os.environ.get("LEAK_AFTER", "0"))
RATE = int(os.environ.get("LEAK_RATE", "0"))

kept = []
_leaky = {}  # by pid: what a preloading master decided is not its workers' business
_lock = threading.Lock()
_served = 0
_since = 0.0  # when it was last kept up with LEAK_RATE


def _claim():
    if FLAG in ("", "all"):
        return FLAG == "all"
    try:
        handle = os.open(FLAG, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(handle, str(os.getpid()).encode())
    os.close(handle)
    return True


def _size():
    global _since
    if not RATE:
        return BYTES
    before, _since = _since, time.monotonic()
    return int(RATE * (_since - before)) if before else 0


def leak():
    """Keep what LEAK_BYTES or LEAK_RATE say for good, in the one worker that does so."""
    global _served
    pid = os.getpid()
    with _lock:
        _served += 1
        if pid not in _leaky:
            if _served <= AFTER:
                return
            _leaky[pid] = _claim()
        if _leaky[pid]:
            kept.append(bytes([len(kept) % 255 + 1]) * _size())
