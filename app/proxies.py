"""The proxies that the environment names. httpx, which the hub's client uses too, fails at once on one that is none."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
UNUSABLE = (ImportError, ValueError, httpx.InvalidURL)


def is_this_host(url: str) -> bool:
    """Whether a URL leads to a loopback address, before which no proxy can stand."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def broken_proxy() -> str | None:
    """The variable that names no usable proxy, by its name; its value may hold a password. None: all can be used."""
    if _can_be_used(None):
        return None
    set_here = {name: os.environ[name] for each in PROXIES for name in (each, each.lower()) if os.environ.get(name)}
    wrong = next((name for name, proxy in set_here.items() if not _can_be_used(proxy)), None)
    if wrong is not None:
        return f"{wrong} of the environment cannot be used: unset it, or name a proxy such as http://host:3128"
    name = "NO_PROXY" if "NO_PROXY" in os.environ else "no_proxy"
    return f"{name} of the environment cannot be used: it should list host names and addresses"


def _can_be_used(proxy: str | None) -> bool:
    """Whether a client can be made with a proxy; None: with all that the environment names."""
    try:
        if proxy is None:
            httpx.Client().close()
        else:
            httpx.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False).close()
    except UNUSABLE:
        return False
    return True
