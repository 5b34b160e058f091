"""The main job on real servers: from the TICK to the recycled worker and the news.

Two supervisords run the whole story at once: leaking programs of every worker class and of three
versions of gunicorn, and healthy ones, under load. It is played once; each test judges one part
of it for one program.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from conftest import TRACES
from journals import Book, Line
from servers import (
    Load,
    Receiver,
    Supervisor,
    answers,
    free_port,
    gunicorn,
    gunicorn_path,
    program,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = 2
MB = 1024 * 1024

MEMWATCH = """\
[memwatch]
mode = act
limit = 400MB
warmup = 8s
confirm = 4s
cooldown = 5s
max_programs_at_once = 20
notify = {url}
"""


class Server(NamedTuple):
    """A gunicorn program of the story."""

    name: str
    app: str
    worker_class: str = "sync"
    version: str | None = None
    supervisor: str | None = None
    leaks: bool = True
    observed: bool = False
    # 21.2 to 23 drop one accepted connection per stopped gthread worker (fixed in 24.0).
    loses: bool = False


SERVERS = (
    Server("sync", "leaky_flask:app"),
    Server("gthread", "leaky_django:app", "gthread"),
    Server("gevent", "leaky_flask:app", "gevent"),
    Server("uvicorn", "leaky_asgi:app", "uvicorn.workers.UvicornWorker"),
    Server("asgi", "leaky_asgi:app", "asgi"),
    Server("sync20", "leaky_flask:app", "sync", "20.1.0"),
    Server("gthread20", "leaky:app", "gthread", "20.1.0"),
    Server("sync23", "leaky_django:app", "sync", "23.0.0"),
    Server("gthread23", "leaky_flask:app", "gthread", "23.0.0", loses=True),
    Server("observed", "leaky:app", observed=True),
    Server("healthy", "leaky_flask:app", leaks=False),
    Server("under425", "leaky:app", supervisor="4.2.5"),
    Server("healthy425", "leaky_flask:app", "gthread", supervisor="4.2.5", leaks=False),
)
LEAKING = [server for server in SERVERS if server.leaks and not server.observed]
HEALTHY = [server for server in SERVERS if not server.leaks]


def _named(servers: list[Server]) -> Any:
    return pytest.mark.parametrize("server", servers, ids=[server.name for server in servers])


class Host:
    """One supervisord of the story with its listener, its receiver of news and its clients."""

    def __init__(self, directory: Path, version: str | None) -> None:
        directory.mkdir()
        self.servers = [server for server in SERVERS if server.supervisor == version]
        self.ports = {server.name: free_port() for server in self.servers}
        self.receiver = Receiver()
        self.flags = {server.name: directory / f"{server.name}.flag" for server in self.servers}
        self.supervisor = Supervisor(
            directory,
            "".join(self._program(server) for server in self.servers),
            memwatch=MEMWATCH.format(url=self.receiver.url) + self._observed(),
            version=version,
            env=dict.fromkeys(TRACES),
        )
        self.book = Book(self.supervisor)
        self.before: dict[str, set[int]] = {}
        self.masters: dict[str, int] = {}
        self.after: dict[str, set[int]] = {}
        self.loads: dict[str, Load] = {}
        self.at_the_end: subprocess.CompletedProcess[str] | None = None

    def _observed(self) -> str:
        names = [server.name for server in self.servers if server.observed]
        return "".join(f"[memwatch:{name}]\nmode = observe\n" for name in names)

    def _program(self, server: Server) -> str:
        environment: dict[str, object] = {
            **gunicorn_path(server.version),
            "LEAK_FLAG": self.flags[server.name] if server.leaks else "",
            "LEAK_AFTER": 20,
            "LEAK_RATE": 800_000,
        }
        threads = "--threads 4" if server.worker_class == "gthread" else ""
        command = gunicorn(
            server.app,
            self.ports[server.name],
            worker_class=server.worker_class,
            workers=WORKERS,
            options=f"--keep-alive 0 {threads}",
        )
        return program(server.name, command, environment=environment)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"

    def begin(self) -> None:
        """All workers serve; then the load comes."""
        for name in self.ports:
            wait_until(lambda name=name: answers(self.url(name) + "pid"), 120, str(name))
        for name in self.ports:
            wait_until(
                lambda name=name: len(self.supervisor.children(name)) == WORKERS,
                what=lambda name=name: f"{name}: {WORKERS} workers\n{self.supervisor}",
            )
            self.before[name] = self.supervisor.children(name)
            self.masters[name] = self.supervisor.program_pid(name)
        for name in self.ports:
            self.loads[name] = Load(self.url(name), concurrency=2, rate=20)

    def look(self) -> bool:
        """Whether the story is complete: the last news of each leaking program has arrived."""
        news = {(news["type"], news["subject"]) for news in self.receiver.bodies}
        return all(
            (f"memwatch.{'suspected' if server.observed else 'recovered'}", server.name) in news
            for server in self.servers
            if server.leaks
        )

    def end(self) -> None:
        self.at_the_end = self.supervisor.run("status", "--json")
        for load in self.loads.values():
            load.stop()
        self.after = {name: self.supervisor.children(name) for name in self.ports}

    def close(self) -> None:
        for load in self.loads.values():
            load.stop()
        self.receiver.close()

    # What the tests ask.

    def lines(self, name: str, *kinds: str) -> list[Line]:
        return self.book.lines(name, *kinds)

    def leaker(self, name: str) -> int:
        """The worker that leaked, as the application says."""
        return int(self.flags[name].read_text())

    def news(self, name: str) -> list[dict[str, Any]]:
        return [news for news in self.receiver.bodies if news["subject"] == name]

    def status(self, name: str) -> dict[str, Any]:
        assert self.at_the_end is not None
        assert self.at_the_end.stdout, self.at_the_end.stderr
        document = json.loads(self.at_the_end.stdout)
        found: dict[str, Any] = {p["namespec"]: p for p in document["programs"]}[name]
        return found


class Story:
    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    def of(self, server: Server) -> Host:
        return next(host for host in self.hosts if server in host.servers)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Played once; what it left can be looked at until the last test."""
    directory = tmp_path_factory.mktemp("story")
    with contextlib.ExitStack() as stack:
        hosts = [Host(directory / "new", None), Host(directory / "old", "4.2.5")]
        for host in hosts:
            stack.callback(host.close)
            stack.enter_context(host.supervisor)
        for host in hosts:
            host.begin()
        deadline = time.monotonic() + 240
        # A story that stays incomplete is told too: each test then says what is missing of it.
        while not all(host.look() for host in hosts) and time.monotonic() < deadline:
            time.sleep(1)
        for host in hosts:
            host.end()
        yield Story(hosts)


