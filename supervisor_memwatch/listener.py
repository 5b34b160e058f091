"""The event listener: the event protocol and the tick.

A TICK is answered at once; then, for each watched program: sample, look, write down, act,
write down, tell; then READY. Between events, while a procedure is open, a second without
input is a look at its program too. Nothing here decides anything: watch.py and policy.py do.

stdout carries the protocol and nothing else: the file descriptor is put away at start and 1
is made stderr, so that a stray print of anybody's cannot break it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import __version__, errorlog, host, journal, messages, policy, procedures, report, units
from .config import Config, listeners_of, named, namespec
from .control import RpcError, Supervisor, send
from .journal import Journal, Statement
from .log import Log
from .model import (
    DOWN_STATES,
    REMOVED,
    RUNNING,
    UNKNOWN,
    Command,
    Decision,
    Entry,
    News,
    Snapshot,
    WorkerId,
)
from .notifiers import Notifier
from .options import Options
from .protocol import OK, READY, Event, Events, ProtocolError, whole
from .quiet import Quiet
from .sampler import Program, Sampler
from .trial import Preflights, Question
from .watch import Seen, Watch, as_well

# Seconds of waiting for input between two looks: while a procedure is open or a preflight under
# way, and while a quiet moment is sought.
LOOK_EVERY = 1.0
LOOK_CLOSELY = 0.2
CONFIGS_READ = 2.0  # seconds for which what Supervisor says of its programs is taken to hold
SAMPLES_EVERY = 60.0
SAVE_EVERY = 300.0
TIDY_EVERY = 3600.0
HEARTBEAT_EVERY = 3600.0
PERIODS = {"TICK_5": 5.0, "TICK_60": 60.0, "TICK_3600": 3600.0}
# Supervisor delivers a tick up to 2.4 s after its time; one older than that and its period
# has waited in the queue, and a newer one is on its way.
LATE = 3.0
PAUSE = 3600.0  # a pause without a length
# Of a request that was accepted and has not begun: the answer is changed when it has.
WAITS = "begins when the preflight has passed"
# The answers to every request where there is nobody to do it to.
NOBODY = (
    "no program is watched: `memwatch check` lists what Supervisor has; `programs` and `exclude` "
    "of [memwatch] choose among them"
)
UNHEARD = (
    "no program is known: Supervisor's RPC has not answered the listener yet, whose log says why"
)
NOT_CALLED = 0  # in place of a fault's code: the call was not even made


class Info(NamedTuple):
    """A program as Supervisor last described it."""

    group: str
    name: str
    state: str
    pid: int
    spawned: float | None


class Clock:
    """Epoch seconds that never jump: the wall clock at start plus what has passed since.

    CLOCK_BOOTTIME counts a suspended machine's time too.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def at(self) -> float:
        return self._offset + time.clock_gettime(time.CLOCK_BOOTTIME)

    def stepped(self) -> float:
        """Seconds by which the wall clock has been set since the start."""
        return time.time() - self.at()


