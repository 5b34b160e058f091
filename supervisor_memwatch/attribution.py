"""Who ended a worker, and who changed the number of workers.

A `Witness` is told what each look shows (the snapshot before and the one now), whom we asked to
leave, which signals we sent, and what is new in gunicorn's error log, where that is known. From
the log it takes gunicorn's word; without it, it infers, and says "probably". What it has heard of
a worker that is still there (a timeout, a reload that it will leave for) it keeps until it goes.

Covers the workers of gunicorn under one master. A program that Supervisor started anew, and what
follows from an end (budget, yielding, news), are watch.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from . import errorlog, units
from .errorlog import SIGNALS, Line
from .model import DOWN_STATES, REMOVED, STOPPING, UNKNOWN, Snapshot, Worker, WorkerId

# The causes of an end.
OURS = "ours"
RELOAD = "reload"
MAX_REQUESTS = "max_requests"
TIMEOUT = "timeout"
OOM = "oom"
SIGNAL = "signal"
EXIT = "exit"  # by itself, with an exit code
TTIN = "ttin"  # of a count only
TTOU = "ttou"
MASTER = "master"
UNEXPLAINED = "unknown"

# What somebody did to several workers within so long is one action.
ONE_ACTION = 60.0
# gunicorn's own exit codes of a worker that could not boot, or could not load its application.
NO_BOOT_CODES = (3, 4)
# So many seconds unchanged, and a number of workers is the program's.
STEADY = 60.0
# So long gunicorn's words may take through its pipe and a busy supervisord.
LATE = 2.0
# A signal of ours that gunicorn has not logged after so long will not be: where it logs nothing.
UNHEARD = 60.0
# A worker that was to leave for a reload or SIGTTOU and is still there after so long was not
# to, or is bound by its connections; its end is no longer laid to that. The second: where that
# was only inferred.
OUTLIVED, GUESSED = 3600.0, 300.0
# Workers that were started together by one reload were born within so long of each other
# (gunicorn forks them 0 to 0.1 s apart, on a machine that is busy).
TOGETHER = 10.0

_CRASHES = {SIGNALS[name]: name for name in ("ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS")}
_STOPS = frozenset(SIGNALS[name] for name in ("TERM", "INT", "QUIT"))
_NAMES = {number: name for name, number in SIGNALS.items()}

# What is kept of a worker beside gunicorn's lines about it.
_HUP = "hup"  # a reload by others is to end it; number 1: seen in the log, 0: inferred
_TTOU = "ttou"
_OUR_SIGNAL = "our_signal"  # a HUP or TTOU of ours is to end it
_TO_LEAVE = frozenset({_HUP, _TTOU, _OUR_SIGNAL})
_DOWN = frozenset({STOPPING, "BACKOFF", REMOVED, *DOWN_STATES})


class End(NamedTuple):
    """A worker that is gone, and why."""

    worker: Worker  # as it was last seen
    cause: str
    text: str  # one short sentence; of foreign text it holds nothing


class Count(NamedTuple):
    """Somebody else changed how many workers the program has."""

    cause: str  # TTIN or TTOU
    by: int  # workers more, or fewer (negative)
    sure: bool  # gunicorn logged it
    text: str


class Change(NamedTuple):
    """What one look showed."""

    ends: tuple[End, ...] = ()
    counts: tuple[Count, ...] = ()
    actions: int = 0  # of others, not counted before: what these are worth in a budget
    halt: str = ""  # why the master has ended itself, if it has

    @property
    def reloaded(self) -> bool:
        """Whether others have reloaded the program: its code may be another from now on."""
        return any(end.cause == RELOAD for end in self.ends)


class _Fact(NamedTuple):
    at: float
    number: int = 0


class Witness:
    """Of one program: what was heard and seen, as far as it may explain an end still to come."""

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._facts: dict[WorkerId, dict[str, _Fact]] = {}
        self._sent: list[tuple[str, float]] = []  # signals of ours, not yet seen in the log
        self._informed = False  # the log has shown to be gunicorn's, at level info
        self._stopping = ""  # why the master is, in words
        self._unbooted: float | None = None  # when a worker was heard of that could not boot
        self._unheard: list[tuple[Worker, float]] = []  # gone since then, not explained yet
        self._moved: float | None = None  # when workers came or went, for LATE
        self._unclaimed = 0  # of the OOM kills that the last look counted
        self._usual: int | None = None  # the number of workers, once it has been steady
        self._count: tuple[int, float] = (0, 0.0)  # as it is now, and since when
        self._resets = False  # a reload sets it to the configured one, whatever it was
        self._counted: dict[str, float] = {}  # cause -> when its last action was counted

    def wants_log(self, last: Snapshot, now: Snapshot) -> bool:
        """Whether it is worth to read the log: workers came or went, now or a moment ago."""
        return _moved(last, now) or self._moved is not None

    def look(
        self,
        last: Snapshot,
        now: Snapshot,
        asked: Collection[WorkerId] = (),
        log: str | None = None,
        sent: Sequence[str] = (),
    ) -> Change:
        """Who ended whom between two snapshots of a gunicorn program.

        `asked`: whom we asked to leave, SIGTTOU's victims included; `log`: what is new in
        gunicorn's error log, None where that cannot be read; `sent`: the signals we sent to the
        master since the last look ("TTIN", "TTOU", "HUP").
        """
        if now.kind != "gunicorn" or last.kind != "gunicorn":
            return Change()
        if now.state == UNKNOWN and now.master is None:
            return Change()  # Supervisor does not answer: nothing is known
        if self._nothing_happens(last, now, log, sent):
            self._oom_kills(last, now)
            return Change((), tuple(self._steady_count(now)))
        here = {worker.id for worker in now.workers}
        gone = [worker for worker in last.workers if worker.id not in here]
        if _moved(last, now):
            self._moved = now.at
        kills = self._oom_kills(last, now)
        lines = errorlog.read(log or "")
        self._hear_of_boots(lines, now.at)
        lines = self._about_them(lines, last, now)
        counts = self._hear(lines, last, now, sent)
        self._informed = self._informed or any(line.what in errorlog.INFORMED for line in lines)
        if not self._informed:
            self._guess_reload(gone, last, now, kills)
        if _master_is_gone(last, now):
            halt = self._stopping if self._unbooted is not None else ""
            gone = [worker for worker, _ in self._unheard] + gone
            ends = [self._with_the_master(worker, now, asked, kills) for worker in gone]
            self._begin_anew()
            actions = int(any(end.cause == MASTER for end in ends))
            return Change(tuple(ends), (), actions, halt)
        gone = self._told_now(gone, asked, log is not None, now.at)
        ends = self._explain(gone, now, asked, kills)
        actions = self._actions(ends, now.at)
        self._forget(here, now.at)
        counts += self._steady_count(now)
        if self._moved is not None and not 0 <= now.at - self._moved < LATE:
            self._moved = None
        return Change(tuple(ends), tuple(counts), actions)

    def _nothing_happens(
        self, last: Snapshot, now: Snapshot, log: str | None, sent: Sequence[str]
    ) -> bool:
        """Almost every look: it should cost next to nothing."""
        waits = self._facts or self._unheard or self._sent or self._stopping or sent or log
        if waits or self._moved is not None or _master_is_gone(last, now):
            return False
        return [worker.id for worker in last.workers] == [worker.id for worker in now.workers]

    def _told_now(
        self, gone: list[Worker], asked: Collection[WorkerId], logged: bool, at: float
    ) -> list[Worker]:
        """Those whose end is to be told now: one that the log does not explain yet waits for it,
        for a look at least."""
        told = []
        waiting, self._unheard = self._unheard, []
        for worker, since in (*waiting, *((worker, at) for worker in gone)):
            facts = self._facts.get(worker.id, {})
            guessed = all(what == _HUP and not fact.number for what, fact in facts.items())
            early = since == at or 0 <= at - since < LATE
            if logged and guessed and early and worker.id not in asked:
                self._unheard.append((worker, since))
            else:
                told.append(worker)
        return told

    # -- what is heard

    def _hear_of_boots(self, lines: Iterable[Line], at: float) -> None:
        """A worker that cannot boot ends with one of two codes, and the master stops for that. It
        was seldom seen alive, so its pid is no help; what does not happen soon was not meant."""
        if self._unbooted is not None and not 0 <= at - self._unbooted < UNHEARD:
            self._unbooted, self._stopping = None, ""
        for line in lines:
            coded = line.what == errorlog.EXIT_CODE and line.number in NO_BOOT_CODES
            if coded or line.what == errorlog.NO_BOOT:
                self._unbooted = at
                self._stopping = "it stops, because a new worker could not boot"

    def _hear(
        self, lines: Iterable[Line], last: Snapshot, now: Snapshot, sent: Sequence[str]
    ) -> list[Count]:
        """Take what gunicorn says; what it says of signals that we did not send is a count."""
        at = now.at
        self._sent = [(name, then) for name, then in self._sent if at - then < UNHEARD]
        self._sent += [(name, at) for name in sent]
        for name in sent:
            self._expect(name, last, at, _OUR_SIGNAL, 1)
        master = last.master.id.pid if last.master else None
        ids = self._by_pid(last, now)
        counted = {TTIN: 0, TTOU: 0}
        for line in lines:
            if line.pid == master:
                cause = self._of_the_master(line, last, at)
                if cause is not None:
                    counted[cause] += 1
            elif line.what != errorlog.BOOTING:
                facts = self._facts.setdefault(ids[line.pid], {})
                facts.setdefault(line.what, _Fact(at, line.number))
        return [
            Count(cause, by, True, f"{times} to the master, not by us")
            for cause, by, times in (
                (TTIN, counted[TTIN], _times("SIGTTIN", counted[TTIN])),
                (TTOU, -counted[TTOU], _times("SIGTTOU", counted[TTOU])),
            )
            if by
        ]

    def _about_them(self, lines: Iterable[Line], last: Snapshot, now: Snapshot) -> list[Line]:
        """Only of processes that are or were there: others write into the same log."""
        pids = set(self._by_pid(last, now))
        if last.master is not None:
            pids.add(last.master.id.pid)
        return [line for line in lines if line.pid in pids]

    def _by_pid(self, last: Snapshot, now: Snapshot) -> dict[int, WorkerId]:
        """The workers of the two looks, and those that are still unexplained."""
        unheard = (worker for worker, _ in self._unheard)
        everyone = (*unheard, *last.workers, *now.workers)
        return {worker.id.pid: worker.id for worker in everyone}

    def _of_the_master(self, line: Line, last: Snapshot, at: float) -> str | None:
        """A line of the master's own; TTIN or TTOU if it says that others sent that."""
        if line.what == errorlog.NO_BOOT:
            self._stopping = "it stops, because a worker could not boot"
        elif line.what == errorlog.HALTS:
            self._stopping = self._stopping or "it stops"
        if line.what != errorlog.HANDLES:
            return None
        if line.number in _STOPS:
            self._stopping = f"it was told to stop by SIG{_NAMES[line.number]}"
            return None
        name = _NAMES.get(line.number, "")
        if name == "TTOU" and len(last.workers) < 2:
            return None  # gunicorn keeps the last one
        ours = next((each for each in self._sent if each[0] == name), None)
        if ours is not None:
            self._sent.remove(ours)
            return None
        self._expect(name, last, at, _HUP if name == "HUP" else _TTOU, 1)
        return {"TTIN": TTIN, "TTOU": TTOU}.get(name)

    def _expect(self, signal: str, last: Snapshot, at: float, what: str, number: int) -> None:
        """Whom a signal to the master is to end, and how many workers it leaves."""
        unheard = (worker for worker, _ in self._unheard)
        there = sorted((*unheard, *last.workers), key=_seniority)
        if signal == "HUP":
            self._resets = True
            for worker in there:
                self._facts.setdefault(worker.id, {})[what] = _Fact(at, number)
        if signal in ("TTIN", "TTOU"):
            self._count = (self._count[0], at)  # it will change, and is not steady from now on
        if signal == "TTIN" and self._usual is not None:
            self._usual += 1
        if signal == "TTOU":
            if self._usual is not None:
                self._usual = max(1, self._usual - 1)
            # gunicorn ends the oldest; that one may already be on its way.
            for worker in there:
                facts = self._facts.setdefault(worker.id, {})
                if not {_TTOU, _OUR_SIGNAL} & facts.keys():
                    facts[what] = _Fact(at, number)
                    break

    def _guess_reload(self, gone: list[Worker], last: Snapshot, now: Snapshot, kills: int) -> None:
        """Without the log: those who came together replace all who were there before them.

        Either these are all gone, or they are still finishing their requests beside as many
        newcomers. Of a single worker only the second tells anything.
        """
        known = {worker.id for worker in last.workers}
        births = {worker.id: now.at - (worker.age or 0.0) for worker in now.workers}
        newest = max((birth for id, birth in births.items() if id not in known), default=None)
        if newest is None or kills:
            return
        came = {id for id, birth in births.items() if newest - birth <= TOGETHER}
        old = known - came
        left = old - {worker.id for worker in gone}
        ours = any(name in ("TTIN", "HUP") for name, _ in self._sent)
        more = len(births) > (self._usual or len(last.workers))
        beside = bool(left) and len(came) >= len(old) and more and not ours
        if beside or (len(old) > 1 and len(came) == len(births)):
            for id in old:
                facts = self._facts.setdefault(id, {})
                if _OUR_SIGNAL not in facts:
                    facts.setdefault(_HUP, _Fact(now.at))
            self._resets = True

    # -- what is said of each end

    def _explain(
        self,
        gone: list[Worker],
        now: Snapshot,
        asked: Collection[WorkerId],
        kills: int,
    ) -> list[End]:
        victims = self._victims(gone, asked, kills)
        # Not claimed by an end: a dying worker may still be there at the look that counts it, or
        # wait for its words.
        left = kills - len(victims)
        self._unclaimed = left if self._unheard else min(self._unclaimed, left)
        ends = []
        for worker in gone:
            facts = self._facts.get(worker.id, {})
            oom = kills if worker.id in victims else 0
            if worker.id in asked or _OUR_SIGNAL in facts:
                ends.append(End(worker, OURS, _how_it_obeyed(facts, oom)))
                continue
            cause, text = self._of_itself(facts, oom, now) or self._by_order(facts)
            if cause == UNEXPLAINED:
                text = _unexplained(gone, self._informed)
            ends.append(End(worker, cause, text))
        return ends

    def _victims(
        self, gone: list[Worker], asked: Collection[WorkerId], kills: int
    ) -> set[WorkerId]:
        """Whom the kernel killed: the largest of those it may have been."""
        possible = []
        for worker in gone:
            facts = self._facts.get(worker.id, {})
            if not facts or _number(facts, errorlog.SIGNAL) == SIGNALS["KILL"]:
                possible.append(worker)
        possible.sort(key=lambda worker: (worker.id in asked, -worker.rss))
        return {worker.id for worker in possible[:kills]}

    def _of_itself(
        self, facts: dict[str, _Fact], oom: int, now: Snapshot
    ) -> tuple[str, str] | None:
        """What happened to this worker alone."""
        signal = _number(facts, errorlog.SIGNAL)
        if errorlog.TIMEOUT in facts:
            return TIMEOUT, "ended by gunicorn's timeout: it did not answer within its --timeout"
        if oom:
            return OOM, (
                "killed by the kernel for want of memory: its control group's OOM counter"
                f" rose by {oom}"
            )
        if signal == SIGNALS["KILL"]:
            counter = "" if now.oom_kills is None else " (its own OOM counter did not rise)"
            return SIGNAL, f"killed by SIGKILL: by somebody, or the host's OOM killer{counter}"
        if signal in _CRASHES:
            return SIGNAL, f"crashed (SIG{_CRASHES[signal]})"
        if errorlog.MAX_REQUESTS in facts:
            return MAX_REQUESTS, "ended by gunicorn's max_requests"
        if errorlog.EXIT_CODE in facts:
            return EXIT, _with_code(facts[errorlog.EXIT_CODE].number)
        return None

    def _by_order(self, facts: dict[str, _Fact]) -> tuple[str, str]:
        """Who had it leave."""
        if _HUP in facts and facts[_HUP].number:
            return RELOAD, "ended by a reload: SIGHUP to the master, not by us"
        if _HUP in facts:
            return RELOAD, "probably ended by a reload: all workers replaced, by the same master"
        if errorlog.CODE_CHANGED in facts:
            return RELOAD, "ended itself because its code changed (gunicorn's --reload)"
        if _TTOU in facts:
            return TTOU, "ended by SIGTTOU to the master, not by us: one worker less"
        if self._stopping:
            return MASTER, f"ended by its master: {self._stopping}"
        if errorlog.SIGNAL in facts:
            name = _NAMES.get(facts[errorlog.SIGNAL].number)
            return SIGNAL, f"ended by {'SIG' + name if name else 'a signal'}, not by us"
        if errorlog.EXITING in facts:
            return SIGNAL, "left in good order, unasked by gunicorn: probably SIGTERM by somebody"
        return UNEXPLAINED, ""

    def _with_the_master(
        self,
        worker: Worker,
        now: Snapshot,
        asked: Collection[WorkerId],
        kills: int,
    ) -> End:
        if worker.id in asked:
            return End(worker, OURS, "left as it was asked to, while its master ended")
        why = self._stopping
        if not why and now.state in _DOWN:
            why = f"Supervisor says {now.state}"
        if kills:
            why += f"{'; ' if why else ''}the kernel's OOM counter rose by {kills}"
        return End(worker, MASTER, f"ended with its master{': ' if why else ''}{why}")

    def _oom_kills(self, last: Snapshot, now: Snapshot) -> int:
        """The kernel's kills that may explain an end now: those of this look, and those of the
        look before that explained none then."""
        risen = 0
        if now.oom_kills is not None and last.oom_kills is not None:
            risen = max(0, now.oom_kills - last.oom_kills)
        kills, self._unclaimed = risen + self._unclaimed, risen
        return kills

    # -- counting

    def _actions(self, ends: list[End], at: float) -> int:
        """How many actions of others these ends are: each OOM kill and each timeout is one; of
        the rest, what has the same cause and begins within a minute."""
        actions = 0
        for end in ends:
            if end.cause == OURS:
                continue
            reload = self._facts.get(end.worker.id, {}).get(_HUP)
            begun = reload.at if end.cause == RELOAD and reload is not None else at
            counted = self._counted.get(end.cause)
            same = counted is not None and begun - counted < ONE_ACTION
            if end.cause in (OOM, TIMEOUT) or not same:
                self._counted[end.cause] = begun
                actions += 1
        return actions

    def _steady_count(self, now: Snapshot) -> list[Count]:
        """A number of workers that is another than it was, and stays: of that the log need not
        say anything (gunicornc)."""
        count, at = len(now.workers), now.at
        if count != self._count[0]:
            self._count = (count, at)
        waiting = any(_TO_LEAVE & facts.keys() for facts in self._facts.values())
        if at - self._count[1] < STEADY or waiting or not count:
            return []
        before, self._usual = self._usual, count
        resets, self._resets = self._resets, False
        if before is None or before == count or resets:
            return []
        cause, signal = (TTIN, "SIGTTIN") if count > before else (TTOU, "SIGTTOU")
        text = (
            f"{count} workers where {before} were, for {units.time(at - self._count[1])}:"
            f" probably {signal} by somebody"
        )
        return [Count(cause, count - before, False, text)]

    def _forget(self, here: set[WorkerId], at: float) -> None:
        """Of those who are gone everything, of the others what they outlived."""
        self._facts = {
            id: {what: fact for what, fact in facts.items() if not _outlived(what, fact, at)}
            for id, facts in self._facts.items()
            if id in here or any(worker.id == id for worker, _ in self._unheard)
        }

    # -- through the journal

    def dump(self) -> dict[str, Any]:
        """Everything a later `load` needs; JSON-able."""
        return {
            "facts": [
                [*id, what, *fact]
                for id, facts in self._facts.items()
                for what, fact in facts.items()
            ],
            "sent": self._sent,
            "unheard": self._unheard,
            "moved": self._moved,
            "informed": self._informed,
            "stopping": self._stopping,
            "unbooted": self._unbooted,
            "unclaimed": self._unclaimed,
            "usual": self._usual,
            "count": self._count,
            "resets": self._resets,
            "counted": self._counted,
        }

    def load(self, data: dict[str, Any], back: float = 0.0) -> None:
        """Restore what `dump` gave. Raises KeyError, TypeError, ValueError on anything else.

        `back`: seconds by which the clock was set back since; all times go back with it.
        """
        self._facts = {}
        for pid, start, what, at, number in data["facts"]:
            self._facts.setdefault(WorkerId(pid, start), {})[what] = _Fact(at - back, number)
        self._sent = [(name, at - back) for name, at in data["sent"]]
        self._unheard = [
            (Worker(WorkerId(*id), *rest), since - back) for (id, *rest), since in data["unheard"]
        ]
        self._moved = None if data["moved"] is None else data["moved"] - back
        self._informed, self._stopping = bool(data["informed"]), str(data["stopping"])
        self._unbooted = None if data["unbooted"] is None else data["unbooted"] - back
        self._unclaimed, self._usual = int(data["unclaimed"]), data["usual"]
        count, since = data["count"]
        self._count, self._resets = (count, since - back), bool(data["resets"])
        self._counted = {cause: at - back for cause, at in data["counted"].items()}


