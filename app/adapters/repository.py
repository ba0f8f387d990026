"""Every query about adapters. It never commits."""

from collections.abc import Sequence

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from app.adapters.models import Adapter


def add(session: Session, adapter: Adapter) -> None:
    session.add(adapter)


def get(session: Session, adapter_id: str) -> Adapter | None:
    return session.get(Adapter, adapter_id)


def lock(session: Session, adapter_id: str) -> Adapter | None:
    """Return the row, locked until the session ends: no other session deletes it or makes a job continue from it."""
    return session.get(Adapter, adapter_id, with_for_update=True)


def lock_against_removal(session: Session, adapter_id: str) -> Adapter | None:
    """Return the row. It cannot be deleted until the session ends."""
    return session.get(Adapter, adapter_id, with_for_update={"read": True, "key_share": True})


def get_by_job(session: Session, job_id: str) -> Adapter | None:
    return session.scalars(select(Adapter).where(Adapter.job_id == job_id)).one_or_none()


def page(session: Session, *, after: Adapter | None, limit: int) -> Sequence[Adapter]:
    """Return adapters, newest first. `after` is the last adapter of the previous page."""
    query = select(Adapter).order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(limit)
    if after is not None:
        is_older = or_(Adapter.created_at < after.created_at, Adapter.id < after.id)
        query = query.where(
            Adapter.created_at <= after.created_at, is_older
        )  # the first condition limits the index scan
    return session.scalars(query).all()


def remove(session: Session, adapter_id: str) -> bool:
    """Delete a row, and return whether it existed."""
    gone = session.scalars(delete(Adapter).where(Adapter.id == adapter_id).returning(Adapter.id))
    return gone.one_or_none() is not None
