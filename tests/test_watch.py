"""One program under watch, on paper: what is decided, said, held and remembered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from worlds import World

from supervisor_memwatch import attribution
from supervisor_memwatch.detectors import Past
from supervisor_memwatch.model import Command, Decision, Entry, Held, News, Verdict
from supervisor_memwatch.options import Budget, Ceiling, Options
from supervisor_memwatch.releases import Code
from supervisor_memwatch.units import MB
from supervisor_memwatch.watch import Watch

ACT = Options(
    mode="act", limit=Ceiling(bytes=200 * MB), total_limit=None, preflight="off", surge="off"
)


class Host:
    """A tick for one program: look, begin what is wanted, obey; everything is kept."""

    def __init__(self, world: World, options: Options = ACT, **watch: Any) -> None:
        self.world = world
        self.watch = Watch(world.namespec, options, **watch)
        self.entries: list[Entry] = []
        self.news: list[News] = []
        self.commands: list[tuple[float, Command]] = []
        self.reopen = False
        self.code: Code | None = None  # what its files look like; None: they are not looked at
        self.asked: list[float] = []  # when they were to be looked at

    def tick(self, at: float) -> None:
        snapshot = self.world.snapshot(at)
        if self.reopen:
            self.reopen_journal()
        seen = self.watch.look(snapshot)
        self.entries += seen.entries
        self.news += seen.news
        self._obey(seen.commands, at)
        if seen.code:
            self.asked.append(at)
            if self.code is not None:
                self.entries += self.watch.take_code(self.code._replace(at=at))
        if seen.decision is not None:
            self.entries += self.watch.begin(seen.decision)
            self._obey(self.watch.launch(), at)

    def reopen_journal(self) -> None:
        """A listener that ended well and the next one, between two ticks."""
        again = Watch(self.watch.namespec, self.watch.options, self.watch.plain_restart)
        again.load(json.loads(json.dumps(self.watch.dump())))
        again.procedure = self.watch.procedure
        self.watch = again

    def _obey(self, commands: tuple[Command, ...], at: float) -> None:
        self.commands += [(at, command) for command in commands]
        self.world.obey(commands)
        if commands:
            self.watch.carried_out()

    def run(self, seconds: float, step: float = 5.0) -> Host:
        at = self.world.now
        end = at + seconds
        while at < end:
            at += step if self.watch.procedure is None else 1.0
            self.tick(at)
        return self

    def kinds(self, kind: str) -> list[str]:
        return [entry.text for entry in self.entries if entry.kind == kind]

    def told(self) -> list[str]:
        return [item.what for item in self.news]


def test_a_leaking_worker_is_recycled_once_and_its_siblings_are_not() -> None:
    """From the first drift to the memory back: suspected, acted, recovered."""
    world = World(count=3, leaking=1, leak=0.2)
    leaker, *siblings = [proc.id for proc in world.procs]
    host = Host(world).run(1800)
    signals = [(command.signal, command.target) for _, command in host.commands]
    assert signals == [("TERM", leaker)]
    assert {proc.id for proc in world.procs} >= set(siblings)
    assert host.told() == ["suspected", "acted", "recovered"]
    assert host.watch.last_action is not None and host.watch.last_action["result"] == "done"


def test_observe_decides_the_same_and_touches_nothing() -> None:
    """The refusal is a value with its reason."""
    world = World(count=3, leaking=1, leak=0.2)
    host = Host(world, replace(ACT, mode="observe")).run(1200)
    assert host.commands == []
    assert any("observe" in text for text in host.kinds("held"))
    assert [held.code for held in host.watch.held] == ["observe"]


def test_a_healthy_program_is_left_alone_for_a_day() -> None:
    """No news, no command, no line."""
    host = Host(World(count=4)).run(86400, step=60.0)
    assert host.commands == [] and host.news == [] and host.entries == []


def test_the_budget_is_said_once_and_holds() -> None:
    """Fresh workers that leak at once are recycled `budget` times an hour, no more."""
    world = World(count=2, leaking=2, leak=0.5, fresh_leaks=True)
    options = replace(ACT, budget=Budget(2, 3600.0), cooldown=0.0, warmup=10.0, confirm=10.0)
    host = Host(world, options).run(3600)
    assert len(host.commands) == 2
    assert host.told().count("held") >= 1
    assert any("actions in the last 1h; the budget is 2" in text for text in host.kinds("held"))


def test_all_that_holds_an_action_is_one_line() -> None:
    """And one piece of news, of what does not pass by itself; each reason once an hour."""
    world = World(count=2, leaking=2, leak=0.5, fresh_leaks=True)
    options = replace(ACT, budget=Budget(1, 3600.0), cooldown=1800.0, warmup=10.0, confirm=10.0)
    host = Host(world, options).run(1200)
    held = [entry for entry in host.entries if entry.kind == "held"]
    both = [entry.text for entry in held if "cooldown" in entry.text and "budget" in entry.text]
    reasons = r": recycle held: 1 action in the last 1h; the budget is 1; cooldown for another \d+"
    assert both and re.search(reasons, both[0])
    assert len({(entry.at, entry.text.partition(" held: ")[0]) for entry in held}) == len(held)
    [first, *_] = [item for item in host.news if item.what == "held"]
    assert "the budget is 1" in first.summary and "cooldown" not in first.summary
    assert [verdict.kind for verdict in first.verdicts] == ["leak"], "what it is held of"


def test_what_passes_within_seconds_is_shown_and_not_said() -> None:
    """Alone or beside what lasts; not even to who asked."""
    host = Host(World(count=2)).run(30)
    decision = Decision("recycle", "web", host.world.procs[0].id, None)
    passing = Held("in_action", "a reload is under way")
    assert host.watch.hold(decision, passing, always=True) == ([], [])
    [entry], [news] = host.watch.hold(decision, passing, Held("budget", "too many"))
    assert entry.text.endswith("recycle held: too many") and news.summary.endswith(": too many")
    assert passing in host.watch.held


def test_the_cooldown_separates_two_actions() -> None:
    """Two leaking workers: the second one waits."""
    world = World(count=3, leaking=2, leak=0.1)
    host = Host(world, replace(ACT, cooldown=600.0)).run(3600)
    first, second = [at for at, command in host.commands if command.signal == "TERM"][:2]
    assert second - first >= 600.0


def test_the_ladder_climbs_only_after_a_rung_proved_ineffective() -> None:
    """A replacement as big as the one before: recycle, reload, restart, give up."""
    world = World(count=2, fresh_base=300.0)
    for proc in world.procs:
        proc.base = 300.0
    options = replace(
        ACT, actions=("recycle", "reload", "restart"), cooldown=1.0, budget=Budget(99, 3600.0)
    )
    host = Host(world, options).run(3600)
    did = [command.signal or command.do for _, command in host.commands]
    assert did == ["TERM", "HUP", "stop", "start"]
    assert "gave_up" in host.told()
    assert next(held.code for held in host.watch.held) == "gave_up"


def test_a_worker_is_not_recycled_while_another_is_missing() -> None:
    """Siblings that do not serve count as away."""
    world = World(count=3, leaking=1, leak=0.2, boots=False)
    host = Host(world)
    host.run(60)
    world.procs[1].born = world.now  # a sibling was replaced and never becomes ready
    host.run(1500)
    assert host.commands == []
    assert any(held.code == "max_unavailable" for held in host.watch.held)


def test_a_single_worker_may_be_recycled() -> None:
    """workers - max_unavailable is zero."""
    world = World(count=1, leaking=1, leak=0.2)
    assert len(Host(world).run(1500).commands) == 1


def test_ends_of_workers_that_others_caused_count_as_actions() -> None:
    """A reload by somebody: each end is noted, all of them are one action."""
    world = World(count=3)
    host = Host(world).run(300)
    world.obey([Command("signal", "web", None, "HUP")])
    host.run(60)
    assert len(host.kinds("seen")) == 3
    assert len(host.watch.actions) == 1


def test_a_restart_by_others_is_noted() -> None:
    """Another supervised pid."""
    world = World(count=2)
    host = Host(world).run(60)
    world.pid = 999
    host.run(10)
    assert any("restarted by others" in text for text in host.kinds("seen"))


def test_a_plain_program_is_restarted_only_where_its_own_section_says_so() -> None:
    """memmon's job, opted into."""
    options = replace(ACT, limit=Ceiling(bytes=100 * MB), actions=("restart",))
    big = World(plain=True)
    big.procs[0].base = 300.0
    host = Host(big, options).run(300)
    assert host.commands == [] and host.watch.held[0].code == "plain"
    big = World(plain=True, fresh_base=30.0)
    big.procs[0].base = 300.0
    host = Host(big, options, plain_restart=True).run(300)
    assert [command.do for _, command in host.commands] == ["stop", "start"]


