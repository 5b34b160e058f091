"""What the journal says was told and done, as spans and rows of a page.

Entries come in, oldest first. `told`: verdicts with the time each stood; `actions`: what was done,
with reason, result and cost; `others`: what happened without us. Times are epoch seconds.

Not here: what it amounts to (page.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from . import units
from .curves import Life
from .model import Entry

ONE_DEED = 60.0  # what others did to several workers within so long is one mark
FILES = "open files"  # the measure of an action that is not about memory

Key = tuple[int | None, str]  # a pid (None: the program's) and a verdict's kind

# What others did, as a mark has it.
DEEDS = {
    "oom": "OOM kill",
    "reload": "reload by others",
    "master": "the master ended",
    "timeout": "gunicorn's timeout",
    "signal": "a signal",
    "exit": "a worker ended by itself",
    "max_requests": "max_requests",
    "ttin": "SIGTTIN",
    "ttou": "SIGTTOU",
}


def told(
    lines: Sequence[Entry],
    found: Sequence[Life],
    procedures: Mapping[str, Mapping[str, Any]],
    stands: Collection[Key] | None,
    since: float,
    until: float,
) -> list[dict[str, Any]]:
    """The verdicts that were told, each with the time it stood.

    One ends when it is told to be over, when all are (`recovered`), when its worker was replaced
    or ended otherwise, is no longer seen, or when it is told anew. `stands`: the verdicts that
    are told now (at `until`); None: not known.
    """
    standing: dict[Key, dict[str, Any]] = {}
    all: list[dict[str, Any]] = []
    gone = _gone(found)

    def end(key: Key, at: float) -> None:
        span = standing.pop(key)
        span["until"] = max(min(at, gone.get(key[0], at)), span["since"])

    def end_all_of(pid: int | None, at: float) -> None:
        for key in [key for key in standing if key[0] == pid]:
            end(key, at)

    for line in lines:
        if line.kind == "suspected" and "verdict" in line.data:
            key = (line.data.get("pid"), str(line.data["verdict"]))
            if key in standing:
                end(key, line.at)
            who = "program" if key[0] is None else line.text.partition(":")[0]
            why = line.text.partition(f"{key[1]}: ")[2] or line.text
            standing[key] = {
                "kind": key[1],
                "pid": key[0],
                "who": who,
                "since": line.at,
                "until": None,
                "why": why,
            }
            all.append(standing[key])
        elif line.kind == "over" and (line.data.get("pid"), line.data.get("verdict")) in standing:
            end((line.data.get("pid"), str(line.data["verdict"])), line.at)
        elif line.kind == "recovered":
            for key in list(standing):
                end(key, line.at)
        elif line.kind == "outcome" and line.data.get("result") == "done":
            plan = procedures.get(str(line.data.get("procedure")), {})
            if plan.get("action") == "recycle":
                end_all_of(plan["target"][0], line.at)
                if line.data.get("also_pid") is not None:
                    end_all_of(line.data["also_pid"], line.at)
        elif line.kind == "seen" and isinstance(line.data.get("pid"), int):
            end_all_of(line.data["pid"], line.at)
    for key in list(standing):
        if key[0] in gone or (stands is not None and key not in stands):
            end(key, until)
    return [span for span in all if span["until"] is None or span["until"] >= since]


def _gone(found: Sequence[Life]) -> dict[int | None, float]:
    """pid -> when it was first no longer seen."""
    times = sorted({sample.at for life in found for sample in life.samples})
    after = dict(itertools.pairwise(times))
    lasts = {life.id.pid: life.samples[-1].at for life in found}
    return {pid: after[last] for pid, last in lasts.items() if last in after}


def actions(
    lines: Sequence[Entry], procedures: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What was done: why, with what result, what came back and what it cost."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        id = str(line.data.get("procedure", ""))
        if not id:
            continue
        if line.kind == "intent":
            plan = procedures.get(id, {})
            target = plan.get("target")
            found[id] = {
                "at": line.at,
                "ended": None,
                "action": str(plan.get("action") or _action_word(line.text)),
                "pid": target[0] if target else None,
                "also_pid": line.data.get("also_pid"),  # who leaves beside it: as planned, then did
                "kind": str(plan.get("kind", "")),
                "way": str(plan.get("way", "")),
                "by": str(plan.get("by", "memwatch")),
                "why": str(line.data.get("why") or line.text),
                "result": "under way",
                "text": "",
                "freed": None,
                "steps": [],
            }
        elif id in found and line.kind == "step" and "step" in line.data:
            found[id]["steps"].append([line.at, str(line.data["step"])])
        elif id in found and line.kind == "outcome":
            text = line.text.partition(": ")[2] or line.text
            files = procedures.get(id, {}).get("measure") == FILES
            freed = None if files else line.data.get("freed_bytes")
            found[id].update(
                ended=line.at, result=str(line.data.get("result")), text=text, freed=freed
            )
            found[id]["also_pid"] = line.data.get("also_pid")
    for action in found.values():
        action["cost"] = _cost(action)
    return list(found.values())


def _action_word(text: str) -> str:
    doing = {"recycling": "recycle", "reloading": "reload", "restarting": "restart"}
    return next((action for word, action in doing.items() if word in text), "action")


def _cost(action: Mapping[str, Any]) -> str:
    """What an action cost those who are served, as far as the journal tells."""
    took = units.time(action["ended"] - action["at"]) if action["ended"] is not None else None
    if took and action["result"] in ("failed", "overtaken"):
        return took  # how far it came is in its result
    what = {
        "recycle": "one boot, one worker fewer meanwhile",
        "reload": "every worker boots anew, at once",
        "restart": "the port was closed from the stop to the start",
    }.get(action["action"], "")
    if action["action"] == "recycle" and action["way"] == "surge":
        boots = "one boot" if action["also_pid"] is None else "two boots"
        what = f"{boots}, one worker more meanwhile"
    if any(step == "killed" for _, step in action["steps"]):
        what += "; requests of the worker that was killed"
    return f"{took}: {what}" if took else what


def others(lines: Sequence[Entry]) -> list[dict[str, Any]]:
    """What happened without us, and what was asked: deploys, ends of workers, pauses."""
    found: list[dict[str, Any]] = []
    marked: dict[str, float] = {}
    for line in lines:
        if line.kind not in ("release", "seen", "request", "gave_up", "recovered"):
            continue
        cause = str(line.data.get("cause", ""))
        mark = DEEDS.get(cause, "")
        if line.kind == "release":
            mark = "deploy"
        elif line.text.startswith("restarted by others"):
            mark = "restart by others"
        if mark:
            if line.at - marked.get(mark, float("-inf")) < ONE_DEED:
                marked[mark], mark = line.at, ""
            else:
                marked[mark] = line.at
        found.append({"at": line.at, "kind": line.kind, "text": line.text, "mark": mark})
    return found
