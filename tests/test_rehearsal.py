"""`memwatch check`: settings that fight each other, and the rehearsal itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rig import PaperSupervisor
from servers import Supervisor, free_port, gunicorn, program, wait_until
from worlds import World

from supervisor_memwatch import config, conflicts, inifile, options, rehearsal, rights, units
from supervisor_memwatch.conflicts import Case
from supervisor_memwatch.journal import Journal, watch_row
from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.rehearsal import Line

MB = units.MB
ROOT = os.geteuid() == 0
NOBODY = 65534


def settings(**texts: str) -> Options:
    return Options(**{name: options.parse(name, text) for name, text in texts.items()})


def worker(pid: int, mb: int, age: float = 600.0) -> Worker:
    return Worker(
        WorkerId(pid, "1"),
        rss=(mb + 20) * MB,
        shared=20 * MB,
        anon=mb * MB,
        uss=mb * MB,
        pss=(mb + 5) * MB,
        swap=0,
        age=age,
        ready=True,
        exact=True,
        measured_at=0.0,
    )


def case(
    *megabytes: int,
    learned: int | None = None,
    command: dict[str, object] | None = None,
    own: str = "",
    plain: bool = False,
    available: int | None = None,
    free: int | None = None,
    period: float | None = 5.0,
    **texts: str,
) -> Case:
    """A gunicorn whose workers hold so much each, the first one youngest."""
    workers = [worker(10 + i, mb, 120.0 * (i + 1)) for i, mb in enumerate(megabytes)]
    return Case(
        settings(**texts),
        frozenset(own.split()),
        Snapshot(
            "web",
            0.0,
            "RUNNING",
            9,
            "plain" if plain else "gunicorn",
            None if plain else worker(9, 10),
            tuple(workers),
            available=available and available * MB,
            free=free and free * MB,
        ),
        command or {"command": "gunicorn --graceful-timeout 20 app:app", "stopwaitsecs": 25},
        learned and learned * MB,
        period,
    )


# -- settings that fight each other

WRONG: list[tuple[str, Case, str]] = [
    ("FAIL", case(60, 90, limit="50MB"), "the youngest worker, 2m old, holds 60.0MB (USS)"),
    (
        "FAIL",
        case(60, 90, limit="80MB", learned=85),
        "was found to need 85.0MB: each would be over",
    ),
    ("FAIL", case(60, 60, total_limit="100MB"), "it holds 145.0MB now: with mode = act"),
    ("FAIL", case(30, 30, total_limit="200MB", learned=100), "2 fresh workers need 225.0MB"),
    ("FAIL", case(9, growth="off", imbalance="off", total_limit="none"), "no memory is ever too"),
    (
        "FAIL",
        case(9, kill="on", command={"command": "gunicorn app"}),
        "so none is killed; set `gra",
    ),
    ("warn", case(9, 9, limit="90MB", total_limit="150MB"), "2 workers at their limit of 90.0MB"),
    ("warn", case(9, limit="4GB", available=2048), "only 2.00GB are available to it"),
    ("warn", case(9, total_limit="4GB", available=2048), "such as total_limit = 80%"),
    ("warn", case(9, kill="on", grace="10s"), "grace = 10s, less than --graceful-timeout 20"),
    (
        "warn",
        case(9, command={"command": "gunicorn app:app", "stopwaitsecs": 10}),
        "stopwaitsecs = 10, less than gunicorn's graceful timeout of 30 s (if its configuration has"
        " no other): a stop or restart ends in Supervisor's SIGKILL, which cuts requests short; set"
        " stopwaitsecs = 35",
    ),
    ("warn", case(9, command={"command": "gunicorn", "stopsignal": 3}), "stopsignal = QUIT"),
    ("warn", case(9, command={"command": "gunicorn", "stopsignal": 9}), "leaves its workers behi"),
    ("warn", case(9, surge="off", mode="act"), "nobody serves while it is replaced"),
    ("warn", case(9, 9, max_unavailable="2"), "max_unavailable = 2 of 2 workers"),
    ("warn", case(90, 90, surge="on", free=50), "there is no room for one more worker: 50.0MB are"),
    ("warn", case(9, plain=True, mode="act", own="limit"), "set actions = restart there"),
    (
        "warn",
        case(9, window="22:00-06:00", growth="off", imbalance="off"),
        "window = 22:00-06:00 with growth and imbalance off",
    ),
    ("warn", case(9, notify="https://a/b", notify_on=""), "notify_on is empty: nothing is ever se"),
    ("warn", case(9, period=3600.0), "it is looked at every 1h"),
]


@pytest.mark.parametrize(("mark", "wrong", "says"), WRONG, ids=[says for _, _, says in WRONG])
def test_a_conflict_is_said_once_with_what_to_do(mark: str, wrong: Case, says: str) -> None:
    """And nothing else is said of that case."""
    found = list(conflicts.found(wrong))
    assert [serious for serious, text in found if says in text] == [mark == "FAIL"]
    assert len(found) == 1, found


@pytest.mark.parametrize(
    "right",
    [
        case(60, 90),
        case(60, 90, limit="400MB", total_limit="1GB", learned=85, mode="act", available=4096),
        case(9, kill="on", grace="25s"),
        case(9, surge="off"),  # it only watches
        case(9, 9, 9, max_unavailable="2"),
        case(9, surge="on", free=500),
        case(9, plain=True, mode="act", own="actions", actions="restart"),
        case(9, plain=True, mode="act"),  # no section of its own: nobody expects anything
        case(9, window="22:00-06:00"),
        case(9, command={"command": "gunicorn app", "stopwaitsecs": 30, "stopsignal": 15}),
        case(500, plain=True, limit="600MB", command={"command": "x", "stopwaitsecs": 1}),
        case(limit="1MB", total_limit="1MB"),  # no workers: nothing is known
    ],
)
def test_what_fits_is_not_complained_about(right: Case) -> None:
    """Settings that do what they are for."""
    assert list(conflicts.found(right)) == []


def test_every_conflict_of_the_tables_has_its_case() -> None:
    """One that speaks for none of the cases above would be untested."""
    for conflict in (*conflicts.FAILURES, *conflicts.WARNINGS):
        assert any(conflict(wrong) for _, wrong, _ in WRONG), conflict.__name__


def test_what_fresh_workers_need_is_read_from_the_journal(tmp_path: Path) -> None:
    """The most of what was learned; nothing where there is no journal, or another's."""
    path = tmp_path / "supervisord.conf"
    path.write_text(f"[memwatch]\njournal = {tmp_path}/j.db\n")
    loaded = config.load(str(path), {})
    assert rehearsal._learned(loaded) == {}
    journal = Journal(f"{tmp_path}/j.db")
    states = {
        "web": {"needs": {"fresh": [], "settled": [[1.0, 70 * MB], [2.0, 80 * MB]]}},
        "new": {"needs": {"fresh": [], "settled": []}},
        "odd": {"past": 1},
    }
    journal.write([watch_row(name, 0.0, state) for name, state in states.items()])
    journal.close()
    assert rehearsal._learned(loaded) == {"web": 80 * MB}


