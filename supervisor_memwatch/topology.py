"""Topology: from a supervised pid to the gunicorn master and its workers.

The proof is gunicorn's heartbeat file: each worker holds exactly one unlinked
`wgunicorn-XXXX`, and its master holds the same inode. It tells a worker from whatever else
lives in the tree: the application's own children (a fork of a worker is not the master's
child, a fork of the master holds none or several), programs started with exec (the files are
closed on exec), dirty arbiters (they hold their own workers' files, and all the web workers'
files when they were started late) and their workers. Where /proc/PID/fd cannot be read
(another user's processes), process titles are asked, and without setproctitle the command
line and the signals a process catches; `evidence` says which it was.

Not here: how big anything is (sampler.py), and who may be signalled (control.py). A process
that ends while it is being looked at is left out; nothing here raises for that.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .model import WorkerId

PROC = "/proc"  # the seam: tests lay out a /proc of their own

HEARTBEAT, TITLE, CMDLINE = "heartbeat", "title", "cmdline"  # from the surest to the weakest
_EVIDENCE = (HEARTBEAT, TITLE, CMDLINE)

_FORKED = 0x40  # PF_FORKNOEXEC of /proc/PID/stat's flags: forked, and no exec since
_WALL_CLOCK = 1e9  # no machine has been up for 30 years; every clock that is set is past 2001


class Tree(NamedTuple):
    """The processes of one supervised program, as one look found them."""

    root: WorkerId  # the supervised process
    master: WorkerId | None  # None: no gunicorn, or one that has not forked its workers yet
    workers: tuple[WorkerId, ...]  # oldest first
    others: tuple[WorkerId, ...]  # everything else below the root
    masters: int  # 2 or more: a USR2 upgrade, or two gunicorns below one program
    evidence: str  # "heartbeat", "title" or "cmdline"; "" where there is no master
    heartbeats: Mapping[int, str]  # pid of a worker -> /proc/MASTER/fd/N of its heartbeat file


class _Process(NamedTuple):
    id: WorkerId
    parent: int
    forked: bool  # shares its program and its files with its parent: no exec since the fork
    threads: int


class _Master(NamedTuple):
    process: _Process
    workers: tuple[WorkerId, ...]
    heartbeats: dict[int, str]
    evidence: str


def identity(pid: int) -> WorkerId | None:
    """(pid, start time in clock ticks since boot); None for one that has ended, a zombie too."""
    process = _process(pid)
    return process.id if process else None


def discover(pid: int, known: Tree | None = None) -> Tree | None:
    """The tree below a supervised pid; None if that has ended.

    `known` is the tree an earlier look found: its master and workers stay what they were for as
    long as they live. Everything else is examined anew each time, because a worker that was
    forked a moment ago still holds its siblings' files.
    """
    root = _process(pid)
    if root is None:
        return None
    if known is not None and known.root != root.id:
        known = None
    processes = {process.id.pid: process for process in _walk(root, known)}
    found, booting = _masters(processes.values(), [root], known)
    master = _chosen(found, known)
    workers = master.workers if master else ()
    apart = {root.id, *workers, *([master.process.id] if master else ())}
    return Tree(
        root.id,
        master.process.id if master else None,
        workers,
        tuple(process.id for process in processes.values() if process.id not in apart),
        len(found) + booting,
        master.evidence if master else "",
        master.heartbeats if master else {},
    )


def ready(tree: Tree, worker: WorkerId) -> bool | None:
    """Whether a worker's run loop has started; None where the heartbeat file cannot be read.

    The first heartbeat sets the file's mtime to the monotonic clock (gunicorn 22 and newer) or
    its mode from 0600 to 0 or 1 (older ones).
    """
    path = tree.heartbeats.get(worker.pid)
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime < _WALL_CLOCK or not status.st_mode & 0o600


def names_gunicorn(tree: Tree) -> bool:
    """Whether a command line or title in the tree names gunicorn: it may just not be up yet."""
    everyone = (tree.root, *tree.others)
    return any(_names_gunicorn(_cmdline(process.pid)) for process in everyone)


def masters() -> list[Tree]:
    """A tree for every gunicorn master on this machine that we may see, oldest first."""
    everyone = {process.id.pid: process for process in _scan()}
    tops = [process for process in everyone.values() if process.parent not in everyone]
    found, _ = _masters(everyone.values(), tops, None)
    trees = [discover(master.process.id.pid) for master in found]
    alive = [tree for tree in trees if tree is not None and tree.master is not None]
    return sorted(alive, key=lambda tree: tree.root.start)


def tree_of(pid: int) -> Tree | None:
    """The tree a pid belongs to, be it the master's, a worker's, a helper's or a wrapper's."""
    for tree in masters():
        if any(member.pid == pid for member in (tree.root, *tree.workers, *tree.others)):
            return tree
    above = discover(pid)
    return above if above is not None and above.master is not None else None


# -- the process table


def _read(path: str) -> bytes | None:
    """A whole file of /proc; None where there is nothing to read, or nothing for us."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(handle, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(handle)


