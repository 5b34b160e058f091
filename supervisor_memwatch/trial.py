"""Trials: the processes of the preflight, started, looked at and ended, never waited for.

Each question is answered by at most two child processes, one after the other: a fingerprint of
the code (fingerprint.py), then the trial, unless what that would show is known, or the code is all
that was asked for. One child runs at
a time, at the lowest priority, in a session of its own, the first that the kernel ends where
memory is short. What to try and what it proves are preflight.py's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from binascii import crc32
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import preflight
from .config import Config, ConfigError
from .inifile import IniFile
from .model import Proof, Snapshot
from .options import Options
from .preflight import Ended, Facts, Plan, Remembered, Scan, Scanned, Trial, Unproven, User
from .releases import Code

PROC = "/proc"  # the seam: tests lay out a parent of their own
MOST_FILES = 200_000  # directory entries of one fingerprint
SCAN_SECONDS = 30.0  # after which a fingerprint gives up
MOST_REMEMBERED = 1000  # programs
_OUTPUT = 16 * 1024  # bytes kept of what a child prints
_PIPE = 1024 * 1024  # bytes it may print between two looks without being held up
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ
_PAGE = os.sysconf("SC_PAGE_SIZE")
_END_PATIENCE = 1.0  # seconds close() waits for children it has killed


class Question(NamedTuple):
    """Can a new worker of this program boot?"""

    namespec: str
    options: Options
    snapshot: Snapshot
    command: Mapping[str, Any]  # Supervisor's configuration of it, possibly empty
    room: int | None  # bytes a trial may use; None: not known
    anew: bool = False  # a new master, not only a worker
    code: bool = False  # only which code there is: nothing is tried


class _Work:
    """A question, and how far its answer has come."""

    def __init__(self, question: Question, plan: Plan, at: float) -> None:
        self.question = question
        self.plan = plan
        self.asked = at
        self.wall = time.time()
        self.scanned: Scanned | None = None
        self.key: str | None = None
        self.child: _Child | None = None
        self.begun = at  # the child


class Preflights:
    """Finds out, for any number of programs, whether a new worker can boot. For one thread."""

    def __init__(self, config: Config, supervisord: int | None = None) -> None:
        """`supervisord`: its pid, for who was not started by it."""
        self._config = config
        self._supervisord = supervisord
        self._asked: dict[str, Question] = {}  # waiting, the first one next
        self._work: _Work | None = None
        self._ended: list[_Child] = []  # killed, and not yet gone
        self._found: list[tuple[str, Proof]] = []
        self._scans: dict[str, Question] = {}  # those about the code, after all others
        self._codes: list[tuple[str, Code]] = []
        self._remembered: dict[str, Remembered] = {}
        self._needs: dict[str, int] = {}  # bytes the last trial took

    @property
    def busy(self) -> bool:
        """Whether there are children, so that a look may find something."""
        return bool(self._work or self._asked or self._scans or self._ended)

    def ask(self, question: Question, at: float) -> None:
        """Begin to find out; nothing if that is under way already."""
        name = question.namespec
        under_way = self._work.question if self._work is not None else None
        if under_way and (under_way.namespec, under_way.code) == (name, question.code):
            return
        if question.code:
            self._scans[name] = question
            self._next(at)
            return
        proof = preflight.settled(question.options, question.snapshot, at)
        if proof is not None:
            self._found.append((name, proof))
            return
        self._asked[name] = question  # in its old place, if it waits: with what is known now
        self._next(at)

    def look(self, at: float) -> list[tuple[str, Proof]]:
        """What has been found out since the last call. Never waits."""
        self._ended = [child for child in self._ended if child.poll() is None]
        if self._work is not None:
            self._go_on(self._work, at)
        self._next(at)
        found, self._found = self._found, []
        return found

    def codes(self) -> list[tuple[str, Code]]:
        """Which code there is, as far as that was asked for and found by `look` since then."""
        codes, self._codes = self._codes, []
        return codes

    def forget(self, namespec: str) -> None:
        """Supervisor does not have this program any more."""
        self._asked.pop(namespec, None)
        self._scans.pop(namespec, None)
        self._remembered.pop(namespec, None)
        self._needs.pop(namespec, None)
        self._found = [(name, proof) for name, proof in self._found if name != namespec]
        if self._work is not None and self._work.question.namespec == namespec:
            self._give_up(self._work)
            self._work = None

    def close(self) -> None:
        """End the children and what they have started."""
        self._asked.clear()
        self._scans.clear()
        if self._work is not None:
            self._give_up(self._work)
            self._work = None
        until = time.monotonic() + _END_PATIENCE
        while self._ended and time.monotonic() < until:
            self._ended = [child for child in self._ended if child.poll() is None]
            time.sleep(0.005)

    def dump(self) -> dict[str, Any]:
        """What a restarted listener should know, as JSON has it."""
        return {
            "remembered": {name: list(found) for name, found in self._remembered.items()},
            "needs": dict(self._needs),
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """What dump() gave. Raises TypeError, ValueError or KeyError for anything else."""
        remembered = {
            str(name): Remembered(str(key), float(tried), _proof(proof))
            for name, (key, tried, proof) in dict(data["remembered"]).items()
        }
        needs = {str(name): int(need) for name, need in dict(data["needs"]).items()}
        self._remembered, self._needs = remembered, needs

    # -- one question after the other

    def _next(self, at: float) -> None:
        while self._work is None and (waiting := self._asked or self._scans):
            name = next(iter(waiting))
            self._begin(waiting.pop(name), at)

    def _begin(self, question: Question, at: float) -> None:
        plan = preflight.plan(
            question.options,
            question.snapshot,
            question.command,
            self._facts(question),
            question.anew or question.code,  # the code is all that there is, preloaded or not
        )
        if plan.shares:
            question = question._replace(snapshot=preflight.of_the_master(question.snapshot))
        work = self._work = _Work(question, plan, at)
        try:
            work.child = _Child(_scanner(plan.scan), dict(os.environ), "/")
        except (OSError, ValueError) as error:
            self._seen(work, _not_seen(f"it cannot be looked at: {error}", work), at)

    def _go_on(self, work: _Work, at: float) -> None:
        child = work.child
        assert child is not None
        status = child.poll()
        trial = work.plan.trial if work.scanned else None
        late = at - work.begun >= (trial.deadline if trial else 2 * SCAN_SECONDS)
        if work.scanned is None:
            if status is not None:
                self._seen(work, _scanned(child.output(), work), at)
            elif late:
                self._give_up(work)
                self._seen(work, _not_seen("reading its directories takes too long", work), at)
            return
        room = work.question.room
        starved = status is None and room is not None and child.resident() > room
        if status is None and not late and not starved:
            return
        if status is None:
            self._give_up(work)
        self._tried(work, Ended(status, child.output(), at - work.begun, child.peak, starved), at)

    def _seen(self, work: _Work, scanned: Scanned, at: float) -> None:
        """The files have been looked at: answer, or begin the trial."""
        work.scanned, work.child = scanned, None
        name, plan, room = work.question.namespec, work.plan, work.question.room
        if work.question.code:
            self._codes.append((name, _code(scanned)))
            self._work = None
            return
        work.key = _key(plan, scanned)
        remembered = self._remembered.get(name)
        if remembered is not None and remembered.key != work.key:
            remembered = None
        proof = preflight.known(
            plan, work.question.snapshot, scanned, remembered, room, self._needs.get(name), at
        )
        if proof is not None:
            self._answer(work, proof)
            return
        assert plan.trial is not None
        work.begun = at
        try:
            work.child = _Child(
                plan.trial.argv, plan.trial.environ, plan.trial.cwd, plan.trial, room
            )
        except (OSError, ValueError) as error:
            self._conclude(work, preflight.not_started(plan.trial, error, at), at, "")

    def _tried(self, work: _Work, ended: Ended, at: float) -> None:
        trial, name = work.plan.trial, work.question.namespec
        assert trial is not None and work.scanned is not None
        found = preflight.judge(
            trial, ended, work.scanned, work.plan.preload, work.question.room, at
        )
        # What code that failed took says nothing of the code that mends it.
        if ended.peak is not None and isinstance(found, Proof) and found.ok:
            self._needs[name] = ended.peak
        self._conclude(work, found, at, ended.output)

    def _conclude(self, work: _Work, found: Proof | Unproven, at: float, output: str) -> None:
        """A trial has ended: remember what it proved, or go by the evidence."""
        assert work.scanned is not None
        if isinstance(found, Unproven):
            snapshot, kept = work.question.snapshot, output[-preflight.KEPT :]
            found = preflight.evidence(snapshot, work.scanned, found.reason, at, kept)
        elif work.key is not None:
            name = work.question.namespec
            self._remembered.pop(name, None)
            self._remembered[name] = Remembered(work.key, at, found)
            while len(self._remembered) > MOST_REMEMBERED:
                oldest = next(iter(self._remembered))
                del self._remembered[oldest]
                self._needs.pop(oldest, None)
        self._answer(work, found)

    def _answer(self, work: _Work, proof: Proof) -> None:
        self._found.append((work.question.namespec, proof))
        self._work = None

    def _give_up(self, work: _Work) -> None:
        if work.child is not None:
            work.child.end()
            self._ended.append(work.child)

    # -- what is so

    def _facts(self, question: Question) -> Facts:
        snapshot, command = question.snapshot, question.command
        inherited, environment, trouble = {}, None, ""
        group, _, name = question.namespec.partition(":")
        group = str(command.get("group") or group)
        name = str(command.get("name") or name or group)
        supervisord = self._supervisord or os.getppid()
        try:
            # As the file is now: Supervisor may have been told to update.
            ini = IniFile(self._config.path, os.environ)
            parent = _environ(supervisord)
            if self._supervisord is None:
                inherited = preflight.inherited(os.environ, parent, ini.given_to_us())
            elif parent is not None:
                inherited = parent
            else:
                raise ValueError("supervisord's own environment cannot be read by this user")
            environment = ini.environment(group, name, inherited)
            trouble = "; ".join(map(str, (*ini.problems, *ini.missing)))
        except (ConfigError, ValueError) as error:
            trouble = str(error)
        directory = _text(command.get("directory"))
        start = os.path.normpath(os.path.join(_directory_of(supervisord), directory))
        master = snapshot.master.id.pid if snapshot.master else snapshot.pid
        workers = [worker.id.pid for worker in snapshot.workers if worker.ready is not False]
        return Facts(
            inherited,
            None if trouble else environment,
            trouble,
            _text(command.get("serverurl")) or os.environ.get("SUPERVISOR_SERVER_URL"),
            start,
            os.path.realpath(start),
            _link(f"{PROC}/{master}/cwd"),
            next(filter(None, map(_user, workers)), None) or _user(master),
            _user(master),
            User(os.geteuid(), os.getegid(), frozenset(os.getgroups())),
        )


def _text(value: object) -> str:
    """A text of Supervisor's configuration, which has these words for none."""
    return "" if value in (None, "none", "auto") else str(value)


