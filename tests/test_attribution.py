"""Who ended a worker: from gunicorn's log in the words of each version, and without it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_memwatch import attribution, errorlog
from supervisor_memwatch.attribution import Change, Witness
from supervisor_memwatch.errorlog import Line
from supervisor_memwatch.model import Snapshot, Worker, WorkerId
from supervisor_memwatch.units import MB

MASTER = 100
OLD_GUNICORN, NEW_GUNICORN = "20.1", "27.0.1"


def worker(pid: int, age: float = 1000.0, size: int = 50) -> Worker:
    return Worker(WorkerId(pid, pid * 10), age, size * MB)


def look(at: float, *workers: Worker, **more: Any) -> Snapshot:
    master = Worker(WorkerId(MASTER, 1), 5000.0, 30 * MB)
    fields: dict[str, Any] = {"state": "RUNNING", "pid": MASTER, "master": master, **more}
    return Snapshot(
        "web", at, fields.pop("state"), fields.pop("pid"), "gunicorn", fields.pop("master"),
        workers, **fields,
    )  # fmt: skip


def says(pid: int, words: str, level: str = "INFO") -> str:
    return f"[2026-01-31 12:00:05 +0000] [{pid}] [{level}] {words}\n"


def booted(*pids: int) -> str:
    return "".join(says(pid, f"Booting worker with pid: {pid}") for pid in pids)


def exits(pid: int) -> str:
    return says(pid, f"Worker exiting (pid: {pid})")


def handles(signal: str) -> str:
    return says(MASTER, f"Handling signal: {signal}")


ONE, TWO, THREE = worker(1, 1000.0), worker(2, 999.9), worker(3, 999.8)
BEFORE = look(1000.0, ONE, TWO, THREE)
NEW = worker(11, 2.0)


def one_ends(log: str, *, oom: int = 0, asked: bool = False, sent: tuple[str, ...] = ()) -> Change:
    """Worker 1 is gone, worker 11 has come; the first look after that which says so."""
    witness = Witness()
    before = BEFORE._replace(oom_kills=5)
    now = look(1005.0, TWO, THREE, NEW, oom_kills=5 + oom)
    change = witness.look(before, now, [ONE.id] if asked else [], log, sent)
    return change if change.ends else witness.look(now, now._replace(at=1010.0), (), "")


KILLED = {
    OLD_GUNICORN: says(MASTER, "Worker with pid 1 was terminated due to signal 9", "WARNING"),
    "21.2": says(MASTER, "Worker (pid:1) was sent SIGKILL! Perhaps out of memory?", "ERROR"),
}
TIMEOUT = says(MASTER, "WORKER TIMEOUT (pid:1)", "CRITICAL")
AUTORESTART = says(1, "Autorestarting worker after current request.")

# What gunicorn writes when worker 1 ends -> the cause, and words of the sentence.
LOGS = {
    "max_requests": (AUTORESTART + exits(1), "max_requests", "max_requests"),
    "max_requests of uvicorn's worker": (
        says(1, "Maximum request limit of 500 exceeded. Terminating process.") + exits(1),
        "max_requests",
        "max_requests",
    ),
    "timeout, answered to ABRT": (
        TIMEOUT + exits(1) + says(MASTER, "Worker (pid:1) exited with code 1.", "ERROR"),
        "timeout",
        "--timeout",
    ),
    "timeout, then KILL": (TIMEOUT + KILLED["21.2"], "timeout", "--timeout"),
    "timeout, then KILL, 20.1": (TIMEOUT + KILLED[OLD_GUNICORN], "timeout", "--timeout"),
    "kill -9": (KILLED["21.2"], "signal", "SIGKILL: by somebody, or the host's OOM killer"),
    "kill -9, 20.1": (KILLED[OLD_GUNICORN], "signal", "SIGKILL"),
    "kill": (exits(1), "signal", "probably SIGTERM by somebody"),
    "kill before it had booted": (
        says(MASTER, "Worker (pid:1) was sent SIGTERM!"),
        "signal",
        "ended by SIGTERM, not by us",
    ),
    "segmentation fault": (
        says(MASTER, "Worker (pid:1) was sent SIGSEGV!", "WARNING"),
        "signal",
        "crashed (SIGSEGV)",
    ),
    "segmentation fault with a core, 23.0": (
        says(MASTER, "Worker (pid:1) was sent code 139!", "ERROR"),
        "signal",
        "crashed (SIGSEGV)",
    ),
    "segmentation fault, 20.1": (
        says(MASTER, "Worker with pid 1 was terminated due to signal 11", "WARNING"),
        "signal",
        "crashed (SIGSEGV)",
    ),
    "a signal without a name": (
        says(MASTER, "Worker (pid:1) was sent signal 40!", "WARNING"),
        "signal",
        "ended by a signal",
    ),
    "os._exit(1)": (
        says(MASTER, "Worker (pid:1) exited with code 1.", "ERROR"),
        "exit",
        "exit code 1",
    ),
    "os._exit(1), 23.0": (
        says(MASTER, "Worker (pid:1) exited with code 1", "ERROR")
        + says(MASTER, "Worker (pid:1) exited with code 1.", "ERROR"),
        "exit",
        "exit code 1",
    ),
    "could not boot": (
        exits(1) + says(MASTER, "Worker (pid:1) exited with code 3.", "ERROR"),
        "exit",
        "could not boot",
    ),
    "os._exit, 20.1": ("", "unknown", "gunicorn's log does not say why"),
    "its code changed": (
        says(1, "Worker reloading: /srv/app.py modified") + exits(1),
        "reload",
        "--reload",
    ),
    "SIGTTOU": (handles("ttou") + exits(1), "ttou", "SIGTTOU to the master, not by us"),
    "SIGHUP": (handles("hup") + exits(1), "reload", "SIGHUP to the master, not by us"),
    "a stop of gunicorn": (handles("term") + exits(1), "master", "told to stop by SIGTERM"),
    "another format": (
        "2026 gunicorn.error CRITICAL: WORKER TIMEOUT (pid:1)\n",
        "timeout",
        "--timeout",
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_what_gunicorn_logs_is_what_ended_the_worker(name: str) -> None:
    log, cause, words = LOGS[name]
    (end,) = one_ends(log + booted(11)).ends
    assert (end.worker, end.cause) == (ONE, cause)
    assert words in end.text


def test_sigkill_while_the_oom_counter_rose_is_the_kernel() -> None:
    for log in KILLED.values():
        (end,) = one_ends(log + booted(11), oom=1).ends
        assert end.cause == "oom"
        assert "OOM counter rose by 1" in end.text
    # Also where it is not written down yet, or never is.
    assert one_ends(booted(11), oom=1).ends[0].cause == "oom"


def test_without_a_counter_it_is_not_said_that_it_did_not_rise() -> None:
    log = KILLED["21.2"]
    assert "did not rise" in one_ends(log).ends[0].text
    now = look(1005.0, TWO, THREE, NEW)
    assert "did not rise" not in Witness().look(BEFORE, now, (), log).ends[0].text


def test_of_several_the_largest_are_the_kernels_victims() -> None:
    big, small = worker(4, size=900), worker(5, size=100)
    before = look(0.0, ONE, small, big, oom_kills=0)
    change = Witness().look(before, look(5.0, ONE, oom_kills=1))
    assert {end.worker: end.cause for end in change.ends} == {big: "oom", small: "unknown"}


def test_a_counter_that_rises_a_look_before_the_worker_is_gone_counts() -> None:
    """A process that the kernel kills may take a while to give its memory back."""
    witness = Witness()
    looks = [
        look(0.0, ONE, TWO, oom_kills=0),
        look(5.0, ONE, TWO, oom_kills=1),
        look(10.0, TWO, oom_kills=1),
        look(15.0, oom_kills=1),
    ]
    causes = [
        [end.cause for end in witness.look(before, now).ends]
        for before, now in itertools.pairwise(looks)
    ]
    assert causes == [[], ["oom"], ["unknown"]]  # and it counts once


def test_the_kill_of_another_process_of_the_group_is_not_the_workers_end() -> None:
    """The control group is that of all programs; the worker's own line says otherwise."""
    assert one_ends(AUTORESTART + exits(1), oom=1).ends[0].cause == "max_requests"
    assert one_ends(exits(1), oom=1).ends[0].cause == "signal"


