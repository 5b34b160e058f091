"""`memwatch replay`: the format it reads, the format it prints, and what it says of bad lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import replay as module
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.replay import replay
from supervisor_memwatch.units import MB

HEADER = '{"program": {"namespec": "web:web"}}'
WORKER = {"pid": 7, "start": 1, "rss": 1000}


def run(*lines: Any, options: Any = None) -> tuple[int, list[dict[str, Any]], list[str]]:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    out, err = io.StringIO(), io.StringIO()
    status = replay([text + "\n" for text in texts], out, err, options)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    return status, answers, err.getvalue().splitlines()


def tick(t: Any = 0, *workers: Any, **fields: Any) -> dict[str, Any]:
    return {"t": t, "master": None, "workers": list(workers), **fields}


def test_every_tick_gets_a_line_with_its_own_time() -> None:
    status, answers, errors = run(HEADER, tick(0, WORKER), tick(5.5, WORKER), tick(10))
    assert (status, errors) == (0, [])
    assert answers == [{"t": t, "verdicts": {}, "act": {}} for t in (0, 5.5, 10)]


def test_everything_but_pid_start_and_rss_may_be_null_or_missing() -> None:
    null = dict.fromkeys(
        ["age", "shared", "anon", "pss", "uss", "swap", "cpu", "fds", "threads", "requests"]
    )
    status, answers, _ = run(HEADER, {"t": 0, "workers": [WORKER]}, tick(5, {**WORKER, **null}))
    assert status == 0 and len(answers) == 2


def test_what_a_newer_recording_may_hold_besides_is_left_alone() -> None:
    status, answers, _ = run(HEADER, tick(0, {**WORKER, "mood": "fine"}, note="x"))
    assert status == 0 and len(answers) == 1


def test_who_is_not_in_the_first_tick_has_its_warm_up_though_that_tick_was_empty() -> None:
    """Only where nobody could have seen it begin is a process taken to be older."""
    sizes = [{**WORKER, "rss": 80 * MB + n * MB, "anon": 40 * MB + n * MB} for n in range(100)]
    program = {"program": {"namespec": "w", "options": {"warmup": "10m", "confirm": "5s"}}}
    told = {}
    for name, first in (("shown", tick(0, sizes[0])), ("empty", tick(0))):
        _, answers, _ = run(program, first, *(tick(5 * n, sizes[n]) for n in range(1, 100)))
        told[name] = any(answer["verdicts"] for answer in answers)
    assert told == {"shown": True, "empty": False}


BAD = {
    "not JSON": "{",
    "too short": '{"t": 5.0, "workers": [{"pid"',
    "empty": "",
    "no object": "[1]",
    "no workers": {"t": 1},
    "no time": {"workers": []},
    "NaN": '{"t": NaN, "workers": []}',
    "infinite": '{"t": 1e999, "workers": []}',
    "time a truth value": tick(True),
    "time a text": tick("5"),
    "time beyond measure": tick(1e18, WORKER),
    "time before all time": tick(-1e18, WORKER),
    "age beyond measure": tick(0, {**WORKER, "age": 1e18}),
    "cpu beyond measure": tick(0, {**WORKER, "cpu": 1e18}),
    "no rss": tick(0, {"pid": 7, "start": 1}),
    "rss null": tick(0, {"pid": 7, "start": 1, "rss": None}),
    "rss negative": tick(0, {**WORKER, "rss": -1}),
    "rss a truth value": tick(0, {**WORKER, "rss": True}),
    "rss a text": tick(0, {**WORKER, "rss": "12"}),
    "rss beyond measure": tick(0, {**WORKER, "rss": 10**400}),
    "cpu NaN": '{"t": 0, "workers": [{"pid": 7, "start": 1, "rss": 1, "cpu": NaN}]}',
    "pid a text": tick(0, {**WORKER, "pid": "7"}),
    "pid zero": tick(0, {**WORKER, "pid": 0}),
    "start null": tick(0, {**WORKER, "start": None}),
    "start a list": tick(0, {**WORKER, "start": [1]}),
    "worker no object": tick(0, 7),
    "workers no list": {"t": 0, "workers": WORKER},
    "master no object": tick(0, master=[1]),
    "a pid twice": tick(0, WORKER, {**WORKER, "start": 2}),
    "the master among the workers": tick(0, WORKER, master=WORKER),
    "a second program": HEADER,
    "nested too deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_by_its_number_and_the_rest_is_read(name: str) -> None:
    status, answers, errors = run(HEADER, tick(0, WORKER), BAD[name], tick(5, WORKER))
    assert status == 2
    assert [answer["t"] for answer in answers] == [0, 5]
    assert len(errors) == 1 and errors[0].startswith("line 3: ")


@pytest.mark.parametrize("step", [1, 0.001, 0.0005])
@pytest.mark.parametrize("zero", [-9.9e12, 1.7e9, 9.9e12])
def test_a_leak_far_from_zero_ends_no_replay(zero: float, step: float) -> None:
    """Times so large that a float tells one from the next hardly, or not at all."""
    header = {"namespec": "w", "limit": 2**30, "options": {"confirm": "0.0001s", "warmup": "0s"}}
    size = lambda n: {"rss": n * 2**21, "anon": n * 2**21}  # noqa: E731
    ticks = [tick(zero + step * n, {**WORKER, "age": 1e12, **size(n)}) for n in range(500)]
    status, answers, errors = run({"program": header}, *ticks)
    assert (status, len(answers), errors) == (0, 500, [])


@given(st.text())
def test_no_line_whatever_is_in_it_ends_a_replay(text: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    assert replay([HEADER, text, json.dumps(tick(5, WORKER))], out, err) == 2
    assert json.loads(out.getvalue())["t"] == 5


def test_a_recording_begins_with_its_program() -> None:
    status, answers, errors = run(tick(0, WORKER), tick(5, WORKER))
    assert status == 2 and [answer["t"] for answer in answers] == [5]
    assert "the first line must be the program" in errors[0]
    assert run()[0] == 2


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"namespec": 5}, "namespec"),
        ({"namespec": "w", "options": {"colour": "red"}}, "no option is called colour"),
        ({"namespec": "w", "options": {"confirm": "soon"}}, "option confirm = soon: valid: "),
        ({"namespec": "w", "options": ["confirm"]}, "options must be an object"),
        ({"namespec": "w", "limit": "400MB"}, "limit must be a number"),
        ({"namespec": "w", "available": -1}, "available must be 0 or more"),
    ],
)
def test_a_wrong_program_line_says_what_would_be_valid(header: Any, words: str) -> None:
    status, answers, errors = run({"program": header}, tick(0, WORKER))
    assert status == 2 and len(answers) == 1
    assert errors[0].startswith("line 1: ") and words in errors[0]


def large(t: float) -> dict[str, Any]:
    return tick(t, {**WORKER, "rss": 500, "uss": 500})


def test_limits_of_the_program_line_are_bytes_and_override_its_options() -> None:
    header = {"namespec": "w", "limit": 400, "options": {"limit": "600", "confirm": "5s"}}
    _, answers, _ = run({"program": header}, large(0), large(5))
    assert answers[-1] == {"t": 5, "verdicts": {"7": ["limit"]}, "act": {"7": ["limit"]}}
    header = {"namespec": "w", "total_limit": 400, "options": {"confirm": "5s"}}
    _, answers, _ = run({"program": header}, large(0), large(5))
    assert answers[-1]["act"] == {"program": ["total_limit"]}


def test_a_null_in_the_program_line_is_as_if_it_were_missing() -> None:
    header = dict.fromkeys(["interval", "preload", "available", "total_limit", "limit", "options"])
    assert run({"program": {"namespec": "w", **header}}, large(0))[0] == 0


def test_other_options_take_the_place_of_the_recorded_ones() -> None:
    header = {"namespec": "w", "limit": 400}
    asked = []

    def configured(namespec: str) -> Options:
        asked.append(namespec)
        return Options(limit=Ceiling(bytes=600), confirm=5)

    _, answers, _ = run({"program": header}, large(0), large(5), options=configured)
    assert answers[-1]["act"] == {} and asked == ["w"]


def test_each_line_is_flushed_before_the_next_is_read() -> None:
    """It can sit in a pipe and answer tick by tick."""
    out = io.StringIO()
    seen = []

    class Pipe(io.StringIO):
        def flush(self) -> None:
            out.write(self.getvalue())
            self.seek(0)
            self.truncate()

    def lines() -> Any:
        yield HEADER
        for t in range(3):
            yield json.dumps(tick(t, WORKER))
            seen.append(len(out.getvalue().splitlines()))

    replay(lines(), Pipe(), io.StringIO())
    assert seen == [1, 2, 3]


def test_replay_reads_no_clock_no_file_and_no_environment() -> None:
    source = Path(module.__file__).read_text()
    for word in ("import time", "import os", "open(", "psutil", "datetime"):
        assert word not in source


def test_exact_sizes_that_come_now_and_then_are_carried_on_between() -> None:
    """A worker of 300 MB RSS, of which 60 MB are its own, is not over 200 MB at the other ticks."""
    lines = [{"program": {"namespec": "web:web", "limit": 200 * MB}}]
    for n in range(60):
        worker = {"pid": 7, "start": 1, "age": 900 + 5 * n, "rss": 300 * MB, "anon": 290 * MB}
        lines.append({"t": 5 * n, "workers": [{**worker, "uss": 60 * MB if n % 6 == 0 else None}]})
    out, err = io.StringIO(), io.StringIO()
    assert replay([json.dumps(line) for line in lines], out, err) == 0
    assert all(json.loads(line)["verdicts"] == {} for line in out.getvalue().splitlines())
