"""Supervisor's event listener protocol: READY, an event, RESULT OK, and again.

Bytes in, events out; the file descriptors are the listener's. Header and payload as
Supervisor 4.2 and 4.3 send them: `len` counts characters, not bytes, so the stream is
decoded before it is counted.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

READY = b"READY\n"
OK = b"RESULT 2\nOK"
LONGEST_HEADER = 65536
LONGEST_PAYLOAD = 2**30


class ProtocolError(Exception):
    """What came is not an event; where the next one begins cannot be known."""


class Event(NamedTuple):
    """One event; `payload` as it came."""

    name: str
    serial: str
    poolserial: str
    payload: str

    @property
    def fields(self) -> dict[str, str]:
        """The `key:value` pairs of the payload's first line; what is no pair is left out."""
        line = self.payload.partition("\n")[0]
        pairs = (word.partition(":") for word in line.split())
        return {key: value for key, colon, value in pairs if colon}


class Events:
    """An incremental reader: `feed` it bytes, take events with `next` until None."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._text = ""
        self._header: dict[str, str] | None = None
        self._length = 0

    def feed(self, data: bytes) -> None:
        self._text += self._decode(data)

    def next(self) -> Event | None:
        """The next whole event. Raises ProtocolError."""
        if self._header is None:
            line, newline, rest = self._text.partition("\n")
            if len(line) > LONGEST_HEADER:
                raise ProtocolError(f"a header of over {LONGEST_HEADER} characters")
            if not newline:
                return None
            self._header, self._length = _header(line)
            self._text = rest
        if len(self._text) < self._length:
            return None
        payload, self._text = self._text[: self._length], self._text[self._length :]
        header, self._header = self._header, None
        return Event(
            header.get("eventname", ""),
            header.get("serial", ""),
            header.get("poolserial", ""),
            payload,
        )


def whole(text: str | None) -> int | None:
    """A number as Supervisor writes it; None for anything else, however long."""
    if text and text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    return None


def _header(line: str) -> tuple[dict[str, str], int]:
    pairs = (word.partition(":") for word in line.split())
    header = {key: value for key, colon, value in pairs if colon}
    length = whole(header.get("len"))
    if length is None or length > LONGEST_PAYLOAD:
        raise ProtocolError(f"no length in the header {line[:200]!r}")
    if "eventname" not in header:
        raise ProtocolError(f"no event name in the header {line[:200]!r}")
    return header, length
