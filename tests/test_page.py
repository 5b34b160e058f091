"""The page of `report` and `serve`: what it says is what the journal says, and nothing foreign
gets into it as anything but text."""

from __future__ import annotations

import base64
import gc
import hashlib
import http.client
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import Rig, ticks
from weeks import DAY, LIMIT, Week
from worlds import World

from supervisor_memwatch import (
    chronicle,
    cli,
    config,
    curves,
    journal,
    markup,
    page,
    serve,
    status,
    units,
    wallclock,
)
from supervisor_memwatch.journal import Journal
from supervisor_memwatch.model import IMBALANCE, LEAK, Entry, Snapshot, Verdict
from supervisor_memwatch.options import Options
from supervisor_memwatch.units import MB
from supervisor_memwatch.watch import Watch

HOSTILE = "web</script><script>alert(1)</script>\"onload=x '\x1b[2J\u202e<img src=x onerror=y>"


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """Eight workers, seven days; the first one leaks."""
    return Week(tmp_path_factory.mktemp("week"), time.time()).write()


@pytest.fixture(scope="module")
def program(week: Week) -> dict[str, Any]:
    """What a page says of it."""
    return web(week, since=week.now - 7 * DAY)


def day(directory: Path, **more: Any) -> Week:
    return Week(directory, time.time(), **{"days": 0.5, "workers": 3, **more}).write()


def document_of(week: Week, **span: Any) -> dict[str, Any]:
    return chronicle.document(config.load(str(week.conf), {}), **span)


def web(week: Week, **span: Any) -> dict[str, Any]:
    program: dict[str, Any] = document_of(week, **span)["programs"][0]
    return program


def drawn(path: str) -> list[tuple[int, int]]:
    """The points of a path: seconds and KB."""
    found, x, y = [], 0, 0
    numbers = [int(number) for number in re.findall(r"-?\d+", path)]
    for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
        x, y = x + dx, y + dy
        found.append((x, y))
    return found


# -- curves


def sample(at: float, *processes: tuple[int, int]) -> tuple[float, list[list[Any]]]:
    """A master, and workers of these pids and sizes (MB)."""
    master = [1, 1, 9 * MB, None, None, None, 0, 0.1]
    return at, [master, *([pid, pid, mb * MB, None, None, None, 0, 0.1] for pid, mb in processes)]


def test_a_successor_takes_the_place_of_the_one_that_left() -> None:
    """And the master has one of its own."""
    rows = [sample(0, (10, 5), (11, 5)), sample(60, (11, 5), (12, 5)), sample(120, (12, 5))]
    found = {life.id.pid: (life.role, life.place) for life in curves.lives(rows)}
    assert found == {
        1: ("master", 0),
        10: ("worker", 1),
        11: ("worker", 2),
        12: ("worker", 1),
    }


def test_a_plain_program_has_no_master() -> None:
    """Its whole tree is its one worker."""
    [life] = curves.lives([(0.0, [[7, 7, MB, None, None, None, 0, 0.1]])])
    assert (life.role, life.place) == ("worker", 1)


def test_a_pid_that_is_used_again_is_somebody_else() -> None:
    """Two curves."""
    row = [7, 7, MB, None, None, None, 0, 0.1]
    assert len(curves.lives([(0.0, [row]), (60.0, [[7, 8, *row[2:]]])])) == 2


