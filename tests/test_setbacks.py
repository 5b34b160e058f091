"""Sequences that once broke a law, or misled: each states what holds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rig import PaperSupervisor, Rig, ticks
from test_manner import BAD, OK, PROVEN
from test_recycling import Play
from test_watch import ACT, Host
from worlds import World

from supervisor_memwatch import policy, preflight, procedures
from supervisor_memwatch.model import Decision, Proof, Verdict
from supervisor_memwatch.options import Ceiling
from supervisor_memwatch.quiet import Quiet
from supervisor_memwatch.units import MB
from supervisor_memwatch.watch import Watch


def busy(at, n=5):
    return Quiet(at, at * 0.5, n)


def test_code_that_breaks_while_a_quiet_moment_is_awaited_costs_no_worker():
    """proof ok, 60 s patience, code breaks at +20 s: TERM is sent all the same, master ends"""
    w = World(count=4)
    host = Host(w, replace(PROVEN, limit=None)).run(70)
    verdict = Verdict("leak", 0.0, 1.0, None, 0.9, "it grows", True, True)
    d = Decision("recycle", "web", w.procs[1].id, verdict, patience=60.0)
    host.watch.proof = OK._replace(at=w.now)
    host.watch.begin(d)
    host._obey(host.watch.launch(), w.now)
    assert host.watch.procedure.step == "quiet"
    proved = 0
    for i in range(120):
        at = w.now + 1
        if i == 20:
            w.broken = 3
        snapshot = w.snapshot(at)
        seen = host.watch.look(snapshot, quiet=busy(at, 5 + i))
        proved += seen.prove
        if seen.prove and w.broken:
            host.watch.proof = BAD._replace(at=at)
        host._obey(seen.commands, at)
        if host.watch.procedure is None:
            break
    assert w.state == "RUNNING" and len(w.procs) == 4


def test_a_sibling_that_dies_while_a_quiet_moment_is_awaited_comes_first():
    """another worker dies (boot 40 s) while the quiet moment is awaited"""
    w = World(count=3, boot=40.0)
    host = Host(w, replace(ACT, limit=None)).run(70)
    host.watch.begin(Decision("recycle", "web", w.procs[1].id, None, patience=20.0))
    host._obey(host.watch.launch(), w.now)
    w.procs[2].leaves_at = w.now  # crash
    for i in range(30):
        at = w.now + 1
        host._obey(host.watch.look(w.snapshot(at), quiet=busy(at, 5 + i)).commands, at)
    assert w.fewest >= 2


@pytest.mark.parametrize("opts", ["mode = observe\n", "mode = act\nexclude = web\n"])
def test_what_was_not_begun_is_not_begun_after_the_configuration_forbids_it(tmp_path, opts):
    """listener dies in quiet; user sets observe; next listener TERMs"""
    w = World(count=3)
    rig = Rig(tmp_path, "mode = act\n", w)
    target = w.procs[1].id
    rig.run(ticks(1))
    from supervisor_memwatch import journal
    from supervisor_memwatch.journal import Journal

    d = Decision("recycle", "web", target, None, patience=60.0)
    p = procedures.begin(d, w.snapshot(w.now), 60 * MB, "RSS")
    p = procedures.first_commands(p).procedure
    assert p.step == "quiet"
    j = Journal(str(rig.journal))
    j.write([journal.procedure_row(p.id, "web", p.begun, procedures.to_json(p))])
    j.close()
    rig2 = Rig(tmp_path, opts, w)
    rig2.clock.now = rig.clock.now + 3600
    rig2.run(ticks(4))
    assert (
        "TERM failed" not in rig2.log
    )  # on paper send() finds no such process: an attempt is what counts


def test_a_pause_while_a_quiet_moment_is_awaited_holds():
    w = World(count=4)
    host = Host(w, replace(ACT, limit=None)).run(70)
    verdict = Verdict("leak", 0.0, 1.0, None, 0.9, "it grows", True, True)
    host.watch.begin(Decision("recycle", "web", w.procs[1].id, verdict, patience=60.0))
    host._obey(host.watch.launch(), w.now)
    host.watch.paused_until = w.now + 3600
    for i in range(90):
        at = w.now + 1
        seen = host.watch.look(w.snapshot(at), quiet=busy(at, 5 + i))
        host._obey(seen.commands, at)
    assert host.commands == []


def test_a_restart_of_a_preloading_program_is_tried_in_earnest():
    from test_preflight import known, plan, scanned, worker

    found = plan("gunicorn --preload app:app")
    proof = known(
        found, scanned(9000.0), worker(9000.0)
    )  # only the configuration file is looked at
    assert proof is not None
    w = World(count=2)
    host = Host(w, replace(PROVEN, actions=("restart",))).run(70)
    host.watch.ask(Decision("restart", "web", None, None, by="me"), w.now)
    host.watch.proof = proof._replace(at=w.now)
    host.run(5)
    assert not [c for _, c in host.commands if c.do == "stop"]


class Groups(PaperSupervisor):
    def programs(self):
        out = super().programs()
        for each in out:
            each["group"], _, each["name"] = each["group"].partition(":")
        return out


def test_a_group_does_not_go_down_one_after_the_other(tmp_path):
    a = World("shop:a", plain=True, start_fails=1000)
    b = World("shop:b", plain=True, start_fails=1000)
    rig = Rig(
        tmp_path,
        "mode = act\nactions = restart\nlimit = 20MB\n"
        "[memwatch:shop]\nactions = restart\nlimit = 20MB\n",
        a,
        b,
    )
    sup = Groups(a, b)
    sup.asked = rig._asked
    rig.supervisor = sup
    rig.run(ticks(60))
    assert [c for c, n in sup.calls if c == "stop"] == ["stop"], sup.calls


def test_no_second_worker_leaves_while_a_replacement_does_not_boot():
    w = World(count=4)
    host = Host(
        w, replace(ACT, limit=Ceiling(bytes=200 * MB), max_unavailable=2, cooldown=300.0)
    ).run(70)
    w.boots = False
    w.procs[1].base = 300.0
    w.procs[2].base = 300.0
    host.run(1200)
    assert len([c for _, c in host.commands if c.signal == "TERM"]) == 1


def test_a_sigttou_that_took_nobody_blocks_nothing():
    """single worker, surge; somebody's TTOU meanwhile; leaving[newcomer] stays for ever"""
    w = World(count=1)
    opts = replace(ACT, surge="auto", limit=Ceiling(bytes=200 * MB))
    host = Host(w, opts).run(70)
    d = Decision("recycle", "web", w.procs[0].id, None, way="surge")
    host.watch.begin(d)
    host._obey(host.watch.launch(), w.now)
    host.run(2)
    w.others("TTOU")
    host.run(400)
    assert host.watch.procedure is None
    w.procs[0].base = 400.0
    host.run(3600)
    assert not host.watch.leaving


