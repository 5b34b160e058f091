"""`memwatch audit`: the comparison of two runs, what is said of a watch, and the command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor_memwatch import (
    appraisal,
    audit,
    cli,
    comparison,
    detectors,
    openfiles,
    replay,
    runs,
    topology,
    units,
    wording,
)
from supervisor_memwatch.model import RUNNING, Snapshot, Verdict, Worker, WorkerId
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.units import MB

HOSTILE = "web\x1b[2J\nforged\u202e\u2028"


# -- two runs compared


def worker(pid: int, anon: float, cpu: float | None) -> Worker:
    return Worker(WorkerId(pid, pid * 10), 100.0, int(anon * MB), anon=int(anon * MB), cpu=cpu)


def saved(workers: list[Worker], changes: dict[int, float] | None = None) -> dict[str, Any]:
    """A program as --save keeps it: sizes and CPU before the run."""
    return {
        "namespec": "web",
        "workers": [{"id": str(w.id), "cpu": w.cpu} for w in workers],
        "low_anon": {str(w.id): w.anon for w in workers},
        "changes": [
            {"id": str(WorkerId(pid, pid * 10)), "beyond": int(beyond * MB)}
            for pid, beyond in (changes or {}).items()
        ],
    }


def compared(
    before: list[tuple[float, float]],
    after: list[tuple[float, float]],
    changes: dict[int, float] | None = None,
) -> list[str]:
    """What is found of workers 1, 2, ...: (MB, CPU seconds) before and after the run."""
    old = [worker(pid, *figures) for pid, figures in enumerate(before, 1)]
    new = [worker(pid, *figures) for pid, figures in enumerate(after, 1)]
    lows = {each.id: each.anon or 0 for each in new}
    return [change.found for change in runs.compare(lows, new, saved(old, changes))]


@pytest.mark.parametrize(
    ("before", "after", "changes", "found"),
    [
        # The one that worked grew; its idle siblings are the control.
        ([(50, 1), (50, 1)], [(90, 31), (50, 1.1)], None, ["grew", "same"]),
        # All grew alike, the idle ones too: not the run's doing.
        ([(50, 1), (50, 1), (50, 1)], [(70, 31), (70, 1.1), (70, 1.2)], None, None),
        # Nobody is idle: nobody is a control.
        ([(50, 1), (50, 1)], [(90, 31), (90, 31)], None, ["grew", "grew"]),
        # Noise: less than 4 MB, and less than a twentieth of what it held.
        ([(50, 1), (50, 1)], [(53, 31), (50, 1)], None, ["same", "same"]),
        ([(1000, 1), (50, 1)], [(1040, 31), (50, 1)], None, ["same", "same"]),
        # The run before had grown as much: a leak repeats it, a cache does not.
        ([(90, 31), (50, 1)], [(130, 61), (50, 1.1)], {1: 40, 2: 0}, ["leak", "same"]),
        ([(90, 31), (50, 1)], [(91, 61), (50, 1.1)], {1: 40, 2: 0}, ["settled", "same"]),
        ([(90, 31), (50, 1)], [(100, 61), (50, 1.1)], {1: 40, 2: 0}, ["settled", "same"]),
        # One that shrank.
        ([(90, 1), (50, 1)], [(50, 31), (50, 1)], None, ["same", "same"]),
    ],
)
def test_each_worker_is_compared_with_itself(
    before: list[tuple[float, float]],
    after: list[tuple[float, float]],
    changes: dict[int, float] | None,
    found: list[str] | None,
) -> None:
    """What idle siblings grew by is taken off what the others did."""
    expected = found or ["same", "grew", "grew"]
    result = compared(before, after, changes)
    if found is None:
        assert result[0] == "same"
    else:
        assert result == expected


def test_a_worker_that_was_not_there_is_new() -> None:
    """Another start time is another worker, whatever its pid."""
    old = [worker(1, 50, 1.0)]
    new = [Worker(WorkerId(1, 99), 5.0, 90 * MB, anon=90 * MB, cpu=9.0), worker(2, 90, 3.0)]
    lows = {each.id: each.anon or 0 for each in new}
    assert [change.found for change in runs.compare(lows, new, saved(old))] == ["new", "new"]


def test_workers_whose_cpu_is_not_known_are_compared_all_the_same() -> None:
    """No CPU, no idle control."""
    old, new = [worker(1, 50, None)], [worker(1, 90, None)]
    lows = {each.id: each.anon or 0 for each in new}
    [change] = runs.compare(lows, new, saved(old))
    assert (change.found, change.cpu) == ("grew", None)


def runs_in_a_row(*growths: tuple[float, float]) -> list[runs.Change]:
    """What is found of the first of two workers, run after run: (MB grown, CPU seconds); the
    second one is idle."""
    held, cpu, found = 50.0, 1.0, []
    kept = saved([worker(1, held, cpu), worker(2, 50, 1)])
    for grown, spent in growths:
        held, cpu = held + grown, cpu + spent
        now = [worker(1, held, cpu), worker(2, 50, 1.0)]
        changes = runs.compare({w.id: w.anon or 0 for w in now}, now, kept)
        found.append(changes[0])
        kept = saved(now)
        kept["changes"] = json.loads(
            json.dumps([{**change._asdict(), "id": str(change.id)} for change in changes])
        )
    return found


def runs_of_siblings(*each_run: list[tuple[float, float]]) -> list[list[str]]:
    """What is found of workers of 120 MB, run after run: (MB grown, CPU seconds) of each."""
    figures = [(120.0, 1.0)] * len(each_run[0])
    kept, found = saved([worker(n, *of) for n, of in enumerate(figures, 1)]), []
    for run in each_run:
        figures = [
            (mb + grown, cpu + s) for (mb, cpu), (grown, s) in zip(figures, run, strict=True)
        ]
        now = [worker(n, *of) for n, of in enumerate(figures, 1)]
        changes = runs.compare({w.id: w.anon or 0 for w in now}, now, kept)
        found.append([change.found for change in changes])
        kept = saved(now)
        kept["changes"] = [{**change._asdict(), "id": str(change.id)} for change in changes]
    return found


@pytest.mark.parametrize(
    ("each_run", "found"),
    [
        # Some of them more than a twentieth of what they held, some less: alike, and alike again.
        (
            [
                [(5.7, 0.38), (6.2, 0.40), (5.4, 0.36)],
                [(6.4, 0.40), (5.4, 0.36), (5.5, 0.37)],
                [(0.2, 0.40), (0.0, 0.38), (0.1, 0.40)],
            ],
            [["grew"] * 3, ["leak"] * 3, ["settled"] * 3],
        ),
        # A third of the work: a leak would not show.
        (
            [[(5.7, 0.4), (6.2, 0.4), (5.4, 0.4)], [(0.1, 0.1), (0.2, 0.1), (0.1, 0.1)]],
            [["grew"] * 3, ["same"] * 3],
        ),
        # Drift, though all of them drift.
        ([[(3.5, 0.4)] * 8, [(3.5, 0.4)] * 8], [["same"] * 8] * 2),
        # One leaks, its siblings do not, though they work as much.
        (
            [[(30, 0.4), (1, 0.4), (0, 0.4)], [(30, 0.4), (1, 0.4), (2, 0.4)]],
            [["grew", "same", "same"], ["leak", "same", "same"]],
        ),
        # One alone, its idle siblings the control: nothing to put together.
        ([[(5.7, 0.4), (0, 0.0), (0, 0.0)]] * 2, [["same"] * 3] * 2),
    ],
)
def test_what_is_too_little_in_each_is_judged_in_all_together(
    each_run: list[list[tuple[float, float]]], found: list[list[str]]
) -> None:
    """Sum of growth over sum of work, of this run and of the one before."""
    assert runs_of_siblings(*each_run) == found


@pytest.mark.parametrize(
    ("growths", "found"),
    [
        ([(40, 30), (40, 30), (40, 30)], ["grew", "leak", "leak"]),
        ([(40, 30), (1, 30), (0, 30)], ["grew", "settled", "same"]),
        # Half the work, half the growth: the same leak. Twice the work, the same growth as well.
        ([(40, 30), (20, 15)], ["grew", "leak"]),
        ([(40, 30), (80, 60)], ["grew", "leak"]),
        # Twice the work for a tenth of the growth: it has settled.
        ([(40, 30), (8, 60)], ["grew", "settled"]),
        # Hardly any work: a leak would not show either.
        ([(40, 30), (1, 2)], ["grew", "unclear"]),
        ([(40, 30), (1, 2), (40, 30)], ["grew", "unclear", "grew"]),
    ],
)
def test_the_same_run_again_tells_a_leak_from_a_cache(
    growths: list[tuple[float, float]], found: list[str]
) -> None:
    """By what the work cost in each of them."""
    assert [change.found for change in runs_in_a_row(*growths)] == found


def test_each_further_run_makes_a_leak_surer() -> None:
    """And as much again for the same work is surer than only about as much."""
    once, twice, three, four = (c.confidence for c in runs_in_a_row(*[(40, 30)] * 4))
    assert once == 0.5 < twice < three < four < 1
    assert runs_in_a_row((40, 30), (25, 30))[1].confidence < twice


def test_work_is_requests_where_they_are_counted() -> None:
    """What a request costs is said."""
    old = [worker(1, 50, 1.0)._replace(requests=100), worker(2, 50, 1.0)._replace(requests=100)]
    new = [worker(1, 90, 2.0)._replace(requests=1100), worker(2, 50, 9.0)._replace(requests=101)]
    before = saved(old)
    for kept in before["workers"]:
        kept["requests"] = 100
    first, second = runs.compare({w.id: w.anon or 0 for w in new}, new, before)
    assert (first.unit, first.work, second.idle) == ("request", 1000, True)
    assert "41KB per request" in first.why and "in 1000 requests" in first.why


def test_what_idle_siblings_grew_by_hides_as_much_of_a_leak() -> None:
    """It was taken off what the others grew by."""
    old = [worker(1, 50, 1.0), worker(2, 50, 1.0)]
    for control, hidden in ((3, 7), (0, 4), (-3, 4)):
        new = [worker(1, 50, 9.0), worker(2, 50 + control, 1.0)]
        lows = {each.id: each.anon or 0 for each in new}
        assert [c.hidden for c in runs.compare(lows, new, saved(old))] == [hidden * MB, 4 * MB]


def test_memory_and_work_that_are_compared_are_of_the_end_of_the_watch() -> None:
    """Of one moment: not the memory of its start with the work of its end."""
    served = {"cpu11": lambda s: s * 0.1, "requests11": lambda s: 10 + 100 * s}
    watch = watched({11: lambda s: 60 + s}, 300, **served)
    kept = {**appraisal.document(watch), "saved": 1e9}
    at = kept["low_work"]["11:11"]["requests"] // 100
    assert 285 <= at <= 300 and kept["low_anon"]["11:11"] == (60 + at) * MB
    [later] = watched({11: lambda s: 400.0}, 0, requests11=lambda s: 40010).snapshots
    [change] = appraisal.document(watch._replace(snapshots=[later], before=kept))["changes"]
    assert (change["grown"], change["work"]) == ((340 - at) * MB, 40000 - 100 * at)
    now = appraisal.document(watch._replace(before=kept_before(60, 60, requests=10)))["changes"][0]
    assert now["grown"] == now["work"] / 100 * MB


def test_a_look_that_caught_a_request_is_not_what_is_held() -> None:
    """The least of the last looks, and the latest of those."""
    busy = watched({11: lambda s: 60.0 if s in (50, 55) else 90.0}, requests11=lambda s: int(s))
    document = appraisal.document(busy)
    assert document["low_anon"]["11:11"] == 60 * MB
    assert document["low_work"]["11:11"]["requests"] == 55


def test_those_that_are_gone_are_named() -> None:
    """max_requests, or a reload."""
    assert runs.gone([worker(2, 50, 1)], saved([worker(1, 50, 1), worker(2, 50, 1)])) == ["1"]


# -- what is said of a watch


def watched(
    curves: dict[int, Callable[[float], float]],
    seconds: float = 60,
    *,
    age: float = 500,
    options: Options | None = None,
    **more: Any,
) -> appraisal.Watched:
    """A program seen for so long: pid -> MB by second; `more`: pid -> fields, `cpu1=f(second)`."""
    options = options or Options(confirm=max(1.0, seconds / 14))
    past, snapshots = detectors.Past(), []
    verdicts: dict[WorkerId | None, tuple[Verdict, ...]] = {}
    for second in range(int(seconds) + 1):
        workers = []
        for pid, curve in curves.items():
            bytes = int(curve(second) * MB)
            given = {
                name[: -len(str(pid))]: f for name, f in more.items() if name.endswith(str(pid))
            }
            fields = {"cpu": second * 0.1, "threads": 1, "fds": 9}
            fields |= {name: f(second) for name, f in given.items()}
            workers.append(
                Worker(WorkerId(pid, pid), age + second, bytes + 8 * MB, 8 * MB, bytes, **fields)
            )
        snapshot = Snapshot("web", 1e9 + second, RUNNING, 1, "gunicorn", None, tuple(workers))
        detectors.remember(options, past, snapshot)
        verdicts = detectors.examine(options, snapshot, past)
        snapshots.append(snapshot)
    return appraisal.Watched("web", options, seconds, snapshots, past, verdicts)


def flat(second: float) -> float:
    return 60.0


def leak(second: float) -> float:
    return 60 + second / 6


def judged(watch: appraisal.Watched) -> list[str]:
    return [each["judgement"] for each in appraisal.document(watch)["workers"]]


def test_growth_in_a_watch_of_seconds_is_possible_and_no_more() -> None:
    """How sure it is was measured on watches of half a minute and more."""
    short = watched({11: leak})._replace(seconds=10.0)
    assert appraisal.document(short)["workers"][0]["confidence"] == 0.5
    assert appraisal.document(watched({11: leak}))["workers"][0]["confidence"] >= 0.8


def test_a_leak_is_named_within_a_minute_with_how_sure_it_is() -> None:
    """And the healthy one beside it is healthy."""
    document = appraisal.document(watched({11: leak, 12: flat}))
    assert [each["judgement"] for each in document["workers"]] == ["leak", "healthy"]
    [found] = document["found"]
    confidence = document["workers"][0]["confidence"]
    assert found.startswith(f"worker 11: leak, {comparison.sure(confidence)}: ")
    shown = wording.text(document)
    assert "=> 1 of 2 workers leaks, " in shown
    assert "does not grow (95%)" in shown
    assert "the same requests again, between --save and --since" in shown
    assert any("leak" in line for line in document["advice"])


def test_one_output_has_one_pace_of_a_leak() -> None:
    """The table's growth is the advice's, in its unit."""
    shown = wording.text(appraisal.document(watched({11: leak, 12: flat})))
    found = re.search(r"\+([0-9.]+[MG]B)/h \(\+", shown)
    assert found is not None
    assert f"worker 11 of 2 leaks {found[1]}/h" in shown


@pytest.mark.parametrize("arena", [64, 256, 1024])
def test_the_interval_of_a_pace_has_the_true_one_in_it(arena: int) -> None:
    """20,033 bytes for each of about ten requests a second, given out in arenas of so many KB."""
    true, found = 10 * 20033 * 3600, []
    for seed in range(12):
        chance, held = random.Random(seed), [0]
        for _ in range(120):
            held.append(held[-1] + 20033 * sum(chance.random() < 0.25 for _ in range(40)))
        curve = [30 + size // (arena * 1024) * arena / 1024 for size in held]
        (worker,) = appraisal.document(watched({11: lambda s, c=curve: c[s]}, 120))["workers"]
        assert worker["judgement"] == "leak"
        found.append(worker["trend"]["low"] < true < worker["trend"]["high"])
    assert sum(found) >= 11


def test_bars_compare_the_workers() -> None:
    """The largest is full, half of it half as long."""
    shown = wording.text(appraisal.document(watched({11: flat, 12: lambda s: 30.0})))
    bars = [line.count("#") for line in shown.splitlines() if line.lstrip().startswith("worker")]
    assert bars[:2] == [comparison.BAR, comparison.BAR // 2]
    assert comparison.bar(None, 5, "#") == comparison.bar(5, 0, "#") == " " * comparison.BAR


def test_an_idle_worker_proves_nothing() -> None:
    """It is not called healthy; requests are asked for."""
    watch = watched({11: flat, 12: flat}, cpu11=lambda s: 3.0, cpu12=lambda s: 3.0)
    assert judged(watch) == ["idle", "idle"]
    shown = wording.text(appraisal.document(watch))
    assert "not enough to tell: no worker did anything meanwhile" in shown
    assert "send requests meanwhile (all workers did nothing, and that proves nothing): " in shown
    assert shown.endswith("memwatch audit --for 1m")
    counted = watched({11: flat, 12: flat}, requests11=lambda s: 7, requests12=lambda s: s)
    assert judged(counted) == ["idle", "healthy"]
    assert "worker 11 did nothing" in wording.text(appraisal.document(counted))


def test_a_worker_that_warms_up_says_how_long_to_watch() -> None:
    """The rest of its warm-up, and a window."""
    document = appraisal.document(watched({11: flat}, 30, age=20))
    assert document["workers"][0]["judgement"] == "warming up"
    [surer] = document["surer"]
    assert "worker 11 is still warming up" in surer and surer.endswith("--for 3m")


def test_one_look_says_so() -> None:
    """Nothing can be told from it."""
    document = appraisal.document(watched({11: flat}, 0))
    assert judged(watched({11: flat}, 0)) == ["too early"]
    assert "one look tells how much, not whether it grows" in wording.text(document)


def test_a_command_to_copy_cannot_break_its_line() -> None:
    """Whatever the program, or the file, is called."""
    watch = watched({11: flat}, 30, age=20)._replace(command=f"memwatch audit '{HOSTILE}'")
    said = wording.text(appraisal.document(watch))
    assert "\\x1b[2J\\nforged\\u202e\\u2028' --for 3m" in said
    assert "\x1b" not in said and "\nforged" not in said


def test_noise_that_could_hide_growth_asks_for_more_time() -> None:
    """The interval of the trend says how much."""
    jumps = [0, 9, 3, 7, 1, 8, 2, 6, 4, 5, 9, 0, 7, 3, 8]
    for size, judgement in ((0.25, "healthy"), (2, "too early")):
        noisy = watched({11: lambda s, by=size: 100 + by * jumps[int(s / 4.3) % len(jumps)]})
        document = appraisal.document(noisy)
        assert document["workers"][0]["judgement"] == judgement
        assert document["found"] == []
        assert any("noise could hide slow growth" in text for text in document["surer"])


@pytest.mark.parametrize(("begins", "size", "every"), [(25, 2, 8), (30, 1, 3), (40, 3, 7)])
def test_what_begins_to_grow_during_the_watch_is_not_called_healthy(
    begins: int, size: int, every: int
) -> None:
    """Some MB in the last half minute: the median pace of the whole minute may still be none."""
    document = appraisal.document(
        watched({11: lambda s: 36 + size * max(int((s - begins) / every), 0)})
    )
    assert (document["workers"][0]["judgement"], document["enough"]) == ("grows", False)
    assert "=> something grows, and 1m cannot tell what" in wording.text(document)


def test_slow_growth_is_neither_called_a_leak_nor_nothing() -> None:
    """Healthy workers creep as well, for some minutes."""
    document = appraisal.document(watched({11: lambda s: 60 + s * 0.25 / 60}))
    assert document["found"] == []
    assert "creeps" in wording.text(document)
    assert any("drift or a slow leak" in text for text in document["surer"])
    (worker,) = document["workers"]
    assert (worker["judgement"], worker["confidence"], document["enough"]) == (
        "creeps",
        None,
        False,
    )
    assert "cannot tell a drift from a slow leak" in wording.text(document)


@pytest.mark.parametrize(("seconds", "judgement"), [(12, "too early"), (40, "healthy")])
def test_nobody_is_called_healthy_after_a_few_seconds(seconds: int, judgement: str) -> None:
    """Slow leaks come in steps, of which so short a watch may have none."""
    document = appraisal.document(watched({11: flat}, seconds))
    assert document["workers"][0]["judgement"] == judgement
    assert document["enough"] == (judgement == "healthy")


def test_the_seconds_of_a_warm_up_are_not_counted_as_watched_for_growth() -> None:
    """At an age of 82 s when the minute began: 22 s of it are past the warm-up."""
    document = appraisal.document(watched({11: flat}, 60, age=82))
    (worker,) = document["workers"]
    assert worker["judgement"] == "too early" and worker["judged"] < 25


def test_files_and_threads_that_keep_growing_are_found() -> None:
    """Whatever memory does; with what is new among them."""
    watch = watched(
        {11: flat, 12: flat},
        fds11=lambda s: 10 + s // 2,
        threads12=lambda s: 1 + s // 5,
    )
    new = [appraisal.Files(f"files in /srv/{HOSTILE}", 28, f"/srv/{HOSTILE}/a.txt")]
    document = appraisal.document(watch._replace(files={WorkerId(11, 11): new}))
    assert document["found"][0].startswith(
        "worker 11: open files keep growing: 10 to 40, new: 28 files in /srv/web\\x1b"
    )
    assert document["found"][1] == "worker 12: threads keep growing: 1 to 13"
    assert "\x1b" not in wording.text(document)


@pytest.mark.parametrize(
    "files",
    [
        lambda s: 10 + min(s, 20),  # connections that come with the load, and stay
        lambda s: 10 + (s % 7),  # come and go
        lambda s: 50 - s // 2,
        lambda s: 10 if s < 30 else 60,  # at once
        lambda s: None,
    ],
)
def test_files_that_fill_up_or_come_and_go_are_not_growing(files: Any) -> None:
    """A pool is full one day."""
    document = appraisal.document(watched({11: flat}, fds11=files, threads11=files))
    assert document["found"] == []


def test_a_worker_that_holds_more_than_its_siblings_is_named_with_its_work() -> None:
    """Work that was done as often explains it."""
    curves = dict.fromkeys((11, 12), flat) | {13: lambda s: 130.0}
    [said] = appraisal.document(watched(curves))["stands_out"]
    assert said.startswith("worker 13 holds 130.0MB, its siblings 60.0MB, at 1.0 times their work")
    assert "that may be all" not in said
    [said] = appraisal.document(watched(curves, cpu13=lambda s: s * 0.3))["stands_out"]
    assert said.endswith("that may be all")


def test_what_cannot_be_read_is_said() -> None:
    """Another user's processes."""
    watch = watched({11: flat}, exact11=lambda s: False)
    assert any("run it as root" in text for text in appraisal.document(watch)["surer"])


