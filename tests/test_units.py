"""Units: 200MB and 10m to numbers and back, and what foreign text may look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4711", 4711),
        ("12b", 12),
        ("1KB", 1024),
        ("200MB", 200 * 1024**2),
        ("200 mb", 200 * 1024**2),
        ("1.5GB", 3 * 512 * 1024**2),
        (" 2tb ", 2 * 1024**4),
    ],
)
def test_a_size_is_spelled_supervisors_way(text: str, size: int) -> None:
    """KB, MB, GB, TB in any case; a bare number is bytes."""
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "40QB", "-1MB", "1e3", "1,5MB", "nan", "inf", "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="not a size"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("7d", 604800),
        ("1h 30m", 5400),
    ],
)
def test_times_are_seconds(text: str, seconds: float) -> None:
    """A bare number is seconds, several parts add up."""
    assert units.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 y", "-5m", "1h30m", "1:30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """A half understood time would be worse than none."""
    with pytest.raises(ValueError, match="not a time"):
        units.parse_time(text)


def test_a_rate_is_a_size_per_time() -> None:
    """1MB/h is what it says, and a rate needs its time."""
    assert units.parse_rate("3600KB/h") == 1024
    assert units.parse_rate("1MB / m") == 1024**2 / 60
    for text in ("1MB", "1MB/", "/h", "1MB/y", "1h/1MB", "1MB/2h"):
        with pytest.raises(ValueError, match="not a"):
            units.parse_rate(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"),
        (float("inf"), "?"),
        (float("nan"), "?"),
        (0, "0B"),
        (12 * 1024, "12KB"),
        (412 * 1024**2, "412.0MB"),
        (1.5 * 1024**3, "1.50GB"),
        (64 * 1024**3, "64.0GB"),
        (-3 * 1024**2, "-3.0MB"),
    ],
)
def test_a_size_is_shown_short(value: float | None, text: str) -> None:
    """Two or three digits that matter; what is not known is a question mark."""
    assert units.size(value) == text


def test_growth_shows_its_sign() -> None:
    """+3.1MB/min, or per hour where a minute is too short to say much."""
    assert units.signed_size(1024**2) == "+1.0MB"
    assert units.signed_size(-(1024**2)) == "-1.0MB"
    assert units.signed_size(None) == "?"
    assert units.rate(1024**2) == "+60.0MB/min"
    assert units.rate(1024**2 / 3600) == "+1.0MB/h"
    assert units.rate(-(1024**2) / 3600) == "-1.0MB/h"
    assert units.rate(float("nan")) == units.rate(None) == "?"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (float("inf"), "?"),
        (0, "0s"),
        (59.7, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3661, "1h 1m"),
        (3601, "1h"),
        (273600, "3d 4h"),
        (-90, "-1m 30s"),
    ],
)
def test_a_time_is_shown_by_its_two_largest_parts(seconds: float | None, text: str) -> None:
    """Nobody reads the seconds of a day."""
    assert units.time(seconds) == text


@given(st.integers(0, 10**6))
def test_a_time_of_two_parts_reads_back(seconds: int) -> None:
    """What time() prints, parse_time() reads, to the last part that was printed."""
    assert abs(units.parse_time(units.time(seconds)) - seconds) <= seconds / 24 + 0.5


@given(st.integers(0, 10**13))
def test_a_size_reads_back(size: int) -> None:
    """What size() prints, parse_size() reads, to a hundredth or half a KB."""
    assert abs(units.parse_size(units.size(size)) - size) <= max(size / 19, 512)


@given(st.text())
def test_no_text_is_anything_but_a_number_or_a_value_error(text: str) -> None:
    """A user's mistake is never a traceback of another kind."""
    for parse in (units.parse_size, units.parse_time, units.parse_rate):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "not a" in str(error)


@given(st.text(st.characters(codec=None)), st.integers(1, 400))
def test_foreign_text_is_one_printable_line(text: str, limit: int) -> None:
    """Nothing a terminal acts on gets through, and it can always be written as UTF-8."""
    shown = units.printable(text, limit)
    assert shown.isprintable()
    shown.encode()
    if len(text) <= limit and text.isprintable():
        assert shown == text


def test_dangerous_characters_become_escapes() -> None:
    """Escapes, line separators, bidirectional overrides and lone surrogates are spelled out."""
    assert units.printable("a\x1b[31m\n\u2028\u202e\udc80b") == r"a\x1b[31m\n\u2028\u202e\udc80b"
    assert units.printable("x" * 20, 5) == "xxxxx..."
    assert units.printable(None) == "None"