def _proof(data: Any) -> Proof:
    ok, how, text, at, output = data
    return Proof(bool(ok), str(how), str(text), float(at), str(output))


# -- the fingerprint


def _scanner(scan: Scan) -> list[str]:
    asked = {
        "roots": scan.roots,
        "files": scan.files,
        "words": scan.words,
        "environment": scan.packages,
        "path": scan.path,
        "home": scan.home,
        "cwd": scan.cwd,
        "pid": scan.pid,
        "most": MOST_FILES,
        "seconds": SCAN_SECONDS,
    }
    script = os.path.join(os.path.dirname(__file__), "fingerprint.py")
    return [sys.executable, "-I", "-S", script, json.dumps(asked)]


def _scanned(output: str, work: _Work) -> Scanned:
    try:
        found = json.loads(output)
        touched = float(found["touched"])
        return Scanned(
            number=found["number"],
            why=str(found["why"]),
            newest=float(found["newest"]),
            changed=str(found["changed"]),
            touched=touched,
            absent=tuple(map(str, found["absent"])),
            unseen=tuple(map(str, found["unseen"])),
            wall=work.wall,
            at=work.asked,
            clock=_clock(touched, work.wall),
        )
    except (ValueError, TypeError, KeyError):
        return _not_seen(preflight.error_line(output) or "its files were not read", work)


