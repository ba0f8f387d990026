"""One forward pass over packed tokens: the tokens, where their keys are stored, and which keys each of them
attends to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from worker.inference.batching.lora import Products
from worker.inference.batching.tensors import to_device


@dataclass(frozen=True)
class Scoring:
    """How a layer scores keys. `window`: only this many nearest keys are visible, including the token's own."""

    scale: float
    softcap: float | None = None
    window: int | None = None


class Attending(Protocol):
    """Knows which tokens of the pack belong together, and which stored keys each of them attends to."""

    def attend(self, query: Any, stored: tuple[Any, Any], scoring: Scoring) -> Any:
        """`query` [heads, tokens, size], `stored` [places, key heads, size]; returns [tokens, heads, size]."""
        ...


@dataclass(frozen=True)
class Kernels:
    """Our own GPU kernels; see paging, lora_kernel and rotary_kernel.

    `attending` takes a table of blocks, the tokens per block, and query blocks of single tokens and of prompts;
    `products` takes blocks of tokens with one adapter; `rotate` applies rotary positions to queries and keys.
    """

    attending: Callable[[Any, int, Any, Any], Attending]
    products: Callable[[Any], Products]
    rank_step: int
    rotate: Callable[[Any, Any, Any, Any], tuple[Any, Any]]


@dataclass
class BatchPlan:
    """A pack: `tokens`, `positions`, `writes` (places of keys) and `slots` (adapters, 0: none), all [tokens]."""

    tokens: Any
    positions: Any
    writes: Any
    slots: Any
    cache: Any
    attending: Attending


def run(model: Any, plan: BatchPlan, keep: Any) -> Any:
    """Run the pass; returns the scores [kept, vocabulary] of the tokens `keep` [kept]. All keys are in the cache
    afterwards.
    """
    output = model(
        input_ids=plan.tokens[None],
        position_ids=plan.positions[None],
        use_cache=False,
        logits_to_keep=keep,
        plan=plan,
    )
    return output.logits[0]


class Tables:
    """The block table on the device: the blocks of each sequence. Row 0 is unused and points at block 0, which has no
    keys.
    """

    def __init__(self, rows: int, blocks: int, block_tokens: int, device: str) -> None:
        self.block_tokens = block_tokens
        self.blocks = torch.zeros(rows + 1, blocks, dtype=torch.int64, device=device)
        self._within = torch.arange(block_tokens, device=device)

    def set(self, row: int, blocks: list[int]) -> None:
        """Set the blocks of a row; the rest of the row points at block 0."""
        self.blocks[row].copy_(to_device(blocks + [0] * (self.blocks.shape[1] - len(blocks)), self.blocks.device))

    def places(self, rows: Any, blocks: int) -> Any:
        """The places in the cache of the first `blocks` blocks of these rows: [rows, blocks x block_tokens]."""
        starts = self.blocks[rows, :blocks] * self.block_tokens
        return (starts[..., None] + self._within).flatten(1)

    def places_of(self, rows: Any, positions: Any) -> Any:
        """The place in the cache of one position in each row: [tokens]."""
        return self.blocks[rows, positions // self.block_tokens] * self.block_tokens + positions % self.block_tokens
