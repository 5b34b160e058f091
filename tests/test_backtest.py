"""Back-testing: which actions would have begun over a recording, and which were needed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from histories import DAY, HOUR, MB, MINUTE, Curve, Life, ticks

from supervisor_memwatch import backtest, cli
from supervisor_memwatch.replay import replay


def back_tested(
    lives: list[Life],
    until: float,
    *,
    tick: float = 30.0,
    master: Life | None = None,
    plain_restart: bool = False,
    clock: int | None = None,
    kind: str = "gunicorn",
    **options: str,
) -> dict[str, Any]:
    """What these options would have done with these workers (limit: 400 MB)."""
    header = {"namespec": "web", "clock": clock, "kind": kind, "options": options}
    if "limit" not in options and "total_limit" not in options:
        header["limit"] = 400 * MB
    lines = [json.dumps({"program": header})]
    lines += [json.dumps(each) for each in ticks(lives, until, tick, master=master)]
    test, err = backtest.Backtest(plain_restart), io.StringIO()
    assert replay(lines, None, err, test=test) == 0, err.getvalue()
    return test.result()


def leak(per_hour: float) -> Curve:
    return lambda age: 60 + per_hour * age / HOUR


def cache(full: float, per_hour: float) -> Curve:
    return lambda age: 60 + min(full, per_hour * age / HOUR)


def flat(age: float) -> float:
    return 60.0


def outcomes(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["action"], each["target"], each["outcome"]) for each in result["actions"]]


def test_a_leak_that_reaches_its_limit_was_warned_of_and_recycled_before() -> None:
    """Once: what replaces the worker is not in the recording, and so not its actions either."""
    result = back_tested([Life(leak(60), 1), Life(flat, 2)], 8 * HOUR)
    assert outcomes(result) == [("recycle", "worker 1", "needed")]
    [action] = result["actions"]
    assert result["another_way_from"] == action["at"]
    assert "it reached 400.0MB" in action["text"]
    [reached] = result["reached"]
    assert abs(reached["at"] - 340 / 60 * HOUR) < 2 * MINUTE
    assert reached["acted_before"] == reached["at"] - action["at"] > HOUR
    assert result["earliest_warning"] == reached["told_before"] >= reached["acted_before"]
    assert [told["kind"] for told in result["told"]] == ["leak"]  # its limit came afterwards


def test_what_its_replacements_would_have_needed_is_an_estimate_beside() -> None:
    """From what the recorded worker went on to grow; not among the actions."""
    result = back_tested([Life(leak(60), 1), Life(flat, 2)], 20 * HOUR)
    [action] = result["actions"]
    grown = 60 * action["at"] / HOUR
    assert result["more"] == pytest.approx(20 * 60 / grown - 1, abs=2)
    assert f"about {result['more']} more" in list(backtest.words(result))[-1]


def test_growth_that_ended_by_itself_far_below_the_limit_was_recycled_needlessly() -> None:
    """A cache that filled."""
    lives = [Life(cache(140, 60), 1), Life(flat, 2)]
    result = back_tested(lives, 20 * HOUR)
    assert outcomes(result) == [("recycle", "worker 1", "needless")]
    assert "ended by itself at 200" in result["actions"][0]["text"]
    assert "1 recycle in 19h 59m, 1 of them needless" in list(backtest.words(result))[-1]


def test_growth_that_ended_near_the_limit_was_not_recycled_needlessly() -> None:
    """It would have been at the next large request's mercy."""
    result = back_tested([Life(cache(300, 60), 1), Life(flat, 2)], 20 * HOUR)
    assert outcomes(result) == [("recycle", "worker 1", "needed")]


def test_where_the_recording_ends_first_it_cannot_be_told() -> None:
    """A worker that is gone soon afterwards; and one that did no work."""
    lives = [Life(cache(140, 60), 1, dies=2.2 * HOUR), Life(flat, 2)]
    assert outcomes(back_tested(lives, 5 * HOUR)) == [("recycle", "worker 1", "cannot be told")]
    idle = Life(cache(140, 60), 1, work=lambda age: min(age, 140 / 60 * HOUR) * 0.1)
    result = back_tested([idle, Life(flat, 2)], 20 * HOUR)
    assert outcomes(result) == [("recycle", "worker 1", "cannot be told")]
    assert "it did little work" in result["actions"][0]["text"]
    assert "of 1 it cannot be told" in list(backtest.words(result))[-1]


