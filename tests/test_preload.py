"""A real gunicorn under --preload: twelve workers that share 250 MB with their master.

The sum of their RSS is ten times what they hold, and the RSS of each is over its limit; read by
PSS and USS the program is healthy. Driven look by look, with a time of its own: what is measured
is real, and reading it is as dear as it would be of an image some ten times as large.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import end_processes, free_port, get, gunicorn_env, wait_until

from supervisor_memwatch import detectors, sampler
from supervisor_memwatch.model import Snapshot, Verdict, WorkerId
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.units import MB

pytestmark = pytest.mark.slow

WORKERS = 12
APP = """
import os
IMAGE = [b"x" * 1_000_000 for _ in range(250)]
KEPT = []
def app(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        KEPT.extend(b"y" * 1_000_000 for _ in range(200))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
# The worker's limit is between USS (some 10 MB) and RSS (270), the program's between the
# true total (some 400 MB) and the sum of RSS (3400).
OPTIONS = Options(
    limit=Ceiling(bytes=150 * MB), total_limit=Ceiling(bytes=1500 * MB), warmup=0.0, mode="act"
)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """(pid of the master, port), once all its workers are there."""
    (tmp_path / "image.py").write_text(APP)
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS)]
    command += ["--bind", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "image:app"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env={**gunicorn_env(), "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    master = psutil.Process(process.pid)

    def booted() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            return len(master.children()) == WORKERS and bool(get(f"http://127.0.0.1:{port}/"))
        return False

    try:
        wait_until(booted, 120, log.read_text)
        yield process.pid, port
    finally:
        children = master.children(recursive=True)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_processes(children)


class Listener:
    """What the listener does at a tick, without one."""

    def __init__(self, pid: int) -> None:
        self.sampler = Sampler()
        self.past = detectors.Past()
        self.program = Program("web", "RUNNING", pid)
        self.at = 1e9
        self.wanted: tuple[WorkerId, ...] = ()
        self.readings: set[tuple[WorkerId, float]] = set()

    def ticks(self, minutes: float) -> tuple[Snapshot, dict[tuple[int | None, str], Verdict]]:
        """The last look, and the last of each verdict that was told meanwhile."""
        told = {}
        until = self.at + 60 * minutes
        while self.at < until:
            self.at += 5
            seen = self.sampler.look(self.program, self.at, self.wanted)
            detectors.remember(OPTIONS, self.past, seen)
            for id, verdicts in detectors.examine(OPTIONS, seen, self.past).items():
                told.update({(id and id.pid, v.kind): v for v in verdicts if v.told})
            self.wanted = detectors.wants(OPTIONS, seen, self.past)
            for worker in seen.workers:
                if worker.measured_at is not None:
                    self.readings.add((worker.id, worker.measured_at))
        return seen, told


def test_a_healthy_preloaded_program_is_not_told_and_a_leak_in_it_is(
    port: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, number = port
    monkeypatch.setattr(sampler, "EXACT_SHARE", 0.0005)
    monkeypatch.setattr(sampler, "EXACT_BURST", 0.05)
    listener = Listener(pid)
    seen, told = listener.ticks(20)
    assert len(seen.workers) == WORKERS
    assert sum(worker.rss for worker in seen.workers) > 1500 * MB
    assert min(worker.rss for worker in seen.workers) > 150 * MB
    assert told == {}
    assert {id for id, _ in listener.readings} == {worker.id for worker in seen.workers}
    assert 250 * MB < detectors.total(seen) < 1000 * MB

    leaking = int(get(f"http://127.0.0.1:{number}/leak"))
    seen, told = listener.ticks(5)
    assert {pid for pid, _ in told} == {leaking}
    over = told[leaking, "limit"]
    assert over.why.startswith("USS ") and over.act
    assert 190 * MB < over.measured < 240 * MB
