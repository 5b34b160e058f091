"""Who ended a worker of a real gunicorn, as its log under a real supervisord tells, and without it.

Each step ends workers in one way and compares the two witnesses: one reads gunicorn's error log
through Supervisor's RPC as the listener does, the other sees the snapshots alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from servers import free_port, wait_until

from supervisor_memwatch import attribution, control, errorlog
from supervisor_memwatch.attribution import Change, Count, End, Witness
from supervisor_memwatch.model import Snapshot, WorkerId
from supervisor_memwatch.sampler import Program, Sampler

pytestmark = pytest.mark.slow

APP = """
import os, sys, time

kept = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/exit":
        os._exit(1)
    if path == "/noise":
        print("noise " * 600, file=sys.stderr, flush=True)
    if path == "/hang":
        time.sleep(60)
    if path == "/eat":
        while True:
            kept.append(bytearray(b"x" * 2**20))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
CGROUP = Path("/sys/fs/cgroup/memory")


class Observer:
    """Looks at one program as the listener does, with two witnesses."""

    def __init__(self, sup: servers.Supervisor, name: str, port: int, workers: int) -> None:
        self.sup, self.name, self.port, self.workers = sup, name, port, workers
        self.sampler, self.knowing, self.inferring = Sampler(), Witness(), Witness()
        self.rpc = control.Supervisor(sup.url, timeout=30)
        config = next(each for each in self.rpc.configs() if each["name"] == name)
        self.stream = errorlog.stream(config)
        assert self.stream is not None
        self.offset: int | None = None
        wait_until(self._is_ready, 60, lambda: f"{workers} workers serve\n{sup}")
        self.last = self.snapshot()
        for witness in (self.knowing, self.inferring):  # it has been so for a while
            for earlier in (200.0, 100.0):
                witness.look(self.last, self.last._replace(at=self.last.at - earlier))
        self.read_log()

    def snapshot(self) -> Snapshot:
        info = self.sup.info(self.name)
        program = Program(self.name, info["statename"], info["pid"], None)
        return self.sampler.look(program, time.time())

    def _is_ready(self) -> bool:
        ready = [worker.ready for worker in self.snapshot().workers]
        return all(ready) and len(ready) == self.workers

    def read_log(self) -> str:
        """What is new in gunicorn's log."""
        tail = self.rpc.tail_stderr if self.stream == "stderr" else self.rpc.tail_stdout
        text, self.offset = errorlog.news(lambda length: tail(self.name, 0, length), self.offset)
        return text

    def get(self, path: str, times: int = 1) -> None:
        """Requests; whether they are answered is not of interest."""
        for _ in range(times):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=70) as answer,
            ):
                answer.read()

    def oldest(self) -> WorkerId:
        return max(self.last.workers, key=lambda worker: worker.age or 0.0).id

    def youngest(self) -> float:
        return min(worker.age or 0.0 for worker in self.snapshot().workers)

    def master(self, name: str) -> None:
        assert self.last.master is not None
        os.kill(self.last.master.id.pid, signal.Signals["SIG" + name])

    def after(
        self, act: Callable[[], object], ends: int, workers: int = 0
    ) -> tuple[Change, Change]:
        """What both witnesses say until `ends` workers have ended and `workers` serve again."""
        self.workers = workers or self.workers
        known: list[Change] = []
        inferred: list[Change] = []
        begun = self.last
        threading.Thread(target=act, daemon=True).start()

        def over() -> bool:
            now = self.snapshot()
            log = self.read_log() if self.knowing.wants_log(self.last, now) else ""
            known.append(self.knowing.look(self.last, now, (), log))
            inferred.append(self.inferring.look(self.last, now))
            self.last = now
            serve = sum(bool(worker.ready) for worker in now.workers)
            gone = sum(len(change.ends) for change in known)
            changed = [worker.id for worker in begun.workers] != [w.id for w in now.workers]
            return changed and gone >= ends and serve == len(now.workers) == self.workers

        wait_until(over, 60, lambda: f"{known}\n{self.sup.read(self.name + '.log')}", every=0.5)
        return _joined(known), _joined(inferred)


def _joined(changes: list[Change]) -> Change:
    ends: tuple[End, ...] = ()
    counts: tuple[Count, ...] = ()
    for change in changes:
        ends, counts = ends + change.ends, counts + change.counts
    return Change(ends, counts, sum(change.actions for change in changes))


def causes(change: Change) -> list[str]:
    return [end.cause for end in change.ends]


@pytest.fixture
def observe(tmp_path: Path) -> Iterator[Callable[..., Observer]]:
    """A gunicorn of some version under a supervisord, once its workers serve."""
    (tmp_path / "ending.py").write_text(APP)
    with contextlib.ExitStack() as stack:

        def run(version: str | None, workers: int, options: str, **more: object) -> Observer:
            port = free_port()
            command = servers.gunicorn(
                "ending:app", port, workers=workers, options=f"--pythonpath {tmp_path} {options}"
            )
            settings = {"stderr_logfile": tmp_path / "web.log", "command": command, **more}
            text = servers.program(
                "web",
                str(settings.pop("command")),
                environment=servers.gunicorn_path(version),
                **settings,
            )
            sup = stack.enter_context(servers.Supervisor(tmp_path, text))
            sup.wait_for("web")
            observer = Observer(sup, "web", port, workers)
            stack.callback(observer.rpc.close)
            return observer

        yield run


