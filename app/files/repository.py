"""All queries about uploads. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from app.files.models import File


def add(session: Session, file: File) -> None:
    session.add(file)


def get(session: Session, file_id: str) -> File | None:
    return session.get(File, file_id)


def lock(session: Session, file_id: str) -> File | None:
    """Returns the row, locked: until the transaction ends, nobody can delete it or submit a job that uses it."""
    return session.get(File, file_id, with_for_update=True)


def lock_against_removal(session: Session, file_id: str) -> File | None:
    """Returns the row, locked: nobody can delete it until the transaction ends."""
    return session.get(File, file_id, with_for_update={"read": True, "key_share": True})


def page(session: Session, *, after: File | None, limit: int) -> Sequence[File]:
    """Returns files, newest first. `after` is the last file of the previous page."""
    query = select(File).order_by(File.created_at.desc(), File.id.desc()).limit(limit)
    if after is not None:
        is_older = or_(File.created_at < after.created_at, File.id < after.id)
        query = query.where(File.created_at <= after.created_at, is_older)  # the first condition lets the index be used
    return session.scalars(query).all()


def remove(session: Session, file_id: str) -> bool:
    """Deletes the row. Returns whether it existed."""
    gone = session.scalars(delete(File).where(File.id == file_id).returning(File.id))
    return gone.one_or_none() is not None
