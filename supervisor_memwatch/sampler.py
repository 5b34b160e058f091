"""Sampler: the numbers of one program at one instant, as a Snapshot.

Each look reads two small files per worker (stat and statm, some 20 us); the tree is discovered
anew only where something in it changed, or after half a minute. smaps_rollup, a thousand times
dearer, is read only of those asked for, and within a budget of CPU time; between two readings
PSS and USS are the last ones plus what anonymous memory, which is cheap, has changed by.

Not here: who is a worker (topology.py), what the machine and its control groups allow (host.py),
and what the numbers mean. A process that ends while it is read is left out. Unknown is None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from . import host, topology
from .model import Snapshot, Worker, WorkerId
from .quiet import Quiet
from .sockets import Sockets
from .tally import Tally
from .topology import Tree

REDISCOVER = 30.0  # seconds after which a tree is discovered anew though nothing changed
NEWCOMER = 10.0  # seconds for which a master's child that is no worker may become one
BOOTING = 600.0  # seconds for which a program that names gunicorn is given time to show one
SMALL_TREE = 20  # plain programs with no more processes are discovered at every look
SLOW_READ = 15.0  # seconds between two counts of open files
GROUP_READ = 60.0  # seconds between two questions which control group a program is in
LIMITS_READ = 10.0  # and between two readings of its limits, which may be lowered at any time
YOUNG = 300.0  # seconds of age up to which the peak of a worker's boot is looked for
KEEP_EXACT = 900.0  # seconds for which a reading of PSS and USS is carried on
MANY_FILES = 256  # open files from which on their limit matters

EXACT_SHARE = 0.005  # of the elapsed time, for reading smaps_rollup
EXACT_BURST = 0.3  # seconds of CPU that may be saved up; a dearer process is never read
EXACT_COST = 0.025 / 1024**3  # seconds per resident byte, until measured

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Program(NamedTuple):
    """What Supervisor knows of a program."""

    namespec: str
    state: str
    pid: int  # 0 if it is not running
    spawned: float | None = None  # epoch seconds: Supervisor's `start`


class _Member:
    """What is remembered of one process between two looks."""

    __slots__ = (
        "anon",
        "born",
        "cost",
        "denied",
        "directory",
        "exact",
        "fds",
        "fds_at",
        "heartbeat",
        "id",
        "measured_at",
        "nofile",
        "pss",
        "ready",
        "rss",
        "start",
        "stat",
        "statm",
        "tally",
        "uss",
    )

    def __init__(self, id: WorkerId) -> None:
        self.id = id
        self.directory = f"{topology.PROC}/{id.pid}"
        self.stat = f"{self.directory}/stat".encode()
        self.statm = f"{self.directory}/statm".encode()
        self.start = str(id.start).encode()
        self.born = float(id.start) / _TICKS  # seconds since boot
        self.rss = 0
        self.pss: int | None = None
        self.uss: int | None = None
        self.anon = 0  # when pss and uss were read
        self.measured_at: float | None = None
        self.cost = EXACT_COST  # of reading smaps_rollup; huge pages make it a hundred times less
        self.exact = True  # it can be read, as far as is known
        self.denied = False  # not to be tried again
        self.heartbeat = False  # there is a heartbeat file that tells whether it is ready
        self.ready: bool | None = None
        self.fds: int | None = None
        self.fds_at: float | None = None
        self.nofile: int | None = None
        self.tally = Tally(id.pid)


class _Watched:
    """What is remembered of one program, as long as the supervised process lives."""

    def __init__(self, root: WorkerId) -> None:
        self.root = root
        self.tree: Tree | None = None
        self.discovered_at = 0.0
        self.children: bytes | None = None  # of the master's main thread, as last seen
        self.unsettled = True  # discover again at the next look
        self.gunicorn = False
        self.members: dict[WorkerId, _Member] = {}
        self.others = 0
        self.group: host.Group | None = None
        self.group_at: float | None = None


class _Bounds:
    """Limits of one control group, and what is left of them: for all the programs in it."""

    def __init__(self) -> None:
        self.levels: tuple[host.Level, ...] = ()
        self.levels_at: float | None = None
        self.free: int | None = None
        self.oom_kills: int | None = None
        self.free_at: float | None = None


class Sampler:
    """Looks at programs, and remembers of each what makes the next look cheap."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._kinds: dict[str, str] = {}
        self._counts_files = _stat_counts_files()
        self._machine = host.Machine(None, None, False)
        self._machine_at: float | None = None
        self._bounds: dict[host.Group | None, _Bounds] = {}
        self._sockets = Sockets()
        self._credit = EXACT_BURST  # seconds of CPU
        self._credit_at: float | None = None
        self._waiting: dict[str, None] = {}  # programs that wait for credit, the next one first

    def look(self, program: Program, at: float, exact: Collection[WorkerId] = ()) -> Snapshot:
        """One program now. `at`: epoch seconds; `exact`: whose PSS and USS to read if the budget
        allows, the most important first."""
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if at != self._machine_at:
            self._machine, self._machine_at = host.machine(), at
        watched = self._find(program)
        tree = self._tree(watched, at, uptime) if watched else None
        if watched is None or tree is None:
            return self._nothing(program, at)

        self._read_exact(program.namespec, watched, at, exact)
        master = None
        workers: tuple[Worker, ...] = ()
        if watched.gunicorn or self._is_booting(program, watched, tree, uptime):
            kind = "gunicorn"
            if tree.master is not None:
                parent = str(tree.master.pid).encode()
                master = next(iter(self._measure(watched, (tree.master,), None, at, uptime)), None)
                workers = tuple(self._measure(watched, tree.workers, parent, at, uptime))
        else:
            kind = "plain"
            everyone = (tree.root, *tree.others)
            parts = self._measure(watched, everyone, None, at, uptime)
            workers = (_whole(parts, at),) if parts and parts[0].id == tree.root else ()
        self._kinds[program.namespec] = kind
        bounds = self._memory(watched, tree, at)
        return Snapshot(
            namespec=program.namespec,
            at=at,
            state=program.state,
            pid=program.pid,
            kind=kind,
            master=master,
            workers=workers,
            others=watched.others if kind == "gunicorn" else 0,
            available=host.tightest(bounds.levels, self._machine),
            free=bounds.free,
            masters=tree.masters,
            evidence=tree.evidence,
            clock=_minutes(at),
            spawned=program.spawned,
            oom_kills=bounds.oom_kills,
        )

    def tree(self, namespec: str) -> Tree | None:
        """The tree as the last look at this program found it."""
        watched = self._watched.get(namespec)
        return watched.tree if watched else None

    def peaks(self, namespec: str) -> dict[WorkerId, int]:
        """The most that the young workers of a program ever held resident (bytes), read now: a
        boot may be over between two looks. Those of the last look."""
        tree = self.tree(namespec)
        youngest = time.clock_gettime(time.CLOCK_BOOTTIME) - YOUNG
        found = {}
        for id in tree.workers if tree is not None else ():
            if float(id.start) / _TICKS > youngest:
                peak = _status(f"{topology.PROC}/{id.pid}", b"VmHWM")
                if peak is not None:
                    found[id] = peak
        return found

    def quiet(self, namespec: str, id: WorkerId, at: float) -> Quiet | None:
        """What a worker has to do right now; None for one that has ended, or is no worker of this
        program's last look."""
        tree = self.tree(namespec)
        if tree is None or tree.master is None or id not in tree.workers:
            return None
        found = self._sockets.connections(id.pid, tree.master.pid)
        cpu = _cpu(id)
        if cpu is None:
            return None
        if found is None:
            return Quiet(at, cpu, None, exact=False)
        return Quiet(at, cpu, *found)

    def forget(self, namespec: str) -> None:
        """Supervisor does not have this program any more."""
        self._watched.pop(namespec, None)
        self._kinds.pop(namespec, None)
        self._waiting.pop(namespec, None)

    # -- which processes

    def _find(self, program: Program) -> _Watched | None:
        root = topology.identity(program.pid) if program.pid else None
        watched = self._watched.get(program.namespec)
        if root is None:
            self._watched.pop(program.namespec, None)
            return None
        if watched is None or watched.root != root:
            watched = self._watched[program.namespec] = _Watched(root)
        return watched

    def _nothing(self, program: Program, at: float) -> Snapshot:
        self._waiting.pop(program.namespec, None)
        return Snapshot(
            namespec=program.namespec,
            at=at,
            state=program.state,
            pid=program.pid,
            kind=self._kinds.get(program.namespec, "plain"),
            master=None,
            workers=(),
            available=self._machine.total,
            free=self._machine.available,
            clock=_minutes(at),
            spawned=program.spawned,
        )

    def _tree(self, watched: _Watched, at: float, uptime: float) -> Tree | None:
        """The tree as it was, or discovered anew where that may be wrong by now."""
        tree = watched.tree
        children = _children(tree.master) if tree is not None and tree.master else None
        if tree is not None and not watched.unsettled and children == watched.children:
            small_and_plain = tree.master is None and len(tree.others) < SMALL_TREE
            if not small_and_plain and 0 <= at - watched.discovered_at < REDISCOVER:
                return tree

        tree = topology.discover(watched.root.pid, watched.tree)
        if tree is None or tree.root != watched.root:
            return None
        watched.tree, watched.discovered_at = tree, at
        # The list as it was before the discovery: the next look sees what changed meanwhile. Of
        # a master that was found just now there is none, and the next look discovers once more.
        watched.children = children
        watched.gunicorn = watched.gunicorn or tree.master is not None
        watched.unsettled = _newcomers(tree, children, uptime)
        self._remember(watched, tree)
        return tree

    def _remember(self, watched: _Watched, tree: Tree) -> None:
        """Members for the processes that are measured at each look, and the sum of the others."""
        of_gunicorn = (tree.master, *tree.workers) if tree.master else ()
        ids = of_gunicorn or (tree.root, *tree.others)
        old = watched.members
        watched.members = {id: old.get(id) or _Member(id) for id in ids if id is not None}
        for id in tree.workers:
            watched.members[id].heartbeat = id.pid in tree.heartbeats
        rest = {tree.root, *tree.others} - set(of_gunicorn)
        watched.others = sum(map(_private, rest)) if of_gunicorn else 0

    def _is_booting(self, program: Program, watched: _Watched, tree: Tree, uptime: float) -> bool:
        """Whether no gunicorn is to be seen only because it has not forked its workers yet."""
        if tree.master is not None or uptime - float(watched.root.start) / _TICKS > BOOTING:
            return False
        return self._kinds.get(program.namespec) == "gunicorn" or topology.names_gunicorn(tree)

    # -- their numbers

    def _measure(
        self,
        watched: _Watched,
        ids: Iterable[WorkerId],
        parent: bytes | None,
        at: float,
        uptime: float,
    ) -> list[Worker]:
        """The processes that are still the same, and still `parent`'s. The hot loop: it is run
        for every worker at every tick, so it is flat, and works on bytes."""
        found = []
        members = watched.members
        opened, read, close, flags = os.open, os.read, os.close, os.O_RDONLY
        page, ticks = _PAGE, _TICKS
        swapped, slow = self._machine.swapped, at - SLOW_READ
        for id in ids:
            member = members[id]
            try:
                handle = opened(member.stat, flags)
                try:
                    stat = read(handle, 1024)
                finally:
                    close(handle)
                handle = opened(member.statm, flags)
                try:
                    statm = read(handle, 128)
                finally:
                    close(handle)
            except OSError:
                watched.unsettled = True
                continue
            fields = stat[stat.rfind(b")") + 2 :].split(b" ", 20)
            pages = statm.split(b" ", 3)
            if (
                len(fields) < 20
                or len(pages) < 3
                or fields[19] != member.start
                or fields[0] == b"Z"
                or (parent is not None and fields[1] != parent)
            ):
                watched.unsettled = True
                continue
            rss, shared = int(pages[1]) * page, int(pages[2]) * page
            member.rss = rss
            pss = uss = None
            if member.measured_at is not None:
                pss, uss = _carried_on(member, at, rss, rss - shared)
            if member.fds_at is None or not slow < member.fds_at <= at:
                self._count_files(member, at)
            if member.heartbeat and member.ready is not True and watched.tree is not None:
                member.ready = topology.ready(watched.tree, id)
            found.append(
                Worker(
                    id,
                    uptime - member.born,
                    rss,
                    shared,
                    rss - shared,
                    pss,
                    uss,
                    _status(member.directory, b"VmSwap") if swapped else 0,
                    (int(fields[11]) + int(fields[12])) / ticks,
                    member.fds,
                    int(fields[17]),
                    None if parent is None else member.tally.read(uptime),
                    member.measured_at,
                    member.ready,
                    member.nofile,
                    member.exact,
                )
            )
        return found

    def _count_files(self, member: _Member, at: float) -> None:
        """Open files; from MANY_FILES on also how many there may be."""
        member.fds_at = at
        directory = f"{member.directory}/fd"
        try:
            if self._counts_files:
                member.fds = os.stat(directory).st_size
            else:
                member.fds = len(os.listdir(directory))
        except OSError:
            member.fds = None
        if member.nofile is None and (member.fds or 0) > MANY_FILES:
            member.nofile = _files_allowed(member.directory)

    def _read_exact(
        self, namespec: str, watched: _Watched, at: float, exact: Collection[WorkerId]
    ) -> None:
        """smaps_rollup of those asked for, in their order, as far as the budget goes.

        Nobody overtakes the one that cannot be afforded yet: it is the most important one. While
        several programs wait, each reads one process and goes to the end of the queue: what one
        program would like to know has no end, and must not keep the others from knowing anything.
        """
        elapsed = 0.0 if self._credit_at is None else max(0.0, at - self._credit_at)
        self._credit = min(EXACT_BURST, self._credit + EXACT_SHARE * elapsed)
        self._credit_at = at
        for member in self._members(watched, exact):
            rss = member.rss or _resident(member.id.pid)[0]
            estimate = rss * member.cost
            if member.denied:
                continue
            if estimate > EXACT_BURST:
                member.exact = False
                continue
            if estimate > self._credit or next(iter(self._waiting), namespec) != namespec:
                self._waiting.setdefault(namespec)
                return
            self._waiting.pop(namespec, None)
            begun = time.thread_time()
            self._read_rollup(member, at)
            spent = time.thread_time() - begun
            self._credit -= spent
            if rss > 32 * 1024**2:  # of a small one the fixed cost is all one sees
                member.cost += 0.5 * (spent / rss - member.cost)
        self._waiting.pop(namespec, None)

    def _members(self, watched: _Watched, ids: Collection[WorkerId]) -> list[_Member]:
        """Those to be read, in order. A plain program stands under the id of its root: of all its
        processes, those that were never read or longest ago come first."""
        tree = watched.tree
        if tree is not None and tree.master is None and tree.root in ids:
            return sorted(watched.members.values(), key=lambda member: member.measured_at or 0.0)
        return [watched.members[id] for id in ids if id in watched.members]

    def _read_rollup(self, member: _Member, at: float) -> None:
        try:
            try:
                text = _read(f"{member.directory}/smaps_rollup")
            except FileNotFoundError:  # Linux before 4.14
                text = _read(f"{member.directory}/smaps")
        except OSError as error:  # or it has just ended, and nothing of this matters
            member.exact = False
            member.denied = isinstance(error, PermissionError | FileNotFoundError)
            return
        pss = uss = 0
        for line in text.splitlines():
            if line.startswith(b"Pss:"):
                pss += int(line.split()[1])
            elif line.startswith(b"Private_"):
                uss += int(line.split()[1])
        # After the reading: what grew meanwhile is then missing, not counted twice.
        resident, shared = _resident(member.id.pid)
        # Its owner has ended, or another process has its pid by now: nothing was measured.
        if text and topology.identity(member.id.pid) == member.id:
            member.pss, member.uss, member.measured_at = pss * 1024, uss * 1024, at
            member.anon, member.exact = resident - shared, True

    # -- what they may have

    def _memory(self, watched: _Watched, tree: Tree, at: float) -> _Bounds:
        """The limits and what is left of them, shared between the programs of a control group."""
        if watched.group_at is None or not 0 <= at - watched.group_at < GROUP_READ:
            watched.group = host.group_of((tree.master or tree.root).pid)
            watched.group_at = at
        bounds = self._bounds.setdefault(watched.group, _Bounds())
        if bounds.levels_at is None or not 0 <= at - bounds.levels_at < LIMITS_READ:
            bounds.levels, bounds.levels_at = host.limits(watched.group, self._machine), at
        if bounds.free_at != at:
            bounds.free, bounds.free_at = host.free(bounds.levels, self._machine), at
            bounds.oom_kills = host.oom_kills(watched.group)
        return bounds