def test_a_paused_program_is_held_until_the_pause_ends() -> None:
    """And the pause survives the journal."""
    world = World(count=2, leaking=1, leak=0.3)
    host = Host(world)
    host.watch.paused_until = 1500.0
    host.reopen = True
    host.run(1490)
    assert host.commands == [] and any(held.code == "paused" for held in host.watch.held)
    host.run(100)
    assert len(host.commands) == 1


def test_a_second_master_holds_everything() -> None:
    """An upgrade by USR2 is nobody's moment for a recycle."""
    world = World(count=2, leaking=1, leak=0.3)
    host = Host(world)
    snapshot = world.snapshot

    def with_two(at: float) -> Any:
        return snapshot(at)._replace(masters=2)

    world.snapshot = with_two  # type: ignore[method-assign]
    host.run(1500)
    assert host.commands == [] and host.watch.held[0].code == "second_master"


def test_a_reopened_journal_gives_the_same_plan() -> None:
    """Closed and opened at every tick: the same commands at the same instants."""
    plain = Host(World(count=3, leaking=1, leak=0.2)).run(1500)
    reopened = Host(World(count=3, leaking=1, leak=0.2))
    reopened.reopen = True
    reopened.run(1500)
    assert reopened.commands == plain.commands and plain.commands
    assert [e.text for e in reopened.entries if e.kind in ("intent", "outcome")] == [
        e.text for e in plain.entries if e.kind in ("intent", "outcome")
    ]


