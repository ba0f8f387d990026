"""How adapters and jobs refer to each other.

A job id names the adapter that the job trained, and an adapter cannot be deleted while a job continues from it.
"""

import re
import shutil

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.access import audit
from app.adapters import repository
from app.adapters.models import Adapter
from app.config import Settings
from app.contracts.generation import AdapterRef
from app.errors import LONGEST_QUOTE, Conflict, InvalidRequest, NotFound
from app.jobs.repository import continued_by, find_status
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT, Scope

# PostgreSQL refuses a NUL in a text, so a name is validated before it is used in a query.
NAME = re.compile(r"[A-Za-z0-9._@-]{1,120}")


def find(session: Session, scope: Scope, name: str, param: str = "adapter") -> Adapter:
    """Return the adapter named by `adapter-…`, `adapter-…@version` or the `job-…` that trained it.

    Raises NotFound for an unknown name or version, and Conflict for a job that has not succeeded (yet).
    """
    if not NAME.fullmatch(name):
        raise NotFound(f"{name[:LONGEST_QUOTE]!r} is not a name of an adapter", param=param, code="unknown_adapter")
    if name.startswith("job-"):
        return _finished(session, scope, name, param)
    adapter_id, at, version = name.partition("@")
    adapter = repository.get(session, scope, adapter_id)
    if adapter is None:
        raise NotFound(f"there is no adapter {name[:LONGEST_QUOTE]!r}", param=param, code="unknown_adapter")
    if at and version != adapter.version:
        message = f"{adapter_id} has no version {version[:LONGEST_QUOTE]!r}, its version is {adapter.version!r}"
        raise NotFound(message, param=param, code="unknown_version")
    return adapter


def ref_of(adapter: Adapter, settings: Settings) -> AdapterRef:
    """Return the adapter's description for the engine. Raises Conflict if this version cannot read the stored row."""
    try:
        return adapter.ref(settings)
    except ValidationError:
        message = f"{adapter.id} is stored in a form that this version cannot read, so it cannot be served"
        raise Conflict(message, param="adapter", code="adapter_unreadable") from None


def find_and_keep(session: Session, scope: Scope, name: str, param: str) -> Adapter:
    """Do the same as `find`. The adapter cannot be deleted until the session ends."""
    adapter = repository.lock_against_removal(session, scope, find(session, scope, name, param).id)
    if adapter is None:
        raise NotFound(f"the adapter {name} was deleted just now", param=param, code="unknown_adapter")
    return adapter


def _finished(session: Session, scope: Scope, job_id: str, param: str) -> Adapter:
    adapter = of_job(session, scope, job_id, param)
    if adapter is None:
        message = f"{job_id} is {find_status(session, scope, job_id)}: only a job that has succeeded has an adapter"
        raise Conflict(message, param=param, code="job_has_no_adapter")
    return adapter


def of_job(session: Session, scope: Scope, job_id: str, param: str) -> Adapter | None:
    """Return the adapter of a job, or None while the job has not succeeded.

    Raises NotFound for an unknown job, and for an adapter that was deleted.
    """
    adapter = repository.get_by_job(session, scope, job_id)
    if adapter is not None:
        return adapter
    status = find_status(session, scope, job_id)
    if status is None:
        raise NotFound(f"there is no job {job_id[:LONGEST_QUOTE]!r}", param=param, code="unknown_job")
    if status == JobStatus.SUCCEEDED:
        raise NotFound(f"the adapter of {job_id} was deleted", param=param, code="unknown_adapter")
    return None


def page(session: Session, scope: Scope, after: str | None, limit: int) -> tuple[list[Adapter], bool]:
    """Return adapters after the one with the id `after`, newest first, and whether there are more.

    Raises InvalidRequest if `after` is unknown.
    """
    last = repository.get(session, scope, after) if after is not None and NAME.fullmatch(after) else None
    if after is not None and last is None:
        raise InvalidRequest(f"after: there is no adapter {after[:LONGEST_QUOTE]!r}", param="after")
    found = repository.page(session, scope, after=last, limit=limit + 1)
    return list(found[:limit]), len(found) > limit


def user_of(session: Session, scope: Scope, name: str) -> str | None:
    """Return what continues from a job or an adapter, in words: None for nothing. Every project counts."""
    user = continued_by(session, EVERY_PROJECT, name)
    if user is None or find_status(session, scope, user) is not None:
        return user
    return "a job of another project"


def delete(session: Session, scope: Scope, settings: Settings, name: str) -> str:
    """Remove an adapter with its files, and return its id. Raises NotFound, and Conflict while a job continues from it.

    The row goes first. After a crash between the two a folder without a row is left, which `app.jobs.queue.orphans`
    removes.
    """
    adapter = find(session, scope, name, "adapter_id")
    repository.lock(session, scope, adapter.id)  # from here on no new job can continue from it
    user = user_of(session, scope, adapter.id)
    if user is not None:
        message = f"{user} continues from {adapter.id}: cancel it, or wait for its end"
        raise Conflict(message, param="adapter_id", code="adapter_is_in_use")
    repository.remove(session, scope, adapter.id)
    audit.record(session, "adapter.delete", adapter.id, adapter.project)
    session.commit()
    folder = settings.locate(adapter.path)
    whole = folder.parent if folder.parent.name == adapter.id else folder
    shutil.rmtree(whole, ignore_errors=True)
    settings.files.forget(whole)
    return adapter.id
