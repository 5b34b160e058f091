"""The listener between its pipes: what it answers, counts, remembers, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rig import CONF, PaperClock, Rig, event, tick, ticks
from servers import ROOT, Answer, Receiver, wait_until
from worlds import World

from supervisor_memwatch import overview, status
from supervisor_memwatch.config import load
from supervisor_memwatch.journal import Journal, JournalError
from supervisor_memwatch.model import Command, Proof
from supervisor_memwatch.protocol import OK, READY
from supervisor_memwatch.releases import Code

STOPPING = "SUPERVISOR_STATE_CHANGE_STOPPING"
LEAKY = {"leaking": 1, "leak": 0.5}


# -- the protocol


def test_a_tick_is_answered_before_the_work_begins(tmp_path: Path) -> None:
    """RESULT OK at once, then the look, then READY."""
    rig = Rig(tmp_path, "", World())
    said_at_work: list[bytes] = []
    rig.now_asked = lambda: said_at_work.append(rig.said())
    rig.run(ticks(1))
    assert said_at_work == [READY + OK]
    assert rig.output == READY + OK + READY


def test_every_event_is_answered_whatever_it_is(tmp_path: Path) -> None:
    """Also those nobody asked for."""
    events = [
        event("PROCESS_GROUP_ADDED", "groupname:x\n", 1),
        event("PROCESS_LOG_STDOUT", "processname:x groupname:x pid:1\nBäh", 2),
        event("SUPERVISOR_STATE_CHANGE_RUNNING", "", 3),
        event("NEVER_HEARD_OF", "\x00", 4),
        tick(5, name="TICK_60"),
        tick(6, name="TICK_3600"),
    ]
    rig = Rig(tmp_path).run(b"".join(events))
    assert rig.output == READY + (OK + READY) * 6
    assert rig.status == 0
    assert rig.listener.ticks == 2


def test_stale_ticks_are_answered_counted_and_not_worked_on(tmp_path: Path) -> None:
    """Ten that waited in Supervisor's queue and a fresh one: one look."""
    now = time.time()
    asked: list[float] = []
    rig = Rig(tmp_path, "", World())
    rig.now_asked = lambda: asked.append(1)
    stale = b"".join(tick(serial, now - 10 - serial) for serial in range(1, 11))
    rig.run(stale + tick(11, now))
    assert rig.output == READY + (OK + READY) * 11
    assert (rig.listener.ticks, rig.listener.dropped, len(asked)) == (1, 10, 1)


def test_how_old_a_tick_may_be_depends_on_its_period(tmp_path: Path) -> None:
    """A TICK_60 of half a minute ago has no successor yet."""
    before = time.time() - 30
    rig = Rig(tmp_path).run(tick(1, before) + tick(2, before, "TICK_60"))
    assert (rig.listener.ticks, rig.listener.dropped) == (1, 1)


def test_an_event_that_is_delivered_twice_is_worked_on_once(tmp_path: Path) -> None:
    """Another listener of our priority rejected it: the same serial, answered each time."""
    rig = Rig(tmp_path).run(tick(1) + tick(2) + tick(1) + tick(2) + tick(2))
    assert rig.output == READY + (OK + READY) * 5
    assert (rig.listener.ticks, rig.listener.dropped) == (2, 0)


def test_gaps_in_the_pools_numbers_are_counted_and_said(tmp_path: Path) -> None:
    """Supervisor's buffer overflowed; what was delivered again is no gap."""
    when = f"when:{int(time.time())}"
    numbers = [7, 8, 12, 11, 13]
    rig = Rig(tmp_path).run(
        b"".join(event("TICK_5", when, 100 + number, number) for number in numbers)
    )
    assert rig.listener.dropped == 3
    assert rig.log.count("3 events lost: buffer_size") == 1


@pytest.mark.parametrize(
    "payload", ["", "when:", "when:now", "when:²", "when:" + "9" * 5000, "nothing", "when:-5"]
)
def test_a_tick_without_its_time_is_a_tick(tmp_path: Path, payload: str) -> None:
    """Said once, however many come."""
    rig = Rig(tmp_path).run(event("TICK_5", payload, 1) + event("TICK_5", payload, 2))
    assert rig.listener.ticks == 2
    assert rig.log.count("TICK_5 without its time") == 1


def test_what_is_no_event_ends_it_to_be_started_anew(tmp_path: Path) -> None:
    """Status 1, with what is known saved; the event before was answered."""
    rig = Rig(tmp_path, "", World()).run(tick(1) + b"Hello, world\n" + tick(2))
    assert rig.status == 1
    assert rig.output == READY + OK + READY
    assert "event protocol" in rig.log
    assert rig.rows("SELECT namespec FROM watches") == [("web",)]


def test_a_supervisord_that_is_gone_ends_it(tmp_path: Path) -> None:
    """Nobody reads the answers any more."""
    rig = Rig(tmp_path)
    with rig.between_pipes(ticks(1)):
        rig.nobody_reads()
        assert rig.listener.run() == 0


