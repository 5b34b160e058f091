"""The preflight of real gunicorns under a real supervisord: what it finds, and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import Supervisor, alive, answers, free_port, gunicorn_path, program, wait_until

from supervisor_memwatch import config, preflight
from supervisor_memwatch.model import Proof, Snapshot
from supervisor_memwatch.options import Options
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.trial import Preflights, Question

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0
GUNICORN = f"{Path(sys.executable).parent}/gunicorn"
# Writes down who imports it, and as what.
HEALTHY = """\
import json, os, sys
umask = os.umask(0)
os.umask(umask)
environ = {name: os.environ[name] for name in os.environ if name != "PYTEST_CURRENT_TEST"}
seen = {
    "environ": environ, "cwd": os.getcwd(), "umask": umask, "argv": sys.argv,
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups())],
}
path = f"{os.environ['SEEN']}/{os.getpid()}"
with open(path + ".new", "w") as file:
    json.dump(seen, file)
os.rename(path + ".new", path)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

def create_app():
    return app
"""
BROKEN = {
    "syntax": ("def app(:\n", "SyntaxError: invalid syntax (app.py, line 1)"),
    "import": ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
    "name": ("ap = None\n", "Failed to find attribute 'app' in 'app'"),
    "exit": ("import sys\nsys.exit('not today')\n", "not today"),
    "memory": (HEALTHY + "ballast = b'x' * (2 * 1024**3)\n", "MemoryError, with 400.0MB of memory"),
    "hang": ("import time\ntime.sleep(600)\n", "the application's import did not end in 5s"),
}
FACTORY = HEALTHY.replace("    return app\n", "    raise RuntimeError('no database')\n")


EMBEDDED = """\
import sys
from gunicorn.app.base import BaseApplication

