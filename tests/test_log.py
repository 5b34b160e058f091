"""The log: a line each, and a trouble that comes and goes is said once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from supervisor_memwatch import log
from supervisor_memwatch.log import Log


class Written:
    """A log, what it has written, and its clock."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._read = 0
        self.log = Log(file.fileno())
        self.now = 0.0

    def lines(self) -> list[str]:
        """Without the time; those that are new since the last call."""
        self._file.seek(self._read)
        text = self._file.read()
        self._read += len(text)
        return [line.split(" ", 2)[2] for line in text.splitlines()]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    with open(tmp_path / "log", "a+") as file:
        made = Written(file)
        monkeypatch.setattr(log, "_now", lambda: made.now)
        yield made


def test_a_trouble_is_said_once_and_is_over_after_a_quiet_minute(written: Written) -> None:
    """And is a new one after that."""
    for written.now in range(0, 100, 5):
        written.log.trouble("rpc", "nobody there" if written.now < 20 else None)
    assert written.lines() == ["WARN nobody there", "INFO over: nobody there"]
    written.log.trouble("rpc", "nobody again")
    assert written.lines() == ["WARN nobody again"]


def test_a_trouble_that_comes_and_goes_all_day_is_said_once(written: Written) -> None:
    """Ten seconds there, fifty away: over only when it stays away."""
    for written.now in range(0, 86_400, 10):
        written.log.trouble("rpc", "nobody there" if written.now % 60 == 0 else None)
    assert written.lines() == ["WARN nobody there"]
    written.now += 60
    written.log.trouble("rpc", None)
    assert written.lines() == ["INFO over: nobody there"]


def test_a_trouble_nobody_speaks_of_again_is_over_too(written: Written) -> None:
    """Where it went well once, and there was nothing more to try."""
    written.log.trouble("news", "not delivered")
    written.log.trouble("news", None)
    written.now = 61
    written.log.trouble("rpc", None)
    assert written.lines() == ["WARN not delivered", "INFO over: not delivered"]


def test_each_trouble_is_its_own(written: Written) -> None:
    """And what was never one is not over."""
    written.log.trouble("a", "first")
    written.log.trouble("b", "second")
    for written.now in (1, 62):
        written.log.trouble("a", None)
        written.log.trouble("c", None)
    assert written.lines() == ["WARN first", "WARN second", "INFO over: first"]
