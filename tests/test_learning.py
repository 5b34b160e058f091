"""What a program's workers teach over generations; and what is shown of growth that is no leak."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from histories import HOUR, MB, MINUTE, Curve, Life, Said, say, ticks

from supervisor_memwatch import detectors, growth
from supervisor_memwatch.learning import CUT, LEAKS, OPEN, PAUSE, SECOND, TRIAL, Learned
from supervisor_memwatch.model import LEAK, RUNNING, Snapshot, Worker, WorkerId
from supervisor_memwatch.options import Ceiling, Options
from supervisor_memwatch.past import Standing


def fills(to: float, rate: float = 0.5) -> Curve:
    """A cache that fills in a straight line, MB a minute."""
    return lambda age: 60 + min(age / MINUTE * rate, to)


def generations(*lives: tuple[float, Curve]) -> Said:
    """Workers one after the other, each for so many hours; 400 MB of headroom."""
    born, recorded = 0.0, []
    for n, (hours, curve) in enumerate(lives):
        recorded.append(Life(curve, pid=101 + n, born=born, dies=born + hours * HOUR))
        born += hours * HOUR
    return say(ticks(recorded, born, 30), limit=460)


def test_a_cache_that_was_recycled_for_once_may_fill_and_is_never_recycled_for_again() -> None:
    """The first is acted on at a quarter; the second is on trial; the third is not even told."""
    said = generations((3.5, fills(105)), (8, fills(120)), (8, fills(115)))
    assert said.acted("leak", 101) is not None
    assert said.when("leak", 102) is not None and said.acted("leak", 102) is None
    assert said.when("leak", 103) is None


def test_a_leak_that_its_trials_confirm_is_acted_on_early_from_then_on() -> None:
    """After a recycle the next worker may grow to nearly half, after another to two thirds; those
    after it may not."""
    leak = fills(1000)
    hours, born, eaten = (3.5, 5.8, 8.8, 7), 0.0, []
    said = generations(*((span, leak) for span in hours))
    for n, span in enumerate(hours):
        acted = said.acted("leak", 101 + n)
        assert acted is not None
        eaten.append((acted - born) / MINUTE * 0.5 / 400)
        born += span * HOUR
    assert eaten == [pytest.approx(share, abs=0.04) for share in (0.25, 0.42, 0.65, 0.125)]


def test_what_was_learned_is_bounded_by_a_share_of_the_headroom() -> None:
    learned = Learned()
    learned.ended_by_itself(400.0, 60.0)
    assert learned.known(100.0, 500.0) == pytest.approx(280.0)
    assert learned.known(100.0, None) == 400.0
    assert learned.known(100.0, 50.0) == 100.0
    learned.left(0.26, 0.0, HOUR)
    learned.left(0.43, HOUR, 2 * HOUR)
    learned.ended_by_itself(400.0, 60.0)  # in its second trial
    assert learned.known(100.0, 500.0) == pytest.approx(380.0)


def test_only_a_recycle_for_growth_puts_a_program_on_trial_and_an_end_of_growth_ends_it() -> None:
    learned = Learned()
    learned.left(0.26, 0.0, HOUR)
    assert learned.state == TRIAL
    learned.left(0.43, HOUR, 2 * HOUR)
    assert learned.state == SECOND
    learned.ended_by_itself(1.0, 1.0)
    assert learned.state == OPEN
    learned.left(0.9, 2 * HOUR, 3 * HOUR)  # a worker that grew to its end without flattening
    assert learned.state == LEAKS
    assert Learned.load(learned.dump()) == learned


def test_a_second_trial_begins_with_a_worker_that_was_born_after_the_first() -> None:
    """Siblings that were there before grow alike, whatever it is: they are no second proof."""
    learned = Learned()
    learned.left(0.26, began=0.0, now=HOUR)
    learned.left(0.43, began=0.0, now=2 * HOUR)
    assert learned.state == TRIAL
    learned.left(0.41, began=HOUR, now=3 * HOUR)
    assert learned.state == TRIAL
    learned.left(0.43, began=HOUR, now=3 * HOUR)
    assert learned.state == SECOND


def test_a_trial_whose_workers_others_end_is_over_and_the_next_leak_is_acted_on_at_a_quarter() -> (
    None
):
    """As under max_requests: the first is recycled, two end at 33 %, the fourth is acted on."""
    leak, hours = fills(1000), (3.8, 4.4, 4.4, 4.4)
    said = generations(*((span, leak) for span in hours))
    acted = [said.acted("leak", 101 + n) for n in range(4)]
    assert acted[0] is not None and acted[1] is None and acted[2] is None
    assert acted[3] is not None
    assert (acted[3] - sum(hours[:3]) * HOUR) / MINUTE * 0.5 / 400 == pytest.approx(0.25, abs=0.04)


def on_trial() -> Learned:
    learned = Learned()
    learned.left(0.26, 0.0, HOUR)
    return learned


def test_workers_that_end_together_are_one_generation() -> None:
    """A reload ends them all; and those that were there before the trial tell nothing of it."""
    learned = on_trial()
    for began in (0.0, HOUR, HOUR, HOUR + 10):
        learned.cut_short(0.3, began, 2 * HOUR)
    assert learned.state == TRIAL
    learned.cut_short(0.3, 2 * HOUR, 3 * HOUR)
    assert learned.state == CUT
    assert Learned.load(learned.dump()) == learned


def test_workers_that_end_before_they_grew_by_a_quarter_cut_no_trial_short() -> None:
    learned = on_trial()
    for hour in range(1, 9):
        learned.cut_short(0.24, hour * HOUR, (hour + 1) * HOUR)
    assert learned.state == TRIAL


def test_only_a_trial_can_be_cut_short() -> None:
    """A program that was never recycled for growth goes by the usual share, whoever ends it."""
    learned = Learned()
    for hour in range(1, 9):
        learned.cut_short(0.3, hour * HOUR, (hour + 1) * HOUR)
    assert learned == Learned()


def cut_short() -> Learned:
    learned = on_trial()
    learned.cut_short(0.3, HOUR, 2 * HOUR)
    learned.cut_short(0.3, 2 * HOUR, 3 * HOUR)
    assert learned.state == CUT
    return learned


def test_a_day_after_a_trial_was_cut_short_there_is_another_one() -> None:
    """A cache that would fill is not recycled for ever because its workers used to end early."""
    learned = cut_short()
    learned.left(0.26, 3 * HOUR, 3 * HOUR + PAUSE - 1)
    assert learned.state == CUT
    learned.left(0.26, 3 * HOUR, 3 * HOUR + PAUSE)
    assert learned.state == TRIAL
    learned.cut_short(0.3, 4 * HOUR + PAUSE, 5 * HOUR + PAUSE)
    assert learned.state == TRIAL  # it takes two again


def test_growth_that_ends_by_itself_or_never_ends_settles_it_also_without_a_trial() -> None:
    learned = cut_short()
    learned.ended_by_itself(1.0, 1.0)
    assert learned.state == OPEN
    learned = cut_short()
    learned.left(0.9, 3 * HOUR, 4 * HOUR)
    assert learned.state == LEAKS


@pytest.mark.parametrize("pids", [(201, 202), (202, 201)])
def test_workers_count_in_the_order_in_which_they_ended(pids: tuple[int, int]) -> None:
    """Of two forgotten at one look the second was born after the first: two generations."""
    past, options, t = acted_on()
    (standing,) = past.standing.values()
    headroom = standing.opinion.headroom or 0.0
    opinion = standing.opinion._replace(measured=0.3 * headroom)
    spans = {201: (t - 1000, t - 500), 202: (t - 500, t - 100)}
    lives = {}
    for pid in pids:
        life = copy.copy(past.lives[WorkerId(101, 1)])
        life.first, life.seen = spans[pid]
        lives[WorkerId(pid, 1)] = life
    past.lives = lives
    past.standing = {(id, LEAK): Standing(0.0, opinion, told=True) for id in lives}
    past.learned.left(0.26, 0.0, t - 1000)
    detectors.remember(options, past, program(t))
    assert not past.lives and past.learned.state == CUT


@pytest.mark.parametrize(("spare", "state"), [(3.0, SECOND), (1.5, TRIAL)])
def test_a_sibling_is_a_second_proof_where_there_is_time_to_recycle_all(
    spare: float, state: str
) -> None:
    past, options, t = acted_on()
    past.learned.left(0.26, 0.0, t)
    (standing,) = past.standing.values()
    far = 0.45 * (standing.opinion.headroom or 0.0)
    standing.opinion = standing.opinion._replace(measured=far, spare=spare)
    detectors.remember(options, past, program(t))
    assert past.learned.state == state


def test_what_workers_taught_says_nothing_of_the_master() -> None:
    """Its growth is acted on from a quarter on, also where the workers were proven to leak."""
    said = [master_acts(state) for state in (OPEN, LEAKS)]
    assert said[0] == said[1] >= 0.25 * 400


def master_acts(state: str) -> float:
    """MB that a master has grown by when it is acted on; 400 MB of headroom."""
    past, options = detectors.Past(), Options(total_limit=Ceiling(bytes=500 * MB))
    past.learned.state = state
    for t in range(0, 8 * int(HOUR), 30):
        grown, held = int(t / MINUTE * MB), 40 * MB
        size = 60 * MB + grown
        master = Worker(WorkerId(100, 1), t, size, 0, size, None, None, 0, t * 0.1, 9, 1)
        worker = Worker(WorkerId(101, 1), t, held, 0, held, None, None, 0, t * 0.1, 9, 1)
        now = Snapshot("web", float(t), RUNNING, 1, "gunicorn", master, (worker,))
        detectors.remember(options, past, now)
        said = detectors.examine(options, now, past).get(master.id, ())
        if any(verdict.kind == "master_growth" and verdict.act for verdict in said):
            return grown / MB
    raise AssertionError("it is never acted on")


def test_a_proven_leak_gives_its_caches_time() -> None:
    """Of growth that slows down, or has just begun, nobody knows yet that it is the leak's."""
    leak, proven = detectors.Leak(), Learned(state=LEAKS)
    young = [share(leak, proven, lambda age: 60 + age / MINUTE, minutes) for minutes in (20, 40)]
    assert leak.share > young[0] > young[1] > leak.early_share
    assert share(leak, proven, lambda age: 60 + age / MINUTE, 90) == leak.early_share
    assert share(leak, proven, lambda age: 60 + 50 * min(age / HOUR, 1) ** 0.3, 90) == leak.share