class Embedded(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", sys.argv[1])

    def load(self):
        from app import app
        return app

Embedded().run()
"""
NOBODY = 65534


def guests_python() -> str:
    """A Python that another user may run, who also finds what is installed here; "": none."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            found = subprocess.run(
                [python, "-c", "import sys; print(*sys.version_info[:2])"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        if found.stdout.split() == [str(number) for number in sys.version_info[:2]]:
            return python
    return ""


GUESTS_PYTHON = guests_python() if ROOT else ""


class Site:
    """A supervisord whose programs are asked about; each has a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sections = ""
        self.ports: dict[str, int] = {}
        self.names: list[str] = []

    def add(self, name: str, command: str, **options: Any) -> None:
        """`{port}` in the command is a free one, `{dir}` the program's directory."""
        place = self.directory / name
        place.mkdir()
        (place / "app.py").write_text(HEALTHY)
        self.seen(name).mkdir(mode=0o777)
        self.seen(name).chmod(0o777)
        self.ports[name] = free_port()
        environment = {"SEEN": self.seen(name), **options.pop("environment", {})}
        options.setdefault("directory", place)
        text = command.format(port=self.ports[name], dir=place)
        self.sections += program(name, text, environment=environment, **options)
        self.names.append(name)

    def seen(self, name: str) -> Path:
        return self.directory / f"{name}.seen"

    def imports(self, name: str) -> set[str]:
        """The pids that have imported the application."""
        return {path.name for path in self.seen(name).iterdir() if path.name.isdigit()}

    def start(self, **options: Any) -> Supervisor:
        self.supervisor = Supervisor(self.directory, self.sections, **options)
        return self.supervisor

    def begin(self) -> None:
        self.sampler = Sampler()
        self.preflights = Preflights(config.load(str(self.supervisor.conf), os.environ))
        for name in self.names:
            self.supervisor.wait_for(name)
            wait_until(lambda name=name: self.serves(name), 60, lambda: str(self.supervisor))

    def serves(self, name: str) -> bool:
        if not answers(f"http://127.0.0.1:{self.ports[name]}/"):
            return False
        workers = self.snapshot(name).workers
        return bool(workers) and all(worker.ready is not False for worker in workers)

    def snapshot(self, name: str) -> Snapshot:
        info = self.supervisor.info(name)
        seen = Program(name, info["statename"], info["pid"], info["start"])
        self.sampler.look(seen, time.time())
        return self.sampler.look(seen, time.time())

    def ask(self, name: str, room: int | None = None, options: Options | None = None) -> Proof:
        """The answer; the workers and the program are what they were."""
        before = self.snapshot(name)
        configs = self.supervisor.rpc.supervisor.getAllConfigInfo()
        command = next(found for found in configs if found["name"] == name)
        question = Question(name, options or Options(), before, command, room)
        self.preflights.ask(question, time.time())
        found = wait_until(lambda: self.preflights.look(time.time()), 90, "an answer", every=0.02)
        assert [spec for spec, _ in found] == [name]
        wait_until(lambda: not self.preflights.busy or self.preflights.look(time.time()), 10)
        assert [w.id for w in self.snapshot(name).workers] == [w.id for w in before.workers]
        return found[0][1]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of these programs has always changed a moment ago."""
    monkeypatch.setattr(preflight, "QUIET", 0.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One gunicorn for each way to start it."""
    with tempfile.TemporaryDirectory(prefix="mw", dir="/tmp") as name:  # pytest's is for one user
        os.chmod(name, 0o755)
        yield from served(Path(name))


def served(directory: Path) -> Iterator[Site]:
    made = Site(directory)
    listen = "--bind 127.0.0.1:{port}"
    usual = f"{GUNICORN} {listen} --workers 2 --timeout 2 app:app"
    module = f"{sys.executable} -u -m gunicorn --bind=127.0.0.1:{{port}}"
    made.add(
        "web",
        usual,
        environment={"QUOTED": "a, b; c=d", "PERCENT": "50%", "FROM": "it's"},
        umask="027",
    )
    made.add("factory", f"{GUNICORN} {listen} 'app:create_app()'")
    made.add("module", f"{module} --chdir {{dir}} app:app", directory=directory)
    made.add("old", f"{module} app:app", environment=gunicorn_path("20.1.0"))
    made.add(
        "conf",
        f"{GUNICORN} app:app",
        environment={"GUNICORN_CMD_ARGS": "-c elsewhere/conf.py"},
    )
    (directory / "conf" / "elsewhere").mkdir()
    (directory / "conf" / "elsewhere" / "conf.py").write_text(
        f"bind = '127.0.0.1:{made.ports['conf']}'\nworkers = 1\n"
    )
    made.add("path", f"{GUNICORN} {listen} --pythonpath lib -e EXTRA=1 app:app")
    (directory / "path" / "lib").mkdir()
    (directory / "path" / "lib" / "extra.py").write_text("import os\nos.environ['EXTRA']\n")
    with open(directory / "path" / "app.py", "a") as file:
        file.write("import extra\n")
    made.add("preload", f"{GUNICORN} {listen} --preload app:app")
    made.add("shell", f"sh -c '{GUNICORN} {listen} app:app; true'", killasgroup="true")
    made.add("embedded", f"{sys.executable} embedded.py 127.0.0.1:{{port}}")
    (directory / "embedded" / "embedded.py").write_text(EMBEDDED)
    if GUESTS_PYTHON:
        path = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if "-packages" in place)}
        command = f"{GUESTS_PYTHON} -m gunicorn {listen} --user {NOBODY} --group {NOBODY} app:app"
        made.add("guest", command, environment=path)
    with made.start():
        patch = pytest.MonkeyPatch()
        for name in set(os.environ) - set(made.supervisor.environ):
            patch.delenv(name)
        for name, value in made.supervisor.environ.items():
            patch.setenv(name, value)
        patch.setenv("SUPERVISOR_SERVER_URL", made.supervisor.url)
        made.begin()
        patch.undo()
        yield made
        made.preflights.close()


