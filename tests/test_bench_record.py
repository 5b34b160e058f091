"""bench/record.py: what is drawn, what is seen of a process, what a recording is labelled.

And one short recording of real gunicorns, which `memwatch replay` reads.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import ROOT, wait_until

from supervisor_memwatch.replay import replay

sys.path.insert(0, str(ROOT / "bench"))
sys.path.insert(0, str(ROOT / "bench" / "recorded"))

import behaviours
import everyday
import record
from counter import Count, Counter, read
from record import MB, Life, judge, sample, shaped, slope
from scenarios import Draw, Scenario, scenarios

TRUTHS = {"healthy", "leak", "leak_one", "leak_late", "leak_fds", "imbalance", "filling"}
FIELDS = {
    *("pid", "start", "age", "rss", "shared", "anon", "pss", "uss", "swap"),
    *("cpu", "fds", "threads", "requests"),
}


# -- what is drawn


def test_a_seed_always_draws_the_same_set() -> None:
    assert scenarios(7, 600.0) == scenarios(7, 600.0)


def test_another_seed_draws_other_parameters_for_the_same_scenarios() -> None:
    """So what was tuned on one set is measured on another."""
    one, other = scenarios(1, 600.0), scenarios(2, 600.0)
    assert [s.name for s in one] == [s.name for s in other]
    differing = [a.name for a, b in zip(one, other, strict=True) if a.rate != b.rate]
    assert len(differing) > len(one) * 0.9


def test_every_scenario_has_a_name_of_its_own_and_something_to_do() -> None:
    drawn = scenarios(3, 600.0)
    assert len({s.name for s in drawn}) == len(drawn)
    assert {s.truth for s in drawn} == TRUTHS
    assert {s.behaviour for s in drawn} <= set(behaviours.BEHAVIOURS)


def test_only_what_leaks_leaks() -> None:
    """A scenario meant to be healthy uses no leaking behaviour, and the other way round."""
    for s in scenarios(4, 600.0):
        leaks = s.parameters.get("leaks", behaviours.BEHAVIOURS[s.behaviour].LEAKS)
        assert leaks == (s.truth not in ("healthy", "filling")), s.name


def test_a_drawn_size_leaks_what_was_asked_for() -> None:
    """3 MB a minute, in each worker, whatever the load, and if but one request in ten leaks."""
    d = Draw(5, "any", 600.0)
    each_minute = d.rate / d.workers * 60
    assert d.size(3.0) * each_minute == pytest.approx(3 * MB)
    assert d.size(3.0, 0.1) * each_minute / 10 == pytest.approx(3 * MB)


# -- how applications behave, without a server


def behaviour(tmp_path: Path, name: str, **parameters: Any) -> behaviours.Behaviour:
    made = behaviours.make(name, Counter(str(tmp_path)), time.time(), parameters)
    made.start()
    return made


def test_a_leak_keeps_and_tells_what_it_was_told_to(tmp_path: Path) -> None:
    leak = behaviour(tmp_path, "leak", size=50_000)
    for number in range(1, 11):
        leak.work(number, "/")
    assert isinstance(leak, behaviours.Leak)
    assert leak.counter.leaked == 500_000
    assert sum(len(piece) for piece in leak.kept) == pytest.approx(500_000, rel=0.2)


def test_a_leak_of_one_endpoint_spares_the_others(tmp_path: Path) -> None:
    leak = behaviour(tmp_path, "leak", size=1000, only="/export")
    leak.work(1, "/")
    assert leak.counter.operations == 0
    leak.work(2, "/export")
    assert leak.counter.operations == 1


def test_a_late_leak_waits(tmp_path: Path) -> None:
    leak = behaviour(tmp_path, "leak", size=1000, after=3600.0)
    leak.work(1, "/")
    assert leak.counter.since == 0


def test_one_leaks_and_its_sibling_does_not(tmp_path: Path) -> None:
    first = behaviour(tmp_path, "leak", size=1000, one=True)
    second = behaviour(tmp_path, "leak", size=1000, one=True)
    for leak in (first, second, first):
        leak.work(1, "/")
    assert (first.counter.operations, second.counter.operations) == (2, 0)


def test_a_cache_says_when_it_is_full_and_no_longer_grows(tmp_path: Path) -> None:
    cache = behaviour(tmp_path, "lru", lookups=1, size=100, most=3)
    assert isinstance(cache, behaviours.Lru)
    for number in range(1, 4):
        cache.work(number, "/")
    assert cache.counter.full == 0
    cache.work(4, "/")
    assert cache.counter.full > 0
    assert len(cache.cache) == 3


def test_what_a_library_keeps_is_told_as_operations_and_left_to_be_measured(tmp_path: Path) -> None:
    labels = behaviour(tmp_path, "labels", times=3)
    assert isinstance(labels, everyday.Labels)
    labels.work(1, "/")
    assert len(labels.histograms) == 6
    assert (labels.counter.operations, labels.counter.leaked) == (3, 0)


def test_what_a_process_counts_is_read_by_the_recorder(tmp_path: Path) -> None:
    counter = Counter(str(tmp_path))
    assert read(tmp_path, os.getpid()) is None
    counter.served()
    counter.served()
    counter.leak(4096)
    counter.write()
    found = read(tmp_path, os.getpid())
    assert found is not None
    assert (found.requests, found.leaked, found.operations, found.full) == (2, 4096, 1, 0.0)
    assert found.since == pytest.approx(time.time(), abs=60)


# -- load


def test_pauses_are_without_load_and_a_flat_load_has_none() -> None:
    pauses = [shaped("pauses", t, 600) for t in range(600)]
    assert min(pauses) == 0.0
    assert max(pauses) > 1.0
    assert {shaped("flat", t, 600) for t in range(600)} == {1.0}


@pytest.mark.parametrize("shape", ["diurnal", "bursts", "pauses"])
def test_a_shaped_load_is_about_as_much_as_a_flat_one(shape: str) -> None:
    rates = [shaped(shape, t, 600) for t in range(600)]
    assert sum(rates) / len(rates) == pytest.approx(1.0, abs=0.15)


# -- what is seen of a process


def test_a_process_is_seen_with_every_field(tmp_path: Path) -> None:
    """And as psutil sees it."""
    seen = sample(os.getpid(), tmp_path)
    assert seen is not None
    assert set(seen._asdict()) == FIELDS
    full = psutil.Process().memory_full_info()
    assert seen.rss == pytest.approx(full.rss, rel=0.2)
    assert seen.uss == pytest.approx(full.uss, rel=0.2)
    assert 0 < seen.anon <= seen.rss + 4 * MB
    assert seen.requests == 0


def test_a_process_that_has_gone_is_not_seen() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    # Ended but not waited for, it is a zombie; then it is not there at all.
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert sample(child.pid) is None
    child.wait()
    assert sample(child.pid) is None


# -- labels


def life(rate: float, **count: float) -> Life:
    """Five minutes of a worker that grows by so many MB a minute."""
    anon = [(t, int((40 + rate * t / 60) * MB)) for t in range(0, 301, 5)]
    told = Count(**count)  # type: ignore[arg-type]
    return Life(start=1, begun=0.0, ended=300.0, count=told, anon=anon)


def test_a_worker_that_says_it_leaks_is_guilty_from_then_on() -> None:
    lives = {7: life(3.0, leaked=15 * MB, operations=90, since=1120.0), 8: life(0.1)}
    label = judge("leak_one", lives, epoch=1000.0)
    assert (label["truth"], label["guilty"], label["since"]) == ("leak_one", [7], {"7": 120.0})
    assert label["rate_mb_min"] == pytest.approx(3.0, abs=0.01)
    assert label["lives"]["8"]["leaked_mb"] == 0


def test_a_library_that_did_not_leak_makes_a_healthy_recording() -> None:
    label = judge("leak", {7: life(0.05, operations=90, since=1001.0)}, epoch=1000.0)
    assert (label["truth"], label["guilty"]) == ("healthy", [])
    assert "did not leak as promised" in label["said"]


def test_what_is_too_short_to_be_measured_is_labelled_as_it_was_meant() -> None:
    short = life(2.0, operations=90, since=1001.0)
    short.anon = short.anon[:5]
    label = judge("leak", {7: short}, epoch=1000.0)
    assert (label["truth"], label["guilty"]) == ("leak", [7])
    assert label["said"] == "too short to be measured"


def test_a_library_that_leaks_is_measured() -> None:
    label = judge("leak", {7: life(2.0, operations=90, since=1001.0)}, epoch=1000.0)
    assert (label["truth"], label["guilty"], label["said"]) == ("leak", [7], None)


def test_a_leak_that_never_began_makes_a_healthy_recording() -> None:
    label = judge("leak_late", {7: life(0.0)}, epoch=1000.0)
    assert (label["truth"], label["said"]) == ("healthy", "nothing was leaked")


def test_a_worker_whose_cache_is_not_full_at_the_end_is_still_filling() -> None:
    lives = {7: life(1.0, full=1100.0), 8: life(1.0)}
    assert judge("healthy", lives, 1000.0, caches=True)["filling"] == [8]
    assert judge("healthy", lives, 1000.0)["filling"] == []


def test_a_worker_that_keeps_less_than_it_says_is_pointed_out() -> None:
    """The application's account is not believed blindly: it may share what it means to keep."""
    lives = {7: life(0.1, leaked=100 * MB, operations=1, since=1010.0)}
    assert "7 says it keeps 100.0 MB, but grew" in judge("imbalance", lives, 1000.0)["said"]


