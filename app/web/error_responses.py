"""Gives every request an id, a limit on its size, and one form of error response."""

import json
import logging
import random
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.contracts.spec import JobSpec
from app.database.connection import AWAY, Database
from app.disk_faults import is_full, is_read_only
from app.errors import (
    LONGEST_QUOTE,
    BadRequest,
    DiskFull,
    InvalidRequest,
    NotFound,
    Problem,
    RangeNotSatisfiable,
    ServiceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from app.known_hosts import Refused
from app.processes.logs import request_id
from app.store.faults import STORE_AWAY, StoreAway
from app.web.validation import invalid_request

REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
# The most bytes of a multipart body besides the file itself.
MULTIPART_OVERHEAD_BYTES = 64 * 1024
OPENAI_PREFIX = "/v1/"
# The status in nginx's log for a client that disconnected before the response.
CLIENT_IS_GONE = 499
log = logging.getLogger(__name__)


class ErrorResponse(JSONResponse):
    """JSON in ASCII, so that no character in a client's text can make the response invalid."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False).encode("ascii")


def answer(error: ServiceError, request_id: str | None, path: str = "") -> ErrorResponse:
    """Return the response of an error.

    Below /v1 a wrong field has OpenAI's status, 400, and OpenAI's clients are told not to retry a conflict.
    """
    headers = {"x-request-id": request_id} if request_id else {}
    status = error.status
    if path.startswith(OPENAI_PREFIX):
        status = 400 if status == 422 else status
        headers |= {"x-should-retry": "false"} if status in (408, 409) else {}
    if isinstance(error, Unavailable):
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    return ErrorResponse(error.body(request_id), status_code=status, headers=headers)


def refuse(refused: Refused) -> ErrorResponse:
    """Return the response to a request that `KnownHosts` refused."""
    error = BadRequest(refused.message, param=refused.param, code=refused.code)
    error.status = refused.status
    return answer(error, None)


def install_error_handlers(app: FastAPI) -> None:
    """Turn every failure of a request into a ServiceError. Unexpected ones are logged with their traceback."""

    def id_of(request: Request) -> str | None:
        return request.scope.get("request_id")

    @app.exception_handler(ServiceError)
    def service_error(request: Request, error: ServiceError) -> ErrorResponse:
        return answer(error, id_of(request), request.url.path)

    @app.exception_handler(RequestValidationError)
    def validation_error(request: Request, error: RequestValidationError) -> ErrorResponse:
        found = invalid_request(error.errors(), _body_model(request), error.body)
        return answer(found, id_of(request), request.url.path)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> ErrorResponse:
        return answer(_of_status(error, request), id_of(request), request.url.path)

    def storage_error(request: Request, error: Exception) -> ErrorResponse:
        found = of_storage(error, request.app.state.database)
        why = str(error) if isinstance(error, StoreAway) else type(error).__name__
        log.error("request %s failed: %s (%s)", id_of(request), found.message, why)
        return answer(found, id_of(request), request.url.path)

    for kind in (*AWAY, OSError, StoreAway):
        app.add_exception_handler(kind, storage_error)
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=CLIENT_IS_GONE))

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> ErrorResponse:
        log.exception("request %s failed", id_of(request), exc_info=error)
        return answer(
            ServiceError("the service failed; its log has the traceback under this request id"), id_of(request)
        )


def _body_model(request: Request) -> type[BaseModel]:
    """Return the model of the route's body, whose field names are suggested for unknown ones."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = field.field_info.annotation if field is not None else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else JobSpec


def of_storage(error: Exception, database: Database) -> ServiceError:
    """Return the error that a client gets if a disk, the database or the store fails. Raises any other error again."""
    if is_full(error, database.folder):
        return DiskFull("a disk of the service is full: nothing can be stored before an operator has made room")
    if is_read_only(error, database.folder):
        return Unavailable("a disk of the service, or its database, is read-only", code="storage_read_only")
    if isinstance(error, StoreAway):
        return Unavailable("the store of files cannot be used at present: try again later", code=STORE_AWAY)
    if isinstance(error, AWAY):
        return Unavailable("the database is not available", code="database_unavailable")
    raise error


def _of_status(error: HTTPException, request: Request) -> ServiceError:
    if isinstance(error.__cause__, ServiceError):  # FastAPI reports any error while a body is read as bad syntax
        return error.__cause__
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.method} {request.url.path[:LONGEST_QUOTE]}", code="unknown_path")
    if error.status_code == 405:
        method = BadRequest(f"{request.method} is not possible here", code="method_not_allowed")
        method.status = 405
        return method
    if error.status_code == 400:  # from Starlette, for a body that cannot be parsed
        problem = Problem(
            field="body", code="invalid_body", found="what cannot be parsed", expected="the described form"
        )
        return InvalidRequest(f"body: {str(error.detail)[:500]}", param="body", details=[problem])
    wrong = BadRequest(str(error.detail)[:500])
    wrong.status = error.status_code
    return wrong


class RequestLimits:
    """ASGI middleware: gives each request an id, and answers 413 if its body is larger than the limit."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_upload_bytes: int) -> None:
        self._app = app
        self._body = max_body_bytes
        self._upload = max_upload_bytes + MULTIPART_OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        scope["request_id"] = given if REQUEST_ID.match(given) else f"req-{random.getrandbits(64):016x}"
        request_id.set(scope["request_id"])
        limit = self._upload if (scope["method"], scope["path"]) == ("POST", "/files") else self._body
        declared = headers.get(b"content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await self._refuse(limit, declared, scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), _named(send, scope["request_id"]))

    async def _refuse(self, limit: int, declared: str, scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(field="body", code="too_large", found=f"{declared} bytes", expected=f"at most {limit} bytes")
        error = TooLarge(f"body: found {declared} bytes, expected at most {limit}", param="body", details=[problem])
        await answer(error, scope["request_id"])(scope, receive, send)


class HeadRequests:
    """ASGI middleware: every GET route also answers HEAD, with status and headers only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        is_answered = False

        async def send_head(message: Message) -> None:
            nonlocal is_answered
            if not is_answered and message["type"] == "http.response.start":
                scope["route"] = as_get.get("route")  # middlewares outside of this one look for it
                await send(message)
            elif not is_answered:
                is_answered = True  # so that an endless stream sees its client disconnect
                await send({"type": "http.response.body", "body": b""})

        await self._app(as_get, receive, send_head)


class BrowserHeaders:
    """ASGI middleware: adds headers that forbid browsers to run a response, frame it, or pass it to other origins.

    An uploaded file may be HTML, and must not run as a page of this service.
    """

    HEADERS = (
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                added = [pair for pair in self.HEADERS if pair[0] not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_headers if scope["type"] == "http" else send)


def _counted(receive: Receive, limit: int) -> Receive:
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise TooLarge(f"body: found more than {limit} bytes, expected at most {limit}", param="body")
        return message

    return counted


def _named(send: Send, request_id: str) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            message = {**message, "headers": [*headers, (b"x-request-id", request_id.encode("ascii"))]}
        await send(message)

    return named
