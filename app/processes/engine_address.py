"""The address and the key of the engine, and HTTP clients for it.

On the same host it is a unix socket that only this user can open. Elsewhere it is a URL and a key of the operator.
"""

import socket
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.proxies import is_this_host, needs_certificates

KEY_VARIABLE, URL_VARIABLE = "TUNESMITH_ENGINE_KEY", "TUNESMITH_ENGINE_URL"
UNIX = "unix"
# The most bytes of a unix socket's path (`man 7 unix`).
LONGEST_SOCKET_PATH = 107
DEFAULT_LIMITS = httpx.Limits()
SHORTEST_KEY = 16
# The code of the engine's error for a request without its key.
WRONG_KEY = "wrong_engine_key"
SAYS_WRONG_KEY = f"the engine refused this service's key: {KEY_VARIABLE} must be the same for both"


def is_listened_on(path: Path) -> bool:
    """Return whether a process accepts connections on a unix socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class _UnixTransport(httpx.HTTPTransport):
    """Tests the socket before it connects, because httpcore leaks the descriptor of a refused connection."""

    def __init__(self, path: Path) -> None:
        super().__init__(uds=str(path), verify=False)  # there is no TLS on a unix socket
        self._path = path

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not is_listened_on(self._path):
            raise httpx.ConnectError("no process listens on the socket", request=request)
        return super().handle_request(request)


@dataclass(frozen=True)
class EngineAddress:
    """`url` is `unix:///absolute/path`, or `http(s)://host:port`."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path | None:
        """The unix socket's path, or None for an engine that is reached over TCP."""
        parts = urlsplit(self.url)
        return Path(parts.path) if parts.scheme == UNIX else None

    @property
    def name(self) -> str:
        """What the engine is called where clients of the service can read it: its host and port, or its socket."""
        parts = urlsplit(self.url)
        return Path(parts.path).name if parts.scheme == UNIX else f"{parts.hostname}:{parts.port or parts.scheme}"

    def client(self, timeout: httpx.Timeout | float) -> httpx.Client:
        verify = needs_certificates(self._base_url)
        transport = httpx.HTTPTransport(verify=verify) if self.socket is None else _UnixTransport(self.socket)
        return httpx.Client(transport=transport, timeout=timeout, **self._common)

    def async_client(self, timeout: httpx.Timeout, limits: httpx.Limits = DEFAULT_LIMITS) -> httpx.AsyncClient:
        path = None if self.socket is None else str(self.socket)
        transport = httpx.AsyncHTTPTransport(uds=path, limits=limits, verify=needs_certificates(self._base_url))
        return httpx.AsyncClient(transport=transport, timeout=timeout, **self._common)

    @property
    def _base_url(self) -> str:
        return self.url if self.socket is None else "http://localhost"

    @property
    def _common(self) -> dict[str, Any]:
        """Arguments of both clients. Proxies are not used between two processes of one service."""
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        return {"base_url": self._base_url, "headers": headers, "trust_env": False}


def read_engine_url(text: str) -> str:
    """Return the text. Raises ValueError if it is no address of an engine."""
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("found a user name or a password, expected the key in TUNESMITH_ENGINE_KEY")
    is_socket = parts.scheme == UNIX and not parts.netloc and parts.path.startswith("/")
    if not is_socket and not (parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError(f"found {text!r}, expected unix:///path/of/a/socket, or a URL such as http://gpu-host:8100")
    return text


def split_urls(text: str) -> list[str]:
    """Return the addresses of several engines, which are separated by commas. Raises ValueError as `read_engine_url`,
    and for two that could not be told apart."""
    urls = [read_engine_url(url.strip()) for url in text.split(",")]
    names = [EngineAddress(url).name for url in urls]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"found {twice} more than once, expected every engine once")
    return urls


def read_key(text: str) -> str:
    """Return the text. Raises ValueError, without showing it, for a key that is short or does not fit in a header."""
    if len(text) < SHORTEST_KEY or not all("!" <= char <= "~" for char in text):
        rule = f"at least {SHORTEST_KEY} characters of printable ASCII, without spaces"
        raise ValueError(f"should have {rule}: `openssl rand -hex 32` makes such a key")
    return text


def check_privacy(url: str, variable: str, *, trusts_network: bool) -> None:
    """Raise ValueError for a server that is reached over a network without TLS, unless the operator trusts it."""
    if urlsplit(url).scheme == "http" and not is_this_host(url) and not trusts_network:
        raise ValueError(
            f"{variable}: found {url}, expected https or an address of this host: the key and all texts would cross "
            "the network unencrypted; TUNESMITH_TRUST_NETWORK=1 allows that"
        )
