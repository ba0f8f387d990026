"""One request for answers and its response: whole, or as server-sent events. Every route that answers goes this way."""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Self, TypeVar, cast

from fastapi import Depends, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from app.access.caller import Caller
from app.access.quotas import check_tokens
from app.config import Settings
from app.contracts.checkpoints import CHECKPOINT_GONE
from app.contracts.generation import Usage
from app.database.connection import AWAY, Database
from app.errors import ServiceError
from app.generate.client import EngineClient
from app.generate.metering import Meter
from app.generate.parallel import AnswerEnd, AnswerPiece, Numbered, collect, generate_all
from app.generate.schemas import Answer, AnswerRequest
from app.generate.service import PreparedRequest
from app.scope import Scope
from app.web.client_disconnect import unless_gone
from app.web.dependencies import DatabaseDep, GenerateCaller, SettingsDep

KEEP_ALIVE_SECONDS = 15
SseMessage = dict[str, str]
log = logging.getLogger(__name__)
Body = TypeVar("Body", bound=AnswerRequest)
Whole = TypeVar("Whole")


class ResponseShape(ABC, Generic[Whole]):
    """The form in which the clients of one route read answers. One is made for each response."""

    @abstractmethod
    def whole(self, answers: list[Answer]) -> Whole: ...

    @abstractmethod
    def message(self, place: int, event: AnswerPiece | AnswerEnd) -> SseMessage: ...

    def begin(self) -> list[SseMessage]:
        """What a stream begins with."""
        return []

    def finish(self) -> list[SseMessage]:
        """What a stream ends with once all answers are complete."""
        return []

    def failure(self, error: dict[str, Any]) -> SseMessage:
        """What a stream ends with otherwise."""
        return {"data": json.dumps(error)}

    def renamed(self, error: ServiceError) -> ServiceError:
        """The same error with the names that the fields have on this route."""
        return error


class Opening:
    """Answers whose first event is waited for before the stream begins, while a status can still be sent.

    The wait is as long as a client may be left without a sign of life. An error after that is an event of the stream.
    Closing it cancels the generation.
    """

    def __init__(self, events: AsyncGenerator[Numbered, None]) -> None:
        self._events = events
        self._first = asyncio.ensure_future(anext(events))
        self._has_begun = False

    async def check(self, patience_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        """Raises the engine's refusal when it comes in time."""
        try:
            await asyncio.wait({self._first}, timeout=patience_seconds)
            if self._first.done():
                self._first.result()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Numbered:
        if self._has_begun:
            return await anext(self._events)
        self._has_begun = True
        return await self._first

    async def aclose(self) -> None:
        if not self._first.done():
            self._first.cancel()  # the answers end in this task
            await asyncio.wait({self._first})
            return
        if not self._first.cancelled():
            self._first.exception()  # asyncio logs an exception that nobody has looked at
        await self._events.aclose()


async def messages(
    opening: Opening, shape: ResponseShape[Any], request_id: str | None
) -> AsyncGenerator[SseMessage, None]:
    """The messages of a streamed response. Closing it cancels the generation."""
    async with aclosing(opening):
        for message in shape.begin():
            yield message
        try:
            async for place, event in opening:
                if isinstance(event, AnswerEnd) or not event.is_empty:
                    yield shape.message(place, event)
        except ServiceError as error:
            yield shape.failure(shape.renamed(error).body(request_id))
            return
        for message in shape.finish():
            yield message


@dataclass(frozen=True)
class Exchange:
    """A request, and what its response is made from."""

    request: Request
    caller: Caller
    meter: Meter
    database: Database
    settings: Settings
    engine: EngineClient

    async def respond(
        self,
        body: Body,
        prepare: Callable[[Session, Scope, Settings, Body], PreparedRequest],
        shape: Callable[[Body, PreparedRequest], ResponseShape[Whole]],
    ) -> Whole | Response:
        """Answer. If the checkpoint was removed before the engine read it, resolve the name again and try once more."""

        def prepared() -> PreparedRequest:
            with self.database.reader() as session:
                found = prepare(session, self.caller.scope, self.settings, body)
            self._check_tokens(found)
            return found

        async def answer() -> Whole | Response:
            found = await run_in_threadpool(prepared)
            return await self._answer(found, shape(body, found), is_stream=body.stream)

        try:
            return await answer()
        except ServiceError as error:
            if error.code != CHECKPOINT_GONE:
                raise
        return await answer()

    def _check_tokens(self, prepared: PreparedRequest) -> None:
        """Raise TooMany beyond a limit. While the database is away bases are still answered, and nothing is limited."""
        try:
            with self.database.reader() as session:
                project = prepared.target.counted_in(self.caller.scope)
                check_tokens(session, self.caller, self.settings, project)
        except AWAY as error:
            log.warning("limits of tokens are not known: %s", self.database.why_away(error))

    async def _answer(
        self, prepared: PreparedRequest, shape: ResponseShape[Whole], *, is_stream: bool
    ) -> Whole | Response:
        def count(place: int, used: Usage) -> None:
            adapter = prepared.orders[place].adapter
            project, is_first = prepared.target.counted_in(self.caller.scope), place % prepared.n == 0
            used_adapter = None if adapter is None else adapter.adapter_id
            self.meter.add(project, self.caller.name, used_adapter, used, is_first=is_first)

        try:
            if not is_stream:
                return shape.whole(await unless_gone(self.request, collect(self.engine, prepared.orders, count)))
            opening = Opening(generate_all(self.engine, prepared.orders, count))
            await unless_gone(self.request, opening.check())
        except ServiceError as error:
            raise shape.renamed(error) from None
        request_id = self.request.scope.get("request_id")
        return EventSourceResponse(messages(opening, shape, request_id), ping=KEEP_ALIVE_SECONDS)


async def get_engine(request: Request) -> EngineClient:
    return cast(EngineClient, request.app.state.engine)


EngineDep = Annotated[EngineClient, Depends(get_engine)]


async def get_exchange(
    request: Request, caller: GenerateCaller, database: DatabaseDep, settings: SettingsDep, engine: EngineDep
) -> Exchange:
    return Exchange(request, caller, request.app.state.meter, database, settings, engine)


ExchangeDep = Annotated[Exchange, Depends(get_exchange)]