# -- its end


@pytest.mark.parametrize("how", ["end of input", "stopping", "SIGTERM", "SIGINT"])
def test_every_end_is_status_0_with_what_it_knows_saved(tmp_path: Path, how: str) -> None:
    """The journal has the watch of each program, and nobody holds its lock any more."""
    rig = Rig(tmp_path, "", World(count=3))
    data = ticks(2)
    if how == "stopping":
        data += event(STOPPING, "", 3) + tick(4)
    if how.startswith("SIG"):
        rig.now_asked = lambda: (
            os.kill(os.getpid(), getattr(signal, how)) if rig.listener.ticks == 2 else None
        )
    rig.run(data, end=how == "end of input")
    assert rig.status == 0
    assert rig.listener.ticks == 2
    [(state,)] = rig.rows("SELECT state FROM watches WHERE namespec = 'web'")
    assert json.loads(state)["expected"] == 3
    assert rig.log.splitlines()[-1].endswith("memwatch ends")
    Journal(str(rig.journal)).close()


def test_a_signal_wakes_it_while_it_waits(tmp_path: Path) -> None:
    """No input, no end of input: SIGTERM alone."""
    rig = Rig(tmp_path)
    main = threading.main_thread().ident
    assert main is not None
    with rig.between_pipes(b"", end=False):

        def terminate() -> None:
            wait_until(lambda: rig.said() == READY)
            signal.pthread_kill(main, signal.SIGTERM)

        thread = threading.Thread(target=terminate)
        thread.start()
        assert rig.listener.run() == 0
        thread.join()


def test_the_next_listener_remembers(tmp_path: Path) -> None:
    """What was learned, paused and done by the one before."""
    rig = Rig(tmp_path, "", World(count=3)).run(ticks(3) + _message("pause", "web"))
    paused = rig.listener.watches["web"].paused_until
    assert paused is not None
    again = Rig(tmp_path, "", World(count=3))
    again.clock = rig.clock
    again.run(ticks(1))
    watch = again.listener.watches["web"]
    assert watch.paused_until == paused
    assert watch.past.lives.keys() >= rig.listener.watches["web"].past.lives.keys()


@pytest.mark.parametrize(
    "state", ["", "null", "[]", "{}", '{"past": {}}', '{"past": null}', "garbage", "[[[["]
)
def test_what_it_cannot_remember_does_not_stop_it(tmp_path: Path, state: str) -> None:
    """Somebody edited the journal: said, and begun anew."""
    (tmp_path / "state").mkdir()
    journal = Journal(str(tmp_path / "state/journal.db"))
    journal.write([("INSERT INTO watches VALUES ('web', 1.0, ?)", (state,))])
    journal.write([("INSERT INTO procedures VALUES ('web@1.0', 'web', 1.0, ?, NULL)", (state,))])
    journal.write([("INSERT INTO news VALUES ('n', ?, ?, 1)", (time.time(), state))])
    journal.close()
    rig = Rig(tmp_path, "", World()).run(ticks(2))
    assert rig.status == 0
    assert rig.listener.ticks == 2
    assert rig.log.count("what the journal remembers cannot be read") == 1
    assert rig.log.count("unfinished action in the journal is damaged") == 1
    assert rig.rows("SELECT id FROM procedures WHERE ended IS NULL") == []


# -- Supervisor's troubles


def test_an_rpc_that_does_not_answer_is_said_once_and_once_when_it_is_over(tmp_path: Path) -> None:
    """Every TICK is answered and counted; what is known of the programs goes on."""
    rig = Rig(tmp_path, "", World())

    def trouble() -> None:
        rig.supervisor.trouble = "nobody there" if 2 <= rig.listener.ticks <= 4 else None

    rig.now_asked = trouble
    rig.run(ticks(20))
    assert rig.output == READY + (OK + READY) * 20
    assert rig.listener.ticks == 20
    assert rig.log.count("WARN Supervisor's RPC: nobody there") == 1
    assert rig.log.count("INFO over: Supervisor's RPC: nobody there") == 1
    assert rig.listener.watches["web"].workers()


def test_a_program_that_is_gone_is_gone_from_the_status_too(tmp_path: Path) -> None:
    """`supervisorctl remove`: no watch, and no latest snapshot that stays for ever."""
    rig = Rig(tmp_path, "", World("web"), World("other"))
    worlds = rig.supervisor.worlds

    def remove() -> None:
        if rig.listener.ticks == 3:
            worlds.pop("other", None)

    rig.now_asked = remove
    rig.run(ticks(4))
    assert rig.rows("SELECT namespec FROM latest") == [("web",)]
    assert rig.log.count("other: no longer a program of Supervisor's") == 1


