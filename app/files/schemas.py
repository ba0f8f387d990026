"""What the file routes answer; the report is `app.files.report.FileReport`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.files.models import File


class FileView(BaseModel):
    """An upload. It is checked before it is answered, so it is always processed."""

    model_config = ConfigDict(from_attributes=True)

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
    status: Literal["processed"] = "processed"


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, files: Sequence[File], has_more: bool) -> "FilePage":
        shown = [FileView.model_validate(file) for file in files]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class Deleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
