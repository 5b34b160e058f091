"""Asking the listener: what is sent, where the answer is found, and who is told off and how."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, event, ticks
from worlds import World

from supervisor_memwatch import asking, messages
from supervisor_memwatch.asking import Answer, ask
from supervisor_memwatch.config import Config, load
from supervisor_memwatch.control import RpcError, Tail
from supervisor_memwatch.journal import Journal, JournalError, answer_row, answer_update
from supervisor_memwatch.model import Command

EVENTS = "TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION"
CONF = """
[supervisord]
[unix_http_server]
file = /nowhere/s.sock
[eventlistener:{group}]
command = {command}
events = {events}
[memwatch]
journal = {journal}
"""


class Listener:
    """A supervisord with a listener in it, on paper: `answers` is what it does with a message."""

    def __init__(self, answers: Callable[[messages.Message], None] = lambda message: None) -> None:
        self.answers = answers
        self.heard: list[messages.Message] = []
        self.state = "RUNNING"
        self.group = "memwatch"
        self.log: str | None = ""

    def programs(self) -> list[dict[str, Any]]:
        return [
            {"group": "web", "name": "web", "statename": "RUNNING"},
            {"group": self.group, "name": self.group, "statename": self.state},
        ]

    def send_event(self, type: str, data: str) -> None:
        assert type == "memwatch" and data.isascii() and "\n" not in data
        message = messages.read(data, time.time())
        assert message is not None
        self.heard.append(message)
        self.answers(message)

    def tail_stderr(self, name: str, offset: int, length: int) -> Tail:
        assert name == self.group
        if self.log is None:
            raise RpcError(20, "NO_FILE: memwatch")
        return Tail(self.log[-length:] if length else "", len(self.log), False)


class Host:
    """The configuration, the journal, and what is asked with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "journal.db"
        self.journal = Journal(str(self.path))
        self.listener = Listener(self.accept)

    def config(self, group: str = "memwatch", command: str = "memwatch listen") -> Config:
        return self._load(group, command, EVENTS)

    def hearing(self, events: str) -> Config:
        return self._load("memwatch", "memwatch listen", events)

    def _load(self, group: str, command: str, events: str) -> Config:
        conf = self.directory / "supervisord.conf"
        text = CONF.format(group=group, command=command, events=events, journal=self.path)
        conf.write_text(text)
        return load(str(conf), {})

    def accept(self, message: messages.Message) -> None:
        self.answer(message, "accepted", "so be it")

    def answer(self, message: messages.Message, answer: str, reason: str) -> None:
        self.journal.write([answer_row(message.id, 1.0, answer, reason)])

    def ask(self, command: str = "pause", target: str = "web", **more: Any) -> Answer:
        supervisor: Any = self.listener
        return ask(
            more.pop("config", self.config()), command, target, supervisor=supervisor, **more
        )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(asking, "LOG_EVERY", 0.02)
    monkeypatch.setattr(asking, "JOURNAL_EVERY", 0.01)
    monkeypatch.setattr(asking, "LASTING", 0.05)
    monkeypatch.setattr(asking, "PASSING_EVERY", 0.01)
    made = Host(tmp_path)
    yield made
    made.journal.close()


# -- what is sent


def test_everything_that_is_asked_arrives(host: Host) -> None:
    """As the listener reads it; each with an id of its own."""
    first = host.ask("pause", "web", seconds=3600.0, by="anna")
    second = host.ask("recycle", "4711", force=True)
    one, two = host.listener.heard
    assert (one.command, one.target, one.seconds, one.force, one.by, one.refused) == (
        *("pause", "web", 3600.0, False, "anna"),
        "",
    )
    assert (two.command, two.target, two.seconds, two.force) == ("recycle", "4711", None, True)
    assert first == Answer("accepted", "so be it", one.id)
    assert second.id == two.id != one.id


def test_a_name_is_only_a_name(host: Host) -> None:
    """Whatever characters are in it; the listener refuses what is none."""
    host.ask("pause", "w\u00e9b <&> 'x'")
    assert host.listener.heard[0].target == "w\u00e9b <&> 'x'"
    host.ask("pause", "web\nforged")
    assert "target has to be the name" in host.listener.heard[1].refused


