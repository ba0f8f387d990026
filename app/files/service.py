"""The rules for uploads: what is stored, which file names are allowed, and when a file may be deleted."""

import re
import unicodedata
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.access import audit, quotas
from app.config import Settings
from app.contracts.stored import read
from app.database.connection import utc_now
from app.datasets.check import FileReport, inspect_file
from app.datasets.values import printable
from app.errors import LONGEST_QUOTE, Conflict, InvalidDataset, InvalidRequest, NotFound
from app.files import repository
from app.files.models import File
from app.files.storage import Received, keep, partial_path
from app.scope import EVERY_PROJECT, Scope
from app.sources import invalid

LONGEST_FILENAME = 255
SEPARATORS = frozenset("/\\")
# Control characters and lone surrogates, which cannot be shown or stored.
HOSTILE_CATEGORIES = frozenset({"Cc", "Cs"})
# Ids are checked before a query, because PostgreSQL rejects a NUL in a text.
FILE_ID = re.compile(r"file-[a-z2-7]{24}")


@dataclass(frozen=True)
class Upload:
    """A received file, stored at its `partial_path`."""

    file_id: str
    filename: str
    purpose: str
    project: str
    received: Received


def store(session: Session, scope: Scope, settings: Settings, upload: Upload) -> File:
    """Stores an upload. Raises InvalidDataset if its content cannot be read as records.

    Raises InvalidRequest for a project that is not in the scope, DiskFull if it stores too much, and StoreAway.
    """
    scope.check(upload.project)
    most = quotas.limits_of(session, scope, settings, upload.project).file_bytes
    if most is not None:
        stored = repository.stored_bytes(session, scope, upload.project).get(upload.project, 0)
        quotas.check_bytes("file_bytes", upload.project, most, stored, upload.received.bytes)
    target = settings.file_path(upload.file_id)
    partial = partial_path(target)
    report = _inspect(partial, upload.filename, settings.max_unpacked_bytes)
    with ExitStack() as undo:
        undo.callback(settings.files.forget, target)
        undo.callback(target.unlink, missing_ok=True)
        keep(partial, target)
        settings.files.keep(target)
        file = File(
            id=upload.file_id,
            project=upload.project,
            filename=upload.filename,
            purpose=upload.purpose,
            bytes=upload.received.bytes,
            sha256=upload.received.sha256,
            format=report.format,
            layout=report.layout,
            records=report.records,
            report=report.model_dump(mode="json"),
            created_at=utc_now(),
        )
        repository.add(session, scope, file)
        audit.record(session, "file.create", file.id, file.project, bytes=file.bytes)
        session.commit()
        undo.pop_all()
    return file


def check_filename(name: str) -> None:
    """Raises InvalidRequest for a file name that is empty, too long, or could be used as a path."""
    is_hostile = any(char in SEPARATORS or unicodedata.category(char) in HOSTILE_CATEGORIES for char in name)
    if is_hostile or not name.strip(". ") or len(name.encode(errors="replace")) > LONGEST_FILENAME:
        expected = f"a name of at most {LONGEST_FILENAME} bytes without separators and control characters"
        raise invalid("file.filename", "invalid_filename", printable(name), expected)


def _inspect(path: Path, filename: str, max_unpacked_bytes: int) -> FileReport:
    try:
        return inspect_file(path, filename=filename, max_unpacked_bytes=max_unpacked_bytes)
    except InvalidDataset as error:
        error.param = "file"
        raise


def find(
    session: Session, scope: Scope, file_id: str, get: Callable[[Session, Scope, str], File | None] = repository.get
) -> File:
    """Returns the file. Raises NotFound if there is none with this id."""
    file = get(session, scope, file_id) if FILE_ID.fullmatch(file_id) else None
    if file is None:
        raise NotFound(f"there is no file {file_id[:LONGEST_QUOTE]!r}", param="file_id", code="unknown_file")
    return file


def report_of(file: File) -> FileReport:
    """Returns the stored report. Raises Conflict if another version stored it and this version cannot read it."""
    report = read(FileReport, file.report)
    if report is None:
        message = f"the report of {file.id} is stored in a form which this version cannot read: upload the file again"
        raise Conflict(message, param="file_id", code="report_unreadable")
    return report


def page(session: Session, scope: Scope, after: str | None, limit: int) -> tuple[list[File], bool]:
    """Returns the files after the one with the id `after`, newest first, and whether there are more.

    Raises InvalidRequest if there is no file `after`.
    """
    last = repository.get(session, scope, after) if after is not None and FILE_ID.fullmatch(after) else None
    if after is not None and last is None:
        raise InvalidRequest(f"after: there is no file {after[:LONGEST_QUOTE]!r}", param="after")
    found = repository.page(session, scope, after=last, limit=limit + 1)
    return list(found[:limit]), len(found) > limit


def content_path(session: Session, scope: Scope, settings: Settings, file_id: str) -> tuple[File, Path]:
    """Returns a file and the path of its bytes. Raises NotFound if the row or the bytes are missing, and StoreAway."""
    file = find(session, scope, file_id)
    path = settings.files.bring(settings.file_path(file.id))
    if not path.is_file():
        raise NotFound(f"the content of {file.id} is gone from the disk", param="file_id", code="content_is_gone")
    return file, path


def delete(
    session: Session, scope: Scope, settings: Settings, file_id: str, is_in_use: Callable[[Session, Scope, str], bool]
) -> None:
    """Removes a file. Raises NotFound, and Conflict while an unfinished job of any project uses it.

    The row is deleted first: a crash between the two steps leaves unused bytes, never a file without bytes.
    The lock waits for a job that is being submitted at the same time.
    """
    file = find(session, scope, file_id, repository.lock)
    if is_in_use(session, EVERY_PROJECT, file.id):
        message = f"{file.id} is used by a job that has not ended: cancel the job, or wait until it ends"
        raise Conflict(message, param="file_id", code="file_in_use")
    repository.remove(session, scope, file.id)
    audit.record(session, "file.delete", file.id, file.project)
    session.commit()
    settings.file_path(file.id).unlink(missing_ok=True)
    settings.files.forget(settings.file_path(file.id))
