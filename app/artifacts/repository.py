"""Every query about artifacts. It never commits."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.artifacts.models import Artifact


def add(session: Session, artifact: Artifact) -> None:
    session.add(artifact)


def get(session: Session, artifact_id: str) -> Artifact | None:
    return session.get(Artifact, artifact_id)


def of_job(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return the artifacts of a job, oldest first."""
    query = select(Artifact).where(Artifact.job_id == job_id)
    return session.scalars(query.order_by(Artifact.created_at, Artifact.id)).all()


def known_among(session: Session, artifact_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that have a row."""
    return set(session.scalars(select(Artifact.id).where(Artifact.id.in_(artifact_ids))))


def remove(session: Session, artifact_id: str) -> bool:
    """Delete a row, and return whether it existed."""
    gone = session.scalars(delete(Artifact).where(Artifact.id == artifact_id).returning(Artifact.id))
    return gone.one_or_none() is not None
