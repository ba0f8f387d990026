"""Every query of keys and projects. It never commits."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import ColumnElement, Select, bindparam, select, true, update
from sqlalchemy.orm import Session

from app.access.models import ApiKey, Project
from app.database.newest_first import is_behind
from app.scope import Scope


def _is_permitted(scope: Scope) -> ColumnElement[bool]:
    """A key of every project is one of an operator, so only a scope of every project has it."""
    return true() if scope.projects is None else scope.permits(ApiKey.project)  # type: ignore[arg-type]


def add(session: Session, scope: Scope, key: ApiKey) -> None:
    """Store a new key. Raises InvalidRequest if its project is not in the scope."""
    if key.project is not None or scope.projects is not None:
        scope.check(key.project or "*")
    session.add(key)


def get(session: Session, scope: Scope, key_id: str) -> ApiKey | None:
    return session.scalar(select(ApiKey).where(ApiKey.id == key_id, _is_permitted(scope)))


def among(session: Session, scope: Scope, key_ids: Sequence[str]) -> Sequence[tuple[ApiKey, Project | None]]:
    """Return those of the keys that exist, each with its project if limits of that were set."""
    return session.execute(_among(scope), {"key_ids": key_ids}).all()


@cache  # building this query takes as long as executing it
def _among(scope: Scope) -> Select[ApiKey, Project]:
    joined = select(ApiKey, Project).outerjoin(Project, Project.name == ApiKey.project)
    return joined.where(ApiKey.id.in_(bindparam("key_ids", expanding=True)), _is_permitted(scope))


def page(session: Session, scope: Scope, *, after: ApiKey | None, limit: int) -> Sequence[ApiKey]:
    """Return the keys after one of them, newest first."""
    query = select(ApiKey).where(_is_permitted(scope))
    if after is not None:
        query = query.where(is_behind(ApiKey.created_at, ApiKey.id, after.created_at, after.id))
    return session.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)).all()


def revoke(session: Session, scope: Scope, key_id: str, now: datetime) -> None:
    """Revoke a key. One that was revoked before keeps its time."""
    is_valid = (ApiKey.id == key_id, ApiKey.revoked_at.is_(None), _is_permitted(scope))
    session.execute(update(ApiKey).where(*is_valid).values(revoked_at=now))


def set_used(session: Session, scope: Scope, key_id: str, now: datetime) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id, _is_permitted(scope)).values(last_used_at=now))


def project(session: Session, scope: Scope, name: str) -> Project | None:
    return session.scalar(select(Project).where(Project.name == name, scope.permits(Project.name)))


def projects(session: Session, scope: Scope) -> Sequence[Project]:
    """Return the projects whose limits were set, by name."""
    return session.scalars(select(Project).where(scope.permits(Project.name)).order_by(Project.name)).all()
