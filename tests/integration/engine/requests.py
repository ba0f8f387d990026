"""Asks an engine from a test, which has no event loop of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from app.contracts.generation import EngineError, EngineEvent, GenerateOrder, Sampling, TextDelta
from app.contracts.order import BaseRef
from tests.integration.engine.model_caches import ServedModel, expected
from worker.inference.engine import Engine, Token, TokenEvent, TokenRequest
from worker.inference.server.answering import answer
from worker.inference.server.sources import Sources

T = TypeVar("T")
PROMPT = (1, 87, 85, 263, 201, 60, 61, 62, 63)


def a_request(
    served_model: ServedModel, adapter: str = "base", *, prompt: tuple[int, ...] = PROMPT, **fields: Any
) -> TokenRequest:
    """Greedy and short, unless the fields say otherwise."""
    base, eos_ids = fields.pop("base", served_model.base), fields.pop("eos_ids", frozenset())
    sampling = Sampling(**{"temperature": 0, "max_new_tokens": 12, **fields})
    return TokenRequest(base, served_model.adapter(adapter), list(prompt), eos_ids, sampling)


def right_answers(served_model: ServedModel, *names: str) -> list[list[int]]:
    """What the base and adapters of these names answer to the usual request."""
    return [expected(a_request(served_model, name)) for name in names]


def events_of(engine: Engine, request: TokenRequest) -> list[TokenEvent]:
    return asyncio.run(collect(engine.generate(request)))


def tokens_of(engine: Engine, request: TokenRequest) -> list[int]:
    return [event.id for event in events_of(engine, request) if isinstance(event, Token)]


def last_of(engine: Engine, request: TokenRequest) -> TokenEvent:
    return events_of(engine, request)[-1]


def refusal_of(engine: Engine, request: TokenRequest) -> EngineError:
    """The one event of a request that is refused."""
    (event,) = events_of(engine, request)
    assert isinstance(event, EngineError)
    return event


def an_order(served_model: ServedModel, **fields: Any) -> GenerateOrder:
    """A base order in text; `sampling` fields are given flat."""
    base = BaseRef(source=str(served_model.base.folder), is_local=True)
    sampling = {name: fields.pop(name) for name in list(fields) if name in Sampling.model_fields}
    asked = {"prompt": "The quick brown fox"} if not {"messages", "prompt", "prompt_token_ids"} & fields.keys() else {}
    chosen = Sampling(**{"temperature": 0, "max_new_tokens": 12, **sampling})
    return GenerateOrder(**{"request_id": "r", "base": base, "sampling": chosen, **asked, **fields})


def answers_of(engine: Engine, order: GenerateOrder) -> list[EngineEvent]:
    async def run() -> list[EngineEvent]:
        return await collect(answer(order, engine, Sources()))

    return asyncio.run(run())


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def error_of(events: list[EngineEvent]) -> EngineError:
    """The one event of an order that is refused."""
    (event,) = events
    assert isinstance(event, EngineError)
    return event


def in_one_piece(events: list[EngineEvent]) -> list[EngineEvent]:
    """The same answer with its text in one piece: how many pieces it comes in depends on who is faster."""
    return [TextDelta(text=text_of(events)), *(event for event in events if not isinstance(event, TextDelta))]


async def collect(events: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(events):
        return [event async for event in events]
