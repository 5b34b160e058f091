"""`supervisorctl memwatch` inside supervisorctl's own Controller, without a server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, ticks
from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller
from worlds import World

from supervisor_memwatch import asking, cli, ctlplugin
from supervisor_memwatch.asking import Answer

SECTION = """
[eventlistener:memwatch]
command = memwatch listen
events = TICK_5,REMOTE_COMMUNICATION
[supervisorctl]
serverurl = http://127.0.0.1:1
username = anna
password = =secret -x
[ctlplugin:memwatch]
supervisor.ctl_factory = supervisor_memwatch.ctlplugin:make_controller_plugin
colour = green
"""


class Ctl:
    """A supervisorctl on a configuration, as its main() makes it."""

    def __init__(self, conf: Path, *arguments: str) -> None:
        options = ClientOptions()
        options.realize(["-c", str(conf), *arguments, "version"])
        self.out = io.StringIO()
        self.controller = Controller(options, stdout=self.out)

    def run(self, line: str) -> tuple[int, str]:
        """The exit status and what was printed by one line."""
        self.controller.exitstatus = 0
        self.out.seek(0)
        self.out.truncate()
        assert not self.controller.onecmd(line), "the shell goes on"
        return self.controller.exitstatus, self.out.getvalue()

    def completions(self, line: str) -> list[str]:
        text = "" if line.endswith(" ") else line.split()[-1]
        found = []
        while (one := self.controller.complete(text, len(found), line)) is not None:
            found.append(one)
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path, SECTION, World(), World("shop", plain=True))
    return made.run(ticks(3))


@pytest.fixture
def ctl(rig: Rig) -> Ctl:
    return Ctl(rig.conf)


# -- commands


def test_what_there_is_to_see_is_the_commands_own(ctl: Ctl, rig: Rig, ran: Any) -> None:
    """With supervisorctl's file."""
    for command in ("status web", "explain web", "history"):
        assert ctl.run(f"memwatch {command}") == (
            0,
            ran(*command.split(), "-c", rig.conf).out,
        )
    status, out = ctl.run("memwatch explain --json")
    assert (status, len(json.loads(out)["programs"])) == (0, 2)