@_named(LEAKING)
def test_the_leak_is_found_in_the_worker_that_leaks(story: Story, server: Server) -> None:
    """In that worker and in no other; as a leak, long before its limit."""
    host = story.of(server)
    suspected = host.lines(server.name, "suspected")
    assert {line.data["pid"] for line in suspected} == {host.leaker(server.name)}, suspected
    assert "leak" in {line.data["verdict"] for line in suspected}
    assert "limit" not in {line.data["verdict"] for line in suspected}


@_named(LEAKING)
def test_the_leaking_worker_is_recycled_and_its_siblings_are_not(
    story: Story, server: Server
) -> None:
    """But for the oldest, where the surge of another one says that it takes it too."""
    host, name = story.of(server), server.name
    replaced = host.before[name] - host.after[name]
    (intent,) = host.lines(name, "intent")
    also = intent.data["also_pid"]
    if also is not None:
        assert also == min(host.before[name]) and f"the oldest worker {also} as" in intent.text
        assert also in replaced
        replaced.discard(also)
    assert replaced == {host.leaker(name)}
    assert len(host.after[name]) == WORKERS
    assert host.supervisor.program_pid(name) == host.masters[name]
    assert host.book.results(name) == ["done"]


def test_in_observe_the_leak_is_found_and_nothing_is_touched(story: Story) -> None:
    """The worker that leaks is named, what would be done is said, nothing is done."""
    (server,) = [server for server in SERVERS if server.observed]
    host, name = story.of(server), server.name
    assert host.after[name] == host.before[name]
    assert host.supervisor.program_pid(name) == host.masters[name]
    suspected = host.lines(name, "suspected")
    assert {line.data["pid"] for line in suspected} == {host.leaker(name)}
    assert host.lines(name, "intent", "step", "outcome") == []
    held = host.lines(name, "held")
    assert {line.data["code"] for line in held} == {"observe"}
    assert {news["type"] for news in host.news(name)} == {"memwatch.suspected"}
    assert host.status(name)["mode"] == "observe"


