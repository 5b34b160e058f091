"""How big: of a worker and a program, up to which ceiling, and how much is left.

Sizes are bytes, what is swapped out included. What is known of a worker's PSS and USS is read
rarely; `wants` says whose reading could change a verdict now. What growth means is not here.
"""

from __future__ import annotations

from .model import IMBALANCE, LEAK, LIMIT, MASTER_GROWTH, Snapshot, Worker, WorkerId
from .options import Options
from .past import Past, Subject

# Readings of PSS and USS, which are rare; between two of them a worker's figures carry on with its
# anonymous memory.
RECENT = 90.0  # seconds after which one that could change a verdict is read again
KEPT = 900.0  # seconds after which one is no figure any more
MEASURED = (LEAK, IMBALANCE, LIMIT, MASTER_GROWTH)  # what is said, and done, with a size
MOST = 0.75  # of its share of the program's limit: more is not a worker's of many alike


def measure(options: Options, worker: Worker, at: float) -> tuple[int, str]:
    """How big a worker is (bytes, what is swapped out included), and by which measure.

    RSS also where a better one is not known yet: whether that is so, `settled` tells.
    """
    swap = worker.swap or 0
    if _kept(worker, at):
        if options.measure in ("auto", "uss") and worker.uss is not None:
            return worker.uss + swap, "USS"
        if options.measure == "pss" and worker.pss is not None:
            return worker.pss + swap, "PSS"
    return worker.rss + swap, "RSS"


def settled(options: Options, worker: Worker, at: float) -> bool:
    """Whether `measure` is what it will be: RSS, where another is asked for, only if that cannot
    be read. RSS counts what is shared with the master, which may be nearly all: nothing is told
    and nothing is done on the strength of it while a reading is still to come."""
    if worker.exact is not True or options.measure == "rss":
        return True
    return measure(options, worker, at)[1] != "RSS"


def _kept(worker: Worker, at: float) -> bool:
    return worker.measured_at is None or abs(at - worker.measured_at) <= KEPT


def everyone(snapshot: Snapshot) -> tuple[Worker, ...]:
    """The master, if there is one, and the workers."""
    if snapshot.master is None:
        return snapshot.workers
    return (snapshot.master, *snapshot.workers)


def total(snapshot: Snapshot) -> int:
    """The program's memory in bytes, shared pages counted once (swap included); where that is not
    known exactly, it is at least so much."""
    return counted(snapshot)[0]


def counted(snapshot: Snapshot) -> tuple[int, str]:
    """`total`, and how it was found."""
    processes = everyone(snapshot)
    bytes = snapshot.others + sum(w.swap or 0 for w in processes)
    forked = _forked(snapshot)
    if all(w.pss is not None and _after(w, forked) and _kept(w, snapshot.at) for w in processes):
        return bytes + sum(w.pss or 0 for w in processes), "PSS"
    if all(w.exact is None for w in processes):  # a recording: what it holds is all there is
        private = [w.rss if w.shared is None else max(w.rss - w.shared, 0) for w in processes]
        shared = max((w.shared or 0 for w in processes), default=0)
        return bytes + sum(private) + shared, "RSS, shared pages once"
    return bytes + _at_least(snapshot, forked), "at least: what is shared counts once"


def _at_least(snapshot: Snapshot, forked: float) -> int:
    """What the processes hold for certain: what is each one's own, and the rest of the largest.

    Nothing in it is counted twice, and under --preload, where all share one image, little is
    missing. Where USS is not known, a worker's own is what it holds beyond its master: anything
    up to that it may have from it, and the kernel counts it as anonymous memory of both.
    """
    if snapshot.kind == "plain":  # a whole tree: nothing is known of its parts
        return sum(w.uss or 0 if w.exact else w.rss for w in snapshot.workers)
    bytes = rest = 0
    for worker in everyone(snapshot):
        # The fork of a worker shares what was the master's own; the other workers' is untouched.
        private = own(worker, snapshot, forked if worker is snapshot.master else 0.0)
        bytes += private
        rest = max(rest, worker.rss - private)
    return bytes + rest


