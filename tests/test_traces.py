"""Recordings of real gunicorn workers, read through `replay`: a regression, not a measurement.

Each recording is one program, a few thousand samples of RSS, USS and requests at 5 s ticks;
its rates were compressed (a second was read as five).
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from supervisor_memwatch.replay import replay

DATA = Path(__file__).parent / "data"

# How many workers of a recording are told, and of what.
TRUTH = {
    "bigreq": {},  # giant requests: the allocator's high-water mark
    "filemap": {},  # a mapped file fills RSS, not USS
    "lazyimport": {},
    "preload_cow": {},  # reference counts unshare pages: USS grows, RSS does not
    "threadbuf": {},
    "onejob": {"imbalance": 1},
    "leak_one": {"leak": 1},
    "leak_req": {"leak": 3},
    "leak_sawtooth": {"leak": 3},
    "leak_some": {"leak": 3},  # one request in sixty leaks
}


@pytest.mark.parametrize("name", TRUTH)
def test_real_workers_get_the_verdicts_they_deserve(name: str) -> None:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as lines:
        out, err = io.StringIO(), io.StringIO()
        assert replay(lines, out, err) == 0, err.getvalue()
    told: dict[str, set[str]] = {}
    for line in out.getvalue().splitlines():
        answer = json.loads(line)
        for pid, kinds in answer["verdicts"].items():
            for kind in kinds:
                told.setdefault(kind, set()).add(pid)
    assert {kind: len(pids) for kind, pids in told.items()} == TRUTH[name]
