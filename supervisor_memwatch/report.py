"""Values into the shapes and words that others read: JSON, tables, sentences.

The shapes of `status --json`, of the news and of the rows the listener keeps are here once.
Nothing is decided here and nothing read: the journal's rows come in, text goes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import detectors, sizes, trends, units
from .model import WARMING_UP, News, Snapshot, Verdict, Worker, WorkerId
from .options import Budget, Options

# -- the listener's rows, read back -------------------------------------------------------


def snapshot_from_json(data: Sequence[Any]) -> Snapshot:
    """A snapshot as the journal keeps it. Raises TypeError or ValueError."""
    snapshot = Snapshot(*data)
    return snapshot._replace(
        master=None if snapshot.master is None else worker_from_json(snapshot.master),
        workers=tuple(worker_from_json(worker) for worker in snapshot.workers),
    )


def worker_from_json(data: Sequence[Any]) -> Worker:
    worker = Worker(*data)
    return worker._replace(id=WorkerId(*worker.id))


def sample(snapshot: Snapshot) -> list[list[Any]]:
    """What the curves are drawn from: of the master, if there is one, and then of each worker pid,
    start, RSS, anonymous memory, PSS, USS, swap, CPU."""
    return [
        [*worker.id, worker.rss, worker.anon, worker.pss, worker.uss, worker.swap, worker.cpu]
        for worker in sizes.everyone(snapshot)
    ]


def news(data: Sequence[Any]) -> News:
    """News as the journal keeps them. Raises TypeError, ValueError or IndexError."""
    item = News(*data)
    return item._replace(
        worker=None if item.worker is None else worker_from_json(item.worker),
        verdicts=tuple(Verdict(*verdict) for verdict in item.verdicts),
        series=tuple((point[0], point[1]) for point in item.series),
        advice=tuple(item.advice),
        also=None if item.also is None else WorkerId(*item.also),
    )


# -- status --json -----------------------------------------------------------------------


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """VERDICT of the public shapes."""
    return {name: getattr(verdict, name) for name in Verdict._fields}


def worker_json(
    worker: Worker,
    at: float,
    verdicts: Iterable[Verdict] = (),
    limit: int | None = None,
    headroom: int | None = None,
    trend: trends.Trend | None = None,
    hours: float | None = None,
) -> dict[str, Any]:
    """WORKER of the public shapes. `at`: when it was seen."""
    return {
        "pid": worker.id.pid,
        "id": str(worker.id),
        "start": at - worker.age if worker.age is not None else None,
        "age": worker.age,
        "rss": worker.rss,
        "anon": worker.anon,
        "pss": worker.pss,
        "uss": worker.uss,
        "swap": worker.swap,
        "measured_at": worker.measured_at,
        "cpu": worker.cpu,
        "fds": worker.fds,
        "threads": worker.threads,
        "requests": worker.requests,
        "limit": limit,
        "headroom": headroom,
        "verdicts": [verdict_json(verdict) for verdict in verdicts],
        "trend": None if trend is None else trend._asdict(),
        "hours_to_limit": hours,
    }


def program_json(
    snapshot: Snapshot,
    seen: Mapping[str, Any],
    options: Options,
    past: detectors.Past | None = None,
) -> dict[str, Any]:
    """One program of `status --json`. `seen`: what Watch.view gave; `past`: for the trends of those
    that hardly move."""
    verdicts: dict[WorkerId | None, list[Verdict]] = {
        WorkerId(*id) if id else None: [Verdict(*verdict) for verdict in opinions]
        for id, opinions in seen["verdicts"]
    }
    limit = options.limit.of(snapshot.available) if options.limit else None
    total_limit = options.total_limit.of(snapshot.available) if options.total_limit else None

    moving = {WorkerId(*id): trends.Trend(*trend) for id, trend in seen.get("trends", ())}

    def shape(worker: Worker, limit: int | None) -> dict[str, Any]:
        trend = moving.get(worker.id)
        if trend is None and past is not None:
            trend = trends.trend(past, worker.id)
        return worker_json(
            worker,
            snapshot.at,
            verdicts.get(worker.id, ()),
            limit,
            detectors.headroom(options, snapshot, worker),
            trend,
            trends.hours_to_limit(options, snapshot, worker, trend),
        )

    used, of, period = seen["budget"]
    running = bool(snapshot.workers or snapshot.master)
    return {
        "namespec": snapshot.namespec,
        "state": snapshot.state,
        "mode": seen["mode"],
        "kind": snapshot.kind,
        "master": shape(snapshot.master, None) if snapshot.master else None,
        "workers": [shape(worker, limit) for worker in snapshot.workers],
        "verdicts": [verdict_json(verdict) for verdict in verdicts.get(None, ())],
        "total": detectors.total(snapshot) or None if running else None,  # 0: not read yet
        "total_limit": total_limit,
        "available": snapshot.available,
        "held": [
            {"code": code, "text": text, "until": until} for code, text, until in seen["held"]
        ],
        "action": seen["action"],
        "last_action": seen["last_action"],
        "budget": {"used": used, "of": of, "period": period},
    }


# -- words -------------------------------------------------------------------------------


def promise(options: Options) -> str:
    """What will be done with a program, said at start."""
    if options.mode == "observe":
        doing = "watching only (mode = observe)"
    else:
        doing = f"acting: {', then '.join(options.actions)}"
    parts = [doing]
    for name, ceiling in (("limit", options.limit), ("total limit", options.total_limit)):
        if ceiling is not None:
            parts.append(f"{name} {ceiling_words(ceiling.bytes, ceiling.share)}")
    parts.append(
        f"verdicts after a warm-up of {units.time(options.warmup)}, confirmed for "
        f"{units.time(options.confirm)}"
    )
    if options.mode == "act":
        parts.append(
            f"at most {options.budget.count} actions in {units.time(options.budget.period)}, "
            f"{units.time(options.cooldown)} apart"
        )
    usual = Options()
    if options.max_unavailable != usual.max_unavailable:
        parts.append(f"up to {options.max_unavailable} workers away at once")
    if options.window is not None:
        parts.append(f"what is not urgent only in {options.window}")
    if options.kill:
        grace = "a grace that is not known" if options.grace is None else units.time(options.grace)
        parts.append(f"SIGKILL to a worker that is still there after {grace}")
    if options.measure != usual.measure:
        parts.append(f"sizes by {options.measure.upper()}")
    return "; ".join(parts)


def deed(action: Mapping[str, Any], link: str = " ") -> str:
    """`reload`, or `recycle worker 4711`: an action of a document; a surge may take two workers."""
    name, also = str(action["action"]), action.get("also_pid")  # which older journals have not
    if name != "recycle" or action["pid"] is None:
        return name
    return f"{name}{link}worker {action['pid']}{'' if also is None else f' and the oldest, {also}'}"


def budget_words(budget: Mapping[str, Any]) -> str:
    """What is used of the budget of `status --json`, and how much it is."""
    return Budget(budget["of"], budget["period"]).words(budget["used"])


def ceiling_words(size: int | None, share: float | None) -> str:
    return units.size(size) if share is None else f"{share:.0%} of what is available"


def graceful_timeout(command: str) -> float | None:
    """The value of gunicorn's --graceful-timeout in a command line, in seconds.

    None where it is not there: a configuration file may set it, or the environment.
    """
    _, found, rest = command.rpartition("--graceful-timeout")  # of several, the last holds
    word = rest.lstrip("= ").split()[:1]
    if not found or not word or not word[0].isdigit():
        return None
    return float(word[0])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], gap: str = "  ") -> str:
    """Columns set under each other; the first is flush left, figures are flush right."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = []
    for line in lines:
        cells = [
            cell.ljust(width) if i in (0, len(head) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append(gap.join(cells).rstrip())
    return "\n".join(out)


def cpu_words(seconds: float | None) -> str:
    """0.4s, 12m 3s."""
    return f"{seconds:.1f}s" if seconds is not None and seconds < 60 else units.time(seconds)


def trend_words(trend: Mapping[str, float] | None) -> str:
    return "" if trend is None else units.rate(trend["bytes_per_hour"] / 3600)


def verdict_words(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """The verdicts that were told; else what there is, in one word, and why it is too young."""
    found = list(verdicts)
    said = [verdict for verdict in found if verdict["told"]]
    said = said or [verdict for verdict in found if verdict["kind"] == WARMING_UP]
    words = [f"{verdict['kind']}: {verdict['why']}" for verdict in said]
    return "; ".join(words) or ", ".join(verdict["kind"] for verdict in found)
