"""Attention over the paged cache in plain torch: the keys of each rectangle of tokens are gathered and masked."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from worker.inference.batching.plan import Scoring


class Rectangle:
    """Query tokens in the pack: `rows` sequences of `length` tokens each.

    Decode steps form one rectangle of length 1; a chunk of a prompt forms one with a single row. `gather` [rows, keys]
    has the place of every key of a row in the cache, in the order of the sequence; `positions` [rows, length].
    """

    def __init__(self, first: int, positions: Any, gather: Any) -> None:
        self.first = first
        self.rows, self.length = positions.shape
        self._gather = gather
        self._positions = positions
        self._masks: dict[int | None, Any] = {}

    @property
    def last(self) -> int:
        count: int = self.rows * self.length
        return self.first + count

    def attend(self, heads: Any, stored: tuple[Any, Any], scoring: Scoring) -> Any:
        """`heads` [key heads, queries per key head, tokens of the pack, size]; returns [own tokens, heads, size].

        The queries that share a key head are folded into one longer query, so no key is copied.
        """
        shape = (self.rows, self.length)
        query = heads[:, :, self.first : self.last].unflatten(2, shape).permute(2, 0, 1, 3, 4)
        folded = query.flatten(2, 3)  # [rows, key heads, queries x length, size]
        keys, values = (tensor[self._gather].transpose(1, 2) for tensor in stored)
        mask = self._mask(scoring.window)[:, None, None].expand(-1, -1, query.shape[2], -1, -1).flatten(2, 3)
        if scoring.softcap is None:
            answer = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scoring.scale)
        else:
            answer = _softcapped(folded, keys, values, mask, scale=scoring.scale, softcap=scoring.softcap)
        return answer.unflatten(2, (query.shape[2], self.length)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)

    def _mask(self, window: int | None) -> Any:
        """The mask [rows, length, keys]: a query attends to its own and earlier keys, within a window only to the
        nearest.
        """
        if window not in self._masks:
            keys = torch.arange(self._gather.shape[1], device=self._gather.device)
            own = self._positions[..., None]
            seen = keys <= own
            self._masks[window] = seen if window is None else seen & (keys > own - window)
        return self._masks[window]


@dataclass(frozen=True)
class Rectangles:
    """All tokens of a pack, in order."""

    parts: Rows[Rectangle]

    def attend(self, query: Any, stored: tuple[Any, Any], scoring: Scoring) -> Any:
        """See Attending."""
        heads = query.unflatten(0, (stored[0].shape[1], -1))
        return torch.cat([part.attend(heads, stored, scoring) for part in self.parts])


def _softcapped(query: Any, keys: Any, values: Any, mask: Any, *, scale: float, softcap: float) -> Any:
    capped = torch.tanh(query @ keys.transpose(-1, -2) * scale / softcap) * softcap
    weights = capped.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return weights.to(query.dtype) @ values
