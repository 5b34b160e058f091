"""`memwatch top` on paper: what is drawn of what is known, and what a key does."""

from __future__ import annotations

import os
import pty
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Rig, ticks
from worlds import World

from supervisor_memwatch import cells, cli, keyboard, screen, terminal
from supervisor_memwatch.keyboard import Data, State, Wish
from supervisor_memwatch.screen import Span

ROOT = Path(__file__).resolve().parent.parent
MB = 1024**2
HOSTILE = "web\x1b[2J\x9b2J\nforged\u202e\u2028\x07\ud800"
NOW = 1_800_000_000.0


# -- a made-up evening


def verdict(kind: str = "leak", **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "since": NOW - 600,
        "measured": 80.0 * MB,
        "bound": 90.0 * MB,
        "confidence": 0.93,
        "why": f"{kind} for a reason",
        "told": True,
        "act": False,
        **more,
    }


def worker(pid: int, **more: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "id": f"{pid}:7",
        "start": NOW - 7200,
        "age": 7200.0,
        "rss": 80 * MB,
        "anon": 62 * MB,
        "pss": 67 * MB,
        "uss": 60 * MB,
        "swap": 0,
        "measured_at": NOW - 20,
        "cpu": 61.5,
        "fds": 11,
        "threads": 1,
        "requests": 4308,
        "limit": 400 * MB,
        "headroom": 340 * MB,
        "verdicts": [],
        "trend": {"bytes_per_hour": 0.1 * MB, "low": -0.1 * MB, "high": 0.3 * MB},
        "hours_to_limit": None,
        **more,
    }


def made_up(namespec: str = "web", *workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "namespec": namespec,
        "state": "RUNNING",
        "mode": "act",
        "kind": "gunicorn",
        "master": worker(4700, rss=24 * MB, anon=14 * MB, uss=None, limit=None, trend=None),
        "workers": list(workers),
        "verdicts": [],
        "total": 300 * MB,
        "total_limit": 2048 * MB,
        "available": 2048 * MB,
        "held": [],
        "action": None,
        "last_action": None,
        "budget": {"used": 1, "of": 6, "period": 3600.0},
        **more,
    }


def known(*programs: dict[str, Any], **more: Any) -> Data:
    listener = {"pid": 812, "ticks": 1440, "last_tick": NOW - 3, "rss": 18 * MB}
    document = {
        "version": "0",
        "time": NOW,
        "listener": {**listener, "cpu_seconds": 9.1, "events_dropped": 0},
        "programs": list(programs),
    }
    return Data(document, **{"until": NOW - 40, "clock": "22:40:03", **more})


LEAKY = worker(
    4711,
    rss=252 * MB,
    anon=236 * MB,
    uss=232 * MB,
    verdicts=[verdict(act=True, why="USS 232.0MB, anonymous memory +2.9MB/min for 58m")],
    trend={"bytes_per_hour": 174.0 * MB, "low": 168.0 * MB, "high": 181.0 * MB},
    hours_to_limit=0.97,
)


def evening() -> Data:
    """A leak that is being recycled, healthy siblings, a paused program, a plain one."""
    now = {
        "action": {
            "id": "1",
            "action": "recycle",
            "step": "leaving",
            "kind": "leak",
            "pid": 4711,
            "why": "worker 4711: leak",
            "by": "memwatch",
            "begun": NOW - 4,
        }
    }
    held = [{"code": "observe", "text": "mode = observe", "until": None}]
    files = worker(5000, swap=3 * MB, verdicts=[verdict("fd_growth", confidence=0.88)])
    job = worker(9001, uss=310 * MB, rss=316 * MB, anon=309 * MB, trend=None, requests=None)
    programs = [
        made_up("web", worker(4712), LEAKY, worker(4713), total=412 * MB, **now),
        made_up("api:api_00", files, mode="observe", held=held, master=None),
        made_up("thumbnails", job, kind="plain", master=None, total=316 * MB),
    ]
    rows = []
    for minute in range(60):
        at = NOW - 3600 + 60 * minute
        grown = [4711, 7, 0, (62 + 2.9 * minute) * MB, 0, 0, 0, 0]
        flat = [[pid, 7, 0, 62 * MB, 0, 0, 0, 0] for pid in (4712, 4713)]
        flat.append([4700, 7, 0, 14 * MB, 0, 0, 0, 0])
        rows.append((at, "web", [*flat, grown]))
        if minute > 30:
            rows.append((at, "api:api_00", [[5000, 7, 0, 62 * MB, 0, 0, 0, 0]]))
        rows.append((at, "thumbnails", [[9001, 7, 0, (309 - minute % 30) * MB, 0, 0, 0, 0]]))
    advice = {"web": ["worker 4711 of 3 leaks 174.0MB/h, since 21:42 (58m): 170.0MB so far"]}
    paused = {"api:api_00": NOW + 1800}
    curves = screen.curves(rows, {"programs": programs}, NOW - 40)
    return known(*programs, curves=curves, advice=advice, paused=paused)


