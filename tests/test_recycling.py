"""A recycle by surge, stepped by looks at a program on paper: the number of workers ends where
it began, or where somebody else has put it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from worlds import World

from supervisor_memwatch import procedures
from supervisor_memwatch.model import Command, Decision, Outcome, WorkerId
from supervisor_memwatch.procedures import Procedure, Terms
from supervisor_memwatch.quiet import Quiet
from supervisor_memwatch.units import MB


class Play:
    """A recycle on paper, looked at each second."""

    def __init__(self, world: World, target: int = 0, way: str = "surge", patience: float = 0.0):
        self.world = world
        snapshot = world.snapshot(world.now)
        self.target: WorkerId = snapshot.workers[target].id
        self.others = {worker.id for worker in snapshot.workers} - {self.target}
        decision = Decision("recycle", "web", self.target, None, way=way, patience=patience)
        step = procedures.first_commands(procedures.begin(decision, snapshot, 60 * MB, "RSS"))
        self.procedure: Procedure = step.procedure
        self.outcome: Outcome | None = None
        self.sent: list[str] = []
        self.steps = [self.procedure.step]
        self.fewest = len(world.serving())
        self.obey(step.commands)

    def obey(self, commands: tuple[Command, ...]) -> None:
        self.world.obey(commands)
        self.sent += [command.signal for command in commands]
        if commands:
            self.procedure = procedures.carried_out(self.procedure)

    def look(self, quiet: Quiet | None = None, **terms: object) -> None:
        snapshot = self.world.snapshot(self.world.now + 1)
        new = procedures.newcomer(self.procedure, snapshot)
        size = next((w.rss for w in snapshot.workers if w.id == new), None)
        # What is read back from the journal has to go on just the same.
        kept = json.loads(json.dumps(procedures.to_json(self.procedure)))
        assert procedures.from_json(kept) == self.procedure
        step = procedures.step(self.procedure, snapshot, Terms(size=size, quiet=quiet, **terms))
        self.procedure, self.outcome = step.procedure, step.outcome
        self.fewest = min(self.fewest, len(self.world.serving()))
        if self.procedure.step != self.steps[-1]:
            self.steps.append(self.procedure.step)
        self.obey(step.commands)

    def until(self, step: str) -> Play:
        for _ in range(300):
            if self.procedure.step == step:
                return self
            self.look()
        raise AssertionError(f"never at {step}, but {self.steps}")

    def to_the_end(self, seconds: int = 600) -> Play:
        for _ in range(seconds):
            if self.outcome is not None:
                break
            self.look()
        self.world.advance(self.world.now + 300)
        return self

    def listener_dies(self) -> None:
        """After the plan of this step was written down; whether its command went out is not."""
        self.procedure = procedures.resume(replace(self.procedure, sent=False), self.world.now)

    @property
    def ids(self) -> set[WorkerId]:
        return {proc.id for proc in self.world.procs}


# The steps at which a look finds the surge of the oldest worker (0), and of another one (1).
STEPS = [
    *((0, step) for step in ("adding", "leaving", "settling")),
    *((1, step) for step in ("adding", "leaving", "replacing", "removing", "settling")),
]


def test_the_oldest_worker_is_swapped_by_sigttin_and_sigttou() -> None:
    """One more serves before it is asked to leave; nobody else is touched."""
    play = Play(World(count=3)).to_the_end()
    assert play.outcome is not None and play.outcome.result == "done", play.outcome
    assert play.sent == ["TTIN", "TTOU"]
    assert play.steps == ["adding", "leaving", "settling"]
    assert play.target not in play.ids and play.others < play.ids
    assert play.world.number == len(play.ids) == 3
    assert play.fewest == 3


def test_another_worker_costs_the_oldest_too() -> None:
    """SIGTTIN, SIGTERM, its replacement, SIGTTOU: never fewer than before serve."""
    play = Play(World(count=3), target=1).to_the_end()
    assert play.outcome is not None and play.outcome.result == "done", play.outcome
    assert play.sent == ["TTIN", "TERM", "TTOU"]
    assert play.steps[-3:] == ["replacing", "removing", "settling"]
    assert play.target not in play.ids and len(play.others & play.ids) == 1
    assert play.world.number == len(play.ids) == 3
    assert play.fewest == 3


def test_a_single_worker_is_replaced_without_a_gap() -> None:
    """The only one leaves when its successor serves."""
    play = Play(World(count=1, boot=20.0)).to_the_end()
    assert play.outcome is not None and play.outcome.result == "done", play.outcome
    assert play.fewest == 1 and play.world.number == 1 and play.target not in play.ids


def test_nobody_leaves_while_the_extra_worker_does_not_boot() -> None:
    """Law 5: it is said once, and waited for."""
    play = Play(World(count=2, boots=False))
    for _ in range(400):
        play.look()
    assert play.outcome is None and play.sent == ["TTIN"] and play.fewest == 2
    assert "does not serve" in play.procedure.trouble
    play.world.boots = True
    play.to_the_end()
    assert play.outcome is not None and play.outcome.result == "done"
    assert play.world.number == 2


@pytest.mark.parametrize(("target", "step"), STEPS)
@pytest.mark.parametrize("deed", ["HUP", "crash", "retire", "TTIN", "TTOU", "restart"])
@pytest.mark.parametrize("dies", [False, True])
def test_whatever_others_do_the_number_is_theirs(
    step: str, target: int, deed: str, dies: bool
) -> None:
    """At any step, with the listener dying at that very moment or not."""
    world = World(count=3, drain=2.5, boot=2.0)
    play = Play(world, target)
    play.until(step)
    world.others(deed)
    if dies and deed in ("crash", "retire", "restart"):
        play.listener_dies()
    play.to_the_end()
    assert play.outcome is not None, play.procedure
    assert world.number == world.number_without_us == len(world.procs)


@pytest.mark.parametrize(("target", "step"), STEPS)
@pytest.mark.parametrize("went_out", [True, False])
def test_a_listener_that_dies_at_any_step_is_followed_by_one_that_ends_it(
    step: str, target: int, went_out: bool
) -> None:
    """Whether the step's signal went out or not: the number of workers is right in the end."""
    world = World(count=3, drain=2.5, boot=2.0)
    play = Play(world, target)
    if step != "adding" or went_out:
        obey = play.obey
        if not went_out:
            play.obey = lambda commands: None if play.procedure.step == step else obey(commands)
        play.until(step)
        play.obey = obey
    else:
        world = World(count=3, drain=2.5, boot=2.0)
        unsent = play.procedure
        play = Play(world, target)
        world = play.world = World(count=3, drain=2.5, boot=2.0)  # which never heard of it
        play.procedure = unsent
    play.listener_dies()
    play.to_the_end()
    assert play.outcome is not None, play.procedure
    assert world.number == len(world.procs) == 3