def test_a_process_state_is_a_look_at_its_program(tmp_path: Path) -> None:
    """An unexpected end is noted with what Supervisor said, and is no restart of ours."""
    state = "processname:web groupname:web from_state:RUNNING expected:0 pid:100"
    fatal = "processname:web groupname:web from_state:BACKOFF"
    other = "processname:new groupname:new from_state:RUNNING expected:0 pid:²"
    rig = Rig(tmp_path, "", World())
    rig.believe_events()
    rig.run(
        ticks(2)
        + event("PROCESS_STATE_EXITED", state, 3)
        + event("PROCESS_STATE_FATAL", fatal, 4)
        + event("PROCESS_STATE_EXITED", other, 5)
        + event("PROCESS_STATE_EXITED", "", 6)
    )
    assert rig.status == 0
    levels = dict(rig.rows("SELECT text, level FROM entries WHERE kind = 'seen'"))
    [ended] = [text for text in levels if "ended unexpectedly" in text]
    assert levels[ended] == "WARN"
    assert levels["Supervisor gave up: FATAL"] == "ERROR"
    [(view,)] = rig.rows("SELECT snapshot FROM latest WHERE namespec = 'web'")
    assert json.loads(view)[2] == "FATAL"


def _cycles(count: int, serial: int) -> bytes:
    """A program that ends, starts and ends, a tick after each."""
    about = "processname:web groupname:web from_state:X expected:0 pid:100"
    names = ("PROCESS_STATE_EXITED", "PROCESS_STATE_STARTING", "PROCESS_STATE_RUNNING")
    parts = []
    for n in range(count):
        parts += [event(name, about, serial + n * 4 + i) for i, name in enumerate(names)]
        parts.append(tick(serial + n * 4 + 3))
    return b"".join(parts)


def test_a_program_that_flaps_is_said_to_do_so_and_not_each_time(tmp_path: Path) -> None:
    """A dozen times in words, then once that it goes on; after a quiet time, how often it was."""
    rig = Rig(tmp_path, "", World())
    rig.believe_events()
    rig.run(ticks(1) + _cycles(60, 10))
    lines = [line for line in rig.log.splitlines() if " web " in line]
    assert len(lines) < 60
    assert rig.log.count("web changes again and again: not said until 10m are quiet") == 1
    assert len(rig.rows("SELECT text FROM entries")) < 60
    assert rig.status == 0 and rig.listener.ticks == 61

    quiet = Rig(tmp_path / "quiet", "", World())

    def pause() -> None:
        quiet.supervisor.trouble = "nobody there" if quiet.listener.ticks > 1 else None
        if quiet.listener.ticks == 41:
            quiet.clock.now += 3600

    quiet.now_asked = pause
    quiet.run(ticks(1) + _cycles(40, 10) + _cycles(1, 1000))
    assert quiet.log.count("changes again and again") == 1
    assert quiet.log.count("has been steady for a while;") == 1
    assert [line for line in quiet.log.splitlines() if " web " in line][-1].endswith(
        "Supervisor: STARTING -> RUNNING"
    )


# -- what people ask


def _message(command: str, target: str = "", serial: int = 0, **more: Any) -> bytes:
    fields = {
        "v": 1,
        "id": str(uuid.uuid4()),
        "at": time.time(),
        "command": command,
        "target": target,
        "by": "root",
        **more,
    }
    text = "type:memwatch\n" + json.dumps(fields)
    return event("REMOTE_COMMUNICATION", text, serial or 1_000_000 + uuid.uuid4().int % 10**6)


@pytest.mark.parametrize(
    ("fields", "answer", "reason"),
    [
        ({"command": "pause", "target": "web"}, "accepted", "pause web for 1h"),
        ({"command": "pause", "target": "web", "for": 90}, "accepted", "pause web for 1m 30s"),
        ({"command": "pause"}, "accepted", "pause web for 1h"),
        ({"command": "resume", "target": "web:web"}, "accepted", "web was not paused"),
        ({"command": "pause", "target": "shop"}, "refused", "no watched program"),
        ({"command": "recycle", "target": "web"}, "refused", "name the worker by its pid"),
        ({"command": "recycle", "target": "1"}, "refused", "no watched program or worker '1'"),
        ({"command": "recycle", "target": "9" * 300}, "refused", "no watched program or worker"),
        ({"command": "recycle", "target": "1001"}, "held", "observe"),
        ({"command": "reload", "target": "web"}, "held", "observe"),
        ({"command": "restart", "target": "web", "force": True}, "held", "observe"),
    ],
)
def test_a_request_is_answered_in_the_journal(
    tmp_path: Path, fields: dict[str, Any], answer: str, reason: str
) -> None:
    """By its id, in the next look; nothing is touched in observe."""
    rig = Rig(tmp_path, "", World()).run(ticks(2) + _message(**fields))
    [(said, why)] = rig.rows("SELECT answer, reason FROM answers")
    assert said == answer
    assert reason in why
    assert rig.supervisor.calls == []


