"""The screen of `memwatch top`: what is known and where the user is, into lines with styles.

`settle` puts the user's place right after the world has moved on, `render` draws. There is no
terminal, clock or journal here. Whatever is drawn passes `_line`, where nothing unprintable gets
through. What keys do, and in which order programs and workers come, is keyboard.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from . import cells, report, units
from .keyboard import (
    HOUR,
    Curve,
    Data,
    Key,
    State,
    count,
    find,
    is_paused,
    keys,
    leaks,
    people,
    private,
    programs,
    role,
)

# Styles: what a stretch of text means, not how it looks.
BOLD, DIM, HEAD, CHOSEN, WARN, BAD = "bold", "dim", "head", "chosen", "warn", "bad"
LEAST_VERDICT, LEAST_CURVE, MOST_CURVE = 10, 10, 30  # cells
PANE_FROM = 16  # rows a terminal has at least where the details of the chosen row are shown
TOTAL = ""  # the id under which the curve of the whole program stands


class Span(NamedTuple):
    """A stretch of text in one style."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


class Item(NamedTuple):
    """A line of the list; `key` where it can be chosen."""

    key: Key | None
    line: Line


# -- curves ---------------------------------------------------------------------------------


def curves(
    rows: Iterable[tuple[float, str, Sequence[Any]]],
    document: Mapping[str, Any],
    until: float,
) -> dict[str, dict[str, list[Any]]]:
    """The journal's samples (at, namespec, workers), oldest first, as curves of each worker; what
    the document knows now is their end: the samples are up to a minute old.

    What is drawn is what growth is judged on, anonymous memory and swap; of a program in whose
    samples it is not known throughout, RSS and swap: its curves are compared with each other.
    """
    looks: dict[str, list[tuple[float, list[_Held]]]] = {}
    for at, namespec, workers in rows:
        held = [
            _Held(f"{pid}:{start}", rss, anon, swap or 0)
            for pid, start, rss, anon, _, _, swap, *_ in workers
        ]
        looks.setdefault(namespec, []).append((at, held))
    for program in document["programs"]:
        now = [
            _Held(one["id"], one["rss"], one["anon"], one["swap"] or 0) for one in people(program)
        ]
        if now:
            looks.setdefault(program["namespec"], []).append((until, now))
    return {namespec: _drawn(found) for namespec, found in looks.items()}


class _Held(NamedTuple):
    """What one process held at one look."""

    id: str
    rss: int
    anon: int | None
    swap: int


def _drawn(looks: Sequence[tuple[float, Sequence[_Held]]]) -> dict[str, list[Any]]:
    """A program's curves, by one measure all of them."""
    by_rss = any(each.anon is None for _, held in looks for each in held)
    found: dict[str, list[Any]] = {TOTAL: []}
    for at, held in looks:
        total = 0
        for each in held:
            value = (each.rss if by_rss else each.anon or 0) + each.swap
            found.setdefault(each.id, []).append((at, value))
            total += value
        found[TOTAL].append((at, total))
    return found


# -- the screen -----------------------------------------------------------------------------


def settle(state: State, data: Data) -> State:
    """The place that is left after the list has changed: the chosen row is there and visible."""
    if state.question is not None and not _fits(state, data):
        # What cannot be read to its end is not asked.
        text = "the terminal is too small for the question: make it larger; nothing was done"
        state = replace(state, question=None, message=text)
    found = keys(state, data)
    chosen = state.chosen
    if chosen not in found:
        chosen = (chosen[0], "") if (chosen[0], "") in found else (found or [("", "")])[0]
    state = replace(state, chosen=chosen)
    lines = [item.key for item in _items(state, data)]
    room = max(1, _room(state, data))
    place = lines.index(chosen) if chosen in lines else 0
    top = max(min(state.top, place, len(lines) - room), place - room + 1, 0)
    page_top = max(0, min(state.page_top, len(_page(state)) - max(1, state.rows - 2)))
    return replace(state, top=top, page_top=page_top)


