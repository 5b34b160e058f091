"""What the workers of a program taught about its growth, over generations.

Growth that was acted on says nothing about how it would have gone on: a cache that fills
in a straight line looks like a leak until it is full. So after a recycle for a leak the
program is on *trial*: its workers may grow to nearly half of their headroom, and after another
recycle to two thirds. Growth that then ends by itself is a plateau, up to which nothing counts
from now on; growth that does not proves a leak, on which is acted early. Where others end the
workers before either shows (`max_requests` does), there is no trial for a day. All of it is
forgotten when the code changes.

Not here: what growth is (growth.py), and what a fresh worker needs (needs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OPEN, TRIAL, SECOND, LEAKS, CUT = "open", "trial", "second trial", "leaks", "cut short"

# Of the headroom a worker began with: what growth may eat in a trial and in a second one, and up
# to where a plateau may postpone a verdict, one that a second trial has shown further. No verdict
# is ever disarmed by what was learned: work that pauses looks like a plateau, too.
TRIALS = {TRIAL: 0.42, SECOND: 0.65}
CAP = 0.45
TRIED_CAP = 0.7

# A trial that shows nothing: so many workers, one after the other, were ended by others when they
# had grown by so much of their headroom; the next trial is so many seconds later.
GENERATIONS = 2
GROWN = 0.25
PAUSE = 24 * 3600.0


@dataclass(slots=True)
class Learned:
    """Bytes of the growth signal; seconds."""

    plateau: float = 0.0  # where growth that was told ended by itself, the highest
    warmup: float = 0.0  # the age at which it had ended, the highest
    state: str = OPEN
    cap: float = CAP
    since: float = 0.0  # when the trial began or was given up, on Past.now's clock
    cut: int = 0  # workers that others ended during the trial, of those one after the other
    cut_at: float = 0.0  # when the last of them ended

    @property
    def share(self) -> float:
        """Of the headroom: what growth may eat before it is acted on, because of a trial."""
        return TRIALS.get(self.state, 0.0)

    def ended_by_itself(self, level: float, age: float) -> None:
        """A worker's told growth is over: healthy ones of this program reach `level`."""
        self.plateau = max(self.plateau, level)
        self.warmup = max(self.warmup, age)
        if self.state == SECOND:
            self.cap = TRIED_CAP
        self.state = OPEN

    def grew(self, share: float) -> None:
        """Told growth has eaten a share of the headroom without an end in sight."""
        if share >= TRIALS[SECOND]:
            self.state = LEAKS

    def left(self, share: float, began: float, now: float) -> None:
        """A worker that was to be recycled for its growth is gone. `began`: when it was first seen.
        A second trial follows on one that began with the first or after it."""
        if self.state == OPEN or (self.state == CUT and now - self.since >= PAUSE):
            self.state, self.since = TRIAL, now
            self.cut, self.cut_at = 0, now
            began = now
        if self.state == TRIAL and share >= TRIALS[TRIAL] and began >= self.since:
            self.state = SECOND
        self.grew(share)

    def cut_short(self, share: float, began: float, ended: float) -> None:
        """A worker ended without having been acted on for its told growth: by max_requests, a
        reload, somebody's signal, or acted on for something else. Workers that ended together are
        one generation."""
        if self.state in TRIALS and share >= GROWN and began >= self.cut_at:
            self.cut, self.cut_at = self.cut + 1, ended
            if self.cut >= GENERATIONS:
                self.state, self.since = CUT, ended

    def known(self, first: float, ceiling: float | None) -> float:
        """Up to where growth is healthy, of a worker that began with `first` bytes. Of workers that
        leak on and on, none is: what looked like an end was a pause."""
        if self.state == LEAKS:
            return 0.0
        if ceiling is None:
            return self.plateau
        return min(self.plateau, first + self.cap * max(ceiling - first, 0))

    def dump(self) -> list[Any]:
        return [
            self.plateau,
            self.warmup,
            self.state,
            self.cap,
            self.since,
            self.cut,
            self.cut_at,
        ]

    @classmethod
    def load(cls, dumped: list[Any]) -> Learned:
        return cls(*dumped)
