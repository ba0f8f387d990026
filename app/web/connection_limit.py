"""Limits the connections of an API process: requests on a further one get an error, and it is closed.

uvicorn's own response above its limit is plain text; this one has the form of all errors.
"""

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from app.errors import Unavailable
from app.slow_clients import TimedProtocol


class LimitedProtocol(TimedProtocol):
    """HTTP/1.1 on one connection. If `limit_concurrency` connections are open already, its requests are refused."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._most, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self.app = _refuse


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    from app.web.error_responses import answer  # the process that only starts the others need not load it

    error = Unavailable("the service has its most connections open: try again later", code="too_many_connections")
    response = answer(error, None)
    response.headers["connection"] = "close"
    await response(scope, receive, send)
