"""The preflight without servers: what would be tried, what the files say, what an end proves."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import wait_until
from supervisor.datatypes import dict_of_key_value_pairs
from supervisor.options import ServerOptions

from supervisor_memwatch import config, fingerprint, inifile, preflight, releases, trial
from supervisor_memwatch.model import RUNNING, Proof, Snapshot, Worker, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.preflight import (
    Ended,
    Facts,
    Plan,
    Remembered,
    Scan,
    Scanned,
    Trial,
    Unproven,
    User,
)

AT = 1_000_000.0
ROOT = User(0, 0, frozenset({0}), 0o22)
WWW = User(33, 33, frozenset({33}), 0o27)
GUNICORN = "/srv/venv/bin/gunicorn -w 2 app:app"
TRACE = 'Traceback (most recent call last):\n  File "/srv/app.py", line 3, in <module>\n    foo\n'


def facts(**changes: Any) -> Facts:
    usual = Facts(
        inherited={"PATH": "/usr/bin"},
        environment={},
        trouble="",
        server_url=None,
        start="/srv",
        real_start="/srv",
        cwd="/srv",
        worker=ROOT,
        master=ROOT,
        us=ROOT,
    )
    return usual._replace(**changes)


def snapshot(
    *workers: Worker, kind: str = "gunicorn", master_age: float | None = 5000.0
) -> Snapshot:
    master = Worker(WorkerId(100, 1.0), master_age, 1)
    return Snapshot("web", AT, RUNNING, 100, kind, master, workers)


def worker(age: float | None, ready: bool | None = True, pid: int = 101) -> Worker:
    return Worker(WorkerId(pid, 2.0), age, 1, ready=ready)


def scanned(changed: float = 1000.0, touched: float | None = None, **changes: Any) -> Scanned:
    """The code changed so many seconds ago."""
    wall = AT + 50  # another clock
    usual = Scanned(
        "1-1-1",
        "",
        wall - changed,
        "/srv/app.py",
        wall - (touched or changed),
        (),
        (),
        wall,
        AT,
        "14:05",
    )
    return usual._replace(**changes)


def plan(
    command: str = GUNICORN,
    options: Options | None = None,
    more: Mapping[str, object] | None = None,
    **changes: Any,
) -> Plan:
    struct = {"command": command, "name": "web", "group": "web", **(more or {})}
    return preflight.plan(options or Options(), snapshot(worker(100.0)), struct, facts(**changes))


def tried(command: str = GUNICORN, **changes: Any) -> Trial:
    found = plan(command, **changes).trial
    assert found is not None
    return found


# -- where gunicorn is in a command line


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("gunicorn app", "gunicorn --check-config app"),
        ("/v/bin/gunicorn -w 2 app", "/v/bin/gunicorn --check-config -w 2 app"),
        ("python -m gunicorn app", "python -m gunicorn --check-config app"),
        ("/v/bin/python3.11 -m gunicorn a", "/v/bin/python3.11 -m gunicorn --check-config a"),
        ("python3 -u -OO -m gunicorn app", "python3 -u -OO -m gunicorn --check-config app"),
        ("python3 -X dev -W error -m gunicorn a", None),
        ("python3 -Xdev -Werror -Im gunicorn a", None),
        ("python3 -mgunicorn app", "python3 -mgunicorn --check-config app"),
        ("python -m gunicorn.app.wsgiapp a", "python -m gunicorn.app.wsgiapp --check-config a"),
        ("pypy3 -m gunicorn a", "pypy3 -m gunicorn --check-config a"),
        ("python3.13t -m gunicorn a", "python3.13t -m gunicorn --check-config a"),
        ("gunicorn 'my app:make(\"a b\")'", "gunicorn --check-config 'my app:make(\"a b\")'"),
    ],
)
def test_check_config_follows_the_word_that_starts_gunicorn(
    command: str, expected: str | None
) -> None:
    """Right after it: what comes behind are gunicorn's own arguments."""
    words = preflight.split(command)
    if expected is None:
        index = words.index("gunicorn")
        wanted = [*words[: index + 1], "--check-config", *words[index + 1 :]]
    else:
        wanted = preflight.split(expected)
    assert list(tried(command).argv) == wanted


@pytest.mark.parametrize(
    "command",
    [
        "",
        "'",
        "python app.py",
        "python embedded.py gunicorn",
        "python -c 'import gunicorn' -m gunicorn",
        "python -m uvicorn gunicorn",
        "python -m",
        "python",
        "python -- -m gunicorn",
        "sh -c 'gunicorn app'",
        "bash -c 'exec gunicorn app'",
        "uv run gunicorn app",
        "ddtrace-run gunicorn app",
        "env A=1 gunicorn app",
        "gunicorn.sh app",
        "mygunicorn app",
        "pythonic -m gunicorn app",
    ],
)
def test_what_is_not_gunicorn_itself_is_never_tried(command: str) -> None:
    """With the flag an embedded application would start a second server."""
    found = plan(command)
    assert found.trial is None
    assert found.reason and not found.broken


# -- gunicorn's flags


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--timeout 20", 40),
        ("--timeout=20", 40),
        ("-t 20", 40),
        ("-t20", 40),
        ("-t=20", 40),
        ("-t 20 --timeout 90", 180),
        ("--timeout 1", 5),
        ("--timeout 100000", 600),
        ("--timeout 0", 60),
        ("--timeout x", 60),
        ("--timeout", 60),
        ("--threads 4", 60),
        ("", 60),
    ],
)
def test_the_deadline_is_twice_the_time_gunicorn_gives_a_worker(
    arguments: str, expected: float
) -> None:
    """Within bounds, and a minute where it is not on the command line."""
    assert tried(f"gunicorn {arguments} app").deadline == expected


def test_gunicorns_own_variable_counts_as_its_command_line() -> None:
    """GUNICORN_CMD_ARGS; the command line wins."""
    environment = {"GUNICORN_CMD_ARGS": "--timeout=20 --chdir /srv/app"}
    found = plan("gunicorn a", environment=environment)
    assert found.trial is not None
    assert found.trial.deadline == 40
    assert "/srv/app" in found.scan.roots
    assert tried("gunicorn -t 10 a", environment=environment).deadline == 20


# -- where, as whom, with which environment