def shown(state: State, data: Data) -> list[str]:
    lines = screen.render(screen.settle(state, data), data)
    return ["".join(span.text for span in line).rstrip() for line in lines]


def pressed(state: State, data: Data, *keys: str) -> tuple[State, list[Wish]]:
    """What becomes of a state, and what was wished for on the way."""
    wishes = []
    for key in keys:
        state, wish = keyboard.press(screen.settle(state, data), data, key)
        wishes += [wish] if wish else []
    return screen.settle(state, data), wishes


def chosen(state: State, data: Data) -> str:
    """The line that is marked."""
    [line] = [line for line in shown(state, data) if line.startswith(">")]
    return line


WEB = ("web", "")
BAD_WORKER = ("web", "4711:7")


# -- what is shown


def test_at_80_by_24_all_that_matters_is_there() -> None:
    """The split, the curve, the trend, the limit, the verdict, the action, budget and advice."""
    lines = shown(State(chosen=BAD_WORKER), evening())
    assert len(lines) == 24 and max(map(cells.width, lines)) <= 80
    [row] = [line for line in lines if line.startswith(">worker 4711")]
    assert re.search(r" 2h +232M +20\.0M +0 +\S{6,} +\+174M +58m12s +leak! 93%$", row)
    text = "\n".join(lines)
    assert "now: recycle worker 4711, step leaving, for 4s: worker 4711: leak" in text
    assert "412M of 2.00G  1 action in the last 1h; the budget is 6" in text
    assert "advice: worker 4711 of 3 leaks 174.0MB/h" in text
    assert "held: mode = observe" in text
    assert "paused for 30m" in text
    told = "trend +174.0MB/h (+168.0MB to +181.0MB), at its limit in 58m 12s"
    assert told in " ".join(line.strip() for line in lines)
    assert "3 programs, 5 workers, 2 told" in text and "listener 812, tick 3s ago" in text


