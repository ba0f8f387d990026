"""Moves a random share of the training rows to the evaluation rows. The seed determines which rows.

Equal rows are moved together or not at all, because evaluating on training rows measures memorisation.
"""

import random
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.contracts.base import Contract
from app.contracts.rows import DIGEST
from worker.checking.tokens import batches


class SplitReport(Contract):
    """The result of a split. `eval_share` is the actual share. `reason` says why no row was moved."""

    eval_fraction: float
    rows: int
    wanted_rows: int
    eval_rows: int
    train_rows: int
    eval_share: float
    seed: int
    reason: str | None = None


def split(train: Path, evaluation: Path, fraction: float, seed: int) -> SplitReport:
    """Moves rows from `train` to `evaluation`. Either both have at least one row afterwards, or no row is moved."""
    digests = np.concatenate([np.array(batch[DIGEST]) for batch in batches(train)])
    total, wanted = len(digests), round(len(digests) * fraction)
    is_selected = _select_rows(digests, wanted, random.Random(seed)) if 0 < wanted < total else np.zeros(total, bool)
    count = int(is_selected.sum())
    if count:
        rest = train.with_suffix(".rest")
        _copy_rows(train, evaluation, is_selected)
        _copy_rows(train, rest, ~is_selected)
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


def _select_rows(digests: NDArray[np.int64], wanted: int, rng: random.Random) -> NDArray[np.bool_]:
    """Returns a mask of the rows to move: groups of equal rows, in random order, each one that still fits.

    If even the smallest group is larger than `wanted`, it is moved, unless it is the only group.
    """
    groups, sizes = np.unique(digests, return_inverse=True, return_counts=True)[1:]
    order = rng.sample(range(len(sizes)), len(sizes))
    selected, left = set[int](), wanted
    for group in order:
        if sizes[group] <= left:
            selected.add(group)
            left -= int(sizes[group])
    if not selected and len(sizes) > 1:
        selected.add(min(order, key=lambda group: int(sizes[group])))
    is_selected = np.zeros(len(sizes), bool)
    is_selected[list(selected)] = True
    return is_selected[groups]


def _copy_rows(source: Path, target: Path, mask: NDArray[np.bool_]) -> None:
    place = 0
    rows = batches(source)
    first = next(rows)
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
        for batch in chain([first], rows):
            copied = batch.filter(pa.array(mask[place : place + batch.num_rows]))
            place += batch.num_rows
            if copied.num_rows:
                writer.write_batch(copied)
