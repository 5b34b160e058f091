"""What people ask of the listener, as it arrives through Supervisor's sendRemoteCommEvent.

One line of ASCII JSON: `{"v": 1, "id": uuid4, "at", "command", "target", "for", "force",
"by"}`. Here it is written, and read or refused with the reason; doing it is the listener's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from .units import printable

COMMANDS = ("pause", "resume", "recycle", "reload", "restart")
LONGEST = 300  # characters of a target: no namespec is longer
TOO_OLD = 60.0  # seconds: a message that waited longer was sent into another situation
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """A request that can be carried out, or not: `refused` says why.

    Of one that is refused, what is known of it is there for the journal's line, and printable.
    """

    id: str
    command: str = ""
    target: str = ""  # a namespec, a worker's pid, or empty: every program
    seconds: float | None = None  # of a pause
    force: bool = False
    by: str = "somebody"
    refused: str = ""


def write(
    id: str,
    at: float,
    command: str,
    target: str,
    seconds: float | None = None,
    force: bool = False,
    by: str = "somebody",
) -> str:
    """The line that `read` takes. `at`: wall clock; `seconds`: of a pause."""
    data = {"v": 1, "id": id, "at": at, "command": command, "target": target}
    return json.dumps({**data, "for": seconds, "force": force, "by": by})


def read(text: str, now: float) -> Message | None:
    """The message; None where not even an id to answer to can be read. `now`: wall clock."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    id = data.get("id")
    if not isinstance(id, str) or not _ID.fullmatch(id):
        return None
    by, command, target = data.get("by") or "somebody", data.get("command"), data.get("target")
    asked = Message(id, by=printable(by, 100) if isinstance(by, str) else "somebody")
    if data.get("v") != 1:
        what = "not version 1 of the message: use the listener's own memwatch"
        return replace(asked, refused=what)
    if command not in COMMANDS:
        return replace(asked, refused=f"unknown command; valid: {', '.join(COMMANDS)}")
    asked = replace(asked, command=command)
    # Only what is missing means every program: [], 0 or false is somebody's mistake.
    target = "" if target is None else target
    if not isinstance(target, str) or not isinstance(by, str):
        return replace(asked, refused="target and by have to be text")
    asked = replace(asked, target=printable(target, 100))
    at, seconds = data.get("at"), data.get("for")
    if isinstance(at, bool) or not isinstance(at, int | float):
        return replace(asked, refused="at has to be a time, in seconds since the epoch")
    if not now - TOO_OLD <= at <= now + TOO_OLD:
        return replace(asked, refused=f"not sent within the last {TOO_OLD:.0f} s")
    if not target.isprintable() or len(target) > LONGEST:
        what = "target has to be the name of a program or the pid of a worker"
        return replace(asked, refused=what)
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9
    ):
        return replace(asked, refused="for has to be a number of seconds")
    return replace(asked, target=target, seconds=seconds, force=data.get("force") is True)
