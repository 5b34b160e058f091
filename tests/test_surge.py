"""A surge that takes two workers, from the plan to the page: both are named wherever one is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, event, ticks
from test_watch import ACT, Host
from worlds import World

from supervisor_memwatch import chronicle, config, deeds, markup, messages, notifiers
from supervisor_memwatch.model import Command, Decision, Entry, Verdict
from supervisor_memwatch.options import Ceiling
from supervisor_memwatch.units import MB

OPTIONS = """
mode = act
measure = rss
warmup = 0s
growth = off
imbalance = off
total_limit = 100GB
"""
PROVED = "[memwatch:web]\npreflight = auto\n"
PLAN = "surge: only 1 of 2 workers would serve meanwhile; takes the oldest worker 1001 as well"


def two(**more: Any) -> World:
    """The oldest holds 350 MB, the other one 250."""
    world = World(count=2, available=8000 * MB, free=6000 * MB, **more)
    world.procs[0].base, world.procs[1].base = 350.0, 250.0
    return world


def recycled(world: World, worker: int = 1) -> Host:
    """Asked for by a person."""
    host = Host(world, replace(ACT, surge="auto", limit=None)).run(70)
    decision = Decision("recycle", "web", world.procs[worker].id, None, by="anna")
    host.watch.ask(decision, world.now, "id-1")
    return host.run(120)


def test_both_are_counted_and_named_in_the_journal_and_the_news() -> None:
    """What both held, less what both newcomers hold; in what status and explain read as well."""
    host = recycled(two())
    assert [command.signal for _, command in host.commands] == ["TTIN", "TERM", "TTOU"]
    (plan,) = [entry for entry in host.entries if entry.kind == "intent"]
    assert f"recycling ({PLAN})" in plan.text and plan.data["also_pid"] == 1001
    (end,) = [entry for entry in host.entries if entry.kind == "outcome"]
    assert "worker 1002 replaced by 1004, the oldest worker 1001 by 1003 (surge)" in end.text
    assert (end.data["also_pid"], end.data["freed_bytes"]) == (1001, 500 * MB)
    last = host.watch.last_action
    assert last is not None
    assert (last["pid"], last["also_pid"], last["freed_bytes"]) == (1002, 1001, 500 * MB)
    (news,) = host.news
    data = notifiers.envelope(news, "host", "id")["data"]
    assert data["worker"]["pid"] == 1002
    assert (data["also_pid"], data["freed_bytes"]) == (1001, 500 * MB)
    assert "the oldest worker 1001 by 1003" in data["summary"]
    assert json.dumps(data)


def test_one_that_left_alone_is_named_alone() -> None:
    """The oldest is swapped exactly."""
    host = recycled(two(), worker=0)
    assert [command.signal for _, command in host.commands] == ["TTIN", "TTOU"]
    assert host.watch.last_action is not None
    assert host.watch.last_action["also_pid"] is None
    assert host.watch.last_action["freed_bytes"] == 300 * MB
    assert [news.also for news in host.news] == [None]


def test_the_oldest_leaves_by_our_doing() -> None:
    """No action of others against the budget, and no end to be told as seen."""
    host = recycled(two())
    assert len(host.watch.actions) == 1
    assert host.kinds("seen") == []
    assert host.told() == ["acted"]


def test_who_was_not_asked_is_not_named() -> None:
    """Somebody restarts the program while the extra worker boots: the plan comes to nothing."""
    world = two(boot=20.0)
    host = Host(world, replace(ACT, surge="auto", limit=None)).run(70)
    host.watch.ask(Decision("recycle", "web", world.procs[1].id, None), world.now)
    host.run(10, 1.0)
    assert host.watch.procedure is not None and host.watch.procedure.step == "adding"
    world.others("restart")
    host.run(10)
    last = host.watch.last_action
    assert last is not None and (last["result"], last["also_pid"]) == ("overtaken", None)


def test_whose_exact_size_is_wanted() -> None:
    """The oldest's before it is asked, those of both newcomers once it has left."""
    host = Host(two(), replace(ACT, surge="auto", limit=None)).run(70)
    decision = Decision("recycle", "web", host.world.procs[1].id, None)
    host.watch.ask(decision, host.world.now)
    wanted: dict[str, set[int]] = {}
    for _ in range(60):
        host.run(1, 1.0)
        if host.watch.procedure is not None:
            wanted[host.watch.procedure.step] = {id.pid for id in host.watch.wants()}
    assert 1001 in wanted["leaving"]
    assert wanted["settling"] >= {1003, 1004}


