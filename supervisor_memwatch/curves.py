"""The samples of a program as curves: who lived when, and what each of them held.

Each worker has a curve of its own. Workers that follow each other share a *place*: a new one takes
the lowest place that is free, so a recycled worker's successor goes on where it ended. Thinned to
what a page can hold: of neighbouring samples the smallest and the largest are kept, so every number
that is left is one that was really seen.

Not here: how curves are drawn (markup.py) and where samples come from (chronicle.py).
Times are epoch seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .model import WorkerId

# What a sample holds of each process, in this order.
COLUMNS = ("pid", "start", "rss", "anon", "pss", "uss", "swap", "cpu")
# A pause between two samples after which the curve is broken: nobody watched. Samples older than
# a day are ten minutes apart.
PAUSE = 1260.0

# How big a process is can be said in these ways.
MEASURES = {
    "uss": "USS + swap (private memory)",
    "pss": "PSS + swap (shared pages in part)",
    "rss": "RSS + swap (all resident memory)",
    "anon": "anonymous memory + swap (what growth is judged on)",
}


class Sample(NamedTuple):
    """One process at one instant."""

    at: float
    sizes: dict[str, int | None]  # by measure
    again: bool = False  # nobody had watched for a while before it
    cpu: float | None = None  # seconds, user and system, since its start


@dataclass(slots=True)
class Life:
    """One worker, or the master, as far as it was seen."""

    id: WorkerId
    role: str  # "master" or "worker"
    place: int  # from 1; 0: the master's
    samples: list[Sample] = field(default_factory=list)

    def first(self, measure: str) -> tuple[float, int] | None:
        """When it was first measured, and what it held."""
        return next(self.points(measure), None)

    def last(self, measure: str) -> tuple[float, int] | None:
        known = (sample for sample in reversed(self.samples) if sample.sizes[measure] is not None)
        last = next(known, None)
        return None if last is None else (last.at, last.sizes[measure] or 0)

    def points(self, measure: str) -> Iterator[tuple[float, int]]:
        """When and how much, where that is known, oldest first."""
        for sample in self.samples:
            size = sample.sizes[measure]
            if size is not None:
                yield sample.at, size


def lives(rows: Iterable[tuple[float, Sequence[Sequence[Any]]]]) -> list[Life]:
    """Everyone in a program's samples, in the order they came."""
    found: dict[WorkerId, Life] = {}
    places: dict[WorkerId, int] = {}  # of those that are there
    for at, processes in rows:
        ids = [WorkerId(process[0], process[1]) for process in processes]
        master = ids[0] if _has_master(processes) else None
        places = {id: place for id, place in places.items() if id in ids}
        for id, process in zip(ids, processes, strict=True):
            if id not in found:
                role = "master" if id == master else "worker"
                found[id] = Life(id, role, 0 if role == "master" else _free(places))
            life = found[id]
            if life.role == "worker":
                places.setdefault(id, life.place)
            again = bool(life.samples) and at - life.samples[-1].at > PAUSE
            known = dict(zip(COLUMNS, process, strict=False))
            life.samples.append(Sample(at, _sizes(known), again, known.get("cpu")))
    return list(found.values())


def _has_master(processes: Sequence[Sequence[Any]]) -> bool:
    """The master stands first where there is one, and nobody is older than it."""
    return len(processes) > 1 and all(processes[0][1] <= other[1] for other in processes[1:])


def _free(places: dict[WorkerId, int]) -> int:
    taken = set(places.values())
    return next(place for place in range(1, len(taken) + 2) if place not in taken)


def _sizes(known: Mapping[str, Any]) -> dict[str, int | None]:
    swap = known.get("swap") or 0
    sizes = {}
    for measure in MEASURES:
        size = known.get(measure)
        sizes[measure] = None if size is None else int(size) + int(swap)
    return sizes


def measured(found: Iterable[Life]) -> dict[str, float]:
    """The measures that anything is known of, with the share of the workers' samples that is."""
    samples = [sample for life in found if life.role == "worker" for sample in life.samples]
    known = {
        measure: sum(sample.sizes[measure] is not None for sample in samples)
        for measure in MEASURES
    }
    return {measure: count / len(samples) for measure, count in known.items() if count}


def thin(found: Iterable[Life], most: int, measure: str) -> list[Life]:
    """The same with no more than about `most` samples each; `measure`: whose extremes are kept."""
    return [
        Life(life.id, life.role, life.place, _thinned(life.samples, most, measure))
        for life in found
    ]


def _thinned(samples: list[Sample], most: int, measure: str) -> list[Sample]:
    if len(samples) <= most:
        return samples
    size = -(-2 * len(samples) // max(2, most - 2))  # of a group, of which two are kept
    kept = []
    for run in _runs(samples):
        inner = run[1:-1]
        groups = [inner[begin : begin + size] for begin in range(0, len(inner), size)]
        # A run begins and ends where it did.
        kept += [run[0], *(each for group in groups for each in _extremes(group, measure))]
        kept += run[-1:] if len(run) > 1 else []
    return kept


def _runs(samples: list[Sample]) -> list[list[Sample]]:
    """What was watched without a pause."""
    runs: list[list[Sample]] = []
    for sample in samples:
        if sample.again or not runs:
            runs.append([])
        runs[-1].append(sample)
    return runs


def _extremes(group: list[Sample], measure: str) -> list[Sample]:
    """Its smallest and its largest, in their order."""

    def size(sample: Sample) -> int:
        return sample.sizes[measure] or 0

    lowest, highest = min(group, key=size), max(group, key=size)
    if size(lowest) == size(highest):
        return [group[0], *group[1:][-1:]]
    return sorted({lowest.at: lowest, highest.at: highest}.values())


def path(life: Life, measure: str, begin: float) -> str:
    """The curve as an SVG path: seconds since `begin` and KB, from the first point on relative.

    It is all the page has of the numbers, so a second and a KB are exact.
    """
    words: list[str] = []
    x = y = 0
    pen = ""
    for sample in life.samples:
        size = sample.sizes[measure]
        if size is None:
            continue
        to_x, to_y = round(sample.at - begin), round(size / 1024)
        before, pen = pen, "m" if sample.again or not words else "l"
        words.append(f"{' ' if pen == before == 'l' else pen}{to_x - x} {to_y - y}")
        x, y = to_x, to_y
    if len(words) == 1:
        words.append("l0 0")  # a point, where the pen is round
    return "".join(words)