def compared_text(before: dict[str, Any], **more: Any) -> str:
    """What is said of workers 11 and 12 (60 MB each) after one look, compared with that."""
    watch = watched({11: flat, 12: flat}, 0, **more)
    return wording.text(appraisal.document(watch._replace(before=before)), "file")


def kept_before(*held: float, **more: Any) -> dict[str, Any]:
    """Workers 11 and 12 as they were kept, with as much CPU time as a first look finds."""
    ids = [str(WorkerId(pid, pid)) for pid in (11, 12)]
    return {
        "namespec": "web",
        "saved": 1e9 - 90,
        "workers": [{"id": id, "cpu": 0.0, **more} for id in ids],
        "low_anon": {id: int(mb * MB) for id, mb in zip(ids, held, strict=True)},
        "changes": [],
    }


def test_after_a_run_it_says_who_holds_what_it_left() -> None:
    """Before and now, and whether they hold about the same."""
    shown = compared_text(kept_before(20, 60), cpu11=lambda s: 9.0)
    assert "compared with 1m 30s ago:" in shown
    assert "grew  +40.0MB anonymous memory (+0B in idle siblings) in 9.0 s of CPU" in shown
    assert "idle, the control" in shown
    assert "=> worker 11 holds on to what the run left: a cache that filled, or a leak" in shown
    assert "the workers hold about the same: 60.0MB to 60.0MB" in shown
    assert shown.count("+40.0MB") == 1


