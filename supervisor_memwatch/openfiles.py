"""Open files of a process, by what they are: for the person who wants to know what grows.

Descriptors are read from /proc/PID/fd, and sockets looked up in the network tables of the process's
own namespace. Who cannot read them gets None. Nothing here is run by the listener, and nothing
raises for a process that ends meanwhile. Targets are foreign text: they are made printable where
they are shown.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping

from . import topology
from .appraisal import Files

LARGEST_TABLE = 4 * 1024**2  # bytes of a network table that are looked at

_TCP_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
}


def targets(pid: int) -> dict[int, str] | None:
    """Descriptor -> what it stands for, as /proc has it; None where that cannot be read."""
    directory = f"{topology.PROC}/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return None
    found = {}
    for name in names:
        try:
            found[int(name)] = os.readlink(f"{directory}/{name}")
        except OSError:  # closed meanwhile
            continue
    return found


def added(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """The targets of the descriptors that are new."""
    return [target for number, target in after.items() if before.get(number) != target]


def kinds(pid: int, those: Iterable[str]) -> list[Files]:
    """What these targets of a process are, most frequent first."""
    wanted = list(those)
    sockets = _sockets(pid) if any(t.startswith("socket:[") for t in wanted) else {}
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    for target in wanted:
        what = sockets.get(target, "sockets") if target.startswith("socket:[") else _kind(target)
        counts[what] = counts.get(what, 0) + 1
        examples.setdefault(what, target)
    return [
        Files(what, count, examples[what])
        for what, count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _kind(target: str) -> str:
    """`files in /var/spool`, `pipes`, `eventpoll`, ..."""
    if target.startswith("/memfd:"):
        return "memory files (memfd)"
    if target.startswith("/"):
        path = target.removesuffix(" (deleted)")
        gone = "deleted files" if path != target else "files"
        return f"{gone} in {os.path.dirname(path) or '/'}"
    head = target.partition(":")[0]
    if head == "pipe":
        return "pipes"
    if head == "anon_inode":
        return target.partition(":")[2].strip("[]") or "anon_inode"
    return head


# -- sockets


def _sockets(pid: int) -> dict[str, str]:
    """`socket:[INODE]` -> what it is, of every socket in the process's network namespace."""
    found = {}
    listening = set()
    rows = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for local, peer, state, inode in _inet(pid, name, family):
            rows.append((local, peer, state, inode))
            if state == "LISTEN":
                listening.add(local[1])
    for local, peer, state, inode in rows:
        if state == "LISTEN":
            what = f"TCP listening on {_at(local)}"
        elif local[1] in listening:
            what = f"TCP {state} of clients of port {local[1]}"
        else:
            what = f"TCP {state} to {_at(peer)}"
        found[inode] = what
    for name, family in (("udp", socket.AF_INET), ("udp6", socket.AF_INET6)):
        for _, peer, _, inode in _inet(pid, name, family):
            found[inode] = f"UDP to {_at(peer)}" if peer[1] else "UDP"
    for line in _table(pid, "unix"):
        fields = line.split(None, 7)
        if len(fields) >= 7:
            path = fields[7].strip() if len(fields) > 7 else ""
            found[f"socket:[{fields[6]}]"] = f"unix socket {path}" if path else "unix sockets"
    return found


_Address = tuple[str, int]


def _inet(pid: int, name: str, family: int) -> Iterable[tuple[_Address, _Address, str, str]]:
    """Local address, peer, state and `socket:[INODE]` of each line of a table."""
    for line in _table(pid, name):
        fields = line.split()
        try:
            local, peer = _address(fields[1], family), _address(fields[2], family)
            state = _TCP_STATES.get(int(fields[3], 16), "")
            yield local, peer, state, f"socket:[{int(fields[9])}]"
        except (IndexError, ValueError, OSError):
            continue


def _address(text: str, family: int) -> _Address:
    """0100007F:1F90 -> ("127.0.0.1", 8080): words in the machine's own byte order."""
    host, _, port = text.partition(":")
    words = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)


def _at(address: _Address) -> str:
    host, port = address
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _table(pid: int, name: str) -> list[str]:
    try:
        with open(f"{topology.PROC}/{pid}/net/{name}", "rb") as file:
            text = file.read(LARGEST_TABLE)
    except OSError:
        return []
    return text.decode("utf-8", "surrogateescape").splitlines()[1:]