# -- the configuration

SERVER = "[unix_http_server]\nfile = %(here)s/s.sock\n[supervisord]\n"
LISTENER = """\
[eventlistener:memwatch]
command = memwatch listen
events = TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION,SUPERVISOR_STATE_CHANGE
buffer_size = 100
priority = 50
autorestart = true
"""


class Paper(PaperSupervisor):
    """In place of the RPC."""

    url = "unix:///paper.sock"

    def __enter__(self) -> Paper:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rehearse a configuration on paper; `programs` of them, all stopped."""

    def run(text: str, programs: int = 1) -> list[Line]:
        worlds = [World(f"p{i}", pid=0, state="STOPPED") for i in range(programs)]
        monkeypatch.setattr(
            rehearsal, "Supervisor", lambda *_: Paper(*worlds, World("memwatch", pid=0))
        )
        path = tmp_path / "supervisord.conf"
        path.write_text(f"{SERVER}{text}\n[memwatch]\njournal = {tmp_path}/j.db\n")
        path.chmod(0o600)
        return list(rehearsal.rehearse(config.load(str(path), {})))

    return run


def complaints(lines: list[Line]) -> list[str]:
    return [str(line) for line in lines if line.ok is False or line.warn]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("", "", None),
        ("= true", "= unexpected", "warn [eventlistener:memwatch]: without autorestart = true"),
        (
            "priority",
            "stderr_logfile = NONE\npriority",
            "warn [eventlistener:memwatch]: stderr_log",
        ),
        (
            "[eventlistener:memwatch]",
            "[eventlistener:b]\ncommand = x\npriority = 50\n[eventlistener:memwatch]",
            "as in [eventlistener:b]: where that one fails on an event",
        ),
        (
            "[eventlistener:memwatch]",
            "[eventlistener:b]\ncommand = x\n[eventlistener:memwatch]",
            None,
        ),
        (
            "[eventlistener:memwatch]",
            "[eventlistener:memmon]\ncommand = memmon -a 1GB\n[eventlistener:memwatch]",
            "warn [eventlistener:memmon]: memmon still restarts whole programs",
        ),
        (
            "autorestart = true",
            "autorestart = true\n[eventlistener:b]\ncommand = /opt/memwatch listen",
            "FAIL [eventlistener:b]: [eventlistener:memwatch] starts memwatch, too",
        ),
        ("autorestart = true", "autorestart = true\n[memwatch]\nprograms = *, p?", None),
        (
            "autorestart = true",
            "autorestart = true\n[memwatch]\nexclude = celry*",
            "warn [memwatch]: exclude: celry* matches no program",
        ),
        (
            "priority",
            "user = nosuchuser\npriority",
            "FAIL [eventlistener:memwatch]: user = nosuchu",
        ),
        (
            "priority",
            "redirect_stderr = true\npriority",
            "FAIL [eventlistener:memwatch]: redirect_",
        ),
        ("_size = 100", "_size = 49", "FAIL [eventlistener:memwatch]: buffer_size = 49 overflows"),
        ("TICK_5", "TICK_x", "FAIL [eventlistener:memwatch]: events has no TICK"),
    ],
)
def test_the_listeners_section(rehearsed: Any, before: str, after: str, says: str | None) -> None:
    """Each complaint alone; none for the section of the README."""
    found = complaints(rehearsed(LISTENER.replace(before, after, 1)))
    assert len(found) == (says is not None), found
    assert says is None or says in found[0]


def test_the_buffer_is_measured_by_the_programs_there_are(rehearsed: Any) -> None:
    """Forty of them burst into a hundred events and more; the advice is then enough."""
    found = complaints(rehearsed(LISTENER, 40))
    assert len(found) == 1 and "buffer_size = 100 overflows" in found[0]
    advised = found[0].rpartition("= ")[2]
    assert not complaints(rehearsed(LISTENER.replace("= 100", f"= {advised}"), 40))


def test_a_name_that_matches_nothing_is_shown_what_there_is(rehearsed: Any) -> None:
    """A misspelt section."""
    (found,) = complaints(rehearsed(LISTENER + "[memwatch:webb]\nlimit = 1GB\n", 2))
    assert found == "warn [memwatch:webb]: matches no program; there are: p0, p1"


SECRET = "https://hooks.slack.com/services/T0001/B0001/abcdefgh12345678"


@pytest.mark.parametrize(
    ("section", "line", "secret"),
    [
        ("memwatch", f"notify = {SECRET}", True),
        ("memwatch:web", f"notify = slack+{SECRET}", True),
        ("memwatch", "notify = https://me:pw@host/", True),
        ("memwatch", "notify = https://host/hook?token=x", True),
        ("memwatch", "notify = %(ENV_HOOK)s", False),
        ("memwatch", "notify = http://127.0.0.1:9000/hook", False),
        ("unix_http_server", "password = abc", True),
        ("unix_http_server", "password = {SHA}82ab876d1387bfafe46cc1c8a2ef074eae50cb1d", False),
        ("inet_http_server", "password = %(ENV_PW)s", False),
        ("supervisorctl", "password = abc", True),
        ("program:web", f"environment = HOOK='{SECRET}'", False),  # not ours to judge
        ("eventlistener:memwatch", 'environment = SUPERVISOR_PASSWORD="abc"', True),
    ],
)
def test_a_secret_in_a_file_for_everybody_is_named_and_not_shown(
    section: str, line: str, secret: bool
) -> None:
    """A webhook's address, a login, a password: where others may read the file, and only there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "supervisord.conf"
        path.write_text(f"[{section}]\n{line}\n")
        path.chmod(0o644)
        found = [str(one) for one in rehearsal._secrets(inifile.IniFile(str(path), {}))]
        option = line.partition(" ")[0]
        assert len(found) == secret
        assert not secret or (f"[{section}] {option}" in found[0] and "chmod 640" in found[0])
        assert all(line.partition("= ")[2] not in text for text in found)
        path.chmod(0o640)
        assert not list(rehearsal._secrets(inifile.IniFile(str(path), {})))
        path.chmod(0o644)
        os.chmod(directory, 0o750)  # nobody gets to it
        assert not list(rehearsal._secrets(inifile.IniFile(str(path), {})))