def test_a_recording_too_short_to_tell_a_leak_says_so() -> None:
    """And how long it takes; not where one worker was watched long enough."""
    young, old = [Life(leak(60), 1), Life(flat, 2)], [Life(leak(60), 1, hide=("age",))]
    for lives, watched in ((young, "0s"), (old, r"1m \d+s")):
        short = back_tested(lives, 2 * MINUTE, tick=5.0)
        assert short["told"] == []
        [*_, answer] = backtest.words(short)
        begins = "with these options: 0 told, 0 recycles in 1m 55s; too short to tell a leak: "
        assert answer.startswith(begins)
        ends = f"watched for {watched} past the warm-up of 2m, it takes 5m 30s, less where growth "
        assert re.search(ends + "is fast$", answer)
    long = back_tested([Life(flat, 1), Life(flat, 2, born=500.0)], 10 * MINUTE, tick=5.0)
    off = back_tested([Life(flat, 1)], 2 * MINUTE, tick=5.0, growth="off")
    for result in (long, off):
        assert result["too_short"] is None and "too short" not in [*backtest.words(result)][-1]
    slow = back_tested(old, 2 * MINUTE, tick=5.0, confirm="2m", warmup="1m")["too_short"]
    assert (slow["warmup"], slow["needed"]) == (60.0, 22 * MINUTE)


def test_the_guards_of_the_policy_hold() -> None:
    """Cooldown and budget, said once for each worker."""
    lives = [Life(leak(60 + n), n) for n in (1, 2, 3)]
    result = back_tested(lives, 6 * HOUR, cooldown="30m", budget="2/1d")
    assert [each["action"] for each in result["actions"]] == ["recycle", "recycle"]
    first, second = (each["at"] for each in result["actions"])
    assert second - first >= 30 * MINUTE
    assert {each["code"] for each in result["held"]} == {"cooldown", "budget"}
    assert len(result["held"]) <= 5


def test_ends_that_others_caused_count_against_the_budget() -> None:
    """A deploy replaces all workers: one action of somebody's."""
    old = [Life(flat, n, dies=HOUR) for n in (1, 2)]
    new = [Life(leak(90), 3, born=HOUR), Life(flat, 4, born=HOUR)]
    free = back_tested([*old, *new], 4 * HOUR)
    held = back_tested([*old, *new], 4 * HOUR, budget="1/1d")
    assert len(free["actions"]) == 1
    assert held["actions"] == [] and {each["code"] for each in held["held"]} == {"budget"}


def test_mode_observe_is_tested_as_act_and_says_so() -> None:
    """The question is what `act` would do."""
    lives = [Life(leak(60), 1), Life(flat, 2)]
    observed, acted = back_tested(lives, 4 * HOUR), back_tested(lives, 4 * HOUR, mode="act")
    assert observed["actions"] == acted["actions"] != []
    assert "nothing would have been touched" in "\n".join(backtest.words(observed))
    assert "nothing would have been touched" not in "\n".join(backtest.words(acted))


def test_the_window_needs_the_hour_of_the_day() -> None:
    """Where it is recorded, what is not urgent waits for it; where not, that is said."""
    lives = [Life(leak(40), 1), Life(flat, 2)]
    unknown = back_tested(lives, 8 * HOUR, window="06:00-07:00")
    assert any("`window` was not applied" in note for note in unknown["notes"])
    known = back_tested(lives, 8 * HOUR, window="06:00-07:00", clock=30)
    assert 5.5 * HOUR <= known["actions"][0]["at"] < 5.6 * HOUR
    assert known["held"][0]["code"] == "window"


def test_one_that_reaches_its_limit_untold_is_counted() -> None:
    """A step: nothing could have been told."""
    step: Curve = lambda age: 60 if age < HOUR else 450  # noqa: E731
    result = back_tested([Life(step, 1), Life(flat, 2)], 2 * HOUR, growth="off")
    assert result["unwarned"] == 1 and result["earliest_warning"] is None
    assert "1 reached it without a warning" in list(backtest.words(result))[-1]
    assert outcomes(result) == [("recycle", "worker 1", "needed")]  # for the limit itself


def test_imbalance_and_open_files_are_needless_where_they_pass_by_themselves() -> None:
    """Needed where they stand to the end of what is recorded."""

    def held(until: float) -> Curve:
        return lambda age: 200 if age < until else 60

    def found(life: Life, span: float = 3 * HOUR) -> list[tuple[str, str, str]]:
        return outcomes(back_tested([life, Life(flat, 2), Life(flat, 3)], span, growth="off"))

    assert found(Life(held(DAY), 1)) == [("recycle", "worker 1", "needed")]
    assert found(Life(held(HOUR), 1)) == [("recycle", "worker 1", "needless")]
    assert found(Life(held(DAY), 1), 14 * MINUTE)[0][2] == "cannot be told"