def test_the_readme_shows_this_screen() -> None:
    """The block under the command's name is drawn by the code."""
    block = re.search(r"<!-- top -->\n```\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    state = State(columns=100, rows=22, chosen=BAD_WORKER)
    assert block[1].split("\n") == shown(state, evening())


def test_what_matters_less_goes_first_where_the_terminal_is_narrow() -> None:
    """Columns by importance; who and the verdict always stay."""
    heads = {}
    for columns in (140, 100, 80, 60, 44, 32):
        lines = shown(State(columns=columns, rows=40), evening())
        heads[columns] = next(line for line in lines if "VERDICT" in line).split()
        assert max(map(cells.width, lines)) <= columns
    assert "95" in heads[140] and "95" not in heads[80]
    assert {"AGE", "PRIVATE", "SHARED", "SWAP", "LAST", "TREND/H", "LIMIT"} < set(heads[80])
    assert "AGE" not in heads[60] and {"LAST", "TREND/H", "PRIVATE"} < set(heads[60])
    assert {"PRIVATE", "TREND/H"} < set(heads[44]) and "LAST" not in heads[44]
    assert heads[32] == ["PRIVATE", "VERDICT"]


NAMES = st.text(max_size=40) | st.sampled_from([HOSTILE, "网站工作者" * 9, "é" * 50, "👩‍💻" * 30])


@given(
    columns=st.integers(1, 170),
    rows=st.integers(1, 60),
    name=NAMES,
    keys=st.lists(st.sampled_from([*"jkspre?/yq ", "down", "pgdn", "end", "enter", "escape"])),
    ascii=st.booleans(),
)
def test_every_screen_fits_and_nothing_unprintable_gets_through(
    columns: int, rows: int, name: str, keys: list[str], ascii: bool
) -> None:
    """Whatever the size, the names, and the keys that were pressed."""
    foul = verdict(why=name)
    action = {"action": "restart", "step": name, "why": name, "begun": NOW, "pid": None}
    last = {"action": "recycle", "result": name, "text": name, "ended": NOW}
    data = known(
        made_up(name, worker(1, verdicts=[foul]), verdicts=[foul], action=action, last_action=last),
        made_up("other", worker(2)),
        advice={name: [name]},
        trouble=name,
    )
    state = State(columns, rows, filter="", message=name, ascii=ascii, page=("a", name))
    state, _ = pressed(state, data, *keys)
    state = screen.settle(state, data)
    lines = screen.render(state, data)
    assert len(lines) == rows
    for line in lines:
        text = "".join(span.text for span in line)
        assert text.isprintable() and cells.width(text) <= columns
        assert text.isascii() or not ascii
        assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.dressed(line, terminal.COLOURS)) == text


def test_no_name_can_write_to_the_terminal() -> None:
    """What a hostile name has left are its letters."""
    data = known(made_up(HOSTILE, worker(1, verdicts=[verdict(why=HOSTILE)])))
    text = "\n".join(shown(State(columns=160), data))
    assert "web\\x1b[2J\\x9b2J\\nforged\\u202e\\u2028" in text
    assert not set("\x1b\x9b\u202e\u2028\x07\ud800") & set(text)


def test_a_long_wide_name_leaves_room_for_what_is_said_of_it() -> None:
    """Two cells a character; the columns stay under each other."""
    lines = shown(State(), known(made_up("仕事" * 40, worker(4712)), made_up("web", worker(1))))
    assert any(re.match(r"[> ](仕事)+…?.*… *RUNNING  act  300M of 2.00G", line) for line in lines)
    assert all(cells.width(line) <= 80 for line in lines)


def test_without_uss_the_private_part_is_an_estimate_and_says_so() -> None:
    """By anonymous memory, with a ~; and ? where not even that is known."""
    data = known(made_up("web", worker(1, uss=None), worker(2, uss=None, anon=None)))
    lines = {line.split()[1]: line for line in shown(State(), data) if " worker " in line}
    assert re.search(r" ~62\.0M +18\.0M", lines["1"])
    assert re.search(r" \? +\? ", lines["2"])


def test_of_a_program_what_is_shared_counts_once() -> None:
    """Unknown where the estimates of its parts are more than the whole."""
    exact = made_up("web", worker(1, swap=MB), worker(2), master=None, total=141 * MB)
    [line] = [line for line in shown(State(), known(exact)) if line.startswith(" all")]
    assert re.search(r" 120M +20\.0M +1\.00M", line)
    guessed = made_up("web", worker(1, uss=None), worker(2, uss=None), master=None, total=99 * MB)
    [line] = [line for line in shown(State(), known(guessed)) if line.startswith(" all")]
    assert re.search(r" ~124M +\? ", line)


def test_siblings_are_drawn_to_one_scale() -> None:
    """The leak rises, the others stay low; a blank is a time in which nobody looked."""
    lines = shown(State(columns=120, chosen=WEB, rows=40), evening())
    curve = {
        line.split()[1]: "".join(re.findall(f"[{cells.LEVELS} ]{{8,}}", line)).strip()
        for line in lines
        if line.startswith(" worker")
    }
    assert curve["4711"][0] == "▁" and curve["4711"][-1] == "█"
    assert list(curve["4711"]) == sorted(curve["4711"])
    assert set(curve["4712"]) == set(curve["4713"]) == {"▁"}
    assert 0 < len(curve["5000"]) < 0.6 * len(curve["4712"])