def test_without_symbolic_links_it_starts_where_supervisor_starts_it() -> None:
    """Also where gunicorn.conf.py has led its master elsewhere: it leads the trial there, too."""
    assert tried(cwd="/srv/app").cwd == "/srv"


def test_it_starts_in_the_release_its_master_was_started_in() -> None:
    """A new worker is forked there, wherever `current` points by now."""
    changes = {"start": "/srv/current", "real_start": "/srv/2", "cwd": "/srv/1"}
    found = plan(**changes)
    assert found.trial is not None
    assert found.trial.cwd == "/srv/1"
    assert found.scan.roots == ("/srv/1",)


def test_a_chdir_on_the_command_line_is_followed_from_the_start() -> None:
    """It is a name that each worker looks up anew, be it a symbolic link or not."""
    changes = {"start": "/srv/current", "real_start": "/srv/2", "cwd": "/srv/1/src"}
    absolute = plan("gunicorn --chdir /srv/current/src app", **changes)
    assert absolute.trial is not None
    assert absolute.trial.cwd == "/srv/current"
    assert absolute.scan.roots == ("/srv/current/src",)
    relative = plan("gunicorn --chdir=./src app", **changes)
    assert relative.trial is not None
    assert relative.trial.cwd == "/srv/1"
    assert relative.scan.roots == ("/srv/1/src",)


def test_a_deleted_directory_is_a_failure_without_any_trial() -> None:
    """A new worker would start in it."""
    found = plan(cwd="/srv/1 (deleted)")
    assert found.trial is None
    assert "/srv/1 has been deleted" in found.broken
    proof = preflight.known(found, snapshot(worker(1.0)), scanned(), None, None, None, AT)
    assert proof is not None and not proof.ok


def test_where_the_masters_directory_cannot_be_seen_supervisors_is_taken() -> None:
    """Another user's process."""
    assert tried(cwd=None, start="/srv/app").cwd == "/srv/app"


def test_the_environment_is_what_supervisord_would_give() -> None:
    """Its own, what it says of the program, and environment= on top."""
    environ = tried(
        inherited={"PATH": "/usr/bin", "A": "1", "B": "1"},
        environment={"A": "2", "SUPERVISOR_ENABLED": "so"},
        server_url="unix:///s",
        more={"name": "web_01", "group": "all"},
    ).environ
    assert environ == {
        "PATH": "/usr/bin",
        "A": "2",
        "B": "1",
        "SUPERVISOR_ENABLED": "so",
        "SUPERVISOR_SERVER_URL": "unix:///s",
        "SUPERVISOR_PROCESS_NAME": "web_01",
        "SUPERVISOR_GROUP_NAME": "all",
    }


def test_an_unknown_environment_is_no_ground_for_a_trial() -> None:
    """What it would show could be a lack of a variable."""
    found = plan(environment=None, trouble="no such section")
    assert found.trial is None
    assert "no such section" in found.reason


OURS = {
    "PATH": "/usr/bin",
    "SUPERVISOR_ENABLED": "1",
    "SUPERVISOR_PROCESS_NAME": "memwatch",
    "SUPERVISOR_GROUP_NAME": "memwatch",
    "SUPERVISOR_PASSWORD": "secret",
    "TZ": "ours",
    "COMMON": "1",
}
GIVEN = ("SUPERVISOR_PASSWORD", "TZ")


def test_what_only_the_listener_was_given_does_not_reach_the_application() -> None:
    """The RPC's password; and what it hid comes back where supervisord's own can be read."""
    parents = {"PATH": "/usr/bin", "TZ": "theirs"}
    assert preflight.inherited(OURS, parents, GIVEN) == parents
    assert preflight.inherited(OURS, None, GIVEN) == {"PATH": "/usr/bin", "COMMON": "1"}


@pytest.mark.parametrize(
    "parents",
    [
        dict(OURS),  # a shell between supervisord and us
        {},
        {"garbage of a title": ""},
        {"PATH": "/usr/bin", "OTHER": "1"},
    ],
)
def test_a_parent_that_does_not_look_like_supervisord_is_not_believed(
    parents: dict[str, str],
) -> None:
    """Its environment may be ours, or what a process title has left of one."""
    assert preflight.inherited(OURS, parents, GIVEN) == {"PATH": "/usr/bin", "COMMON": "1"}


def test_a_listener_that_nobody_supervises_gives_what_it_has() -> None:
    """`memwatch check` in a terminal."""
    assert preflight.inherited({"A": "1"}, {"A": "2"}, ()) == {"A": "1"}


def test_it_runs_as_the_workers_user() -> None:
    """And as its own master's, where that loads the application."""
    found = tried(worker=WWW)
    assert (found.user, found.umask, found.guest) == (WWW, 0o27, True)
    assert tried().user is None
    preloading = tried("gunicorn --preload app", worker=WWW)
    assert (preloading.user, preloading.guest) == (None, False)


def test_only_root_can_try_as_somebody_else() -> None:
    """Another user is a reason, other supplementary groups are as well."""
    assert "another user" in plan(us=WWW).reason
    assert "another user" in plan(worker=WWW, us=WWW._replace(groups=frozenset())).reason
    assert tried(worker=WWW, us=WWW._replace(umask=0)).user is None
    assert "user is not known" in plan(worker=None).reason


def test_a_command_of_ones_own_is_run_as_the_program_would_be() -> None:
    """Whatever the program's command is."""
    options = Options(preflight=("/srv/check", "--fast"))
    for command in (GUNICORN, "sh -c gunicorn", "python app.py"):
        found = plan(command, options, worker=WWW).trial
        assert found is not None
        assert (found.argv, found.how) == (("/srv/check", "--fast"), preflight.OWN_COMMAND)
        assert (found.cwd, found.user) == ("/srv", WWW)


# -- which files are its code


def test_the_code_is_what_the_command_line_names() -> None:
    """Directory, --pythonpath, PYTHONPATH, the configuration, and the packages of its Python."""
    command = "gunicorn --chdir app --pythonpath lib,/opt/lib -c file:c.py --log-config l.ini a"
    environment = {"PYTHONPATH": "/pp:rel", "PATH": "/p", "HOME": "/h"}
    scan = plan(command, environment=environment).scan
    assert scan == Scan(
        roots=("/srv/app", "/srv/app/lib", "/opt/lib", "/pp", "/srv/rel"),
        files=("/srv/app/c.py", "/srv/app/l.ini"),
        words=tuple(preflight.split(command)),
        path="/p",
        home="/h",
        cwd="/srv",
        pid=100,
    )


