"""Keys of callers: `ts_<id>_<secret>`. A key is found by its id; of its 256 random bits only a keyed hash is stored.

The bits are random, so one round of a fast hash is enough: there is nothing to guess, and nothing to slow down.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from app.ids import new_id

PREFIX = "ts_"
SECRET_BYTES = 32
# After so many days a key expires, unless its maker says otherwise.
USUAL_DAYS = 90
KEY = re.compile(r"ts_(key-[a-z2-7]{24})_([A-Za-z0-9_-]{43})")
HASH_BYTES = 32


@dataclass(frozen=True)
class PresentedKey:
    """A key as a client sends it."""

    key_id: str
    secret: str

    @property
    def text(self) -> str:
        return f"{PREFIX}{self.key_id}_{self.secret}"


def new_key() -> PresentedKey:
    return PresentedKey(new_id("key"), secrets.token_urlsafe(SECRET_BYTES))


def read_key(text: str) -> PresentedKey | None:
    """Return the parts of a key, or None if the text has not the form of one."""
    found = KEY.fullmatch(text)
    return None if found is None else PresentedKey(found[1], found[2])


def hash_of(secret: str, pepper: bytes) -> str:
    """Return the hash of a secret, in hexadecimal digits. `pepper` is kept outside of the database."""
    return hashlib.blake2b(secret.encode(), key=pepper, digest_size=HASH_BYTES, person=b"tunesmith keys").hexdigest()


def is_equal(secret: str, stored: str, peppers: Sequence[bytes]) -> bool:
    """Return whether a stored hash is that of the secret, with any of the peppers. The time tells nothing."""
    return any([hmac.compare_digest(hash_of(secret, pepper), stored) for pepper in peppers])
