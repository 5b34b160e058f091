"""`memwatch status`: what the listener sees now, read from its journal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from . import __version__, report
from .config import Config
from .detectors import Past
from .journal import JournalError, Reader


def document(config: Config, names: Sequence[str] = ()) -> dict[str, Any]:
    """The document of `status --json`. Raises JournalError."""
    reader = Reader(config.journal_path())
    try:
        facts = reader.rows("SELECT value FROM facts WHERE key = 'listener'")
        latest = reader.rows("SELECT namespec, snapshot, view FROM latest ORDER BY namespec")
        saved = dict(reader.rows("SELECT namespec, state FROM watches"))
    finally:
        reader.close()
    listener = json.loads(facts[0][0]) if facts else None
    known = {row[0] for row in latest}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise JournalError(
            f"not watched: {', '.join(unknown)}; watched: {', '.join(sorted(known)) or 'nothing'}"
        )
    programs = []
    for namespec, snapshot, view in latest:
        if names and namespec not in names:
            continue
        group, _, process = namespec.partition(":")
        programs.append(
            report.program_json(
                report.snapshot_from_json(json.loads(snapshot)),
                json.loads(view),
                config.options(group, process or group),
                _past(saved.get(namespec)),
            )
        )
    return {
        "version": __version__,
        "time": time.time(),
        "listener": listener,
        "programs": programs,
    }


def _past(state: str | None) -> Past | None:
    """What the listener remembered when it last saved, for the trends."""
    if state is None:
        return None
    try:
        return Past.load(json.loads(state)["past"])
    except (KeyError, TypeError, ValueError):
        return None


def exit_status(document: dict[str, Any]) -> int:
    """0: nothing is told; 1: something is; 2: the listener is silent."""
    listener = document["listener"]
    if listener is None or listener["last_tick"] is None:
        return 2
    told = any(
        verdict["told"]
        for program in document["programs"]
        for holder in [program, *program["workers"], program["master"] or {"verdicts": ()}]
        for verdict in holder["verdicts"]
    )
    return 1 if told else 0