def test_a_curve_that_rises_never_sinks() -> None:
    """Not while its scale grows with it: its end is what is held now, at the top."""
    for minutes in range(1, 61):
        rows = [
            (NOW - 60 * (minutes - minute), "web", [[7, 7, 0, (60 + 20 * minute) * MB, 0, 0, 0, 0]])
            for minute in range(minutes)
        ]
        now = worker(7, anon=(60 + 20 * minutes) * MB)
        program = made_up("web", now, worker(8, anon=60 * MB), master=None)
        data = known(program, curves=screen.curves(rows, {"programs": [program]}, NOW), until=NOW)
        [line] = [line for line in shown(State(columns=100), data) if " worker 7 " in line]
        curve = "".join(re.findall(f"[{cells.LEVELS}]+", line))
        assert curve[-1] == "█" and list(curve) == sorted(curve), minutes


def test_one_measure_draws_all_the_curves_of_a_program() -> None:
    """Anonymous memory; where that is not known of all of them all the time, RSS."""
    known_all = [(NOW - 60, "web", [[1, 7, 90 * MB, 60 * MB, 0, 0, 0, 0]])]
    not_all = [(NOW - 60, "web", [[1, 7, 90 * MB, None, 0, 0, 0, 0]])]
    sure, unsure = worker(1, rss=95 * MB, anon=65 * MB), worker(1, rss=95 * MB, anon=None)
    for rows, one, sizes in (
        (known_all, sure, [60 * MB, 65 * MB]),
        (not_all, sure, [90 * MB, 95 * MB]),
        (known_all, unsure, [90 * MB, 95 * MB]),
    ):
        document = {"programs": [made_up("web", one, master=None)]}
        drawn = screen.curves(rows, document, NOW)["web"]["1:7"]
        assert [size for _, size in drawn] == sizes


def test_a_told_leak_is_never_below_a_healthy_worker_by_trend() -> None:
    """Nor without a number: however short its own curve, and whatever its interval."""
    told = [verdict("leak", act=True)]
    wide = {"bytes_per_hour": 40.0 * MB, "low": -1.0 * MB, "high": 90.0 * MB}
    fast = {"bytes_per_hour": 90.0 * MB, "low": 80.0 * MB, "high": 99.0 * MB}
    data = known(
        made_up(
            "web",
            worker(1, trend=fast),
            worker(2, verdicts=told, trend=None),
            worker(3, verdicts=told, trend=wide, headroom=80 * MB),
            worker(4, verdicts=[verdict("leak", told=False)], trend=fast),
            master=None,
        )
    )
    assert order("trend", data) == ["web", "web 3:7", "web 2:7", "web 1:7", "web 4:7"]
    found = [line for line in shown(State(columns=120), data) if " worker " in line]
    lines = {line.split()[1]: line for line in found}
    assert re.search(r" \+40\.0M .* 2h ", lines["3"])
    assert re.search(r"  \? .*leak! 93%", lines["2"])


def test_without_unicode_curves_are_drawn_in_ascii() -> None:
    """As on the kernel's console, or with LANG=C."""
    text = "\n".join(shown(State(ascii=True, chosen=BAD_WORKER), evening()))
    assert text.isascii()
    assert re.search(r"worker 4711.* _+\.*-?.*[*#@]+ ", text)


def test_a_silent_listener_and_a_journal_that_cannot_be_read_are_said() -> None:
    """In red above everything; the last that was known stays."""
    gone = replace(evening(), silence="the listener (pid 812) is gone: this is the last it saw")
    lines = screen.render(State(), gone)
    assert lines[1] == (Span(gone.silence, screen.BAD),)
    assert Span("SILENT for 3s  22:40:03", screen.BAD) in lines[0]
    unread = replace(evening(), trouble="/j: disk I/O error")
    assert shown(State(), unread)[1] == "/j: disk I/O error"
    assert any("worker 4711" in line for line in shown(State(), unread))