def test_where_nobody_watched_the_curve_is_broken() -> None:
    """Also after it was thinned."""
    rows = [sample(at, (10, 5 + at // 60 % 7)) for at in (*range(0, 6000, 60), *range(9000, 9600))]
    life = curves.lives(rows)[1]
    [thin] = curves.thin([life], 20, "rss")
    assert len(thin.samples) <= 24
    for each in (life, thin):
        path = curves.path(each, "rss", 0)
        assert path.count("m") == 2
        assert {at for at, _ in drawn(path)} >= {0, 5940, 9000, 9599}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=300), st.integers(4, 60))
def test_what_is_left_of_a_thinned_curve_was_really_seen(sizes: list[int], most: int) -> None:
    """First, last, smallest and largest are there; no other numbers, and not many."""
    rows = [sample(60 * i, (10, size + 1)) for i, size in enumerate(sizes)]
    life = curves.lives(rows)[1]
    [thin] = curves.thin([life], most, "rss")
    seen, left = list(life.points("rss")), list(thin.points("rss"))
    assert set(left) <= set(seen) and left == sorted(set(left))
    assert len(left) <= most + 2
    assert (left[0], left[-1]) == (seen[0], seen[-1])
    if most >= 6:
        for extreme in (min, max):
            assert extreme(size for _, size in left) == extreme(size for _, size in seen)


def test_the_measure_that_is_shown_first_has_a_curve() -> None:
    """USS of a few samples is offered, and not what a page begins with; what nobody read is not
    offered."""
    known = [5, 5, 10 * MB, 6 * MB, None, 5 * MB, MB, 0.1]
    unknown = [5, 5, 10 * MB, 6 * MB, None, None, MB, 0.1]
    few = curves.lives([(60.0 * i, [known if i < 3 else unknown]) for i in range(9)])
    many = curves.lives([(60.0 * i, [known if i >= 3 else unknown]) for i in range(90)])
    assert curves.measured(few) == {"uss": 3 / 9, "rss": 1.0, "anon": 1.0}
    assert page._measure(few, Options()) == ("rss", "uss")
    assert page._measure(many, Options()) == ("uss", "uss")
    assert page._measure(many, Options(measure="pss")) == ("rss", "pss")
    assert next(many[0].points("uss")) == (180.0, 6 * MB)  # swap included


def test_where_another_measure_is_drawn_the_page_says_which_one_is_meant() -> None:
    """The limit's line, and the words under the chart."""
    rows = [[7, 7, 30 * MB, 20 * MB, None, None, 0, 0.1] for _ in range(9)]
    rows[0][5] = 19 * MB
    now = {**status_of("web"), "workers": [{**worker_of(7), "limit": 40 * MB, "rss": 30 * MB}]}
    samples = {"web": [(1000.0 + 60 * i, [row]) for i, row in enumerate(rows)]}
    document = page.document(source([], samples=samples, live=True, status={"web": now}))
    [program] = document["programs"]
    assert program["measure"] == "rss" and list(program["measures"]) == ["uss", "rss", "anon"]
    assert [line["text"] for line in program["lines"]] == ["limit 40.0MB of USS"]
    words = re.sub("<[^>]*>", "", markup.render(document, "", ""))
    assert "RSS is drawn: USS is read only when it matters, so its curves have gaps." in words
    assert "Across: limit as of now." in words


# -- the document


def test_the_curves_are_the_journals_rows(tmp_path: Path) -> None:
    """Every sample of everyone, to the second and the KB, in each measure."""
    week = day(tmp_path)
    document = document_of(week)
    [program] = document["programs"]
    assert program["thinned"] == 0 and program["measure"] == "uss"
    columns = {"rss": 2, "anon": 3, "uss": 5}
    found = {
        (measure, curve["pid"], x, y)
        for curve in program["curves"]
        for measure in columns
        for x, y in drawn(curve["paths"][measure])
    }
    expected = {
        (measure, row[0], round(at - document["since"]), round(row[column] / 1024))
        for at, rows in week.rows
        for row in rows
        for measure, column in columns.items()
    }
    assert found == expected


def test_it_says_who_leaks_and_what_to_do(program: dict[str, Any]) -> None:
    """First of all."""
    answer = program["answer"]
    assert answer["tone"] == "bad"
    assert re.fullmatch(
        r"Worker 1011 is leaking, told at .*: anonymous memory \+8.0MB/h for 11h\.",
        answer["headline"],
    )
    assert "Advice: look in the request path." in answer["lines"]
    assert [line for line in answer["lines"] if "cooldown" in line] == [
        "It would act on leak of worker 1011, and is held: cooldown until 13:10."
    ]
    assert any(line.startswith("It lets go at ") for line in answer["lines"])


def test_what_was_told_is_shaded_until_the_worker_was_gone(
    week: Week, program: dict[str, Any]
) -> None:
    """The last one stands."""
    spans = program["told"]
    suspected = [entry for entry in week.entries if entry.kind == "suspected"]
    assert [span["since"] for span in spans] == [entry.at for entry in suspected]
    recycled = [entry.at for entry in week.entries if entry.kind == "intent"]
    for span, at in zip(spans[:-1], recycled, strict=True):
        assert span["until"] == at  # the first sample without it
    assert spans[-1]["until"] is None


def test_actions_have_reason_result_what_came_back_and_cost(
    week: Week, program: dict[str, Any]
) -> None:
    """As the journal has them."""
    actions = program["actions"]
    outcomes = [entry for entry in week.entries if entry.kind == "outcome"]
    assert len(actions) == len(outcomes) == 3
    for action, outcome in zip(actions, outcomes, strict=True):
        assert action["freed"] == outcome.data["freed_bytes"] > 300 * MB
        assert (action["action"], action["result"], action["way"]) == ("recycle", "done", "plain")
        assert action["why"] == week.reason
        assert action["cost"] == "20s: one boot, one worker fewer meanwhile"
    assert "came back" in program["summary"]


def test_deploys_and_kills_are_marked(program: dict[str, Any]) -> None:
    """And in the summary."""
    assert [other["mark"] for other in program["others"] if other["mark"]] == ["deploy", "OOM kill"]
    assert "deploy once" in program["summary"] and "OOM kill once" in program["summary"]


def test_siblings_that_do_not_hold_the_same_are_named(tmp_path: Path) -> None:
    """And a program whose workers do is said to be alike."""
    leaking = web(day(tmp_path / "a", days=1, leak=10 * MB / 3600))["siblings"]
    alike = web(day(tmp_path / "b", leak=0.0))["siblings"]
    assert leaking["text"].startswith("No: USS ") and "worker 1001 holds" in leaking["text"]
    assert (leaking["tone"], alike["tone"]) == ("bad", "good")
    assert alike["text"].startswith("Yes: USS ")
    [row] = [row for row in leaking["rows"] if row["pid"] == 1001]
    assert row["after"] - row["before"] == row["change"] > 200 * MB


def test_limit_and_headroom_are_lines(tmp_path: Path) -> None:
    """The headroom's only where something is nearer than the limit."""
    week = day(tmp_path)
    assert web(week)["lines"] == [{"kind": "limit", "bytes": LIMIT, "text": "limit 400.0MB"}]
    week.conf.write_text(week.conf.read_text() + "total_limit = 400MB\n")
    limit, headroom = web(week)["lines"]
    assert (limit["kind"], headroom["kind"]) == ("limit", "headroom")
    assert headroom["bytes"] < LIMIT


def test_a_healthy_program_is_said_to_be(tmp_path: Path) -> None:
    """With what it holds."""
    program = web(day(tmp_path, leak=0.0))
    assert program["answer"]["tone"] == "good"
    assert program["answer"]["headline"].startswith("Not leaking, as far as can be seen")
    assert program["told"] == [] and program["actions"] == []


def test_where_the_listener_is_silent_nothing_is_good(tmp_path: Path) -> None:
    """What it saw last is said to be that."""
    week = Week(tmp_path, time.time() - 3600, days=0.5, workers=3, leak=0.0).write()
    document = document_of(week)
    assert document["silence"]
    answer = document["programs"][0]["answer"]
    assert answer["tone"] == "unsure" and answer["headline"].startswith("When it was last seen")


def test_a_span_that_is_over_is_answered_by_what_was_told_then(week: Week) -> None:
    """Not by what is seen now."""
    then = web(week, since=week.now - 6 * DAY, until=week.now - 4 * DAY)
    assert then["answer"]["headline"] == "It was told to leak: worker 1001, worker 1009."
    assert (then["lines"], then["state"]) == ([], None)
    before = web(week, since=week.now - 6.9 * DAY, until=week.now - 6.8 * DAY)
    assert before["answer"] == {
        "tone": "good",
        "headline": "No leak was told in this time.",
        "lines": [],
        "rank": 4,
    }


def test_nothing_is_shown_from_before_the_journal_begins(week: Week) -> None:
    """A long `--since` does not squeeze the curves together."""
    assert document_of(week, since=week.now - 30 * DAY)["since"] == week.rows[0][0] - 60


def source(lines: list[Entry], **more: Any) -> page.Source:
    found = page.Source(
        since=1000.0,
        until=5000.0,
        now=5000.0,
        live=False,
        version="1",
        host="h",
        zone=0,
        silence="",
        programs=["web"],
        status={},
        advice={},
        paused={},
        options={"web": Options()},
        samples={"web": [sample(at, (10, 5), (11, 5)) for at in range(1000, 5001, 60)]},
        lines={"web": lines},
        procedures={},
    )
    return found._replace(**more)


def status_of(name: str, **more: Any) -> dict[str, Any]:
    """A program as `status --json` has it."""
    return {
        "namespec": name,
        "state": "RUNNING",
        "mode": "act",
        "kind": "gunicorn",
        "master": None,
        "workers": [],
        "verdicts": [],
        "total": 50 * MB,
        "total_limit": None,
        "available": None,
        "held": [],
        "action": None,
        "last_action": None,
        "budget": {"used": 0, "of": 6, "period": 3600.0},
        **more,
    }


def worker_of(pid: int, age: float = 4000.0, *verdicts: tuple[str, str]) -> dict[str, Any]:
    """A worker of it, as of 5000, with the verdicts that are told of it."""
    keys = ("rss", "anon", "pss", "uss", "limit", "headroom", "trend", "hours_to_limit")
    return {
        **dict.fromkeys(keys),
        "pid": pid,
        "id": f"{pid}:{pid}",
        "start": 5000.0 - age,
        "age": age,
        "swap": 0,
        "verdicts": [
            {
                "kind": kind,
                "since": 4900.0,
                "measured": 1.0,
                "bound": None,
                "confidence": 0.9,
                "why": why,
                "told": True,
                "act": False,
            }
            for kind, why in verdicts
        ],
    }


def line(at: float, kind: str, text: str = "", **data: Any) -> Entry:
    return Entry(at, "web", kind, text, data)


def test_what_needs_attention_stands_first() -> None:
    """Who leaks, who is over a limit, who is held, who cannot be judged, who is well; by name among
    equals. Where a reader was on the page does not depend on it."""
    held = [{"code": "no_room", "text": "no room", "until": None}]
    programs = {
        "a": status_of("a", workers=[worker_of(10)]),
        "b": status_of("b"),
        "c": status_of("c", workers=[worker_of(10)], held=held),
        "d": status_of("d", workers=[worker_of(10, 4000.0, ("limit", "USS 9MB, limit 8MB"))]),
        "e": status_of("e", workers=[worker_of(10, 4000.0, (LEAK, "grows"))]),
        "f": status_of("f", workers=[worker_of(10)]),
        "g": status_of("g", workers=[worker_of(10, 4000.0, (LEAK, "grows"))]),
    }
    found = source([], live=True, programs=list(programs), status=programs, samples={}, options={})
    document = page.document(found)
    assert [p["namespec"] for p in document["programs"]] == ["e", "g", "d", "c", "b", "a", "f"]
    assert [p["id"] for p in document["programs"]] == ["p4", "p6", "p3", "p2", "p1", "p0", "p5"]
    text = markup.render(document, "", "")
    assert re.findall(r'<a href="#(p\d)">', text) == re.findall(r'<section \S+ id="(p\d)"', text)


def test_who_has_gone_is_not_shown_as_if_it_were_there() -> None:
    """In the legend, where nobody took its place."""
    rows = [sample(1000 + 60 * i, *((10, 5), (11, 5))[: 1 if i > 9 else 2]) for i in range(20)]
    text = markup.render(page.document(source([], samples={"web": rows})), "", "")
    legend = re.findall(r'<span class="whom">(.*?)</span>(.*?) <b', text)
    assert legend == [
        ("master 1", ""),
        ("worker 10", ""),
        ("worker 11", '<span class="gone">, gone</span>'),
    ]


def test_text_is_cut_between_two_words() -> None:
    """Never within a number; what is one word, anywhere."""
    assert markup.text("limit 160.0MB in 2m 42s", 12) == "limit ..."
    assert markup.text("limit 160.0MB in 2m 42s", 13) == "limit 160.0MB ..."
    assert markup.text("limit 160.0MB", 13) == "limit 160.0MB"
    assert markup.text("x" * 50, 10) == "x" * 10 + " ..."


def test_no_size_at_the_axis_is_in_the_way_of_a_line() -> None:
    """The limit's label and its line are left alone."""
    for mb in range(20, 400):
        lines = [{"bytes": mb * MB}]
        drawn = re.findall(r'<text x="4" y="([\d.]+)%"', markup._sizes(410 * 1024, lines))
        assert len(drawn) >= 2
        assert all(abs(float(y) - 100 * (1 - mb / 410)) >= 4.9 for y in drawn)


def test_a_verdict_ends_when_it_is_over_when_all_are_or_when_it_is_told_anew() -> None:
    """Whatever comes first; one of before is shown as far as it reaches in."""
    lines = [
        line(500, "suspected", "worker 10: leak: grows", pid=10, verdict=LEAK),
        line(1500, "over", pid=10, verdict=LEAK),
        line(2000, "suspected", "worker 10: leak: grows", pid=10, verdict=LEAK),
        line(2500, "suspected", "worker 11: imbalance: big", pid=11, verdict=IMBALANCE),
        line(3000, "suspected", "worker 10: leak: faster", pid=10, verdict=LEAK),
        line(4000, "recovered", "recovered"),
        line(4500, "suspected", "program: total_limit: over", pid=None, verdict="total_limit"),
    ]
    [program] = page.document(source(lines))["programs"]
    spans = [(span["who"], span["since"], span["until"], span["why"]) for span in program["told"]]
    assert spans == [
        ("worker 10", 500, 1500, "grows"),
        ("worker 10", 2000, 3000, "grows"),
        ("worker 11", 2500, 4000, "big"),
        ("worker 10", 3000, 4000, "faster"),
        ("program", 4500, None, "over"),
    ]


def test_a_verdict_ends_with_its_worker_before_the_next_sample() -> None:
    """By a recycle, or by somebody else's doing."""
    lines = [
        line(4985, "suspected", "worker 10: leak: grows", pid=10, verdict=LEAK),
        line(4986, "suspected", "worker 11: leak: grows", pid=11, verdict=LEAK),
        line(4987, "intent", "worker 10: leak; recycling", procedure="web@1", why="grows"),
        line(4990, "outcome", "recycle done: replaced", procedure="web@1", result="done"),
        line(4995, "seen", "worker 11: killed", pid=11, cause="oom"),
    ]
    plans = {"web@1": {"action": "recycle", "target": [10, 10]}}
    [program] = page.document(source(lines, procedures=plans))["programs"]
    assert [span["until"] for span in program["told"]] == [4990, 4995]


def test_what_others_did_to_all_workers_is_one_mark() -> None:
    """A reload ends them all."""
    lines = [line(2000 + i, "seen", f"worker {i}: reloaded", cause="reload") for i in range(8)]
    [program] = page.document(source(lines))["programs"]
    assert [other["mark"] for other in program["others"]] == ["reload by others", *[""] * 7]


def test_an_action_that_has_not_ended_is_under_way() -> None:
    """Without a plan in the journal, too."""
    text = "worker 10: leak, USS 9MB; recycling"
    lines = [line(2000, "intent", text, procedure="web@1", why="USS 9MB")]
    [program] = page.document(source(lines))["programs"]
    [action] = program["actions"]
    assert (action["action"], action["result"], action["why"]) == (
        "recycle",
        "under way",
        "USS 9MB",
    )


def test_a_told_verdict_that_ends_beside_others_is_written_down() -> None:
    """So that its time can be shown; where all end, `recovered` says it."""
    world = World("web", count=2)
    watch = Watch("web", Options())
    both, one = world.snapshot(1000.0), world.snapshot(1060.0)
    first, second = (worker.id for worker in both.workers)
    leak = Verdict(LEAK, 900.0, 1.0, None, 0.9, "it grows", told=True)
    watch._tell({first: (leak,), second: (leak,)}, both)
    entries, _ = watch._tell({second: (leak,)}, one)
    [over] = [entry for entry in entries if entry.kind == "over"]
    assert over.data == {"pid": first.pid, "verdict": LEAK}
    assert over.text == f"worker {first.pid}: leak: no longer told"


def test_what_a_listener_has_written_is_understood(tmp_path: Path) -> None:
    """Its samples, its verdicts, its actions: nothing here knows how the page reads them."""
    options = "mode = act\nlimit = 120MB\nwarmup = 10s\nconfirm = 10s\ncooldown = 1m\n"
    rig = Rig(tmp_path, options, World("web", leaking=1, leak=0.2)).run(ticks(150))
    found = config.load(str(rig.conf), {})
    now = rig.clock.now  # ahead of the machine's clock
    with mock.patch("supervisor_memwatch.chronicle.time.time", lambda: now):
        document = chronicle.document(found)
    [program] = document["programs"]
    rows = [(at, json.loads(text)) for at, text in rig.rows("SELECT at, workers FROM samples")]
    [(at, text)] = rig.rows("SELECT at, snapshot FROM latest")
    *_, master, workers = json.loads(text)[:7]  # the last look, after the last sample
    rows.append((at, [[*one[0], one[2]] for one in (master, *workers)]))
    seen = {
        (row[0], round(at - document["since"]), round(row[2] / 1024))
        for at, people in rows
        for row in people
    }
    curves = program["curves"]
    assert seen == {(c["pid"], x, y) for c in curves for x, y in drawn(c["paths"]["rss"])}
    assert [curve["role"] for curve in curves].count("master") == 1
    outcomes = rig.rows("SELECT at, text, data FROM entries WHERE kind = 'outcome'")
    assert outcomes and len(program["actions"]) == len(outcomes)
    for action, (at, text, data) in zip(program["actions"], outcomes, strict=True):
        assert action["ended"] == at and text.endswith(action["text"])
        assert (action["action"], action["result"]) == ("recycle", json.loads(data)["result"])
        assert action["freed"] == json.loads(data)["freed_bytes"]
        assert action["pid"] == 1001 and action["why"] and action["cost"]
    told = rig.rows("SELECT at, data FROM entries WHERE kind = 'suspected'")
    assert [span["since"] for span in program["told"]] == [at for at, _ in told]
    assert program["told"][0]["who"] == "worker 1001" and program["told"][0]["until"] is None
    assert program["answer"]["headline"].startswith("Worker 1001 is leaking, told at ")
    # Its advice says how fast, and until when, once more: the page does not.
    advice = status.read(found).advice["web"]
    dropped = [text for text in advice if f"Advice: {text}." not in program["answer"]["lines"]]
    assert [text for text in advice if "so far" in text or " is at " in text] == dropped != []


# -- the clock on the wall


@given(st.integers(0, 4_000_000_000), st.sampled_from([-34200, 0, 3600, 20700]))
def test_the_clock_is_the_calendars(at: int, zone: int) -> None:
    """As the standard library has it."""
    expected = datetime.fromtimestamp(at + zone, timezone.utc).strftime("%Y-%m-%d %H:%M")
    assert wallclock.clock(at, zone) == expected
    assert wallclock.clock(at, zone, at) == expected[11:]


# -- the text


class Elements(HTMLParser):
    """Every element with its attributes, and the text of the scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.all and self.all[-1][0] in self.inside and data.strip():
            self.inside[self.all[-1][0]].append(data)


def text_of(week: Week, **span: Any) -> str:
    return serve.report(document_of(week, **span))


def test_a_week_of_eight_workers_is_a_small_file(week: Week) -> None:
    """Under 500 KB."""
    assert len(text_of(week, since=week.now - 7 * DAY).encode()) < 500_000


def test_so_is_one_with_a_thousand_workers_that_came_and_went() -> None:
    """And a hundred programs."""
    busy = [(60.0 * i, sample(0, *((10 + i // 9 + j * 2000, i % 50) for j in range(8)))[1])
            for i in range(2300)]  # fmt: skip
    reason = "USS 410.0MB, anonymous memory +3.1MB/min for 12m (88.0MB to 125.3MB), 400MB in 1h"
    lines = []
    for i in range(1000):
        lines += [
            line(100.0 * i, "suspected", f"worker {i}: leak: {reason}", pid=i, verdict=LEAK),
            line(100.0 * i, "intent", reason, procedure=f"web@{i}", why=reason),
            line(100.0 * i + 9, "outcome", reason, procedure=f"web@{i}", result="done"),
            line(100.0 * i, "seen", reason, cause="oom"),
        ]
    one = source(lines, since=0.0, until=140_000.0, samples={"web": busy})
    assert len(markup.render(page.document(one), "", "").encode()) < 500_000
    names = [f"web{i}" for i in range(100)]
    steady = [sample(60.0 * i, *((10 + j, i % 50) for j in range(8))) for i in range(60)]
    samples = dict.fromkeys(names, steady)
    many = source([], since=0.0, until=3600.0, programs=names, samples=samples)
    assert len(markup.render(page.document(many), "", "").encode()) < 2_500_000


def test_nothing_is_loaded_from_anywhere(week: Week) -> None:
    """No address but within the page, no style or handler in an attribute, and a policy that lets
    its own script and style alone."""
    elements = Elements(text_of(week))
    for tag, attributes in elements.all:
        assert tag not in ("img", "iframe", "link", "object", "embed", "base", "form", "image")
        assert "src" not in attributes and "style" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    [rule] = [
        attributes["content"]
        for _, attributes in elements.all
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    for kind in ("script", "style"):
        [content] = elements.inside[kind]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(rule)
    assert str(rule).startswith("default-src 'none'") and "unsafe" not in str(rule)
    assert (
        "url(" not in elements.inside["style"][0] and "@import" not in elements.inside["style"][0]
    )


def test_hostile_names_and_reasons_are_text(tmp_path: Path) -> None:
    """The page has the elements that it has with harmless ones, and no control characters."""
    harmless = day(tmp_path / "a", days=2, leak=10 * MB / 3600)
    now = harmless.now
    hostile = Week(tmp_path / "b", now, HOSTILE, 2, 3, 10 * MB / 3600, reason=HOSTILE)
    hostile._say(now - 100, "seen", HOSTILE)
    hostile.write()
    harmless = Week(tmp_path / "c", now, "web", 2, 3, 10 * MB / 3600)
    harmless._say(now - 100, "seen", "text")
    harmless.write()
    texts = [text_of(week, since=now - 2 * DAY) for week in (hostile, harmless)]
    found = [
        [(tag, sorted(attributes)) for tag, attributes in Elements(text).all] for text in texts
    ]
    assert found[0] == found[1]
    assert "alert(1)" in texts[0] and "<script>alert" not in texts[0]
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", texts[0])


# -- report


def test_report_says_what_it_wrote(ran: Any, tmp_path: Path) -> None:
    """In one line: path, size, programs, span."""
    week = day(tmp_path / "w")
    done = ran("report", "-c", week.conf, "-o", tmp_path / "page.html")
    assert (done.status, done.err) == (0, "")
    size = units.size((tmp_path / "page.html").stat().st_size)
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    span = rf"{moment} to {moment} \(UTC[+-]\d\d:\d\d\)"
    expected = rf"{re.escape(str(tmp_path))}/page.html: {size}, 1 program, {span}\n"
    assert re.fullmatch(expected, done.out)
    text = (tmp_path / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")


def test_a_program_that_never_ran_is_in_the_report_too(ran: Any, tmp_path: Path) -> None:
    """`autostart = false`: the listener has looked at it, and there is no sample."""
    week = day(tmp_path / "w")
    book = Journal(str(week.journal))
    [(text,)] = book.rows("SELECT snapshot FROM latest")
    seen = Snapshot(*json.loads(text))
    idle = seen._replace(namespec="idle", state="STOPPED", master=None, workers=())
    [(view,)] = book.rows("SELECT view FROM latest")
    book.write([journal.latest_row("idle", week.now, idle, json.loads(view))])
    book.close()
    done = ran("report", "-c", week.conf, "-o", tmp_path / "page.html")
    assert done.status == 0, done.err
    assert ">idle" in (tmp_path / "page.html").read_text()


def test_report_to_stdout_is_utf_8(tmp_path: Path, capfdbinary: Any) -> None:
    """Whatever the terminal's encoding."""
    week = day(tmp_path / "w", namespec="wéb")
    assert cli.main(["report", "-c", str(week.conf), "-o", "-"]) == 0
    out = capfdbinary.readouterr().out
    assert out.startswith(b"<!DOCTYPE html>") and "wéb".encode() in out


def test_report_of_one_program(ran: Any, tmp_path: Path) -> None:
    """Also of one that is no longer watched; a name that the journal does not know is an error."""
    week = day(tmp_path / "w")
    book = Journal(str(week.journal))
    book.write([journal.entry_row(Entry(week.now - 50, "shop", "seen", "it went"))])
    book.close()
    for name in ("web", "shop"):
        done = ran("report", "-c", week.conf, "-o", tmp_path / name, "--program", name)
        assert done.status == 0
        assert re.findall(r"<h2 id=\S+>(\w+)", (tmp_path / name).read_text()) == [name]
    done = ran("report", "-c", week.conf, "-o", "-", "--program", "wbe")
    assert done.status == 2 and "not in the journal: wbe; known: shop, web" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterdy"], "--since or --until yesterdy: valid:"),
        (["--until", "31 Jan"], "--since or --until 31 Jan: valid:"),
        (["--since", "1h", "--until", "2h"], "--since has to be a minute before --until"),
        (["-o", "/nowhere/page.html"], "/nowhere/page.html: No such file or directory"),
    ],
)
def test_report_says_what_is_wrong(
    ran: Any, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Status 2, nothing written."""
    week = day(tmp_path / "w")
    done = ran("report", "-c", week.conf, "-o", tmp_path / "page.html", *arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("command", [["report", "-o", "-"], ["serve"]])
def test_without_a_journal_it_is_the_readers_error(
    ran: Any, tmp_path: Path, command: list[str]
) -> None:
    """Status 2."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text(f"[supervisord]\n[memwatch]\njournal = {tmp_path}/none.db\n")
    done = ran(*command, "-c", conf)
    assert (done.status, done.out) == (2, "")
    assert "none.db: no journal there yet: has the listener run?" in done.err


# -- serve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8787", (None, "127.0.0.1", 8787)),
        ("127.9.9.9:0", (None, "127.9.9.9", 0)),
        ("localhost:1", (None, "127.0.0.1", 1)),
        ("[::1]:8787", (None, "::1", 8787)),
        ("8787", (None, "127.0.0.1", 8787)),
        ("unix:/run/x.sock", ("/run/x.sock", "", 0)),
    ],
)
def test_it_listens_on_loopback_or_a_unix_socket(text: str, expected: tuple[Any, ...]) -> None:
    """In these spellings."""
    assert tuple(serve.address(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:8787",
        ":::80",
        "[::]:80",
        "192.168.1.5:80",
        "example.com:80",
        "unix:",
        "x",
        "",
        "1:99999",
    ],
)
def test_it_listens_nowhere_else(ran: Any, text: str) -> None:
    """And says what would do."""
    done = ran("serve", "--listen", text)
    assert (done.status, done.out) == (2, "")
    assert "valid: 127.0.0.1:PORT" in done.err or "ssh -L" in done.err or "a path" in done.err


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.1:8787",
                                  "[::1]", "[::1]:8787"])  # fmt: skip
