"""Every query about adapters. It never commits."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from app.adapters.models import Adapter
from app.artifacts import repository as artifacts
from app.artifacts.models import Artifact
from app.artifacts.names import ADAPTER
from app.database.newest_first import is_behind
from app.scope import Scope


def add(session: Session, scope: Scope, adapter: Adapter, sha256: str | None = None) -> None:
    """Add an adapter, and its row among the artifacts. `sha256`: the hash of its files, if it is known."""
    scope.check(adapter.project)
    session.add(adapter)
    row = Artifact(
        id=adapter.id,
        project=adapter.project,
        job_id=adapter.job_id,
        kind=ADAPTER,
        name=ADAPTER,
        bytes=adapter.bytes,
        sha256=sha256,
        location=adapter.path,
        created_at=adapter.created_at,
    )
    artifacts.add(session, scope, row)


def without_artifact(session: Session, scope: Scope, since: datetime | None, limit: int) -> Sequence[str]:
    """Return the adapters since a moment that have no row among the artifacts: an older worker adds none."""
    has_row = select(Artifact.id).where(Artifact.id == Adapter.id).exists()
    query = select(Adapter.id).where(~has_row, scope.permits(Adapter.project)).limit(limit)
    return session.scalars(query if since is None else query.where(Adapter.created_at > since)).all()


def add_artifact(session: Session, scope: Scope, adapter_id: str, project: str | None) -> None:
    """Add the row of an adapter among the artifacts, unless another process was faster, or it was deleted.

    `project` is that of its job, if there is one, for a worker that left it out in the adapter's row too.
    """
    adapter = lock(session, scope, adapter_id)
    if adapter is not None and artifacts.get(session, scope, adapter_id) is None:
        adapter.project = project or adapter.project
        add(session, scope, adapter)


def get(session: Session, scope: Scope, adapter_id: str) -> Adapter | None:
    return session.scalar(_one(scope, adapter_id))


def _one(scope: Scope, adapter_id: str) -> Select[Adapter]:
    return select(Adapter).where(Adapter.id == adapter_id, scope.permits(Adapter.project))


def lock(session: Session, scope: Scope, adapter_id: str) -> Adapter | None:
    """Return the row, locked until the session ends: no other session deletes it or makes a job continue from it."""
    return session.scalar(_one(scope, adapter_id).with_for_update().execution_options(populate_existing=True))


def lock_against_removal(session: Session, scope: Scope, adapter_id: str) -> Adapter | None:
    """Return the row. It cannot be deleted until the session ends."""
    locked = _one(scope, adapter_id).with_for_update(read=True, key_share=True)
    return session.scalar(locked.execution_options(populate_existing=True))


def get_by_job(session: Session, scope: Scope, job_id: str) -> Adapter | None:
    return session.scalar(select(Adapter).where(Adapter.job_id == job_id, scope.permits(Adapter.project)))


def page(session: Session, scope: Scope, *, after: Adapter | None, limit: int) -> Sequence[Adapter]:
    """Return adapters, newest first. `after` is the last adapter of the previous page."""
    query = select(Adapter).where(scope.permits(Adapter.project))
    query = query.order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(limit)
    if after is not None:
        query = query.where(is_behind(Adapter.created_at, Adapter.id, after.created_at, after.id))
    return session.scalars(query).all()


def remove(session: Session, scope: Scope, adapter_id: str) -> bool:
    """Delete a row, also among the artifacts, and return whether it existed."""
    artifacts.remove(session, scope, adapter_id)
    statement = delete(Adapter).where(Adapter.id == adapter_id, scope.permits(Adapter.project)).returning(Adapter.id)
    return session.scalar(statement) is not None
