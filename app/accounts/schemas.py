"""What the routes of keys, projects, usage and audit take and return."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from app.access.keys import USUAL_DAYS
from app.access.limits import KeyLimits, Limits, read_limits
from app.access.models import ApiKey, AuditEntry, Project
from app.access.permissions import USUAL_PERMISSIONS, Permission
from app.contracts.base import Contract, Whole
from app.contracts.submitted import HIGHEST_PRIORITY, LOWEST_PRIORITY
from app.contracts.training_args import SafeName

MOST_DAYS = 3650
KeyName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewKey(Contract):
    """The body of `POST /keys`."""

    name: KeyName = Field(description="who or what uses it")
    project: SafeName | None = Field(None, description="none: every project")
    scopes: list[Permission] = Field([*USUAL_PERMISSIONS], min_length=1)
    expires_in_days: Whole | None = Field(USUAL_DAYS, ge=1, le=MOST_DAYS, description="null: never")
    max_priority: Whole | None = Field(None, ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, description="of its jobs")
    limits: KeyLimits = KeyLimits()

    def expires_at(self, now: datetime) -> datetime | None:
        return None if self.expires_in_days is None else now + timedelta(days=self.expires_in_days)


class KeyView(BaseModel):
    """A key, without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    project: str | None
    scopes: list[str]
    max_priority: int | None
    limits: KeyLimits
    created_by: str
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    last_used_at: AwareDatetime | None

    @classmethod
    def of(cls, row: ApiKey, **more: Any) -> Self:
        names = ("id", "name", "project", "max_priority", "created_by", "created_at")
        moments = ("expires_at", "revoked_at", "last_used_at")
        found = {name: getattr(row, name) for name in (*names, *moments)}
        return cls(
            **found, scopes=[str(name) for name in row.permissions], limits=read_limits(KeyLimits, row.limits), **more
        )


class MadeKey(KeyView):
    """A key that was made now. `key` is shown only here."""

    key: str


class KeyPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyView]
    has_more: bool


class ProjectView(BaseModel):
    """A project with its own limits."""

    name: str
    object: Literal["project"] = "project"
    limits: Limits
    created_at: AwareDatetime | None = None

    @classmethod
    def of(cls, project: Project) -> Self:
        return cls(name=project.name, limits=read_limits(Limits, project.limits), created_at=project.created_at)


class ProjectList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ProjectView]


class AuditView(BaseModel):
    """One change. `caller` is a key, `user:NAME`, `local`, or `service` for commands."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    at: AwareDatetime
    caller: str
    project: str | None
    action: str
    subject: str
    address: str | None
    request_id: str | None
    details: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        return cls(**{name: getattr(entry, name) for name in cls.model_fields if name != "object"})


class AuditPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[AuditView]
    has_more: bool


class UsageRow(BaseModel):
    """What was used. A field that the rows were not grouped by is null."""

    day: date | None = None
    project: str | None = None
    key: str | None = None
    adapter: str | None = None
    jobs: int
    gpu_seconds: float
    requests: int
    prompt_tokens: int
    completion_tokens: int


class StoredBytes(BaseModel):
    """What is stored now of a project."""

    project: str
    file_bytes: int
    artifact_bytes: int


class UsageReport(BaseModel):
    """`since` and `until` are days in UTC, both included."""

    object: Literal["usage"] = "usage"
    since: date
    until: date
    data: list[UsageRow]
    stored: list[StoredBytes]


def today() -> date:
    return datetime.now(UTC).date()