def _process(pid: int) -> _Process | None:
    text = _read(f"{PROC}/{pid}/stat")
    if not text:
        return None
    # The command name may hold anything, also blanks and brackets: start behind the last one.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    id = WorkerId(pid, int(fields[19]))
    return _Process(id, int(fields[1]), bool(int(fields[6]) & _FORKED), int(fields[17]))


def _is_zombie(pid: int) -> bool:
    text = _read(f"{PROC}/{pid}/stat") or b""
    return text[text.rfind(b")") + 2 :].startswith(b"Z")


def _scan() -> Iterator[_Process]:
    for name in os.listdir(PROC):
        if name.isdigit() and (process := _process(int(name))):
            yield process


def _children(process: _Process) -> list[int] | None:
    """The pids below one process; None where the kernel keeps no such list.

    Every thread has a list of its own: of those it forked.
    """
    pid = process.id.pid
    try:
        threads = [str(pid)] if process.threads == 1 else os.listdir(f"{PROC}/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        text = _read(f"{PROC}/{pid}/task/{thread}/children")
        if text is not None:
            found += map(int, text.split())
        elif thread == str(pid) and os.path.exists(f"{PROC}/{pid}/task/{pid}/stat"):
            return None
    return found


def _walk(root: _Process, known: Tree | None) -> list[_Process]:
    """The root and everything below it, parents before children."""
    tree = [root]
    seen = {root.id.pid}
    for parent in tree:  # which grows meanwhile
        pids = _children(parent)
        if pids is None:
            return _below(root)
        # The list may lack somebody while a sibling exits (proc(5)); a worker is not lost for it.
        if known is not None and known.master == parent.id:
            pids += [worker.pid for worker in known.workers]
        for pid in pids:
            child = _process(pid) if pid not in seen else None
            # It may have ended since, and its pid be somebody else's.
            if child is not None and child.parent == parent.id.pid:
                seen.add(pid)
                tree.append(child)
    return tree


def _below(root: _Process) -> list[_Process]:
    """The same from a scan of all of /proc, for kernels without CONFIG_PROC_CHILDREN."""
    below = _by_parent(_scan())
    tree = [root]
    for parent in tree:
        tree += below.get(parent.id.pid, ())
    return tree


def _by_parent(processes: Iterable[_Process]) -> dict[int, list[_Process]]:
    below: dict[int, list[_Process]] = {}
    for process in sorted(processes, key=lambda process: process.id.start):
        below.setdefault(process.parent, []).append(process)
    return below


# -- masters and workers


def _masters(
    processes: Iterable[_Process], tops: list[_Process], known: Tree | None
) -> tuple[list[_Master], int]:
    """The masters, topmost first, and how many more are starting up beneath one (USR2).

    Below a master only what was started with exec can be another one: whatever merely forked
    shares the master's files, and a dirty arbiter with its workers looks just like one.
    """
    below = _by_parent(processes)
    found: list[_Master] = []
    booting = 0
    queue = [(process, False) for process in tops]
    for process, inside in queue:  # which grows meanwhile
        children = below.get(process.id.pid, [])
        if inside and process.forked:
            master = None
        else:
            master = _examine(process, children, known)
            inside = master is not None
        if master is not None:
            found.append(master)
        queue += [(child, inside) for child in children]
    their_pids = {master.process.id.pid for master in found}
    for master in found:
        for child in below.get(master.process.id.pid, []):
            if not child.forked and child.id.pid not in their_pids and _is_upgrade(child):
                booting += 1
    return found, booting


def _chosen(found: list[_Master], known: Tree | None) -> _Master | None:
    for master in found:
        if known is not None and master.process.id == known.master:
            return master
    return found[0] if found else None


def _examine(process: _Process, children: list[_Process], known: Tree | None) -> _Master | None:
    """The master this process is, with its workers; None if it is none, or has none yet."""
    was_master = known is not None and known.master == process.id
    # A dirty arbiter has a worker's signals for a moment: what they said is asked again.
    sticky = set(known.workers) if known and was_master and known.evidence != CMDLINE else set()
    if not was_master and not children:
        return None
    newcomers = [child for child in children if child.id not in sticky]
    files = _heartbeat_files(process.id.pid) if newcomers else {}
    if not was_master and (_looks_no_master(process) if files is None else not files):
        return None

    workers: list[WorkerId] = []
    heartbeats: dict[int, str] = {}
    evidence = set()
    for child in (child for child in children if child.id in sticky):
        workers.append(child.id)
        if known is not None and child.id.pid in known.heartbeats:
            heartbeats[child.id.pid] = known.heartbeats[child.id.pid]
    claimed = set(heartbeats.values())
    unreaped = bool(newcomers) and any(map(_is_zombie, _children(process) or ()))
    for child in newcomers:
        how, path = _evidence(process, child, files, unreaped)
        # Of two that hold the same file, the older was forked as a worker.
        if how and path not in claimed:
            workers.append(child.id)
            evidence.add(how)
            if path is not None:
                claimed.add(path)
                heartbeats[child.id.pid] = path

    if not was_master and (not workers or _only_looks_like_one(process)):
        return None
    if known is not None and (sticky or not evidence):
        evidence.add(known.evidence)
    workers.sort(key=lambda worker: worker.start)
    return _Master(process, tuple(workers), heartbeats, max(evidence, key=_EVIDENCE.index))


def _heartbeat_files(pid: int) -> dict[tuple[int, int], str] | None:
    """(device, inode) -> /proc/PID/fd/N of the heartbeat files it holds; None if unreadable."""
    directory = f"{PROC}/{pid}/fd"
    try:
        names = os.listdir(directory)
    except PermissionError:
        return None
    except OSError:
        return {}
    found = {}
    for name in names:
        path = f"{directory}/{name}"
        try:
            if "/wgunicorn-" in os.readlink(path):
                status = os.stat(path)
                found[status.st_dev, status.st_ino] = path
        except OSError:
            continue
    return found


def _evidence(
    master: _Process, child: _Process, files: dict[tuple[int, int], str] | None, unreaped: bool
) -> tuple[str, str | None]:
    """What shows that a child is a worker ("" if nothing does), and its heartbeat file.

    files: the master's, None where they cannot be read.
    """
    its_files = None if files is None else _heartbeat_files(child.id.pid)
    if files is None or its_files is None:
        return _weak_evidence(master, child), None
    path = files.get(next(iter(its_files))) if len(its_files) == 1 else None
    if path is None or not _is_its_own(child, unreaped):
        return "", None
    return HEARTBEAT, path


def _is_its_own(child: _Process, unreaped: bool) -> bool:
    """Whether the one file a child shares with its master was made for it.

    What the master forked late (a dirty arbiter, say) holds those of the workers there were. The
    file of one that has ended is the master's until it reaps that: so not now, if there are such.
    """
    title = _title(_cmdline(child.id.pid))
    return title.startswith(b"worker") if title else not unreaped


def _only_looks_like_one(process: _Process) -> bool:
    """A dirty arbiter holds its workers' files as a master does, and a worker that forks shares
    one with its child.

    Where there are no titles: a master catches SIGUSR2, and what it forked does not any more.
    """
    title = _title(_cmdline(process.id.pid))
    if title:
        return not title.startswith(b"master")
    return process.forked and not _catches(process.id.pid, "USR2")


def _is_upgrade(child: _Process) -> bool:
    """Whether a program that a master started with exec is the next master (USR2)."""
    cmdline = _cmdline(child.id.pid)
    if _title(cmdline).startswith(b"master"):
        return True
    environ = _read(f"{PROC}/{child.id.pid}/environ")
    if not environ:  # unreadable, or overwritten by a title
        return _names_gunicorn(cmdline)
    return b"GUNICORN_PID=" in environ


# -- where /proc/PID/fd cannot be read


def _looks_no_master(process: _Process) -> bool:
    cmdline = _cmdline(process.id.pid)
    title = _title(cmdline)
    if title:
        return not title.startswith(b"master")
    # Other pre-forking servers borrowed gunicorn's manners from the same ancestor, in Ruby.
    if not _names_gunicorn(cmdline) and b"python" not in cmdline.partition(b"\0")[0]:
        return True
    return not _catches(process.id.pid, "HUP", "TTIN", "TTOU", "USR2", "WINCH", "CHLD")


def _weak_evidence(master: _Process, child: _Process) -> str:
    """What says that an unreadable child is a worker: "title", "cmdline", or "" if nothing does.

    Without titles a fork of the master is a worker once it catches SIGTERM and no longer
    SIGHUP: dirty arbiters, and children that forked from a running master, still catch that,
    and those that forked while a preloading master started catch neither.
    """
    cmdline = _cmdline(child.id.pid)
    title = _title(cmdline)
    if title:
        return TITLE if title.startswith(b"worker") else ""
    if not child.forked or cmdline != _cmdline(master.id.pid):
        return ""
    pid = child.id.pid
    return CMDLINE if _catches(pid, "TERM") and not _catches(pid, "HUP") else ""


def _catches(pid: int, *names: str) -> bool:
    """Whether a process has handlers for all these signals."""
    status = _read(f"{PROC}/{pid}/status") or b""
    caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(caught[1], 16) if caught else 0
    return all(mask >> (signal.Signals["SIG" + name] - 1) & 1 for name in names)


def _cmdline(pid: int) -> bytes:
    return _read(f"{PROC}/{pid}/cmdline") or b""


def _title(cmdline: bytes) -> bytes:
    """`master [app]` of the title `gunicorn: master [app]`; empty where there is no title."""
    return cmdline[10:] if cmdline.startswith(b"gunicorn: ") else b""


def _names_gunicorn(cmdline: bytes) -> bool:
    """`gunicorn`, `/opt/bin/gunicorn`, `-m gunicorn`, `sh -c "cd /srv && gunicorn ..."`."""
    words = re.split(rb"[\0\s;&|()'\"]+", cmdline)
    return bool(_title(cmdline)) or any(word.split(b"/")[-1] == b"gunicorn" for word in words)
