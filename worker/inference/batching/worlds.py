"""What is in memory: one base model, or one with an adapter merged into it. For another one it is loaded anew.

A model into which an adapter was merged never answers for its base, nor for another adapter: no trace of it can stay.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from worker.inference.adapters import Bundle, validate_bundle
from worker.inference.bases import Placement, load_base, load_config
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.host import BatchHost, BatchLimits
from worker.inference.batching.loading import more_than_lora
from worker.inference.batching.loads import Loads
from worker.inference.blueprints import Blueprints
from worker.inference.engine import AdapterFolder, ModelFolder, TokenEvent, TokenRequest
from worker.inference.merging import merge
from worker.inference.resident import Resident
from worker.inference.waiting import Ticket

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """A base, or what it becomes with the adapter that no mixed batch can hold."""

    base: ModelFolder
    merged: AdapterFolder | None = None

    @property
    def name(self) -> str:
        return self.base.name if self.merged is None else f"{self.base.name} with {self.merged.name} merged into it"


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
        self._alone: dict[World, str] = {}
        self._more_than_lora: dict[AdapterFolder, str | None] = {}
        self._blueprints: dict[ModelFolder, Blueprints] = {}

    @property
    def alone(self) -> str | None:
        """Why the world of now answers one request at a time; None when it answers in batches, or there is none."""
        now = self.now
        return None if now is None or self.host is not None else self._alone.get(now)

    def of(self, request: TokenRequest) -> World:
        """The world that a request needs, as far as it is known before the adapter is read."""
        adapter = request.adapter
        if adapter is None:
            return World(request.base)
        if adapter not in self._more_than_lora:
            self._more_than_lora[adapter] = more_than_lora(adapter)
        return World(request.base, None if self._more_than_lora[adapter] is None else adapter)

    def beside(self, request: TokenRequest) -> AdapterFolder | None:
        """The adapter that answers beside the base of now; None too when it is part of its weights."""
        return request.adapter if self.now is None or self.now.merged is None else None

    def keep_merged(self, adapter: AdapterFolder, reason: str) -> None:
        """An adapter that was read turned out to need more than a mixed batch can do."""
        self._more_than_lora[adapter] = reason

    def enter(self, world: World) -> None:
        """Have the world in memory. Raises Refusal: for an adapter that does not fit before anything is given up."""
        bundle = self._read(world)
        self.let_go()
        model = load_base(world.base, self._placement)
        if world.merged is not None and bundle is not None:
            log.info("%s is merged into its base: %s", world.merged.name, self._more_than_lora[world.merged])
            model = merge(world.merged, bundle, model)
        try:
            self.host = BatchHost(model, self._limits, self._finish)
            self.loads = Loads(self.host.reader, self._on_news)
        except NotBatchable as error:
            self._alone[world] = str(error)
            self.resident = Resident(model, max(2, self._limits.adapters))
        self.now = world
        how = "in batches" if self.alone is None else f"one request at a time: {self.alone}"
        log.info("%s was loaded on %s and answers %s", world.name, self._placement.device, how)

    def _read(self, world: World) -> Bundle | None:
        if world.merged is None:
            return None
        if world.base not in self._blueprints:
            self._blueprints[world.base] = Blueprints(load_config(world.base))
        return validate_bundle(world.merged, self._blueprints[world.base])

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
