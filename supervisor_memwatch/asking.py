"""Ask the running listener for something, and give its answer.

The message goes through Supervisor's own authenticated RPC (sendRemoteCommEvent), which has no
reply: the listener answers by the message's id, in its journal and in its log. The first is read
where we may read it, the second through Supervisor. Before anything is sent it is made sure that
somebody is there to hear it. What the listener does about it is the listener's and policy.py's.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
import uuid
from collections.abc import Mapping
from typing import NamedTuple

from . import messages, units
from .config import Config, namespec
from .control import RpcError, Supervisor, without_login
from .journal import JournalError, NoJournal, Reader

ANSWERS = ("accepted", "held", "refused")
SILENT = "silent"
TIMEOUT = 10.0  # seconds for a call of the RPC: a busy supervisord is slow
TICKS = 3.0  # an answer is waited for so many ticks
AT_LEAST = 15.0  # and not less than so many seconds
TAIL = 16 * 1024  # bytes of the listener's log in which the answer is sought
JOURNAL_EVERY, LOG_EVERY = 0.1, 1.0  # seconds between two looks
FOLLOW_EVERY, GONE_EVERY = 0.5, 5.0  # the same, while the end of an action is awaited
FOLLOWED = 1800.0  # the end of an action is awaited for so long
# Supervisor's states in which a listener will hear of it, and those that a listener which is
# being started again passes through: they are no news until they have lasted.
UP = ("RUNNING", "STARTING")
PASSING = ("STOPPING", "EXITED", "BACKOFF")
LASTING, PASSING_EVERY = 3.0, 0.25  # seconds; and between two looks


class Answer(NamedTuple):
    """What the listener said: "accepted", "held" or "refused"; "silent": it did not or could not.

    reason: why, in words; of silence also what to do.
    """

    answer: str
    reason: str
    id: str = ""


def ask(
    config: Config,
    command: str,
    target: str = "",
    *,
    seconds: float | None = None,
    force: bool = False,
    by: str = "somebody",
    supervisor: Supervisor | None = None,
    wait: float | None = None,
) -> Answer:
    """Send a request and wait for the answer.

    command: one of messages.COMMANDS. target: a namespec, a group, a worker's pid, or empty for
    every program. seconds: of a pause. wait: seconds; None: three ticks, at least 15 s.

    Raises RpcError where Supervisor cannot be asked, JournalError where the answer could not be
    read; both in words that say what to do.
    """
    id = str(uuid.uuid4())
    text = messages.write(id, time.time(), command, target, seconds, force, by)
    if supervisor is None:
        with connect(config) as made:
            return _put(made, config, id, text, wait)
    return _put(supervisor, config, id, text, wait)


def connect(
    config: Config,
    url: str | None = None,
    username: str | None = None,
    password: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Supervisor:
    """A client of the RPC: what is given comes first, then what stands in the address, then
    SUPERVISOR_USERNAME and _PASSWORD of the environment, then [supervisorctl], then the server's
    section. A password goes with no other name than its own."""
    url = url or config.server_url
    logins = (
        without_login(url or "")[1] or (None, None),
        (environ.get("SUPERVISOR_USERNAME"), environ.get("SUPERVISOR_PASSWORD")),
        config.credentials(url or ""),
    )
    username = username or next((name for name, _ in logins if name), None)
    if password is None:
        theirs = (secret for name, secret in logins if secret and (name or username) == username)
        password = next(theirs, None)
    return Supervisor(url, username, password, TIMEOUT)


def words(answer: Answer) -> str:
    """One printable line."""
    return f"{answer.answer}: {units.printable(answer.reason, 1000)}"


def exit_status(answer: Answer) -> int:
    """0: accepted, or done where that was waited for; 1: the answer is no; 2: there is none."""
    return {"accepted": 0, "done": 0, SILENT: 2}.get(answer.answer, 1)


def myself() -> str:
    """Who asks, for the journal: the user's name, and through whom where that is sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{behind} (as {name})" if behind and behind != name else name