def test_what_grew_without_work_is_not_the_runs_doing() -> None:
    """A background task."""
    shown = compared_text(kept_before(20, 60), cpu12=lambda s: 9.0)
    assert "=> what grew did no work: look at threads, timers and background tasks" in shown
    assert "what the run left" not in shown


def test_a_comparison_says_what_leak_would_not_have_shown() -> None:
    """Too few requests: too early, and how many and how long are enough; else it holds the same."""

    def text(served: int) -> str:
        return compared_text(
            kept_before(60, 60, requests=7, age=500),
            requests11=lambda s: 7 + served,
            requests12=lambda s: 7 + served // 2,
        )

    shown = text(50)
    assert "same so far  +0B anonymous memory in 50 requests" in shown
    assert (
        "=> too early to tell: a leak of up to 82KB per request, or 160.0MB/h, would not show in "
        "50 requests (the most of a worker) and 1m 30s" in shown
    )
    assert shown.endswith(
        "surer: compare after about 410 requests a worker since the save (13m at the pace so "
        "far): memwatch audit --for 0 --since FILE"
    )
    assert "holds about what it held" not in shown
    shown = text(4096)
    assert "same  +0B" in shown
    assert "=> every worker holds about what it held then; a leak of up to 1KB per request" in shown
    assert "surer" not in shown


