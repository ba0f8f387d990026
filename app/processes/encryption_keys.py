"""The keys with which stored secrets are encrypted: `TUNESMITH_SECRET_KEY`, or a file of a laptop."""

import base64
import binascii
import os
import secrets
from pathlib import Path

KEY_BYTES = 32
HOW_TO_MAKE_ONE = "`openssl rand -base64 32` makes one"
EXPECTED = f"should be 32 random bytes in base64, or several with commas, the newest first: {HOW_TO_MAKE_ONE}"


def read_keys(text: str) -> list[bytes]:
    """Return keys in the form of `cryptography`'s Fernet. The first one encrypts, all of them decrypt.

    Raises ValueError, without a part of a value.
    """
    keys = [_read_key(part.strip()) for part in text.split(",") if part.strip()]
    if not keys:
        raise ValueError(EXPECTED)
    return keys


def _read_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(EXPECTED) from None
    if len(key) != KEY_BYTES:
        raise ValueError(EXPECTED)
    return base64.urlsafe_b64encode(key)


def make_key_file(path: Path) -> None:
    """Write a new key for this user alone, unless the file exists. Of two processes that do it at once one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