def test_a_journal_that_cannot_be_read_is_said_before_the_listener_meets_it(
    tmp_path: Path, rehearsed: Any
) -> None:
    journal = tmp_path / "j.db"
    text = LISTENER + f"\n[memwatch]\njournal = {journal}\n"
    journal.write_bytes(os.urandom(4096))
    (found,) = [line for line in rehearsed(text) if line.subject == "journal"]
    assert found.ok is False and str(journal) in found.text
    journal.unlink()
    Journal(str(journal)).close()
    (found,) = [line for line in rehearsed(text) if line.subject == "journal"]
    assert found.ok is True


# -- the listener's rights


@pytest.mark.skipif(not ROOT, reason="only root can try what another user may")
def test_the_journal_must_be_writable_for_the_listeners_user(rehearsed: Any) -> None:
    """Not for whoever runs the check."""
    text = LISTENER.replace("priority", "user = nobody\npriority")
    (found,) = [line for line in rehearsed(text) if line.subject == "journal"]
    assert (
        found.ok is False and "cannot be written by nobody, whom the listener runs as" in found.text
    )
    nobody = rights.named(NOBODY)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        assert rights.may_write(directory, nobody) is False
        os.chown(directory, NOBODY, NOBODY)
        assert rights.may_write(directory, nobody) is True


