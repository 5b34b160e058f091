"""The journal: what was seen, wanted, thought and done, in one SQLite file.

Intentions are committed to disk before the act, outcomes after. The listener writes, every
other command reads. Where the file cannot be written any more the journal goes on in memory,
says so once (`trouble`), and tries the file again every minute; `durable` tells which. Memory
holds no samples, and the newest entries only: the trouble may last for weeks.

Not here: what the rows mean. Values go in and come out as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from typing import Any

from .model import Entry, News

# One script per version; a file of version n is brought up to date by those after the nth.
MIGRATIONS = (
    """
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, at REAL NOT NULL, namespec TEXT NOT NULL, kind TEXT NOT NULL,
        level TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL);
    CREATE INDEX entries_at ON entries (at);
    CREATE TABLE procedures (
        id TEXT PRIMARY KEY, namespec TEXT NOT NULL, begun REAL NOT NULL, state TEXT NOT NULL,
        ended REAL);
    CREATE INDEX procedures_open ON procedures (ended) WHERE ended IS NULL;
    CREATE TABLE watches (namespec TEXT PRIMARY KEY, saved REAL NOT NULL, state TEXT NOT NULL);
    CREATE TABLE latest (
        namespec TEXT PRIMARY KEY, at REAL NOT NULL, snapshot TEXT NOT NULL, view TEXT NOT NULL);
    CREATE TABLE samples (
        at REAL NOT NULL, namespec TEXT NOT NULL, workers TEXT NOT NULL);
    CREATE INDEX samples_at ON samples (at);
    CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE answers (
        id TEXT PRIMARY KEY, at REAL NOT NULL, answer TEXT NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE news (
        id TEXT PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL, waiting INTEGER NOT NULL);
    CREATE INDEX news_waiting ON news (at) WHERE waiting;
    """,
)

# What goes into memory and back when the file has trouble; entries only come back.
CARRIED = ("watches", "procedures", "news", "answers", "facts", "latest")
# What holds for a journal in memory alone.
MODEST = """
    CREATE TEMP TRIGGER no_samples BEFORE INSERT ON main.samples BEGIN SELECT RAISE(IGNORE); END;
    CREATE TEMP TRIGGER few_entries AFTER INSERT ON main.entries
        BEGIN DELETE FROM entries WHERE seq <= new.seq - 10000; END;
"""
RETRY = 60.0  # seconds between attempts to get back to the file
BUSY = 0.25  # seconds to wait for another writer: nothing waits inside a tick
THIN_AFTER = 86400.0  # samples older than a day are thinned to one in ten minutes


class JournalError(Exception):
    """The journal cannot be used; the text says why and what to do."""


class NoJournal(JournalError):
    """There is none yet, or none that can be read from here."""


class Journal:
    """The listener's side: writes that never raise."""

    def __init__(self, path: str) -> None:
        """Raises JournalError if another listener holds the journal."""
        self.path = path
        self.trouble: str | None = None
        self.said: str | None = None  # the trouble that was logged already
        self._tried = 0.0
        self._lock: int | None = None
        self._db = self._open()

    @property
    def durable(self) -> bool:
        """Whether what is written will be there after a crash."""
        return self.trouble is None

    def _open(self) -> sqlite3.Connection:
        self._tried = time.monotonic()
        try:
            db = self._open_file()
        except (OSError, sqlite3.Error) as error:
            self.trouble = self._words(error)
            return _in_memory()
        self.trouble = None
        return db

    def _open_file(self) -> sqlite3.Connection:
        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700)
        if self._lock is None:
            self._lock = _lock(self.path + ".lock")
        # Made by us, so that it is 0600 from its first moment; SQLite gives its -wal and -shm
        # files the same mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
        try:
            return _prepare(db)
        except sqlite3.Error as error:
            db.close()
            if not _is_damaged(error) or not self._move_aside(error):
                raise
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return _prepare(sqlite3.connect(self.path, timeout=BUSY, isolation_level=None))

    def _move_aside(self, error: sqlite3.Error) -> bool:
        """Keep a damaged file for whoever wants to look at it, out of the new one's way."""
        aside = f"{self.path}.damaged-{int(time.time())}"
        try:
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(self.path + suffix):
                    os.rename(self.path + suffix, aside + suffix)
        except OSError:
            return False
        self.said = f"{self._words(error)}; kept as {aside}, a new journal is begun"
        return True

    def write(
        self, statements: Iterable[tuple[str, tuple[Any, ...]]], *, sure: bool = False
    ) -> bool:
        """One transaction; False if it is only in memory.

        `sure`: on the disk before this returns (an intention), not only in its cache.
        """
        work = list(statements)
        if not work:
            return self.durable
        if not self.durable and time.monotonic() - self._tried >= RETRY:
            self._back_to_file()
        try:
            _transact(self._db, work, sure)
        except sqlite3.Error as error:
            self._to_memory(error)
            _transact(self._db, work, False)
        return self.durable

    def _to_memory(self, error: sqlite3.Error) -> None:
        self.trouble = f"{self.path}: {error}"
        self._tried = time.monotonic()
        memory = _in_memory()
        for table in CARRIED:
            # What is remembered must outlive the file's trouble: above all open procedures.
            try:
                _copy(self._db, memory, table)
            except sqlite3.Error:
                continue
        self._db.close()
        self._db = memory
        if _is_damaged(error) and self._move_aside(error):
            self._back_to_file()

    def _back_to_file(self) -> None:
        memory = self._db
        self._tried = time.monotonic()
        try:
            db = self._open_file()
        except (OSError, sqlite3.Error, JournalError) as error:
            self.trouble = self._words(error)
            return
        try:
            # All or nothing: an attempt that fails half-way leaves nothing to be copied twice.
            db.execute("BEGIN IMMEDIATE")
            for table in CARRIED:
                _copy(memory, db, table)
            _copy(memory, db, "entries", "at, namespec, kind, level, text, data")
            db.execute("COMMIT")
        except sqlite3.Error as error:
            db.close()
            self.trouble = self._words(error)
            return
        memory.close()
        self._db, self.trouble = db, None

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Read; an unreadable journal reads as empty."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._to_memory(error)
            return []

    def _words(self, error: Exception) -> str:
        if isinstance(error, JournalError):
            return str(error)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, FileExistsError):
            reason = f"{error.filename} is not a directory"
        return f"{self.path}: {reason}"

    def close(self) -> None:
        try:
            self._db.close()
        except sqlite3.Error:
            pass
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken: neither space nor patience will mend it.

    SQLite's codes for that (CORRUPT, NOTADB) have no class of their own in Python.
    """
    return type(error) is sqlite3.DatabaseError


def _lock(path: str) -> int:
    """Held while we live: two listeners with one journal would act twice."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 20).decode("ascii", "replace").strip() or "?"
        os.close(fd)
        raise JournalError(
            f"{path}: another listener (pid {holder}) uses this journal; "
            "two [eventlistener] sections for memwatch? Keep one, or give each its journal"
        ) from None
    except OSError:
        os.close(fd)
        raise
    try:
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError:
        pass  # the pid is for the other's error text; the disk may be full
    return fd


