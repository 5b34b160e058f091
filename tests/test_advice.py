"""Advice on paper: made-up growth in, sentences with numbers out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import advice
from supervisor_memwatch.advice import Case, Facts, Sibling
from supervisor_memwatch.model import (
    LEAK,
    MASTER_GROWTH,
    RUNNING,
    Snapshot,
    Verdict,
    Worker,
    WorkerId,
)
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.releases import Code, End, Leak, Releases
from supervisor_memwatch.trends import Growing, Trend
from supervisor_memwatch.units import HOUR, KB, MB, MINUTE

AT = 1e9
LIMITED = Options(limit=Ceiling(bytes=400 * MB))


def growing(
    rate: float = 60.0,
    low: float | None = None,
    high: float | None = None,
    *,
    minutes: float = 50.0,
    per_work: float | None = 2.0,
    unit: str | None = "request",
    requests: float | None = None,
    ceiling: float | None = 400.0,
    first: float = 100.0,
    watched: float = 60.0,
    age: float | None = 0.0,
) -> Growing:
    """MB and MB/h; by default the work that its rate comes from."""
    low, high = low or rate, high or rate
    last = first + rate * minutes / 60
    left = None if ceiling is None else int(max(ceiling - last, 0) * MB)
    hours = None
    if left is not None and ceiling is not None:
        bytes = left / MB
        hours = (bytes / rate, bytes / high, bytes / low if low > 0 else float("inf"))
    if per_work is None:
        unit = None
    elif requests is None:
        requests = rate * KB / per_work / 3600
    return Growing(
        began=AT - minutes * MINUTE,
        watched=watched * MINUTE,
        age=age,
        first=first * MB,
        last=last * MB,
        span=minutes * MINUTE,
        trend=Trend(rate * MB, low * MB, high * MB),
        per_work=None if per_work is None else per_work * KB,
        unit=unit,
        work_rate=requests,
        ceiling=None if ceiling is None else int(ceiling * MB),
        left=left,
        hours=hours,
    )


def worker(pid: int, work: float = 1000.0) -> Worker:
    return Worker(WorkerId(pid, pid), 7200.0, 150 * MB, cpu=work)


def case(
    pid: int,
    growth: Growing | None = None,
    *,
    files: bool = False,
    since: float = 3600.0,
    **more: float,
) -> Case:
    verdict = Verdict(LEAK, AT - since, 1.0, None, 0.9, "it grows", True)
    return Case(worker(pid, **more), verdict, growth or growing(), files)


def facts(
    *cases: Case,
    idle: tuple[Sibling, ...] = (),
    options: Options = LIMITED,
    releases: Releases | None = None,
    clock: int | None = 14 * 60,
    kind: str = "gunicorn",
) -> Facts:
    """Seen at 14:00."""
    workers = (*(c.worker for c in cases), *(s.worker for s in idle))
    seen = Snapshot("web", AT, RUNNING, 100, kind, worker(100), workers, clock=clock)
    return Facts(options, seen, cases, None, idle, releases)


def quiet(pid: int, per_hour: float | None = 0.0, work: float = 1000.0) -> Sibling:
    return Sibling(worker(pid, work), None if per_hour is None else per_hour * MB)


def said(known: Facts) -> str:
    return "\n".join(advice.sentences(known))


# -- how fast, who, since when


def test_a_leak_is_said_with_all_its_numbers() -> None:
    """Per hour with the interval, per request, which worker of how many, since when, how much."""
    known = facts(case(7, growing(60.0, 54.0, 66.0)), idle=(quiet(8),))
    assert advice.sentences(known)[0] == (
        "worker 7 of 2 leaks 60.0MB/h (54.0MB to 66.0MB), 2.0KB per request, "
        "since 13:10 (50m): 50.0MB so far"
    )


def test_several_workers_are_said_at_once() -> None:
    """The median of them or from the slowest to the fastest, and their pids while these are few."""
    for rates, words in (
        ((59.0, 60.0, 66.0), "60.0MB/h each (59.0MB to 66.0MB)"),
        ((50.0, 60.0, 90.0), "50.0MB to 90.0MB/h"),
    ):
        cases = (case(7 + n, growing(rate)) for n, rate in enumerate(rates))
        text = advice.sentences(facts(*cases, idle=(quiet(1),)))[0]
        assert text.startswith(f"3 of 4 workers (7, 8, 9) leak {words}, 2.0KB per request")
    known = facts(*(case(pid) for pid in range(9)))
    assert advice.sentences(known)[0].startswith("all 9 workers leak 60.0MB/h each, ")
    known = facts(case(1), kind="plain")
    assert advice.sentences(known)[0].startswith("the program leaks 60.0MB/h, ")


@pytest.mark.parametrize(
    ("minutes", "clock", "words"),
    [
        (50, 14 * 60, "since 13:10 (50m)"),
        (50, 20, "since 23:30 (50m)"),
        (50, None, "for 50m"),
        (30 * 60, 14 * 60, "for 1d 6h"),
    ],
)
def test_since_when_is_the_time_on_the_wall(minutes: float, clock: int | None, words: str) -> None:
    """Where that is known, and tells which day is meant."""
    assert words in said(facts(case(7, growing(minutes=minutes)), clock=clock))


def test_what_no_work_explains_has_no_price() -> None:
    text = advice.sentences(facts(case(7, growing(per_work=None))))[0]
    assert "per" not in text


# -- since which release


def history(before: float | None, after: float, hours: float = 21.0, sure: bool = True) -> Releases:
    """Two workers before a deploy at 13:00; how they leaked before (MB/h) and do since."""
    releases = Releases()
    deploy = AT - HOUR
    for at in (deploy - hours * HOUR, deploy - hours * HOUR / 2, deploy):
        now = Snapshot("web", at, RUNNING, 1, "gunicorn", None, (worker(1), worker(2)))
        releases.watched(now)
        releases._looked = at  # the pauses are longer than it believes
        releases.eras[-1].seconds = 2 * (at - deploy + hours * HOUR)
    if before:
        releases.leaks(worker(1), deploy, Leak(before * MB, None, None))
    fresh = worker(3)._replace(age=1.0)
    releases.loaded(now._replace(workers=(fresh,)), "reload")
    releases.take(Code("new" if sure else None, deploy - 5 if sure else None, deploy))
    releases.leaks(fresh, deploy, Leak(after * MB, None, None))
    return releases


@pytest.mark.parametrize(
    ("releases", "words"),
    [
        (history(12.0, 88.0), "since the deploy at 13:00: 12.0MB/h before, 88.0MB/h since"),
        (
            history(None, 88.0),
            "since the deploy at 13:00: no leak in 42 worker-hours before, 88.0MB/h since",
        ),
        (
            history(80.0, 88.0),
            "not from the deploy at 13:00: 80.0MB/h before it, 88.0MB/h since",
        ),
        (
            history(None, 88.0, hours=0.2),
            "88.0MB/h since the deploy at 13:00; before it was not watched for long enough to "
            "compare",
        ),
        (
            history(None, 88.0, sure=False),
            "since the reload at 13:00 (whether its code changed is not known): no leak in 42 "
            "worker-hours before, 88.0MB/h since",
        ),
    ],
)
def test_the_deploy_that_brought_it_is_said_with_before_and_since(
    releases: Releases, words: str
) -> None:
    """Or that it is not the deploy's doing, or that nobody can know."""
    assert words in advice.sentences(facts(case(7), releases=releases))