def test_a_program_that_is_down_and_no_program_at_all() -> None:
    """There is nobody to show, and it says so."""
    down = made_up("web", state="FATAL", master=None, total=None)
    assert "\n>web  FATAL  act  1 action in the last 1h; the budget" in "\n".join(
        shown(State(), known(down))
    )
    assert any("no program is watched" in line for line in shown(State(), known()))
    empty = known()
    assert pressed(State(), empty, "j", "r", "p", "e", "s", "end")[1] == []


def test_the_help_fits_on_one_screen() -> None:
    """At 80x24, without a line broken."""
    lines = keyboard.HELP.split("\n")
    assert len(lines) <= 22 and max(map(len, lines)) <= 80
    state, _ = pressed(State(), evening(), "?")
    assert shown(state, evening())[1 : 1 + len(lines)] == lines
    assert pressed(state, evening(), "q")[0].page == ()


# -- what keys do


def order(sort: str, data: Data) -> list[str]:
    return [name + (" " + id if id else "") for name, id in keyboard.keys(State(sort=sort), data)]


def test_workers_and_programs_are_sorted() -> None:
    """Largest, fastest, oldest first; by pid and by name upwards; the master before its workers."""
    data = known(
        made_up(
            "b",
            worker(30, uss=10, age=9.0, trend=None),
            worker(20, uss=40, age=1.0),
            worker(25, uss=20, age=5.0, trend={"bytes_per_hour": 9e9, "low": 1, "high": 9e9}),
            total=1,
        ),
        made_up("a", worker(26, uss=30, age=1e9), master=None, total=9),
        made_up("c", master=None, total=None),
    )
    master = "b 4700:7"
    rows = {
        "size": ["a", "a 26:7", "b", master, "b 20:7", "b 25:7", "b 30:7", "c"],
        "trend": ["b", master, "b 25:7", "b 20:7", "b 30:7", "a", "a 26:7", "c"],
        "age": ["a", "a 26:7", "b", master, "b 30:7", "b 25:7", "b 20:7", "c"],
        "pid": ["b", master, "b 20:7", "b 25:7", "b 30:7", "a", "a 26:7", "c"],
        "name": ["b", master, "b 20:7", "b 25:7", "b 30:7", "a", "a 26:7", "c"],
    }
    data.document["programs"].sort(key=lambda one: one["namespec"])  # as the journal gives them
    rows["name"] = ["a", "a 26:7", "b", master, "b 20:7", "b 25:7", "b 30:7", "c"]
    for sort, expected in rows.items():
        assert order(sort, data) == expected, sort
    state = State()
    for sort in ("trend", "age", "pid", "name", "size"):
        state, _ = pressed(state, data, "s")
        assert state.sort == sort
    assert pressed(state, data, "S")[0].sort == "name"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("api", ["api:api_00", "api:api_00 5000:7"]),
        ("4711", ["web", "web 4711:7"]),
        ("LEAK", ["web", "web 4711:7"]),
        ("master", ["web", "web 4700:7"]),
        ("q?s", []),
    ],
)
def test_a_filter_leaves_what_matches(typed: str, expected: list[str]) -> None:
    """By name, pid, role or verdict; while it is typed no letter is a key; Esc ends it."""
    data = evening()
    state, wishes = pressed(State(), data, "/", *typed, "x", "backspace")
    assert wishes == [] and state.typing and state.filter == typed
    assert f"/{typed}_" in shown(state, data)[-1]
    kept, _ = pressed(state, data, "enter")
    assert not kept.typing
    found = [" ".join(key).strip() for key in keyboard.keys(kept, data)]
    assert found == expected
    if not expected:
        assert any("nothing here has 'q?s'" in line for line in shown(kept, data))
    for again in (pressed(state, data, "escape")[0], pressed(kept, data, "escape")[0]):
        assert again.filter == "" and len(keyboard.keys(again, data)) == 9


def test_the_chosen_row_is_always_in_sight() -> None:
    """However long the list and however short the terminal."""
    data = known(*(made_up(f"p{n}", worker(n), worker(n + 100)) for n in range(9)))
    for rows in (5, 9, 24):
        state = State(rows=rows, sort="name")
        count = len(keyboard.keys(state, data))
        seen = []
        for _ in range(count):
            state, _ = pressed(state, data, "down")
            assert chosen(state, data).strip(">")
            seen.append(state.chosen)
        assert len(set(seen)) == count - 1, "the last stays the last"
        assert "worker 108" in chosen(state, data)
        for key, words in (("pgup", ">master 4700"), ("home", ">p0"), ("end", ">worker 108")):
            state, _ = pressed(state, data, key)
            assert words in chosen(state, data), key


