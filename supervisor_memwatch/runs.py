"""Before and after a run: each worker compared with itself, its idle siblings being the control.

What idle siblings grew by (their median) is not the run's doing. What a worker grew by beyond that
it holds on to: a leak, or a cache that filled. One run cannot tell these apart; the same run again
can, for a leak costs as much for the same work as it did before, and a cache that has filled costs
nothing. So kept files remember the growth and the work of the run before. Workers of one program do
the same kind of work: where each alone grew by too little, what they grew by together is judged.

Not here: sampling and files (audit.py), the words around it (comparison.py). Bytes; work is
requests where they are counted before and after, else CPU seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import units
from .model import Worker, WorkerId
from .units import MB

# Growth between two looks at a worker that is no more than this is noise.
LEAST = 4 * MB
SHARE = 0.05
IDLE = 0.1  # of the busiest sibling's work: less is idle
REPEATED = 0.5  # of what the work cost in the run before: a leak costs that again
ALIKE = 0.8  # and so nearly the same that little doubt is left
TOGETHER = 0.7  # of the noise of one: what several have in common is that much less likely noise

LEAK, GREW, SETTLED, SAME, NEW, UNCLEAR = "leak", "grew", "settled", "same", "new", "unclear"


class Change(NamedTuple):
    """One worker between two looks: bytes and work."""

    id: WorkerId
    before: int | None  # anonymous memory, then and now
    after: int
    grown: int
    beyond: int  # what idle siblings' growth does not explain
    cpu: float | None  # CPU seconds
    requests: int | None
    work: float | None  # the one of these it is compared by
    unit: str | None
    idle: bool
    earlier: int | None  # `beyond` of the run before, where it was kept
    runs: int  # in a row that it grew in, this one included
    found: str  # "leak", "grew", "settled", "same", "new" or "unclear"
    confidence: float
    why: str
    hidden: int = 0  # growth up to so much would not have been found
    share: float | None = None  # its work, of that of the run before; None: not known of both
    then: float | None = None  # its age at the first look
    together: bool = False  # found in what the workers grew by together, not in its own alone


def compare(
    lows: Mapping[WorkerId, int], workers: Sequence[Worker], before: Mapping[str, Any]
) -> list[Change]:
    """Each worker with itself before a run. `lows`: the anonymous memory of each now, at the moment
    of which `workers` have the work; `before`: a program as `--save` kept it."""
    moments = before.get("low_work", {})
    old = {each["id"]: {**each, **moments.get(each["id"], {})} for each in before["workers"]}
    kept = {change["id"]: change for change in before.get("changes", ())}
    there = [worker for worker in workers if str(worker.id) in old]
    cpu = {w.id: _spent(w.cpu, old[str(w.id)].get("cpu")) for w in there}
    requests = {w.id: _spent(w.requests, old[str(w.id)].get("requests")) for w in there}
    counted = bool(there) and all(value is not None for value in requests.values())
    work = requests if counted else cpu
    unit = "request" if counted else "CPU second"
    grown = {worker.id: lows[worker.id] - before["low_anon"][str(worker.id)] for worker in there}
    busiest = max((value for value in work.values() if value is not None), default=0.0)
    idle = {id for id, value in work.items() if value is not None and 0 <= value < IDLE * busiest}
    control = _median([grown[id] for id in idle])
    changes = []
    for worker in workers:
        id = worker.id
        if id not in grown:
            changes.append(_new(worker, lows[id]))
            continue
        beyond = grown[id] - (control or 0 if id not in idle else 0)
        noise = _noise(before["low_anon"][str(id)])
        earlier = kept.get(str(id))
        verdict = _judge(beyond, noise, work[id], unit, earlier)
        why = _why(grown[id], control if id not in idle else None, work[id], unit, earlier)
        spent = requests[id]
        changes.append(
            Change(
                id=id,
                before=before["low_anon"][str(id)],
                after=lows[id],
                grown=grown[id],
                beyond=beyond,
                cpu=cpu[id],
                requests=None if spent is None else int(spent),
                work=work[id],
                unit=unit if work[id] is not None else None,
                idle=id in idle,
                earlier=None if earlier is None else earlier["beyond"],
                runs=verdict[1],
                found=verdict[0],
                confidence=verdict[2],
                why=why if id not in idle else f"{why}: idle, the control",
                hidden=noise + (max(control or 0, 0) if id not in idle else 0),
                share=_share(work[id], unit, earlier) if earlier is not None else None,
                then=old[str(id)].get("age"),
            )
        )
    return _together(changes, kept, before["low_anon"])


def gone(workers: Sequence[Worker], before: Mapping[str, Any]) -> list[str]:
    """The pids of those that were there before and are no more."""
    here = {str(worker.id) for worker in workers}
    return [w["id"].partition(":")[0] for w in before["workers"] if w["id"] not in here]


def _together(
    changes: Sequence[Change], kept: Mapping[str, Mapping[str, Any]], held: Mapping[str, int]
) -> list[Change]:
    """Where what those that worked grew by together says more than each alone, that is found of
    those that grew alike."""
    worked = [c for c in changes if c.work is not None and c.work > 0 and not c.idle]
    both = [c for c in worked if _repeats(c, kept.get(str(c.id)))]
    pool = both if len(both) > 1 else worked
    if len(pool) < 2:
        return list(changes)
    grown = sum(c.beyond for c in pool)
    work = sum(c.work or 0.0 for c in pool)
    noise = int(TOGETHER * sum(_noise(held[str(c.id)]) for c in pool))
    unit = str(pool[0].unit)
    earlier = _sum([kept[str(c.id)] for c in both]) if pool is both else None
    found, runs, confidence = _judge(grown, noise, work, unit, earlier)
    ids = {c.id for c in pool if _says_more(found, c, grown * (c.work or 0.0) / work)}
    return [
        c._replace(found=found, runs=runs, confidence=confidence, together=True)
        if c.id in ids
        else c
        for c in changes
    ]


def _repeats(change: Change, earlier: Mapping[str, Any] | None) -> bool:
    """Whether the run before is known to have been work as well, in the same unit."""
    return (
        earlier is not None
        and not earlier.get("idle")
        and bool(_share(change.work, str(change.unit), earlier))
    )


def _sum(earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several did in the run before, as of one."""
    return {
        "beyond": sum(each["beyond"] for each in earlier),
        "work": sum(each["work"] for each in earlier),
        "unit": earlier[0]["unit"],
        "runs": min(int(each.get("runs") or 1) for each in earlier),
    }