def test_who_was_asked_left_for_that() -> None:
    (end,) = one_ends(exits(1) + booted(11), asked=True).ends
    assert (end.cause, end.text) == ("ours", "left as it was asked to")
    assert one_ends(exits(1), asked=True).actions == 0
    assert "cut off by gunicorn's timeout" in one_ends(TIMEOUT, asked=True).ends[0].text
    assert "by SIGKILL" in one_ends(KILLED["21.2"], asked=True).ends[0].text
    assert "OOM" in one_ends(KILLED["21.2"], oom=1, asked=True).ends[0].text


def test_lines_of_others_explain_nothing() -> None:
    """Another program's workers, or a text that a client sent."""
    for log in (
        TIMEOUT.replace("pid:1", "pid:77"),
        says(77, "Handling signal: hup"),
        says(1, "Handling signal: hup"),  # no master
        'GET / "WORKER TIMEOUT (pid:1)" 200\n',
        "Autorestarting worker after current request.\n",
        "[x] [1] INFO Autorestarting worker after current request.\n",
    ):
        assert one_ends(log).ends[0].cause == "unknown", log


def test_nothing_of_the_log_is_repeated() -> None:
    log = (
        says(1, "Worker reloading: /srv/\x1b[31mEVIL.py modified")
        + says(MASTER, "Worker (pid:1) was sent SIGEVIL!")
        + says(MASTER, "Shutting down: EVIL")
    )
    assert "EVIL" not in one_ends(log).ends[0].text


