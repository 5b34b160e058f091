"""The headline of a page: what was known of a leak outlives the worker that had it."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_memwatch import answer
from supervisor_memwatch.answer import Known
from supervisor_memwatch.model import LEAK
from supervisor_memwatch.options import Options
from supervisor_memwatch.units import MB

NOW = 65400.0  # 18:10
WHY = "USS 67.0MB, anonymous memory +10.2MB/min for 3m (43.2MB to 73.8MB), 160.0MB in 9m 7s"
GOOD = "Not leaking, as far as can be seen: "


def worker(pid: int, age: float, **more: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "id": f"{pid}:{pid}",
        "age": age,
        "verdicts": [],
        "trend": None,
        "limit": None,
        **more,
    }


def program(*workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "namespec": "web",
        "state": "RUNNING",
        "mode": "act",
        "kind": "gunicorn",
        "master": None,
        "workers": workers,
        "verdicts": [],
        "total": 40 * MB,
        "total_limit": None,
        "held": [],
        "action": None,
        "last_action": None,
        "budget": {"used": 1, "of": 6, "period": 3600.0},
        **more,
    }


def told(pid: int, since: float, until: float | None = None, why: str = WHY) -> dict[str, Any]:
    who = f"worker {pid}"
    return {"kind": LEAK, "pid": pid, "who": who, "since": since, "until": until, "why": why}


def recycled(pid: int, at: float, **more: Any) -> dict[str, Any]:
    return {"action": "recycle", "pid": pid, "also_pid": None, "at": at, "ended": at + 10, **more}


def known(*workers: dict[str, Any], **more: Any) -> Known:
    found = Known(
        now=program(*workers),
        at=NOW,
        zone=0,
        silence="",
        advice=(),
        paused=None,
        options=None,
        early={},
        # Seen since 18:00, told to leak at 18:05, recycled at 18:09.
        told=[told(7, NOW - 300, NOW - 50)],
        actions=[recycled(7, NOW - 60)],
        others=[],
        lives={7: (NOW - 600, NOW - 60)},
    )
    return found._replace(**more)


def headline(found: Known) -> str:
    said: str = answer.answer(found)["headline"]
    return said


def test_a_leak_is_not_forgotten_with_its_worker() -> None:
    """Which worker, how fast, recycled when; and how old the new one is."""
    found = answer.answer(known(worker(6, 9000.0), worker(8, 50.0)))
    assert (found["tone"], found["rank"]) == ("unsure", answer.LEAKING)
    assert found["headline"] == (
        "Was leaking: worker 7 at +10.2MB/min, recycled at 18:09. Too early to tell of what came "
        "after: worker 8 is 50s old, the leak was told after about 5m. The program holds 40.0MB."
    )


def test_it_is_remembered_until_another_could_have_been_told() -> None:
    """For twice as long as it took then."""
    assert "Nothing is told yet of what came after: worker 8 is 6m 40s old" in headline(
        known(worker(8, 400.0), at=NOW + 350)
    )
    assert headline(known(worker(8, 601.0), at=NOW + 551)).startswith(GOOD)


def test_while_it_is_recycled_that_is_said() -> None:
    """Also where nobody has come yet."""
    found = known(worker(6, 9000.0), actions=[recycled(7, NOW - 60, ended=None)])
    assert headline(found) == (
        "Was leaking: worker 7 at +10.2MB/min, recycle under way since 18:09. "
        "The program holds 40.0MB."
    )


def test_two_that_went_together_are_both_named() -> None:
    """A surge may take two, a reload all."""
    found = known(
        worker(8, 50.0),
        told=[told(6, NOW - 310, NOW - 50), told(7, NOW - 300, NOW - 50)],
        actions=[recycled(7, NOW - 60, also_pid=6)],
        lives={6: (NOW - 600, NOW - 60), 7: (NOW - 600, NOW - 60)},
    )
    assert headline(found).startswith("Was leaking: workers 6, 7 at +10.2MB/min, recycled at 18:09")


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([recycled(9, NOW - 60)], "ended at 18:09."),
        ([{**recycled(0, NOW - 60), "action": "reload", "pid": 1}], "reloaded at 18:09."),
        ([], "ended at 18:09."),
    ],
)
def test_how_it_ended_is_said_as_far_as_it_is_known(actions: list[Any], said: str) -> None:
    """By another action, or by nobody's we know of."""
    assert said in headline(known(worker(8, 50.0), actions=actions))