def _says_more(found: str, change: Change, expected: float) -> bool:
    """Whether what was found of all together is more than what was found of this one, and true of
    it. `expected`: what its work cost if it cost what it cost them all."""
    if found in (LEAK, GREW):
        open = (SAME, UNCLEAR) if found == GREW else (SAME, UNCLEAR, GREW)
        return change.found in open and change.beyond >= REPEATED * expected
    grew_before = (change.earlier or 0) > change.hidden / 2
    return found == SETTLED and change.found in (SAME, UNCLEAR) and grew_before


def _noise(held: int) -> int:
    return max(LEAST, int(SHARE * held))


def _new(worker: Worker, low: int) -> Change:
    why = f"not there before; it holds {units.size(low)}"
    if worker.cpu is not None:
        why += f" after {worker.cpu:.1f} s of CPU"
    return Change(
        id=worker.id,
        before=None,
        after=low,
        grown=0,
        beyond=0,
        cpu=worker.cpu,
        requests=worker.requests,
        work=None,
        unit=None,
        idle=False,
        earlier=None,
        runs=0,
        found=NEW,
        confidence=0.0,
        why=why,
    )


def _judge(
    beyond: int, noise: int, work: float | None, unit: str, earlier: Mapping[str, Any] | None
) -> tuple[str, int, float]:
    """What was found, in how many runs in a row it grew, and how sure that is."""
    grew_before = earlier is not None and earlier["beyond"] > noise
    if earlier is None or not grew_before:
        if beyond > noise:
            return GREW, 1, 0.5
        return SAME, 0, 0.9 if work else 0.5
    runs = int(earlier.get("runs") or 1) + 1
    share = _share(work, unit, earlier)
    share = 1.0 if share is None else share
    expected = earlier["beyond"] * share
    if beyond <= noise and expected - max(beyond, 0) <= noise:
        return UNCLEAR, runs - 1, 0.5  # too little work for a leak to show
    if beyond < REPEATED * expected:
        return SETTLED, 0, 0.9 if beyond <= noise < expected * REPEATED else 0.7
    again = beyond / expected if expected > 0 else 1.0
    alike = ALIKE <= again <= 1 / ALIKE
    return LEAK, runs, min(0.97, (0.85 if alike else 0.7) + 0.05 * (runs - 2))


def _share(work: float | None, unit: str, earlier: Mapping[str, Any]) -> float | None:
    """This run's work as a share of the one before; None where that is not known."""
    if earlier.get("unit") != unit or not earlier.get("work") or work is None:
        return None
    return float(work / earlier["work"])


def _why(
    grown: int,
    control: float | None,
    work: float | None,
    unit: str,
    earlier: Mapping[str, Any] | None,
) -> str:
    words = f"{units.signed_size(grown)} anonymous memory"
    if control is not None:
        words += f" ({units.signed_size(control)} in idle siblings)"
    if work is not None:
        words += " in " + amount(work, unit)
        if work > 0 and grown > LEAST:
            words += f", {units.size(grown / work)} per {unit}"
    if earlier is not None:
        words += f"; {units.signed_size(earlier['beyond'])} in the run before"
        if earlier.get("work") and earlier.get("unit"):
            words += " in " + amount(earlier["work"], earlier["unit"])
    return words


def amount(work: float, unit: str) -> str:
    """12.3 s of CPU; 500 requests."""
    return f"{work:.0f} requests" if unit == "request" else f"{work:.1f} s of CPU"


def _spent(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then


def _median(values: Sequence[int]) -> int | None:
    return sorted(values)[len(values) // 2] if values else None
