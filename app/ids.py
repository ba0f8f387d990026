"""Ids: a prefix for the kind, and 120 random bits in lower-case base32."""

import base64
import secrets


def new_id(prefix: str) -> str:
    """Return a new id such as `job-…` or `file-…`, with 24 characters of a-z and 2-7 after the prefix."""
    return f"{prefix}-{base64.b32encode(secrets.token_bytes(15)).decode().lower()}"
