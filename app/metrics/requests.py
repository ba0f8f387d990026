"""Counts requests, and how long their answers took to begin."""

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError
from app.metrics.counts import OTHER, Counts

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
EVENT_STREAM = b"text/event-stream"


class CountedRequests:
    """ASGI middleware, the outermost one, so that it counts what others refuse too."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app = app
        self._counts = counts
        self._labelled: dict[tuple[str, ...], Any] = {}  # looking up a child by its labels costs more than counting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(self, scope, send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            answer.fail()  # the handler of unexpected errors is outside of all middlewares
            raise
        finally:
            answer.end()

    def begin(self, method: str, route: str, status: int, seconds: float) -> None:
        self._child(self._counts.requests, method, route, str(status)).inc()
        self._child(self._counts.seconds, method, route).observe(seconds)

    def stream(self, route: str, change: int) -> None:
        self._child(self._counts.open_streams, route).inc(change)

    def error(self, code: str) -> None:
        self._child(self._counts.errors, self._counts.codes.name(code)).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        found = self._labelled.get(key)
        if found is None:
            found = self._labelled[key] = metric.labels(*labels)
        return found


class _Answer:
    """Watches the messages of one answer."""

    def __init__(self, counts: CountedRequests, scope: Scope, send: Send) -> None:
        self._counts, self._scope, self._send = counts, scope, send
        self._began = time.perf_counter()
        self._has_begun = self._is_error = self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        elif self._is_error:
            self._is_error = False
            self._counts.error(_code(message.get("body", b"")))
        await self._send(message)

    def fail(self) -> None:
        if not self._has_begun:
            self._begin(ServiceError.status, ())
            self._counts.error(ServiceError.code)
            self._is_error = False

    def end(self) -> None:
        if self._is_stream:
            self._counts.stream(self._route, -1)

    def _begin(self, status: int, headers: Any) -> None:
        method = self._scope["method"]
        self._route = getattr(self._scope.get("route"), "path", OTHER)
        self._has_begun, self._is_error = True, status >= 400
        self._is_stream = any(name == b"content-type" and value.startswith(EVENT_STREAM) for name, value in headers)
        known = method if method in METHODS else OTHER
        self._counts.begin(known, self._route, status, time.perf_counter() - self._began)
        if self._is_stream:
            self._counts.stream(self._route, 1)


def _code(body: bytes) -> str:
    """Return the code of an error's body. Answers that are no error of ours, such as that of a proxy, have none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return OTHER
