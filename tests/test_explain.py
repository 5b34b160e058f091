"""Why it did and why it did not: the answer, what verdicts lack, what holds and when it lets go."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import supervisor_memwatch
from supervisor_memwatch import explain, procedure
from supervisor_memwatch.explain import LETS_GO, lacks
from supervisor_memwatch.model import Entry
from supervisor_memwatch.options import Options
from supervisor_memwatch.trends import Early
from supervisor_memwatch.units import GB, MB

NOW = 1_800_000_000.0
PACKAGE = Path(supervisor_memwatch.__file__).parent
OPTIONS = Options()


def verdict(kind: str, **more: Any) -> dict[str, Any]:
    usual = {"since": NOW - 600, "measured": 40.0 * MB, "bound": 160.0 * MB, "confidence": 0.9}
    return {"kind": kind, **usual, "why": "the numbers", "told": True, "act": False, **more}


def worker(pid: int = 4711, *verdicts: dict[str, Any], **more: Any) -> dict[str, Any]:
    known = {"pid": pid, "id": f"{pid}-1", "limit": 400 * MB, "trend": None}
    return {**known, "verdicts": list(verdicts), **more}


def program(*workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "namespec": "web",
        "state": "RUNNING",
        "mode": "act",
        "kind": "gunicorn",
        "master": None,
        "workers": list(workers or (worker(),)),
        "verdicts": [],
        "total_limit": 2 * GB,
        "held": [],
        "action": None,
        "last_action": None,
        "budget": {"used": 2, "of": 6, "period": 3600.0},
        **more,
    }


def held(code: str, until: float | None = None) -> dict[str, Any]:
    return {"code": code, "text": f"because of {code}", "until": until}


def said(found: dict[str, Any], *entries: Entry, **more: Any) -> str:
    return "\n".join(explain.lines(found, entries, NOW, OPTIONS, **more))


def first(found: dict[str, Any], *entries: Entry, **more: Any) -> str:
    return said(found, *entries, **more).splitlines()[0]


# -- too early


def test_what_was_not_watched_for_long_enough_is_not_called_healthy() -> None:
    """How long it was, and how long it takes."""
    early = {"4711-1": Early(25.0, 330.0), "4712-1": Early(40.0, 330.0)}
    text = first(program(worker(4711), worker(4712)), early=early)
    assert "too early to tell a leak, watched for 25s; it takes 5m 30s" in text
    assert "no leak" not in text


def test_who_is_too_early_to_tell_is_named_where_siblings_are_not() -> None:
    """Of the others there is an answer."""
    text = said(program(worker(4711), worker(4712)), early={"4712-1": Early(25.0, 330.0)})
    assert "too early to tell a leak of 1 worker (4712), watched for 25s" in text
    assert "no verdict on 2 workers (4711, 4712), too early for one on 1 worker (4712)" in text


# -- the guards


def codes() -> set[str]:
    """The first argument of every Held(...) that forbids an action."""
    return {
        str(node.args[0].value)
        for module in ("policy", "ledger", "watch")
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Held"
        and isinstance(node.args[0], ast.Constant)
    }


def test_every_guard_that_can_hold_has_its_words() -> None:
    """And nothing is explained that cannot happen."""
    assert codes() == set(LETS_GO)


@pytest.mark.parametrize("code", sorted(LETS_GO))
def test_a_guard_is_said_with_its_reason_and_when_it_lets_go(code: str) -> None:
    """The code for scripts and searches, the reason with its numbers, the time left, what to do."""
    found = program(
        worker(4711, verdict("leak", act=True, measured=200.0 * MB)), held=[held(code, NOW + 200)]
    )
    text = said(found)
    assert f"web: It would act on leak of worker 4711, and is held: because of {code}." in text
    assert f"  held ({code}): because of {code}\n    it lets go in 3m 20s, " in text
    assert LETS_GO[code].format(name="web") in text
    assert "{" not in text


@pytest.mark.parametrize("code", sorted(LETS_GO))
def test_a_guard_without_a_time_says_what_it_waits_for(code: str) -> None:
    """Not "in ?"."""
    text = said(program(held=[held(code)]))
    assert "web: What was asked for is held" in text
    assert f"    it lets go {LETS_GO[code].format(name='web')}" in text


def test_a_time_that_is_over_is_now() -> None:
    """The listener's clock and ours may differ."""
    assert "it lets go in 0s, " in said(program(held=[held("cooldown", NOW - 5)]))


# -- the answer


