"""A streamed answer as server-sent events: `delta`, then one `finish` or one `error`."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.contracts.generation import EngineError, EngineEvent, Finish, TextDelta
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import Ending
from app.generate.service import Asked

KEEP_ALIVE_SECONDS = 15
SseMessage = dict[str, str]


class Opening:
    """The first event of an answer, waited for before the stream begins, while a status can still be sent.

    It is waited for as long as a client may be left without a sign of life; what comes later comes as an event.
    """

    def __init__(self, engine: EngineClient, asked: Asked) -> None:
        self._asked = asked
        self._events = engine.generate(asked.order)
        self._first = asyncio.ensure_future(anext(self._events))

    async def check(self, patience_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        """Raises the engine's refusal when it comes in time."""
        try:
            await asyncio.wait({self._first}, timeout=patience_seconds)
        except asyncio.CancelledError:
            await self._close()
            raise
        if self._first.done() and isinstance(event := self._first.result(), EngineError):
            await self._close()
            raise as_service_error(event)

    async def messages(self, request_id: str | None) -> AsyncGenerator[SseMessage, None]:
        """Everything, the first event too. Closing it cancels the generation."""
        try:
            yield self._message(await self._first, request_id)
            async with aclosing(self._events) as events:
                async for event in events:
                    yield self._message(event, request_id)
        finally:
            await self._close()

    async def _close(self) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._events.aclose()

    def _message(self, event: EngineEvent, request_id: str | None) -> SseMessage:
        match event:
            case TextDelta():
                return {"event": "delta", "data": json.dumps({"text": event.text})}
            case Finish():
                return {"event": "finish", "data": Ending(**self._asked.ending(event)).model_dump_json()}
            case EngineError():
                return {"event": "error", "data": json.dumps(as_service_error(event).body(request_id))}
