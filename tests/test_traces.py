"""Recordings of real gunicorn workers, read through `replay`: a regression, not a measurement.

Each recording is one program. Those in data/ are a few thousand samples of RSS, USS and requests
at 5 s ticks, their rates compressed (a second was read as five); those in data/recorded/ were made
by bench/record.py, twelve minutes each, with everything the sampler reads.
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

RECORDED = {
    "lib_ujson": {"leak": 3},  # ujson 5.11.0, large integers
    "lib_ujson_fixed": {},
    "lib_numpy_out": {"leak": 3},  # numpy 2.3.1, out=
    "lib_aiohttp": {"leak": 3},  # aiohttp 3.10.10, 404s
    "leak_one_gthread": {"leak": 1},
    "gc_sawtooth": {},
    "giant_threads": {},
    "plain_fastapi": {},
    "plain_gthread": {},
}


@pytest.mark.parametrize("name", TRUTH)
def test_real_workers_get_the_verdicts_they_deserve(name: str) -> None:
    assert told(DATA / f"{name}.jsonl.gz") == TRUTH[name]


@pytest.mark.parametrize("name", RECORDED)
def test_real_leaks_of_real_libraries_are_told_and_their_fixed_versions_are_not(name: str) -> None:
    assert told(DATA / "recorded" / f"{name}.jsonl.gz") == RECORDED[name]


def told(path: Path) -> dict[str, int]:
    """How many workers of a recording are told of what."""
    with gzip.open(path, "rt") as lines:
        out, err = io.StringIO(), io.StringIO()
        assert replay(lines, out, err) == 0, err.getvalue()
    found: dict[str, set[str]] = {}
    for line in out.getvalue().splitlines():
        answer = json.loads(line)
        for pid, kinds in answer["verdicts"].items():
            for kind in kinds:
                found.setdefault(kind, set()).add(pid)
    return {kind: len(pids) for kind, pids in found.items()}
