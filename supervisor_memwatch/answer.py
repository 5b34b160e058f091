"""The answer of a page about one program: is it leaking, which worker, how fast, what to do.

`answer` gives a headline and the lines under it. What was known of a leak outlives its worker: as
long as those that came after it are too young to tell, the headline says what was there before.

Not here: the verdicts and actions themselves (deeds.py), why something is not done (explain.py).
Times are epoch seconds, sizes bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import explain, units, wallclock
from .model import LEAK, PLATEAU, SPIKE, WARMING_UP
from .options import Options
from .trends import Early
from .units import MINUTE

# What of the advice the verdict's own sentence says already: how fast, and until when.
HOW_FAST = re.compile(r" leaks? .* so far$")
UNTIL_WHEN = re.compile(r"^(it|the first of them) is at .* in ")
PER_WORK = re.compile(r"\S+ per (?:request|CPU second)")
RATE = re.compile(r"[+-]\S+B/(?:min|h)\b")
# A leak that shows after so long may take its successor twice as long: there is less to do.
PATIENCE = 2.0
ONE_DEED = 60.0  # seconds within which workers end together
FAR = 48.0  # hours: a limit further away is not worth a time
FEW = 5  # workers and verdicts of the past that are named

# What deserves attention first.
LEAKING, TOLD, HELD, UNSURE, FINE = range(5)
RANKS = {"bad": TOLD, "unsure": UNSURE, "good": FINE}

DONE = {"recycle": "recycled", "reload": "reloaded", "restart": "restarted"}


class Known(NamedTuple):
    """What an answer is made of."""

    now: Mapping[str, Any] | None  # as in `status --json`; None: of a span that is over
    at: float
    zone: int
    silence: str
    advice: Sequence[str]
    paused: float | None  # until when
    options: Options | None
    early: Mapping[str, Early]
    told: Sequence[Mapping[str, Any]]  # the verdicts of the span (deeds.py),
    actions: Sequence[Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]]
    lives: Mapping[int, tuple[float, float]]  # by pid: when it was seen first, and last

    def clock(self, at: float) -> str:
        return wallclock.clock(at, self.zone, self.at)


def answer(known: Known) -> dict[str, Any]:
    """`headline` and `lines`; `tone`: bad, good, unsure; `rank`: what deserves attention first."""
    now = known.now
    if now is None:
        tone, headline, lines = _of_then(known)
        leaks = any(span["kind"] == LEAK for span in known.told)
    else:
        tone, headline, lines = _of_now(known, now)
        leaks = bool(now["action"] or _told(now, leaks=True) or _was_leaking(known, now))
    rank = LEAKING if leaks else RANKS[tone]
    if now is not None and (now["held"] or now["state"] != "RUNNING"):
        rank = min(rank, HELD)
    return {"tone": tone, "headline": headline, "lines": lines, "rank": rank}


# -- now -------------------------------------------------------------------------------------


def _of_now(known: Known, now: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    lines: list[str] = []
    if now["state"] != "RUNNING":
        lines.append(f"Supervisor says {now['state']}.")
    leaks = [
        f"{_who(pid, now)} is leaking{_since(known, pid)}: {_figures(known, now, pid, verdict)}."
        for pid, verdict in sorted(_told(now, leaks=True), key=_urgency(now))
    ]
    other = [
        f"{_who(pid, now)}: {verdict['kind']}: {verdict['why']}."
        for pid, verdict in _told(now, leaks=False)
    ]
    was = _was_leaking(known, now)
    lines += (leaks + other)[1:]
    lines += _advice(known, now, bool(leaks), bool(other))
    lines += _doing(known, now, bool(leaks or other))
    if leaks or other:
        lines += [was] if was and not leaks else []
        lines.append(f"The program holds {_total(now)}.")
        return "bad", (leaks + other)[0], lines
    tone, headline = _nothing_told(known, now)
    if was:
        tone, headline = "unsure", f"{was} The program holds {_total(now)}."
    if known.silence:
        tone, headline = "unsure", f"When it was last seen: {headline}"
    return tone, headline, lines


def _told(now: Mapping[str, Any], leaks: bool) -> list[tuple[int | None, Mapping[str, Any]]]:
    """The verdicts that are told now, with the pid (None: the program's): leaks, or the others."""
    holders = [(None, now), *((each["pid"], each) for each in people(now))]
    return [
        (pid, verdict)
        for pid, holder in holders
        for verdict in holder["verdicts"]
        if verdict["told"] and (verdict["kind"] == LEAK) == leaks
    ]


def people(now: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The master, if there is one, and the workers."""
    return [*([now["master"]] if now["master"] else []), *now["workers"]]


def _urgency(now: Mapping[str, Any]) -> Any:
    """A key by which what meets its limit first comes first, else the fastest."""
    known = {each["pid"]: each for each in people(now)}

    def key(told: tuple[int | None, Mapping[str, Any]]) -> tuple[float, float, int]:
        one = known.get(told[0], {}) if told[0] is not None else {}
        hours, trend = one.get("hours_to_limit"), one.get("trend")
        rate = trend["bytes_per_hour"] if trend else 0.0
        return float("inf") if hours is None else hours, -rate, told[0] or 0

    return key


def _who(pid: int | None, now: Mapping[str, Any]) -> str:
    if pid is None or now["kind"] == "plain":
        return "The program"
    if now["master"] and now["master"]["pid"] == pid:
        return f"Master {pid}"
    return f"Worker {pid}"


def _since(known: Known, pid: int | None) -> str:
    """When it was told, as the table of the page has it."""
    for span in known.told:
        if (span["pid"], span["kind"], span["until"]) == (pid, LEAK, None):
            return f", told at {known.clock(span['since'])}"
    return ""


def _figures(
    known: Known, now: Mapping[str, Any], pid: int | None, verdict: Mapping[str, Any]
) -> str:
    """What it holds, how fast it grows and until when, as of the last look: the verdict's own
    sentence may be some minutes old."""
    worker = next((each for each in now["workers"] if each["pid"] == pid), None)
    if worker is None or worker["trend"] is None:
        return str(verdict["why"])
    name = next(each for each in _measures(known) if worker[each] is not None)
    held = worker[name] + (worker["swap"] or 0)
    rate, low, high = (
        units.rate(worker["trend"][key] / 3600) for key in ("bytes_per_hour", "low", "high")
    )
    between = "" if low == high else f" (95 %: {low} to {high})"
    text = f"{name.upper()} {units.size(held)}, {rate}{between}"
    hours = worker["hours_to_limit"]
    if hours is None or hours > FAR:
        return text
    limit = "what it may hold" if worker["limit"] is None else units.size(worker["limit"])
    return f"{text}, {limit} in {units.time(hours * 3600)}"


def _measures(known: Known) -> Sequence[str]:
    """How big a worker is, by the first of these that is known."""
    wanted = known.options.measure if known.options is not None else "auto"
    return ("uss", "rss") if wanted == "auto" else (wanted, "rss")


def _advice(known: Known, now: Mapping[str, Any], leaks: bool, other: bool) -> list[str]:
    """What the verdict's sentence does not say."""
    kinds = {verdict["kind"] for worker in people(now) for verdict in worker["verdicts"]}
    if not (leaks or other or kinds & {PLATEAU, SPIKE}):
        return []  # it is a minute old
    lines = []
    for text in known.advice:
        if leaks and HOW_FAST.search(text):
            cost = PER_WORK.search(text)
            lines += [f"That is {cost[0]}."] if cost else []
        elif not (leaks and UNTIL_WHEN.search(text)):
            lines.append(f"Advice: {text}.")
    return lines


def _doing(known: Known, now: Mapping[str, Any], told: bool) -> list[str]:
    """What is done about it, and what is in the way."""
    found = explain.explain(now, (), known.at, known.options, known.paused, known.early)
    lines = []
    said = ""
    if told or known.paused or now["action"]:
        said = found["answer"]
        # The reason of what is under way is in its table, and in the headline.
        lines.append(said.partition(", because ")[0].rstrip(".") + "." if now["action"] else said)
        lines += [
            f"{_capital(verdict['who'])}: {verdict['kind']}: {verdict['lacks']}."
            for verdict in found["verdicts"]
            if verdict["told"] and not verdict["act"]
        ]
    for held in found["held"]:
        reason = "" if held["text"] in said else f"Held: {held['text']}. "
        lines.append((reason + _lets_go(known, held)).rstrip())
    return [line for line in lines if line]


def _lets_go(known: Known, held: Mapping[str, Any]) -> str:
    when = None if held["until"] is None else f"at {known.clock(held['until'])}"
    lets_go = ", ".join(filter(None, (when, held["lets_go"])))
    return f"It lets go {lets_go}." if lets_go else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _total(now: Mapping[str, Any]) -> str:
    of = f" of the {units.size(now['total_limit'])} it may" if now["total_limit"] else ""
    return f"{units.size(now['total'])}{of}"


def _nothing_told(known: Known, now: Mapping[str, Any]) -> tuple[str, str]:
    if now["state"] != "RUNNING":
        return "unsure", "Not running: there is nothing to judge."
    if not now["workers"]:
        return "unsure", "No process of it is seen: there is nothing to judge."
    held = f"the program holds {_total(now)}"
    if known.options is not None and known.options.growth == "off":
        return "unsure", f"Leaks are not looked for (growth = off); {held}."
    kinds = [{verdict["kind"] for verdict in worker["verdicts"]} for worker in now["workers"]]
    if all(WARMING_UP in each for each in kinds):
        return "unsure", f"Too early to tell: its workers are still warming up; {held}."
    young = [known.early[worker["id"]] for worker in now["workers"] if worker["id"] in known.early]
    if young:
        watched = units.time(min(each.watched for each in young))
        needed = units.time(max(each.needed for each in young))
        return "unsure", (
            f"Too early to tell: {len(young)} of {len(now['workers'])} workers watched for "
            f"{watched} of {needed}, none told to leak; {held}."
        )
    many = len(now["workers"])
    whose = f"none of its {many} workers is told to leak" if many > 1 else "it is not told to leak"
    return "good", f"Not leaking, as far as can be seen: {whose}; {held}."


# -- what was leaking ------------------------------------------------------------------------


def _was_leaking(known: Known, now: Mapping[str, Any]) -> str:
    """Of a leak whose worker has gone, while those that came after it are too young to tell.

    Other code may have ended it: what was told before the last deploy is not said.
    """
    there = {worker["pid"] for worker in now["workers"]}
    deployed = max((each["at"] for each in known.others if each["mark"] == "deploy"), default=0.0)
    gone = [
        span
        for span in known.told
        if span["kind"] == LEAK and span["until"] is not None and span["pid"] not in there
        if span["until"] > deployed and span["until"] >= _seen(known, span)[1]
    ]
    if not gone:
        return ""
    last = gone[-1]
    after = [
        worker
        for worker in now["workers"]
        if worker["age"] is not None and known.at - worker["age"] >= last["since"]
    ]
    took = last["since"] - _seen(known, last)[0]
    age = max((worker["age"] for worker in after), default=0.0)
    if age >= PATIENCE * took and now["workers"]:
        return ""
    rate = RATE.search(last["why"])
    pids = [str(span["pid"]) for span in gone if span["until"] > last["until"] - ONE_DEED]
    who = f"workers {', '.join(pids[-FEW:])}" if len(pids) > 1 else last["who"]
    text = f"Was leaking: {who}{f' at {rate[0]}' if rate else ''}, {_ended(known, last)}."
    if not after:
        return text
    said = "Too early to tell of" if age < took else "Nothing is told yet of"
    newer = ", ".join(str(worker["pid"]) for worker in after[:FEW])
    whom = f"worker {newer} is" if len(after) == 1 else f"workers {newer} are at most"
    return (
        f"{text} {said} what came after: {whom} {units.time(age)} old, the leak was told after "
        f"about {units.time(round(took / MINUTE) * MINUTE)}."  # as exact as the samples are
    )


def _seen(known: Known, span: Mapping[str, Any]) -> tuple[float, float]:
    """When the worker of a verdict was seen first, and last."""
    return known.lives.get(span["pid"], (span["since"], span["since"]))


def _ended(known: Known, span: Mapping[str, Any]) -> str:
    """`recycled at 18:10`."""
    for action in reversed(known.actions):
        own = span["pid"] in (action["pid"], action["also_pid"])
        if action["at"] >= span["since"] and (own or action["action"] != "recycle"):
            if action["ended"] is None:
                return f"{action['action']} under way since {known.clock(action['at'])}"
            if own or action["at"] <= span["until"] <= action["ended"]:
                done = DONE.get(action["action"], action["action"])
                return f"{done} at {known.clock(action['at'])}"
    return f"ended at {known.clock(span['until'])}"


# -- then ------------------------------------------------------------------------------------


def _of_then(known: Known) -> tuple[str, str, list[str]]:
    """Of a span that is over, or of a program that is no longer watched."""
    leaks = [span for span in known.told if span["kind"] == LEAK]
    lines = [
        f"{_capital(span['who'])}: {span['kind']} told at {known.clock(span['since'])}: "
        f"{span['why']}."
        for span in (leaks or list(known.told))[-FEW:]
    ]
    if leaks:
        who = list(dict.fromkeys(str(span["who"]) for span in leaks))
        more = ", ..." if len(who) > FEW else ""
        return "bad", f"It was told to leak: {', '.join(who[:FEW])}{more}.", lines
    if known.told:
        kinds = ", ".join(dict.fromkeys(str(span["kind"]) for span in known.told))
        return "bad", f"No leak was told, but: {kinds}.", lines
    if not known.lives:
        return "unsure", "Nothing was told; little was seen.", []
    return "good", "No leak was told in this time.", lines
