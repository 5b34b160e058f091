"""A running listener's journal and its way to be asked, for tests: read it, wait for it.

Knows the tables and the message format; knows nothing of what memwatch should have written.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from servers import Supervisor, wait_until

from supervisor_memwatch import report
from supervisor_memwatch.journal import JournalError, Reader


class Line(NamedTuple):
    """An entry, as it was written down."""

    seq: int
    at: float
    namespec: str
    kind: str
    level: str
    text: str
    data: dict[str, Any]


class Book:
    """The journal of a supervisord's listener."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.path: Path = supervisor.journal

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Nothing where nothing has been written yet."""
        try:
            reader = Reader(str(self.path))
        except JournalError:
            return []
        try:
            return reader.rows(sql, values)
        finally:
            reader.close()

    def lines(self, namespec: str, *kinds: str) -> list[Line]:
        """The entries about a program, oldest first; of these kinds only, if any are named."""
        rows = self.rows(
            "SELECT seq, at, namespec, kind, level, text, data FROM entries"
            " WHERE namespec = ? ORDER BY seq",
            namespec,
        )
        found = [Line(*row[:6], json.loads(row[6])) for row in rows]
        return [line for line in found if not kinds or line.kind in kinds]

    def steps(self, namespec: str) -> list[str]:
        """The names of the steps its actions took."""
        return [line.data["step"] for line in self.lines(namespec, "step") if "step" in line.data]

    def results(self, namespec: str) -> list[str]:
        """How its actions ended."""
        return [line.data["result"] for line in self.lines(namespec, "outcome")]

    def open_steps(self) -> dict[str, str]:
        """The programs in action, and the step that was written down last."""
        rows = self.rows("SELECT namespec, state FROM procedures WHERE ended IS NULL")
        return {namespec: json.loads(state)["step"] for namespec, state in rows}

    def fact(self, name: str) -> Any:
        """One of the listener's facts (pid, ticks, ...); None before its first look."""
        rows = self.rows("SELECT value FROM facts WHERE key = 'listener'")
        return json.loads(rows[0][0])[name] if rows else None

    def watched(self) -> set[str]:
        """The programs that were looked at."""
        return {row[0] for row in self.rows("SELECT namespec FROM latest")}

    def workers(self, namespec: str) -> set[int]:
        """The pids of the workers that were seen at the last look."""
        rows = self.rows("SELECT snapshot FROM latest WHERE namespec = ?", namespec)
        seen = report.snapshot_from_json(json.loads(rows[0][0])) if rows else None
        return {worker.id.pid for worker in seen.workers} if seen is not None else set()

    def answer(self, id: str) -> tuple[str, str] | None:
        """The answer to a request and its reason."""
        rows = self.rows("SELECT answer, reason FROM answers WHERE id = ?", id)
        return rows[0] if rows else None

    def wait_for(self, namespec: str, kind: str, count: int = 1, timeout: float = 120) -> Line:
        """The newest of a program's entries of a kind, once there are that many."""
        return wait_until(
            lambda: self.lines(namespec, kind)[count - 1 :],
            timeout,
            lambda: f"{namespec}: {count} {kind} in the journal\n{self._supervisor}",
        )[-1]

    # -- asking

    def send(self, data: object) -> None:
        """A message as it is; nobody waits for an answer."""
        text = data if isinstance(data, str) else json.dumps(data)
        self._supervisor.rpc.supervisor.sendRemoteCommEvent("memwatch", text)

    def ask(self, command: str, target: object = "", **more: object) -> tuple[str, str]:
        """Send a request; the answer and its reason."""
        id = str(uuid.uuid4())
        self.send(message(command, target, id, **more))
        return wait_until(
            lambda: self.answer(id), 60, lambda: f"{command} {target} answered\n{self._supervisor}"
        )


def message(command: str, target: object = "", id: str = "", **more: object) -> dict[str, object]:
    """A request, made now by `the tests`."""
    return {
        "v": 1,
        "id": id or str(uuid.uuid4()),
        "at": time.time(),
        "command": command,
        "target": str(target),
        "by": "the tests",
        **more,
    }