def test_where_leaks_are_not_looked_for_it_is_not_said_that_there_is_none() -> None:
    """Only that nobody is over a limit."""
    text = explain.lines(program(worker(1)), [], NOW, Options(growth="off"))[0]
    assert text.startswith(
        "web: It does nothing: nobody is over a limit; leaks are not looked for (growth = off)."
    )


def test_nothing_to_do_is_said_with_what_was_looked_at() -> None:
    """And how the one that grows most does."""
    trend = {"bytes_per_hour": 2.0 * MB, "low": -1.0 * MB, "high": 5.0 * MB}
    text = said(program(worker(1), worker(2, trend=trend)))
    assert text.startswith("web: It does nothing, for there is nothing to do")
    assert "no verdict on 2 workers (1, 2); 2 grows most: +2.0MB/h (-1.0MB/h to +5.0MB/h)" in text
    flat = {"bytes_per_hour": 0.0, "low": 0.0, "high": 0.0}
    assert "grows most" not in said(program(worker(1, trend=flat)))
    assert "mode act; 2 actions in the last 1h; the budget is 6" in text
    assert "last action: none that is remembered" in text


def test_a_program_without_workers_is_not_said_to_have_some() -> None:
    """One that is no gunicorn is one process."""
    young = verdict("warming_up", told=False)
    assert "it is too young to be judged" in first(program(worker(1, young), kind="plain"))
    assert "every worker is too young" in first(program(worker(1, young)))
    assert "no process of it is seen" in first(program(kind="plain", workers=[]))


def test_an_action_under_way_comes_first() -> None:
    """Whom, which step, for how long, why."""
    action = {"action": "recycle", "step": "leaving", "pid": 7, "why": "it leaks", "begun": NOW - 9}
    found = program(worker(7, verdict("leak", act=True)), action=action)
    assert first(found) == (
        "web: It is acting: recycle of worker 7 (it was asked to leave), for 9s, because it leaks."
    )


def test_every_step_has_its_words() -> None:
    """And no other."""
    assert set(explain.STEPS) == {step for steps in procedure.STEPS.values() for step in steps}


@pytest.mark.parametrize(
    ("told", "act", "words"),
    [
        (False, False, "web: It has its eye on leak of worker 4711, which is not sure yet."),
        (True, False, "web: It has told leak of worker 4711 and does not act: that is not enough"),
        (True, True, "web: It acts on leak of worker 4711 at its next look."),
    ],
)
def test_how_far_a_verdict_has_come(told: bool, act: bool, words: str) -> None:
    """Suspected, told, acted on."""
    assert first(program(worker(4711, verdict("leak", told=told, act=act)))).startswith(words)


def test_what_does_not_run_is_not_acted_on() -> None:
    """Supervisor's own word."""
    found = program(state="STOPPED")
    found["workers"] = []
    assert first(found) == "web: It does nothing: Supervisor says STOPPED."
    found["state"] = "RUNNING"
    assert first(found) == "web: It does nothing: no worker is seen."


def test_a_pause_is_the_answer_where_nothing_else_is() -> None:
    """One that is over is none."""
    found = program()
    assert first(found, paused_until=NOW + 3000) == (
        "web: It begins nothing: paused for another 50m."
    )
    assert "paused for another 50m" in said(found, paused_until=NOW + 3000).splitlines()[-2]
    assert "paused" not in said(found, paused_until=NOW - 1)


# -- what a verdict lacks


def test_growth_is_measured_against_what_it_takes() -> None:
    """In bytes and as a share; or its limit being near."""
    text = lacks(verdict("leak"), NOW, OPTIONS)
    assert text == (
        "told, not acted on: it has grown 40.0MB, acted on from 160.0MB of growth on (25% of "
        "that), or when its limit is less than 10m away"
    )
    enough = lacks(verdict("master_growth", measured=200.0 * MB), NOW, OPTIONS)
    assert enough.endswith("(125% of that); that is enough, but it came in few steps")
    waiting = lacks(verdict("leak", measured=200.0 * MB), NOW, OPTIONS)
    assert waiting.endswith(
        "enough, but it came in few steps or this program's healthy growth stopped there before"
    )
    acting = lacks(verdict("leak", act=True, measured=200.0 * MB), NOW, OPTIONS)
    assert (
        acting
        == "enough to act: it has grown 200.0MB, acted on from 160.0MB of growth on (125% of that)"
    )
    near = lacks(verdict("leak", act=True), NOW, OPTIONS)
    assert near.startswith("enough to act: its limit is near: that is enough; it has grown")


