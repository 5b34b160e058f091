"""Requests as they arrive: a message that can be carried out, or refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import messages
from supervisor_memwatch.messages import COMMANDS, Message

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
NOW = 1_795_408_045.0
WHOLE = {"v": 1, "id": ID, "at": NOW, "command": "pause", "target": "web", "by": "root"}


def read(**changes: Any) -> Message | None:
    """The message WHOLE with these fields changed; `...` takes one away."""
    fields = {**WHOLE, **changes}
    return messages.read(
        json.dumps({name: value for name, value in fields.items() if value is not ...}), NOW
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_read(command: str) -> None:
    """All of its fields."""
    assert read(command=command, target="web:web_00", force=True, **{"for": 90}) == Message(
        ID, command, "web:web_00", 90, True, "root"
    )


def test_what_may_be_missing_has_a_meaning() -> None:
    """No target: every program; no force; no length; somebody."""
    expected = Message(ID, "pause", "", None, False, "somebody")
    assert read(target=..., by=...) == expected
    assert read(target=None, by=None, force=None, **{"for": None}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dump now",
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        "{",
        '{"id": 3}',
        '{"id": "x"}',
        "[" * 9999,
    ],
)
def test_without_an_id_there_is_nobody_to_answer(text: str) -> None:
    """Not a message of ours."""
    assert messages.read(text, NOW) is None


@pytest.mark.parametrize(
    "id", [ID.upper(), ID + "\n", ID[:-1], "../" + ID, ID.replace("0", "\u0660")]
)
def test_an_id_is_a_uuid_and_nothing_else(id: str) -> None:
    """It becomes a row's key and a word in the log."""
    assert read(id=id) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": 2}, "version 1"),
        ({"v": ...}, "version 1"),
        ({"command": "stop"}, "valid: pause, resume, recycle, reload, restart"),
        ({"command": ["pause"]}, "unknown command"),
        ({"command": ...}, "unknown command"),
        ({"at": ...}, "at has to be a time"),
        ({"at": "now"}, "at has to be a time"),
        ({"at": True}, "at has to be a time"),
        ({"at": NOW - 61}, "within the last 60 s"),
        ({"at": NOW + 61}, "within the last 60 s"),
        ({"at": float("nan")}, "within the last 60 s"),
        ({"at": float("inf")}, "within the last 60 s"),
        ({"at": 10**400}, "within the last 60 s"),
        ({"at": -(10**400)}, "within the last 60 s"),
        ({"target": 4711}, "have to be text"),
        ({"target": []}, "have to be text"),
        ({"target": {}}, "have to be text"),
        ({"target": 0}, "have to be text"),
        ({"target": False}, "have to be text"),
        ({"by": ["root"]}, "have to be text"),
        ({"target": "web\nx"}, "name of a program or the pid"),
        ({"target": "\ud800"}, "name of a program or the pid"),
        ({"target": "w" * 301}, "name of a program or the pid"),
        ({"for": 0}, "number of seconds"),
        ({"for": -1}, "number of seconds"),
        ({"for": True}, "number of seconds"),
        ({"for": "1h"}, "number of seconds"),
        ({"for": 10**400}, "number of seconds"),
        ({"for": float("nan")}, "number of seconds"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    """The answer goes to its id."""
    message = read(**changes)
    assert message is not None
    assert message.id == ID
    assert reason in message.refused


@pytest.mark.parametrize("target", ["web\x1b[2J", "w" * 301])
def test_what_is_refused_says_what_was_asked_and_by_whom(target: str) -> None:
    """As far as it can be read, and printable."""
    message = read(command="restart", target=target)
    assert message is not None and message.refused
    assert (message.command, message.by, message.target[:3]) == ("restart", "root", target[:3])
    assert message.target.isprintable() and len(message.target) < 150


def test_a_minute_is_not_too_old() -> None:
    """Either side of now: two clocks of one machine."""
    for at in (NOW - 60, NOW + 60):
        message = read(at=at)
        assert message is not None and not message.refused


@pytest.mark.parametrize("force", ["yes", 1, [True], None, False])
def test_only_true_forces(force: object) -> None:
    """What passes the budget is asked for in so many words."""
    message = read(force=force)
    assert message is not None and message.force is False


def test_who_asks_is_made_printable() -> None:
    """It stands in the log, in the journal and in news."""
    message = read(by="\x1b[31m\ud800\n" + "x" * 500)
    assert message is not None
    assert message.by.isprintable() and len(message.by) <= 120
    message.by.encode()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*WHOLE, "for", "force"]), _json))
def test_whatever_it_says_it_is_a_message_or_none(changes: dict[str, Any]) -> None:
    """Never an exception, and nothing that cannot be written down."""
    message = messages.read(json.dumps({**WHOLE, **changes}), NOW)
    if message is not None:
        for text in (message.id, message.target, message.by, message.refused):
            assert text.isprintable()
            text.encode()
        assert message.refused or message.command in COMMANDS


@given(st.text())
def test_any_text_is_a_message_or_none(text: str) -> None:
    """Also what is no JSON at all."""
    assert messages.read(text, NOW) is None