# -- the answer


@pytest.mark.parametrize(
    ("answer", "status"), [("accepted", 0), ("held", 1), ("refused", 1), ("silent", 2)]
)
def test_the_answer_is_the_exit_status(host: Host, answer: str, status: int) -> None:
    """And the reason is the listener's."""
    if answer != "silent":
        host.listener.answers = lambda message: host.answer(message, answer, "its reason")
    else:
        host.listener.answers = lambda message: None
    found = host.ask(wait=0.3)
    assert (found.answer, asking.exit_status(found)) == (answer, status)
    assert found.reason == "its reason" or answer == "silent"


def test_an_answer_that_takes_its_time_is_waited_for(host: Host) -> None:
    """The first look need not find it."""
    looks = iter(range(3))
    programs = host.listener.programs

    def late() -> list[dict[str, Any]]:
        if next(looks, None) == 1:
            host.accept(host.listener.heard[0])
        return programs()

    host.listener.answers = lambda message: None
    host.listener.programs = late  # type: ignore[method-assign]
    assert host.ask(wait=30).answer == "accepted"


def test_a_listener_whose_journal_is_in_memory_answers_in_its_log(host: Host) -> None:
    """Of several lines about a request the last one holds; others' are others'."""

    def answers(message: messages.Message) -> None:
        other = "00000000-0000-4000-8000-000000000000"
        host.listener.log = "".join(
            f"2026-01-31 12:00:0{n},123 INFO {text}\n"
            for n, text in enumerate(
                (
                    f"reply {message.id} accepted: at first",
                    f"reply {message.id} held: after all: no",
                    f"reply {other} refused: not ours",
                )
            )
        )

    host.listener.answers = answers
    assert host.ask(wait=0.3)[:2] == ("held", "after all: no")


def test_without_a_journal_the_log_is_enough(host: Host) -> None:
    """It is asked for first: what nobody could answer is not sent."""
    config = host.config()
    host.path.unlink()

    def answers(message: messages.Message) -> None:
        host.listener.log = f"x INFO reply {message.id} accepted: heard\n"

    host.listener.answers = answers
    assert host.ask(config=config)[:2] == ("accepted", "heard")
    host.listener.log = None
    with pytest.raises(JournalError, match="could be read nowhere, so nothing was sent"):
        host.ask(config=config)
    assert len(host.listener.heard) == 1


def test_a_log_that_cannot_be_read_just_now_is_read_later(host: Host) -> None:
    """Supervisor fails where the piece begins inside a character."""
    host.listener.log = None
    host.listener.answers = lambda message: None
    assert host.ask(wait=0.2).answer == "silent"


def test_it_waits_three_ticks_and_fifteen_seconds_at_least(host: Host) -> None:
    """As long as the listener may be busy."""
    for events, seconds in (
        ("TICK_5,REMOTE_COMMUNICATION", 15.0),
        ("TICK_60,REMOTE_COMMUNICATION", 180.0),
        ("TICK_60,TICK_5,REMOTE_COMMUNICATION", 15.0),
        ("REMOTE_COMMUNICATION", 15.0),
    ):
        assert asking._patience(host.hearing(events), None) == seconds
    assert asking._patience(host.config(), 2.5) == 2.5


# -- nobody to answer


@pytest.mark.parametrize("state", ["STOPPED", "STOPPING", "FATAL", "EXITED", "BACKOFF"])
def test_a_listener_that_is_down_is_said_before_anything_is_sent(host: Host, state: str) -> None:
    """With its state, and what to do."""
    host.listener.state = state
    found = host.ask()
    assert found.answer == "silent"
    assert f"the listener memwatch is {state}: " in found.reason
    assert "`supervisorctl start memwatch`" in found.reason
    assert host.listener.heard == []


