"""`memwatch top` as a person meets it: on a terminal, beside a real supervisord with gunicorns.

Screenshots are kept in the directory that MEMWATCH_SCREENSHOTS names, where it is set.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import Book
from servers import Supervisor, answers, free_port, gunicorn, program, wait_until
from terminals import Terminal, memwatch

from supervisor_memwatch.terminal import LEAVE

pytestmark = pytest.mark.slow

SETTINGS = """\
[memwatch]
mode = act
warmup = 5s
confirm = 5s
cooldown = 1s
preflight = off
[memwatch:calm]
mode = observe
"""
DOWN = "\x1b[B"


class Server:
    """A supervisord with a listener and two gunicorns."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.supervisor = Supervisor(
            directory,
            program("web", gunicorn("leaky:app", self.port, workers=3))
            + program("calm", gunicorn("leaky:app", free_port(), workers=1)),
            memwatch=SETTINGS,
        )
        self.book = Book(self.supervisor)

    def at(self, columns: int = 80, rows: int = 24, **env: str) -> Terminal:
        """`memwatch top`, started on a terminal."""
        command = memwatch("top", "-c", str(self.supervisor.conf), "--every", "0.5s")
        words = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env}
        return Terminal(command, {**self.supervisor.environ, **words}, columns, rows)

    @property
    def workers(self) -> set[int]:
        return self.supervisor.children("web")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("top"))
    with found.supervisor as supervisor:
        url = f"http://127.0.0.1:{found.port}/pid"
        wait_until(lambda: answers(url), 60, lambda: f"web answers\n{supervisor}")
        wait_until(lambda: len(found.workers) == 3, 60, "three workers")
        wait_until(lambda: seen(found), 60, "the listener has seen them all")
        yield found


def seen(server: Server) -> bool:
    """Whether the listener has seen web's workers."""
    rows = server.book.rows("SELECT snapshot FROM latest WHERE namespec = 'web'")
    return bool(rows) and all(str(pid) in rows[0][0] for pid in server.workers)


def choose(terminal: Terminal, words: str) -> None:
    """Go down until that line is marked."""
    for _ in range(20):
        marked = terminal.until(lambda text: re.search("^>.*", text, re.M))[0]
        if marked.startswith(f">{words}"):
            return
        terminal.type(DOWN)
        terminal.until(lambda text, marked=marked: marked not in text, f"not {marked}")
    raise AssertionError(f"{words} cannot be chosen:\n{terminal.text}")


def test_a_person_looks_around(server: Server) -> None:
    """Workers and their sizes, sorted, filtered, explained, at 120 columns and then at 80."""
    with server.at(120, 40) as terminal:
        terminal.shows("q quit")
        for pid in server.workers:
            assert re.search(rf"^ worker {pid} .*[KM] +[\d.]+[KM] ", terminal.text, re.M)
        assert terminal.line("VERDICT").index("VERDICT") > 80 and "q quit" in terminal.lines[39]

        terminal.keep("top-120")
        terminal.type("sss")
        terminal.shows("s sort: pid")
        pids = [int(pid) for pid in re.findall(r"^ worker (\d+)", terminal.text, re.M)]
        mine = [pid for pid in pids if pid in server.workers]
        assert mine == sorted(server.workers)

        terminal.type("/calm\r")
        terminal.shows("filter: calm")
        terminal.shows(">calm  RUNNING  observe")
        assert "web" not in terminal.text
        terminal.type("\x1b")
        terminal.shows(" web  RUNNING")

        terminal.resize(80, 24)
        terminal.until(lambda _: "q quit" in terminal.lines[-1], "the keys are in the last line")
        for head in ("AGE", "PRIVATE", "SHARED", "SWAP", "LAST HOUR", "TREND/H", "VERDICT"):
            assert head in terminal.line("PRIVATE")

        choose(terminal, "calm")
        terminal.type("e")
        terminal.shows("calm: It does nothing")
        assert "mode observe; 0 actions in the last 1h; the budget is 6" in terminal.text
        terminal.type("q")
        terminal.shows("q quit")

        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.modes == terminal.before
        assert terminal.written.endswith(LEAVE.encode())


def test_a_worker_is_recycled_only_after_yes(server: Server) -> None:
    """n leaves it alone; y has it replaced, and the listener's answer is shown."""
    with server.at() as terminal:
        before = server.workers
        victim = max(before)
        choose(terminal, f"worker {victim}")
        terminal.type("r")
        terminal.shows(f"Recycle worker {victim} of web")
        terminal.type("n")
        terminal.shows("nothing was done")
        terminal.type("ryyy")
        terminal.shows("y/N")
        terminal.type("q")
        terminal.until(lambda text: "y/N" not in text, "what was typed ahead was no answer")
        assert not server.book.rows("SELECT * FROM answers")
        assert server.workers == before

        terminal.type("r")
        terminal.shows("y/N")
        terminal.type("y")
        terminal.shows(f"recycle {victim}: accepted: recycle has begun")
        terminal.shows("now: recycle worker")
        terminal.keep("top")
        terminal.shows("recycle done", 60)
        assert victim not in server.workers and len(server.workers) == 3
        [new] = server.workers - before
        terminal.shows(f" worker {new}")
        [(by,)] = server.book.rows("SELECT text FROM entries WHERE kind = 'request'")
        assert re.search(r"^recycle \d+ by .+, in top: accepted", by)
        terminal.type("q")
        assert terminal.wait() == 0


