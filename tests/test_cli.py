"""The commands as people and scripts meet them: exit statuses, error texts, shapes."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import PaperSupervisor, Rig, event, tick, ticks
from servers import Receiver, free_port
from worlds import World

from supervisor_memwatch import chronicle, cli, config, messages, rehearsal, report
from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.units import MB

HOSTILE = "web\x1b[2J\nforged\u202e\u2028"


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = cli.parser()
    [action] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


# -- usage


def test_there_are_the_commands_of_this_version() -> None:
    """Each of them is tested below."""
    looking = {"audit", "status", "top", "history", "explain", "report", "serve", "replay"}
    asking = {"pause", "resume", "recycle", "reload", "restart"}
    others = {"listen", "check", "migrate", "notify", "demo"}
    assert set(commands()) == looking | asking | others


@pytest.mark.parametrize(
    "words", ["reload web --for", "audit --fo 0", "check --no", "--config x status"]
)
def test_no_option_is_abbreviated(words: str) -> None:
    """`reload --for`, of which somebody thinks as of `pause --for`, is not --force."""
    with pytest.raises(SystemExit) as error:
        cli.parser().parse_args(words.split())
    assert error.value.code == 2


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_has_its_help(ran: Any, command: str) -> None:
    """Status 0, usage and every argument explained."""
    done = ran(command, "--help")
    assert done.status == 0
    assert f"usage: memwatch {command}" in done.out
    assert done.err == ""
    assert "Exit status: 0" in " ".join(done.out.split())
    for action in commands()[command]._actions:
        assert action.help, action


def test_the_version_is_said(ran: Any) -> None:
    """In the form other tools have it."""
    done = ran("--version")
    assert (done.status, done.out) == (0, f"memwatch {cli.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["status", "--nonsense"], ["notify"], ["audit", "--for"]]
)
def test_wrong_usage_is_status_2_with_the_usage(ran: Any, arguments: list[str]) -> None:
    """Nothing on stdout."""
    done = ran(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert "usage: memwatch" in done.err


@pytest.mark.parametrize("command", ["status", "check", "notify --test"])
@pytest.mark.parametrize("kind", ["missing", "directory", "binary", "no sections", "bad options"])
def test_a_configuration_that_cannot_be_used_is_status_2(
    ran: Any, tmp_path: Path, command: str, kind: str
) -> None:
    """The file is named; no traceback, nothing on stdout."""
    path = tmp_path / "supervisord.conf"
    if kind == "directory":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00[memwatch")
    elif kind == "no sections":
        path.write_text("limit = 3\n")
    elif kind == "bad options":
        path.write_text("[supervisord]\n[memwatch]\nlimit = \x1b[2Jmuch\nlimt = 1\n")
    done = ran(*command.split(), "-c", path)
    assert done.status == 2
    assert done.out == ""
    assert str(path) in done.err
    assert done.err.startswith("memwatch: ")
    assert "\x1b" not in done.err
    if kind == "bad options":
        assert "limit" in done.err and "limt" in done.err


# -- status

VERDICT = {"kind", "since", "measured", "bound", "confidence", "why", "told", "act"}
WORKER = {
    *("pid", "id", "start", "age", "rss", "anon", "pss", "uss", "swap", "measured_at", "cpu"),
    *("fds", "threads", "requests", "limit", "headroom", "verdicts", "trend", "hours_to_limit"),
}
PROGRAM = {
    *("namespec", "state", "mode", "kind", "master", "workers", "verdicts", "total"),
    *("total_limit", "available", "held", "action", "last_action", "budget"),
}
LISTENER = {"pid", "ticks", "last_tick", "rss", "cpu_seconds", "events_dropped"}


def test_the_document_has_exactly_its_keys(ran: Any, tmp_path: Path) -> None:
    """At every depth; what is not known is null."""
    options = "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n"
    rig = Rig(tmp_path, options, World("web", leaking=1, leak=0.5), World("job", plain=True))
    rig.run(ticks(120))
    document = ran("status", "--json", "-c", rig.conf).document
    assert set(document) == {"version", "time", "listener", "programs"}
    assert set(document["listener"]) == LISTENER
    assert document["listener"]["ticks"] == 120
    programs = {program["namespec"]: program for program in document["programs"]}
    assert set(programs) == {"web", "job"}
    verdicts, trends, held = [], [], []
    for program in programs.values():
        assert set(program) == PROGRAM
        assert set(program["budget"]) == {"used", "of", "period"}
        people = [*program["workers"], *([program["master"]] if program["master"] else [])]
        for worker in people:
            assert set(worker) == WORKER
            verdicts += worker["verdicts"]
            trends += [worker["trend"]] if worker["trend"] else []
        verdicts += program["verdicts"]
        held += program["held"]
    assert verdicts and all(set(verdict) == VERDICT for verdict in verdicts)
    assert held and all(set(reason) == {"code", "text", "until"} for reason in held)
    assert all(set(trend) == {"bytes_per_hour", "low", "high"} for trend in trends)
    assert (programs["web"]["kind"], programs["job"]["kind"]) == ("gunicorn", "plain")
    assert programs["web"]["workers"][0]["pss"] is None
    assert programs["job"]["master"] is None


def test_the_total_of_a_program_that_was_not_measured_yet_is_null() -> None:
    """Of a plain program's parts nothing is certain before PSS or USS are read: that is not 0."""
    tree = Worker(WorkerId(7, 1), 60.0, 2 * MB, 2 * MB, exact=True)
    seen = {"verdicts": [], "mode": "observe", "held": [], "budget": [0, 6, 3600.0]}
    totals = []
    for worker in (tree, tree._replace(uss=MB, pss=MB, measured_at=50.0)):
        snapshot = Snapshot("job", 100.0, "RUNNING", 7, "plain", None, (worker,))
        document = report.program_json(
            snapshot, {**seen, "action": None, "last_action": None}, Options()
        )
        totals.append(document["total"])
    assert totals == [None, MB]