def test_the_choice_stays_with_the_worker_and_falls_back_to_its_program() -> None:
    """Also when others come, go or change places."""
    state, _ = pressed(State(chosen=BAD_WORKER, sort="pid"), evening(), "s")
    assert state.chosen == BAD_WORKER and "worker 4711" in chosen(state, evening())
    replaced = known(made_up("web", worker(4712), worker(4800)))
    state = screen.settle(state, replaced)
    assert state.chosen == WEB
    assert screen.settle(state, known(made_up("other"))).chosen == ("other", "")


def test_recycle_asks_first_and_says_what_it_will_do() -> None:
    """Only y does it; what was typed for another purpose does not."""
    data = evening()
    asked, wishes = pressed(State(chosen=BAD_WORKER), data, "r")
    assert wishes == []
    text = " ".join(line.strip() for line in shown(asked, data)[-3:])
    assert "Recycle worker 4711 of web (232M)?" in text and "SIGTERM" in text
    assert text.endswith("y/N")
    for key in ("n", "N", "enter", "escape", " ", "r", "q", "down"):
        state, wishes = pressed(asked, data, key)
        assert (state.question, wishes, state.message) == (None, [], "nothing was done"), key
    state, wishes = pressed(asked, data, "y")
    assert wishes == [Wish("ask", "recycle", "4711")] and state.question is None


@pytest.mark.parametrize(("columns", "rows"), [(80, 3), (200, 2), (20, 8), (1, 24)])
def test_what_cannot_be_read_to_its_end_is_not_asked(columns: int, rows: int) -> None:
    """Nobody says y to a question whose end he does not see, nor once it was made smaller."""
    data = evening()
    worker = data.document["programs"][0]["workers"][0]
    start = screen.settle(replace(State(), chosen=("web", worker["id"])), data)
    asked, _ = pressed(start, data, "r")
    assert asked.question is not None
    small = screen.settle(replace(asked, columns=columns, rows=rows), data)
    assert small.question is None and "too small for the question" in small.message
    assert pressed(small, data, "y")[1] == []
    for many in range(1, 30):
        found = screen.settle(replace(asked, rows=many), data)
        assert found.question is None or "y/N" in " ".join(shown(found, data))


def test_a_worker_that_has_gone_is_not_recycled() -> None:
    """Nor whoever has its pid by now."""
    asked, _ = pressed(State(chosen=BAD_WORKER), evening(), "r")
    for pid in ({}, {"pid": 4711, "id": "4711:8"}):
        later = known(made_up("web", {**worker(4712), **pid}))
        state, wish = keyboard.press(screen.settle(asked, later), later, "y")
        assert wish is None and state.message == "worker 4711 has gone meanwhile"


def test_only_workers_are_recycled() -> None:
    """Not a program, not a master, not a plain program; it says what to do."""
    data = evening()
    for key, words in (
        (WEB, "choose one"),
        (("web", "4700:7"), "choose one"),
        (("thumbnails", "9001:7"), "no gunicorn"),
    ):
        state, wishes = pressed(State(chosen=key), data, "r")
        assert (state.question, wishes) == (None, []) and words in state.message


def test_p_pauses_for_an_hour_and_resumes_what_is_paused() -> None:
    """On the program and on any of its people."""
    data = evening()
    for key in (WEB, BAD_WORKER):
        assert pressed(State(chosen=key), data, "p")[1] == [Wish("ask", "pause", "web", 3600.0)]
    paused = State(chosen=("api:api_00", "5000:7"))
    assert pressed(paused, data, "p")[1] == [Wish("ask", "resume", "api:api_00")]
    late = replace(data, paused={"api:api_00": NOW - 1})
    assert pressed(paused, late, "p")[1] == [Wish("ask", "pause", "api:api_00", 3600.0)]


