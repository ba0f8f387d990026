"""What the secrets of callers' keys are hashed with: it is derived from the secret key of the installation."""

import hashlib
from collections.abc import Sequence

from app.config import Settings
from app.secret_key import secret_keys

PURPOSE = b"keys of callers"


def peppers(settings: Settings) -> Sequence[bytes]:
    """Return 32 bytes for each secret key, the newest first. Raises SecretKeyMissing and SecretKeyWrong."""
    keys = secret_keys(settings, may_make_key=True)
    return [hashlib.blake2b(PURPOSE, key=key, digest_size=32).digest() for key in keys]
