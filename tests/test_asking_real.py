"""Asking a real listener under a real supervisord with a password: memwatch and supervisorctl.

One supervisord for all, so the tests tell a story from top to bottom; each can run alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from journals import Book
from servers import Supervisor, free_port, gunicorn, program, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOGIN = ("anna", "not-for-everybody")
CTLPLUGIN = (
    "[ctlplugin:memwatch]\n"
    "supervisor.ctl_factory = supervisor_memwatch.ctlplugin:make_controller_plugin\n"
)
# The quickest way to the end of a recycle: no surge, and by RSS what came back is known at once.
MEMWATCH = """[memwatch]
mode = act
preflight = off
surge = off
measure = rss
cooldown = 1h
budget = 50/1h
"""
# The command as somebody who may hardly read anything, once its modules are there.
AS_NOBODY = """
import os, sys, encodings.idna, glob, urllib.parse, xml.parsers.expat
from supervisor_memwatch import asking, cli, config
cli.parser()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(cli.main(sys.argv[1:]))
"""


class Host:
    """The supervisord, and commands beside it."""

    def __init__(self, directory: Path) -> None:
        self.supervisor = Supervisor(
            directory,
            program("web", gunicorn("leaky:app", free_port()))
            + program("job", f"{sys.executable} -c 'import time; time.sleep(3600)'")
            + CTLPLUGIN,
            memwatch=MEMWATCH,
            auth=LOGIN,
            inet=True,
        )
        self.book = Book(self.supervisor)

    def memwatch(
        self, *arguments: str, conf: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return self._run("-m", "supervisor_memwatch", *self._file(conf), *arguments, **variables)

    def as_nobody(self, conf: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("-c", AS_NOBODY, *self._file(conf), *arguments)

    def supervisorctl(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return self._run("-m", "supervisor.supervisorctl", *self._file(), *words, typed=typed)

    def _file(self, conf: Path | None = None) -> list[str]:
        return ["-c", str(conf or self.supervisor.conf)]

    def _run(
        self, *words: str, typed: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            env={**self.supervisor.environ, **variables},
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
        )

    def workers(self) -> list[str]:
        return sorted(map(str, self.supervisor.children("web")))

    def explained(self, name: str = "web") -> Any:
        return json.loads(self.memwatch("explain", name, "--json").stdout)["programs"][0]

    def until_watched(self) -> None:
        wait_until(
            lambda: {"web", "job"} <= self.book.watched() and len(self.explained()["quiet"]) > 0,
            60,
            lambda: f"watched\n{self.supervisor}",
        )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("asking"))
    with made.supervisor:
        made.supervisor.wait_for("web")
        made.until_watched()
        yield made


@pytest.fixture
def readable(host: Host) -> Iterator[Path]:
    """A directory everybody can read, with a copy of the configuration."""
    directory = Path(tempfile.mkdtemp(prefix="mw", dir="/tmp"))
    directory.chmod(0o755)
    shutil.copy(host.supervisor.conf, directory / "supervisord.conf")
    yield directory / "supervisord.conf"
    shutil.rmtree(directory)


def changed(conf: Path, *changes: tuple[str, str]) -> Path:
    text = conf.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    conf.write_text(text)
    return conf


# -- pauses


def test_a_pause_outlives_the_listener_and_ends_when_asked(host: Host) -> None:
    """It is in the journal before it is answered."""
    done = host.memwatch("pause", "web", "--for", "1h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "accepted: pause web for 1h\n"
    before = host.book.fact("pid")
    host.supervisor.rpc.supervisor.stopProcess("memwatch")
    host.supervisor.rpc.supervisor.startProcess("memwatch")
    wait_until(lambda: host.book.fact("pid") != before, 60, lambda: str(host.supervisor))
    assert "paused for another" in host.memwatch("explain", "web").stdout
    held = host.memwatch("recycle", host.workers()[0])
    assert held.returncode == 1
    assert held.stdout.startswith("held: paused for another 5")
    assert host.memwatch("resume").stdout == "accepted: resume web; job was not paused\n"
    assert host.explained()["paused_until"] is None


def test_a_pause_ends_by_itself(host: Host) -> None:
    """Nobody has to remember it."""
    assert host.memwatch("pause", "job", "--for", "2s").returncode == 0
    wait_until(lambda: host.explained("job")["paused_until"] is None, 60, lambda: "it ends")
    asked = host.memwatch("restart", "job")
    assert asked.returncode == 1
    assert "paused" not in asked.stdout and "not gunicorn" in asked.stdout


# -- actions


def test_a_recycle_is_done_told_and_explained(host: Host) -> None:
    """Its end is awaited; the next is held by the cooldown, and --force passes that."""
    victim = host.workers()[0]
    done = host.memwatch("recycle", victim, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("accepted: recycle")
    assert f"done: recycle done: worker {victim} replaced by" in done.stdout
    second = host.workers()[0]
    held = host.memwatch("recycle", second, "--json")
    assert held.returncode == 1
    answer = json.loads(held.stdout)
    assert answer["answer"] == "held" and "cooldown for another" in answer["reason"]

    history = host.memwatch("history", "web", "--since", "1h").stdout
    assert f"recycle of worker {victim} by root: done in" in history
    assert "held: cooldown for another" in history
    last = host.explained()["last_action"]
    assert (last["pid"], last["result"]) == (int(victim), "done")

    forced = host.memwatch("recycle", second, "--force")
    assert forced.returncode == 0, forced.stdout
    wait_until(lambda: second not in host.workers(), 60, lambda: f"{second} has left")


def test_a_worker_has_to_be_named_and_known(host: Host) -> None:
    """Refused, with what would do."""
    refused = host.memwatch("recycle", "web")
    assert refused.returncode == 1
    assert refused.stdout.startswith("refused: name the worker by its pid, as target: ")
    unknown = host.memwatch("recycle", "1")
    assert unknown.returncode == 1 and "refused: no watched program or worker '1'" in unknown.stdout


# -- those who may not


def test_a_wrong_password_is_an_error(host: Host) -> None:
    """From the command line and the environment; the right one passes."""
    wrong = host.memwatch("resume", "-u", "anna", "-p", "guess")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert "401 Unauthorized" in wrong.stderr and "guess" not in wrong.stderr
    also = host.memwatch("resume", SUPERVISOR_PASSWORD="guess")
    assert also.returncode == 2 and "401 Unauthorized" in also.stderr
    url = f"http://127.0.0.1:{host.supervisor.inet_port}"
    right = host.memwatch("resume", "-s", url, "-u", LOGIN[0], "-p", LOGIN[1])
    assert right.returncode == 0, right.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root only")
def test_without_rights_on_the_socket_it_says_so(host: Host, readable: Path) -> None:
    """And what to do."""
    done = host.as_nobody(readable, "resume")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not permitted to talk to supervisord" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root only")
def test_who_may_not_read_the_journal_reads_the_answer_in_the_log(
    host: Host, readable: Path
) -> None:
    """Through Supervisor, which asks for the password."""
    url = f"http://127.0.0.1:{host.supervisor.inet_port}"
    done = host.as_nobody(readable, "resume", "web", "-s", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "accepted: web was not paused\n"


def test_a_journal_of_another_version_is_said(host: Host, readable: Path) -> None:
    """And nothing is sent."""
    old = readable.parent / "old.db"
    with closing(sqlite3.connect(old)) as db:
        db.execute("PRAGMA user_version = 99")
    conf = changed(readable, (str(host.supervisor.journal), str(old)))
    before = host.book.rows("SELECT count(*) FROM answers")
    for command in ("resume", "explain", "history"):
        done = host.memwatch(command, conf=conf)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert "journal version 99" in done.stderr, command
    assert host.book.rows("SELECT count(*) FROM answers") == before


def test_without_a_section_nobody_would_hear(host: Host, readable: Path) -> None:
    """Nor where it does not subscribe to messages."""
    deaf = changed(readable, ("REMOTE_COMMUNICATION,", ""))
    done = host.memwatch("resume", conf=deaf)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lack REMOTE_COMMUNICATION" in done.stderr
    none = changed(readable, ("[eventlistener:memwatch]", "[eventlistener:other]"))
    none = changed(none, ("-m supervisor_memwatch listen", "-m something"))
    done = host.memwatch("resume", conf=none)
    assert done.returncode == 2 and "no [eventlistener] section" in done.stderr


# -- supervisorctl


def test_supervisorctl_has_the_same_commands(host: Host) -> None:
    """With its own file and login; the answer is its exit status too."""
    shown = host.supervisorctl("memwatch", "status", "web")
    assert shown.returncode in (0, 1) and "web: RUNNING, gunicorn" in shown.stdout
    assert "web: " in host.supervisorctl("memwatch", "explain", "web").stdout
    assert host.supervisorctl("memwatch", "history", "-n", "3").returncode == 0
    paused = host.supervisorctl("memwatch", "pause", "web", "--for", "10m")
    assert (paused.returncode, paused.stdout) == (0, "accepted: pause web for 10m\n")
    for command, target in (("recycle", host.workers()[0]), ("reload", "web"), ("restart", "web")):
        held = host.supervisorctl("memwatch", command, target)
        assert held.returncode == 1 and held.stdout.startswith("held: paused for another")
    assert host.supervisorctl("memwatch", "resume", "web").returncode == 0
    wrong = host.supervisorctl("-p", "guess", "memwatch", "resume")
    assert wrong.returncode == 2 and "401 Unauthorized" in wrong.stdout


def test_supervisorctls_shell_goes_on(host: Host) -> None:
    """Whatever is asked there, and whatever goes wrong."""
    typed = "memwatch resume web\nmemwatch nonsense\nmemwatch pause 'web\nhelp memwatch\npid web\n"
    done = host.supervisorctl(typed=typed)
    assert "accepted: web was not paused" in done.stdout
    assert "memwatch: valid: memwatch status|history" in done.stdout
    assert "memwatch: No closing quotation; valid: " in done.stdout
    assert "memwatch recycle\t" in done.stdout and "No help on" not in done.stdout
    assert str(host.supervisor.program_pid("web")) in done.stdout.splitlines()[-2]
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_a_program_is_reloaded_and_restarted(host: Host, command: str) -> None:
    """As soon as what went before it has ended: what is held is asked for again."""
    before = set(host.workers())
    wait_until(
        lambda: host.memwatch(command, "web", "--force").returncode == 0,
        60,
        lambda: f"{command} accepted\n{host.supervisor}",
    )
    wait_until(
        lambda: len(host.workers()) == 2 and not before & set(host.workers()),
        60,
        lambda: f"{command} has replaced all workers\n{host.supervisor}",
    )
    assert f"web: {command} by root: " in host.memwatch("history", "web").stdout


# -- the listener away


def test_a_listener_that_is_being_restarted_hears_it(host: Host) -> None:
    """Supervisor has it back at once: it is not said to be down."""
    before = host.book.fact("pid")
    os.kill(before, signal.SIGTERM)
    done = host.memwatch("resume", "web")
    assert (done.returncode, done.stdout) == (0, "accepted: web was not paused\n"), done.stderr
    assert host.book.fact("pid") != before
    wait_until(lambda: host.book.fact("ticks"), 60, lambda: str(host.supervisor))


def test_a_stopped_listener_is_said_before_anything_is_sent(host: Host) -> None:
    """By every way to ask; what there is to look at is shown all the same."""
    host.supervisor.rpc.supervisor.stopProcess("memwatch")
    try:
        done = host.memwatch("pause")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the listener memwatch is STOPPED: `supervisorctl start memwatch`" in done.stderr
        inside = host.supervisorctl("memwatch", "pause")
        assert inside.returncode == 2 and "is STOPPED" in inside.stdout
        for command in ("status", "explain"):
            shown = host.memwatch(command)
            assert shown.returncode == 2 and "web: " in shown.stdout
            assert "is gone" in shown.stderr
    finally:
        host.supervisor.rpc.supervisor.startProcess("memwatch")