def render(state: State, data: Data) -> list[Line]:
    """As many lines as the terminal has rows, each as wide as it is at most."""
    if state.page:
        body = _page(state)[state.page_top :][: max(0, state.rows - 2)]
        lines = [_title(state, data), *_fill(body, state.rows - 2), _foot(state)]
    else:
        lines = [*_notices(state, data), _column_heads(state, data)]
        bottom = [*_pane(state, data), *_foot_lines(state)]
        room = _room(state, data)
        items = [item.line for item in _items(state, data)][state.top :][:room]
        lines += [*_fill(items, room), *bottom]
    return [_line(line, state) for line in _fill(lines, state.rows)[: state.rows]]


def once(state: State, data: Data) -> list[Line]:
    """The whole list, however long, and nothing that waits for keys."""
    lines = [*_notices(state, data), _column_heads(state, data)]
    lines += [item.line for item in _items(state, data)]
    return [_line(line, state) for line in lines]


def _room(state: State, data: Data) -> int:
    """Rows for the list."""
    return max(0, state.rows - _taken(state, data))


def _taken(state: State, data: Data) -> int:
    """Rows for what is above the list (with the heads of the columns), and what is below it."""
    return len(_notices(state, data)) + 1 + len(_pane(state, data)) + len(_foot_lines(state))


def _fits(state: State, data: Data) -> bool:
    return _taken(state, data) <= state.rows


def _fill(lines: Sequence[Line], rows: int) -> list[Line]:
    return [*lines, *[()] * max(0, rows - len(lines))]


def _line(line: Line, state: State) -> Line:
    """Safe, and no wider than the terminal."""
    room = state.columns
    spans = []
    for span in line:
        text = cells.clean(cells.cut(cells.clean(span.text), room), state.ascii)
        spans.append(Span(text, span.style))
        room -= cells.width(text)
    return tuple(spans)


def _notices(state: State, data: Data) -> list[Line]:
    trouble = data.trouble or data.silence
    return [_title(state, data), *_said(trouble, BAD, state)]


def _said(text: str, style: str, state: State) -> list[Line]:
    """In no more than three lines."""
    lines = _wrapped(text, state.columns)[:3] if text else []
    return [(Span(line, style),) for line in lines]


def _wrapped(text: str, columns: int) -> list[str]:
    return cells.wrap(cells.clean(text), max(1, columns))


def _title(state: State, data: Data) -> Line:
    found = data.document["programs"]
    everyone = [holder for program in found for holder in (program, *people(program))]
    told = sum(verdict["told"] for holder in everyone for verdict in holder["verdicts"])
    workers = sum(len(program["workers"]) for program in found)
    left = f"memwatch: {count(len(found), 'program')}, {count(workers, 'worker')}, {told} told"
    listener, style = _listener(data)
    right = f"{listener}  {data.clock}".rstrip()
    gap = max(2, state.columns - cells.width(left) - cells.width(right))
    return (Span(left, BOLD), Span(" " * gap), Span(right, style))


def _listener(data: Data) -> tuple[str, str]:
    told = data.document["listener"]
    if told is None:
        return "the listener has not ticked yet", BAD
    ago = units.time(max(0.0, data.document["time"] - (told["last_tick"] or 0.0)))
    if data.silence:
        return f"SILENT for {ago}", BAD
    return f"listener {told['pid']}, tick {ago} ago", DIM


def _page(state: State) -> list[Line]:
    return [
        (Span(line),) for text in state.page for line in cells.wrap(text, max(1, state.columns))
    ]


# -- columns


class Row(NamedTuple):
    """What the columns show of."""

    who: str
    worker: Mapping[str, Any]
    curve: Curve
    low: float
    high: float
    until: float


class Column(NamedTuple):
    """A column: what is dropped first where there is no room has the largest `rank`."""

    head: str
    rank: int
    cell: Callable[[Row], str]
    right: bool = True


def _age(row: Row) -> str:
    return "" if row.worker["age"] is None else cells.brief(row.worker["age"])


def _private(row: Row) -> str:
    text = cells.short(private(row.worker))
    return "~" + text if row.worker["uss"] is None and text != "?" else text