def test_a_signal_that_was_refused_ends_the_recycle_with_its_reason() -> None:
    """Not permitted, or gone: an outcome, and no second attempt within the cooldown."""
    world = World(count=2, leaking=1, leak=0.2)
    host = Host(world)
    while not host.commands:
        host.tick(world.now + 5)
    seen = host.watch.failed(host.commands[0][1], "not permitted: run as root")
    assert host.watch.procedure is None
    assert [item.what for item in seen.news] == ["failed"]
    assert not host.watch.leaving


def test_a_worker_that_does_not_leave_is_asked_once() -> None:
    """It drains for hours: the recycle has failed, and the program is held, not hammered."""
    world = World(count=3, leaking=1, leak=0.2, drain=50_000.0)
    host = Host(world, replace(ACT, cooldown=60.0, max_unavailable=2)).run(7200)
    assert len(host.commands) == 1
    assert host.told()[:2] == ["suspected", "failed"]
    assert next(held.code for held in host.watch.held) == "leaving"


def test_sigkill_needs_act_a_known_grace_and_no_pause() -> None:
    """Changed to observe, paused, or with a grace that is a guess, the worker is left to finish."""
    for options, paused in (
        (replace(ACT, kill=True, grace=30.0), None),
        (replace(ACT, kill=True), None),
        (replace(ACT, kill=True, grace=30.0), 1e9),
        (replace(ACT, kill=True, grace=30.0, mode="observe"), None),
    ):
        world = World(count=3, leaking=1, leak=0.2, drain=50_000.0)
        host = Host(world, replace(options, mode="act"))
        while not host.commands:
            host.tick(world.now + 5)
        host.watch.options, host.watch.paused_until = options, paused
        host.run(200)
        killed = any(command.signal == "KILL" for _, command in host.commands)
        assert killed == (options.grace is not None and not paused and options.mode == "act")


