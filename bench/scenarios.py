"""What record.py records: each scenario's parameters, drawn from a seed.

Another seed gives another set; one scenario's draw does not depend on which others are asked for.
Rates are chosen so that a leak of a given size per minute and worker is to be expected; what was
really leaked is measured. `truth` is what is meant; record.py writes what came.

    healthy    nothing leaks                    leak_late  from some time on
    leak       every worker does                imbalance  one holds much more, once, and keeps it
    leak_one   one worker does                  filling    a cache in a straight line to the end
    leak_fds   open files leak, memory hardly   (undecidable from outside)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MB = 1024 * 1024
JEMALLOC = "libjemalloc.so.2"
SCIENCE = ("numpy", "scipy", "pandas", "pillow")


@dataclass(frozen=True)
class Scenario:
    name: str
    truth: str
    what: str
    behaviour: str
    parameters: dict[str, Any]
    framework: str = "flask"
    worker_class: str = "sync"
    workers: int = 3
    threads: int = 1
    arguments: tuple[str, ...] = ()
    gunicorn: str | None = None  # None: the installed one
    rate: float = 6.0  # requests a second, all workers together
    shape: str = "flat"
    paths: tuple[tuple[str, float], ...] = (("/", 1.0),)  # and their weights
    keep: float = 0.0  # share of requests on kept connections
    packages: tuple[str, ...] = ()  # into a directory of their own, before all others
    python: str | None = None  # None: this one
    environment: dict[str, str] = field(default_factory=dict)
    # Share of the recording: TERM (of one worker), HUP, TTIN, TTOU, JOB.
    events: tuple[tuple[float, str], ...] = ()
    most_mb: float = 600.0  # a worker that holds more is killed, as the kernel would


class Draw:
    """The dice of one scenario, and its load."""

    def __init__(self, seed: int, name: str, seconds: float) -> None:
        self.r = random.Random(f"{seed} {name}")
        self.name = name
        self.seconds = seconds
        self.workers = self.r.choice((2, 3, 3, 4))
        self.each = self.r.uniform(1.5, 3.0)  # requests a second in each worker

    @property
    def rate(self) -> float:
        return self.workers * self.each

    def log(self, low: float, high: float) -> float:
        """Between the two, every factor alike."""
        return float(low * (high / low) ** self.r.random())

    def size(self, mb_min: float, share: float = 1.0) -> float:
        """Bytes for each leaking request (that share of all) for so many MB a minute and worker."""
        return mb_min * MB / 60 / self.each / share

    def total(self, share: float = 1.0) -> int:
        """Requests that a worker serves in that share of the recording."""
        return int(self.each * self.seconds * share)

    def scenario(
        self, truth: str, what: str, behaviour: str, parameters: dict[str, Any], **more: Any
    ) -> Scenario:
        more = {"workers": self.workers, "rate": self.rate, **more}
        return Scenario(self.name, truth, what, behaviour, parameters, **more)


def scenarios(seed: int, seconds: float) -> list[Scenario]:
    """All of them for this seed; `seconds`: how long a recording takes."""

    def draw(name: str) -> Draw:
        return Draw(seed, name, seconds)

    return [
        *_ordinary(draw),
        *_caches(draw),
        *_steps(draw),
        *_looks(draw),
        *_loads(draw),
        *_orders(draw),
        *_leaks(draw),
        *_shaped(draw),
        *_everyday(draw),
        *_libraries(draw),
    ]


Drawing = Callable[[str], Draw]
THREADED: dict[str, Any] = {"worker_class": "gthread", "keep": 0.7}


def _ordinary(draw: Drawing) -> Iterator[Scenario]:
    """Frameworks and worker classes, nothing special."""
    d = draw("plain_sync")
    yield d.scenario("healthy", "Flask", "behaviour", {}, gunicorn=d.r.choice((None, "20.1.0")))
    d = draw("plain_gthread")
    version = d.r.choice((None, "23.0.0", "25.3.0"))
    threads = d.r.choice((2, 4, 8))
    yield d.scenario(
        "healthy",
        "Flask in threads",
        "behaviour",
        {},
        gunicorn=version,
        threads=threads,
        **THREADED,
    )
    d = draw("plain_fastapi")
    yield d.scenario(
        "healthy",
        "FastAPI on uvicorn's worker",
        "behaviour",
        {},
        framework="fastapi",
        worker_class="uvicorn.workers.UvicornWorker",
        keep=0.7,
    )
    d = draw("plain_django")
    yield d.scenario(
        "healthy",
        "Django",
        "behaviour",
        {},
        framework="django",
        gunicorn=d.r.choice((None, "23.0.0")),
    )
    d = draw("plain_gevent")
    yield d.scenario("healthy", "Flask on gevent", "behaviour", {}, worker_class="gevent", keep=0.5)
    d = draw("plain_aiohttp")
    yield d.scenario(
        "healthy",
        "aiohttp",
        "behaviour",
        {},
        framework="aiohttp",
        worker_class="aiohttp.GunicornWebWorker",
        keep=0.7,
        packages=("aiohttp",),
    )


def _zipf(d: Draw) -> dict[str, Any]:
    return {
        "alpha": d.r.uniform(0.8, 1.2),
        "keys": d.r.randint(3000, 9000),
        "lookups": 6,
        "size": d.log(2000, 8000),
    }


def _lru(d: Draw, mb_min: float, share: float) -> dict[str, Any]:
    """A cache that grows by so much a minute and is full after that share of the recording."""
    lookups = 5
    return {"lookups": lookups, "size": d.size(mb_min) / lookups, "most": d.total(share) * lookups}


def _caches(draw: Drawing) -> Iterator[Scenario]:
    d = draw("zipf_sync")
    yield d.scenario("healthy", "a table of what was asked for: slow warm-up", "zipf", _zipf(d))
    d = draw("zipf_gthread")
    yield d.scenario("healthy", "slow warm-up, threads", "zipf", _zipf(d), threads=4, **THREADED)
    d = draw("lru_quick")
    yield d.scenario(
        "healthy", "LRU full within minutes", "lru", _lru(d, d.log(4, 25), d.r.uniform(0.1, 0.25))
    )
    d = draw("lru_third")
    yield d.scenario(
        "healthy",
        "LRU in a straight line, full after a third",
        "lru",
        _lru(d, d.log(1.5, 12), d.r.uniform(0.28, 0.4)),
    )
    d = draw("lru_half")
    yield d.scenario(
        "healthy",
        "LRU in a straight line, full after half",
        "lru",
        _lru(d, d.log(1.5, 12), d.r.uniform(0.45, 0.6)),
        threads=2,
        **THREADED,
    )
    d = draw("lru_filling")
    yield d.scenario(
        "filling", "LRU in a straight line to the end", "lru", _lru(d, d.log(1, 8), 3.0)
    )
    d = draw("expiring")
    yield d.scenario(
        "healthy",
        "sessions that expire",
        "expiring",
        {"size": d.size(d.log(3, 15)), "seconds": d.r.uniform(60, 150)},
        shape=d.r.choice(("flat", "diurnal")),
    )
    d = draw("maxreq_warm")
    requests = d.total(d.r.uniform(0.2, 0.35))
    yield d.scenario(
        "healthy",
        "slow warm-up, again after each max_requests",
        "zipf",
        _zipf(d),
        arguments=("--max-requests", str(requests), "--max-requests-jitter", str(requests // 4)),
    )


def _steps(draw: Drawing) -> Iterator[Scenario]:
    d = draw("imports_small")
    modules = [
        "sqlite3",
        "xml.dom.minidom",
        "asyncio",
        "unittest",
        "email.mime.text",
        "multiprocessing",
        "pydoc",
        "distutils.core",
        "lib2to3.pytree",
        "tkinter",
    ]
    yield d.scenario(
        "healthy",
        "lazy imports of the standard library",
        "imports",
        {"modules": modules[: d.r.randint(4, 8)], "every": d.total(0.09)},
    )
    for name in ("imports_cascade", "imports_cascade_gthread"):
        d = draw(name)
        modules = [
            "numpy",
            "scipy.stats",
            "pandas",
            "PIL.Image",
            "scipy.signal",
            "numpy.random",
            "scipy.optimize",
        ]
        modules = modules[: d.r.randint(3, 7)]
        more = dict(THREADED, threads=4) if name.endswith("gthread") else {}
        yield d.scenario(
            "healthy",
            "heavy imports one after the other",
            "imports",
            {"modules": modules, "every": d.total(d.r.uniform(0.06, 0.12))},
            packages=SCIENCE,
            arguments=("--timeout", "120"),
            **more,
        )
    d = draw("giant")
    yield d.scenario(
        "healthy",
        "now and then a giant request",
        "giant",
        {"chance": d.log(3, 20) / d.total(), "mb": d.log(20, 120)},
    )
    d = draw("giant_threads")
    yield d.scenario(
        "healthy",
        "giant requests in threads",
        "giant",
        {"chance": d.log(5, 30) / d.total(), "mb": d.log(20, 70)},
        threads=4,
        **THREADED,
    )
    d = draw("step")
    yield d.scenario(
        "healthy",
        "one big table",
        "step",
        {"mb": d.log(30, 150), "at": d.seconds * d.r.uniform(0.3, 0.7)},
    )
    d = draw("gc_sawtooth")
    yield d.scenario(
        "healthy",
        "garbage in cycles, collected seldom",
        "sawtooth",
        {
            "cycles": 40,
            "size": d.size(d.log(5, 40)) / 40,
            "collect": d.total(d.r.uniform(0.06, 0.15)),
        },
    )


def _looks(draw: Drawing) -> Iterator[Scenario]:
    """RSS, USS or PSS move, or the allocator does."""
    d = draw("preload_cow")
    objects = d.r.randint(100_000, 250_000)
    yield d.scenario(
        "healthy",
        "a big graph of objects made before the fork, and read",
        "graph",
        {"objects": objects, "read": objects // d.total(0.7)},
        arguments=("--preload",),
    )
    d = draw("file_mapped")
    mb = d.log(80, 300)
    yield d.scenario(
        "healthy",
        "a big file, mapped and read page by page",
        "mapped",
        {"mb": mb, "shared": False, "pages": int(mb * 256 / d.total(0.9))},
    )
    d = draw("shared_memory")
    mb = d.log(60, 150)
    yield d.scenario(
        "healthy",
        "shared memory, filled page by page",
        "mapped",
        {"mb": mb, "shared": True, "pages": int(mb * 256 / d.total(0.9))},
    )
    d = draw("thumbnails")
    yield d.scenario(
        "healthy",
        "pictures made smaller",
        "thumbnails",
        {"keep": d.r.randint(50, 200), "side": d.r.randint(800, 1600)},
        packages=SCIENCE,
    )
    d = draw("fragments")
    yield d.scenario(
        "healthy",
        "buffers of all sizes, a fifth stays a while",
        "fragments",
        {"keep": d.r.randint(200, 800), "buffers": 10, "bits": d.r.uniform(15, 18)},
        threads=d.r.choice((1, 4)),
        **THREADED,
    )
    d = draw("fragments_arenas")
    yield d.scenario(
        "healthy",
        "the same with one malloc arena",
        "fragments",
        {"keep": d.r.randint(200, 800), "buffers": 10, "bits": d.r.uniform(15, 18)},
        threads=4,
        environment={"MALLOC_ARENA_MAX": "1"},
        **THREADED,
    )
    d = draw("jemalloc_zipf")
    yield d.scenario(
        "healthy",
        "slow warm-up on jemalloc",
        "zipf",
        _zipf(d),
        environment={"LD_PRELOAD": JEMALLOC},
    )
    d = draw("thread_buffer")
    yield d.scenario(
        "healthy",
        "a thread that fills a bounded buffer",
        "buffered",
        {
            "most": d.r.randint(300, 900),
            "size": d.log(10_000, 60_000),
            "pause": d.seconds * d.r.uniform(0.15, 0.4) / 600,
        },
    )


def _loads(draw: Drawing) -> Iterator[Scenario]:
    d = draw("pinned")
    yield d.scenario(
        "healthy",
        "one connection has nine tenths of the requests",
        "zipf",
        _zipf(d),
        worker_class="gthread",
        threads=4,
        shape="pinned",
    )
    d = draw("pinned_lru")
    yield d.scenario(
        "healthy",
        "the same, with an LRU that is full soon",
        "lru",
        _lru(d, d.log(2, 8), d.r.uniform(0.3, 0.6)),
        worker_class="gthread",
        threads=4,
        shape="pinned",
    )
    d = draw("diurnal")
    yield d.scenario(
        "healthy", "load that comes and goes, slow warm-up", "zipf", _zipf(d), shape="diurnal"
    )
    d = draw("bursts")
    yield d.scenario(
        "healthy",
        "load in bursts, buffers",
        "fragments",
        {"keep": 200, "buffers": 6, "bits": 16.0},
        shape="bursts",
        threads=8,
        **THREADED,
    )
    d = draw("idle_busy")
    yield d.scenario("healthy", "idle for long, then busy", "zipf", _zipf(d), shape="idle_busy")


def _orders(draw: Drawing) -> Iterator[Scenario]:
    """What operators do meanwhile."""
    for name, what, events in (
        ("term", "a worker is replaced", ((0.35, "TERM"), (0.6, "TERM"))),
        (
            "scaled",
            "TTIN twice, TTOU twice",
            ((0.2, "TTIN"), (0.35, "TTIN"), (0.55, "TTOU"), (0.75, "TTOU")),
        ),
        ("reloaded", "HUP", ((0.45, "HUP"),)),
    ):
        d = draw(name)
        yield d.scenario(
            "healthy",
            f"{what}; slow warm-up",
            "zipf",
            _zipf(d),
            events=events,
            gunicorn=d.r.choice((None, "23.0.0")),
        )
    d = draw("preload_term")
    objects = d.r.randint(80_000, 200_000)
    yield d.scenario(
        "healthy",
        "a graph before the fork, read; a worker is replaced",
        "graph",
        {"objects": objects, "read": objects // d.total(0.5)},
        arguments=("--preload",),
        events=((0.4, "TERM"), (0.7, "TERM")),
    )


def _leaks(draw: Drawing) -> Iterator[Scenario]:
    for name, low, high in (
        ("leak_crawl", 0.3, 0.6),
        ("leak_slow", 0.6, 1.5),
        ("leak_middle", 1.5, 5),
        ("leak_fast", 5, 20),
        ("leak_torrent", 40, 140),
    ):
        d = draw(name)
        yield d.scenario(
            "leak",
            "every request",
            "leak",
            {"size": d.size(d.log(low, high))},
            framework=d.r.choice(("flask", "django", "bare")),
        )
    d = draw("leak_gthread")
    yield d.scenario(
        "leak",
        "every request, in threads",
        "leak",
        {"size": d.size(d.log(0.5, 8))},
        threads=4,
        gunicorn=d.r.choice((None, "25.3.0")),
        **THREADED,
    )
    d = draw("leak_fastapi")
    yield d.scenario(
        "leak",
        "every request, FastAPI",
        "leak",
        {"size": d.size(d.log(0.5, 8))},
        framework="fastapi",
        worker_class="uvicorn.workers.UvicornWorker",
        keep=0.7,
    )
    d = draw("leak_gevent")
    yield d.scenario(
        "leak",
        "every request, gevent",
        "leak",
        {"size": d.size(d.log(0.5, 8))},
        worker_class="gevent",
        keep=0.5,
    )
    d = draw("leak_thread")
    pause = d.r.uniform(0.2, 2)
    yield d.scenario(
        "leak",
        "a thread, whatever the requests do",
        "ticking",
        {"size": d.log(0.6, 8) * MB / 60 * pause, "pause": pause},
    )
    d = draw("leak_objects")
    yield d.scenario(
        "leak",
        "objects in cycles that are never let go",
        "objects",
        {"size": d.size(d.log(0.8, 8))},
    )
    d = draw("leak_sixtieth")
    yield d.scenario(
        "leak",
        "one request in sixty",
        "leak",
        {"size": d.size(d.log(0.8, 6), 1 / 60), "one_in": 60},
    )
    for name in ("leak_one_sync", "leak_one_gthread"):
        d = draw(name)
        more = dict(THREADED, threads=4) if name.endswith("gthread") else {}
        yield d.scenario(
            "leak_one",
            "one worker only",
            "leak",
            {"size": d.size(d.log(0.8, 10)), "one": True},
            **more,
        )
    d = draw("leak_endpoint")
    yield d.scenario(
        "leak",
        "one endpoint, a fifth of the requests",
        "leak",
        {"size": d.size(d.log(0.8, 8), 0.2), "only": "/export"},
        paths=(("/", 0.8), ("/export", 0.2)),
    )
    d = draw("leak_files")
    yield d.scenario(
        "leak", "open files and what was read", "files", {"size": d.size(d.log(0.8, 4))}
    )
    d = draw("leak_only_files")
    yield d.scenario(
        "leak_fds",
        "open files, hardly any memory",
        "files",
        {"size": 0, "one_in": d.r.uniform(2, 8)},
    )


def _shaped(draw: Drawing) -> Iterator[Scenario]:
    """Leaks that do not look like a straight line from the start, or not alone."""
    for name in ("leak_late", "leak_late_fast"):
        d = draw(name)
        rate = d.log(6, 30) if name.endswith("fast") else d.log(1, 5)
        yield d.scenario(
            "leak_late",
            "after some time",
            "leak",
            {"size": d.size(rate), "after": d.seconds * d.r.uniform(0.28, 0.4)},
        )
    d = draw("leak_under_gc")
    saw = {
        "cycles": 40,
        "size": d.size(d.log(5, 25)) / 40,
        "collect": d.total(d.r.uniform(0.06, 0.12)),
    }
    yield d.scenario(
        "leak",
        "under the sawtooth of seldom collections",
        "leak",
        {"size": d.size(d.log(1.5, 8)), "first": ["sawtooth", saw]},
    )
    d = draw("leak_preload")
    graph = {"objects": 100_000, "read": 100_000 // d.total(0.7)}
    yield d.scenario(
        "leak",
        "under preload and copy on write",
        "leak",
        {"size": d.size(d.log(0.8, 6)), "first": ["graph", graph]},
        arguments=("--preload",),
    )
    d = draw("leak_after_cache")
    share = d.r.uniform(0.2, 0.35)
    yield d.scenario(
        "leak_late",
        "after a cache has filled",
        "leak",
        {
            "size": d.size(d.log(1.5, 6)),
            "after": d.seconds * share * 1.2,
            "first": ["lru", _lru(d, d.log(4, 10), share)],
        },
    )
    d = draw("leak_with_zipf")
    yield d.scenario(
        "leak",
        "under a slow warm-up",
        "leak",
        {"size": d.size(d.log(1, 6)), "first": ["zipf", _zipf(d)]},
    )
    d = draw("leak_staircase")
    every = d.total(d.r.uniform(0.03, 0.08))
    yield d.scenario(
        "leak",
        "in steps",
        "staircase",
        {"every": every, "size": d.log(1.5, 8) * MB / 60 * every / d.each},
    )
    d = draw("leak_accelerating")
    yield d.scenario(
        "leak",
        "faster and faster",
        "leak",
        {"size": d.size(d.log(0.4, 1.5)), "growing": 8 / d.total()},
    )
    d = draw("leak_pauses")
    yield d.scenario(
        "leak", "with pauses of the load", "leak", {"size": d.size(d.log(2, 10))}, shape="pauses"
    )
    d = draw("leak_diurnal")
    yield d.scenario(
        "leak",
        "with a load that comes and goes",
        "leak",
        {"size": d.size(d.log(1, 8))},
        shape="diurnal",
    )
    d = draw("leak_masked")
    requests = d.total(d.r.uniform(0.25, 0.4))
    yield d.scenario(
        "leak",
        "masked by max_requests",
        "leak",
        {"size": d.size(d.log(2, 12))},
        arguments=("--max-requests", str(requests), "--max-requests-jitter", str(requests // 5)),
    )
    d = draw("leak_pinned")
    yield d.scenario(
        "leak",
        "one connection has nine tenths of the requests",
        "leak",
        {"size": d.size(d.log(0.6, 3))},
        worker_class="gthread",
        threads=4,
        shape="pinned",
    )
    d = draw("leak_reloaded")
    yield d.scenario(
        "leak", "and HUP", "leak", {"size": d.size(d.log(1.5, 8))}, events=((0.5, "HUP"),)
    )
    d = draw("leak_jemalloc")
    yield d.scenario(
        "leak",
        "every request, on jemalloc",
        "leak",
        {"size": d.size(d.log(0.8, 8))},
        environment={"LD_PRELOAD": JEMALLOC},
    )
    for name in ("imbalance_sync", "imbalance_gthread"):
        d = draw(name)
        more = dict(THREADED, threads=4, workers=4) if name.endswith("gthread") else {"workers": 3}
        yield d.scenario(
            "imbalance",
            "one worker keeps the result of one huge job",
            "job",
            {"mb": d.log(110, 250)},
            events=((d.r.uniform(0.2, 0.35), "JOB"),),
            **more,
        )


def _everyday(draw: Drawing) -> Iterator[Scenario]:
    """As applications come by it: ORMs, templates, metrics, handlers."""
    d = draw("alchemy")
    yield d.scenario(
        "healthy", "SQLAlchemy on SQLite", "alchemy", {"queries": 4}, packages=("sqlalchemy",)
    )
    d = draw("django_queries")
    queries = round(9000 / d.total(d.r.uniform(0.3, 0.6)))
    yield d.scenario(
        "healthy",
        "Django's log of the last 9000 queries",
        "queries",
        {"queries": queries, "length": int(d.log(600, 3000))},
        framework="django",
    )
    d = draw("frames")
    yield d.scenario(
        "healthy",
        "pandas' tables of any size, the last few results stay",
        "frames",
        {"rows": d.r.randint(500, 2500), "keep": d.r.randint(20, 200)},
        packages=SCIENCE,
        arguments=("--timeout", "120"),
    )
    d = draw("templates")
    yield d.scenario(
        "healthy",
        "Jinja's bounded cache of many templates",
        "templates",
        {"templates": d.r.randint(300, 900)},
    )
    d = draw("leak_memo")
    yield d.scenario(
        "leak",
        "lru_cache without an end on a method",
        "memo",
        {"times": 3, "size": d.size(d.log(0.6, 6)) / 3},
    )
    d = draw("leak_handlers")
    yield d.scenario(
        "leak",
        "a logger for each request",
        "handlers",
        {"times": round(d.size(d.log(0.6, 4)) / 2900) + 1},
    )
    d = draw("leak_labels")
    yield d.scenario(
        "leak",
        "a metric for each user",
        "labels",
        {"times": round(d.size(d.log(0.6, 6)) / 1500) + 1},
        threads=4,
        **THREADED,
    )
    d = draw("leak_threads")
    every = d.r.uniform(4, 10)
    yield d.scenario(
        "leak",
        "threads that wait for ever",
        "threads",
        {"one_in": every, "size": d.size(d.log(0.6, 4), 1 / every)},
    )
    d = draw("leak_tasks")
    yield d.scenario(
        "leak",
        "tasks that wait for ever, FastAPI",
        "tasks",
        {"size": d.size(d.log(0.6, 6))},
        framework="fastapi",
        worker_class="uvicorn.workers.UvicornWorker",
        keep=0.7,
    )


class Library(NamedTuple):
    """A library whose versions differ by a leak."""

    call: str  # what leaks (behaviours.py)
    leaking: tuple[str, ...]  # what is installed
    fixed: tuple[str, ...]
    cost: float  # KB that one call leaks, roughly
    python: tuple[str | None, str | None] = (None, None)  # of the leaking, of the fixed
    more: dict[str, Any] = {}


# The last gevent of that greenlet's days, and what it finds.
_GEVENT = ("gevent==22.10.2", "zope.interface==6.0", "zope.event==4.6")
_SERVED = ("gunicorn==23.0.0", "flask")  # for another Python, which has nothing
_NUMPY = "numpy==1.26.4"  # of those pandas
_LIBRARIES = {
    "ujson": Library("ujson", ("ujson==5.11.0",), ("ujson==5.12.0",), 3.1),
    "numpy_out": Library("numpy_out", ("numpy==2.3.1",), ("numpy==2.3.2",), 7.8),
    "numpy_eye": Library("numpy_eye", ("numpy==2.4.0",), ("numpy==2.4.1",), 2.7),
    "protobuf": Library("protobuf", ("protobuf==4.22.1",), ("protobuf==4.25.0",), 7.8),
    "multidict": Library("multidict", ("multidict==6.3.1",), ("multidict==6.4.4",), 5.0),
    "pandas": Library("pandas", ("pandas==2.2.0", _NUMPY), ("pandas==2.2.1", _NUMPY), 205),
    "pydantic_adapter": Library("adapter", ("pydantic==2.5.2",), ("pydantic==2.5.3",), 5.8),
    "pydantic_iterable": Library("iterable", ("pydantic==2.7.0",), ("pydantic==2.7.1",), 6.0),
    "hiredis": Library("hiredis", ("hiredis==3.1.0",), ("hiredis==3.2.1",), 3.45),
    "greenlet": Library(
        "greenlet",
        (*_GEVENT, "greenlet==2.0.0"),
        (*_GEVENT, "greenlet==2.0.1"),
        4.0,
        more={"worker_class": "gevent", "gunicorn": "23.0.0"},
    ),
    "msgpack": Library(
        "msgpack",
        (*_SERVED, "msgpack==1.0.7"),
        (*_SERVED, "msgpack==1.0.8"),
        0.36,
        ("3.12.1", "3.12.1"),
    ),
    "intern": Library("intern", _SERVED, _SERVED, 14.4, ("3.12.1", "3.13.0")),
}


def _libraries(draw: Drawing) -> Iterator[Scenario]:
    """Published versions that leak, and versions that do not, under the same load."""
    for name, library in _LIBRARIES.items():
        for leaks, packages, python in zip(
            (True, False), (library.leaking, library.fixed), library.python, strict=True
        ):
            d = draw("lib_" + name)  # the same draw for both
            d.name = "lib_" + name + ("" if leaks else "_fixed")
            times = d.size(d.log(0.7, 12)) / (library.cost * 1024)
            yield d.scenario(
                "leak" if leaks else "healthy",
                " ".join((f"Python {python}:", *packages) if python else packages),
                "library",
                {"call": library.call, "times": times, "leaks": leaks},
                packages=packages,
                python=python,
                **library.more,
            )
    for leaks, version in ((True, "3.10.10"), (False, "3.10.11")):
        d = draw("lib_aiohttp")
        d.name = "lib_aiohttp" + ("" if leaks else "_fixed")
        yield d.scenario(
            "leak" if leaks else "healthy",
            f"aiohttp {version}: 404s",
            "unrouted",
            {"leaks": leaks},
            framework="aiohttp",
            worker_class="aiohttp.GunicornWebWorker",
            keep=0.7,
            rate=d.workers * 5.0,
            paths=(("/", 0.1), ("/missing", 0.9)),
            packages=(f"aiohttp=={version}",),
        )
