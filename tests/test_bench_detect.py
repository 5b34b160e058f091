"""The bench of the detectors: its histories are what they say, and its scorer is right.

How good the detectors are is not judged here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from servers import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import audits
import baselines
import detect
import synthetic
from figures import Counts, acted, added, figures, imbalanced, late, told
from judging import Ours, Recording, Result, Said, ThroughCommand, run, run_recording
from living import FILLS, HEALTHY, IMBALANCED, LEAKS, Program, Tick, lines
from parts import HOUR, MB

LEAKING = [name for name, label in synthetic.LABELS.items() if label == LEAKS]


def short(behaviour: str, seed: str = "7 0") -> Program:
    """A program of a behaviour, of which not more than two hours (at 5 s) are looked at."""
    program = synthetic.draw(seed, behaviour)
    program.length = min(program.length, 24 * program.tick * 60)
    return program


class Oracle:
    """Says of every worker what is true: it is shown the world."""

    def __init__(self, kinds: Callable[[Any], list[Said]]) -> None:
        self.kinds = kinds
        self.world: Any = None

    def feed(self, tick: Tick) -> dict[Any, list[Said]]:
        return {life.id: self.kinds(life) for life in self.world.current}


def hear(program: Program, kinds: Callable[[Any], list[Said]], closed: bool = False) -> Result:
    """The result of an oracle."""
    oracle = Oracle(kinds)
    begin = Program.world

    def world(self: Program) -> Any:
        oracle.world = begin(self)
        return oracle.world

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "world", world)
        return run(program, oracle, closed)


def truth(life: Any) -> list[Said]:
    if life.leaking_since is not None:
        return [Said("leak", True, True, 0.9)]
    return [Said("imbalance", True, True, 0.9)] if life.imbalanced else []


def silence(life: Any) -> list[Said]:
    return []


def panic(life: Any) -> list[Said]:
    return [Said("leak", True, True, 0.9), Said("imbalance", True, True, 0.9)]


# -- histories


def test_every_trap_and_every_leak_has_a_behaviour() -> None:
    """Every phrase of the lists is covered by behaviours that exist, and there are many."""
    assert len(synthetic.BEHAVIOURS) >= 40
    for phrase, names in synthetic.PHRASES.items():
        assert names, phrase
        assert set(names) <= set(synthetic.BEHAVIOURS), phrase


@pytest.mark.parametrize("behaviour", ["leak_mixture", "import_cascade", "hup", "swap_out"])
def test_equal_seeds_give_equal_histories(behaviour: str) -> None:
    """To the last byte; and another seed another one."""
    one, again = ("\n".join(lines(short(behaviour))) for _ in range(2))
    assert one == again
    assert one != "\n".join(lines(short(behaviour, "8 0")))


def test_programs_are_as_long_as_their_ticks_deserve() -> None:
    """1 to 8 hours at 5 s, 12 hours to 7 days at 60 s; 2 to 8 workers."""
    drawn = list(synthetic.programs(5, 2 * len(synthetic.BEHAVIOURS)))
    assert {program.behaviour for program in drawn} == set(synthetic.BEHAVIOURS)
    for program in drawn:
        low, high = (1, 8) if program.tick == 5 else (12, 168)
        assert low * HOUR <= program.length <= high * HOUR + 1
        assert 2 <= program.count <= 8


def test_no_healthy_worker_reaches_its_limit() -> None:
    """Whom the kernel kills leaked, in every behaviour; and every leak leaks."""
    for name, label in synthetic.LABELS.items():
        program = synthetic.draw("3 1", name)
        program.length = min(program.length, 600 * program.tick)
        world = program.world()
        while world.step() is not None:
            pass
        killed = [life for life in world.lives.values() if life.ended and life.ended[1] == "oom"]
        assert all(life.leaking_since is not None for life in killed), name
        assert any(life.leaks for life in world.lives.values()) == (label == LEAKS), name


def test_a_recycled_worker_is_born_anew() -> None:
    """Under a new id, in the same place, with nothing leaked."""
    world = short("leak_steady").world()
    for _ in range(100):
        tick = world.step()
    assert tick is not None
    old = world.lives[tick.workers[0].id]
    world.recycle(old.id)
    tick = world.step()
    assert tick is not None
    new = next(life for life in world.current if life.place == old.place)
    assert old.id not in {worker.id for worker in tick.workers}
    assert new.id != old.id
    assert new.leaked < old.leaked


def test_signals_agree_with_one_another() -> None:
    """RSS is what is anonymous and what is shared; USS is within RSS; a page is a page."""
    for name in ("page_cache", "preload_cow", "leak_under_swap", "plain"):
        for line in list(lines(short(name, "2 2")))[1:100:20]:
            for worker in json.loads(line)["workers"]:
                if worker["anon"] is not None and worker["shared"] is not None:
                    assert worker["rss"] == worker["anon"] + worker["shared"], name
                if worker["uss"] is not None:
                    assert 0 < worker["uss"] <= worker["rss"] + MB, name
                assert worker["rss"] % 4096 == 0, name


# -- the scorer


def test_who_knows_the_truth_makes_no_mistake() -> None:
    """Precision, recall and the rest are 1; nothing was found too late."""
    results = [hear(short(name), truth) for name in ("leak_steady", "plain", "one_job")]
    assert added(told(r)[0] for r in results).f1 == 1.0
    assert added(acted(r)[0] for r in results).f1 == 1.0
    assert added(imbalanced(r)[0] for r in results).missed == 0
    assert late(results) == []
    found = figures(results)
    assert found["false_actions"] == 0
    assert found["act"]["rh"] == 1.0
    assert [c["right"] for c in found["calibration"]] == [1.0]


def test_who_says_nothing_misses_everything() -> None:
    """And is never wrong about the healthy."""
    result = hear(synthetic.draw("7 0", "leak_steady"), silence)
    count, mistakes = told(result)
    assert (count.hits, count.false) == (0, 0)
    assert count.missed > 0
    assert {mistake.what for mistake in mistakes} == {"never told"}
    assert late([result])


def test_who_cries_always_is_wrong_about_every_healthy_worker() -> None:
    """Once a life, however long it cries."""
    result = hear(short("plain"), panic)
    assert told(result)[0] == Counts(0, len(result.records), 0)
    assert imbalanced(result)[0].false == len(result.records)
    assert figures([result])["false_actions"] == 2 * len(result.records)


def test_telling_of_a_cache_that_fills_is_no_mistake() -> None:
    """Acting on it is none twice per program."""
    program = short("lru_linear")
    assert program.label == FILLS
    result = hear(program, panic)
    assert told(result)[0].false == 0
    assert acted(result)[0].false == max(len(result.records) - 2, 0)


def test_in_a_closed_loop_the_truth_prevents_every_kill() -> None:
    """And silence none; whoever always cries recycles the healthy."""
    program = synthetic.draw("7 0", "leak_fast")
    assert hear(program, truth, closed=True).kills == 0
    assert hear(program, silence, closed=True).kills > 0
    healthy = hear(short("plain"), panic, closed=True)
    assert len(healthy.false_recycles) == healthy.recycles > 0


def test_the_command_gives_the_same_figures() -> None:
    """`memwatch replay -`, told the same, says the same."""
    program = synthetic.draw("1001 0", "leak_fast")
    program.length = 45 * 60.0
    command = ThroughCommand(program.header())
    through = run(program, command)
    command.close()
    directly = run(program, Ours(program.header()))
    for one, other in zip(through.records, directly.records, strict=True):
        assert (one.told_at, one.act_at, one.told_mb) == (
            other.told_at,
            other.act_at,
            other.told_mb,
        )
    assert any(record.told_at is not None for record in directly.records)


def test_a_recording_is_scored_by_its_labels() -> None:
    """Guilty are those it names, from when it says so."""
    program = synthetic.draw("1001 0", "leak_fast")
    text = list(lines(program))
    pids = tuple(w["pid"] for w in json.loads(text[1])["workers"])
    since = json.loads(text[1])["t"] + program.begins
    labelled = Recording("r", text, "leak", pids[:1], {pids[0]: since})
    result = run_recording(labelled, lambda header: Crier())
    count, mistakes = told(result)
    assert count.hits == 1
    assert count.false == len(result.records) - 1 + 1  # the guilty one was blamed early, too
    assert "told before it leaked" in {mistake.what for mistake in mistakes}


def test_audits_of_a_recording_are_scored_by_its_labels() -> None:
    """One of two leaks 3 MB a minute for twelve minutes: named in each audit, the other in none."""

    def worker(pid: int, held: float, t: float) -> dict[str, Any]:
        size = int(held * MB)
        return {"pid": pid, "start": pid, "age": 600 + t, "rss": size, "anon": size, "cpu": t / 10}

    text = [json.dumps({"program": {"namespec": "web", "interval": 5}})]
    for t in range(0, 720, 5):
        workers = [worker(1, 60 + 3 * t / 60, t), worker(2, 60, t)]
        text.append(json.dumps({"t": t, "workers": workers}))
    said = audits.audits(Recording("r", text, "leak_one", (1,), {1: 0.0}))
    assert {each.seconds for each in said} == set(audits.WATCHES)
    assert {each.judgement for each in said if each.leaks} == {"leak"}
    assert {each.judgement for each in said if not each.leaks} == {"healthy"}
    rows = audits.figures(said)
    assert (
        [row["leak_right"] for row in rows] == [row["healthy_right"] for row in rows] == [1.0] * 3
    )
    assert "100%" in audits.table(rows)


class Crier:
    """Tells of everybody, always."""

    def feed(self, tick: Tick) -> dict[Any, list[Said]]:
        return {worker.id: [Said("leak", True, False)] for worker in tick.workers}


# -- baselines, and the command


@pytest.mark.parametrize("name", sorted(baselines.TABLE))
def test_every_baseline_hears_a_program_to_its_end(name: str) -> None:
    """And says nothing of a program in which nothing ever happens."""
    for behaviour in ("ties", "leak_fast"):
        program = short(behaviour, "4 4")
        result = run(program, baselines.TABLE[name](program.header()))
        assert result.samples > 0
        if behaviour == "ties" and "fixed" not in name and "GitLab" not in name:
            assert told(result)[0].false == 0


def test_a_leak_is_found_by_those_who_look_for_one() -> None:
    """Under the teeth of the garbage collector, to its end."""
    program = synthetic.draw("4 4", "leak_sawtooth")
    for name in ("memmon, 0.8 of each program's limit", "the envelope grows in every third"):
        assert told(run(program, baselines.TABLE[name](program.header())))[0].hits > 0, name


def test_the_first_trial_tells_before_it_acts() -> None:
    """Of a leak early, and acts once a share of the room is eaten; without a limit, never."""
    program = synthetic.draw("4 4", "leak_steady")
    header = program.header()
    found = [r for r in run(program, baselines.FirstTrial(header)).records if r.act_at is not None]
    assert found
    assert all(r.told_at is not None and r.told_at <= (r.act_at or 0.0) for r in found)
    assert any(r.told_at != r.act_at for r in found)
    header["program"].update(limit=None, total_limit=None, available=None)
    unlimited = run(program, baselines.FirstTrial(header)).records
    assert any(r.told_at is not None for r in unlimited)
    assert all(r.act_at is None for r in unlimited)


@pytest.mark.parametrize(
    ("levels", "grows"),
    [
        ([float(i) for i in range(20)], True),
        ([20.0 * (1 - 0.8**i) for i in range(20)], False),  # saturates
        ([0.1 * i + 50.0 * (i > 9) for i in range(20)], False),  # one step
        ([5.0] * 20, False),
    ],
)
def test_the_first_trial_knows_growth_that_lasts(levels: list[float], grows: bool) -> None:
    """From saturation, a step and standing still."""
    trial, rung = baselines.FirstTrial(synthetic.draw("4 4", "plain").header()), baselines.Rung()
    for at, level in enumerate(levels):
        rung.add(baselines.Bucket(30.0 * at, level, 0.0))
    assert trial.grows(rung) is grows
    rung.left_behind = max(levels)
    assert not trial.grows(rung)  # no new territory


def test_one_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With the date, the command, and whether the seeds are the tuning ones."""
    kinds = ["--kind", "leak_fast", "--kind", "one_job", "--kind", "leak_of_files"]
    command = ["--seeds", "tune", "--programs", "3", "--jobs", "1", *kinds]
    assert detect.main([*command, "--behaviours", "--errors", "--closed-loop"]) == 0
    out = capsys.readouterr().out
    assert "bench/detect.py --seeds tune" in out
    assert "tune seeds 1 to 20" in out
    assert "| precision |" in out
    assert "| leak_fast |" in out
    assert "Closed loop" in out


def test_tuning_and_test_seeds_are_kept_apart() -> None:
    """No seed is both, and no program of one is one of the other's."""
    tune, test = detect.SEEDS["tune"], detect.SEEDS["test"]
    assert not set(tune) & set(test)
    assert not {job.seed for job in detect.suite(tune, 150, (), "ours")} & {
        job.seed for job in detect.suite(test, 150, (), "ours")
    }


def test_the_basic_suite_has_one_behaviour_for_each_trap_and_leak() -> None:
    arguments = detect._arguments(["--basic", "--programs", "100"])
    drawn = {job.behaviour for job in detect.chosen_jobs(arguments, "ours")}
    assert drawn == synthetic.BASIC < set(synthetic.BEHAVIOURS)
    assert all(drawn & set(names) for names in synthetic.PHRASES.values())
    arguments = detect._arguments(["--basic", "--suite", "traps", "--kind", "leak_slow"])
    with pytest.raises(SystemExit, match="no behaviour is of this suite"):
        detect.chosen_jobs(arguments, "ours")


def test_labels_are_known() -> None:
    """Each behaviour has one of four."""
    assert set(synthetic.LABELS.values()) == {HEALTHY, LEAKS, FILLS, IMBALANCED}
    assert len(LEAKING) >= 20
