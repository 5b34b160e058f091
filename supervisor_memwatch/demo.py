"""`memwatch demo`: a leak found and recycled while requests flow, in under two minutes.

A real supervisord in a temporary directory runs two gunicorn programs, one of which leaks in
one of its workers, and the listener. Load and a receiver of news run here. The story is told
from the listener's journal as it happens; at the end each part of it is judged, and the exit
status is 0 only if all of it really happened.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from . import overview, status, units
from .config import Config, ConfigError, load
from .journal import JournalError, Reader

LASTS = 115.0  # seconds after which the demo is over, whatever happened
AFTERMATH = 8.0  # seconds it goes on once the story is complete, to show the memory back
WORKERS = 3
PER_SECOND = 25.0  # requests to each program, by each of two clients

CONFIGURATION = """\
[unix_http_server]
file = {dir}/supervisor.sock

[supervisord]
logfile = {dir}/supervisord.log
pidfile = {dir}/supervisord.pid
childlogdir = {dir}
nodaemon = true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:leaky]
command = {gunicorn} --bind 127.0.0.1:{leaky} supervisor_memwatch.demo_app:app
environment = MEMWATCH_DEMO_LEAK="{dir}/leaks"
stopasgroup = true

[program:healthy]
command = {gunicorn} --bind 127.0.0.1:{healthy} supervisor_memwatch.demo_app:app
stopasgroup = true

[eventlistener:memwatch]
command = {python} -m supervisor_memwatch listen
events = TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION,SUPERVISOR_STATE_CHANGE
buffer_size = 100
priority = 50
autorestart = true
stderr_logfile = {dir}/memwatch.log

[memwatch]
mode = act
limit = 120MB
; Shortened for the demo; the defaults are 2m and 30s, and the leak detector's first window
; is 10 times `confirm`.
warmup = 10s
confirm = 4s
journal = {dir}/journal.sqlite
notify = http://127.0.0.1:{receiver}/news
"""


def run(keep: bool = False) -> int:
    """The whole demo; its exit status."""
    if importlib.util.find_spec("gunicorn") is None:
        print("memwatch: the demo needs gunicorn: pip install 'supervisor-memwatch[demo]'")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="memwatch-demo-"))
    try:
        return _play(directory)
    except KeyboardInterrupt:
        print("\ninterrupted")
        return 130
    finally:
        if keep:
            print(f"logs and journal: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _play(directory: Path) -> int:
    ports = {name: _free_port() for name in ("leaky", "healthy")}
    with _Receiver() as receiver:
        path = directory / "supervisord.conf"
        path.write_text(
            CONFIGURATION.format(
                dir=directory,
                python=sys.executable,
                gunicorn=f"{sys.executable} -m gunicorn --workers {WORKERS}",
                receiver=receiver.port,
                **ports,
            )
        )
        print(
            f"A supervisord with two gunicorn programs of {WORKERS} workers, `leaky` and "
            "`healthy`; one worker of\n`leaky` leaks. Warm-up and windows are shortened "
            "(warmup = 10s, confirm = 4s); the limit is 120MB a worker.\n"
        )
        with _supervisord(directory, path), _Load(ports) as load:
            story = _Story(load_config(path), receiver, load)
            story.follow()
            return story.end()


def load_config(path: Path) -> Config:
    """The demo's own configuration."""
    try:
        return load(str(path), os.environ)
    except ConfigError as error:
        raise AssertionError(f"the demo's configuration: {error}") from error