def test_growth_that_is_nearly_more_than_noise_is_a_trifle_after_very_many_requests() -> None:
    """2.5 MB in a million: no leak that anybody looks for."""
    shown = compared_text(
        kept_before(57.5, 60, requests=7, age=500),
        requests11=lambda s: 1_000_000,
        requests12=lambda s: 1_000_000,
    )
    assert "same  +2.5MB" in shown and "too early" not in shown


def test_one_step_that_stays_is_not_called_growth() -> None:
    """An import, or the allocator's high-water mark."""
    for size, at, seconds in ((7, 360, 600), (3, 36, 60)):
        watch = watched({11: lambda s, z=size, t=at: 60 + z * (s > t)}, seconds)
        assert judged(watch) == ["healthy"]


def test_a_worker_without_requests_that_grows_is_not_called_idle() -> None:
    """A thread, a timer."""
    watch = watched({11: lambda s: 60 + 2 * max(int((s - 35) / 3), 0)}, requests11=lambda s: 5)
    assert judged(watch) == ["grows"]


def test_growth_that_is_nearly_more_than_noise_is_not_called_the_same() -> None:
    """2.5 MB in 650 requests, of 57.5 MB: four times as fine as asked for, and yet too early."""
    shown = compared_text(
        kept_before(57.5, 60, requests=7, age=500),
        requests11=lambda s: 657,
        requests12=lambda s: 657,
    )
    assert "too early  +2.5MB anonymous memory in 650 requests" in shown
    assert "=> too early to tell: a leak of up to" in shown and "holds about what" not in shown
    assert "surer: compare after about 1300 requests a worker since the save" in shown


def test_of_a_leak_of_all_together_the_sums_are_said() -> None:
    """Each alone is within the noise; of one run it is not said that they hold the same so far."""
    before = kept_before(56.5, 56.8)
    work: dict[str, Any] = {"cpu11": lambda s: 0.4, "cpu12": lambda s: 0.4}
    assert "workers 11, 12 hold on to what the run left" in compared_text(before, **work)
    before["changes"] = [
        {"id": id, "beyond": int(3.4 * MB), "work": 0.4, "unit": "CPU second", "runs": 1}
        for id in before["low_anon"]
    ]
    said = "workers 11, 12 grew again for about the same work, together by +6.7MB (+6.8MB in the"
    assert said in compared_text(before, **work)
    shown = compared_text(kept_before(56.5, 60), **work)
    assert "too early  +3.5MB" in shown and "same so far  +0B" in shown


def test_of_those_beside_one_that_grew_it_is_said_what_would_not_have_shown() -> None:
    """One grew, the other holds the same, after as many requests."""
    served: dict[str, Any] = {"requests11": lambda s: 57, "requests12": lambda s: 57}
    shown = compared_text(kept_before(20, 60, requests=7), **served)
    assert "=> too early to tell of the others: a leak of up to 82KB per request" in shown
    shown = compared_text(kept_before(20, 60, requests=7), **dict.fromkeys(served, lambda s: 9999))
    assert "=> of the others: a leak of up to 420B per request" in shown


def test_by_cpu_time_it_is_too_early_as_well() -> None:
    """Seconds of CPU, where requests are not counted."""
    shown = compared_text(kept_before(60, 60), cpu11=lambda s: 2.0)
    assert "too early to tell: a leak of up to 2.0MB per CPU second" in shown
    assert "after about 16.0 s of CPU a worker since the save (12m at the pace so far)" in shown
    assert "too early" not in compared_text(kept_before(60, 60), cpu11=lambda s: 20.0)


