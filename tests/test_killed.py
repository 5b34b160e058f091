"""The listener is killed by SIGKILL after every single step of every procedure, on paper.

A first listener carries an action out to its end. After each of its effects (a transaction of the
journal, a signal, a call of Supervisor's) what a SIGKILL would leave behind is put aside: the
journal's files and the world. Then, for each of these moments, another listener takes them over
and has to bring it to an end. Nothing lasts but effects: to die right before one is to die right
after the one before it.
"""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from journals import message
from rig import Rig, event, tick
from worlds import World

from supervisor_memwatch.journal import Journal
from supervisor_memwatch.model import Command, WorkerId

OPTIONS = """
[memwatch:web]
mode = act
growth = off
imbalance = off
total_limit = 100GB
surge = {surge}
"""
BEGIN = 10_000.0  # when the paper clock starts
LOOK = 2.0  # seconds between two looks
LOOKS = 400  # at most, in one listener's life
# The steps in which a signal is sent; the journal names one of them before it is.
SENDS = {
    "TERM": {"leaving"},
    "KILL": {"killed"},
    "HUP": {"reloading"},
    "TTIN": {"adding", "evening"},
    "TTOU": {"leaving", "removing", "evening"},
    "stop": {"stopping"},
    "start": {"starting"},
}


class Case(NamedTuple):
    """An action, and what happens to the program meanwhile."""

    name: str
    action: str
    surge: str = "off"
    target: int = 0  # which worker, oldest first
    world: dict[str, Any] = {}
    others: tuple[tuple[float, str], ...] = ()  # seconds after the beginning, what they do
    fewest: int | None = None  # workers that have to serve at any moment, whoever dies


@dataclass
class Moment:
    """What a SIGKILL right after an effect leaves behind."""

    effect: str
    clock: float
    world: World
    files: dict[str, bytes] = field(repr=False)
    doubtful: bool  # the journal does not know whether the last signal was sent


class Life:
    """A listener from its start to the end of the action, beside a world it shares with nobody."""

    def __init__(self, directory: Path, case: Case, world: World, clock: float) -> None:
        self.case = case
        self.world = world
        self.rig = Rig(directory, OPTIONS.format(surge=case.surge), world)
        self.rig.clock.now = clock
        self.rig.clock.step = LOOK
        self.rig.now_asked = self._stop_at_the_end
        self.moments: list[Moment] = []
        self.effects: list[str] = []
        self.unwritten: list[str] = []  # commands whose plan was not on the disk
        self._done = 0
        self._watching = False  # the first listener's effects are put aside

    def run(self, request: bytes = b"", *, watching: bool = False) -> Life:
        self._watching = watching
        data = b"".join(tick(number, BEGIN * 1e6) for number in range(1, 3))
        data += request
        data += b"".join(tick(number, BEGIN * 1e6) for number in range(10, 10 + LOOKS))
        with self._observed():
            self.rig.run(data)
        return self

    def _stop_at_the_end(self) -> None:
        """Three looks after everything is over this life may end; a request comes after two."""
        listener = self.rig.listener
        watch = listener.watches.get("web")
        over = watch is not None and watch.procedure is None and self.world.quiet()
        self._done = self._done + 1 if over and listener.ticks > 5 else 0
        listener._stopping = listener._stopping or self._done >= 3

    @contextmanager
    def _observed(self) -> Iterator[None]:
        write, do = Journal.write, self.rig.supervisor._do

        def observed_write(journal: Journal, statements: Any, *, sure: bool = False) -> bool:
            work = list(statements)
            durable = write(journal, work)
            if work:
                self._effect("journal: " + work[-1][0].split("(")[0].strip())
            return durable

        def observed_call(call: str, namespec: str) -> None:
            self._planned(call)
            do(call, namespec)
            self._effect(call)

        with (
            mock.patch.object(Journal, "write", observed_write),
            mock.patch.object(self.rig.supervisor, "_do", observed_call),
            mock.patch("supervisor_memwatch.listener.send", self._send),
        ):
            yield

    def _send(self, id: WorkerId, signal: str) -> str | None:
        self._planned(signal)
        if not self.world.here(id):
            return "gone"
        self.world.obey([Command("signal", "web", id, signal)])
        self._effect(f"{signal} to {'the master' if id == self.world.master else 'a worker'}")
        return None

    def _planned(self, what: str) -> None:
        """What is about to be done stands in the file, as any other process reads it."""
        steps = {procedure["step"] for procedure in self.open()}
        if not steps & SENDS[what]:
            self.unwritten.append(f"{what} at step {steps}")

    def _effect(self, name: str) -> None:
        self.effects.append(name)
        if not self._watching:
            return
        state = self.rig.journal.parent
        files = {
            file.name: file.read_bytes()
            for file in state.iterdir()
            if not file.name.endswith((".lock", "-shm"))
        }
        doubtful = any(not procedure.get("sent") for procedure in self.open())
        world = copy.deepcopy(self.world)
        self.moments.append(Moment(name, self.rig.clock.now, world, files, doubtful))

    def open(self) -> list[dict[str, Any]]:
        """The actions that the file has as not ended, as any other process reads it."""
        db = sqlite3.connect(f"file:{self.rig.journal}?mode=ro", uri=True)
        rows = db.execute("SELECT state FROM procedures WHERE ended IS NULL").fetchall()
        db.close()
        return [json.loads(state) for (state,) in rows]

    def results(self) -> list[str]:
        rows = self.rig.rows("SELECT data FROM entries WHERE kind = 'outcome' ORDER BY seq")
        return [json.loads(data)["result"] for (data,) in rows]


