"""Real supervisord, real gunicorn, and everything around them broken: the listener goes on.

It answers every TICK, loses nothing that it can keep, and says each trouble once.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import servers
from servers import Answer, Load, Receiver, Supervisor, free_port, gunicorn, program, wait_until

from supervisor_memwatch.journal import Journal, JournalError, Reader

pytestmark = pytest.mark.slow

LOGIN = ("user", "right")


def rows(journal: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a journal says; nothing while it cannot be read."""
    try:
        reader = Reader(str(journal))
    except JournalError:
        return []
    try:
        return reader.rows(sql)
    except JournalError:
        return []
    finally:
        reader.close()


def ticked(journal: Path) -> int:
    """TICKs that were worked on, as `status` shows it."""
    found = rows(journal, "SELECT value FROM facts WHERE key = 'listener'")
    return int(json.loads(found[0][0])["ticks"]) if found else 0


def answered(supervisor: Supervisor, name: str) -> int:
    """Events that a listener answered, as supervisord saw it."""
    return supervisor.log().count(f"DEBG {name}: event was processed")


def untroubled(supervisor: Supervisor) -> None:
    """No listener broke the protocol or left its events waiting."""
    log = supervisor.log()
    assert "UNKNOWN state" not in log
    assert "overflowed" not in log
    assert "event was rejected" not in log


# -- webhooks and programs


BIG = f"""{sys.executable} -c "import time; kept = bytes(range(256)) * 400000; time.sleep(600)" """
FLAPS = f"""{sys.executable} -c "import sys; sys.exit(1)" """
FLAPS_SLOWLY = f"""{sys.executable} -c "import time; time.sleep(1.5)" """
DYING_APP = """
import os, time
time.sleep(0.05)
os._exit(1)
"""


def test_webhooks_that_fail_and_programs_that_die(tmp_path: Path) -> None:
    """One that hangs, one that fails for a while, one that redirects; programs and workers
    that come and go faster than they can be looked at; at the end no RPC socket any more."""
    (tmp_path / "dying.py").write_text(DYING_APP)
    port = free_port()
    boots = f"{sys.executable} -m gunicorn --chdir {tmp_path} --bind 127.0.0.1:{free_port()} -w 2"
    sections = (
        program("big", BIG)
        + program("bigger", BIG)
        + program("victim", "sleep 600", autorestart="true")
        + program("flaps", FLAPS, startretries=3)
        + program("returns", FLAPS_SLOWLY, autorestart="true")
        + program("short", gunicorn("leaky:app", port, workers=3, options="--max-requests 1"))
        + program("dying", boots + " dying:app", autorestart="true")
    )
    with (
        Receiver() as hanging,
        Receiver(*[500] * 3) as failing,
        Receiver() as elsewhere,
        Receiver() as redirecting,
    ):
        hanging.usual = Answer(hang=True)
        redirecting.usual = Answer(302, {"Location": elsewhere.url})
        memwatch = f"""[memwatch]
warmup = 2s
confirm = 5s
limit = 2000MB
notify = {hanging.url} {failing.url} {redirecting.url}
[memwatch:big]
limit = 50MB
[memwatch:bigger]
limit = 40MB
"""
        with (
            Supervisor(tmp_path, sections, memwatch=memwatch) as supervisor,
            Load(f"http://127.0.0.1:{port}/pid", rate=20),
        ):
            journal = supervisor.journal
            wait_until(lambda: ticked(journal) >= 1, 60, lambda: str(supervisor))
            os.kill(supervisor.wait_for("victim"), signal.SIGKILL)
            _news_arrive_once(supervisor, hanging, failing, redirecting, elsewhere)
            before = ticked(journal)
            wait_until(lambda: ticked(journal) >= before + 2, 60, lambda: str(supervisor))
            supervisor.wait_for("victim")
            _ends_are_noted(supervisor)
            _no_socket(supervisor)
            untroubled(supervisor)


