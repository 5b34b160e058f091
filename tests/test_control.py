"""Signals reach the process that was judged and no other; every RPC trouble is an RpcError."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import control, model
from supervisor_memwatch.control import RpcError, send
from supervisor_memwatch.model import WorkerId

# -- signals

CATCHER = """
import os, signal, time
def caught(number, frame):  # print() may have been interrupted in itself
    os.write(1, f"{signal.Signals(number).name}\\n".encode())
for name in ("TERM", "HUP", "TTIN", "TTOU"):
    signal.signal(getattr(signal, "SIG" + name), caught)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


def start_of(pid: int) -> int:
    """Field 22 of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@contextmanager
def running(code: str = CATCHER) -> Iterator[tuple[subprocess.Popen[str], WorkerId]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process, WorkerId(process.pid, start_of(process.pid))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["pidfd", "no pidfd", "pidfd forbidden"])
def pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without what only newer kernels and open-minded sandboxes have."""

    def forbidden(pid: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    elif request.param == "pidfd forbidden":
        monkeypatch.setattr(os, "pidfd_open", forbidden)


@pytest.mark.usefixtures("pidfd")
def test_each_signal_arrives() -> None:
    with running() as (process, id):
        assert process.stdout is not None
        for name in ("TERM", "HUP", "TTIN", "TTOU"):
            assert send(id, name) is None
            assert process.stdout.readline() == f"SIG{name}\n"
        assert send(id, "KILL") is None
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["USR2", "QUIT", "INT", "STOP", "SIGTERM", "term", "9", ""])
def test_no_other_signal_is_sent(name: str) -> None:
    with running() as (process, id):
        with pytest.raises(ValueError, match="TERM, HUP, TTIN, TTOU, KILL"):
            send(id, name)
        assert process.poll() is None


@pytest.mark.usefixtures("pidfd")
def test_another_process_with_the_same_pid_is_spared() -> None:
    with running() as (process, id):
        for other in (id.start - 1, id.start + 1, float(id.start) + 0.5):
            reason = send(WorkerId(id.pid, other), "KILL")
            assert reason == "another process has this pid now"
        assert send(WorkerId(id.pid, float(id.start)), "HUP") is None
        assert process.stdout is not None
        assert process.stdout.readline() == "SIGHUP\n"


@pytest.mark.usefixtures("pidfd")
def test_what_has_ended_is_gone_also_as_a_zombie() -> None:
    with running() as (process, id):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert send(id, "TERM") == "gone"
        process.wait()
        assert send(id, "TERM") == "gone"