@pytest.fixture
def inherit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the environment of a listener below that supervisord."""
    for name in set(os.environ) - set(site.supervisor.environ):
        monkeypatch.delenv(name)
    for name, value in site.supervisor.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SUPERVISOR_SERVER_URL", site.supervisor.url)


@pytest.mark.usefixtures("inherit")
def test_a_trial_sees_what_a_worker_sees(site: Site) -> None:
    """Environment, directory, user, groups and umask; and a second question makes no second
    trial, until a file is touched."""
    workers = site.imports("web")
    assert len(workers) == 2
    proof = site.ask("web")
    assert (proof.ok, proof.how) == (True, preflight.CHECK_CONFIG), proof
    (new,) = site.imports("web") - workers
    tried, live = (json.loads((site.seen("web") / pid).read_text()) for pid in (new, min(workers)))
    assert "--check-config" in tried.pop("argv") and live.pop("argv")
    assert live["environ"].pop("SERVER_SOFTWARE", "").startswith("gunicorn")
    assert tried == live
    assert tried["environ"]["QUOTED"] == "a, b; c=d" and tried["umask"] == 0o27

    assert site.ask("web").ok
    assert len(site.imports("web")) == 3
    (site.directory / "web" / "app.py").touch()
    assert site.ask("web").ok
    assert len(site.imports("web")) == 4


@pytest.mark.usefixtures("inherit")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_code_is_told_in_its_own_words(site: Site, name: str) -> None:
    """Without a worker asked to leave, and none is lost; mended, it boots again."""
    text, error = BROKEN[name]
    app = site.directory / "web" / "app.py"
    app.write_text(text)
    try:
        proof = site.ask("web", room=400 * 1024**2)
    finally:
        app.write_text(HEALTHY)
    assert not proof.ok
    assert error in proof.text
    assert site.serves("web")
    if name == "syntax":
        assert site.ask("web").ok


@pytest.mark.usefixtures("inherit")
def test_a_factory_that_raises_is_a_failure(site: Site) -> None:
    """`app:create_app()` is called as a worker would."""
    assert site.ask("factory").ok
    (site.directory / "factory" / "app.py").write_text(FACTORY)
    proof = site.ask("factory")
    assert (proof.ok, proof.text) == (False, "RuntimeError: no database")
    assert "create_app" in proof.output


@pytest.mark.usefixtures("inherit")
@pytest.mark.parametrize("name", ["module", "old", "conf", "path"])
def test_however_gunicorn_is_started_the_same_code_is_tried(site: Site, name: str) -> None:
    """python -m with --chdir, gunicorn 20.1, a configuration named in GUNICORN_CMD_ARGS,
    --pythonpath and -e."""
    before = site.imports(name)
    proof = site.ask(name)
    assert (proof.ok, proof.how) == (True, preflight.CHECK_CONFIG), proof
    assert len(site.imports(name) - before) == 1
    (site.directory / name / "app.py").write_text(BROKEN["import"][0])
    proof = site.ask(name)
    assert not proof.ok and BROKEN["import"][1] in proof.text


@pytest.mark.usefixtures("inherit")
def test_a_broken_configuration_is_found(site: Site) -> None:
    """A reload would read it, and end gunicorn."""
    place = site.directory / "conf" / "elsewhere" / "conf.py"
    good = place.read_text()
    place.write_text(good + "import nowhere_to_be_found\n")
    proof = site.ask("conf")
    place.write_text(good)
    assert not proof.ok and "nowhere_to_be_found" in proof.text
    assert "Failed to read config file" in proof.output


@pytest.mark.usefixtures("inherit")
def test_with_preload_broken_code_matters_to_nobody(site: Site) -> None:
    """But a broken configuration does."""
    (site.directory / "preload" / "app.py").write_text(BROKEN["syntax"][0])
    proof = site.ask("preload")
    assert (proof.ok, proof.how) == (True, preflight.PRELOAD)
    (site.directory / "preload" / "gunicorn.conf.py").write_text("workers = 1\n")
    proof = site.ask("preload")
    assert (proof.ok, proof.how) == (True, preflight.PRELOAD)
    (site.directory / "preload" / "gunicorn.conf.py").write_text("workers = = 1\n")
    proof = site.ask("preload")
    assert not proof.ok and "SyntaxError" in proof.text


@pytest.mark.usefixtures("inherit")
@pytest.mark.parametrize("name", ["shell", "embedded"])
def test_what_cannot_be_tried_goes_by_the_evidence(
    site: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker started since the code changed; an embedded application is never run, for it would
    start a second server."""
    monkeypatch.setattr(preflight, "MARGIN", 0.0)  # so that nobody has to wait for it
    old = site.imports(name)
    (site.directory / name / "app.py").touch()
    proof = site.ask(name)
    assert (proof.ok, proof.how) == (False, preflight.EVIDENCE)
    assert "after the start of every worker" in proof.text and "cannot be tried" in proof.text
    assert site.imports(name) == old

    master = site.snapshot(name).master
    assert master is not None
    psutil.Process(master.id.pid).send_signal(signal.SIGHUP)
    wait_until(lambda: site.imports(name) - old and site.serves(name), 60, "it is reloaded")
    wait_until(lambda: len(site.snapshot(name).workers) == 1, 60, "the old worker has left")
    proof = wait_until(lambda: (found := site.ask(name)).ok and found, 60, "evidence", every=0.2)
    assert proof.how == preflight.EVIDENCE and "was started after the code" in proof.text
    assert len(site.imports(name) - old) == 1


