"""More ways to use memory, as applications come by them: ORMs, templates, metrics, handlers.

Like behaviours.py, but what each call keeps is left to the libraries: leaks are told to the
counter as operations, and measured.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import behaviours
from behaviours import Behaviour

# -- healthy


class Alchemy(Behaviour):
    """SQLAlchemy on SQLite: its cache of compiled statements fills, then is bounded."""

    def start(self) -> None:
        import sqlalchemy as sql

        self.sql = sql
        path = os.path.join(self.counter.directory, f"rows-{os.getpid()}.db")
        self.engine = sql.create_engine(f"sqlite:///{path}")
        meta = sql.MetaData()
        columns = [sql.Column(f"c{i}", sql.Integer) for i in range(20)]
        self.table = sql.Table("rows", meta, sql.Column("id", sql.Integer, primary_key=True),
                               *columns)  # fmt: skip
        meta.create_all(self.engine)

    def work(self, number: int, path: str) -> None:
        r, sql = self.random, self.sql
        with self.engine.begin() as connection:
            chosen = r.sample(list(self.table.columns), r.randint(1, 6))
            connection.execute(self.table.insert().values(c1=number, c2=r.random()))
            for _ in range(self.p["queries"]):
                where = sql.and_(*(column > r.randint(0, 9) for column in chosen))
                connection.execute(sql.select(*chosen).where(where).limit(5)).fetchall()


class Queries(Behaviour):
    """Django with DEBUG on: a thread's connection keeps its last 9000 queries."""

    def start(self) -> None:
        from django.conf import settings

        settings.DEBUG = True
        self.thread = ThreadPoolExecutor(1)  # no request ends there, so nothing clears the log

    def work(self, number: int, path: str) -> None:
        self.thread.submit(self._query).result()

    def _query(self) -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            for _ in range(self.p["queries"]):
                name = "n" * self.random.randint(1, 2 * self.p["length"])
                cursor.execute(f"SELECT {self.random.random()} AS value, '{name}' AS name")
        if len(connection.queries_log) == connection.queries_log.maxlen:
            self.counter.filled()


class Frames(Behaviour):
    """pandas: tables of any size are grouped, the last few results stay."""

    def start(self) -> None:
        import numpy
        import pandas

        self.numpy, self.pandas = numpy, pandas
        self.kept: deque[Any] = deque(maxlen=self.p["keep"])

    def work(self, number: int, path: str) -> None:
        rows = self.random.randint(100, self.p["rows"])
        keys = self.numpy.random.randint(0, 50, rows)
        frame = self.pandas.DataFrame({"key": keys, "value": self.numpy.random.rand(rows)})
        frame["text"] = [f"row {i}" for i in range(rows)]
        self.kept.append(frame.groupby("key").agg({"value": "mean", "text": "max"}))


class Templates(Behaviour):
    """Jinja compiles templates by the hundred, and keeps as many as it may."""

    def start(self) -> None:
        import jinja2

        names = range(self.p["templates"])
        body = "{% for row in rows %}<p>{{ row.id }} {{ row.name|upper }}</p>{% endfor %}" * 10
        loader = jinja2.DictLoader({str(name): f"<h1>{name}</h1>{body}" for name in names})
        self.environment = jinja2.Environment(loader=loader, cache_size=400)

    def work(self, number: int, path: str) -> None:
        rows = [{"id": i, "name": f"row {i}"} for i in range(20)]
        name = str(self.random.randrange(self.p["templates"]))
        self.environment.get_template(name).render(rows=rows)


# -- leaking


class Memo(Behaviour):
    """A method under an unbounded lru_cache: it keeps every object that it was called on."""

    LEAKS = True

    def work(self, number: int, path: str) -> None:
        for i in range(self.p["times"]):
            Memo.Row(self.value(self.p["size"])).total(number * 1000 + i)
            self.counter.leak(0)

    class Row:
        def __init__(self, data: bytes) -> None:
            self.data = data

        @functools.lru_cache(maxsize=None)  # noqa: B019, UP033
        def total(self, number: int) -> int:
            return len(self.data) + number


class Handlers(Behaviour):
    """Each request makes a logger of its own name; logging never forgets one."""

    LEAKS = True

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["times"]):
            logger = logging.getLogger(f"request.{self.random.getrandbits(64):x}")
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
            logger.addHandler(handler)
            logger.debug("served")
            self.counter.leak(0)


class Labels(Behaviour):
    """Metrics with the user's id as a label: a histogram for each."""

    LEAKS = True

    def start(self) -> None:
        self.histograms: dict[tuple[str, str], list[float]] = {}

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["times"]):
            user = f"{self.random.getrandbits(60):x}"
            for method in ("GET", "POST"):
                self.histograms[method, user] = [self.random.random() for _ in range(15)]
            self.counter.leak(0)


class Threads(Behaviour):
    """Some requests start a thread that waits for what never comes."""

    LEAKS = True

    def work(self, number: int, path: str) -> None:
        if self.random.random() * self.p["one_in"] < 1:
            data = self.value(self.p["size"])
            threading.Thread(target=self._wait, args=(data,), daemon=True).start()
            self.counter.leak(len(data))

    @staticmethod
    def _wait(data: bytes) -> int:
        threading.Event().wait()
        return len(data)


class Tasks(Behaviour):
    """Each request leaves a task that waits for ever (an asynchronous application's)."""

    LEAKS = True

    def start(self) -> None:
        self.tasks: set[asyncio.Task[int]] = set()

    def leave(self) -> None:
        """To be called in the loop."""
        data = self.value(self.p["size"])
        self.tasks.add(asyncio.create_task(self._wait(data)))
        self.counter.leak(len(data))

    @staticmethod
    async def _wait(data: bytes) -> int:
        await asyncio.Event().wait()
        return len(data)


behaviours.BEHAVIOURS.update(
    (kind.__name__.lower(), kind)
    for kind in (Alchemy, Queries, Frames, Templates, Memo, Handlers, Labels, Threads, Tasks)
)
