"""Attention over the paged cache as a Triton kernel: no copies of keys, no mask in memory, fixed shapes for graphs.

A program computes a few neighbouring tokens of one sequence and the query heads of one key head. It reads the
sequence's keys block by block with a running softmax (Dao et al., FlashAttention-2). If there are few programs, several
of them share a sequence's keys (flash-decoding), and a second kernel combines their results.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from worker.inference.batching.packed.packs import QUERY_TOKENS
from worker.inference.batching.plan import Scoring

LEAST_ROWS = 16  # the least rows of a product on tensor cores
MOST_HEADS = 8  # the most query heads of a program that reads a prompt
BUSY_PROGRAMS = 256  # this many programs keep a GPU busy
MOST_SHARES = 16
LARGE_KEY_BYTES = 512


@triton.jit  # type: ignore[untyped-decorator]
def _seen(scores, at, is_key, own, softcap, WINDOW: tl.constexpr, HAS_CAP: tl.constexpr):  # type: ignore
    """The scores of keys at positions `at` for queries at `own`: minus infinity if the query must not see the key."""
    if HAS_CAP:
        scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
    is_seen = is_key[None, :] & (at[None, :] <= own[:, None])
    if WINDOW > 0:
        is_seen = is_seen & (at[None, :] > own[:, None] - WINDOW)
    return tl.where(is_seen, scores, float("-inf"))


@triton.jit
def _take_in(scores, value, largest, total, found):  # type: ignore[no-untyped-def]
    """Update the running softmax: its largest score, the sum of its weights, and the weighted sum of values."""
    top = tl.maximum(largest, tl.max(scores, 1))
    level = tl.where(top == float("-inf"), 0.0, top)
    weights, fading = tl.exp(scores - level[:, None]), tl.exp(largest - level)
    total = total * fading + tl.sum(weights, 1)
    found = found * fading[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return top, total, found


@triton.jit(do_not_specialize=["blocks_count", "tokens"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    query, keys, values, table, blocks, answer, totals, scale, softcap,
    query_token, query_head, key_place, key_head, table_row, blocks_count, tokens,
    GROUP: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, SHARES: tl.constexpr, WINDOW: tl.constexpr, HAS_CAP: tl.constexpr,
):  # fmt: skip
    """Program (query block, heads, share). `GROUP` query heads share a key head; a program computes `HEADS` of them."""
    number, part, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, count = tl.load(blocks + number), tl.load(blocks + blocks_count + number)
    row, position = tl.load(blocks + 2 * blocks_count + number), tl.load(blocks + 3 * blocks_count + number)
    if count == 0:
        return
    parts: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    head, line, depth = part // parts, tl.arange(0, ROWS), tl.arange(0, WIDTH)
    token, within = line // HEADS, (part % parts) * HEADS + line % HEADS
    is_query, is_stored = (token < count) & (within < GROUP), depth < SIZE
    place = (first + token) * query_token + (head * GROUP + within) * query_head
    own_query = tl.load(query + place[:, None] + depth[None, :], mask=is_query[:, None] & is_stored[None, :], other=0.0)
    own, last = position + token, position + count
    lowest = position * 0
    if WINDOW > 0:
        lowest = tl.maximum(position - WINDOW + 1, 0) // KEYS
    tiles = (last + KEYS - 1) // KEYS - lowest
    each = (tiles + SHARES - 1) // SHARES
    begin, end = lowest + share * each, lowest + tl.minimum(share * each + each, tiles)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, WIDTH], tl.float32)
    for tile in range(begin, end):
        at = tile * KEYS + tl.arange(0, KEYS)
        is_key = at < last
        block = tl.load(table + row * table_row + at // BLOCK_TOKENS, mask=is_key, other=0)
        start = (block * BLOCK_TOKENS + at % BLOCK_TOKENS) * key_place + head * key_head
        key = tl.load(keys + start[None, :] + depth[:, None], mask=is_key[None, :] & is_stored[:, None], other=0.0)
        value = tl.load(values + start[:, None] + depth[None, :], mask=is_key[:, None] & is_stored[None, :], other=0.0)
        scores = tl.dot(own_query, key, input_precision="ieee") * scale
        scores = _seen(scores, at, is_key, own, softcap, WINDOW, HAS_CAP)
        largest, total, found = _take_in(scores, value, largest, total, found)
    spot = (first + token) * (GROUP * (tl.num_programs(1) // parts)) + head * GROUP + within
    if SHARES == 1:
        found = found / total[:, None]
    else:
        spot += share * tokens * (GROUP * (tl.num_programs(1) // parts))
        tl.store(totals + 2 * spot, largest, mask=is_query)
        tl.store(totals + 2 * spot + 1, total, mask=is_query)
    mask = is_query[:, None] & is_stored[None, :]
    tl.store(answer + spot[:, None] * SIZE + depth[None, :], found.to(answer.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["blocks_count", "tokens"])  # type: ignore[untyped-decorator]
def _add_up(  # type: ignore[no-untyped-def]
    shared, totals, blocks, answer, heads, blocks_count, tokens,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Program (query block of one token, head): adds the results of the shares, weighted by their part of the softmax's
    sum.
    """
    number, head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(blocks + number), tl.load(blocks + blocks_count + number)
    if count == 0:
        return
    share, depth = tl.arange(0, SHARES), tl.arange(0, WIDTH)
    spots = (share * tokens + first) * heads + head
    largest, total = tl.load(totals + 2 * spots), tl.load(totals + 2 * spots + 1)
    weights = tl.exp(largest - tl.max(largest, 0))
    mask = (share[:, None] >= 0) & (depth[None, :] < SIZE)
    found = tl.load(shared + spots[:, None] * SIZE + depth[None, :], mask=mask, other=0.0)
    result = tl.sum(found * weights[:, None], 0) / tl.sum(total * weights, 0)
    tl.store(answer + (first * heads + head) * SIZE + depth, result.to(answer.dtype.element_ty), mask=depth < SIZE)


