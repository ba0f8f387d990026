"""The rules for secrets of projects: they are stored encrypted, named by jobs, and never shown again."""

from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.access import audit
from app.config import Settings
from app.database.connection import utc_now
from app.encryption import open_encryption
from app.errors import Conflict, NotFound
from app.scope import Scope
from app.secrets import repository
from app.secrets.models import ProjectSecret

MOST_OF_A_PROJECT = 200


def store(session: Session, scope: Scope, settings: Settings, project: str, name: str, value: str) -> ProjectSecret:
    """Store a secret, or another value of one. Jobs that begin from now on get it.

    Raises InvalidRequest for a project that is not in the scope, Conflict if the project has too many, and Unavailable
    without a key for secrets.
    """
    scope.check(project)
    now, ciphertext = utc_now(), open_encryption(settings, may_make_key=True).encrypt(value)
    secret = repository.get(session, scope, project, name)
    if secret is None:
        if len(repository.of_project(session, scope, project, MOST_OF_A_PROJECT)) == MOST_OF_A_PROJECT:
            message = f"the project {project} has {MOST_OF_A_PROJECT} secrets, which is the most: delete one"
            raise Conflict(message, param="project", code="too_many_secrets")
        secret = ProjectSecret(project=project, name=name, ciphertext=ciphertext, created_at=now, updated_at=now)
        repository.add(session, scope, secret)
    secret.ciphertext, secret.updated_at = ciphertext, now
    audit.record(session, "secret.store", name, project)
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        message = f"the secret {name} was stored by another request at this moment: send it again"
        raise Conflict(message, param="name", code="changed_meanwhile") from None
    return secret


def find(session: Session, scope: Scope, project: str, name: str) -> ProjectSecret:
    """Raises NotFound."""
    secret = repository.get(session, scope, project, name)
    if secret is None:
        raise _unknown(project, name)
    return secret


def of_project(session: Session, scope: Scope, project: str) -> Sequence[ProjectSecret]:
    return repository.of_project(session, scope, project, MOST_OF_A_PROJECT)


def delete(session: Session, scope: Scope, project: str, name: str) -> None:
    """Remove a secret. A job that names it fails when it needs it. Raises NotFound."""
    if not repository.remove(session, scope, project, name):
        raise _unknown(project, name)
    audit.record(session, "secret.delete", name, project)
    session.commit()


def _unknown(project: str, name: str) -> NotFound:
    return NotFound(f"the project {project} has no secret {name}", param="name", code="unknown_secret")