def test_other_code_is_another_matter() -> None:
    """What was told before the last deploy is not held against it."""
    found = known(worker(8, 50.0), others=[{"at": NOW - 40, "mark": "deploy", "text": "a release"}])
    assert headline(found).startswith(GOOD)


def test_growth_that_ended_before_its_worker_did_is_no_leak() -> None:
    """It was a cache, perhaps; the worker went later."""
    found = known(worker(8, 50.0), lives={7: (NOW - 600, NOW - 20)})
    assert headline(found).startswith(GOOD)


ADVICE = (
    "worker 6 of 2 leaks 612.0MB/h (600.0MB to 620.0MB), 2KB per request, since 18:05 (5m): "
    "30.0MB so far",
    "it is at its limit of 160.0MB in 9m (8m to 10m), at about 18:19",
    "look in the request path",
)


def leaking(pid: int = 6, **more: Any) -> dict[str, Any]:
    verdict = {"kind": LEAK, "since": NOW - 90, "measured": 1.0, "bound": None, "why": WHY}
    return worker(pid, 9000.0, verdicts=[{**verdict, "told": True, "act": True}], **more)


def test_a_leak_that_stands_is_the_headline() -> None:
    """Told when, holds how much now, how fast, until when: each number once, the advice's too."""
    trend = {"bytes_per_hour": 600.0 * MB, "low": 540.0 * MB, "high": 612.0 * MB}
    figures = {"uss": 80 * MB, "rss": 90 * MB, "swap": 0, "limit": 160 * MB}
    found = known(
        leaking(trend=trend, hours_to_limit=0.1333, **figures),
        worker(8, 50.0),
        told=[told(7, NOW - 300, NOW - 50), told(6, NOW - 60)],
        advice=ADVICE,
    )
    said = answer.answer(found)
    assert said["headline"] == (
        "Worker 6 is leaking, told at 18:09: USS 80.0MB, +10.0MB/min (95 %: +9.0MB/min to "
        "+10.2MB/min), 160.0MB in 8m."
    )
    assert said["lines"][:2] == ["That is 2KB per request.", "Advice: look in the request path."]
    assert not [line for line in said["lines"] if "612.0MB" in line or "18:19" in line]


def test_where_its_trend_is_not_known_the_verdict_speaks() -> None:
    """As it was told."""
    found = known(leaking(), told=[told(6, NOW - 60)])
    assert headline(found) == f"Worker 6 is leaking, told at 18:09: {WHY}."


def test_of_several_the_one_that_is_at_its_limit_first_is_the_headline() -> None:
    """Then the fastest."""
    slow, fast = ({"bytes_per_hour": mb * MB, "low": 1.0, "high": 1.0} for mb in (600.0, 610.0))
    sizes = {"uss": 80 * MB, "rss": 90 * MB, "swap": 0, "limit": 160 * MB}
    found = known(
        leaking(5, trend=slow, hours_to_limit=None, **sizes),
        leaking(6, trend=fast, hours_to_limit=None, **sizes),
        leaking(7, trend=slow, hours_to_limit=0.1, **sizes),
        leaking(8, trend=fast, hours_to_limit=0.2, **sizes),
    )
    said = answer.answer(found)
    order = [line.split()[1] for line in (said["headline"], *said["lines"]) if "leaking" in line]
    assert order == ["7", "8", "6", "5"]


def test_what_is_not_looked_for_is_not_called_absent() -> None:
    """Growth; and whoever is not seen."""
    off = known(worker(6, 9000.0), told=[], options=Options(growth="off"))
    assert answer.answer(off)["tone"] == "unsure"
    assert headline(off) == "Leaks are not looked for (growth = off); the program holds 40.0MB."
    nobody = known(told=[])
    assert headline(nobody) == "No process of it is seen: there is nothing to judge."
