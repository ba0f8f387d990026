"""Reads for many requests at once: what is requested while a thread reads is read next, together, each thing once.

So a thousand clients cost little more than one, and never use up the threads of other requests. A read begins after
the request that it answers, so a client sees its own changes.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from app.database.connection import AWAY

MOST_AT_ONCE = 200
Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")


class BatchedReads(Generic[Asked, Found]):
    """`read` returns, in a thread, the result of each thing, or the error that its requests get.

    `least_seconds`: the least time between the starts of two reads; requests that arrive meanwhile are read together.
    """

    def __init__(
        self, read: Callable[[Sequence[Asked]], Mapping[Asked, Found | Exception]], least_seconds: float
    ) -> None:
        self._read, self._least_seconds = read, least_seconds
        self._requested: dict[Asked, asyncio.Future[Found]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, asked: Asked) -> Found:
        """Return the result as it is now or a moment later. Raises the error of `read` for it, and those in `AWAY`."""
        answer = self._requested.setdefault(asked, asyncio.get_running_loop().create_future())
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await asyncio.shield(answer)

    async def _read_all(self) -> None:
        limiter = CapacityLimiter(1)
        loop = asyncio.get_running_loop()
        try:
            while self._requested:
                began = loop.time()
                now = dict(list(self._requested.items())[:MOST_AT_ONCE])
                self._requested = {asked: answer for asked, answer in self._requested.items() if asked not in now}
                try:
                    answers = await to_thread.run_sync(self._answers, list(now), limiter=limiter)
                    for asked, future in now.items():
                        _settle(future, answers[asked])
                finally:
                    for future in now.values():
                        future.cancel()  # does nothing if it has its result
                await asyncio.sleep(began + self._least_seconds - loop.time())
        finally:
            self._reading = None

    def _answers(self, requested: Sequence[Asked]) -> Mapping[Asked, Found | Exception]:
        """Read. If one of the things cannot be read, only the requests for that one get the error."""
        try:
            return self._read(requested)
        except AWAY as error:
            return dict.fromkeys(requested, error)
        except Exception as error:  # noqa: BLE001  it is raised in the requests
            if len(requested) == 1:
                return {requested[0]: error}
            return {asked: answer for one in requested for asked, answer in self._answers([one]).items()}


def _settle(future: asyncio.Future[Found], answer: Found | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
        future.exception()  # marked as retrieved, in case every client has disconnected
    else:
        future.set_result(answer)