def _moved(last: Snapshot, now: Snapshot) -> bool:
    return {worker.id for worker in last.workers} != {worker.id for worker in now.workers}


def _master_is_gone(last: Snapshot, now: Snapshot) -> bool:
    if now.state in _DOWN or now.pid != last.pid or now.master is None:
        return True
    return last.master is not None and now.master.id != last.master.id


def _outlived(what: str, fact: _Fact, at: float) -> bool:
    patience = OUTLIVED if fact.number else GUESSED
    return what in _TO_LEAVE and at - fact.at >= patience


def _seniority(worker: Worker) -> tuple[float, int]:
    return (-(worker.age or 0.0), worker.id.pid)


def _number(facts: dict[str, _Fact], what: str) -> int:
    fact = facts.get(what)
    return fact.number if fact is not None else 0


def _times(signal: str, count: int) -> str:
    return signal if count == 1 else f"{count} times {signal}"


def _how_it_obeyed(facts: dict[str, _Fact], oom: int) -> str:
    text = "left as it was asked to"
    if errorlog.TIMEOUT in facts:
        return f"{text}, cut off by gunicorn's timeout"
    if oom:
        return f"{text}, while the kernel's OOM counter rose by {oom}"
    if _number(facts, errorlog.SIGNAL) == SIGNALS["KILL"]:
        return f"{text}, by SIGKILL"
    return text


def _with_code(code: int) -> str:
    # gunicorn's own two: it stops altogether when a worker ends with one of them.
    if code in NO_BOOT_CODES:
        return f"could not boot (exit code {code}): gunicorn stops for that"
    return f"ended itself with exit code {code}"


def _unexplained(gone: list[Worker], informed: bool) -> str:
    if informed:
        return "ended, and gunicorn's log does not say why: perhaps it ended itself"
    text = "ended, not by us: max_requests, a timeout, a signal or a crash"
    ages = [worker.age for worker in gone if worker.age is not None]
    if len(ages) > 1 and max(ages) - min(ages) <= TOGETHER:
        text += f"; {len(ages)} of about the same age at once, as max_requests does"
    return f"{text} (gunicorn's log is not seen)"
