"""The secret of an installation, which is kept outside of its database: keys of callers are hashed with it."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from app.config import Settings
from app.known_hosts import split_list

FILE_NAME = "secret.key"
PURPOSE = b"keys of callers"


def secret_keys(settings: Settings) -> Sequence[str]:
    """Return the secrets, the newest first: those of the settings, or that of a file in the home, made if missing."""
    return split_list(settings.secret_key) if settings.secret_key else [_of_file(settings.root / FILE_NAME)]


def peppers(settings: Settings) -> Sequence[bytes]:
    """Return what secrets of callers are hashed with, the newest first. Each is 32 bytes."""
    return [hashlib.blake2b(PURPOSE, key=_short(secret)).digest()[:32] for secret in secret_keys(settings)]


def _short(secret: str) -> bytes:
    """A key of blake2b has at most 64 bytes."""
    return hashlib.sha512(secret.encode()).digest()


def _of_file(path: Path) -> str:
    """Read the file. It is made whole or not at all, by the first of several processes."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as stream:
            stream.write(secrets.token_urlsafe(32))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
