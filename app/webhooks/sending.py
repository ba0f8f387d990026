"""Sends one message to a URL that a user has named, and never to an address that the operator does not allow.

The name is resolved once. Every address that it has is checked, and the connection is made to a checked one, while the
certificate and the `Host` header are those of the name. So a name that changes its address meanwhile, or has an inner
one among others, leads nowhere. Redirects are not followed, and nothing of an answer but its status is read.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ssl import SSLContext
from typing import Any

import httpcore
import httpx
from standardwebhooks import Webhook

from app import __version__
from app.database.connection import utc_now
from app.public_addresses import Address, Network, is_among, is_public, read_address
from app.webhooks.urls import read_webhook_url

SECONDS = 10.0
Resolve = Callable[[str, int], Sequence[str]]
# At the level DEBUG it logs requests with their headers.
logging.getLogger("httpcore").setLevel(logging.WARNING)


class NotAllowed(Exception):
    """The host of a URL leads to an address that may not be called. The message names the rule."""


@dataclass(frozen=True)
class WebhookMessage:
    """What one attempt sends. `secrets`: each signs it."""

    id: str
    url: str
    secrets: Sequence[str]
    payload: str


@dataclass(frozen=True)
class DeliveryOutcome:
    """What became of one attempt. `status` of HTTP, None without an answer; `error` None after a success."""

    status: int | None
    error: str | None


def resolve(host: str, port: int) -> list[str]:
    """Return all addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class WebhookSender:
    """Sends messages to the public internet and to the private networks that the operator allows."""

    def __init__(self, private: Sequence[Network], *, seconds: float = SECONDS, resolve: Resolve = resolve) -> None:
        self._private, self._seconds, self._resolve = private, seconds, resolve
        self._certificates = httpx.create_ssl_context()

    def send(self, message: WebhookMessage) -> DeliveryOutcome:
        """Send a message once. It takes at most the time limit, besides the resolution of the name."""
        try:
            url = read_webhook_url(message.url, self._private)
            status = self._post(url, message)
        except ValueError as error:
            return DeliveryOutcome(None, f"the URL {error}")
        except NotAllowed as refusal:
            return DeliveryOutcome(None, str(refusal))
        except httpcore.TimeoutException:
            return DeliveryOutcome(None, f"no answer within {self._seconds:g} seconds")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return DeliveryOutcome(None, f"no answer: {_reason(error)}")
        if 200 <= status < 300:
            return DeliveryOutcome(status, None)
        redirects = ": redirects are not followed" if 300 <= status < 400 else ""
        return DeliveryOutcome(status, f"it answered {status}, expected 2xx{redirects}")

    def _post(self, url: httpx.URL, message: WebhookMessage) -> int:
        backend = _CheckedBackend(self._private, self._resolve, url.scheme == "http", self._seconds)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("host", url.netloc),
            ("content-type", "application/json"),
            ("user-agent", f"tunesmith/{__version__}"),
            ("connection", "close"),
            *signed_headers(message, utc_now()).items(),
        ]
        with (
            httpcore.ConnectionPool(ssl_context=self._certificates, network_backend=backend, retries=0) as pool,
            pool.stream("POST", target, headers=headers, content=message.payload.encode()) as answer,
        ):
            return answer.status


def signed_headers(message: WebhookMessage, now: datetime) -> dict[str, str]:
    """Return the headers of the Standard Webhooks scheme, with one signature for each secret."""
    signatures = [Webhook(secret).sign(message.id, now, message.payload) for secret in message.secrets]
    return {
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error.__context__ or error
    return f"{type(cause).__name__}: {cause}"[:300] if str(cause) else type(cause).__name__


class _CheckedBackend(httpcore.NetworkBackend):
    """Opens connections to checked addresses alone, all within one time limit."""

    def __init__(self, private: Sequence[Network], resolve: Resolve, is_plain: bool, seconds: float) -> None:
        self._private, self._resolve, self._is_plain, self._seconds = private, resolve, is_plain, seconds
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the limit of this backend is in force
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._checked(host, port)
        deadline = _Deadline(time.monotonic() + self._seconds)
        for place, address in enumerate(addresses, 1):
            try:
                left = deadline.left() / (len(addresses) - place + 1)
                stream = self._inner.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(addresses):
                    raise
            else:
                return _BoundedStream(stream, deadline)
        raise httpcore.ConnectError(f"{host} has no address")

    def _checked(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host. Raises NotAllowed if a connection to one of them is not allowed."""
        found = self._resolve(host, port)
        if not all(self._is_allowed(read_address(address)) for address in found):
            whose = "http is for" if self._is_plain else "its host has an address outside of the public internet and"
            raise NotAllowed(f"{whose} networks of TUNESMITH_WEBHOOK_PRIVATE_NETWORKS")
        return found

    def _is_allowed(self, address: Address) -> bool:
        return is_among(address, self._private) or (is_public(address) and not self._is_plain)


class _Deadline:
    def __init__(self, at: float) -> None:
        self._at = at

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutException if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _BoundedStream(httpcore.NetworkStream):
    """A connection of which all reads and writes together have one time limit, however slowly the bytes come."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        return _BoundedStream(
            self._inner.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
