"""Packs of fixed shapes for one forward pass: a step is padded with unused tokens to the next of a few shapes."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch

from worker.inference.batching.sequence import NextTokens

QUERY_TOKENS = 16  # tokens of one sequence in a block, when a prompt is read
LEAST_MIXED = 64
COARSE = 256
OWNED_TOKENS = 16  # tokens of one adapter in a block
Block = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """The size of each part of a pack."""

    tokens: int
    singles: int  # decode blocks, of one query token
    prompts: int  # prefill blocks, of up to QUERY_TOKENS tokens
    readers: int  # positions whose scores are read
    owned: int  # LoRA blocks, of up to OWNED_TOKENS tokens of one adapter

    @classmethod
    def of(cls, work: Rows[NextTokens], answers: int, slots: int) -> "Shape":
        """The shape for this work, of at most `answers` sequences and `slots` adapters."""
        has_adapters = any(one.sequence.slot for one in work)
        tokens, has_prompts = sum(one.count for one in work), any(one.count > 1 for one in work)
        return cls._for(tokens, answers, slots * has_adapters, has_prompts=has_prompts)

    @classmethod
    def all_of(cls, answers: int, chunk_tokens: int, slots: int) -> "list[Shape]":
        """Every shape of steps with at most this many answers, prompt tokens and adapters; the most usual ones
        first.
        """
        singles = [cls._for(count, answers, own, has_prompts=False) for own in (slots, 0) for count in _steps(answers)]
        most = chunk_tokens + answers
        mixed = [cls._for(count, answers, own, has_prompts=True) for own in (slots, 0) for count in _steps(most)]
        return list(dict.fromkeys([*singles, *mixed]))

    @classmethod
    def _for(cls, tokens: int, answers: int, slots: int, *, has_prompts: bool) -> "Shape":
        if has_prompts:
            tokens, rows = _round_up(max(LEAST_MIXED, tokens)), answers
        else:
            tokens = rows = min(_round_up(tokens), answers)
        groups = min(tokens, slots) * (1 + has_prompts)  # runs of one slot, each with one block that is not full
        owned = -(-tokens // OWNED_TOKENS) + groups if slots else 0
        return cls(tokens, rows, has_prompts * (tokens // QUERY_TOKENS + answers), rows, owned)

    @property
    def _columns(self) -> list[tuple[int, int]]:
        return [(4, self.tokens), (1, self.readers), (4, self.singles), (4, self.prompts), (3, self.owned)]

    def fill(self, work: Iterable[NextTokens]) -> Any:
        """All inputs of a pass in one tensor on the host, which `parts` splits. The work of each slot must be
        contiguous.
        """
        tokens: list[list[int]] = [[], [], [], []]
        keep: list[int] = []
        blocks: tuple[list[Block], list[Block]] = ([], [])
        owned: list[Block] = []
        for one in work:
            sequence, first = one.sequence, len(tokens[0])
            begin, count = sequence.computed, one.count
            blocks[count > 1].extend(query_blocks(first, count, sequence.row, begin))
            _extend(owned, first, count, sequence.slot)
            tokens[0].extend(sequence.tokens[begin : begin + count])
            tokens[1].extend(range(begin, begin + count))
            tokens[2].extend([sequence.row] * count)
            tokens[3].extend([sequence.slot] * count)
            if one.gives_token:
                keep.append(first + count - 1)
        parts: list[Rows[Rows[int]]] = [tokens, [keep], *(list(zip(*part, strict=True)) for part in (*blocks, owned))]
        flat = [_padded(part, *size) for part, size in zip(parts, self._columns, strict=True)]
        return torch.tensor([number for part in flat for number in part])

    def parts(self, flat: Any) -> list[Any]:
        """The parts of the tensor from `fill`, as views.

        Tokens, positions, rows and slots [4, tokens], readers [1, readers], query blocks of single tokens and of
        prompts [4, blocks], LoRA blocks [3, blocks].
        """
        sizes = self._columns
        return [
            part.view(size)
            for part, size in zip(flat.split([rows * length for rows, length in sizes]), sizes, strict=True)
        ]


def query_blocks(first: int, count: int, row: int, position: int) -> list[Block]:
    """The query blocks for `count` tokens of one sequence that start at `first` in the pack; see QueryBlocks."""
    return [
        (first + done, min(QUERY_TOKENS, count - done), row, position + done) for done in range(0, count, QUERY_TOKENS)
    ]


def _extend(owned: list[Block], first: int, count: int, slot: int) -> None:
    """Add tokens to the LoRA blocks; fill the last block first if it has the same slot and ends where they begin."""
    if owned and owned[-1][2] == slot and owned[-1][0] + owned[-1][1] == first:
        before = owned.pop()
        first, count = before[0], before[1] + count
    if slot:
        owned.extend((first + done, min(OWNED_TOKENS, count - done), slot) for done in range(0, count, OWNED_TOKENS))


def _padded(columns: Rows[Rows[int]], rows: int, length: int) -> list[int]:
    columns = columns or [[]] * rows
    return [number for column in columns for number in (*column, *[0] * (length - len(column)))]


def _steps(most: int) -> list[int]:
    """The sizes to which counts from 1 to `most` are rounded up."""
    steps = [1]
    while steps[-1] < most:
        steps.append(_round_up(steps[-1] + 1))
    return steps


def _round_up(count: int) -> int:
    """The next power of two; from 16 to 64 the next multiple of 16, from 64 to 256 a power of two, above 256 a multiple
    of 256.
    """
    if count > COARSE:
        return -(-count // COARSE) * COARSE
    if 16 < count <= 64:
        return -(-count // 16) * 16
    return 1 << (count - 1).bit_length()
