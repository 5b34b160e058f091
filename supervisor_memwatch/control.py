"""The two ways memwatch touches the outside: signals to processes, calls of Supervisor's RPC.

Covers: that a signal reaches the process that was judged and no other; that every trouble with
supervisord is one exception, in words, within its time. Does not cover: whether to act
(policy.py), in which order (procedures.py).

The XML-RPC client is our own: xmlrpc.client and what it imports would add a quarter to the
listener's memory (3 MB PSS, 6 MB RSS), and bound neither the time nor the size of an answer. This
one speaks as much of HTTP and XML-RPC as supervisord does.
"""

from __future__ import annotations

import binascii
import errno
import os
import signal
import socket
import time
from typing import Any, NamedTuple

from .model import WorkerId
from .units import printable

PROC = "/proc"  # moved by tests
SIGNALS = ("TERM", "HUP", "TTIN", "TTOU", "KILL")

UNKNOWN_METHOD = 1  # Supervisor's fault where the interface is not there

MAX_ANSWER = 50 * 1024 * 1024
_MAX_HEAD = 64 * 1024
_MAX_DEPTH = 32


# -- signals


def send(id: WorkerId, name: str) -> str | None:
    """Signal exactly that process; None, or the reason why it was not sent.

    `name` is one of SIGNALS, else ValueError. The process is pinned first (pidfd), then compared,
    then signalled: another one that gets the pid in between is not hit.
    """
    if name not in SIGNALS:
        raise ValueError(f"{printable(name)} is not one of {', '.join(SIGNALS)}")
    number = signal.Signals["SIG" + name]
    if id.pid < 2:  # to kill(2), 0 and less are groups of processes
        return f"pid {id.pid} is nobody's worker"
    try:
        pin = _pin(id.pid)
        try:
            reason = _differs(id)
            if reason is not None:
                return reason
            if pin is None:
                os.kill(id.pid, number)
            else:
                signal.pidfd_send_signal(pin, number)
        finally:
            if pin is not None:
                os.close(pin)
    except (ProcessLookupError, FileNotFoundError):
        return "gone"
    except PermissionError:
        return "not permitted: run the listener as root or as the program's user"
    except OSError as error:
        return f"not sent: {error.strerror}"
    return None


def _pin(pid: int) -> int | None:
    """A descriptor of the process; None where the kernel or a sandbox knows no such thing."""
    try:
        return os.pidfd_open(pid)
    except AttributeError:
        return None
    except OSError as error:
        # Docker's older seccomp profiles answer EPERM to system calls they do not know.
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise


def _differs(id: WorkerId) -> str | None:
    """Why the process that has this pid now is not the one that was judged."""
    with open(f"{PROC}/{id.pid}/stat", "rb") as file:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        return "gone"
    if float(fields[19]) != float(id.start):
        return "another process has this pid now"
    return None


# -- Supervisor's RPC