def test_python_m_looks_where_it_was_started_as_well() -> None:
    """But / is no place to search because of that."""
    assert plan("python -m gunicorn --chdir app a").scan.roots == ("/srv/app", "/srv")
    assert plan(
        "python -m gunicorn --chdir app a", start="/", real_start="/", cwd="/"
    ).scan.roots == ("/app",)


def test_the_code_is_also_where_its_configuration_has_led_the_master() -> None:
    """A chdir in gunicorn.conf.py shows only there; then / need not be searched."""
    assert plan(cwd="/srv/app").scan.roots == ("/srv/app", "/srv")
    assert plan(cwd="/srv/app", start="/", real_start="/").scan.roots == ("/srv/app",)
    assert plan(cwd="/", start="/", real_start="/").scan.roots == ("/",)
    assert plan(cwd=None, start="/", real_start="/").scan.roots == ("/",)


def test_the_code_of_a_wrapper_is_where_its_master_is() -> None:
    """What `sh -c "cd ..."` does is not read."""
    assert plan("sh -c 'cd /srv/app && gunicorn a'", cwd="/srv/app").scan.roots == ("/srv/app",)


# -- what is known without trying


def known(
    found: Plan | None = None,
    seen: Scanned | None = None,
    *workers: Worker,
    remembered: Remembered | None = None,
    room: int | None = None,
    need: int | None = None,
    at: float = AT,
) -> Proof | None:
    return preflight.known(
        found or plan(), snapshot(*workers), seen or scanned(), remembered, room, need, at
    )


def test_off_is_an_answer() -> None:
    """And so is a program that is none of gunicorn's, unless it has a command of its own."""
    off = preflight.settled(Options(preflight="off"), snapshot(), AT)
    assert off == Proof(True, "off", "preflight = off", AT)
    plain = preflight.settled(Options(), snapshot(kind="plain"), AT)
    assert plain is not None and (plain.ok, plain.how) == (True, "not gunicorn")
    assert preflight.settled(Options(), snapshot(), AT) is None
    assert preflight.settled(Options(preflight=("true",)), snapshot(kind="plain"), AT) is None


def test_what_can_be_tried_is_tried() -> None:
    """The workers' age proves less."""
    assert known(None, None, worker(1.0)) is None


def test_code_that_has_just_changed_is_waited_for() -> None:
    """A deploy may be half done; so may one whose files come from a clock that is ahead."""
    for age in (3.0, -3.0):
        proof = known(seen=scanned(age))
        assert proof is not None and not proof.ok
        assert "is a deploy under way?" in proof.text and "app.py" in proof.text
    assert known(seen=scanned(10.0)) is None
    assert known(seen=scanned(-4000.0)) is None


def test_a_proof_holds_as_long_as_the_code_is_the_same() -> None:
    """And is given with the time of the question."""
    old = Remembered("k", AT - 1e6, Proof(True, "h", "t", AT - 1e6))
    assert known(remembered=old) == Proof(True, "h", "t", AT)


def test_a_failure_holds_for_five_minutes() -> None:
    """A database may have been down."""
    for age, holds in ((0.0, True), (299.0, True), (300.0, False), (-1.0, False)):
        failed = Remembered("k", AT - age, Proof(False, "h", "t", AT - age, "out"))
        expected = Proof(False, "h", "t", AT, "out") if holds else None
        assert known(remembered=failed) == expected


def test_a_trial_needs_room() -> None:
    """At least that of a bare Python, and a little more than the last one took."""
    mb = 1024**2
    assert known(room=31 * mb) is not None
    assert known(room=32 * mb) is None
    assert known(room=32 * mb, need=100 * mb) is not None
    assert known(room=121 * mb, need=100 * mb) is None
    assert known(need=100 * mb) is None
    proof = known(None, None, worker(1.0), room=0)
    assert proof is not None and (proof.ok, proof.how) == (True, preflight.EVIDENCE)
    proof = known(None, None, worker(2000.0), room=0)
    assert proof is not None and not proof.ok and "no room" in proof.text


# -- evidence


def test_a_worker_that_was_started_after_the_code_changed_proves_it() -> None:
    """One that is seen serving."""
    proof = known(plan("sh -c gunicorn"), scanned(1000.0), worker(2000.0), worker(900.0, pid=102))
    assert proof is not None and (proof.ok, proof.how) == (True, preflight.EVIDENCE)
    assert "worker 102" in proof.text and "14:05" in proof.text


@pytest.mark.parametrize(
    ("changed", "touched", "who"),
    [
        (1000.0, 1000.0, worker(1001.0)),
        (1000.0, 1000.0, worker(999.0)),  # within the margin
        (1000.0, 900.0, worker(950.0)),  # a file has gone since
        (1000.0, 1000.0, worker(900.0, ready=False)),
        (1000.0, 1000.0, worker(900.0, ready=None)),
        (1000.0, 1000.0, worker(None)),
    ],
)
def test_anything_less_proves_nothing(changed: float, touched: float, who: Worker) -> None:
    """It says why it cannot be tried, and what to do."""
    proof = known(plan("sh -c gunicorn"), scanned(changed, touched), who)
    assert proof is not None and (proof.ok, proof.how) == (False, preflight.EVIDENCE)
    for part in ("14:05", "its command is sh, not gunicorn", "reload or restart it yourself"):
        assert part in proof.text


def test_a_worker_grows_older_between_its_snapshot_and_the_question() -> None:
    """A second look at the files is later than the first look at the worker."""
    seen = scanned(1000.0)
    found = plan("sh -c gunicorn")
    for later, ok in ((0.0, True), (10.0, False)):
        proof = known(found, seen._replace(at=AT + later), worker(990.0))
        assert proof is not None and proof.ok is ok


def test_where_not_all_code_was_seen_there_is_no_evidence() -> None:
    """But a trial is one."""
    seen = scanned(number=None, why="/ itself is never searched for code")
    proof = known(plan("sh -c gunicorn"), seen, worker(1.0))
    assert proof is not None and not proof.ok and "/ itself" in proof.text
    assert known(plan(), seen, worker(1.0)) is None


