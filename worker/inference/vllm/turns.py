"""Kinds of requests in turns: those that must not be computed, or cannot be answered, beside each other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Place:
    kind: str


class Turns:
    """Any number of one kind at once, never two kinds. For one event loop.

    First come, first served; when the kind changes, all who wait for the new one come in together.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._queue: deque[Place] = deque()
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
        place = Place(kind)
        async with self._changed:
            self._queue.append(place)
            try:
                await self._changed.wait_for(lambda: self._queue[0] is place and self._kind in (None, kind))
                if self._kind is None:
                    self._queue = deque(sorted(self._queue, key=lambda other: other.kind != kind))
                self._kind, self._inside = kind, self._inside + 1
            finally:
                self._queue.remove(place)
                self._changed.notify_all()
