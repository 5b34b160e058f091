"""A surge of the younger of two workers under real gunicorns: who leaves, and what is said of it.

One supervisord with a program for each version of gunicorn; the story is played once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TRACES
from journals import Book
from servers import (
    Load,
    Supervisor,
    answers,
    free_port,
    gunicorn,
    gunicorn_path,
    program,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

VERSIONS = {"web20": "20.1.0", "web23": "23.0.0", "web25": "25.3.0", "web27": None}
KEPT = 1_000_000  # bytes that each request leaves behind
MEMWATCH = """[memwatch]
mode = act
growth = off
imbalance = off
preflight = off
max_programs_at_once = 4
"""


class Played:
    """Each program's younger worker was asked for, while requests flow."""

    def __init__(self, directory: Path) -> None:
        self.ports = {name: free_port() for name in VERSIONS}
        sections = [
            program(
                name,
                gunicorn("leaky:app", self.ports[name]),
                environment={
                    **gunicorn_path(version),
                    "LEAK_FLAG": "all",
                    "LEAK_BYTES": KEPT,
                },
            )
            for name, version in VERSIONS.items()
        ]
        self.supervisor = Supervisor(
            directory, "".join(sections), memwatch=MEMWATCH, env=dict.fromkeys(TRACES)
        )
        self.book = Book(self.supervisor)
        self.before: dict[str, list[int]] = {}  # the oldest first
        self.after: dict[str, set[int]] = {}
        self.kept: dict[str, list[int]] = {}  # bytes, by the same
        self.answers: dict[str, str] = {}
        self.loads: dict[str, Load] = {}
        self.history: dict[str, Any] = {}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"

    def play(self) -> None:
        for name in VERSIONS:
            wait_until(lambda name=name: answers(self.url(name) + "pid"), 120, str(name))
            wait_until(lambda name=name: len(self.supervisor.children(name)) == 2, 60, str(name))
            self.before[name] = sorted(self.supervisor.children(name))
            self.kept[name] = self._fill(name)
        wait_until(lambda: self.book.watched() >= set(VERSIONS), 60, str(self.supervisor))
        wait_until(self._measured, 60, lambda: f"all are measured\n{self.supervisor}")
        for name in VERSIONS:
            self.loads[name] = Load(self.url(name) + "pid", concurrency=2, rate=40)
        for name in VERSIONS:
            done = self.supervisor.run("recycle", str(self.before[name][1]))
            self.answers[name] = done.stdout + done.stderr
        for name in VERSIONS:
            self.book.wait_for(name, "outcome")
            self.after[name] = self.supervisor.children(name)
        told = json.loads(self.supervisor.run("history", "--json").stdout)
        self.history = {action["namespec"]: action for action in told["actions"]}
        for load in self.loads.values():
            load.stop()

    def _fill(self, name: str) -> list[int]:
        """Both workers keep something, each as much as it was asked."""
        with Load(self.url(name), concurrency=4, rate=100) as load:
            pids = [str(pid) for pid in self.before[name]]
            wait_until(lambda: min(load.bodies[pid] for pid in pids) >= 20, 60, str(name))
        assert not load.failed
        return [load.bodies[pid] * KEPT for pid in pids]

    def _measured(self) -> bool:
        """By what the journal has, each holds what it kept."""
        document = json.loads(self.supervisor.run("status", "--json").stdout)
        return all(
            len(program["workers"]) == 2
            and all(
                worker["anon"] >= kept
                for worker, kept in zip(
                    sorted(program["workers"], key=lambda each: each["pid"]),
                    self.kept[program["namespec"]],
                    strict=True,
                )
            )
            for program in document["programs"]
        )

    def close(self) -> None:
        for load in self.loads.values():
            load.stop()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    found = Played(tmp_path_factory.mktemp("surge"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(found.supervisor)
        stack.callback(found.close)
        found.play()
        yield found


@pytest.mark.parametrize("name", VERSIONS)
def test_both_are_named_before_and_after_and_no_request_is_lost(played: Played, name: str) -> None:
    """SIGTTOU takes the oldest, whichever gunicorn: the answer and the plan say so, and what came
    back is what both had kept."""
    oldest, target = played.before[name]
    plan = f"takes the oldest worker {oldest} as well"
    assert played.answers[name].startswith("accepted: recycle has begun (surge: ")
    assert plan in played.answers[name]
    book = played.book
    (intent,) = book.lines(name, "intent")
    assert plan in intent.text and intent.data["also_pid"] == oldest
    assert book.steps(name)[-2:] == ["removing", "settling"]
    (outcome,) = book.lines(name, "outcome")
    assert outcome.data["result"] == "done", outcome.text
    new = sorted(played.after[name])
    assert len(new) == 2 and not set(new) & {oldest, target}
    assert f"worker {target} replaced by {new[1]}, the oldest worker {oldest} by {new[0]}" in (
        outcome.text
    )
    action = played.history[name]
    assert (action["pid"], action["also_pid"]) == (target, oldest)
    both = sum(played.kept[name])
    assert 0.9 * both < action["freed_bytes"] < both + 20 * KEPT, (outcome.text, played.kept[name])
    assert book.lines(name, "seen") == []
    assert played.loads[name].answered > 50 and not played.loads[name].failed
