"""Decode steps as CUDA graphs: a step is bound by the launches of its kernels, a replay has one.

A graph has fixed shapes: batches are padded to the next power of two with rows of nobody (row 0, no adapter), the keys
to the next power of two of blocks. A graph is recorded when its shape is first needed.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

from worker.inference.batching.lora import AdapterSlots

FEWEST_BLOCKS = 16
log = logging.getLogger(__name__)


class DecodeGraphs:
    """`decode` takes inputs [4, batch], a number of blocks and the highest slot, gives scores [batch, vocabulary]."""

    def __init__(self, decode: Callable[[Any, int, int], Any], slots: AdapterSlots, most_blocks: int) -> None:
        self._decode = decode
        self._slots = slots
        self._most_blocks = most_blocks
        self._version = slots.version
        self._recorded: dict[tuple[int, int, int], tuple[Any, Any, Any]] = {}
        self._pool: Any = None
        self._is_off = False

    def run(self, inputs: Any, blocks: int, live: int) -> Any:
        """Scores [batch, vocabulary]; they are good until the next call."""
        batch = inputs.shape[1]
        if self._is_off:
            return self._decode(inputs, blocks, live)
        if self._version != self._slots.version:
            self._forget()
        key = (power_above(batch), min(power_above(max(blocks, FEWEST_BLOCKS)), self._most_blocks), self._live(live))
        if key not in self._recorded and not self._record(key, inputs):
            return self._decode(inputs, blocks, live)
        graph, own_inputs, scores = self._recorded[key]
        own_inputs[:, :batch].copy_(inputs)
        own_inputs[:, batch:].zero_()
        graph.replay()
        return scores[:batch]

    def _record(self, key: tuple[int, int, int], inputs: Any) -> bool:
        own_inputs = inputs.new_zeros(4, key[0])
        own_inputs[:, : inputs.shape[1]].copy_(inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            self._decode(own_inputs, *key[1:])  # libraries set themselves up outside the recording
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=self._pool):
                scores = self._decode(own_inputs, *key[1:])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            log.warning("a decode step cannot be recorded as a graph; it is launched piece by piece", exc_info=True)
            self._is_off = True
            return False
        self._pool = graph.pool()
        self._recorded[key] = (graph, own_inputs, scores)
        log.info("recorded a decode step of %d rows, %d blocks, %d slots", *key)
        return True

    def _live(self, live: int) -> int:
        """Few different numbers: none, the next power of four, all."""
        if live == 0:
            return 0
        return next((few for few in (1, 4, 16, 64) if live <= few <= self._slots.count), self._slots.count)

    def _forget(self) -> None:
        torch.cuda.synchronize()
        self._recorded.clear()
        self._pool = None
        self._version = self._slots.version


def power_above(number: int) -> int:
    return 1 << (number - 1).bit_length()
