"""The proxies that the environment names, as far as a client has to tell of them."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def is_this_host(url: str) -> bool:
    """Whether a URL leads to a loopback address, before which no proxy can stand."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def broken_proxy() -> str | None:
    """The variable of a proxy that cannot be used, by its name; its value may hold a password."""
    set_here = {name: os.environ[name] for each in PROXIES for name in (each, each.lower()) if os.environ.get(name)}
    for name, proxy in set_here.items():
        try:
            httpx.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False).close()
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            reason = "SOCKS is not supported" if isinstance(error, ImportError) else "it is no URL of a proxy"
            return f"{name} of the environment cannot be used: {reason}; unset it, or name an http:// proxy"
    name = next((name for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)), None)
    return f"{name} of the environment cannot be used: it should list host names and addresses" if name else None
