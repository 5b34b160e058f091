"""The keyboard of `memwatch top`: where the user is, what can be chosen, and what a key does.

`press` gives the next state, and a wish where something is to be done in the world. What is drawn
of it is screen.py's; granting wishes is top.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from . import cells, units
from .model import LEAK, MASTER_GROWTH

HOUR = units.HOUR
SORTS = ("size", "trend", "age", "pid", "name")
HELP = """\
up down j k PgUp PgDn Home End   choose a program, its master or a worker
s S        sort by size, trend, age, pid, name; S: the other way round these
/          show what has these letters in its name, pid, role or verdict
           (Enter keeps them; Esc shows everything again)
p          pause the program for an hour: nothing is done to it; or resume it
r          recycle the worker: SIGTERM, and gunicorn starts another; asks first
e          explain: why did it act, why did it not
?  q  ^L   this help, quit, draw anew

PRIVATE    what it alone holds: USS; ~ anonymous memory where USS is not known
SHARED     the rest of its RSS; in the line `all` what is shared, counted once
SWAP       what it has in swap
LAST HOUR  anonymous memory, else RSS, a program's workers on one scale; it ends
           at the largest, and begins at the smallest or a quarter below that
TREND/H    growth an hour, where there is room with its 95 % interval; 0: none
           that is sure
TO LIMIT   when it meets its limit, if that goes on
VERDICT    what is told, and how sure that is; !: it is to be acted on;
           without a percentage: not (yet) told

What is asked of the listener is subject to the same guards as what it does by
itself. Its answer is shown above the line of keys."""


Key = tuple[str, str]  # a program's namespec, and the id of a worker of it or ""
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Data:
    """What is known: the document of `status --json`, and what it does not have."""

    document: Mapping[str, Any]
    silence: str = ""  # why nothing newer comes
    advice: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # namespec -> worker id ("": of all) -> when and how much, of the hour before `until`
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    until: float = 0.0
    paused: Mapping[str, float] = field(default_factory=dict)  # namespec -> until when
    clock: str = ""  # the time of day
    trouble: str = ""  # why nothing newer could be read


class Wish(NamedTuple):
    """What the user wants of the world: "quit", "redraw", "explain", or "ask" the listener."""

    what: str
    command: str = ""
    target: str = ""
    seconds: float | None = None


class Question(NamedTuple):
    """What is asked before something is done: about whom, and what `y` will do."""

    text: str
    about: Key
    wish: Wish


@dataclass(frozen=True)
class State:
    """Where the user is."""

    columns: int = 80
    rows: int = 24
    sort: str = SORTS[0]
    filter: str = ""
    typing: bool = False  # the filter is being typed
    chosen: Key = ("", "")
    top: int = 0  # the first line of the list that is shown
    question: Question | None = None
    page: tuple[str, ...] = ()  # a text that covers the list
    page_top: int = 0
    message: str = ""  # what was said last
    ascii: bool = False


# -- what can be chosen ----------------------------------------------------------------------


def count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def people(program: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The master, where there is one, and the workers."""
    return [*([program["master"]] if program["master"] else []), *program["workers"]]


def role(program: Mapping[str, Any], worker: Mapping[str, Any]) -> str:
    return "master" if worker is program["master"] else "worker"


def private(worker: Mapping[str, Any]) -> int | None:
    """What would come back with the worker; by anonymous memory where USS is not known."""
    found: int | None = worker["anon"] if worker["uss"] is None else worker["uss"]
    return found


def size(worker: Mapping[str, Any]) -> float:
    own = private(worker)
    return float((worker["rss"] if own is None else own) + (worker["swap"] or 0))


def leaks(worker: Mapping[str, Any]) -> bool:
    """Whether growth of it is told."""
    return any(one["told"] and one["kind"] in (LEAK, MASTER_GROWTH) for one in worker["verdicts"])


def speed(worker: Mapping[str, Any]) -> float:
    return worker["trend"]["bytes_per_hour"] if worker["trend"] else float("-inf")


_ORDER: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "size": lambda worker: (-size(worker), worker["pid"]),
    # What is told to leak comes first, also where how fast is not known (any more).
    "trend": lambda worker: (not leaks(worker), -speed(worker), worker["pid"]),
    "age": lambda worker: (-(worker["age"] or 0.0), worker["pid"]),
    "pid": lambda worker: worker["pid"],
    "name": lambda worker: worker["pid"],
}


def programs(state: State, data: Data) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """The programs that are shown, each with those of its people that are, in order."""
    order = _ORDER[state.sort]
    found = []
    for program in data.document["programs"]:
        shown = people(program)
        if not _matches(state.filter, program["namespec"]):
            shown = [one for one in shown if _matches(state.filter, *_words(program, one))]
            if not shown and not _matches(state.filter, *_kinds(program)):
                continue
        # The master first: the workers are compared with each other.
        first = [one for one in shown if one is program["master"]]
        found.append((program, first + sorted((o for o in shown if o not in first), key=order)))
    if state.sort == "size":
        found.sort(key=lambda pair: -(pair[0]["total"] or 0))
    elif state.sort != "name":
        # By the first of its people; those without anybody last.
        found.sort(key=lambda pair: (not pair[1], min(map(order, pair[1]), default=0)))
    return found