@pytest.mark.skipif(not GUESTS_PYTHON, reason="not root, or another user can run no Python")
@pytest.mark.usefixtures("inherit")
def test_the_trial_runs_as_the_workers_user(site: Site) -> None:
    """Workers that gave up being root."""
    before = site.imports("guest")
    proof = site.ask("guest")
    assert (proof.ok, proof.how) == (True, preflight.CHECK_CONFIG), proof
    (new,) = site.imports("guest") - before
    tried, live = (json.loads((site.seen("guest") / pid).read_text()) for pid in (new, min(before)))
    assert tried["ids"] == live["ids"] and tried["ids"][0] != 0


@pytest.mark.usefixtures("inherit")
def test_a_deleted_directory_is_a_failure(site: Site) -> None:
    """A release that was tidied away under a running server."""
    place = site.directory / "module"
    kept = site.directory / "kept"
    shutil.copytree(place, kept)
    shutil.rmtree(place)
    proof = site.ask("module")
    kept.rename(place)
    assert not proof.ok and "has been deleted" in proof.text


@pytest.mark.usefixtures("inherit")
def test_a_command_of_ones_own_sees_the_same(site: Site) -> None:
    """In place of gunicorn's, for any program."""
    argv = (sys.executable, "-c", "import os; raise SystemExit(os.environ['QUOTED'] + os.getcwd())")
    proof = site.ask("web", options=Options(preflight=argv))
    assert (proof.ok, proof.how) == (False, preflight.OWN_COMMAND)
    assert proof.text == f"a, b; c=d{site.directory / 'web'}"


def test_no_children_are_left(site: Site) -> None:
    """Neither running nor as zombies; this process has only supervisord."""
    assert not site.preflights.busy
    mine = [child for child in psutil.Process().children() if child.pid != site.supervisor.pid]
    assert not [child for child in mine if alive(child)]
    assert not [child for child in mine if child.status() == psutil.STATUS_ZOMBIE]


ASKER = """\
import json, os, sys, time
from supervisor_memwatch import config, preflight
from supervisor_memwatch.control import Supervisor
from supervisor_memwatch.options import Options
from supervisor_memwatch.sampler import Program, Sampler
from supervisor_memwatch.trial import Preflights, Question

preflight.QUIET = 0.0
conf, out = sys.argv[1:]
sampler, found = Sampler(), []
preflights = Preflights(config.load(conf, os.environ))
with Supervisor(os.environ["SUPERVISOR_SERVER_URL"], timeout=30.0) as rpc:
    while True:
        info = next(info for info in rpc.programs() if info["name"] == "web")
        seen = sampler.look(Program("web", info["statename"], info["pid"], None), time.time())
        if seen.workers and all(worker.ready for worker in seen.workers):
            break
        time.sleep(0.1)
    command = next(info for info in rpc.configs() if info["name"] == "web")
preflights.ask(Question("web", Options(), seen, command, None), time.time())
while not found:
    time.sleep(0.02)
    found = preflights.look(time.time())
with open(out + ".new", "w") as file:
    json.dump(found[0][1], file)
os.rename(out + ".new", out)
time.sleep(600)
"""


def test_what_supervisord_gives_its_listener_is_not_the_applications(tmp_path: Path) -> None:
    """A password in the listener's environment= stays there; what it hid comes back; and
    supervisord's own environment= is the application's too."""
    site = Site(tmp_path)
    site.add("web", f"{GUNICORN} --bind 127.0.0.1:{{port}} app:app", environment={"MINE": "1"})
    script, out = tmp_path / "asker_memwatch.py", tmp_path / "proof"
    script.write_text(ASKER)
    listener = (
        f"[eventlistener:memwatch]\ncommand={sys.executable} {script} {tmp_path}/supervisord.conf "
        f"{out}\nevents=TICK_3600\nstopasgroup=true\n"
        'environment=SUPERVISOR_PASSWORD="secret",OUTER="hidden"\n'
    )
    site.sections += listener + '[supervisord]\nenvironment=COMMON="%(ENV_OUTER)s"\n'
    with site.start(env={"OUTER": "theirs"}) as supervisor:
        wait_until(out.exists, 60, lambda: str(supervisor))
        ok, how, *_ = json.loads(out.read_text())
        assert ok and how == preflight.CHECK_CONFIG, out.read_text()
        seen = [json.loads(path.read_text()) for path in site.seen("web").iterdir()]
    live, tried = sorted(seen, key=lambda one: "--check-config" in one["argv"])
    assert live["environ"].pop("SERVER_SOFTWARE")
    assert tried["environ"] == live["environ"]
    assert tried["environ"]["OUTER"] == tried["environ"]["COMMON"] == "theirs"
    assert "secret" not in tried["environ"].values()