def test_explain_quit_and_redraw_are_wishes() -> None:
    """Of the program that the row belongs to."""
    data = evening()
    assert pressed(State(chosen=BAD_WORKER), data, "e")[1] == [Wish("explain", target="web")]
    assert pressed(State(), data, "q")[1] == pressed(State(), data, "ctrl-d")[1] == [Wish("quit")]
    assert pressed(State(), data, "ctrl-l")[1] == [Wish("redraw")]


def test_a_page_is_read_with_the_same_keys() -> None:
    """To its end and no further; q goes back to the list and does not quit."""
    data = evening()
    page = State(rows=12, page=tuple(f"line {n} of it" for n in range(30)))
    state, _ = pressed(page, data, "down", "down")
    assert shown(state, data)[1] == "line 2 of it"
    state, _ = pressed(page, data, "end", "pgdn")
    assert shown(state, data)[10] == "line 29 of it"
    state, _ = pressed(state, data, "up")
    assert shown(state, data)[10] == "line 28 of it"
    state, wishes = pressed(state, data, "q")
    assert wishes == [] and state.page == ()


# -- cells


@given(text=st.text(max_size=60), room=st.integers(0, 50))
def test_text_fits_its_cells(text: str, room: int) -> None:
    """Exactly where it is padded, at most where it is cut or wrapped."""
    safe = cells.clean(text)
    assert safe.isprintable() and cells.clean(safe) == safe
    assert cells.width(cells.fit(safe, room)) == cells.width(cells.fit(safe, room, True)) == room
    for line in cells.wrap(safe, room):
        assert cells.width(line) <= room
    assert cells.width(cells.clean(safe, ascii=True)) == cells.width(safe)


def test_wrapping_keeps_the_words_and_the_margin() -> None:
    """What goes on stands further in than what began."""
    assert cells.wrap("  one two three four", 11) == ["  one two", "    three", "    four"]
    assert cells.wrap("s S   sort", 20) == ["s S   sort"]
    assert cells.wrap("", 5) == [""]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "?"),
        (0, "0"),
        (500, "0K"),
        (512 * 1024, "512K"),
        (1023 * 1024, "1.00M"),
        (63.14 * MB, "63.1M"),
        (9.999 * MB, "10.0M"),
        (99.96 * MB, "100M"),
        (999.4 * MB, "999M"),
        (1023 * MB, "1.00G"),
        (1536 * MB, "1.50G"),
        (-3 * MB, "-3.00M"),
        (5000 * 1024**4, "5000T"),
    ],
)
def test_sizes_are_short(size: float | None, text: str) -> None:
    """Three figures."""
    assert cells.short(size) == text


@given(st.floats(0, 2**53))
def test_a_size_takes_five_cells_at_most(size: float) -> None:
    """Whatever it is."""
    assert len(cells.short(size)) <= 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45s"), (8220, "2h17m"), (273600, "3d4h"), (1e7, "116d"), (1e9, ">999d"), (None, "?")],
)
def test_times_are_brief(seconds: float | None, text: str) -> None:
    """Two parts, or one where it is long."""
    assert cells.brief(seconds) == text


# -- the keyboard


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("jq", ["j", "q"]),
        ("\x1b[A\x1bOB\x1b[5~\x1b[6~", ["up", "down", "pgup", "pgdn"]),
        ("\x1b[H\x1bOF\x1b[1~\x1b[8~", ["home", "end", "home", "end"]),
        ("\r\n\x7f\x0c\x04", ["enter", "enter", "backspace", "ctrl-l", "ctrl-d"]),
        ("\x1b[1;5Aj\x1b[15~\x1bOPk", ["j", "k"]),
        ("é", ["é"]),
        ("\x1bx", ["escape", "x"]),
        ("\x1b\x1b[A", ["escape", "up"]),
    ],
)
def test_keys_are_known_by_what_terminals_send(typed: str, keys: list[str]) -> None:
    """Those we have no use for are none, and nothing of them is taken for letters."""
    assert terminal.split(typed) == (keys, "")
    for cut in range(len(typed)):
        # However the line tears it.
        first, rest = terminal.split(typed[:cut])
        assert (first + terminal.split(rest + typed[cut:])[0]) == keys


