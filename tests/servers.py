"""Real servers for tests: supervisord, gunicorn, HTTP load, a receiver of news.

Everything listens on loopback or on a unix socket, on ports the kernel chose, and ends with the
test: also what a server left behind. Nothing here knows what memwatch decides.

    with Supervisor(tmp_path, program("web", gunicorn("leaky:app", port)), memwatch=TEXT) as sup:
        wait_until(lambda: sup.info("web")["statename"] == "RUNNING")
        with Load(f"http://127.0.0.1:{port}/") as load:
            wait_until(lambda: "recycling" in sup.listener_log(), 60, "the leak is acted on")
        assert not load.failed
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import xmlrpc.client
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "tests" / "apps"
INSTALLED = {"gunicorn": "27.0.1", "supervisor": "4.3.0"}
SUPERVISOR_EVENTS = "TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION,SUPERVISOR_STATE_CHANGE"


# -- versions


def servers_directory() -> Path:
    """Where `make servers` puts the versions beside the installed ones."""
    return Path(os.environ.get("MEMWATCH_TEST_SERVERS") or Path(sys.prefix) / "servers")


def pythonpath(package: str, version: str | None = None) -> str:
    """A PYTHONPATH under which `python -m PACKAGE` is that version (None: the installed one).

    The project itself and the sample applications are always on it.
    """
    parts = [str(ROOT), str(APPS)]
    if version not in (None, INSTALLED[package]):
        directory = servers_directory() / f"{package}-{version}"
        if not (directory / package).is_dir():
            # A proof that was skipped is no proof: this fails, and says what is missing.
            raise AssertionError(f"{package} {version} is not in {directory}: run `make servers`")
        parts.insert(0, str(directory))
    return os.pathsep.join(parts)


def _environment(package: str, version: str | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": pythonpath(package, version)}


def gunicorn_env(version: str | None = None) -> dict[str, str]:
    """This process's environment, in which `sys.executable -m gunicorn` is that version."""
    return _environment("gunicorn", version)


def supervisor_env(version: str | None = None) -> dict[str, str]:
    """The same for supervisor; its programs inherit it."""
    return _environment("supervisor", version)


# -- small things


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on at this moment.

    Below those that the kernel gives to clients: one of them might take it before the server does.
    """
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 60,
    what: str | Callable[[], str] = "",
    every: float = 0.05,
) -> T:
    """The first true value of predicate(); AssertionError with `what` after `timeout` seconds.

    `what` may also be a function that says how things stand, called at the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:g} s: {text or predicate}")
        time.sleep(every)


def get(url: str, timeout: float = 30) -> str:
    """The body of a GET that must be answered with 200."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        text: str = answer.read().decode()
        return text


def answers(url: str) -> bool:
    """Whether the server behind url answers, with whatever status."""
    try:
        get(url, 5)
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def alive(process: psutil.Process) -> bool:
    """Whether it runs: the same process, and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(sid: int) -> list[psutil.Process]:
    """The processes of a session, without its leader: also those whose parent has gone."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if pid != sid and os.getsid(pid) == sid:
                found.append(psutil.Process(pid))
    return found


def end_processes(processes: Iterable[psutil.Process], patience: float = 5) -> None:
    """End each by its pid: SIGTERM, SIGKILL to what is still there after `patience` seconds."""
    left = [process for process in processes if alive(process)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [process for process in left if alive(process)]
            time.sleep(0.02)


# -- supervisord


def _assignments(values: Mapping[str, object]) -> str:
    """`environment=` as Supervisor reads it: quoted, and without expansions."""
    return ",".join(
        '{}="{}"'.format(key, str(value).replace("%", "%%")) for key, value in values.items()
    )


def program(
    name: str, command: str, *, environment: Mapping[str, object] | None = None, **options: object
) -> str:
    """A [program:NAME] section. `options` are Supervisor's: numprocs=2, stopwaitsecs=40, ..."""
    lines = [f"[program:{name}]", "command=" + command.replace("%", "%%")]
    settings = {"startsecs": 1, "stopasgroup": "true", "stopwaitsecs": 20, **options}
    lines += [f"{key}={value}" for key, value in settings.items()]
    if environment:
        lines.append("environment=" + _assignments(environment))
    return "\n".join(lines) + "\n\n"


def gunicorn(
    app: str,
    port: int,
    *,
    worker_class: str = "sync",
    workers: int = 2,
    options: str = "",
) -> str:
    """A command line for `program`: `python -m gunicorn` in the directory of the sample apps.

    The version is chosen by the environment: environment=gunicorn_path("20.1.0").
    """
    return (
        f"{sys.executable} -m gunicorn --chdir {APPS} --bind 127.0.0.1:{port}"
        f" --worker-class {worker_class} --workers {workers} {options} {app}"
    )


def gunicorn_path(version: str | None) -> dict[str, str]:
    """`environment=` of one program, in which gunicorn is that version."""
    return {"PYTHONPATH": pythonpath("gunicorn", version)}


