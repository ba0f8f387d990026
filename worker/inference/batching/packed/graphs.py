"""Passes of fixed shapes as CUDA graphs: a pass is bound by the launches of its kernels, a replay has one.

A graph is recorded when its shape is first needed. All of them share one pool of memory, and run one after another.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch

RECORDING = threading.Lock()  # there is one recording at a time in a process
log = logging.getLogger(__name__)


class Graphs:
    """`compute` takes a key and its inputs, a tensor of a length that the key decides, and leaves its result in place.

    Without a GPU it is called anew each time.
    """

    def __init__(self, compute: Callable[[Any, Any], None], device: Any) -> None:
        self._compute = compute
        self._device = device
        self._recorded: dict[Hashable, tuple[Any, Any]] = {}
        self._version = 0
        self._pool: Any = None
        self._can_record = device.type == "cuda"
        self._can_prepare = True

    def run(self, key: Hashable, inputs: Any, version: int) -> None:
        """`inputs` are on the host. What was recorded for another version of the layers is forgotten."""
        self._renew(version)
        if self._can_record and (key in self._recorded or self._record(key, inputs)):
            graph, own_inputs = self._recorded[key]
            own_inputs.copy_(inputs.pin_memory(), non_blocking=True)
            graph.replay()
        else:
            self._compute(key, inputs.to(self._device))

    def prepare(self, keys: Iterable[Hashable], inputs: Callable[[Any], Any], version: int) -> bool:
        """Record the first of these keys that is not recorded yet; false when none is left, or no memory for it.

        What is short of memory in an idle moment is no reason to give up what answers: it is not tried again.
        """
        self._renew(version)
        if not (self._can_record and self._can_prepare):
            return False
        key = next((key for key in keys if key not in self._recorded), None)
        try:
            return key is not None and self._record(key, inputs(key))
        except torch.OutOfMemoryError:
            log.warning("no memory is left to record %s before it is needed", key)
            self._can_prepare = False
            return False

    def _record(self, key: Hashable, inputs: Any) -> bool:
        own_inputs = inputs.to(self._device)
        graph = torch.cuda.CUDAGraph()
        self._compute(key, own_inputs)  # libraries set themselves up outside the recording
        torch.cuda.current_stream().synchronize()
        try:
            # Another thread may read an adapter meanwhile: its calls are no part of the recording, and no fault in it.
            with RECORDING, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._compute(key, own_inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            log.warning("a pass cannot be recorded as a graph; it is launched piece by piece", exc_info=True)
            self._can_record = False
            return False
        self._pool = graph.pool()
        self._recorded[key] = (graph, own_inputs)
        log.info("recorded %s", key)
        return True

    def _renew(self, version: int) -> None:
        if self._version == version:
            return
        if self._recorded:
            torch.cuda.current_stream().synchronize()
        self._recorded.clear()
        self._pool = None
        self._version = version