def share(leak: detectors.Leak, learned: Learned, curve: Curve, minutes: float) -> float:
    """Of the headroom: what growth that began with the life may eat after so many minutes."""
    past, options = detectors.Past(), Options(limit=Ceiling(bytes=900 * MB), warmup=0.0)
    for second in range(0, int(minutes * MINUTE) + 1, 5):
        size = int(curve(second) * MB)
        worker = Worker(WorkerId(101, 1), second, size, 0, size, None, None, 0, second * 0.1, 9, 1)
        detectors.remember(options, past, program(second, worker))
    life = past.lives[WorkerId(101, 1)]
    level = len(life.series.levels) - 1
    stretch = growth.Stretch(level, 10, 0.0, curve(0) * MB, 1.0, None)
    return leak.share_of(minutes * MINUTE, learned, life, stretch)


def program(second: float, *workers: Worker) -> Snapshot:
    return Snapshot("web", float(second), RUNNING, 1, "gunicorn", None, workers)


def together(*rates: float, minutes: float = 240, leaves: float = float("inf")) -> Said:
    """Siblings that grow, MB a minute, side by side; 400 MB of headroom. The first one to be
    acted on is gone when it `leaves`."""
    lives = [Life(fills(1000, rate), pid=101 + n, noise=0.0) for n, rate in enumerate(rates)]
    lives[0].dies = leaves
    return say(ticks(lives, minutes * MINUTE, 30), limit=460)