class Supervisor:
    """A supervisord of its own: started on entry; on exit it and all its processes are gone.

    directory: where configuration, logs and children's logs lie (pytest's tmp_path).
    sections: text of [program:...] and other sections.
    memwatch: text of the [memwatch...] sections; given ("" too), the listener runs as
        `memwatch`, with its log in `memwatch.log`, its journal in `journal.db` (unless the text
        says otherwise) and `listener` as further lines of its [eventlistener:memwatch].
    env: variables added to supervisord's environment (None as a value removes one).
    version: supervisor's, None for the installed one.
    auth: (username, password) of the unix socket. inet: also listen on `inet_port`.
    head: text before everything else, e.g. an [include] section.
    """

    def __init__(
        self,
        directory: Path,
        sections: str = "",
        *,
        memwatch: str | None = None,
        listener: str = "",
        env: Mapping[str, str | None] | None = None,
        version: str | None = None,
        auth: tuple[str, str] | None = None,
        inet: bool = False,
        rpcinterface: bool = True,
        head: str = "",
    ) -> None:
        self.directory = directory
        self.sections = sections
        self.memwatch = memwatch
        self.listener = listener
        self.version = version
        self.auth = auth
        self.inet_port = free_port() if inet else None
        self.rpcinterface = rpcinterface
        self.head = head
        self.env = {} if env is None else dict(env)
        self.conf = directory / "supervisord.conf"
        self.journal = directory / "journal.db"
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._proxy: Any = None
        self._short = ""  # socket addresses hold 107 bytes; pytest's directories are longer

    @property
    def socket(self) -> str:
        return os.path.join(self._short, "s.sock")

    @property
    def url(self) -> str:
        """unix://...: what SUPERVISOR_SERVER_URL is for its children."""
        return "unix://" + self.socket

    @property
    def environ(self) -> dict[str, str]:
        """supervisord's environment; also for running `memwatch` commands beside it."""
        made: dict[str, str | None] = {
            **supervisor_env(self.version),
            # gunicorn 25.1 and newer put a control socket here, shared by all who share it.
            "HOME": str(self.directory),
            "XDG_RUNTIME_DIR": self._short,
            **self.env,
        }
        return {key: value for key, value in made.items() if value is not None}

    def text(self) -> str:
        """The configuration file."""
        login = ""
        if self.auth:
            login = "username={}\npassword={}\n".format(*self.auth)
        parts = [
            self.head,
            f"[unix_http_server]\nfile={self.socket}\n{login}",
            f"[supervisord]\nlogfile={self.directory}/supervisord.log\n"
            f"pidfile={self.directory}/supervisord.pid\nchildlogdir={self.directory}\n"
            f"directory={self.directory}\nnodaemon=true\nloglevel=info\n",
            f"[supervisorctl]\nserverurl={self.url}\n{login}",
        ]
        if self.rpcinterface:
            parts.append(
                "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory ="
                " supervisor.rpcinterface:make_main_rpcinterface\n"
            )
        if self.inet_port:
            parts.append(f"[inet_http_server]\nport=127.0.0.1:{self.inet_port}\n{login}")
        parts.append(self.sections)
        if self.memwatch is not None:
            parts.append(self._listener_section())
            if "journal" not in self.memwatch:
                # Repeated sections merge.
                parts.append(f"[memwatch]\njournal = {self.journal}\n")
            parts.append(self.memwatch)
        return "\n".join(part for part in parts if part)

    def _listener_section(self) -> str:
        lines = [
            "[eventlistener:memwatch]",
            f"command={sys.executable} -m supervisor_memwatch listen",
            f"events={SUPERVISOR_EVENTS}",
            "buffer_size=100",
            "priority=50",
            "autorestart=true",
            f"stderr_logfile={self.directory}/memwatch.log",
        ]
        return "\n".join(lines) + "\n" + self.listener + "\n"

    def __enter__(self) -> Supervisor:
        self._short = tempfile.mkdtemp(prefix="mw", dir="/tmp")
        self.conf.write_text(self.text())
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._short, ignore_errors=True)

    def start(self) -> None:
        """Start supervisord on the file as it is now; returns when its RPC answers."""
        with open(self.directory / "supervisord.out", "ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.conf)],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # so that what it leaves behind can be found
            )
        self.pid = self._process.pid
        wait_until(self._is_up, 60, lambda: "supervisord is up:\n" + self.read("supervisord.out"))

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("supervisord ended:\n" + self.read("supervisord.out"))
        if not self.rpcinterface:
            return os.path.exists(self.socket)
        try:
            return bool(self.rpc.supervisor.getState()["statename"] == "RUNNING")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            self._forget_proxy()
            return False

    def stop(self, patience: float = 30) -> None:
        """SIGTERM, SIGKILL after `patience` seconds; then ends whatever it has left behind."""
        self._forget_proxy()
        if self._process is None:
            return
        process, self._process = self._process, None
        tree = _session(process.pid)
        if process.poll() is None:
            with contextlib.suppress(psutil.Error):
                tree += psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_processes([*tree, *_session(process.pid)])

    def _forget_proxy(self) -> None:
        if self._proxy is not None:
            self._proxy("close")()
            self._proxy = None

    @property
    def rpc(self) -> Any:
        """Its XML-RPC interface (`sup.rpc.supervisor.getState()`). Not for several threads."""
        if self._proxy is None:
            from supervisor.xmlrpc import SupervisorTransport

            transport = SupervisorTransport(*(self.auth or (None, None)), self.url)
            self._proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        return self._proxy

    def info(self, namespec: str) -> dict[str, Any]:
        """Supervisor's getProcessInfo."""
        found: dict[str, Any] = self.rpc.supervisor.getProcessInfo(namespec)
        return found

    def state(self, namespec: str) -> str:
        return str(self.info(namespec)["statename"])

    def program_pid(self, namespec: str) -> int:
        return int(self.info(namespec)["pid"])

    def wait_for(self, namespec: str, state: str = "RUNNING", timeout: float = 60) -> int:
        """Wait for a state of Supervisor's; returns the program's pid."""
        wait_until(
            lambda: self.state(namespec) == state, timeout, lambda: f"{namespec} {state}\n{self}"
        )
        return self.program_pid(namespec)

    def children(self, namespec: str) -> set[int]:
        """The pids right below the supervised one: for `python -m gunicorn`, the workers."""
        try:
            return {child.pid for child in psutil.Process(self.program_pid(namespec)).children()}
        except psutil.NoSuchProcess:
            return set()

    def read(self, name: str) -> str:
        """A file in its directory; empty if there is none."""
        try:
            return (self.directory / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def log(self) -> str:
        """supervisord's log."""
        return self.read("supervisord.log")

    def listener_log(self) -> str:
        """What memwatch wrote to stderr."""
        return self.read("memwatch.log")

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """`memwatch ARGUMENTS`, run to its end with this supervisord's configuration file."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "supervisor_memwatch", command, "-c", str(self.conf), *rest],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __str__(self) -> str:
        """How things stand: for the text of a failed wait."""
        names = ("supervisord.log", "memwatch.log")
        return "\n".join(f"--- {name}\n{self.read(name)[-4000:]}" for name in names)


# -- load


class Load:
    """Threads that GET one URL until stop(): how many were answered with 200, how many failed.

    concurrency: threads. rate: requests per second of all together; None: as fast as they go.
    keep_alive: one connection per thread, made again when it breaks.
    `failed` counts by kind (`HTTP 500`, `ConnectionRefusedError`, ...), `bodies` the answers by
    their text: with the sample applications, how many each worker gave.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 4,
        rate: float | None = 100,
        keep_alive: bool = False,
        timeout: float = 30,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port
        self._path = parts.path or "/"
        self._pause = concurrency / rate if rate else 0.0
        self._keep_alive = keep_alive
        self._timeout = timeout
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, daemon=True) for _ in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection = self._connect()
        due = time.monotonic()
        while not self._stopping.is_set():
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                body = answer.read().decode(errors="replace")
                kind = None if answer.status == 200 else f"HTTP {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                kind = type(error).__name__
            with self._lock:
                if kind is None:
                    self.answered += 1
                    self.bodies[body[:40]] += 1
                else:
                    self.failed[kind] += 1
            if kind is not None or not self._keep_alive:
                connection.close()
            # A late request is not made up for: the rate is a ceiling.
            due = max(due + self._pause, time.monotonic())
            self._stopping.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def stop(self) -> None:
        """Returns when no request is under way any more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# -- a receiver of news


class Received(NamedTuple):
    """One POST: JSON as far as it was JSON."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: Any
    at: float  # monotonic


