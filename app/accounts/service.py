"""The rules for keys and projects."""

import re
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.access import audit, repository
from app.access.caller import Caller
from app.access.keys import hash_of, new_key
from app.access.limits import Limits
from app.access.models import ApiKey, Project
from app.accounts.schemas import NewKey
from app.contracts.submitted import HIGHEST_PRIORITY
from app.database.connection import utc_now
from app.errors import LONGEST_QUOTE, InvalidRequest, NotFound

# Ids are checked before a query, because PostgreSQL rejects a NUL in a text.
KEY_ID = re.compile(r"key-[a-z2-7]{24}")


def create(session: Session, caller: Caller, pepper: bytes, wanted: NewKey) -> tuple[ApiKey, str]:
    """Store a key, and return it with its text.

    Raises InvalidRequest for a project or a priority that the caller has not.
    """
    if caller.max_priority is not None:
        caller.check_priority(HIGHEST_PRIORITY if wanted.max_priority is None else wanted.max_priority)
    key, now = new_key(), utc_now()
    row = ApiKey(
        id=key.key_id,
        hash=hash_of(key.secret, pepper),
        name=wanted.name,
        project=wanted.project,
        permissions=sorted({*wanted.scopes}),
        max_priority=wanted.max_priority,
        limits=wanted.limits.model_dump(exclude_none=True),
        created_by=caller.name,
        created_at=now,
        expires_at=wanted.expires_at(now),
    )
    repository.add(session, caller.scope, row)
    audit.record(session, "key.create", row.id, row.project, name=row.name, scopes=row.permissions)
    session.commit()
    return row, key.text


def find(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Return a key. Raises NotFound."""
    found = repository.get(session, caller.scope, key_id) if KEY_ID.fullmatch(key_id) else None
    if found is None:
        raise NotFound(f"there is no key {key_id[:LONGEST_QUOTE]!r}", param="key_id", code="unknown_key")
    return found


def revoke(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Revoke a key. It is refused from the next request on, by every process. Revoking twice is no error."""
    key = find(session, caller, key_id)
    if key.revoked_at is None:
        repository.revoke(session, caller.scope, key.id, utc_now())
        audit.record(session, "key.revoke", key.id, key.project)
        session.commit()
        session.refresh(key)
    return key


def page(session: Session, caller: Caller, after: str | None, limit: int) -> tuple[Sequence[ApiKey], bool]:
    """Return the keys after the one with the id `after`, newest first, and whether there are more.

    Raises InvalidRequest if there is no key `after`.
    """
    try:
        last = None if after is None else find(session, caller, after)
    except NotFound as error:
        raise InvalidRequest(f"after: {error.message}", param="after") from None
    found = repository.page(session, caller.scope, after=last, limit=limit + 1)
    return found[:limit], len(found) > limit


def set_limits(session: Session, caller: Caller, name: str, limits: Limits) -> Project:
    """Set the limits of a project. Raises Forbidden for an administrator of some projects only."""
    caller.check_every_project("limits of projects")
    found = repository.project(session, caller.scope, name)
    stored = limits.model_dump(exclude_none=True)
    if found is None:
        found = Project(name=name, limits=stored, created_at=utc_now())
        session.add(found)
    found.limits = stored
    audit.record(session, "project.set_limits", name, name, limits=stored)
    session.commit()
    return found
