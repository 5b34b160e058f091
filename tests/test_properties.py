"""Recycle, reload and restart against a gunicorn on paper that misbehaves, as properties.

Two machines choose what happens: looks, deaths of the listener at any point, what others do, what
the program does wrong. `Strict` knows how many workers there have to be in the end, and so lets at
most one thing interfere with an action: more than one at once cannot always be told apart from
outside. `Chaos` lets everything happen, and asks for less: no signal but the right ones to the
right ones, nobody asked to leave while a new worker does not boot, and an end.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from worlds import World

from supervisor_memwatch import procedures
from supervisor_memwatch.model import Command, Decision, Held, Outcome, Snapshot, WorkerId, serves
from supervisor_memwatch.procedures import Procedure, Step, Terms
from supervisor_memwatch.quiet import Quiet
from supervisor_memwatch.units import MB

ANSWER = 3600.0  # seconds in which an action has to end, once everything is well again
QUIET = 300.0  # seconds after which nothing more may happen
SETTINGS = settings(
    derandomize=True,
    max_examples=250,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

worlds = st.builds(
    World,
    count=st.integers(1, 4),
    drain=st.sampled_from([0.1, 0.1, 4.0, 20.0, 90.0]),
    boot=st.sampled_from([0.1, 3.0, 15.0]),
    hup_waits=st.booleans(),
    beat=st.sampled_from([0.0, 0.0, 1.0]),
    timeout=st.sampled_from([None, 30.0]),
    shown=st.sampled_from([True, True, True, False]),
    shy=st.sampled_from([0.0, 0.0, 2.5]),
    pids_again=st.booleans(),
)


class Died(BaseException):
    """SIGKILL."""


class Shell:
    """What the listener does around a procedure, in its order: write down, do, write down."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.disk: str | None = None
        self.procedure: Procedure | None = None
        self.outcomes: list[tuple[Procedure, Outcome]] = []
        self.sent: list[Command] = []
        self.spare = -1  # commands and writes until SIGKILL
        self.silent = False  # Supervisor does not answer
        self.busy = False  # the target always has connections
        self._known = ("RUNNING", world.pid)

    @property
    def open(self) -> bool:
        return self.disk is not None

    def begin(self, action: str, target: int, way: str, patience: float) -> None:
        snapshot = self.snapshot(0.0)
        if not snapshot.workers:
            return  # they are there, and not seen yet
        id: WorkerId | None = None
        if action == "recycle":
            id = snapshot.workers[target % len(snapshot.workers)].id
        elif action == "reload" and snapshot.master is not None:
            id = snapshot.master.id
        decision = Decision(action, "web", id, None, way=way, reason="told so", patience=patience)
        self.world.fewest = None
        planned = procedures.begin(decision, snapshot, 60 * MB, "RSS")
        self._write(planned)
        self._apply(procedures.first_commands(planned), snapshot)

    def look(self, seconds: float) -> None:
        snapshot = self.snapshot(seconds)
        if self.procedure is None:
            return
        if self.silent and self.procedure.action == "restart":
            snapshot = snapshot._replace(state="UNKNOWN")
        quiet = Quiet(snapshot.at, snapshot.at if self.busy else 0.0, 3 if self.busy else 0)
        terms = Terms(size=60 * MB, quiet=quiet, hindered=self._hindered(snapshot))
        self._apply(procedures.step(self.procedure, snapshot, terms), snapshot)

    def _hindered(self, snapshot: Snapshot) -> Held | None:
        """One of the guards, the one that a sibling's end wakes."""
        assert self.procedure is not None
        others = [worker for worker in snapshot.workers if worker.id != self.procedure.target]
        if sum(serves(worker) for worker in others) >= len(self.procedure.before) - 1:
            return None
        return Held("max_unavailable", "another one is away")

    def snapshot(self, seconds: float) -> Snapshot:
        snapshot = self.world.snapshot(self.world.now + seconds)
        if self.silent:
            return snapshot._replace(state=self._known[0], pid=self._known[1])
        self._known = (snapshot.state, snapshot.pid)
        return snapshot

    def _apply(self, step: Step, snapshot: Snapshot) -> None:
        self._write(None if step.outcome else step.procedure)
        if step.outcome is not None:
            self.outcomes.append((step.procedure, step.outcome))
        for command in step.commands:
            error = self._do(command)
            assert self.procedure is not None
            if error is not None:
                self._apply(procedures.failed(self.procedure, command, error), snapshot)
                return
            self._write(procedures.carried_out(self.procedure))

    def _do(self, command: Command) -> str | None:
        assert self.disk is not None and self.procedure is not None
        plan = procedures.from_json(json.loads(self.disk))
        assert plan.step == self.procedure.step, "it was written down before"
        self._dies()
        obey_the_laws(self, command)
        self.sent.append(command)
        if command.do != "signal":
            self.world.obey([command])
        elif not self.world.here(command.target):
            return "gone"
        else:
            self.world.obey([command])
        self._dies()
        return None

    def _write(self, procedure: Procedure | None) -> None:
        self._dies()
        self.procedure = procedure
        data = None if procedure is None else procedures.to_json(procedure)
        self.disk = None if data is None else json.dumps(data)
        if procedure is not None:
            again = procedures.from_json(json.loads(json.dumps(data)))
            assert again == procedure, "what is read back is what was written"
        self._dies()

    def _dies(self) -> None:
        if self.spare == 0:
            self.spare = -1
            raise Died
        self.spare -= self.spare > 0

    def next_listener(self, gap: float) -> None:
        """Another one, after the death of the one before."""
        self.world.advance(self.world.now + gap)
        self._known = (self.world.state, self.world.pid)
        self.procedure = None
        if self.disk is not None:
            read = procedures.from_json(json.loads(self.disk))
            if procedures.untouched(read):
                self._write(None)
            else:
                self._write(procedures.resume(read, self.world.now))


