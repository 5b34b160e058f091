"""What the workers of a program taught about its growth, over generations.

Growth that was acted on says nothing about how it would have gone on: a cache that fills
in a straight line looks like a leak until it is full. So after a recycle for a leak the
program is on *trial*: its workers may grow to nearly half of their headroom, and after another
recycle to two thirds. Growth that then ends by itself is a plateau, up to which nothing counts
from now on; growth that does not proves a leak, on which is acted early. All of it is forgotten
when the code changes.

Not here: what growth is (growth.py), and what a fresh worker needs (needs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OPEN, TRIAL, SECOND, LEAKS = "open", "trial", "second trial", "leaks"

# Of the headroom a worker began with: what growth may eat in a trial and in a second one, and up
# to where a plateau may postpone a verdict, one that a second trial has shown further. No verdict
# is ever disarmed by what was learned: work that pauses looks like a plateau, too.
TRIALS = {TRIAL: 0.42, SECOND: 0.65}
CAP = 0.45
TRIED_CAP = 0.7


@dataclass(slots=True)
class Learned:
    """Bytes of the growth signal; seconds."""

    plateau: float = 0.0  # where growth that was told ended by itself, the highest
    warmup: float = 0.0  # the age at which it had ended, the highest
    state: str = OPEN
    cap: float = CAP
    since: float = 0.0  # when the trial began, on Past.now's clock

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
        if self.state == OPEN:
            self.state, self.since = TRIAL, now
            began = now
        if self.state == TRIAL and share >= TRIALS[TRIAL] and began >= self.since:
            self.state = SECOND
        self.grew(share)

    def known(self, first: float, ceiling: float | None) -> float:
        """Up to where growth is healthy, of a worker that began with `first` bytes."""
        if ceiling is None:
            return self.plateau
        return min(self.plateau, first + self.cap * max(ceiling - first, 0))

    def dump(self) -> list[Any]:
        return [self.plateau, self.warmup, self.state, self.cap, self.since]

    @classmethod
    def load(cls, dumped: list[Any]) -> Learned:
        return cls(*dumped)