def test_a_request_goes_with_supervisorctls_address_and_login(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever characters the password has; the answer is the exit status."""
    asked: list[Any] = []

    def answer(config: Any, command: str, target: str, **more: Any) -> Answer:
        client = more["supervisor"]
        asked.append((command, target, more["seconds"], more["force"], client.url))
        return Answer("held", "because", "1")

    logins: list[Any] = []
    connect = asking.connect

    def remembered(config: Any, *given: str | None) -> Any:
        logins.append(given)
        return connect(config, *given)

    monkeypatch.setattr(asking, "ask", answer)
    monkeypatch.setattr(asking, "connect", remembered)
    assert ctl.run("memwatch pause web --for 2h") == (1, "held: because\n")
    assert ctl.run("memwatch recycle 4711 --force")[0] == 1
    url = "http://127.0.0.1:1"
    assert asked == [("pause", "web", 7200.0, False, url), ("recycle", "4711", None, True, url)]
    assert logins[0] == (url, "anna", "=secret -x")
    ctl.run("memwatch pause web -s http://me:other@127.0.0.1:2")
    ctl.run("memwatch pause web -u bert")
    assert logins[2:] == [("http://me:other@127.0.0.1:2", None, None), (url, "bert", None)]


def test_what_cannot_be_reached_is_a_line_and_status_2(ctl: Ctl) -> None:
    """As `memwatch` itself says it."""
    status, out = ctl.run("memwatch resume")
    assert status == 2
    assert out == (
        "memwatch: supervisord at http://127.0.0.1:1 refuses the connection: is it running?\n"
    )


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("memwatch", 2, "memwatch: valid: memwatch status|history|explain|pause"),
        ("memwatch listen", 2, "memwatch: valid: "),
        ("memwatch status --nonsense", 2, "unrecognized arguments: --nonsense"),
        ("memwatch pause 'web", 2, "memwatch: No closing quotation; valid: memwatch status|"),
        ("memwatch status webb", 2, "not watched: webb"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_breaks(
    ctl: Ctl, capsys: pytest.CaptureFixture[str], line: str, status: int, words: str
) -> None:
    """In supervisorctl's output, its shell goes on."""
    found, out = ctl.run(line)
    assert (found, words in out, "Traceback" in out) == (status, True, False)
    assert capsys.readouterr() == ("", "")
    assert ctl.run("memwatch status")[0] == 0


@pytest.mark.parametrize("trouble", [RuntimeError("boom\x1b[2J"), KeyboardInterrupt()])
def test_trouble_of_ours_is_a_line(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    """Whatever it is; Ctrl-C ends the command and not supervisorctl."""

    def fail(arguments: object) -> int:
        raise trouble

    monkeypatch.setattr(cli, "_status", fail)
    status, out = ctl.run("memwatch status")
    assert status == 1
    assert out in ("memwatch: RuntimeError: boom\\x1b[2J\n", "\n")
    assert sys.stdout is not ctl.out


def test_what_the_terminal_cannot_show_is_escaped(ctl: Ctl) -> None:
    """Not an exception of its encoding."""
    raw = io.BytesIO()
    ctl.controller.stdout = io.TextIOWrapper(raw, "ascii")
    ctl.controller.onecmd("memwatch status w\u00e9b")
    ctl.controller.stdout.flush()
    assert b"not watched: w\\xe9b" in raw.getvalue()


def test_a_reader_of_the_output_who_has_gone_is_no_trouble(ctl: Ctl) -> None:
    """`supervisorctl memwatch history | head -1`: nothing is said, now or at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        ctl.controller.stdout = out
        ctl.controller.exitstatus = 0
        assert not ctl.controller.onecmd("memwatch status --json")
    assert ctl.controller.exitstatus == 0


# -- help


def test_help_is_there_and_nobody_complains(ctl: Ctl) -> None:
    """On the whole, on each command, in the list; on others' topics only others speak."""
    _, out = ctl.run("help memwatch")
    assert "No help on" not in out
    for command in ctlplugin.COMMANDS:
        assert f"memwatch {command}\t" in out
        _, more = ctl.run(f"help memwatch {command}")
        assert f"usage: memwatch {command}" in more and "No help on" not in more
        assert ctl.run(f"memwatch {command} --help") == (0, more)
    listed = ctl.run("help")[1]
    assert listed.split("memwatch commands (type help <topic>):")[1].split()[1:] == ["memwatch"]
    assert ctl.run("memwatch --help") == ctl.run("memwatch -h") == (0, ctl.run("help memwatch")[1])
    assert ctl.run("help stop")[1].count("stop") > 1
    assert "No help on" not in ctl.run("help stop")[1]
    assert ctl.run("help nonsense")[1] == "*** No help on nonsense\n"
    assert "memwatch: valid: " in ctl.run("help memwatch nonsense")[1]


# -- completion


def test_commands_programs_workers_and_options_are_completed(ctl: Ctl) -> None:
    """Each in its place."""
    assert ctl.completions("memw") == ["memwatch "]
    assert ctl.completions("memwatch ") == [f"{name} " for name in ctlplugin.COMMANDS]
    assert ctl.completions("memwatch re") == ["resume ", "recycle ", "reload ", "restart "]
    assert ctl.completions("memwatch pause ") == ["shop ", "web "]
    assert ctl.completions("memwatch pause w") == ["web "]
    assert ctl.completions("memwatch pause web --f") == ["--for "]
    assert ctl.completions("memwatch pause --for ") == []
    assert ctl.completions("memwatch pause --json w") == ["web "]
    pids = ctl.completions("memwatch recycle 10")
    assert len(pids) >= 3 and all(pid.strip().isdigit() for pid in pids)
    assert ctl.completions("memwatch nonsense x") == []


def test_where_nothing_can_be_known_nothing_is_completed(ctl: Ctl, rig: Rig) -> None:
    """No traceback into the line that is being typed; supervisorctl's own goes on."""
    rig.journal.unlink()
    assert ctl.completions("memwatch pause ") == []
    assert set(ctl.completions("hel")) == {"help "}
    assert "status " in ctl.completions("st")


# -- the section


def test_supervisorctl_itself_goes_on(rig: Rig) -> None:
    """As one command of its own; options of the section that mean nothing break nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisorctl", "-c", rig.conf, "memwatch", "status"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "web: RUNNING, gunicorn" in done.stdout
