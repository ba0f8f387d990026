"""Decides when the next checkpoint is due. The caller passes the time."""

from dataclasses import dataclass
from typing import Literal

# The share of a training's time spent on checkpoints: the aim, and the maximum.
SHARE, LARGEST_SHARE = 0.01, 0.03
SHORTEST_SECONDS, LONGEST_SECONDS = 20.0, 120.0
FIRST_SECONDS = 30.0


@dataclass
class SaveSchedule:
    """`save_steps` of the spec: a number of steps, "auto" for a schedule by time, None for saves on request only.

    "auto" limits the work that a crash can cost (two minutes) and the share of the time that checkpoints take (3 %; 1 %
    if a save takes up to 1.2 seconds). Both hold if a save takes up to 3.6 seconds. For slower saves only the share
    holds: a model whose checkpoint takes 60 seconds is saved every 33 minutes.
    """

    save_steps: int | Literal["auto"] | None
    due_at: float = 0.0

    def begin(self, now: float) -> None:
        """Call this when training begins or resumes. `now`: seconds of a monotonic clock, here and below."""
        self.due_at = now + FIRST_SECONDS

    def saved(self, now: float, save_seconds: float) -> None:
        """Call this after each checkpoint, whatever its reason. `save_seconds`: how long writing it took."""
        wanted = min(save_seconds / SHARE, LONGEST_SECONDS)
        self.due_at = now + max(SHORTEST_SECONDS, wanted, save_seconds / LARGEST_SHARE)

    def is_due(self, step: int, now: float) -> bool:
        if self.save_steps == "auto":
            return now >= self.due_at
        return self.save_steps is not None and step % self.save_steps == 0
