"""The responses of the file routes. The report is `app.datasets.report.FileReport`."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from app.contracts.stored import Stored, read
from app.database.stored_fields import UNREADABLE, StoredView, show

if TYPE_CHECKING:  # the command reads these models without a database
    from app.files.models import File


class ShownWarning(Stored):
    count: int


class ShownFindings(Stored):
    """The part of a stored `app.datasets.report.FileReport` that FileView shows."""

    kept: int | None = None
    problem_count: int | None = None
    warnings: list[ShownWarning] | None = None


class FileView(StoredView):
    """An upload. It is checked before the response, so its status is always `processed`."""

    object: Literal["file"] = "file"
    id: str
    bytes: int
    created_at: datetime
    filename: str
    purpose: str
    project: str
    sha256: str
    format: str
    layout: str | None
    records: int
    usable_records: int | None = Field(
        None, description="records that a job with default settings can train on; null if the report cannot be read"
    )
    problem_count: int | None = Field(
        None, description="problems that such a job would find; GET /files/{id}/report lists them"
    )
    warning_count: int | None = None
    status: Literal["processed"] = "processed"
    unreadable: list[str] = Field([], description=UNREADABLE)

    @classmethod
    def of(cls, file: "File") -> "FileView":
        names = ("id", "bytes", "created_at", "filename", "purpose", "project", "sha256", "format", "layout", "records")
        found = read(ShownFindings, file.report) or ShownFindings()
        warnings = None if found.warnings is None else sum(warning.count for warning in found.warnings)
        counts = {"usable_records": found.kept, "problem_count": found.problem_count, "warning_count": warnings}
        lost = [name for name, count in counts.items() if count is None]
        return show(cls, {**{name: getattr(file, name) for name in names}, **counts, "unreadable": lost})


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, files: "Sequence[File]", has_more: bool) -> "FilePage":
        shown = [FileView.of(file) for file in files]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