def test_siblings_that_leak_alike_are_acted_on_one_after_the_other_the_largest_first() -> None:
    said = together(1.0, 0.999, 0.998)
    first, *others = (said.acted("leak", 101 + n) for n in range(3))
    assert first is not None
    assert others[0] == first + 120


def test_siblings_of_two_that_are_to_be_acted_on_and_still_there_wait_to_see_these_grow() -> None:
    """A cache that fills in all of them may end any moment; 36 % of the headroom is 144 MB."""
    said = together(1.0, 0.999, 0.998, 0.997)
    others = [said.acted("leak", 101 + n) for n in (2, 3)]
    assert others[0] is not None and others[0] / MINUTE == pytest.approx(144, abs=8)
    assert others[1] == others[0] + 120


def test_a_leak_that_goes_on_is_not_left_alone_because_two_others_have_stopped() -> None:
    """It waits until it has eaten 36 % itself, and no longer."""

    def stopping(rate: float) -> Curve:
        return lambda t: 60 + min(rate * t / MINUTE, 118)

    idle = [Life(stopping(1.2), 101, noise=0.0), Life(stopping(1.19), 102, noise=0.0)]
    for life in idle:
        life.work = lambda t: min(t, 6000) * 0.1
    said = say(ticks([*idle, Life(fills(1000, 0.9), pid=103, noise=0.0)], 5 * HOUR, 30), limit=460)
    assert all(said.acted("leak", pid) for pid in (101, 102))
    third = said.acted("leak", 103)
    assert third is not None and third / MINUTE < 0.4 * 400 / 0.9