def test_the_ledger_compares_the_one_that_was_complained_of() -> None:
    """With the worker that stands for it; what the oldest gave back is no merit of it."""
    world = two(fresh_base=240.0)
    world.procs[1].base = 250.0
    limit = Ceiling(bytes=255 * MB)
    host = Host(world, replace(ACT, surge="auto", limit=limit, warmup=0.0, confirm=5.0))
    world.procs[0].base = 200.0
    host.run(200)
    (turn,) = host.watch.ledger.turns[:1]
    assert turn.target is not None and turn.target.pid == 1002
    assert turn.newcomer is not None and turn.newcomer.pid == 1004
    assert (turn.before, turn.after) == (260 * MB, 250 * MB)  # RSS


@pytest.mark.parametrize(
    ("oldest", "target", "result", "words"),
    [
        (310.0, 340.0, "done", "670.0MB -> 620.0MB, 50.0MB back"),
        (600.0, 305.0, "ineffective", "-> 620.0MB: hardly anything came back of worker 1002"),
    ],
)
def test_whether_it_helped_is_judged_by_the_one_that_was_complained_of(
    oldest: float, target: float, result: str, words: str
) -> None:
    """The ladder climbs for it alone, whatever the oldest gave back."""
    world = two(fresh_base=300.0)
    world.procs[0].base, world.procs[1].base = oldest, target
    host = Host(world, replace(ACT, surge="auto", limit=None)).run(70)
    verdict = Verdict("leak", 0.0, 1.0, 1.0, 0.9, "it leaks", True, True)
    decision = Decision("recycle", "web", world.procs[1].id, verdict)
    host.watch.ask(decision, world.now)
    host.run(120)
    last = host.watch.last_action
    assert last is not None and (last["also_pid"], last["result"]) == (1001, result)
    assert words in last["text"]


def test_one_that_is_still_finishing_its_requests_is_waited_for() -> None:
    """No other action meanwhile; when it leaves after all, that is still our doing."""
    world = two()
    world.procs[0].drain = 200.0
    host = recycled(world)
    assert host.watch.last_action is not None
    assert "1001 was asked to leave as well, and is still there" in host.watch.last_action["text"]
    assert {id.pid for id in host.watch.leaving} == {1001}
    host.watch.ask(Decision("recycle", "web", world.procs[-1].id, None), world.now, "id-2")
    host.run(10)
    (_, answer, reason) = host.watch.answers()[-1]
    assert answer == "held" and reason.startswith("worker 1001 was asked to leave and is still")
    host.run(200)
    assert not host.watch.leaving and host.kinds("seen") == []


def test_a_signal_that_could_not_be_sent_has_taken_nobody() -> None:
    """SIGTTOU is tried once more; where that takes nobody either, nobody is named."""
    world = two()
    host = Host(world, replace(ACT, surge="auto", limit=None)).run(70)
    host.watch.ask(Decision("recycle", "web", world.procs[1].id, None), world.now)
    while host.watch.procedure is None or host.watch.procedure.step != "removing":
        seen = host.watch.look(world.snapshot(world.now + 1.0))
        if seen.decision is not None:
            host.watch.begin(seen.decision)
            world.obey(host.watch.launch())
        elif [command.signal for command in seen.commands] != ["TTOU"]:
            world.obey(seen.commands)
        host.watch.carried_out()
    assert host.watch.procedure.also == world.procs[0].id
    [command] = seen.commands
    host.watch.failed(command, "not permitted")
    assert host.watch.procedure is not None
    assert (host.watch.procedure.step, host.watch.procedure.also) == ("evening", None)


# -- what a person reads