def _shared(row: Row) -> str:
    own, rss = private(row.worker), row.worker["rss"]
    if own is None or rss is None:
        return "?"
    if rss < own and row.worker["uss"] is None:
        return "?"  # what is estimated to be private is shared in part
    return cells.short(max(0, rss - own))


def _trend(row: Row) -> str:
    trend = row.worker["trend"]
    if leaks(row.worker):  # whatever its interval: that it grows is told
        return cells.signed(trend and trend["bytes_per_hour"])
    if trend is None:
        return ""
    return "0" if trend["low"] <= 0 <= trend["high"] else cells.signed(trend["bytes_per_hour"])


def _interval(row: Row) -> str:
    trend = row.worker["trend"]
    if trend is None:
        return ""
    return f"{cells.signed(trend['low'])} to {cells.signed(trend['high'])}"


def _to_limit(row: Row) -> str:
    hours, trend = row.worker["hours_to_limit"], row.worker["trend"]
    if hours is None and leaks(row.worker) and trend and trend["bytes_per_hour"] > 0:
        left = row.worker["headroom"]
        hours = None if left is None else max(left, 0) / trend["bytes_per_hour"]
    return "" if hours is None else cells.brief(hours * HOUR)


COLUMNS = (
    Column("", 0, lambda row: row.who, right=False),
    Column("AGE", 7, _age),
    Column("PRIVATE", 1, _private),
    Column("SHARED", 5, _shared),
    Column("SWAP", 6, lambda row: cells.short(row.worker["swap"])),
    Column("LAST HOUR", 4, lambda row: "", right=False),
    Column("TREND/H", 2, _trend),
    Column("95 %", 8, _interval),
    Column("TO LIMIT", 3, _to_limit),
    Column("VERDICT", 0, lambda row: "", right=False),
)
_ELASTIC = {"LAST HOUR": LEAST_CURVE, "VERDICT": LEAST_VERDICT}


def _rows(data: Data, program: Mapping[str, Any], shown: Sequence[Any]) -> list[Row]:
    """Of the whole program, where it is more than one, and of those of its people that match."""
    everyone = people(program)
    found = data.curves.get(program["namespec"], {})
    workers = [found.get(one["id"], ()) for one in program["workers"]]
    low, high = cells.scale([value for curve in workers for _, value in curve])
    rows = []
    if len(everyone) > 1:
        curve = found.get(TOTAL, ())
        bounds = cells.scale([value for _, value in curve])
        rows.append(Row("all", _all(program, everyone), curve, *bounds, data.until))
    rows += [
        Row(
            f"{role(program, one)} {one['pid']}",
            one,
            found.get(one["id"], ()),
            low,
            high,
            data.until,
        )
        for one in shown
    ]
    return rows


