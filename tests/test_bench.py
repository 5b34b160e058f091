"""The benches run to their ends and say what they measured; how much that is, is not judged here.

And the load they measure with tells the ways apart in which a request can fail.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, free_port, wait_until

sys.path.insert(0, str(ROOT / "bench"))

from load import CLOSED, OK, Load, Record
from recycle import Act, Cell, Measured, Row, Span, attribute


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A bench, to its end."""
    name, *rest = arguments
    command = [sys.executable, str(ROOT / "bench" / name), *rest]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


# -- tick.py


def row(table: str, start: str) -> list[float]:
    """The figures of the first line that starts so."""
    line = next(line for line in table.splitlines() if line.strip().startswith(start))
    return [float(word.rstrip("x")) for word in line.strip().removeprefix(start).split()]


@pytest.mark.slow
def test_the_bench_of_a_tick_prints_its_table() -> None:
    """`bench/tick.py --quick` measures memwatch, memmon and the floor at three sizes."""
    done = run("tick.py", "--quick")
    assert done.returncode == 0, done.stderr
    table = done.stdout
    for name in ("memwatch", "memmon -c, its ps included", "floor: stat and statm, bare"):
        costs = row(table, name)
        assert len(costs) == 3 and min(costs) > 0, table
    for part in ("Supervisor's RPC", "sampling", "look (detectors, policy)", "SQLite"):
        assert min(row(table, part)) > 0, table
    for name in ("memwatch / memmon", "memwatch / floor"):
        assert len(row(table, name)) == 3
    rss, pss, uss = row(table, "memwatch, 40 workers")
    assert rss >= pss >= uss > 1


# -- recycle.py and broken.py