class Listener:
    """Everything the listener holds; `run` is its life."""

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        log: Log,
        events_in: int,
        events_out: int,
        own_group: str | None = None,
    ) -> None:
        self.config = config
        self.rpc = supervisor
        self.log = log
        self.own_group = own_group
        self.clock = Clock()
        self.journal = Journal(config.journal_path())
        self.sampler = Sampler()
        self.notifier = Notifier()
        self.preflights = Preflights(config)
        self.watches: dict[str, Watch] = {}
        self.infos: dict[str, Info] = {}
        self.state_known = False
        self.ticks = 0
        self.dropped = 0
        self.last_tick: float | None = None
        self.period: float | None = None  # of the ticks we are subscribed to
        self._in, self._out = events_in, events_out
        self._events = Events()
        self._serials: deque[str] = deque(maxlen=1000)
        self._poolserial: int | None = None
        self._matched: set[str] | None = None
        self._configs: dict[str, dict[str, Any]] = {}  # as Supervisor last described them
        self._configs_read = 0.0
        self._refreshed = 0.0  # when Supervisor was last asked for its programs
        self._logged: dict[str, int] = {}  # how large a program's log was when we last read it
        self._due = dict.fromkeys(("samples", "save", "tidy", "heartbeat"), 0.0)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._listeners: frozenset[str] = frozenset()  # those added since the file was read
        self._in_memory = False  # the journal, when it was last asked
        self._news = 0

    # -- the protocol ------------------------------------------------------------------

    def run(self) -> int:
        """Until end of input, SIGTERM or Supervisor's stop. Returns the exit status."""
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._start()
        try:
            self._write(READY)
            while not self._stopping:
                self._wait()
        except ProtocolError as error:
            self.log.error(f"event protocol: {error}; starting anew")
            return 1
        except BrokenPipeError:
            return 0
        finally:
            self._end()
        return 0

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _wait(self) -> None:
        ready, _, _ = select.select([self._in, self._wake_in], [], [], self._pause())
        if self._wake_in in ready:
            os.read(self._wake_in, 4096)
        elif self._in in ready:
            data = os.read(self._in, 65536)
            if not data:
                self._stopping = True
                return
            self._events.feed(data)
            while not self._stopping and (event := self._events.next()) is not None:
                self._write(OK)
                self._handle(event)
                self._write(READY)
        else:
            self._look_at_open()

    def _pause(self) -> float | None:
        """Seconds until a look is due though no event comes."""
        if any(watch.seeks_quiet for watch in self.watches.values()):
            return LOOK_CLOSELY
        busy = self.preflights.busy or any(watch.busy for watch in self.watches.values())
        return LOOK_EVERY if busy else None

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def _handle(self, event: Event) -> None:
        self._count_dropped(event)
        if event.serial and event.serial in self._serials:
            return  # delivered twice: another listener of our priority rejected it
        self._serials.append(event.serial)
        if event.name in PERIODS:
            self.period = min(PERIODS[event.name], self.period or PERIODS[event.name])
            if self._stale(event):
                self.dropped += 1
            else:
                self._tick()
        elif event.name.startswith("PROCESS_STATE"):
            self._process_state(event)
        elif event.name == "REMOTE_COMMUNICATION":
            self._message(event)
        elif event.name == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._stopping = True

    def _count_dropped(self, event: Event) -> None:
        """A gap in the pool's numbering: Supervisor's buffer for us overflowed."""
        number = whole(event.poolserial)
        if number is None:
            return
        if self._poolserial is not None and number > self._poolserial + 1:
            lost = number - self._poolserial - 1
            self.dropped += lost
            self.log.warn(f"{lost} events lost: buffer_size of [eventlistener] is too small")
        self._poolserial = max(number, self._poolserial or 0)

    def _stale(self, event: Event) -> bool:
        when = whole(event.fields.get("when"))
        if when is None:
            self.log.trouble("when", f"a {event.name} without its time")
            return False
        return time.time() - when > PERIODS[event.name] + LATE

    # -- begin and end -----------------------------------------------------------------

    def _start(self) -> None:
        at = self.clock.at()
        options = self.config.options("", "")
        self.log.info(
            f"memwatch {__version__}: {self.config.path}, journal {self.journal.path}, "
            f"mode {options.mode}; waiting for the first TICK"
        )
        for warning in self.config.warnings:
            self.log.warn(warning)
        self._journal_trouble()
        for key in ("save", "tidy", "heartbeat"):
            self._due[key] = at + (60.0 if key != "heartbeat" else HEARTBEAT_EVERY)
        self._load_proofs()
        self._resume_open(at)
        self._send_waiting(at)

    def _load_proofs(self) -> None:
        """What the listener before us had tried need not be tried again."""
        for (value,) in self.journal.rows("SELECT value FROM facts WHERE key = 'preflights'"):
            try:
                self.preflights.load(json.loads(value))
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                self.log.warn(f"what the journal remembers of preflights cannot be read: {error!r}")

    def _resume_open(self, at: float) -> None:
        """Go on with what the journal says was begun and is not ended, by us or before us."""
        rows = self.journal.rows(
            "SELECT id, namespec, state FROM procedures WHERE ended IS NULL ORDER BY begun"
        )
        for id, name, state in rows:
            if name not in self.watches or self.watches[name].procedure is None:
                self._resume(id, name, state, at)
        self._give_up_waiting(at)

    def _give_up_waiting(self, at: float) -> None:
        """Say of requests that a listener before us accepted and did not begin that they are lost:
        their situation is over, whoever asked may ask again."""
        ours = {watch.asked[2] for watch in self.watches.values() if watch.asked is not None}
        rows = self.journal.rows(
            "SELECT id FROM answers WHERE answer = 'accepted' AND reason LIKE ?", (f"% {WAITS}",)
        )
        for (id,) in rows:
            if id not in ours:
                reason = "the listener was restarted before it began: ask again"
                self._after_all(id, "held", reason, at)

    def _resume(self, id: str, name: str, state: str, at: float) -> None:
        try:
            procedure = procedures.from_json(json.loads(state))
        except (TypeError, ValueError, KeyError) as error:
            self.log.error(f"{name}: an unfinished action in the journal is damaged: {error}")
            self.journal.write([journal.procedure_end(id, at)])
            return
        if procedures.untouched(procedure):
            text = (
                "recycle overtaken: the listener was restarted before it asked the worker to leave"
            )
            data = {"procedure": id, "result": "overtaken"}
            self._record([Entry(at, name, "outcome", text, data)])
            self.journal.write([journal.procedure_end(id, at)])
            return
        watch = self._watch(name)
        watch.resume(procedure, at)
        text = f"{procedure.action} begun at {id.rpartition('@')[2]} was not finished: going on"
        self._record([Entry(at, name, "step", text, {"procedure": id})])
        self.journal.write([_procedure_row(watch)])

    def _end(self) -> None:
        at = self.clock.at()
        self.journal.write(
            [journal.watch_row(name, at, watch.dump()) for name, watch in self.watches.items()]
        )
        self.journal.write([journal.fact_row("preflights", self.preflights.dump())])
        self.preflights.close()
        self._deliveries()
        self.notifier.close(2.0)
        # What was not delivered stays waiting, for the next listener.
        delivered = [found for found in self.notifier.drain() if found.ok]
        self.journal.write([journal.news_sent(found.news_id) for found in delivered])
        self.journal.close()
        signal.set_wakeup_fd(-1)
        os.close(self._wake_in)
        os.close(self._wake_out)
        self.log.info("memwatch ends")

    # -- the tick ----------------------------------------------------------------------

    def _tick(self) -> None:
        at = self.clock.at()
        self.ticks += 1
        self.last_tick = at
        self._refresh(at)
        self._look(list(self.watches.values()), at)
        self._deliveries()
        self._now_and_then(at)

    def _look_at_open(self) -> None:
        at = self.clock.at()
        if not at - self._refreshed < LOOK_EVERY:  # looks for a quiet moment come more often
            self._refresh(at)
        self._look([watch for watch in self.watches.values() if watch.busy], at)
        self._deliveries()

    def _look(self, watches: Iterable[Watch], at: float) -> None:
        """Sample, look, write down, act, write down, tell."""
        self._take_proofs(at)
        seen: list[tuple[Watch, Snapshot, Seen]] = []
        for watch in watches:
            snapshot, result = self._see(watch, at)
            seen.append((watch, snapshot, result))
            if result.prove:
                self._prove(watch, snapshot, result.anew, at)
            if result.code:
                self._ask(watch, snapshot, at, code=True)
        begun = self._begin(seen, at)
        self._write_down(seen, begun, at)
        for watch, _, result in seen:
            self._carry_out(watch, result.commands)
        for watch in begun:
            self._launch(watch)

    def _see(self, watch: Watch, at: float) -> tuple[Snapshot, Seen]:
        """One program now, and what follows from it; said, and nothing done yet."""
        snapshot = self._snapshot(watch, at)
        seen = watch.look(
            snapshot,
            state_known=self.state_known,
            durable=self.journal.durable,
            quiet=self._quiet(watch, at),
            log=self._gunicorn_log(watch, snapshot),
            peaks=self.sampler.peaks(watch.namespec),
        )
        self._record(seen.entries, seen.news)
        return snapshot, seen

    def _snapshot(self, watch: Watch, at: float) -> Snapshot:
        info = self.infos.get(watch.namespec)
        if info is None:
            state = REMOVED if self.state_known else UNKNOWN
            return self.sampler.look(Program(watch.namespec, state, 0, None), at)
        state = info.state
        if not self.state_known and watch.procedure and watch.procedure.action == "restart":
            # A stop whose answer was lost, and a state that is a memory: no ground to judge on.
            state = UNKNOWN
        program = Program(watch.namespec, state, info.pid, info.spawned)
        return self.sampler.look(program, at, watch.wants())

    def _quiet(self, watch: Watch, at: float) -> Quiet | None:
        """How busy the worker is whose quiet moment is awaited, at this very moment."""
        target = watch.seeks_quiet
        return self.sampler.quiet(watch.namespec, target, at) if target is not None else None

    def _gunicorn_log(self, watch: Watch, snapshot: Snapshot) -> str | None:
        """What gunicorn has logged since we last read that, where it may say who ended a worker."""
        name = watch.namespec
        if snapshot.kind != "gunicorn" or not watch.wants_log(snapshot):
            return ""
        stream = errorlog.stream(self._configs.get(name, {}))
        if stream is None:
            return None
        tail = self.rpc.tail_stderr if stream == "stderr" else self.rpc.tail_stdout
        try:
            text, size = errorlog.news(lambda length: tail(name, 0, length), self._logged.get(name))
        except RpcError:
            return None
        self._logged[name] = size
        return text

    def _prove(self, watch: Watch, snapshot: Snapshot, anew: bool, at: float) -> None:
        """Have it found out whether a new worker can boot, or (`anew`) a new master."""
        self._ask(watch, snapshot, at, anew=anew)
        self._take_proofs(at)

    def _ask(
        self, watch: Watch, snapshot: Snapshot, at: float, *, anew: bool = False, code: bool = False
    ) -> None:
        if not 0 <= at - self._configs_read < CONFIGS_READ:
            self._configs_read = at  # a program may have been updated under the same name
            self._read_configs()
        command = self._configs.get(watch.namespec, {})
        # A trial lasts seconds: it has to fit into what the machine has left. Were it to fit under
        # total_limit too, a program at that limit could not be helped.
        room = snapshot.free
        question = Question(watch.namespec, watch.options, snapshot, command, room, anew, code)
        self.preflights.ask(question, at)

    def _take_proofs(self, at: float) -> None:
        found = self.preflights.look(at)
        for name, proof in found:
            if name in self.watches:
                self._record(self.watches[name].take(proof))
        for name, code in self.preflights.codes():
            if name in self.watches:
                self._record(self.watches[name].take_code(code))
        if found:
            self.journal.write([journal.fact_row("preflights", self.preflights.dump())])

    def _begin(self, seen: list[tuple[Watch, Snapshot, Seen]], at: float) -> list[Watch]:
        """Which of the wanted actions may begin now: the plans are made, nothing is done."""
        wanted = {id(s.decision): watch for watch, _, s in seen if s.decision is not None}
        chosen, waiting = policy.choose(
            [s.decision for _, _, s in seen if s.decision is not None],
            self._under_way(at),
            self._at_once,
            self._in_action,
        )
        for decision, reason in waiting:
            entries, news = wanted[id(decision)].hold(decision, reason)
            self._record(entries, news)
        begun = []
        for decision in chosen:
            watch = wanted[id(decision)]
            self._record(watch.begin(decision))
            begun.append(watch)
        return begun

    @property
    def _at_once(self) -> int:
        return self.config.options("", "").max_programs_at_once

    @property
    def _in_action(self) -> list[str]:
        return [name for name, watch in self.watches.items() if watch.procedure]

    def _under_way(self, at: float) -> list[str]:
        """Programs in action; one that may take long, or for ever, holds up none."""
        open = (watch.procedure for watch in self.watches.values() if watch.procedure)
        return [procedure.namespec for procedure in open if not procedures.drags(procedure, at)]

    def _write_down(
        self, seen: list[tuple[Watch, Snapshot, Seen]], begun: list[Watch], at: float
    ) -> None:
        """Everything of this look in one transaction; a plan is on the disk before its act."""
        rows: list[Statement] = []
        samples = at >= self._due["samples"]
        for watch, snapshot, result in seen:
            if result.changed and watch in begun:  # one action has ended, the next begins
                rows.append(_procedure_end(watch, at))
            elif result.changed:
                rows.extend(self._procedure_rows(watch, at))
            rows.append(
                journal.latest_row(watch.namespec, at, snapshot, watch.view(result.verdicts))
            )
            if samples and snapshot.workers:
                rows.append(_sample_row(snapshot))
        rows.extend(_procedure_row(watch) for watch in begun)
        for watch, _, _ in seen:
            for id, answer, reason in watch.answers():
                if answer == "accepted":  # which was said already
                    rows.append(journal.answer_update(id, answer, reason))
                else:
                    self._after_all(id, answer, reason, at)
        rows.append(journal.fact_row("listener", self._facts()))
        if samples:
            self._due["samples"] = at + SAMPLES_EVERY
        acts = bool(begun) or any(result.commands for _, _, result in seen)
        self.journal.write(rows, sure=acts)
        self._journal_trouble()

    def _procedure_rows(self, watch: Watch, at: float) -> list[Statement]:
        if watch.procedure is not None:
            return [_procedure_row(watch)]
        return [] if watch.last_action is None else [_procedure_end(watch, at)]

    def _launch(self, watch: Watch) -> None:
        """The plan is written down: begin."""
        commands = watch.launch()
        durable = self.journal.write([_procedure_row(watch)])
        if not durable and commands and (commands[0].do == "stop" or commands[0].signal == "TTIN"):
            # The guard has seen a journal that could be written; the plan was its first failure.
            reason = "the journal cannot be written: a half-done action could be forgotten"
            self._failed(watch, commands[0], reason, NOT_CALLED)
            return
        self._carry_out(watch, commands)

    def _carry_out(self, watch: Watch, commands: Iterable[Command]) -> None:
        for command in commands:
            error, code = self._do(command)
            if error is not None:
                self._failed(watch, command, error, code)
            elif command.do == "signal":
                watch.carried_out()
                self.journal.write(self._procedure_rows(watch, self.clock.at()))
            if watch.procedure is None:
                return

    def _failed(self, watch: Watch, command: Command, error: str, code: int | None) -> None:
        result = watch.failed(command, error, code)
        self._record(result.entries, result.news)
        self.journal.write(self._procedure_rows(watch, self.clock.at()))

    def _do(self, command: Command) -> tuple[str | None, int | None]:
        """One command: the reason it failed, and Supervisor's fault code."""
        if command.do == "signal":
            assert command.target is not None
            return send(command.target, command.signal), None
        call = self.rpc.stop if command.do == "stop" else self.rpc.start
        try:
            call(command.namespec)
        except RpcError as error:
            return str(error), error.code
        return None, None

    # -- what Supervisor says ----------------------------------------------------------

    def _refresh(self, at: float) -> None:
        """Ask Supervisor for its programs; where it does not answer, go on with what is known."""
        self._refreshed = at
        try:
            answer = self.rpc.programs()
        except RpcError as error:
            self.state_known = False
            self.log.trouble("rpc", f"Supervisor's RPC: {error}")
            return
        self.state_known = True
        self.log.trouble("rpc", None)
        infos, pairs = {}, []
        for found in answer:
            group, name = str(found["group"]), str(found["name"])
            pairs.append((group, name))
            if not self._watched(group, name):
                continue
            infos[namespec(group, name)] = Info(
                group,
                name,
                str(found["statename"]),
                int(found["pid"]),
                float(found["start"]) or None,
            )
        if infos.keys() != self.watches.keys() or self._matched is None:
            # Event listeners that were added since we read the file are none of our programs.
            new = listeners_of(self.config.path, os.environ)
            self._listeners |= new
            infos = {name: info for name, info in infos.items() if info.group not in new}
            self._programs_changed(infos, pairs)
        self.infos = infos

    def _watched(self, group: str, name: str) -> bool:
        """Whether we look after a program: one that we act on in any case, until that is done."""
        watch = self.watches.get(namespec(group, name))
        if watch is not None and watch.procedure is not None:
            return True
        return group not in self._listeners and self.config.watched(group, name)

    def _programs_changed(self, infos: dict[str, Info], pairs: list[tuple[str, str]]) -> None:
        if self._matched is None:
            for name in self.config.unmatched(pairs):
                self.log.warn(f"[memwatch:{name}] matches no program")
        self._matched = set(infos)
        self._read_configs()
        self.infos = infos
        for name in [name for name in self.watches if name not in infos]:
            watch = self.watches[name]
            if watch.procedure is None:
                if watch.asked is not None:
                    reason = "the program is gone from Supervisor"
                    self._after_all(watch.asked[2], "held", reason, self.clock.at())
                del self.watches[name]
                self.sampler.forget(name)
                self.preflights.forget(name)
                self._logged.pop(name, None)
                self.log.info(f"{name}: no longer a program of Supervisor's")
        seen = [row[0] for row in self.journal.rows("SELECT namespec FROM latest")]
        gone = [name for name in seen if name not in infos]
        self.journal.write([journal.latest_gone(name) for name in gone])
        for name in infos:
            if name not in self.watches:
                watch = self._watch(name)
                self.log.info(f"{name}: {report.promise(watch.options)}")
            else:
                self._set_options(self.watches[name])

    def _read_configs(self) -> None:
        """How Supervisor starts the programs; what was known stays where it does not answer."""
        try:
            configs = self.rpc.configs()
        except RpcError:
            return
        self._configs = {
            namespec(str(config.get("group")), str(config.get("name"))): config
            for config in configs
        }

    def _watch(self, name: str) -> Watch:
        """The watch of a program, with what the journal remembers of it."""
        if name in self.watches:
            return self.watches[name]
        watch = Watch(name, self._options_of(name))
        self._set_options(watch)
        rows = self.journal.rows("SELECT saved, state FROM watches WHERE namespec = ?", (name,))
        if rows:
            try:
                watch.load(json.loads(rows[0][1]), max(0.0, rows[0][0] - self.clock.at()))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.log.warn(f"{name}: what the journal remembers cannot be read: {error!r}")
                watch = Watch(name, watch.options, watch.plain_restart)
        self.watches[name] = watch
        return watch

    def _options_of(self, name: str) -> Options:
        """What the file says for a program that Supervisor has not told us of yet."""
        return self.config.options_of(name)

    def _set_options(self, watch: Watch) -> None:
        info = self.infos.get(watch.namespec)
        if info is None:
            return
        options = self.config.options(info.group, info.name)
        if options.grace is None:
            command = str(self._configs.get(watch.namespec, {}).get("command", ""))
            graceful = report.graceful_timeout(command)
            if graceful is not None:
                options = dataclasses.replace(options, grace=graceful + 5.0)
        watch.options = options
        own = self.config.own_options(info.group, info.name)
        watch.plain_restart = "restart" in options.actions and "actions" in own

    def _process_state(self, event: Event) -> None:
        """A program's state changed: learn how it is now, and look if we act on it.

        The event may have waited in a queue, behind newer ones. Where an action depends on it
        Supervisor is asked instead; else the event is believed until the next TICK asks.
        """
        fields = event.fields
        name = namespec(fields.get("groupname", ""), fields.get("processname", ""))
        info, watch = self.infos.get(name), self.watches.get(name)
        if info is None or watch is None:
            return
        state = event.name.removeprefix("PROCESS_STATE_")
        at = self.clock.at()
        if watch.procedure is not None:
            self._refresh(at)
        if watch.procedure is None or not self.state_known:
            down = state in DOWN_STATES or state == "BACKOFF"
            pid = 0 if down else whole(fields.get("pid")) or info.pid
            self.infos[name] = info._replace(state=state, pid=pid)
        if state == "EXITED" and fields.get("expected") == "0":
            text = "the program ended unexpectedly: its own log may say why"
            self._record(watch.note(at, text, level="WARN"))
        elif state == "FATAL":
            self._record([Entry(at, name, "seen", "Supervisor gave up: FATAL", {}, "ERROR")])
        if name in self.watches and (watch.procedure is not None or state != RUNNING):
            self._look([watch], at)

    # -- what people ask ---------------------------------------------------------------

    def _message(self, event: Event) -> None:
        kind, _, text = event.payload.partition("\n")
        if kind != "type:memwatch":
            return
        at = self.clock.at()
        message = messages.read(text, time.time())
        if message is None:
            self.log.warn("a message that is not one of memwatch's was ignored")
            return
        if self.journal.rows("SELECT 1 FROM answers WHERE id = ?", (message.id,)):
            return
        answer, reason, name = "refused", message.refused, ""
        if not message.refused:
            self._refresh(at)  # the next TICK may be an hour away
            watches, worker = self._targets(message.target, message.command)
            name = watches[0].namespec if len(watches) == 1 else ""
            answer, reason = self._grant(message, watches, worker, at)
        self.journal.write([journal.answer_row(message.id, at, answer, reason)])
        asked = " ".join(word for word in (message.command, message.target) if word)
        asked = f"{asked or 'a request'} by {message.by}"
        data = {"id": message.id, "asked": asked, "answer": answer}
        self._record([Entry(at, name, "request", f"{asked}: {answer}: {reason}", data)])
        self._reply(message.id, answer, reason)

    def _after_all(self, id: str, answer: str, reason: str, at: float) -> None:
        """A request that was accepted comes to nothing: said wherever it was answered."""
        found = self.journal.rows("SELECT at FROM answers WHERE id = ?", (id,))
        if not found:
            return  # it is being answered just now
        asked, name = "a request", ""
        for about, text in self.journal.rows(
            "SELECT namespec, data FROM entries WHERE at = ? AND kind = 'request'", found[0]
        ):
            try:
                told = json.loads(text)
                if told["id"] == id:
                    asked, name = str(told["asked"]), about
            except (KeyError, TypeError, ValueError):
                continue  # damaged, or of a version that did not say it
        self.journal.write([journal.answer_update(id, answer, reason)])
        data = {"id": id, "asked": asked, "answer": answer}
        self._record([Entry(at, name, "request", f"{asked}: {answer}: {reason}", data, "WARN")])
        self._reply(id, answer, reason)

    def _reply(self, id: str, answer: str, reason: str) -> None:
        """For those who ask and may not read the journal, or cannot."""
        self.log.info(f"reply {id} {answer}: {reason}")

    def _grant(
        self,
        message: messages.Message,
        watches: list[Watch],
        worker: WorkerId | None,
        at: float,
    ) -> tuple[str, str]:
        """Do what was asked, or say why not: accepted, held or refused, and the reason."""
        if not self.watches:
            return "refused", NOBODY if self.state_known else UNHEARD
        if not watches:
            names = ", ".join(self.watches)
            return "refused", f"no watched program or worker {message.target!r}; watched: {names}"
        if message.command in ("pause", "resume"):
            until = None
            if message.command == "pause":
                until = at + (message.seconds or PAUSE)
            paused = [watch for watch in watches if (watch.paused_until or at) > at]
            for watch in watches:
                watch.paused_until = until
            self.journal.write([journal.watch_row(w.namespec, at, w.dump()) for w in watches])
            # So that `status` and `explain` show it from now on; who is busy is looked at anyway.
            self._look([watch for watch in watches if not watch.busy], at)
            if until is None:
                return "accepted", _resumed(watches, paused)
            names = ", ".join(watch.namespec for watch in watches)
            return "accepted", f"pause {names} for {units.time(message.seconds or PAUSE)}"
        if len(watches) > 1:
            return "refused", "one program at a time: name it"
        return self._act_on_request(watches[0], worker, message, at)

    def _act_on_request(
        self, watch: Watch, worker: WorkerId | None, message: messages.Message, at: float
    ) -> tuple[str, str]:
        snapshot, seen = self._see(watch, at)
        self._write_down([(watch, snapshot, seen)], [], at)
        self._carry_out(watch, seen.commands)
        if message.command == "recycle" and worker is None:
            if len(snapshot.workers) != 1:
                pids = ", ".join(str(each.id.pid) for each in snapshot.workers) or "none now"
                return "refused", f"name the worker by its pid, as target: {pids}"
            worker = snapshot.workers[0].id
        if message.command == "reload":
            worker = snapshot.master.id if snapshot.master else None
        decision = Decision(
            message.command,
            watch.namespec,
            worker if message.command != "restart" else None,
            None,
            by=message.by,
            forced=message.force,
        )
        held = watch.objections(decision, snapshot, self.state_known, self.journal.durable)
        if not held:
            _, waiting = policy.choose(
                [decision], self._under_way(at), self._at_once, self._in_action
            )
            held = tuple(reason for _, reason in waiting)
        if held:
            return "held", "; ".join(reason.text for reason in held)
        watch.ask(decision, at, message.id)
        self._look([watch], at)
        with_whom = as_well(watch.planned(self.journal.durable))
        if watch.proving:
            return "accepted", f"{message.command}{with_whom} {WAITS}"
        if watch.procedure is not None and watch.procedure.request == message.id:
            return "accepted", f"{message.command} has begun{with_whom}"
        if watch.held:
            return "held", "; ".join(reason.text for reason in watch.held)
        return "refused", str(watch.last_action["text"]) if watch.last_action else "it cannot begin"

    def _targets(self, target: str, command: str) -> tuple[list[Watch], WorkerId | None]:
        """The watches a request is about, and the worker where it names a pid."""
        if not target:
            return list(self.watches.values()), None
        found = [watch for name, watch in self.watches.items() if named(target, name)]
        # A program may be named like a number; what is recycled is named by its pid.
        if target.isascii() and target.isdigit() and (command == "recycle" or not found):
            for watch in self.watches.values():
                for worker in watch.workers():
                    if worker.id.pid == int(target):
                        return [watch], worker.id
        return found, None

    # -- telling -----------------------------------------------------------------------

    def _record(self, entries: Iterable[Entry], news: Iterable[News] = ()) -> None:
        """Into the journal, the log and the mail."""
        rows: list[Statement] = []
        for entry in entries:
            subject = f"{entry.namespec} " if entry.namespec else ""
            self.log.line(entry.level, subject + entry.text)
            rows.append(journal.entry_row(entry))
        for item in news:
            rows.extend(self._send(item))
        self.journal.write(rows)

    def _send(self, item: News, id: str | None = None) -> list[Statement]:
        watch = self.watches.get(item.namespec)
        options = watch.options if watch else self._options_of(item.namespec)
        if item.what not in options.notify_on:
            return []
        if id is None:
            self._news += 1
            id = f"{item.namespec}@{item.at:.3f}/{item.what}/{self._news}"
        waiting = self.notifier.send(item, id, options.notify)
        return [journal.news_row(id, item, waiting=waiting)]

    def _send_waiting(self, at: float) -> None:
        """News of the last hour that the listener before us did not get out."""
        rows = self.journal.rows(
            "SELECT id, body FROM news WHERE waiting AND at > ? ORDER BY at", (at - 3600,)
        )
        for id, body in rows:
            try:
                self.journal.write(self._send(report.news(json.loads(body)), id))
            except (TypeError, ValueError, KeyError, IndexError):
                continue

    def _deliveries(self) -> None:
        rows: list[Statement] = []
        for delivery in self.notifier.drain():
            key = f"notify {delivery.target}"
            trouble = None if delivery.ok else f"news to {delivery.target}: {delivery.text}"
            self.log.trouble(key, trouble)
            if delivery.final:
                rows.append(journal.news_sent(delivery.news_id))
        self.journal.write(rows)

    def _journal_trouble(self) -> None:
        if self.journal.said:
            self.log.error(f"journal: {self.journal.said}")
            self.journal.said = None
        trouble = self.journal.trouble
        if trouble is not None:
            trouble = f"journal: {trouble}; going on in memory, without restarts"
        self.log.trouble("journal", trouble)
        if self._in_memory and self.journal.durable:
            # What a listener before us began could not be read until now.
            self._resume_open(self.clock.at())
        self._in_memory = not self.journal.durable

    def _facts(self) -> dict[str, Any]:
        usage = os.times()
        return {
            "pid": os.getpid(),
            "pid_space": host.pid_space(),
            "ticks": self.ticks,
            "last_tick": self.last_tick,
            "seen_at": time.time(),  # now by the machine's clock, which may have been set
            "stepped": round(self.clock.stepped(), 3),  # since, and by so much
            "rss": _own_rss(),
            "cpu_seconds": round(usage.user + usage.system, 3),
            "events_dropped": self.dropped,
            "period": self.period,
        }

    def _now_and_then(self, at: float) -> None:
        """What a tick does only every few minutes."""
        duties: tuple[tuple[str, float, Callable[[float], None]], ...] = (
            ("save", SAVE_EVERY, self._save),
            ("tidy", TIDY_EVERY, self._tidy),
            ("heartbeat", HEARTBEAT_EVERY, self._heartbeat),
        )
        for name, period, duty in duties:
            if at >= self._due[name]:
                self._due[name] = at + period
                duty(at)

    def _save(self, at: float) -> None:
        self.journal.write(
            [journal.watch_row(name, at, watch.dump()) for name, watch in self.watches.items()]
        )
        step = self.clock.stepped()
        if abs(step) > 60:
            self.log.trouble(
                "clock",
                f"the clock was set by {units.time(step)}: times in the journal stay on the old "
                "clock until the listener is started again",
            )

    def _tidy(self, at: float) -> None:
        self.journal.write(journal.tidy(at, self.config.options("", "").keep))

    def _heartbeat(self, at: float) -> None:
        workers = sum(len(watch.workers()) for watch in self.watches.values())
        told = sum(watch.told_count for watch in self.watches.values())
        self.log.info(
            f"alive: {len(self.watches)} programs, {workers} workers, {told} told; "
            f"{self.ticks} ticks, {self.dropped} events dropped, "
            f"RSS {units.size(_own_rss())}, {sum(os.times()[:2]):.1f} s of CPU"
        )


