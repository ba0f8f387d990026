"""Where in the data a training goes on behind a checkpoint. Pure, but for reading which rows there are."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from app.contracts.order import TrainingOrder
from app.contracts.rows import DIGEST


@dataclass(frozen=True)
class DataPosition:
    """Whole epochs that are done, and batches of the next one that are not trained on again.

    `repeated` rows of that epoch are before the place: a training goes on with a whole step of its own size.
    """

    epoch: int
    batches: int = 0
    repeated: int = 0


def find_place(epoch: float, rows: int, batch_before: int, batch_now: int, accumulation: int) -> DataPosition:
    """Behind `epoch` epochs in batches of `batch_before` rows; a step takes `accumulation` batches of `batch_now`."""
    whole = math.floor(epoch)
    batches_an_epoch = math.ceil(rows / batch_before)
    batches = round((epoch - whole) * batches_an_epoch)
    if batches == batches_an_epoch:
        return DataPosition(whole + 1)
    done = batches * batch_before
    steps = done // (batch_now * accumulation)
    return DataPosition(whole, steps * accumulation, done - steps * accumulation * batch_now)


def key_of_rows(order: TrainingOrder) -> str:
    """Equal keys mean the same rows in the same order, epoch for epoch."""
    training = order.spec.training
    digest = hashlib.sha256(f"{training.seed} {training.packing}\n".encode())
    with pa.memory_map(str(Path(order.train_rows))) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            digest.update(batch.column(DIGEST).to_numpy().tobytes())
    return digest.hexdigest()