def test_the_kernels_oom_killer_ends_a_surge_at_once() -> None:
    """The extra worker was one too many: it is taken back before it serves."""
    world = World(count=3, boot=60.0)
    play = Play(world)
    play.procedure = replace(play.procedure, oom_kills=0)
    snapshot = world.snapshot(world.now + 1)
    step = procedures.step(play.procedure, snapshot._replace(oom_kills=1), Terms())
    play.procedure = step.procedure
    play.obey(step.commands)
    assert play.sent == ["TTIN", "TTOU"]
    play.to_the_end()
    assert play.outcome is not None and play.outcome.result == "failed"
    assert world.number == 3


def test_a_quiet_moment_is_waited_for() -> None:
    """A worker with clients is asked when the fewest are connected, in the second half of the
    patience; one without clients at once."""
    play = Play(World(count=3), way="plain", patience=20.0)
    assert play.sent == []
    for connections in (5, 2, 4, 3):
        play.look(quiet=Quiet(play.world.now, play.world.now * 0.2, connections))
    assert play.sent == []
    while play.world.now < 12:
        play.look(quiet=Quiet(play.world.now, play.world.now * 0.2, 3))
    assert play.sent == []
    play.look(quiet=Quiet(play.world.now, play.world.now * 0.2, 2))
    assert play.sent == ["TERM"]


def test_a_worker_without_clients_is_asked_at_once() -> None:
    """Nothing could get lost."""
    play = Play(World(count=3), way="plain", patience=20.0)
    play.look(quiet=Quiet(play.world.now, 1.0, 0))
    assert play.sent == ["TERM"]


def test_patience_ends() -> None:
    """A worker that is never quiet is asked all the same."""
    play = Play(World(count=3), way="plain", patience=20.0)
    for i in range(25):
        play.look(quiet=Quiet(play.world.now, play.world.now, 5 + i))
    assert play.sent[:1] == ["TERM"]
