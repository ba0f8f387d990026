"""Brings adapters into vLLM and proves them there. One that is not proved is taken out again, and nobody is answered.

vLLM takes a truncated, misnamed or foreign adapter without a word and then answers as the base, so that it is never
believed: every load is checked before, from the files, and behind, by what the trainer recorded in the bundle.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from app.contracts.probe import Probe
from worker.inference.adapters import rejected, validate_bundle
from worker.inference.batching.loading import more_than_lora
from worker.inference.engine import AdapterFolder, ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.proving import check_weights, hold_against, read_probe
from worker.inference.vllm.remote import Declined, Vllm, away
from worker.inference.vllm.served import Blank, Served, load_blank
from worker.inference.vllm.speaking import NotLoaded, Speaker
from worker.inference.vllm.wording import unsupported

# vLLM has no route to load adapters without it.
LOADING = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"


class Lodging:
    """The adapters that are proved in this life of the server. For one event loop."""

    def __init__(self, vllm: Vllm, speaker: Speaker) -> None:
        self._vllm = vllm
        self._speaker = speaker
        self._admissions: dict[AdapterFolder, asyncio.Task[None]] = {}

    @property
    def proved(self) -> list[str]:
        """Names, sorted."""
        return sorted(adapter.name for adapter, task in list(self._admissions.items()) if _has_succeeded(task))

    def has(self, adapter: AdapterFolder) -> bool:
        """Whether it is proved, as far as is known here."""
        return (task := self._admissions.get(adapter)) is not None and _has_succeeded(task)

    async def admit(self, adapter: AdapterFolder, base: ModelFolder, served: Served) -> None:
        """Have the adapter loaded and proved; many who ask at once share one admission. Raises Refusal."""
        task = self._admissions.get(adapter)
        if task is None or (task.done() and not _has_succeeded(task)):
            task = asyncio.create_task(self._admit(adapter, base, served))
            task.add_done_callback(_has_succeeded)  # its error was seen, even if all who asked have left
            self._admissions[adapter] = task
        try:
            await asyncio.shield(task)
        except NotLoaded:
            raise away(f"the adapter {adapter.name} did not stay in it") from None

    def forget(self, adapter: AdapterFolder) -> None:
        """It is not there any more."""
        if (task := self._admissions.get(adapter)) is not None and task.done():
            del self._admissions[adapter]

    def forget_all(self) -> None:
        """The server was away: whatever it has now, it was not proved."""
        self._admissions.clear()

    async def _admit(self, adapter: AdapterFolder, base: ModelFolder, served: Served) -> None:
        probe = await run_in_threadpool(_check_bundle, adapter, load_blank(base))
        await self._load(adapter)
        try:
            proof = await hold_against(probe, _Unproved(self._speaker, served), base, adapter)
        except BaseException:
            await self._unload(adapter)
            raise
        if not proof.proved:
            await self._unload(adapter)
            raise rejected(adapter, f"in vLLM it is not what was trained: {proof.reason}")

    async def _load(self, adapter: AdapterFolder) -> None:
        folder = adapter.folder.resolve()
        there = await self._folder_of(adapter)
        if there == str(folder):
            return  # another engine has loaded the very same
        if there is not None:
            await self._unload(adapter)
        try:
            await self._vllm.load(adapter.name, folder)
        except Declined as declined:
            if await self._folder_of(adapter) != str(folder):  # unless another engine was first
                raise _refusal(adapter, declined) from None

    async def _folder_of(self, adapter: AdapterFolder) -> str | None:
        """From where vLLM has an adapter of this name, if it has one."""
        return next((card.root for card in await self._vllm.models() if card.id == adapter.name), None)

    async def _unload(self, adapter: AdapterFolder) -> None:
        with suppress(Declined, Refusal):  # it is gone, or the server is
            await self._vllm.unload(adapter.name)


class _Unproved:
    """Asks for adapters that are loaded and not routable yet; only a proof may."""

    def __init__(self, speaker: Speaker, served: Served) -> None:
        self._speaker = speaker
        self._served = served

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        try:
            async for event in self._speaker.answer(request, self._served):
                yield event
        except Refusal as refusal:
            yield refusal.error


def _check_bundle(adapter: AdapterFolder, blank: Blank) -> Probe:
    """All that the files say, before vLLM sees them. Raises Refusal 409, and 422 for what only other engines serve."""
    if adapter.is_checkpoint:
        raise unsupported("a checkpoint has no probe by which it could be proved there", "adapter")
    probe = read_probe(adapter)
    part = more_than_lora(adapter)
    bundle = validate_bundle(adapter, blank.blueprints)
    if part is None and not all(one.is_plain for one in bundle.blueprint.parts.values()):
        part = "a layer that is no linear one"
    if part is not None:
        raise unsupported(f"the adapter {adapter.name} has {part}", "adapter")
    check_weights(adapter, bundle, probe)
    return probe


def _refusal(adapter: AdapterFolder, declined: Declined) -> Refusal:
    """What it means for an adapter whose files are right that vLLM does not load it."""
    if declined.status == 404:
        is_missing = "No adapter found" in declined.message
        reason = "does not find the folder of" if is_missing else f"was started without {LOADING}, and cannot load"
        return away(f"it {reason} the adapter {adapter.name}")
    return unsupported(f"it does not load the adapter {adapter.name}: {declined.message}", "adapter")


def _has_succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