def test_with_the_price_of_a_request_on_both_sides_that_is_said() -> None:
    """It does not depend on how many there were."""
    releases = history(12.0, 88.0)
    for era, rate in zip(releases.eras, (12.0, 88.0), strict=True):
        era.leaks = {WorkerId(1, 1): Leak(rate * MB, rate * KB / 10, "request")}
    text = said(facts(case(7), releases=releases))
    assert "12.0MB/h (1.2KB per request) before, 88.0MB/h (8.8KB per request) since" in text


# -- what comes of it


def test_the_limit_is_forecast_with_its_interval() -> None:
    """The first of several; an end that never comes is said so."""
    known = facts(case(7, growing(60.0, 50.0, 75.0)))
    assert "it is at its limit of 400.0MB in 4h 10m (3h 20m to 5h), at about 18:10" in said(known)
    known = facts(case(7, growing(60.0, -5.0, 75.0)), case(8, growing(20.0)))
    assert (
        "the first of them is at its limit of 400.0MB in 4h 10m (3h 20m at the earliest)"
        in said(known)
    )


def test_without_a_limit_of_its_own_it_is_what_the_machine_has_for_it() -> None:
    assert "the 400.0MB it may hold" in said(facts(case(7), options=Options()))


def test_a_limit_in_years_gets_no_date() -> None:
    known = facts(case(7, growing(0.1)))
    assert "not at its limit of 400.0MB within 30d" in said(known)
    assert "max_requests" not in said(known)


def test_nothing_is_forecast_without_a_ceiling() -> None:
    text = said(facts(case(7, growing(ceiling=None))))
    assert "limit" not in text and "max_requests" not in text and text.startswith("worker 7 leaks")


# -- what helps