def test_an_ineffective_restart_of_the_master_is_no_rung_for_the_workers() -> None:
    """Each ladder has its own proof."""
    host = Host(World(count=2), replace(ACT, actions=("recycle", "reload", "restart")))
    host.run(10)
    verdict = Verdict("master_growth", 0.0, 1.0, None, 0.9, "it grows", True, True)
    host.watch.begin(Decision("restart", "web", None, verdict))
    host._obey(host.watch.launch(), host.world.now)
    host.run(120)
    assert host.watch.last_action is not None
    assert host.watch.last_action["result"] == "ineffective"
    assert host.watch.rungs == {"restart": 1}


def test_a_plain_program_gives_up_after_one_ineffective_restart() -> None:
    """Restart is the only rung it has."""
    options = replace(
        ACT,
        limit=Ceiling(bytes=100 * MB),
        actions=("recycle", "reload", "restart"),
        cooldown=0.0,
    )
    big = World(plain=True, fresh_base=300.0)
    big.procs[0].base = 300.0
    host = Host(big, options, plain_restart=True).run(1200)
    assert [command.do for _, command in host.commands] == ["stop", "start"]
    assert "gave_up" in host.told()


def test_a_reload_by_others_is_another_chance_for_the_ladder() -> None:
    """Other code, other memory."""
    world = World(count=2)
    host = Host(world).run(30)
    host.watch.rungs = {"workers": 1}
    world.obey([Command("signal", "web", None, "HUP")])
    host.run(30)
    assert host.watch.rungs == {}


def test_a_stop_by_others_is_not_reported_worker_by_worker() -> None:
    """Workers end with their program: one line, and nothing off the budget."""
    world = World(count=3, drain=12.0)
    host = Host(world).run(60)
    world.obey([Command("stop", "web")])
    world.procs.pop()
    host.run(20)
    assert not any("worker" in text for text in host.kinds("seen"))
    assert host.watch.actions == []


def test_a_reload_for_a_limit_waits_for_the_newcomers_cooldown() -> None:
    """Workers that are over their limit from the first are not reloaded at every look."""
    world = World(count=2, fresh_base=300.0)
    for proc in world.procs:
        proc.base = 900.0
    options = replace(ACT, actions=("reload",), cooldown=600.0, budget=Budget(99, 3600.0))
    host = Host(world, options).run(1000)
    first, *rest = [at for at, _ in host.commands]
    assert all(at - first >= 600.0 for at in rest)


def test_a_clock_that_was_set_back_loses_no_pause() -> None:
    """All times go back with it."""
    world = World(count=2)
    host = Host(world).run(60)
    host.watch.paused_until, host.watch.ended, host.watch.actions = 4000.0, 3000.0, [2900.0]
    again = Watch("web", ACT)
    again.load(json.loads(json.dumps(host.watch.dump())), back=1000.0)
    assert again.paused_until == 3000.0 and again.ended == 2000.0 and again.actions == [1900.0]


# -- advice


OBSERVE = replace(ACT, mode="observe")


def test_advice_is_given_once_when_a_leak_is_told() -> None:
    """In the log, in the news, and for `status`; nothing more as long as nothing else is known."""
    host = Host(World(count=3, leaking=3, leak=0.01), replace(OBSERVE, limit=None)).run(5400)
    advised = [entry for entry in host.entries if entry.kind == "advice"]
    first = "advice: all workers (1001, 1002, 1003) leak 36.0MB/h each"
    assert sum(entry.text.startswith(first) for entry in advised) == 1
    assert len({entry.at for entry in advised}) == 1
    told = [entry.at for entry in host.entries if entry.kind == "suspected"]
    assert {entry.at for entry in advised} == {told[0]}
    suspected = [item for item in host.news if item.what == "suspected"]
    assert all("leak 36.0MB/h" in item.advice[0] for item in suspected) and suspected
    assert not any("\n" in item.summary for item in suspected)
    assert "leak 36.0MB/h" in host.watch.view({})["advice"][0]


