"""`memwatch history` and `memwatch explain` over journals that a listener on paper has written."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, event, ticks
from worlds import World

from supervisor_memwatch import config, history, journal, messages
from supervisor_memwatch.model import Entry

ACT = "mode = act\nwarmup = 10s\nconfirm = 10s\n"
AT = time.time() - 86400.0


def request(serial: int, command: str, target: str = "", seconds: float | None = None) -> bytes:
    id = f"00000000-0000-4000-8000-{serial:012}"
    text = messages.write(id, time.time(), command, target, seconds, by="anna")
    return event("REMOTE_COMMUNICATION", f"type:memwatch\n{text}", serial)


def restarted(tmp_path: Path) -> Rig:
    """A program that was restarted because somebody asked for it."""
    rig = Rig(tmp_path, ACT, World(), World("shop"))
    return rig.run(ticks(2) + request(3, "restart", "web") + ticks(8, 4))


def written(rig: Rig, *rows: journal.Statement) -> None:
    with closing(sqlite3.connect(rig.journal)) as db, db:
        for sql, values in rows:
            db.execute(sql, values)


def recycle(number: int, begun: float, ended: float | None = None) -> list[journal.Statement]:
    """What the journal holds of an action, and how it ended."""
    id = f"web@{number}"
    state = {
        "action": "recycle",
        "target": [4000 + number, 1],
        "kind": "leak",
        "why": f"reason {number}",
        "by": "memwatch",
        "step": "leaving",
    }
    rows = [
        journal.entry_row(Entry(begun, "web", "intent", f"plan {number}", {"procedure": id})),
        journal.procedure_row(id, "web", begun, state),
    ]
    if ended is not None:
        data = {"procedure": id, "result": "done", "freed_bytes": 5 * 1024**2}
        outcome = Entry(ended, "web", "outcome", f"recycle done: outcome {number}", data)
        rows += [journal.entry_row(outcome), journal.procedure_end(id, ended)]
    return rows


# -- history


def test_an_action_is_told_with_its_plan_and_its_end(ran: Any, tmp_path: Path) -> None:
    """When, whom, by whom, why, how it ended; and who asked for it."""
    rig = restarted(tmp_path)
    done = ran("history", "-c", rig.conf)
    assert (done.status, done.err) == (0, "")
    action, why, result, *_ = done.out.splitlines()
    assert "  web: restart by anna: done in " in action
    assert why.startswith("    why: program: asked for by anna; restarting")
    assert result.startswith("    result: restart done: ")
    assert "web: restart web by anna: accepted: restart has begun" in done.out


def test_the_document_has_the_actions_and_the_events(ran: Any, tmp_path: Path) -> None:
    """With the times as numbers; what is not known is null."""
    rig = restarted(tmp_path)
    document = ran("history", "--json", "-c", rig.conf).document
    assert set(document) == {"version", "time", "since", "actions", "events"}
    [action] = document["actions"]
    assert (action["action"], action["namespec"], action["result"]) == ("restart", "web", "done")
    assert action["begun"] < action["ended"] and action["pid"] is None
    assert action["by"] == "anna" and "restarting" in action["plan"]
    assert "request" in {event["kind"] for event in document["events"]}
    assert ran("history", "shop", "--json", "-c", rig.conf).document["actions"] == []


def test_the_newest_are_shown_oldest_first(ran: Any, tmp_path: Path) -> None:
    """Twenty of them, -n many, or all since then."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    for number in range(30):
        written(rig, *recycle(number, AT + 60 * number, AT + 60 * number + 12))

    def shown(*words: str) -> list[int]:
        document = ran("history", "--json", "-c", rig.conf, *words).document
        return [action["pid"] - 4000 for action in document["actions"]]

    assert shown() == list(range(10, 30))
    assert shown("-n", "3") == [27, 28, 29]
    assert shown("--since", "2d") == list(range(30))
    day = datetime.fromtimestamp(AT + 60 * 25).isoformat(timespec="seconds")
    assert shown("--since", day) == list(range(25, 30))
    assert shown("--since", "2d", "-n", "1") == [29]


