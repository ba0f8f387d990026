"""`Idempotency-Key` of POST /jobs: the same request sent twice, however it was cut off, makes one job.

The key is stored in the commit that stores the job, so that two requests at the same moment cannot both make one.
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
from app.jobs.models import IdempotencyKey, Job

KEPT_FOR = timedelta(days=1)
LONGEST_KEY = 255


class MadeMeanwhile(Exception):
    """Another request with the same key was first."""


def check_key(key: str | None) -> None:
    """Raises BadRequest for a key that cannot be stored."""
    if key is not None and (not 1 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable()):
        message = f"Idempotency-Key should be 1 to {LONGEST_KEY} printable ASCII characters"
        raise BadRequest(message, param="Idempotency-Key", code="invalid_idempotency_key")


def digest(sent: dict[str, Any]) -> str:
    """Of a body as it was understood: order of keys and blanks do not count."""
    return hashlib.sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def find(session: Session, key: str, sent: dict[str, Any]) -> Job | None:
    """The job that a key has made. Raises InvalidRequest where it was sent with another body."""
    known = session.get(IdempotencyKey, key)
    if known is None or known.created_at < utc_now() - KEPT_FOR:
        return None
    if known.body_sha256 != digest(sent):
        message = f"Idempotency-Key: it was sent with another body before, which made {known.job_id}; use a new key"
        raise InvalidRequest(message, param="Idempotency-Key", code="idempotency_key_reused")
    return session.get(Job, known.job_id)  # None: deleted between the two reads, and its key with it


def keep(session: Session, key: str, sent: dict[str, Any], job: Job) -> bool:
    """Store a key beside its job, before the commit. False when another request was first: nothing is stored then."""
    now = utc_now()
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.key == key, IdempotencyKey.created_at < now - KEPT_FOR))
    session.add(IdempotencyKey(key=key, body_sha256=digest(sent), job_id=job.id, created_at=now))
    try:
        session.flush()
    except IntegrityError:
        session.rollback()
        return False
    return True


def has_old(session: Session) -> bool:
    old = IdempotencyKey.created_at < utc_now() - KEPT_FOR
    return session.scalar(select(IdempotencyKey.key).where(old).limit(1)) is not None


def sweep(session: Session) -> None:
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - KEPT_FOR))
