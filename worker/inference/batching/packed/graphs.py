"""Passes of fixed shapes as CUDA graphs: launching its kernels limits a pass, and a graph needs one launch.

A graph is recorded when its shape is first needed. All graphs share one pool of memory, and run one after another.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch

RECORDING = threading.Lock()  # a process can record only one graph at a time
log = logging.getLogger(__name__)


class Graphs:
    """Runs `compute`, which gets a key and its inputs (a tensor whose length depends on the key) and leaves its result
    in place.

    Without a GPU it is called directly each time.
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
        """Run one pass; `inputs` are on the host. Graphs of another `version` of the layers are dropped."""
        self._renew(version)
        if self._can_record and (key in self._recorded or self._record(key, inputs)):
            graph, own_inputs = self._recorded[key]
            own_inputs.copy_(inputs.pin_memory(), non_blocking=True)
            graph.replay()
        else:
            self._compute(key, inputs.to(self._device))

    def prepare(self, keys: Iterable[Hashable], inputs: Callable[[Any], Any], version: int) -> bool:
        """Record the first of these keys without a graph. Returns False if none is left, or there is no memory for it.

        If memory is short in an idle moment, the engine continues without this graph, and does not try again.
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
        self._compute(key, own_inputs)  # libraries have to initialise before the recording
        torch.cuda.current_stream().synchronize()
        try:
            # Another thread may read an adapter meanwhile: its CUDA calls must neither be recorded nor break the
            # recording.
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