def test_resume_says_whose_pause_it_has_ended(tmp_path: Path) -> None:
    """And who was not paused, or not any more; each time it is done."""
    rig = Rig(tmp_path, "", World(), World("shop"), World("job"))
    rig.clock.step = 20.0
    asked = (("pause", "web"), ("pause", "job"), ("resume", ""), ("resume", ""), ("resume", "web"))
    data = b"".join(_message(*each) for each in asked)
    rig.run(ticks(2) + _message("pause", "shop", **{"for": 1}) + data)
    assert rig.rows("SELECT answer, reason FROM answers ORDER BY rowid")[-3:] == [
        ("accepted", "resume web, job; shop was not paused"),
        ("accepted", "web, shop, job were not paused"),
        ("accepted", "web was not paused"),
    ]


@pytest.mark.parametrize("target", ["", "web"])
def test_where_nothing_is_watched_a_request_is_told_so(tmp_path: Path, target: str) -> None:
    """And what to do about it; where Supervisor does not answer, that is the reason."""
    chosen = Rig(tmp_path / "a", "programs = none\n", World())
    chosen.run(ticks(2) + _message("pause", target))
    deaf = Rig(tmp_path / "b", "", World())
    deaf.supervisor.trouble = "nobody there"
    deaf.run(ticks(2) + _message("pause", target))
    [(answer, reason)] = chosen.rows("SELECT answer, reason FROM answers")
    assert answer == "refused" and reason.startswith("no program is watched: `memwatch check` li")
    [(answer, reason)] = deaf.rows("SELECT answer, reason FROM answers")
    assert answer == "refused" and "Supervisor's RPC has not answered" in reason


def test_a_program_named_like_a_number_can_be_asked_for(tmp_path: Path) -> None:
    """But a worker that is to be recycled is named by its pid, whatever programs there are."""
    rig = Rig(tmp_path, "", World("4711"), World("1001", count=1)).run(ticks(2))
    [watch] = [one for one in rig.listener.watches.values() if one.namespec == "4711"]
    assert rig.listener._targets("4711", "pause") == ([watch], None)
    [first] = [worker for worker in watch.workers() if worker.id.pid == 1001]
    assert rig.listener._targets("1001", "recycle") == ([watch], first.id)
    other, nobody = rig.listener._targets("1001", "restart")
    assert ([one.namespec for one in other], nobody) == (["1001"], None)
    assert rig.listener._targets("9999", "recycle") == ([], None)


def test_a_repeated_request_is_not_done_again(tmp_path: Path) -> None:
    """By its id, whatever else it says."""
    id = str(uuid.uuid4())
    rig = Rig(tmp_path, "", World()).run(
        ticks(1) + _message("pause", "web", 2, id=id) + _message("resume", "web", 3, id=id)
    )
    assert rig.listener.watches["web"].paused_until is not None
    assert len(rig.rows("SELECT id FROM answers")) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "\ud800"},
        {"target": "web\n2026 INFO forged"},
        {"target": "9" * 5000},
        {"by": "\udfff\x1b[2J\nforged"},
        {"at": 10**400},
        {"at": -(10**400)},
        {"for": 10**400},
        {"for": float("nan")},
        {"at": float("inf")},
    ],
)
def test_a_hostile_request_breaks_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    """It gets an answer, and no line of its own making in the log."""
    rig = Rig(tmp_path, "", World()).run(
        ticks(1) + _message(**{"command": "pause", "target": "web", **fields}) + tick(3)
    )
    assert rig.status == 0
    assert rig.listener.ticks == 2
    assert len(rig.rows("SELECT answer FROM answers")) == 1
    assert not [line for line in rig.log.splitlines() if "forged" in line[:30]]
    assert "\x1b" not in rig.log


# -- acting


def test_a_leaking_worker_is_written_down_then_asked_to_leave(tmp_path: Path) -> None:
    """The plan is in the file before the signal; here the signal finds nobody."""
    world = World(count=3, **LEAKY)
    rig = Rig(tmp_path, "mode = act\nlimit = 200MB\nwarmup = 10s\nconfirm = 10s\n", world)
    rig.run(ticks(200))
    kinds = [kind for (kind,) in rig.rows("SELECT kind FROM entries ORDER BY seq")]
    assert kinds.index("intent") < kinds.index("outcome")
    [(state, ended)] = rig.rows("SELECT state, ended FROM procedures LIMIT 1")
    assert json.loads(state)["action"] == "recycle"
    assert ended is not None
    assert "TERM failed" in rig.log


ACT = "mode = act\nactions = restart\n"


def test_a_restart_on_request_stops_and_starts(tmp_path: Path) -> None:
    """Through Supervisor, each call once, and the outcome in the journal."""
    rig = Rig(tmp_path, ACT, World())
    rig.run(ticks(2) + _message("restart", "web") + ticks(6, 10))
    assert rig.supervisor.calls == [("stop", "web"), ("start", "web")]
    assert "restart done" in rig.log
    assert rig.rows("SELECT id FROM procedures WHERE ended IS NULL") == []


class HurriedClock(PaperClock):
    """Three seconds pass between any two questions."""

    def at(self) -> float:
        self.now += 3.0
        return self.now


