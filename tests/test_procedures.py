"""Recycle, reload and restart, stepped by looks at a program on paper."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

from worlds import World

from supervisor_memwatch import detectors, procedures
from supervisor_memwatch.model import Command, Decision, Outcome, Verdict
from supervisor_memwatch.procedures import Procedure, Terms
from supervisor_memwatch.units import MB

VERDICT = Verdict("leak", 0.0, 1.0, None, 0.9, "it grows", True, True)


def begin(world: World, action: str, verdict: Verdict | None = VERDICT) -> Procedure:
    """A procedure with its first command carried out."""
    snapshot = world.snapshot(world.now)
    target = snapshot.workers[0].id if snapshot.workers else None
    decision = Decision(action, world.namespec, target, verdict)
    size = snapshot.workers[0].rss if action == "recycle" else detectors.total(snapshot)
    step = procedures.first_commands(procedures.begin(decision, snapshot, size, "RSS"))
    world.obey(step.commands)
    return procedures.carried_out(step.procedure)


def play(
    world: World,
    procedure: Procedure,
    until: float = 600.0,
    kill: bool = False,
    grace: float = 35.0,
) -> tuple[Outcome | None, list[Command]]:
    """Look every second until the procedure is over."""
    done: list[Command] = []
    while world.now < until:
        snapshot = world.snapshot(world.now + 1)
        size = detectors.total(snapshot) if snapshot.workers else None
        if procedure.action == "recycle":
            new = procedures.newcomer(procedure, snapshot)
            size = next((w.rss for w in snapshot.workers if w.id == new), None)
        # What is read back from the journal has to go on just the same.
        procedure = procedures.from_json(json.loads(json.dumps(procedures.to_json(procedure))))
        step = procedures.step(procedure, snapshot, Terms(grace, kill, size))
        world.obey(step.commands)
        done += step.commands
        if step.outcome is not None:
            return step.outcome, done
        procedure = step.procedure
        if step.commands:
            procedure = procedures.carried_out(procedure)
    return None, done


def test_recycle_is_one_sigterm_and_measures_what_came_back() -> None:
    """TERM to the target, its end, a newcomer that serves: then the difference is the gain."""
    world = World(count=3)
    world.procs[0].base = 250.0
    procedure = begin(world, "recycle")
    outcome, more = play(world, procedure)
    assert outcome is not None and outcome.result == "done"
    assert outcome.freed == 200 * MB
    assert more == []
    assert [command.signal for _, command in world.log] == ["TERM"]


def test_recycle_that_gives_nothing_back_is_ineffective() -> None:
    """The newcomer is as big as the one that left."""
    world = World(count=2, fresh_base=50.0)
    outcome, _ = play(world, begin(world, "recycle"))
    assert outcome is not None and outcome.result == "ineffective"


def test_a_worker_that_does_not_leave_is_not_killed_where_kill_is_off() -> None:
    """After the grace the recycle has failed, and nothing more was sent."""
    world = World(count=2, drain=1000.0)
    outcome, more = play(world, begin(world, "recycle"))
    assert outcome is not None and outcome.result == "failed" and "it is left to" in outcome.text
    assert more == []


def test_a_worker_that_does_not_leave_is_killed_where_kill_is_on() -> None:
    """SIGKILL at a later look, once, to the same id."""
    world = World(count=2, drain=1000.0)
    world.procs[0].base = 300.0
    target = world.procs[0].id
    outcome, more = play(world, begin(world, "recycle"), kill=True)
    assert outcome is not None and outcome.result == "done"
    assert more == [Command("signal", "web", target, "KILL")]


def test_a_replacement_that_never_serves_is_a_failure() -> None:
    """A newcomer that is forked but not ready does not count."""
    world = World(count=2, boots=False)
    outcome, _ = play(world, begin(world, "recycle"))
    assert outcome is not None and outcome.result == "failed" and "no replacement" in outcome.text


def test_a_recycle_yields_to_a_restart_by_others() -> None:
    """The program went away under it."""
    world = World(count=2, drain=50.0)
    procedure = begin(world, "recycle")
    world.state, world.pid = "RUNNING", 777
    outcome, _ = play(world, procedure)
    assert outcome is not None and outcome.result == "overtaken"


def test_reload_waits_until_no_old_worker_is_left() -> None:
    """HUP to the master; done when all workers are new and serve."""
    world = World(count=4)
    for proc in world.procs:
        proc.base = 200.0
    before = {proc.id for proc in world.procs}
    outcome, _ = play(world, begin(world, "reload"))
    assert outcome is not None and outcome.result == "done" and outcome.freed == 600 * MB
    assert not before & {proc.id for proc in world.procs}
    assert [command.signal for _, command in world.log] == ["HUP"]


def test_restart_is_stop_then_start_each_at_a_look() -> None:
    """Start is called only once Supervisor says that it is down."""
    world = World(count=2, drain=3.0)
    outcome, more = play(world, begin(world, "restart", None))
    assert outcome is not None and outcome.result == "done"
    assert [command.do for _, command in world.log] == ["stop", "start"]
    assert [command.do for command in more] == ["start"]


def test_a_start_that_fails_is_tried_again_and_again() -> None:
    """A program that we stopped is always started again, however often it takes."""
    world = World(count=2, start_fails=7)
    outcome, _ = play(world, begin(world, "restart", None), until=1200.0)
    assert outcome is not None and outcome.result == "done"
    starts = [at for at, command in world.log if command.do == "start"]
    assert len(starts) == 8
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps == sorted(gaps) and gaps[-1] <= 62.0


def test_a_plan_that_may_or_may_not_have_been_begun_ends_well() -> None:
    """Killed between plan and stop: the program is seen running, nothing is stopped."""
    world = World(count=2)
    snapshot = world.snapshot(1.0)
    decision = Decision("restart", "web", None, None)
    planned = procedures.begin(decision, snapshot, 100 * MB, "RSS")
    outcome, more = play(world, procedures.resume(planned, 60.0), until=120.0)
    assert outcome is not None and outcome.result == "failed"
    assert more == [] and world.state == "RUNNING"


def test_a_program_found_stopped_after_our_death_is_started() -> None:
    """Killed between stop and start: the next listener starts it."""
    world = World(count=2)
    snapshot = world.snapshot(1.0)
    planned = procedures.begin(Decision("restart", "web", None, None), snapshot, 100 * MB, "RSS")
    world.obey([Command("stop", "web")])
    world.advance(50.0)
    assert world.state == "STOPPED"
    outcome, more = play(world, procedures.resume(planned, 60.0), until=200.0)
    assert outcome is not None and outcome.result == "done"
    assert [command.do for command in more] == ["start"] and world.state == "RUNNING"


def test_a_removed_program_ends_its_restart() -> None:
    """What Supervisor no longer knows cannot be started."""
    world = World(count=2)
    procedure = begin(world, "restart", None)
    world.stops_at, world.state = None, "REMOVED"
    outcome, _ = play(world, procedure)
    assert outcome is not None and outcome.result == "failed"


def test_a_stop_whose_answer_was_lost_is_not_given_up() -> None:
    """The call failed, the program stopped all the same: it is started."""
    world = World(count=2)
    procedure = begin(world, "restart", None)
    step = procedures.failed(procedure, Command("stop", "web"), "no answer within 2 s")
    assert step.outcome is None
    outcome, _ = play(world, step.procedure)
    assert outcome is not None and outcome.result == "done"


def test_a_stop_that_comes_late_is_still_followed_by_a_start() -> None:
    """The answer was lost, the program ran on for a minute, then it stopped after all."""
    world = World(count=2)
    procedure = begin(world, "restart", None)
    world.state, world.stops_at = "RUNNING", None  # a hung supervisord has not carried it out
    step = procedures.failed(procedure, Command("stop", "web"), "no answer within 2 s")
    for at in range(2, 62):
        step = procedures.step(step.procedure, world.snapshot(float(at)), Terms())
        assert step.outcome is None
    world.obey([Command("stop", "web")])
    outcome, _ = play(world, step.procedure)
    assert outcome is not None and outcome.result == "done" and world.state == "RUNNING"


def test_patience_does_not_run_while_supervisor_is_silent() -> None:
    """What it was asked to do it may do when it is back."""
    world = World(count=2)
    procedure = begin(world, "restart", None)
    world.stops_at = None
    for at in range(10, 1000, 10):
        snapshot = world.snapshot(float(at))._replace(state="UNKNOWN")
        step = procedures.step(procedure, snapshot, Terms())
        assert step.outcome is None and step.commands == ()
        procedure = step.procedure
    world.state = "RUNNING"
    step = procedures.step(procedure, world.snapshot(995.0), Terms())
    assert step.outcome is None


def test_a_refused_stop_ends_the_restart() -> None:
    """A fault is an answer: nothing was stopped."""
    procedure = begin(World(count=2), "restart", None)
    step = procedures.failed(procedure, Command("stop", "web"), "SHUTDOWN_STATE", 6)
    assert step.outcome is not None and step.outcome.result == "failed"


def test_a_human_who_stops_it_meanwhile_has_the_last_word() -> None:
    """Once it was seen coming up, STOPPED is somebody's will."""
    world = World(count=2, boot=100.0)
    procedure = begin(world, "restart", None)
    while procedure.step != "starting" or not procedure.up:
        snapshot = world.snapshot(world.now + 1)
        step = procedures.step(procedure, snapshot, Terms())
        world.obey(step.commands)
        procedure = step.procedure
    world.state, world.pid, world.procs, world.starts_at = "STOPPED", 0, [], None
    outcome, more = play(world, procedure, until=world.now + 120)
    assert outcome is not None and outcome.result == "overtaken" and more == []