def test_the_process_is_pinned_before_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the pid between the comparison and the signal is not hit."""

    class NoBarePid:
        def __getattr__(self, name: str) -> Any:
            assert name != "kill", "a bare pid was signalled"
            return getattr(os, name)

    with running() as (process, id):
        compare = control._differs

        def ends_meanwhile(judged: WorkerId) -> str | None:
            answer = compare(judged)
            process.kill()
            process.wait()
            return answer

        monkeypatch.setattr(control, "_differs", ends_meanwhile)
        monkeypatch.setattr(control, "os", NoBarePid())
        assert send(id, "TERM") == "gone"


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_groups_of_processes_and_init_are_never_signalled(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_signal(*_: object) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(os, "kill", no_signal)
    monkeypatch.setattr(signal, "pidfd_send_signal", no_signal)
    assert send(WorkerId(pid, 0), "TERM") == f"pid {pid} is nobody's worker"


def test_a_name_with_parentheses_and_spaces_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as (process, id):
        text = Path(f"/proc/{id.pid}/stat").read_text()
        (tmp_path / str(id.pid)).mkdir()
        name = text[text.index("(") : text.rindex(")") + 1]
        (tmp_path / str(id.pid) / "stat").write_text(text.replace(name, "(a) Z 1 (b c)"))
        monkeypatch.setattr(control, "PROC", str(tmp_path))
        assert send(id, "TERM") is None
        assert process.stdout is not None
        assert process.stdout.readline() == "SIGTERM\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.usefixtures("pidfd")
def test_a_refused_signal_says_who_may_send_it() -> None:
    """Tried from a child that has become `nobody`."""
    with running() as (process, id):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            os.write(writer, str(send(id, "TERM")).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        reason = os.read(reader, 1000).decode()
        os.close(reader)
        assert reason == "not permitted: run the listener as root or as the program's user"
        assert process.poll() is None


# -- Supervisor's RPC, against sockets that misbehave


class Peer:
    """A unix socket server whose connections are each handled by `behave(connection)`."""

    def __init__(self, path: Path, behave: Callable[[socket.socket], None]) -> None:
        self.url = f"unix://{path}"
        self.connections = 0
        self.requests: list[bytes] = []
        self._behave = behave
        self._ending = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(0.02)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            self.connections += 1
            with connection:
                connection.settimeout(20)
                try:
                    self._behave(connection)
                except OSError:
                    pass  # the client has left

    def read(self, connection: socket.socket) -> bytes:
        """One request; empty when the client has left."""
        received = b""
        while b"</methodCall>" not in received:
            piece = connection.recv(65536)
            if not piece:
                return b""
            received += piece
        self.requests.append(received)
        return received

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._server.close()


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[Peer, socket.socket], None]], Peer]]:
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="mw", dir="/tmp")  # a short path: socket addresses are
    made: list[Peer] = []

    def make(behave: Callable[[Peer, socket.socket], None]) -> Peer:
        path = Path(directory) / f"{len(made)}.sock"
        made.append(Peer(path, lambda connection: behave(made[-1], connection)))
        return made[-1]

    yield make
    for each in made:
        each.close()
    shutil.rmtree(directory)


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.0 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def xml(value: object) -> bytes:
    """As supervisord would say it: xmlrpc.client's own words."""
    if isinstance(value, xmlrpc.client.Fault):
        return xmlrpc.client.dumps(value, allow_none=True).encode()
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode()


def answering(answer: bytes) -> Callable[[Peer, socket.socket], None]:
    def behave(peer: Peer, connection: socket.socket) -> None:
        while peer.read(connection):
            connection.sendall(answer)
            if b"Keep-Alive" not in answer:
                return

    return behave


