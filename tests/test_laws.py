"""The laws, as properties of random histories of programs on paper."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_watch import ACT, Host
from worlds import World

from supervisor_memwatch.options import Budget, Ceiling, Options
from supervisor_memwatch.units import MB

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

worlds = st.builds(
    World,
    count=st.integers(1, 5),
    leaking=st.integers(0, 5),
    leak=st.sampled_from([0.0, 0.05, 0.3, 2.0]),
    fresh_leaks=st.booleans(),
    fresh_base=st.sampled_from([30.0, 50.0, 190.0, 260.0]),
    drain=st.sampled_from([0.1, 4.0, 60.0, 5000.0]),
    boot=st.sampled_from([0.1, 7.0, 200.0]),
    boots=st.sampled_from([True, True, True, False]),
    start_fails=st.integers(0, 3),
    free=st.sampled_from([None, 20 * MB, 1000 * MB, 1000 * MB]),
    hup_waits=st.booleans(),
)
option_sets = st.builds(
    lambda mode, actions, cooldown, budget, kill, away, surge: replace(
        ACT,
        mode=mode,
        actions=actions,
        cooldown=cooldown,
        budget=Budget(budget, 3600.0),
        kill=kill,
        max_unavailable=away,
        surge=surge,
        limit=Ceiling(bytes=220 * MB),
        warmup=30.0,
    ),
    st.sampled_from(["act", "act", "act", "observe"]),
    st.sampled_from([("recycle",), ("recycle", "reload", "restart"), ("restart",)]),
    st.sampled_from([0.0, 60.0, 300.0]),
    st.integers(1, 6),
    st.booleans(),
    st.integers(1, 2),
    st.sampled_from(["auto", "on", "on", "off"]),
)
# What others do meanwhile: (second, what).
disturbances = st.lists(
    st.tuples(
        st.integers(10, 1700),
        st.sampled_from(["HUP", "TTIN", "TTOU", "crash", "retire", "restart", "kill listener"]),
    ),
    max_size=4,
)


def live(world: World, options: Options, others: list[tuple[int, str]]) -> Host:
    """Half an hour of a program's life, looking at the laws at every tick."""
    host = Host(world, options)
    events = sorted(others)
    while world.now < 1800:
        while events and events[0][0] <= world.now:
            disturb(host, events.pop(0)[1])
        before = host.watch.procedure
        expected = host.watch.expected
        sent = len(host.commands)
        at = world.now + (5.0 if before is None else 1.0)
        host.tick(at)
        obey_the_laws(host, sent, expected)
    return host


def disturb(host: Host, what: str) -> None:
    world = host.world
    if what == "kill listener":
        host.reopen_journal()
        if host.watch.procedure is not None:
            host.watch.resume(host.watch.procedure, world.now)
    elif world.state == "RUNNING":
        world.others(what)


def obey_the_laws(host: Host, sent: int, expected: int) -> None:
    world, options = host.world, host.watch.options
    for _, command in host.commands[sent:]:
        assert options.mode == "act", "law 3: nothing in observe"
        allowed = {"TERM", "HUP"} | ({"KILL"} if options.kill else set())
        allowed |= {"TTIN", "TTOU"} if options.surge != "off" else set()
        assert command.do != "signal" or command.signal in allowed, "law 4"
        if command.signal in ("HUP", "TTIN", "TTOU"):
            assert command.target == world.master, "law 4: the master that is there now"
        if command.signal == "TERM":
            here = [worker for worker in host.watch.workers() if worker.id == command.target]
            assert here, "law 4: the id that was judged is there now"
            serving = [
                worker
                for worker in host.watch.workers()
                if worker.ready is not False and worker.id != command.target
            ]
            assert len(serving) >= host.watch.expected - options.max_unavailable, "law 2"
        if command.signal == "TTOU":
            serving = [worker for worker in host.watch.workers() if worker.ready is not False]
            assert len(serving) - 1 >= host.watch.expected - options.max_unavailable, "law 2"
        if command.do != "start" and command.signal != "KILL":
            assert world.state in ("RUNNING", "STOPPING"), "law 3"


@SETTINGS
@given(worlds, option_sets, disturbances)
def test_the_laws_hold_in_random_histories(
    world: World, options: Options, others: list[tuple[int, str]]
) -> None:
    """Laws 1 to 4 and 6, whatever leaks, drains, boots and disturbs."""
    host = live(world, options, others)
    begun = [entry for entry in host.entries if entry.kind == "intent"]
    ended = [entry for entry in host.entries if entry.kind == "outcome"]
    assert len(begun) - len(ended) in (0, 1), "law 1: one action at a time"
    for outcome, intent in zip(ended, begun[1:], strict=False):
        pause = intent.at - outcome.at
        urgent = any(word in intent.text for word in (": limit,", ": total_limit,"))
        assert pause >= options.cooldown or urgent, "law 1: none within the cooldown"
    for intent in begun:
        within = [other for other in begun if intent.at - 3600 < other.at <= intent.at]
        assert len(within) <= options.budget.count, "the budget"
    for intent, outcome in zip(begun, ended, strict=False):
        taken = any(
            intent.at <= at <= outcome.at and command.signal == "TTOU"
            for at, command in host.commands
        )
        assert taken or outcome.data["also_pid"] is None, "nobody is named whom we did not take"
    asked = [command.target for _, command in host.commands if command.signal == "TERM"]
    assert len(asked) == len(set(asked)), "a worker is asked to leave once"
    stops = sum(command.do == "stop" for _, command in host.commands)
    starts = sum(command.do == "start" for _, command in host.commands)
    if stops and host.watch.procedure is None:
        assert starts >= stops and world.state != "STOPPED", "law 6: started again"


@SETTINGS
@given(worlds, st.randoms(use_true_random=False))
def test_order_of_workers_and_pid_numbers_change_nothing(world: World, random: object) -> None:
    """Law 7: the same decisions at the same instants, for the same workers renamed."""
    other = World(**{**vars(world), "procs": [], "log": [], "next_pid": world.next_pid + 31337})
    other.procs.reverse()
    one, two = Host(world).run(900), Host(other).run(900)
    assert [(at, c.do, c.signal) for at, c in one.commands] == [
        (at, c.do, c.signal) for at, c in two.commands
    ]
