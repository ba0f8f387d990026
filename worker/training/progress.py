"""The counters of a training that transformers does not save: one JSON file in each checkpoint."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from app.contracts.memory_model import Recomputation
from worker.training.evaluations import Evaluations

PROGRESS = "progress.json"


@dataclass(frozen=True)
class StepCounters:
    """The counters at the end of a step. `seconds`: of training, over all attempts.

    `window_loss`: the sum of the losses of the steps after `logged_step`, the last logged one. `total_loss`: that of
    all steps. Floats may be NaN or infinite. `rows`: the key of the rows and their order. `micro_batch_tokens`,
    `recomputation`: how the steps were computed. Checkpoints of earlier versions lack all that has a default.
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
    evaluations: Evaluations = field(default_factory=Evaluations)
    micro_batch_tokens: int | None = None
    recomputation: Recomputation = False

    def write(self, folder: Path) -> None:
        (folder / PROGRESS).write_text(json.dumps(dataclasses.asdict(self), indent=1))


def read_progress(folder: Path) -> StepCounters:
    """Read a checkpoint's counters. Raises OSError, ValueError or TypeError if the file is missing or malformed."""
    read = json.loads((folder / PROGRESS).read_text())
    return StepCounters(**{**read, "evaluations": Evaluations(**read.get("evaluations", {}))})