# -- preload


@pytest.mark.parametrize(
    "command",
    ["gunicorn --preload a", "python -m gunicorn --preload a", "sh -c 'exec gunicorn --preload a'"],
)
def test_with_preload_no_worker_loads_code(command: str) -> None:
    """So nothing but its configuration is looked at."""
    found = plan(command)
    assert found.preload
    assert not found.scan.roots and not found.scan.packages
    proof = known(found, scanned(4000.0 + 2000.0), worker(9000.0))
    assert proof is not None and (proof.ok, proof.how) == (True, preflight.PRELOAD)


def test_with_preload_a_changed_configuration_is_tried() -> None:
    """A reload reads it again, and a master that cannot ends."""
    found = plan("gunicorn --preload -c c.py a")
    assert found.scan.files == ("/srv/c.py",)
    assert known(found, scanned(100.0)) is None
    assert known(found, scanned(9000.0, absent=("/srv/c.py",))) is None
    proof = known(plan("gunicorn --preload a"), scanned(9000.0, absent=("/srv/gunicorn.conf.py",)))
    assert proof is not None and proof.ok


def test_preload_from_the_environment_is_seen_too() -> None:
    """And a command of one's own is run all the same."""
    assert plan("gunicorn a", environment={"GUNICORN_CMD_ARGS": "--preload"}).preload
    assert not plan("gunicorn --preload a", Options(preflight=("true",))).preload
    assert not plan("gunicorn a --pre").preload


# -- what a trial proves

A_TRIAL = Trial(("gunicorn",), {}, "/", None, None, 40.0, preflight.CHECK_CONFIG)


def judged(status: int | None, output: str = "", **changes: Any) -> Proof | Unproven:
    starved = changes.pop("starved", False)
    preload, room = changes.pop("preload", False), changes.pop("room", None)
    seen = scanned(unseen=changes.pop("unseen", ()))
    ended = Ended(status, output, 0.4, 30 * 1024**2, starved)
    return preflight.judge(A_TRIAL._replace(**changes), ended, seen, preload, room, AT)


def test_exit_status_0_is_the_proof() -> None:
    """It says what it took."""
    assert judged(0, "noise") == Proof(True, preflight.CHECK_CONFIG, "it boots: 0.4 s, 30.0MB", AT)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (TRACE + "NameError: name 'foo' is not defined\n", "NameError: name 'foo' is not defined"),
        (TRACE + "app.Broken\n", "app.Broken"),
        (TRACE + "MemoryError\n", "MemoryError"),
        (TRACE + "ValueError: two\nlines\n", "ValueError: two"),
        (
            TRACE.replace("foo", "def (") + "        ^\nSyntaxError: invalid syntax\n",
            "SyntaxError: invalid syntax",
        ),
        (
            'Traceback (most recent call last):\n  File "/g.py", line 1, in f\n    x\n'
            '  File "/srv/app.py", line 3\n    def (\n        ^\nSyntaxError: invalid syntax\n',
            "SyntaxError: invalid syntax (app.py, line 3)",
        ),
        (
            TRACE + "KeyError: 1\n\nDuring handling of the above exception, another exception "
            "occurred:\n\n" + TRACE + "TypeError: 2\nbye\n",
            "TypeError: 2",
        ),
        ("first\n\nError: 'c.py' doesn't exist\n\n", "Error: 'c.py' doesn't exist"),
        (
            "gunicorn: error: unrecognized arguments: --x\n",
            "gunicorn: error: unrecognized arguments: --x",
        ),
        ("\x1b[31mred\x07\n", "\\x1b[31mred\\x07"),
        (TRACE, "foo"),
        ("x" * 400, "x" * 300 + "..."),
    ],
)
def test_a_failure_is_told_in_the_applications_own_words(output: str, text: str) -> None:
    """The last line of a traceback, else the last one that is not blank."""
    found = judged(1, output)
    assert found == Proof(False, preflight.CHECK_CONFIG, text, AT, output)


def test_a_failure_without_words_has_its_status() -> None:
    """Or its signal."""
    for status, text in ((3, "exit status 3"), (-11, "signal 11")):
        found = judged(status)
        assert isinstance(found, Proof) and not found.ok and text in found.text


def test_of_what_was_printed_the_end_is_kept() -> None:
    """Four thousand characters."""
    found = judged(1, "a" * 9000 + "\nend\n")
    assert isinstance(found, Proof)
    assert len(found.output) == preflight.KEPT and found.output.endswith("\nend\n")


def test_an_import_without_end_is_a_failure() -> None:
    """It says how long it was given."""
    found = judged(None)
    assert isinstance(found, Proof) and not found.ok
    assert found.text == "the application's import did not end in 40s"
    own = judged(None, how=preflight.OWN_COMMAND)
    assert isinstance(own, Proof) and "the command did not end" in own.text


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError",
        "numpy.core._exceptions._ArrayMemoryError: Unable",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_want_of_memory_is_no_proof_where_memory_was_bounded(error: str) -> None:
    """The evidence decides; where no bound was set it is the application's own trouble."""
    found = judged(1, TRACE + error + "\n", room=300 * 1024**2)
    assert isinstance(found, Unproven)
    assert error[:11] in found.reason and "300.0MB" in found.reason
    assert isinstance(judged(1, TRACE + error + "\n"), Proof)


def test_what_was_killed_for_its_memory_proves_nothing() -> None:
    """By us or by the kernel."""
    assert isinstance(judged(None, starved=True, room=1), Unproven)
    assert isinstance(judged(-9), Unproven)


def test_a_configuration_that_only_the_master_can_read_proves_nothing() -> None:
    """It reads it as root; the trial runs as its workers' user."""
    outputs = ("Failed to read config file: /root/c.py\n" + TRACE + "PermissionError: x\n",)
    outputs += ("\nError: '/root/c.py' doesn't exist\n\n", "\nError: can't chdir to '/root'\n\n")
    for output in outputs:
        assert isinstance(judged(1, output, guest=True), Unproven)
        assert isinstance(judged(1, output), Proof)


