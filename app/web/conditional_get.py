"""Sends 304 without a body instead of a response that the client already has."""

import hashlib
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HASH_BYTES = 16


class ConditionalGets:
    """ASGI middleware: every JSON response to a GET has an `ETag`, and becomes a 304 if `If-None-Match` names it.

    The tag is a hash of the body, so a changed response is never a 304.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        held: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _can_be_tagged(message):
                held = message
                return
            if held is not None:
                start, held = held, None
                if not message.get("more_body"):
                    start, message = _tagged(start, message, Headers(scope=scope).getlist("if-none-match"))
                await send(start)
            await send(message)

        await self._app(scope, receive, send_tagged)


def _can_be_tagged(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return start["status"] == 200 and headers.get("content-type") == "application/json" and "etag" not in headers


def _tagged(start: Message, body: Message, known: Iterable[str]) -> tuple[Message, Message]:
    """Return the two messages of the tagged response, or those of a 304 if the client knows the tag."""
    tag = f'"{hashlib.blake2b(body.get("body", b""), digest_size=HASH_BYTES).hexdigest()}"'
    tagged = {"etag": tag, "cache-control": "no-cache"}  # caches must validate it before they use it
    if tag in tags_of(known):
        headers = [(name.encode(), value.encode()) for name, value in tagged.items()]
        return {**start, "status": 304, "headers": headers}, {"type": "http.response.body", "body": b""}
    start = {**start, "headers": list(start["headers"])}
    MutableHeaders(raw=start["headers"]).update(tagged)
    return start, body


def tags_of(headers: Iterable[str]) -> set[str]:
    """Return the tags of headers such as `W/"a", "b"`. Proxies that compress a response make its tag weak."""
    return {tag.strip().removeprefix("W/") for header in headers for tag in header.split(",")}
