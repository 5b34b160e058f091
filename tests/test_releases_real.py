"""A deploy of a real gunicorn under a real supervisord is told from a reload of the same code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from journals import Book
from servers import Supervisor, answers, free_port, gunicorn, program, wait_until

pytestmark = pytest.mark.slow

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
"""


def test_a_reload_of_the_same_code_is_no_release_and_a_restart_of_other_code_is(
    tmp_path: Path,
) -> None:
    """Nothing but the files is looked at, also where nothing is ever acted on."""
    place, port = tmp_path / "site", free_port()
    place.mkdir()
    (place / "shop.py").write_text(APP)
    command = gunicorn("shop:app", port, options="--pythonpath .")
    sections = program("web", command, directory=place)
    with Supervisor(tmp_path, sections, memwatch="[memwatch]\nmode = observe\n") as supervisor:
        book = Book(supervisor)

        def ticks(count: int) -> None:
            before = book.fact("ticks") or 0
            wait_until(
                lambda: (book.fact("ticks") or 0) >= before + count, 60, f"{count} ticks more"
            )

        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 60, "it answers")
        ticks(2)
        os.kill(supervisor.program_pid("web"), signal.SIGHUP)
        book.wait_for("web", "seen", 2)
        ticks(3)
        (place / "shop.py").write_text(APP + "changed = True\n")
        supervisor.rpc.supervisor.stopProcess("web")
        supervisor.rpc.supervisor.startProcess("web")
        release = book.wait_for("web", "release")
    assert "restart with changed code (" in release.text and "shop.py): a release" in release.text
    assert len(book.lines("web", "release")) == 1
