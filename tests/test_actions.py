"""Recycle, reload and restart on real servers: what is touched, in which order, and what is not.

Three supervisords: one whose programs are over their limits, one whose programs do only what they
are asked for (and whose listener is killed in the middle of it), one without ticks.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from conftest import TRACES
from journals import Book, message
from servers import (
    APPS,
    Receiver,
    Supervisor,
    answers,
    free_port,
    get,
    gunicorn,
    program,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MB = 1024 * 1024
ANY_PORT = 0  # the kernel chooses: nobody sends requests there


def _plain(megabytes: int = 100) -> str:
    """A leaking program that is no gunicorn."""
    return f"{sys.executable} {APPS}/plain.py {megabytes}"


# -- over their limits --------------------------------------------------------------------

MEMWATCH = """\
[memwatch]
mode = act
growth = off
imbalance = off
confirm = 1s
cooldown = 1s
max_programs_at_once = 20
surge = off
notify = {url}

[memwatch:recycled]
limit = 60MB

[memwatch:shell]
limit = 60MB
actions = reload

[memwatch:proxy]
limit = 60MB
actions = reload

[memwatch:whole]
limit = 60MB
actions = restart

[memwatch:grp:one]
limit = 60MB
actions = restart

[memwatch:np]
limit = 60MB
actions = restart

[memwatch:plain]
limit = 60MB
actions = restart

[memwatch:told]
limit = 60MB

; What any Python holds from the start is over it.
[memwatch:ladder]
measure = rss
limit = 5MB
actions = recycle, reload, restart

[memwatch:observed]
mode = observe
measure = rss
limit = 5MB
"""
# Their workers are filled by requests of the tests.
FILLED = ("recycled", "shell", "proxy", "whole", "grp:one")
SERVING = (*FILLED, "grp:two")


class Limits:
    """The supervisord whose programs are over their limits, from the filling to the last action."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.receiver = Receiver()
        self.ports = {name: free_port() for name in SERVING}
        self.supervisor = Supervisor(
            directory,
            self._programs(),
            memwatch=MEMWATCH.format(url=self.receiver.url),
            env=dict.fromkeys(TRACES),
        )
        self.book = Book(self.supervisor)
        self.masters: dict[str, int] = {}
        self.workers: dict[str, set[int]] = {}
        self.supervised: dict[str, int] = {}

    def _leak(self, name: str) -> dict[str, object]:
        return {"LEAK_FLAG": self.directory / f"{name}.flag", "LEAK_BYTES": 10_000_000}

    def _programs(self) -> str:
        served = {name: gunicorn("leaky:app", self.ports[name]) for name in SERVING}
        pidfile = self.directory / "proxy.pid"
        served["shell"] = f'sh -c "{served["shell"]}; exit $?"'
        served["proxy"] = (
            f"{sys.executable} -m supervisor.pidproxy {pidfile} {served['proxy']} --pid {pidfile}"
        )
        sections = [
            program(
                name.rpartition(":")[2],
                command,
                environment=self._leak(name),
                stderr_logfile=self.directory / f"{name}.err",
            )
            for name, command in served.items()
        ]
        sections.append("[group:grp]\nprograms=one,two\n")
        sections += [
            program(name, _plain(), environment=self._leak(name)) for name in ("plain", "told")
        ]
        sections.append(
            program(
                "np",
                _plain(),
                environment=self._leak("np"),
                numprocs=2,
                process_name="%(program_name)s_%(process_num)02d",
            )
        )
        for name in ("ladder", "observed"):
            log = self.directory / f"{name}.err"
            sections.append(program(name, gunicorn("leaky:app", ANY_PORT), stderr_logfile=log))
        return "".join(sections)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"

    def leaker(self, name: str) -> int:
        """Who leaked, as the application says."""
        return int((self.directory / f"{name}.flag").read_text())

    def members(self) -> tuple[str, str]:
        """Of the two processes of `np`: the one that was restarted, the other."""
        first, second = "np:np_00", "np:np_01"
        return (first, second) if self.book.lines(first) else (second, first)

    def master(self, name: str) -> int:
        """The parent of the worker that answers."""
        return psutil.Process(int(get(self.url(name) + "pid"))).ppid()

    def fill(self) -> None:
        """Note who is there; then one worker of each program gets over its limit."""
        for name in SERVING:
            wait_until(lambda name=name: answers(self.url(name) + "pid"), 120, str(self.supervisor))
            self.masters[name] = master = self.master(name)
            wait_until(lambda master=master: len(_children(master)) == 2)
            self.workers[name] = _children(master)
            self.supervised[name] = self.supervisor.program_pid(name)
        for name in FILLED:
            get(self.url(name))
            wait_until(lambda name=name: self._full(name), 60, f"{name} filled", 0.01)

    def _full(self, name: str) -> bool:
        try:
            flag = self.leaker(name)
            if psutil.Process(flag).memory_info().rss > 100 * MB:
                return True
        except (ValueError, FileNotFoundError):
            return False
        except psutil.NoSuchProcess:  # full enough, and recycled by now
            return True
        get(self.url(name))
        return False

    def over(self) -> bool:
        """Whether the last news of every program has arrived."""
        restarted, _ = self.members()
        done = (*FILLED, "plain", restarted)
        return (
            all("recovered" in self.news(name) for name in done)
            and "gave_up" in self.news("ladder")
            and "suspected" in self.news("observed")
            and "held" in self.news("told")
            and self.book.open_steps() == {}
        )

    def spawned(self, process: str) -> int:
        """How often supervisord started it."""
        return self.supervisor.log().count(f"spawned: '{process}'")

    def gunicorn_log(self, name: str) -> str:
        return (self.directory / f"{name}.err").read_text()

    def news(self, name: str) -> list[str]:
        found = [news["type"] for news in self.receiver.bodies if news["subject"] == name]
        return [type.removeprefix("memwatch.") for type in found]