def test_a_request_in_the_middle_of_a_restart_does_not_lose_its_start(tmp_path: Path) -> None:
    """The look that answers the request is a look at the procedure as well."""
    rig = Rig(tmp_path, ACT, World())
    rig.clock = HurriedClock()

    def refuse() -> None:
        rig.supervisor.refused = {"start"}

    rig.now_asked = refuse
    rig.run(ticks(2) + _message("restart", "web") + ticks(1, 10))
    assert rig.supervisor.calls == [("stop", "web"), ("start", "web")]

    again = Rig(tmp_path / "again", ACT, World())
    again.clock = HurriedClock()
    again.supervisor.refused = {"start"}
    again.run(ticks(2) + _message("restart", "web") + ticks(1, 10) + _message("pause", "web"))
    assert again.supervisor.calls == [("stop", "web"), ("start", "web")]
    more = Rig(tmp_path / "more", ACT, World())
    more.clock = HurriedClock()
    more.supervisor.refused = {"start"}
    more.run(ticks(2) + _message("restart", "web") + ticks(1, 10) + _message("reload", "web"))
    assert more.supervisor.calls == [("stop", "web"), ("start", "web"), ("start", "web")]


def test_a_restart_is_called_off_where_its_plan_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is the first thing the disk refuses: nothing is stopped."""
    rig = Rig(tmp_path, ACT + "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n", World(**LEAKY))
    write = Journal.write

    def refuse(journal: Journal, statements: Any, *, sure: bool = False) -> bool:
        if sure:
            journal._db.execute("PRAGMA query_only = ON")
        return write(journal, statements, sure=sure)

    monkeypatch.setattr(Journal, "write", refuse)
    rig.run(ticks(60))
    assert rig.log.count("restarting (Supervisor's stop and start") == 1
    assert rig.log.count("restart failed: stop: the journal cannot be written") == 1
    assert rig.log.count("going on in memory, without restarts") == 1
    assert rig.supervisor.calls == []
    assert rig.listener.watches["web"].procedure is None


@pytest.mark.parametrize("died", ["planned", "stopping", "starting"])
def test_a_restart_that_a_listener_left_behind_is_finished(tmp_path: Path, died: str) -> None:
    """Wherever it died between stop and start: the program runs in the end."""
    first = Rig(tmp_path, ACT, World())
    first.run(ticks(2) + _message("restart", "web"))
    [(id, text)] = first.rows("SELECT id, state FROM procedures WHERE ended IS NULL")
    state = {**json.loads(text), "step": died}
    journal = Journal(str(first.journal))
    journal.write([("UPDATE procedures SET state = ? WHERE id = ?", (json.dumps(state), id))])
    journal.close()

    world = World(state="STOPPED", pid=0, procs=[])
    world.procs.clear()
    second = Rig(tmp_path, ACT, world).run(ticks(8))
    assert ("start", "web") in second.supervisor.calls
    assert world.state == "RUNNING"
    assert "was not finished: going on" in second.log
    assert second.rows("SELECT id FROM procedures WHERE ended IS NULL") == []


def test_a_restart_left_behind_is_finished_when_the_journal_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next listener could not open it at first."""
    first = Rig(tmp_path, ACT, World())
    first.run(ticks(2) + _message("restart", "web"))
    assert first.supervisor.calls == [("stop", "web")]
    monkeypatch.setattr("supervisor_memwatch.journal.RETRY", 0.0)
    state, hidden = first.journal.parent, tmp_path / "hidden"
    state.rename(hidden)
    state.write_text("in the way")

    world = World(state="STOPPED", pid=0)
    world.procs.clear()
    second = Rig(tmp_path, ACT, world)

    def mended() -> None:
        if second.listener.ticks == 3 and state.is_file():
            state.unlink()
            hidden.rename(state)

    second.now_asked = mended
    second.run(ticks(25))
    assert second.log.count("going on in memory") == 2  # begun, and over
    assert ("start", "web") in second.supervisor.calls
    assert world.state == "RUNNING"


# -- the program is not left stopped, and no other is touched


def test_a_queued_event_that_is_old_is_not_believed(tmp_path: Path) -> None:
    """An EXITED from before our stop does not make us call start while it is STOPPING."""
    world = World(drain=30.0)
    rig = Rig(tmp_path, ACT, world)
    old = "processname:web groupname:web from_state:RUNNING expected:0 pid:99"
    rig.run(
        ticks(1)
        + _message("restart", "web", 50)
        + event("PROCESS_STATE_EXITED", old, 51)
        + event("PROCESS_STATE_STARTING", old, 52)
        + b"".join(tick(serial) for serial in range(60, 80))
    )
    assert rig.supervisor.calls == [("stop", "web"), ("start", "web")]
    assert world.state == "RUNNING"
    assert "restart done" in rig.log


def test_an_excluded_program_that_we_stopped_is_started_all_the_same(tmp_path: Path) -> None:
    """The configuration changed between our stop and our start."""
    world = World(drain=8.0)
    first = Rig(tmp_path, ACT, world)
    first.run(ticks(2) + _message("restart", "web"))
    assert first.supervisor.calls == [("stop", "web")]
    second = Rig(tmp_path, ACT + "exclude = web\n", world)
    second.clock.now = first.clock.now
    second.run(ticks(20))
    assert second.supervisor.calls == [("start", "web")] and world.state == "RUNNING"
    assert "web" not in second.listener.watches