def _not_seen(why: str, work: _Work) -> Scanned:
    return Scanned(None, why, 0.0, "", 0.0, (), (), work.wall, work.asked)


def _code(scanned: Scanned) -> Code:
    """For who only wants to know whether it has changed."""
    changed = scanned.at - (scanned.wall - scanned.newest) if scanned.newest else None
    return Code(scanned.number, changed, scanned.at, scanned.changed)


def _clock(then: float, now: float) -> str:
    form = "%H:%M" if abs(now - then) < 20 * 3600 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(then))


def _key(plan: Plan, scanned: Scanned) -> str | None:
    """What a trial is remembered by: the code and everything else that decides how it ends."""
    if scanned.number is None or plan.trial is None:
        return None
    trial = plan.trial
    user = trial.user and trial.user.ids
    words = (trial.argv, sorted(trial.environ.items()), trial.cwd, user, plan.preload)
    return f"{scanned.number}/{crc32(repr(words).encode('utf-8', 'surrogateescape')):08x}"


# -- what /proc says


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _environ(pid: int) -> dict[str, str] | None:
    """The environment a process was started with; None where it is not to be read."""
    text = _read(f"{PROC}/{pid}/environ")
    if not text:
        return None
    pairs = [os.fsdecode(part).partition("=") for part in text.split(b"\0") if part]
    return {name: value for name, _, value in pairs}