def test_a_listener_that_stops_meanwhile_is_not_waited_for(host: Host) -> None:
    """Nor one that is removed."""

    def stop(message: messages.Message) -> None:
        host.listener.state = "STOPPED"

    def remove(message: messages.Message) -> None:
        host.listener.group = "other"

    host.listener.answers = stop
    assert "the listener memwatch is STOPPED" in host.ask(wait=60).reason
    host.listener.state, host.listener.answers = "RUNNING", remove
    host.listener.tail_stderr = lambda *_: Tail("", 0, False)  # type: ignore[method-assign]
    assert "was removed from Supervisor" in host.ask(wait=60).reason


def test_a_listener_that_runs_and_is_silent_has_a_log(host: Host) -> None:
    """Where it may say why."""
    host.listener.answers = lambda message: None
    found = host.ask(wait=0.1)
    assert found.answer == "silent"
    assert "memwatch runs and does not answer" in found.reason
    assert "`supervisorctl tail memwatch stderr`" in found.reason


@pytest.mark.parametrize("unanswered", [True, False])
def test_a_connection_that_breaks_after_the_request_may_have_carried_it(
    host: Host, unanswered: bool
) -> None:
    """Which is said; of what was never sent it is not."""

    def breaks(message: messages.Message) -> None:
        error = RpcError(None, "no answer from supervisord within 10 s: is it busy?")
        error.unanswered = unanswered
        raise error

    host.listener.answers = breaks
    with pytest.raises(RpcError, match="is it busy") as caught:
        host.ask()
    assert ("may still be carried out until" in str(caught.value)) == unanswered


def test_what_was_sent_and_not_answered_may_still_be_done(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until when is said; also where the journal could be read only before it was sent."""
    host.listener.answers = lambda message: None
    late = r"it was sent and may still be carried out until \d\d:\d\d:\d\d \(1m\): see "
    assert re.search(late, host.ask(wait=0.1).reason)

    def lost(*_: object) -> None:
        raise JournalError("disk I/O error")

    monkeypatch.setattr(asking, "answered", lost)
    with pytest.raises(JournalError, match=f"disk I/O error; {late}"):
        host.ask()
    host.listener.state = "STOPPED"
    assert "it was sent" not in host.ask().reason


@pytest.mark.parametrize("state", ["STOPPING", "EXITED", "BACKOFF"])
def test_a_listener_that_is_being_started_again_is_not_down(
    host: Host, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Supervisor has it back within a second: before the message, and while it is answered."""
    monkeypatch.setattr(asking, "LASTING", 30.0)
    looks = iter(range(9))
    programs = host.listener.programs

    def back() -> list[dict[str, Any]]:
        if next(looks, None) == 2:
            host.listener.state = "STARTING"
            if host.listener.heard:
                host.accept(host.listener.heard[0])
        return programs()

    host.listener.programs = back  # type: ignore[method-assign]
    host.listener.state = state
    assert host.ask().answer == "accepted"

    def restarted(message: messages.Message) -> None:
        nonlocal looks
        looks, host.listener.state = iter(range(9)), state
        host.listener.heard[:] = [message]

    host.listener.answers = restarted
    assert host.ask(wait=60).answer == "accepted"


def test_without_a_section_or_deaf_or_unknown_nothing_is_sent(host: Host) -> None:
    """Each has its own words."""
    for config, words in (
        (host.config(command="/bin/other"), "no [eventlistener] section of "),
        (host.hearing("TICK_5,PROCESS_STATE"), "lack REMOTE_COMMUNICATION"),
        (host.config(group="watchdog"), "Supervisor does not know [eventlistener:watchdog]"),
    ):
        found = host.ask(config=config)
        assert found.answer == "silent" and words in found.reason
        assert "`supervisorctl update`" in found.reason
    assert host.listener.heard == []


@pytest.mark.parametrize("events", ["EVENT", "tick_5, remote_communication", "%(ENV_EVENTS)s"])
def test_messages_are_heard_under_every_spelling(host: Host, events: str) -> None:
    """Also where that cannot be told."""
    assert host.ask(config=host.hearing(events)).answer == "accepted"


@pytest.mark.parametrize("content", [b"garbage" * 1000, b""])
def test_a_journal_that_cannot_be_read_is_no_hindrance(host: Host, content: bytes) -> None:
    """The log is read."""
    config = host.config()
    host.journal.close()
    for path in host.directory.glob("journal.db*"):
        path.unlink()
    host.path.write_bytes(content)

    def answers(message: messages.Message) -> None:
        host.listener.log = f"x INFO reply {message.id} accepted: heard\n"

    host.listener.answers = answers
    assert host.ask(config=config)[:2] == ("accepted", "heard")


def test_a_journal_of_another_version_is_an_error_before_anything_is_sent(host: Host) -> None:
    """Its answers could be in another table."""
    host.journal._db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="journal version 99"):
        host.ask()
    assert host.listener.heard == []