def test_esc_alone_is_known_by_nothing_following() -> None:
    """Until then it may be the beginning of an arrow."""
    assert terminal.split("j\x1b") == (["j"], "\x1b")
    assert terminal.split("\x1b", ended=True) == (["escape"], "")
    assert terminal.split("\x1b[", ended=True) == (["escape"], "")


def test_a_terminal_that_has_gone_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where SIGHUP is ignored, as under nohup."""
    master, slave = pty.openpty()
    with open(slave) as typed, open(os.dup(slave), "w") as seen:
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr("sys.stdout", seen)
        with pytest.raises(EOFError), terminal.Terminal({}) as own:
            os.close(master)
            own.keys(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_end_is_not_lost_where_python_loses_exceptions(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised in a finalizer goes nowhere."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    monkeypatch.setattr("sys.unraisablehook", lambda lost: None)
    master, slave = pty.openpty()
    with open(master), open(slave) as typed, open(os.dup(slave), "w") as seen:
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr("sys.stdout", seen)
        with pytest.raises((KeyboardInterrupt, SystemExit)), terminal.Terminal({}) as own:
            thing = Finalized()
            del thing
            own.keys(30)


def test_no_color_leaves_shapes_but_no_colour() -> None:
    """Bold, underlined and reversed are none."""
    for style, codes in terminal.NO_COLOURS.items():
        assert not re.search(r"\b[349]\d\b", codes), style
    assert terminal.dressed((Span("x", screen.BAD),), terminal.NO_COLOURS) == "\x1b[1mx\x1b[0m"
    assert terminal.dressed((Span("x", screen.BAD),), {}) == "x"


# -- the command without a terminal


def test_once_prints_the_whole_list(ran: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """As wide as COLUMNS, however long; the status of `memwatch status`."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("LINES", "5")
    options = "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n"
    leaking = World("web", leaking=1, leak=0.5, count=8)
    for names, status in (([], 1), (["job"], 0)):
        rig = Rig(tmp_path / f"r{status}", options, leaking, World("job", plain=True))
        rig.run(ticks(120))
        done = ran("top", "--once", "--sort", "trend", "-c", rig.conf, *names)
        assert (done.status, done.err) == (status, "")
        assert "\x1b" not in done.out
        assert max(map(len, done.out.splitlines())) <= 90
        assert len(re.findall(r"^ worker ", done.out, re.M)) == (9 if status else 1)


def test_without_a_terminal_it_is_status(ran: Any, tmp_path: Path) -> None:
    """The same words and the same exit status."""
    rig = Rig(tmp_path / "rig", "", World()).run(ticks(3))
    live, once = ran("top", "-c", rig.conf), ran("status", "-c", rig.conf)
    assert live.status == once.status == 0
    assert live.out.splitlines()[1:] == once.out.splitlines()[1:]  # the first tells the time


@pytest.mark.parametrize("every", ["0", "0.1", "soon", "-1", ""])
def test_a_refresh_that_is_no_time_is_refused(ran: Any, tmp_path: Path, every: str) -> None:
    """With what would be valid."""
    rig = Rig(tmp_path / "rig", "", World()).run(ticks(1))
    done = ran("top", "--once", f"--every={every}", "-c", rig.conf)
    assert done.status == 2 and "valid: a time such as 2s" in done.err


def test_no_journal_and_a_wrong_name_are_errors(ran: Any, tmp_path: Path) -> None:
    """As for `status`."""
    rig = Rig(tmp_path / "rig", "", World())
    assert ran("top", "--once", "-c", rig.conf).status == 2
    rig.run(ticks(1))
    done = ran("top", "--once", "-c", rig.conf, "nobody")
    assert done.status == 2 and "not watched: nobody" in done.err


def test_the_choices_of_sort_are_the_screens() -> None:
    """`--sort` and `s` know the same."""
    with pytest.raises(SystemExit):
        cli.main(["top", "--sort", "colour"])
    for sort in keyboard.SORTS:
        assert cli.parser().parse_args(["top", "--sort", sort]).sort == sort
