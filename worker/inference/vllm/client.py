"""One vLLM server over HTTP. Each route is a method, each reply has a type, and each failure is an exception.

Fields that this engine does not read are ignored, so that other versions of vLLM may send them.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.inference.engine import Refusal

CONNECT_SECONDS = 3.0
# vLLM may have to read many other prompts, or an adapter from disk, before it sends the next token.
SILENCE_SECONDS = 600.0
DATA, DONE = b"data: ", b"[DONE]"
R = TypeVar("R", bound="VllmReply")


class VllmReply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class VersionReply(VllmReply):
    version: str


class VllmModel(VllmReply):
    """A name that requests may ask for. `root` is its folder or hub name; `parent` is the base of an adapter."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class VllmModelList(VllmReply):
    data: list[VllmModel]


class CompletionLogprobs(VllmReply):
    """One entry for each token. A number that is not finite is null, and a token is written as `token_id:17`."""

    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]]


class CompletionChoice(VllmReply):
    """The next tokens of an answer. The token that ended the answer is one of them."""

    token_ids: list[int]
    logprobs: CompletionLogprobs
    finish_reason: str | None = None


class CompletionPromptDetails(VllmReply):
    cached_tokens: int | None = None


class CompletionUsage(VllmReply):
    completion_tokens: int
    prompt_tokens_details: CompletionPromptDetails | None = None


class CompletionChunk(VllmReply):
    """One event of a stream. The last one has the usage and no choice."""

    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class VllmError(VllmReply):
    message: str
    param: str | None = None


class VllmErrorReply(VllmReply):
    """An error, as the body of a response or as an event of a stream."""

    error: VllmError


class VllmStatusError(Exception):
    """vLLM answered with an error status. The message is its own."""

    def __init__(self, status: int, message: str, param: str | None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class VllmClient:
    """A client for one event loop.

    All methods raise Refusal 503 when the server cannot be reached, or when it does not accept the key.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def version(self) -> str:
        return (await self._get(VersionReply, "/version")).version

    async def models(self) -> list[VllmModel]:
        """Return the base and the adapters that requests may ask for now."""
        return (await self._get(VllmModelList, "/v1/models")).data

    async def check_health(self) -> None:
        """Raises Refusal 503 when the server answers and its engine does not work."""
        try:
            await self._request("GET", "/health")
        except VllmStatusError as error:
            raise unavailable_now(f"its engine is not healthy ({error.status})") from None

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter. vLLM accepts a folder of which it can use only a part. Raises VllmStatusError."""
        await self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload(self, name: str) -> None:
        """Raises VllmStatusError 404 for a name that is not loaded."""
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the events of a completion. Closing it ends the computation.

        Raises VllmStatusError, but only before the first event.
        """
        self._check_open()
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as response:
                if not response.is_success:
                    await response.aread()
                    raise _error_of(response)
                async for data in _event_data(response.aiter_bytes()):
                    if data == DONE:
                        return
                    yield _read_chunk(data)
        except httpx.HTTPError as error:
            raise unavailable_now(f"it broke off ({type(error).__name__})") from None
        raise unavailable_now("it broke off before the answer was complete")

    async def close(self) -> None:
        """After this, every method raises Refusal 503."""
        await self._http.aclose()

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise unavailable_now("it was ended")

    async def _get(self, kind: type[R], path: str) -> R:
        try:
            return kind.model_validate_json(await self._request("GET", path))
        except VllmStatusError as error:
            raise unavailable_now(f"it answers {error.status} at {path} ({error.message})") from None
        except ValidationError:
            raise unavailable_now(f"its answer at {path} is not one of vLLM's; is it a vLLM server?") from None

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        self._check_open()
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise unavailable_now(f"it does not answer ({type(error).__name__})") from None
        if not response.is_success:
            raise _error_of(response)
        return response.content


def unavailable_now(reason: str) -> Refusal:
    """The server cannot answer any request at present."""
    return Refusal(503, "engine_unavailable", f"vLLM cannot answer now: {reason}"[:500])


def unsupported(reason: str, param: str | None) -> Refusal:
    """vLLM cannot do what a request asks for; the embedded engine may be able to."""
    return Refusal(422, "unsupported_by_engine", f"this engine answers through vLLM: {reason}"[:1000], param)


def _error_of(response: httpx.Response) -> VllmStatusError | Refusal:
    if response.status_code in (401, 403):
        return unavailable_now("it does not take the key of this engine, which is to be in VLLM_API_KEY")
    try:
        error = VllmErrorReply.model_validate_json(response.content).error
    except ValidationError:
        error = VllmError(message=f"status {response.status_code}")
    return VllmStatusError(response.status_code, error.message, error.param)


def _read_chunk(data: bytes) -> CompletionChunk:
    """Raises Refusal for an error in the middle of a stream, and for what is not an event of a completion."""
    try:
        return CompletionChunk.model_validate_json(data)
    except ValidationError:
        pass
    try:
        message = VllmErrorReply.model_validate_json(data).error.message
    except ValidationError:
        message = "an event is not one of a completion"
    raise unavailable_now(f"the answer broke off: {message}")


async def _event_data(received: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the data of each server-sent event. vLLM writes each event on one line."""
    rest = b""
    async for part in received:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(DATA):
                yield line.removeprefix(DATA)
