"""The listener's log: one line per thing that happened, on stderr, which Supervisor keeps.

`2026-01-31 12:00:05,123 INFO web worker 4711: ...`. Lines pass `units.printable`, so that
nothing foreign reaches a terminal unescaped. The logging package would do, at a megabyte of
memory for what is fifteen lines here.
"""

from __future__ import annotations

import os
import time

from . import units


class Log:
    """Writes lines to a file descriptor; trouble with the log itself is nobody's trouble."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._troubles: dict[str, str] = {}

    def line(self, level: str, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        safe = units.printable(text, 2000)
        try:
            os.write(self._fd, f"{stamp},{int(now % 1 * 1000):03} {level} {safe}\n".encode())
        except OSError:
            pass

    def info(self, text: str) -> None:
        self.line("INFO", text)

    def warn(self, text: str) -> None:
        self.line("WARN", text)

    def error(self, text: str) -> None:
        self.line("ERROR", text)

    def trouble(self, key: str, text: str | None) -> None:
        """Say a trouble once, and once more when it is over (`text` None)."""
        before = self._troubles.get(key)
        if text is not None and before is None:
            self._troubles[key] = text
            self.warn(text)
        elif text is None and before is not None:
            del self._troubles[key]
            self.info(f"over: {before}")
