"""The attention kernel beside plain torch, over the same random cache."""

import random
from typing import Any

import torch

from worker.inference.batching.packed.packs import query_blocks
from worker.inference.batching.packed.paging import QueryBlocks
from worker.inference.batching.plan import Scoring, Tables
from worker.inference.batching.rectangles import Rectangle, Rectangles

BLOCK_TOKENS = 16
NOBODY = (0, 0, 0, 0)


def both_attentions(
    asked: list[tuple[int, int]], heads: int, key_heads: int, size: int, scoring: Scoring, *, device: str = "cpu"
) -> tuple[Any, Any]:
    """What the kernel and plain torch give for sequences that ask with (first position, tokens), each in its blocks.

    Blocks of nobody stand behind those that ask. What no sequence has written yet is not a number in the cache.
    """
    torch.manual_seed(0)
    width = -(-max(first + count for first, count in asked) // BLOCK_TOKENS)
    tables = Tables(len(asked), width, BLOCK_TOKENS, device)
    numbers = list(range(1, len(asked) * width + 1))
    random.Random(0).shuffle(numbers)
    keys, values = torch.randn(2, (len(asked) * width + 1) * BLOCK_TOKENS, key_heads, size, device=device)
    query = torch.randn(sum(count for _, count in asked), heads, size, device=device).transpose(0, 1)
    parts: list[Rectangle] = []
    blocks: tuple[list[Any], list[Any]] = ([], [])
    first = 0
    for number, (position, count) in enumerate(asked):
        tables.set(number + 1, numbers[number * width : (number + 1) * width])
        places = tables.places(torch.tensor([number + 1], device=device), width)
        own = torch.arange(position, position + count, device=device)
        parts.append(Rectangle(first, own[None], places[:, : position + count]))
        blocks[count > 1].extend(query_blocks(first, count, number + 1, position))
        first += count
        for tensor in (keys, values):
            tensor[places[0, position + count :]] = float("nan")
    singles, prompts = (torch.tensor([*part, NOBODY], device=device).t().contiguous() for part in blocks)
    kernel = QueryBlocks(tables.blocks, BLOCK_TOKENS, singles, prompts)
    found = kernel.attend(query, (keys, values), scoring)
    return found, Rectangles(parts).attend(query, (keys, values), scoring)