def own(worker: Worker, snapshot: Snapshot, since: float = 0.0) -> int:
    """Bytes that are surely one process's own, what is swapped out left out."""
    if worker.uss is not None and _after(worker, since) and _kept(worker, snapshot.at):
        return worker.uss
    master = snapshot.master
    if worker is master:
        return 0
    anon = worker.rss if worker.anon is None else worker.anon
    return max(anon - (master.anon or 0 if master is not None else 0), 0)


def _forked(snapshot: Snapshot) -> float:
    """When the youngest process was forked."""
    return snapshot.at - min((w.age or 0.0 for w in everyone(snapshot)), default=0.0)


def _after(worker: Worker, since: float) -> bool:
    return worker.measured_at is None or worker.measured_at >= since


def at_most(snapshot: Snapshot) -> int:
    """An upper bound of the program's memory that costs next to nothing."""
    bytes = snapshot.others
    for worker in everyone(snapshot):
        bytes += worker.rss + (worker.swap or 0)
    return bytes


def wants(options: Options, snapshot: Snapshot, past: Past) -> tuple[WorkerId, ...]:
    """Whose PSS and USS could change a verdict now, most important first.

    Never read comes before read long ago, and everybody's turn comes, however many there are.
    Those of whom something stands are due earlier: what is done about it is measured on them.
    """
    processes = everyone(snapshot)
    wanted: set[WorkerId] = set()
    ceiling = options.total_limit and options.total_limit.of(snapshot.available)
    if ceiling and at_most(snapshot) >= ceiling:
        wanted.update(worker.id for worker in processes)
    urgent: set[Subject] = set()
    if options.measure != "rss":
        limit = options.limit and options.limit.of(snapshot.available)
        if limit:
            wanted.update(w.id for w in snapshot.workers if w.rss + (w.swap or 0) >= limit)
        for (subject, kind), standing in past.standing.items():
            if subject is not None and kind in MEASURED and not standing.opinion.excused:
                wanted.add(subject)
                if standing.act or not standing.told:
                    urgent.add(subject)
    if not wanted:
        return ()
    due: list[tuple[float, bool, int, WorkerId]] = []
    for worker in processes:
        if worker.id in wanted:
            soon = worker.id in urgent
            period = min(options.confirm, RECENT) / 2 if soon else RECENT
            at = _due(worker, snapshot.at, period)
            if at <= snapshot.at:
                due.append((at, not soon, -worker.rss, worker.id))
    due.sort(key=lambda entry: entry[:3])
    return tuple(id for *_, id in due)


def _due(worker: Worker, now: float, period: float) -> float:
    """When it is to be read again; before all times if it never was."""
    if worker.uss is None or worker.pss is None:
        return float("-inf")
    if worker.measured_at is None:
        return float("inf")  # a recording: it is as new as the tick
    return worker.measured_at + period if worker.measured_at <= now else float("-inf")


def ceiling_of(options: Options, snapshot: Snapshot, worker: Worker | None = None) -> int | None:
    """What one worker may hold, bytes: its limit, else its share of the program's limit.

    `worker`: where this one holds most of that share, or more, what its siblings leave to it.
    """
    if options.limit is not None:
        limit = options.limit.of(snapshot.available)
        if limit is not None:
            return limit
    whole = options.total_limit and options.total_limit.of(snapshot.available)
    if not whole or not snapshot.workers:
        return None
    master = snapshot.master.rss if snapshot.master is not None else 0
    share = max(int((whole - master - snapshot.others) / len(snapshot.workers)), 0)
    if worker is None:
        return share
    held = measure(options, worker, snapshot.at)[0]
    if held <= MOST * share:
        return share
    return max(share, held + int(max(whole - total(snapshot), 0) / len(snapshot.workers)))


def headroom(options: Options, snapshot: Snapshot, worker: Worker) -> int | None:
    """Bytes left to the tightest of the worker's limit, the program's, the cgroup's, the host's."""
    left = []
    limit = options.limit and options.limit.of(snapshot.available)
    # By its id: it may be as it was seen before it left, or before its last reading.
    if limit and (snapshot.master is None or worker.id != snapshot.master.id):
        left.append(limit - measure(options, worker, snapshot.at)[0])
    whole = options.total_limit and options.total_limit.of(snapshot.available)
    if whole:
        left.append(whole - total(snapshot))
    if snapshot.free is not None:
        left.append(snapshot.free)
    return max(min(left), 0) if left else None
