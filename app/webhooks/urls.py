"""Reads the URL of a webhook. Names are resolved only when something is sent (`app.webhooks.sending`)."""

import re
from collections.abc import Sequence

import httpx

from app.public_addresses import Network, is_among, is_public, read_address

LONGEST_URL = 2048
HOST = re.compile(rb"[a-z0-9._:-]+")


def read_webhook_url(text: str, private: Sequence[Network]) -> httpx.URL:
    """Return the URL. `private`: networks that the operator allows. Raises ValueError, without the URL."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise ValueError("should be a URL such as https://example.com/hook") from None
    if url.scheme not in ("https", "http") or not url.host or len(text) > LONGEST_URL:
        raise ValueError(f"should be a URL such as https://example.com/hook of at most {LONGEST_URL} characters")
    if not HOST.fullmatch(url.raw_host):
        raise ValueError("should be a URL with the name or the address of a host")
    if url.userinfo or url.fragment:
        raise ValueError("should be a URL without a user name, a password and a fragment")
    if url.scheme == "http" and not private:
        raise ValueError("should begin with https://: http is for networks of TUNESMITH_WEBHOOK_PRIVATE_NETWORKS")
    _check_host(url, private)
    return url


def _check_host(url: httpx.URL, private: Sequence[Network]) -> None:
    try:
        address = read_address(url.host)
    except ValueError:
        return  # a name
    if not is_among(address, private) and (url.scheme == "http" or not is_public(address)):
        raise ValueError("should be a host of the public internet, or of TUNESMITH_WEBHOOK_PRIVATE_NETWORKS")