def test_a_stop_of_ours_that_is_heard_of_late_is_no_other_will() -> None:
    """STOPPING right after our start, before it was seen up, is waited out."""
    world = World(count=2)
    procedure = begin(world, "restart", None)
    while procedure.step != "starting":
        step = procedures.step(procedure, world.snapshot(world.now + 1), Terms())
        world.obey(step.commands)
        procedure = step.procedure
    late = world.snapshot(world.now)._replace(state="STOPPING")
    step = procedures.step(procedure, late, Terms())
    assert step.outcome is None and step.commands == ()


def test_fewer_workers_that_all_serve_are_a_restart_that_went_well() -> None:
    """Workers added by SIGTTIN do not come back."""
    world = World(count=3)
    procedure = begin(world, "restart", None)
    world.count = 2
    outcome, _ = play(world, procedure)
    assert outcome is not None and outcome.result == "done" and "1 workers fewer" in outcome.text


def test_no_sigkill_follows_a_sigterm_that_is_not_sure() -> None:
    """The listener died around the SIGTERM."""
    world = World(count=2, drain=10_000.0)
    procedure = replace(begin(world, "recycle"), sent=False)
    procedure = procedures.resume(procedure, world.now)
    outcome, more = play(world, procedure, kill=True)
    assert outcome is not None and outcome.result == "failed" and more == []