def test_advice_is_given_again_when_it_is_to_be_acted_on() -> None:
    """It has become material."""
    host = Host(World(count=3, leaking=3, leak=0.02), OBSERVE).run(7200)
    acted = next(entry.at for entry in host.entries if entry.kind == "held")
    times = sorted({entry.at for entry in host.entries if entry.kind == "advice"})
    assert len(times) == 2 and times[0] < acted and abs(times[1] - acted) <= 60


def test_a_healthy_program_gets_no_advice() -> None:
    host = Host(World(count=3), OBSERVE).run(3600)
    assert host.watch.advice == () and host.kinds("advice") == []


def test_a_reopened_journal_gives_no_advice_again() -> None:
    """Only as often as an open one, at the first look that shows what has changed."""
    hosts = [Host(World(count=2, leaking=2, leak=0.02), OBSERVE) for _ in range(2)]
    hosts[1].reopen = True
    plain, reopened = (host.run(2400).kinds("advice") for host in hosts)
    assert len(plain) == len(reopened) == 8 and reopened[:4] == plain[:4]


def test_a_leak_that_ends_by_itself_is_taken_back() -> None:
    """Told, then flat: said once, and no leak of this release any more."""
    world = World(count=2, leaking=1, leak=0.1)
    host = Host(world, replace(OBSERVE, limit=None)).run(1200)
    assert host.watch.releases.eras[-1].leaks
    leaker = world.procs[0]
    leaker.base, leaker.leak = leaker.size(world.now) / MB, 0.0
    host.run(3600)
    said = [text for text in host.kinds("advice") if "not a leak" in text]
    assert len(said) == 1 and said[0].startswith(f"worker {leaker.id.pid}: not a leak: grew ")
    assert "while its cache filled, flat for " in host.watch.advice[0]
    assert host.watch.releases.eras[-1].leaks == {}


# -- releases


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One for each time that what was learned of a program was forgotten."""
    times: list[bool] = []
    monkeypatch.setattr(Past, "forget_learned", lambda past: times.append(True))
    return times


def test_a_deploy_that_leaks_is_named_with_before_and_since(forgotten: list[bool]) -> None:
    """Two hours without a leak, other code, a reload by somebody: it leaks since then."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(7200)
    host.code = Code("new", world.now - 5, world.now)
    world.others("HUP")
    host.run(10)
    for proc in world.procs:
        proc.leak = 0.02
    host.run(1200)
    assert len(forgotten) == 1
    assert [text.split(":")[0] for text in host.kinds("release")] == ["reload with changed code"]
    (said,) = [text for text in host.kinds("advice") if "deploy" in text]
    assert said.startswith("advice: since the deploy ")
    assert "no leak in 6 worker-hours before, 72.0MB/h since" in said


@pytest.mark.parametrize("what", ["HUP", "restart"])
def test_a_load_of_the_same_code_changes_nothing(what: str, forgotten: list[bool]) -> None:
    """It is looked at once, and nothing is said or forgotten."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(1200)
    host.code = Code("same", world.now - 99_999, world.now)
    world.others(what)
    host.run(1200)
    assert len(host.asked) == 1 and not forgotten and host.kinds("release") == []
    assert host.watch.releases.latest is None


def test_where_the_code_cannot_be_seen_a_restart_may_be_a_release(forgotten: list[bool]) -> None:
    """It is said to be one that is not known."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(1200)
    host.code = Code(None, None, 0.0)
    world.others("restart")
    host.run(300)
    assert forgotten and "whether its code changed is not known" in host.kinds("release")[0]