def _carried_on(
    member: _Member, at: float, rss: int, anon: int
) -> tuple[int, int] | tuple[None, None]:
    """PSS and USS of now: as read, and what anonymous memory has changed by since then.

    What a process allocates is its own, so growth is seen at once and in full. Where the guess is
    wrong it is too small: what it gives back may have been shared, and a page that only stopped
    being shared (a reference count written to) is no new memory, and is found by the next reading.
    """
    assert member.measured_at is not None and member.pss is not None and member.uss is not None
    if not 0 <= at - member.measured_at <= KEEP_EXACT:
        member.pss = member.uss = member.measured_at = None
        return None, None
    change = anon - member.anon
    return min(max(member.pss + change, 0), rss), min(max(member.uss + change, 0), rss)


def _whole(parts: list[Worker], at: float) -> Worker:
    """The tree of a plain program as one: shared pages counted once, the rest summed up."""
    root = parts[0]
    shared = max(part.shared or 0 for part in parts)
    anon = sum(part.anon or 0 for part in parts)
    pss, uss, measured_at = _exact_whole(parts, at)
    return Worker(
        root.id,
        root.age,
        shared + anon,
        shared,
        anon,
        pss,
        uss,
        _sum(part.swap for part in parts),
        sum(part.cpu or 0.0 for part in parts),
        _sum(part.fds for part in parts),
        _sum(part.threads for part in parts),
        measured_at=measured_at,
        exact=all(part.exact for part in parts),
    )


