"""Several generations at once end together, and each of them to its last step."""

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest

from app.contracts.generation import EngineError, EngineEvent, EngineHealth, GenerateOrder, TextDelta, Usage
from app.contracts.order import BaseRef
from app.errors import EngineUnavailable
from app.generate.parallel import collect, generate_all

ORDER = GenerateOrder(request_id="r", base=BaseRef(source="m", is_local=True), prompt="x")


class SlowlyClosing:
    """Answers without end. To close an answer takes it some turns of the loop, as closing a connection does."""

    def __init__(self, *, fails: bool = False) -> None:
        self.begun = 0
        self.closed = 0
        self._fails = fails

    async def health(self) -> EngineHealth:
        return EngineHealth(device="cpu", loaded_base=None, loaded_adapters=[], waiting=0, is_busy=False)

    async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        self.begun += 1
        is_last = self.begun == 3
        try:
            while True:
                await asyncio.sleep(0)
                if self._fails and is_last:
                    raise RuntimeError("nobody foresaw this")
                yield TextDelta(text="x")
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            self.closed += 1

    async def close(self) -> None:
        """It holds nothing."""


def test_a_reader_that_is_cancelled_again_and_again_lets_every_answer_close() -> None:
    engine = SlowlyClosing()

    async def read() -> None:
        async for _ in generate_all(engine, [ORDER] * 3):
            pass

    async def leave() -> None:
        async with anyio.create_task_group() as group:  # cancels a task anew at each of its waits
            group.start_soon(read)
            while engine.begun < 3:
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
        async with asyncio.timeout(20):
            while engine.closed < 3:
                await asyncio.sleep(0)

    asyncio.run(leave())

    assert engine.closed == 3


def test_an_answer_that_is_left_counts_what_was_made() -> None:
    counted: dict[int, int] = {}

    def count(place: int, used: Usage) -> None:
        counted[place] = used.total_tokens

    async def leave() -> None:
        events = generate_all(SlowlyClosing(), [ORDER] * 2, count)

        async for place, _ in events:
            if place == 1:
                break
        await events.aclose()

    asyncio.run(leave())

    assert counted.keys() == {0, 1}
    assert min(counted.values()) >= 1


def test_a_failure_of_one_is_raised_and_closes_all() -> None:
    engine = SlowlyClosing(fails=True)

    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        asyncio.run(collect(engine, [ORDER] * 3))

    assert engine.closed == 3


def test_what_comes_after_an_error_is_not_read() -> None:
    class Refusing(SlowlyClosing):
        async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
            yield EngineError(status=503, code="away", message="away")
            raise AssertionError("it was read on")

    with pytest.raises(EngineUnavailable, match="away"):
        asyncio.run(collect(Refusing(), [ORDER]))
