"""Every query about the secrets of projects. It never commits."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.scope import Scope
from app.secrets.models import ProjectSecret


def add(session: Session, scope: Scope, secret: ProjectSecret) -> None:
    """Raises InvalidRequest if its project is not in the scope."""
    scope.check(secret.project)
    session.add(secret)


def get(session: Session, scope: Scope, project: str, name: str) -> ProjectSecret | None:
    is_named = (ProjectSecret.project == project, ProjectSecret.name == name)
    return session.scalar(select(ProjectSecret).where(*is_named, scope.permits(ProjectSecret.project)))


def of_project(session: Session, scope: Scope, project: str, limit: int) -> Sequence[ProjectSecret]:
    """Return the secrets of a project by name."""
    is_of = (ProjectSecret.project == project, scope.permits(ProjectSecret.project))
    return session.scalars(select(ProjectSecret).where(*is_of).order_by(ProjectSecret.name).limit(limit)).all()


def lock_all(session: Session, scope: Scope) -> Sequence[ProjectSecret]:
    """Return all secrets, locked until the transaction ends."""
    query = select(ProjectSecret).where(scope.permits(ProjectSecret.project))
    return session.scalars(query.order_by(ProjectSecret.project, ProjectSecret.name).with_for_update()).all()


def remove(session: Session, scope: Scope, project: str, name: str) -> bool:
    """Delete a row, and return whether it existed."""
    is_named = (ProjectSecret.project == project, ProjectSecret.name == name, scope.permits(ProjectSecret.project))
    return session.scalar(delete(ProjectSecret).where(*is_named).returning(ProjectSecret.name)) is not None
