"""What `audit --since` says: who grew since the save, who cannot be compared, what is ruled out.

runs.py compares each worker with itself; here are the sentences, and no more is said in them than
was measured: "holds no more than before" names the growth that would not have shown in the work and
the time since the save, and where that is too coarse it is too early to tell, and says what would
be enough. Workers that are new or gone since then, and a restarted master, are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import report, runs, units
from .model import Snapshot, WorkerId
from .units import HOUR, KB, MINUTE

# A leak that costs so much for each unit of work is to be found before "same" is an answer.
COARSE = {"request": 10 * KB, "CPU second": 256 * KB}
ALIKE = 1.3  # sizes within this factor are about the same
NEARLY, MARGIN = 0.5, 1.25  # of what noise can be; and of the work that growth takes to be more
SMALL = 0.1  # of such a leak: what is no more is none to look for

BAR = 12  # characters


def document(
    lows: Mapping[WorkerId, int], last: Snapshot, before: Mapping[str, Any], warmup: float
) -> dict[str, Any]:
    """Its part of a program's part of `audit --json`."""
    changes = [
        {
            **change._asdict(),
            "id": str(change.id),
            "pid": change.id.pid,
            "young": change.then is not None and change.then < warmup,
        }
        for change in runs.compare(lows, last.workers, before)
    ]
    since = last.at - before["saved"] if before.get("saved") else None
    gone = runs.gone(last.workers, before)
    return {
        "changes": changes,
        "since": since,
        "gone": gone,
        "restarted": _restarted(last, before),
        "ruled_out": _ruled_out(changes, since),
    }


def nothing() -> dict[str, Any]:
    """The same, where nothing is compared."""
    return {"changes": [], "since": None, "gone": [], "restarted": None, "ruled_out": None}


def _restarted(last: Snapshot, before: Mapping[str, Any]) -> list[int] | None:
    """[pid then, pid now] of a master that is another one."""
    then, now = before.get("master"), last.master
    if not then or now is None or then["id"] == str(now.id):
        return None
    return [int(then["id"].partition(":")[0]), now.id.pid]


def _ruled_out(changes: Sequence[Mapping[str, Any]], since: float | None) -> dict[str, Any] | None:
    """Which growth would have been found in those that worked and hold no more than before."""
    same = [c for c in changes if c["found"] == runs.SAME and (c["work"] or 0) > 0]
    same = [c for c in same if not did_nothing(c) and not c["idle"]]
    if not same:
        return None
    best = min(same, key=lambda change: float(change["hidden"] / change["work"]))
    per_work = best["hidden"] / best["work"]
    coarse = COARSE[best["unit"]]
    # Nearly more than noise is no "same", unless that would be a very small leak: what would make
    # it more, if it is growth?
    nearly = max(change["beyond"] / change["hidden"] for change in same)
    open = per_work > coarse or (nearly > NEARLY and per_work > SMALL * coarse)
    wanted = best["hidden"] / coarse
    if nearly > NEARLY:
        wanted = max(wanted, best["work"] / nearly * MARGIN)
    return {
        "bytes": best["hidden"],
        "work": best["work"],
        "unit": best["unit"],
        "per_work": per_work,
        "per_hour": best["hidden"] * HOUR / since if since and since >= MINUTE else None,
        "enough": not open,
        "work_wanted": wanted,
    }


def did_nothing(change: Mapping[str, Any]) -> bool:
    """Known to have answered no request, or to have used next to no CPU time."""
    work = change["work"]
    return work is not None and work <= (0 if change["unit"] == "request" else 0.05)


