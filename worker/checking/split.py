"""Moves a random share of the training rows to the evaluation rows: the same ones for the same seed."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worker.checking.rows import SCHEMA
from worker.checking.tokens import batches


def split(train: Path, evaluation: Path, fraction: float, seed: int) -> dict[str, Any]:
    """At least one row stays in each, or none is moved, and the answer says why."""
    total = sum(batch.num_rows for batch in batches(train))
    count = round(total * fraction)
    if count in (0, total):
        return {"eval_fraction": fraction, "eval_rows": 0, "reason": f"{total} records are too few to split"}
    is_chosen = np.zeros(total, bool)
    is_chosen[random.Random(seed).sample(range(total), count)] = True
    rest = train.with_suffix(".rest")
    _pick(train, evaluation, is_chosen)
    _pick(train, rest, ~is_chosen)
    rest.rename(train)
    return {"eval_fraction": fraction, "eval_rows": count, "train_rows": total - count, "seed": seed}


def _pick(source: Path, target: Path, mask: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> None:
    place = 0
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for batch in batches(source):
            picked = batch.filter(pa.array(mask[place : place + batch.num_rows]))
            place += batch.num_rows
            if picked.num_rows:
                writer.write_batch(picked)
