"""Accepts only requests that were meant for this service. Web pages in a browser on the same host are not trusted.

A page whose name was pointed at 127.0.0.1 (DNS rebinding) is recognised by its `Host`, a page that posts across origins
(CSRF) by its `Origin` or `Sec-Fetch-Site`. A service that asks for no keys serves only clients on loopback, unless the
operator trusts the network. All of this is decided from the headers, before the body is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS_VARIABLE = "TUNESMITH_ALLOWED_HOSTS"
ORIGINS_VARIABLE = "TUNESMITH_ALLOWED_ORIGINS"
TRUST_VARIABLE = "TUNESMITH_TRUST_NETWORK"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Longer texts are not IP addresses (the longest have the form `::1%interface`), and are not cached.
LONGEST_ADDRESS = 64
NO_KEYS = (
    f"a service that asks for no keys only serves loopback: set TUNESMITH_KEYS=required; with {TRUST_VARIABLE}=1 "
    "everybody who reaches its address may use it, read all data and delete it"
)


@dataclass(frozen=True)
class Refused:
    """Why a request is refused. `param` is the header."""

    status: int
    code: str
    param: str
    message: str


@dataclass(frozen=True)
class HostRules:
    """`hosts` are further names of this service, `origins` the web pages that may use it, such as https://ui.example."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    trusts_network: bool = False

    @classmethod
    def of(cls, hosts: str, origins: str, *, trusts_network: bool) -> "HostRules":
        """Make the rules from the values of the two variables, which are lists separated by commas."""
        return cls(frozenset(split_list(hosts.lower())), frozenset(split_list(origins)), trusts_network)


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def is_loopback(host: str) -> bool:
    """Return whether only clients on this host can reach a server that is bound to this address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class KnownHosts:
    """ASGI middleware around an application. `respond` makes the application that answers a refused request."""

    def __init__(self, app: ASGIApp, rules: HostRules, respond: Callable[[Refused], ASGIApp]) -> None:
        self._app = app
        self._rules = rules
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = check(scope, self._rules) if scope["type"] == "http" else None
        await (self._app if refused is None else self._respond(refused))(scope, receive, send)


def check(scope: Scope, rules: HostRules) -> Refused | None:
    """Return why the request of an ASGI scope is refused, or None if it is accepted."""
    server = (scope.get("server") or ("", None))[0]  # the address of this end of the connection
    address = _address(server)
    if not rules.trusts_network and address is not None and not address.is_loopback:
        return Refused(403, "network_not_trusted", "host", NO_KEYS)
    host = _one(scope, b"host")
    if host is None or not _is_ours(host, server, rules):
        expected = f"localhost, the address of this service, or a name that {HOSTS_VARIABLE} lists"
        return Refused(400, "unknown_host", "host", f"host: found {_shown(host)}, expected {expected}")
    if scope["method"] in SAFE_METHODS:
        return None
    return _check_origin(scope, host, rules)


def _check_origin(scope: Scope, host: str, rules: HostRules) -> Refused | None:
    """Browsers send the origin of a request; other clients do not."""
    origins = _all(scope, b"origin")
    if origins and all(origin in rules.origins for origin in origins):
        return None
    is_foreign = any(_netloc(origin) != host.lower() for origin in origins)
    if is_foreign or "cross-site" in _all(scope, b"sec-fetch-site"):
        expected = f"no page of another origin, or one that {ORIGINS_VARIABLE} lists"
        found = _shown(origins[0] if origins else None)
        return Refused(403, "foreign_origin", "origin", f"origin: found {found}, expected {expected}")
    return None


def _netloc(origin: str) -> str | None:
    """Return host and port of an origin, or None for `null` and for text that is no origin.

    Schemes are not compared: a proxy in front of the service may speak https where the service speaks http.
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") and parts.netloc else None


def _is_ours(host: str, server: str, rules: HostRules) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    address = _address(name)
    if address is None:
        return name == "localhost" or name in rules.hosts
    # The owner of a name can point it at any address, so only known names are accepted.
    return address.is_loopback or rules.trusts_network or name == server or name in rules.hosts


@lru_cache(maxsize=1000)  # every request has two addresses, and most are the same
def _address(text: str) -> IPv4Address | IPv6Address | None:
    if len(text) > LONGEST_ADDRESS:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def _all(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _one(scope: Scope, name: bytes) -> str | None:
    values = _all(scope, name)
    return values[0] if len(values) == 1 else None


def _shown(value: str | None) -> str:
    return "none, or several" if value is None else ascii(value[:100])
