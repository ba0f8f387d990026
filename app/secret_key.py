"""The secret key of an installation, which is outside of its database."""

from collections.abc import Sequence

from sqlalchemy.engine import make_url

from app.config import PREFIX, Settings
from app.database.connection import sqlite_file
from app.errors import Unavailable
from app.processes.encryption_keys import HOW_TO_MAKE_ONE, make_key_file, read_keys

VARIABLE = f"{PREFIX}SECRET_KEY"


class SecretKeyMissing(Unavailable):
    code = "no_secret_key"


class SecretKeyWrong(Unavailable):
    code = "wrong_secret_key"


def secret_keys(settings: Settings, *, may_make_key: bool = False) -> Sequence[bytes]:
    """Return the keys of the settings, or the key in `run/secret.key` of the home. The first one is the newest.

    `may_make_key`: with neither, a new key is written there if the database is SQLite, because that has one host.
    Raises SecretKeyMissing and SecretKeyWrong.
    """
    if settings.secret_key is not None:
        return read_keys(settings.secret_key)
    path = settings.secret_key_path
    if may_make_key and not path.exists() and sqlite_file(make_url(settings.database)) is not None:
        make_key_file(path)
    try:
        return read_keys(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        message = f"there is no key for secrets: set {VARIABLE} to the same value for the API and all workers"
        raise SecretKeyMissing(f"{message} ({HOW_TO_MAKE_ONE})") from None
    except ValueError:
        raise SecretKeyWrong(f"the file {path} holds no key for secrets: put back the one that it had") from None
