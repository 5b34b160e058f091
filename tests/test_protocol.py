"""Supervisor's event protocol: bytes in, events out, and nothing but its two words back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import Rig, event

from supervisor_memwatch import protocol
from supervisor_memwatch.protocol import OK, READY, Event, Events, ProtocolError

TICK = (
    b"ver:3.0 server:supervisor serial:259 pool:ok poolserial:259 eventname:TICK_5 len:15\n"
    b"when:1795408045"
)

# Every payload as Supervisor 4.3.0 was seen to send it, and the pairs of its first line.
FORMS: list[tuple[str, str, dict[str, str]]] = [
    ("TICK_5", "when:1795408045", {"when": "1795408045"}),
    ("TICK_60", "when:1795408020", {"when": "1795408020"}),
    ("TICK_3600", "when:1795406400", {"when": "1795406400"}),
    (
        "PROCESS_STATE_STARTING",
        "processname:exit3 groupname:exit3 from_state:EXITED tries:0",
        {"processname": "exit3", "groupname": "exit3", "from_state": "EXITED", "tries": "0"},
    ),
    (
        "PROCESS_STATE_RUNNING",
        "processname:oom groupname:oom from_state:STARTING pid:31596",
        {"processname": "oom", "groupname": "oom", "from_state": "STARTING", "pid": "31596"},
    ),
    (
        "PROCESS_STATE_STOPPING",
        "processname:np_00 groupname:np from_state:RUNNING pid:7",
        {"processname": "np_00", "groupname": "np", "from_state": "RUNNING", "pid": "7"},
    ),
    (
        "PROCESS_STATE_EXITED",
        "processname:die groupname:die from_state:RUNNING expected:0 pid:31483",
        {
            "processname": "die",
            "groupname": "die",
            "from_state": "RUNNING",
            "expected": "0",
            "pid": "31483",
        },
    ),
    (
        "PROCESS_STATE_BACKOFF",
        "processname:die groupname:die from_state:STARTING tries:3",
        {"processname": "die", "groupname": "die", "from_state": "STARTING", "tries": "3"},
    ),
    (
        "PROCESS_STATE_FATAL",
        "processname:die groupname:die from_state:BACKOFF",
        {"processname": "die", "groupname": "die", "from_state": "BACKOFF"},
    ),
    (
        "PROCESS_COMMUNICATION_STDOUT",
        "processname:comm groupname:comm pid:31497\nhello pcomm",
        {"processname": "comm", "groupname": "comm", "pid": "31497"},
    ),
    ("REMOTE_COMMUNICATION", "type:memwatch\ndump now", {"type": "memwatch"}),
    ("REMOTE_COMMUNICATION", "type:memwatch\nhello wörld", {"type": "memwatch"}),
    ("PROCESS_GROUP_ADDED", "groupname:ok\n", {"groupname": "ok"}),
    ("SUPERVISOR_STATE_CHANGE_RUNNING", "", {}),
    ("SUPERVISOR_STATE_CHANGE_STOPPING", "", {}),
]


def read(*pieces: bytes) -> list[Event]:
    """Every event of a stream that arrives in these pieces."""
    events, found = Events(), []
    for piece in pieces:
        events.feed(piece)
        while (each := events.next()) is not None:
            found.append(each)
    return found


def test_what_the_listener_says_is_these_bytes() -> None:
    """READY with a newline, a result without."""
    assert READY == b"READY\n"
    assert OK == b"RESULT 2\nOK"


def test_a_tick_is_read_byte_for_byte() -> None:
    """The header and payload of a recorded TICK_5."""
    assert read(TICK) == [Event("TICK_5", "259", "259", "when:1795408045")]


@pytest.mark.parametrize(("name", "payload", "fields"), FORMS)
def test_each_form_of_payload_is_read(name: str, payload: str, fields: dict[str, str]) -> None:
    """The payload as it came, and the pairs of its first line."""
    [found] = read(event(name, payload, serial=4, poolserial=9))
    assert found == Event(name, "4", "9", payload)
    assert found.fields == fields


def test_the_length_counts_characters() -> None:
    """25 characters, 26 bytes: the next header begins after the last of them."""
    first = event("REMOTE_COMMUNICATION", "type:memwatch\nhello wörld", 1)
    assert b"len:25\n" in first
    assert len(first.partition(b"\n")[2]) == 26
    assert [each.serial for each in read(first + TICK)] == ["1", "259"]


def test_it_does_not_matter_where_the_stream_is_cut() -> None:
    """At every byte, inside a character too, and into single bytes."""
    stream = b"".join(event(name, text, n) for n, (name, text, _) in enumerate(FORMS))
    whole = read(stream)
    assert [(each.name, each.payload) for each in whole] == [form[:2] for form in FORMS]
    for cut in range(len(stream) + 1):
        assert read(stream[:cut], stream[cut:]) == whole
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == whole


def test_an_event_is_whole_with_its_last_character_and_not_before() -> None:
    """No newline follows a payload."""
    for cut in range(len(TICK)):
        assert read(TICK[:cut]) == []
    assert len(read(TICK)) == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "READY",
        "ver:3.0 server:supervisor serial:1 pool:ok poolserial:1 eventname:TICK_5",
        "eventname:TICK_5 len:",
        "eventname:TICK_5 len:-1",
        "eventname:TICK_5 len:1.5",
        "eventname:TICK_5 len:0x10",
        "eventname:TICK_5 len:1_0",
        "eventname:TICK_5 len:²",
        "eventname:TICK_5 len:٣",
        "eventname:TICK_5 len:" + "9" * 5000,
        "eventname:TICK_5 len:99999999999",
        "ver:3.0 len:0",
        "d" + TICK.decode().partition("\n")[0].removeprefix("ver:3.0 ").replace("len:", "len"),
        "\x00\x01\x02",
        "eventname:TICK_5 len:0 " + "x" * protocol.LONGEST_HEADER,
    ],
)
def test_a_header_that_is_none_is_a_protocol_error(header: str) -> None:
    """However it arrives: where the next event begins cannot be known any more."""
    data = header.encode() + b"\n"
    with pytest.raises(ProtocolError):
        read(data)
    with pytest.raises(ProtocolError):
        read(data[: len(data) // 2], data[len(data) // 2 :])


def test_a_header_without_end_is_a_protocol_error() -> None:
    """Not a memory that grows for ever."""
    with pytest.raises(ProtocolError, match="header"):
        read(*[b"x" * 1000] * 70)


def test_bytes_that_are_no_text_are_an_event_all_the_same() -> None:
    """They count as the characters that stand for them."""
    head = b"serial:1 poolserial:1 eventname:REMOTE_COMMUNICATION len:3\n"
    [found] = read(head + b"a\xffb")
    assert found.payload == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("259", 259), ("", None), (None, None), ("-1", None), ("²", None), ("1e3", None)],
)
def test_numbers_are_digits_and_not_too_many(text: str | None, number: int | None) -> None:
    """What Python would refuse, or take for a number that Supervisor never wrote, is none."""
    assert protocol.whole(text) == number
    assert protocol.whole("9" * 5000) is None


# -- any stream

_names = st.sampled_from([form[0] for form in FORMS] + ["", "TICK_", "PROCESS_STATE", "ÄÖ"])
_numbers = st.one_of(st.integers(-1, 40).map(str), st.sampled_from(["", "²", "x", "9" * 30]))
_payloads = st.one_of(
    st.sampled_from([form[1] for form in FORMS]),
    st.text(max_size=40),
    st.builds("when:{}".format, _numbers),
    st.builds("processname:web groupname:web pid:{} expected:0".format, _numbers),
    st.builds("type:memwatch\n{}".format, st.text(max_size=30)),
)


@st.composite
def _event(draw: st.DrawFn) -> bytes:
    """An event whose length is mostly true."""
    payload = draw(_payloads)
    wrong = draw(st.sampled_from([0] * 12 + [1, -1, 7, 10**6, 10**12]))
    header = (
        f"ver:3.0 server:supervisor serial:{draw(_numbers)} pool:memwatch "
        f"poolserial:{draw(_numbers)} eventname:{draw(_names)} len:{len(payload) + wrong}\n"
    )
    data = (header + payload).encode("utf-8", "replace")
    return data[: draw(st.sampled_from([len(data)] * 8 + [len(data) // 2, len(data) - 1]))]


_junk = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\n", b"READY\n", b"x" * 70_000, b"len:5 eventname:TICK_5\n", b"\xff\xfe"]),
)
_stream = st.lists(st.one_of(_event(), _event(), _event(), _junk), max_size=5).map(b"".join)


def _read_any(stream: bytes, size: int) -> None:
    pieces = [stream[i : i + size] for i in range(0, min(len(stream), 5000), size)]
    events = Events()
    try:
        for piece in pieces:
            events.feed(piece)
            while (found := events.next()) is not None:
                assert found.fields.keys() <= set(re.findall(r"[^\s:]*(?=:)", found.payload))
    except ProtocolError as error:
        assert str(error).isprintable()


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(_stream, st.integers(1, 200))
def test_any_stream_is_events_or_a_protocol_error(stream: bytes, size: int) -> None:
    """Valid, junk, truncated, huge and mismeasured events, in pieces of any size."""
    _read_any(stream, size)


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
@given(_stream, st.integers(1, 200))
def test_ten_thousand_streams_are_events_or_a_protocol_error(stream: bytes, size: int) -> None:
    """The same, for as long as it takes."""
    _read_any(stream, size)


def expected(stream: bytes) -> tuple[bytes, int]:
    """What a listener has to say to a stream, and its exit status."""
    events, said = Events(), READY
    serials: set[str] = set()
    events.feed(stream)
    try:
        while (found := events.next()) is not None:
            said += OK + READY
            delivered_twice = found.serial in serials
            serials.update(filter(None, [found.serial]))
            if found.name == "SUPERVISOR_STATE_CHANGE_STOPPING" and not delivered_twice:
                break
    except ProtocolError:
        return said, 1
    return said, 0


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(_stream.filter(lambda stream: len(stream) < 60_000))
def test_the_listener_answers_each_whole_event_and_says_nothing_else(
    tmp_path: Path, stream: bytes
) -> None:
    """READY, RESULT, READY, ... whatever comes; it ends with 0, or 1 to be started anew."""
    rig = Rig(tmp_path).run(stream)
    said, status = expected(stream)
    assert rig.output == said
    assert rig.status == status
    assert "Traceback" not in rig.log