def test_nor_one_after_the_kernel_has_killed_another():
    w = World(count=3, boot=30.0, beat=1.5, oom_kills=0)
    host = Host(w, replace(ACT, surge="auto")).run(70)
    host.watch.begin(Decision("recycle", "web", w.procs[0].id, None, way="surge"))
    host._obey(host.watch.launch(), w.now)
    host.run(3)
    w.others("oom")
    host.run(600)
    assert host.watch.procedure is None and w.number == 3
    assert not host.watch.leaving


def test_a_surge_ends_though_workers_come_and_go_all_the_time():
    w = World(count=8)
    play = Play(w, 0)
    for i in range(7200):
        if i % 4 == 0:
            w.others("retire")
        play.look()
        if play.outcome:
            break
    assert play.outcome is not None


def test_the_number_is_put_right_though_workers_come_and_go():
    w = World(count=4)
    play = Play(w, 0)
    play.until("adding")
    play.look()
    play.procedure = procedures.recycling._to_evening(play.procedure, w.now, "failed", "x")
    for i in range(7200):
        if i % 15 == 0:
            w.others("retire")
        play.look()
        if play.outcome:
            break
    assert play.outcome is not None and w.number == 4


@pytest.mark.parametrize("step", ["adding", "quiet"])
def test_all_workers_replaced_at_once_leave_no_extra_one(step):
    """all workers time out together (a database that hangs) : taken for a reload, +1 stays"""
    w = World(count=3)
    play = Play(w, 0, patience=60.0)
    for i in range(100):
        if play.procedure.step == step and len(w.procs) == 4:
            break
        play.look(quiet=busy(w.now, 5 + i))
    play.look(quiet=busy(w.now, 5 + i))
    assert len(w.procs) == 4
    for p in w.procs:
        p.leaves_at = w.now
    w.advance(w.now)
    for i in range(400):
        play.look(quiet=busy(w.now, 5 + i))
        if play.outcome:
            break
    assert w.number == 3


