"""The journal: durable while it can be, in memory while it cannot, and nothing lost between."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor_memwatch import journal, report
from supervisor_memwatch.journal import Journal, JournalError, NoJournal, Reader
from supervisor_memwatch.model import Entry, News, WorkerId

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Journal]:
    made = Journal(str(path))
    yield made
    made.close()


def entry(text: str, at: float = 1.0) -> tuple[str, tuple[Any, ...]]:
    return journal.entry_row(Entry(at, "web", "seen", text))


def texts(path: Path) -> list[str]:
    """The entries as another process would read them."""
    reader = Reader(str(path))
    try:
        return [text for (text,) in reader.rows("SELECT text FROM entries ORDER BY seq")]
    finally:
        reader.close()


def no_space(opened: Journal) -> None:
    """The disk takes nothing more: SQLite's own ceiling stands in for it."""
    [(pages,)] = opened.rows("PRAGMA page_count")
    opened.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.rows(f"PRAGMA max_page_count = {pages}")


BIG = "x" * 50_000


# -- the file


def test_only_its_user_can_read_it(opened: Journal, path: Path) -> None:
    """The file, its companions and the lock are 0600 and a new directory 0700, whatever umask."""
    opened.write([entry("one")])
    made = sorted(path.parent.iterdir())
    names = [each.name for each in made]
    assert names == ["journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in made} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_keeps_a_write_ahead_log(opened: Journal) -> None:
    """Readers and the writer do not wait for each other."""
    assert opened.rows("PRAGMA journal_mode") == [("wal",)]
    assert opened.durable


def test_an_empty_file_is_brought_to_the_newest_version(path: Path) -> None:
    """From version 0, and again with nothing to do."""
    path.parent.mkdir()
    path.touch(0o600)
    for _ in range(2):
        made = Journal(str(path))
        assert made.rows("PRAGMA user_version") == [(len(journal.MIGRATIONS),)]
        made.write([entry("kept")])
        made.close()
    assert texts(path) == ["kept", "kept"]


def test_an_older_file_keeps_its_rows_through_a_migration(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each script once, in order."""
    first = Journal(str(path))
    first.write([entry("old")])
    first.close()
    more = (*journal.MIGRATIONS, "CREATE TABLE novelty (x);", "ALTER TABLE novelty ADD y;")
    monkeypatch.setattr(journal, "MIGRATIONS", more)
    for _ in range(2):
        second = Journal(str(path))
        assert second.durable
        assert second.write([("INSERT INTO novelty VALUES (1, 2)", ())])
        second.close()
    assert texts(path) == ["old"]


def test_a_migration_that_fails_leaves_the_version_it_began_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a script that was not finished is in the file."""
    Journal(str(path)).close()
    known = len(journal.MIGRATIONS)
    script = "CREATE TABLE novelty (x); CREATE TABLE novelty (x);"
    monkeypatch.setattr(journal, "MIGRATIONS", (*journal.MIGRATIONS, script))
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.Error):
        journal._prepare(db)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (known,)
        assert db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'novelty'").fetchall() == []


def test_a_newer_file_is_left_alone(path: Path) -> None:
    """Going on in memory; the text says what to do."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    made = Journal(str(path))
    assert not made.durable
    assert "newer memwatch (version 99" in str(made.trouble)
    assert "update memwatch" in str(made.trouble)
    made.write([entry("in memory")])
    assert made.rows("SELECT text FROM entries") == [("in memory",)]
    made.close()
    assert path.read_bytes() == before


def test_garbage_is_moved_aside(path: Path) -> None:
    """Kept for whoever wants to look at it; a new journal is begun, and said once."""
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    made = Journal(str(path))
    assert made.durable
    assert "a new journal is begun" in str(made.said)
    made.write([entry("new")])
    made.close()
    [aside] = path.parent.glob("journal.db.damaged-*")
    assert aside.read_bytes() == b"garbage" * 1000
    assert texts(path) == ["new"]


@pytest.mark.parametrize("found_by", ["reading", "writing"])
def test_damage_that_is_found_later_is_moved_aside_then(path: Path, found_by: str) -> None:
    """The first page is whole, the others are not: the write that meets it is not lost."""
    first = Journal(str(path))
    first.write([entry("old"), journal.watch_row("web", 1.0, "y" * 20_000)])
    first.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))

    made = Journal(str(path))
    if found_by == "reading":
        assert made.rows("SELECT state FROM watches") == []
    assert made.write([entry("new")])
    assert made.durable
    assert "a new journal is begun" in str(made.said)
    made.close()
    assert texts(path) == ["new"]
    assert len(list(path.parent.glob("journal.db.damaged-*"))) >= 1


# -- the lock


def test_a_second_listener_is_refused_with_the_firsts_pid(path: Path) -> None:
    """Two would act twice. The lock goes with the process, however it ends."""
    hold = (
        "import sys; from supervisor_memwatch.journal import Journal; "
        f"held = Journal({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(JournalError, match=rf"another listener \(pid {other.pid}\)"):
            Journal(str(path))
        other.kill()
    made = Journal(str(path))
    assert made.durable
    made.close()


def test_a_lock_that_another_takes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory could not be made at first; when it can, somebody else holds the journal."""
    monkeypatch.setattr(journal, "RETRY", 0.0)
    blocked = tmp_path / "state"
    blocked.write_text("in the way")
    made = Journal(str(blocked / "journal.db"))
    assert not made.durable
    blocked.unlink()

    def taken(path: str) -> int:
        raise JournalError(f"{path}: another listener (pid 1) uses this journal")

    monkeypatch.setattr(journal, "_lock", taken)
    assert not made.write([entry("one")])
    assert "another listener" in str(made.trouble)
    assert made.rows("SELECT text FROM entries") == [("one",)]
    made.close()


# -- durable, and not


def test_an_intention_is_synced_before_write_returns(opened: Journal) -> None:
    """`sure`: the commit itself waits for the disk; an ordinary one does not."""
    seen: list[tuple[str, int]] = []
    synced = {1: "NORMAL", 2: "FULL"}

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            seen.append((statement, opened._db.execute("PRAGMA synchronous").fetchone()[0]))

    opened._db.set_trace_callback(trace)
    assert opened.write([entry("plan")], sure=True)
    assert opened.write([entry("ordinary")])
    opened._db.set_trace_callback(None)
    assert [synced[level] for _, level in seen] == ["FULL", "NORMAL"]


def test_what_was_written_survives_sigkill(path: Path) -> None:
    """No close, no flush: the process is gone in the middle of its life."""
    code = (
        "import os, signal; from supervisor_memwatch import journal; "
        f"made = journal.Journal({str(path)!r}); "
        "made.write([journal.procedure_row('web@1', 'web', 1.0, {'step': 'planned'})], sure=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    made = Journal(str(path))
    assert made.rows("SELECT id, state FROM procedures") == [("web@1", '{"step": "planned"}')]
    made.close()


def test_a_write_is_all_or_nothing(opened: Journal, path: Path) -> None:
    """A row that cannot be written takes its transaction with it, into memory."""
    broken = ("INSERT INTO entries (nothing) VALUES (1)", ())
    with pytest.raises(sqlite3.Error):
        opened.write([entry("first"), broken])
    assert texts(path) == []


def test_a_full_disk_makes_it_memory_and_room_makes_it_the_file_again(
    opened: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for samples nothing of before, meanwhile and after is lost, nothing is there twice."""
    opened.write(
        [
            entry("before"),
            journal.procedure_row("web@1", "web", 1.0, {}),
            journal.watch_row("web", 1.0, {"rung": 2}),
            journal.sample_row("web", 1.0, []),
        ]
    )
    no_space(opened)
    assert not opened.write([entry("meanwhile " + BIG), journal.procedure_end("web@1", 2.0)])
    assert "full" in str(opened.trouble)
    assert opened.rows("SELECT state FROM watches") == [('{"rung": 2}',)]
    assert not opened.write([entry("still"), journal.sample_row("web", 2.0, [])])
    assert texts(path) == ["before"]

    monkeypatch.setattr(journal, "RETRY", 0.0)
    assert opened.write([entry("after")])
    assert opened.durable and opened.trouble is None
    assert [text.split()[0] for text in texts(path)] == ["before", "meanwhile", "still", "after"]
    assert opened.rows("SELECT at FROM samples") == [(1.0,)]
    assert opened.rows("SELECT id, ended FROM procedures") == [("web@1", 2.0)]


def test_a_return_that_fails_half_way_leaves_nothing_behind(
    opened: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and what was copied is there once."""
    no_space(opened)
    opened.write([journal.watch_row("web", 1.0, {}), entry("one " + BIG)])
    assert not opened.durable
    monkeypatch.setattr(journal, "RETRY", 0.0)
    copy, failing = journal._copy, [True]

    def fail_once(source: Any, target: Any, table: str, columns: str = "*") -> None:
        if table == "entries" and failing:
            failing.pop()
            raise sqlite3.OperationalError("database or disk is full")
        copy(source, target, table, columns)

    monkeypatch.setattr(journal, "_copy", fail_once)
    assert not opened.write([entry("two")])
    assert opened.write([entry("three")])
    assert [text.split()[0] for text in texts(path)] == ["one", "two", "three"]
    assert opened.rows("SELECT saved FROM watches") == [(1.0,)]


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_memory_holds_no_samples_and_the_newest_entries_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """However long the trouble lasts; the newest ones come back to the file."""
    monkeypatch.setattr(journal, "RETRY", 3600.0)
    blocked = tmp_path / "state"
    if when == "from the start":
        blocked.write_text("in the way")
        made = Journal(str(blocked / "journal.db"))
    else:
        made = Journal(str(blocked / "journal.db"))
        no_space(made)
        made.write([journal.watch_row("web", 1.0, BIG)])
    assert not made.durable
    for _ in range(3):
        made.write([journal.sample_row("web", 1.0, []) for _ in range(10)])
        made.write([entry(str(number)) for number in range(5000)])
    assert made.rows("SELECT count(*) FROM samples") == [(0,)]
    assert made.rows("SELECT count(*) FROM entries") == [(10_000,)]
    assert made.rows("SELECT text FROM entries ORDER BY seq DESC LIMIT 1") == [("4999",)]
    if when == "from the start":
        blocked.unlink()
    monkeypatch.setattr(journal, "RETRY", 0.0)
    assert made.write([entry("after"), journal.sample_row("web", 2.0, [])])
    assert made.rows("SELECT at FROM samples") == [(2.0,)]
    assert made.rows("SELECT count(*) FROM entries") == [(10_001,)]
    made.close()


def test_a_read_that_fails_makes_it_memory_and_repeats_nothing(
    opened: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back in the file, what was read from it is there once."""
    opened.write([entry("before")])
    assert opened.rows("SELECT nothing FROM entries") == []
    assert not opened.durable
    assert not opened.write([entry("meanwhile")])
    monkeypatch.setattr(journal, "RETRY", 0.0)
    assert opened.write([entry("after")])
    assert texts(path) == ["before", "meanwhile", "after"]


def test_a_directory_that_cannot_be_made_makes_it_memory(tmp_path: Path) -> None:
    """Below a regular file: not even root can; the reason is said, without a traceback."""
    (tmp_path / "file").write_text("")
    deeper = Journal(str(tmp_path / "file" / "state" / "journal.db"))
    assert deeper.trouble == f"{tmp_path}/file/state/journal.db: Not a directory"
    deeper.close()
    made = Journal(str(tmp_path / "file" / "journal.db"))
    assert not made.durable
    assert made.trouble == f"{tmp_path}/file/journal.db: {tmp_path}/file is not a directory"
    assert not made.write([entry("one")], sure=True)
    assert made.rows("SELECT text FROM entries") == [("one",)]
    made.close()


def test_another_writer_makes_it_memory_and_not_wait(opened: Journal, path: Path) -> None:
    """Somebody holds the file with a transaction of theirs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not opened.write([entry("one")])
        assert "locked" in str(opened.trouble)
        other.execute("ROLLBACK")


def test_a_reader_disturbs_nobody(opened: Journal, path: Path) -> None:
    """It sees what it began with, and the writer goes on."""
    opened.write([entry("one")])
    reader = Reader(str(path))
    reader._db.execute("BEGIN")
    assert len(reader.rows("SELECT text FROM entries")) == 1
    assert opened.write([entry("two")], sure=True)
    assert len(reader.rows("SELECT text FROM entries")) == 1
    reader._db.execute("COMMIT")
    assert len(reader.rows("SELECT text FROM entries")) == 2
    reader.close()


def test_a_reader_cannot_write(opened: Journal, path: Path) -> None:
    """Every other command only looks."""
    opened.write([entry("one")])
    reader = Reader(str(path))
    with pytest.raises(JournalError, match="readonly"):
        reader.rows("DELETE FROM entries")
    reader.close()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "has the listener run"),
        (b"garbage" * 1000, "not a database: restart the listener: it moves a damaged journal"),
        (b"", "no journal there yet: has the listener run"),
    ],
)
def test_a_reader_says_what_is_wrong(path: Path, content: bytes | None, text: str) -> None:
    """No journal, none at all, nothing in it yet: one sentence each, with what to do."""
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoJournal, match=text):
        Reader(str(path))