def _prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    """Bring a new or old file up to date. Raises sqlite3.Error."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise sqlite3.OperationalError(
            f"written by a newer memwatch (version {version}, this one knows {len(MIGRATIONS)}): "
            "update memwatch, or name another file in `journal`"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    # KB of pages. SQLite's usual 2 MB would fill up with what was written and is not read again.
    db.execute("PRAGMA cache_size = -256")
    for number in range(version, len(MIGRATIONS)):
        db.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        )
    return db


def _in_memory() -> sqlite3.Connection:
    db = _prepare(sqlite3.connect(":memory:", isolation_level=None))
    db.executescript(MODEST)
    return db


def _transact(db: sqlite3.Connection, work: list[tuple[str, tuple[Any, ...]]], sure: bool) -> None:
    if sure:
        db.execute("PRAGMA synchronous = FULL")
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in work:
                db.execute(sql, values)
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    finally:
        if sure:
            db.execute("PRAGMA synchronous = NORMAL")


def _copy(
    source: sqlite3.Connection, target: sqlite3.Connection, table: str, columns: str = "*"
) -> None:
    rows = source.execute(f"SELECT {columns} FROM {table}").fetchall()
    if not rows:
        return
    names = "" if columns == "*" else f"({columns})"
    marks = ", ".join("?" * len(rows[0]))
    target.executemany(f"INSERT OR REPLACE INTO {table} {names} VALUES ({marks})", rows)


# -- what is written: one function a row -------------------------------------------------

Statement = tuple[str, tuple[Any, ...]]


def entry_row(entry: Entry) -> Statement:
    return (
        "INSERT INTO entries (at, namespec, kind, level, text, data) VALUES (?, ?, ?, ?, ?, ?)",
        (
            entry.at,
            entry.namespec,
            entry.kind,
            entry.level,
            entry.text,
            json.dumps(entry.data),
        ),
    )


def procedure_row(id: str, namespec: str, begun: float, state: object) -> Statement:
    return (
        "INSERT OR REPLACE INTO procedures (id, namespec, begun, state) VALUES (?, ?, ?, ?)",
        (id, namespec, begun, json.dumps(state)),
    )


def procedure_end(id: str, at: float) -> Statement:
    return ("UPDATE procedures SET ended = ? WHERE id = ?", (at, id))


def watch_row(namespec: str, at: float, state: object) -> Statement:
    return (
        "INSERT OR REPLACE INTO watches (namespec, saved, state) VALUES (?, ?, ?)",
        (namespec, at, json.dumps(state)),
    )


def latest_row(namespec: str, at: float, snapshot: object, view: object) -> Statement:
    return (
        "INSERT OR REPLACE INTO latest (namespec, at, snapshot, view) VALUES (?, ?, ?, ?)",
        (namespec, at, json.dumps(snapshot), json.dumps(view)),
    )


def latest_gone(namespec: str) -> Statement:
    """No longer a watched program."""
    return ("DELETE FROM latest WHERE namespec = ?", (namespec,))


def sample_row(namespec: str, at: float, workers: object) -> Statement:
    return (
        "INSERT INTO samples (at, namespec, workers) VALUES (?, ?, ?)",
        (at, namespec, json.dumps(workers)),
    )


def fact_row(key: str, value: object) -> Statement:
    return ("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (key, json.dumps(value)))


def answer_update(id: str, answer: str, reason: str) -> Statement:
    """What has become of a request that was accepted."""
    return ("UPDATE answers SET answer = ?, reason = ? WHERE id = ?", (answer, reason, id))


def answer_row(id: str, at: float, answer: str, reason: str) -> Statement:
    return (
        "INSERT OR IGNORE INTO answers (id, at, answer, reason) VALUES (?, ?, ?, ?)",
        (id, at, answer, reason),
    )


def news_row(id: str, news: News, *, waiting: bool) -> Statement:
    return (
        "INSERT OR REPLACE INTO news (id, at, body, waiting) VALUES (?, ?, ?, ?)",
        (id, news.at, json.dumps(news), waiting),
    )


def news_sent(id: str) -> Statement:
    """Delivered, or lost for good."""
    return ("UPDATE news SET waiting = 0 WHERE id = ?", (id,))


def tidy(at: float, keep: float) -> list[Statement]:
    """Forget what is older than `keep` seconds; thin samples older than a day."""
    old = at - keep
    return [
        ("DELETE FROM entries WHERE at < ?", (old,)),
        ("DELETE FROM samples WHERE at < ?", (old,)),
        (
            "DELETE FROM samples WHERE at < ? AND at > ? AND rowid NOT IN ("
            "SELECT min(rowid) FROM samples WHERE at < ? GROUP BY namespec, CAST(at / 600 AS INT))",
            (at - THIN_AFTER, at - THIN_AFTER - 7200, at - THIN_AFTER),
        ),
        ("DELETE FROM procedures WHERE ended < ?", (old,)),
        ("DELETE FROM answers WHERE at < ?", (at - 86400,)),
        ("DELETE FROM news WHERE at < ?", (old,)),
        ("DELETE FROM watches WHERE saved < ?", (old,)),
        ("DELETE FROM latest WHERE at < ?", (at - 86400,)),
    ]


class Reader:
    """Every other command's side: reads a journal that a listener may be writing."""

    def __init__(self, path: str) -> None:
        """Raises JournalError: NoJournal where there is none that can be read, else where it is
        another version's."""
        self.path = path
        if not os.path.exists(path):
            raise NoJournal(_nothing_there(path))
        try:
            self._db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=5.0)
        except sqlite3.Error as error:
            raise NoJournal(_advice(path, error)) from None
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            self.close()
            raise NoJournal(_advice(path, error)) from None
        if version == len(MIGRATIONS):
            return
        self.close()
        if version == 0:  # somebody's empty file, or a listener that is about to write
            raise NoJournal(_nothing_there(path))
        raise JournalError(
            f"{path}: journal version {version}, this memwatch reads {len(MIGRATIONS)}: "
            "use the memwatch that the listener runs"
        )

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Raises JournalError."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(_advice(self.path, error)) from None

    def close(self) -> None:
        self._db.close()


def _nothing_there(path: str) -> str:
    return (
        f"{path}: no journal there yet: has the listener run? If it has, its log says why "
        "it could not write there"
    )


def _advice(path: str, error: sqlite3.Error) -> str:
    """An error of SQLite's, and what to do about it."""
    if _is_damaged(error):
        do = ": restart the listener: it moves a damaged journal aside and begins another"
    elif "locked" in str(error):
        do = ": somebody else holds it: try again"
    elif not os.access(path, os.R_OK) or "open" in str(error) or "readonly" in str(error):
        do = ": read it as the listener's user or as root"  # its -wal and -shm as well
    else:
        do = ": the listener's log may say more"
    return f"{path}: {error}{do}"


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.path.abspath(path))
