"""Finds the position in the data at which a training resumes from a checkpoint."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from app.contracts.order import TrainingOrder
from app.contracts.rows import DIGEST
from app.contracts.training_args import TrainingArgs


@dataclass(frozen=True)
class DataPosition:
    """How many epochs are complete, and how many batches of the next one are skipped.

    `repeated`: the rows of that epoch that are trained on again, since a training resumes at a whole step of its own
    size.
    """

    epoch: int
    batches: int = 0
    repeated: int = 0


def find_place(epoch: float, rows: int, batch_before: int, batch_now: int, accumulation: int) -> DataPosition:
    """The position after `epoch` epochs of `rows` rows in batches of `batch_before` rows.

    A step now takes `accumulation` batches of `batch_now` rows.
    """
    whole = math.floor(epoch)
    batches_an_epoch = math.ceil(rows / batch_before)
    batches = round((epoch - whole) * batches_an_epoch)
    if batches == batches_an_epoch:
        return DataPosition(whole + 1)
    done = batches * batch_before
    steps = done // (batch_now * accumulation)
    return DataPosition(whole, steps * accumulation, done - steps * accumulation * batch_now)


def key_of_rows(order: TrainingOrder) -> str:
    """A hash; equal keys mean the same rows in the same order in every epoch."""
    digest = hashlib.sha256(f"{_order_of_rows(order.spec.training)}\n".encode())
    with pa.memory_map(str(Path(order.train_rows))) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            digest.update(batch.column(DIGEST).to_numpy().tobytes())
    return digest.hexdigest()


def _order_of_rows(training: TrainingArgs) -> str:
    found = f"{training.seed} {training.packing}"
    if training.train_sampling_strategy == "random":
        return found
    # Rows of like length are put together for one step, so their order depends on its size too.
    step_rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    is_grouped = training.train_sampling_strategy == "group_by_length"
    return f"{found} {training.train_sampling_strategy}{f' {step_rows}' if is_grouped else ''}"