def test_a_worker_that_holds_less_is_not_called_the_same() -> None:
    """Memory that was given back."""
    shown = compared_text(kept_before(90, 60), cpu11=lambda s: 60.0)
    assert "less  -30.0MB" in shown
    assert "every worker holds about what it held then, or less; " in shown


@pytest.mark.parametrize(
    "text",
    [
        "no idle sibling is the control",
        "compare when no request is under way, or with --for 10s",
        "workers 11, 12 had started 1m 20s before the save, and may only have warmed up (2m)",
    ],
)
def test_what_makes_growth_doubtful_is_said(text: str) -> None:
    """No control, a request under way, workers that were still warming up."""
    work: dict[str, Any] = {"cpu11": lambda s: 9.0, "cpu12": lambda s: 8.0}
    shown = compared_text(kept_before(20, 20, age=80), **work)
    assert text in shown
    assert (
        "workers 11, 12 hold on to what the run left: a cache that filled or a warm-up, or" in shown
    )
    assert text not in compared_text(kept_before(60, 60, age=80), **work)


def test_with_an_idle_sibling_after_a_watch_of_grown_ups_nothing_is_missing() -> None:
    """It is the control; the least of many looks was taken."""
    watch = watched({11: flat, 12: flat}, 30, cpu11=lambda s: 9.0 + s, cpu12=lambda s: 0.0)
    document = appraisal.document(watch._replace(before=kept_before(20, 60, age=500)))
    shown = wording.text(document, "file")
    assert "grew" in shown
    for text in ("is the control:", "no request is under way", "before the save"):
        assert text not in shown


def test_growth_of_all_without_any_work_is_not_the_runs_doing() -> None:
    """There was no run: nobody is idler than the others."""
    shown = compared_text(kept_before(20, 20), cpu11=lambda s: 0.0, cpu12=lambda s: 0.0)
    assert "what the run left" not in shown
    assert "=> what grew did no work: look at threads" in shown
    assert "surer: watch it: memwatch audit --for 10m" in shown


@pytest.mark.parametrize(
    ("work", "earlier", "text"),
    [
        (10.0, 10.0, "worker 11 grew again for about the same work"),
        (10.0, 20.0, "worker 11 grew again for 0.5 times the work of the run before"),
        (10.0, None, "worker 11 grew again (what work it did is not known of both runs)"),
        (0.0, 10.0, "worker 11 grew again, though it did no work: look at threads"),
    ],
)
def test_a_repeated_growth_is_said_with_the_work_that_is_known(
    work: float, earlier: float | None, text: str
) -> None:
    """ "For about the same work" only where it was."""
    before = kept_before(20, 60)
    unit = None if earlier is None else "CPU second"
    before["changes"] = [
        {"id": "11:11", "beyond": 40 * MB, "work": earlier, "unit": unit, "runs": 1}
    ]
    assert text in compared_text(before, cpu11=lambda s: work, cpu12=lambda s: 10.0)


def test_who_left_and_a_master_that_was_restarted_are_said() -> None:
    """Also where nobody has come for those that left."""
    before = kept_before(60, 60)
    before["workers"].append({"id": "13:13", "cpu": 0.0})
    before["low_anon"]["13:13"] = 60 * MB
    watch = watched({11: flat, 12: flat}, 0, cpu11=lambda s: 60.0)
    document = appraisal.document(watch._replace(before=before))
    assert (document["gone"], document["restarted"]) == (["13"], None)
    shown = wording.text(document, "file")
    assert "gone since the save, and not compared: worker 13 (max_requests, a recycle, a" in shown
    last = watch.snapshots[-1]
    fresh = last._replace(master=worker(20, 15, 1.0))
    for master, restarted in (("10:1", [10, 20]), ("20:200", None)):
        kept = {**before, "master": {"id": master}}
        document = appraisal.document(watch._replace(before=kept, snapshots=[fresh]))
        assert document["restarted"] == restarted
        said = "=> restarted since the save: its master was 10 and is 20 now"
        assert (said in wording.text(document, "file")) == bool(restarted)


def test_sizes_that_differ_are_not_called_about_the_same() -> None:
    """Twice the size is not."""
    assert "the workers hold about the same: 60.0MB to 60.0MB" in compared_text(kept_before(60, 60))
    watch = watched({11: flat, 12: lambda s: 90.0}, 0)
    shown = wording.text(appraisal.document(watch._replace(before=kept_before(60, 90))), "file")
    assert "the workers hold 60.0MB to 90.0MB" in shown


# -- who leaves meanwhile


class Looks:
    """A sampler that sees what it is told: snapshots, one a look."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self.snapshots = iter(snapshots)
        self.now: Snapshot | None = None

    def look(self, program: Any, at: float, exact: Any = ()) -> Snapshot:
        if not exact:
            self.now = next(self.snapshots)
        assert self.now is not None
        return self.now


NOBODY = 2**23  # and above are no pids on this machine


def seen(at: float, *workers: tuple[int, float, float], kind: str = "gunicorn") -> Snapshot:
    """Workers as (number, age, MB), with their CPU time rising."""
    people = tuple(
        Worker(WorkerId(NOBODY + n, n), age, int(mb * MB), 0, int(mb * MB), cpu=age / 10)
        for n, age, mb in workers
    )
    return Snapshot("web", 1e9 + at, RUNNING, NOBODY, kind, None, people)


def looked(*snapshots: Snapshot, seconds: float = 60.0) -> dict[str, Any]:
    """The document of a watch that saw these, a second apart."""
    watch = audit._Watch(audit.Subject("web", NOBODY, command="memwatch audit web"), Options())
    sampler: Any = Looks(*snapshots)
    for snapshot in snapshots:
        audit._look(watch, sampler, snapshot.at, seconds, 1.0, last=False)
    return appraisal.document(audit._result(watch, seconds))


def number(person: dict[str, Any]) -> int:
    return int(person["pid"]) - NOBODY


def test_a_worker_that_leaves_is_named_with_when_and_what_was_seen_of_it() -> None:
    """max_requests, a recycle, a crash: too young to judge is said."""
    document = looked(
        *[seen(s, (1, 30 + s, 50 + s), (2, 500 + s, 60)) for s in range(20)],
        *[seen(s, (2, 500 + s, 60), (3, s - 20, 40)) for s in range(20, 60)],
    )
    [gone] = document["left"]
    assert (number(gone), gone["after"], gone["judgement"]) == (1, 20.0, "warming up")
    assert (gone["watched"], gone["grown"], gone["left"]) == (19.0, 19 * MB, 1e9 + 20)
    assert document["came"] == [f"{NOBODY + 3}:3"]
    shown = wording.text(document)
    assert "watched for 1m; 1 left and 1 came meanwhile" in shown
    assert (
        f"  worker {NOBODY + 1} left after 20s, 49s old, with 69.0MB (+19.0MB in the 19s it was "
        "seen): still warming up, too young to judge\n" in shown
    )
    assert "=> not enough to tell of those that left: they were seen for too short a time" in shown


def test_a_worker_that_leaks_and_leaves_is_found() -> None:
    """Its verdict stands, though it is gone; and a healthy one was healthy."""
    document = looked(
        *[seen(s, (1, 300 + s, 50 + s), (2, 500 + s, 60), (4, 600 + s, 60)) for s in range(50)],
        *[seen(s, (2, 500 + s, 60), (3, s - 50, 40)) for s in range(50, 60)],
    )
    assert {number(each): each["judgement"] for each in document["left"]} == {
        1: "leak",
        4: "healthy",
    }
    assert any(
        text.startswith(f"worker {NOBODY + 1}, gone after 50s: leak,") for text in document["found"]
    )
    shown = wording.text(document)
    assert "=> 0 of 2 workers leak, and 1 of 2 that left did, " in shown
    assert "not enough to tell of" not in shown


def test_one_look_that_missed_a_worker_makes_it_no_leaver() -> None:
    """It is there again."""
    both = [seen(s, (1, 300 + s, 50), (2, 500 + s, 60)) for s in range(9)]
    both[4] = seen(4, (2, 504, 60))
    both[6] = seen(6)
    document = looked(*both)
    assert document["left"] == document["came"] == []
    assert document["ended"] is None
    assert looked(*both[:7])["ended"] == 6.0


def test_workers_that_never_live_long_enough_are_no_reason_to_watch_longer() -> None:
    """No --for is long enough; max_requests is what helps."""
    document = looked(
        *[seen(s, (1, 10 + s, 50), (2, 10 + s, 60)) for s in range(20)],
        *[seen(s, (3, s - 20, 50), (4, s - 20, 60)) for s in range(20, 60)],
    )
    first = document["surer"][0]
    assert first.startswith("workers leave at an age of 29s, before their warm-up of 2m is over")
    assert "raise max_requests" in first
    assert not any("--for" in text for text in document["surer"])


def test_of_many_that_left_the_last_ones_are_named() -> None:
    """And how many more there were."""
    document = looked(*[seen(s, (s // 3, s % 3, 50), (99, 500 + s, 50)) for s in range(60)])
    assert len(document["left"]) == 19
    shown = wording.text(document)
    assert shown.count(" left after ") == wording.NAMED
    assert f"worker {NOBODY + 18} left after 57s" in shown and "and 15 more that left" in shown


def test_a_program_that_ends_meanwhile_is_said_at_once(
    ran: Any, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen until then is the answer; nobody waits for the rest of the hour."""

    def sleep(seconds: float) -> None:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        monkeypatch.setattr(audit.time, "sleep", lambda seconds: pytest.fail("watched on"))

    monkeypatch.setattr(audit.time, "sleep", sleep)
    done = ran("audit", sleeper, "--for", "1h")
    assert done.status == 0
    assert "after the watch began (it ended, was restarted, or does not boot): this is" in done.out
    assert f"surer: once it runs again: memwatch audit {sleeper} --for 1m" in done.out


