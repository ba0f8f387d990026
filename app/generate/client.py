"""The API's client of the engine: a process that may be busy or unavailable, or may end within an answer."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Protocol

import httpx
from pydantic import ValidationError

from app.contracts.generation import ENGINE_EVENT, EngineError, EngineEvent, EngineHealth, GenerateOrder, TextDelta
from app.errors import EngineUnavailable, ServiceError
from app.processes.engine_address import SAYS_WRONG_KEY, WRONG_KEY, EngineAddress
from app.processes.logs import request_id
from app.processes.traces import HEADER, traceparent

CONNECT_SECONDS = 3.0
HEALTH_SECONDS = 3.0
# A first answer may wait for a download of the model and for everybody before it in the queue.
SILENCE_SECONDS = 1800.0
# The statuses of a proxy that does not reach the engine. The engine's own errors are JSON.
GATEWAY_STATUSES = (502, 503, 504)


class EngineClient(Protocol):
    """One engine, or several that answer as one."""

    def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        """Yield pieces of the answer, then exactly one `Finish` or `EngineError`, whatever becomes of the engine.

        Closing it cancels the generation.
        """
        ...

    async def close(self) -> None: ...


class SingleEngine(EngineClient, Protocol):
    async def health(self) -> EngineHealth:
        """Raises EngineUnavailable."""
        ...


class BrokenOff(EngineError):
    """The engine had the order when it broke off. The order may be the reason, so no other engine gets it."""


def as_service_error(error: EngineError) -> ServiceError:
    """What the engine refused, as an error of this service; with a time to come back where that helps."""
    kind = EngineUnavailable if error.status in (429, 503) else ServiceError
    refused = kind(error.message, param=error.param, code=error.code)
    refused.status = error.status
    if isinstance(refused, EngineUnavailable) and error.retry_after_seconds is not None:
        refused.retry_after_seconds = error.retry_after_seconds
    return refused


class HttpEngineClient:
    """The engine process of `python -m worker.inference`, over HTTP: one connection a request.

    While a service is upgraded, the engine may be of the version before or after this one. Fields that only one of both
    knows are left out, as long as they have their defaults.
    """

    def __init__(self, address: EngineAddress) -> None:
        self._http = address.async_client(
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def health(self) -> EngineHealth:
        try:
            response = await self._http.get("/health", timeout=HEALTH_SECONDS)
            if response.status_code == 401:
                raise EngineUnavailable(SAYS_WRONG_KEY)
            return EngineHealth.model_validate_json(response.raise_for_status().content, extra="ignore")
        except (httpx.HTTPError, ValidationError) as error:
            raise EngineUnavailable(f"the engine does not answer ({type(error).__name__})") from error

    async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        try:
            async with aclosing(self._events(order)) as events:
                async for event in events:
                    is_strange = isinstance(event, EngineError) and event.code == WRONG_KEY
                    yield _away(SAYS_WRONG_KEY) if is_strange else event  # the service's key is wrong, not the request
                    if not isinstance(event, TextDelta):
                        return
        except (httpx.ConnectError, httpx.ConnectTimeout):
            yield _away("the engine is not running")
        except (httpx.HTTPError, ValidationError) as error:
            yield _broken(f"the engine broke off ({type(error).__name__}); the answer is incomplete")
        else:
            yield _broken("the engine ended before the answer was complete")

    async def _events(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        headers = {"content-type": "application/json", **headers_of_request()}
        content = order.model_dump_json(exclude_defaults=True)  # an older engine does not know every field
        async with self._http.stream("POST", "/generate", content=content, headers=headers) as response:
            if response.status_code in GATEWAY_STATUSES and "json" not in response.headers.get("content-type", ""):
                yield _away(f"what stands before the engine answered {response.status_code}")
                return
            async for lines in _lines(response.aiter_bytes()):
                for event in _joined([ENGINE_EVENT.validate_json(line, extra="ignore") for line in lines]):
                    yield event

    async def close(self) -> None:
        await self._http.aclose()


def headers_of_request() -> dict[str, str]:
    """What lets the engine's log and traces name the request for which it works."""
    named = {"x-request-id": request_id.get(), HEADER: traceparent.get()}
    return {name: value for name, value in named.items() if value is not None}


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[list[bytes], None]:
    """The lines that each chunk completes.

    They end at a line feed and nowhere else: an answer may hold any of the other characters that end one.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines


def _joined(events: list[EngineEvent]) -> list[EngineEvent]:
    """Join the pieces of text that arrived together, so that a slow reader has fewer events to handle."""
    joined: list[EngineEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(last, TextDelta) and isinstance(event, TextDelta) and _is_text(last) and _is_text(event):
            joined[-1] = TextDelta(text=last.text + event.text)
        else:
            joined.append(event)
    return joined


def _is_text(piece: TextDelta) -> bool:
    return piece.tokens is None and piece.token_ids is None


def _away(message: str) -> EngineError:
    return EngineError(status=503, code=EngineUnavailable.code, message=message)


def _broken(message: str) -> BrokenOff:
    return BrokenOff(status=503, code=EngineUnavailable.code, message=message)
