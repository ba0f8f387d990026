"""When a checkpoint is due by itself. Pure: the caller says what time it is."""

from dataclasses import dataclass
from typing import Literal

# Of the time that a training takes, spent on checkpoints: as is aimed at, and at most.
SHARE, LARGEST_SHARE = 0.01, 0.03
SHORTEST_SECONDS, LONGEST_SECONDS = 20.0, 120.0
FIRST_SECONDS = 30.0


@dataclass
class SaveSchedule:
    """`save_steps` of the spec: a number counts steps, "auto" goes by time, None leaves it to whoever asks.

    "auto" bounds two things: the work that a crash can cost (two minutes) and the share of the time that checkpoints
    take (3 %; less than 1 % where a save takes up to 1.2 seconds). A save of up to 3.6 seconds allows both. For one
    that takes longer the share wins: a model whose checkpoint takes 60 seconds is saved every 33 minutes, and not half
    of the time.
    """

    save_steps: int | Literal["auto"] | None
    due_at: float = 0.0

    def begin(self, now: float) -> None:
        """Training begins, from the first step or behind a checkpoint. Seconds of any clock that does not go back."""
        self.due_at = now + FIRST_SECONDS

    def saved(self, now: float, save_seconds: float) -> None:
        """A checkpoint was written, for whatever reason, and took so long."""
        cheap = min(save_seconds / SHARE, LONGEST_SECONDS)
        self.due_at = now + max(SHORTEST_SECONDS, cheap, save_seconds / LARGEST_SHARE)

    def is_due(self, step: int, now: float) -> bool:
        if self.save_steps == "auto":
            return now >= self.due_at
        return self.save_steps is not None and step % self.save_steps == 0