def test_code_is_asked_for_until_there_is_an_answer() -> None:
    """Once a minute."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(600)
    world.others("HUP")
    host.run(200)
    assert 3 <= len(host.asked) <= 4
    host.code = Code("same", 0.0, 0.0)
    host.run(600)
    assert len(host.asked) <= 5


def test_a_stop_and_a_start_are_a_load() -> None:
    """Whoever did it, and however long it was down."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(600)
    world.obey([Command("stop", "web")])
    host.run(120)
    assert host.asked == []
    world.obey([Command("start", "web")])
    host.run(60)
    assert len(host.asked) == 1


def test_our_own_reload_is_a_load() -> None:
    """Of code that may have changed since."""
    world = World(count=2, leaking=1, leak=0.2)
    host = Host(world, replace(ACT, actions=("reload",)))
    host.code = Code("new", 1e9, 0.0)
    host.run(900)
    assert [command.signal for _, command in host.commands] == ["HUP"]
    assert len(host.kinds("release")) == 1


@pytest.mark.parametrize("what", ["HUP", "restart"])
def test_a_load_while_nobody_watched_is_seen_by_the_next_listener(what: str) -> None:
    """By the pid that Supervisor started, or by workers that are all others."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(600)
    world.others(what)
    world.advance(world.now + 100)
    host.reopen_journal()
    host.run(60)
    assert len(host.asked) == 1


def test_a_listener_that_is_started_anew_asks_for_no_code() -> None:
    """The workers are those it knows, or it knows none."""
    world = World(count=3)
    host = Host(world, OBSERVE).run(600)
    host.reopen_journal()
    host.run(60)
    assert host.asked == []


def test_of_leaking_workers_that_max_requests_ended_it_is_kept_how_far_they_came() -> None:
    world = World(count=2, leaking=1, leak=0.05)
    host = Host(world, OBSERVE).run(900)
    worker = next(w for w in host.watch.workers() if w.id == world.procs[0].id)
    end = attribution.End(worker, attribution.MAX_REQUESTS, "ended by gunicorn's max_requests")
    host.watch._note_end(end, world.now)
    (kept,) = host.watch.releases.ends()
    assert kept.age == worker.age and 30 * MB < kept.grown < 50 * MB
    host.run(60)
    assert any(text.startswith("max_requests hides it: ") for text in host.watch.advice)


def test_a_journal_of_before_there_were_releases_is_read() -> None:
    host = Host(World(count=2)).run(60)
    data = json.loads(json.dumps(host.watch.dump()))
    for name in ("releases", "ran", "gist"):
        del data[name]
    again = Watch("web", ACT)
    again.load(data)
    assert again.expected == 2 and again.releases.eras == []


# -- what status shows


def test_status_says_who_was_watched_for_too_short_a_time() -> None:
    """Until a window is full; a worker in its warm-up has a verdict that says so."""
    host = Host(World(count=2)).run(60)
    early = dict(host.watch.view({})["early"])
    assert len(early) == 2 and all(50 <= each.watched <= 60 for each in early.values())
    assert all(each.needed == 330.0 for each in early.values())
    assert host.run(300).watch.view({})["early"] == []


def test_where_leaks_are_not_looked_for_it_is_never_too_early() -> None:
    """There is nothing to wait for."""
    host = Host(World(count=2), replace(ACT, growth="off")).run(60)
    assert host.watch.view({})["early"] == []


def test_status_has_the_trend_of_a_leak_as_soon_as_it_is_suspected() -> None:
    """Not only when the journal was saved next; of the healthy nothing is written at every tick."""
    world = World(count=2, leaking=1, leak=0.2)
    host = Host(world, replace(ACT, mode="observe")).run(400)
    [(id, trend)] = host.watch.view({})["trends"]
    assert id == world.procs[0].id
    assert trend.bytes_per_hour == pytest.approx(0.2 * MB * 3600, rel=0.01)


def test_status_has_the_trend_of_a_worker_that_has_just_stopped_growing() -> None:
    """Not that of the last time the journal was saved."""
    world = World(count=2)
    host = Host(world, replace(ACT, mode="observe"))
    world.procs[0].leak, world.procs[0].base = 0.02, 30.0
    host.run(200)
    held = world.procs[0].size(world.now) / MB
    world.procs[0].leak, world.procs[0].base = 0.0, held
    host.run(400)
    trends = dict(host.watch.view({})["trends"])
    assert trends[world.procs[0].id].bytes_per_hour < 0.02 * MB * 3600 / 2
    assert world.procs[1].id not in trends


def test_another_limit_judges_what_stands_anew_at_the_first_look() -> None:
    """Neither its words nor whether it is acted on are those of the limit before."""
    host = Host(World(count=2, leaking=1, leak=0.2), replace(ACT, mode="observe")).run(600)
    [before] = [
        v for found in host.watch.look(host.world.snapshot(605.0)).verdicts.values() for v in found
    ]
    assert before.act and "200.0MB in" in before.why
    again = Watch("web", replace(ACT, mode="observe", limit=Ceiling(bytes=4000 * MB)))
    again.load(json.loads(json.dumps(host.watch.dump())))
    [after] = [
        v for found in again.look(host.world.snapshot(606.0)).verdicts.values() for v in found
    ]
    assert after.told and not after.act and "3.91GB in" in after.why
    assert not any("200.0MB" in text for text in again.advice) and again.advice


def test_another_limit_is_not_forgotten_before_anybody_has_looked() -> None:
    """A listener that ends before its first look leaves it to the next one."""
    host = Host(World(count=2, leaking=1, leak=0.2), replace(ACT, mode="observe")).run(600)
    dumped = host.watch.dump()
    for _ in range(2):
        again = Watch("web", replace(ACT, mode="observe", limit=Ceiling(bytes=4000 * MB)))
        again.load(json.loads(json.dumps(dumped)))
        dumped = again.dump()
    assert again.past.anew
    again.look(host.world.snapshot(605.0))
    assert not again.past.anew and again.dump()["ceilings"] is not None


def test_another_total_limit_judges_the_master_anew() -> None:
    """As the workers."""
    options = replace(ACT, mode="observe", limit=None, total_limit=Ceiling(bytes=1000 * MB))
    host = Host(World(count=2))

    def growing(at: float) -> Any:
        snapshot = host.world.snapshot(at)
        size = int((50 + 0.2 * at) * MB)
        return snapshot._replace(master=snapshot.master._replace(rss=size, anon=size, pss=size))

    watch = Watch("web", options)
    for tick in range(1, 121):
        seen = watch.look(growing(tick * 5.0))
    again = Watch("web", replace(options, total_limit=Ceiling(bytes=8000 * MB)))
    again.load(json.loads(json.dumps(watch.dump())))
    [before] = [v for found in seen.verdicts.values() for v in found if v.kind == "master_growth"]
    seen = again.look(growing(601.0))
    [after] = [v for found in seen.verdicts.values() for v in found if v.kind == "master_growth"]
    assert before.told and after.told and before.bound is not None and after.bound is not None
    assert after.bound > 5 * before.bound and after.why != before.why


def test_advice_ends_with_those_it_is_about() -> None:
    """A restart by others: the next look has none of workers that are gone."""
    world = World(count=2, leaking=2, leak=0.05)
    host = Host(world, replace(ACT, mode="observe", limit=None)).run(900)
    assert host.watch.advice
    stopped = world.snapshot(905.0)._replace(state="STARTING", workers=(), master=None)
    host.watch.look(stopped)
    assert host.watch.advice == ()


def test_the_rate_of_a_verdict_is_that_of_the_growth_from_the_first_word_on() -> None:
    """Up to the bucket that is known, not up to now: the advice beside it says the same."""
    host = Host(World(count=2, leaking=1, leak=0.2), replace(ACT, mode="observe")).run(400)
    [first] = host.kinds("suspected")
    [advised] = [text for text in host.kinds("advice") if " leak" in text]
    assert "+12.0MB/min" in first and "720.0MB/h" in advised