def asked(
    directory: Path, monkeypatch: pytest.MonkeyPatch, options: str = "", looks: int = 60
) -> Rig:
    """A listener on paper that was asked to recycle the younger of two workers."""
    world = two()
    monkeypatch.setattr(
        "supervisor_memwatch.listener.send",
        lambda whom, signal: world.obey([Command("signal", "web", whom, signal)]),
    )
    rig = Rig(directory, OPTIONS + options, world)
    id = "00000000-0000-4000-8000-000000000001"
    text = messages.write(id, time.time(), "recycle", "1002", by="anna")
    rig.clock.step = 1.0
    request = event("REMOTE_COMMUNICATION", f"type:memwatch\n{text}", 4)
    return rig.run(ticks(3) + request + ticks(looks, 5))


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("", f"recycle has begun ({PLAN})"),
        (PROVED, f"recycle ({PLAN}) begins when the preflight has passed"),
    ],
)
def test_the_answer_says_who_will_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, answer: str
) -> None:
    """Also while the preflight is awaited; and then what has begun."""
    rig = asked(tmp_path, monkeypatch, options)
    assert f"recycle 1002 by anna: accepted: {answer}" in rig.log
    [(said, reason)] = rig.rows("SELECT answer, reason FROM answers")
    assert (said, reason) == ("accepted", f"recycle has begun ({PLAN})")
    assert f"recycling ({PLAN})" in rig.log
    assert "recycle: removing: the oldest worker 1001 asked to leave as well (SIGTTOU)" in rig.log


def test_history_explain_and_status_say_both(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words and as numbers."""
    rig = asked(tmp_path, monkeypatch)
    told = ran("history", "-c", rig.conf).out
    assert "recycle of worker 1002 and the oldest, 1001 by anna: done in" in told
    [action] = ran("history", "--json", "-c", rig.conf).document["actions"]
    assert (action["pid"], action["also_pid"]) == (1002, 1001)
    assert action["freed_bytes"] == 500 * MB
    explained = ran("explain", "-c", rig.conf).out
    assert "last action: recycle of worker 1002 and the oldest, 1001 by anna" in explained
    assert PLAN in explained
    [program] = ran("status", "--json", "-c", rig.conf).document["programs"]
    assert program["last_action"]["also_pid"] == 1001


def test_an_action_under_way_says_whom_it_will_take(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody has left."""
    rig = asked(tmp_path, monkeypatch, looks=0)
    assert "recycle of worker 1002 and the oldest, 1001 (" in ran("explain", "-c", rig.conf).out
    [action] = ran("history", "--json", "-c", rig.conf).document["actions"]
    assert (action["also_pid"], action["result"]) == (1001, None)
    [program] = ran("status", "--json", "-c", rig.conf).document["programs"]
    assert program["action"]["also_pid"] == 1001
    for command in (["status"], ["top", "--once"]):
        told = " ".join(ran(*command, "-c", rig.conf).out.split())
        assert "now: recycle worker 1002 and the oldest, 1001, " in told, command


def test_what_was_told_of_both_ends_with_them() -> None:
    """On the page, where the samples may be a minute late."""

    def line(at: float, kind: str, text: str, **data: Any) -> Entry:
        return Entry(at, "web", kind, text, data)

    lines = [
        line(1.0, "suspected", "worker 7: leak: it grows", pid=7, verdict="leak"),
        line(2.0, "suspected", "worker 8: leak: it grows", pid=8, verdict="leak"),
        line(9.0, "outcome", "done", procedure="web@1", result="done", also_pid=7),
    ]
    plans = {"web@1": {"action": "recycle", "target": [8, 1]}}
    spans = deeds.told(lines, [], plans, None, 0.0, 20.0)
    assert [(span["pid"], span["until"]) for span in spans] == [(7, 9.0), (8, 9.0)]


def test_the_page_shows_both_and_what_two_boots_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table of what was done."""
    rig = asked(tmp_path, monkeypatch)
    now = rig.clock.now  # ahead of the machine's clock
    monkeypatch.setattr("supervisor_memwatch.chronicle.time.time", lambda: now)
    document = chronicle.document(config.load(str(rig.conf), {}))
    [action] = document["programs"][0]["actions"]
    assert (action["pid"], action["also_pid"], action["freed"]) == (1002, 1001, 500 * MB)
    assert action["cost"].endswith(": two boots, one worker more meanwhile")
    assert "recycle worker 1002 and the oldest, 1001, surge" in markup.render(document, "", "")
