"""The leak the sample applications share: one worker of a program keeps what it is sent.

LEAK_FLAG: path of a file that does not exist yet. The first worker to create it leaks, for as
long as it lives; its replacement finds the file and stays healthy. `all`: every worker leaks.
Unset: nobody does. LEAK_BYTES: how much each request leaves behind.
"""

import os

FLAG = os.environ.get("LEAK_FLAG", "")
BYTES = int(os.environ.get("LEAK_BYTES", "100000"))

kept = []
_leaky = {}  # by pid: what a preloading master decided is not its workers' business


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


def leak():
    """Keep LEAK_BYTES for good, in the one worker that does so."""
    pid = os.getpid()
    if pid not in _leaky:
        _leaky[pid] = _claim()
    if _leaky[pid]:
        kept.append(bytes([len(kept) % 255 + 1]) * BYTES)
