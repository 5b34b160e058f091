"""The table of options: defaults, spellings, errors, and the documents printed from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import config, options
from supervisor_memwatch.options import FIELDS, Budget, Ceiling, Options, Window

MB = 1024**2
SAMPLE = Path(__file__).resolve().parent.parent / "conf" / "memwatch.conf"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("mode", "act", "act"),
        ("measure", "pss", "pss"),
        ("limit", "400MB", Ceiling(bytes=400 * MB)),
        ("limit", "80%", Ceiling(share=0.8)),
        ("limit", "None", None),
        ("total_limit", "2GB", Ceiling(bytes=2048 * MB)),
        ("growth", "off", "off"),
        ("growth", "1MB/h", MB / 3600),
        ("imbalance", "2", 2.0),
        ("imbalance", "off", None),
        ("warmup", "0", 0.0),
        ("confirm", "1m", 60.0),
        ("actions", "recycle, reload,restart", ("recycle", "reload", "restart")),
        ("actions", "restart", ("restart",)),
        ("surge", "off", "off"),
        ("preflight", "off", "off"),
        ("preflight", "/bin/try 'an app' %", ("/bin/try", "an app", "%")),
        ("grace", "auto", None),
        ("grace", "40", 40.0),
        ("kill", "on", True),
        ("cooldown", "1h 30m", 5400.0),
        ("budget", "3 / 30m", Budget(3, 1800.0)),
        ("max_unavailable", "2", 2),
        ("max_programs_at_once", "10", 10),
        ("window", "22:00-06:00", Window(1320, 360)),
        ("window", "9:30 - 17:05", Window(570, 1025)),
        ("notify", "https://a/b\nHTTP://c", ("https://a/b", "HTTP://c")),
        ("notify", "", ()),
        ("notify_on", "acted, failed", frozenset({"acted", "failed"})),
        ("notify_on", "", frozenset()),
        ("keep", "1d", 86400.0),
        ("metrics", "file:/x/y.prom http://127.0.0.1:9", ("file:/x/y.prom", "http://127.0.0.1:9")),
        ("journal", " /x/y ", "/x/y"),
    ],
)
def test_an_option_is_read_as_documented(name: str, text: str, value: Any) -> None:
    """Text in, value out."""
    assert options.parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mode", "on"),
        ("measure", "vss"),
        ("limit", "40QB"),
        ("limit", "0"),
        ("limit", "101%"),
        ("limit", "0%"),
        ("limit", "nan%"),
        ("total_limit", "%"),
        ("growth", "1MB"),
        ("growth", "0MB/h"),
        ("imbalance", "1"),
        ("imbalance", "nan"),
        ("warmup", "soon"),
        ("confirm", "0s"),
        ("actions", ""),
        ("actions", "restart, recycle"),
        ("actions", "kill"),
        ("surge", "yes"),
        ("preflight", ""),
        ("preflight", "'open"),
        ("grace", "never"),
        ("kill", "true"),
        ("budget", "6"),
        ("budget", "6/0s"),
        ("budget", "0/1h"),
        ("max_unavailable", "0"),
        ("max_unavailable", "²"),
        ("max_programs_at_once", "9" * 5000),
        ("window", "22-6"),
        ("window", "24:00-06:00"),
        ("window", "06:00-06:00"),
        ("window", "²:00-06:00"),
        ("notify", "slack"),
        ("notify", "https:///path"),
        ("notify", "https://good ftp://bad"),
        ("notify_on", "everything"),
        ("keep", "0"),
        ("metrics", "9100"),
        ("metrics", "http://127.0.0.1"),
        ("metrics", "file:/directory/"),
    ],
)
def test_a_wrong_value_is_told_what_would_be_valid(name: str, text: str) -> None:
    """The error repeats the table, not the value."""
    with pytest.raises(ValueError) as caught:
        options.parse(name, text)
    assert str(caught.value) == f"valid: {FIELDS[name].metadata['valid']}"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("confirm", "0s", "above 0"),
        ("keep", "0", "above 0"),
        ("budget", "0/1h", "a count from 1"),
        ("budget", "6/0s", "a time above 0"),
        ("limit", "0", "a size above 0"),
        ("limit", "101%", "up to 100%"),
        ("growth", "0MB/h", "above 0"),
        ("imbalance", "1000", "below 1000"),
        ("actions", "recycle recycle", "each once"),
        ("preflight", "'open", "quotes closed"),
        ("max_unavailable", "0", "from 1"),
        ("max_unavailable", "100001", "to 100000"),
        ("window", "06:00-06:00", "two different times"),
        ("window", "00:00-24:00", "23:59"),
        ("notify", "https:///path", "with their host"),
    ],
)
def test_a_value_just_out_of_range_is_told_the_range(name: str, text: str, words: str) -> None:
    """An example alone would leave the reader with `0s` is `a time such as 30s`."""
    with pytest.raises(ValueError, match=re.escape(words)):
        options.parse(name, text)


@given(st.sampled_from(sorted(FIELDS)), st.text())
def test_no_text_is_anything_but_a_value_or_a_value_error(name: str, text: str) -> None:
    """A user's mistake is never a traceback of another kind."""
    try:
        hash(options.parse(name, text))
    except ValueError as error:
        assert str(error).startswith("valid: ")