def test_a_program_is_paused_and_resumed(server: Server) -> None:
    """And what the listener says of it is seen."""
    with server.at() as terminal:
        choose(terminal, "calm")
        terminal.type("p")
        terminal.shows("pause calm: accepted: pause calm for 1h")
        terminal.until(lambda text: re.search(r"^>calm .*paused for (1h|59m)", text, re.M))
        terminal.type("p")
        terminal.shows("resume calm: accepted")
        terminal.until(lambda text: "paused for" not in text, "it is no longer paused")


ENDS = {"Ctrl-C": ("\x03", 130), "Ctrl-D": ("\x04", 0), "SIGTERM": ("", 143), "SIGHUP": ("", 129)}


@pytest.mark.parametrize("end", ENDS)
def test_the_terminal_is_given_back_however_it_ends(server: Server, end: str) -> None:
    """Its modes, its cursor, its screen."""
    typed, status = ENDS[end]
    with server.at() as terminal:
        terminal.shows("q quit")
        assert terminal.modes != terminal.before
        if typed:
            terminal.type(typed)
        else:
            terminal.signal(signal.Signals[end])
        assert terminal.wait() == status
        assert terminal.modes == terminal.before
        assert LEAVE.encode() in terminal.written[-40:]


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(server: Server) -> None:
    """Also after a SIGSTOP, which nobody sees coming."""
    with server.at() as terminal:
        terminal.shows("q quit")
        terminal.type("\x1a")
        wait_until(lambda: terminal.state() == "T", 30, "it is stopped")
        terminal.read()
        assert terminal.modes == terminal.before
        assert terminal.written.endswith(LEAVE.encode())
        for stop in (None, signal.SIGSTOP):
            if stop is not None:
                terminal.signal(stop)
                wait_until(lambda: terminal.state() == "T", 30, "it is stopped")
                terminal.read()
                termios.tcsetattr(terminal.master, termios.TCSANOW, terminal.before)
            terminal.screen.reset()
            terminal.signal(signal.SIGCONT)
            terminal.shows("q quit")
            assert terminal.modes != terminal.before
        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.modes == terminal.before


def test_an_error_is_seen_on_a_terminal_that_works() -> None:
    """Its traceback comes after the screen was given back."""
    script = (
        "from supervisor_memwatch.terminal import COLOURS, Terminal\n"
        "with Terminal(COLOURS) as terminal:\n"
        "    terminal.draw([])\n"
        "    raise ValueError('unforeseen')\n"
    )
    environment = {**os.environ, "TERM": "xterm"}
    with Terminal([sys.executable, "-c", script], environment) as terminal:
        assert terminal.wait() == 1
        assert terminal.modes == terminal.before
        _, _, after = terminal.written.partition(LEAVE.encode())
        assert b"Traceback" in after and b"unforeseen" in after


def test_no_color_is_respected(server: Server) -> None:
    """What is chosen is reversed, which is no colour."""
    with server.at(NO_COLOR="1") as terminal:
        terminal.shows("q quit")
        assert not re.search(rb"\x1b\[([0-9;]*;)?[349][0-9]m", terminal.written)
        assert b"\x1b[7m" in terminal.written


def test_without_unicode_it_writes_ascii(server: Server) -> None:
    """With LC_ALL=C, curves and all."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with server.at(**plain) as terminal:
        terminal.shows("q quit")
        assert terminal.written.isascii()


def test_a_dumb_terminal_gets_status_once(server: Server) -> None:
    """In plain words, without a single sequence."""
    with server.at(TERM="dumb") as terminal:
        assert terminal.wait() == 0
        assert "web: RUNNING, gunicorn, act" in terminal.text
        assert b"\x1b" not in terminal.written


def test_a_listener_that_is_stopped_is_said(server: Server) -> None:
    """What it saw last stays; a request says what to do, and keys go on."""
    with server.at() as terminal:
        terminal.shows("q quit")
        server.supervisor.rpc.supervisor.stopProcess("memwatch")
        try:
            terminal.until(lambda text: re.search(r"^the listener .* is gone", text, re.M))
            terminal.shows("SILENT for")
            pid = max(server.workers)
            choose(terminal, f"worker {pid}")
            terminal.type("r")
            terminal.shows("y/N")
            terminal.type("y")
            terminal.shows(f"recycle {pid}: silent: the listener memwatch is STOPPED")
            terminal.type("q")
            assert terminal.wait() == 0
        finally:
            server.supervisor.rpc.supervisor.startProcess("memwatch")
