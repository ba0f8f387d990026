"""One vLLM server over HTTP: its routes as functions, its refusals and its absence as exceptions."""

from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from worker.inference.engine import Refusal
from worker.inference.vllm.protocol import Chunk, FaultBody, ModelCard, ModelList, Version

CONNECT_SECONDS = 3.0
# A token may wait for many prompts that were read before, and for an adapter that is read from disk.
SILENCE_SECONDS = 600.0
DATA, DONE = b"data: ", b"[DONE]"
S = TypeVar("S", bound=BaseModel)


class Declined(Exception):
    """vLLM answered with an error status; the words are its own."""

    def __init__(self, status: int, message: str, param: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param


class Vllm:
    """A client for one event loop. All functions raise Refusal 503 when the server is away or does not take the key."""

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def version(self) -> str:
        return (await self._told(Version, "/version")).version

    async def models(self) -> list[ModelCard]:
        """The bases and the adapters that can be asked for now."""
        return (await self._told(ModelList, "/v1/models")).data

    async def check_health(self) -> None:
        """Raises Refusal 503 when the server is up and its engine is not."""
        try:
            await self._ask("GET", "/health")
        except Declined as declined:
            raise away(f"its engine is not healthy ({declined.status})") from None

    async def load(self, name: str, folder: Path) -> None:
        """Have an adapter in memory. A folder that vLLM cannot use in full is taken all the same. Raises Declined."""
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload(self, name: str) -> None:
        """Raises Declined 404 for a name that is not there."""
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        """The events of a completion. Closing it ends the computing. Raises Declined, before the first event only."""
        self._check_open()
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as response:
                if not response.is_success:
                    await response.aread()
                    raise _declined(response)
                async for data in _events(response.aiter_bytes()):
                    if data == DONE:
                        return
                    yield _chunk(data)
        except httpx.HTTPError as error:
            raise away(f"it broke off ({type(error).__name__})") from None
        raise away("it broke off before the answer was complete")

    async def close(self) -> None:
        """Whoever asks later hears that it is away."""
        await self._http.aclose()

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise away("it was ended")

    async def _told(self, kind: type[S], path: str) -> S:
        try:
            return kind.model_validate_json(await self._ask("GET", path))
        except Declined as declined:
            raise away(f"it answers {declined.status} at {path} ({declined.message})"[:500]) from None
        except ValidationError:
            raise away(f"what it answers at {path} is none of vLLM's; is it a vLLM server?") from None

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        self._check_open()
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise away(f"it does not answer ({type(error).__name__})") from None
        if not response.is_success:
            raise _declined(response)
        return response.content


def away(reason: str) -> Refusal:
    return Refusal(503, "engine_unavailable", f"vLLM cannot answer now: {reason}")


def _declined(response: httpx.Response) -> Declined | Refusal:
    if response.status_code in (401, 403):
        return away("it does not take the key of this engine, which is to be in VLLM_API_KEY")
    try:
        fault = FaultBody.model_validate_json(response.content).error
    except ValidationError:
        return Declined(response.status_code, f"status {response.status_code}", None)
    return Declined(response.status_code, fault.message, fault.param)


def _chunk(data: bytes) -> Chunk:
    """Raises Refusal for an error in the middle of a stream, and for what is no event of a completion."""
    try:
        return Chunk.model_validate_json(data)
    except ValidationError:
        pass
    try:
        message = FaultBody.model_validate_json(data).error.message
    except ValidationError:
        message = "an event that is none of a completion"
    raise away(f"the answer broke off: {message}"[:500])


async def _events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event; every one of vLLM's is a single line."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(DATA):
                yield line.removeprefix(DATA)