def test_status_is_0_where_nothing_is_told_and_1_where_something_is(
    ran: Any, tmp_path: Path
) -> None:
    """The same in words as in JSON."""
    healthy = Rig(tmp_path / "healthy", "", World()).run(ticks(5))
    options = "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n"
    leaking = Rig(tmp_path / "leaking", options, World(leaking=1, leak=0.5)).run(ticks(120))
    for rig, status in ((healthy, 0), (leaking, 1)):
        done = ran("status", "-c", rig.conf)
        assert (done.status, done.err) == (status, "")
        assert ran("status", "--json", "-c", rig.conf).status == status
        assert "web: RUNNING, gunicorn, observe" in done.out
    assert "limit: " in done.out
    assert "held: mode = observe" in done.out


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_status_is_as_wide_as_the_terminal_and_loses_nothing(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Whole words, wrapped; a verdict stands below its worker where it does not fit beside it."""
    options = "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n"
    rig = Rig(tmp_path, options, World(leaking=1, leak=0.5)).run(ticks(120))
    monkeypatch.setenv("COLUMNS", "100000")
    whole = ran("status", "-c", rig.conf).out
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = ran("status", "-c", rig.conf).out.splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    sizes = re.compile(r"[\d.]+[KMGT]B?|0B|VERDICT")  # in the table they may be shorter
    assert {w for w in whole.split() if not sizes.fullmatch(w)} - {*words} == set()
    assert "  limit: RSS" in "\n".join(lines)
    assert all(line.startswith(("  ", "web: ", "listener ")) for line in lines if line)


def test_where_it_is_piped_status_is_80_columns_wide(tmp_path: Path) -> None:
    """And a name that is longer stays whole."""
    name = "a-name-that-is-" + "long-" * 20
    rig = Rig(tmp_path, "", World(name)).run(ticks(3))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_memwatch", "status", "-c", str(rig.conf)],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert f"{name}:" in lines
    assert all(len(line) <= 80 for line in lines if name not in line)


def told(rig: Rig, **more: object) -> None:
    """Change what the listener has written of itself; None: had not written it."""
    with closing(sqlite3.connect(rig.journal)) as db, db:
        [(text,)] = db.execute("SELECT value FROM facts WHERE key = 'listener'").fetchall()
        facts = {**json.loads(text), **more}
        facts = {name: value for name, value in facts.items() if value is not None}
        db.execute("UPDATE facts SET value = ? WHERE key = 'listener'", (json.dumps(facts),))


@pytest.mark.parametrize("names", [["last_tick", "seen_at"], ["seen_at"]])
def test_a_silent_listener_is_status_2(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """What it saw last is shown all the same."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    told(rig, **dict.fromkeys(names, time.time() - 3600))
    monkeypatch.setattr("supervisor_memwatch.status._is_gone", lambda pid, seen: False)
    done = ran("status", "-c", rig.conf)
    assert done.status == 2
    assert "last tick 1h ago" in done.out
    assert "web: RUNNING" in done.out
    assert "the listener is silent" in done.err
    again = ran("status", "--json", "-c", rig.conf)
    assert again.status == 2
    last = again.document["listener"]["last_tick"]
    assert abs(again.document["time"] - 3600 - last) < 60


def test_a_listener_that_is_gone_is_said_at_once(ran: Any, tmp_path: Path) -> None:
    """Its last tick may be young: nobody has its pid any more."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    told(rig, pid=ended.pid)
    done = ran("status", "-c", rig.conf)
    assert done.status == 2
    assert f"the listener (pid {ended.pid}) is gone" in done.err
    assert "web: RUNNING" in done.out


def test_a_pid_that_has_gone_to_another_is_no_listener(ran: Any, tmp_path: Path) -> None:
    """One that is younger than what the listener saw last."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    told(rig, pid=os.getpid(), seen_at=psutil.Process().create_time() - 3600)
    assert f"the listener (pid {os.getpid()}) is gone" in ran("status", "-c", rig.conf).err


def test_a_listener_of_another_container_is_not_called_gone(ran: Any, tmp_path: Path) -> None:
    """Its pid is another's here, or nobody's; that it ticks is seen in the journal."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    told(rig, pid=2**22 + 1, pid_space="pid:[1]")
    done = ran("status", "-c", rig.conf)
    assert (done.status, done.err) == (0, "")
    told(rig, seen_at=time.time() - 60)
    assert "the listener is silent since 1m" in ran("status", "-c", rig.conf).err


def test_the_file_may_be_named_before_the_command(ran: Any, tmp_path: Path) -> None:
    """As after it; what comes after it wins. Commands that read none refuse it."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    assert ran("-c", rig.conf, "status").out == ran("status", "-c", rig.conf).out != ""
    assert ran("-c", tmp_path / "none", "status", "-c", rig.conf).status == 0
    refused = ran("-c", rig.conf, "demo")
    assert refused.status == 2 and "-c is for commands that read" in refused.err


def test_a_pause_is_shown(ran: Any, tmp_path: Path) -> None:
    """Whoever looks at 3 a.m. sees why nothing happens."""
    rig = Rig(tmp_path, "", World())
    asked = messages.write("00000000-0000-4000-8000-000000000000", time.time(), "pause", "", 3600)
    rig.run(ticks(2) + event("REMOTE_COMMUNICATION", f"type:memwatch\n{asked}", 3) + tick(4))
    assert "paused for another" in ran("status", "-c", rig.conf).out


def test_a_listener_of_before_that_told_less_is_judged_by_its_own_clock(
    ran: Any, tmp_path: Path
) -> None:
    """There is nothing else."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    for last, status in ((time.time(), 0), (time.time() - 3600, 2)):
        told(rig, seen_at=None, last_tick=last)
        assert ran("status", "-c", rig.conf).status == status


def paused_where_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> Rig:
    """A listener that was asked for a pause after the machine's clock was set by so much."""
    rig = Rig(tmp_path, "mode = act\n", World())
    rig.clock.step = 0.1
    rig.clock.now -= step
    monkeypatch.setattr(rig.clock, "stepped", lambda: step)
    asked = messages.write("00000000-0000-4000-8000-000000000000", time.time(), "pause", "", 2400)
    rig.run(ticks(2) + event("REMOTE_COMMUNICATION", f"type:memwatch\n{asked}", 3) + tick(4))
    return rig


@pytest.mark.parametrize("step", [-3600, 3600])
def test_ages_and_pauses_hold_where_the_clock_was_set(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """The listener's own clock goes on, and all that it wrote is by that."""
    rig = paused_where_the_clock_was_set(tmp_path, monkeypatch, step)
    for command in (["status"], ["explain"], ["top", "--once"]):
        done = ran(*command, "-c", rig.conf)
        assert (done.status, done.err) == (0, ""), command
        assert re.search(r"paused for (another )?(40m|39m)", done.out), command
    assert re.search(r"asked \ds ago: pause by", ran("explain", "-c", rig.conf).out)
    document = ran("status", "--json", "-c", rig.conf).document
    assert abs(document["time"] + step - time.time()) < 60
    assert abs(document["time"] - document["listener"]["last_tick"]) < 60


@pytest.mark.parametrize("step", [-3600, 3600])
def test_what_was_seen_lately_is_shown_where_the_clock_was_set(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """`--since 30m` and the page, too, are by the listener's own clock."""
    rig = paused_where_the_clock_was_set(tmp_path, monkeypatch, step)
    for command in (["history"], ["explain"]):
        done = ran(*command, "--since", "30m", "--json", "-c", rig.conf)
        assert "pause" in done.out, command
        assert abs(done.document["time"] + step - time.time()) < 60
        assert abs(done.document["since"] + 1800 + step - time.time()) < 60
    document = chronicle.document(config.load(str(rig.conf), {}))
    assert document["until"] - document["since"] < 300
    assert document["programs"][0]["lives"]


@pytest.mark.parametrize("step", [-7200, 7200])
def test_a_clock_that_was_set_makes_no_listener_silent(
    ran: Any, tmp_path: Path, step: float
) -> None:
    """Its own clock went on as before; `last_tick` is by that, as `time` is."""
    rig = Rig(tmp_path, "", World()).run(ticks(3))
    told(rig, seen_at=time.time(), last_tick=time.time() - step)
    done = ran("status", "-c", rig.conf)
    assert (done.status, done.err) == (0, "")
    assert re.search(r"last tick \d\d?s ago", done.out)
    document = ran("status", "--json", "-c", rig.conf).document
    assert set(document["listener"]) == LISTENER
    assert 0 <= document["time"] - document["listener"]["last_tick"] < 600


def test_without_a_tick_the_listener_is_silent(ran: Any, tmp_path: Path) -> None:
    """It has started, and that is all."""
    rig = Rig(tmp_path).run(b"")
    done = ran("status", "--json", "-c", rig.conf)
    assert done.status == 2
    assert done.document["listener"] is None
    assert "has not ticked yet" in ran("status", "-c", rig.conf).out


def test_without_a_journal_status_says_so(ran: Any, tmp_path: Path) -> None:
    """Status 2, and a question that leads on."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text(f"[supervisord]\n[memwatch]\njournal = {tmp_path}/none.db\n")
    done = ran("status", "-c", conf)
    assert (done.status, done.out) == (2, "")
    assert "none.db: no journal there yet: has the listener run?" in done.err


def test_status_of_what_is_not_watched_lists_what_is(ran: Any, tmp_path: Path) -> None:
    """And of what is, shows that alone."""
    rig = Rig(tmp_path, "", World("web"), World("shop")).run(ticks(2))
    done = ran("status", "webb", "-c", rig.conf)
    assert (done.status, done.out) == (2, "")
    assert "not watched: webb; watched: shop, web" in done.err
    document = ran("status", "shop", "--json", "-c", rig.conf).document
    assert [program["namespec"] for program in document["programs"]] == ["shop"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["web:web"], ["web"]),
        (["shop"], ["shop:shop_00", "shop:shop_01"]),
        (["shop:*", "web"], ["shop:shop_00", "shop:shop_01", "web"]),
        (["shop:shop_01"], ["shop:shop_01"]),
    ],
)
def test_a_program_is_asked_for_in_full_in_short_or_by_its_group(
    ran: Any, tmp_path: Path, asked: list[str], shown: list[str]
) -> None:
    """As in supervisorctl."""
    rig = Rig(tmp_path, "", World("web"), World("shop:shop_00"), World("shop:shop_01"))
    rig.run(ticks(2))
    done = ran("status", *asked, "--json", "-c", rig.conf)
    assert (done.status, done.err) == (0, "")
    assert [program["namespec"] for program in done.document["programs"]] == shown


def test_hostile_names_never_reach_a_terminal(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by status, check, the log, or the errors about a name."""
    rig = Rig(tmp_path, "limit = 100MB\nwarmup = 10s\nconfirm = 10s\n")
    rig.supervisor = PaperSupervisor(World(HOSTILE, leaking=1, leak=0.5))
    rig.supervisor.asked = rig._asked
    rig.run(ticks(120))
    monkeypatch.setattr(rehearsal, "Supervisor", _paper(World(HOSTILE, pid=0, state="STOPPED")))
    shown = [rig.log]
    for arguments in (["status"], ["status", HOSTILE + "x"], ["check"]):
        done = ran(*arguments, "-c", rig.conf)
        shown += [done.out, done.err]
    assert any("forged" in text for text in shown)
    for text in shown:
        assert "\x1b" not in text and "\u202e" not in text and "\u2028" not in text
        assert not [line for line in text.split("\n") if line.startswith("forged")]
    json_text = ran("status", "--json", "-c", rig.conf).out
    assert json_text.isascii() and json.loads(json_text)["programs"][0]["namespec"] == HOSTILE


STARTS_US = """\
[eventlistener:memwatch]
command = memwatch listen
events = TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION,SUPERVISOR_STATE_CHANGE
buffer_size = 100
"""


def _paper(*worlds: World, commands: dict[str, str] | None = None) -> Any:
    class Paper(PaperSupervisor):
        def __init__(self, *_: object) -> None:
            super().__init__(*worlds, World("memwatch"))
            self.url = "unix:///paper.sock"
            self.commands: dict[str, str] = commands or {}

        def configs(self) -> list[dict[str, Any]]:
            return [{"group": n, "name": n, "command": c} for n, c in self.commands.items()]

        def __enter__(self) -> Paper:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Paper


# -- check


def test_check_says_the_configuration_in_words(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 0 where all is well, and 1 with what to do where it is not."""
    monkeypatch.setattr(rehearsal, "Supervisor", _paper(World("web", pid=0, state="STOPPED")))
    conf = tmp_path / "supervisord.conf"
    head = f"[supervisord]\n[unix_http_server]\nfile={tmp_path}/s.sock\n{STARTS_US}"
    conf.write_text(head + f"[memwatch]\njournal = {tmp_path}/j.db\nlimit = 90%\n")
    done = ran("check", "-c", conf)
    assert (done.status, done.err) == (0, "")
    assert "watching only (mode = observe)" in done.out
    assert "limit 90% of what is available" in done.out
    assert "FAIL" not in done.out

    (tmp_path / "file").write_text("")
    conf.write_text(head + f"[memwatch]\njournal = {tmp_path}/file/j.db\n[memwatch:webb]\n")
    done = ran("check", "-c", conf)
    assert done.status == 1
    assert "FAIL journal" in done.out and "name another place in `journal`" in done.out
    assert "warn [memwatch:webb]: matches no program" in done.out
    lines = ran("check", "--json", "-c", conf).document
    assert {"ok", "subject", "text", "warn"} == set(lines[0])
    assert sum(line["ok"] is False for line in lines) == 1


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (STARTS_US, "", "no [eventlistener:...] section starts `memwatch listen`"),
        ("TICK_5,", "", "events has no TICK"),
        ("buffer_size = 100", "", "set buffer_size = 100"),
        ("buffer_size = 100", "buffer_size = 100\nredirect_stderr = true", "remove it"),
        (
            "eventlistener:memwatch",
            "eventlistener:mw",
            "does not know mw: run supervisorctl update",
        ),
    ],
)
def test_check_fails_where_nothing_would_be_watched(
    ran: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    says: str,
) -> None:
    """A listener that is not there, or gets no ticks, is not all well."""
    monkeypatch.setattr(rehearsal, "Supervisor", _paper(World("web", pid=0, state="STOPPED")))
    conf = tmp_path / "supervisord.conf"
    text = f"[supervisord]\n[unix_http_server]\nfile={tmp_path}/s.sock\n{STARTS_US}"
    conf.write_text(text.replace(before, after) + f"[memwatch]\njournal = {tmp_path}/j.db\n")
    done = ran("check", "-c", conf)
    assert done.status == 1 and says in done.out


@pytest.mark.parametrize(
    ("options", "command", "fails"),
    [
        ("kill = on", "gunicorn app:app", True),
        ("kill = on", "gunicorn -c gunicorn.conf.py app:app", True),
        ("kill = on", "gunicorn --graceful-timeout 20 app:app", False),
        ("kill = on\ngrace = 40s", "gunicorn app:app", False),
        ("kill = off", "gunicorn app:app", False),
    ],
)
@pytest.mark.parametrize("kind", ["gunicorn", "plain"])
def test_check_says_where_nothing_would_be_killed(
    ran: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: str,
    command: str,
    fails: bool,
) -> None:
    """A grace that would be a guess; a program without workers has none to kill."""
    pid = os.getpid()
    paper = _paper(World("web", pid=pid), commands={"web": command})
    monkeypatch.setattr(rehearsal, "Supervisor", paper)
    snapshot = Snapshot("web", 0.0, "RUNNING", pid, kind, None, ())
    monkeypatch.setattr(rehearsal.Sampler, "look", lambda *_: snapshot)
    conf = tmp_path / "supervisord.conf"
    head = f"[supervisord]\n[unix_http_server]\nfile={tmp_path}/s.sock\n{STARTS_US}[memwatch]\n"
    conf.write_text(f"{head}journal = {tmp_path}/j.db\n[memwatch:web]\n{options}\n")
    done = ran("check", "-c", conf)
    expected = fails and kind == "gunicorn"
    assert done.status == expected, done.out
    assert ("FAIL web: kill = on with grace = auto" in done.out) == expected


def test_check_shows_no_password_of_the_rpc(ran: Any, tmp_path: Path) -> None:
    """Where the address holds one."""
    conf = tmp_path / "supervisord.conf"
    url = f"http://me:s3cr3t@127.0.0.1:{free_port()}"
    conf.write_text(f"[supervisord]\n[supervisorctl]\nserverurl = {url}\n[memwatch]\n")
    done = ran("check", "-c", conf)
    assert done.status == 1
    assert "refuses the connection" in done.out
    assert "s3cr3t" not in done.out + done.err


def test_check_without_supervisord_says_how_to_reach_it(ran: Any, tmp_path: Path) -> None:
    """No server section; a server that is not there."""
    conf = tmp_path / "supervisord.conf"
    rest = f"[supervisord]\n[memwatch]\njournal = {tmp_path}/j.db\n"
    conf.write_text(rest)
    done = ran("check", "-c", conf)
    assert done.status == 1
    assert "FAIL RPC: no [unix_http_server] and no [inet_http_server]" in done.out
    conf.write_text(f"[unix_http_server]\nfile={tmp_path}/none.sock\n{rest}")
    done = ran("check", "-c", conf)
    assert done.status == 1
    assert "none.sock" in done.out and "is it running" in done.out


# -- replay

HEADER = '{"program": {"namespec": "web", "limit": 1000, "options": {"warmup": "0s"}}}\n'
TICK = '{"t": %d, "master": null, "workers": [{"pid": 7, "start": 1, "rss": 5000}]}\n'


def test_replay_prints_a_line_for_each_tick(ran: Any, tmp_path: Path) -> None:
    """Status 0."""
    recording = tmp_path / "ticks"
    recording.write_text(HEADER + TICK % 0 + TICK % 60)
    done = ran("replay", recording)
    assert (done.status, done.err) == (0, "")
    assert [json.loads(line)["t"] for line in done.out.splitlines()] == [0, 60]


def test_a_bad_line_is_said_by_its_number_and_the_next_is_read(ran: Any, tmp_path: Path) -> None:
    """Status 2 at the end."""
    recording = tmp_path / "ticks"
    recording.write_bytes((HEADER + "nonsense\n").encode() + b"\xff\x1b\n" + (TICK % 5).encode())
    done = ran("replay", recording)
    assert done.status == 2
    assert [line[:8] for line in done.err.splitlines()] == ["line 2: ", "line 3: "]
    assert [json.loads(line)["t"] for line in done.out.splitlines()] == [5]
    assert "\x1b" not in done.err


@pytest.mark.parametrize("arguments", [["{}/none"], ["{}"], ["--config", "{}/none", "/dev/null"]])
def test_a_file_that_cannot_be_read_is_status_2(
    ran: Any, tmp_path: Path, arguments: list[str]
) -> None:
    """A recording, a directory, a configuration."""
    done = ran("replay", *[argument.format(tmp_path) for argument in arguments])
    assert (done.status, done.out) == (2, "")
    assert str(tmp_path) in done.err


def test_replay_reads_bytes_that_are_no_text_from_a_pipe() -> None:
    """As `memwatch replay < recording` would meet them."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_memwatch", "replay"],
        input=HEADER.encode() + b"\xff\xfe\n" + (TICK % 5).encode(),
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"line 2: ")
    assert b"Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`memwatch replay ... | head -1`: no traceback, nothing on stderr."""
    recording = tmp_path / "ticks"
    recording.write_text(HEADER + "".join(TICK % second for second in range(2000)))
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor_memwatch", "replay", str(recording)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_terminal_that_knows_no_umlaut_gets_an_escape(tmp_path: Path) -> None:
    """Not a traceback: here for the name of a program."""
    rig = Rig(tmp_path, "", World("wörld")).run(ticks(2))
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_memwatch", "status", "-c", str(rig.conf)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert rb"w\xf6rld: RUNNING" in done.stdout


# -- notify


@pytest.fixture
def receivers() -> Iterator[tuple[Receiver, Receiver]]:
    with Receiver() as good, Receiver(500) as bad:
        yield good, bad


def test_notify_test_sends_to_every_target_and_says_how_it_went(
    ran: Any, tmp_path: Path, receivers: tuple[Receiver, Receiver]
) -> None:
    """0 where all took it, 1 where one did not; addresses only as far as their host."""
    good, bad = receivers
    conf = tmp_path / "supervisord.conf"
    conf.write_text(f"[supervisord]\n[memwatch]\nnotify = {good.url}secret\n")
    done = ran("notify", "--test", "-c", conf)
    assert (done.status, done.err) == (0, "")
    assert ": ok: delivered" in done.out
    assert len(good.received) == 1

    conf.write_text(
        f"[supervisord]\n[memwatch]\nnotify = {good.url}secret\n[memwatch:web]\n"
        f"notify = {bad.url}secret\n"
    )
    done = ran("notify", "--test", "-c", conf)
    assert done.status == 1
    assert ": FAILED: HTTP 500" in done.out
    assert "secret" not in done.out + done.err
    shown = ran("notify", "--test", "--json", "-c", conf).document
    assert [each["ok"] for each in shown] == [True, True]


def test_notify_without_a_target_says_where_to_name_one(ran: Any, tmp_path: Path) -> None:
    """Status 2."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[supervisord]\n[memwatch]\n")
    done = ran("notify", "--test", "-c", conf)
    assert (done.status, done.out) == (2, "")
    assert "no `notify` is set" in done.err


# -- listen


def test_listen_on_a_terminal_is_refused(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it touches stdout; the rest of listen is test_listener.py's."""
    monkeypatch.setattr("os.isatty", lambda fd: fd == 0)
    done = ran("listen")
    assert (done.status, done.out) == (2, "")
    assert "listen is started by supervisord" in done.err


def test_an_error_of_several_lines_is_made_safe_line_by_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Configuration errors come all at once, each with a line of its own."""
    problems = [config.Problem("a.conf", what="one"), config.Problem("b.conf", what="two\x1b[2J")]
    assert cli.fail(config.ConfigError(problems)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") >= 2
    assert "\x1b" not in err


def test_a_stream_of_another_kind_is_left_as_it_is() -> None:
    """Somebody calls main() with a stdout of their own."""
    cli._set_errors(io.StringIO(), "replace")