class Answer(NamedTuple):
    """What the receiver answers; `hang`: nothing, `trickle`: a byte at a time, for ever."""

    status: int = 200
    headers: Mapping[str, str] = {}
    hang: bool = False
    trickle: bool = False


class Receiver:
    """A local HTTP server that keeps what is POSTed to it.

    Its next answers are those in `answers` (Answer, or just a status), then `usual`.
    """

    def __init__(self, *answers: Answer | int) -> None:
        self.received: list[Received] = []
        self.answers: deque[Answer | int] = deque(answers)
        self.usual: Answer | int = 200
        self._ending = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def bodies(self) -> list[Any]:
        return [received.body for received in self.received]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._receive(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def _receive(self, request: http.server.BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers.get("content-length", 0)))
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, headers, body, time.monotonic()))
        answer = self.answers.popleft() if self.answers else self.usual
        if isinstance(answer, int):
            answer = Answer(answer)
        with contextlib.suppress(OSError):
            self._answer(request, answer)

    def _answer(self, request: http.server.BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.hang:
            self._ending.wait()
            return
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "1000000" if answer.trickle else "0")
        request.end_headers()
        while answer.trickle and not self._ending.wait(0.05):
            request.wfile.write(b".")
            request.wfile.flush()

    def wait_for(self, count: int = 1, timeout: float = 60) -> list[Received]:
        """The POSTs, once there are that many."""
        wait_until(lambda: len(self.received) >= count, timeout, f"{count} POSTs received")
        return self.received

    def close(self) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def basic_auth(username: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