@_named(HEALTHY)
def test_a_healthy_program_is_not_touched(story: Story, server: Server) -> None:
    """Nor is anything said of it, but that it is watched."""
    host, name = story.of(server), server.name
    assert host.after[name] == host.before[name]
    assert host.supervisor.program_pid(name) == host.masters[name]
    assert host.lines(name) == []
    assert host.news(name) == []


@_named(list(SERVERS))
def test_no_request_fails(story: Story, server: Server) -> None:
    """But the one connection that gunicorn itself drops per stopped gthread worker before 24."""
    load = story.of(server).loads[server.name]
    assert load.answered > 200
    if server.loses:
        assert load.failed.keys() <= {"ConnectionResetError", "RemoteDisconnected"}
        assert load.failed.total() <= 4  # the worker's own threads
    else:
        assert load.failed == Counter()


@_named(LEAKING)
def test_the_new_worker_serves_and_the_memory_is_back(story: Story, server: Server) -> None:
    host, name = story.of(server), server.name
    newcomer = (host.after[name] - host.before[name]).pop()
    with Load(host.url(name) + "pid", concurrency=8, rate=None) as load:
        wait_until(lambda: load.bodies[str(newcomer)], 60, f"worker {newcomer} answers")
    acted = host.status(name)["last_action"]
    assert acted["freed_bytes"] > 15 * MB
    seen = {worker["pid"]: worker for worker in host.status(name)["workers"]}
    peak = max(point[1] for point in _acted(host, name)["data"]["series"])
    assert seen[newcomer]["anon"] < peak - 15 * MB


@_named(LEAKING)
def test_the_journal_has_the_intention_before_the_outcome(story: Story, server: Server) -> None:
    host, name = story.of(server), server.name
    lines = host.lines(name)
    order = [line.kind for line in lines if line.kind != "step"]
    first = {kind: order.index(kind) for kind in order}
    assert first["suspected"] < first["intent"] < first["outcome"] < first["recovered"]
    assert host.book.steps(name)[-1] == "settling"
    assert host.book.open_steps() == {}


def _acted(host: Host, name: str) -> dict[str, Any]:
    (news,) = [news for news in host.news(name) if news["type"] == "memwatch.acted"]
    return news


@_named(LEAKING)
def test_the_news_tells_what_was_suspected_and_what_was_done(story: Story, server: Server) -> None:
    host, name = story.of(server), server.name
    types = [news["type"] for news in host.news(name)]
    assert types[0] == "memwatch.suspected"
    assert types[-2:] == ["memwatch.acted", "memwatch.recovered"]
    assert set(types[:-2]) == {"memwatch.suspected"}
    for news in host.news(name):
        assert set(news) == {
            "specversion", "id", "source", "type", "time", "subject", "data",
        }  # fmt: skip
        assert news["specversion"] == "1.0"
        assert news["source"] == f"memwatch/{news['data']['host']}"
        assert set(news["data"]) == {
            "summary", "program", "worker", "verdicts", "action", "outcome", "freed_bytes",
            "also_pid", "series", "evidence", "host",
        }  # fmt: skip
        assert news["data"]["program"] == name
        assert "\n" not in news["data"]["summary"]
        for verdict in news["data"]["verdicts"]:
            assert set(verdict) == VERDICT
    ids = [news["id"] for news in host.receiver.bodies]
    assert len(ids) == len(set(ids)), "each news arrives once"
    for news in host.news(name)[:-1]:
        assert news["data"]["worker"]["pid"] == host.leaker(name)
        assert set(news["data"]["worker"]) == WORKER
    acted = _acted(host, name)["data"]
    assert acted["action"] == "recycle"
    assert acted["outcome"] == "done"
    assert acted["verdicts"][0]["told"]
    times = [at for at, _ in acted["series"]]
    assert len(times) > 5
    assert times == sorted(times)


