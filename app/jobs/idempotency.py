"""`Idempotency-Key` of POST /jobs: a request that is sent twice, for example after a lost connection, makes one job.

The key is stored in the same commit as the job, so two concurrent requests cannot both make one.
"""

import hashlib
import json
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.database.connection import utc_now
from app.errors import BadRequest, InvalidRequest
from app.jobs import repository
from app.jobs.models import IdempotencyKey, Job
from app.jobs.repository import is_permitted
from app.scope import Scope

KEPT_FOR = timedelta(days=1)
LONGEST_KEY = 255


class MadeMeanwhile(Exception):
    """Another request with the same key has made the job meanwhile."""


def check_key(key: str | None) -> None:
    """Raise BadRequest for a key that cannot be stored."""
    if key is not None and (not 1 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable()):
        message = f"Idempotency-Key should be 1 to {LONGEST_KEY} printable ASCII characters"
        raise BadRequest(message, param="Idempotency-Key", code="invalid_idempotency_key")


def digest(sent: dict[str, Any]) -> str:
    """Return the SHA-256 of a parsed body: the order of its keys and its white space do not matter."""
    return hashlib.sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def find(session: Session, scope: Scope, project: str, key: str, sent: dict[str, Any]) -> Job | None:
    """Return the job that was made with a key, or None. Raises InvalidRequest if the key came with another body."""
    is_known = (IdempotencyKey.project == project, IdempotencyKey.key == key)
    known = session.scalar(select(IdempotencyKey).where(*is_known, is_permitted(scope, IdempotencyKey.job_id)))
    if known is None or known.created_at < utc_now() - KEPT_FOR:
        return None
    if known.body_sha256 != digest(sent):
        message = f"Idempotency-Key: this key was used with another body before, for {known.job_id}; use a new key"
        raise InvalidRequest(message, param="Idempotency-Key", code="idempotency_key_reused")
    return repository.get(session, scope, known.job_id)  # None: deleted between the two reads, and its key with it


def keep(session: Session, scope: Scope, key: str, sent: dict[str, Any], job: Job) -> bool:
    """Store a key with its job, without a commit. Returns False, with nothing stored, if another request was first."""
    now = utc_now()
    is_old = (
        IdempotencyKey.project == job.project,
        IdempotencyKey.key == key,
        IdempotencyKey.created_at < now - KEPT_FOR,
    )
    session.execute(delete(IdempotencyKey).where(*is_old, is_permitted(scope, IdempotencyKey.job_id)))
    fields = {"project": job.project, "key": key, "body_sha256": digest(sent), "job_id": job.id}
    session.add(IdempotencyKey(**fields, created_at=now))
    try:
        session.flush()
    except IntegrityError:
        session.rollback()
        return False
    return True


def has_old(session: Session, scope: Scope) -> bool:
    is_old = (IdempotencyKey.created_at < utc_now() - KEPT_FOR, is_permitted(scope, IdempotencyKey.job_id))
    return session.scalar(select(IdempotencyKey.key).where(*is_old).limit(1)) is not None


def sweep(session: Session, scope: Scope) -> None:
    is_old = (IdempotencyKey.created_at < utc_now() - KEPT_FOR, is_permitted(scope, IdempotencyKey.job_id))
    session.execute(delete(IdempotencyKey).where(*is_old))
