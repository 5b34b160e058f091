"""How a recycle is done, what has to be proven before, and when it is of no use: on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_watch import ACT, Host
from worlds import World

from supervisor_memwatch import policy, preflight
from supervisor_memwatch.ledger import Turn
from supervisor_memwatch.model import Decision, Held, Proof, Verdict, WorkerId
from supervisor_memwatch.options import Options
from supervisor_memwatch.policy import Situation
from supervisor_memwatch.units import MB

AUTO = Options(mode="act")
LEAK = Verdict("leak", 0.0, 1.0, None, 0.9, "it grows", True, True)


def situation(count: int = 4, options: Options = AUTO, **more: object) -> Situation:
    """All serve, and there is room."""
    snapshot = World(count=count).snapshot(1.0)
    base = Situation(options, snapshot, expected=count, need=50 * MB, room=500 * MB)
    return base._replace(**more)


def manner(worker: int, now: Situation, **more: object) -> Decision:
    target = now.snapshot.workers[worker].id
    return policy.manner(Decision("recycle", "web", target, LEAK, **more), now)


def test_the_oldest_worker_is_surged() -> None:
    """An exact swap by SIGTTIN and SIGTTOU."""
    decision = manner(0, situation())
    assert decision.way == "surge" and "takes exactly it" in decision.reason
    assert decision.also is None


def test_another_one_is_recycled_the_plain_way() -> None:
    """A surge would cost the oldest as well."""
    decision = manner(2, situation())
    assert decision.way == "plain" and "3 other workers serve" in decision.reason


def test_where_half_of_the_workers_would_be_left_another_one_is_surged_too() -> None:
    """The plan says whom it costs."""
    decision = manner(1, situation(2))
    assert decision.way == "surge" and "takes the oldest worker 1001 as well" in decision.reason
    assert decision.also == WorkerId(1001, 10010)


@pytest.mark.parametrize(
    ("surge", "worker", "way"),
    [("off", 0, "plain"), ("on", 2, "surge"), ("on", 0, "surge")],
)
def test_the_option_decides(surge: str, worker: int, way: str) -> None:
    """on: always; off: never."""
    assert manner(worker, situation(options=replace(AUTO, surge=surge))).way == way


@pytest.mark.parametrize(
    ("hinders", "words"),
    [
        ({"room": 49 * MB}, "needs 50.0MB, 49.0MB are left"),
        ({"room": None}, "not known whether"),
        ({"need": None}, "not known whether"),
        ({"durable": False}, "journal"),
        ({"expected": 5}, "not all workers serve"),
    ],
)
@pytest.mark.parametrize("surge", ["auto", "on"])
def test_what_hinders_a_surge_is_said(surge: str, hinders: dict[str, object], words: str) -> None:
    """It is then done the plain way."""
    decision = manner(0, situation(options=replace(AUTO, surge=surge), **hinders))
    assert decision.way == "plain" and words in decision.reason


def held(decision: Decision, now: Situation) -> set[str]:
    return {reason.code for reason in policy.objections(decision, now)}


def test_the_only_worker_is_held_where_there_is_no_room_for_another() -> None:
    """Unless a limit presses, somebody insists, or surge = off says that a gap does not matter."""
    now = situation(1, room=10 * MB)
    decision = Decision("recycle", "web", now.snapshot.workers[0].id, LEAK)
    assert held(decision, now) == {"no_room"}
    assert not held(replace(decision, urgent=True), now)
    assert not held(replace(decision, forced=True), now)
    assert not held(decision, now._replace(options=replace(AUTO, surge="off")))
    assert not held(decision, now._replace(room=60 * MB))


def test_patience_is_what_the_verdict_leaves() -> None:
    """A minute; ten seconds where a limit presses; never much of the time to the limit."""
    assert manner(2, situation()).patience == 60
    assert manner(2, situation(), urgent=True).patience == 10
    assert manner(2, situation(), hours=0.1).patience == pytest.approx(18)
    assert manner(2, situation(), forced=True).patience == 0


# -- the proof ----------------------------------------------------------------------------

PROVEN = replace(ACT, preflight="auto")
OK = Proof(True, "gunicorn --check-config", "it imports", 0.0)
BAD = Proof(False, "gunicorn --check-config", "ImportError: no module named x", 0.0)


def over_the_limit(options: Options = PROVEN) -> Host:
    world = World(count=3)
    world.procs[1].base = 300.0
    return Host(world, options)


def test_nothing_is_begun_until_a_worker_is_proven_to_boot() -> None:
    """It is asked for, and the next look need not wait for the next tick."""
    host = over_the_limit().run(60)
    assert host.commands == [] and host.watch.busy
    assert [reason.code for reason in host.watch.held] == ["preflight_pending"]
    assert not [entry for entry in host.entries if entry.kind == "held"]
    host.watch.proof = OK._replace(at=host.world.now)
    host.run(1, 1.0)
    assert host.watch.procedure is not None


def test_a_proof_is_asked_for_before_each_action() -> None:
    """An old one does not count."""
    host = over_the_limit()
    host.watch.proof = OK
    host.run(60)
    assert host.commands == [] and host.watch.proving


def test_code_that_does_not_boot_is_held_and_said_once() -> None:
    """With the application's own error, in the log and in the news."""
    host = over_the_limit()
    for _ in range(60):
        host.watch.proof = BAD._replace(at=host.world.now)
        host.run(1, 1.0)
    assert host.commands == []
    (entry,) = [entry for entry in host.entries if entry.kind == "held"]
    assert "ImportError: no module named x" in entry.text
    assert [news.what for news in host.news].count("held") == 1
    host.watch.proof = OK._replace(at=host.world.now)
    assert host.run(1, 1.0).watch.procedure is not None