def _news_arrive_once(
    supervisor: Supervisor,
    hanging: Receiver,
    failing: Receiver,
    redirecting: Receiver,
    elsewhere: Receiver,
) -> None:
    log = supervisor.listener_log
    wait_until(lambda: "over: news to" in log(), 180, lambda: str(supervisor))
    wait_until(lambda: len(redirecting.received) >= 2, 60, lambda: str(supervisor))
    # Three attempts were refused; the fourth is the first to be taken, and the last.
    wait_until(lambda: len(failing.received) >= 5, 60, lambda: str(supervisor))
    ids = [body["id"] for body in failing.bodies]
    assert len(set(ids[:4])) == 1
    assert len(set(ids)) == len(ids) - 3
    assert {body["data"]["program"] for body in failing.bodies} >= {"big", "bigger"}
    assert [body["id"] for body in redirecting.bodies] == list(
        dict.fromkeys(body["id"] for body in redirecting.bodies)
    )
    assert elsewhere.received == []
    assert log().count("HTTP 302, a redirect") == 1
    assert len(re.findall("WARN news to .*HTTP 500; trying again", log())) == 1
    wait_until(lambda: "no answer within 10 s" in log(), 60, lambda: str(supervisor))
    assert hanging.received
    assert log().count("WARN news to") == 3
    for receiver in (hanging, failing, redirecting):
        assert f"{receiver.url.rstrip('/')}/news" not in log()


def _ends_are_noted(supervisor: Supervisor) -> None:
    masked = "SELECT text FROM entries WHERE namespec = 'short' AND text LIKE '%max_requests%'"
    wait_until(lambda: rows(supervisor.journal, masked), 60, lambda: str(supervisor))
    entries = rows(supervisor.journal, "SELECT namespec, text FROM entries WHERE kind = 'seen'")
    said = {name: [text for each, text in entries if each == name] for name, _ in entries}
    assert sum("ended unexpectedly" in text for text in said["victim"]) == 1
    assert supervisor.listener_log().count("victim the program ended unexpectedly") == 1
    assert said["flaps"].count("Supervisor gave up: FATAL") == 1
    assert any("max_requests" in text for text in said["short"])
    # What goes on and on is not said on and on.
    for name in ("returns", "dying", "short"):
        lines = [line for line in supervisor.listener_log().splitlines() if f" {name} " in line]
        assert len(lines) <= 40, "\n".join(lines)


def _no_socket(supervisor: Supervisor) -> None:
    """First under a connection that stands, then for a listener that needs a new one."""
    listener = supervisor.program_pid("memwatch")
    supervisor._forget_proxy()
    os.unlink(supervisor.socket)
    before = ticked(supervisor.journal)
    wait_until(lambda: ticked(supervisor.journal) >= before + 2, 60, lambda: str(supervisor))
    os.kill(listener, signal.SIGKILL)
    said = "Supervisor's RPC: no supervisord at"
    wait_until(lambda: said in supervisor.listener_log(), 60, lambda: str(supervisor))
    wait_until(lambda: 3 <= ticked(supervisor.journal) < 10, 60, lambda: str(supervisor))
    assert supervisor.listener_log().count(said) == 1


# -- journals and logins: one supervisord, a listener for each trouble


def _listener(name: str, directory: Path, journal: Path, login: tuple[str, str] = LOGIN) -> str:
    """An [eventlistener:NAME] with a configuration and a journal of its own."""
    conf = directory / f"{name}.conf"
    conf.write_text(f"[supervisord]\n[memwatch]\njournal = {journal}\nprograms = victim\n")
    return "\n".join(
        [
            f"[eventlistener:{name}]",
            f"command={sys.executable} -m supervisor_memwatch listen -c {conf}",
            f"events={servers.SUPERVISOR_EVENTS}",
            "buffer_size=100",
            f"priority={60 + len(name)}",
            "autorestart=true",
            "startsecs=0",
            f"stderr_logfile={directory}/{name}.log",
            f'environment=SUPERVISOR_USERNAME="{login[0]}",SUPERVISOR_PASSWORD="{login[1]}"',
            "",
        ]
    )