def _children(pid: int) -> set[int]:
    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limits]:
    """Played once; the tests look at what it left."""
    host = Limits(tmp_path_factory.mktemp("limits"))
    with contextlib.closing(host.receiver), host.supervisor:
        host.fill()
        deadline = time.monotonic() + 240
        # What has not happened by then is told by the tests.
        while not host.over() and time.monotonic() < deadline:
            time.sleep(1)
        yield host


def test_a_worker_over_its_limit_is_recycled(limits: Limits) -> None:
    """It alone; by name of its limit; and what it held comes back."""
    leaker, workers = limits.leaker("recycled"), _children(limits.masters["recycled"])
    assert limits.workers["recycled"] - workers == {leaker}
    assert len(workers) == 2
    assert limits.supervised["recycled"] == limits.supervisor.program_pid("recycled")
    (outcome,) = limits.book.lines("recycled", "outcome")
    assert outcome.data["result"] == "done"
    assert outcome.data["freed_bytes"] > 50 * MB
    assert "limit" in limits.book.lines("recycled", "intent")[0].text
    assert limits.news("recycled") == ["suspected", "acted", "recovered"]


@pytest.mark.parametrize("name", ["shell", "proxy"])
def test_a_reload_reaches_the_master_behind_its_wrapper(limits: Limits, name: str) -> None:
    """All workers are new, the master is the same, the wrapper was not signalled."""
    assert limits.supervised[name] != limits.masters[name], "there is a wrapper"
    assert limits.supervised[name] == limits.supervisor.program_pid(name)
    assert limits.masters[name] == limits.master(name)
    workers = _children(limits.masters[name])
    assert len(workers) == 2
    assert not workers & limits.workers[name]
    assert limits.gunicorn_log(name).count("Handling signal: hup") == 1
    assert limits.spawned(name) == 1
    assert limits.book.results(name) == ["done"]
    assert limits.news(name) == ["suspected", "acted", "recovered"]


def test_a_restart_is_supervisors_stop_and_then_its_start(limits: Limits) -> None:
    assert limits.supervisor.program_pid("whole") != limits.supervised["whole"]
    assert len(limits.supervisor.children("whole")) == 2
    assert limits.book.steps("whole") == ["starting", "settling"]
    assert limits.book.results("whole") == ["done"]
    happened = re.findall(r"(stopped|spawned): '?whole\b", limits.supervisor.log())
    assert happened == ["spawned", "stopped", "spawned"]
    assert limits.news("whole") == ["suspected", "acted", "recovered"]


def test_a_restart_of_a_groups_member_leaves_the_others_alone(limits: Limits) -> None:
    assert limits.supervisor.program_pid("grp:one") != limits.supervised["grp:one"]
    assert limits.supervisor.program_pid("grp:two") == limits.supervised["grp:two"]
    assert limits.supervisor.children("grp:two") == limits.workers["grp:two"]
    assert limits.book.results("grp:one") == ["done"]
    assert limits.book.lines("grp:two") == []


