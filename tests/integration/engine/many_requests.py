"""Many requests at once, from a test that has no event loop of its own."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from worker.inference.engine import Engine, Token, TokenRequest

Events = list[Any]


def ask_all(engine: Engine, requests: Sequence[TokenRequest], *, arriving_within: float = 0.0) -> list[Events]:
    """The events of each request; they arrive at random moments within so many seconds."""
    dice = random.Random(2)

    async def one(request: TokenRequest, after: float) -> Events:
        await asyncio.sleep(after)
        return await read(engine, request)

    async def all_of_them() -> list[Events]:
        return list(await asyncio.gather(*(one(request, dice.uniform(0, arriving_within)) for request in requests)))

    return asyncio.run(all_of_them())


async def read(engine: Engine, request: TokenRequest, *, leave_after: int | None = None) -> Events:
    """Events to the end, or until so many have come; then the reader leaves."""
    heard: Events = []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            heard.append(event)
            if len(heard) == leave_after:
                break
    return heard


def answer_tokens(events: Events) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]