@dataclass(frozen=True)
class QueryBlocks:
    """The queries of a pass, in blocks of neighbouring tokens of one sequence.

    `singles` and `prompts` [4, blocks] have the place of the first token in the pack, the number of tokens (0: unused),
    the sequence's row in `table` [rows, blocks], and the position of the first token. A block of `singles` has one
    token, one of `prompts` up to QUERY_TOKENS.
    """

    table: Any
    block_tokens: int
    singles: Any
    prompts: Any

    def attend(self, query: Any, stored: tuple[Any, Any], scoring: Scoring) -> Any:
        """`query` [heads, tokens, size], `stored` [places, key heads, size]; returns [tokens, heads, size].

        The results of unused tokens are zeros.
        """
        answer = query.new_zeros(query.shape[1], query.shape[0], query.shape[2])
        if self.prompts.shape[1]:
            self._launch(query, stored, scoring, answer, is_prompt=True)
        if self.singles.shape[1]:
            self._launch(query, stored, scoring, answer, is_prompt=False)
        return answer

    def _launch(self, query: Any, stored: tuple[Any, Any], scoring: Scoring, answer: Any, *, is_prompt: bool) -> None:
        keys, values = stored
        heads, tokens, size = query.shape
        key_heads = keys.shape[1]
        group = heads // key_heads
        taken = min(triton.next_power_of_2(group), MOST_HEADS if is_prompt else LEAST_ROWS)
        programs = key_heads * -(-group // taken)
        blocks = self.prompts if is_prompt else self.singles
        shares = 1 if is_prompt else _shares(blocks.shape[1] * programs)
        found, totals = answer, answer
        if shares > 1:
            found = answer.new_empty(shares, *answer.shape, dtype=torch.float32)
            totals = answer.new_empty(shares, tokens, heads, 2, dtype=torch.float32)
        width = triton.next_power_of_2(size)
        _attend[(blocks.shape[1], programs, shares)](
            query, keys, values, self.table, blocks, found, totals,
            scoring.scale, scoring.softcap or 0.0,
            query.stride(1), query.stride(0), keys.stride(0), keys.stride(1), self.table.stride(0),
            blocks.stride(0), tokens,
            GROUP=group, HEADS=taken, SIZE=size, WIDTH=max(width, LEAST_ROWS),
            ROWS=max(LEAST_ROWS, taken * (QUERY_TOKENS if is_prompt else 1)),
            KEYS=32 if width * keys.element_size() >= LARGE_KEY_BYTES else 64,
            BLOCK_TOKENS=self.block_tokens, SHARES=shares, WINDOW=scoring.window or 0,
            HAS_CAP=scoring.softcap is not None,
        )  # fmt: skip
        if shares > 1:
            _add_up[(blocks.shape[1], heads)](
                found, totals, blocks, answer, heads, blocks.stride(0), tokens,
                SIZE=size, WIDTH=max(width, LEAST_ROWS), SHARES=shares,
            )  # fmt: skip


def _shares(programs: int) -> int:
    """The number of programs that share the keys of one sequence."""
    return min(MOST_SHARES, int(triton.next_power_of_2(max(1, BUSY_PROGRAMS // programs))))