def _all(program: Mapping[str, Any], everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The program as the columns show a worker: what is shared is counted once."""
    own = [private(one) for one in everyone]
    swap = _sum(one["swap"] for one in everyone)
    total = program["total"]
    return {
        "age": None,
        "rss": None if total is None else total - (swap or 0),
        "anon": _sum(own),
        "uss": _sum(one["uss"] for one in everyone),
        "swap": swap,
        "trend": None,
        "hours_to_limit": None,
        "verdicts": program["verdicts"],
    }


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)


def _layout(state: State, data: Data) -> list[tuple[Column, int]]:
    """The columns there is room for, and how wide each is."""
    rows = [row for program, shown in programs(state, data) for row in _rows(data, program, shown)]
    widths = {
        column.head: max(
            [cells.width(column.head), *(cells.width(column.cell(row)) for row in rows)]
        )
        for column in COLUMNS
    }
    widths.update(_ELASTIC)
    columns = list(COLUMNS)
    while len(columns) > 2 and _breadth(columns, widths) > state.columns:
        columns.remove(max(columns, key=lambda column: column.rank))
    left = max(0, state.columns - _breadth(columns, widths))
    if any(column.head == "LAST HOUR" for column in columns):
        more = min(left // 2, MOST_CURVE - LEAST_CURVE)
        widths["LAST HOUR"] += more
        left -= more
    widths["VERDICT"] += left
    return [(column, widths[column.head]) for column in columns]


def _breadth(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    """With the mark of the chosen row, and a blank between two columns."""
    return sum(widths[column.head] + 1 for column in columns)


def _column_heads(state: State, data: Data) -> Line:
    texts = [cells.fit(c.head, wide, c.right) for c, wide in _layout(state, data)]
    return (Span(cells.fit(" " + " ".join(texts), state.columns), HEAD),)


# -- the list


def _items(state: State, data: Data) -> list[Item]:
    layout = _layout(state, data)
    found: list[Item] = []
    for program, shown in programs(state, data):
        key = (program["namespec"], "")
        found.append(Item(key, _heading(state, data, program, key == state.chosen)))
        found += [Item(None, (Span("   " + text, style),)) for text, style in _doing(program, data)]
        for row in _rows(data, program, shown):
            one = row.worker.get("id")
            mine = None if one is None else (program["namespec"], one)
            chosen = mine is not None and mine == state.chosen
            found.append(Item(mine, _table_line(row, layout, chosen)))
    if not found:
        why = "no program is watched"
        if state.filter:
            why = f"nothing here has {state.filter!r}: Esc shows everything"
        found.append(Item(None, (Span(f" {why}", DIM),)))
    return found


def _heading(state: State, data: Data, program: Mapping[str, Any], chosen: bool) -> Line:
    total, limit = program["total"], program["total_limit"]
    words = [program["state"], program["mode"]]
    if total is not None:
        words.append(cells.short(total) + (f" of {cells.short(limit)}" if limit else ""))
    if is_paused(program, data):
        left = data.paused[program["namespec"]] - data.document["time"]
        words.append(f"paused for {units.time(left)}")
    words.append(report.budget_words(program["budget"]))
    rest = "  ".join(words)
    # A long name leaves room for what is said of it.
    room = max(12, state.columns - 3 - cells.width(rest))
    name = cells.cut(cells.clean(program["namespec"]), room)
    style = "" if program["state"] == "RUNNING" else BAD
    if chosen:
        return (Span(f">{name}  {rest}", CHOSEN),)
    return (Span(f" {name}", BOLD), Span(f"  {rest}", style))


def _doing(program: Mapping[str, Any], data: Data) -> list[tuple[str, str]]:
    """What is to be said of a program in a line each; all of it is in the pane and in `e`."""
    said = [(f"{v['kind']}: {v['why']}", BAD) for v in program["verdicts"] if v["told"]]
    if program["action"]:
        said.append((f"now: {_action(program, data)}", WARN))
    said += [(f"held: {held['text']}", WARN) for held in program["held"][:2]]
    said += [(f"advice: {text}", "") for text in data.advice.get(program["namespec"], ())[:1]]
    return said


def _action(program: Mapping[str, Any], data: Data) -> str:
    action = program["action"]
    since = units.time(max(0.0, data.document["time"] - action["begun"]))
    return f"{report.deed(action)}, step {action['step']}, for {since}: {action['why']}"


def _table_line(row: Row, layout: Sequence[tuple[Column, int]], chosen: bool) -> Line:
    mark = ">" if chosen else " "
    spans = [Span(mark)]
    for place, (column, wide) in enumerate(layout):
        text, style = column.cell(row), ""
        if column.head == "LAST HOUR":
            begin = row.until - HOUR
            text = cells.spark(row.curve, begin, row.until, row.low, row.high, wide)
        elif column.head == "VERDICT":
            text, style = verdict(row.worker["verdicts"], wide)
        spans.append(Span((" " if place else "") + cells.fit(text, wide, column.right), style))
    if chosen:
        return (Span("".join(span.text for span in spans), CHOSEN),)
    return tuple(spans)


def verdict(verdicts: Sequence[Mapping[str, Any]], room: int) -> tuple[str, str]:
    """The verdicts in a cell, and their style: what was told, with as much of why as fits."""
    told = [one for one in verdicts if one["told"]]
    if not told:
        return ", ".join(one["kind"] for one in verdicts), DIM
    style = BAD if any(one["act"] for one in told) else WARN
    words = [f"{one['kind']}{'!' if one['act'] else ''} {one['confidence']:.0%}" for one in told]
    text = ", ".join(words)
    why = told[0]["why"]
    if len(told) == 1 and room > cells.width(text) + 20:
        text += f": {why}"
    return text, style


# -- below the list


def _pane(state: State, data: Data) -> list[Line]:
    """Everything about the chosen row, as far as there is room."""
    if state.question is not None or state.rows < PANE_FROM:
        return []
    program, worker = find(data, state.chosen)
    if program is None:
        return []
    if worker is None:
        title, texts = program["namespec"], _about_program(program, data)
    else:
        title = f"{program['namespec']} {role(program, worker)} {worker['pid']}"
        texts = _about_worker(worker, data)
    height = max(3, state.rows // 4 - 1)
    lines = [line for text in texts for line in _wrapped(text, state.columns)][:height]
    head = f"{cells.RULE * 2} {cells.clean(title)} "
    rule = head + cells.RULE * max(0, state.columns - cells.width(head))
    return [(Span(rule, DIM),), *_fill([(Span(line),) for line in lines], height)]


def _about_program(program: Mapping[str, Any], data: Data) -> list[str]:
    texts = [f"{one['kind']}: {one['why']}" for one in program["verdicts"]]
    if program["action"]:
        texts.append(f"now: {_action(program, data)}")
    texts += [f"held: {held['text']}" for held in program["held"]]
    if program["last_action"]:
        last = program["last_action"]
        ago = units.time(max(0.0, data.document["time"] - last["ended"]))
        texts.append(f"last, {ago} ago: {last['action']} {last['result']}: {last['text']}")
    texts += [f"advice: {text}" for text in data.advice.get(program["namespec"], ())]
    texts.append(
        f"{program['kind']}, {report.budget_words(program['budget'])}; "
        f"available to it: {units.size(program['available'])}"
    )
    return texts


def _about_worker(worker: Mapping[str, Any], data: Data) -> list[str]:
    texts = [f"{one['kind']}: {one['why']}" for one in worker["verdicts"]]
    trend = worker["trend"]
    moves = [f"limit {units.size(worker['limit'])}"] if worker["limit"] else []
    if worker["headroom"] is not None:
        moves.append(f"headroom {units.size(worker['headroom'])}")
    if trend:
        low, high = units.signed_size(trend["low"]), units.signed_size(trend["high"])
        moves.append(f"trend {units.signed_size(trend['bytes_per_hour'])}/h ({low} to {high})")
    if worker["hours_to_limit"] is not None:
        moves.append(f"at its limit in {units.time(worker['hours_to_limit'] * HOUR)}")
    if moves:
        texts.append(", ".join(moves))
    holds = [f"{key.upper()} {units.size(worker[key])}" for key in ("rss", "anon", "pss", "uss")]
    texts.append(f"{', '.join(holds)}, swap {units.size(worker['swap'])}{_measured(worker, data)}")
    does = [f"CPU {report.cpu_words(worker['cpu'])}"]
    for what, key in (("open file", "fds"), ("thread", "threads"), ("request", "requests")):
        if worker[key] is not None:
            does.append(count(worker[key], what))
    texts.append(f"age {units.time(worker['age'])}, {', '.join(does)}")
    return texts


def _measured(worker: Mapping[str, Any], data: Data) -> str:
    if worker["measured_at"] is None:
        return ""
    ago = max(0.0, data.document["time"] - worker["measured_at"])
    return f" (PSS and USS read {units.time(ago)} ago)"


def _foot_lines(state: State) -> list[Line]:
    if state.question is None:
        return [*_said(state.message, WARN, state), _foot(state)]
    return [(Span(one, BOLD),) for one in _wrapped(state.question.text, state.columns)]


def _foot(state: State) -> Line:
    if state.typing:
        return (Span("/"), Span(state.filter), Span("_", CHOSEN), Span("  Enter keeps, Esc clears"))
    if state.page:
        return (Span("q back  j k PgUp PgDn move", DIM),)
    shown = f"  / filter: {state.filter}" if state.filter else "  / filter"
    return (
        Span(f"s sort: {state.sort}", BOLD),
        Span(f"{shown}  p pause  r recycle  e explain  ? help  q quit", DIM),
    )
