"""A recycle by surge, stepped by looks at a program on paper: the number of workers ends where
it began, or where somebody else has put it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from worlds import World

from supervisor_memwatch import procedures
from supervisor_memwatch.model import Command, Decision, Held, Outcome, WorkerId, oldest
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
        also = oldest(snapshot) if way == "surge" and target else None
        decision = Decision(
            "recycle", "web", self.target, None, way=way, patience=patience, also=also
        )
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
        sizes = {worker.id: worker.rss for worker in snapshot.workers}
        new = procedures.newcomers(self.procedure, snapshot)
        size = sizes[new[0]] if new else None
        if self.procedure.step not in ("removing", "settling"):
            terms.setdefault("also", sizes.get(oldest(snapshot)) if sizes else None)
        elif len(new) > 1:
            terms.setdefault("also", sizes[new[1]])
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


def second(size: int) -> Play:
    """The youngest of two is to leave; the oldest holds so many MB."""
    world = World(count=2)
    world.procs[0].base = float(size)
    return Play(world, target=1)


def test_of_two_that_leave_both_are_named_and_counted() -> None:
    """Who by whom, and what both held less what both newcomers hold."""
    play = second(350)
    target, other = play.target, play.world.procs[0].id
    play.to_the_end()
    first, last = (proc.id for proc in play.world.procs)
    assert play.outcome is not None
    assert play.outcome.text == (
        f"worker {target.pid} replaced by {last.pid}, the oldest worker {other.pid} by {first.pid}"
        " (surge); together RSS 420.0MB -> 120.0MB, 300.0MB back"
    )
    assert play.outcome.freed == 300 * MB
    assert play.procedure.also == other


def test_the_step_says_whom_sigttou_takes() -> None:
    """By its pid."""
    play = second(50).until("removing")
    said = procedures.words(play.procedure)
    assert said == "recycle: removing: the oldest worker 1001 asked to leave as well (SIGTTOU)"


def test_the_oldest_that_is_asked_is_the_one_that_is_there_then() -> None:
    """The planned one left by itself meanwhile; who then is the oldest is named."""
    world = World(count=3)
    play = Play(world, target=2)
    world.procs[0].leaves_at = 0.5
    play.to_the_end()
    assert play.outcome is not None and play.outcome.result == "done"
    assert play.procedure.also is not None and play.procedure.also.pid == 1002
    assert "the oldest worker 1002 by " in play.outcome.text
    assert "1001" not in play.outcome.text


def test_a_target_that_has_become_the_oldest_leaves_alone() -> None:
    """The planned one left by itself meanwhile: SIGTTOU takes exactly the target."""
    play = Play(World(count=2), target=1)
    play.world.procs[0].leaves_at = 0.5
    play.to_the_end()
    assert play.sent == ["TTIN", "TTOU"]
    assert play.outcome is not None and play.outcome.result == "done"
    assert play.procedure.also is None and "1001" not in play.outcome.text


def test_one_that_does_not_leave_in_its_grace_is_not_said_to_have_left() -> None:
    """It was asked; only what has come back is counted."""
    world = World(count=2)
    world.procs[0].drain, world.procs[0].base = 1000.0, 350.0
    play = Play(world, target=1).to_the_end()
    assert play.outcome is not None and play.outcome.result == "done"
    assert "the oldest worker 1001 was asked to leave as well, and is still there" in (
        play.outcome.text
    )
    assert play.outcome.freed == 0 and "of worker 1002 alone RSS 60" in play.outcome.text


def test_what_the_second_held_is_never_guessed() -> None:
    """Where it could not be measured, what came back is the target's alone."""
    play = second(350)
    for _ in range(300):
        if play.outcome is None:
            play.look(also=None)
    assert play.outcome is not None and play.outcome.freed == 0
    assert "the oldest worker 1001 by " in play.outcome.text
    assert "of worker 1002 alone RSS 60.0MB -> 60.0MB" in play.outcome.text


def test_a_sigttou_that_took_nobody_names_nobody() -> None:
    """Another worker had just left when it came: that one was not replaced."""
    play = Play(World(count=3), target=1).until("replacing")
    sent = len(play.sent)
    while len(play.sent) == sent:
        snapshot = play.world.snapshot(play.world.now + 1)
        step = procedures.step(play.procedure, snapshot, Terms(size=60 * MB, also=60 * MB))
        play.procedure = step.procedure
        if step.commands:
            play.world.procs.remove(play.world.procs[1])
            play.obey(step.commands)
    play.to_the_end()
    assert play.outcome is not None and play.outcome.result == "done"
    assert play.procedure.also is None and "oldest" not in play.outcome.text
    assert 1001 in {id.pid for id in play.ids} and play.world.number == 3


def test_whom_the_number_is_put_right_with_is_named() -> None:
    """The target was not asked in the end, and the extra worker still costs the oldest."""
    play = Play(World(count=3), target=1).until("adding")
    hindered = Held("paused", "paused for another 1h")
    for _ in range(300):
        if play.outcome is None:
            play.look(hindered=hindered)
    assert play.outcome is not None and play.outcome.result == "overtaken"
    assert play.outcome.text == (
        "worker 1002 was not asked to leave: paused for another 1h; SIGTTOU took worker 1001"
    )
    assert play.procedure.also is not None and play.procedure.also.pid == 1001


def test_a_plan_that_comes_to_nothing_names_nobody() -> None:
    """Somebody else reloaded the master: SIGTTOU was never sent."""
    play = Play(World(count=3), target=1).until("leaving")
    play.world.others("HUP")
    play.to_the_end()
    assert play.outcome is not None and "TTOU" not in play.sent
    assert play.procedure.also is None


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