VALUE = xml("ok")
GARBAGE = {
    "nothing": (b"", "no HTTP answer"),
    "noise": (os.urandom(200).replace(b"\r", b"x"), "no HTTP answer"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP answer"),
    "a head without end": (b"HTTP/1.0 200 OK\r\n" + b"A: b\r\n" * 20_000, "no HTTP answer"),
    "no status": (b"HTTP/1.0\r\n\r\n", "no HTTP answer"),
    "a length that is none": (b"HTTP/1.0 200 OK\r\nContent-Length: -5\r\n\r\n", "no HTTP answer"),
    "cut": (http(VALUE)[:-10], "ends too early"),
    "too much": (http(VALUE) + b"more", "too long"),
    "50 GB": (b"HTTP/1.0 200 OK\r\nContent-Length: 50000000000\r\n\r\n", "larger than 50 MB"),
    "no XML": (http(b"<html><p>It works!"), "not Supervisor's"),
    "empty": (http(b""), "not Supervisor's"),
    "another XML": (http(b"<methodCall/>"), "not Supervisor's"),
    "no value": (http(b"<methodResponse><params/></methodResponse>"), "not Supervisor's"),
    "an odd struct": (
        http(b"<methodResponse><struct><name>a</name></struct></methodResponse>"),
        "not Supervisor's",
    ),
    "an entity bomb": (
        http(b'<!DOCTYPE a [<!ENTITY a "aaaa">]><methodResponse>&a;</methodResponse>'),
        "document type",
    ),
    "a deep nest": (http(b"<methodResponse>" + b"<value><array>" * 10_000), "not Supervisor's"),
    "a fault without a code": (
        http(b"<methodResponse><fault><value><int>1</int></value></fault></methodResponse>"),
        "without a code",
    ),
    "401": (http(b"", "401 Unauthorized"), "put username and password"),
    "404": (http(b"", "404 Not Found"), "is it Supervisor's server"),
    "500": (http(b"", "500 Internal Server Error"), "status 500"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_an_answer_that_is_none_is_an_rpc_error(name: str, peer: Any) -> None:
    answer, text = GARBAGE[name]
    with control.Supervisor(peer(answering(answer)).url, timeout=20) as rpc:
        with pytest.raises(RpcError, match=text) as caught:
            rpc.identification()
        assert caught.value.code is None


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        ("text", lambda rpc: rpc.programs()),
        ([1, 2], lambda rpc: rpc.programs()),
        ({"a": 1}, lambda rpc: rpc.configs()),
        ("text", lambda rpc: rpc.tail_stderr("a", 0, 10)),
        (["text"], lambda rpc: rpc.tail_stderr("a", 0, 10)),
        (["text"], lambda rpc: rpc.tail_stdout("a", 0, 10)),
    ],
)
def test_an_answer_of_the_wrong_type_is_an_rpc_error(
    answer: object, call: Callable[[control.Supervisor], object], peer: Any
) -> None:
    rpc = control.Supervisor(peer(answering(http(xml(answer)))).url, timeout=20)
    with rpc, pytest.raises(RpcError, match="not Supervisor's"):
        call(rpc)


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.0 200 OK\r\n"], [b"."] * 10_000])
def test_silence_and_a_trickle_end_with_the_deadline(pieces: list[bytes], peer: Any) -> None:
    """Bytes that keep coming do not keep a call alive."""
    left = threading.Event()

    def behave(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)
        for piece in pieces:
            if left.wait(0.01):
                return
            connection.sendall(piece)
        left.wait(20)

    rpc = control.Supervisor(peer(behave).url, timeout=0.3)
    with rpc, pytest.raises(RpcError, match=r"within 0\.3 s"):
        rpc.identification()
    left.set()


def test_a_peer_that_does_not_read_ends_with_the_deadline(peer: Any) -> None:
    left = threading.Event()
    rpc = control.Supervisor(peer(lambda *_: left.wait(20)).url, timeout=0.3)
    with rpc, pytest.raises(RpcError, match=r"within 0\.3 s"):
        rpc.send_event("memwatch", "x" * 5_000_000)
    left.set()


def test_no_socket_no_server_no_permission_no_address_are_rpc_errors(tmp_path: Path) -> None:
    short = Path("/tmp") / f"mw{os.getpid()}.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(short))
    listening.close()
    try:
        for url, text in {
            f"unix://{short}": "refuses the connection: is it running",
            f"unix://{short}.not": "is it running, and is the path right",
            f"unix:///{'a' * 200}": "path too long",
            f"http://127.0.0.1:{servers.free_port()}": "refuses the connection",
            "http://127.0.0.1:port": "an address is http://host:port",
            "http://127.0.0.1:99999": "an address is http://host:port",
            "http://a..b:9001": "not a host's name|supervisord at",
            "https://127.0.0.1:9001": "an address is unix:///path or http://host:port",
            "nonsense": "an address is unix:///path or http://host:port",
            "": r"needs \[unix_http_server\]",
        }.items():
            with control.Supervisor(url) as rpc, pytest.raises(RpcError, match=text):
                rpc.programs()
        with pytest.raises(RpcError, match=r"\[unix_http_server\]"):
            control.Supervisor(None).programs()
    finally:
        short.unlink()


@pytest.mark.parametrize(
    ("answer", "unanswered"),
    [
        (b"", True),  # the connection breaks
        (b"HTTP/1.0 200 OK\r\n", True),
        (http(b"<nonsense/>"), True),
        (http(b"", "500 Internal Server Error"), True),
        (http(b"", "401 Unauthorized"), False),
        (http(xml(xmlrpc.client.Fault(6, "SHUTDOWN_STATE"))), False),
    ],
)
def test_an_error_knows_whether_the_call_had_gone_out(
    answer: bytes, unanswered: bool, peer: Any
) -> None:
    """And was left without an answer: then it may have been carried out."""
    with control.Supervisor(peer(answering(answer)).url, timeout=20) as rpc:
        with pytest.raises(RpcError) as caught:
            rpc.send_event("memwatch", "x")
        assert caught.value.unanswered is unanswered


def test_what_could_not_be_sent_is_not_unanswered(peer: Any) -> None:
    """Nobody there; nobody who reads it to its end, also after a call that was answered."""
    with control.Supervisor("unix:///nowhere/s.sock") as rpc, pytest.raises(RpcError) as caught:
        rpc.programs()
    assert caught.value.unanswered is False
    left = threading.Event()

    def behave(peer: Peer, connection: socket.socket) -> None:
        if not left.is_set() and len(peer.requests) == 0:
            peer.read(connection)
            connection.sendall(http(VALUE, "200 OK", "Connection: Keep-Alive"))
        left.wait(20)

    with control.Supervisor(peer(behave).url, timeout=0.3) as rpc:
        assert rpc.identification() == "ok"
        with pytest.raises(RpcError) as caught:
            rpc.send_event("memwatch", "x" * 5_000_000)
    left.set()
    assert caught.value.unanswered is False


def test_a_fault_keeps_its_code_and_text(peer: Any) -> None:
    fault = xmlrpc.client.Fault(70, "NOT_RUNNING: web\x1b[31m")
    text = xml(fault)
    with control.Supervisor(peer(answering(http(text))).url, timeout=20) as rpc:
        with pytest.raises(RpcError) as caught:
            rpc.stop("web")
        assert caught.value.code == model.NOT_RUNNING
        assert caught.value.text == "NOT_RUNNING: web?[31m"


def test_a_connection_is_kept_and_made_again_when_it_broke(peer: Any) -> None:
    kept = http(VALUE, "200 OK", "Connection: Keep-Alive")

    def behave(peer: Peer, connection: socket.socket) -> None:
        for _ in range(3):
            if peer.read(connection):
                connection.sendall(kept)

    one = peer(behave)
    with control.Supervisor(one.url, timeout=20) as rpc:
        for number in range(1, 7):
            assert rpc.identification() == "ok"
            assert one.connections == (1 if number <= 3 else 2)
            if number == 3:  # the peer has closed, or is about to
                servers.wait_until(lambda: not control._is_idle(rpc._socket))  # type: ignore


def test_a_late_answer_is_not_taken_for_the_next_one(peer: Any) -> None:
    go = threading.Event()

    def behave(peer: Peer, connection: socket.socket) -> None:
        while peer.read(connection):
            number = len(peer.requests)
            if number == 1:
                go.wait(20)
            connection.sendall(http(xml(f"answer {number}"), "200 OK", "Connection: Keep-Alive"))

    with control.Supervisor(peer(behave).url, timeout=0.3) as rpc:
        with pytest.raises(RpcError, match=r"within 0\.3 s"):
            rpc.identification()
        rpc.timeout = 20
        later = threading.Timer(0.3, go.set)
        later.start()
        assert rpc.identification() == "answer 2"
        later.join()


def test_a_call_is_never_sent_twice(peer: Any) -> None:
    """A stop whose answer is lost may have happened: who asked has to look."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)

    one = peer(behave)
    with control.Supervisor(one.url, timeout=20) as rpc, pytest.raises(RpcError):
        rpc.stop("web")
    assert len(one.requests) == 1


def test_the_request_is_what_xmlrpc_client_would_send(peer: Any) -> None:
    one = peer(answering(http(xml(True), "200 OK", "Connection: Keep-Alive")))
    with control.Supervisor(one.url, "me", "pässword:", 20) as rpc:
        rpc.stop("gruppe:wör<b>&ld")
        rpc.start("web")
        rpc.send_event("memwatch", '{"a": "]]>"}')
    calls = [xmlrpc.client.loads(raw.partition(b"\r\n\r\n")[2]) for raw in one.requests]
    assert calls == [
        (("gruppe:wör<b>&ld", False), "supervisor.stopProcess"),
        (("web", False), "supervisor.startProcess"),
        (("memwatch", '{"a": "]]>"}'), "supervisor.sendRemoteCommEvent"),
    ]
    login = servers.basic_auth("me", "pässword:").encode()
    assert all(b"\r\nAuthorization: " + login + b"\r\n" in raw for raw in one.requests)


def test_a_login_in_the_address_is_used_where_no_other_is_given() -> None:
    """Percent-encoded, as such addresses are; a path of a socket holds no login."""

    def login(url: str, *given: str) -> tuple[str, str]:
        rpc = control.Supervisor(url, *given)
        return rpc.url, rpc._login.removeprefix("Authorization: ").strip()

    def basic(name: str, password: str) -> str:
        return servers.basic_auth(name, password)

    plain = "http://host:9001"
    assert login("http://me:p%40ss@host:9001") == (plain, basic("me", "p@ss"))
    assert login("http://me:secret@host:9001", "you", "other") == (plain, basic("you", "other"))
    assert login("http://me@host:9001") == (plain, basic("me", ""))
    assert login(plain) == (plain, "")
    assert login("unix:///run/a:b@c.sock") == ("unix:///run/a:b@c.sock", "")


def test_a_password_that_is_no_text_is_sent_as_it_came() -> None:
    """As the bytes of the command line were."""
    made = control.Supervisor("http://host:9001", "me", "\udcff")._login
    assert base64.b64decode(made.removeprefix("Authorization: Basic ")) == b"me:\xff"


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cr3t@127.0.0.1:{port}",
        "http://me:s3cr3t@127.0.0.1:{port}/RPC2",
        "http://me:s3@cr3t@127.0.0.1:{port}",
        "http://me:s3/cr3t@127.0.0.1:{port}",
        "http://me:s3cr3t@127.0.0.1:port",
        "http://me:s3cr3t@a..b:9001",
        "https://me:s3cr3t@127.0.0.1:{port}",
        "http:/me:s3cr3t@127.0.0.1:{port}",
        "me:s3cr3t@127.0.0.1:{port}",
    ],
)
def test_no_error_shows_a_password_of_the_address(address: str) -> None:
    """Wherever it stands; the host is still said."""
    url = address.format(port=servers.free_port())
    with control.Supervisor(url) as rpc, pytest.raises(RpcError) as caught:
        rpc.programs()
    for piece in ("s3", "cr3t", "me:"):
        assert piece not in caught.value.text
    assert "127.0.0.1" in caught.value.text or "a..b" in caught.value.text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_is_read_as_xmlrpc_client_reads_it(value: object) -> None:
    try:
        text = xml(value)
        (expected,) = xmlrpc.client.loads(text)[0]
    except xmlrpc.client.expat.ExpatError:
        return  # U+FFFE and the like: no XML
    assert control._parse(text) == (expected, False)


@given(st.binary())
def test_no_bytes_make_the_parser_raise_anything_else(data: bytes) -> None:
    for answer in (data, xml({"a": [1, "b"]}) + data, b"<methodResponse>" + data):
        try:
            control._parse(answer)
        except RpcError:
            pass


def test_a_large_answer_is_read_in_linear_time() -> None:
    """40 MB in one string: each piece is kept once."""
    text = xml("x" * 40_000_000)
    assert control._parse(text) == ("x" * 40_000_000, False)


def test_control_characters_of_a_log_do_not_break_the_answer(peer: Any) -> None:
    """supervisord copies them unescaped, which no XML parser takes."""
    answer = xml(["a\x1b[0m\x00b", 17, False])
    with control.Supervisor(peer(answering(http(answer))).url, timeout=20) as rpc:
        assert rpc.tail_stderr("memwatch", 0, 10) == ("a?[0m?b", 17, False)


def test_the_client_costs_no_heavy_import() -> None:
    code = (
        "import sys; from supervisor_memwatch import control; control._parse("
        "b'<methodResponse><value>1</value></methodResponse>');"
        "print(*{'xmlrpc.client', 'http.client', 'ssl', 'email', 'logging'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- Supervisor's RPC, against supervisord


SLEEPER = servers.program("sleeper", "sleep 1000", startsecs=0)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.2.5", "4.3.0"])
def test_every_call_against_a_real_supervisord(tmp_path: Path, version: str) -> None:
    noisy = servers.program(
        "noisy",
        f"{sys.executable} -c \"import sys; sys.stderr.write('a\\\\x1b[1mb');"
        "sys.stdout.write('out')\"",
        startsecs=0,
    )
    with servers.Supervisor(
        tmp_path, SLEEPER + noisy, version=version, auth=("me", "pass"), inet=True
    ) as real:
        real.wait_for("sleeper")
        for url in (real.url, f"http://127.0.0.1:{real.inet_port}"):
            with control.Supervisor(url, "me", "pass", 30) as rpc:
                assert rpc.identification() == "supervisor"
                mine, theirs = rpc.programs(), real.rpc.supervisor.getAllProcessInfo()
                moving = ("now", "description")
                assert [
                    {key: value for key, value in each.items() if key not in moving}
                    for each in mine
                ] == [
                    {key: value for key, value in each.items() if key not in moving}
                    for each in theirs
                ]
                assert rpc.configs() == real.rpc.supervisor.getAllConfigInfo()
                used = rpc._socket
                assert used is not None  # supervisord keeps the connection ...
                assert rpc.identification() == "supervisor"
                assert rpc._socket is used  # ... and it is used again
                servers.wait_until(lambda rpc=rpc: rpc.tail_stderr("noisy", 0, 100).text)
                assert rpc.tail_stderr("noisy", 0, 100) == ("a?[1mb", 6, False)
                servers.wait_until(lambda rpc=rpc: rpc.tail_stdout("noisy", 0, 100).text)
                assert rpc.tail_stdout("noisy", 0, 100) == ("out", 3, False)

                rpc.stop("sleeper")
                real.wait_for("sleeper", "STOPPED")
                with pytest.raises(RpcError) as caught:
                    rpc.stop("sleeper")
                assert caught.value.code == model.NOT_RUNNING
                rpc.start("sleeper")
                real.wait_for("sleeper")
                with pytest.raises(RpcError) as caught:
                    rpc.start("sleeper")
                assert caught.value.code == model.ALREADY_STARTED
                with pytest.raises(RpcError) as caught:
                    rpc.start("nobody")
                assert (caught.value.code, caught.value.text) == (10, "BAD_NAME: nobody")
                rpc.send_event("memwatch", '{"v": 1}')
            for wrong in ((None, None), ("me", "wrong")):
                rpc = control.Supervisor(url, *wrong, timeout=30)
                with rpc, pytest.raises(RpcError, match="SUPERVISOR_PASSWORD"):
                    rpc.programs()


@pytest.mark.slow
def test_a_restarted_supervisord_is_found_again(tmp_path: Path) -> None:
    with (
        servers.Supervisor(tmp_path, SLEEPER) as real,
        control.Supervisor(real.url, timeout=30) as rpc,
    ):
        assert rpc.programs()
        real.stop()
        with pytest.raises(RpcError, match="is it running"):
            rpc.programs()
        real.start()
        assert rpc.programs()


@pytest.mark.slow
def test_a_stopped_supervisord_is_no_answer_in_time(tmp_path: Path) -> None:
    """SIGSTOP: the socket accepts, nobody answers."""
    with (
        servers.Supervisor(tmp_path, SLEEPER) as real,
        control.Supervisor(real.url, timeout=0.5) as rpc,
    ):
        os.kill(real.pid, signal.SIGSTOP)
        try:
            with pytest.raises(RpcError, match=r"within 0\.5 s"):
                rpc.programs()
        finally:
            os.kill(real.pid, signal.SIGCONT)
        rpc.timeout = 30
        assert rpc.programs()


@pytest.mark.slow
def test_a_missing_rpcinterface_is_named(tmp_path: Path) -> None:
    with (
        servers.Supervisor(tmp_path, SLEEPER, rpcinterface=False) as real,
        control.Supervisor(real.url, timeout=30) as rpc,
    ):
        with pytest.raises(RpcError, match=r"\[rpcinterface:supervisor\]") as caught:
            rpc.programs()
        assert caught.value.code == control.UNKNOWN_METHOD