@contextlib.contextmanager
def _supervisord(directory: Path, path: Path) -> Any:
    """A supervisord in a session of its own, ended with all that it started."""
    with open(directory / "supervisord.out", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # gunicorn 25.1 and newer put a control socket into HOME.
            env={**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Receiver:
    """A local HTTP server that keeps the news it is sent."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                received.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.received = received
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> _Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Load:
    """Clients that send requests at a steady rate and count the answers."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.answered = dict.fromkeys(ports, 0)
        self.failed: dict[str, list[str]] = {name: [] for name in ports}
        self._ports = ports
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(name,), daemon=True)
            for name in ports
            for _ in range(2)
        ]

    def __enter__(self) -> _Load:
        for name, port in self._ports.items():
            _wait_for_port(name, port)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more requests; those in flight are answered first."""
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _client(self, name: str) -> None:
        while not self._end.wait(1 / PER_SECOND):
            problem = self._request(self._ports[name])
            with self._lock:
                if problem is None:
                    self.answered[name] += 1
                else:
                    self.failed[name].append(problem)

    def _request(self, port: int) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        return None if answer.status == 200 else f"status {answer.status}"


class _Story:
    """What happened so far, as the journal tells it."""

    def __init__(self, config: Config, receiver: _Receiver, load: _Load) -> None:
        self.config = config
        self.receiver = receiver
        self.load = load
        self.begun = time.monotonic()
        self.seen = 0  # the last entry of the journal that was told
        self.news_seen = 0
        self.entries: list[tuple[str, str, str, dict[str, Any]]] = []
        self.workers: dict[str, list[int]] = {}  # as first seen whole
        self.document: dict[str, Any] | None = None
        self.peak = 0
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._shown = -5.0

    def follow(self) -> None:
        """Tell it until it is complete, or time is up."""
        complete: float | None = None
        while True:
            passed = time.monotonic() - self.begun
            self._look(passed)
            if complete is None and self._acted() and self._news("memwatch.acted"):
                complete = passed
            over = complete is not None and passed > complete + AFTERMATH
            if passed > LASTS or over:
                return
            time.sleep(1.0)

    def _look(self, passed: float) -> None:
        try:
            self.document = status.document(self.config)
            reader = Reader(self.config.journal_path())
            rows = reader.rows(
                "SELECT seq, namespec, kind, text, data FROM entries WHERE seq > ? ORDER BY seq",
                (self.seen,),
            )
            reader.close()
        except (JournalError, TypeError, ValueError):
            return  # the listener has not written anything yet
        for program in self.document["programs"]:
            pids = sorted(worker["pid"] for worker in program["workers"])
            if len(pids) == WORKERS:
                self.workers.setdefault(program["namespec"], pids)
            if program["namespec"] == "leaky":
                self.peak = max([self.peak, *(worker["rss"] for worker in program["workers"])])
        self._undraw()
        for seq, namespec, kind, text, data in rows:
            self.seen = seq
            self.entries.append((namespec, kind, text, json.loads(data)))
            print(f"{passed:5.0f}s  {units.printable(namespec)} {units.printable(text)}")
        for item in self.receiver.received[self.news_seen :]:
            self.news_seen += 1
            summary = units.printable(item["data"]["summary"])
            print(f"{passed:5.0f}s  NEWS {item['type']}: {summary}")
        self._show(passed)

    def _show(self, passed: float) -> None:
        assert self.document is not None
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            lines = [line[:width] for line in overview.text(self.document, width).split("\n")]
            print("\n".join(lines))
            self._drawn = len(lines)
        elif passed - self._shown >= 5:
            self._shown = passed
            for program in self.document["programs"]:
                sizes = " ".join(
                    f"{worker['pid']}={units.size(worker['rss'])}" for worker in program["workers"]
                )
                total = units.size(program["total"])
                print(f"{passed:5.0f}s  {program['namespec']:8} {total:>8} in all; RSS {sizes}")
        sys.stdout.flush()

    def _undraw(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="")
            self._drawn = 0

    def _acted(self) -> bool:
        return any(
            namespec == "leaky" and kind == "outcome" and data.get("result") == "done"
            for namespec, kind, _, data in self.entries
        )

    def _news(self, type: str) -> bool:
        return any(item["type"] == type for item in self.receiver.received)

    def end(self) -> int:
        """Judge the story, part by part."""
        self.load.stop()
        programs = {p["namespec"]: p for p in (self.document or {"programs": []})["programs"]}
        now = {
            name: sorted(worker["pid"] for worker in program["workers"])
            for name, program in programs.items()
        }
        kinds = {(namespec, kind, data.get("verdict")) for namespec, kind, _, data in self.entries}
        before, after = self.workers.get("leaky", []), now.get("leaky", [])
        largest = max(
            (w["rss"] for w in programs.get("leaky", {"workers": []})["workers"]), default=0
        )
        failed = [problem for problems in self.load.failed.values() for problem in problems]
        judged = [
            ("the leak was found", ("leaky", "suspected", "leak") in kinds),
            ("the worker was recycled", self._acted()),
            (
                "its siblings were not touched",
                len(after) == WORKERS and len(set(before) & set(after)) == WORKERS - 1,
            ),
            (
                f"the memory is back: largest worker {units.size(self.peak)}, now "
                f"{units.size(largest)}",
                0 < largest < 0.8 * self.peak,
            ),
            (
                "the healthy program was not touched",
                "healthy" in now and now["healthy"] == self.workers.get("healthy"),
            ),
            ("the news arrived", self._news("memwatch.acted")),
            (
                f"requests: {sum(self.load.answered.values())} answered, {len(failed)} failed",
                not failed and all(self.load.answered.values()),
            ),
        ]
        print()
        for text, ok in judged:
            print(f"  {'yes' if ok else 'NO '}  {text}")
        for problem in sorted(set(failed))[:5]:
            print(f"       {units.printable(problem)}")
        acted = next((i for i in self.receiver.received if i["type"] == "memwatch.acted"), None)
        if acted is not None:
            acted["data"]["series"] = f"... {len(acted['data']['series'])} points"
            print("\nThe notification as it arrived:\n" + json.dumps(acted, indent=2))
        print(f"\n{time.monotonic() - self.begun:.0f} s")
        return 0 if all(ok for _, ok in judged) else 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(name: str, port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"memwatch: the demo's program `{name}` does not start") from None
            time.sleep(0.1)
        else:
            return
