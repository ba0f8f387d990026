"""The adapters that are loaded and proved in one vLLM server. An adapter that is not proved is unloaded again.

vLLM loads a truncated, misnamed or foreign adapter without an error and then answers as the base. Therefore the files
are checked before every load, and the probe of the bundle, which the trainer recorded, is asked after it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from transformers import AutoConfig

from app.contracts.probe import Probe
from worker.inference.batching.loading import more_than_lora
from worker.inference.engine import AdapterFolder, ModelFolder, Refusal
from worker.inference.models.adapters import rejected, validate_bundle
from worker.inference.models.peft_shapes import PeftShapes
from worker.inference.proving.proof import Answers, check_weights, hold_against, read_probe
from worker.inference.server.sources import unavailable
from worker.inference.vllm.client import VllmClient, VllmStatusError, unavailable_now, unsupported

# vLLM has no route for loading adapters unless this is set.
LOADING = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)


class AdapterNotLoaded(Exception):
    """vLLM does not know the adapter."""


@dataclass(frozen=True)
class BaseConfig:
    """What the config of a base tells without its weights: the model's sizes, and which adapters fit it."""

    config: Any
    peft_shapes: PeftShapes


@lru_cache(maxsize=8)
def load_base_config(base: ModelFolder) -> BaseConfig:
    """Raises Refusal `model_unavailable` for a folder without a readable config."""
    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=False, local_files_only=True)
        return BaseConfig(config, PeftShapes(config))
    except UNREADABLE as error:
        raise unavailable(404, base.name, f"has no readable config ({type(error).__name__})") from None


class ProvedAdapters:
    """Adapters that were proved since the server started. For one event loop."""

    def __init__(self, client: VllmClient) -> None:
        self._client = client
        self._admissions: dict[AdapterFolder, asyncio.Task[None]] = {}

    def __contains__(self, adapter: AdapterFolder | None) -> bool:
        task = None if adapter is None else self._admissions.get(adapter)
        return task is not None and _has_succeeded(task)

    def names(self) -> list[str]:
        """Return the names, sorted. May be called from any thread."""
        return sorted(adapter.name for adapter, task in list(self._admissions.items()) if _has_succeeded(task))

    async def admit(self, adapter: AdapterFolder, base: ModelFolder, answers: Answers) -> None:
        """Load the adapter and prove it by asking `answers`. Requests that come together share one admission.

        Raises Refusal when it is not proved.
        """
        task = self._admissions.get(adapter)
        if task is None or (task.done() and not _has_succeeded(task)):
            task = asyncio.create_task(self._load_and_prove(adapter, base, answers))
            task.add_done_callback(_has_succeeded)  # reads the error, in case every request has left
            self._admissions[adapter] = task
        try:
            await asyncio.shield(task)
        except AdapterNotLoaded:
            raise unavailable_now(f"the adapter {adapter.name} did not stay in it") from None

    def forget(self, adapter: AdapterFolder) -> None:
        """The server does not have the adapter any more."""
        if adapter in self:
            del self._admissions[adapter]

    def forget_all(self) -> None:
        """The server was away. Whatever it has loaded when it comes back was not proved."""
        self._admissions.clear()

    async def _load_and_prove(self, adapter: AdapterFolder, base: ModelFolder, answers: Answers) -> None:
        probe = await run_in_threadpool(_check_files, adapter, base)
        await self._load(adapter)
        try:
            proof = await hold_against(probe, answers, base, adapter)
            if not proof.proved:
                raise rejected(adapter, f"in vLLM it is not what was trained: {proof.reason}")
        except BaseException:
            await self._unload(adapter)
            raise

    async def _load(self, adapter: AdapterFolder) -> None:
        folder = adapter.folder.resolve()
        loaded_from = await self._loaded_from(adapter)
        if loaded_from == str(folder):
            return  # another engine has loaded the same files
        if loaded_from is not None:
            await self._unload(adapter)
        try:
            await self._client.load(adapter.name, folder)
        except VllmStatusError as error:
            if await self._loaded_from(adapter) != str(folder):  # another engine may have loaded it meanwhile
                raise _load_refusal(adapter, error) from None

    async def _loaded_from(self, adapter: AdapterFolder) -> str | None:
        """Return the folder from which vLLM has loaded an adapter of this name, or None if it has not."""
        return next((model.root for model in await self._client.models() if model.id == adapter.name), None)

    async def _unload(self, adapter: AdapterFolder) -> None:
        with suppress(VllmStatusError, Refusal):  # the adapter is not loaded, or the server is away
            await self._client.unload(adapter.name)


def _check_files(adapter: AdapterFolder, base: ModelFolder) -> Probe:
    """Check all that the files tell, before vLLM reads them.

    Raises Refusal 409 for a wrong bundle, and 422 for one that only other engines can serve.
    """
    if adapter.is_checkpoint:
        raise unsupported("a checkpoint has no probe by which it could be proved there", "adapter")
    probe = read_probe(adapter)
    part = more_than_lora(adapter)
    bundle = validate_bundle(adapter, load_base_config(base).peft_shapes)
    if part is None and not all(layer.is_plain for layer in bundle.peft_shape.parts.values()):
        part = "a layer that is not linear"
    if part is not None:
        raise unsupported(f"the adapter {adapter.name} has {part}", "adapter")
    check_weights(adapter, bundle, probe)
    return probe


def _load_refusal(adapter: AdapterFolder, error: VllmStatusError) -> Refusal:
    """The files of the adapter are right, and vLLM does not load it."""
    if error.status == 404:
        is_missing = "No adapter found" in error.message
        reason = "does not find the folder of" if is_missing else f"was started without {LOADING}=1, and cannot load"
        return unavailable_now(f"it {reason} the adapter {adapter.name}")
    return unsupported(f"it does not load the adapter {adapter.name}: {error.message}", "adapter")


def _has_succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
