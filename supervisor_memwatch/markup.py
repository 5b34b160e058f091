"""A page's document as one self-contained HTML text.

Everything foreign (names, reasons) goes through `text`. The curves are SVG paths in seconds and KB:
they are drawn without a script, and are the data that page.js reads for hover and zoom.
Nothing is loaded from anywhere; the page forbids it, by its Content-Security-Policy.

Not here: what the page says (page.py).
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import page, report, siblings, units, wallclock

# Seconds between two lines across the time axis: the first that makes them few enough.
TIME_STEPS = (60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)
MOST_TIMES = 8
FLAGS = 0.12  # of the chart's height, from above, is where its flags are
ABOVE, BELOW = -4, 14  # pixels from a line to its label
NEAR = 0.05  # of the chart's height: nearer to a line than that, a label would be in its way
COLOURS = 8  # in page.css; more places repeat them, with other dashes


def policy(css: str, js: str, *, live: bool) -> str:
    """The Content-Security-Policy of a page: its own style and script, by their hash, and nothing
    else; a live page may ask its own server again."""
    rules = [
        "default-src 'none'",
        f"script-src '{_hash(js)}'",
        f"style-src '{_hash(css)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(rules + (["connect-src 'self'", "frame-ancestors 'none'"] if live else []))


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def render(document: Mapping[str, Any], css: str, js: str, *, refresh: float | None = None) -> str:
    """The whole page. `refresh`: seconds after which it asks its server again; None: a file."""
    live = refresh is not None
    title = ", ".join(program["namespec"] for program in document["programs"]) or "no program"
    rule = policy(css, js, live=False)
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        # A live page has it in the answer's header, where it can forbid more.
        "" if live else f'<meta http-equiv="Content-Security-Policy" content="{text(rule)}">',
        f'<noscript><meta http-equiv="refresh" content="{refresh:.0f}"></noscript>' if live else "",
        f"<title>memwatch: {text(title, 100)}</title>",
        f"<style>{css}</style>",
    ]
    body = [_header(document), '<main id="main">']
    body += [_program(program, document) for program in document["programs"]]
    if not document["programs"]:
        body.append("<p>No program is watched, and none was in this time.</p>")
    body.append("</main>")
    body.append(_footer(document))
    every = f' data-refresh="{refresh:.0f}"' if live else ""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>',
            *[line for line in head if line],
            f'</head>\n<body data-zone="{document["zone"]}"{every}>',
            *body,
            f"<script>{js}</script>\n</body>\n</html>\n",
        ]
    )


def text(value: object, limit: int = 1000) -> str:
    """Foreign text, made safe for HTML, attributes included: printable, cut between two words,
    escaped."""
    raw = str(value)
    if len(raw) > limit:
        raw = (raw[: limit + 1].rpartition(" ")[0] or raw[:limit]) + " ..."
    return html.escape(units.printable(raw, limit + len(" ...")), quote=True)


def span(document: Mapping[str, Any]) -> str:
    """`2026-01-31 13:10 to 2026-01-31 15:00 (UTC+01:00)`."""
    zone = document["zone"]
    since, until = (wallclock.clock(document[name], zone) for name in ("since", "until"))
    return f"{since} to {until} ({wallclock.zone_words(zone)})"


# -- parts -----------------------------------------------------------------------------------


def _header(document: Mapping[str, Any]) -> str:
    zone, now = document["zone"], document["made_at"]
    parts = [
        '<header><a class="skip" href="#main">To the programs</a>',
        f"<h1>Memory of {text(document['host'])}</h1>",
        f'<p class="span">{span(document)}; made at {wallclock.clock(now, zone)}'
        f'<span id="fresh" role="status"></span></p>',
    ]
    if document["silence"]:
        parts.append(
            f'<p class="answer bad">{text(document["silence"])}; what is below is old. '
            "See <code>supervisorctl status</code> and its log.</p>"
        )
    if len(document["programs"]) > 1:
        links = [
            f'<li><a href="#{program["id"]}">'
            f'<span class="dot {program["answer"]["tone"]}"></span>'
            f"{text(program['namespec'])}</a>: {text(program['answer']['headline'], 300)}</li>"
            for program in document["programs"]
        ]
        parts.append(f'<nav aria-label="Programs"><ul>{"".join(links)}</ul></nav>')
    return "\n".join([*parts, "</header>"])


def _footer(document: Mapping[str, Any]) -> str:
    return (
        f"<footer><p>memwatch {text(document['version'])}. Sizes are powers of 1024. A sample a "
        "minute, of what is older than a day one in ten minutes.</p></footer>"
    )


def _program(program: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    id, answer = program["id"], program["answer"]
    facts = [program["state"], program["kind"], f"mode = {program['mode']}"]
    said = ", ".join(text(fact) for fact in facts if fact)
    lines = "".join(f"<li>{text(line)}</li>" for line in answer["lines"])
    parts = [
        f'<section class="program" id="{id}" aria-labelledby="{id}-h"'
        f' data-name="{text(program["namespec"])}">',
        f'<h2 id="{id}-h">{text(program["namespec"])} <small>{said}</small></h2>',
        f'<p class="answer {answer["tone"]}">{text(answer["headline"])}</p>',
        f'<ul class="words">{lines}</ul>' if lines else "",
        f'<p class="summary">In this time: {text(program["summary"])}</p>',
        _figure(program, document, id),
        _siblings(program, document, id),
        _told(program, document),
        _actions(program, document),
        _others(program, document),
        _as_tables(program, document, id),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


# -- the chart -------------------------------------------------------------------------------


def _figure(program: Mapping[str, Any], document: Mapping[str, Any], id: str) -> str:
    if not any(curve["paths"].get(program["measure"]) for curve in program["curves"]):
        return '<p class="empty">No samples in this time.</p>'
    options = "".join(
        f'<option value="{measure}"{" selected" if measure == program["measure"] else ""}>'
        f"{text(words)}</option>"
        for measure, words in program["measures"].items()
    )
    buttons = "".join(
        f'<button type="button" id="{id}-{name}" data-do="{name}">{label}</button>'
        for name, label in (
            ("in", "Zoom in"),
            ("out", "Zoom out"),
            ("earlier", "Earlier"),
            ("later", "Later"),
            ("all", "All"),
        )
    )
    keys = (
        "Drag over a span to zoom in, double-click for all. Keys: arrows move along, with Shift "
        "they move the span, + and - zoom, 0 is all."
    )
    within = [line for line in program["lines"] if line["bytes"] / 1024 <= _top(program) * 1.0001]
    off = [line["text"] for line in program["lines"] if line not in within]
    above = f" Above the chart, as of now: {text('; '.join(off))}." if off else ""
    shown = [
        ("▲ our action", program["actions"]),
        ("◆ deploy", [each for each in program["others"] if each["mark"] == "deploy"]),
        ("✕ OOM kill", [each for each in program["others"] if each["mark"] == "OOM kill"]),
        ("▽ what others did", [sign for _, _, sign, _ in _happened(program) if sign == "▽"]),
        ("Shaded: a verdict stands (red: leak)", program["told"]),
    ]
    signs = "".join(f" {words}." for words, some in shown if some)
    across = " and ".join(line["kind"] for line in within)
    lines = f" Across: {across} as of now." if across else ""
    if program["rather"]:
        drawn, rather = (page.NAMES[program[which]] for which in ("measure", "rather"))
        lines += (
            f" {drawn} is drawn: {rather} is read only when it matters, so its curves have gaps."
        )
    thinned = program["thinned"]
    less = f" {thinned} samples between others are not drawn." if thinned else ""
    return "\n".join(
        [
            f'<figure id="{id}-chart">',
            f'<div class="controls"><label for="{id}-measure">Drawn:</label> '
            f'<select id="{id}-measure" data-do="measure">{options}</select> {buttons}</div>',
            _chart(program, document, id),
            _legend(program, id),
            f'<p class="readout" id="{id}-readout" role="status"></p>',
            f"<figcaption>What each worker holds.{signs}{lines}{above}{less}"
            f' <span class="keys">{keys}</span></figcaption>',
            "</figure>",
        ]
    )


def _top(program: Mapping[str, Any]) -> float:
    """The upper end of the chart, KB: above all curves, and the lines that are not far above."""
    highest = max((life["highest"] or 0 for life in program["lives"]), default=0)
    near = [line["bytes"] for line in program["lines"] if line["bytes"] <= 2.5 * highest]
    return float(max([highest, *near, 1024])) * 1.08 / 1024


def _chart(program: Mapping[str, Any], document: Mapping[str, Any], id: str) -> str:
    begin, span = document["since"], document["until"] - document["since"]
    top = _top(program)
    label = f"Memory of the workers of {program['namespec']} over time: {program['summary']}"
    plot = [
        f'<svg class="plot" x="0" y="0" width="100%" height="100%" preserveAspectRatio="none"'
        f' viewBox="0 {-top:.0f} {span:.0f} {top:.0f}">',
        *_shades(program, document, top),
        *_marks(program, document, top),
        '<g transform="scale(1 -1)">',
    ]
    for measure in program["measures"]:
        shown = "" if measure == program["measure"] else ' display="none"'
        plot.append(f'<g class="curves" data-measure="{measure}"{shown}>')
        plot += [
            f'<path class="{_style(curve)}" data-pid="{curve["pid"]}"'
            f' data-place="{curve["place"]}" d="{curve["paths"][measure]}"/>'
            for curve in program["curves"]
            if curve["paths"].get(measure)
        ]
        plot.append("</g>")
    plot.append("</g>")
    plot += [
        f'<line class="line {line["kind"]}" x1="0" x2="{span:.0f}" y1="{-line["bytes"] / 1024:.0f}"'
        f' y2="{-line["bytes"] / 1024:.0f}"/>'
        for line in program["lines"]
    ]
    plot.append("</svg>")
    lines = [
        _line_label(line, 1 - line["bytes"] / 1024 / top)
        for line in program["lines"]
        if line["bytes"] / 1024 <= top
    ]
    return "\n".join(
        [
            f'<div class="chart" id="{id}-plot" tabindex="0" role="group"'
            f' aria-roledescription="chart" aria-label="{text(label, 2000)}"'
            f' data-begin="{begin:.3f}" data-span="{span:.0f}" data-top="{top:.0f}">',
            '<svg class="frame" width="100%" height="320" aria-hidden="true">',
            *plot,
            f'<g class="ylabels">{_sizes(top, program["lines"])}</g>',
            f'<g class="xlabels">{_times(begin, span, document["zone"])}</g>',
            *lines,
            f'<g class="flags">{_flags(program, document)}</g>',
            '<line class="cursor" y1="0" y2="100%" display="none"/>',
            '<rect class="brush" y="0" height="100%" display="none"/>',
            "</svg></div>",
        ]
    )


def _line_label(line: Mapping[str, Any], y: float) -> str:
    """At the right, or of the headroom in the middle; below its line where the flags are above.
    page.js moves it when it zooms."""
    at = 'x="100%" dx="-6" text-anchor="end"'
    if line["kind"] == "headroom":
        at = 'x="50%" text-anchor="middle"'
    dy = BELOW if y < FLAGS else ABOVE
    return (
        f'<text class="linelabel {line["kind"]}" {at} y="{_percent(y)}" dy="{dy}"'
        f' data-kb="{line["bytes"] / 1024:.0f}">{text(line["text"])}</text>'
    )


def _style(curve: Mapping[str, Any]) -> str:
    if curve["role"] == "master":
        return "curve master"
    place = curve["place"] - 1
    return f"curve c{place % COLOURS} d{place // COLOURS % 3}"


def _shades(program: Mapping[str, Any], document: Mapping[str, Any], top: float) -> Iterable[str]:
    high = 4 * top  # a part may be drawn higher than the whole
    for span in program["told"]:
        x, width = _within(span, document)
        words = f"{span['who']}: {span['kind']}: {span['why']}"
        yield (
            f'<rect class="told {text(span["kind"])}" x="{x:.0f}" y="{-high:.0f}"'
            f' width="{max(width, 1):.0f}" height="{high:.0f}"><title>{text(words)}</title></rect>'
        )


def _within(span: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[float, float]:
    begin = max(span["since"], document["since"])
    end = document["until"] if span["until"] is None else min(span["until"], document["until"])
    return begin - document["since"], end - begin


def _happened(program: Mapping[str, Any]) -> list[tuple[float, str, str, str]]:
    """What is marked in the chart: when, of which sort, its sign, and in words."""
    done = [
        (
            action["at"],
            "ours",
            "▲",
            f"{action['action']}: {action['result']}: {action['text'] or action['why']}",
        )
        for action in program["actions"]
    ]
    others = [
        (
            other["at"],
            "release" if other["mark"] == "deploy" else "theirs",
            {"deploy": "◆", "OOM kill": "✕"}.get(other["mark"], "▽"),
            f"{other['mark']}: {other['text']}",
        )
        for other in program["others"]
        if other["mark"]
    ]
    return sorted(done + others)


def _marks(program: Mapping[str, Any], document: Mapping[str, Any], top: float) -> Iterable[str]:
    high = 4 * top
    for at, sort, _, words in _happened(program):
        x = at - document["since"]
        yield (
            f'<line class="mark {sort}" x1="{x:.0f}" x2="{x:.0f}" y1="{-high:.0f}" y2="0">'
            f"<title>{text(words)}</title></line>"
        )


def _flags(program: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    span = document["until"] - document["since"]
    return "".join(
        f'<text class="flag {sort}" y="15" data-x="{at - document["since"]:.0f}"'
        f' x="{_percent((at - document["since"]) / span)}"'
        f' text-anchor="middle">{sign}<title>{text(words)}</title></text>'
        for at, sort, sign, words in _happened(program)
    )


def _sizes(top: float, lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines across the chart at whole sizes. page.js draws them again when it zooms."""
    step = 1.0
    while top / step > 6:
        step *= 2
    taken = [top, *(line["bytes"] / 1024 for line in lines)]  # a label there would be cut, or hit
    parts = []
    for number in range(1, int(top / step) + 1):
        at = number * step
        y = _percent(1 - at / top)
        parts.append(f'<line x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        if all(abs(at - other) > NEAR * top for other in taken):
            parts.append(f'<text x="4" y="{y}" dy="-3">{units.size(at * 1024)}</text>')
    return "".join(parts)


def _times(begin: float, span: float, zone: int) -> str:
    """The same at whole times of the clock on the wall."""
    step = next((each for each in TIME_STEPS if span / each <= MOST_TIMES), TIME_STEPS[-1])
    first = -(-(begin + zone) // step) * step - zone
    parts = []
    at = first
    while at <= begin + span:
        x = _percent((at - begin) / span)
        when = wallclock.clock(at, zone)
        words = when[5:10] if (at + zone) % 86400 == 0 else when[11:]
        parts.append(f'<line x1="{x}" x2="{x}" y1="0" y2="100%"/>')
        if at - begin < (1 - NEAR) * span:  # else it would be cut
            parts.append(f'<text x="{x}" y="100%" dx="3" dy="-4">{words}</text>')
        at += step
    return "".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _legend(program: Mapping[str, Any], id: str) -> str:
    """A switch for each place, with whom it belongs to now; page.js shows the sizes there."""
    items = []
    for life in program["places"]:
        place, style = life["place"], _style(life).replace("curve", "swatch", 1)
        more = f", {life['before']} before it" if life["before"] else ""
        if life["seen_last"] < program["seen_last"]:
            more += '<span class="gone">, gone</span>'
        whom = f"{life['role']} {life['pid']}"
        items.append(
            f'<li><button type="button" id="{id}-place{place}" data-do="place"'
            f' data-place="{place}" aria-pressed="true">'
            f'<svg class="swatches" width="22" height="10" aria-hidden="true">'
            f'<line class="{style}" x1="1" x2="21" y1="5" y2="5"/></svg>'
            f'<span class="whom">{whom}</span>{more} '
            f'<b class="now">{units.size(life["last"])}</b></button></li>'
        )
    return f'<ul class="legend" aria-label="Curves: press to hide or show">{"".join(items)}</ul>'


# -- tables ----------------------------------------------------------------------------------


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first of a row is its head."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def _siblings(program: Mapping[str, Any], document: Mapping[str, Any], id: str) -> str:
    found = program["siblings"]
    if found is None:
        return ""
    zone = document["zone"]
    most = max(row["after"] for row in found["rows"]) or 1
    rows = []
    for row in found["rows"]:
        bar = (
            '<svg class="bar" width="120" height="12" aria-hidden="true">'
            f'<rect class="before" width="{_percent(row["before"] / most)}" height="12"/>'
            f'<rect class="after" width="{_percent(row["after"] / most)}" y="2" height="8"/></svg>'
        )
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        word = f", {row['word']}" if row["word"] else ""
        alarming = row["word"] in (siblings.LEAKS, siblings.STANDS_OUT)
        rows.append(
            [
                f"worker {row['pid']}",
                wallclock.clock(row["since"], zone, document["made_at"]),
                units.size(row["before"]),
                f'<b data-bytes="{row["after"]}">{units.size(row["after"])}</b>',
                units.signed_size(row["change"]) if row["change"] else "0",
                bar,
                f'<span class="stands">{ratio}{word}</span>' if alarming else f"{ratio}{word}",
            ]
        )
    when = wallclock.clock(found["at"], zone, document["made_at"])
    heads = ["", "seen since", "then", "at the end", "change", "", "times its siblings' median"]
    heads[0], heads[5] = "worker", '<span class="hidden">as a bar</span>'
    return "\n".join(
        [
            "<h3>Do they all hold about the same?</h3>",
            f'<p class="alike {found["tone"]}">{text(found["text"])}</p>',
            _table(f"The workers at {when}, against this time's beginning", heads, rows),
        ]
    )


def _told(program: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not program["told"]:
        return ""
    zone, now = document["zone"], document["made_at"]
    rows = [
        [
            wallclock.clock(span["since"], zone, now),
            "still" if span["until"] is None else wallclock.clock(span["until"], zone, now),
            text(span["who"]),
            f'<span class="kind {text(span["kind"])}">{text(span["kind"])}</span>',
            text(span["why"]),
        ]
        for span in reversed(program["told"])
    ]
    heads = ["told at", "until", "whom", "verdict", "why"]
    return "<h3>What was told</h3>\n" + _table(_newest("Verdicts", program, "told"), heads, rows)


def _newest(what: str, program: Mapping[str, Any], name: str) -> str:
    left = program["left_out"][name]
    return f"{what}, the newest first" + (f" ({left} older ones left out)" if left else "")


def _actions(program: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not program["actions"]:
        return "<h3>What was done</h3>\n<p>Nothing.</p>"
    zone, now = document["zone"], document["made_at"]
    rows = []
    for action in reversed(program["actions"]):
        by = "" if action["by"] == "memwatch" else f" (asked for by {text(action['by'], 100)})"
        way = f", {text(action['way'])}" if action["action"] == "recycle" and action["way"] else ""
        freed = action["freed"]
        back = "" if freed is None else f'<b data-bytes="{freed}">{units.size(freed)}</b>'
        rows.append(
            [
                wallclock.clock(action["at"], zone, now),
                f"{text(report.deed(action))}{way}{by}",
                text(action["why"]),
                f'<span class="result {text(action["result"])}">{text(action["result"])}</span>: '
                f"{text(action['text'])}",
                back,
                text(action["cost"]),
            ]
        )
    heads = ["begun at", "action", "reason", "result", "came back", "cost"]
    caption = _newest("Actions", program, "actions")
    return "<h3>What was done</h3>\n" + _table(caption, heads, rows)


def _others(program: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not program["others"]:
        return ""
    zone, now = document["zone"], document["made_at"]
    rows = [
        [wallclock.clock(other["at"], zone, now), text(other["mark"]), text(other["text"])]
        for other in reversed(program["others"])
    ]
    table = _table(_newest("Events", program, "others"), ["at", "", "what"], rows).replace(
        '<th scope="col"></th>', '<th scope="col">marked as</th>'
    )
    return f"<h3>What else happened</h3>\n{table}"


def _as_tables(program: Mapping[str, Any], document: Mapping[str, Any], id: str) -> str:
    """The curves for those who cannot see them, and for copying."""
    zone, now = document["zone"], document["made_at"]
    if not program["lives"]:
        return ""
    places = [life["place"] for life in program["places"]]
    names = ["master" if place == 0 else f"place {place}" for place in places]
    rows = []
    for row in program["table"]:
        sizes = row["sizes"]
        cells = [
            f"{units.size(sizes[place][1])} <small>({sizes[place][0]})</small>"
            if place in sizes
            else ""
            for place in places
        ]
        rows.append([wallclock.clock(row["at"], zone, now), *cells])
    left = program["left_out"]["lives"]
    lives = [
        [
            f"{life['role']} {life['pid']}",
            wallclock.clock(life["seen_first"], zone, now),
            wallclock.clock(life["seen_last"], zone, now),
            *(units.size(life[key]) for key in ("first", "last", "highest")),
        ]
        for life in program["lives"]
    ]
    measure = page.NAMES[program["measure"]]
    everyone = "Everyone seen" + (f" ({left} earlier ones left out)" if left else "")
    return "\n".join(
        [
            f'<details id="{id}-tables"><summary>The curves as tables</summary>',
            _table(everyone, ["who", "from", "to", "first", "last", "most"], lives),
            _table(f"{measure} over time (pid)", ["at", *names], rows),
            "</details>",
        ]
    )
