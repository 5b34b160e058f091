"""The listener's log: one line per thing that happened, on stderr, which Supervisor keeps.

`2026-01-31 12:00:05,123 INFO web worker 4711: ...`. Lines pass `units.printable`, so that
nothing foreign reaches a terminal unescaped. The logging package would do, at a megabyte of
memory for what is fifteen lines here.
"""

from __future__ import annotations

import os
import time

from . import units

QUIET = 60.0  # seconds without a trouble until it is over: many come and go every tick


class Log:
    """Writes lines to a file descriptor; trouble with the log itself is nobody's trouble."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._troubles: dict[str, str] = {}
        self._quiet: dict[str, float] = {}  # since when a trouble has not been heard of

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
        """Say a trouble once, and once more when it has been over (`text` None) for a minute.

        One that comes back before that was not over, and is not said again.
        """
        now = _now()
        if text is None and key in self._troubles:
            self._quiet.setdefault(key, now)
        elif text is not None:
            self._quiet.pop(key, None)
            if key not in self._troubles:
                self._troubles[key] = text
                self.warn(text)
        # All of them: some are only heard of when they come back.
        for over in [key for key, since in self._quiet.items() if now - since >= QUIET]:
            del self._quiet[over]
            self.info(f"over: {self._troubles.pop(over)}")


def _now() -> float:
    """The seam: tests have a clock of their own."""
    return time.monotonic()
