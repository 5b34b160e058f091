"""The bench runs to its end and says what it measured; how much that is, is not judged here."""

from __future__ import annotations

import subprocess
import sys

import pytest
from servers import ROOT

pytestmark = pytest.mark.slow


def row(table: str, start: str) -> list[float]:
    """The figures of the first line that starts so."""
    line = next(line for line in table.splitlines() if line.strip().startswith(start))
    return [float(word.rstrip("x")) for word in line.strip().removeprefix(start).split()]


def test_the_bench_of_a_tick_prints_its_table() -> None:
    """`bench/tick.py --quick` measures memwatch, memmon and the floor at three sizes."""
    command = [sys.executable, str(ROOT / "bench" / "tick.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    table = done.stdout
    for name in ("memwatch", "memmon -c, its ps included", "floor: stat and statm, bare"):
        costs = row(table, name)
        assert len(costs) == 3 and min(costs) > 0, table
    for part in ("Supervisor's RPC", "sampling", "look (detectors, policy)", "SQLite"):
        assert min(row(table, part)) > 0, table
    for name in ("memwatch / memmon", "memwatch / floor"):
        assert len(row(table, name)) == 3
    rss, pss, uss = row(table, "memwatch, 40 workers")
    assert rss >= pss >= uss > 1
