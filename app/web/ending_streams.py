"""Ends a stream of events when the key that opened it is no longer valid."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Send

from app.database.connection import AWAY
from app.errors import Unauthenticated

# Streams send a ping every fifteen seconds, so a stream outlives its key by no more than that.
SECONDS = 5.0
EVENT_STREAM = b"text/event-stream"


class EndingStream:
    """Stands between an application and its server, for one request. `check` raises Unauthenticated."""

    def __init__(self, receive: Receive, send: Send, check: Callable[[], Awaitable[object]]) -> None:
        self._receive, self._send, self._check = receive, send, check
        self._is_stream = False
        self._checked_at = time.monotonic()
        self._over = asyncio.Event()

    async def receive(self) -> Message:
        """The application sees its client disconnect once the key is not valid."""
        if not self._is_stream:
            return await self._receive()
        message, over = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({message, over}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            over.cancel()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_stream = dict(message["headers"]).get(b"content-type", b"").startswith(EVENT_STREAM)
        elif self._is_stream and message.get("more_body"):
            await self._look()
        if not self._over.is_set():
            await self._send(message)

    async def _look(self) -> None:
        if self._over.is_set() or time.monotonic() - self._checked_at < SECONDS:
            return
        self._checked_at = time.monotonic()
        try:
            await self._check()
        except Unauthenticated:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self._over.set()
        except AWAY:
            return  # the next look tells