def _put(supervisor: Supervisor, config: Config, id: str, text: str, wait: float | None) -> Answer:
    """Make sure that somebody will hear it and that the answer can be read; then send and wait."""
    reader = _reader(config)
    try:
        listener = _listener(supervisor, config)
        if isinstance(listener, Answer):
            return listener
        if reader is None:
            _make_sure_of_the_log(supervisor, config, listener)
        late = _late(time.time())
        try:
            supervisor.send_event("memwatch", text)
        except RpcError as error:
            if error.unanswered:
                raise RpcError(error.code, f"{error}; {late}") from None
            raise
        try:
            answer = _wait(supervisor, reader, listener, id, _patience(config, wait))
        except JournalError as error:
            raise JournalError(f"{error}; {late}") from None
        if answer.answer == SILENT:
            return answer._replace(reason=f"{answer.reason}; {late}")
        return answer
    finally:
        if reader is not None:
            reader.close()


def _reader(config: Config) -> Reader | None:
    """The journal; None where it is not there or not for us. Raises JournalError where it is
    there and of no use (another version's)."""
    try:
        return Reader(config.journal_path())
    except NoJournal:
        return None


def _listener(supervisor: Supervisor, config: Config) -> str | Answer:
    """The listener's name; or why nobody would hear us. Raises RpcError."""
    if config.listener is None:
        return Answer(
            SILENT,
            f"no [eventlistener] section of {config.path} starts memwatch, so nobody would hear "
            "it: add one with `command = memwatch listen`, then `supervisorctl update`",
        )
    group, options = config.listener
    if not _hears(options.get("events", "")):
        return Answer(
            SILENT,
            f"the events of [eventlistener:{group}] lack REMOTE_COMMUNICATION, so it cannot hear "
            "requests: add it, then `supervisorctl update`",
        )
    for info in supervisor.programs():
        if info.get("group") == group:
            name = namespec(group, str(info.get("name")))
            down = _unless_down(name, str(info.get("statename")))
            return (_gone(supervisor, name) or name) if down else name
    return Answer(
        SILENT,
        f"Supervisor does not know [eventlistener:{group}] of {config.path}: "
        "`supervisorctl update` starts it, unless that is another supervisord's file",
    )


def _hears(events: str) -> bool:
    names = {name.strip().upper() for name in events.split(",")}
    return "%(" in events or bool(names & {"REMOTE_COMMUNICATION", "EVENT"})


def _unless_down(name: str, state: str) -> Answer | None:
    if state in UP:
        return None
    do = (
        "see its log (`supervisorctl tail {0} stderr`), then `supervisorctl start {0}`"
        if state in ("FATAL", "BACKOFF", "EXITED")
        else "`supervisorctl start {0}`"
    )
    return Answer(SILENT, f"the listener {name} is {state}: {do.format(name)}")


def _make_sure_of_the_log(supervisor: Supervisor, config: Config, listener: str) -> None:
    """Raises JournalError where the answer could be read nowhere."""
    try:
        supervisor.tail_stderr(listener, 0, 0)
    except RpcError as error:
        path = config.journal_path()
        why = "it may not be read" if os.path.exists(path) else "it is not there"
        raise JournalError(
            f"the answer could be read nowhere, so nothing was sent. {path}: {why}: ask as the "
            f"listener's user or as root. The log of {listener}: {error}"
        ) from None


def _patience(config: Config, wait: float | None) -> float:
    if wait is not None:
        return wait
    events = config.listener[1].get("events", "") if config.listener else ""
    periods = [float(period) for period in re.findall(r"TICK_(5|60|3600)\b", events)]
    return max(AT_LEAST, TICKS * min(periods, default=5.0))


def _wait(
    supervisor: Supervisor,
    reader: Reader | None,
    listener: str,
    id: str,
    patience: float,
) -> Answer:
    begun = time.monotonic()
    log_due = begun if reader is None else begun + LOG_EVERY
    while True:
        now = time.monotonic()
        last = now - begun >= patience
        found = answered(reader, id) if reader is not None else None
        if found is None and (last or now >= log_due):
            # A listener whose journal cannot be written answers in its log alone.
            found = _in_log(supervisor, listener, id) or _gone(supervisor, listener)
            if found is not None and found.answer == SILENT and reader is not None:
                found = answered(reader, id) or found  # it may have answered before it went
            log_due = time.monotonic() + LOG_EVERY
        if found is not None:
            return found._replace(id=id)
        if last:
            return Answer(SILENT, _no_answer(listener, patience), id)
        time.sleep(min(JOURNAL_EVERY, patience))