def test_the_max_requests_that_keeps_it_under_the_limit() -> None:
    """Of a fresh worker's 300 MB seven tenths at 2 KB a request, a sixth of it jitter."""
    assert (
        "max_requests = 89000 and max_requests_jitter = 17000 keep a worker below 307.0MB of "
        "400.0MB: the busiest lasts about 2h 54m"
    ) in said(facts(case(7, growing(60.0))))


@given(
    rate=st.floats(0.5, 500.0),
    price=st.floats(0.1, 200.0),
    wide=st.floats(1.0, 3.0),
    first=st.floats(20.0, 380.0),
)
def test_what_is_advised_keeps_a_worker_below_its_limit(
    rate: float, price: float, wide: float, first: float
) -> None:
    """At the price of a request that was seen and up to twice that, jitter included."""
    ceiling = first + rate * 50 / 60 + 50.0
    growth = growing(rate, rate / wide, rate * wide, per_work=price, first=first, ceiling=ceiling)
    text = said(facts(case(7, growth), options=Options()))
    if "max_requests =" not in text:
        return
    words = text.replace(",", "").split()
    at = words.index("max_requests")
    most, jitter = int(words[at + 2]), int(words[at + 6])
    assert first + (most + jitter) * price * min(wide, 2.0) / KB <= ceiling
    assert most >= advice.FEWEST and 0.1 * most <= jitter <= 0.2 * most


def test_no_max_requests_helps_against_a_leak_that_is_too_fast() -> None:
    text = said(facts(case(7, growing(600.0, per_work=4000.0, minutes=10))))
    assert "a worker lasts 54 requests: no max_requests makes up for that" in text


@pytest.mark.parametrize("first", [380.0, 399.0])
def test_of_a_worker_first_seen_when_old_what_it_held_may_be_leaked(first: float) -> None:
    """Neither "recycling cannot help" nor "no max_requests makes up for that" is known of it."""
    old = growing(first=first, minutes=1, watched=1.0, age=7200.0)
    young = growing(first=first, minutes=1, watched=1.0, age=60.0)
    assert "may have leaked before: a recycle shows what a fresh one holds" in said(
        facts(case(7, old))
    )
    assert "may have leaked before" not in said(facts(case(7, young)))


def test_a_limit_that_a_fresh_worker_nearly_fills_is_the_problem() -> None:
    text = said(facts(case(7, growing(12.0, first=380.0, minutes=60))))
    assert "a worker holds 380.0MB of 400.0MB before it leaks: raise the limit" in text


def test_by_cpu_time_it_is_said_how_often_a_recycle_is_due() -> None:
    """gunicorn counts requests, and how many there are is not known."""
    for growth in (growing(unit="CPU second"), growing(per_work=None)):
        text = said(facts(case(7, growth)))
        assert "max_requests" not in text
        assert "to stay below 400.0MB, it needs a recycle about every 3h 30m" in text


def test_a_leak_that_max_requests_hides_is_said_to_be() -> None:
    """How much in how many requests, of the workers it ended."""
    releases = Releases()
    releases.watched(facts(case(7)).snapshot)
    releases.leaks(worker(7), AT, Leak(1.0, None, None))
    releases.ended(WorkerId(7, 7), End(80.0 * MB, 2000, 2460.0))
    text = said(facts(case(7), releases=releases))
    assert "max_requests hides it: each worker leaks 80.0MB in its 2000 requests (41m)" in text


# -- where to look


def place(*cases: Case, **more: object) -> str:
    known = facts(*cases, **more)  # type: ignore[arg-type]
    return advice.sentences(known)[-1]


def test_open_files_that_grow_with_it_come_first() -> None:
    assert "files, sockets or clients that are not closed" in place(case(7, files=True))


def test_growth_that_follows_the_requests_is_in_their_path() -> None:
    """Twice the work, twice the growth."""
    cases = (case(7, growing(60.0)), case(8, growing(20.0)))
    assert "by the work they do: look in the request path" in place(*cases)
    assert "faster where more is done" in place(*cases, idle=(quiet(9),))


def test_growth_that_is_the_same_with_little_work_and_much_is_a_timers() -> None:
    cases = (
        case(7, growing(60.0, per_work=2.0)),
        case(8, growing(60.0, per_work=20.0)),
    )
    assert "by time, not by work" in place(*cases)
    assert "threads, timers and background tasks" in place(*cases)


def test_equal_work_and_equal_growth_leave_both_open() -> None:
    assert "or at a background task" in place(case(7), case(8))


def test_one_worker_of_many_has_a_job_of_its_own() -> None:
    """Seen for a while, and not simply because it is the busiest."""
    idle = (quiet(8), quiet(9), quiet(10))
    assert "only worker 7 leaks, at 1.0 times its siblings' work: look for what" in place(
        case(7), idle=idle
    )
    assert "ahead of them" in place(case(7, work=5000.0), idle=idle)
    assert "only worker" not in place(case(7, since=60.0), idle=idle)