@pytest.mark.skipif(not ROOT, reason="only root can try what another user may")
def test_the_files_must_be_readable_for_the_listeners_user(rehearsed: Any) -> None:
    """A configuration that only root may read stops a listener that is somebody else."""
    text = LISTENER.replace("priority", "user = nobody\npriority")
    (found,) = [line for line in rehearsed(text) if line.subject.endswith("supervisord.conf")]
    assert found.ok is False and "cannot be read by nobody" in found.text
    assert not [line for line in rehearsed(LISTENER) if line.subject.endswith("supervisord.conf")]


@pytest.mark.parametrize(("uid", "may"), [(0, True), (os.getuid(), True), (54321, False)])
def test_whether_another_user_may_signal_is_worked_out(uid: int, may: bool) -> None:
    """Root may, its own user may, nobody else."""
    assert rights.may_signal(rights.named(uid), os.getpid()) is may


def test_an_ended_worker_is_no_failure() -> None:
    """It ended while it was looked at."""
    gone = 2**22 - 1
    users = (rights.named(os.geteuid()), rights.named(54321))
    assert [rights.may_signal(user, gone) for user in users] == [None, None]


def test_workers_of_another_user_than_the_listeners_are_a_failure() -> None:
    """Each says whose it is, and what to do."""
    me = worker(os.getpid(), 50)
    alien = rights.User(54321, "www")
    (line,) = rehearsal._worker(case(50), me, alien)
    assert line.ok is False and "the listener runs as www: run the listener as root" in line.text
    (line,) = rehearsal._worker(case(50), me, rights.named(os.geteuid()))
    assert line.ok is True and line.text == "RSS 70.0MB, USS 50.0MB; it can be signalled"
    hidden = me._replace(uss=None, exact=False)
    (line,) = rehearsal._worker(case(50), hidden, rights.named(os.geteuid()))
    assert line.ok is None and "RSS is used" in line.text


