"""What the notes on worker lives amount to: precision, recall, and the rest of the figures.

Values in, values out: results of judging.py become numbers, and lists of mistakes.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from judging import FREE_FILLS, Record, Result, fills
from living import FILLS, HEALTHY, LEAKS
from parts import DAY


class Counts(NamedTuple):
    """Right, wrong and missed."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.false) if self.hits + self.false else 1.0

    @property
    def recall(self) -> float:
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else 1.0

    @property
    def f1(self) -> float:
        wrong = self.false + self.missed
        return 2 * self.hits / (2 * self.hits + wrong) if self.hits + wrong else 1.0


class Mistake(NamedTuple):
    """Something that was said wrongly, or not at all."""

    what: str
    result: Result
    record: Record | None
    at: float | None
    why: str


def told(result: Result) -> tuple[Counts, list[Mistake]]:
    """`leak` told. Caches that fill are left out, as long as they do."""
    hits = false = missed = 0
    mistakes = []
    for r in result.records:
        if r.told_early is not None:
            false += 1
            mistakes.append(Mistake("told before it leaked", result, r, r.told_early, r.told_why))
        if r.guilty and r.since is not None:
            if r.told_at is not None:
                hits += 1
            elif r.findable:
                missed += 1
                mistakes.append(Mistake("never told", result, r, None, ""))
        elif r.told_at is not None and not fills(r, r.told_at):
            false += 1
            mistakes.append(Mistake("told, healthy", result, r, r.told_at, r.told_why))
    return Counts(hits, false, missed), mistakes


def acted(result: Result) -> tuple[Counts, list[Mistake]]:
    """`leak` acted on; missed are leaks that ate a third of the room (MATERIAL)."""
    hits = false = missed = filling = 0
    mistakes = []
    for r in sorted(result.records, key=lambda r: (r.act_at or 0.0, r.born, r.id)):
        if r.act_early is not None:
            false += 1
            mistakes.append(Mistake("acted before it leaked", result, r, r.act_early, r.told_why))
        if r.guilty and r.since is not None:
            if r.act_at is not None:
                hits += 1
            elif r.third_at is not None:
                missed += 1
                mistakes.append(Mistake("never acted on", result, r, None, r.told_why))
        elif r.act_at is not None:
            filling += fills(r, r.act_at)
            if not fills(r, r.act_at) or filling > FREE_FILLS:
                false += 1
                mistakes.append(Mistake("acted, healthy", result, r, r.act_at, r.act_why))
    return Counts(hits, false, missed), mistakes


def _still_fills(r: Record, at: float | None) -> bool:
    """Whether it was wrong, then, about a cache that took fewer and fewer but was not full yet."""
    if at is None or r.guilty or r.filling or not r.caches:
        return False
    return r.full_at is None or at <= r.full_at


def others_found(results: Sequence[Result]) -> dict[str, list[int]]:
    """Growth of open files, and of the master: told of how many programs of those that have it."""
    found: dict[str, list[int]] = {}
    for kind in ("fd_growth", "master_growth"):
        having = [result for result in results if kind in result.free]
        told_ = [r for r in having if kind in r.others or any(kind in x.others for x in r.records)]
        if having:
            found[kind] = [len(told_), len(having)]
    return found


def wrong_actions(result: Result) -> int:
    """Acts that nothing in the program deserves, of any kind; once a life and kind."""
    acts = acted(result)[0].false
    kinds = [kind for r in result.records for kind in r.other_acts]
    acts += sum(kind not in result.free for kind in (*result.other_acts, *kinds))
    for r in result.records:
        acts += r.imbalance_act is not None and not r.tolerated and not r.imbalanced
    return acts


def imbalanced(result: Result) -> tuple[Counts, list[Mistake]]:
    hits = false = missed = 0
    mistakes = []
    for r in result.records:
        if r.imbalanced:
            hits += r.imbalance_at is not None
            missed += r.imbalance_at is None
            if r.imbalance_at is None:
                mistakes.append(Mistake("imbalance not told", result, r, None, ""))
        elif r.imbalance_at is not None and not r.tolerated:
            false += 1
            mistakes.append(
                Mistake("imbalance, balanced", result, r, r.imbalance_at, r.imbalance_why)
            )
    return Counts(hits, false, missed), mistakes


def other(result: Result) -> list[Mistake]:
    """Verdicts of other kinds that nothing in the program deserves."""
    mistakes = []
    for kind, (at, why) in result.others.items():
        if kind not in result.free:
            mistakes.append(Mistake(f"{kind} told", result, None, at, why))
    for r in result.records:
        for kind, (at, why) in r.others.items():
            if kind not in result.free and not (kind == "limit" and r.guilty):
                mistakes.append(Mistake(f"{kind} told", result, r, at, why))
    return mistakes


def late(results: Sequence[Result], level: str = "told_at") -> list[Mistake]:
    """Leaks that ate half of their room before they were found, or were never found."""
    mistakes = []
    for result in results:
        for r in result.records:
            if r.half_at is None:
                continue
            at = getattr(r, level)
            if at is None or at > r.half_at:
                why = f"half was gone at {r.half_at:.0f}"
                mistakes.append(Mistake("found too late", result, r, at, why))
    return mistakes


def added(counts: Iterable[Counts]) -> Counts:
    return Counts(*(sum(column) for column in zip(Counts(), *counts, strict=True)))


def interval(counts: Sequence[Counts], figure: str, rounds: int = 400) -> tuple[float, float]:
    """The 95 % bootstrap interval of a figure, programs drawn again and again."""
    busy = [c for c in counts if any(c)]
    if not busy:
        return 1.0, 1.0
    rng = random.Random(7)
    values = sorted(getattr(added(rng.choices(busy, k=len(busy))), figure) for _ in range(rounds))
    return values[int(0.025 * rounds)], values[int(0.975 * rounds)]


