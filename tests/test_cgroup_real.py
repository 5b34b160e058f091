"""A real supervisord in a memory control group: what is left is seen, and a recycle keeps to it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from cgroups import Group
from conftest import TRACES
from journals import Book
from servers import (
    APPS,
    Supervisor,
    answers,
    free_port,
    get,
    gunicorn,
    gunicorn_env,
    program,
    wait_until,
)

import supervisor_memwatch.needs
from supervisor_memwatch.model import Snapshot
from supervisor_memwatch.needs import Needs
from supervisor_memwatch.sampler import Program, Sampler

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MB = 1024**2

# -- what is left

# It does what it is told, a line at a time, and answers each.
OBEDIENT = "import sys\nfor line in sys.stdin:\n    exec(line)\n    print('done', flush=True)\n"


@pytest.fixture
def obey() -> Iterator[Callable[[Group, str], int]]:
    """Have a statement executed by a Python in a group; its pid."""
    children: dict[Path, subprocess.Popen[str]] = {}

    def do(group: Group, statement: str) -> int:
        if group.path not in children:
            with group.entered():
                children[group.path] = subprocess.Popen(
                    [sys.executable, "-c", OBEDIENT],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
        child = children[group.path]
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(statement + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        return child.pid

    yield do
    for child in children.values():
        child.kill()
        child.communicate()


def seen(pid: int) -> tuple[int | None, int | None]:
    """(available, free) of a program's snapshot."""
    snapshot = Sampler().look(Program("web", "RUNNING", pid), time.time())
    return snapshot.available, snapshot.free


def free(pid: int) -> int:
    found = seen(pid)[1]
    assert found is not None
    return found


def near(bytes: int, expected: int) -> bool:
    """What a Python and the kernel's own books make is some megabytes."""
    return abs(bytes - expected) < 16 * MB


def test_what_is_left_is_what_the_group_leaves(obey: Callable[[Group, str], int]) -> None:
    with Group(300 * MB) as group:
        pid = obey(group, "held = b'x' * (100 << 20)")
        assert seen(pid)[0] == 300 * MB
        assert near(free(pid), 200 * MB)


def test_a_group_above_may_be_the_tight_one(obey: Callable[[Group, str], int]) -> None:
    """By its limit, or by what others in it hold."""
    with Group(300 * MB) as above, Group(500 * MB, above) as group, Group(None, above) as other:
        pid = obey(group, "held = b'x' * (100 << 20)")
        assert seen(pid)[0] == 300 * MB
        assert near(free(pid), 200 * MB)
        obey(other, "held = b'x' * (120 << 20)")
        assert near(free(pid), 80 * MB)
        above.set_limit(600 * MB)
        assert seen(pid)[0] == 500 * MB
        assert near(free(pid), 380 * MB)


def test_file_cache_that_is_not_in_use_is_left(
    obey: Callable[[Group, str], int], tmp_path: Path
) -> None:
    """And really is: it makes place for more than seemed free. Cache in use is not counted on,
    though the kernel would give up much of that too."""
    file = tmp_path / "file"
    with Group(300 * MB) as group:
        pid = obey(group, f"open({str(file)!r}, 'wb').write(b'x' * (100 << 20))")
        assert group.file_cache > 90 * MB
        assert near(free(pid), 300 * MB)
        obey(group, "held = b'x' * (250 << 20)")
        assert group.file_cache < 60 * MB
        assert group.oom_kills == 0
        obey(group, "del held")
        for _ in range(3):
            obey(group, f"open({str(file)!r}, 'rb').read()")
        assert near(free(pid), 200 * MB)