def test_a_deploy_is_waited_for_without_a_word() -> None:
    """Code that changed a moment ago is no failure."""
    host = over_the_limit().run(60)
    text = "the code changed 3s ago: is a deploy under way?"
    for _ in range(12):
        host.watch.proof = Proof(False, preflight.DEPLOY, text, host.world.now)
        host.run(2, 1.0)
    assert host.watch.proving and host.commands == []
    assert not [news for news in host.news if news.what == "held"]


def test_what_a_person_asked_for_waits_for_its_proof_and_is_answered() -> None:
    """Begun when it has come; a refusal is said each time."""
    world = World(count=3)
    host = Host(world, PROVEN).run(70)
    target = world.procs[1].id
    for _ in range(2):
        host.watch.ask(Decision("recycle", "web", target, None, by="me"), world.now)
        host.run(1, 1.0)
        assert host.watch.proving and host.watch.asked is not None
        host.watch.proof = BAD._replace(at=world.now)
        host.run(1, 1.0)
        assert host.watch.asked is None and not host.watch.proving
    assert len([entry for entry in host.entries if entry.kind == "held"]) == 2
    host.watch.ask(Decision("recycle", "web", target, None, by="me"), world.now)
    host.watch.proof = OK._replace(at=world.now)
    host.run(1, 1.0)
    assert host.watch.procedure is not None and host.watch.procedure.by == "me"


def test_while_a_request_waits_nothing_else_is_taken_on() -> None:
    """One action at a time; and it does not wait for ever."""
    world = World(count=3)
    host = Host(world, PROVEN).run(70)
    host.watch.ask(Decision("recycle", "web", world.procs[1].id, None), world.now)
    snapshot = world.snapshot(world.now)
    other = Decision("restart", "web", None, None, forced=True)
    assert "in_action" in {h.code for h in host.watch.objections(other, snapshot, True, True)}
    host.run(400)
    assert host.watch.asked is None


# -- whether it helps ---------------------------------------------------------------------


def test_a_storm_of_recycles_stops_and_says_what_it_bought() -> None:
    """Each newcomer is back over its limit within minutes."""
    world = World(count=2, leak=0.5, leaking=1, fresh_leaks=True)
    options = replace(ACT, cooldown=30.0, warmup=20.0)
    host = Host(world, options).run(5400)
    storm, *later = [entry for entry in host.entries if entry.kind == "gave_up"]
    assert len(later) <= 1, "one more is tried after an hour"
    assert "recycled" in storm.text and "buys" in storm.text
    assert "gave_up" in {news.what for news in host.news}


def test_a_fresh_worker_near_its_limit_is_no_success() -> None:
    """The baseline is the problem: it is said, and the ladder climbed."""
    world = World(count=2, fresh_base=190.0)
    world.procs[0].base = 300.0
    host = Host(world, ACT).run(120)
    (outcome,) = [entry for entry in host.entries if entry.kind == "outcome"]
    assert outcome.data["result"] == "ineffective"
    assert "the baseline is the problem" in outcome.text


