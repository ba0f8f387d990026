"""What HTTP clients use of the environment: proxies, of which httpx (also in the hub's client) fails on an invalid one,
and certificates."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
UNUSABLE = (ImportError, ValueError, httpx.InvalidURL)


def is_this_host(url: str) -> bool:
    """Return whether a URL leads to a loopback address, for which no proxy is used."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def needs_certificates(url: str) -> bool:
    """Return whether a client of this URL may have to verify a certificate, of the server or of a proxy.

    Without need none are loaded: that takes tens of milliseconds, longer than a request to a process of this host.
    """
    return urlsplit(url).scheme == "https" or not is_this_host(url)


def broken_proxy() -> str | None:
    """Return a sentence that names the variable of an unusable proxy, or None if all can be used.

    The sentence does not show the value, which may hold a password.
    """
    if _can_be_used(None):
        return None
    set_here = {name: os.environ[name] for each in PROXIES for name in (each, each.lower()) if os.environ.get(name)}
    wrong = next((name for name, proxy in set_here.items() if not _can_be_used(proxy)), None)
    if wrong is not None:
        return f"{wrong} of the environment cannot be used: unset it, or name a proxy such as http://host:3128"
    name = "NO_PROXY" if "NO_PROXY" in os.environ else "no_proxy"
    return f"{name} of the environment cannot be used: it should list host names and addresses"


def _can_be_used(proxy: str | None) -> bool:
    """Return whether a client can be made with this proxy, or for None with all proxies of the environment."""
    try:
        if proxy is None:
            httpx.Client().close()
        else:
            httpx.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False).close()
    except UNUSABLE:
        return False
    return True
