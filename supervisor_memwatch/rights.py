"""What a user may: signal a process, read and write a file.

By trying it where that user is us, or we are root and can be anybody; else it is worked out, or not
known. Nothing is changed: the signal is 0, the file has no name.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from typing import NamedTuple


class User(NamedTuple):
    """Somebody on this machine."""

    uid: int
    name: str

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()


def named(uid: int) -> User:
    """With the name that the machine has for them, else the number."""
    import pwd

    try:
        return User(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return User(uid, str(uid))


# -- processes


def may_signal(user: User, pid: int) -> bool | None:
    """Whether a user may signal a process, and read its memory; None: it has ended."""
    if user.is_us:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return False
        except ProcessLookupError:
            return None
        return True
    uids = uids_of(pid)
    return (user.uid in (0, *uids)) if uids else None


def uids_of(pid: int) -> tuple[int, ...]:
    """The real and the saved user of a process; empty where it has ended."""
    import psutil

    try:
        uids = psutil.Process(pid).uids()
    except psutil.Error:
        return ()
    return (uids.real, uids.saved)


def parent_of(pid: int) -> int | None:
    """The pid of who started a process; None where it has ended."""
    import psutil

    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


# -- files


def may_write(path: str, user: User) -> bool | None:
    """Whether a user can write a file, or make one in a directory; None: it cannot be tried."""
    if user.is_us:
        try:
            # Only an attempt tells: for root everything seems writable.
            if os.path.isdir(path):
                tempfile.TemporaryFile(dir=path).close()
            return os.access(path, os.W_OK)
        except OSError:
            return False
    return _tested("-w", path, user)


def may_read(path: str, user: User) -> bool | None:
    """Whether a user can read a file; None: it cannot be tried."""
    return os.access(path, os.R_OK) if user.is_us else _tested("-r", path, user)


def _tested(what: str, path: str, user: User) -> bool | None:
    """What `test -w PATH` (or -r) says to another user; None: only root can try that."""
    if os.geteuid() != 0:
        return None
    group, groups = _groups(user)
    try:
        done = subprocess.run(
            ["test", what, path],
            user=user.uid,
            group=group,
            extra_groups=groups,
            cwd="/",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.returncode == 0


def _groups(user: User) -> tuple[int, list[int]]:
    """The user's own group, and all of theirs."""
    import pwd

    try:
        group = pwd.getpwuid(user.uid).pw_gid
        return group, os.getgrouplist(user.name, group)
    except KeyError:  # a container's user without an entry
        return user.uid, []


def everybody_reads(file: str) -> bool:
    """Whether every user of this machine can read a file, and get to it."""
    try:
        if not os.stat(file).st_mode & stat.S_IROTH:
            return False
        place = os.path.dirname(os.path.realpath(file))
        while place != "/":
            if not os.stat(place).st_mode & stat.S_IXOTH:
                return False
            place = os.path.dirname(place)
    except OSError:
        return False
    return True