def test_after_an_action_the_total_is_not_judged_any_more() -> None:
    """What came back is not known; the note says so."""
    lives = [Life(leak(60), n) for n in (1, 2)]
    result = back_tested(lives, 8 * HOUR, total_limit="300MB", growth="off", imbalance="off")
    assert len(result["actions"]) == 1
    assert any("total_limit was not judged" in note for note in result["notes"])


def test_a_reload_replaces_everybody() -> None:
    """The first rung of the ladder, once; the other workers' growth is history as well."""
    lives = [Life(leak(60), 1), Life(leak(50), 2)]
    result = back_tested(lives, 8 * HOUR, master=Life(flat, 9), actions="reload")
    assert [each["action"] for each in result["actions"]] == ["reload"]


def test_a_plain_program_is_restarted_only_where_its_section_says_so() -> None:
    """As the listener would."""
    lives = [Life(leak(60), 1)]
    held = back_tested(lives, 4 * HOUR, kind="plain", actions="restart")
    assert held["actions"] == [] and held["held"][0]["code"] == "plain"
    done = back_tested(lives, 4 * HOUR, kind="plain", actions="restart", plain_restart=True)
    assert [each["action"] for each in done["actions"]] == ["restart"]


def test_a_quiet_week_is_one_line_of_answer() -> None:
    """Nothing told, nothing done."""
    result = back_tested([Life(flat, 1), Life(flat, 2)], 2 * DAY, tick=300)
    last = list(backtest.words(result))[-1]
    assert last == "with these options: 0 told, 0 recycles in 1d 23h"
    assert result["another_way_from"] is None


def test_the_names_of_a_recording_are_made_safe() -> None:
    """It comes from somewhere else."""
    test = backtest.Backtest()
    lines = [
        json.dumps({"program": {"namespec": "web\x1b[2J\nforged"}}),
        json.dumps(ticks([Life(flat)], 10)[0]),
    ]
    assert replay(lines, None, io.StringIO(), test=test) == 0
    text = "\n".join(backtest.words(test.result()))
    assert "\x1b" not in text and len(text.splitlines()) == 3


# -- the command


CONF = "[supervisord]\n[program:web]\ncommand=x\n[memwatch:web]\nlimit = 400MB\n"


def recording(path: Path) -> Path:
    lines = [json.dumps({"program": {"namespec": "web"}})]
    lines += [json.dumps(each) for each in ticks([Life(leak(60), 1), Life(flat, 2)], 4 * HOUR, 60)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_with_config_each_tick_has_its_line_and_the_summary_is_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What reads the lines does not meet it; without --config there is none."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text(CONF)
    recorded = recording(tmp_path / "ticks")
    assert cli.main(["replay", str(recorded), "--config", str(conf)]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 240 and answers[-1]["act"] == {"1": ["leak"]}
    assert err.splitlines()[-1].startswith("with these options: 1 told, 1 recycle in 3h 59m")
    assert cli.main(["replay", str(recorded)]) == 0
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (240, "")


def test_the_summary_alone_takes_the_place_of_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As words, or as one JSON object."""
    conf = tmp_path / "supervisord.conf"
    conf.write_text(CONF)
    arguments = ["replay", str(recording(tmp_path / "ticks")), "--config", str(conf), "--summary"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "web: 3h 59m recorded, 240 ticks, 2 processes" and err == ""
    assert cli.main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert outcomes(document)[0][:2] == ("recycle", "worker 1") and err == ""
    assert not any("no section for" in note for note in document["notes"])
    conf.write_text(CONF.replace("memwatch:web", "memwatch:shop"))
    assert cli.main([*arguments, "--json"]) == 0
    assert "has no section for web" in json.loads(capsys.readouterr().out)["notes"][0]
    assert cli.main(["replay", "--json"]) == 2
    assert "--json is for --summary" in capsys.readouterr().err


def test_a_restart_of_a_plain_program_needs_the_section_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the listener reads the configuration."""
    recorded = recording(tmp_path / "ticks")
    lines = recorded.read_text().splitlines()
    lines[0] = json.dumps({"program": {"namespec": "web", "kind": "plain"}})
    recorded.write_text("\n".join(lines))
    conf = tmp_path / "supervisord.conf"
    for text, actions in (
        (CONF + "[memwatch]\nactions = restart\n", []),
        (CONF + "actions = restart\n", ["restart"]),
    ):
        conf.write_text(text)
        arguments = ["replay", str(recorded), "--config", str(conf), "--summary", "--json"]
        assert cli.main(arguments) == 0
        document = json.loads(capsys.readouterr().out)
        assert [each["action"] for each in document["actions"]] == actions