def _directory_of(supervisord: int) -> str:
    return _link(f"{PROC}/{supervisord}/cwd") or os.getcwd()


def _user(pid: int) -> User | None:
    """Whom a process runs as; None where it has ended."""
    fields = {}
    for line in (_read(f"{PROC}/{pid}/status") or b"").splitlines():
        name, _, value = line.partition(b":")
        fields[name] = value.split()
    try:
        uid, gid = int(fields[b"Uid"][1]), int(fields[b"Gid"][1])
        groups = frozenset(map(int, fields.get(b"Groups", [])))
        umask = int(fields[b"Umask"][0], 8) if b"Umask" in fields else None
    except (KeyError, IndexError, ValueError):
        return None
    return User(uid, gid, groups, umask)


# -- a child


class _Child:
    """A process of ours, the leader of a session of its own. Its constructor raises OSError or
    ValueError where it cannot be started."""

    def __init__(
        self,
        argv: list[str] | tuple[str, ...],
        environ: Mapping[str, str],
        cwd: str,
        trial: Trial | None = None,
        room: int | None = None,
    ) -> None:
        self.peak: int | None = None
        self._output = bytearray()
        self._status: int | None = None
        self._pipe, writing = os.pipe()
        try:
            self._popen = _start(argv, environ, cwd, trial, writing)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)
        os.set_blocking(self._pipe, False)
        _widen(self._pipe)
        self.pid = self._popen.pid
        _restrain(self.pid, room)

    def poll(self) -> int | None:
        """None while it runs; its exit status, or the negative of the signal that ended it."""
        if self._status is not None:
            return self._status
        self._drain()
        try:
            # Not reaped yet: as long as it is a zombie, no other process can have its number.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.end()
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # somebody else has reaped it
            self._status = 255
        else:
            self._status = os.waitstatus_to_exitcode(status)
            self.peak = _its_own(usage.ru_maxrss)
        self._popen.returncode = self._status
        self._drain()
        os.close(self._pipe)
        return self._status

    def end(self) -> None:
        """SIGKILL to it and to what it has started; poll() reaps it."""
        if self._status is not None:
            return  # the number may be another's by now
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            pass  # nobody is left

    def output(self) -> str:
        """The end of what it printed."""
        return self._output.decode("utf-8", "replace")

    def resident(self) -> int:
        """Bytes; 0 for one that has ended."""
        pages = (_read(f"/proc/{self.pid}/statm") or b"").split()
        return int(pages[1]) * _PAGE if len(pages) > 1 else 0

    def _drain(self) -> None:
        for _ in range(2 * _PIPE // 65536):  # and no longer: it may print for ever
            try:
                piece = os.read(self._pipe, 65536)
            except BlockingIOError:
                return
            if not piece:
                return
            self._output += piece
            del self._output[:-_OUTPUT]


def _start(
    argv: list[str] | tuple[str, ...],
    environ: Mapping[str, str],
    cwd: str,
    trial: Trial | None,
    output: int,
) -> Any:
    """A subprocess.Popen."""
    import subprocess

    user = trial.user if trial else None
    umask = trial.umask if trial else None
    try:
        return subprocess.Popen(
            list(argv),
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=sorted(user.groups) if user else None,
            umask=-1 if umask is None else umask,
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from None


def _widen(pipe: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE)
    except OSError:  # beyond what this machine allows: then it holds less
        pass


def _its_own(maxrss: int) -> int | None:
    """Bytes of a child's ru_maxrss (KB). It counts what the child was before it became another
    program, which is us: up to our own it says nothing."""
    import resource

    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maxrss * 1024 if maxrss > ours else None


def _restrain(pid: int, room: int | None) -> None:
    """Lowest priority, no more memory than there is, and the first to go where that is short.

    Each as far as the machine allows: a child that has ended, or a sandbox, allows nothing.
    """
    import resource

    try:
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if room is not None:
            resource.prlimit(pid, resource.RLIMIT_DATA, (room, room))
    except (OSError, ValueError):
        pass