# -- over several looks


def test_a_reload_is_one_action_however_long_its_workers_take() -> None:
    witness = Witness()
    new = [worker(pid, 1.0) for pid in (11, 12, 13)]
    looks = [
        (look(1005.0, ONE, TWO, THREE, *new), handles("hup") + booted(11, 12, 13)),
        (look(1010.0, TWO, THREE, *new), exits(1)),
        (look(1200.0, THREE, *new), exits(2)),
        (look(1205.0, *new), TIMEOUT.replace("pid:1", "pid:3")),
    ]
    last, seen = BEFORE, []
    for now, log in looks:
        change = witness.look(last, now, (), log)
        seen.append(([end.cause for end in change.ends], change.actions, change.reloaded))
        last = now
    assert seen == [
        ([], 0, False),
        (["reload"], 1, True),
        (["reload"], 0, True),
        (["timeout"], 1, False),
    ]


def test_a_worker_that_came_with_the_reload_is_not_ended_by_it() -> None:
    witness = Witness()
    witness.look(BEFORE, now := look(1005.0, THREE, NEW), (), handles("hup") + exits(1) + exits(2))
    (end,) = witness.look(now, look(1010.0, THREE), (), exits(11)).ends
    assert end.cause == "signal"


@pytest.mark.parametrize(
    ("before", "log", "cause"),
    [
        (TIMEOUT, KILLED["21.2"], "timeout"),
        (AUTORESTART, exits(1), "max_requests"),
        (AUTORESTART, KILLED["21.2"], "signal"),
        (handles("hup"), exits(1), "reload"),
        (handles("ttou"), exits(1), "ttou"),
    ],
)
def test_what_was_said_before_the_end_is_remembered(before: str, log: str, cause: str) -> None:
    """gunicorn says TIMEOUT a second before it kills, max_requests before the last request."""
    witness, again = Witness(), Witness()
    last = BEFORE._replace(at=1005.0)
    witness.look(BEFORE, last, (), before)
    again.load(json.loads(json.dumps(witness.dump())))
    for each in (witness, again):
        assert each.look(last, look(1010.0, TWO, THREE, NEW), (), log).ends[0].cause == cause


def test_each_timeout_and_each_oom_kill_is_an_action() -> None:
    now = look(1005.0)
    log = "".join(TIMEOUT.replace("pid:1", f"pid:{pid}") for pid in (1, 2, 3))
    assert Witness().look(BEFORE, now, (), log).actions == 3
    before = BEFORE._replace(oom_kills=0)
    assert Witness().look(before, now._replace(oom_kills=3), ()).actions == 3


