"""The models in memory: bases, and bases with an adapter merged into them. One of them answers at a time.

Each has its own weights, keys and values, slots and prefix cache, so nothing of one can reach another. A merged model
never answers for its base or for another adapter. Models stay while half of the memory is free; then the least recently
used is unloaded.
"""

import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.host import BatchHost, BatchLimits
from worker.inference.batching.loading import AdapterCache, more_than_lora
from worker.inference.batching.loads import AdapterLoader
from worker.inference.batching.memory import Memory, cache_bound, return_freed_memory, weight_bytes
from worker.inference.engine import AdapterFolder, ModelFolder, TokenEvent, TokenRequest
from worker.inference.models.adapters import Bundle, validate_bundle
from worker.inference.models.bases import Placement, is_out_of_memory, load_base, load_config
from worker.inference.models.merging import merge
from worker.inference.models.peft_shapes import PeftShapes
from worker.inference.models.resident import Resident
from worker.inference.server.limits import model_limit
from worker.inference.server.waiting import Ticket

# The limit for adapters that were read, over all bases. On a CPU it is smaller, because the slots are copies in the
# same memory.
GPU_ADAPTER_BYTES = 2 * 2**30
CPU_ADAPTER_BYTES = 2**28
MOST_REMEMBERED = 4096
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A base, or a base with an adapter merged into it that no mixed batch can compute."""

    base: ModelFolder
    merged: AdapterFolder | None = None

    @property
    def name(self) -> str:
        form = "" if self.base.variant is None else f" ({self.base.variant.name})"
        form += "" if self.base.scaled_to is None else f" (RoPE scaled to {self.base.scaled_to})"
        with_it = "" if self.merged is None else f" with {self.merged.name} merged into it"
        return f"{self.base.name}{form}{with_it}"


@dataclass(frozen=True)
class Loaded:
    """A model in memory. It answers in batches (`host`), or one request at a time (`resident`) for the reason in
    `why_alone`.

    `longest`: the longest answer in tokens that fits if all other models are unloaded. None: the memory is already
    reserved.
    """

    host: BatchHost | None = None
    loads: AdapterLoader | None = None
    resident: Resident | None = None
    why_alone: str | None = None
    longest: int | None = None

    @property
    def cache_bytes(self) -> int:
        return 0 if self.host is None else self.host.cache_bytes

    def give_back(self) -> None:
        """See `BatchHost.give_back`. The adapters that were read for it are dropped too."""
        if self.loads is not None and self.host is not None:
            self.host.give_back()
            self.loads.give_back()

    def close(self) -> None:
        if self.loads is not None:
            self.loads.close()
        if self.host is not None:
            self.host.close()


NOTHING = Loaded()


class ModelCache:
    """Keeps models in memory and selects the one for a request. Not thread-safe, but any thread may read properties."""

    def __init__(
        self,
        placement: Placement,
        limits: BatchLimits,
        finish: Callable[[Ticket, TokenEvent], None],
        on_news: Callable[[], None],
        memory: Memory,
    ) -> None:
        self._placement = placement
        self._is_on_gpu = placement.device.startswith("cuda")
        self.most_cache_bytes = limits.cache_bytes or cache_bound(placement.device)
        self._limits = replace(limits, cache_bytes=self.most_cache_bytes)
        self._adapters = AdapterCache(GPU_ADAPTER_BYTES if self._is_on_gpu else CPU_ADAPTER_BYTES)
        self._finish = finish
        self._on_news = on_news
        self._memory = memory
        self._loaded: dict[ServedModel, Loaded] = {}  # the current model is last; the dict is replaced, never changed
        self._more_than_lora: dict[AdapterFolder, str | None] = {}
        self._peft_shapes: dict[ModelFolder, PeftShapes] = {}

    @property
    def now(self) -> ServedModel | None:
        """The model that answers now."""
        return next(reversed(self._loaded), None)

    @property
    def _here(self) -> Loaded:
        return next(reversed(self._loaded.values()), NOTHING)

    @property
    def host(self) -> BatchHost | None:
        return self._here.host

    @property
    def loads(self) -> AdapterLoader | None:
        return self._here.loads

    @property
    def resident(self) -> Resident | None:
        return self._here.resident

    @property
    def alone(self) -> str | None:
        """Why the current model answers one request at a time. Returns None if it answers in batches, or there is no
        model.
        """
        return self._here.why_alone

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of all models in memory."""
        return sum(loaded.cache_bytes for loaded in self._loaded.values())

    @property
    def names(self) -> list[str]:
        """The names of all models in memory, the current one first."""
        return [served_model.name for served_model in reversed(self._loaded)]

    def of(self, request: TokenRequest) -> ServedModel:
        """The model that a request needs, as far as it is known before the adapter is read."""
        adapter = request.adapter
        if adapter is None:
            return ServedModel(request.base)
        if adapter not in self._more_than_lora:
            self.keep_merged(adapter, more_than_lora(adapter))
        return ServedModel(request.base, None if self._more_than_lora[adapter] is None else adapter)

    def beside(self, request: TokenRequest) -> AdapterFolder | None:
        """The adapter that answers with the current base. Returns None if it is merged into the weights."""
        return request.adapter if self.now is None or self.now.merged is None else None

    def keep_merged(self, adapter: AdapterFolder, reason: str | None) -> None:
        """Remember why a mixed batch cannot compute an adapter; None if it can, as far as is known."""
        self._more_than_lora[adapter] = reason
        if len(self._more_than_lora) > MOST_REMEMBERED:
            del self._more_than_lora[next(iter(self._more_than_lora))]

    def is_too_cramped_for(self, request: TokenRequest) -> bool:
        """Whether the request does not fit into the current model's memory, but may if all other models are
        unloaded.
        """
        host, longest = self.host, self._here.longest
        if host is None or longest is None or len(self._loaded) < 2:
            return False
        tokens = len(request.prompt_ids) + request.sampling.max_new_tokens
        return host.cache_tokens < tokens - 1 < longest

    def enter(self, served_model: ServedModel, *, is_only: bool = False) -> None:
        """Make this the current model, and load it unless it is in memory. With `is_only` all others are unloaded
        first.

        Raises Refusal. If the reason is an adapter that does not fit, nothing is unloaded before.
        """
        if served_model in self._loaded and not is_only:
            self._loaded = {**self._others(served_model), served_model: self._loaded[served_model]}
            return
        bundle = self._read(served_model)
        if is_only:
            self.unload_all()
        self._unload_replaced(served_model.base)
        self._make_room(served_model)
        loaded = self._load_somehow(served_model, bundle)
        self._loaded = {**self._loaded, served_model: loaded}
        how = "in batches" if self.alone is None else f"one request at a time: {self.alone}"
        log.info("%s was loaded on %s and answers %s", served_model.name, self._placement.device, how)

    def _others(self, served_model: ServedModel) -> dict[ServedModel, Loaded]:
        return {other: loaded for other, loaded in self._loaded.items() if other != served_model}

    def _read(self, served_model: ServedModel) -> Bundle | None:
        if served_model.merged is None:
            return None
        if served_model.base not in self._peft_shapes:
            self._peft_shapes[served_model.base] = PeftShapes(load_config(served_model.base))
        return validate_bundle(served_model.merged, self._peft_shapes[served_model.base])

    def _unload_replaced(self, base: ModelFolder) -> None:
        """Unload models whose files were replaced: no request can use them any more."""
        for other in list(self._loaded):
            if other.base.folder == base.folder and other.base.revision != base.revision:
                log.info("the files of %s were replaced", other.name)
                self._unload(other)

    def _make_room(self, served_model: ServedModel) -> None:
        """Unload the least recently used models until the others and this one take at most half of the memory."""
        needed = weight_bytes(served_model.base.folder, self._placement.dtype)
        while self._loaded and (self._is_cache_taken() or self._memory.held() + needed > self._memory.free()):
            oldest = next(iter(self._loaded))
            log.info("%s makes room for %s", oldest.name, served_model.name)
            self._unload(oldest)

    def _is_cache_taken(self) -> bool:
        """Whether other models hold most of the cache's bytes permanently, as they do on a GPU."""
        bound = self.most_cache_bytes
        return bound is not None and self._is_on_gpu and 2 * self.cache_bytes > bound

    def _bound_cache(self) -> None:
        """On a CPU, free what is kept for later requests, of the least recently used models first, down to the
        limit.
        """
        if self._is_on_gpu:
            return
        for loaded in list(self._loaded.values())[:-1]:
            if self.most_cache_bytes is None or self.cache_bytes <= self.most_cache_bytes:
                return
            loaded.give_back()

    def _load_somehow(self, served_model: ServedModel, bundle: Bundle | None) -> Loaded:
        """Load a model. If memory is too small beside others, unload them and try once more: the estimate may
        be wrong.
        """
        try:
            return self._load(served_model, bundle)
        except Exception as error:
            if not (is_out_of_memory(error) and self._loaded):
                raise
        log.warning("%s does not fit beside %s", served_model.name, ", ".join(self.names))
        self.unload_all()
        return self._load(served_model, bundle)

    def _load(self, served_model: ServedModel, bundle: Bundle | None) -> Loaded:
        model = load_base(served_model.base, self._placement)
        if served_model.merged is not None and bundle is not None:
            log.info(
                "%s is merged into its base: %s", served_model.merged.name, self._more_than_lora[served_model.merged]
            )
            model = merge(served_model.merged, bundle, model)
        longest = None
        if self._loaded and self._limits.cache_tokens is None:
            longest = model_limit(model) or sys.maxsize
        limits = self._limits
        if limits.cache_bytes is not None and self._is_on_gpu:
            limits = replace(limits, cache_bytes=limits.cache_bytes - self.cache_bytes)
        try:
            host = BatchHost(model, limits, self._finish, self._bound_cache)
        except NotBatchable as error:
            return Loaded(resident=Resident(model, max(2, self._limits.adapters)), why_alone=str(error))
        if longest is not None and not self._is_on_gpu:  # on a GPU other models take nothing from it
            longest = min(longest, host.cache_tokens)
        return Loaded(host=host, loads=AdapterLoader(host.reader, self._adapters, self._on_news), longest=longest)

    def give_back(self) -> None:
        """On a CPU, free what is kept for later requests; models stay. No answer may be in progress."""
        if self._is_on_gpu:
            return
        for loaded in self._loaded.values():
            loaded.give_back()
        _collect()

    def unload_others(self) -> None:
        """Unload all models but the current one."""
        self._unload(*list(self._loaded)[:-1])

    def unload_all(self) -> None:
        """Unload all models."""
        self._unload(*self._loaded)

    def _unload(self, *served_models: ServedModel) -> None:
        for served_model in served_models:
            self._loaded[served_model].close()
            self._loaded = self._others(served_model)
        _collect()

    def loaded_adapters(self) -> list[str]:
        host, resident = self.host, self.resident
        if host is not None:
            return sorted(host.slots.loaded)
        return sorted(resident.adapters) if resident is not None else []


def _collect() -> None:
    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