def test_a_restart_of_one_of_several_processes_leaves_the_others_alone(limits: Limits) -> None:
    """numprocs: each process is an instance of its own."""
    restarted, other = limits.members()
    assert limits.book.results(restarted) == ["done"]
    assert limits.spawned(restarted.partition(":")[2]) == 2
    assert limits.supervisor.program_pid(restarted) != limits.leaker("np")
    assert limits.book.lines(other) == []
    assert limits.spawned(other.partition(":")[2]) == 1


def test_a_plain_program_over_its_limit_is_restarted_where_its_section_says_so(
    limits: Limits,
) -> None:
    assert limits.book.results("plain") == ["done"]
    assert limits.spawned("plain") == 2
    assert limits.supervisor.state("plain") == "RUNNING"
    assert limits.news("plain") == ["suspected", "acted", "recovered"]
    (outcome,) = limits.book.lines("plain", "outcome")
    assert outcome.data["freed_bytes"] > 30 * MB


def test_elsewhere_a_plain_program_is_told_and_left_alone(limits: Limits) -> None:
    assert limits.supervisor.program_pid("told") == limits.leaker("told")
    assert limits.book.lines("told", "intent") == []
    assert {line.data["code"] for line in limits.book.lines("told", "held")} >= {"plain"}
    assert limits.news("told")[0] == "suspected"
    assert set(limits.news("told")) == {"suspected", "held"}


def test_the_ladder_is_climbed_when_a_rung_proves_ineffective(limits: Limits) -> None:
    """Each rung once, the gentlest first; then it is given up, and nothing more is done."""
    outcomes = limits.book.lines("ladder", "outcome")
    assert [line.text.split(":")[0] for line in outcomes] == [
        "recycle ineffective",
        "reload ineffective",
        "restart ineffective",
    ]
    kinds = [line.kind for line in limits.book.lines("ladder")]
    assert kinds.count("intent") == 3
    assert kinds.count("gave_up") == 1
    assert kinds.index("gave_up") > kinds.index("outcome")
    assert limits.spawned("ladder") == 2
    log = limits.gunicorn_log("ladder")
    assert log.count("Handling signal: hup") == 1
    # Two at first, one by the recycle, two by the reload, two by the restart.
    assert log.count("Booting worker") == 7
    assert len(limits.supervisor.children("ladder")) == 2
    news = limits.news("ladder")
    assert news.count("failed") == 3
    assert news.count("gave_up") == 1


def test_observe_decides_and_touches_nothing(limits: Limits) -> None:
    """It says what it would do, and why it does not."""
    assert limits.spawned("observed") == 1
    log = limits.gunicorn_log("observed")
    assert log.count("Booting worker") == 2
    assert "Handling signal" not in log
    lines = limits.book.lines("observed")
    assert {line.kind for line in lines} == {"suspected", "held"}
    assert {line.data["code"] for line in lines if line.kind == "held"} == {"observe"}
    assert set(limits.news("observed")) == {"suspected"}


