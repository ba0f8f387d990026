"""What is in memory: one base model, answering in batches or one request at a time. Changing either loads it anew.

A model that was changed in place for one way of answering is never used for the other: no trace of an adapter can stay.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.inference.bases import Placement, load_base
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.host import BatchHost, BatchLimits
from worker.inference.batching.loading import more_than_lora
from worker.inference.batching.loads import Loads
from worker.inference.engine import AdapterFolder, ModelFolder, TokenEvent, TokenRequest
from worker.inference.resident import Resident
from worker.inference.waiting import Ticket

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """A base and the way of answering: in batches, or alone for the reason that `alone` says."""

    base: ModelFolder
    alone: str | None


class Worlds:
    """Keeps the world of now and knows which one a request needs. For one thread."""

    def __init__(
        self,
        placement: Placement,
        limits: BatchLimits,
        finish: Callable[[Ticket, TokenEvent], None],
        on_news: Callable[[], None],
    ) -> None:
        self.now: World | None = None
        self.host: BatchHost | None = None
        self.loads: Loads | None = None
        self.resident: Resident | None = None
        self._placement = placement
        self._limits = limits
        self._finish = finish
        self._on_news = on_news
        self._models_alone: dict[Path, str] = {}
        self._adapters_alone: dict[AdapterFolder, str | None] = {}

    def of(self, request: TokenRequest) -> World:
        """The world that a request needs, as far as it is known before the model and the adapter are read."""
        reason = self._models_alone.get(request.base.folder)
        adapter = request.adapter
        if reason is None and adapter is not None:
            if adapter not in self._adapters_alone:
                self._adapters_alone[adapter] = more_than_lora(adapter)
            reason = self._adapters_alone[adapter]
        return World(request.base, reason)

    def keep_alone(self, adapter: AdapterFolder, reason: str) -> None:
        """An adapter that was read turned out to need more than a mixed batch can do."""
        self._adapters_alone[adapter] = reason
        log.info("%s is served one request at a time: %s", adapter.name, reason)

    def enter(self, world: World) -> None:
        """Have the world in memory; a model that cannot answer in batches makes `now` another one. Raises Refusal."""
        self.let_go()
        model = load_base(world.base, self._placement)
        if world.alone is None:
            try:
                self.host = BatchHost(model, self._limits, self._finish)
                self.loads = Loads(self.host.reader, self._on_news)
            except NotBatchable as error:
                self._models_alone[world.base.folder] = str(error)
                world = World(world.base, str(error))
        if world.alone is not None:
            self.resident = Resident(model, max(2, self._limits.adapters))
        self.now = world
        how = "in batches" if world.alone is None else f"one request at a time: {world.alone}"
        log.info("%s was loaded on %s and answers %s", world.base.name, self._placement.device, how)

    def let_go(self) -> None:
        """Free the memory."""
        if self.loads is not None:
            self.loads.close()
        if self.host is not None:
            self.host.close()
        self.now, self.host, self.loads, self.resident = None, None, None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def loaded_adapters(self) -> list[str]:
        host, resident = self.host, self.resident
        if host is not None:
            return sorted(host.slots.loaded)
        return sorted(resident.adapters) if resident is not None else []
