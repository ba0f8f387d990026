"""Encrypts secrets before they are stored. The key is outside of the database, so a copy of it shows no secret.

The library is `cryptography`: Fernet (AES-128-CBC and HMAC-SHA256), with several keys at once while a key is replaced.
"""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.config import Settings
from app.secret_key import VARIABLE, SecretKeyWrong, secret_keys


class Encryption:
    """Encrypts with the first of the keys, and decrypts with any of them."""

    def __init__(self, keys: list[bytes]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def decrypt(self, stored: str) -> str:
        """Raises SecretKeyWrong if none of the keys has encrypted it, or it was changed."""
        try:
            return self._fernet.decrypt(stored).decode()
        except InvalidToken:
            raise _wrong() from None

    def rotate(self, stored: str) -> str:
        """Encrypt a stored secret again, with the first of the keys. Raises SecretKeyWrong as `decrypt`."""
        try:
            return self._fernet.rotate(stored).decode()
        except InvalidToken:
            raise _wrong() from None


def _wrong() -> SecretKeyWrong:
    message = f"a stored secret was encrypted with another key than {VARIABLE} has: add the earlier key to it"
    return SecretKeyWrong(f"{message}, after a comma, or store the secret again")


def open_encryption(settings: Settings, *, may_make_key: bool = False) -> Encryption:
    """Return the encryption with the keys of `secret_keys`. Raises as that does."""
    return Encryption([*secret_keys(settings, may_make_key=may_make_key)])