class RpcError(Exception):
    """A call that was not answered as hoped: `text` says why and what to do.

    `code` is Supervisor's fault code, None where the trouble is not Supervisor's answer.
    `unanswered`: the call had gone out, and whether it is carried out is not known.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.unanswered = False


class Tail(NamedTuple):
    """A piece of a log: its text, the offset for the next one, whether something was skipped."""

    text: str
    offset: int
    overflow: bool


class Supervisor:
    """The calls of supervisord's RPC that memwatch uses; each returns or raises RpcError.

    url: unix:///path or http://host:port, None where supervisord has no server. A login in it
    (http://name:password@host:port) is used where no other is given, and shown nowhere.
    timeout: seconds for a whole call, from connecting to the last byte.

    A call is sent once, never again by itself. The connection is kept for the next call, and made
    anew if supervisord has closed it meanwhile. For one thread.
    """

    def __init__(
        self,
        url: str | None,
        username: str | None = None,
        password: str | None = None,
        timeout: float = 2.0,
    ) -> None:
        self.url, login = without_login(url or "")
        if username is None and login is not None:
            username, password = login
        self.timeout = timeout
        self._sent = False  # the call under way had gone out
        self._login = ""
        if username is not None and password is not None:
            # Bytes of an argument or of the environment that are no UTF-8 go as they came.
            whole = f"{username}:{password}".encode("utf-8", "surrogateescape")
            token = binascii.b2a_base64(whole, newline=False)
            self._login = f"Authorization: Basic {token.decode()}\r\n"
        self._socket: socket.socket | None = None

    def programs(self) -> list[dict[str, Any]]:
        """getAllProcessInfo, as it is."""
        return _structs(self._call("getAllProcessInfo"))

    def configs(self) -> list[dict[str, Any]]:
        """getAllConfigInfo, as it is."""
        return _structs(self._call("getAllConfigInfo"))

    def stop(self, namespec: str) -> None:
        """Begin to stop a program. Code NOT_RUNNING: it was not running, or is stopping."""
        self._call("stopProcess", namespec, False)

    def start(self, namespec: str) -> None:
        """Begin to start a program. Code ALREADY_STARTED: it was.

        While a program is STOPPING this succeeds and starts nothing.
        """
        self._call("startProcess", namespec, False)

    def identification(self) -> str:
        """supervisord's identifier."""
        return str(self._call("getIdentification"))

    def send_event(self, type: str, data: str) -> None:
        """A REMOTE_COMMUNICATION event for every listener that subscribes to them."""
        self._call("sendRemoteCommEvent", type, data)

    def tail_stderr(self, name: str, offset: int, length: int) -> Tail:
        """At most `length` bytes of a program's stderr log (tailProcessStderrLog)."""
        return self._tail("tailProcessStderrLog", name, offset, length)

    def tail_stdout(self, name: str, offset: int, length: int) -> Tail:
        """The same of its stdout log, which holds both where redirect_stderr is set."""
        return self._tail("tailProcessStdoutLog", name, offset, length)

    def _tail(self, method: str, name: str, offset: int, length: int) -> Tail:
        answer = self._call(method, name, offset, length)
        if not isinstance(answer, list) or len(answer) != 3 or not isinstance(answer[1], int):
            raise _malformed("no tail of a log")
        return Tail(str(answer[0]), answer[1], bool(answer[2]))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, *params: str | int | bool) -> Any:
        self._sent = False
        try:
            value, fault = self._answer(_request("supervisor." + method, params))
        except RpcError as error:
            error.unanswered = self._sent
            raise
        if fault:
            raise _fault(value)
        return value

    def _answer(self, body: bytes) -> tuple[Any, bool]:
        """The value that answers one request, and whether it is a fault."""
        kept = False
        try:
            status, answer, kept = self._exchange(body)
        except TimeoutError:
            raise RpcError(
                None, f"no answer from {self._place} within {self.timeout:g} s: is it busy?"
            ) from None
        except OSError as error:
            raise RpcError(None, self._advice(error)) from None
        except UnicodeError:  # a host name no resolver takes
            raise RpcError(None, f"{self._place}: not a host's name") from None
        finally:
            if not kept:
                self.close()
        if status != 200:
            self._sent = status >= 500  # else Supervisor did not take it
            raise RpcError(None, _status_advice(status, self._place))
        return _parse(answer)

    def _exchange(self, body: bytes) -> tuple[int, bytes, bool]:
        """One request: status, body, and whether the connection can be used again."""
        deadline = time.monotonic() + self.timeout
        if self._socket is None or not _is_idle(self._socket):
            self.close()
            self._socket = self._connect()
        head = (
            # 1.0, so that the answer comes in one piece.
            "POST /RPC2 HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive\r\n"
            "Content-Type: text/xml\r\nUser-Agent: memwatch\r\n"
            f"{self._login}Content-Length: {len(body)}\r\n\r\n"
        )
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(head.encode() + body)
        self._sent = True
        return _read_answer(self._socket, deadline)

    @property
    def _place(self) -> str:
        return f"supervisord at {printable(self.url)}"

    def _connect(self) -> socket.socket:
        scheme, _, rest = self.url.partition("://")
        if scheme == "unix" and rest:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.settimeout(self.timeout)
                made.connect(rest)
            except OSError:
                made.close()
                raise
            return made
        if scheme == "http" and rest:
            return socket.create_connection(_host_and_port(rest), self.timeout)
        if not self.url:
            raise RpcError(
                None,
                "supervisord's address is not known: its configuration needs [unix_http_server]"
                " or [inet_http_server], or give the address with -s",
            )
        raise RpcError(
            None, f"{printable(self.url)}: an address is unix:///path or http://host:port"
        )

    def _advice(self, error: OSError) -> str:
        """What an error of the operating system means here, and what to do."""
        if isinstance(error, FileNotFoundError):
            return f"no {self._place}: is it running, and is the path right?"
        if isinstance(error, PermissionError):
            return (
                f"not permitted to talk to {self._place}: run as its owner, or set chmod and"
                " chown in [unix_http_server]"
            )
        if isinstance(error, ConnectionRefusedError):
            return f"{self._place} refuses the connection: is it running?"
        return f"{self._place}: {printable(error.strerror or error)}"


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without the name and password in it, and those.

    Of one that is not well formed, too much is taken for a login rather than too little.
    """
    head, at, place = url.rpartition("@")
    if not at or url.startswith("unix:"):
        return url, None
    from urllib.parse import unquote  # few need it

    scheme, slashes, login = head.partition("://")
    name, _, password = login.partition(":")
    return (scheme if slashes else "") + slashes + place, (unquote(name), unquote(password))


def _host_and_port(rest: str) -> tuple[str, int]:
    place = rest.split("/", 1)[0]
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, "80"
    if not port.isdecimal() or int(port) > 65535:
        raise RpcError(None, f"{printable(place)}: an address is http://host:port")
    return host.strip("[]"), int(port)


def _is_idle(connection: socket.socket) -> bool:
    """Whether a kept connection is still open, with nothing left over from the last answer."""
    connection.settimeout(0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read_answer(connection: socket.socket, deadline: float) -> tuple[int, bytes, bool]:
    """An HTTP answer: status, body, and whether the connection stays open."""
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if not _receive(connection, received, deadline) or len(received) > _MAX_HEAD:
            raise _malformed("no HTTP answer")
    status, headers = _read_head(bytes(received[:end]))
    del received[: end + 4]
    length = headers.get("content-length")
    if length is not None and (not length.isdecimal() or len(length) > 12):
        raise _malformed("no HTTP answer")
    wanted = None if length is None else int(length)
    while wanted is None or len(received) < wanted:
        if max(len(received), wanted or 0) > MAX_ANSWER:
            raise _malformed("it is larger than 50 MB")
        if not _receive(connection, received, deadline):
            break
    if wanted is not None and len(received) != wanted:
        raise _malformed("it ends too early" if len(received) < wanted else "it is too long")
    kept = wanted is not None and headers.get("connection", "").lower() == "keep-alive"
    return status, bytes(received), kept


def _receive(connection: socket.socket, into: bytearray, deadline: float) -> bool:
    """Some more bytes; False at the end."""
    connection.settimeout(_left(deadline))
    piece = connection.recv(65536)
    into += piece
    return bool(piece)


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
        raise _malformed("no HTTP answer")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(parts[1][:3]), headers


def _status_advice(status: int, place: str) -> str:
    if status == 401:
        return (
            f"401 Unauthorized by {place}: put username and password of its server section into"
            " SUPERVISOR_USERNAME and SUPERVISOR_PASSWORD (environment= of the listener's"
            " section), or give -u and -p"
        )
    if status == 404:
        return f"404 Not Found at {place}: is it Supervisor's server?"
    return f"HTTP status {status} from {place}: its log may say why"


def _fault(value: Any) -> RpcError:
    try:
        code, text = int(value["faultCode"]), printable(value["faultString"])
    except (TypeError, KeyError, ValueError):
        return _malformed("a fault without a code")
    if code == UNKNOWN_METHOD:
        text += ": supervisord's configuration needs an [rpcinterface:supervisor] section"
    return RpcError(code, text)


def _malformed(what: str) -> RpcError:
    return RpcError(None, f"an answer that is not Supervisor's: {what}")


def _structs(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _malformed("no list of programs")
    return value


# -- XML-RPC


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _request(method: str, params: tuple[str | int | bool, ...]) -> bytes:
    values = []
    for param in params:
        if isinstance(param, bool):
            values.append(f"<boolean>{param:d}</boolean>")
        elif isinstance(param, int):
            values.append(f"<int>{param}</int>")
        else:
            values.append(f"<string>{_escape(param)}</string>")
    listed = "".join(f"<param><value>{value}</value></param>" for value in values)
    text = (
        f"<?xml version='1.0'?><methodCall><methodName>{method}</methodName>"
        f"<params>{listed}</params></methodCall>"
    )
    return text.encode("utf-8", "replace")


_SCALARS: dict[str, Any] = {
    "int": int,
    "i4": int,
    "i8": int,
    "boolean": lambda text: int(text) != 0,
    "double": float,
    "string": str,
    "nil": lambda text: None,
    "name": str,
}

# Control characters that XML forbids; supervisord copies them from logs into its answers.
_FORBIDDEN = bytes(b if b >= 32 or b in (9, 10, 13) else ord("?") for b in range(256))


class _Reader:
    """Builds the values of an XML-RPC answer from its tags, innermost first."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.marks: list[int] = []  # where the values of each open struct and array begin
        self.text: list[str] = []
        self.bare = False  # directly inside <value>: without a type, its text is a string
        self.fault = False
        self.depth = 0

    def start(self, tag: str, _: object) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH or (self.depth == 1 and tag != "methodResponse"):
            raise ValueError(tag)
        self.text = []
        self.bare = tag == "value"
        if tag in ("struct", "array"):
            self.marks.append(len(self.values))
        elif tag == "fault":
            self.fault = True

    def data(self, text: str) -> None:
        self.text.append(text)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if tag in _SCALARS:
            self.values.append(_SCALARS[tag]("".join(self.text)))
        elif tag == "value" and self.bare:
            self.values.append("".join(self.text))
        elif tag in ("struct", "array"):
            mark = self.marks.pop()
            items = self.values[mark:]
            self.values[mark:] = [_struct(items) if tag == "struct" else items]
        self.text = []
        self.bare = False


def _struct(items: list[Any]) -> dict[str, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _refuse(*_: object) -> None:
    raise ValueError("a document type declaration")


def _parse(answer: bytes) -> tuple[Any, bool]:
    """The value of an XML-RPC answer, and whether it is a fault."""
    from xml.parsers import expat

    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(answer.translate(_FORBIDDEN), True)
        (value,) = reader.values
    except (expat.ExpatError, ValueError, TypeError) as error:
        raise _malformed(printable(error)) from None
    return value, reader.fault
