"""Runs one step of the model in a pack of a fixed shape, which a GPU replays from a recorded graph."""

from typing import Any

import torch

from worker.inference.batching.cache import KeyValueCache
from worker.inference.batching.lora import AdapterSlots
from worker.inference.batching.packed.graphs import Graphs
from worker.inference.batching.packed.packs import Shape
from worker.inference.batching.plan import BatchPlan, Kernels, Tables, run
from worker.inference.batching.runner import in_order
from worker.inference.batching.sequence import UNKNOWN, NextTokens


class PackedRunner:
    """The same as Runner, with a few fixed shapes; no part of a pass waits for the device."""

    is_ahead = True

    def __init__(
        self,
        model: Any,
        tables: Tables,
        cache: KeyValueCache,
        slots: AdapterSlots,
        kernels: Kernels,
        answers: int,
        chunk_tokens: int,
    ) -> None:
        """`answers`: the most sequences in a step; `chunk_tokens`: the most prompt tokens in it."""
        self._model = model
        self._tables = tables
        self._cache = cache
        self._slots = slots
        self._kernels = kernels
        self._answers = answers
        self._shapes = Shape.all_of(answers, chunk_tokens, slots.count)
        # All graphs write their results here: scores [answers, vocabulary], and their rows [answers].
        self._scores: Any = None
        self._readers = torch.zeros(answers, dtype=torch.int64, device=model.device)
        self._chosen = torch.zeros(answers + 1, dtype=torch.int64, device=model.device)  # by row
        self._graphs = Graphs(self._compute, model.device)

    def step(self, work: list[NextTokens]) -> tuple[list[NextTokens], Any]:
        """See Runner."""
        ordered = in_order(work)
        shape = Shape.of(ordered, self._answers, self._slots.count)
        with torch.inference_mode():
            self._graphs.run(shape, shape.fill(ordered), self._slots.version)
        readers = [one for one in ordered if one.gives_token]
        return readers, None if self._scores is None else self._scores[: len(readers)]

    def prepare(self) -> bool:
        """Record one more shape before it is needed. Returns False if none is left."""
        with torch.inference_mode():
            shapes = [shape for shape in self._shapes if self._slots.version or not shape.owned]
            return self._graphs.prepare(shapes, lambda shape: shape.fill([]), self._slots.version)

    def remember(self, best: Any) -> None:
        """Store the tokens chosen after the last step, [answers]: the next step may begin before the host knows
        them.
        """
        with torch.inference_mode():
            self._chosen.index_copy_(0, self._readers[: len(best)], best)

    def _compute(self, shape: Shape, inputs: Any) -> None:
        """Run one forward pass; it leaves the scores in `_scores`."""
        (tokens, positions, rows, slots), (keep,), singles, prompts, owned = shape.parts(inputs)
        tokens = torch.where(tokens == UNKNOWN, self._chosen[rows], tokens)
        self._slots.pass_products.set(self._kernels.products(owned) if shape.owned else None)
        who = self._kernels.attending(self._tables.blocks, self._tables.block_tokens, singles, prompts)
        plan = BatchPlan(tokens, positions, self._tables.places_of(rows, positions), slots, self._cache, who)
        scores = run(self._model, plan, keep)
        self._readers[: len(keep)].copy_(rows[keep])
        if self._scores is None:
            self._scores = scores.new_empty(self._answers, scores.shape[1])
        self._scores[: len(keep)].copy_(scores)
