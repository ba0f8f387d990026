"""LoRA of many adapters as two Triton kernels: a block of neighbouring tokens of one slot reads only that slot's
matrices.

The first kernel multiplies by A, with the inner dimension split among several programs. The second adds up their
results, multiplies by B and adds that to the layer's output.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from worker.inference.batching.packed.packs import OWNED_TOKENS

INNER = 128  # of the inner dimension, at a time
SHARE = 512  # of the inner dimension, at least, for each program
MOST_SHARES = 16
COLUMNS = 128
RANKS = 16  # of the rank, at a time; all ranks are multiples of it


@triton.jit(do_not_specialize=["blocks_count", "tokens"])  # type: ignore[untyped-decorator]
def _down(  # type: ignore[no-untyped-def]
    hidden, weights, blocks, found, blocks_count, tokens, hidden_row, rank, size,
    LAYERS: tl.constexpr, TOKENS: tl.constexpr, RANKS: tl.constexpr, INNER: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Program (block, layer and part of its rank, share): writes `found` [shares, layers, tokens, rank]."""
    number, part, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(blocks + blocks_count + number)
    if count == 0:
        return
    first, slot = tl.load(blocks + number), tl.load(blocks + 2 * blocks_count + number)
    layer, ranks = part % LAYERS, (part // LAYERS) * RANKS + tl.arange(0, RANKS)
    token, inner = tl.arange(0, TOKENS), tl.arange(0, INNER)
    lines = hidden + (first + token)[:, None] * hidden_row
    own = weights + ((slot - 1) * LAYERS + layer) * rank * size + ranks[None, :] * size
    each = (size + SHARES * INNER - 1) // (SHARES * INNER) * INNER
    total = tl.zeros([TOKENS, RANKS], tl.float32)
    for at in range(share * each, tl.minimum(share * each + each, size), INNER):
        is_inner = at + inner < size
        left = tl.load(lines + (at + inner)[None, :], mask=(token < count)[:, None] & is_inner[None, :], other=0.0)
        right = tl.load(own + (at + inner)[:, None], mask=is_inner[:, None], other=0.0)
        total += tl.dot(left, right, input_precision="ieee")
    spots = ((share * LAYERS + layer) * tokens + first + token) * rank
    tl.store(found + spots[:, None] + ranks[None, :], total, mask=(token < count)[:, None])


@triton.jit(do_not_specialize=["blocks_count", "tokens", "layer"])  # type: ignore[untyped-decorator]
def _up(  # type: ignore[no-untyped-def]
    found, weights, blocks, output, blocks_count, tokens, layer, output_row, rank, size,
    LAYERS: tl.constexpr, TOKENS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Program (block, columns of the output): adds to `output` [tokens, size] in place."""
    number, part = tl.program_id(0), tl.program_id(1)
    count = tl.load(blocks + blocks_count + number)
    if count == 0:
        return
    first, slot = tl.load(blocks + number), tl.load(blocks + 2 * blocks_count + number)
    token, column = tl.arange(0, TOKENS), part * COLUMNS + tl.arange(0, COLUMNS)
    is_token, is_column = token < count, column < size
    total = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for at in range(0, rank, RANKS):
        ranks = at + tl.arange(0, RANKS)
        left = tl.zeros([TOKENS, RANKS], tl.float32)
        for share in range(SHARES):
            spots = ((share * LAYERS + layer) * tokens + first + token) * rank
            left += tl.load(found + spots[:, None] + ranks[None, :], mask=is_token[:, None], other=0.0)
        rows = weights + ((slot - 1) * rank + ranks)[:, None] * size
        right = tl.load(rows + column[None, :], mask=is_column[None, :], other=0.0)
        total += tl.dot(left.to(right.dtype), right, input_precision="ieee")
    mask = is_token[:, None] & is_column[None, :]
    places = output + (first + token)[:, None] * output_row + column[None, :]
    before = tl.load(places, mask=mask, other=0.0)
    tl.store(places, (before.to(tl.float32) + total).to(before.dtype), mask=mask)


@dataclass(frozen=True)
class BlockProducts:
    """`blocks` [3, blocks]: for neighbouring tokens of one slot, the place of the first, their number (0: unused) and
    the slot.
    """

    blocks: Any

    def down(self, hidden: Any, weights: Any) -> Any:
        """See Products. Returns [shares, layers, tokens, rank], to be added up."""
        _, layers, rank, size = weights.shape
        tokens, shares = len(hidden), min(MOST_SHARES, triton.next_power_of_2(triton.cdiv(size, SHARE)))
        found = hidden.new_empty(shares, layers, tokens, rank, dtype=torch.float32)
        _down[(self.blocks.shape[1], layers * (rank // RANKS), shares)](
            hidden, weights, self.blocks, found, self.blocks.stride(0), tokens, hidden.stride(0), rank, size,
            LAYERS=layers, TOKENS=OWNED_TOKENS, RANKS=RANKS, INNER=INNER, SHARES=shares,
        )  # fmt: skip
        return found

    def up(self, found: Any, place: int, weights: Any, output: Any) -> None:
        """See Products."""
        shares, layers, tokens, _ = found.shape
        _, rank, size = weights.shape
        _up[(self.blocks.shape[1], triton.cdiv(size, COLUMNS))](
            found, weights, self.blocks, output, self.blocks.stride(0), tokens, place, output.stride(0), rank, size,
            LAYERS=layers, TOKENS=OWNED_TOKENS, RANKS=RANKS, COLUMNS=COLUMNS, SHARES=shares,
        )  # fmt: skip