# -- the end of it


def test_what_is_held_after_all_ends_the_waiting(host: Host) -> None:
    """The preflight failed."""
    accepted = host.ask("recycle", "4711")
    host.journal.write([answer_update(accepted.id, "held", "a new worker would not boot")])
    supervisor: Any = host.listener
    end = asking.follow(supervisor, host.config(), accepted)
    assert end == Answer("held", "a new worker would not boot", accepted.id)
    assert asking.exit_status(end) == 1


def test_what_does_not_end_is_not_waited_for_for_ever(host: Host) -> None:
    """It goes on without us."""
    accepted = host.ask("restart", "web")
    supervisor: Any = host.listener
    end = asking.follow(supervisor, host.config(), accepted, 0.0)
    assert end.answer == "silent" and "no end within 0s: it goes on" in end.reason


@pytest.mark.parametrize(
    ("command", "target", "by"),
    [
        ("restart", "web", "anna"),
        ("reload", "", "anna"),
        ("restart", "1001", "anna"),
        ("recycle", "1001", "b" * 200),
    ],
)
def test_the_end_is_that_of_the_action_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, target: str, by: str
) -> None:
    """However it was named and by whom, on a listener on paper; not that of another."""
    world = World()
    monkeypatch.setattr(
        "supervisor_memwatch.listener.send",
        lambda whom, signal: world.obey([Command("signal", "web", whom, signal)]),
    )
    rig = Rig(tmp_path, "mode = act\ncooldown = 1s\nbudget = 9/1h\nsurge = off\n", world)
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(2)]
    asked = [(ids[0], "reload", "web", "root"), (ids[1], command, target, by)]
    data = [
        event(
            "REMOTE_COMMUNICATION",
            f"type:memwatch\n{messages.write(id, time.time(), what, whom, by=who)}",
            serial,
        )
        for serial, (id, what, whom, who) in enumerate(asked, 200)
    ]
    rig.run(ticks(2) + data[1] + ticks(40, 4) + data[0] + ticks(40, 50))
    assert len(rig.rows("SELECT id FROM procedures WHERE ended IS NOT NULL")) == 2
    section = f"[eventlistener:memwatch]\ncommand = memwatch listen\nevents = {EVENTS}\n"
    rig.conf.write_text(rig.conf.read_text() + section)
    host: Any = Listener()
    config = load(str(rig.conf), {})
    end = asking.follow(host, config, Answer("accepted", "", ids[1]))
    assert end.answer == "done" and end.reason.startswith(f"{command} done: ")
    assert asking.exit_status(end) == 0
    if (command, target) == ("restart", "web"):
        host.state = "STOPPED"
        gone = asking.follow(host, config, Answer("accepted", "", "of another"))
        assert gone.answer == "silent" and "is STOPPED" in gone.reason


# -- address and login