def test_a_stop_without_an_answer_is_not_forgotten(tmp_path: Path) -> None:
    """Supervisor's answer was lost, and a minute later it stops the program."""
    world = World()
    rig = Rig(tmp_path, ACT, world)
    rig.supervisor.refused.add("stop")

    def late() -> None:
        if rig.listener.ticks == 12 and world.state == "RUNNING" and world.pid == 100:
            world.obey([Command("stop", "web")])

    rig.now_asked = late
    rig.run(ticks(2) + _message("restart", "web") + ticks(30, 100))
    assert ("start", "web") in rig.supervisor.calls and world.state == "RUNNING"


def test_a_request_waits_for_the_other_programs_too(tmp_path: Path) -> None:
    """max_programs_at_once counts for people as for verdicts."""
    rig = Rig(tmp_path, ACT, World("web", drain=500.0), World("shop"))
    rig.run(ticks(1) + _message("restart", "web") + _message("restart", "shop"))
    answers = [row[0] for row in rig.rows("SELECT answer FROM answers ORDER BY at")]
    assert answers == ["accepted", "held"]
    assert rig.supervisor.calls == [("stop", "web")]


def test_a_program_that_never_starts_holds_up_no_other(tmp_path: Path) -> None:
    """Its restart goes on, and the other one's begins."""
    rig = Rig(tmp_path, ACT, World("web", start_fails=1000), World("shop"))
    rig.run(ticks(1) + _message("restart", "web") + ticks(20, 100) + _message("restart", "shop"))
    assert ("stop", "shop") in rig.supervisor.calls


def test_requests_are_journalled_under_the_program_they_are_about(tmp_path: Path) -> None:
    """Also where they name a worker's pid."""
    rig = Rig(tmp_path, ACT, World()).run(ticks(1) + _message("recycle", "1001"))
    assert rig.rows("SELECT namespec FROM entries WHERE kind = 'request'") == [("web",)]


