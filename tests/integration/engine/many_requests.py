"""Many requests at once, from a test that has no event loop of its own."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from worker.inference.batching.engine import BatchingEngine
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


def tokens_of_all(engine: Engine, requests: Sequence[TokenRequest], *, arriving_within: float = 0.0) -> list[list[int]]:
    return [answer_tokens(events) for events in ask_all(engine, requests, arriving_within=arriving_within)]


async def read(engine: Engine, request: TokenRequest, *, leave_after: int | None = None) -> Events:
    """Events to the end, or until so many have come; then the reader leaves."""
    seen: Events = []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == leave_after:
                break
    return seen


def answer_tokens(events: Events) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def has_only_free_blocks(engine: BatchingEngine) -> bool:
    """Whether no answer holds keys or values. It is true of an engine without a model."""
    free, total = engine.count_blocks()
    return free == total


def is_idle(engine: BatchingEngine) -> bool:
    """Whether the engine has a model, and answers nobody."""
    return engine.count_blocks()[1] > 0 and has_only_free_blocks(engine) and not engine.health().is_busy