def test_the_login_is_what_is_given_then_the_environments_then_the_files(tmp_path: Path) -> None:
    """The file's own order is supervisorctl's."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text(
        "[supervisord]\n"
        "[unix_http_server]\nfile = /a.sock\nusername = ux\npassword = up\n"
        "[inet_http_server]\nport = 127.0.0.1:9001\nusername = ix\npassword = ip\n"
    )
    config = load(str(conf), {})
    environ = {"SUPERVISOR_USERNAME": "ex", "SUPERVISOR_PASSWORD": "ep"}

    def login(*given: str | None, **more: Any) -> tuple[str, str]:
        made = asking.connect(config, *given, **{"environ": {}, **more})
        _, _, token = made._login.partition("Basic ")
        return made.url, base64.b64decode(token).decode()

    assert login() == ("unix:///a.sock", "ux:up")
    assert login("http://127.0.0.1:9001") == ("http://127.0.0.1:9001", "ix:ip")
    assert login(environ=environ) == ("unix:///a.sock", "ex:ep")
    assert login(None, "gx", "gp", environ=environ) == ("unix:///a.sock", "gx:gp")
    assert login("http://other:1", "gx", "") == ("http://other:1", "gx:")
    address = "http://me:secret@other:1"
    assert login(address) == login(address, environ=environ) == ("http://other:1", "me:secret")
    assert login(address, "gx", "gp") == ("http://other:1", "gx:gp")
    assert login(address, None, "gp") == ("http://other:1", "me:gp")
    # A password is never sent with somebody else's name.
    for url in (None, "http://127.0.0.1:9001", address):
        assert login(url, "gx")[1] == login(url, "gx", environ=environ)[1] == ""
    assert login(None, "ux")[1] == "ux:up"
    assert login(None, "gx", environ={"SUPERVISOR_PASSWORD": "ep"})[1] == "gx:ep"
    assert login(environ={"SUPERVISOR_USERNAME": "ex"})[1] == ""


def test_who_asks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who it was before sudo."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    name = asking.myself()
    assert name
    monkeypatch.setenv("SUDO_USER", "anna")
    assert asking.myself() == f"anna (as {name})"
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert asking.myself() == f"anna (as {2**31 - 7})"


# -- the commands


@pytest.mark.parametrize("length", ["0", "-1h", "soon", "1e9999"])
def test_a_pause_of_no_length_is_status_2(ran: Any, tmp_path: Path, length: str) -> None:
    """With what would be one."""
    done = ran("pause", f"--for={length}")
    assert (done.status, done.out) == (2, "")
    assert "valid: a time such as 30m, 2h or 7d" in done.err


@pytest.mark.parametrize("command", ["pause", "restart"])
def test_an_empty_target_is_a_mistake(ran: Any, host: Host, command: str) -> None:
    """Of a variable that was not set, and not every program."""
    host.config()
    done = ran(command, "", "-c", host.directory / "supervisord.conf")
    assert (done.status, done.out) == (2, "")
    assert done.err == "memwatch: TARGET is empty: name a program, or leave it out\n"


def test_without_supervisor_the_command_says_so(ran: Any, host: Host) -> None:
    """Status 2: it could not."""
    host.config()
    done = ran("resume", "-c", host.directory / "supervisord.conf")
    assert (done.status, done.out) == (2, "")
    assert "no supervisord at unix:///nowhere/s.sock: is it running" in done.err


def test_the_command_prints_the_answer(
    ran: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line, or a document; of silence the reason on stderr."""
    conf = host.directory / "supervisord.conf"
    host.config()
    supervisor: Any = host.listener
    for name in ("__enter__", "__exit__"):
        monkeypatch.setattr(Listener, name, lambda self, *_: self, raising=False)
    monkeypatch.setattr(asking, "connect", lambda *_: supervisor)
    host.listener.answers = lambda message: host.answer(message, "held", "\x1b[2Jbecause")
    done = ran("reload", "web", "-c", conf)
    assert (done.status, done.out, done.err) == (1, "held: \\x1b[2Jbecause\n", "")
    document = ran("reload", "web", "--json", "-c", conf).document
    assert (document["answer"], document["reason"]) == ("held", "\x1b[2Jbecause")
    assert document["id"] == host.listener.heard[-1].id
    host.listener.state = "STOPPED"
    silent = ran("reload", "web", "--json", "-c", conf)
    assert (silent.status, silent.document["answer"]) == (2, "silent")
    assert "memwatch: the listener memwatch is STOPPED" in silent.err