def test_what_happens_to_several_within_a_minute_is_one_action() -> None:
    """Workers that were started together come to their max_requests together."""
    witness, last, actions = Witness(), BEFORE, []
    for at, pid, left in ((1005.0, 1, (TWO, THREE)), (1010.0, 2, (THREE,)), (1100.0, 3, ())):
        now, log = look(at, *left), AUTORESTART.replace("[1]", f"[{pid}]")
        actions.append(witness.look(last, now, (), log).actions)
        last = now
    assert actions == [1, 0, 1]


# -- the number of workers


def test_signals_of_others_that_change_the_number_are_told() -> None:
    four = look(1005.0, ONE, TWO, THREE, NEW)
    change = Witness().look(BEFORE, four, (), handles("ttin") + booted(11))
    assert [(count.cause, count.by, count.sure) for count in change.counts] == [("ttin", 1, True)]
    assert change.actions == 0  # nobody had to leave
    change = Witness().look(four, look(1010.0, THREE, NEW), (), handles("ttou") * 2 + exits(1))
    assert [(count.cause, count.by) for count in change.counts] == [("ttou", -2)]
    assert "2 times SIGTTOU" in change.counts[0].text
    assert [end.cause for end in change.ends] == ["ttou", "ttou"]
    assert change.actions == 1


def test_our_own_signals_are_nobodys() -> None:
    witness = Witness()
    four = look(1005.0, ONE, TWO, THREE, NEW)
    change = witness.look(BEFORE, four, (), handles("ttin") + booted(11), sent=("TTIN",))
    assert change == Change()
    change = witness.look(four, look(1010.0, TWO, THREE, NEW), (), "", sent=("TTOU",))
    assert [end.cause for end in change.ends] == ["ours"]  # whom SIGTTOU ends is no choice
    change = witness.look(four, four._replace(at=1015.0), (), handles("ttou"))
    assert not change.counts  # heard a look later
    change = witness.look(four, four._replace(at=1020.0), (), handles("ttou"))
    assert change.counts  # and this one is another


def test_our_own_reload_is_ours() -> None:
    new = [worker(pid, 1.0) for pid in (11, 12, 13)]
    change = Witness().look(BEFORE, look(1005.0, *new), (), handles("hup"), sent=("HUP",))
    assert [end.cause for end in change.ends] == ["ours"] * 3
    assert not change.reloaded
    assert change.actions == 0


def test_a_signal_that_has_no_effect_yet_is_no_steady_number() -> None:
    """gunicorn says it before it forks."""
    witness = Witness()
    last, _ = steady(witness, BEFORE, 100)
    now = last._replace(at=last.at + 5.0)
    change = witness.look(last, now, (), handles("ttin"))
    assert [(count.cause, count.sure) for count in change.counts] == [("ttin", True)]
    four = look(now.at + 5.0, ONE, TWO, THREE, NEW)
    assert witness.look(now, four) == Change()
    assert steady(witness, four, 200)[1] == []


def test_sigttou_to_the_last_worker_does_nothing() -> None:
    witness = Witness()
    alone = look(1000.0, ONE)
    assert not witness.look(alone, alone._replace(at=1005.0), (), handles("ttou")).counts
    (end,) = witness.look(alone, look(1010.0, NEW), (), exits(1) + booted(11)).ends
    assert end.cause == "signal"