def test_a_journal_that_cannot_be_opened_says_who_may(tmp_path: Path) -> None:
    """As where its -wal and -shm are another user's."""
    path = tmp_path / "journal.db"
    Journal(str(path)).close()
    (tmp_path / "journal.db-wal").mkdir()
    with pytest.raises(NoJournal, match=r"unable to open.*: read it as the listener's user or as"):
        Reader(str(path))


def test_a_name_with_marks_of_an_address_is_a_name(tmp_path: Path) -> None:
    """`?`, `#` and `%` in a path are the path's own."""
    path = tmp_path / "a?b#c%20d" / "journal.db"
    made = Journal(str(path))
    made.write([entry("one")])
    made.close()
    assert texts(path) == ["one"]


# -- what is kept


def test_tidy_forgets_what_is_old_and_thins_what_is_older_than_a_day(opened: Journal) -> None:
    """One sample in ten minutes is left of each program; open procedures stay for ever."""
    now = 100 * DAY
    minutes = [now - 2 * DAY + 60.0 * n for n in range(2 * 24 * 60)]
    rows = [journal.sample_row(name, at, []) for name in ("web", "shop") for at in minutes]
    news = News("acted", 0.0, "web", "")
    for at in (now - 40 * DAY, now - 20 * DAY):
        rows += [
            entry(f"{at:.0f}", at),
            journal.sample_row("web", at, []),
            journal.procedure_row(f"open{at}", "web", at, {}),
            journal.procedure_row(f"ended{at}", "web", at, {}),
            journal.procedure_end(f"ended{at}", at),
            journal.watch_row(f"web{at}", at, {}),
            journal.news_row(f"news{at}", news._replace(at=at), waiting=True),
            journal.latest_row(f"web{at}", at, [], []),
            journal.answer_row(f"answer{at}", at, "accepted", ""),
        ]
    opened.write(rows)
    # As the listener does it: every hour.
    for hour in range(49):
        opened.write(journal.tidy(now - DAY + hour * HOUR / 2, 30 * DAY))

    def count(table: str, where: str = "1") -> int:
        return int(opened.rows(f"SELECT count(*) FROM {table} WHERE {where}")[0][0])

    old = f"at < {now - 30 * DAY}"
    for table in ("entries", "samples", "news"):
        assert count(table, old) == 0
        assert count(table, f"at = {now - 20 * DAY}") == 1
    assert count("procedures", "ended IS NULL") == 2
    assert count("procedures", "ended IS NOT NULL") == 1
    assert count("watches") == 1
    assert count("latest") == count("answers") == 0
    for name in ("web", "shop"):
        a_day_ago = f"namespec = '{name}' AND at >= {now - DAY}"
        assert count("samples", a_day_ago) == 24 * 60
        before = f"namespec = '{name}' AND at BETWEEN {now - 2 * DAY} AND {now - DAY - 600}"
        assert 24 * 6 - 2 <= count("samples", before) <= 24 * 6 + 2


def test_news_waits_until_it_is_sent(opened: Journal) -> None:
    """For the listener after this one; a row comes back as the value it was."""
    item = News("acted", 5.0, "web", "done", series=((1.0, 2.0),))
    opened.write([journal.news_row("a", item, waiting=True)])
    [(body, waiting)] = opened.rows("SELECT body, waiting FROM news")
    assert waiting == 1
    assert json.loads(body)[:4] == ["acted", 5.0, "web", "done"]
    opened.write([journal.news_sent("a")])
    assert opened.rows("SELECT waiting FROM news") == [(0,)]


def test_news_comes_back_as_the_value_it_was() -> None:
    """Those of a listener before there was advice, too."""
    item = News("suspected", 5.0, "web", "leak", series=((1.0, 2.0),), advice=("a", "b"))
    item = item._replace(also=WorkerId(11, 12))
    row = json.loads(json.dumps(item))
    assert report.news(row) == item
    assert report.news(row[:-2]) == item._replace(advice=(), also=None)


def test_closing_twice_is_closing(path: Path) -> None:
    """And the descriptor of the lock is given back once."""
    before = len(os.listdir("/proc/self/fd"))
    made = Journal(str(path))
    made.write([entry("one")])
    made.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
