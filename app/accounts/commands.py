"""What the `tunesmith keys` commands do in the database."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy.orm import Session

from app.access.audit import SERVICE
from app.access.caller import Caller
from app.access.peppers import peppers
from app.accounts import service
from app.accounts.schemas import KeyView, MadeKey, NewKey
from app.config import Settings
from app.database.connection import Database
from app.scope import EVERY_PROJECT

# Who can run a command on the database may do everything.
OPERATOR = Caller(SERVICE, EVERY_PROJECT)
LISTED = 200


def create(settings: Settings, wanted: dict[str, Any]) -> MadeKey:
    """Make a key. Raises ValidationError, and the errors of `app.accounts.service.create`."""
    with _session(settings) as session:
        row, text = service.create(session, OPERATOR, peppers(settings)[0], NewKey.model_validate(wanted))
        return MadeKey.of(row, key=text)


def newest(settings: Settings) -> tuple[Sequence[KeyView], bool]:
    """Return the newest keys, and whether there are more."""
    with _session(settings) as session:
        found, has_more = service.page(session, OPERATOR, None, LISTED)
        return [KeyView.of(key) for key in found], has_more


def revoke(settings: Settings, key_id: str) -> None:
    """Revoke a key. Raises NotFound."""
    with _session(settings) as session:
        service.revoke(session, OPERATOR, key_id)


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    with closing(Database.open(settings.database)) as database, database.writer() as session:
        yield session