def test_only_where_there_are_siblings_may_one_come_first_and_it_is_named() -> None:
    waits = worker(4711, verdict("leak", measured=200.0 * MB))
    first = worker(4712, verdict("leak", measured=300.0 * MB, act=True))
    assert "comes first" not in said(program(waits))
    assert "or a sibling, which grows alike, comes first" in said(program(waits, worker(4712)))
    assert "or worker 4712, which grows alike, comes first" in said(program(waits, first))


def test_what_is_not_confirmed_says_for_how_long_it_has_to_hold() -> None:
    """Without the options, only that it is not."""
    young = verdict("leak", told=False, since=NOW - 12)
    assert lacks(young, NOW, OPTIONS) == (
        "not told yet: it has to hold for 30s without a break, 12s so far"
    )
    assert lacks(young, NOW) == "not told yet: it stands for 12s and is not confirmed"
    assert lacks({**young, "since": NOW - 31}, NOW, OPTIONS) == "told at the next look"


def test_uneven_load_is_never_told() -> None:
    """However long it stands."""
    text = lacks(verdict("imbalance", told=False), NOW, OPTIONS)
    assert text == "never told: it works more than its siblings, which explains it"


def test_imbalance_is_measured_by_its_excess() -> None:
    """A quarter of the room that its limit leaves over what its siblings hold."""
    found = verdict("imbalance", measured=200.0 * MB, bound=160.0 * MB)
    assert lacks(found, NOW, OPTIONS, 400 * MB) == (
        "told, not acted on: it holds 200.0MB, more than 160.0MB is worth a word; 100.0MB more "
        "than its siblings, acted on from 75.0MB on (133% of that)"
    )
    assert "acted on from 25% of the room there is for it" in lacks(found, NOW, OPTIONS)
    assert "siblings" not in lacks(found, NOW)


def test_open_files_are_files() -> None:
    """Not bytes."""
    text = lacks(verdict("fd_growth", measured=500.0, bound=700.0), NOW, OPTIONS)
    assert text == "told, not acted on: 500 open files, acted on from 700 on (71% of that)"


@pytest.mark.parametrize("kind", ["limit", "total_limit"])
def test_a_limit_is_acted_on_as_soon_as_it_is_told(kind: str) -> None:
    """What is held, of what."""
    text = lacks(verdict(kind, act=True, measured=410.0 * MB, bound=400.0 * MB), NOW, OPTIONS)
    assert text == "enough to act: holds 410.0MB of 400.0MB"
    assert lacks(verdict(kind, act=True, bound=None), NOW) == "enough to act: the numbers"


def test_the_programs_and_the_masters_verdicts_are_said_too() -> None:
    """Each under its own name; a plain program is one."""
    found = program(
        worker(1),
        master=worker(9, verdict("master_growth")),
        verdicts=[verdict("total_limit", act=True)],
    )
    text = said(found)
    assert "  the program: total_limit: the numbers" in text
    assert "  master 9: master_growth: the numbers" in text
    plain = said(program(worker(5, verdict("leak")), kind="plain"))
    assert "  the program: leak: the numbers" in plain


def test_what_is_no_leak_says_so() -> None:
    """And what is too young, for how long yet."""
    text = said(
        program(
            worker(1, verdict("plateau", told=False)),
            worker(2, verdict("spike", told=False)),
            worker(3, verdict("warming_up", told=False, since=NOW - 70, bound=120.0)),
        )
    )
    assert "web: It does nothing, for there is nothing to do" in text
    assert "  worker 1: plateau: the numbers; it has stopped growing by itself" in text
    assert "  worker 2: spike: the numbers; one step and flat since" in text
    assert "  worker 3: warming_up: the numbers; no verdict but limit for another 50s" in text


def test_where_all_are_young_nothing_is_known_yet() -> None:
    """That is not health."""
    young = verdict("warming_up", told=False, since=NOW - 70, bound=120.0)
    assert first(program(worker(1, young))) == (
        "web: It does nothing yet: every worker is too young to be judged."
    )


# -- the past

LAST = {
    "id": "web@1",
    "action": "recycle",
    "pid": 4711,
    "kind": "leak",
    "why": "USS 400.0MB",
    "by": "memwatch",
    "begun": NOW - 7212,
    "ended": NOW - 7200,
    "result": "done",
    "text": "worker 4711 replaced by 5203",
    "freed_bytes": 300 * MB,
}