# -- what one more worker needs


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((), {"BALLAST": 60 * MB, "PEAK": 100 * MB}),
        (("--preload",), {"BALLAST": 100 * MB}),
    ],
    ids=["a peak while it boots", "preload"],
)
def test_what_one_more_worker_is_said_to_need_is_enough(
    options: tuple[str, ...],
    sizes: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Learned from those that were started with the program, between whose looks the peak was."""
    monkeypatch.setattr(supervisor_memwatch.needs, "SETTLE", 1.0)
    port, sampler, needs = free_port(), Sampler(), Needs()
    environment = {**gunicorn_env(), "HOME": str(tmp_path)}
    environment.update({name: str(size) for name, size in sizes.items()})
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(APPS), "--workers", "2"]
    command += ["--bind", f"127.0.0.1:{port}", *options, "heavy:app"]
    with Group(None) as group:
        with group.entered():
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

        def look() -> Snapshot:
            program = Program("web", "RUNNING", process.pid)
            snapshot = sampler.look(program, time.time())
            snapshot = sampler.look(program, time.time(), needs.wants(snapshot))
            needs.remember(snapshot, sampler.peaks("web"))
            return snapshot

        def serving() -> int:
            return sum(worker.ready is True for worker in look().workers)

        try:
            wait_until(lambda: serving() == 2, 60)
            wait_until(lambda: look() and len(needs.dump()["settled"]) == 2, 60)
            need = needs.fresh(look())
            assert need is not None
            if "--preload" in options:
                assert need < 30 * MB, "of 100 MB nearly all is shared"
            group.room(need)
            process.send_signal(signal.SIGTTIN)
            wait_until(lambda: serving() == 3, 60)
            for _ in range(10):
                get(f"http://127.0.0.1:{port}/pid")
            assert group.oom_kills == 0
        finally:
            process.terminate()
            process.wait()


# -- what is done with it

MEMWATCH = """\
[memwatch]
mode = act
growth = off
imbalance = off
confirm = 1s
cooldown = 1s
preflight = off
max_programs_at_once = 5

[memwatch:on]
surge = on

[memwatch:greedy]
preflight = auto
"""
WORKERS = {"auto": 2, "on": 2, "single": 1}
BALLAST = 60 * MB  # of each worker; what one more needs is some 20 MB more, and a reserve
TOO_LITTLE, JUST_ENOUGH = 30 * MB, 100 * MB


class Tight:
    """A supervisord in a control group; its programs' workers are heavy."""

    def __init__(self, directory: Path, group: Group) -> None:
        self.group = group
        self.ports = {name: free_port() for name in WORKERS}
        self.cache = directory / "cache"
        self.cache.write_bytes(bytes(100 * MB))
        sections = [
            program(
                name,
                gunicorn("heavy:app", self.ports[name], workers=count),
                environment={"BALLAST": BALLAST, "CACHE": self.cache},
                stderr_logfile=directory / f"{name}.err",
            )
            for name, count in WORKERS.items()
        ]
        self.greedy = directory / "greedy.py"
        self.greedy.write_text("from leaky import app\n")
        self.port = free_port()
        sections.append(
            program("greedy", gunicorn("greedy:app", self.port, options=f"--chdir {directory}"))
        )
        self.supervisor = Supervisor(
            directory, "".join(sections), memwatch=MEMWATCH, env=dict.fromkeys(TRACES)
        )
        self.book = Book(self.supervisor)

    def leave(self, bytes: int) -> None:
        """So much room from now on, beside the cache of a file; returns when the listener knows."""
        self.group.room(bytes)
        get(f"http://127.0.0.1:{self.ports['auto']}/cache")
        limit = self.group.limit
        wait_until(lambda: self.limits() == {limit}, 60, lambda: f"{limit}: {self.limits()}")

    def limits(self) -> set[int]:
        """What the listener takes for the programs' limits."""
        status = json.loads(self.supervisor.run("status", "--json").stdout)
        return {program["available"] for program in status["programs"]}

    def workers(self, name: str) -> list[int]:
        """Oldest first; none unless all are there and have loaded the application."""
        found = [psutil.Process(pid) for pid in self.supervisor.children(name)]
        with contextlib.suppress(psutil.NoSuchProcess):
            if len(found) == WORKERS[name] and all(c.memory_info().rss > BALLAST for c in found):
                return [child.pid for child in sorted(found, key=psutil.Process.create_time)]
        return []

    def all_serve(self) -> bool:
        """Also those of `greedy`, which are small however far they have come."""
        url = f"http://127.0.0.1:{self.port}/pid"
        answered = {int(get(url)) for _ in range(20)} if answers(url) else set()
        return answered == self.supervisor.children("greedy") and all(map(self.workers, WORKERS))

    def settled(self) -> bool:
        return all(self.workers(name) for name in WORKERS) and not self.book.open_steps()

    def recycle(self, name: str) -> tuple[str, str]:
        """The oldest worker, by request; the answer."""
        return self.book.ask("recycle", self.workers(name)[0])

    def intent(self, name: str) -> str:
        return self.book.lines(name, "intent")[-1].text

    def added(self, name: str) -> int:
        """How often its master was asked for one more worker."""
        return (self.cache.parent / f"{name}.err").read_text().count("Handling signal: ttin")


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tight]:
    with Group(None) as group:
        tight = Tight(tmp_path_factory.mktemp("tight"), group)
        with group.entered():
            tight.supervisor.__enter__()
        try:
            wait_until(tight.all_serve, 120, str(tight.supervisor))
            wait_until(
                lambda: tight.book.watched() >= {*WORKERS, "greedy"}, 60, str(tight.supervisor)
            )
            tight.greedy.write_text("from leaky import app\nheld = b'x' * (2 << 30)\n")
            yield tight
        finally:
            tight.supervisor.__exit__()