def steady(witness: Witness, last: Snapshot, seconds: int) -> tuple[Snapshot, list[Change]]:
    """Looks every 5 s at which nothing happens; the changes that were seen all the same."""
    changes = []
    for _ in range(seconds // 5):
        now = last._replace(at=last.at + 5.0)
        changes.append(witness.look(last, now))
        last = now
    return last, [change for change in changes if change != Change()]


def test_a_number_that_changes_and_stays_is_told_without_a_log() -> None:
    witness = Witness()
    last, changes = steady(witness, BEFORE, 100)
    assert not changes
    now = look(last.at + 5.0, ONE, TWO, THREE, NEW)
    assert witness.look(last, now) == Change()
    last, changes = steady(witness, now, 200)
    (count,) = [count for change in changes for count in change.counts]
    assert (count.cause, count.by, count.sure) == ("ttin", 1, False)
    assert count.text == "4 workers where 3 were, for 1m: probably SIGTTIN by somebody"
    now = look(last.at + 5.0, TWO, THREE, NEW)
    assert [end.cause for end in witness.look(last, now).ends] == ["unknown"]
    _, changes = steady(witness, now, 200)
    (count,) = [count for change in changes for count in change.counts]
    assert (count.cause, count.by) == ("ttou", -1)


def test_a_worker_that_is_replaced_changes_no_number() -> None:
    witness = Witness()
    last, _ = steady(witness, BEFORE, 100)
    gone = look(last.at + 5.0, TWO, THREE)
    witness.look(last, gone)
    back = look(last.at + 10.0, TWO, THREE, NEW)
    witness.look(gone, back)
    assert steady(witness, back, 200)[1] == []


def test_our_surge_is_no_change_of_the_number_however_long_it_takes() -> None:
    witness = Witness()
    last, _ = steady(witness, BEFORE, 100)
    four = look(last.at + 5.0, ONE, TWO, THREE, NEW)
    witness.look(last, four, sent=("TTIN",))
    last, changes = steady(witness, four, 200)
    assert changes == []
    three = look(last.at + 5.0, TWO, THREE, NEW)
    witness.look(last, three, [ONE.id], sent=("TTOU",))
    assert steady(witness, three, 400)[1] == []


def test_a_reload_sets_the_number_back_to_the_configured_one() -> None:
    """Workers that SIGTTIN had added are gone after it; that is the reload's doing."""
    witness = Witness()
    last, _ = steady(witness, BEFORE, 100)
    now = look(last.at + 5.0, NEW, worker(12, 2.0))
    assert witness.look(last, now, (), handles("hup")).reloaded
    assert steady(witness, now, 200)[1] == []


# -- without the log


def test_all_replaced_at_once_by_the_same_master_is_probably_a_reload() -> None:
    new = [worker(pid, 3.0) for pid in (11, 12, 13)]
    change = Witness().look(BEFORE, look(1005.0, *new))
    assert [end.cause for end in change.ends] == ["reload"] * 3
    assert all("probably" in end.text for end in change.ends)
    assert change.actions == 1
    assert change.reloaded


def test_all_replaced_one_after_the_other_is_no_reload() -> None:
    """Between two looks that are an hour apart."""
    new = [worker(11, 3000.0), worker(12, 2000.0), worker(13, 100.0)]
    change = Witness().look(BEFORE, look(4600.0, *new))
    assert {end.cause for end in change.ends} == {"unknown"}


def test_the_only_worker_replaced_is_no_reload() -> None:
    change = Witness().look(look(0.0, ONE), look(5.0, NEW))
    assert [end.cause for end in change.ends] == ["unknown"]


@pytest.mark.parametrize("old", [(ONE,), (ONE, TWO, THREE)])
def test_newcomers_beside_all_the_old_ones_announce_a_reload(old: tuple[Worker, ...]) -> None:
    """The old ones still finish their requests."""
    witness = Witness()
    new = [worker(10 + n, 1.0) for n in range(len(old))]
    both = look(1005.0, *old, *new)
    assert witness.look(look(1000.0, *old), both) == Change()
    change = witness.look(both, look(1010.0, *old[1:], *new))
    assert [end.cause for end in change.ends] == ["reload"]
    assert change.actions == 1


def test_a_look_in_the_middle_of_a_reload_does_not_hide_it() -> None:
    witness = Witness()
    last, _ = steady(witness, BEFORE._replace(at=900.0), 100)
    half = look(1001.0, ONE, TWO, THREE, worker(11, 0.5))
    assert witness.look(last, half) == Change()
    later = look(1006.0, THREE, worker(11, 5.5), worker(12, 4.9), worker(13, 4.8))
    assert [end.cause for end in witness.look(half, later).ends] == ["reload"] * 2
    assert [end.cause for end in witness.look(later, later._replace(workers=later.workers[1:])).ends
            ] == ["reload"]  # fmt: skip


def test_one_after_the_other_within_seconds_is_no_reload() -> None:
    witness = Witness()
    then = look(1005.0, TWO, THREE, worker(11, 4.0))
    now = look(1010.0, THREE, worker(11, 9.0), worker(12, 1.0))
    causes = [end.cause for last, after in ((BEFORE, then), (then, now))
              for end in witness.look(last, after).ends]  # fmt: skip
    assert causes == ["unknown"] * 2


def test_all_killed_by_the_kernel_are_no_reload() -> None:
    before = BEFORE._replace(oom_kills=0)
    new = [worker(pid, 3.0) for pid in (11, 12, 13)]
    causes = [end.cause for end in Witness().look(before, look(1005.0, *new, oom_kills=2)).ends]
    assert sorted(causes) == ["oom", "oom", "unknown"]


def test_a_reload_of_the_only_worker_is_known_from_the_log() -> None:
    change = Witness().look(look(0.0, ONE), look(5.0, NEW), (), handles("hup") + exits(1))
    assert [end.cause for end in change.ends] == ["reload"]


def test_who_was_asked_waits_for_no_words() -> None:
    change = Witness().look(BEFORE, look(1005.0, TWO, THREE), [ONE.id], "")
    assert [end.cause for end in change.ends] == ["ours"]


def test_a_signal_of_ours_that_was_never_logged_excuses_no_later_one() -> None:
    witness = Witness()
    witness.look(BEFORE, BEFORE._replace(at=1005.0), sent=("TTIN",))
    later = BEFORE._replace(at=1005.0 + attribution.UNHEARD)
    assert witness.look(later, later, (), handles("ttin")).counts


def test_our_newcomer_beside_the_only_worker_is_no_reload() -> None:
    witness = Witness()
    both = look(1005.0, ONE, NEW)
    witness.look(look(1000.0, ONE), both, sent=("TTIN",))
    assert [end.cause for end in witness.look(both, look(1010.0, NEW)).ends] == ["unknown"]


def test_several_of_one_age_at_once_are_said_to_look_like_max_requests() -> None:
    change = Witness().look(BEFORE, look(1005.0, THREE, NEW))
    assert {end.cause for end in change.ends} == {"unknown"}
    assert all("2 of about the same age at once" in end.text for end in change.ends)
    assert change.actions == 1


def test_ends_with_the_master_are_the_masters() -> None:
    for now, words in (
        (look(1005.0, NEW, master=Worker(WorkerId(101, 2), 1.0, MB)), "ended with its master"),
        (look(1005.0, pid=0, state="EXITED", master=None), "Supervisor says EXITED"),
        (look(1005.0, TWO, THREE, state="STOPPING"), "Supervisor says STOPPING"),
        (look(1005.0, pid=200, master=Worker(WorkerId(200, 2), 1.0, MB)), "with its master"),
    ):
        change = Witness().look(BEFORE, now)
        assert {end.cause for end in change.ends} == {"master"}
        assert words in change.ends[0].text
        assert change.actions == 1


def test_a_master_that_halts_over_a_worker_is_told_with_that_reason() -> None:
    log = (
        exits(1)
        + says(MASTER, "Worker (pid:1) exited with code 3.", "ERROR")
        + says(MASTER, "Shutting down: Master", "ERROR")
        + says(MASTER, "Reason: Worker failed to boot.", "ERROR")
    )
    change = Witness().look(BEFORE, look(1005.0, state="BACKOFF", pid=0, master=None), (), log)
    assert all("because a worker could not boot" in end.text for end in change.ends)


def test_an_unanswering_supervisor_ends_nobody() -> None:
    assert Witness().look(BEFORE, look(1005.0, state="UNKNOWN", pid=0, master=None)) == Change()


def test_a_plain_program_has_no_workers_to_end() -> None:
    plain = BEFORE._replace(kind="plain")
    assert Witness().look(plain, plain._replace(workers=())) == Change()


# -- properties

IDS = st.integers(1, 8)
WORDS = [*(log for log, _, _ in LOGS.values()), handles("hup"), handles("ttou"), "\x00é\n", "]["]
LOOK = st.tuples(
    st.sets(IDS),
    st.lists(st.sampled_from(WORDS), max_size=3).map("".join),
    st.integers(0, 2),
    st.sets(IDS, max_size=2),
    st.lists(st.sampled_from(["TTIN", "TTOU", "HUP"]), max_size=1),
    st.floats(0.1, 400),
)


@given(st.lists(LOOK, max_size=12))
def test_every_end_is_told_once_and_a_reopened_journal_changes_nothing(history: Any) -> None:
    """And only ends of others are actions; what is remembered is of who is there."""
    witness = Witness()
    last = look(0.0, ONE, TWO, oom_kills=0)
    told, gone = list[WorkerId](), list[WorkerId]()
    for pids, log, kills, asked, sent, seconds in history:
        workers = [worker(pid) for pid in sorted(pids)]
        now = look(last.at + seconds, *workers, oom_kills=(last.oom_kills or 0) + kills)
        again = Witness()
        again.load(json.loads(json.dumps(witness.dump())))
        ids = {WorkerId(pid, pid * 10) for pid in asked}
        change = witness.look(last, now, ids, log, sent)
        assert change == again.look(last, now, ids, log, sent)
        told += [end.worker.id for end in change.ends]
        gone += sorted({w.id for w in last.workers} - {w.id for w in now.workers})
        assert all(end.cause == "ours" for end in change.ends if end.worker.id in ids)
        assert change.actions <= sum(end.cause != "ours" for end in change.ends)
        assert len(witness.dump()["facts"]) <= 12 * (len(workers) + 8)
        last = now
    change = witness.look(last, last._replace(at=last.at + 5.0))
    assert sorted(told + [end.worker.id for end in change.ends]) == sorted(gone)


def test_a_clock_that_was_set_back_takes_what_is_remembered_with_it() -> None:
    witness = Witness()
    both = look(1005.0, ONE, TWO, THREE, NEW)
    witness.look(BEFORE, both, (), handles("hup"), sent=("TTIN",))
    again = Witness()
    again.load(json.loads(json.dumps(witness.dump())), back=500.0)
    assert min(at for *_, at, _ in again.dump()["facts"]) == 505.0
    assert again.dump()["sent"] == [("TTIN", 505.0)]


def test_the_log_is_worth_reading_where_somebody_comes_or_goes_or_just_did() -> None:
    witness = Witness()
    assert not witness.wants_log(BEFORE, BEFORE._replace(at=1005.0))
    assert witness.wants_log(BEFORE, look(1005.0, ONE, TWO))
    now = look(1005.0, ONE, TWO, THREE, NEW)
    assert witness.wants_log(BEFORE, now)
    witness.look(BEFORE, now, (), "")
    for seconds, wanted in ((1.0, True), (2.0, True), (3.0, False)):
        later = now._replace(at=1005.0 + seconds)
        assert witness.wants_log(now, later) == wanted
        witness.look(now, later, (), "")


def test_a_worker_that_waits_for_its_words_keeps_the_kernels_kill() -> None:
    """The counter rose with it; how many looks it waits depends on how far they are apart."""
    witness = Witness()
    now = look(1005.0, TWO, THREE, NEW, oom_kills=6)
    assert witness.look(BEFORE._replace(oom_kills=5), now, (), "") == Change()
    for at in (1005.5, 1006.0):
        assert witness.look(now, now._replace(at=at), (), "") == Change()
    (end,) = witness.look(now, now._replace(at=1006.5), (), KILLED["21.2"]).ends
    assert end.cause == "oom"


@pytest.mark.parametrize(
    ("late", "cause"), [(KILLED["21.2"], "signal"), (handles("hup"), "reload"), ("", "unknown")]
)
def test_an_end_that_the_log_does_not_explain_yet_is_told_a_look_later(
    late: str, cause: str
) -> None:
    """gunicorn's words pass through a pipe and supervisord before they can be read."""
    witness = Witness()
    now = look(1005.0, TWO, THREE, NEW)
    assert witness.look(BEFORE, now, (), booted(11)) == Change()
    again = Witness()
    again.load(json.loads(json.dumps(witness.dump())))
    for each in (witness, again):
        (end,) = each.look(now, now._replace(at=1010.0), (), late).ends
        assert (end.worker, end.cause) == (ONE, cause)
        assert each.look(now, now._replace(at=1015.0)) == Change()


# -- the log itself


def test_a_log_is_read_in_its_order() -> None:
    log = handles("hup") + "Traceback\n" + exits(1) + "[cut off line] " + TIMEOUT
    assert errorlog.read(log) == [
        Line(errorlog.HANDLES, MASTER, 1),
        Line(errorlog.EXITING, 1),
        Line(errorlog.TIMEOUT, 1),
    ]


@given(st.text())
def test_no_text_disturbs_the_reader(text: str) -> None:
    for line in errorlog.read(text + "\n" + TIMEOUT + text):
        assert line.pid < 10**10
        assert 0 <= line.number < 1000


CONFIG = {"command": "gunicorn app", "stderr_logfile": "/log/err", "stdout_logfile": "/log/out"}


@pytest.mark.parametrize(
    ("config", "stream"),
    [
        ({}, "stderr"),
        ({"stderr_logfile": "auto"}, "stderr"),
        ({"redirect_stderr": True, "stderr_logfile": "none"}, "stdout"),
        ({"redirect_stderr": True, "stdout_logfile": "none"}, None),
        ({"stderr_logfile": "none"}, None),
        ({"stderr_logfile": "syslog"}, None),
        ({"stderr_logfile": "/dev/stderr"}, None),
        ({"stderr_logfile": "/proc/self/fd/2"}, None),
        ({"command": "gunicorn --error-logfile - app"}, "stderr"),
        ({"command": "gunicorn --error-logfile=/dev/stdout app"}, "stdout"),
        ({"command": "gunicorn --log-file /var/log/web.log app"}, None),
        ({"command": "sh -c 'gunicorn --error-logfile=\"/x y\" app'"}, None),
        ({"command": "gunicorn --log-file=/x --log-file=- app"}, "stderr"),
        ({"command": "gunicorn --access-logfile /x --log-level info app"}, "stderr"),
    ],
)
def test_which_of_supervisors_logs_is_gunicorns(config: dict[str, Any], stream: str | None) -> None:
    assert errorlog.stream({**CONFIG, **config}) == stream


class Log:
    """A log behind Supervisor's tail; `growth` is what is written between two calls."""

    def __init__(self, text: str, *growth: str) -> None:
        self.text, self.growth = text, list(growth)

    def tail(self, length: int) -> tuple[str, int, bool]:
        answer = (self.text[-length:] if length else "", len(self.text), length < len(self.text))
        self.text += self.growth.pop(0) if self.growth else ""
        return answer


def test_what_is_new_in_a_log_is_read_once() -> None:
    log = Log("old\n")
    text, size = errorlog.news(log.tail, None)
    assert (text, size) == ("", 4)  # at the first look nothing is new
    log.text += "a\nb\n"
    assert errorlog.news(log.tail, size) == ("a\nb\n", 8)
    assert errorlog.news(log.tail, 8) == ("", 8)
    log.text = "c\n"  # rotated
    assert errorlog.news(log.tail, 8) == ("c\n", 2)


def test_a_log_that_grows_while_it_is_read_is_read_whole() -> None:
    assert errorlog.news(Log("old\na\n", "b\n").tail, 4) == ("a\nb\n", 8)
    # One that never stands still is read as far as it goes.
    text, size = errorlog.news(Log("old\nnew\n", *"abcdefgh").tail, 4)
    assert text.endswith("abc")
    assert size == 11


def test_of_a_log_that_has_grown_much_the_end_is_read() -> None:
    text, size = errorlog.news(Log("x" * (errorlog.MOST + 10)).tail, 0)
    assert (len(text), size) == (errorlog.MOST, errorlog.MOST + 10)