def test_where_the_queue_would_end_after_the_limit_nobody_waits() -> None:
    """Six an hour by the default budget: twenty workers, and a limit that is less than three hours
    away when the first is acted on."""
    rates = [2.0 - n / 100 for n in range(20)]
    said = together(*rates, minutes=70)
    acted = [said.acted("leak", 101 + n) for n in range(len(rates))]
    alone = [together(rate, minutes=70).acted("leak", 101) for rate in rates]
    assert acted == alone and None not in acted


def test_siblings_that_are_equal_are_acted_on_at_once() -> None:
    """No worker is chosen by its pid."""
    said = together(1.0, 1.0)
    assert said.acted("leak", 101) == said.acted("leak", 102) is not None


def test_what_is_near_its_limit_waits_for_no_sibling() -> None:
    said = together(30.0, 29.9, minutes=12)
    first, second = (said.acted("leak", 101 + n) for n in range(2))
    assert first is not None and second is not None and abs(second - first) < 60


def test_the_program_is_on_trial_from_the_first_tick_without_the_worker_that_was_acted_on() -> None:
    """Its sibling, a moment behind, may grow on to 42 % of the headroom."""
    acted = together(1.0, 0.999).acted("leak", 101)
    assert acted is not None
    said = together(1.0, 0.999, leaves=acted + 1)
    second = said.acted("leak", 102)
    assert second is not None and second / MINUTE == pytest.approx(0.42 * 400, abs=15)


def eaten_when_acted_on(state: str, rate: float) -> float:
    """Of 400 MB of headroom, by a leak of so many MB a minute that begins after ten minutes."""
    past, options = detectors.Past(), Options(limit=Ceiling(bytes=460 * MB))
    past.learned.state = state
    for t in range(0, 25 * int(MINUTE), 5):
        size = int((60 + rate * max(t / MINUTE - 10, 0)) * MB)
        worker = Worker(WorkerId(101, 1), t, size, 0, size, None, None, 0, t * 0.1, 9, 1)
        detectors.remember(options, past, program(t, worker))
        if any(standing.act for standing in past.standing.values()):
            return (size / MB - 60) / 400
    raise AssertionError("it is never acted on")