def test_why_it_acted_is_what_was_written_down_before() -> None:
    """The plan of that very action; where that is forgotten, its reason."""
    plans = [
        Entry(NOW - 9000, "web", "intent", "an older plan", {"procedure": "web@0"}),
        Entry(NOW - 7212, "web", "intent", "worker 4711: leak; recycling", {"procedure": "web@1"}),
    ]
    text = said(program(last_action=LAST), *plans)
    assert "last action: recycle of worker 4711 by memwatch, 2h ago, took 12s" in text
    assert "    why: worker 4711: leak; recycling" in text
    assert "    result: done: worker 4711 replaced by 5203" in text
    assert "an older plan" not in text
    assert "    why: USS 400.0MB" in said(program(last_action=LAST))


def test_refusals_of_the_past_are_told_once_for_each_reason() -> None:
    """The newest; what still holds is said above, and others' are not ours."""
    entries = [
        Entry(NOW - 900, "web", "held", "the first", {"code": "cooldown"}),
        Entry(NOW - 600, "web", "held", "the second", {"code": "cooldown"}),
        Entry(NOW - 500, "web", "gave_up", "no use", {}),
        Entry(NOW - 400, "web", "held", "outside", {"code": "window"}),
        Entry(NOW - 300, "shop", "held", "not ours", {"code": "budget"}),
    ]
    text = said(program(held=[held("window")]), *entries)
    assert "  refused 10m ago: the second" in text
    assert "  refused 8m 20s ago: no use" in text
    assert not {"the first", "outside", "not ours"} & {
        line.split(": ")[-1] for line in text.split("\n")
    }


def test_of_a_request_the_last_answer_is_said() -> None:
    """It was accepted, and then it would not boot."""

    def answered(id: str, at: float, text: str) -> Entry:
        return Entry(at, "web", "request", text, {"id": id})

    text = said(
        program(),
        answered("1", NOW - 90, "one: accepted"),
        answered("2", NOW - 80, "two: accepted"),
        answered("1", NOW - 60, "one: held"),
    )
    assert "one: accepted" not in text
    assert text.index("two: accepted") < text.index("asked 1m ago: one: held")


def test_what_was_refused_to_nobody_is_not_a_programs() -> None:
    """Misspelt names do not push its own requests out; a pause of everything is its own."""
    refused = {"answer": "refused"}
    text = said(
        program(),
        Entry(NOW - 500, "web", "request", "its own", refused),
        Entry(NOW - 400, "", "request", "pause all", {"answer": "accepted"}),
        *(Entry(NOW - n, "", "request", "no such program", refused) for n in (90, 60, 30)),
    )
    assert "its own" in text and "pause all" in text and "no such program" not in text


@pytest.mark.parametrize("code", ["cooldown", "preflight", "budget"])
def test_a_request_that_was_held_is_over(code: str) -> None:
    """It does not begin by itself when the guard lets go; what a verdict wants does."""
    given_up = "; that request was given up: ask again then"
    assert given_up in said(program(held=[held(code, NOW + 19)]))
    wants = worker(4711, verdict("leak", act=True, measured=200.0 * MB))
    assert given_up not in said(program(wants, held=[held(code, NOW + 19)]))


@pytest.mark.parametrize("code", explain.WAITED_FOR)
def test_a_request_that_waits_is_not_over(code: str) -> None:
    """For its preflight and for other programs."""
    assert "given up" not in said(program(held=[held(code)]))


def test_who_asked_for_what_is_told() -> None:
    """The last three, those for all programs among them."""
    entries = [Entry(NOW - 60 * n, "", "request", f"request {n}", {}) for n in (9, 8, 7, 6)]
    text = said(program(), *entries)
    assert "request 9" not in text
    assert "  asked 6m ago: request 6" in text


def test_foreign_text_cannot_move_the_cursor() -> None:
    """Names and reasons come from others."""
    hostile = "web\x1b[2J\nforged"
    found = program(worker(1, verdict("leak", why=hostile)), namespec=hostile)
    lines = explain.lines(found, [Entry(NOW, hostile, "request", hostile)], NOW)
    assert all(line.isprintable() for line in lines)


def test_the_document_has_the_reasons_and_the_answer() -> None:
    """What the words are made of."""
    found = explain.explain(
        program(worker(1, verdict("leak")), held=[held("budget", NOW + 9)]), [], NOW
    )
    assert found["answer"].startswith("What was asked for is held")
    assert found["held"] == [
        {**held("budget", NOW + 9), "lets_go": LETS_GO["budget"], "given_up": True}
    ]
    [only] = found["verdicts"]
    assert (only["who"], only["kind"], only["bound"]) == ("worker 1", "leak", 160.0 * MB)
    assert found["no_leak"] == [] and found["paused_until"] is None