def test_too_short_a_life_has_no_slope() -> None:
    assert slope([(0.0, MB), (5.0, 2 * MB)], 0.0) is None


# -- real ones


def test_a_library_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"there is no Python 3\.99: "):
        record.install(("flask",), "3.99", tmp_path)


def test_an_allocator_or_a_gunicorn_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Preloading what is not there is but a warning of the linker, and another recording."""
    environment = {"LD_PRELOAD": "libxyz.so"}
    preloaded = Scenario("a", "healthy", "", "behaviour", {}, environment=environment)
    with pytest.raises(RuntimeError, match=r"there is no libxyz\.so"):
        record.needed(preloaded, tmp_path)
    old = Scenario("b", "healthy", "", "behaviour", {}, gunicorn="1.0")
    with pytest.raises(RuntimeError, match=r"there is no .*gunicorn-1\.0: run `make servers`"):
        record.needed(old, tmp_path)


def test_the_versions_are_those_that_ran(tmp_path: Path) -> None:
    installed = record.versions_of(Scenario("a", "healthy", "", "behaviour", {}), None)
    assert installed["gunicorn"] == metadata.version("gunicorn")
    assert installed["flask"] == metadata.version("flask")
    own = tmp_path / "gunicorn-23.0.0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: gunicorn\nVersion: 23.0.0\n")
    beside = Scenario("b", "healthy", "", "behaviour", {}, packages=("gunicorn==23.0.0",))
    assert record.versions_of(beside, tmp_path)["gunicorn"] == "23.0.0"


def test_a_program_that_does_not_start_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Scenario("broken", "healthy", "", "behaviour", {}, arguments=("--no-such-option",))
    options = argparse.Namespace(
        out=tmp_path, seed=1, seconds=5.0, tick=1.0, servers=tmp_path, cache=tmp_path
    )

    async def run() -> Any:
        return await record.one(broken, options, asyncio.Semaphore(1))

    assert asyncio.run(run()) is None
    assert "broken: left out: does not answer" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_recorder_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    """No gunicorn, no half of a recording, no directory."""
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    names = ("plain_fastapi", "plain_gthread", "plain_sync")  # they do not end at the same moment
    command = [sys.executable, str(ROOT / "bench" / "record.py"), str(out)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    recorder = subprocess.Popen(
        [*command, "--only", ",".join(names)], env=environment, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(list(out.glob("*.partial"))) == len(names), 60, "they are recorded")
    started = psutil.Process(recorder.pid).children(recursive=True)
    assert started
    recorder.terminate()
    assert "ended early" in recorder.communicate(timeout=60)[0]
    assert not any(_runs_gunicorn(process.pid) for process in started)
    assert list(out.iterdir()) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_short_recording_is_labelled_and_replayed(tmp_path: Path) -> None:
    """A healthy program and a leaking one; every field is there, and nothing is left running."""
    command = [sys.executable, str(ROOT / "bench" / "record.py"), str(tmp_path)]
    names = ("plain_gthread", "leak_torrent")
    # The seed: one whose plain_gthread is the installed gunicorn.
    arguments = ["--seed", "1", "--for", "20s", "--tick", "1", "--only", ",".join(names)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert set(labels) == set(names)
    for name in names:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "rt") as file:
            lines = file.readlines()
        ticks = [json.loads(line) for line in lines[1:]]
        assert len(ticks) >= 10
        for seen in [ticks[-1]["master"], *ticks[-1]["workers"]]:
            assert set(seen) == FIELDS
        out, err = io.StringIO(), io.StringIO()
        assert replay(lines, out, err) == 0, err.getvalue()
        assert len(out.getvalue().splitlines()) == len(ticks)
        pids = [ticks[-1]["master"]["pid"], *(w["pid"] for w in ticks[-1]["workers"])]
        assert not any(_runs_gunicorn(pid) for pid in pids)
        assert sum(w["requests"] for w in ticks[-1]["workers"]) > 20
    assert labels["plain_gthread"]["guilty"] == []
    leaking = labels["leak_torrent"]
    assert {int(pid) for pid in leaking["lives"]} == set(leaking["guilty"])
    assert min(told["leaked_mb"] for told in leaking["lives"].values()) > 1


def _runs_gunicorn(pid: int) -> bool:
    try:
        return "gunicorn" in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