def test_of_whom_it_is_too_early_is_counted() -> None:
    """The others were judged."""
    old = [seen(s, (1, 500 + s, 60), (2, 30 + s, 60)) for s in range(60)]
    assert "=> not enough to tell of 1 of 2 workers: still warming up" in wording.text(looked(*old))
    late = [seen(s, (1, 500 + s, 60), (2, 70 + s, 60)) for s in range(60)]
    assert "=> not enough to tell of 1 of 2 workers in 1m" in wording.text(looked(*late))
    young = [seen(s, (1, 30 + s, 60), (2, 30 + s, 60)) for s in range(60)]
    assert "=> not enough to tell: still warming up" in wording.text(looked(*young))


# -- what to do next, and a terminal


@pytest.mark.parametrize("seconds", [10, 60, 70, 90, 119, 120, 130, 180, 3600, 5400, 7200])
def test_the_time_to_watch_is_one_that_for_takes(seconds: float) -> None:
    """In one word, or the command cannot be copied."""
    assert units.parse_time(appraisal._time(seconds)) == seconds
    assert " " not in appraisal._time(seconds)


def test_too_short_a_watch_says_how_long_in_a_command_to_copy(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file and the program, as they were given; by pid where there is no name."""
    conf = tmp_path / "the supervisord.conf"
    conf.write_text("[supervisord]\n")
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"my web": sleeper})
    done = ran("audit", "my web", "--for", "0", "-c", conf)
    again = f"memwatch audit -c '{conf}' 'my web' --for 3m"
    assert done.status == 0
    assert done.out.rstrip().endswith(f"is still warming up: {again}")
    done = ran("audit", sleeper, "--for", "0")
    assert done.out.rstrip().endswith(f": memwatch audit {sleeper} --for 3m")
    kept = tmp_path / "a file"
    ran("audit", "my web", "--for", "0", "--save", kept)
    done = ran("audit", "my web", "--for", "0", "--since", kept)
    again = f"memwatch audit 'my web' --for 0 --since '{kept}'"
    assert done.out.rstrip().endswith(f"surer: do the run, then: {again}")


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_on_a_terminal_no_line_is_cut_in_a_word(width: int) -> None:
    """The table does without columns, sentences are folded, a command to copy stays whole."""
    watch = watched({11: leak, 12: flat, 13: lambda s: 130.0})
    document = appraisal.document(watch._replace(command="memwatch audit -c " + "x" * 90))
    whole, shown = wording.text(document), wording.text(document, width=width)
    lines = shown.splitlines()
    long = [line for line in lines if len(line) > width]
    assert [line for line in long if not line.startswith("    memwatch audit -c x")] == []
    again = f"memwatch audit -c {'x' * 90} --for 2m"
    assert f"    {again}" in lines or (width == 200 and lines[-2].endswith(again))
    for needed in ("VERDICT", "leak: very likely", "GROWTH", "ANON"):
        assert needed in lines[1] + lines[2]
    assert shown.split() == whole.split() or width < 200
    assert max(map(len, whole.splitlines())) > 132


def test_a_comparison_fits_a_terminal_too() -> None:
    """Without bars, folded."""
    watch = watched({11: flat, 12: flat}, 0, cpu11=lambda s: 9.0)
    document = appraisal.document(watch._replace(before=kept_before(20, 60)))
    shown = wording.text(document, "file", width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "grew  +40.0MB anonymous memory" in shown


def test_a_ceiling_that_nobody_set_is_explained() -> None:
    """Where leaks are measured against it; not where a limit is set, or nothing leaks."""

    def text(curve: Any, **options: Any) -> str:
        watch = watched({11: curve, 12: flat}, options=Options(confirm=4.0, **options))
        known = [s._replace(available=4096 * MB) for s in watch.snapshots]
        watch = watch._replace(snapshots=known, available="4.00GB of RAM")
        return wording.text(appraisal.document(watch))

    why = "because no limit is set: what a worker, of 2, may have of total_limit, "
    assert f"  1.80GB {why}90% (the default) of 4.00GB of RAM\n" in text(leak)
    assert f"  1.60GB {why}80% of 4.00GB of RAM\n" in text(leak, total_limit=Ceiling(share=0.8))
    assert f"  500.0MB {why}1000.0MB\n" in text(leak, total_limit=Ceiling(bytes=1000 * MB))
    for shown in (
        text(flat),
        text(leak, limit=Ceiling(bytes=900 * MB)),
        text(leak, total_limit=None),
    ):
        assert "no limit is set" not in shown


def test_what_is_available_is_ram_or_a_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tightest of both."""
    machine = audit.host.Machine(4096 * MB, 2048 * MB, False)
    monkeypatch.setattr(audit.host, "machine", lambda: machine)
    last = seen(0)
    assert audit._available(last._replace(available=4096 * MB)) == "4.00GB of RAM"
    assert audit._available(last._replace(available=512 * MB)) == (
        "the 512.0MB that its control group may hold"
    )


# -- open files


def test_open_files_are_named_by_what_they_are() -> None:
    """Of this very process: deleted files, pipes, sockets by state and peer."""
    pid = os.getpid()
    before = openfiles.targets(pid)
    assert before is not None
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            stack.enter_context(server.accept()[0])
        for _ in range(5):
            stack.enter_context(tempfile.TemporaryFile())
        for end in os.pipe():
            stack.callback(os.close, end)
        for each in socket.socketpair():
            stack.enter_context(each)
        after = openfiles.targets(pid)
        assert after is not None
        kinds = openfiles.kinds(pid, openfiles.added(before, after))
    found = {kind.what: kind.number for kind in kinds}
    assert found[f"deleted files in {tempfile.gettempdir()}"] == 5
    assert found[f"TCP ESTABLISHED to 127.0.0.1:{port}"] == 3
    assert found[f"TCP ESTABLISHED of clients of port {port}"] == 3
    assert found[f"TCP listening on 127.0.0.1:{port}"] == 1
    assert found["pipes"] == 2 and found["unix sockets"] == 2
    assert kinds[0].number == 5


def test_a_process_that_is_not_there_has_no_files() -> None:
    """None, and nothing raised."""
    assert openfiles.targets(2**30) is None
    assert openfiles.kinds(2**30, ["socket:[5]", "anon_inode:[eventfd]", "/memfd:x (deleted)"]) == [
        appraisal.Files("sockets", 1, "socket:[5]"),
        appraisal.Files("eventfd", 1, "anon_inode:[eventfd]"),
        appraisal.Files("memory files (memfd)", 1, "/memfd:x (deleted)"),
    ]


# -- the command


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a plain process."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_one_look_tells_how_much_and_not_whether_it_grows(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 0; saved for its user alone, and compared with itself."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    kept = tmp_path / "before"
    done = ran("audit", "web", "--for", "0", "--save", kept)
    assert (done.status, done.err) == (0, "")
    assert str(sleeper) in done.out
    assert "one look tells how much, not whether it grows" in done.out
    assert kept.stat().st_mode & 0o777 == 0o600
    again = ran("audit", "web:web", "web", "--for", "0", "--since", kept)
    assert again.status == 0
    assert "no worker did any work meanwhile: that proves nothing" in again.out
    document = ran("audit", "web", "--for", "0", "--json", "--since", kept).document
    assert [change["found"] for change in document["programs"][0]["changes"]] == ["same"]
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "boot": "another"}))
    done = ran("audit", "web", "--for", "0", "--since", kept)
    assert done.status == 2
    assert "the machine was booted since" in done.err