def test_a_reason_whose_numbers_vary_is_said_once():
    w = World(count=3)
    w.procs[1].base = 300.0
    host = Host(w, PROVEN).run(60)
    for i in range(720):  # an hour
        text = f"it cannot be tried (no room for it: {20 + i * 0.01:.2f}MB are left)"
        if host.watch.proving:
            host.watch.proof = Proof(False, preflight.EVIDENCE, text, w.now)
        host.run(5)
    assert host.told().count("held") <= 2


def test_a_journal_of_the_version_before_keeps_its_pause():
    w = World(count=3)
    host = Host(w).run(70)
    host.watch.paused_until = w.now + 3600
    data = json.loads(json.dumps(host.watch.dump()))
    for new in ("needs", "ledger", "witness"):
        del data[new]
    again = Watch("web", ACT)
    again.load(data)
    assert again.paused_until is not None


def test_a_surge_that_may_not_signal_takes_its_extra_worker_back():
    w = World(count=3)
    play = Play(w, 1)
    orig = play.obey
    n = [0]

    def obey(commands):
        for c in commands:
            if c.signal == "TERM":
                n[0] += 1
                s = procedures.failed(play.procedure, c, "not permitted: run the listener as root")
                play.procedure, play.outcome = s.procedure, s.outcome or play.outcome
            else:
                orig((c,))

    play.obey = obey
    for _ in range(3600):
        play.look()
        if play.outcome:
            break
    assert play.outcome is not None and w.number == 3


def test_the_only_worker_is_held_where_the_journal_is_in_memory():
    from test_manner import situation

    from supervisor_memwatch.model import Verdict

    now = situation(1, durable=False)
    d = Decision(
        "recycle",
        "web",
        now.snapshot.workers[0].id,
        Verdict("leak", 0.0, 1.0, None, 0.9, "", True, True),
    )
    held = {r.code for r in policy.objections(d, now)}
    assert held


def test_a_deploy_that_never_ends_is_news():
    w = World(count=3)
    w.procs[1].base = 300.0
    host = Host(w, PROVEN).run(60)
    for _ in range(3600):
        host.watch.take(
            Proof(
                False,
                preflight.DEPLOY,
                "the code changed 3s ago (/srv/state.yaml): is a deploy under way?",
                w.now,
            )
        )
        host.run(1, 1.0)
    assert "held" in host.told()


def test_supervisor_is_asked_for_its_configuration_once_a_look(tmp_path):
    ws = [World(f"p{i}", count=2) for i in range(10)]
    for x in ws:
        for p in x.procs:
            p.base = 300.0
    rig = Rig(tmp_path, "mode = act\npreflight = auto\nlimit = 200MB\n", *ws)
    n = [0]
    orig = rig.supervisor.configs

    def configs():
        n[0] += 1
        return orig()

    rig.supervisor.configs = configs

    class Never(type(rig.preflights)):
        def look(self, at):
            return []

    rig.preflights = Never()
    rig.preflights.busy = True
    rig.run(ticks(30))
    assert n[0] < 60
