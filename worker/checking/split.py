"""Moves a random share of the training rows to the evaluation rows: the same ones for the same seed.

Equal rows are moved together or not at all: an evaluation on rows that were trained on measures memory.
"""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.contracts.base import Contract
from app.contracts.rows import DIGEST
from worker.checking.rows import SCHEMA
from worker.checking.tokens import batches


class SplitReport(Contract):
    """`eval_share` is the share that came out; where no row was moved, `reason` says why."""

    eval_fraction: float
    rows: int
    wanted_rows: int
    eval_rows: int
    train_rows: int
    eval_share: float
    seed: int
    reason: str | None = None


def split(train: Path, evaluation: Path, fraction: float, seed: int) -> SplitReport:
    """At least one row stays in each, or none is moved, and the report says why."""
    digests = np.concatenate([np.array(batch[DIGEST]) for batch in batches(train)])
    total, wanted = len(digests), round(len(digests) * fraction)
    is_chosen = _choose(digests, wanted, random.Random(seed)) if 0 < wanted < total else np.zeros(total, bool)
    count = int(is_chosen.sum())
    if count:
        rest = train.with_suffix(".rest")
        _pick(train, evaluation, is_chosen)
        _pick(train, rest, ~is_chosen)
        rest.rename(train)
    return SplitReport(
        eval_fraction=fraction,
        rows=total,
        wanted_rows=wanted,
        eval_rows=count,
        train_rows=total - count,
        eval_share=round(count / total, 4),
        seed=seed,
        reason=None if count else _reason(total, wanted),
    )


def _reason(total: int, wanted: int) -> str:
    return "all records are equal" if 0 < wanted < total else f"{total} records are too few to split"


def _choose(digests: NDArray[np.int64], wanted: int, chance: random.Random) -> NDArray[np.bool_]:
    """Which rows are moved: whole groups of equal ones in random order, each that still fits.

    Where even the smallest group is larger than what is wanted, that one is moved, unless it is all there is.
    """
    groups, sizes = np.unique(digests, return_inverse=True, return_counts=True)[1:]
    order = chance.sample(range(len(sizes)), len(sizes))
    chosen, left = set[int](), wanted
    for group in order:
        if sizes[group] <= left:
            chosen.add(group)
            left -= int(sizes[group])
    if not chosen and len(sizes) > 1:
        chosen.add(min(order, key=lambda group: int(sizes[group])))
    is_chosen = np.zeros(len(sizes), bool)
    is_chosen[list(chosen)] = True
    return is_chosen[groups]


def _pick(source: Path, target: Path, mask: NDArray[np.bool_]) -> None:
    place = 0
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for batch in batches(source):
            picked = batch.filter(pa.array(mask[place : place + batch.num_rows]))
            place += batch.num_rows
            if picked.num_rows:
                writer.write_batch(picked)
