"""What every test starts from: an environment without Supervisor's and the user's traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from supervisor_memwatch import cli

# A shared machine is slow at times; that is no property of the code.
settings.register_profile("memwatch", deadline=None)
settings.load_profile("memwatch")

TRACES = (
    "SUPERVISOR_SERVER_URL",
    "SUPERVISOR_USERNAME",
    "SUPERVISOR_PASSWORD",
    "SUPERVISOR_ENABLED",
    "SUPERVISOR_PROCESS_NAME",
    "SUPERVISOR_GROUP_NAME",
    "GUNICORN_CMD_ARGS",
    "WEB_CONCURRENCY",
    "NO_COLOR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRACES:
        monkeypatch.delenv(name, raising=False)
    # `python -m supervisor_memwatch` works from wherever a test starts it, installed or not.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))


class Ran:
    """One command, run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        try:
            self.status = cli.main(arguments)
        except SystemExit as ended:  # argparse's way out
            self.status = ended.code if isinstance(ended.code, int) else -1
        self.out, self.err = capsys.readouterr()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command: `ran("audit", "--json")`."""
    return lambda *arguments: Ran(capsys, *map(str, arguments))
