"""Encrypts all stored secrets with the newest key, so that an earlier one can be taken away."""

from contextlib import closing

from app.config import Settings
from app.database.connection import Database
from app.encryption import open_encryption
from app.scope import EVERY_PROJECT
from app.secrets import repository as secrets
from app.webhooks import repository as webhooks


def reencrypt(settings: Settings) -> int:
    """Encrypt every secret again, in one transaction, and return how many there are. The service may run meanwhile.

    Raises Unavailable, with nothing changed, if none of the keys has encrypted one of them.
    """
    encryption, count = open_encryption(settings), 0
    with closing(Database.open(settings.database)) as database, database.writer() as session:
        for secret in secrets.lock_all(session, EVERY_PROJECT):
            secret.ciphertext, count = encryption.rotate(secret.ciphertext), count + 1
        for endpoint in webhooks.lock_all(session, EVERY_PROJECT):
            endpoint.secret, count = encryption.rotate(endpoint.secret), count + 1
            if endpoint.previous_secret is not None:
                endpoint.previous_secret, count = encryption.rotate(endpoint.previous_secret), count + 1
        session.commit()
    return count