def test_what_check_config_does_not_apply_may_be_what_was_missing() -> None:
    """raw_env and pythonpath of gunicorn.conf.py; of the command line we know them ourselves."""
    found = judged(1, TRACE + "KeyError: 'X'\n", unseen=("raw_env",))
    assert isinstance(found, Unproven) and "KeyError: 'X'; raw_env" in found.reason
    assert judged(0, unseen=("raw_env",)) == judged(0)
    own = judged(1, TRACE + "KeyError: 'X'\n", unseen=("raw_env",), how=preflight.OWN_COMMAND)
    assert isinstance(own, Proof) and not own.ok


def test_what_gunicorn_sets_from_its_command_line_is_set_for_it() -> None:
    """--check-config ends before it would: -e and --pythonpath."""
    command = "gunicorn -e A=1 --env=B=x=y -eC=3 --env D=4 -e bad --pythonpath lib,/opt app"
    environ = tried(command, environment={"PYTHONPATH": "/pp", "A": "0"}).environ
    assert {name: environ.get(name) for name in "ABCD"} == {
        "A": "1",
        "B": "x=y",
        "C": "3",
        "D": "4",
    }
    assert environ["PYTHONPATH"] == "/opt:/srv/lib:/pp"
    assert "bad" not in environ


def test_with_preload_it_is_enough_that_the_configuration_was_read() -> None:
    """The application comes after it, and no worker loads that."""
    output = "\nError while loading the application:\n\n" + TRACE + "NameError: x\n"
    found = judged(1, output, preload=True)
    assert isinstance(found, Proof) and (found.ok, found.how) == (True, preflight.PRELOAD)
    found = judged(1, "Failed to read config file: c.py\n" + TRACE + "NameError: x\n", preload=True)
    assert isinstance(found, Proof) and not found.ok


@pytest.mark.parametrize(
    ("error", "how", "proof"),
    [
        (
            FileNotFoundError(2, "No such file", "/srv/venv/bin/gunicorn"),
            preflight.CHECK_CONFIG,
            True,
        ),
        (PermissionError(13, "Permission denied"), preflight.CHECK_CONFIG, False),
        (BlockingIOError(11, "no more processes"), preflight.CHECK_CONFIG, False),
        (PermissionError(13, "Permission denied"), preflight.OWN_COMMAND, True),
    ],
)
def test_what_cannot_be_started(error: OSError, how: str, proof: bool) -> None:
    """A program that is gone is broken; what we may not do says nothing of it."""
    found = preflight.not_started(A_TRIAL._replace(how=how), error, AT)
    assert isinstance(found, Proof) is proof
    text = found.text if isinstance(found, Proof) else found.reason
    assert "cannot be started" in text and str(error.strerror) in text


# -- environment=, as Supervisor reads it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A=1",
        'A="1",B="2"',
        "A=1, B=2 ,C=3",
        "A=1\nB=2",
        "A=\"a,b=c\",B='x y'",
        "A=/a/b.c+d-e():f",
        'A="it\'s",B=1,',
        "A=",
        "A",
        "A=1,B",
        'A="1',
        "A=a b,C=1",
        "A=#x",
        "A==1",
        'URL="postgres://u:p%40@h/db?x=1"',
    ],
)
def test_assignments_are_read_as_supervisor_reads_them(text: str) -> None:
    """Quotes, commas, and what it takes for an error."""
    assert _outcome(inifile.assignments, text) == _outcome(dict_of_key_value_pairs, text)


@given(st.text(alphabet="AB=,\"' \n#/.+-():%x1\\", max_size=30))
def test_any_assignments_are_read_as_supervisor_reads_them(text: str) -> None:
    """Whatever is written there."""
    assert _outcome(inifile.assignments, text) == _outcome(dict_of_key_value_pairs, text)


def _outcome(function: Any, text: str) -> Any:
    try:
        return function(text)
    except ValueError:
        return "an error"