def test_an_unknown_name_is_a_key_error() -> None:
    """The reader of the configuration asks FIELDS first."""
    with pytest.raises(KeyError):
        options.parse("limt", "1MB")


@pytest.mark.parametrize("name", FIELDS)
def test_a_default_is_what_its_text_says(name: str) -> None:
    """The spelling in the documents and the value in the code are one."""
    assert getattr(Options(), name) == options.parse(name, FIELDS[name].metadata["default"])


def test_without_configuration_nothing_is_touched() -> None:
    """The defaults only observe, and never send SIGKILL."""
    assert Options().mode == "observe"
    assert Options().kill is False
    assert Options().actions == ("recycle",)


def test_a_share_needs_something_to_be_a_share_of() -> None:
    """What is not known is None, never 0."""
    assert Ceiling(share=0.5).of(100) == 50
    assert Ceiling(share=0.5).of(None) is None
    assert Ceiling(bytes=7).of(None) == Ceiling(bytes=7).of(100) == 7


def test_a_window_may_span_midnight() -> None:
    """22:00-06:00 holds at 23:00 and 05:59, not at 06:00 or noon."""
    night = Window(1320, 360)
    assert [night.holds(m) for m in (1319, 1320, 1439, 0, 359, 360, 720)] == [
        *(False, True, True, True, True, False, False)
    ]
    day = Window(540, 1020)
    assert [day.holds(m) for m in (539, 540, 1019, 1020)] == [False, True, True, False]


def test_the_sample_configuration_is_printed_from_the_table() -> None:
    """conf/memwatch.conf is options.sample(), to the letter."""
    assert SAMPLE.read_text() == options.sample(), (
        "write it anew: python -c 'from supervisor_memwatch import options; "
        'print(options.sample(), end="")\' > conf/memwatch.conf'
    )


def test_the_sample_shows_every_option_once_with_its_default_and_meaning() -> None:
    """One commented line each; in the comment above it, what it means and what is valid."""
    blocks = options.sample().split("[memwatch]\n\n")[1].split("\n\n")
    assert len(blocks) == len(FIELDS)
    for block, (name, field) in zip(blocks, FIELDS.items(), strict=True):
        *comment, last = block.strip().splitlines()
        assert last == f";{name} = {field.metadata['default']}".rstrip()
        assert all(re.match(r"; \S", line) and len(line) <= 100 for line in comment)
        words = " ".join(line.removeprefix("; ") for line in comment)
        assert field.metadata["help"] in words
        assert f"valid: {field.metadata['valid']}" in words


def test_the_sample_without_its_semicolons_is_the_defaults(tmp_path: Path) -> None:
    """As it is, and with every option uncommented, it loads and changes nothing."""
    text = options.sample()
    bare = re.sub(r"^;(\w+ =)", r"\1", text, flags=re.MULTILINE)
    assert bare.count("\n") == text.count("\n")
    assert len(re.findall(r"^\w+ =", bare, flags=re.MULTILINE)) == len(FIELDS)
    for version in (text, bare):
        file = tmp_path / "memwatch.conf"
        file.write_text(version)
        loaded = config.load(str(file), {})
        assert loaded.options("web", "web") == Options()
        assert not loaded.warnings


def test_the_readmes_table_has_a_row_for_every_option() -> None:
    """Four cells each, and no bar inside a cell."""
    head, rule, *rows = options.table().splitlines()
    assert len(rows) == len(FIELDS)
    for row in (head, rule, *rows):
        assert row.count("|") == 5
    for row, (name, field) in zip(rows, FIELDS.items(), strict=True):
        assert row.startswith(f"| `{name}` |")
        assert field.metadata["help"] in row
        assert field.metadata["valid"] in row
        assert field.metadata["default"] in row


def test_what_has_no_effect_yet_says_so_in_the_documents() -> None:
    """Nobody should read a promise that this version does not keep."""
    assert set(options.NOT_YET) <= set(FIELDS)
    for name, why in options.NOT_YET.items():
        row = next(row for row in options.table().splitlines() if row.startswith(f"| `{name}`"))
        assert f"Without effect yet: {why}" in row
