"""How often the detectors are right, on labelled histories: one command prints the table.

    python bench/detect.py                                 # synthetic, test seeds
    python bench/detect.py --seeds tune --kind leak_slow --errors
    python bench/detect.py --suite all --recordings DIR --traces DIR --closed-loop --baselines

Three sources: synthetic programs (synthetic.py; a limit is known, the truth too), recordings of
real gunicorn (record.py's), and traces (whose seconds are read as five). Each worker life is
scored at two levels: `told` and `act`. Tuning seeds and test seeds have different names;
published is what test seeds say.

The detectors are called as `memwatch replay` calls them; `--through-cli` sends the same lines
through that command instead, which must give the same figures.

Not covered: what an action costs (recycle.py), what a look costs in the listener (tick.py).
See also judging.py (what is noted), figures.py (what it amounts to), baselines.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import audits
import baselines
import synthetic
from figures import (
    Mistake,
    acted,
    added,
    closed_figures,
    figures,
    half,
    imbalanced,
    late,
    other,
    recorded_figures,
    told,
)
from judging import (
    KB,
    SHORT,
    Judge,
    Ours,
    Recording,
    Result,
    ThroughCommand,
    recordings,
    run,
    run_recording,
    traces,
)
from living import FILLS, HEALTHY, LEAKS

SEEDS = {"tune": tuple(range(1, 21)), "test": tuple(range(1001, 1021))}
PROGRAMS = 412


# --- the synthetic suite ---------------------------------------------------------------------


def judges() -> dict[str, Callable[[dict[str, Any]], Judge]]:
    """Who can be asked, by name; each is made from the header of a recording."""
    return {"ours": Ours, "through-cli": ThroughCommand, **baselines.TABLE}


class Job(NamedTuple):
    """A program to be judged; small enough to be sent to another process."""

    seed: str
    behaviour: str
    judge: str
    closed: bool = False


def work(job: Job) -> Result:
    program = synthetic.draw(job.seed, job.behaviour)
    judge = judges()[job.judge](program.header())
    try:
        return run(program, judge, job.closed, weigh=job.judge == "ours")
    finally:
        if isinstance(judge, ThroughCommand):
            judge.close()


def suite(seeds: Sequence[int], count: int, kinds: tuple[str, ...], judge: str) -> list[Job]:
    """`count` programs, every behaviour equally often, the seeds in turn."""
    names = [name for name in synthetic.BEHAVIOURS if not kinds or name in kinds]
    jobs = []
    for index in range(count):
        seed, round_ = seeds[index % len(seeds)], index // len(names)
        if index % len(names) == 0:
            random.Random(f"{seeds[0]} {round_}").shuffle(names)
        jobs.append(Job(f"{seed} {index}", names[index % len(names)], judge))
    return jobs


def carry_out(jobs: Sequence[Job], processes: int, progress: str = "") -> list[Result]:
    """Every job, in order, on so many processes."""
    results = []
    shown = sys.stderr.isatty()
    if processes == 1:
        found: Iterator[Result] = map(work, jobs)
        pool = None
    else:
        pool = multiprocessing.get_context("fork").Pool(processes)
        found = pool.imap(work, jobs, chunksize=2)
    for number, result in enumerate(found, 1):
        results.append(result)
        if shown:
            print(f"\r{progress} {number}/{len(jobs)}", end="", file=sys.stderr, flush=True)
    if pool is not None:
        pool.close()
        pool.join()
    if shown:
        print(file=sys.stderr)
    return results


# --- words ----------------------------------------------------------------------------------


def percent(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.0f} min"


def table(f: dict[str, Any]) -> str:
    rows = [
        f"{f['programs']} programs, {f['lives']} worker lives, {f['leaking']} of them leaking, "
        f"{f['healthy_days']:.0f} healthy worker-days in traps.",
        "",
        "| | told | act |",
        "|---|---|---|",
    ]
    a, b = f["told"], f["act"]

    def row(name: str, key: str, form: Any) -> None:
        rows.append(f"| {name} | {form(a[key])} | {form(b[key])} |")

    row("precision", "precision", percent)
    row("recall (told: leaks one could find; act: of a third of the room)", "recall", percent)
    row("F1", "f1", percent)
    row("recall on every leak one could find", "recall_all", lambda v: f"{v:.3f}")
    row("wrong", "false", str)
    row("... of caches that were not full yet, though slowing down", "false_filling", str)
    row("wrong per healthy worker-day", "false_per_day", lambda v: f"{v:.4f}")
    row("leaks that ate half of the room: found", "rh", lambda v: f"{v:.3f}")
    row("... before half was gone", "rh50", lambda v: f"{v:.3f}")
    row("MB leaked by then (median)", "median_mb", lambda v: "-" if v is None else f"{v:.1f}")
    row("after (median)", "median_delay", minutes)
    imbalance = f["imbalance"]
    rows += [
        "",
        f"- False actions of any kind per healthy worker-day: {f['false_actions_per_day']:.4f} "
        f"({f['false_actions']}).",
        f"- Imbalance: recall {imbalance['recall']:.3f} of "
        f"{imbalance['hits'] + imbalance['missed']}"
        f", false {imbalance['false']}. Other verdicts that were wrong: "
        f"{', '.join(f'{n} {what}' for what, n in f['other_false'].items()) or 'none'}.",
    ]
    found = [f"{kind} {n} of {of}" for kind, (n, of) in f["other_found"].items()]
    if found:
        rows.append(f"- Found, of programs that have it: {', '.join(found)}.")
    if f["us_per_sample"] is not None:
        line = f"- Cost: {f['us_per_sample']:.2f} us CPU per sample"
        if f["bytes_per_worker"]:
            middle, most = f["bytes_per_worker"]
            line += f", {middle / KB:.1f} KB per worker (median; most {most / KB:.1f})"
        rows.append(line + ".")
    said = [
        f"said {c['said']:.2f}, right {c['right']:.2f} ({c['count']})" for c in f["calibration"]
    ]
    rows.append(f"- Confidence when told: {'; '.join(said) or 'nothing told'}.")
    return "\n".join(rows)


def closed_table(f: dict[str, Any]) -> str:
    return (
        f"Closed loop (an act recycles the worker, the kernel kills at the limit): "
        f"{f['recycles']} recycles, false ones per healthy worker-day {f['false_per_day']:.4f} "
        f"({f['false_recycles']} in {f['healthy_days']:.0f} days; "
        f"{f['false_in_leaking']} more in leaking programs); leaking programs in which a worker "
        f"was killed: {f['killed_programs']} of {f['leaking_programs']} "
        f"({100 * f['killed']:.1f} %)."
    )


def recorded_table(f: dict[str, Any]) -> str:
    imbalance = f["imbalance"]
    wrong = ", ".join(f"{n} {what}" for what, n in f["other_false"].items()) or "none"
    return "\n".join(
        [
            f"{f['programs']} programs, {f['lives']} worker lives, {f['leaking']} of them leaking "
            f"({f['short']} for less than {SHORT / 60:.0f} min: left out where nothing was said).",
            "",
            "| precision | recall | F1 | MB leaked when told (median) | after (median) |",
            "|---|---|---|---|---|",
            f"| {percent(f['precision'])} | {percent(f['recall'])} | {percent(f['f1'])} "
            f"| {'-' if f['median_mb'] is None else round(f['median_mb'], 1)} "
            f"| {minutes(f['median_delay'])} |",
            "",
            f"False actions: {f['false_actions']}. Imbalance: {imbalance['hits']} of "
            f"{imbalance['hits'] + imbalance['missed']} found, {imbalance['false']} false. "
            f"Other verdicts that were wrong: {wrong}.",
        ]
    )


def compare(arguments: argparse.Namespace, jobs: Sequence[Job]) -> str:
    """Every method on the same programs, a row each; ours at both levels."""
    sources = [run for _, run in recorded(arguments)]
    rows = [
        "| method | precision | recall | F1 | Rh | Rh@50 | wrong per worker-day | MB | us |"
        + (" false recycles per worker-day | killed |" if arguments.closed_loop else "")
        + " recordings: F1, MB |" * len(sources),
    ]
    rows.append("|---" * (rows[0].count("|") - 1) + "|")
    for name, make in judges().items():
        if name == "through-cli":
            continue
        results = carry_out([job._replace(judge=name) for job in jobs], arguments.jobs, name)
        f = figures(results)
        more = ""
        if arguments.closed_loop:
            closed = [job._replace(judge=name, closed=True) for job in jobs]
            c = closed_figures(carry_out(closed, arguments.jobs, f"{name}, closed loop"))
            more = f" {c['false_per_day']:.4f} | {100 * c['killed']:.1f} % |"
        for source in sources:
            r = recorded_figures([run_recording(recording, make) for recording in source])
            mb = "-" if r["median_mb"] is None else f"{r['median_mb']:.1f}"
            more += f" {r['f1'][0]:.3f}, {mb} |"
        for level in ("told", "act") if name == "ours" else ("act",):
            x = f[level]
            title = f"**ours, {level}**" if name == "ours" else name
            mb = "-" if x["median_mb"] is None else f"{x['median_mb']:.0f}"
            rows.append(
                f"| {title} | {x['precision'][0]:.3f} | {x['recall_all']:.3f} "
                f"| {harmonic(x['precision'][0], x['recall_all']):.3f} | {x['rh']:.3f} "
                f"| {x['rh50']:.3f} | {x['false_per_day']:.3f} | {mb} "
                f"| {f['us_per_sample']:.1f} |{more}"
            )
    return "\n".join(rows)


def harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def by_behaviour(results: Sequence[Result]) -> str:
    rows = [
        "| behaviour | lives | leaks | told | acted | false told | false acts | missed told "
        "| missed acts | half | found | before |",
        "|---" * 12 + "|",
    ]
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.behaviour].append(result)
    for name in sorted(groups):
        group = groups[name]
        t, a = added(told(r)[0] for r in group), added(acted(r)[0] for r in group)
        total, found, before = half(group, "told_at")
        lives = sum(len(r.records) for r in group)
        leaks = sum(x.since is not None for r in group for x in r.records)
        rows.append(
            f"| {name} | {lives} | {leaks} | {t.hits} | {a.hits} | {t.false} | {a.false} "
            f"| {t.missed} | {a.missed} | {total} | {found} | {before} |"
        )
    return "\n".join(rows)


def errors(results: Sequence[Result]) -> str:
    """Every error that remains, one a line."""
    mistakes: list[Mistake] = []
    for result in results:
        for score in (told, acted, imbalanced):
            mistakes += score(result)[1]
        mistakes += other(result)
    mistakes += late(results)
    rows = [
        "| what | behaviour | seed | tick | worker | when | leaked, share | why |",
        "|---" * 8 + "|",
    ]
    for m in sorted(mistakes, key=lambda m: (m.what, m.result.behaviour, m.result.name)):
        r = m.record
        who = "program" if r is None else f"{r.place} {r.id} {r.born:.0f}..{r.ended:.0f} {r.end}"
        when = "-" if m.at is None else f"{m.at:.0f}"
        truth = (
            ""
            if r is None or r.since is None
            else (f"since {r.since:.0f}, {r.leaked:.1f}MB, {r.share:.2f}")
        )
        seed = m.result.name.partition(":")[2]
        rows.append(
            f"| {m.what} | {m.result.behaviour} | {seed} | {m.result.tick:g} | {who} | {when} "
            f"| {truth} | {m.why} |"
        )
    return "\n".join(rows)


# --- the command ----------------------------------------------------------------------------


def parse_seeds(text: str) -> tuple[str, tuple[int, ...]]:
    """What they are called, and which they are."""
    if text in SEEDS:
        return text, SEEDS[text]
    try:
        return "given", tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; valid: test, tune or 1,2,...") from None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    given = sys.argv[1:] if argv is None else argv
    print(f"{time.strftime('%Y-%m-%d')}, `python bench/detect.py {shlex.join(given)}`")
    if arguments.baselines:
        jobs = chosen_jobs(arguments, "ours")
        print(f"\n{len(jobs)} synthetic programs, {seeds_named(arguments)}:\n")
        print(compare(arguments, jobs))
        return 0
    if arguments.suite in ("synthetic", "traps", "all"):
        print_synthetic(arguments)
    for title, found in recorded(arguments):
        print_recorded(title, found, arguments)
        if arguments.audits:
            print_audits(title, found, arguments)
    return 0


def print_synthetic(arguments: argparse.Namespace) -> None:
    judge = "through-cli" if arguments.through_cli else arguments.judge
    jobs = chosen_jobs(arguments, judge)
    results = carry_out(jobs, arguments.jobs, judge)
    found = figures(results)
    print(f"\nSynthetic programs, {seeds_named(arguments)}:\n")
    print(json.dumps(found) if arguments.json else table(found))
    if arguments.behaviours:
        print("\n" + by_behaviour(results))
    if arguments.errors:
        print("\n" + errors(results))
    if arguments.closed_loop:
        jobs = [job._replace(closed=True) for job in jobs]
        closed = carry_out(jobs, arguments.jobs, f"{judge}, closed loop")
        looped = closed_figures(closed)
        print("\n" + (json.dumps(looped) if arguments.json else closed_table(looped)))
        if arguments.errors:
            print_closed_errors(closed)


def seeds_named(arguments: argparse.Namespace) -> str:
    which, seeds = arguments.seeds
    return f"{which} seeds {seeds[0]} to {seeds[-1]}"


def chosen_jobs(arguments: argparse.Namespace, judge: str) -> list[Job]:
    chosen = [
        name for name in synthetic.BEHAVIOURS if name in (arguments.kind or synthetic.BEHAVIOURS)
    ]
    if arguments.suite == "traps":
        chosen = [name for name in chosen if synthetic.LABELS[name] in (HEALTHY, FILLS)]
    if arguments.basic:
        chosen = [name for name in chosen if name in synthetic.BASIC]
    if not chosen:
        known = ", ".join(sorted(synthetic.BEHAVIOURS))
        sys.exit(f"detect.py: no behaviour is of this suite and one of --kind; there are {known}")
    return suite(arguments.seeds[1], arguments.programs, tuple(chosen), judge)


def print_closed_errors(results: Sequence[Result]) -> None:
    print()
    for result in results:
        for text in result.false_recycles:
            print(f"- false recycle: {result.name} {text}")
        if result.kills and result.label == LEAKS:
            print(f"- killed: {result.name}, {result.kills} after {result.recycles} recycles")


def recorded(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Recording]]]:
    if arguments.suite in ("recordings", "all"):
        if arguments.recordings is not None:
            yield "Recordings of real gunicorn", recordings(arguments.recordings)
        if arguments.traces is not None:
            yield "Traces of real gunicorn, a second read as five", traces(arguments.traces)


def print_recorded(title: str, found: list[Recording], arguments: argparse.Namespace) -> None:
    make = judges()["through-cli" if arguments.through_cli else arguments.judge]
    kinds = arguments.kind
    chosen = [r for r in found if not kinds or any(kind in r.name for kind in kinds)]
    results = [run_recording(recording, make) for recording in chosen]
    f = recorded_figures(results)
    print(f"\n{title}:\n\n{json.dumps(f) if arguments.json else recorded_table(f)}")
    if arguments.errors:
        print("\n" + errors(results))


def print_audits(title: str, found: list[Recording], arguments: argparse.Namespace) -> None:
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        said = [each for some in pool.imap(audits.audits, found, chunksize=2) for each in some]
    rows = audits.figures(said)
    shown = json.dumps(rows) if arguments.json else audits.table(rows)
    print(f"\n{title}, audited:\n\n{shown}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    suites = ("synthetic", "traps", "recordings", "all")
    parser.add_argument("--suite", choices=suites, default="synthetic")
    parser.add_argument("--basic", action="store_true", help="one behaviour for each trap or leak")
    parser.add_argument(
        "--seeds", type=parse_seeds, default="test", metavar="WHICH", help="test, tune or N,M,..."
    )
    parser.add_argument("--programs", type=int, default=PROGRAMS)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="what record.py wrote")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="samples.csv.gz, meta.json")
    parser.add_argument("--kind", action="append", default=[], metavar="NAME", help="only these")
    known = "; ".join(judges())
    parser.add_argument("--judge", default="ours", metavar="NAME", help=f"one of {known}")
    parser.add_argument(
        "--closed-loop", action="store_true", help="and once more, an act recycling the worker"
    )
    parser.add_argument("--baselines", action="store_true", help="every method, a row each")
    parser.add_argument("--behaviours", action="store_true", help="a table per behaviour")
    parser.add_argument("--errors", action="store_true", help="every error that remains")
    parser.add_argument("--audits", action="store_true", help="audits of the recordings as well")
    parser.add_argument("--through-cli", action="store_true", help="ask `memwatch replay -`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args(argv)
    if arguments.judge not in judges():
        parser.error(f"--judge {arguments.judge!r}: there are {known}")
    if arguments.programs < 1:
        parser.error(f"--programs {arguments.programs}: at least one")
    recorded_ones = arguments.recordings or arguments.traces
    if arguments.suite == "recordings" and not recorded_ones:
        parser.error("--suite recordings: of which --recordings DIR, or --traces DIR?")
    if arguments.audits and (arguments.suite not in ("recordings", "all") or not recorded_ones):
        parser.error("--audits: of --suite recordings, and which --recordings DIR?")
    for directory in (arguments.recordings, arguments.traces):
        if directory is not None and not directory.is_dir():
            parser.error(f"{directory}: no such directory")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