def test_its_own_names_are_this_machines(host: str) -> None:
    """On whatever port, for ssh -L."""
    assert serve.is_own_name(host)


@pytest.mark.parametrize("host", [None, "", "evil.example", "evil.example:8787", "10.0.0.1",
                                  "127.0.0.1.evil.example", "localhost.evil.example:1",
                                  "evil.example:localhost", "0.0.0.0:8787"])  # fmt: skip
def test_a_name_of_somebody_elses_is_none(host: str | None) -> None:
    """A rebound DNS name is refused."""
    assert not serve.is_own_name(host)


@contextmanager
def serving(week: Week, listen: str = "127.0.0.1:0") -> Iterator[Any]:
    where = serve.address(listen)
    server = serve.open_server(config.load(str(week.conf), {}), where, [], DAY)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        serve.close(server)


def ask(server: Any, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def test_it_serves_the_page_and_nothing_else(tmp_path: Path) -> None:
    """GET and HEAD of /, for those who call this machine by its own name; it changes nothing."""
    week = day(tmp_path)
    before = week.journal.read_bytes()
    with serving(week) as server:
        status, headers, body = ask(server, "GET", "/?x=1")
        assert status == 200 and body.startswith(b"<!DOCTYPE html>")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        rule = headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
            assert part in rule
        assert "unsafe" not in rule and b'http-equiv="Content-Security-Policy' not in body
        assert headers["Cache-Control"] == "no-store"
        status, headers, nothing = ask(server, "HEAD", "/")
        assert (status, nothing) == (200, b"") and int(headers["Content-Length"]) > 1000
        assert ask(server, "GET", "/etc/passwd")[0] == 404
        assert ask(server, "GET", "/../../etc/passwd")[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            status, headers, _ = ask(server, method, "/")
            assert status == 501 and "Access-Control-Allow-Origin" not in headers
        status, headers, body = ask(server, "GET", "/", Host="evil.example:80")
        assert status == 403 and b"web" not in body
        with socket.create_connection(server.server_address[:2], timeout=20) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")  # no Host at all
            assert raw.recv(100).startswith(b"HTTP/1.0 403")
    assert week.journal.read_bytes() == before


def test_a_live_page_shows_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next request, a second later."""
    week = day(tmp_path)
    with serving(week) as server:
        assert b"it came" not in ask(server, "GET", "/")[2]
        book = Journal(str(week.journal))
        book.write([journal.entry_row(Entry(time.time(), "web", "seen", "it came"))])
        book.close()
        server._made = None
        assert b"it came" in ask(server, "GET", "/")[2]


def test_a_journal_that_went_away_is_said(tmp_path: Path) -> None:
    """503, with the reader's words."""
    week = day(tmp_path)
    with serving(week) as server:
        week.journal.unlink()
        server._made = None
        status, _, body = ask(server, "GET", "/")
        assert status == 503 and b"no journal there yet" in body


def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    """0600; it is gone at the end; one that nobody serves is replaced, another one is not."""
    week = day(tmp_path / "w")
    path = tmp_path / "page.sock"
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(path))
    with serving(week, f"unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert serve.url(server) == f"unix:{path}"
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: memory.example\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.0 200 OK"
        with pytest.raises(serve.ServeError, match="somebody serves there already"):
            serve.open_server(
                config.load(str(week.conf), {}), serve.address(f"unix:{path}"), [], DAY
            )
    assert not path.exists()
    path.write_text("a file of somebody's")
    with pytest.raises(serve.ServeError, match="is no socket"):
        serve.open_server(config.load(str(week.conf), {}), serve.address(f"unix:{path}"), [], DAY)
    assert path.read_text() == "a file of somebody's"


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """Status 0; it says where it listens."""
    week = day(tmp_path)
    command = [sys.executable, "-m", "supervisor_memwatch", "serve", "-c", str(week.conf)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", line)
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_that_is_taken_is_an_error_in_words(ran: Any, tmp_path: Path) -> None:
    """With what to do."""
    week = day(tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = ran("serve", "-c", week.conf, "--listen", f"127.0.0.1:{port}")
    assert (done.status, done.out) == (2, "")
    assert f"127.0.0.1:{port}: Address already in use; name another one" in done.err


def test_serve_takes_a_length_only(ran: Any, tmp_path: Path) -> None:
    """The page moves on with the time."""
    done = ran("serve", "--since", "2026-01-31")
    assert done.status == 2 and "--since 2026-01-31: valid: a time such as" in done.err


def test_a_damaged_row_is_no_traceback(ran: Any, tmp_path: Path) -> None:
    """A journal that somebody changed by hand."""
    week = day(tmp_path)
    with closing(sqlite3.connect(week.journal)) as db, db:
        db.execute("INSERT INTO samples (at, namespec, workers) VALUES (?, 'web', 'x')",
                   (week.now - 9,))  # fmt: skip
    done = ran("report", "-c", week.conf, "-o", "-")
    assert done.status == 2 and "journal" in done.err


def test_the_reader_is_closed(tmp_path: Path) -> None:
    """A page a few seconds must not use up descriptors."""
    week = day(tmp_path)
    gc.collect()  # what other tests left is not ours to count
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        document_of(week)
    assert len(os.listdir("/proc/self/fd")) == before
