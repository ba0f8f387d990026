"""Counts what the engine answers, at the API's side."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.contracts.generation import EngineError, EngineEvent, Finish, GenerateOrder
from app.generate.client import EngineClient
from app.metrics.counts import Counts

BASE, CHECKPOINT = "base", "checkpoint"
CANCELLED, FAILED = "cancelled", "error"


class CountedEngine:
    """An engine client that counts the answers of another one."""

    def __init__(self, engine: EngineClient, counts: Counts) -> None:
        self._engine, self._counts = engine, counts

    async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        name, began = self._name_of(order), time.perf_counter()
        outcome, has_begun = CANCELLED, False
        try:
            async with aclosing(self._engine.generate(order)) as events:
                async for event in events:
                    if isinstance(event, Finish | EngineError):
                        outcome = self._end(name, event)
                    if not has_begun and not isinstance(event, EngineError):
                        has_begun = True
                        self._counts.first_token.labels(name).observe(time.perf_counter() - began)
                    yield event
        finally:
            self._counts.generations.labels(name, outcome).inc()

    async def close(self) -> None:
        await self._engine.close()

    def _name_of(self, order: GenerateOrder) -> str:
        """An adapter by its id. A checkpoint has that of its job, which is not told."""
        if order.adapter is None:
            return BASE
        return (
            CHECKPOINT if order.adapter.language is not None else self._counts.adapters.name(order.adapter.adapter_id)
        )

    def _end(self, name: str, event: Finish | EngineError) -> str:
        """Count the tokens, or the error, and return how the answer ended."""
        counts = self._counts
        if isinstance(event, EngineError):
            counts.generation_errors.labels(counts.codes.name(event.code)).inc()
            return FAILED
        counts.prompt_tokens.labels(name).inc(event.usage.prompt_tokens)
        counts.cached_tokens.labels(name).inc(event.usage.prompt_tokens_details.cached_tokens)
        counts.completion_tokens.labels(name).inc(event.usage.completion_tokens)
        return event.reason