def obey_the_laws(shell: Shell, command: Command) -> None:
    """Of one command, before it is carried out."""
    world, procedure = shell.world, shell.procedure
    assert procedure is not None
    if command.do == "start":
        return
    assert not world.halting or shell.silent or world.now < world.halted + 1.5, (
        f"{command.signal or command.do} to a master that ends"
    )
    if command.do == "stop":
        return
    assert command.signal in ("TERM", "HUP", "TTIN", "TTOU"), "law 4: none but these"
    if command.signal == "TERM":
        assert command.target == procedure.target, "law 4: the one that was judged"
    else:
        assert command.target == procedure.master, "law 4: its master"
    theirs = {"TTIN", "HUP", "restart"} & set(world.deeds)
    if command.signal in ("TERM", "TTOU") and not theirs:
        fresh = [p for p in world.procs if p.id not in procedure.before and p.leaves_at is None]
        booting = [p for p in fresh if not p.up and world.now - p.born >= world.shy]
        if "oom" in world.deeds:  # then nothing but one worker fewer helps
            assert len(world.serving()) >= len(procedure.before), "law 2"
        else:
            assert not booting or not world.shown, "law 5: nobody leaves while a new worker boots"


class Machine(RuleBasedStateMachine):
    """A program on paper, a listener beside it."""

    @initialize(world=worlds)
    def a_program(self, world: World) -> None:
        self.shell = Shell(world)
        self.world = world
        self.interferences = 0
        self.judged = 0
        self.failing = False  # a claim did not hold: the end need not be looked at

    @precondition(lambda self: not self.shell.open and self.world.quiet() and self.well())
    @rule(
        action=st.sampled_from(["recycle"] * 8 + ["reload", "restart"]),
        which=st.integers(0, 3),
        way=st.sampled_from(["surge", "surge", "plain"]),
        patience=st.sampled_from([0.0, 0.0, 20.0]),
        spare=st.sampled_from([-1, -1, 0, 1, 2, 3, 4, 5]),
    )
    def begins(self, action: str, which: int, way: str, patience: float, spare: int) -> None:
        self.interferences = 0
        self.shell.sent.clear()
        self.world.deeds.clear()
        self.world.to_come.clear()
        if spare >= 0:
            self.interferences += 1
        self.shell.spare = spare
        self._alive(lambda: self.shell.begin(action, which, way, patience))

    @rule(seconds=st.sampled_from([1.0, 1.0, 1.0, 2.0, 5.0, 12.0, 40.0]))
    def looks(self, seconds: float) -> None:
        self._alive(lambda: self.shell.look(seconds))

    @rule(times=st.integers(5, 60))
    def looks_for_a_while(self, times: int) -> None:
        for _ in range(times):
            self._alive(lambda: self.shell.look(1.0))

    def _alive(self, life: Callable[[], None]) -> None:
        self.failing = True
        try:
            life()
        except Died:
            self.shell.next_listener(1.0)
        for procedure, outcome in self.shell.outcomes[self.judged :]:
            self.judged += 1
            self.judge(procedure, outcome)
        self.failing = False

    def judge(self, procedure: Procedure, outcome: Outcome) -> None:
        """A procedure has just ended."""
        if procedure.action != "recycle":
            return
        if outcome.result in ("done", "ineffective"):
            assert procedure.target is not None
            assert not self.world.here(procedure.target), "it has really left"

    @rule()
    def becomes_busy_or_not(self) -> None:
        self.shell.busy = not self.shell.busy

    def _run(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end and (self.shell.open or not self.world.quiet()):
            self._alive(lambda: self.shell.look(1.0))

    def well(self) -> bool:
        """Nothing is wrong with the program that only shows later."""
        return self.world.boots and not self.world.broken

    def _heals(self) -> None:
        """Whatever was wrong with the program is over."""
        self.world.boots, self.world.broken, self.shell.silent = True, 0, False
        self.shell.busy = False

    @invariant()
    def there_is_one_action_at_most(self) -> None:
        if hasattr(self, "shell"):
            assert (self.shell.procedure is None) == (self.shell.disk is None)


class Strict(Machine):
    """One thing at most interferes with an action: the number of workers is right in the end."""

    @precondition(lambda self: self.shell.open and not self.interferences)
    @rule(what=st.sampled_from(["HUP", "TTIN", "TTOU", "crash", "oom", "retire", "restart"]))
    def others_do(self, what: str) -> None:
        self.interferences += 1
        self.world.others(what)

    @precondition(lambda self: self.shell.open and not self.world.deeds)
    @rule(spare=st.integers(0, 6), gap=st.sampled_from([0.5, 5.0, 60.0, 400.0]))
    def the_listener_dies(self, spare: int, gap: float) -> None:
        """Now, or within its next looks."""
        self.interferences += 1
        self.shell.spare = spare
        for _ in range(30):
            try:
                self.shell.look(1.0)
            except Died:
                break
        self.shell.spare = -1
        self.shell.next_listener(gap)

    @precondition(lambda self: self.shell.open and not self.interferences)
    @rule()
    def new_workers_hang(self) -> None:
        self.interferences += 1
        self.world.deeds.append("hang")
        self.world.boots = False

    @precondition(lambda self: self.shell.open and not self.interferences)
    @rule()
    def the_code_breaks(self) -> None:
        self.interferences += 1
        self.world.deeds.append("broken")
        self.world.broken = 3

    def judge(self, procedure: Procedure, outcome: Outcome) -> None:
        super().judge(procedure, outcome)
        if procedure.action == "recycle" and not self.interferences:
            away = 0 if procedure.way == "surge" else 1
            served = len(procedure.before) - away
            assert self.world.fewest is None or self.world.fewest >= served, story(self)

    def teardown(self) -> None:
        if not hasattr(self, "shell") or self.failing:
            return
        self._run(900)
        if self.shell.open and not self.world.boots:
            assert self.shell.procedure is not None
            assert "serve" in self.shell.procedure.trouble, "it is said"
        self._heals()
        self.ends_well()

    @precondition(lambda self: self.shell.open)
    @rule()
    def it_ends_and_the_number_is_right(self) -> None:
        self._heals()
        self.ends_well()

    def ends_well(self) -> None:
        world, shell = self.world, self.shell
        self._run(ANSWER)
        if world.state in ("EXITED", "FATAL", "STOPPED"):
            world.others("start")
            self._run(ANSWER)
        self.failing = True
        assert not shell.open, f"it ends: {shell.procedure}"
        assert world.quiet(), f"all is well again: {world}"
        assert world.number == world.number_without_us, story(self)
        sent = len(shell.sent)
        world.advance(world.now + QUIET)
        assert len(shell.sent) == sent and world.quiet()
        self.failing = False


def story(machine: Machine) -> str:
    world = machine.world
    log = [(round(at, 1), c.signal or c.do, c.target and c.target.pid) for at, c in world.log]
    return (
        f"{world.number} workers wanted, {world.number_without_us} without us, "
        f"{world.fewest} at the worst; others: {world.deeds}; {log[-12:]}; "
        f"{machine.shell.outcomes[-1:] or machine.shell.procedure}"
    )


class Chaos(Machine):
    """Everything happens: only the laws, and an end."""

    @rule(
        what=st.sampled_from(
            ["HUP", "TTIN", "TTOU", "crash", "oom", "retire", "restart", "stop", "start", "USR2"]
        )
    )
    def others_do(self, what: str) -> None:
        self.world.others(what)

    @rule(spare=st.integers(0, 6), gap=st.sampled_from([0.5, 5.0, 60.0, 400.0]))
    def the_listener_dies(self, spare: int, gap: float) -> None:
        self.shell.spare = spare
        for _ in range(5):
            try:
                self.shell.look(1.0)
            except Died:
                break
        self.shell.spare = -1
        self.shell.next_listener(gap)

    @rule(boots=st.booleans())
    def new_workers_hang_or_not(self, boots: bool) -> None:
        self.world.boots = boots

    @rule(status=st.sampled_from([0, 0, 3, 4]))
    def the_code_breaks_or_is_mended(self, status: int) -> None:
        self.world.broken = status

    @rule(silent=st.booleans())
    def supervisor_falls_silent_or_speaks(self, silent: bool) -> None:
        self.shell.silent = silent

    @rule(seconds=st.sampled_from([0.1, 30.0, 300.0]))
    def requests_take_longer(self, seconds: float) -> None:
        self.world.drain = seconds

    @rule(number=st.integers(1, 5))
    def the_file_changes(self, number: int) -> None:
        self.world.in_file = number

    @rule(holds=st.sampled_from([None, 5, 1]))
    def the_master_loses_signals(self, holds: int | None) -> None:
        self.world.queue_holds = holds

    def teardown(self) -> None:
        if not hasattr(self, "shell") or self.failing:
            return
        self._heals()
        self._run(ANSWER)
        if self.world.state != "RUNNING":
            self.world.others("start")
            self._run(ANSWER)
        assert not self.shell.open, f"it ends: {self.shell.procedure}"


TestStrict = Strict.TestCase
TestStrict.settings = SETTINGS
TestChaos = Chaos.TestCase
TestChaos.settings = SETTINGS


# -- histories worth keeping


def act(shell: Shell, seconds: int) -> None:
    for _ in range(seconds):
        shell.look(1.0)


def test_a_worker_is_kept_while_a_sibling_is_away() -> None:
    """Another one crashes while a quiet moment is awaited."""
    shell = Shell(World(count=3, boot=15.0))
    shell.busy = True
    shell.begin("recycle", 2, "plain", 20.0)
    act(shell, 6)
    shell.world.procs[0].leaves_at = shell.world.now
    act(shell, 60)
    assert shell.sent == [] and shell.outcomes[0][1].result == "overtaken"


@pytest.mark.parametrize("hup_waits", [True, False])
def test_a_reload_whose_old_workers_take_long_is_one_all_the_same(hup_waits: bool) -> None:
    """The old ones are finishing their requests, the new ones serve: SIGTTIN is forgotten."""
    shell = Shell(World(count=3, drain=90.0, boot=15.0, hup_waits=hup_waits))
    shell.begin("recycle", 1, "surge", 0.0)
    shell.world.others("HUP")
    act(shell, 600)
    assert [command.signal for command in shell.sent] == ["TTIN"]
    assert not shell.open and shell.world.quiet() and shell.world.number == 3


def test_nothing_is_sent_to_a_master_that_is_about_to_end() -> None:
    """The code broke between the extra worker and the replacement, which does not boot: the others
    finish their requests, and the master ends."""
    world = World(count=4, drain=25.0, boot=3.0)
    shell = Shell(world)
    shell.begin("recycle", 3, "surge", 0.0)
    act(shell, 5)
    world.broken = 3
    act(shell, 300)
    assert [command.signal for command in shell.sent] == ["TTIN", "TERM"]
    assert not shell.open


def test_an_oom_kill_of_a_sibling_is_made_good_before_anybody_leaves() -> None:
    """SIGTTOU would take a second one away."""
    world = World(count=3, boot=15.0)
    shell = Shell(world)
    shell.begin("recycle", 0, "surge", 0.0)
    act(shell, 2)
    world.others("oom")
    act(shell, 300)
    assert world.fewest == 2
    assert not shell.open and world.quiet() and world.number == 3