def half(results: Sequence[Result], level: str) -> tuple[int, int, int]:
    """Leaks that ate half of their room; of them found; found before that."""
    total = found = before = 0
    for result in results:
        for r in result.records:
            if r.half_at is not None:
                at = getattr(r, level)
                total += 1
                found += at is not None
                before += at is not None and at <= r.half_at
    return total, found, before


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Every figure of the table, as JSON-able values."""
    traps = [r for r in results if r.label in (HEALTHY, FILLS)]
    days = sum(r.healthy for r in traps) / DAY
    out: dict[str, Any] = {
        "programs": len(results),
        "lives": sum(len(r.records) for r in results),
        "leaking": sum(bool(x.since is not None) for r in results for x in r.records),
        "healthy_days": days,
    }
    for level, score, at, mb in (
        ("told", told, "told_at", "told_mb"),
        ("act", acted, "act_at", "act_mb"),
    ):
        counts = [score(result)[0] for result in results]
        sum_ = added(counts)
        total, found, before = half(results, at)
        hits = [
            x
            for r in results
            for x in r.records
            if x.since is not None and getattr(x, at) is not None
        ]
        every = [x for r in results for x in r.records if x.findable]
        out[level] = {
            **sum_._asdict(),
            **{
                name: [getattr(sum_, name), *interval(counts, name)]
                for name in ("precision", "recall", "f1")
            },
            "recall_all": len([x for x in every if getattr(x, at) is not None]) / len(every)
            if every
            else 1.0,
            "false_per_day": sum(score(r)[0].false for r in traps) / days if days else 0.0,
            "false_filling": sum(
                _still_fills(r, getattr(r, at)) for result in results for r in result.records
            ),
            "half": total,
            "rh": found / total if total else 1.0,
            "rh50": before / total if total else 1.0,
            "median_mb": statistics.median(getattr(x, mb) for x in hits) if hits else None,
            "median_delay": statistics.median(getattr(x, at) - x.since for x in hits)
            if hits
            else None,
        }
    wrong_acts = sum(wrong_actions(result) for result in traps)
    out["false_actions_per_day"] = wrong_acts / days if days else 0.0
    out["false_actions"] = wrong_acts
    sum_ = added(imbalanced(result)[0] for result in results)
    out["imbalance"] = {**sum_._asdict(), "recall": sum_.recall}
    out["other_false"] = dict(Counter(m.what for r in results for m in other(r)))
    out["other_found"] = others_found(results)
    out["calibration"] = calibration(results)
    samples = sum(r.samples for r in results)
    out["us_per_sample"] = 1e6 * sum(r.cpu for r in results) / samples if samples else None
    out["samples"] = samples
    weights = [r.bytes_per_worker for r in results if r.bytes_per_worker]
    out["bytes_per_worker"] = [statistics.median(weights), max(weights)] if weights else None
    return out


BINS = (0.0, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.01)


def calibration(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Of the leaks told with so much confidence, how many were: caches that fill count as none."""
    said: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for result in results:
        for r in result.records:
            if r.told_at is not None and r.confidence is not None:
                index = next(i for i in range(len(BINS)) if r.confidence < BINS[i + 1])
                said[index].append((r.confidence, r.since is not None))
    return [
        {
            "from": BINS[index],
            "count": len(values),
            "said": statistics.mean(c for c, _ in values),
            "right": statistics.mean(right for _, right in values),
        }
        for index, values in sorted(said.items())
    ]


def closed_figures(results: Sequence[Result]) -> dict[str, Any]:
    traps = [r for r in results if r.label in (HEALTHY, FILLS)]
    leaking = [r for r in results if r.label == LEAKS]
    days = sum(r.healthy for r in traps) / DAY
    false = sum(len(r.false_recycles) for r in traps)
    return {
        "programs": len(results),
        "healthy_days": days,
        "false_recycles": false,
        "false_per_day": false / days if days else 0.0,
        "false_in_leaking": sum(len(r.false_recycles) for r in leaking),
        "recycles": sum(r.recycles for r in results),
        "leaking_programs": len(leaking),
        "killed_programs": sum(r.kills > 0 for r in leaking),
        "killed": sum(r.kills > 0 for r in leaking) / len(leaking) if leaking else 0.0,
    }


def recorded_figures(results: Sequence[Result]) -> dict[str, Any]:
    """Of recordings: `told`, what it leaked by then, wrong actions, imbalance."""
    counts = [told(result)[0] for result in results]
    sum_ = added(counts)
    hits = [r for x in results for r in x.records if r.since is not None and r.told_at is not None]
    balance = added(imbalanced(result)[0] for result in results)
    wrong_acts = sum(acted(result)[0].false for result in results)
    samples = sum(r.samples for r in results)
    return {
        "programs": len(results),
        "lives": sum(len(r.records) for r in results),
        "leaking": sum(r.guilty for x in results for r in x.records),
        "short": sum(r.guilty and not r.findable for x in results for r in x.records),
        **sum_._asdict(),
        **{
            name: [getattr(sum_, name), *interval(counts, name)]
            for name in ("precision", "recall", "f1")
        },
        "median_mb": statistics.median(r.told_mb for r in hits) if hits else None,
        "median_delay": statistics.median((r.told_at or 0) - (r.since or 0) for r in hits)
        if hits
        else None,
        "false_actions": wrong_acts,
        "imbalance": {**balance._asdict(), "recall": balance.recall},
        "other_false": dict(Counter(m.what for r in results for m in other(r))),
        "calibration": calibration(results),
        "us_per_sample": 1e6 * sum(r.cpu for r in results) / samples if samples else None,
    }