def _pages_of_garbage(path: Path) -> bytes:
    """A journal whose first page is whole and whose others are not."""
    journal = Journal(str(path))
    journal.write([("INSERT INTO watches VALUES (?, 1, ?)", ("w" * 20, "x" * 20_000))])
    journal.close()
    data = path.read_bytes()
    damaged = data[:4096] + b"\xa5" * (len(data) - 4096)
    path.write_bytes(damaged)
    return damaged


def test_journals_that_cannot_be_used_and_a_wrong_password(tmp_path: Path) -> None:
    """Six listeners, each with a trouble of its own: all answer, each says it once."""
    garbage = os.urandom(10_000)
    (tmp_path / "garbage.db").write_bytes(garbage)
    halfgarbage = _pages_of_garbage(tmp_path / "halfgarbage.db")
    with closing(sqlite3.connect(tmp_path / "newer.db")) as db:
        db.execute("PRAGMA user_version = 99")
    newer = (tmp_path / "newer.db").read_bytes()
    (tmp_path / "file").write_text("not a directory")
    journals = {
        "unwritable": tmp_path / "file" / "state" / "journal.db",
        "garbage": tmp_path / "garbage.db",
        "halfgarbage": tmp_path / "halfgarbage.db",
        "newer": tmp_path / "newer.db",
        "stranger": tmp_path / "stranger.db",
        "full": tmp_path / "full.db",
    }
    sections = "[supervisord]\nloglevel=debug\n"
    sections += program("victim", "sleep 600", autorestart="true")
    for name, journal in journals.items():
        login = ("user", "wrong") if name == "stranger" else LOGIN
        sections += _listener(name, tmp_path, journal, login)

    with Supervisor(tmp_path, sections, auth=LOGIN) as supervisor:
        pids = {name: supervisor.wait_for(name) for name in journals}
        _fills_up(supervisor, journals["full"], pids["full"])
        before = {name: answered(supervisor, name) for name in journals}
        for name in journals:
            wait_until(
                lambda name=name: answered(supervisor, name) >= before[name] + 2,  # type: ignore[misc]
                60,
                lambda: str(supervisor),
            )
        logs = {name: supervisor.read(f"{name}.log") for name in journals}
        for name in ("unwritable", "newer"):
            assert logs[name].count("going on in memory, without restarts") == 1, logs[name]
        assert "Not a directory" in logs["unwritable"]
        assert "written by a newer memwatch" in logs["newer"]
        assert (tmp_path / "newer.db").read_bytes() == newer
        for name, data in (("garbage", garbage), ("halfgarbage", halfgarbage)):
            assert logs[name].count("a new journal is begun") == 1, logs[name]
            assert "going on in memory" not in logs[name]
            [kept] = tmp_path.glob(f"{name}.db.damaged-*")
            assert kept.read_bytes() == data
        assert logs["stranger"].count("Supervisor's RPC") == 1
        for name in ("garbage", "halfgarbage", "stranger", "full"):
            assert ticked(journals[name]) >= 3
        for name, log in logs.items():
            assert "Traceback" not in log
            assert supervisor.program_pid(name) == pids[name], log
        untroubled(supervisor)


def _fills_up(supervisor: Supervisor, journal: Path, listener: int) -> None:
    """No more room for it, then room again: what happened meanwhile is in the file."""
    wait_until(lambda: ticked(journal) >= 2, 60, lambda: str(supervisor))
    wal = Path(f"{journal}-wal")
    process = psutil.Process(listener)
    _, hard = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
    log = lambda: supervisor.read("full.log")  # noqa: E731
    wait_until(lambda: "going on in memory" in log(), 60, log)
    remembered = ticked(journal)
    os.kill(supervisor.program_pid("victim"), signal.SIGKILL)
    wait_until(lambda: "victim the program ended unexpectedly" in log(), 60, log)
    ended = "SELECT text FROM entries WHERE text LIKE '%ended unexpectedly%'"
    assert rows(journal, ended) == []
    process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    wait_until(lambda: "over: journal" in log(), 220, log)
    wait_until(lambda: ticked(journal) > remembered + 2, 60, log)
    assert len(rows(journal, ended)) == 1
    assert log().count("WARN journal:") == 1