@pytest.mark.parametrize("rate", [25.0, 60.0, 100.0])
def test_a_trial_goes_on_where_the_limit_is_minutes_away(rate: float) -> None:
    """Imports rush towards it, too, and end: who never waits for that recycles them for ever."""
    assert eaten_when_acted_on(OPEN, rate) < 0.4
    assert eaten_when_acted_on(TRIAL, rate) == pytest.approx(0.45, abs=0.03)
    assert eaten_when_acted_on(SECOND, rate) == pytest.approx(0.68, abs=0.03)


def test_a_limit_that_is_a_minute_away_ends_a_trial_before_its_share() -> None:
    """At 180 MB a minute, 65 % would leave 47 s."""
    assert eaten_when_acted_on(SECOND, 180.0) == pytest.approx(220 / 400, abs=0.03)


def acted_on() -> tuple[detectors.Past, Options, float]:
    """A worker that grew until it was to be acted on; and when the next look is."""
    past, options = detectors.Past(), Options(limit=Ceiling(bytes=460 * MB))
    t = 0.0
    while not any(standing.act for standing in past.standing.values()):
        assert t < 3 * HOUR
        detectors.remember(options, past, program(t, leaking(t)))
        t += 30
    return past, options, t


def leaking(t: float) -> Worker:
    size = int((60 + t / MINUTE) * MB)
    return Worker(WorkerId(101, 1), t, size, 0, size, None, None, 0, t * 0.1, 9, 1)


def test_a_worker_that_was_acted_on_and_is_gone_counts_once() -> None:
    """Not again when it is forgotten, also where the journal was read again in between."""
    past, options, t = acted_on()
    detectors.remember(options, past, program(t))
    assert past.learned.state == TRIAL
    past.learned.ended_by_itself(1.0, 1.0)  # as a sibling may show meanwhile
    for _ in range(6):
        past = detectors.Past.load(json.loads(json.dumps(past.dump())))
        t += 30
        detectors.remember(options, past, program(t))
    assert not past.lives and past.learned.state == OPEN


def test_a_worker_that_was_only_overlooked_may_still_go() -> None:
    """One look without it is taken for its end; the next one, with it, is no second worker's."""
    past, options, t = acted_on()
    detectors.remember(options, past, program(t))
    detectors.remember(options, past, program(t + 30, leaking(t + 30)))
    past.learned.ended_by_itself(1.0, 1.0)
    detectors.remember(options, past, program(t + 60))
    assert past.learned.state == TRIAL


@pytest.mark.parametrize("turned", [False, True])
def test_who_leaves_at_the_same_look_teaches_the_same_in_any_order(turned: bool) -> None:
    """One that had eaten 30 % and one that had eaten 50 %: as far as the further one."""
    past, options, t = acted_on()
    ((first, kind), standing) = next(iter(past.standing.items()))
    assert first is not None and standing.opinion.headroom
    other = WorkerId(102, 1)
    past.lives[other] = copy.deepcopy(past.lives[first])
    for id, share in [(first, 0.3), (other, 0.5)]:
        said = standing.opinion._replace(measured=share * standing.opinion.headroom, spare=3.0)
        past.standing[id, kind] = dataclasses.replace(standing, opinion=said)
    if turned:
        past.standing = dict(reversed(past.standing.items()))
    detectors.remember(options, past, program(t))
    assert past.learned.state == SECOND


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_learned_does_not_depend_on_the_order_of_workers(turned: bool) -> None:
    """At one look the growth of one ends, and another's is beyond what ever stopped by itself."""
    past, options, t = acted_on()
    (_, standing), *_ = past.standing.items()
    known, other = WorkerId(101, 1), WorkerId(102, 1)
    past.standing[other, LEAK] = Standing(0.0, standing.opinion, told=True)
    far = standing.opinion._replace(measured=300.0 * MB)
    found = {known: None, other: far}
    scene = detectors.Scene(options, program(t), past, [], [], False)
    detectors._settle(scene, LEAK, dict(reversed(found.items())) if turned else found)
    assert past.learned.state == LEAKS