def test_a_signal_that_fails_at_once_is_answered_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not `accepted`."""
    monkeypatch.setattr("supervisor_memwatch.listener.send", lambda *_: "not permitted")
    message = _message("recycle", "1001", force=True)
    rig = Rig(tmp_path, ACT, World()).run(ticks(1) + message)
    [(answer, reason)] = rig.rows("SELECT answer, reason FROM answers")
    assert answer == "refused" and "not permitted" in reason


PROVED = f"{ACT}\n[memwatch:web]\npreflight = auto\n"


def test_a_request_that_a_listener_did_not_get_to_is_said_by_the_next(tmp_path: Path) -> None:
    """Its preflight was under way: whoever asked may ask again. What began or was done stays."""
    first = Rig(tmp_path, PROVED, World(), World("shop"))
    first.preflights.look = lambda at: []  # type: ignore[method-assign]
    message = _message("recycle", "1001", serial=7)
    first.run(ticks(2) + message + _message("restart", "shop") + _message("pause", "shop"))
    before = first.rows("SELECT id, answer, reason FROM answers ORDER BY reason")
    assert [row[1] for row in before] == ["accepted"] * 3
    assert "begins when the preflight has passed" in before[1][2]
    first.run(b"")
    after = first.rows("SELECT answer, reason FROM answers ORDER BY reason")
    why = "the listener was restarted before it began: ask again"
    assert after == [before[0][1:], before[2][1:], ("held", why)]
    said = f"recycle 1001 by root: held: {why}"
    entries = first.rows("SELECT namespec, text FROM entries WHERE kind = 'request' ORDER BY seq")
    assert entries[-1] == ("web", said) and len(entries) == 4
    assert f"web {said}" in first.log and f"reply {before[1][0]} held: {why}" in first.log
    first.run(b"")
    assert len(first.rows("SELECT seq FROM entries WHERE kind = 'request'")) == 4


@pytest.mark.parametrize("data", ["damaged", "[]", '{"id": 1}', "null"])
def test_a_damaged_journal_does_not_hide_that_a_request_was_given_up(
    tmp_path: Path, data: str
) -> None:
    """What was asked is not known then."""
    rig = Rig(tmp_path, PROVED, World())
    rig.preflights.look = lambda at: []  # type: ignore[method-assign]
    rig.run(ticks(2) + _message("recycle", "1001"))
    with closing(sqlite3.connect(rig.journal)) as db, db:
        db.execute("UPDATE entries SET data = ? WHERE kind = 'request'", (data,))
    rig.run(b"")
    assert "a request: held: the listener was restarted before it began" in rig.log


def test_a_request_that_comes_to_nothing_is_said_where_it_was_accepted(tmp_path: Path) -> None:
    """In `history` too: a new worker would not boot."""
    rig = Rig(tmp_path, PROVED, World())

    def look(at: float) -> list[tuple[str, Proof]]:
        late = rig.listener.ticks > 4
        return [("web", Proof(False, "on paper", "ImportError", at))] if late else []

    rig.preflights.look = look  # type: ignore[method-assign]
    rig.run(ticks(2) + _message("recycle", "1001") + ticks(6, 10))
    assert [row[0] for row in rig.rows("SELECT answer FROM answers")] == ["held"]
    texts = [row[0] for row in rig.rows("SELECT text FROM entries WHERE kind = 'request'")]
    assert texts[0].startswith("recycle 1001 by root: accepted: ")
    assert texts[1].startswith("recycle 1001 by root: held: ") and "ImportError" in texts[1]
    assert len(texts) == 2


def test_a_request_for_a_program_that_goes_comes_to_nothing(tmp_path: Path) -> None:
    """It was removed from Supervisor while its preflight was under way."""
    rig = Rig(tmp_path, PROVED, World(), World("shop"))
    rig.preflights.look = lambda at: []  # type: ignore[method-assign]

    def removed() -> None:
        if rig.listener.ticks == 4:
            rig.supervisor.worlds.pop("web", None)

    rig.now_asked = removed
    rig.run(ticks(2) + _message("recycle", "1001") + ticks(6, 10))
    assert rig.rows("SELECT answer, reason FROM answers") == [
        ("held", "the program is gone from Supervisor")
    ]


def test_a_clock_set_back_between_two_listeners_loses_no_pause(tmp_path: Path) -> None:
    """The pause ends as long after now as it would have."""
    first = Rig(tmp_path, ACT, World()).run(ticks(1) + _message("pause", "web"))
    second = Rig(tmp_path, ACT, World())
    second.clock.now = first.clock.now - 7200
    second.run(ticks(1))
    until = second.listener.watches["web"].paused_until
    assert until is not None and 3400 < until - second.clock.now < 3700


# -- telling


def test_news_that_was_not_delivered_goes_out_with_the_next_listener(tmp_path: Path) -> None:
    """To the targets of its own program, under the same id, once."""
    with Receiver() as receiver, Receiver() as other:
        options = (
            f"warmup = 10s\nconfirm = 10s\nnotify = {other.url}\n"
            f"[memwatch:web]\nlimit = 100MB\nnotify = {receiver.url}\n"
        )
        receiver.usual = Answer(503)
        first = Rig(tmp_path, options, World(**LEAKY)).run(ticks(60))
        assert "suspected" in {body["type"].removeprefix("memwatch.") for body in receiver.bodies}
        ids = [id for (id,) in first.rows("SELECT id FROM news WHERE waiting ORDER BY at")]
        assert ids

        receiver.usual = Answer(200)
        receiver.received.clear()
        second = Rig(tmp_path, options, World()).run(ticks(1))
        assert [body["id"] for body in receiver.bodies][: len(ids)] == ids
        assert second.rows("SELECT id FROM news WHERE waiting") == []
        assert other.received == []


# -- the preflight


def test_a_program_at_its_total_limit_is_tried_in_what_the_machine_has_left(
    tmp_path: Path,
) -> None:
    """It would be helped at no time if the trial had to fit under that limit, too."""
    world = World(count=3, free=700 * 2**20)
    options = "mode = act\ntotal_limit = 100MB\nconfirm = 5s\nactions = recycle, reload\n"
    rig = Rig(tmp_path, options, world).run(ticks(10))
    assert "total_limit" in rig.log
    assert rig.preflights.rooms and set(rig.preflights.rooms) == {700 * 2**20}


# -- advice


def test_a_deploy_and_the_leak_it_brought_are_seen_and_said(tmp_path: Path) -> None:
    """Its code is looked at after the reload; advice is in the log, the journal and `status`."""
    world = World(count=3)
    rig = Rig(tmp_path, "warmup = 10s\nconfirm = 10s\n", world)
    rig.clock.step = 30.0
    begun = rig.clock.now
    world.now = begun
    for proc in world.procs:
        proc.born = begun - 1000

    def deploy() -> None:
        if rig.listener.ticks == 60:
            rig.preflights.code = Code("new", rig.clock.now - 5, 0.0, "/srv/app/views.py")
            world.others("HUP")
        elif rig.listener.ticks == 61:
            for proc in world.procs:
                proc.leak = 0.1

    rig.now_asked = deploy
    rig.run(ticks(120))
    release = "web reload with changed code (/srv/app/views.py): a release; what was learned"
    assert rig.log.count(release) == 1
    advised = [text for (text,) in rig.rows("SELECT text FROM entries WHERE kind = 'advice'")]
    assert any("leak 360.0MB/h each" in text for text in advised)
    assert any("since the deploy" in text for text in advised)
    found = status.read(load(str(rig.conf), {}))
    shown = overview.text(found.document, 80, found.advice)
    assert "\n  advice: all workers (" in shown
    assert "advice" not in json.dumps(found.document)


# -- as supervisord starts it


class Driven:
    """`memwatch listen` as a process of its own, between pipes."""

    def __init__(self, directory: Path, conf: str, *, code: str | None = None, **env: str) -> None:
        path = directory / "supervisord.conf"
        path.write_text(conf)
        program = ["-m", "supervisor_memwatch"] if code is None else ["-c", code]
        self.errors = directory / f"stderr{uuid.uuid4().hex[:6]}"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *program, "listen", "-c", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            )

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def heard(self, expected: bytes) -> None:
        """Exactly these bytes come next."""
        assert self.process.stdout is not None
        assert self.process.stdout.read(len(expected)) == expected, self.log

    def end(self) -> tuple[int, bytes]:
        """End of input; the exit status and what was still said."""
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, rest

    @property
    def log(self) -> str:
        return self.errors.read_text()


SERVER = {"SUPERVISOR_SERVER_URL": "unix:///nowhere/s.sock"}


def _conf(directory: Path) -> str:
    return CONF.format(journal=directory / "journal.db")


@pytest.mark.parametrize("how", ["end of input", "stopping", "SIGTERM"])
def test_the_process_ends_with_status_0(tmp_path: Path, how: str) -> None:
    """Nothing but the protocol on stdout, no traceback on stderr; the RPC's trouble once."""
    with Driven(tmp_path, _conf(tmp_path), **SERVER) as driven:
        driven.heard(READY)
        for serial in (1, 2, 3):
            driven.say(tick(serial))
            driven.heard(OK + READY)
        if how == "SIGTERM":
            driven.process.send_signal(signal.SIGTERM)
        elif how == "stopping":
            driven.say(event(STOPPING, "", 4))
            driven.heard(OK + READY)
        if how != "end of input":
            assert driven.process.wait(60) == 0
        assert driven.end() == (0, b"")
    assert driven.log.count("Supervisor's RPC") == 1
    assert "Traceback" not in driven.log
    assert driven.log.splitlines()[-1].endswith("memwatch ends")