def test_every_action_was_in_the_journal_before_it_happened(limits: Limits) -> None:
    """And none is left open."""
    for name in (*FILLED, "plain", "ladder"):
        kinds = [line.kind for line in limits.book.lines(name)]
        acts = [kind for kind in kinds if kind in ("intent", "outcome")]
        assert acts == ["intent", "outcome"] * (len(acts) // 2), name
    assert limits.book.open_steps() == {}


# -- on request ---------------------------------------------------------------------------

ASKED = """\
[memwatch]
mode = act
growth = off
imbalance = off
cooldown = 1h
surge = off

[memwatch:observed]
mode = observe
"""
ANSWERING = ("paused", "recycled", "forced", "reloaded", "restarted", "refused", "observed")
HELD = ("busy", "stopping", "stopped", "leaving")


class Asked:
    """The supervisord whose programs do what they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {name: free_port() for name in HELD}
        self.supervisor = Supervisor(
            directory, self._programs(), memwatch=ASKED, env=dict.fromkeys(TRACES)
        )
        self.book = Book(self.supervisor)

    def _programs(self) -> str:
        sections = [program(name, gunicorn("leaky:app", ANY_PORT)) for name in ANSWERING]
        for name in HELD:
            options = "--graceful-timeout 120 --timeout 200"
            command = gunicorn("held:app", self.ports[name], options=options)
            environment = {"HOLD": self.directory / f"{name}.hold"}
            sections.append(program(name, command, environment=environment, stopwaitsecs=150))
        sections += [program(name, gunicorn("leaky:app", ANY_PORT)) for name in ("one", "two")]
        sections.append("[group:grp]\nprograms=one,two\n")
        names = "%(program_name)s_%(process_num)02d"
        sections.append(
            program("np", gunicorn("leaky:app", ANY_PORT), numprocs=2, process_name=names)
        )
        return "".join(sections)

    def ready(self) -> None:
        """Every program has its workers, and the listener has seen them."""
        everyone = {*ANSWERING, *HELD, "grp:one", "grp:two", "np:np_00", "np:np_01"}
        for name in everyone:
            wait_until(
                lambda name=name: len(self.supervisor.children(name)) == 2,
                120,
                lambda: str(self.supervisor),
            )
        for name in HELD:
            wait_until(lambda name=name: answers(self.url(name)), 120, str(name))
        ticks = wait_until(lambda: self.book.fact("ticks"), 60, lambda: str(self.supervisor))
        wait_until(lambda: self.book.fact("ticks") > ticks, 60, lambda: str(self.supervisor))
        assert self.book.watched() >= everyone

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"

    def worker(self, name: str) -> int:
        return min(self.supervisor.children(name))

    def wait_for_outcome(self, name: str, count: int = 1) -> str:
        return str(self.book.wait_for(name, "outcome", count).data["result"])

    def wait_until_closed(self, name: str) -> None:
        """No action of it is left open in the journal."""
        wait_until(lambda: name not in self.book.open_steps(), what=lambda: str(self.supervisor))

    def listener(self) -> psutil.Process:
        return psutil.Process(self.supervisor.wait_for("memwatch"))

    def kill_listener(self) -> None:
        """SIGKILL; returns when supervisord has started another one."""
        listener = self.listener()
        listener.kill()
        wait_until(
            lambda: self.supervisor.program_pid("memwatch") not in (0, listener.pid),
            what=lambda: f"another listener\n{self.supervisor}",
        )


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    host = Asked(tmp_path_factory.mktemp("asked"))
    with host.supervisor:
        host.ready()
        yield host


def test_a_paused_program_is_not_acted_on_until_it_is_resumed(asked: Asked) -> None:
    worker = asked.worker("paused")
    assert asked.book.ask("pause", "paused", **{"for": 3600})[0] == "accepted"
    answer, reason = asked.book.ask("recycle", worker)
    assert (answer, reason.partition(" for ")[0]) == ("held", "paused")
    assert asked.book.ask("recycle", worker, force=True)[0] == "held"
    assert asked.book.ask("resume", "paused")[0] == "accepted"
    assert asked.book.ask("recycle", worker)[0] == "accepted"
    assert asked.wait_for_outcome("paused") == "done"
    assert worker not in asked.supervisor.children("paused")


def test_a_worker_is_recycled_by_its_pid(asked: Asked) -> None:
    """That one; and the answer is the journal's."""
    before = asked.supervisor.children("recycled")
    worker = max(before)
    assert asked.book.ask("recycle", worker)[0] == "accepted"
    assert asked.wait_for_outcome("recycled") == "done"
    after = asked.supervisor.children("recycled")
    assert before - after == {worker}
    assert len(after) == 2
    (intent,) = asked.book.lines("recycled", "intent")
    assert "asked for by the tests" in intent.text


def test_the_cooldown_holds_for_requests_too_unless_they_are_forced(asked: Asked) -> None:
    assert asked.book.ask("recycle", asked.worker("forced"))[0] == "accepted"
    assert asked.wait_for_outcome("forced") == "done"
    answer, reason = asked.book.ask("recycle", asked.worker("forced"))
    assert (answer, "cooldown" in reason) == ("held", True)
    assert asked.book.ask("recycle", asked.worker("forced"), force=True)[0] == "accepted"
    assert asked.wait_for_outcome("forced", 2) == "done"


def test_a_program_is_reloaded_on_request(asked: Asked) -> None:
    pid, before = asked.supervisor.program_pid("reloaded"), asked.supervisor.children("reloaded")
    assert asked.book.ask("reload", "reloaded")[0] == "accepted"
    assert asked.wait_for_outcome("reloaded") == "done"
    assert asked.supervisor.program_pid("reloaded") == pid
    after = asked.supervisor.children("reloaded")
    assert len(after) == 2
    assert not before & after


@pytest.mark.parametrize(
    ("target", "others"),
    [("restarted", ()), ("grp:one", ("grp:two",)), ("np:np_01", ("np:np_00",))],
)
def test_a_program_is_restarted_on_request(
    asked: Asked, target: str, others: tuple[str, ...]
) -> None:
    """A lone program, a member of a group, one of several processes: that one."""
    before = {name: asked.supervisor.program_pid(name) for name in (target, *others)}
    assert asked.book.ask("restart", target)[0] == "accepted"
    assert asked.wait_for_outcome(target) == "done"
    assert asked.supervisor.state(target) == "RUNNING"
    assert asked.supervisor.program_pid(target) != before[target]
    assert len(asked.supervisor.children(target)) == 2
    for name in others:
        assert asked.supervisor.program_pid(name) == before[name]
        assert asked.book.lines(name) == []


class Refused(NamedTuple):
    why: str
    command: str
    target: str
    words: str
    more: dict[str, object] = {}


@pytest.mark.parametrize(
    "case",
    [
        Refused("unknown program", "reload", "nobody", "no watched program or worker 'nobody'"),
        Refused("pid of no worker", "recycle", "1", "no watched program or worker '1'"),
        Refused("a whole group", "restart", "grp", "one program at a time"),
        Refused("which worker", "recycle", "refused", "name the worker by its pid"),
        Refused("unknown command", "destroy", "refused", "unknown command; valid: pause"),
        Refused("too old", "restart", "refused", "not sent within the last 60 s", {"at": -61.0}),
        Refused("of tomorrow", "restart", "refused", "not sent within the last 60 s", {"at": 90.0}),
        Refused("other version", "restart", "refused", "not version 1", {"v": 2}),
    ],
    ids=lambda case: case.why,
)
def test_what_cannot_be_done_is_refused_with_the_reason(asked: Asked, case: Refused) -> None:
    more = dict(case.more)
    if "at" in more:
        more["at"] = time.time() + float(str(more["at"]))
    answer, reason = asked.book.ask(case.command, case.target, **more)
    assert answer == "refused"
    assert case.words in reason
    assert asked.book.lines("refused", "intent") == []


def test_in_observe_a_request_is_held_too(asked: Asked) -> None:
    answer, reason = asked.book.ask("restart", "observed", force=True)
    assert (answer, "mode = observe" in reason) == ("held", True)
    assert asked.book.lines("observed", "intent") == []


def test_a_repeated_message_is_answered_once_and_done_once(asked: Asked) -> None:
    """Supervisor may deliver an event twice; a proxy may send a call twice."""
    id = str(uuid.uuid4())
    request = message("pause", "refused", id, **{"for": 1})
    asked.book.send(request)
    wait_until(lambda: asked.book.answer(id))
    asked.book.send(request)
    asked.book.send("no JSON at all")
    asked.book.send({"v": 1, "id": "not a uuid", "command": "restart", "target": "refused"})
    asked.supervisor.rpc.supervisor.sendRemoteCommEvent("others", '{"v": 1}')
    assert asked.book.ask("resume", "refused")[0] == "accepted"  # the others came before it
    lines = [line for line in asked.book.lines("refused", "request") if line.data["id"] == id]
    assert len(lines) == 1
    log = asked.supervisor.listener_log()
    assert log.count("a message that is not one of memwatch's was ignored") == 2


class InFlight:
    """A request that is answered when the test says so."""

    def __init__(self, host: Asked, name: str) -> None:
        self._hold = host.directory / f"{name}.hold"
        self._url = host.url(name) + "hold"
        self.body = ""
        self._thread = threading.Thread(target=self._get, daemon=True)

    def _get(self) -> None:
        with contextlib.suppress(OSError):
            self.body = get(self._url, 200)

    def __enter__(self) -> InFlight:
        self._thread.start()
        begun = self._hold.with_name(self._hold.name + ".begun")
        wait_until(begun.exists, what="the request is being worked on")
        return self

    def let_go(self) -> None:
        self._hold.touch()

    def answered(self) -> int:
        """The pid of the worker that answered."""
        self._thread.join(60)
        return int(self.body)

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._thread.join(60)


def _who_holds(host: Asked, name: str) -> int:
    """The worker that works on the request: the other one is the one that answers."""
    free = int(get(host.url(name)))
    (busy,) = host.supervisor.children(name) - {free}
    return busy


def test_there_is_one_action_at_a_time(asked: Asked) -> None:
    """While a worker finishes its requests, nothing else is begun; its sibling serves on."""
    name = "busy"
    before = asked.supervisor.children(name)
    with InFlight(asked, name) as request:
        busy = _who_holds(asked, name)
        (sibling,) = before - {busy}
        assert asked.book.ask("recycle", busy)[0] == "accepted"
        for command, target in (("recycle", sibling), ("reload", name), ("restart", name)):
            answer, reason = asked.book.ask(command, target, force=True)
            assert (answer, "recycle is under way" in reason) == ("held", True)
        assert asked.supervisor.children(name) == before
        assert int(get(asked.url(name))) == sibling
        request.let_go()
        assert request.answered() == busy
    assert asked.wait_for_outcome(name) == "done"
    assert before - asked.supervisor.children(name) == {busy}


# -- the listener dies in the middle of it -------------------------------------------------


def _went_on(host: Asked, name: str) -> bool:
    return any("was not finished: going on" in line.text for line in host.book.lines(name, "step"))


@pytest.mark.parametrize("name", ["stopping", "stopped"])
def test_a_program_we_stopped_is_started_again_whoever_dies_meanwhile(
    asked: Asked, name: str
) -> None:
    """The listener is killed while the program stops, or after it has and before the start."""
    before, workers = asked.supervisor.program_pid(name), asked.supervisor.children(name)
    with InFlight(asked, name) as request:
        assert asked.book.ask("restart", name)[0] == "accepted"
        wait_until(lambda: asked.supervisor.state(name) == "STOPPING")
        assert asked.book.open_steps()[name] == "stopping"
        if name == "stopping":
            asked.kill_listener()
            request.let_go()
        else:
            listener = asked.listener()
            listener.suspend()  # so that it cannot start what it has stopped
            request.let_go()
            asked.supervisor.wait_for(name, "STOPPED")
            asked.kill_listener()
        assert request.answered() in workers, "what was under way has been finished"
    assert asked.wait_for_outcome(name) == "done"
    assert asked.supervisor.state(name) == "RUNNING"
    assert asked.supervisor.program_pid(name) != before
    assert len(asked.supervisor.children(name)) == 2
    assert _went_on(asked, name)
    asked.wait_until_closed(name)
    kinds = [line.kind for line in asked.book.lines(name)]
    assert (kinds.count("intent"), kinds.count("outcome")) == (1, 1)


def test_a_recycle_is_closed_by_the_next_listener(asked: Asked) -> None:
    """The worker is not asked to leave a second time, and its sibling not at all."""
    name = "leaving"
    before = asked.supervisor.children(name)
    with InFlight(asked, name) as request:
        busy = _who_holds(asked, name)
        assert asked.book.ask("recycle", busy)[0] == "accepted"
        wait_until(lambda: asked.book.open_steps().get(name) == "leaving")
        asked.kill_listener()
        wait_until(lambda: _went_on(asked, name), what=lambda: str(asked.supervisor))
        assert busy in asked.supervisor.children(name)
        request.let_go()
        assert request.answered() == busy
    assert asked.wait_for_outcome(name) == "done"
    after = asked.supervisor.children(name)
    assert before - after == {busy}
    assert len(after) == 2
    asked.wait_until_closed(name)


# -- without ticks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    ["TICK_3600,REMOTE_COMMUNICATION", "TICK_3600,PROCESS_STATE,REMOTE_COMMUNICATION"],
    ids=["seconds", "states"],
)
def test_a_restart_does_not_wait_for_the_next_tick(tmp_path: Path, events: str) -> None:
    """Each step is at a look: a second of waiting for input, or a change of the program's state."""
    with Supervisor(
        tmp_path,
        program("web", gunicorn("leaky:app", ANY_PORT)),
        memwatch="[memwatch]\nmode = act\n",
        listener=f"events={events}\n",
        env=dict.fromkeys(TRACES),
    ) as supervisor:
        book = Book(supervisor)
        supervisor.wait_for("memwatch")
        before = supervisor.wait_for("web")
        wait_until(lambda: len(supervisor.children("web")) == 2)
        assert book.ask("restart", "web")[0] == "accepted"
        assert book.wait_for("web", "outcome").data["result"] == "done"
        assert supervisor.program_pid("web") != before
        assert book.steps("web") == ["starting", "settling"]
        begun, ended = (book.lines("web", kind)[0].at for kind in ("intent", "outcome"))
        assert ended - begun < 3600 / 2, "far less than a tick's period"
        # None at all, unless the hour began during the test.
        assert book.fact("ticks") <= 1