def answered(reader: Reader, id: str) -> Answer | None:
    """What the journal says of a request by now; None: nothing. Raises JournalError."""
    rows = reader.rows("SELECT answer, reason FROM answers WHERE id = ?", (id,))
    return Answer(rows[0][0], rows[0][1], id) if rows else None


def follow(
    supervisor: Supervisor, config: Config, accepted: Answer, patience: float = FOLLOWED
) -> Answer:
    """Wait for the end of what was accepted; the Answer has its result (done, failed, ...), that
    it is held after all, or that it has not ended within `patience` seconds.

    Raises JournalError where the journal, in which the end is, cannot be read.
    """
    reader = Reader(config.journal_path())
    try:
        listener = _listener(supervisor, config)
        until, gone_due = time.monotonic() + patience, 0.0
        while True:
            told = answered(reader, accepted.id)
            if told is not None and told.answer != "accepted":
                return told
            end = _end_of(reader, accepted.id)
            if end is not None:
                return end
            if time.monotonic() >= until:
                text = f"no end within {units.time(patience)}: it goes on, `memwatch history` tells"
                return Answer(SILENT, text, accepted.id)
            if time.monotonic() >= gone_due:
                gone = listener if isinstance(listener, Answer) else _gone(supervisor, listener)
                if gone is not None:
                    return gone._replace(id=accepted.id)
                gone_due = time.monotonic() + GONE_EVERY
            time.sleep(FOLLOW_EVERY)
    finally:
        reader.close()


def _end_of(reader: Reader, id: str) -> Answer | None:
    """How the action that the request `id` has led to ended; None: it has not yet."""
    for procedure, name, state in reader.rows(
        "SELECT id, namespec, state FROM procedures WHERE ended IS NOT NULL AND state LIKE ?",
        (f'%"{id}"%',),
    ):
        if json.loads(state).get("request") != id:
            continue
        for text, data in reader.rows(
            "SELECT text, data FROM entries WHERE kind = 'outcome' AND namespec = ?"
            " ORDER BY seq DESC LIMIT 20",
            (name,),
        ):
            outcome = json.loads(data)
            if outcome.get("procedure") == procedure:
                return Answer(str(outcome.get("result")), str(text), id)
    return None


def _in_log(supervisor: Supervisor, listener: str, id: str) -> Answer | None:
    try:
        text = supervisor.tail_stderr(listener, 0, TAIL).text
    except RpcError:
        # No log, or its last 16 KB begin inside a character: the next look may do better.
        return None
    found = re.findall(rf"^.* reply {id} ({'|'.join(ANSWERS)}): (.*)$", text, re.MULTILINE)
    return Answer(found[-1][0], found[-1][1], id) if found else None


def _gone(supervisor: Supervisor, listener: str) -> Answer | None:
    """The listener is down, or was removed, and that lasts; None: it is there or not known."""
    until = time.monotonic() + LASTING
    while True:
        try:
            state = _state(supervisor, listener)
        except RpcError:
            return None
        if state is None:
            return Answer(SILENT, f"the listener {listener} was removed from Supervisor")
        if state not in PASSING or time.monotonic() >= until:
            return _unless_down(listener, state)
        time.sleep(PASSING_EVERY)


def _state(supervisor: Supervisor, listener: str) -> str | None:
    """In Supervisor's words; None: it has no such program. Raises RpcError."""
    for info in supervisor.programs():
        if namespec(str(info.get("group")), str(info.get("name"))) == listener:
            return str(info.get("statename"))
    return None


def _late(sent: float) -> str:
    """What may still come of a message without an answer. `sent`: epoch seconds."""
    until = time.strftime("%H:%M:%S", time.localtime(sent + messages.TOO_OLD))
    return (
        f"it was sent and may still be carried out until {until} "
        f"({units.time(messages.TOO_OLD)}): see `memwatch history`"
    )


def _no_answer(listener: str, patience: float) -> str:
    return (
        f"no answer within {units.time(patience)}: {listener} runs and does not answer. Its log "
        f"may say why: `supervisorctl tail {listener} stderr`"
    )
