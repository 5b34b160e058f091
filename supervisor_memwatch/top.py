"""`memwatch top`: the live screen on a terminal.

Here is its loop: what is known, read anew every few seconds, and the requests to the listener, each
in a thread, so that keys go on meanwhile. What is drawn is screen.py's, what a key means
keyboard.py's, and what a terminal is terminal.py's.

It is written on the standard library alone, and there is no other version of it: a table, a pane of
text and a line of keys need no toolkit, so there is no extra to install and no fallback that looks
different. Where there is no terminal, or one that cannot move its cursor (TERM=dumb), `status` is
printed instead.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from . import keyboard, screen, status, terminal
from .config import Config
from .journal import JournalError, Reader
from .keyboard import Data, State, Wish
from .terminal import Terminal


def run(config: Config, names: Sequence[str], sort: str, every: float) -> int:
    """Until the user quits: 0. Raises JournalError where there is nothing to be seen."""
    feed = Feed(config, names)
    data = feed.read()
    state = State(sort=sort, ascii=not terminal.has_signs())
    # A terminal that has gone is a way to quit.
    with suppress(EOFError), Terminal(terminal.styles()) as own:
        Top(config, feed, own, every).run(state, data)
    return 0


def once(config: Config, names: Sequence[str], sort: str) -> int:
    """Print what the screen would show, as long as it is; the exit status of `status`."""
    feed = Feed(config, names)
    data = feed.read()
    columns, rows = shutil.get_terminal_size()
    state = State(columns, rows, sort, ascii=not terminal.has_signs())
    styles = terminal.styles() if sys.stdout.isatty() and terminal.can_move() else {}
    for line in screen.once(state, data):
        print(terminal.dressed(line, styles).rstrip())
    return status.exit_status(feed.status)


# -- what is known --------------------------------------------------------------------------


class Feed:
    """What is read of the journal for the screen."""

    def __init__(self, config: Config, names: Sequence[str]) -> None:
        self.config = config
        self.names = names
        self.status = status.Status({}, "nothing was read yet")

    def read(self) -> Data:
        """Raises JournalError."""
        self.status = found = status.read(self.config, self.names)
        reader = Reader(self.config.journal_path())
        try:
            # By the samples' own clock: the machine's may have been set since.
            until = reader.rows("SELECT max(at) FROM samples")[0][0] or 0.0
            samples = reader.rows(
                "SELECT at, namespec, workers FROM samples WHERE at > ? ORDER BY at",
                (until - keyboard.HOUR,),
            )
        finally:
            reader.close()
        shown = {program["namespec"] for program in found.document["programs"]}
        return Data(
            found.document,
            found.silence,
            found.advice,
            screen.curves(
                ((at, name, _sample(row)) for at, name, row in samples if name in shown),
                found.document,
                until,
            ),
            until,
            found.paused,
            _clock(),
        )

    def explanation(self, namespec: str) -> list[str]:
        """What `memwatch explain` says of a program. Raises JournalError."""
        from . import history

        found = history.explained(self.config, [namespec])
        return history.explained_words(found.document).split("\n")


def _sample(text: str) -> list[list[Any]]:
    """The workers of a sample; none where it is damaged: the other curves are worth drawing."""
    try:
        return [row for row in json.loads(text) if len(row) >= 7 and row[2] is not None]
    except (ValueError, TypeError):
        return []


def _clock() -> str:
    return time.strftime("%H:%M:%S")


# -- the loop -------------------------------------------------------------------------------


class Top:
    """Draws, waits for a key, the next refresh or an answer, and begins again."""

    def __init__(self, config: Config, feed: Feed, terminal: Terminal, every: float) -> None:
        self.config = config
        self.feed = feed
        self.terminal = terminal
        self.every = every
        self.asked: threading.Thread | None = None
        self.answers: list[str] = []  # what the thread has heard

    def run(self, state: State, data: Data) -> None:
        due = time.monotonic() + self.every
        while True:
            columns, rows = self.terminal.size()
            state = screen.settle(replace(state, columns=columns, rows=rows), data)
            self.terminal.draw(screen.render(state, data))
            for key in self.terminal.keys(max(0.0, due - time.monotonic())):
                state, wish = keyboard.press(state, data, key)
                if wish is not None and wish.what == "quit":
                    return
                if wish is not None:
                    state = self._grant(wish, state)
                if state.question is not None:
                    break  # what was typed before it could be read is no answer
            if self.answers:
                state = replace(state, message=self.answers.pop(0))
                due = 0.0
            if time.monotonic() >= due:
                data = self._refreshed(data)
                due = time.monotonic() + self.every

    def _refreshed(self, data: Data) -> Data:
        try:
            return self.feed.read()
        except JournalError as error:
            return replace(data, trouble=str(error), clock=_clock())

    def _grant(self, wish: Wish, state: State) -> State:
        if wish.what == "redraw":
            self.terminal.forget()
            return state
        if wish.what == "explain":
            try:
                page = tuple(self.feed.explanation(wish.target))
            except JournalError as error:
                return replace(state, message=str(error))
            return replace(state, page=page, page_top=0)
        if self.asked is not None and self.asked.is_alive():
            return replace(state, message="the listener has not answered yet: one at a time")
        self.asked = threading.Thread(target=self._ask, args=(wish,), daemon=True)
        self.asked.start()
        return replace(state, message=f"{wish.command} {wish.target}: asking the listener ...")

    def _ask(self, wish: Wish) -> None:
        """In a thread: an answer takes as long as the listener does."""
        from . import asking
        from .control import RpcError

        try:
            answer = asking.ask(
                self.config,
                wish.command,
                wish.target,
                seconds=wish.seconds,
                by=f"{asking.myself()}, in top",
            )
            said = f"{answer.answer}: {answer.reason}"
        except (RpcError, JournalError) as error:
            said = f"could not ask: {error}"
        except Exception as error:  # its traceback would write over the screen
            said = f"could not ask: {error!r}"
        self.answers.append(f"{wish.command} {wish.target}: {said}")
        self.terminal.wake()
