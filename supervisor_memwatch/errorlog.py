"""gunicorn's error log: what its lines say, where Supervisor keeps it, how much of it is new.

Covers gunicorn 20.1 to 27 and uvicorn's worker, with gunicorn's own format of a line
(`[date] [pid] [LEVEL] words`); what names its pid itself is found in other formats too, at the
end of a line. The text is foreign (applications write there, with what clients sent them):
out of it come fixed words and small numbers, never text. Who ended whom is attribution.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# What a line says. Of a worker:
BOOTING = "booting"
EXITING = "exiting"  # it leaves through gunicorn's own code, whyever
TIMEOUT = "timeout"
MAX_REQUESTS = "max_requests"
CODE_CHANGED = "code_changed"  # --reload
SIGNAL = "signal"  # it was ended by signal `number`
EXIT_CODE = "exit_code"  # it ended with code `number`
# Of the master:
HANDLES = "handles"  # it begins to handle signal `number`
HALTS = "halts"  # it stops
NO_BOOT = "no_boot"  # it stops because a worker could not boot

# Such lines are there only where gunicorn logs at level info, as it does by itself.
INFORMED = frozenset({BOOTING, EXITING, MAX_REQUESTS, HANDLES})

_NAMES = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM"
SIGNALS = {name: number for number, name in enumerate(_NAMES.split(), 1)}
SIGNALS |= {"TTIN": 21, "TTOU": 22, "XCPU": 24, "XFSZ": 25, "SYS": 31}

_PID = r"(?P<pid>\d{1,10})"
_OWN = rf"^\[[^\]]{{1,60}}\] \[{_PID}\] \[[A-Z]{{1,10}}\] "  # the line is that process's

# gunicorn 22 and 23 repeat "exited with code" without the full stop; a dumped core adds 128.
_LINES = tuple(
    (what, re.compile(pattern))
    for what, pattern in (
        (TIMEOUT, rf"WORKER TIMEOUT \(pid:{_PID}\)$"),
        (BOOTING, rf"Booting worker with pid: {_PID}$"),
        (EXITING, rf"Worker exiting \(pid: {_PID}\)$"),
        (EXIT_CODE, rf"Worker \(pid:{_PID}\) exited with code (?P<number>\d{{1,3}})\.?$"),
        (
            SIGNAL,
            rf"Worker \(pid:{_PID}\) was sent (?:SIG(?P<name>[A-Z0-9]{{2,6}})"
            r"|(?:code|signal) (?P<number>\d{1,3}))!(?: Perhaps out of memory\?)?$",
        ),
        (
            SIGNAL,
            rf"Worker with pid {_PID} was terminated due to signal (?P<number>\d{{1,3}})$",
        ),
        (MAX_REQUESTS, _OWN + r"Autorestarting worker after current request\.$"),
        (MAX_REQUESTS, _OWN + r"Maximum request limit of \d+ exceeded\. Terminating process\.$"),
        (CODE_CHANGED, _OWN + r"Worker reloading: .* modified$"),
        (HANDLES, _OWN + r"Handling signal: (?P<name>[a-z0-9]{2,6})$"),
        (NO_BOOT, _OWN + r"Reason: (?:Worker failed to boot|App failed to load)\.$"),
        (HALTS, _OWN + r"Shutting down: "),
    )
)


class Line(NamedTuple):
    """One line that says something."""

    what: str
    pid: int  # whom it is about
    number: int = 0  # of the signal or the exit code; 0: it names none, or none that is known


def read(log: str) -> list[Line]:
    """The lines that say something, in their order."""
    found = []
    for text in log.splitlines():
        for what, pattern in _LINES:
            match = pattern.search(text)
            if match is not None:
                found.append(Line(what, int(match["pid"]), _number(what, match.groupdict())))
                break
    return found


def _number(what: str, parts: Mapping[str, str | None]) -> int:
    name, digits = parts.get("name"), parts.get("number")
    if name is not None:
        return SIGNALS.get(name.upper(), 0)
    number = int(digits or 0)
    return number & 0x7F if what == SIGNAL else number


# -- where it is

_ELSEWHERE = re.compile(r"--(?:error-logfile|log-file)(?:=|\s+)[\"']?([^\s\"']+)")
_STREAMS = {
    "-": "stderr",
    "/dev/stderr": "stderr",
    "/dev/fd/2": "stderr",
    "/proc/self/fd/2": "stderr",
    "/dev/stdout": "stdout",
    "/dev/fd/1": "stdout",
    "/proc/self/fd/1": "stdout",
}


def stream(config: Mapping[str, Any]) -> str | None:
    """Which of Supervisor's two logs of a program holds gunicorn's error log, as far as its
    configuration tells: "stderr", "stdout", or None.

    `config`: a struct of getAllConfigInfo. What a gunicorn configuration file says is not
    known: such a log turns out to hold none of gunicorn's lines.
    """
    named = _ELSEWHERE.findall(str(config.get("command", "")))
    found = _STREAMS.get(named[-1]) if named else "stderr"
    if found is None:
        return None
    if config.get("redirect_stderr"):
        found = "stdout"
    path = str(config.get(f"{found}_logfile", "none"))
    # A device (a container's stdout) and syslog cannot be read back. "auto" is a file too.
    kept = path not in ("none", "syslog", "") and not path.startswith(("/dev/", "/proc/"))
    return found if kept else None


# -- what is new in it

# More than this is not read at once: the end of a log says who ended now.
MOST = 64 * 1024


def news(tail: Callable[[int], tuple[str, int, bool]], before: int | None) -> tuple[str, int]:
    """What a log has grown by, and its size: `before` at the next look.

    `tail`: Supervisor's tail of it with offset 0, by the length (`tailProcessStderrLog`). That
    gives the last `length` bytes whatever the offset, and the log's size; and it fails (HTTP
    status 500) where they begin inside a character. So it is asked for nothing first, which
    tells the size, then for what is new, and again if it has grown in between.

    `before`: None at the first look, when nothing counts as new. A log that is smaller than it
    was is another one (rotated, cleared): all of it is new, and the end of the old one is lost.
    """
    text, size, _ = tail(0)
    for _ in range(3):
        length = _grown(before, size)
        if not length:
            break
        expected = size
        text, size, _ = tail(length)
        if size == expected:
            break
    return text, size


def _grown(before: int | None, size: int) -> int:
    if before is None:
        return 0
    return min(MOST, size - before if size >= before else size)