def found(changes: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is the matter, in sentences."""
    bad = [change for change in changes if change["found"] in (runs.LEAK, runs.GREW)]
    return [f"worker {change['pid']}: {change['found']}: {change['why']}" for change in bad]


# -- the table ------------------------------------------------------------------------------


def bar(value: float | None, largest: float, block: str) -> str:
    """As long as the value is large, of BAR characters; none where `block` is empty."""
    if not block:
        return ""
    if not value or largest <= 0:
        return " " * BAR
    return (block * max(1, round(BAR * min(value / largest, 1.0)))).ljust(BAR)


def table(program: Mapping[str, Any], block: str) -> list[str]:
    """Before and after, each worker a line."""
    changes = program["changes"]
    if not changes:
        return []
    largest = max(change["after"] for change in changes)
    rows = [
        [
            f"  worker {change['pid']}",
            "new" if change["before"] is None else units.size(change["before"]),
            units.size(change["after"]),
            bar(change["after"], largest, block),
            _found_words(program, change),
            change["why"],
        ]
        for change in changes
    ]
    since, held = program["since"], [change["after"] for change in changes]
    lines = [] if since is None else [f"  compared with {units.time(since)} ago:"]
    lines.append(report.table(["  ", "BEFORE", "NOW", bar(None, 0, block), "", ""], rows))
    if len(held) > 1:
        alike = "about the same: " if max(held) <= ALIKE * min(held) else ""
        lines.append(
            f"  the workers hold {alike}{units.size(min(held))} to {units.size(max(held))}"
        )
    return lines


def _found_words(program: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    word: str = change["found"]
    if word in (runs.LEAK, runs.SETTLED):
        return f"{word}: {sure(change['confidence'])}"
    if word == runs.NEW:
        return ""
    if word != runs.SAME:
        return word
    if _is_less(change):
        return "less"
    ruled_out = program["ruled_out"]
    if not ruled_out or ruled_out["enough"]:
        return word
    return "too early" if change["beyond"] > NEARLY * change["hidden"] else "same so far"


def _is_less(change: Mapping[str, Any]) -> bool:
    return bool(change["beyond"] < -change["hidden"])


def sure(confidence: float) -> str:
    """`very likely (90 %)`."""
    words = ("possible", "likely", "very likely", "almost certain")
    return f"{words[sum(confidence >= bound for bound in (0.6, 0.8, 0.95))]} ({confidence:.0%})"


# -- what it means ----------------------------------------------------------------------------


def summary(program: Mapping[str, Any]) -> list[str]:
    """What was found, or that it is too early; nothing where nothing was compared."""
    old = [change for change in program["changes"] if change["found"] != runs.NEW]
    said, ruled_out = _growth(old), program["ruled_out"]
    if said and ruled_out is not None:
        of_others = "of the others" if ruled_out["enough"] else "too early to tell of the others"
        said.append(f"{of_others}: {_unseen(ruled_out, program['since'])}")
    if said or not old:
        return said
    if all(map(did_nothing, old)):
        return ["no worker did any work meanwhile: that proves nothing"]
    if ruled_out is None:  # what they did is not known
        return ["no worker holds more than it held then; how much work they did is not known"]
    unseen = _unseen(ruled_out, program["since"])
    if not ruled_out["enough"]:
        return [f"too early to tell: {unseen}"]
    who = "every worker" if len(old) == len(program["changes"]) else "each that was there before"
    less = ", or less" if any(map(_is_less, old)) else ""
    return [f"{who} holds about what it held then{less}; {unseen}"]


def _unseen(ruled_out: Mapping[str, Any], since: float | None) -> str:
    per_work = f"{units.size(ruled_out['per_work'])} per {ruled_out['unit']}"
    text = f"a leak of up to {per_work}"
    if ruled_out["per_hour"] is not None:
        text += f", or {units.size(ruled_out['per_hour'])}/h,"
    work = runs.amount(ruled_out["work"], ruled_out["unit"])
    text += f" would not show in {work} (the most of a worker)"
    return text if since is None else f"{text} and {units.time(since)}"


def _growth(old: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = {change["found"] for change in old}
    leaks = [change for change in old if change["found"] == runs.LEAK]
    said = []
    if leaks:
        pids = ", ".join(str(change["pid"]) for change in leaks)
        how = sure(max(change["confidence"] for change in leaks))
        said.append(
            f"a leak, {how}: worker{'s' * (len(leaks) > 1)} {pids} grew again{_for_work(leaks)}"
            + _in_all(leaks)
        )
    grew = [change for change in old if change["found"] == runs.GREW]
    if grew and all(change["idle"] or did_nothing(change) for change in grew):
        said.append("what grew did no work: look at threads, timers and background tasks")
    elif grew:
        it = f"{_workers([str(change['pid']) for change in grew])} hold{'s' * (len(grew) == 1)}"
        young = " or a warm-up" if any(change["young"] for change in grew) else ""
        said.append(
            f"{it} on to what the run left: a cache that filled{young}, or a leak (one run cannot "
            "tell). Save again, do the same run once more, and compare: a cache stays, a leak "
            "grows by as much again"
        )
    if runs.UNCLEAR in kinds:
        said.append("too little work since then to tell whether it grows again")
    if runs.SETTLED in kinds and not leaks:
        said.append(
            "what grew in the run before has settled: if this was the same run, it is no leak but "
            "a cache that has filled"
        )
    return said


def _for_work(leaks: Sequence[Mapping[str, Any]]) -> str:
    if all(map(did_nothing, leaks)):
        return ", though it did no work: look at threads, timers and background tasks"
    shares = [change["share"] for change in leaks]
    if None in shares:
        return " (what work it did is not known of both runs)"
    share = units.median(shares)
    if runs.ALIKE <= share <= 1 / runs.ALIKE:
        return " for about the same work"
    return f" for {share:.1f} times the work of the run before"


def _in_all(leaks: Sequence[Mapping[str, Any]]) -> str:
    """The sums, where a worker alone grew by too little."""
    if not any(change["together"] for change in leaks):
        return ""
    now = units.signed_size(sum(change["beyond"] for change in leaks))
    then = units.signed_size(sum(change["earlier"] or 0 for change in leaks))
    return f", together by {now} ({then} in the run before)"


def not_compared(program: Mapping[str, Any], file: str) -> list[str]:
    """Whom `--since FILE` could say nothing of: new, gone, restarted."""
    changes, restarted = program["changes"], program["restarted"]
    if not changes:
        return [f"not in {units.printable(file)}: nothing to compare"]
    new = [str(change["pid"]) for change in changes if change["found"] == runs.NEW]
    said = []
    if restarted:
        said.append(
            f"restarted since the save: its master was {restarted[0]} and is {restarted[1]} now"
        )
    if new and len(new) == len(changes):
        said.append("no worker of before is left: nothing to compare")
    elif new:
        said.append(f"not compared, as {_they_are(new)} new since the save: {_workers(new)}")
    if program["gone"]:
        why = "" if restarted else " (max_requests, a recycle, a reload or a crash)"
        said.append(f"gone since the save, and not compared: {_workers(program['gone'])}{why}")
    return said


def _they_are(pids: Sequence[str]) -> str:
    return "it is" if len(pids) == 1 else "they are"


def _workers(pids: Sequence[str]) -> str:
    return f"worker{'s' * (len(pids) > 1)} {', '.join(pids)}"


def surer(
    program: Mapping[str, Any], command: str, file: str, warmup: float, watched: float
) -> list[str]:
    """What would make the comparison surer. `command`: of this audit, its names included."""
    changes = program["changes"]
    old = [change for change in changes if change["found"] != runs.NEW]
    again = f"{command} --for 0 --since {file}"
    if changes and not old:
        return [f"do the run between a new --save and --since: {command} --for 0 --save {file}"]
    said = []
    ruled_out = program["ruled_out"]
    grew = [change for change in old if change["found"] in (runs.GREW, runs.LEAK)]
    if old and all(map(did_nothing, old)):
        said.append(f"watch it: {command} --for 10m" if grew else f"do the run, then: {again}")
    elif any(change["found"] == runs.UNCLEAR for change in old):
        said.append(f"do more of the same run, then: {again}")
    elif ruled_out is not None and not ruled_out["enough"] and not grew:
        said.append(f"{_more(ruled_out, program['since'])}: {again}")
    young = [change for change in grew if change["young"]]
    if young:
        pids = _workers([str(change["pid"]) for change in young])
        age = units.time(min(change["then"] for change in young))
        said.append(
            f"save later: {pids} had started {age} before the save, and may only have warmed up "
            f"({units.time(warmup)})"
        )
    if grew and not watched:
        said.append(
            "compare when no request is under way, or with --for 10s: one look may catch what a "
            "request holds while it runs"
        )
    if grew and not any(change["idle"] for change in old):
        said.append(
            "no idle sibling is the control: wait as long without requests between --save and "
            "--since, and see what grows by itself"
        )
    return said


def _more(ruled_out: Mapping[str, Any], since: float | None) -> str:
    """How much more work would be enough, and how long that takes at the pace so far."""
    work, wanted, unit = ruled_out["work"], ruled_out["work_wanted"], ruled_out["unit"]
    text = f"compare after about {runs.amount(_two_digits(wanted), unit)} a worker since the save"
    if since and since > 0:
        text += f" ({units.time(rounded(since * wanted / work))} at the pace so far)"
    return text


def _two_digits(value: float) -> float:
    """Up to two digits: more are not known."""
    step = 10 ** max(len(str(int(value))) - 2, 0)
    return float(step * -(-value // step))


def rounded(seconds: float) -> float:
    """Up to full minutes, below two minutes to ten seconds."""
    step = 60.0 if seconds > 120 else 10.0
    return step * -(-seconds // step)
