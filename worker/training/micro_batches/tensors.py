"""Makes the tensors of micro-batches from token ids and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.contracts.rows import IGNORED, INPUT_IDS, LABELS
from worker.training.micro_batches.layout import StepLayout, micro_batches, shares

SEQ_LENGTHS = "seq_lengths"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingRow:
    """`segments`: the lengths of its parts that do not attend to each other; one, unless TRL has packed the row.

    The first token of each segment has no label, since no token before it could predict it.
    """

    ids: Ids
    labels: Ids
    segments: tuple[int, ...]

    @classmethod
    def of(cls, example: Mapping[str, Any]) -> "TrainingRow":
        """Make it from an example of the dataset."""
        ids = np.asarray(example[INPUT_IDS], dtype=np.int64)
        labels = np.array(example[LABELS], dtype=np.int64)
        segments = tuple(int(length) for length in example.get(SEQ_LENGTHS, (len(ids),)))
        labels[np.cumsum((0, *segments[:-1]))] = IGNORED
        return cls(ids, labels, segments)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class StepRows:
    """The rows of one optimizer step. `targets`: how many of their tokens are trained on."""

    rows: tuple[TrainingRow, ...]

    @classmethod
    def collate(cls, examples: Sequence[Mapping[str, Any]]) -> "StepRows":
        return cls(tuple(map(TrainingRow.of, examples)))

    def share(self, rank: int, count: int) -> "StepRows":
        """The rows that one of `count` ranks computes; there may be none."""
        return StepRows(tuple(self.rows[position] for position in shares([*map(len, self.rows)], count)[rank]))

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def targets(self) -> int:
        return sum(int((row.labels != IGNORED).sum()) for row in self.rows)

    @property
    def longest(self) -> int:
        return max(map(len, self.rows))


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass: integers of shape [sequences, length], on the CPU.

    `segments`: the lengths of the segments of the only sequence, the padding as the last one; None if every sequence
    holds one row, with padding on its right. `mask`: one for a token and zero for padding, where there are no segments.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None = None
    segments: tuple[int, ...] | None = None

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments. On a GPU the copies are under way when this returns."""
        found = {"input_ids": self.ids, "labels": self.labels, "position_ids": self.positions}
        if self.mask is not None:
            found["attention_mask"] = self.mask
        arguments: dict[str, Any] = {name: on_device(tensor, device) for name, tensor in found.items()}
        if self.segments is not None:
            arguments["packed_seq_lengths"] = torch.tensor(self.segments, dtype=torch.int32)
        return {**arguments, "use_cache": False}


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def lay_out(step: StepRows, layout: StepLayout) -> list[MicroBatch]:
    """The micro-batches of a step. Rows of one length, which need no padding, get a sequence each in any case."""
    groups = micro_batches([len(row) for row in step.rows], layout)
    return [_micro_batch([step.rows[position] for position in group], layout) for group in groups]


def _micro_batch(rows: Sequence[TrainingRow], layout: StepLayout) -> MicroBatch:
    is_whole = all(len(row.segments) == 1 for row in rows)
    if is_whole and (not layout.packs or len({len(row) for row in rows}) == 1):
        return _rectangle(rows, layout.length(max(map(len, rows))))
    return _packed(rows, layout)


def _rectangle(rows: Sequence[TrainingRow], length: int) -> MicroBatch:
    ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], labels[number, : len(row)] = row.ids, row.labels
    positions = np.broadcast_to(np.arange(length), ids.shape).copy()
    mask = (positions < np.array([[len(row)] for row in rows])).astype(np.int64)
    return MicroBatch(*map(torch.from_numpy, (ids, labels, positions, mask)))


def _packed(rows: Sequence[TrainingRow], layout: StepLayout) -> MicroBatch:
    segments = [length for row in rows for length in row.segments]
    padding = layout.length(sum(segments)) - sum(segments)
    segments += [padding] if padding else []
    ids = np.concatenate([*(row.ids for row in rows), np.zeros(padding, dtype=np.int64)])
    labels = np.concatenate([*(row.labels for row in rows), np.full(padding, IGNORED)])
    positions = np.concatenate([np.arange(length) for length in segments])
    sequence = [torch.from_numpy(one).unsqueeze(0) for one in (ids, labels, positions)]
    return MicroBatch(sequence[0], sequence[1], sequence[2], segments=tuple(segments))