def test_what_was_refused_to_nobody_is_not_a_programs(ran: Any, tmp_path: Path) -> None:
    """It is in the whole history only; what was asked of all is each one's too."""
    rig = Rig(tmp_path, "", World(), World("shop"))
    rig.run(ticks(2) + request(3, "pause", "nobody") + request(4, "resume"))
    assert "pause nobody by anna: refused" in ran("history", "-c", rig.conf).out
    of_web = ran("history", "web", "-c", rig.conf).out
    assert "nobody" not in of_web and "resume by anna: accepted" in of_web


@pytest.mark.parametrize("most", [1, 2, 5, 50])
def test_the_newest_are_found_without_reading_all(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """They are the end of the whole."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    for number in range(9):
        written(rig, *recycle(number, AT + 60 * number, AT + 60 * number + 12))
        for nth in (1, 2):
            written(rig, journal.entry_row(Entry(AT + 60 * number + nth, "web", "seen", "x", {})))
    conf = config.load(str(rig.conf), {})
    whole = history.read(conf, [])
    read: list[int] = []
    rows = journal.Reader.rows

    def counted(self: journal.Reader, *given: Any) -> list[tuple[Any, ...]]:
        found = rows(self, *given)
        read.append(len(found))
        return found

    monkeypatch.setattr(journal.Reader, "rows", counted)
    newest = history.read(conf, [], most=most)
    both = sorted([*whole["actions"], *whole["events"]], key=history._at)[-most:]
    assert sorted([*newest["actions"], *newest["events"]], key=history._at) == both
    assert max(read) <= 3 * most


def test_a_time_of_no_year_is_shown_all_the_same(ran: Any, tmp_path: Path) -> None:
    """Of a damaged row."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, journal.entry_row(Entry(1e300, "web", "seen", "it ended", {})))
    done = ran("history", "-c", rig.conf)
    assert (done.status, done.out) == (0, "at 1e+300  web: it ended\n")


@pytest.mark.parametrize("column", ["snapshot", "view"])
@pytest.mark.parametrize("text", ["{no json", "[]", "null", "3", '{"a": 1}'])
def test_a_damaged_program_is_status_2_and_hides_no_other(
    ran: Any, tmp_path: Path, column: str, text: str
) -> None:
    """With what to do, in every command that shows it."""
    rig = Rig(tmp_path, "", World(), World("shop")).run(ticks(2))
    written(rig, (f"UPDATE latest SET {column} = ? WHERE namespec = 'web'", (text,)))
    for command in (("status",), ("explain",), ("top", "--once")):
        done = ran(*command, "-c", rig.conf)
        assert (done.status, done.out) == (2, "")
        assert "the row of web is damaged; the listener writes it anew" in done.err
        assert ran(*command, "shop", "-c", rig.conf).status == 0


@pytest.mark.parametrize("text", ["{no json", "[]", "null", "{}"])
def test_a_damaged_word_of_the_listener_is_status_2(ran: Any, tmp_path: Path, text: str) -> None:
    """Not a traceback."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, ("UPDATE facts SET value = ? WHERE key = 'listener'", (text,)))
    done = ran("status", "-c", rig.conf)
    assert done.status == 2
    assert "what the listener says of itself is damaged; the listener writes it anew" in done.err


def test_a_damaged_sample_is_not_drawn(ran: Any, tmp_path: Path) -> None:
    """And hides nothing else."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, ("UPDATE samples SET workers = '{no json'", ()))
    assert ran("top", "--once", "-c", rig.conf).status == 0


def test_what_is_under_way_and_what_ended_unseen(ran: Any, tmp_path: Path) -> None:
    """However long ago it began."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, *recycle(1, AT), *recycle(2, AT + 1), journal.procedure_end("web@2", AT + 9))
    out = ran("history", "-c", rig.conf, "--since", "48h").out
    assert "recycle of worker 4001 by memwatch: under way (leaving)" in out
    assert "recycle of worker 4002 by memwatch: ended, how is not known in 8s" in out
    assert "4001" in ran("history", "-c", rig.conf, "--since", "1h").out


def test_what_came_back_and_how_long_it_took_is_in_the_line(ran: Any, tmp_path: Path) -> None:
    """The first thing that is looked for."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, *recycle(1, AT, AT + 12))
    lines = ran("history", "-c", rig.conf).out.splitlines()
    stamp = history.stamp(AT)
    assert lines[:3] == [
        f"{stamp}  web: recycle of worker 4001 by memwatch: done in 12s, 5.0MB back",
        "    why: plan 1",
        "    result: recycle done: outcome 1",
    ]


def test_nothing_done_is_an_answer(ran: Any, tmp_path: Path) -> None:
    """Not an empty screen."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    assert ran("history", "-c", rig.conf).out == "nothing was done yet\n"
    assert ran("history", "--since", "1h", "-c", rig.conf).out.startswith("nothing was done since")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:10", "2026-11-23 18:10:00"),
        (" 9:05 ", "2026-11-23 09:05:00"),
        ("20:00:00", "2026-11-23 20:00:00"),
        ("20:00:01", "2026-11-22 20:00:01"),
        ("23:59", "2026-11-22 23:59:00"),
        ("2026-11-23 18:10", "2026-11-23 18:10:00"),
        ("2026-11-23T18:10", "2026-11-23 18:10:00"),
        ("2026-11-23", "2026-11-23 00:00:00"),
        ("1h 30m", "2026-11-23 18:30:00"),
    ],
)
def test_a_moment_is_a_time_ago_a_time_of_the_clock_or_a_date(text: str, moment: str) -> None:
    """The time of the clock is the last one: yesterday's where today's is still to come."""
    now = datetime(2026, 11, 23, 20, 0, 0).timestamp()
    assert history.stamp(history.since(text, now)) == moment


@pytest.mark.parametrize(
    ("now", "text", "ago"),
    [
        ("2026-10-25T02:30:00+01:00", "02:10", 20),  # the clock shows it for the second time
        ("2026-10-25T02:05:00+01:00", "02:30", 35),  # so far for the first time only
        ("2026-10-25T18:00:00+01:00", "02:30", 15 * 60 + 30),
        ("2026-03-29T03:05:00+02:00", "01:50", 15),
    ],
)
def test_the_last_time_of_the_clock_where_summer_time_begins_or_ends(
    monkeypatch: pytest.MonkeyPatch, now: str, text: str, ago: int
) -> None:
    """The newest moment that is not still to come."""
    at = datetime.fromisoformat(now).timestamp()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
            time.tzset()
            assert at - history.since(text, at) == ago * 60
            assert history.since("02:30", at) <= at
    finally:
        time.tzset()


def test_the_commands_know_the_time_of_the_clock(ran: Any, tmp_path: Path) -> None:
    """All that read --since and --until by one parser."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    hour = datetime.fromtimestamp(time.time() - 3600).strftime("%H:%M")
    for command in (["history"], ["explain"], ["report", "-o", str(tmp_path / "page.html")]):
        done = ran(*command, "--since", hour, "-c", rig.conf)
        assert "valid:" not in done.err, command
    wrong = ran("report", "-o", "-", "--since", "2h", "--until", "25:00", "-c", rig.conf)
    assert wrong.status == 2 and "18:10 (the last one)" in wrong.err


@pytest.mark.parametrize("command", ["history", "explain"])
@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "-", "", "24:00", "18:1x", ":"])
def test_a_time_that_is_none_is_status_2(
    ran: Any, tmp_path: Path, command: str, since: str
) -> None:
    """With what would be one."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    done = ran(command, "--since", since, "-c", rig.conf)
    assert (done.status, done.out) == (2, "")
    valid = "valid: a time such as 2h or 7d (ago), 18:10 (the last one), or a date such as 2026-"
    assert valid in done.err
    assert ran("history", "-n", "0", "-c", rig.conf).status == 2


def test_a_name_that_was_never_heard_of_is_status_2(ran: Any, tmp_path: Path) -> None:
    """One of the past is not: its program may be gone."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(rig, journal.entry_row(Entry(AT, "gone", "seen", "it ended", {})))
    done = ran("history", "webb", "-c", rig.conf)
    assert (done.status, done.out) == (2, "")
    assert "not in the journal: webb; it has: gone, web" in done.err
    assert "gone: it ended" in ran("history", "gone", "-c", rig.conf).out