class Asked(NamedTuple):
    before: dict[str, list[int]]  # the workers
    answers: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def without_room(tight: Tight) -> Asked:
    """Each program's oldest worker is to be recycled; the answers."""
    tight.leave(TOO_LITTLE)
    before = {name: tight.workers(name) for name in WORKERS}
    answers = {name: tight.recycle(name) for name in WORKERS}
    wait_until(tight.settled, 120, lambda: f"all is done\n{tight.supervisor}")
    return Asked(before, answers)


@pytest.mark.parametrize("name", ["auto", "on"])
def test_without_room_the_old_worker_leaves_first(
    name: str, tight: Tight, without_room: Asked
) -> None:
    """Whatever `surge` says; and the journal says why."""
    assert without_room.answers[name][0] == "accepted"
    assert "(plain: no surge: one more worker needs " in tight.intent(name)
    assert tight.book.results(name)[:1] == ["done"]
    oldest, other = without_room.before[name]
    assert other in tight.workers(name)
    assert oldest not in tight.workers(name)
    assert tight.added(name) == 0


def test_without_room_an_only_worker_stays(tight: Tight, without_room: Asked) -> None:
    """Until its limit demands it, or somebody who knows what it means."""
    answer, reason = without_room.answers["single"]
    assert answer == "held"
    assert "no room to replace it first: one more worker needs " in reason
    assert tight.workers("single") == without_room.before["single"]


def test_nobody_was_killed_for_it(tight: Tight, without_room: Asked) -> None:
    assert tight.group.oom_kills == 0


def test_with_just_enough_room_the_replacement_comes_first(
    tight: Tight, without_room: Asked
) -> None:
    """What one more worker is said to need is enough for it."""
    tight.leave(JUST_ENOUGH)
    for name in ("auto", "single"):
        oldest = tight.workers(name)[0]
        assert tight.recycle(name)[0] == "accepted"
        wait_until(tight.settled, 120, lambda: f"all is done\n{tight.supervisor}")
        assert "(surge: " in tight.intent(name)
        assert tight.book.results(name)[-1] == "done"
        assert oldest not in tight.workers(name)
        assert tight.added(name) == 1
    assert tight.group.oom_kills == 0


def test_a_trial_of_new_code_takes_no_more_than_there_is(tight: Tight, without_room: Asked) -> None:
    """Code that allocates 2 GB when it is loaded is found out, and nobody is killed for it."""
    tight.leave(JUST_ENOUGH)
    workers = tight.supervisor.children("greedy")

    def held() -> str:
        tight.book.ask("recycle", min(workers))
        line = tight.book.wait_for("greedy", "held", 1 + len(told))
        told.append(line.text)
        # Code that has just been written is first left alone for a while.
        return "" if "is a deploy under way?" in line.text else line.text

    told: list[str] = []
    text = wait_until(held, 60, lambda: f"{told}", every=3)
    assert "a new worker would not boot" in text
    assert "MemoryError" in text
    assert tight.supervisor.children("greedy") == workers
    assert tight.group.oom_kills == 0
