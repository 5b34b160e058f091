"""A terminal for tests: a command in a pseudo-terminal, and what a person would see of it.

pyte reads what the command writes, as a terminal would; nothing here knows what it should be.
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyte
from servers import wait_until

COLOURS = {"red": "#ff6b68", "brown": "#e5c07b", "green": "#98c379"}  # as pyte calls them


class Terminal:
    """A command on a terminal of its own, in the foreground, as a shell would start it; ended
    with the `with` block.

    `modes` are the terminal's now, `before` those it had; `written` is all that came to it.
    """

    def __init__(
        self,
        arguments: list[str],
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self.written = b""
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.master, self._slave = pty.openpty()
        self._set_size(columns, rows)
        self.before = self.modes
        self._shell = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=env,
            start_new_session=True,
        )
        self.pid = wait_until(self._child, 30, "the command is started")

    def _child(self) -> int:
        children = psutil.Process(self._shell.pid).children()
        return children[0].pid if children else 0

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """As a window manager does; the kernel sends SIGWINCH."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, seconds: float = 0.05) -> None:
        """Take in what has been written."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            self.written += data
            self._stream.feed(data)
            seconds = 0.0

    @property
    def lines(self) -> list[str]:
        """The screen, as text."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, seen: Callable[[str], Any], what: str = "", timeout: float = 30) -> Any:
        """The first true value of `seen` of the screen's text."""
        deadline = time.monotonic() + timeout
        while True:
            self.read()
            found = seen(self.text)
            if found:
                return found
            if time.monotonic() > deadline or self.ended():
                raise AssertionError(f"{what or 'something else'}, not\n{self.text}")

    def shows(self, words: str, timeout: float = 30) -> None:
        """Wait until the words are on the screen, in one line."""
        self.until(lambda text: words in text, repr(words), timeout)

    def line(self, words: str) -> str:
        """The first line with these words."""
        return next(line for line in self.lines if words in line)

    def keep(self, name: str) -> None:
        """A screenshot, for people, in the directory that MEMWATCH_SCREENSHOTS names."""
        directory = os.environ.get("MEMWATCH_SCREENSHOTS")
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            (Path(directory) / f"{name}.svg").write_text(self._svg(), encoding="utf-8")

    def _svg(self) -> str:
        cell, line = 8.4, 17  # pixels of a character of 14 pixels
        columns, rows = self.screen.columns, self.screen.lines
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * cell + 20:.0f}" '
            f'height="{rows * line + 20}" font-family="monospace" font-size="14">'
            '<rect width="100%" height="100%" fill="#1e1e1e"/>'
        ]
        for row in range(rows):
            for column in range(columns):
                sign = self.screen.buffer[row][column]
                x, y = 10 + column * cell, 10 + row * line
                ink, ground = COLOURS.get(sign.fg, "#dddddd"), "#1e1e1e"
                if sign.reverse:
                    ink, ground = ground, ink
                    parts.append(
                        f'<rect x="{x:.1f}" y="{y}" width="{cell}" height="{line}" '
                        f'fill="{ground}"/>'
                    )
                if sign.data.strip():
                    more = ' font-weight="bold"' if sign.bold else ""
                    more += ' text-decoration="underline"' if sign.underscore else ""
                    parts.append(
                        f'<text x="{x:.1f}" y="{y + 13}" fill="{ink}"{more}>'
                        f"{html.escape(sign.data)}</text>"
                    )
        return "\n".join([*parts, "</svg>\n"])

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def state(self) -> str:
        """The kernel's letter for the command: S, T (stopped), Z ..."""
        with open(f"/proc/{self.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]

    def ended(self) -> bool:
        return self._shell.poll() is not None

    def wait(self, timeout: float = 30) -> int:
        """Its exit status; what it wrote last is read."""
        deadline = time.monotonic() + timeout
        while not self.ended():
            self.read()
            if time.monotonic() > deadline:
                raise AssertionError(f"it goes on:\n{self.text}")
        self.read()
        status: int = self._shell.returncode
        return status

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._shell.wait()
        os.close(self.master)
        os.close(self._slave)


def memwatch(*arguments: str) -> list[str]:
    """The command line of `memwatch ARGUMENTS`."""
    return [sys.executable, "-m", "supervisor_memwatch", *arguments]


def _shell(arguments: list[str]) -> int:
    """What a shell does of job control, and no more: Ctrl-Z stops only what is nobody's orphan."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(arguments[0], arguments)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_shell(sys.argv[1:]))
