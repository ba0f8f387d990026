"""Runs one step of the model: a chunk of every prompt in progress, and the next token of every answer."""

from typing import Any

import torch

from worker.inference.batching.cache import KeyValueCache
from worker.inference.batching.lora import AdapterSlots, MaskedProducts
from worker.inference.batching.plan import BatchPlan, Tables, run
from worker.inference.batching.rectangles import Rectangle, Rectangles
from worker.inference.batching.sequence import NextTokens


class Runner:
    """Computes exactly the given tokens, in plain torch; the host must know all of them."""

    is_ahead = False

    def __init__(self, model: Any, tables: Tables, cache: KeyValueCache, slots: AdapterSlots) -> None:
        self._model = model
        self._tables = tables
        self._cache = cache
        self._slots = slots

    def step(self, work: list[NextTokens]) -> tuple[list[NextTokens], Any]:
        """Run the work. Returns the items that choose a token now, and their scores [answers, vocabulary] in the same
        order.

        The scores are valid until the next step. Single tokens form one rectangle; each chunk of a prompt forms its
        own.
        """
        with torch.inference_mode():
            ordered = in_order(work)
            tokens, positions, rows, slots = self._inputs(ordered)
            parts, first = [], 0
            for group in _groups(ordered):
                last = first + sum(one.count for one in group)
                shape = (len(group), group[0].count)
                gather = self._tables.places(rows[first:last].view(shape)[:, 0], self._blocks(group))
                parts.append(Rectangle(first, positions[first:last].view(shape), gather))
                first = last
            live = max(one.sequence.slot for one in ordered)
            products = self._slots.pass_products
            products.set(MaskedProducts(slots, live, products.dtype) if live else None)
            writes = self._tables.places_of(rows, positions)
            plan = BatchPlan(tokens, positions, writes, slots, self._cache, Rectangles(parts))
            readers = [one for one in ordered if one.gives_token]
            return readers, run(self._model, plan, self._last_places(ordered))

    def prepare(self) -> bool:
        """See PackedRunner; here nothing is prepared."""
        return False

    def remember(self, best: Any) -> None:
        """See PackedRunner; here the host knows the choices before the next step."""

    def _inputs(self, work: list[NextTokens]) -> Any:
        """Tokens, positions, rows and slots of the pack: [4, tokens], on the device."""
        columns: list[tuple[int, int, int, int]] = []
        for one in work:
            sequence, first = one.sequence, one.sequence.computed
            for position in range(first, first + one.count):
                columns.append((sequence.tokens[position], position, sequence.row, sequence.slot))
        return torch.tensor(columns, dtype=torch.int64).t().contiguous().to(self._model.device)

    def _last_places(self, work: list[NextTokens]) -> Any:
        places, first = [], 0
        for one in work:
            first += one.count
            if one.gives_token:
                places.append(first - 1)
        return torch.tensor(places, dtype=torch.int64, device=self._model.device)

    def _blocks(self, work: list[NextTokens]) -> int:
        longest = max(one.sequence.computed + one.count for one in work)
        return -(-longest // self._tables.block_tokens)


def in_order(work: list[NextTokens]) -> list[NextTokens]:
    """Sort the work: single tokens first, and tokens of one adapter together."""
    return sorted(work, key=lambda one: (one.count > 1, one.sequence.slot))


def _groups(ordered: list[NextTokens]) -> list[list[NextTokens]]:
    single = [one for one in ordered if one.count == 1]
    return ([single] if single else []) + [[one] for one in ordered if one.count > 1]