# -- under a real supervisord

APP = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def is_up(sup: Supervisor, name: str, count: int) -> bool:
    return len(sup.children(name)) == count


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A healthy program, one whose code has been broken since, one with a command of its own, one
    that needs a variable which only supervisord has, a plain one."""
    directory = tmp_path_factory.mktemp("rehearsal")
    sections = program("web", gunicorn("leaky:app", free_port(), options="--graceful-timeout 40"))
    for name in ("broken", "own", "needy"):
        (directory / name).mkdir()
        needs = "import os\nos.environ['NEEDED']\n" if name == "needy" else ""
        (directory / name / f"{name}_app.py").write_text(needs + APP)
        command = gunicorn(f"{name}_app:app", free_port(), workers=1)
        command += f" --chdir {directory / name}"
        sections += program(name, command, stopwaitsecs=40, directory=directory / name)
    sections += program("plain", "sleep 600")
    memwatch = (
        "[memwatch]\nmode = act\nconfirm = 1h\n[memwatch:web]\nlimit = 1MB\n[memwatch:own]\n"
        f"preflight = {sys.executable} -c pass\n[memwatch:plain]\nlimit = 1GB\n"
    )
    auth, env = ("me", "passw0rd-1"), {"NEEDED": "yes"}
    with Supervisor(directory, sections, memwatch=memwatch, auth=auth, env=env) as sup:
        sup.env = {}  # of whoever runs the check
        for name in ("web", "broken", "own", "needy", "plain", "memwatch"):
            sup.wait_for(name)
        for name, count in (("web", 2), ("broken", 1), ("own", 1), ("needy", 1)):
            wait_until(partial(is_up, sup, name, count), 60, f"{name} is up")
        broken = directory / "broken" / "broken_app.py"
        broken.write_text("import nowhere_to_be_found\n")
        yield sup


@pytest.mark.slow
def test_the_rehearsal_of_a_real_server(site: Supervisor) -> None:
    """Workers, RPC with a password, journal, preflights; each fight of settings; status 1."""
    done = site.run("check", timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    text = done.stdout
    workers = sorted(site.children("web"))
    for pid in workers:
        assert f"ok   web {pid}: RSS " in text
        assert f"FAIL web {pid}: USS " in text and "is over its limit of 1.0MB" in text
    assert "FAIL web: limit = 1.0MB, and the youngest worker," in text
    assert "warn web: stopwaitsecs = 20, less than --graceful-timeout 40" in text
    assert "warn plain: no gunicorn is seen in it" in text
    assert "ok   RPC: unix://" in text and "ok   listener: RUNNING" in text
    assert f"ok   journal: {site.journal}" in text
    assert "ok   web: preflight: gunicorn --check-config: it boots: " in text
    assert "ok   needy: preflight: gunicorn --check-config: it boots: " in text
    assert "ok   own: preflight: its own command: it boots: " in text
    broken = "a new worker would not boot (gunicorn --check-config): ModuleNotFoundError: No module"
    assert f"FAIL broken: preflight: {broken} named 'nowhere_to_be_found'" in text
    assert "passw0rd-1" not in text
    assert set(workers) == site.children("web")


@pytest.mark.slow
def test_without_the_preflight_nothing_is_run(site: Supervisor) -> None:
    """And the JSON has what the lines have."""
    done = site.run("check", "--no-preflight", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    lines = json.loads(done.stdout)
    assert {tuple(line) for line in lines} == {("ok", "subject", "text", "warn")}
    assert not any("preflight:" in line["text"] for line in lines)
    assert any(line["subject"] == "web" and line["ok"] is False for line in lines)