def test_the_ledger_is_forgotten_when_others_reload() -> None:
    """Perhaps it is another code by now."""
    host = Host(World(count=3)).run(70)
    host.watch.ledger.note(
        Turn(1.0, "leak", "recycle", WorkerId(1, 1), None, 60.0, 100, 50, None, None)
    )
    host.world.others("HUP")
    host.run(60)
    assert host.watch.ledger.turns == []


# -- several programs ---------------------------------------------------------------------


def test_members_of_a_group_go_one_after_the_other() -> None:
    """However many programs may be in action at once."""
    first, second, other = (
        Decision("restart", name, None, LEAK) for name in ("shop:a", "shop:b", "web")
    )
    begin, wait = policy.choose([first, second, other], [], 5)
    assert [decision.namespec for decision in begin] == ["shop:a", "web"]
    assert [(d.namespec, reason.code) for d, reason in wait] == [("shop:b", "max_programs_at_once")]
    begin, _ = policy.choose([second], ["shop:a"], 5)
    assert begin == []


def test_the_most_urgent_program_goes_first() -> None:
    """By the time that is left to its limit."""
    soon, late = (
        Decision("recycle", name, None, LEAK, hours=hours)
        for name, hours in (("a", 5.0), ("b", 0.5))
    )
    begin, _ = policy.choose([soon, late], [], 1)
    assert [decision.namespec for decision in begin] == ["b"]


def test_the_answer_to_a_request_says_what_has_become_of_it() -> None:
    """Held, with the application's error; or begun."""
    world = World(count=3)
    host = Host(world, PROVEN).run(70)
    decision = Decision("recycle", "web", world.procs[1].id, None, by="me")
    for proof, answer, words in ((BAD, "held", "ImportError"), (OK, "accepted", "has begun")):
        host.watch.ask(decision, world.now, "id-1")
        host.run(1, 1.0)
        assert host.watch.answers() == []
        host.watch.take(proof._replace(at=world.now))
        host.run(1, 1.0)
        ((id, given, reason),) = host.watch.answers()
        assert (id, given) == ("id-1", answer) and words in reason


def test_a_request_that_is_held_while_a_verdict_acts_is_answered_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That action is not the one that was asked for."""
    world = World(count=3)
    host = Host(world, PROVEN).run(70)
    asked = Decision("restart", "web", None, None, by="me")
    other = Decision("recycle", "web", world.procs[1].id, LEAK)
    held = ((asked, Held("budget", "no more")),)
    monkeypatch.setattr(policy, "decide", lambda *_: (other, held))
    host.watch.ask(asked, world.now, "id-1")
    host.run(1, 1.0)
    assert host.watch.answers() == [("id-1", "held", "no more")]
    assert host.watch.procedure is not None and host.watch.procedure.request == ""


def test_code_that_boots_again_is_said() -> None:
    """Once, after a failure."""
    host = Host(World(count=3), PROVEN)
    assert host.watch.take(OK) == []
    assert host.watch.take(BAD) == []
    (entry,) = host.watch.take(OK)
    assert "boots again" in entry.text


def test_nothing_is_over_before_the_fresh_workers_are_judged() -> None:
    """`recovered` waits for their warm-up and a leak's first window, and for all to serve."""
    world = World(count=2)
    world.procs[1].base = 300.0
    host = Host(world, replace(ACT, warmup=100.0)).run(60)
    (outcome,) = [entry for entry in host.entries if entry.kind == "outcome"]
    host.run(800)
    (over,) = [entry for entry in host.entries if entry.kind == "recovered"]
    assert over.at - outcome.at > 80


def test_an_action_that_brings_the_master_down_has_failed() -> None:
    """Not `overtaken`: with gunicorn's own reason, as an error and as news."""
    world = World(count=3)
    host = Host(world, ACT).run(70)
    host.watch.begin(Decision("recycle", "web", world.procs[1].id, None))
    host._obey(host.watch.launch(), world.now)
    world.broken = 3
    log = "[2026-01-01 00:00:00 +0000] [9999] [ERROR] Worker (pid:9998) exited with code 3.\n"
    for _ in range(8):
        at = world.now + 1
        seen = host.watch.look(world.snapshot(at), log=log)
        host.entries += seen.entries
        host.news += seen.news
    (outcome,) = [entry for entry in host.entries if entry.kind == "outcome"]
    assert outcome.data["result"] == "failed"
    assert "failed" in {news.what for news in host.news}
