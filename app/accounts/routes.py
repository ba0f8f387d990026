"""The HTTP routes of keys, limits, usage and audit."""

from datetime import date, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from app.access import audit, repository, usage
from app.access.limits import Limits
from app.access.peppers import peppers
from app.accounts import service
from app.accounts.schemas import (
    AuditPage,
    AuditView,
    KeyPage,
    KeyView,
    MadeKey,
    NewKey,
    ProjectList,
    ProjectView,
    StoredBytes,
    UsageReport,
    UsageRow,
    today,
)
from app.artifacts import repository as artifacts
from app.contracts.training_args import SafeName
from app.errors import InvalidRequest
from app.files import repository as files
from app.web.dependencies import AdminCaller, DatabaseDep, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE, WholeText

USUAL_DAYS = 30
Grouping = Literal["day", "project", "key", "adapter"]
# The names of the groups that differ from those of the columns.
COLUMNS = {"key": "caller"}


After = Annotated[str | None, Query(max_length=64), WholeText]
Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE)]
router = APIRouter(tags=["accounts"])


@router.post("/keys", status_code=201)
def create_key(body: NewKey, caller: AdminCaller, database: DatabaseDep, settings: SettingsDep) -> MadeKey:
    """Make a key. Its text, in `key`, is in this response only."""
    with database.writer() as session:
        row, text = service.create(session, caller, peppers(settings)[0], body)
        return MadeKey.of(row, key=text)


@router.get("/keys")
def list_keys(caller: AdminCaller, database: DatabaseDep, after: After = None, limit: Limit = 20) -> KeyPage:
    """Keys, newest first, also those that were revoked or have expired."""
    with database.reader() as session:
        found, has_more = service.page(session, caller, after, limit)
        return KeyPage(data=[KeyView.of(key) for key in found], has_more=has_more)


@router.get("/keys/{key_id}")
def get_key(key_id: str, caller: AdminCaller, database: DatabaseDep) -> KeyView:
    with database.reader() as session:
        return KeyView.of(service.find(session, caller, key_id))


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, caller: AdminCaller, database: DatabaseDep) -> KeyView:
    """Revoke a key. From now on every process refuses it."""
    with database.writer() as session:
        return KeyView.of(service.revoke(session, caller, key_id))


@router.get("/projects")
def list_projects(caller: ReadCaller, database: DatabaseDep) -> ProjectList:
    """The projects whose limits were set."""
    with database.reader() as session:
        return ProjectList(data=[ProjectView.of(one) for one in repository.projects(session, caller.scope)])


@router.put("/projects/{project}/limits")
def set_limits(
    project: Annotated[SafeName, Path()], body: Limits, caller: AdminCaller, database: DatabaseDep
) -> ProjectView:
    """Set all limits of a project. Those that are left out are lifted."""
    with database.writer() as session:
        return ProjectView.of(service.set_limits(session, caller, project, body))


@router.get("/usage")
def get_usage(
    caller: ReadCaller,
    database: DatabaseDep,
    by: Annotated[list[Grouping] | None, Query(description="default: project")] = None,
    since: Annotated[date | None, Query(description=f"a day in UTC; default: {USUAL_DAYS} days before `until`")] = None,
    until: Annotated[date | None, Query(description="a day in UTC; default: today")] = None,
    project: SafeName | None = None,
) -> UsageReport:
    """Jobs, seconds of GPUs and tokens of the projects of the caller, and the bytes that they store now."""
    last = until or today()
    first = since or last - timedelta(days=USUAL_DAYS)
    if first > last:
        raise InvalidRequest(f"since: found {first}, expected a day that is not after {last}", param="since")
    groups = list(dict.fromkeys(by or ["project"]))
    with database.reader() as session:
        columns = [COLUMNS.get(group, group) for group in groups]
        rows = usage.totals(session, caller.scope, first, last, columns, project)
        of_files = files.stored_bytes(session, caller.scope, project)
        of_artifacts = artifacts.stored_bytes(session, caller.scope, project)
    data = [UsageRow.model_validate({"key": row.get("caller"), **row}) for row in (found._asdict() for found in rows)]
    stored = [
        StoredBytes(project=name, file_bytes=of_files.get(name, 0), artifact_bytes=of_artifacts.get(name, 0))
        for name in sorted(of_files.keys() | of_artifacts.keys())
    ]
    return UsageReport(since=first, until=last, data=data, stored=stored)


@router.get("/audit")
def list_audit(
    caller: AdminCaller,
    database: DatabaseDep,
    after: After = None,
    limit: Limit = 50,
    action: Annotated[str | None, Query(max_length=64, description="such as job.cancel"), WholeText] = None,
    subject: Annotated[str | None, Query(max_length=128, description="the id of what was changed"), WholeText] = None,
) -> AuditPage:
    """Who changed what, newest first."""
    with database.reader() as session:
        last = None if after is None else audit.get(session, caller.scope, after)
        if after is not None and last is None:
            raise InvalidRequest(f"after: there is no entry {after[:64]!r}", param="after")
        found = audit.page(session, caller.scope, after=last, limit=limit + 1, action=action, subject=subject)
    return AuditPage(data=[AuditView.of(entry) for entry in found[:limit]], has_more=len(found) > limit)