def _resumed(watches: list[Watch], paused: list[Watch]) -> str:
    """What a `resume` has ended, and whom it was not needed for."""
    said = f"resume {', '.join(watch.namespec for watch in paused)}" if paused else ""
    others = [watch.namespec for watch in watches if watch not in paused]
    if not others:
        return said
    were = f"{', '.join(others)} {'was' if len(others) == 1 else 'were'} not paused"
    return f"{said}; {were}" if said else were


def _procedure_row(watch: Watch) -> Statement:
    procedure = watch.procedure
    assert procedure is not None
    return journal.procedure_row(
        procedure.id, procedure.namespec, procedure.begun, procedures.to_json(procedure)
    )


def _procedure_end(watch: Watch, at: float) -> Statement:
    assert watch.last_action is not None
    return journal.procedure_end(str(watch.last_action["id"]), at)


def _sample_row(snapshot: Snapshot) -> Statement:
    """What the curves are drawn from, once a minute."""
    return journal.sample_row(snapshot.namespec, snapshot.at, report.sample(snapshot))


def _own_rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def keep_stdout_clean() -> int:
    """Put the protocol's stdout away and make fd 1 stderr. Returns the protocol's descriptor."""
    private = os.dup(1)  # not inheritable
    os.dup2(2, 1)
    return private