def test_a_damaged_row_hides_nothing_else(ran: Any, tmp_path: Path) -> None:
    """It is shown as far as it can be read, and never as it is."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    written(
        rig,
        *recycle(1, AT, AT + 5),
        (
            "INSERT INTO procedures (id, namespec, begun, state, ended) VALUES (?, ?, ?, ?, ?)",
            ("web@9", "web\x1b[2J", AT, "{no json", AT),
        ),
        ("UPDATE entries SET data = 'x' WHERE kind = 'intent'", ()),
    )
    done = ran("history", "-c", rig.conf)
    assert done.status == 0
    assert "    why: reason 1" in done.out
    assert "an action" in done.out and "\x1b" not in done.out


# -- explain


def test_observing_is_explained(ran: Any, tmp_path: Path) -> None:
    """The guard of a real listener, and the numbers of its verdict."""
    options = "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n"
    rig = Rig(tmp_path, options, World(leaking=1, leak=0.5), World("shop")).run(ticks(60))
    done = ran("explain", "web", "-c", rig.conf)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("web: It would act on limit of worker ")
    assert "held (observe): mode = observe: nothing is touched" in done.out
    assert "it lets go when mode = act stands in [memwatch:web] or [memwatch]" in done.out
    assert "shop" not in done.out
    [program] = ran("explain", "web", "--json", "-c", rig.conf).document["programs"]
    assert [held["code"] for held in program["held"]] == ["observe"]
    assert {verdict["kind"] for verdict in program["verdicts"]} == {"limit", "leak"}


def test_why_it_acted_is_explained(ran: Any, tmp_path: Path) -> None:
    """The plan that was written before it, and the cooldown since."""
    rig = restarted(tmp_path)
    out = ran("explain", "web", "-c", rig.conf).out
    assert "last action: restart by anna, " in out
    assert "    why: program: asked for by anna; restarting" in out
    assert "    result: done: " in out
    assert "asked" in out and "restart web by anna: accepted" in out


def test_a_pause_is_explained_before_the_next_tick(ran: Any, tmp_path: Path) -> None:
    """And gone from the explanation as soon as it is ended."""
    rig = Rig(tmp_path, ACT, World(), World("shop"))
    rig.run(ticks(2) + request(3, "pause", "web", 3600))
    assert ran("explain", "web", "-c", rig.conf).out.startswith(
        "web: It begins nothing: paused for another "
    )
    assert "It does nothing" in ran("explain", "shop", "-c", rig.conf).out
    rig.run(ticks(1, 4) + request(5, "resume"))
    assert "paused for" not in ran("explain", "web", "-c", rig.conf).out.splitlines()[0]


def test_without_a_listener_it_is_its_last_word(ran: Any, tmp_path: Path) -> None:
    """Status 2, and that it is old."""
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    with closing(sqlite3.connect(rig.journal)) as db, db:
        [(text,)] = db.execute("SELECT value FROM facts WHERE key = 'listener'").fetchall()
        facts = {**json.loads(text), "pid": 2**22 + 1}
        db.execute("UPDATE facts SET value = ? WHERE key = 'listener'", (json.dumps(facts),))
    done = ran("explain", "-c", rig.conf)
    assert done.status == 2
    assert "web: It does nothing" in done.out
    assert done.out.startswith("This is what the listener saw last, and no longer so: the listener")
    assert "is gone, and no other has ticked since: this is the last it saw" in done.err
    assert "is gone" in ran("explain", "--json", "-c", rig.conf).document["silence"]


def test_without_programs_that_is_said(ran: Any, tmp_path: Path) -> None:
    """Nobody is left with an empty screen."""
    rig = Rig(tmp_path).run(ticks(1))
    assert "no program is watched" in ran("explain", "-c", rig.conf).out
