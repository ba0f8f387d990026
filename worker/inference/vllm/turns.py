"""Base and adapters in turns, for a vLLM in which the one must not be computed beside the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Any number of one kind at once, never two kinds; first come, first served. For one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._queue: deque[object] = deque()
        self._kind: str | None = None
        self._inside = 0

    @asynccontextmanager
    async def of(self, kind: str) -> AsyncIterator[None]:
        await self._enter(kind)
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._kind = kind if self._inside else None
                self._changed.notify_all()

    async def _enter(self, kind: str) -> None:
        place = object()
        async with self._changed:
            self._queue.append(place)
            try:
                await self._changed.wait_for(lambda: self._queue[0] is place and self._kind in (None, kind))
                self._kind, self._inside = kind, self._inside + 1
            finally:
                self._queue.remove(place)
                self._changed.notify_all()
