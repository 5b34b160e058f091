"""How a recorded application uses memory: healthy ways and leaking ones, one class each.

A behaviour is called once per request, `work(number, path)`: the number of the request within
this process, from 1. What is leaked on purpose is said to the counter. `boot` runs at import (in
the master under --preload), `start` at the first request of a process. Sizes are bytes.

Each is real work on the real allocator; nothing here knows how it will be judged.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import mmap
import os
import random
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from counter import Counter

MB = 1024 * 1024


class Behaviour:
    """Healthy: what every request does anyway."""

    LEAKS = False  # what it is meant to do; of a library, its version decides

    def __init__(self, counter: Counter, begin: float, parameters: dict[str, Any]) -> None:
        self.counter = counter
        self.begin = begin  # epoch seconds: when the recording began
        self.p = parameters
        self.random = random.Random()
        self.boot()

    def boot(self) -> None:
        pass

    def start(self) -> None:
        pass

    def work(self, number: int, path: str) -> None:
        pass

    def answer(self) -> bytes:
        """A small document, made and thrown away."""
        rows = [{"id": i, "name": f"row {i}", "price": i * 1.07} for i in range(60)]
        return json.dumps(rows).encode()

    def elapsed(self) -> float:
        return time.time() - self.begin

    def value(self, size: float) -> bytes:
        """About so many bytes, written to: each size differs a little."""
        return b"x" * max(1, int(size * self.random.uniform(0.7, 1.3)))


# -- healthy


class Zipf(Behaviour):
    """A table of all that was ever asked for: it fills fast, then slower and slower."""

    def boot(self) -> None:
        self.table: dict[int, bytes] = {}
        weights = [1 / (i + 1) ** self.p["alpha"] for i in range(self.p["keys"])]
        total = 0.0
        self.cumulated = [total := total + weight for weight in weights]

    def work(self, number: int, path: str) -> None:
        keys = range(self.p["keys"])
        for key in self.random.choices(keys, cum_weights=self.cumulated, k=self.p["lookups"]):
            if key not in self.table:
                self.table[key] = self.value(self.p["size"])


class Lru(Behaviour):
    """A bounded cache of keys that hardly ever come twice: a straight line until it is full."""

    def boot(self) -> None:
        self.cache: OrderedDict[int, bytes] = OrderedDict()
        self.lock = threading.Lock()

    def work(self, number: int, path: str) -> None:
        with self.lock:
            for _ in range(self.p["lookups"]):
                self.cache[self.random.getrandbits(48)] = self.value(self.p["size"])
                if len(self.cache) > self.p["most"]:
                    self.cache.popitem(last=False)
                    self.counter.filled()


class Expiring(Behaviour):
    """Sessions that are forgotten after some time: it follows the load."""

    def boot(self) -> None:
        self.sessions: deque[tuple[float, bytes]] = deque()

    def work(self, number: int, path: str) -> None:
        now = time.time()
        self.sessions.append((now, self.value(self.p["size"])))
        while self.sessions[0][0] < now - self.p["seconds"]:
            self.sessions.popleft()


class Imports(Behaviour):
    """Heavy modules, each imported by the first request that needs it."""

    def start(self) -> None:
        modules = self.p["modules"]
        # Each process meets them at its own requests, in the same order.
        gap = self.p["every"]
        self.due = {int(gap * (i + self.random.uniform(0.7, 1.3))): m for i, m in
                    enumerate(modules, 1)}  # fmt: skip

    def work(self, number: int, path: str) -> None:
        if number in self.due:
            importlib.import_module(self.due[number])


class Giant(Behaviour):
    """Now and then a request that needs a lot for a moment."""

    def work(self, number: int, path: str) -> None:
        if self.random.random() < self.p["chance"]:
            size = self.random.uniform(0.4, 1.0) * self.p["mb"] * MB
            rows = [{"n": i, "text": "y" * 400} for i in range(int(size / 700))]
            json.dumps(rows)


class Step(Behaviour):
    """One big table, loaded once."""

    def work(self, number: int, path: str) -> None:
        if not hasattr(self, "table") and self.elapsed() > self.p["at"]:
            self.table = [self.value(1000) for _ in range(int(self.p["mb"] * 1000))]


class Sawtooth(Behaviour):
    """Cycles of garbage that only the collector frees, and it comes seldom."""

    def start(self) -> None:
        gc.disable()

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["cycles"]):
            node: dict[str, Any] = {"payload": self.value(self.p["size"])}
            node["self"] = node
        if number % self.p["collect"] == 0:
            gc.collect()


class Graph(Behaviour):
    """A big graph of objects made at import; requests merely read it."""

    def boot(self) -> None:
        self.graph = [{"id": i, "tags": [str(i), str(i + 1)]} for i in range(self.p["objects"])]
        self.at = 0

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["read"]):
            self.at = (self.at + 1) % len(self.graph)
            str(self.graph[self.at]["tags"])


class Mapped(Behaviour):
    """Pages of a big file, or of shared memory, touched one after the other."""

    def start(self) -> None:
        size = int(self.p["mb"] * MB)
        if self.p["shared"]:
            self.map = mmap.mmap(-1, size)
        else:
            path = os.path.join(self.counter.directory, "big.bin")
            with open(path, "ab") as file:
                file.truncate(size)
            with open(path, "r+b") as file:
                self.map = mmap.mmap(file.fileno(), size)
        self.at = 0

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["pages"]):
            self.at = (self.at + 4096) % len(self.map)
            if self.p["shared"]:
                self.map[self.at] = 1
            else:
                self.map[self.at]


class Thumbnails(Behaviour):
    """Pictures of any size made smaller; the last few are kept."""

    def start(self) -> None:
        self.kept: deque[bytes] = deque(maxlen=self.p["keep"])

    def work(self, number: int, path: str) -> None:
        from PIL import Image

        r = self.random
        picture = Image.new("RGB", (r.randint(200, self.p["side"]), r.randint(200, self.p["side"])))
        picture.thumbnail((r.randint(64, 300), r.randint(64, 300)))
        out = io.BytesIO()
        picture.save(out, "JPEG")
        self.kept.append(out.getvalue() * r.randint(1, 20))


class Fragments(Behaviour):
    """Buffers of any size, some of which stay for a while."""

    def boot(self) -> None:
        self.kept: deque[bytearray] = deque(maxlen=self.p["keep"])

    def work(self, number: int, path: str) -> None:
        for _ in range(self.p["buffers"]):
            size = int(2 ** self.random.uniform(8, self.p["bits"]))
            buffer = bytearray(b"b" * size)
            if self.random.random() < 0.2:
                self.kept.append(buffer)


class Buffered(Behaviour):
    """A thread that collects, into a buffer with an end."""

    def start(self) -> None:
        self.buffer: deque[bytes] = deque(maxlen=self.p["most"])
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while True:
            self.buffer.append(self.value(self.p["size"]))
            time.sleep(self.p["pause"])


# -- leaking


class Leak(Behaviour):
    """Some requests keep something for ever.

    one_in: every so many requests at random; only: only under this path; after: not before so
    many seconds of the recording; one: only in the first worker that asks; growing: each leak
    this much larger than the last; first: a healthy behaviour that is also there.
    """

    LEAKS = True
    kept: list[Any]

    def boot(self) -> None:
        self.kept = []
        self.chosen: bool | None = None
        self.first: Behaviour | None = None
        if "first" in self.p:
            name, parameters = self.p["first"]
            self.first = make(name, self.counter, self.begin, parameters)

    def start(self) -> None:
        if self.first is not None:
            self.first.start()

    def work(self, number: int, path: str) -> None:
        if self.first is not None:
            self.first.work(number, path)
        if self.leaks(number, path):
            size = self.p["size"] * (1 + self.p.get("growing", 0.0) * number)
            self.keep(size)

    def leaks(self, number: int, path: str) -> bool:
        if self.elapsed() < self.p.get("after", 0.0):
            return False
        if path != self.p.get("only", path):
            return False
        if self.p.get("one") and not self._is_the_one():
            return False
        return bool(self.random.random() * self.p.get("one_in", 1) < 1)

    def keep(self, size: float) -> None:
        left = int(size)
        while left > 0:
            value = self.value(min(left, self.p.get("piece", 4000)))
            self.kept.append(value)
            left -= len(value) + 41
        self.counter.leak(int(size))

    def _is_the_one(self) -> bool:
        if self.chosen is None:
            try:
                os.close(os.open(os.path.join(self.counter.directory, "the-one"),
                                 os.O_CREAT | os.O_EXCL))  # fmt: skip
                self.chosen = True
            except FileExistsError:
                self.chosen = False
        return self.chosen


class Objects(Leak):
    """Listeners that are never taken off a list, each in a cycle with what it listens to."""

    def keep(self, size: float) -> None:
        for i in range(max(1, int(size / 700))):
            node: dict[str, Any] = {"id": i, "names": [str(i), str(i + 1)], "more": {"a": i}}
            node["listener"] = lambda node=node: node
            self.kept.append(node)
        self.counter.leak(int(size))


class Staircase(Leak):
    """A leak in big steps: a report that is kept, every so many requests."""

    def leaks(self, number: int, path: str) -> bool:
        return number % int(self.p["every"]) == 0


class Files(Leak):
    """Open files are kept, each with what was read from it."""

    def keep(self, size: float) -> None:
        file = open(os.devnull, "rb")  # noqa: SIM115
        self.kept.append(file)
        if size:
            super().keep(size)
        else:
            self.counter.leak(0)


class Ticking(Leak):
    """A thread that keeps a little, whatever the requests do."""

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._tick, daemon=True).start()

    def work(self, number: int, path: str) -> None:
        if self.first is not None:
            self.first.work(number, path)

    def _tick(self) -> None:
        while True:
            self.keep(self.p["size"])
            self.counter.write()
            time.sleep(self.p["pause"])


class Job(Behaviour):
    """One huge job, sent to one worker, whose result it keeps: once."""

    LEAKS = True

    def start(self) -> None:
        self.result: list[bytes] = []

    def work(self, number: int, path: str) -> None:
        if path == "/job":
            self.result = [self.value(2000) for _ in range(int(self.p["mb"] * 500))]
            self.counter.leak(int(self.p["mb"] * MB))


# -- libraries: the version decides whether it leaks


class Library(Behaviour):
    """Calls something that leaks in one version of a library, and not in the next."""

    def start(self) -> None:
        self.call: Callable[[], object] = CALLS[self.p["call"]]()

    def work(self, number: int, path: str) -> None:
        times = self.p["times"] + self.random.random()  # 0.3: three requests in ten
        for _ in range(int(times)):
            self.call()
        if self.p["leaks"]:
            self.counter.leak(0)


def _ujson() -> Callable[[], object]:
    import ujson

    text = "[" + ",".join(["123456789012345678901234567890"] * 100) + "]"
    return lambda: ujson.loads(text)


def _numpy_out() -> Callable[[], object]:
    import numpy

    def call() -> object:
        return numpy.sum(numpy.ones((16, 1000)), axis=0, out=numpy.zeros(1000))

    return call


def _numpy_eye() -> Callable[[], object]:
    import numpy

    return lambda: numpy.eye(200)


def _protobuf() -> Callable[[], object]:
    from google.protobuf import type_pb2

    message = type_pb2.Type()
    return lambda: [message.source_context.ByteSize() for _ in range(100)]


def _hiredis() -> Callable[[], object]:
    import hiredis

    pairs = "".join(f"$3\r\nk{i:02}\r\n$20\r\n{'v' * 20}\r\n" for i in range(20))
    reply = f"%20\r\n{pairs}".encode()  # as Redis answers HGETALL in its third protocol

    def call() -> object:
        reader = hiredis.Reader()
        reader.feed(reply)
        return reader.gets()

    return call


def _msgpack() -> Callable[[], object]:
    import msgpack

    packed = msgpack.packb(list(range(50)))

    def call() -> object:
        unpacker = msgpack.Unpacker()
        unpacker.feed(packed)
        return list(unpacker)

    return call


def _multidict() -> Callable[[], object]:
    import multidict

    def call() -> object:
        headers = multidict.CIMultiDict([(f"x-header-{i}", "v" * 10) for i in range(20)])
        headers["B"] = "x" * 1000
        headers.update({"x-header-1": "y" * 1000})
        headers.extend({"c": "z" * 1000})
        return list(multidict.CIMultiDict(headers).items())

    return call


def _pandas() -> Callable[[], object]:
    import pandas

    columns = range(50)  # what leaks is a pointer for each cell, and only many are ever touched
    rows = "\n".join(",".join(str(row * column) for column in columns) for row in range(200))
    text = ",".join(f"c{column}" for column in columns) + "\n" + rows
    return lambda: pandas.read_csv(io.StringIO(text))


def _adapter() -> Callable[[], object]:
    import pydantic

    class Leaf(pydantic.BaseModel):
        pass

    class Node(pydantic.BaseModel):
        children: list[Node]
        leaf: Leaf

    Node.model_rebuild(_types_namespace={"Node": Node, "Leaf": Leaf})
    row = {"children": [], "leaf": Leaf()}
    return lambda: pydantic.TypeAdapter(list[Node]).validate_python([row])


def _iterable() -> Callable[[], object]:
    from collections.abc import Iterable

    import pydantic

    class Rows(pydantic.BaseModel):
        rows: Iterable[int]

    return lambda: Rows(rows=list(range(1000, 1200)))


def _greenlet() -> Callable[[], object]:
    import greenlet

    return lambda: greenlet.greenlet(lambda: None).switch()


def _intern() -> Callable[[], object]:
    source = random.Random()

    def call() -> object:
        return [sys.intern(f"key-{source.getrandbits(200):064x}") for _ in range(100)]

    return call


CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "ujson": _ujson,
    "numpy_out": _numpy_out,
    "numpy_eye": _numpy_eye,
    "protobuf": _protobuf,
    "hiredis": _hiredis,
    "msgpack": _msgpack,
    "multidict": _multidict,
    "pandas": _pandas,
    "adapter": _adapter,
    "iterable": _iterable,
    "greenlet": _greenlet,
    "intern": _intern,
}


class Unrouted(Behaviour):
    """Requests for what is not there: aiohttp 3.10.10 remembers each, the application nothing."""

    def work(self, number: int, path: str) -> None:
        if self.p["leaks"] and path.startswith("/missing"):
            self.counter.leak(0)


BEHAVIOURS: dict[str, type[Behaviour]] = {
    name.lower(): kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, Behaviour)
}


def make(name: str, counter: Counter, begin: float, parameters: dict[str, Any]) -> Behaviour:
    return BEHAVIOURS[name](counter, begin, parameters)
