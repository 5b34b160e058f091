"""`memwatch audit` on real gunicorns: what leaks is named, what does not is not."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers import Load, Supervisor, answers, free_port, get, gunicorn, program, wait_until

pytestmark = pytest.mark.slow

SHORT = "[memwatch]\nwarmup = 2s\n"


def audited(ports: dict[str, int], options: str = "", **more: str) -> str:
    """Sections of programs that serve apps/audited.py, two workers each. `more`: options of one."""
    commands = {
        name: gunicorn("audited:app", port, options=options + more.get(name, ""))
        for name, port in ports.items()
    }
    return SHORT + "".join(program(name, command) for name, command in commands.items())


def by_name(done: Any) -> dict[str, Any]:
    assert done.returncode in (0, 1), done.stderr
    return {each["namespec"]: each for each in json.loads(done.stdout)["programs"]}


def judged(document: dict[str, Any]) -> set[str]:
    return {worker["judgement"] for worker in document["workers"]}


def test_a_leak_files_and_threads_are_named_while_requests_flow(tmp_path: Path) -> None:
    """And a healthy one is healthy, an idle one idle, who leaves is named; a recording shows
    replay the same."""
    names = ("leak", "healthy", "file", "thread", "idle", "leaving")
    ports = {name: free_port() for name in names}
    recording = tmp_path / "leak.jsonl"
    sections = audited(ports, leaving="--max-requests 30")
    with Supervisor(tmp_path, sections) as sup, contextlib.ExitStack() as loads:
        for name, port in ports.items():
            wait_until(lambda port=port: answers(f"http://127.0.0.1:{port}/healthy"), 60, name)
            if name != "idle":
                path = "healthy" if name == "leaving" else name
                url = f"http://127.0.0.1:{port}/{path}"
                loads.enter_context(Load(url, concurrency=2, rate=8))
        recorded: list[Any] = []
        beside = threading.Thread(
            target=lambda: recorded.append(
                sup.run("audit", "leak", "--for", "32s", "--record", str(recording))
            )
        )
        beside.start()
        found = by_name(sup.run("audit", "--for", "32s", "--json", *names))
        beside.join()
        replayed = sup_replay(sup, recording)
    # gunicorn's workers take what they get: one may have had hardly a request.
    assert "leak" in judged(found["leak"]), found["leak"]
    # And a young one may drift for some seconds, which is said, and is no finding.
    calm = judged(found["healthy"])
    assert {"idle"} != calm <= {"healthy", "idle", "creeps"}, found["healthy"]
    assert found["healthy"]["found"] == found["idle"]["found"] == []
    assert judged(found["idle"]) == {"idle"}, found["idle"]
    assert any("open files keep growing" in text for text in found["file"]["found"])
    where = f"deleted files in {tempfile.gettempdir()}"
    assert any(where in text for text in found["file"]["found"])
    assert not any("leak" in text for text in found["file"]["found"])
    assert any("threads keep growing" in text for text in found["thread"]["found"])
    left = found["leaving"]["left"]
    assert left and all(0 < worker["after"] <= 33 and worker["rss"] for worker in left), left
    assert found["leaving"]["came"] and not any(found[name]["left"] for name in names[:-1])
    assert found["leaving"]["ended"] is None
    assert recorded[0].returncode == 1 and "leak" in recorded[0].stdout
    assert replayed == {"leak"}


def sup_replay(sup: Supervisor, recording: Path) -> set[str]:
    """The kinds that replay tells of a recording."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "supervisor_memwatch", "replay", str(recording)],
        env=sup.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {kind for line in lines for kinds in line["verdicts"].values() for kind in kinds}


def test_the_same_test_run_twice_tells_a_leak_from_a_cache(tmp_path: Path) -> None:
    """`--save` before, `--since` and `--save` after the first run, `--since` after the second."""
    ports = {name: free_port() for name in ("leak", "cached", "healthy")}
    count_requests = "--config python:supervisor_memwatch.hook"

    def run(count: int, path: str = "") -> None:
        """So many requests to each program, four at a time."""
        urls = [f"http://127.0.0.1:{port}/{path or name}" for name, port in ports.items()]
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(get, urls * count))

    with Supervisor(tmp_path, audited(ports, count_requests)) as sup:
        for port in ports.values():
            wait_until(lambda port=port: answers(f"http://127.0.0.1:{port}/healthy"), 60)
        run(60, "healthy")
        files = [str(tmp_path / name) for name in ("before", "between")]
        audit = ("audit", "--for", "0", "--json", *ports)
        by_name(sup.run(*audit, "--save", files[0]))
        run(100)
        once = by_name(sup.run(*audit, "--since", files[0], "--save", files[1]))
        run(100)
        twice = by_name(sup.run(*audit, "--since", files[1]))
        told = sup.run("audit", "--for", "0", *ports, "--since", files[1]).stdout
    grew = {name: {change["found"] for change in each["changes"]} for name, each in once.items()}
    for name in ("leak", "cached"):
        assert "grew" in grew[name] <= {"grew", "same"}, once[name]
    assert grew["healthy"] == {"same"}, once["healthy"]
    again = {name: {change["found"] for change in each["changes"]} for name, each in twice.items()}
    assert "leak" in again["leak"], twice["leak"]
    assert "settled" in again["cached"] and "leak" not in again["cached"], twice["cached"]
    assert again["healthy"] == {"same"}, twice["healthy"]
    for change in twice["leak"]["changes"]:
        assert change["unit"] == "request"
        if change["found"] == "leak":
            assert 300 * 1024 < change["grown"] / change["work"] < 500 * 1024
    assert "=> a leak, " in told and "a cache that has filled" in told
