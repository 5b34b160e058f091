"""What every test starts from: an environment without Supervisor's and the user's traces."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

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