@pytest.mark.slow
def test_the_bench_of_recycling_measures_a_surge_and_memmon() -> None:
    """A surge is seen from outside as one worker more; memmon's restart as refused connects."""
    done = run(
        *("recycle.py", "--only", "27.0.1 sync close 0.1s (surge|memmon)"),
        *("--actions", "1", "--json"),
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    surge, memmon = json.loads(done.stdout)["cells"]
    for cell in (surge, memmon):
        assert not cell["error"], cell
        assert len(cell["acts"]) == 1
        assert cell["steady"]["answered"] > 0
        assert not cell["steady"]["failed"]
        assert cell["peak"] > 0
    assert surge["acts"][0]["result"] == "done"
    assert surge["acts"][0]["most"] == 5
    assert surge["peak"] > surge["memory"] > 0
    assert surge["acts"][0]["after"] == 4
    assert memmon["acts"][0]["failed"]["refused (fresh)"] > 0
    assert memmon["throughput"] < 0.95


@pytest.mark.slow
def test_the_bench_of_broken_code_sees_what_is_lost_without_a_preflight() -> None:
    done = run("broken.py", "--only", "sync missing recycle", "--tries", "1", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    guarded, unguarded = json.loads(done.stdout)["cells"]
    assert not guarded["error"] + unguarded["error"]
    assert (guarded["tries"], guarded["lost"], guarded["masters"]) == (1, 0, 0)
    assert guarded["answered"] > 0
    assert not guarded["failed"]
    assert (guarded["told"], guarded["mended"]) == (1, "done")
    assert (unguarded["lost"], unguarded["masters"]) == (2, 1)
    assert unguarded["failed"]["refused (fresh)"] > 0


# -- the load


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[[socket.socket], None]


@contextmanager
def server(serve: Serve) -> Iterator[int]:
    """A port of which each connection is served so, and then closed."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        threading.Thread(target=_accept, args=(listening, serve), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, serve: Serve) -> None:
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        with closing(sock):
            serve(sock)


def _nothing(sock: socket.socket) -> None:
    sock.recv(4096)


def _reset(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _half(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(ANSWER[:-1])


def _trouble(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(ANSWER.replace(b"200 OK", b"500 No"))


def _answer(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(ANSWER)


def _never_twice(sock: socket.socket) -> None:
    """The second request on a connection is taken, and never answered."""
    _answer(sock)
    sock.recv(4096)


def _with_notice(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


def kinds(records: list[Record]) -> set[str]:
    return {record.kind if record.kind == CLOSED else record.name for record in records}


def seen(port: int, directory: Path, expected: set[str], keep_alive: bool = False) -> set[str]:
    """What became of the requests of a load that went on until all that is expected was seen."""
    load = Load(port, directory, keep_alive=keep_alive)
    load.rate(100)
    try:
        wait_until(lambda: len(load.records()) > 10 and kinds(load.records()) >= expected)
    finally:
        found = load.stop()
    return kinds(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("serve", "keep_alive", "expected"),
    [
        (_answer, False, {"ok (fresh)"}),
        (_nothing, False, {"eof (fresh)"}),
        (_half, False, {"eof (fresh)"}),
        (_reset, False, {"reset (fresh)"}),
        (_trouble, False, {"http500 (fresh)"}),
        # It closes while the connection is idle: that costs a connection, and no request.
        (_answer, True, {"ok (fresh)", CLOSED}),
        (_with_notice, True, {"ok (fresh)", CLOSED}),
        (_never_twice, True, {"ok (fresh)", "eof (reused)"}),
    ],
)
def test_the_load_tells_what_became_of_a_request(
    tmp_path: Path, serve: Serve, keep_alive: bool, expected: set[str]
) -> None:
    with server(serve) as port:
        assert seen(port, tmp_path, expected, keep_alive) == expected


@pytest.mark.slow
def test_a_closed_port_is_a_refused_connection(tmp_path: Path) -> None:
    expected = {"refused (fresh)"}
    assert seen(free_port(), tmp_path, expected) == expected


@pytest.mark.slow
def test_the_load_is_an_open_loop(tmp_path: Path) -> None:
    """A server that stands still makes the later requests late, not fewer; from their due times."""
    begun = threading.Event()

    def still(sock: socket.socket) -> None:
        if not begun.is_set():
            begun.set()
            threading.Event().wait(0.4)
        _answer(sock)

    with server(still) as port:
        load = Load(port, tmp_path)
        load.rate(50)
        wait_until(lambda: len(load.records()) > 25)
        records = [record for record in load.stop() if record.kind == OK]
    dues = sorted(record.due for record in records)
    assert {round(b - a, 4) for a, b in pairwise(dues)} == {0.02}
    late = [record.seconds for record in records if record.due < dues[0] + 0.35]
    assert len(late) == 18
    assert min(late) > 0.04, "each waited until the server went on"
    assert max(late) >= 0.4


# -- whose a failure is


def _record(due: float, done: float, kind: str = OK, reused: bool = False) -> Record:
    return Record(due, done, kind, reused, 0.0, 0.0)


def _measured(*acts: tuple[float, float]) -> Measured:
    cell = Cell(Row("27.0.1", "sync", False, 0.1), "plain")
    found = Measured(cell, rate=10, steady=Span(0, 10))
    found.acts = [Act(begin, end) for begin, end in acts]
    return found


@pytest.mark.parametrize(
    ("due", "done", "whose"),
    [
        (12.0, 13.0, "outside"),  # between the two
        (10.5, 10.9, 0),
        (9.9, 10.1, 0),  # was under way when it began
        (10.9, 19.0, 0),  # was under way when it ended
        (19.9, 20.1, 1),
        (21.5, 22.0, "outside"),
    ],
)
def test_a_request_belongs_to_the_action_it_was_under_way_in(
    due: float, done: float, whose: Any
) -> None:
    found = _measured((10, 11), (20, 21))
    attribute(found, [_record(due, done, "reset")], since=0)
    spans: dict[Any, Span] = {"outside": found.outside, **dict(enumerate(found.acts))}
    for name, span in spans.items():
        assert span.failed == ({"reset (fresh)": 1} if name == whose else {})


def test_throughput_is_a_share_of_that_before_the_first_action() -> None:
    """An action in whose first half nothing was answered: half, and nothing in its worst second."""
    found = _measured((10, 14))
    steady = [_record(at / 10, at / 10) for at in range(100)]
    during = [_record(12 + at / 10, 12 + at / 10) for at in range(20)]
    attribute(found, steady + during, since=0)
    assert found.steady_rate() == 10
    assert found.throughput() == 0.5
    assert found.worst_second() == 0
