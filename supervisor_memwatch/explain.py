"""Why did it act, and why did it not: one program of `status --json` and its journal, in words.

`explain` gathers the reasons with their numbers, `words` says them, the answer first. Nothing is
decided here: what a verdict lacks is read off the verdict itself, what holds an action off the
guard's own reason. When a guard lets go stands here, for every code there is (LETS_GO).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from . import units
from .detectors import INFORMATIVE, Imbalance, Leak
from .model import (
    FD_GROWTH,
    IMBALANCE,
    LEAK,
    MASTER_GROWTH,
    PENDING,
    PLATEAU,
    RUNNING,
    SPIKE,
    WARMING_UP,
    Entry,
)
from .options import Options
from .report import budget_words, deed, trend_words
from .trends import Early

# "It lets go ...": when the guard of this code does, and what a person can do about it. {name}:
# the program. Where the guard knows the time, "in 3m, " stands before it.
LETS_GO = {
    "observe": "when mode = act stands in [memwatch:{name}] or [memwatch], and the listener is "
    "restarted",
    "paused": "or at `memwatch resume {name}`",
    "in_action": "when that has ended",
    "not_running": "when Supervisor has it RUNNING: `supervisorctl status {name}`",
    "no_rpc": "when Supervisor's RPC answers again: `memwatch check` says what it meets",
    "second_master": "when one of the masters has gone",
    "no_master": "when a gunicorn master is seen below the program: `memwatch check`",
    "plain": "when restart stands in actions of [memwatch:{name}], if you want one",
    "no_action": "when restart stands in actions of [memwatch:{name}], if you want one",
    "gave_up": "a day after the last attempt, or when somebody reloads or restarts the program: "
    "what it runs has to be mended",
    "evidence": "when the listener runs as root or as the program's user",
    "leaving": "when it has gone; with kill = on it is sent SIGKILL after its grace",
    "max_unavailable": "when enough workers serve again; max_unavailable says how many may be away",
    "journal": "when the journal can be written again: the listener's log says why it cannot",
    "storm": "or when somebody else reloads or restarts the program, or at once for what a person "
    "asks for",
    "no_room": "when there is room for one more worker, or at once with --force",
    "budget": "or at once with --force",
    "cooldown": "or at once with --force",
    "window": "or at once for what a person asks for, and for what is over a limit",
    "preflight": "when a new worker would boot: mend the application; what a verdict asks for is "
    "tried again by itself",
    "preflight_pending": "within seconds",
    "deploy": "when its files have not changed for a few seconds",
    "max_programs_at_once": "when the other one has ended",
}
NO_LEAK = {
    PLATEAU: "it has stopped growing by itself, as a cache does that is full: no leak",
    SPIKE: "one step and flat since, as after one large request: no leak",
}
# What is going on at each step of an action.
STEPS = {
    "planned": "about to begin",
    "adding": "one more worker is booting first",
    "quiet": "waiting for a quiet moment",
    "leaving": "it was asked to leave",
    "killed": "it was sent SIGKILL",
    "replacing": "its replacement is awaited",
    "removing": "the oldest worker was asked to leave",
    "evening": "the number of workers is put right",
    "reloading": "new workers are awaited",
    "stopping": "it is being stopped",
    "starting": "it is being started",
    "settling": "what came back is about to be measured",
}
# A request waits for these; any other guard is the end of it.
GIVEN_UP = "that request was given up: ask again then"
WAITED_FOR = (*PENDING, "max_programs_at_once")
FEW = 3  # requests and refusals of the past that are shown


def explain(
    program: Mapping[str, Any],
    entries: Iterable[Entry],
    now: float,
    options: Options | None = None,
    paused_until: float | None = None,
    early: Mapping[str, Early] | None = None,
) -> dict[str, Any]:
    """Every reason there is, for one program of `status --json`.

    entries: of the journal, oldest first; others than this program's are left out. now: epoch
    seconds. options: the program's, for what a verdict still lacks. paused_until: epoch seconds.
    early: by worker id, of whom nothing can be said yet.
    """
    name = program["namespec"]
    own = [entry for entry in entries if _concerns(entry, name)]
    siblings = _siblings(program)
    verdicts = [
        {"who": who, **verdict, "lacks": lacks(verdict, now, options, limit, siblings)}
        for who, limit, found in _holders(program)
        for verdict in found
    ]
    wanted = any(verdict["act"] for verdict in verdicts)
    held = [
        {
            **reason,
            "lets_go": lets_go(reason["code"], name),
            "given_up": not wanted and reason["code"] not in WAITED_FOR,
        }
        for reason in program["held"]
    ]
    paused = paused_until if paused_until is not None and paused_until > now else None
    found = {
        "namespec": name,
        "state": program["state"],
        "kind": program["kind"],
        "mode": program["mode"],
        "verdicts": [verdict for verdict in verdicts if verdict["kind"] not in INFORMATIVE],
        "no_leak": [verdict for verdict in verdicts if verdict["kind"] in INFORMATIVE],
        "quiet": _quiet(program, early or {}),
        "held": held,
        "paused_until": paused,
        "budget": program["budget"],
        "action": program["action"],
        "last_action": program["last_action"],
        "plan": _plan(program["last_action"], own),
        "refused": _refused(own, {reason["code"] for reason in held}),
        "requests": _requests(own),
    }
    return {"namespec": name, "answer": _answer(found, now, options), **found}


def lines(
    program: Mapping[str, Any],
    entries: Iterable[Entry],
    now: float,
    options: Options | None = None,
    paused_until: float | None = None,
    early: Mapping[str, Early] | None = None,
) -> list[str]:
    """The same in words, printable."""
    return words(explain(program, entries, now, options, paused_until, early), now)


# -- the reasons


def lets_go(code: str, namespec: str) -> str:
    """When a guard lets go and what can be done about it."""
    return LETS_GO.get(code, "").format(name=namespec)


def lacks(
    verdict: Mapping[str, Any],
    now: float,
    options: Options | None = None,
    limit: int | None = None,
    siblings: str = "",
) -> str:
    """What a verdict lacks to be told, or to be acted on: what is measured against its bound.
    siblings: which of them may be recycled before it."""
    kind = verdict["kind"]
    if kind in NO_LEAK:
        return NO_LEAK[kind]
    if kind in INFORMATIVE:
        left = verdict["since"] + (verdict["bound"] or 0.0) - now
        return f"no verdict but limit for another {_time(left)}"
    if not verdict["told"]:
        return _until_told(verdict, now, options)
    figures = _against(verdict, options, limit, siblings)
    return f"enough to act: {figures}" if verdict["act"] else f"told, not acted on: {figures}"


def _until_told(verdict: Mapping[str, Any], now: float, options: Options | None) -> str:
    held = _time(now - verdict["since"])
    if options is None:
        return f"not told yet: it stands for {held} and is not confirmed"
    if now - verdict["since"] < options.confirm:
        need = units.time(options.confirm)
        return f"not told yet: it has to hold for {need} without a break, {held} so far"
    if verdict["kind"] == IMBALANCE:
        return "never told: it works more than its siblings, which explains it"
    return "told at the next look"


def _against(
    verdict: Mapping[str, Any], options: Options | None, limit: int | None, siblings: str
) -> str:
    """What was measured, and from where on it is acted on."""
    kind, measured, bound = verdict["kind"], verdict["measured"], verdict["bound"]
    if bound is None:
        return str(verdict["why"])
    if kind == FD_GROWTH:
        return f"{measured:.0f} open files, acted on from {bound:.0f} on{_percent(measured, bound)}"
    if kind == IMBALANCE:
        return _imbalance(measured, bound, options, limit)
    if kind not in (LEAK, MASTER_GROWTH):
        return f"holds {units.size(measured)} of {units.size(bound)}"
    text = f"it has grown {units.size(measured)}, acted on from {units.size(bound)} of growth on"
    text += _percent(measured, bound)
    if verdict["act"]:
        return text if measured >= bound else f"its limit is near: that is enough; {text}"
    if measured < bound:
        return f"{text}, or when its limit is less than {units.time(Leak().soon)} away"
    if kind == MASTER_GROWTH:
        return f"{text}; that is enough, but it came in few steps"
    may = ["it came in few steps", "this program's healthy growth stopped there before"]
    if siblings:
        may.append(f"{siblings}, which grows alike, comes first")
    return f"{text}; that is enough, but {', '.join(may[:-1])} or {may[-1]}"


def _imbalance(measured: float, bound: float, options: Options | None, limit: int | None) -> str:
    text = f"it holds {units.size(measured)}, more than {units.size(bound)} is worth a word"
    if options is None or not options.imbalance:
        return text
    usual, share = bound / options.imbalance, Imbalance().share
    text += f"; {units.size(measured - usual)} more than its siblings"
    if limit is None:
        return f"{text}, acted on from {share:.0%} of the room there is for it"
    need = share * max(limit - usual, 0.0)
    return f"{text}, acted on from {units.size(need)} on{_percent(measured - usual, need)}"


def _percent(measured: float, bound: float) -> str:
    return f" ({int(100 * measured / bound)}% of that)" if bound > 0 else ""  # 99.9 is not all


def _holders(
    program: Mapping[str, Any],
) -> list[tuple[str, int | None, Sequence[Mapping[str, Any]]]]:
    """Of whom there can be verdicts: who it is, its limit, its verdicts."""
    found = [("the program", program["total_limit"], program["verdicts"])]
    if program["master"]:
        found.append((_who("master", program["master"]), None, program["master"]["verdicts"]))
    plain = program["kind"] == "plain"
    for worker in program["workers"]:
        who = "the program" if plain else _who("worker", worker)
        found.append((who, worker["limit"], worker["verdicts"]))
    return found


def _siblings(program: Mapping[str, Any]) -> str:
    """Whose recycle a worker may have to wait for: the one that is to be recycled, if there is."""
    for worker in program["workers"]:
        if any(verdict["kind"] == LEAK and verdict["act"] for verdict in worker["verdicts"]):
            return _who("worker", worker)
    return "a sibling" if len(program["workers"]) > 1 else ""


def _who(role: str, worker: Mapping[str, Any]) -> str:
    return f"{role} {worker['pid']}"


def _quiet(program: Mapping[str, Any], early: Mapping[str, Early]) -> dict[str, Any]:
    """The workers of whom nothing is said: those of whom nothing can be said yet, and how the one
    that grows most does."""
    silent = [worker for worker in program["workers"] if not worker["verdicts"]]
    young = {w["pid"]: early[w["id"]] for w in silent if w["id"] in early}
    moving = [worker for worker in silent if worker["trend"]]
    most = max(moving, key=lambda worker: worker["trend"]["bytes_per_hour"], default=None)
    return {
        "pids": [worker["pid"] for worker in silent],
        "early": list(young),
        "watched": min((each.watched for each in young.values()), default=None),
        "needed": max((each.needed for each in young.values()), default=None),
        "fastest": most and {"pid": most["pid"], "trend": most["trend"]},
    }


def _plan(last: Mapping[str, Any] | None, entries: Iterable[Entry]) -> str | None:
    """What the last action meant to do, as it was written down before it."""
    if last is None:
        return None
    plans = [
        e.text for e in entries if e.kind == "intent" and e.data.get("procedure") == last["id"]
    ]
    return plans[-1] if plans else None


def _refused(entries: Iterable[Entry], standing: Collection[str]) -> list[dict[str, Any]]:
    """The latest refusal for each reason that does not hold any more, newest first."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        code = str(entry.data.get("code", entry.kind))
        if entry.kind in ("held", "gave_up") and code not in standing:
            latest[code] = entry
    newest = sorted(latest.items(), key=lambda item: -item[1].at)[:FEW]
    return [{"code": code, **_entry(entry)} for code, entry in newest]


