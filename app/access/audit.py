"""Records who changed what. The row is stored in the transaction of the change, and told to the log once it is done."""

import json
import logging
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from app.access.caller import current_origin
from app.access.models import AuditEntry
from app.database.connection import utc_now
from app.database.newest_first import is_behind
from app.ids import new_id
from app.scope import Scope

# Of changes that are made by commands and sweeps of this installation.
SERVICE = "service"
# Where a session keeps the lines of its transaction for the log.
UNTOLD = "audit"
log = logging.getLogger("tunesmith.audit")


def record(session: Session, action: str, subject: str, project: str | None, **details: Any) -> None:
    """Add an entry to the session's transaction. `details` must hold no prompt, no row and no secret."""
    origin = current_origin.get()
    entry = AuditEntry(
        id=new_id("audit"),
        at=utc_now(),
        caller=SERVICE if origin is None else origin.name,
        project=project,
        action=action,
        subject=subject,
        address=None if origin is None else origin.address,
        request_id=None if origin is None else origin.request_id,
        details=details,
    )
    session.add(entry)
    fields = ("caller", "project", "action", "subject", "address", "request_id", "details")
    session.info.setdefault(UNTOLD, []).append(json.dumps({name: getattr(entry, name) for name in fields}))


@event.listens_for(Session, "after_commit")
def _tell(session: Session) -> None:
    for line in session.info.pop(UNTOLD, ()):
        log.info("%s", line)


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(UNTOLD, None)


def page(
    session: Session, scope: Scope, *, after: AuditEntry | None, limit: int, action: str | None, subject: str | None
) -> list[AuditEntry]:
    """Return the entries after one of them, newest first. Those of no project are only in a scope of every project."""
    query = select(AuditEntry)
    if scope.projects is not None:
        query = query.where(AuditEntry.project.in_(sorted(scope.projects)))
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if subject is not None:
        query = query.where(AuditEntry.subject == subject)
    if after is not None:
        query = query.where(is_behind(AuditEntry.at, AuditEntry.id, after.at, after.id))
    return [*session.scalars(query.order_by(AuditEntry.at.desc(), AuditEntry.id.desc()).limit(limit))]


def get(session: Session, scope: Scope, entry_id: str) -> AuditEntry | None:
    found = session.scalar(select(AuditEntry).where(AuditEntry.id == entry_id))
    is_seen = found is not None and (scope.projects is None or (found.project or "") in scope.projects)
    return found if is_seen else None