def _matches(wanted: str, *words: str) -> bool:
    return any(wanted.casefold() in word.casefold() for word in words)


def _words(program: Mapping[str, Any], worker: Mapping[str, Any]) -> list[str]:
    return [str(worker["pid"]), role(program, worker), *_kinds(worker)]


def _kinds(holder: Mapping[str, Any]) -> list[str]:
    return [verdict["kind"] for verdict in holder["verdicts"]]


def keys(state: State, data: Data) -> list[Key]:
    """What can be chosen, from top to bottom."""
    found = []
    for program, shown in programs(state, data):
        found.append((program["namespec"], ""))
        found.extend((program["namespec"], worker["id"]) for worker in shown)
    return found


def find(data: Data, key: Key) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """The program and the worker (or master) of a key, as far as they are still there."""
    for program in data.document["programs"]:
        if program["namespec"] == key[0]:
            return program, next((one for one in people(program) if one["id"] == key[1]), None)
    return None, None


# -- what a key does ------------------------------------------------------------------------

MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdn": 10}
ENDS = {"home": 0, "end": -1}
LEAVE = ("q", "ctrl-d", "escape")


def press(state: State, data: Data, key: str) -> tuple[State, Wish | None]:
    """The next state, and what is to be done in the world."""
    if key == "ctrl-l":
        return state, Wish("redraw")
    if state.question is not None:
        return _answer(state, data, state.question, key)
    if state.typing:
        return _type(state, key), None
    if state.page:
        return _turn(state, key), None
    if key in MOVES or key in ENDS:
        return _move(state, data, key), None
    if key in ("q", "ctrl-d"):
        return state, Wish("quit")
    if key in ("s", "S"):
        step = 1 if key == "s" else -1
        return replace(state, sort=SORTS[(SORTS.index(state.sort) + step) % len(SORTS)]), None
    if key == "/":
        return replace(state, typing=True), None
    if key == "escape":
        return replace(state, filter="", message=""), None
    if key == "?":
        return replace(state, page=tuple(HELP.split("\n")), page_top=0), None
    return _do(state, data, key)


def _move(state: State, data: Data, key: str) -> State:
    found = keys(state, data)
    if not found:
        return state
    here = found.index(state.chosen) if state.chosen in found else 0
    there = ENDS[key] if key in ENDS else max(0, min(len(found) - 1, here + MOVES[key]))
    return replace(state, chosen=found[there])


def _type(state: State, key: str) -> State:
    if key == "enter":
        return replace(state, typing=False)
    if key == "escape":
        return replace(state, typing=False, filter="")
    if key == "backspace":
        return replace(state, filter=state.filter[:-1])
    if len(key) == 1 and key.isprintable():
        return replace(state, filter=(state.filter + key)[:60])
    return state


def _turn(state: State, key: str) -> State:
    """Inside a page."""
    if key in MOVES:
        return replace(state, page_top=max(0, state.page_top + MOVES[key]))
    if key in ENDS:
        return replace(state, page_top=0 if key == "home" else len(state.page) * 100)
    if key in (*LEAVE, "?", "e", "enter"):
        return replace(state, page=(), page_top=0)
    return state


def _do(state: State, data: Data, key: str) -> tuple[State, Wish | None]:
    """The keys that are about the chosen row."""
    program, worker = find(data, state.chosen)
    if key not in ("p", "r", "e", "enter") or program is None:
        return state, None
    name = program["namespec"]
    if key in ("e", "enter"):
        return state, Wish("explain", target=name)
    if key == "p":
        if is_paused(program, data):
            return state, Wish("ask", "resume", name)
        return state, Wish("ask", "pause", name, HOUR)
    if worker is None or worker is program["master"]:
        return replace(state, message="r recycles a worker: choose one with the arrows"), None
    if program["kind"] != "gunicorn":
        return replace(state, message=f"{name} is no gunicorn: it has no workers to recycle"), None
    return replace(state, question=_recycle(program, worker, state.chosen)), None


def _recycle(program: Mapping[str, Any], worker: Mapping[str, Any], key: Key) -> Question:
    pid = worker["pid"]
    text = (
        f"Recycle worker {pid} of {program['namespec']} ({cells.short(size(worker))})? After the "
        "preflight, and unless a guard holds it, it gets SIGTERM and finishes its requests; "
        "gunicorn starts another in its place. y/N"
    )
    return Question(text, key, Wish("ask", "recycle", str(pid)))


def _answer(state: State, data: Data, question: Question, key: str) -> tuple[State, Wish | None]:
    state = replace(state, question=None)
    if key not in ("y", "Y"):
        return replace(state, message="nothing was done"), None
    if find(data, question.about)[1] is None:
        return replace(state, message=f"worker {question.wish.target} has gone meanwhile"), None
    return state, question.wish


def is_paused(program: Mapping[str, Any], data: Data) -> bool:
    until = data.paused.get(program["namespec"])
    return until is not None and until > data.document["time"]
