"""Every query about artifacts. It never commits."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.artifacts.models import Artifact
from app.scope import Scope


def add(session: Session, scope: Scope, artifact: Artifact) -> None:
    """Raises InvalidRequest if its project is not in the scope."""
    scope.check(artifact.project)
    session.add(artifact)


def get(session: Session, scope: Scope, artifact_id: str) -> Artifact | None:
    return session.scalar(select(Artifact).where(Artifact.id == artifact_id, scope.permits(Artifact.project)))


def of_job(session: Session, scope: Scope, job_id: str) -> Sequence[Artifact]:
    """Return the artifacts of a job, oldest first."""
    query = select(Artifact).where(Artifact.job_id == job_id, scope.permits(Artifact.project))
    return session.scalars(query.order_by(Artifact.created_at, Artifact.id)).all()


def known_among(session: Session, scope: Scope, artifact_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that have a row."""
    query = select(Artifact.id).where(Artifact.id.in_(artifact_ids), scope.permits(Artifact.project))
    return set(session.scalars(query))


def remove(session: Session, scope: Scope, artifact_id: str) -> bool:
    """Delete a row, and return whether it existed."""
    is_named = (Artifact.id == artifact_id, scope.permits(Artifact.project))
    return session.scalar(delete(Artifact).where(*is_named).returning(Artifact.id)) is not None


def stored_bytes(session: Session, scope: Scope, project: str | None = None) -> dict[str, int]:
    """Return how many bytes each project stores."""
    query = select(Artifact.project, func.sum(Artifact.bytes)).where(scope.permits(Artifact.project))
    if project is not None:
        query = query.where(Artifact.project == project)
    return {name: int(total) for name, total in session.execute(query.group_by(Artifact.project))}
