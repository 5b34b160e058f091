"""Sockets: how many clients are connected to a worker right now, and what it has not read yet.

A worker's sockets are told apart by where they are bound: those of its clients stand on an address
its master listens on. The kernel is asked for exactly those (sock_diag(7)): other states, other
ports, and however many connections wait out their end cost next to nothing. Still it has to walk
through a table whose size is that of the machine's memory (some milliseconds at 24 GB), so it is
asked only where a worker has sockets that are not known to be something else, and not more often
than SHARE allows. Where the answer cannot be had, every socket counts that the worker does not
have from its master.

Not here: what few connections are good for (quiet.py). Nothing here raises for a process that ends
meanwhile.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from . import topology

SHARE = 0.005  # of the elapsed time, for asking the kernel
MANY = 256  # open files from which on they are not looked at one by one: it is not quiet

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ERROR, _DONE = 2, 3  # NLMSG_
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_PORT_AT_LEAST, _PORT_AT_MOST = 2, 3  # INET_DIAG_BC_S_GE, _S_LE
_HEADER = struct.Struct("=IHHII")
_LISTENS = 10
_LISTEN = 1 << _LISTENS
# A client that has closed its side (CLOSE_WAIT) may still be waiting for its answer.
_CONNECTED = 1 << 1 | 1 << 8
_SHOW_NAME, _SHOW_QUEUE = 0x1, 0x10  # UDIAG_SHOW_
_NAME, _QUEUE = 0, 4  # UNIX_DIAG_


class Connections(NamedTuple):
    connections: int
    unread: int | None  # bytes
    exact: bool  # False: of all kinds


class _Socket(NamedTuple):
    inode: int
    unread: int
    listens: bool
    port: int = 0
    name: bytes = b""  # of a unix socket


class Sockets:
    """Asks the kernel, and remembers what makes asking again unnecessary."""

    def __init__(self) -> None:
        self._others: dict[int, frozenset[int]] = {}  # pid -> its sockets that are no client's
        self._not_before = float("-inf")  # seconds of the monotonic clock

    def connections(self, pid: int, master: int) -> Connections | None:
        """Those of one worker, now; None where its open files cannot be read."""
        try:
            files, inherited = _files(pid), _sockets(master, _files(master))
            if len(files) > MANY:
                return Connections(max(len(files) - len(inherited), 0), None, False)
            own = _sockets(pid, files) - inherited
        except OSError:
            return None
        unknown = own - self._others.get(pid, frozenset())
        if not unknown:
            return Connections(0, 0, True)
        clients = self._ask(pid, inherited)
        if clients is None:
            return Connections(len(unknown), None, False)
        if len(self._others) >= MANY:  # of workers that have gone
            self._others.clear()
        self._others[pid] = own - clients.keys()
        found = own & clients.keys()
        return Connections(len(found), sum(clients[inode] for inode in found), True)

    def _ask(self, pid: int, inherited: frozenset[int]) -> dict[int, int] | None:
        if time.monotonic() < self._not_before or not _same_network(pid):
            return None
        begun = time.thread_time()
        try:
            return clients(inherited)
        except OSError:  # a kernel without sock_diag, or a sandbox that forbids it
            return None
        finally:
            self._not_before = time.monotonic() + (time.thread_time() - begun) / SHARE


def clients(inherited: frozenset[int]) -> dict[int, int] | None:
    """inode -> unread bytes of every connection to where these sockets listen, whoever has it; None
    where none of them listens. Raises OSError where the kernel does not tell."""
    found = {}
    listening = False
    for family in (socket.AF_INET, socket.AF_INET6):
        ports = {s.port for s in _inet(family, _LISTEN) if s.inode in inherited}
        if ports:
            listening = True
            for each in _inet(family, _CONNECTED, min(ports), max(ports)):
                if each.port in ports:
                    found[each.inode] = each.unread
    local = list(_unix(_LISTEN | _CONNECTED))
    names = {s.name for s in local if s.inode in inherited and s.listens}
    for each in local:
        if each.name in names and not each.listens:
            found[each.inode] = each.unread
    return found if listening or names else None


def _files(pid: int) -> list[str]:
    return os.listdir(f"{topology.PROC}/{pid}/fd")


def _sockets(pid: int, files: list[str]) -> frozenset[int]:
    """The inodes of its sockets."""
    found = []
    for name in files:
        try:
            target = os.readlink(f"{topology.PROC}/{pid}/fd/{name}")
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.append(int(target[8:-1]))
    return frozenset(found)


def _same_network(pid: int) -> bool:
    """Whether it lives in our network namespace: of another one the kernel tells us nothing."""
    try:
        ours, its = (os.readlink(f"{topology.PROC}/{who}/ns/net") for who in ("self", pid))
    except OSError:
        return False
    return ours == its


# -- sock_diag


def _inet(family: int, states: int, least: int = 0, most: int = 0) -> Iterator[_Socket]:
    """TCP sockets in these states, on local ports from `least` to `most`."""
    request = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 0, 0, states)
    if most:
        # Each condition is followed by its operand, and says where to go on if it holds and if not:
        # behind the end is a no.
        conditions = struct.pack("=BBHHH", _PORT_AT_LEAST, 8, 20, 0, least)
        conditions += struct.pack("=BBHHH", _PORT_AT_MOST, 8, 12, 0, most)
        request += struct.pack("=HH", 4 + len(conditions), 1) + conditions
    for message in _dump(request):
        (port,) = struct.unpack_from("!H", message, 4)
        unread, _, _, inode = struct.unpack_from("=IIII", message, 56)
        yield _Socket(inode, unread, message[1] == _LISTENS, port=port)


def _unix(states: int) -> Iterator[_Socket]:
    """Unix sockets that have a name: what is accepted has that of the socket it came in by."""
    show = _SHOW_NAME | _SHOW_QUEUE
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, states, 0, show, 0, 0)
    for message in _dump(request):
        (inode,) = struct.unpack_from("=I", message, 4)
        attributes = dict(_attributes(message[16:]))
        if _NAME in attributes:
            (unread,) = struct.unpack_from("=I", attributes.get(_QUEUE, bytes(4)))
            yield _Socket(inode, unread, message[2] == _LISTENS, name=attributes[_NAME])


def _attributes(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        yield kind, rest[4:length]
        rest = rest[max(length + 3 & ~3, 4) :]


def _dump(request: bytes) -> Iterator[bytes]:
    """The seam: the kernel's answers, without their headers. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        length = _HEADER.size + len(request)
        kernel.send(_HEADER.pack(length, _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data = kernel.recv(1 << 17)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                message = data[_HEADER.size : length]
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "sock_diag")
                yield message
                data = data[max(length + 3 & ~3, _HEADER.size) :]