def test_a_program_is_found_again_under_another_name(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its processes; a pid in the default name, or a namespec in its place, is no matter."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"app (pid 1)": sleeper})
    kept = tmp_path / "before"
    ran("audit", "app (pid 1)", "--for", "0", "--save", kept)
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"shop:web": sleeper})
    done = ran("audit", "shop", "--for", "0", "--since", kept)
    assert done.status == 0
    assert "no worker did any work meanwhile" in done.out


def test_where_every_worker_is_new_nothing_is_called_healthy(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart: the name is the same, and that is all. Not enough to tell is 0."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    kept = tmp_path / "before"
    ran("audit", "web", "--for", "0", "--save", kept)
    [id] = json.loads(kept.read_text())["programs"][0]["low_anon"]
    kept.write_text(kept.read_text().replace(id, "1:1"))
    done = ran("audit", "web", "--for", "0", "--since", kept)
    assert done.status == 0
    assert "no worker of before is left: nothing to compare" in done.out
    assert "holds about" not in done.out


def test_a_file_about_other_programs_is_status_2_before_the_watch(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says whom the file is about."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    kept = tmp_path / "before"
    ran("audit", "web", "--for", "0", "--save", kept)
    document = json.loads(kept.read_text())
    document["programs"][0] |= {"namespec": HOSTILE, "workers": [], "changes": []}
    kept.write_text(json.dumps(document))
    monkeypatch.setattr(audit, "_watched", lambda *_: pytest.fail("watched"))
    done = ran("audit", "web", "--since", kept)
    assert (done.status, done.out) == (2, "")
    assert "nothing in it is of web; it has web\\x1b" in done.err


def test_what_could_not_be_compared_is_said_beside_what_could() -> None:
    """Some workers new; a program the file does not know."""

    def text(*found: str) -> str:
        each = dict.fromkeys(runs.Change._fields, None)
        changes = [
            {
                **each,
                "pid": n,
                "found": word,
                "why": "",
                "after": 1,
                "before": 1,
                "confidence": 0,
                "beyond": 0,
                "hidden": 1,
            }
            for n, word in enumerate(found, 1)
        ]
        document = appraisal.document(watched({1: flat}, 0))
        return wording.text({**document, "changes": changes, "gone": ["9"]}, "before")

    some = text("same", "new", "new")
    assert "no worker holds more than it held then; how much work they did is not known" in some
    assert "not compared, as they are new since the save: workers 2, 3" in some
    assert "gone since the save, and not compared: worker 9 (max_requests, a recycle," in some
    assert "not in before: nothing to compare" in text()


def test_a_file_that_cannot_be_saved_is_noticed_before_the_watch(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that can is as it was until there is something to save."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    monkeypatch.setattr(audit, "_watched", lambda *_: pytest.fail("watched"))
    for path in (tmp_path, tmp_path / "none" / "file"):
        done = ran("audit", "web", "--save", path)
        assert (done.status, done.out) == (2, "")
        assert f"--save {path}: " in done.err
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_text("precious")
    for path in (kept, new):
        assert ran("audit", "nobody", "--save", path).status == 2
    assert kept.read_text() == "precious"
    assert not new.exists()


def test_a_worker_that_is_too_young_to_judge_says_so(
    ran: Any, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not healthy yet."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    monkeypatch.setattr(cli, "_options_of", lambda arguments, namespec: Options())
    assert "warming_up: younger than 2m" in ran("audit", "web", "--for", "0").out


def test_a_program_that_is_not_running_is_status_2_with_those_that_are(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escaped, whatever they are called."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {HOSTILE: 1, "shop": 2})
    done = ran("audit", "webb\x1b")
    assert (done.status, done.out) == (2, "")
    assert "not a running program of Supervisor's; running: shop, web\\x1b" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"memwatch": "audit", "v": 2, "boot": "x", "programs": []}',
        '{"memwatch": "audit", "v": 1, "boot": "x", "programs": [3]}',
        '{"memwatch": "audit", "v": 1, "boot": "x", "programs": [{"namespec": "web"}]}',
        '{"memwatch": "audit", "v": 1, "boot": "x", "programs": [{"namespec": "web", '
        '"workers": [{"id": "1:10", "cpu": "much"}], "low_anon": {}, "changes": []}]}',
        '{"memwatch": "audit", "v": 1, "boot": "x", "programs": [{"namespec": "web", "saved": 1, '
        '"workers": [], "master": {"id": "none"}, "low_anon": {}, "changes": []}]}',
        '{"memwatch": "audit", "v": 1, "boot": "x", "programs": [{"namespec": "web", "workers": '
        '[{"id": "1:10", "cpu": 1, "age": "old"}], "low_anon": {"1:10": 1}, "changes": []}]}',
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_save_did_not_make_is_status_2(
    ran: Any, tmp_path: Path, sleeper: int, text: str | bytes
) -> None:
    """Before anything is watched."""
    kept = tmp_path / "before"
    kept.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = ran("audit", sleeper, "--for", "0", "--since", kept)
    assert (done.status, done.out) == (2, "")
    assert "not a file that `memwatch audit --save` made" in done.err


def test_what_audit_cannot_do_is_status_2_and_one_sentence(
    ran: Any, tmp_path: Path, sleeper: int
) -> None:
    """Nothing on stdout."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[supervisord]\n")
    for arguments, text in (
        ([sleeper, "--for", "soon"], "valid: a time such as 30s or 10m, or 0"),
        ([sleeper, "--for", "-5"], "valid: a time"),
        (["999999999"], "no process 999999999"),
        ([sleeper, "--for", "0", "--record", tmp_path], "Is a directory"),
        (["9" * 5000, "-c", conf], "no [unix_http_server]"),
        (["web", "-c", conf], "no [unix_http_server]"),
        (["web", "-c", tmp_path / "none"], "none"),
        ([sleeper, "--for", "0", "--since", tmp_path / "none"], "No such file"),
        ([sleeper, "--for", "0", "--since", tmp_path], "Is a directory"),
    ):
        done = ran("audit", *arguments)
        assert (done.status, done.out) == (2, ""), arguments
        assert text in done.err
        assert len(done.err.splitlines()) == 1


def test_a_plain_program_is_audited_as_one(ran: Any, sleeper: int) -> None:
    """By its pid, without Supervisor."""
    done = ran("audit", sleeper, "--for", "0")
    assert done.status == 0
    assert f"(pid {sleeper}): " in done.out and "workers" not in done.out.splitlines()[0]
    [program] = ran("audit", sleeper, "--for", "0", "--json").document["programs"]
    assert (program["kind"], len(program["workers"])) == ("plain", 1)


def test_what_is_recorded_is_what_replay_reads(ran: Any, tmp_path: Path, sleeper: int) -> None:
    """The same numbers, and the program's options."""
    path = tmp_path / "recording"
    assert ran("audit", sleeper, "--for", "2s", "--record", path).status == 0
    assert path.stat().st_mode & 0o777 == 0o600
    header, *ticks = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["program"]["kind"] == "plain" and "confirm" in header["program"]["options"]
    assert ticks[0]["t"] == 0 and ticks[0]["workers"][0]["pid"] == sleeper
    out, err = io.StringIO(), io.StringIO()
    assert replay.replay(path.read_text().splitlines(), out, err) == 0, err.getvalue()
    assert len(out.getvalue().splitlines()) == len(ticks) >= 2


def test_a_recording_holds_one_program(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one has to be said."""
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper, "web2": 1})
    done = ran("audit", "web", "web2", "--record", tmp_path / "recording")
    assert (done.status, done.out) == (2, "")
    assert "--record holds one program: name one of web, web2" in done.err


def test_the_limits_of_the_configuration_are_the_programs(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is watched with, but for the finer step."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[supervisord]\n[program:web]\ncommand=x\n[memwatch:web]\nlimit = 1MB\n")
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": sleeper})
    asked = {}

    def seen(subjects: list[audit.Subject], *_: Any) -> Any:
        asked.update({subject.name: subject.options.limit for subject in subjects})
        raise audit.AuditError("enough")

    monkeypatch.setattr(audit, "_watched", seen)
    assert ran("audit", "web", "-c", conf).status == 2
    assert asked == {"web": Ceiling(bytes=MB)}


def test_a_configuration_that_is_named_holds_for_pids_too(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of a supervised program, or below one, is that program, with its limit."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[supervisord]\n[program:web]\ncommand=x\n[memwatch:web]\nlimit = 1MB\n")
    asked: dict[str, Any] = {}

    def seen(subjects: list[audit.Subject], *_: Any) -> Any:
        asked.update({subject.name: (subject.pid, subject.options.limit) for subject in subjects})
        raise audit.AuditError("enough")

    monkeypatch.setattr(audit, "_watched", seen)
    for its in (sleeper, os.getpid()):
        monkeypatch.setattr(cli, "_running_programs", lambda arguments, its=its: {"web": its})
        asked.clear()
        assert ran("audit", sleeper, "-c", conf).status == 2
        assert asked == {"web": (sleeper, Ceiling(bytes=MB))}
    monkeypatch.setattr(cli, "_running_programs", lambda arguments: {"web": 2**22 + 5})
    asked.clear()
    assert ran("audit", sleeper, "-c", conf).status == 2
    assert list(asked.values()) == [(sleeper, None)]


def test_ctrl_c_ends_the_watch_and_says_what_is_known(
    ran: Any, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is not thrown away."""
    pauses = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(pauses, 0) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(audit.time, "sleep", sleep)
    done = ran("audit", sleeper, "--for", "1h")
    assert done.status == 0
    assert "of 1h" in done.err and f"(pid {sleeper}): " in done.out


def test_a_long_watch_keeps_a_bounded_number_of_looks(
    ran: Any, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first and the last ones stay; what is recorded has them all."""
    kept: list[int] = []
    document = appraisal.document

    def counted(watched: appraisal.Watched) -> dict[str, Any]:
        kept.append(len(watched.snapshots))
        assert watched.snapshots[-1].at - watched.snapshots[0].at >= 1.5
        return document(watched)

    monkeypatch.setattr(audit, "MANY", 4)
    monkeypatch.setattr(appraisal, "document", counted)
    recording = tmp_path / "recording"
    assert ran("audit", sleeper, "--for", "2s", "--record", recording).status == 0
    assert kept[0] <= 4 < len(recording.read_text().splitlines()) - 1


def test_one_that_ends_meanwhile_does_not_take_the_others_answer_away(
    ran: Any, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named; alone, it is an error."""
    monkeypatch.setattr(
        cli, "_running_programs", lambda arguments: {"web": sleeper, "gone": 2**22 + 5}
    )
    done = ran("audit", "web", "gone", "--for", "0")
    assert done.status == 0 and "left out, no worker was seen: gone" in done.err
    done = ran("audit", "gone", "--for", "0")
    assert (done.status, done.out) == (2, "") and "gone: no worker was seen" in done.err


def test_bars_are_made_of_what_the_terminal_knows() -> None:
    """ASCII where it knows no block."""
    assert audit._block(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "\u2588"
    assert audit._block(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) == "#"
    assert audit._block(io.StringIO()) == "#"


@pytest.mark.parametrize(
    ("cmdline", "label"),
    [
        ("gunicorn: master [shop]", "shop"),
        ("python\0-m\0gunicorn\0-w\0002\0shop.wsgi:application\0--worker-tmp-dir\0/dev/shm\0",
         "shop.wsgi:application"),
        ("gunicorn\0app:create_app()\0-w\0003\0", "app:create_app()"),
        ("gunicorn\0shop\0", "shop"),
    ],
)  # fmt: skip
def test_a_master_is_called_by_its_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cmdline: str, label: str
) -> None:
    """Wherever that stands in its command line."""
    monkeypatch.setattr(topology, "PROC", str(tmp_path))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_text(cmdline)
    id = WorkerId(7, 1)
    tree = topology.Tree(id, id, (), (), 1, "heartbeat", {})
    assert audit._label(tree) == f"{label} (pid 7)"
