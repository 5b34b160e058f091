"""`memwatch replay`: recorded snapshots through the listener's own detectors.

A line of verdicts out for each tick, flushed; or, for `--summary` and `--config`, what these
options would have done over the whole recording (backtest.py). Reads no clock, file, RAM, cgroup or
environment: the recording (recording.py) is all there is. What is wrong with a line is said by its
number, and the next line is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from . import detectors, units
from .backtest import Backtest
from .model import Verdict, WorkerId
from .options import Options
from .recording import Program, Readings, read_object, read_program, read_tick

Verdicts = dict[WorkerId | None, tuple[Verdict, ...]]


def replay(
    lines: Iterable[str],
    out: TextIO | None,
    err: TextIO,
    options: Callable[[str], Options] | None = None,
    test: Backtest | None = None,
) -> int:
    """Print the verdicts of each tick of a recording; the exit status (0, or 2: bad lines).

    `out`: None to print none. `options`: the options of a namespec, in place of those recorded
    (`--config`). `test` sees every look, and is asked for its result by the caller.
    """
    program = Program()
    past = detectors.Past()
    readings = Readings()
    bad = 0
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            value = read_object(line)
            if number == 1:
                program = read_program(value, options)
                continue
            snapshot = readings.carry(read_tick(value, program))
        except ValueError as error:
            err.write(f"line {number}: {units.printable(error)}\n")
            bad += 1
            continue
        watched = program.options
        detectors.remember(watched, past, snapshot)
        verdicts = detectors.examine(watched, snapshot, past)
        if out is not None:
            out.write(json.dumps(_answer(value["t"], verdicts)) + "\n")
            out.flush()
        if test is not None:
            test.look(watched, snapshot, verdicts, past)
    if number == 0:
        err.write('no input: the first line is {"program": {"namespec": "group:name"}}\n')
        return 2
    return 2 if bad else 0


def _answer(t: float, found: Verdicts) -> dict[str, Any]:
    told: dict[str, list[str]] = {}
    act: dict[str, list[str]] = {}
    for subject, verdicts in found.items():
        name = "program" if subject is None else str(subject.pid)
        kinds = [verdict.kind for verdict in verdicts if verdict.told]
        acted = [verdict.kind for verdict in verdicts if verdict.act]
        if kinds:
            told[name] = kinds
        if acted:
            act[name] = acted
    return {"t": t, "verdicts": told, "act": act}