def first_life(directory: Path, case: Case) -> Life:
    """The one that is asked, with everything it did and every moment at which it might die."""
    world = World(now=BEGIN, **case.world)
    world.to_come = [(BEGIN + 3 * LOOK + after, what) for after, what in case.others]
    target = world.procs[case.target].id.pid if case.action == "recycle" else "web"
    text = json.dumps(message(case.action, target))
    request = event("REMOTE_COMMUNICATION", f"type:memwatch\n{text}", 3)
    return Life(directory, case, world, BEGIN).run(request, watching=True)


def next_life(directory: Path, case: Case, moment: Moment, gap: float) -> Life:
    """Another listener, `gap` seconds after the death of the first one."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "state").mkdir(parents=True)
    for name, data in moment.files.items():
        (directory / "state" / name).write_bytes(data)
    world = copy.deepcopy(moment.world)
    world.advance(moment.clock + gap)
    return Life(directory, case, world, moment.clock + gap).run()


def wrongs(life: Life, case: Case, moment: Moment | None = None) -> list[str]:
    """What is not as it has to be in the end."""
    world, found = life.world, list(life.unwritten)
    if world.state != "RUNNING":
        found.append(f"the program is {world.state}")
    number, right = world.number, world.number_without_us
    # Where it cannot be known whether a signal of ours was sent, and somebody else has sent one
    # like it meanwhile, nothing seen from outside tells which of the two it was.
    doubt = moment is not None and moment.doubtful and {"TTIN", "TTOU"} & set(world.deeds)
    if abs(number - right) > bool(doubt):
        found.append(f"{number} workers wanted, {right} without us")
    if not world.quiet():
        found.append(f"{len(world.serving())} of {len(world.procs)} workers serve")
    if life.open():
        found.append(f"still open: {life.open()}")
    if case.fewest is not None and (world.fewest or 0) < case.fewest:
        found.append(f"only {world.fewest} workers served at one time")
    return found


SLOW = {"drain": 17.0, "boot": 9.0}
HELD = {"drain": 60.0, "boot": 5.0}  # a long request in flight on every worker
OLD = {**SLOW, "hup_waits": False}  # gunicorn before 24
CASES = [
    Case("plain", "recycle", fewest=2),
    Case("plain, slow", "recycle", world=SLOW, fewest=2),
    Case("plain, one dies", "recycle", world=SLOW, others=((6.0, "crash"),)),
    Case("plain, a reload by others", "recycle", world=SLOW, others=((6.0, "HUP"),)),
    Case("plain, one more by others", "recycle", world=SLOW, others=((6.0, "TTIN"),)),
    Case("plain, one fewer by others", "recycle", world=SLOW, others=((6.0, "TTOU"),)),
    Case("plain, restarted by others", "recycle", world=SLOW, others=((6.0, "restart"),)),
    Case("surge, the oldest", "recycle", "on", fewest=2),
    Case("surge, the oldest, slow", "recycle", "on", world=SLOW, fewest=2),
    Case("surge, the oldest, long requests", "recycle", "on", world=HELD, fewest=2),
    Case("surge, another", "recycle", "on", 2, fewest=2),
    Case("surge, another, slow", "recycle", "on", 1, world=SLOW, fewest=2),
    Case("surge, another, long requests", "recycle", "on", 1, world=HELD, fewest=2),
    Case("surge, the only one", "recycle", "on", world={"count": 1, **SLOW}, fewest=0),
    Case("surge, one of two", "recycle", "on", 1, world={"count": 2, **SLOW}, fewest=1),
    *(
        Case(f"surge, {what} {when:g} s later", "recycle", "on", target, world, ((when, what),))
        for target, world, moments in ((0, SLOW, (1.0, 31.0)), (1, OLD, (13.0, 48.0)))
        for what in ("crash", "oom", "retire", "HUP", "TTIN", "TTOU", "restart")
        for when in moments
    ),
    Case("reload", "reload"),
    Case("reload, slow", "reload", world=SLOW),
    Case("reload, one dies", "reload", world=SLOW, others=((6.0, "crash"),)),
    Case("reload, slow, as before 24", "reload", world=OLD),
    Case("reload, one more by others", "reload", world=SLOW, others=((6.0, "TTIN"),)),
    Case("restart", "restart"),
    Case("restart, slow", "restart", world=SLOW),
    Case("restart, starts that fail", "restart", world={"start_fails": 3}),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whenever_the_listener_is_killed_the_next_one_brings_it_to_its_end(
    tmp_path: Path, case: Case
) -> None:
    """After each effect, all of them: the number of workers is right, the program runs, the
    journal has nothing open."""
    first = first_life(tmp_path / "first", case)
    assert not wrongs(first, case), first.rig.log
    assert len(first.results()) == 1
    assert len(first.moments) > 10
    for number, moment in enumerate(first.moments):
        # Long enough for what others do to happen while nobody looks; else for a step to be over.
        for gap in (30.0,) if case.others else (1.0, 60.0):
            life = next_life(tmp_path / "next", case, moment, gap)
            found = wrongs(life, case, moment)
            assert not found, (
                f"killed after effect {number} ({moment.effect}), next one after {gap:g} s: "
                f"{found}\n{first.effects}\n{life.rig.log}"
            )
