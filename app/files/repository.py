"""All queries about uploads. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.database.newest_first import is_behind
from app.files.models import File
from app.scope import Scope


def add(session: Session, scope: Scope, file: File) -> None:
    """Raises InvalidRequest if its project is not in the scope."""
    scope.check(file.project)
    session.add(file)


def get(session: Session, scope: Scope, file_id: str) -> File | None:
    return session.scalar(_one(scope, file_id))


def _one(scope: Scope, file_id: str) -> Select[File]:
    return select(File).where(File.id == file_id, scope.permits(File.project))


def lock(session: Session, scope: Scope, file_id: str) -> File | None:
    """Returns the row, locked: until the transaction ends, nobody can delete it or submit a job that uses it."""
    return session.scalar(_one(scope, file_id).with_for_update().execution_options(populate_existing=True))


def lock_against_removal(session: Session, scope: Scope, file_id: str) -> File | None:
    """Returns the row, locked: nobody can delete it until the transaction ends."""
    locked = _one(scope, file_id).with_for_update(read=True, key_share=True)
    return session.scalar(locked.execution_options(populate_existing=True))


def page(session: Session, scope: Scope, *, after: File | None, limit: int) -> Sequence[File]:
    """Returns files, newest first. `after` is the last file of the previous page."""
    query = select(File).where(scope.permits(File.project))
    query = query.order_by(File.created_at.desc(), File.id.desc()).limit(limit)
    if after is not None:
        query = query.where(is_behind(File.created_at, File.id, after.created_at, after.id))
    return session.scalars(query).all()


def remove(session: Session, scope: Scope, file_id: str) -> bool:
    """Deletes the row. Returns whether it existed."""
    statement = delete(File).where(File.id == file_id, scope.permits(File.project)).returning(File.id)
    return session.scalar(statement) is not None


def stored_bytes(session: Session, scope: Scope, project: str | None = None) -> dict[str, int]:
    """Return how many bytes each project stores."""
    query = select(File.project, func.sum(File.bytes)).where(scope.permits(File.project))
    if project is not None:
        query = query.where(File.project == project)
    return {name: int(total) for name, total in session.execute(query.group_by(File.project))}
