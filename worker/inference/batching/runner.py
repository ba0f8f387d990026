"""Runs one step of the model: a chunk of every prompt that is being read, and the next token of every answer."""

from dataclasses import dataclass
from typing import Any

import torch

from worker.inference.batching.cache import KeyValueCache
from worker.inference.batching.graphs import DecodeGraphs
from worker.inference.batching.lora import AdapterSlots
from worker.inference.batching.plan import Part, Plan, Tables
from worker.inference.batching.sequence import Sequence
from worker.inference.batching.support import run


@dataclass(frozen=True)
class Work:
    """The next `count` tokens of a sequence."""

    sequence: Sequence
    count: int

    @property
    def gives_token(self) -> bool:
        """Whether all that is known is read by this step, so that its last scores choose the next token."""
        return self.count == self.sequence.pending


class Runner:
    """Puts packs together and runs them. On a GPU, single tokens are replayed from recorded graphs instead."""

    def __init__(self, model: Any, tables: Tables, cache: KeyValueCache, slots: AdapterSlots) -> None:
        self._model = model
        self._tables = tables
        self._cache = cache
        self._slots = slots
        self._graphs = DecodeGraphs(self.decode, slots, tables.width) if model.device.type == "cuda" else None

    def step(self, work: list[Work]) -> tuple[list[Work], Any]:
        """Do the work; returns those that choose a token now and their scores [answers, vocabulary], in one order."""
        with torch.inference_mode():
            return self._replayed_or_mixed(work)

    def _replayed_or_mixed(self, work: list[Work]) -> tuple[list[Work], Any]:
        if self._graphs is None:
            return self._mixed(work)
        single = [one for one in work if one.count == one.sequence.pending == 1]
        others = [one for one in work if one not in single]
        if not single:
            return self._mixed(others)
        scores = self._graphs.run(self._inputs(single), self._blocks(single), _live(single))
        if not others:
            return single, scores
        readers, further = self._mixed(others)
        return single + readers, torch.cat([scores, further])

    def decode(self, inputs: Any, blocks: int, live: int) -> Any:
        """Scores of a batch of single tokens: `inputs` [4, batch] are tokens, positions, rows, slots, on the device.

        `blocks` and `live` bound how many blocks a row has and which slots occur. Nothing here waits for the device.
        """
        tokens, positions, rows, slots = inputs
        gather = self._tables.places(rows, blocks)
        writes = gather.gather(1, positions[:, None])[:, 0]
        self._slots.begin(slots, live)
        plan = Plan(tokens, positions, writes, slots, self._cache, [Part(0, positions[:, None], gather)])
        return run(self._model, plan, torch.arange(len(tokens), device=tokens.device))

    def _mixed(self, work: list[Work]) -> tuple[list[Work], Any]:
        """Any work in one forward: single tokens as one part, each chunk of a prompt as a part of its own."""
        ordered = sorted(work, key=lambda one: one.count > 1)
        tokens, positions, rows, slots = self._inputs(ordered)
        parts, writes, first = [], [], 0
        for group in _groups(ordered):
            last = first + sum(one.count for one in group)
            shape = (len(group), group[0].count)
            own = positions[first:last].view(shape)
            gather = self._tables.places(rows[first:last].view(shape)[:, 0], self._blocks(group))
            parts.append(Part(first, own, gather))
            writes.append(gather.gather(1, own).flatten())
            first = last
        self._slots.begin(slots, _live(ordered))
        plan = Plan(tokens, positions, torch.cat(writes), slots, self._cache, parts)
        return [one for one in ordered if one.gives_token], run(self._model, plan, self._last_places(ordered))

    def _inputs(self, work: list[Work]) -> Any:
        """Tokens, positions, rows and slots of the pack: [4, tokens], on the device."""
        columns: list[tuple[int, int, int, int]] = []
        for one in work:
            sequence, first = one.sequence, one.sequence.computed
            for position in range(first, first + one.count):
                columns.append((sequence.tokens[position], position, sequence.row, sequence.slot))
        return torch.tensor(columns, dtype=torch.int64).t().contiguous().to(self._model.device)

    def _last_places(self, work: list[Work]) -> Any:
        places, first = [], 0
        for one in work:
            first += one.count
            if one.gives_token:
                places.append(first - 1)
        return torch.tensor(places, dtype=torch.int64, device=self._model.device)

    def _blocks(self, work: list[Work]) -> int:
        longest = max(one.sequence.computed + one.count for one in work)
        return -(-longest // self._tables.block_tokens)


def _live(work: list[Work]) -> int:
    return max(one.sequence.slot for one in work)


def _groups(ordered: list[Work]) -> list[list[Work]]:
    single = [one for one in ordered if one.count == 1]
    return ([single] if single else []) + [[one] for one in ordered if one.count > 1]
