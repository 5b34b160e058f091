"""Which configuration file: the one given, a running supervisord's, or the search path's.

Looks at command lines in /proc, and reads no configuration.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

from . import units
from .inifile import ConfigError, Problem

PROC = "/proc"  # the seam: tests put a directory of their own here
# Where Supervisor looks at last; a seam as well.
SYSTEM = ("/etc/supervisord.conf", "/etc/supervisor/supervisord.conf")

# supervisord's command line; a test holds them to Supervisor's own.
_SHORT = "h?c:vnu:m:d:l:y:z:e:j:i:q:a:kts"
_LONG = [
    *("help", "configuration=", "version", "nodaemon", "user=", "umask=", "directory="),
    *("logfile=", "logfile_maxbytes=", "logfile_backups=", "loglevel=", "pidfile="),
    *("identifier=", "childlogdir=", "minfds=", "minprocs=", "nocleanup", "strip_ansi"),
    *("profile_options=", "silent"),
]

_SUPERVISORD = re.compile(r"supervisord(-?[0-9.]+)?(\.py)?")


def find(explicit: str | None, *, command: str) -> str:
    """Which file to load for this command.

    The one that was given; else for `listen` the one its parent supervisord was started
    with, for any other command that of the one supervisord that runs; else the first on
    Supervisor's own search path. Raises ConfigError.
    """
    if explicit is not None:
        return explicit
    found = _of_parent() if command == "listen" else _of_running()
    if found is not None:
        return found
    tried = _search_path(sys.argv[0])
    for path in tried:
        if os.path.exists(path):
            return path
    raise _not_found(f"no configuration file; tried {', '.join(tried)}")


def _not_found(what: str) -> ConfigError:
    return ConfigError([Problem("", what=units.printable(what, 2000), valid="-c FILE")])


def _of_parent() -> str | None:
    for pid in _ancestors():
        started = _supervisord(pid)
        if started is not None:
            # Another user's directory cannot be read, but we were started in it.
            return _file_of(pid, *started, also=(os.getcwd(), os.environ.get("PWD", "")))
    return None


def _of_running() -> str | None:
    files: dict[str, str] = {}  # the real path, and as it was found
    unknown: ConfigError | None = None
    for pid in sorted(int(name) for name in os.listdir(PROC) if name.isdigit()):
        started = _supervisord(pid)
        if started is None:
            continue
        try:
            file = _file_of(pid, *started)
        except ConfigError as error:
            unknown = error
            continue
        files.setdefault(os.path.realpath(file), file)
    if len(files) > 1:
        raise _not_found(f"several supervisords are running, with {', '.join(files.values())}")
    if files:
        return next(iter(files.values()))
    if unknown:
        raise unknown
    return None


def _ancestors() -> Iterator[int]:
    """The pids from the parent upward."""
    seen: set[int] = set()
    pid = _parent_of("self")
    while pid > 0 and pid not in seen:
        seen.add(pid)
        yield pid
        pid = _parent_of(str(pid))


def _parent_of(pid: str) -> int:
    try:
        # The name of the program, in brackets, may hold anything: count from its end.
        return int(_read(pid, "stat").rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _read(pid: str, name: str) -> bytes:
    with open(os.path.join(PROC, pid, name), "rb") as stream:
        return stream.read()


def _supervisord(pid: int) -> tuple[str, list[str]] | None:
    """The script and the arguments of a supervisord; None for any other program."""
    try:
        argv = [os.fsdecode(arg) for arg in _read(str(pid), "cmdline").split(b"\0")][:-1]
    except OSError:
        return None
    if argv and _is_supervisord(argv[0]):
        return argv[0], argv[1:]
    if not argv or not os.path.basename(argv[0]).startswith(("python", "pypy")):
        return None
    rest = argv[1:]
    while rest and rest[0].startswith("-"):
        if rest[0] == "-m":
            return ("", rest[2:]) if rest[1:2] == ["supervisor.supervisord"] else None
        if rest[0] == "-c":
            return None
        rest = rest[2:] if rest[0] in ("-W", "-X") else rest[1:]
    return (rest[0], rest[1:]) if rest and _is_supervisord(rest[0]) else None


def _is_supervisord(script: str) -> bool:
    return _SUPERVISORD.fullmatch(os.path.basename(script)) is not None


def _file_of(pid: int, script: str, arguments: list[str], also: tuple[str, ...] = ()) -> str:
    """The file that a supervisord reads, seen from outside. Raises ConfigError.

    `also`: further directories where relative paths may start.
    """
    given = _given_file(arguments)
    if given is not None and os.path.isabs(given):
        return given
    for directory in (*_directories(pid), *also):
        for path in _search_path(script) if given is None else [given]:
            # Without a directory only an absolute path says which file it is.
            if directory or os.path.isabs(path):
                full = os.path.join(directory, path)
                if os.path.exists(full):
                    return full
    what = f"which configuration file supervisord (pid {pid}) reads cannot be told"
    if given is not None:
        what += f": it was started with -c {given}, and its directory cannot be read or has no such"
        what += " file"
    raise _not_found(what)


def _given_file(arguments: list[str]) -> str | None:
    """FILE of -c FILE in any of its spellings."""
    import getopt  # as supervisord itself: -cFILE, -nc FILE, --conf=FILE, ...

    try:
        given, _ = getopt.getopt(arguments, _SHORT, _LONG)
    except getopt.GetoptError:
        return None
    return next((value for name, value in given if name in ("-c", "--configuration")), None)


def _directories(pid: int) -> Iterator[str]:
    """Where relative paths of that program may start; "" at last, for the absolute ones.

    A supervisord with `directory` has left the one in which it was started: PWD knows it.
    """
    try:
        yield os.readlink(os.path.join(PROC, str(pid), "cwd"))
        for entry in _read(str(pid), "environ").split(b"\0"):
            if entry.startswith(b"PWD=/"):
                yield os.fsdecode(entry[4:])
    except OSError:  # somebody else's
        pass
    yield ""


def _search_path(script: str) -> list[str]:
    """Where Supervisor looks for its file; `script` is its sys.argv[0], "" where unknown."""
    above = os.path.dirname(os.path.dirname(script))
    own = ["etc/supervisord.conf", "supervisord.conf"]
    return [
        *([os.path.join(above, path) for path in own] if script else []),
        "supervisord.conf",
        "etc/supervisord.conf",
        *SYSTEM,
    ]
