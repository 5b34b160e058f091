"""The user's terminal: its modes, size, keys and signals, and what is written to it.

It is taken on entry and given back on exit, whatever happens: an exception, SIGTERM, SIGHUP,
Ctrl-C; also for the time in which Ctrl-Z has it stopped. Only the few sequences are written that
every terminal since the VT100 knows, and that later ones ignore where they do not.
What is drawn is screen.py's, what a key means keyboard.py's.
"""

from __future__ import annotations

import codecs
import locale
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from . import screen
from .screen import Line

PATIENCE = 0.05  # seconds in which the rest of a key's escape sequence comes

COLOURS = {
    screen.BOLD: "1",
    screen.DIM: "2",
    screen.HEAD: "4",
    screen.CHOSEN: "7",
    screen.WARN: "33",
    screen.BAD: "1;31",
}
NO_COLOURS = {**COLOURS, screen.WARN: "", screen.BAD: "1"}

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # a screen of our own, no cursor, no wrapping
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

KEYS = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x0c": "ctrl-l",
    "\x04": "ctrl-d",
    "\x1b": "escape",
}
SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[7~": "home",
    "\x1b[8~": "end",
    "\x1b[5~": "pgup",
    "\x1b[6~": "pgdn",
}


def usable() -> bool:
    """Whether there is a terminal on both sides that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and can_move()


def can_move() -> bool:
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def has_signs() -> bool:
    """Whether it can show more than ASCII; the kernel's own console lacks the curves' signs."""
    encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(False)
    return codecs.lookup(encoding).name == "utf-8" and os.environ.get("TERM") != "linux"


def styles() -> Mapping[str, str]:
    return NO_COLOURS if os.environ.get("NO_COLOR") else COLOURS


def dressed(line: Line, styles: Mapping[str, str]) -> str:
    """A line with the sequences of its styles; without styles, its text."""
    return "".join(
        f"\x1b[{styles[span.style]}m{span.text}\x1b[0m" if styles.get(span.style) else span.text
        for span in line
    )


class Terminal:
    """The user's: ours from enter to exit, and theirs again after it, whatever happens."""

    def __init__(self, styles: Mapping[str, str]) -> None:
        self.styles = styles
        self.encoding = sys.stdout.encoding or "utf-8"
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._modes = termios.tcgetattr(self._in)
        self._drawn: list[str] = []
        self._decode = codecs.getincrementaldecoder(sys.stdin.encoding or "utf-8")("replace")
        self._typed = ""
        self._signals: list[int] = []
        self._woken, self._wake = os.pipe()
        self._before: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Terminal:
        try:
            for end in (self._woken, self._wake):
                os.set_blocking(end, False)
            self._wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._end)
            for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
                self._before[number] = signal.signal(number, self._note)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        for end in (self._woken, self._wake):
            os.close(end)

    def _take(self) -> None:
        tty.setcbreak(self._in, termios.TCSADRAIN)
        self._write(ENTER)
        self.forget()

    def _give_back(self) -> None:
        # It may be gone: then there is nothing to give back.
        with suppress(OSError, termios.error):
            self._write(LEAVE)
        with suppress(OSError, termios.error):
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._modes)

    def _note(self, number: int, _: FrameType | None) -> None:
        """Seen to between two screens, never in the middle of one."""
        self._signals.append(number)

    def _end(self, number: int, _: FrameType | None) -> None:
        # At once, for a write may be held up; and noted, for what is raised while Python is in a
        # finalizer is lost.
        self._signals.append(number)
        _raise(number)

    def _see_to_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                _raise(number)
            elif number == signal.SIGTSTP:
                self._give_back()
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTSTP)  # here it stops, until `fg`
                signal.signal(signal.SIGTSTP, self._note)
                self._take()
            elif number == signal.SIGCONT:
                # After a SIGSTOP, which nobody sees coming: the shell had the terminal meanwhile.
                self._take()
            else:
                self.forget()

    def size(self) -> tuple[int, int]:
        """Columns and rows; 80 and 24 where it does not know."""
        columns, rows = os.get_terminal_size(self._out)
        return columns or 80, rows or 24

    def forget(self) -> None:
        """What is on the screen is not what was drawn: all of it is drawn anew."""
        self._drawn = []

    def draw(self, lines: Iterable[Line]) -> None:
        """Write those lines that have changed."""
        new = [dressed(line, self.styles) for line in lines]
        parts = []
        if not self._drawn or len(self._drawn) != len(new):
            parts.append("\x1b[2J")
            self._drawn = [""] * len(new)
        for number, (old, text) in enumerate(zip(self._drawn, new, strict=True), 1):
            if old != text:
                parts.append(f"\x1b[{number};1H\x1b[K{text}")
        self._drawn = new
        self._write("".join(parts))

    def _write(self, text: str) -> None:
        data = text.encode(self.encoding, "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def wake(self) -> None:
        """From another thread: `keys` returns."""
        with suppress(OSError):  # full, or nobody waits any more
            os.write(self._wake, b"\0")

    def keys(self, timeout: float) -> list[str]:
        """The keys that were pressed; waits for one, a signal or `wake`, `timeout` seconds at most.

        Raises EOFError where the terminal has gone.
        """
        ready, _, _ = select.select([self._in, self._woken], [], [], timeout)
        if self._woken in ready:
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
        self._see_to_signals()
        if self._in in ready:
            self._read()
        keys, self._typed = split(self._typed)
        while self._typed:
            # The rest of a sequence is under way, or Esc was all.
            if select.select([self._in], [], [], PATIENCE)[0]:
                self._read()
                more, self._typed = split(self._typed)
            else:
                more, self._typed = split(self._typed, ended=True)
            keys += more
        return keys

    def _read(self) -> None:
        try:
            data = os.read(self._in, 1024)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._typed += self._decode.decode(data)


def _raise(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def split(text: str, ended: bool = False) -> tuple[list[str], str]:
    """What was typed, as keys; and the beginning of a sequence whose rest has not come yet.

    `ended`: nothing more comes, so Esc is Esc.
    """
    keys = []
    while text:
        known = next((one for one in SEQUENCES if text.startswith(one)), None)
        if known is not None:
            keys.append(SEQUENCES[known])
            text = text[len(known) :]
        elif text[0] == "\x1b" and text[1:2] in ("[", "O", ""):
            size = _length(text)
            if size is None and not ended:
                return keys, text
            if size is None:
                keys.append("escape")
                size = len(text)
            text = text[size:]
        else:
            keys.append(KEYS.get(text[0], text[0]))
            text = text[1:]
    return keys, ""


def _length(text: str) -> int | None:
    """Of an escape sequence that we have no use for; None: it goes on."""
    if text.startswith("\x1bO"):
        return 3 if len(text) >= 3 else None
    for place in range(2, len(text)):
        if "@" <= text[place] <= "~":
            return place + 1
    return None