def _exact_whole(parts: list[Worker], at: float) -> tuple[int | None, int | None, float | None]:
    """(PSS, USS, when the oldest of them was read) of a plain program's tree.

    PSS is known once every process was read after the youngest was forked: it shares what an
    older reading gave to its parent alone. USS is known from the first reading on: of the others
    counts what they hold beyond the root, from which they may have it.
    """
    readings = [part.measured_at for part in parts if part.measured_at is not None]
    if not readings or not all(part.exact for part in parts):
        return None, None, None
    oldest = min(readings)
    base, uss = 0, 0
    for part in parts:
        own = (part.anon or 0) - base if part.uss is None else part.uss
        uss += max(own, 0)
        base = parts[0].anon or 0
    forked = at - min(part.age or 0.0 for part in parts)
    pss = _sum(part.pss for part in parts) if oldest >= forked else None
    return pss, uss, oldest


def _sum(values: Iterable[int | None]) -> int | None:
    """None as soon as one of them is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _newcomers(tree: Tree, children: bytes | None, uptime: float) -> bool:
    """Whether some child of the master is no worker, and too young for that to be final."""
    pids = set(map(int, (children or b"").split()))
    return any(
        other.pid in pids and uptime - float(other.start) / _TICKS < NEWCOMER
        for other in tree.others
    )


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _children(master: WorkerId) -> bytes | None:
    """The children of its main thread, which is the one that forks; None if there is no list."""
    try:
        return _read(f"{topology.PROC}/{master.pid}/task/{master.pid}/children")
    except OSError:
        return None


def _resident(pid: int) -> tuple[int, int]:
    """(resident, shared) bytes; zeros for a process that has ended."""
    try:
        pages = _read(f"{topology.PROC}/{pid}/statm").split()
        return int(pages[1]) * _PAGE, int(pages[2]) * _PAGE
    except (OSError, IndexError):
        return 0, 0


def _private(id: WorkerId) -> int:
    resident, shared = _resident(id.pid)
    return resident - shared


def _status(directory: str, name: bytes) -> int | None:
    """Bytes, from /proc/PID/status."""
    try:
        status = _read(f"{directory}/status")
    except OSError:
        return None
    _, found, rest = status.partition(b"\n" + name + b":")
    return int(rest.split(None, 1)[0]) * 1024 if found else None


def _cpu(id: WorkerId) -> float | None:
    """CPU seconds since its start; None for one that has ended."""
    try:
        stat = _read(f"{topology.PROC}/{id.pid}/stat")
    except OSError:
        return None
    fields = stat[stat.rfind(b")") + 2 :].split(b" ", 20)
    if len(fields) < 20 or fields[19] != str(id.start).encode() or fields[0] == b"Z":
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _files_allowed(directory: str) -> int | None:
    """The soft limit of open files; None where it cannot be read or there is none."""
    try:
        limits = _read(f"{directory}/limits")
    except OSError:
        return None
    _, _, rest = limits.partition(b"Max open files")
    soft = rest.split(None, 1)[0] if rest else b""
    return int(soft) if soft.isdigit() else None


def _stat_counts_files() -> bool:
    """Linux 6.2 and newer: the size of /proc/PID/fd is the number of open files."""
    try:
        return os.stat("/proc/self/fd").st_size > 0
    except OSError:
        return False


def _minutes(at: float) -> int:
    local = time.localtime(at)
    return local.tm_hour * 60 + local.tm_min