@pytest.mark.parametrize("version", ["20.1.0", "23.0.0", "27.0.1"])
def test_each_way_to_end_a_worker_is_told_from_the_others(
    observe: Callable[..., Observer], version: str
) -> None:
    web = observe(version, 3, "--timeout 3")

    known, inferred = web.after(lambda: os.kill(web.oldest().pid, signal.SIGKILL), 1)
    assert causes(known) == ["signal"]
    assert "SIGKILL" in known.ends[0].text
    assert causes(inferred) == ["unknown"]

    known, inferred = web.after(lambda: os.kill(web.oldest().pid, signal.SIGTERM), 1)
    assert causes(known) == ["signal"]
    assert "probably SIGTERM" in known.ends[0].text
    assert causes(inferred) == ["unknown"]

    known, inferred = web.after(lambda: web.get("/exit"), 1)
    # 20.1 does not log exit codes.
    assert causes(known) == (["unknown"] if version == "20.1.0" else ["exit"])
    assert "not seen" not in known.ends[0].text
    assert causes(inferred) == ["unknown"]

    known, inferred = web.after(lambda: web.get("/hang"), 1)
    assert causes(known) == ["timeout"]
    assert causes(inferred) == ["unknown"]

    known, inferred = web.after(lambda: web.master("TTIN"), 0, 4)
    assert (causes(known), [(c.cause, c.by) for c in known.counts]) == ([], [("ttin", 1)])
    assert causes(inferred) == []

    oldest = web.oldest()
    known, inferred = web.after(lambda: web.master("TTOU"), 1, 3)
    assert (causes(known), [(c.cause, c.by) for c in known.counts]) == (["ttou"], [("ttou", -1)])
    assert known.ends[0].worker.id == oldest
    assert causes(inferred) == ["unknown"]

    # Who is as young as those who come would be taken for one of them, without the log.
    wait_until(lambda: web.youngest() > attribution.TOGETHER, 60, lambda: str(web.snapshot()))
    known, inferred = web.after(lambda: web.master("HUP"), 3)
    assert causes(known) == ["reload"] * 3
    assert known.actions == 1
    # A look in the middle of it may have seen the first ones go before the last came.
    assert "reload" in causes(inferred)
    assert set(causes(inferred)) <= {"reload", "unknown"}


@pytest.mark.parametrize("version", ["20.1.0", "27.0.1"])
def test_max_requests_is_known_from_a_log_that_holds_stdout_too(
    observe: Callable[..., Observer], version: str
) -> None:
    web = observe(
        version,
        1,
        "--max-requests 3 --access-logfile -",
        redirect_stderr="true",
        stdout_logfile="web.log",
        stderr_logfile="NONE",
    )
    assert web.stream == "stdout"
    known, inferred = web.after(lambda: web.get("/", 3), 1)
    assert causes(known) == ["max_requests"]
    assert known.actions == 1
    assert causes(inferred) == ["unknown"]


def test_a_log_that_is_rotated_is_read_on(observe: Callable[..., Observer]) -> None:
    """What stood at the end of the old one is lost, what the new one holds is not."""
    web = observe(None, 2, "", stderr_logfile_maxbytes=3000, stderr_logfile_backups=1)
    kill = lambda: os.kill(web.oldest().pid, signal.SIGKILL)  # noqa: E731
    assert causes(web.after(kill, 1)[0]) == ["signal"]
    web.get("/noise")
    wait_until((web.sup.directory / "web.log.1").exists, 30, "the log is rotated")
    assert causes(web.after(kill, 1)[0]) == ["signal"]


def test_a_log_in_a_characters_middle_is_never_asked_for(
    observe: Callable[..., Observer],
) -> None:
    """Supervisor fails on such a piece; what is new begins where a line does."""
    web = observe(None, 1, "")
    path = web.sup.directory / "web.log"
    with open(path, "ab") as log:
        log.write("€€€€€€€\n".encode() * 10)
    assert web.read_log().endswith("€€€€€€€\n")
    with open(path, "ab") as log:
        log.write("€\n".encode())
    assert web.read_log() == "€\n"
    assert web.read_log() == ""


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group of 200 MB, where the machine allows to make one."""
    made = CGROUP / f"memwatch-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(str(200 * 2**20))
    except OSError as error:
        pytest.skip(f"no memory control group can be made: {error}")
    yield made
    wait_until(lambda: not (made / "cgroup.procs").read_text(), 30, "the group is empty")
    made.rmdir()


@pytest.mark.parametrize("version", ["20.1.0", "27.0.1"])
def test_the_kernels_oom_kill_is_told_from_a_kill(
    tmp_path: Path, group: Path, observe: Callable[..., Observer], version: str
) -> None:
    script = tmp_path / "inside.py"
    script.write_text(
        "import os, sys\n"
        f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    port = free_port()
    command = servers.gunicorn("ending:app", port, options=f"--pythonpath {tmp_path}")
    web = observe(version, 2, "", command=f"{sys.executable} {script} {command}")
    web.port = port

    known, inferred = web.after(lambda: os.kill(web.oldest().pid, signal.SIGKILL), 1)
    assert causes(known) == ["signal"]
    assert "OOM counter did not rise" in known.ends[0].text
    assert causes(inferred) == ["unknown"]

    known, inferred = web.after(lambda: web.get("/eat"), 1)
    assert causes(known) == causes(inferred) == ["oom"]
    assert "OOM counter rose by 1" in known.ends[0].text
    assert known.actions == 1
