"""Where the store is and with what it is opened, read from the operator's variables.

What is not set here (region, endpoint, role, certificates) boto finds in its own AWS_ variables.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from app.processes.engine_address import check_privacy
from app.processes.secret_files import read_secret

URL, ENDPOINT, ADDRESSING, CACHE = (
    f"TUNESMITH_STORE_{name}" for name in ("URL", "ENDPOINT", "ADDRESSING", "CACHE_BYTES")
)
KEY_ID, SECRET_KEY, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
Addressing = Literal["auto", "path", "virtual"]
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
CACHE_BYTES = 100 * 2**30


@dataclass(frozen=True)
class StorePlace:
    """One bucket, and the prefix below which all objects of an installation are. Without keys boto looks for some."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    addressing: Addressing = "auto"
    key_id: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def read_store_url(text: str) -> tuple[str, str]:
    """Return bucket and prefix. Raises ValueError, without showing a password, for what is no URL of a bucket."""
    parts = urlsplit(text)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    is_plain = parts.scheme == "s3" and not parts.query and not parts.fragment and "@" not in bucket
    if not (is_plain and BUCKET.fullmatch(bucket) and (not prefix or PREFIX.fullmatch(prefix))) or ".." in prefix:
        raise ValueError("should be s3://bucket or s3://bucket/prefix, of lower case letters, digits, dots and hyphens")
    return bucket, prefix


def check_endpoint(url: str, *, trusts_network: bool) -> str:
    """Return the URL. Raises ValueError for one that is no http(s) URL, or that crosses a network without TLS."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{ENDPOINT}: should be a URL without a password, such as https://minio.example:9000")
    check_privacy(url, ENDPOINT, trusts_network=trusts_network)
    return url


def place_of(
    url: str | None, endpoint: str | None, addressing: Addressing, environment: Mapping[str, str]
) -> StorePlace | None:
    """Return the place of the store, with the keys of the environment, or None if no store is used.

    Raises ValueError for a URL that cannot be used, and for a file of a key that cannot be read.
    """
    if not url:
        return None
    bucket, prefix = read_store_url(url)
    key_id, secret_key, token = (read_secret(name, environment) for name in (KEY_ID, SECRET_KEY, TOKEN))
    if (key_id is None) != (secret_key is None):
        raise ValueError(f"{KEY_ID} and {SECRET_KEY}: one of them is set, set both")
    return StorePlace(bucket, prefix, endpoint, addressing, key_id, secret_key, token)


def place_in(environment: Mapping[str, str], *, trusts_network: bool) -> StorePlace | None:
    """Do the same as `place_of` for a process that does not read the settings, from the same variables."""
    endpoint, addressing = environment.get(ENDPOINT) or None, environment.get(ADDRESSING) or "auto"
    if addressing not in get_args(Addressing):
        raise ValueError(f"{ADDRESSING}: found {addressing!r}, expected {' or '.join(get_args(Addressing))}")
    if endpoint is not None:
        check_endpoint(endpoint, trusts_network=trusts_network)
    known: dict[str, Addressing] = {name: name for name in get_args(Addressing)}
    return place_of(environment.get(URL), endpoint, known[addressing], environment)
