"""The servers the other tests stand on: they start, serve, count, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import servers
from servers import Answer, Load, Receiver, Supervisor, get, gunicorn, program, wait_until


def _version(package: str, version: str | None) -> str:
    code = f"import {package}; print(getattr({package}, '__version__', ''))"
    if package == "supervisor":
        code = "from supervisor.options import VERSION; print(VERSION)"
    environment = {**os.environ, "PYTHONPATH": servers.pythonpath(package, version)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["20.1.0", "23.0.0", "25.3.0", "27.0.1"])
def test_each_gunicorn_is_the_version_it_is_called(version: str) -> None:
    assert _version("gunicorn", version) == version


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.2.5", "4.3.0"])
def test_each_supervisor_is_the_version_it_is_called(version: str) -> None:
    assert _version("supervisor", version) == version


def test_a_missing_version_fails_and_says_how_to_get_it() -> None:
    with pytest.raises(AssertionError, match="make servers"):
        servers.pythonpath("gunicorn", "0.0.1")


def test_waiting_ends_with_what_was_waited_for() -> None:
    assert wait_until(lambda: 7) == 7
    with pytest.raises(AssertionError, match="the moon"):
        wait_until(lambda: 0, 0.01, "the moon")


def test_the_receiver_keeps_bodies_and_answers_as_told() -> None:
    with Receiver(500, Answer(302, {"Location": "/x"})) as receiver:
        seen = []
        for number in range(3):
            request = urllib.request.Request(receiver.url, f'{{"n": {number}}}'.encode())
            opener = urllib.request.build_opener(_NoRedirect)
            try:
                with opener.open(request, timeout=10) as answer:
                    seen.append(answer.status)
            except urllib.error.HTTPError as error:
                seen.append(error.code)
                error.close()
        assert seen == [500, 302, 200]
        assert receiver.bodies == [{"n": 0}, {"n": 1}, {"n": 2}]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def test_load_counts_what_failed_and_why() -> None:
    with Load(f"http://127.0.0.1:{servers.free_port()}/", concurrency=1) as load:
        wait_until(lambda: load.failed)
    assert load.answered == 0
    assert set(load.failed) == {"ConnectionRefusedError"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "worker_class", "version"),
    [
        ("leaky:app", "sync", None),
        ("leaky:app", "gthread", "20.1.0"),
        ("leaky_flask:app", "gevent", "23.0.0"),
        ("leaky_asgi:app", "asgi", None),
        ("leaky_asgi:app", "uvicorn.workers.UvicornWorker", None),
    ],
)
def test_one_worker_of_the_sample_application_leaks_and_its_replacement_does_not(
    tmp_path: Path, app: str, worker_class: str, version: str | None
) -> None:
    """The pid in the flag file grows; ended, nobody grows any more."""
    port = servers.free_port()
    flag = f"{tmp_path}/flag"
    environment = {
        **servers.gunicorn_path(version),
        "LEAK_FLAG": flag,
        "LEAK_BYTES": 1_000_000,
    }
    text = program("web", gunicorn(app, port, worker_class=worker_class), environment=environment)
    url = f"http://127.0.0.1:{port}/"
    with Supervisor(tmp_path, text) as supervisor:
        wait_until(lambda: servers.answers(url + "pid"), 60, lambda: str(supervisor))
        wait_until(lambda: len(supervisor.children("web")) == 2)
        workers = supervisor.children("web")
        for _ in range(200):
            get(url)
        leaker = int(Path(flag).read_text())
        assert leaker in workers
        wait_until(lambda: get(url) and psutil.Process(leaker).memory_info().rss > 100e6)
        healthy = workers - {leaker}
        assert all(psutil.Process(pid).memory_info().rss < 100e6 for pid in healthy)

        psutil.Process(leaker).terminate()
        wait_until(lambda: leaker not in supervisor.children("web"))
        wait_until(lambda: len(supervisor.children("web")) == 2)
        for _ in range(200):
            get(url)
        for pid in supervisor.children("web"):
            assert psutil.Process(pid).memory_info().rss < 100e6


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.2.5", "4.3.0"])
def test_nothing_stays_behind(tmp_path: Path, version: str) -> None:
    """Not even a child that ignores SIGTERM and whose parent has gone."""
    stubborn = f"""{sys.executable} -c "import subprocess as s; s.Popen(['sh', '-c', \
'trap : TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done'])" """
    with Supervisor(
        tmp_path,
        program("stubborn", stubborn, startsecs=0, autorestart="false", stopasgroup="false"),
        version=version,
        auth=("u", "p"),
    ) as supervisor:
        assert supervisor.rpc.supervisor.getSupervisorVersion() == version
        text = wait_until(lambda: supervisor.read("pid").strip(), 60, lambda: str(supervisor))
        wait_until(lambda: supervisor.state("stubborn") == "EXITED")
        child = psutil.Process(int(text))
        assert servers.alive(child)
        server = psutil.Process(supervisor.pid)
    assert not servers.alive(child)
    assert not servers.alive(server)


@pytest.mark.slow
def test_load_sees_every_answer(tmp_path: Path) -> None:
    port = servers.free_port()
    with Supervisor(tmp_path, program("web", gunicorn("leaky:app", port))) as supervisor:
        wait_until(lambda: servers.answers(f"http://127.0.0.1:{port}/pid"))
        with Load(f"http://127.0.0.1:{port}/pid") as load:
            wait_until(lambda: load.answered > 50)
        assert not load.failed
        assert {int(pid) for pid in load.bodies} <= supervisor.children("web")
        assert sum(load.bodies.values()) == load.answered