def test_a_deploy_makes_it_all_forgotten() -> None:
    past = detectors.Past()
    past.learned.ended_by_itself(400.0, 60.0)
    past.forget_learned()
    assert past.learned == Learned()


def _verdicts(
    curve: Curve, until: float, work: float = 0.1, siblings: int = 0
) -> list[tuple[str, bool, str]]:
    """Every verdict on the first worker at the end: kind, told, why."""
    past, options = detectors.Past(), Options(limit=Ceiling(bytes=900 * MB), total_limit=None)
    t = 0.0
    while t < until:
        workers = []
        for n in range(siblings + 1):
            anon = int((curve(t) if n == 0 else 60) * MB)
            cpu = t * (work if n == 0 else 0.1)
            id = WorkerId(101 + n, 1)
            workers.append(Worker(id, 300 + t, anon + 12 * MB, 12 * MB, anon, None, anon, 0, cpu))
        now = Snapshot("web", t, RUNNING, 9, "gunicorn", None, tuple(workers))
        detectors.remember(options, past, now)
        t += 5
    found = detectors.examine(options, now, past).get(WorkerId(101, 1), ())
    return [(verdict.kind, verdict.told, verdict.why) for verdict in found]


def test_one_step_is_shown_as_a_spike_and_never_told() -> None:
    [(kind, told, why)] = _verdicts(lambda t: 60 + (67 if t > HOUR else 0), 2 * HOUR)
    assert (kind, told) == ("spike", False)
    assert why == "one step of 67.0MB (60.0MB to 127.0MB), flat since"


def test_a_cache_that_has_filled_is_shown_as_a_plateau() -> None:
    [(kind, told, why)] = _verdicts(lambda t: 60 + min(t / MINUTE, 30), 2 * HOUR)
    assert (kind, told) == ("plateau", False)
    assert why.startswith("grew ") and why.endswith("to 90.0MB), flat since")


def test_a_spike_is_forgotten_when_the_memory_comes_back() -> None:
    assert _verdicts(lambda t: 60 + (67 if HOUR < t < 2 * HOUR else 0), 3 * HOUR) == []


def test_uneven_load_is_shown_and_never_told() -> None:
    """Three times its siblings' memory for nine times their work."""
    found = _verdicts(lambda t: 180, HOUR, work=0.9, siblings=3)
    assert [(kind, told) for kind, told, _ in found] == [("imbalance", False)]
    assert found[0][2].endswith("at 9.0 times their work: uneven load")


def test_a_leak_that_eats_its_headroom_in_three_minutes_is_acted_on_before_half_is_gone() -> None:
    """It starts after an hour; the finest buckets are 30 s wide."""
    rate = 400 / (3 * MINUTE)
    said = say(ticks([Life(lambda age: 60 + max(age - HOUR, 0) * rate)], HOUR + 180), limit=460)
    acted = said.acted("leak")
    assert acted is not None and HOUR < acted < HOUR + 90


def test_a_big_load_of_half_a_minute_is_no_leak() -> None:
    """200 MB in 30 s, towards a limit that is a minute away: it ends before it is confirmed."""
    curve = lambda age: 60 + 200 * min(max(age - HOUR, 0) / 30, 1)  # noqa: E731
    assert say(ticks([Life(curve)], 2 * HOUR), limit=460).told == {}


def test_of_workers_that_leak_on_and_on_no_growth_is_known_to_be_healthy() -> None:
    """What looked like an end was a pause: else each new one would be waited for up to there."""
    learned = Learned()
    learned.ended_by_itself(200.0, HOUR)
    assert learned.state == OPEN and learned.known(100.0, 1000.0) == 200.0
    learned.grew(0.7)
    assert learned.state == LEAKS and learned.known(100.0, 1000.0) == 0.0
    learned.ended_by_itself(200.0, HOUR)
    assert learned.known(100.0, 1000.0) == 200.0
