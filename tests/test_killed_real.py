"""The listener is killed by SIGKILL at each kind of step of each action, beside real servers.

One supervisord with a program for each step. They are asked for, a few at a time; the listener is
killed when the journal shows the step of one of them, and supervisord starts another one, which has
to finish that action and all others that are open. On paper it dies at every single effect
(test_killed.py); what lasts no look at all (`planned`) can be met only there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from conftest import TRACES
from journals import Book
from servers import Supervisor, answers, free_port, get, gunicorn, program, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = 2
TRIES = 4  # a step may be over before it was seen
MEMWATCH = """\
[memwatch]
mode = act
growth = off
imbalance = off
preflight = off
cooldown = 0
budget = 100/1h
max_programs_at_once = 50
"""
OWN = """
[memwatch:{name}]
surge = {surge}
kill = {kill}
grace = {grace}
"""


class Case(NamedTuple):
    """An action and the step at which the listener is killed."""

    way: str  # "plain", "oldest" or "another" (by surge), "reload", "restart"
    step: str
    workers: int = WORKERS  # how many there have to be in the end

    @property
    def name(self) -> str:
        return f"{self.way}-{self.step}"


# Those of a batch are under way at the same time.
BATCHES: list[list[Case]] = [
    [Case("another", "evening", WORKERS + 1)],  # somebody else adds a worker meanwhile: it stays
    [Case("another", step) for step in ("adding", "quiet", "replacing")],
    [Case("another", step) for step in ("leaving", "removing", "settling")],
    [Case("oldest", step) for step in ("adding", "quiet", "settling")],
    [Case("oldest", "leaving")],
    [Case("plain", "killed")],
    [Case("plain", step) for step in ("quiet", "settling")],
    [Case("plain", step) for step in ("leaving", "replacing")],
    [Case("reload", step) for step in ("reloading", "settling")],
    [Case("restart", step) for step in ("stopping", "settling")],
    [Case("restart", "starting")],
]
CASES = [case for batch in BATCHES for case in batch]


class Played:
    """The supervisord, from the first request to the last outcome."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {case.name: free_port() for case in CASES}
        self.supervisor = Supervisor(
            directory,
            "".join(self._program(case) for case in CASES),
            memwatch=MEMWATCH + "".join(map(self._options, CASES)),
            listener="startsecs=0\n",  # so that it may die as soon as it lives
            env=dict.fromkeys(TRACES),
        )
        self.book = Book(self.supervisor)
        self.died: dict[str, str] = {}  # the step the journal had open after the SIGKILL
        self.targets: dict[str, int] = {}
        self.deaths = 0

    def _program(self, case: Case) -> str:
        environment = {"HOLD": self.directory / f"{case.name}.hold", "IMPORT": 1.5}
        command = gunicorn(
            "slow:app", self.ports[case.name], workers=WORKERS, options="--timeout 300"
        )
        return program(case.name, command, environment=environment)

    def _options(self, case: Case) -> str:
        kill, grace = ("on", "1s") if case.step == "killed" else ("off", "20s")
        surge = "off" if case.way == "plain" else "on"
        return OWN.format(name=case.name, surge=surge, kill=kill, grace=grace)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"

    def ready(self) -> None:
        """Every program answers, and the listener has seen it."""
        for case in CASES:
            wait_until(lambda name=case.name: answers(self.url(name)), 120, str(self.supervisor))
        wait_until(
            lambda: self.book.watched() >= {case.name for case in CASES}, 60, str(self.supervisor)
        )

    def play(self, batch: list[Case]) -> None:
        """Ask for them, and kill the listener when each has got that far."""
        for _ in range(TRIES):
            missed = [case for case in batch if self.died.get(case.name) != case.step]
            with contextlib.ExitStack() as held:
                self._looked()
                for case in missed:
                    self._closed(case)
                    if case.step == "killed":
                        held.enter_context(self._request_in_flight(case))
                    self._ask(case)
                for case in missed:
                    if self._see(case):
                        self._kill()
                        self.died[case.name] = self.book.open_steps().get(case.name, "")
                        self._wait_for_another()

    def _ask(self, case: Case) -> None:
        name = case.name
        target: object = name
        if case.way in ("plain", "oldest", "another"):
            workers = self.supervisor.children(name)
            by_age = sorted(workers, key=lambda pid: psutil.Process(pid).create_time())
            chosen = by_age[0 if case.way == "oldest" else -1]
            if self.targets.get(name) not in workers:
                self.targets[name] = chosen
            target = self.targets[name]
        command = case.way if case.way in ("reload", "restart") else "recycle"
        answer = wait_until(lambda: self.book.ask(command, target), 60, str(self.supervisor))
        assert answer[0] == "accepted", f"{name}: {answer}\n{self.supervisor}"
        if case.step == "evening":
            assert self.book.open_steps()[name] == "adding"
            os.kill(self.supervisor.program_pid(name), signal.SIGTTIN)

    def _looked(self) -> None:
        """The listener knows all workers: it has had a tick."""
        pid = self.supervisor.program_pid("memwatch")
        wait_until(
            lambda: self.book.fact("pid") == pid and self.book.fact("ticks"),
            what=lambda: str(self.supervisor),
        )

    def _closed(self, case: Case) -> None:
        """No action of it is open, and all its workers are there, and were seen."""
        wait_until(
            lambda: (
                case.name not in self.book.open_steps()
                and len(self.supervisor.children(case.name)) == WORKERS
                and self.book.workers(case.name) == self.supervisor.children(case.name)
            ),
            120,
            lambda: f"{case.name} is over\n{self.supervisor}",
        )

    def _see(self, case: Case) -> bool:
        """Whether the journal shows its step before the action is over."""
        wait_until(
            lambda: self.book.open_steps().get(case.name, case.step) == case.step,
            120,
            lambda: f"{case.name}\n{self.supervisor}",
            every=0.01,
        )
        return case.name in self.book.open_steps()

    def _kill(self) -> None:
        psutil.Process(self.supervisor.wait_for("memwatch")).kill()
        self.deaths += 1

    def _wait_for_another(self) -> None:
        pid = self.book.fact("pid")
        wait_until(
            lambda: self.supervisor.program_pid("memwatch") not in (0, pid),
            what=lambda: f"another listener\n{self.supervisor}",
        )

    @contextlib.contextmanager
    def _request_in_flight(self, case: Case) -> Iterator[None]:
        """One worker, our target, is busy until we let go of it."""
        name = case.name
        hold = self.directory / f"{name}.hold"
        hold.unlink(missing_ok=True)
        begun = hold.with_name(hold.name + ".begun")
        begun.unlink(missing_ok=True)

        def ask() -> None:
            with contextlib.suppress(OSError):
                get(self.url(name) + "hold", 200)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            wait_until(begun.exists, what="the request is being worked on")
            free = int(get(self.url(name)))
            (self.targets[name],) = self.supervisor.children(name) - {free}
            yield
        finally:
            hold.touch()
            thread.join(60)

    def over(self) -> bool:
        return self.book.open_steps() == {} and all(
            len(self.supervisor.children(case.name)) == case.workers for case in CASES
        )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Played once; the tests look at what it left."""
    host = Played(tmp_path_factory.mktemp("killed"))
    with host.supervisor:
        host.ready()
        for batch in BATCHES:
            host.play(batch)
        with contextlib.suppress(AssertionError):  # what is not right is told by the tests
            wait_until(host.over, 240)
        ticks = host.book.fact("ticks")
        wait_until(lambda: host.book.fact("ticks") >= ticks + 3, 60)  # and stays as it is
        yield host


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_next_listener_finishes_what_was_begun(played: Played, case: Case) -> None:
    """The program runs with its number of workers, and the journal has nothing open."""
    assert played.died.get(case.name) == case.step, "it was killed at this very step"
    said = [line.text for line in played.book.lines(case.name)]
    untouched = case.name == "plain-quiet"  # nothing had been done yet: it is called off
    resumed = "was restarted before it asked" if untouched else "was not finished: going on"
    assert any(resumed in text for text in said), said
    assert case.name not in played.book.open_steps(), said
    assert played.supervisor.state(case.name) == "RUNNING"
    assert len(played.supervisor.children(case.name)) == case.workers, said
    (last,) = played.book.results(case.name)[-1:]
    off = untouched or case.step == "evening"
    assert last == ("overtaken" if off else "done"), said
    if case.name in played.targets and not off:
        assert played.targets[case.name] not in played.supervisor.children(case.name)
    assert answers(played.url(case.name))


def test_every_death_was_followed_by_another_listener(played: Played) -> None:
    """Each ended by SIGKILL, none gave up."""
    assert played.deaths >= len(CASES)
    assert played.supervisor.state("memwatch") == "RUNNING"
    assert played.supervisor.log().count("memwatch (terminated by SIGKILL") == played.deaths