CONFIGURATION = """\
[supervisord]
environment=COMMON="%(ENV_OUTER)s",BOTH=common,HOSTNAME="%(here)s",PERCENT="50%%%%"

[include]
files = more/*.conf

[group:g]
programs=one,many

[program:one]
command=/bin/true
environment=NAME="%(program_name)s/%(group_name)s/%(process_num)d/%(numprocs)s",BOTH=own,
    HOST="%(host_node_name)s",FROM="%(ENV_COMMON)s-%(ENV_OUTER)s",RATE="9%%",COMMA="a,b"

[program:many]
command=/bin/true
numprocs=2
numprocs_start=3
process_name=%(program_name)s_%(process_num)02d
environment=NUMBER="%(process_num)02d of %(numprocs)d"

[program:bare]
command=/bin/true

[eventlistener:memwatch]
command=memwatch listen
events=TICK_5
environment=SUPERVISOR_PASSWORD="%(ENV_NOT_SET)s%(process_num)02d",TZ=UTC
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTER", "from outside")
    (tmp_path / "more").mkdir()
    included = '[program:included]\ncommand=/bin/true\nenvironment=HERE="%(here)s"\n'
    (tmp_path / "more" / "x.conf").write_text(included)
    path = tmp_path / "supervisord.conf"
    path.write_text(CONFIGURATION)
    return path


def test_a_programs_environment_is_what_supervisor_makes_of_the_file(conf: Path) -> None:
    """Against its own reader, for every process of the file."""
    text = CONFIGURATION.replace("%(ENV_NOT_SET)s", "")
    conf.write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(conf), "-n"])
    seen = 0
    ini = inifile.IniFile(str(conf), os.environ)
    for group in options.process_group_configs:
        for process in group.process_configs:
            if group.name != "memwatch":
                seen += 1
                ours = ini.environment(group.name, process.name, os.environ)
                assert ours == dict(process.environment), process.name
    assert seen == 5


def test_what_the_listener_alone_is_given_is_known_by_name(conf: Path) -> None:
    """Also where its value cannot be expanded any more."""
    ini = inifile.IniFile(str(conf), os.environ)
    assert ini.given_to_us() == {"SUPERVISOR_PASSWORD", "TZ"}


def test_an_environment_that_cannot_be_told_is_an_error_in_words(conf: Path) -> None:
    """A process that the file does not have; a variable that is not set."""
    ini = inifile.IniFile(str(conf), os.environ)
    with pytest.raises(ValueError, match=r"supervisord\.conf"):
        ini.environment("other", "other", os.environ)
    with pytest.raises(ValueError, match="cannot be expanded"):
        ini.environment("bare", "bare", {})


# -- the fingerprint


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two packages, and much that is no code."""
    for name in ("app/sub", "app/__pycache__", "app/.git", "app/node_modules/x", "app/uploads"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.py", "sub/b.py", "sub/c.so", "conf.toml", ".env", "data.json", "log.txt"):
        (tmp_path / "app" / name).write_text("1")
    for name in ("__pycache__/a.py", ".git/b.py", "node_modules/x/c.py", "uploads/d.jpg"):
        (tmp_path / "app" / name).write_text("1")
    return tmp_path / "app"


def look(tree: Path, **changes: Any) -> dict[str, Any]:
    asked = {
        "roots": [str(tree)],
        "files": [],
        "words": [],
        "environment": False,
        "path": "",
        "home": "",
        "cwd": "/",
        "pid": 0,
        "most": 1000,
        "seconds": 30,
    }
    return fingerprint.main({**asked, **changes})


def test_a_fingerprint_is_the_same_while_nothing_changes(tree: Path) -> None:
    """And names the newest file."""
    first = look(tree)
    assert first["number"] and not first["why"]
    assert look(tree) == first
    newest = max((tree / n for n in ("a.py", "conf.toml", ".env")), key=lambda p: p.stat().st_ctime)
    assert first["newest"] >= newest.stat().st_ctime
    assert Path(first["changed"]).is_relative_to(tree)


@pytest.mark.parametrize("name", ["a.py", "sub/b.py", "sub/c.so", "conf.toml", ".env", "data.json"])
def test_any_touched_file_changes_it(tree: Path, name: str) -> None:
    """Also one whose size and mtime are put back."""
    before = look(tree)
    status = (tree / name).stat()
    (tree / name).write_text("2")
    os.utime(tree / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = look(tree)
    assert after["number"] != before["number"]
    if name != "data.json":
        assert after["newest"] > before["newest"]
        assert after["changed"] == str(tree / name)
    else:
        assert after["newest"] == before["newest"]


@pytest.mark.parametrize(
    "name", ["log.txt", "__pycache__/a.py", ".git/b.py", "node_modules/x/c.py", "uploads/d.jpg"]
)
def test_what_is_no_code_does_not(tree: Path, name: str) -> None:
    """Logs, uploads, compiled files, other people's trees."""
    before = look(tree)
    (tree / name).write_text("22")
    (tree / "uploads" / "new.jpg").write_text("3")
    assert look(tree) == before


def test_a_file_that_comes_or_goes_changes_it(tree: Path) -> None:
    """Of one that has gone only its directory tells when."""
    shutil.rmtree(tree / "__pycache__")
    before = look(tree)
    _later(tree)
    (tree / "a.py").unlink()
    after = look(tree)
    assert after["number"] != before["number"]
    assert after["touched"] > before["touched"]


def test_compiling_is_no_change(tree: Path) -> None:
    """The first import makes __pycache__ in the directory of the code."""
    shutil.rmtree(tree / "__pycache__")
    before = look(tree)
    _later(tree)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "a.pyc").write_text("1")
    after = look(tree)
    assert after["number"] == before["number"]
    assert after["touched"] <= before["touched"]


def _later(tree: Path) -> None:
    """Returns when the file system's clock has gone on."""
    probe = tree.parent / "probe"
    begun = tree.stat().st_mtime_ns

    def passed() -> bool:
        probe.write_text("1")
        return probe.stat().st_ctime_ns > begun + 20_000_000

    wait_until(passed, 10, "time passes", every=0.005)


def test_a_symbolic_link_is_followed_once(tree: Path) -> None:
    """Also in a circle, and not to a place that holds the tree itself."""
    outside = tree.parent / "shared"
    outside.mkdir()
    (outside / "s.py").write_text("1")
    before = look(tree)
    (tree / "shared").symlink_to(outside)
    (tree / "loop").symlink_to(tree / "sub")
    (tree / "up").symlink_to(tree.parent)
    (tree / "root").symlink_to("/")
    after = look(tree)
    assert after["number"] != before["number"] and not after["why"]
    (outside / "s.py").write_text("2")
    assert look(tree)["number"] != after["number"]


def test_a_release_that_becomes_current_is_a_change_now(tree: Path) -> None:
    """However old its files are; in a root, and in a word of a command line."""
    current = tree.parent / "current"
    current.symlink_to(tree)
    shutil.copytree(tree, tree.parent / "next")
    _later(tree)
    for changes in (
        {"roots": [str(current)]},
        {"roots": [], "words": ["sh", "-c", f"cd '{current}' && exec gunicorn app"]},
    ):
        before = look(tree, **changes)
        current.unlink()
        current.symlink_to(tree.parent / "next")
        after = look(tree, **changes)
        assert after["number"] != before["number"]
        assert after["newest"] > before["newest"]
        assert after["changed"] == str(current)


def test_a_fingerprint_that_is_not_complete_is_none(tree: Path) -> None:
    """Too many files, too long, / itself: and it says which."""
    for changes, why in (
        ({"most": 3}, "too many files"),
        ({"seconds": -1}, "too long"),
        ({"roots": ["/"]}, "/ itself"),
        ({"environment": True}, "packages of its Python were not found"),
    ):
        found = look(tree, **changes)
        assert found["number"] is None and why in found["why"]


def test_settings_that_check_config_does_not_apply_are_told(tree: Path) -> None:
    """By their names in the text of gunicorn's configuration."""
    (tree / "g.py").write_text("workers = 2\nraw_env = ['A=1']\n")
    assert look(tree, files=[str(tree / "g.py"), str(tree / "none.py")])["unseen"] == ["raw_env"]


def test_named_files_count_also_when_they_are_not_there(tree: Path) -> None:
    """The configuration of gunicorn."""
    config = tree.parent / "g.conf"
    before = look(tree, files=[str(config)])
    assert before["absent"] == [str(config)] and not before["why"]
    config.write_text("1")
    after = look(tree, files=[str(config)])
    assert after["number"] != before["number"] and not after["absent"]


def venv(place: Path, python: str = "") -> Path:
    """A virtual environment as far as files show it; its gunicorn."""
    site = place / "lib" / "python3.11" / "site-packages"
    (place / "bin").mkdir(parents=True)
    site.mkdir(parents=True)
    (place / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (place / "bin" / "python").symlink_to("/usr/bin/env")
    (place / "bin" / "gunicorn").write_text(f"#!{python or place / 'bin' / 'python'}\n")
    (site / "p.py").write_text("1")
    return place / "bin" / "gunicorn"


@pytest.mark.parametrize(
    "first",
    [
        "",
        "/usr/bin/env python",
        "/usr/bin/env -S python -I",
        "/bin/sh\n'''exec' \"{bin}/python\" \"$0\" \"$@\"\n' '''",
    ],
)
def test_the_packages_of_a_script_are_those_of_its_interpreter(
    tmp_path: Path, tree: Path, first: str
) -> None:
    """By its first line, as it may look."""
    place = tmp_path / "venv"
    script = venv(place, first.format(bin=place / "bin"))
    changes = {"environment": True, "words": [str(script)], "path": str(place / "bin")}
    before = look(tree, **changes)
    assert not before["why"]
    (place / "lib/python3.11/site-packages/p.py").write_text("22")
    assert look(tree, **changes)["number"] != before["number"]


def test_a_command_is_found_by_its_path(tmp_path: Path, tree: Path) -> None:
    """`gunicorn` in PATH, `bin/gunicorn` from where it starts, a Python itself."""
    place = tmp_path / "venv"
    venv(place)
    for words in (
        ["gunicorn"],
        ["bin/gunicorn"],
        [str(place / "bin" / "python"), "-m", "gunicorn"],
    ):
        found = look(
            tree, environment=True, words=words, path=f"/nowhere:{place}/bin", cwd=str(place)
        )
        assert not found["why"], words


def test_packages_installed_to_be_edited_in_place_count(tmp_path: Path, tree: Path) -> None:
    """A .pth file leads to them."""
    script = venv(tmp_path / "venv")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "e.py").write_text("1")
    site = tmp_path / "venv/lib/python3.11/site-packages"
    (site / "e.pth").write_text(f"import os\n{tmp_path / 'src'}\n")
    changes = {"environment": True, "words": [str(script)]}
    before = look(tree, **changes)
    (tmp_path / "src" / "e.py").write_text("22")
    assert look(tree, **changes)["number"] != before["number"]


def test_the_packages_of_a_running_master_count(tree: Path) -> None:
    """Whatever its command is: this process shows where its own are."""
    found = look(tree, environment=True, words=["sh", "-c", "x"], pid=os.getpid(), most=200_000)
    assert not found["why"]


# -- the processes


@pytest.fixture
def preflights(conf: Path) -> Iterator[trial.Preflights]:
    made = trial.Preflights(config.load(str(conf), os.environ, strict=False))
    with contextlib.closing(made):
        yield made
    assert not made.busy


def question(directory: Path, *argv: str, name: str = "bare", **changes: Any) -> trial.Question:
    """About this very process, with a command of its own to run."""
    me = Worker(WorkerId(os.getpid(), 1.0), 5000.0, 1, ready=True)
    seen = Snapshot(name, time.time(), RUNNING, os.getpid(), "gunicorn", me, (me,))
    options = Options(preflight=argv or "auto")
    struct = {"command": "sh", "directory": str(directory), "name": name, "group": name}
    return trial.Question(name, options, seen, struct, None)._replace(**changes)


@pytest.fixture
def still(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program's directory that may have changed a moment ago."""
    monkeypatch.setattr(preflight, "QUIET", 0.0)
    monkeypatch.chdir(tree)
    monkeypatch.delenv("PYTHONPATH")
    return tree


def answer(preflights: trial.Preflights, at: float | None = None) -> tuple[str, Proof]:
    """The next answer; looking never waits, so this does."""

    def look() -> list[tuple[str, Proof]]:
        return preflights.look(time.time() if at is None else at)

    found = wait_until(look, 60, "an answer", every=0.01)
    assert len(found) == 1
    return found[0]


PYTHON = (sys.executable, "-c")


def test_an_answer_that_needs_no_child_is_there_at_the_next_look(
    preflights: trial.Preflights, tree: Path
) -> None:
    """`off`."""
    preflights.ask(question(tree)._replace(options=Options(preflight="off")), AT)
    assert not preflights.busy
    assert [proof.how for _, proof in preflights.look(AT)] == ["off"]
    assert preflights.look(AT) == []


def test_a_command_of_ones_own_decides_by_its_exit_status(
    preflights: trial.Preflights, still: Path
) -> None:
    """Its output is the evidence."""
    preflights.ask(question(still, *PYTHON, "print('fine')"), time.time())
    assert preflights.busy
    name, proof = answer(preflights)
    assert (name, proof.ok, proof.how) == ("bare", True, "its own command")
    preflights.ask(question(still, *PYTHON, "raise ValueError('not fine')"), time.time())
    _, proof = answer(preflights)
    assert (proof.ok, proof.text) == (False, "ValueError: not fine")
    assert "Traceback" in proof.output
    preflights.ask(question(still, "/nowhere/check"), time.time())
    _, proof = answer(preflights)
    assert not proof.ok and "cannot be started" in proof.text


def test_what_a_trial_took_is_not_what_its_parent_holds() -> None:
    """The kernel's figure for a child begins with what it was before it became another program."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert trial._its_own(ours) is None
    assert trial._its_own(2 * ours) == 2 * ours * 1024


def test_the_same_code_is_tried_once(
    preflights: trial.Preflights, still: Path, tmp_path: Path
) -> None:
    """Until a file, the command or a restart of the listener that forgot changes that."""
    count = tmp_path / "count"
    argv = (*PYTHON, f"open({str(count)!r}, 'a').write('x')")

    def tries(asked: trial.Question, by: trial.Preflights = preflights) -> int:
        by.ask(asked, time.time())
        _, proof = answer(by)
        assert proof.ok
        return len(count.read_text())

    assert [tries(question(still, *argv)) for _ in range(3)] == [1, 1, 1]
    (still / "a.py").touch()
    assert [tries(question(still, *argv)) for _ in range(2)] == [2, 2]
    assert tries(question(still, *argv, "another")) == 3
    again = trial.Preflights(preflights._config)
    again.load(json.loads(json.dumps(preflights.dump())))
    assert tries(question(still, *argv, "another"), again) == 3
    again.close()


def test_which_code_there_is_can_be_asked_without_a_trial(
    preflights: trial.Preflights, still: Path, tmp_path: Path
) -> None:
    """Nothing of the program is run; the same number as long as no file changes."""
    ran = tmp_path / "ran"
    argv = (*PYTHON, f"open({str(ran)!r}, 'a')")

    def code() -> releases.Code:
        preflights.ask(question(still, *argv, code=True), time.time())

        def look() -> list[tuple[str, releases.Code]]:
            assert preflights.look(time.time()) == []
            return preflights.codes()

        [(name, code)] = wait_until(look, 60, "the code", every=0.01)
        assert name == "bare" and not preflights.busy and preflights.codes() == []
        return code

    first, again = code(), code()
    assert first.number is not None and again.number == first.number
    (still / "a.py").write_text("changed = 1")
    then = code()
    assert then.number != first.number and then.file.endswith("/a.py")
    assert then.changed is not None and abs(then.changed - time.time()) < 60
    assert not ran.exists()


def test_who_wants_to_know_whether_a_worker_boots_is_answered_first(
    preflights: trial.Preflights, still: Path
) -> None:
    """Before all that are only asked about their code, and in spite of such a question."""
    for name, only_code in (("one", True), ("two", True), ("two", False)):
        preflights.ask(question(still, *PYTHON, "", name=name, code=only_code), time.time())
    name, _ = answer(preflights)
    assert name == "two"
    assert [name for name, _ in preflights.codes()] == ["one"]
    preflights.forget("two")
    assert preflights.codes() == []
    wait_until(lambda: preflights.look(time.time()) or not preflights.busy, 60, "it to end")


def test_what_was_written_down_by_somebody_else_is_refused(preflights: trial.Preflights) -> None:
    """And changes nothing."""
    for data in ({}, {"remembered": 1, "needs": {}}, {"remembered": {"a": ["k"]}, "needs": {}}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            preflights.load(data)
    assert preflights.dump() == {"remembered": {}, "needs": {}}


def test_a_trial_that_never_ends_is_ended(
    preflights: trial.Preflights, still: Path, tmp_path: Path
) -> None:
    """With what it has started; nobody waits for it meanwhile."""
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.new', {str(pids)!r})\n"
        "time.sleep(600)"
    )
    begun = time.time()
    preflights.ask(question(still, *PYTHON, code), begun)
    wait_until(lambda: preflights.look(begun) or pids.exists(), 60, "the trial runs")
    assert preflights.look(begun + 59) == []
    _, proof = answer(preflights, begun + 61)
    assert not proof.ok and "did not end in 1m" in proof.text
    wait_until(lambda: preflights.look(begun) or not preflights.busy, 10, "it is reaped")
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: _gone(int(pid)), 10, "it has ended")


def test_what_a_trial_leaves_behind_ends_with_it(
    preflights: trial.Preflights, still: Path, tmp_path: Path
) -> None:
    """An application may start helpers when it is imported."""
    pids = tmp_path / "pids"
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(str(child.pid))"
    )
    preflights.ask(question(still, *PYTHON, code), time.time())
    _, proof = answer(preflights)
    assert proof.ok
    wait_until(lambda: _gone(int(pids.read_text())), 10, "the helper has ended")


def _gone(pid: int) -> bool:
    """Ended; its new parent may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_closing_and_forgetting_end_what_runs(preflights: trial.Preflights, still: Path) -> None:
    """And nothing is told of it any more."""
    preflights.ask(question(still, *PYTHON, "import time; time.sleep(600)"), time.time())
    preflights.ask(question(still, *PYTHON, "", name="included"), time.time())
    work = preflights._work
    assert work is not None and work.child is not None
    preflights.forget("bare")
    name, proof = answer(preflights)
    assert (name, proof.ok) == ("included", True)
    wait_until(
        lambda: preflights.look(time.time()) == [] and not preflights.busy, 10, "all is over"
    )
    assert _gone(work.child.pid)
    preflights.ask(question(still, *PYTHON, "import time; time.sleep(600)"), time.time())
    preflights.close()
    assert not preflights.busy


def test_a_trial_may_print_without_end(preflights: trial.Preflights, still: Path) -> None:
    """Only the last of it is kept."""
    code = "for n in range(50000): print('x' * 30, n, flush=True)\nraise SystemExit('the end')"
    preflights.ask(question(still, *PYTHON, code), time.time())
    _, proof = answer(preflights)
    assert (proof.ok, proof.text) == (False, "the end")
    assert len(proof.output) <= preflight.KEPT


def test_a_trial_has_no_more_memory_than_there_is(
    preflights: trial.Preflights, still: Path
) -> None:
    """It gets MemoryError and harms nobody; the evidence then says what it can."""
    code = "x = bytearray(2 * 1024**3)"
    asked = question(still, *PYTHON, code, room=200 * 1024**2)
    preflights.ask(asked, time.time())
    _, proof = answer(preflights)
    assert not proof.ok
    assert "MemoryError, with 200.0MB" in proof.text


def test_a_trial_is_the_least_of_all_processes(preflights: trial.Preflights, still: Path) -> None:
    """The lowest priority, the first to be killed, no terminal, no files of the listener's."""
    secret = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(secret, True)
    code = (
        "import os, time\n"
        "until = time.monotonic() + 30\n"
        "def last(): return os.getpriority(os.PRIO_PROCESS, 0) == 19 "
        "and open('/proc/self/oom_score_adj').read() == '1000\\n'\n"
        "while not last() and time.monotonic() < until: time.sleep(0.01)\n"
        "assert last()\n"
        "assert os.getsid(0) == os.getpid()\n"
        "assert os.read(0, 1) == b''\n"
        f"assert not os.path.exists('/proc/self/fd/{secret}')"
    )
    try:
        preflights.ask(question(still, *PYTHON, code), time.time())
        _, proof = answer(preflights)
    finally:
        os.close(secret)
    assert proof.ok, proof.output


def test_nothing_is_left_open(preflights: trial.Preflights, still: Path) -> None:
    """Neither by a trial that ended nor by one that could not begin."""

    def ask(*argv: str) -> int:
        preflights.ask(question(still, *argv), time.time())
        answer(preflights)
        return len(os.listdir("/proc/self/fd"))

    before = ask(*PYTHON, "1")
    assert ask(*PYTHON, "2") == before
    assert ask("/nowhere") == before
