"""A streamed answer as server-sent events: `delta`, then one `finish` or one `error`."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from app.contracts.generation import EngineError, EngineEvent, Finish, TextDelta
from app.generate.asking import Numbered, Piece, Reader, ask_all, tool_names
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import Ending
from app.generate.service import Asked

KEEP_ALIVE_SECONDS = 15
SseMessage = dict[str, str]


class Opening:
    """The first event of an answer, waited for before the stream begins, while a status can still be sent.

    It is waited for as long as a client may be left without a sign of life; what comes later comes as an event.
    """

    def __init__(self, events: AsyncGenerator[Numbered, None]) -> None:
        self._events = events
        self._first = asyncio.ensure_future(anext(self._events))

    async def check(self, patience_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        """Raises the engine's refusal when it comes in time."""
        try:
            await asyncio.wait({self._first}, timeout=patience_seconds)
        except asyncio.CancelledError:
            await self._close()
            raise
        if self._first.done() and isinstance(event := self._first.result()[1], EngineError):
            await self._close()
            raise as_service_error(event)

    async def events(self) -> AsyncGenerator[Numbered, None]:
        """Everything, the first event too. Closing it cancels the generation."""
        try:
            yield await self._first
            async with aclosing(self._events) as events:
                async for event in events:
                    yield event
        finally:
            await self._close()

    async def _close(self) -> None:
        self._first.cancel()
        await asyncio.wait({self._first})
        await self._events.aclose()


def opened(engine: EngineClient, asked: Asked) -> Opening:
    """Begin to ask."""
    return Opening(ask_all(engine, asked.orders))


async def messages(opening: Opening, asked: Asked, request_id: str | None) -> AsyncGenerator[SseMessage, None]:
    """The events of one answer, as they are sent. Closing it cancels the generation."""
    reader = Reader(tool_names(asked.order))
    async with aclosing(opening.events()) as events:
        async for _, event in events:
            for message in _messages(event, reader, asked, request_id):
                yield message


def _messages(event: EngineEvent, reader: Reader, asked: Asked, request_id: str | None) -> list[SseMessage]:
    match event:
        case TextDelta():
            return _delta(reader.feed(event))
        case Finish():
            last = _delta(reader.finish())
            ending = Ending(
                finish_reason=reader.reason(event),
                usage=event.usage,
                prompt_token_ids=event.prompt_token_ids,
                **asked.told(),
            )
            return [*last, {"event": "finish", "data": ending.model_dump_json()}]
        case EngineError():
            return [{"event": "error", "data": json.dumps(as_service_error(event).body(request_id))}]


def _delta(piece: Piece) -> list[SseMessage]:
    if not piece.is_something:
        return []
    fields: dict[str, Any] = {"text": piece.text}
    if piece.calls:
        fields["tool_calls"] = [call.model_dump() for call in piece.calls]
    if piece.tokens is not None:
        fields["logprobs"] = [token.model_dump() for token in piece.tokens]
    if piece.ids is not None:
        fields["token_ids"] = piece.ids
    return [{"event": "delta", "data": json.dumps(fields)}]