WORKER = {
    "pid", "id", "start", "age", "rss", "anon", "pss", "uss", "swap", "measured_at", "cpu", "fds",
    "threads", "requests", "limit", "headroom", "verdicts", "trend", "hours_to_limit",
}  # fmt: skip
VERDICT = {"kind", "since", "measured", "bound", "confidence", "why", "told", "act"}
PROGRAM = {
    "namespec", "state", "mode", "kind", "master", "workers", "verdicts", "total", "total_limit",
    "available", "held", "action", "last_action", "budget",
}  # fmt: skip
LISTENER = {"pid", "ticks", "last_tick", "rss", "cpu_seconds", "events_dropped"}


@_named(LEAKING)
def test_journal_status_and_news_tell_the_same(story: Story, server: Server) -> None:
    host, name = story.of(server), server.name
    program, acted = host.status(name), _acted(host, name)["data"]
    (outcome,) = host.lines(name, "outcome")
    last = program["last_action"]
    assert (last["action"], last["result"]) == ("recycle", "done")
    assert last["pid"] == host.leaker(name)
    assert last["id"] == outcome.data["procedure"]
    assert last["freed_bytes"] == outcome.data["freed_bytes"] == acted["freed_bytes"]
    assert last["text"] in outcome.text
    assert last["kind"] in {line.data["verdict"] for line in host.lines(name, "suspected")}
    assert program["budget"]["used"] == 1
    assert program["action"] is None


@_named(list(SERVERS))
def test_status_shows_the_processes_that_are_there(story: Story, server: Server) -> None:
    """In the shape others read, with unknown as null."""
    host, name = story.of(server), server.name
    program = host.status(name)
    assert set(program) == PROGRAM
    assert (program["state"], program["kind"]) == ("RUNNING", "gunicorn")
    assert program["master"]["pid"] == host.masters[name]
    assert {worker["pid"] for worker in program["workers"]} == host.after[name]
    for worker in [program["master"], *program["workers"]]:
        assert set(worker) == WORKER
        assert worker["rss"] > worker["anon"] > 0
        assert worker["requests"] is None
        assert worker["start"] == pytest.approx(
            psutil.Process(worker["pid"]).create_time(), abs=1.5
        )


@pytest.mark.parametrize("which", [0, 1], ids=["4.3.0", "4.2.5"])
def test_the_exit_status_of_status_says_whether_something_is_told(story: Story, which: int) -> None:
    """1 while a leak is only observed; 0 where all that was told is over."""
    host = story.hosts[which]
    assert host.at_the_end is not None
    document = json.loads(host.at_the_end.stdout)
    assert _told(document) == {server.name for server in host.servers if server.observed}
    assert host.at_the_end.returncode == (1 if _told(document) else 0)
    assert set(document) == {"version", "time", "listener", "programs"}
    assert set(document["listener"]) >= LISTENER
    assert document["listener"]["pid"] == host.supervisor.program_pid("memwatch")
    assert document["listener"]["events_dropped"] == 0


def _told(document: dict[str, Any]) -> set[str]:
    return {
        program["namespec"]
        for program in document["programs"]
        for holder in [program, *program["workers"], program["master"] or {"verdicts": ()}]
        for verdict in holder["verdicts"]
        if verdict["told"]
    }


@_named(LEAKING)
def test_the_log_says_it_in_one_line_each(story: Story, server: Server) -> None:
    host, name = story.of(server), server.name
    log = host.supervisor.listener_log()
    for line in log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", line), line
    leaker = host.leaker(name)
    (intent,) = re.findall(
        rf"INFO {name} worker {leaker}: (?:leak|imbalance), .*; recycling(?: \(.*\))?$", log, re.M
    )
    assert re.search(r"\d+\.\dMB", intent), "with numbers"
    assert re.search(
        rf"INFO {name} recycle done: worker {leaker} replaced by \d+.*(?: \(surge\))?; .* back$",
        log,
        re.M,
    )


@pytest.mark.parametrize("which", [0, 1], ids=["4.3.0", "4.2.5"])
def test_supervisord_has_nothing_to_complain_about(story: Story, which: int) -> None:
    """No event rejected or dropped, no protocol broken, the listener started once."""
    log = story.hosts[which].supervisor.log()
    assert not re.findall(r"^.* ERRO .*$", log, re.M)
    assert "UNKNOWN state" not in log
    assert log.count("spawned: 'memwatch'") == 1
