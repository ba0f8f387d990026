"""What a training knows beside weights, optimizer and random numbers: one JSON file of each checkpoint."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

PROGRESS = "progress.json"


@dataclass(frozen=True)
class StepCounters:
    """The counters at a step's end. Seconds are of training, over all attempts.

    `window_loss` is the sum of the losses of the steps since `logged_step`, the last one that was logged; `total_loss`
    that of the steps up to it. A float that is no number stays what it is. `rows` names the rows and their order; the
    checkpoints of earlier versions have none.
    """

    step: int
    tokens: int
    seconds: float
    final_loss: float | None
    bad_steps: int
    window_loss: float
    logged_step: int
    total_loss: float
    owes_evaluation: bool
    rows: str | None = None

    def write(self, folder: Path) -> None:
        (folder / PROGRESS).write_text(json.dumps(dataclasses.asdict(self), indent=1))


def read_progress(folder: Path) -> StepCounters:
    """Raises OSError or TypeError for a folder that is no checkpoint of this trainer."""
    return StepCounters(**json.loads((folder / PROGRESS).read_text()))
