"""What the file routes answer; the report is `app.files.report.FileReport`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.files.models import File
from app.files.report import FileReport


class FileView(BaseModel):
    """An upload. It is checked before it is answered, so it is always processed."""

    object: Literal["file"] = "file"
    id: str
    bytes: int
    created_at: datetime
    filename: str
    purpose: str
    sha256: str
    format: str
    layout: str | None
    records: int
    usable_records: int = Field(description="that a job with default settings can train on")
    problem_count: int = Field(description="what such a job could not read; GET /files/{id}/report names it")
    warning_count: int
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: File) -> "FileView":
        report = FileReport.model_validate(file.report)
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=file.created_at,
            filename=file.filename,
            purpose=file.purpose,
            sha256=file.sha256,
            format=file.format,
            layout=file.layout,
            records=file.records,
            usable_records=report.kept,
            problem_count=report.problem_count,
            warning_count=sum(warning.count for warning in report.warnings),
        )


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, files: Sequence[File], has_more: bool) -> "FilePage":
        shown = [FileView.of(file) for file in files]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