def test_a_stray_print_does_not_reach_supervisord(tmp_path: Path) -> None:
    """Of Python, of C, of a child: all of it becomes stderr."""
    code = """
import os, subprocess, sys
from supervisor_memwatch import cli, listener
tick = listener.Listener._tick
def noisy(self):
    print("stray print", flush=True)
    os.write(1, b"stray write\\n")
    subprocess.run(["echo", "stray child"])
    tick(self)
listener.Listener._tick = noisy
sys.exit(cli.main())
"""
    with Driven(tmp_path, _conf(tmp_path), code=code, **SERVER) as driven:
        driven.heard(READY)
        driven.say(tick(1))
        driven.heard(OK + READY)
        assert driven.end() == (0, b"")
    for stray in ("stray print", "stray write", "stray child"):
        assert stray in driven.log


def test_a_bad_configuration_says_all_its_errors_and_nothing_on_stdout(tmp_path: Path) -> None:
    """Status 2; file, section, option and what would be valid."""
    conf = "[supervisord]\n[memwatch]\nlimt = 3MB\nmode = maybe\n[memwatch:web]\nlimit = much\n"
    with Driven(tmp_path, conf, **SERVER) as driven:
        assert driven.end() == (2, b"")
    for word in ("limt", "limit", "maybe", "observe", "much", "[memwatch:web]", "supervisord.conf"):
        assert word in driven.log
    assert "Traceback" not in driven.log


def test_a_second_listener_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    """With the pid of the first, which goes on."""
    with Driven(tmp_path, _conf(tmp_path), **SERVER) as first:
        first.heard(READY)
        with Driven(tmp_path, _conf(tmp_path), **SERVER) as second:
            assert second.end() == (2, b"")
        assert f"another listener (pid {first.process.pid})" in second.log
        assert "Traceback" not in second.log
        first.say(tick(1))
        first.heard(OK + READY)
        with pytest.raises(JournalError):
            Journal(str(tmp_path / "journal.db"))


def test_without_any_server_it_says_what_is_missing(tmp_path: Path) -> None:
    """No SUPERVISOR_SERVER_URL, because no server section."""
    with Driven(tmp_path, "[supervisord]\n[memwatch]\n") as driven:
        assert driven.end() == (2, b"")
    assert "[unix_http_server]" in driven.log
    assert "Traceback" not in driven.log


def test_the_configurations_server_does_where_the_environment_names_none(tmp_path: Path) -> None:
    """SUPERVISOR_SERVER_URL is not needed."""
    with Driven(tmp_path, _conf(tmp_path)) as driven:
        driven.heard(READY)
        driven.say(tick(1))
        driven.heard(OK + READY)
        assert driven.end() == (0, b"")
    assert "/nowhere/s.sock" in driven.log


def test_on_a_terminal_it_says_who_starts_it(tmp_path: Path) -> None:
    """Somebody typed `memwatch listen`."""
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor_memwatch", "listen"],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert (done.returncode, done.stdout) == (2, "")
    assert "[eventlistener:memwatch]" in done.stderr
    assert "Traceback" not in done.stderr