def _concerns(entry: Entry, namespec: str) -> bool:
    """Whether it is about the program, or about all; what was refused there was about none."""
    if entry.namespec == "":
        return entry.data.get("answer") != "refused"
    return entry.namespec == namespec


def _requests(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The latest, each with what was answered last."""
    latest: dict[object, Entry] = {}
    for number, entry in enumerate(entries):
        if entry.kind == "request":
            id = entry.data.get("id", number)
            latest.pop(id, None)
            latest[id] = entry
    return [_entry(entry) for entry in latest.values()][-FEW:]


def _entry(entry: Entry) -> dict[str, Any]:
    return {"at": entry.at, "text": entry.text}


# -- the answer


def _answer(found: Mapping[str, Any], now: float, options: Options | None) -> str:
    """The one sentence that is read first."""
    action = found["action"]
    if action:
        since = _time(now - action["begun"])
        return f"It is acting: {_doing(action)}, for {since}, because {action['why']}."
    wanted = [verdict for verdict in found["verdicts"] if verdict["act"]]
    told = [verdict for verdict in found["verdicts"] if verdict["told"]]
    if found["held"] and wanted:
        return f"It would act on {_named(wanted[0])}, and is held: {found['held'][0]['text']}."
    if found["held"]:
        return f"What was asked for is held: {found['held'][0]['text']}."
    if found["state"] != RUNNING:
        return f"It does nothing: Supervisor says {found['state']}."
    if found["paused_until"] is not None:
        return f"It begins nothing: paused for another {_time(found['paused_until'] - now)}."
    if wanted:
        return f"It acts on {_named(wanted[0])} at its next look."
    if told:
        return f"It has told {_named(told[0])} and does not act: that is not enough yet."
    if found["verdicts"]:
        return f"It has its eye on {_named(found['verdicts'][0])}, which is not sure yet."
    if not found["no_leak"] and not found["quiet"]["pids"]:
        what = "no process of it" if found["kind"] == "plain" else "no worker"
        return f"It does nothing: {what} is seen."
    if not found["quiet"]["pids"] and all(v["kind"] == WARMING_UP for v in found["no_leak"]):
        who = "it" if found["kind"] == "plain" else "every worker"
        return f"It does nothing yet: {who} is too young to be judged."
    early, judged = found["quiet"]["early"], len(found["quiet"]["pids"]) + len(found["no_leak"])
    if early:
        whom = "" if found["kind"] == "plain" or len(early) == judged else f" of {_pids(early)}"
        return f"It does nothing yet: too early to tell a leak{whom}{_watched(found['quiet'])}."
    if options is not None and options.growth == "off":
        return "It does nothing: nobody is over a limit; leaks are not looked for (growth = off)."
    return (
        "It does nothing, for there is nothing to do: no leak is confirmed, nobody is over a limit."
    )


def _watched(quiet: Mapping[str, Any]) -> str:
    """How long, and how long it takes."""
    watched, needed = units.time(quiet["watched"]), units.time(quiet["needed"])
    return f", watched for {watched}; it takes {needed}, less where growth is fast"


def _pids(pids: Sequence[int]) -> str:
    listed = ", ".join(map(str, pids[:8])) + (", ..." if len(pids) > 8 else "")
    return f"{len(pids)} worker{'s' if len(pids) > 1 else ''} ({listed})"


def _named(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['kind']} of {verdict['who']}"


def _doing(action: Mapping[str, Any]) -> str:
    return f"{deed(action, ' of ')} ({STEPS.get(action['step'], action['step'])})"


# -- words


def words(found: Mapping[str, Any], now: float) -> list[str]:
    """An explanation as people read it: printable lines, the answer first."""
    out = [f"{found['namespec']}: {found['answer']}"]
    for verdict in found["verdicts"]:
        out.append(f"  {verdict['who']}: {verdict['kind']}: {verdict['why']}")
        out.append(f"    {verdict['lacks']}")
    out += [
        f"  {verdict['who']}: {verdict['kind']}: {verdict['why']}; {verdict['lacks']}"
        for verdict in found["no_leak"]
    ]
    out += _quiet_words(found["quiet"])
    for held in found["held"]:
        out.append(f"  held ({held['code']}): {held['text']}")
        until = None if held["until"] is None else f"in {_time(held['until'] - now)}"
        line = "    it lets go " + ", ".join(filter(None, (until, held["lets_go"])))
        out.append(line + (f"; {GIVEN_UP}" if held["given_up"] else ""))
    out += _terms(found, now)
    if found["last_action"]:
        out += _last_words(found["last_action"], found["plan"], now)
    elif not found["action"]:
        out.append("  last action: none that is remembered")
    out += [f"  refused {_ago(past, now)}: {past['text']}" for past in found["refused"]]
    out += [f"  asked {_ago(past, now)}: {past['text']}" for past in found["requests"]]
    return [units.printable(line, 1000) for line in out]


def _quiet_words(quiet: Mapping[str, Any]) -> list[str]:
    pids = quiet["pids"]
    if not pids:
        return []
    text = f"  no verdict on {_pids(pids)}"
    if quiet["early"] and len(quiet["early"]) < len(pids):
        text += f", too early for one on {_pids(quiet['early'])}"
    fastest = quiet["fastest"]
    if fastest and fastest["trend"]["bytes_per_hour"] > 0:
        trend = fastest["trend"]
        low, high = (units.rate(trend[key] / 3600) for key in ("low", "high"))
        text += f"; {fastest['pid']} grows most: {trend_words(trend)} ({low} to {high})"
    return [text]


def _terms(found: Mapping[str, Any], now: float) -> list[str]:
    """Under which terms it acts at all."""
    text = f"  mode {found['mode']}; {budget_words(found['budget'])}"
    if found["paused_until"] is not None:
        text += f"; paused for another {_time(found['paused_until'] - now)}"
    return [text]


def _last_words(last: Mapping[str, Any], plan: str | None, now: float) -> list[str]:
    took, ago = _time(last["ended"] - last["begun"]), _time(now - last["ended"])
    out = [f"  last action: {deed(last, ' of ')} by {last['by']}, {ago} ago, took {took}"]
    out.append(f"    why: {plan or last['why']}")
    out.append(f"    result: {last['result']}: {last['text']}")
    return out


def _time(seconds: float) -> str:
    """Never negative: clocks differ."""
    return units.time(max(seconds, 0.0))


def _ago(past: Mapping[str, Any], now: float) -> str:
    return f"{_time(now - past['at'])} ago"
