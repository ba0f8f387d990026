"""One forward pass over packed tokens: what each token is, where its keys go, and which keys it sees."""

from dataclasses import dataclass, field
from typing import Any

import torch


class Part:
    """A rectangle of query tokens in the pack: `rows` sequences of `length` tokens each.

    A batch of decode steps is one part of length 1; a chunk of a prompt is one part of one row. `gather` [rows, keys]
    names the place of every key of a row in the cache, in the order of the sequence; `positions` [rows, length].
    """

    def __init__(self, first: int, positions: Any, gather: Any) -> None:
        self.first = first
        self.rows, self.length = positions.shape
        self.gather = gather
        self._positions = positions
        self._masks: dict[int | None, Any] = {}

    @property
    def last(self) -> int:
        count: int = self.rows * self.length
        return self.first + count

    def mask(self, window: int | None) -> Any:
        """Which keys a query sees, [rows, length, keys]: itself and earlier ones, of a window the nearest only."""
        if window not in self._masks:
            keys = torch.arange(self.gather.shape[1], device=self.gather.device)
            own = self._positions[..., None]
            seen = keys <= own
            self._masks[window] = seen if window is None else seen & (keys > own - window)
        return self._masks[window]


@dataclass
class Plan:
    """A pack: `tokens`, `positions`, `writes` (places of keys) and `slots` (adapters, 0: none), all [tokens]."""

    tokens: Any
    positions: Any
    writes: Any
    slots: Any
    cache: Any
    parts: list[Part] = field(default_factory=list)


class Tables:
    """Which blocks hold the keys of which sequence, on the device. Row 0 is nobody's and points at block 0, no keys."""

    def __init__(self, rows: int, blocks: int, block_tokens: int, device: str) -> None:
        self.block_tokens = block_tokens
        self._blocks = torch.zeros(rows + 1, blocks, dtype=torch.int64, device=device)
        self._within = torch.arange(block_tokens, device=device)

    @property
    def width(self) -> int:
        """The most blocks that a row can have."""
        return int(self._blocks.shape[1])

    def set(self, row: int, blocks: list[int]) -> None:
        """Give a row its blocks; what it does not have points at block 0."""
        filled = torch.zeros(self._blocks.shape[1], dtype=torch.int64)
        filled[: len(blocks)] = torch.tensor(blocks, dtype=torch.int64)
        self._blocks[row].copy_(filled)

    def places(self, rows: Any, blocks: int) -> Any:
        """Places in the cache of the first `blocks` blocks of these rows: [rows, blocks x block_tokens]."""
        starts = self._blocks[rows, :blocks] * self.block_tokens
        return (starts[..., None] + self._within).flatten(1)
