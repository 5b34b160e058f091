"""How often the detectors are right: recorded programs, through `replay`, scored per worker.

    python bench/detect.py TRACES [--tick 5] [--stretch 5] [--program NAME] [--save DIR]

TRACES is a directory with samples.csv.gz (t, program, role, pid, start, rss, pss, uss, swap
in kB, requests) and meta.json (behaviour and truth per program). Rates in such recordings are
compressed: a second is read as `--stretch` seconds, a sample kept per `--tick`. `--save`
writes each program in the replay format.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from supervisor_memwatch.replay import replay

KB, MB = 1024, 1024 * 1024
FILLS = ("lru", "lru_uneven")  # caches that fill in a straight line: a leak until they are full


def convert(traces: Path, tick: float, stretch: float) -> dict[str, list[str]]:
    """The replay lines of every program of a recording."""
    lines: dict[str, list[str]] = {}
    times: dict[str, float] = {}
    ticks: dict[str, dict[str, Any]] = {}
    with gzip.open(traces / "samples.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            name, t = row["program"], float(row["t"]) * stretch
            if name not in lines:
                lines[name] = [json.dumps({"program": {"namespec": name, "interval": tick}})]
                times[name] = float("-inf")
            current = ticks.get(name)
            if current is None or t != current["t"]:
                if current is not None and current["t"] - times[name] >= 0.8 * tick:
                    times[name] = current["t"]
                    lines[name].append(json.dumps(current))
                current = ticks[name] = {"t": t, "master": None, "workers": []}
            process = {
                "pid": int(row["pid"]),
                "start": int(row["start"]),
                "rss": int(row["rss"]) * KB,
                "pss": int(row["pss"]) * KB,
                "uss": int(row["uss"]) * KB,
                "swap": int(row["swap"] or 0) * KB,
                "requests": int(row["requests"]) if row["requests"] else None,
            }
            if row["role"] == "master":
                current["master"] = process
            else:
                current["workers"].append(process)
    return lines


class Score:
    """What was said of each worker of one program, and when."""

    def __init__(self, lines: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        began = time.process_time()
        status = replay(lines, out, err)
        self.cpu = time.process_time() - began
        if status:
            raise SystemExit(err.getvalue())
        self.samples = 0
        self.told: dict[tuple[str, str], tuple[float, float]] = {}  # when, MB grown by then
        self.act: dict[tuple[str, str], float] = {}
        self.rss: dict[str, list[float]] = {}
        self.masters: set[str] = set()
        for line, answer in zip(lines[1:], out.getvalue().splitlines(), strict=True):
            tick, said = json.loads(line), json.loads(answer)
            processes = tick["workers"] + ([tick["master"]] if tick["master"] else [])
            self.samples += len(processes)
            if tick["master"]:
                self.masters.add(str(tick["master"]["pid"]))
            for process in processes:
                self.rss.setdefault(str(process["pid"]), []).append(process["rss"] / MB)
            for pid, kinds in said["verdicts"].items():
                for kind in kinds:
                    grown = self.rss[pid][-1] - self.rss[pid][0] if pid in self.rss else 0
                    self.told.setdefault((pid, kind), (tick["t"], grown))
            for pid, kinds in said["act"].items():
                for kind in kinds:
                    self.act.setdefault((pid, kind), tick["t"])

    @property
    def workers(self) -> list[str]:
        return [pid for pid in self.rss if pid not in self.masters]


def leaking(truth: str, score: Score) -> set[str]:
    """The workers that leak: all of them, or the one that grew."""
    if truth in ("leak", "leak_late"):
        return set(score.workers)
    if truth == "leak_one":
        return {max(score.workers, key=lambda pid: score.rss[pid][-1] - score.rss[pid][0])}
    return set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--tick", type=float, default=5.0)
    parser.add_argument("--stretch", type=float, default=5.0)
    parser.add_argument("--program")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    meta = json.loads((arguments.traces / "meta.json").read_text())["programs"]
    hits = misses = alarms = fills = false_acts = 0
    leaked = []
    cpu = samples = 0.0
    for name, lines in convert(arguments.traces, arguments.tick, arguments.stretch).items():
        if arguments.program not in (None, name):
            continue
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            (arguments.save / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        score, truth = Score(lines), meta[name]["truth"]
        cpu, samples = cpu + score.cpu, samples + score.samples
        guilty = leaking(truth, score)
        found = {pid for pid, kind in score.told if kind == "leak"}
        hits += len(found & guilty)
        misses += len(guilty - found)
        alarms += len(found - guilty)
        fills += len(found - guilty) if name in FILLS else 0
        leaked += [score.told[pid, "leak"][1] for pid in found & guilty]
        allowed = {(pid, "leak") for pid in guilty}
        if truth == "imbalance":
            allowed |= {(pid, "imbalance") for pid in score.workers}
        wrong = set(score.act) - allowed
        false_acts += len(wrong)
        print(f"{name}: {truth}, {len(score.workers)} lives")
        for (pid, kind), (when, grown) in score.told.items():
            acted = score.act.get((pid, kind))
            acts = "" if acted is None else f", acts at {acted / 60:.0f}m"
            print(f"    {pid} {kind} told at {when / 60:.1f}m, +{grown:.1f}MB{acts}")
    _print("all", hits, misses, alarms)
    _print("without caches that fill straight", hits, misses, alarms - fills)
    leaked.sort()
    if leaked:
        print(f"MB grown when told: median {leaked[len(leaked) // 2]:.1f}, most {leaked[-1]:.1f}")
    print(f"false acts: {false_acts}")
    print(f"CPU: {cpu / samples * 1e6:.1f} us per sample, parsing and printing included")
    return 0


def _print(what: str, hits: int, misses: int, alarms: int) -> None:
    precision = hits / (hits + alarms) if hits + alarms else 1.0
    recall = hits / (hits + misses) if hits + misses else 1.0
    f1 = 2 * hits / (2 * hits + misses + alarms) if hits + misses + alarms else 1.0
    print(f"{what}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")


if __name__ == "__main__":
    sys.exit(main())