def test_siblings_that_grow_without_having_been_told_are_with_it() -> None:
    """Or are too young to say."""
    assert "leak alike" in place(case(7), case(8), idle=(quiet(9, 55.0), quiet(10, None)))
    assert "leak alike" not in place(case(7), idle=(quiet(8, None), quiet(9, None)))
    assert "some workers leak, others not" in place(case(7), case(8), idle=(quiet(9, 2.0),))
    lately = (case(7, since=60.0), case(8, since=60.0))
    assert "others not" not in place(*lately, idle=(quiet(9, 2.0),))


def test_a_worker_that_grows_without_any_request_has_a_timer() -> None:
    known = facts(case(7, growing(per_work=2.0, requests=0.0)))
    assert "though it does no work" in said(known)


def test_the_master_has_places_of_its_own() -> None:
    """And is not counted among the workers."""
    verdict = Verdict(MASTER_GROWTH, AT - 99, 1.0, None, 0.9, "it grows", True)
    master = Case(worker(100), verdict, growing(per_work=None), False)
    first, second = advice.sentences(facts()._replace(master=master))
    assert first == "the master grows 60.0MB/h, since 13:10 (50m): 50.0MB so far"
    assert "preloaded code" in second
    with_files = facts()._replace(master=master._replace(files=True))
    assert "does not close" in advice.sentences(with_files)[-1]


# -- what is no leak


def test_growth_that_is_none_is_said_with_its_reason() -> None:
    """The kind of it, when, and the detector's own numbers."""
    seen = facts(case(7), case(8)).snapshot
    spike = Verdict("spike", AT - 116 * MINUTE, 1, None, 0.8, "one step of 67.0MB, flat for 10m")
    full = Verdict("plateau", AT - 40 * MINUTE, 1, None, 0.8, "grew 40.0MB in 25m, flat since")
    assert advice.no_leaks(seen, {WorkerId(7, 7): (spike,), WorkerId(100, 100): (full,)}) == (
        "worker 7: not a leak: allocator high-water mark after one large request or import "
        "at 12:04: one step of 67.0MB",
        "the master: not a leak: grew 40.0MB in 25m while its cache filled, flat since 13:20 (40m)",
    )
    unclocked = seen._replace(clock=None)
    (text,) = advice.no_leaks(unclocked, {WorkerId(7, 7): (full,)})
    assert text == "worker 7: not a leak: grew 40.0MB in 25m while its cache filled, flat for 40m"
    both = (spike, full._replace(since=AT, measured=9))
    (text,) = advice.no_leaks(seen, {WorkerId(7, 7): both})
    assert text.endswith("while its cache filled, flat now")


def test_many_workers_that_are_healthy_take_a_few_lines() -> None:
    verdict = Verdict("spike", AT, 1, None, 0.8, "one step")
    verdicts = {WorkerId(pid, pid): (verdict,) for pid in range(40)}
    texts = advice.no_leaks(facts().snapshot, verdicts)
    assert len(texts) == 5 and texts[-1] == "and 36 more that are no leaks"


def test_other_verdicts_get_no_advice() -> None:
    verdict = Verdict("limit", AT, 1, None, 0.8, "too big", True)
    assert advice.no_leaks(facts().snapshot, {WorkerId(7, 7): (verdict,), None: (verdict,)}) == ()
    assert advice.sentences(facts()) == () and advice.gist(facts()) is None


# -- when it is said again


def gist(*cases: Case, **more: object) -> advice.Gist:
    found = advice.gist(facts(*cases, **more))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_advice_is_news_when_something_material_changed() -> None:
    """A rate by a factor of two, a release, the number of workers, that it is to be acted on."""
    before = gist(case(7), idle=(quiet(8),))
    acting = case(7)
    acting = acting._replace(verdict=acting.verdict._replace(act=True))
    assert not advice.is_news(before, gist(case(8, growing(100.0)), idle=(quiet(7),)))
    for after in (
        gist(case(7, growing(130.0)), idle=(quiet(8),)),
        gist(case(7, growing(25.0)), idle=(quiet(8),)),
        gist(case(7), idle=(quiet(8),), releases=history(None, 60.0)),
        gist(case(7), case(8)),
        gist(acting, idle=(quiet(8),)),
    ):
        assert advice.is_news(before, after)
    assert advice.is_news(None, before)
    for after in (before, gist(acting, idle=(quiet(8),))):
        assert not advice.is_news(gist(acting, idle=(quiet(8),)), after), "no more than before"
