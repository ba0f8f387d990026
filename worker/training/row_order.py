"""The order of the rows with `train_sampling_strategy` "group_by_length".

It depends on the seed and the epoch alone, so that a training that resumes finds its place.
"""

from collections.abc import Iterator
from itertools import chain

import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from app.contracts.rows import INPUT_IDS


class LengthGroupedRows(LengthGroupedSampler):  # type: ignore[misc]
    """transformers' sampler, whose own random numbers would go on from where the process is."""

    def __init__(self, rows: Dataset, step_rows: int, seed: int) -> None:
        """`step_rows`: the rows of one step."""
        super().__init__(step_rows, lengths=row_lengths(rows), generator=torch.Generator())
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self._seed + self._epoch)
        return iter(super().__iter__())


def row_lengths(rows: Dataset) -> list[int]:
    """The number of tokens of each row."""
    tables = rows.select_columns([INPUT_IDS]).with_format("arrow").iter(batch_size=1000)
    return [*chain.from_iterable(pc.list_value_length(table[INPUT_IDS]).to_pylist() for table in tables)]
