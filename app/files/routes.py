"""The HTTP routes for uploads."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from app.datasets.report import FileReport
from app.errors import ErrorForm
from app.files import service
from app.files.receiving import FILE, MULTIPART, PROJECT, PROJECT_NAME, PURPOSE, PURPOSES, receive_form
from app.files.schemas import FileDeleted, FilePage, FileView
from app.files.storage import Sink, partial_path
from app.ids import new_id
from app.web.dependencies import DatabaseDep, FilesCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE

BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
FULL: dict[int | str, dict[str, Any]] = {507: {"model": ErrorForm, "description": "The server's disk is full"}}
# The route parses the form itself, so that the file is not copied anywhere else.
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": [FILE],
                    "properties": {
                        FILE: {"type": "string", "format": "binary"},
                        PURPOSE: {"type": "string", "enum": [*PURPOSES], "default": PURPOSES[0]},
                        PROJECT: {
                            **PROJECT_NAME.json_schema(),
                            "description": "default: the key's",
                        },
                    },
                }
            }
        },
    }
}
FileId = Annotated[str, "the id that POST /files returned"]
router = APIRouter(prefix="/files", tags=["files"])


@router.post("", status_code=201, responses=FULL, openapi_extra=UPLOAD)
async def upload_file(request: Request, caller: FilesCaller, database: DatabaseDep, settings: SettingsDep) -> FileView:
    """Store a dataset: JSON, JSON Lines, CSV, TSV, Parquet or text, plain or gzip. Its content is checked."""
    file_id = new_id("file")

    def store(upload: service.Upload) -> FileView:
        with database.writer() as session:
            return FileView.of(service.store(session, caller.scope, settings, upload))

    with Sink(partial_path(settings.file_path(file_id)), settings.max_upload_bytes) as sink:
        form = await receive_form(request, sink)
        project = form.project or caller.scope.usual_project
        upload = service.Upload(file_id, form.filename, form.purpose, project, sink.received)
        return await run_in_threadpool(store, upload)


@router.get("")
def list_files(
    caller: ReadCaller,
    database: DatabaseDep,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 20,
) -> FilePage:
    """Files, newest first."""
    with database.reader() as session:
        files, has_more = service.page(session, caller.scope, after, limit)
    return FilePage.of(files, has_more)


@router.get("/{file_id}")
def get_file(file_id: FileId, caller: ReadCaller, database: DatabaseDep) -> FileView:
    with database.reader() as session:
        return FileView.of(service.find(session, caller.scope, file_id))


@router.get("/{file_id}/content", response_class=FileResponse, responses=BYTES)
def get_content(file_id: FileId, caller: ReadCaller, database: DatabaseDep, settings: SettingsDep) -> FileResponse:
    """The bytes exactly as they were sent. `Range` is supported."""
    with database.reader() as session:
        file, path = service.content_path(session, caller.scope, settings, file_id)
    headers = {"x-content-type-options": "nosniff"}
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename, headers=headers)


@router.get("/{file_id}/report")
def get_report(file_id: FileId, caller: ReadCaller, database: DatabaseDep) -> FileReport:
    """What the check at upload found: layout, columns, problems by record, fixes, duplicates, the first records."""
    with database.reader() as session:
        return service.report_of(service.find(session, caller.scope, file_id))


@router.delete("/{file_id}")
def delete_file(
    request: Request, file_id: FileId, caller: FilesCaller, database: DatabaseDep, settings: SettingsDep
) -> FileDeleted:
    """Remove a file that no unfinished job uses."""
    with database.writer() as session:
        service.delete(session, caller.scope, settings, file_id, request.app.state.uses_file)
    return FileDeleted(id=file_id)
