"""The HTTP routes of artifacts. `GET /jobs/{job_id}/artifacts` lists those of a job."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from app.artifacts import service
from app.artifacts.ranges import respond
from app.artifacts.schemas import ArtifactDeleted, ArtifactDetail, ArtifactView
from app.artifacts.store import ArtifactStore, store_of
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
ANY_BYTES = {"content": {"application/x-tar": BINARY, "application/octet-stream": BINARY}}
SENT: dict[int | str, dict[str, Any]] = {
    200: ANY_BYTES,
    206: {**ANY_BYTES, "description": "The part that `Range` asks for"},
    304: {"description": "`If-None-Match` names these bytes"},
}
ArtifactId = Annotated[str, "adapter-…, or the id of another artifact of a job"]
router = APIRouter(prefix="/artifacts", tags=["artifacts"])


async def get_store(settings: SettingsDep) -> ArtifactStore:
    return store_of(settings)


StoreDep = Annotated[ArtifactStore, Depends(get_store)]


@router.get("/{artifact_id}")
def get_artifact(artifact_id: ArtifactId, caller: ReadCaller, database: DatabaseDep, store: StoreDep) -> ArtifactDetail:
    """An artifact and its files, with their hashes. The first answer takes as long as reading all files."""
    with database.reader() as session:
        artifact = service.find(session, caller.scope, artifact_id)
    files = [file.described for file in service.files_of(store, artifact)]
    return ArtifactDetail(**ArtifactView.of(artifact).model_dump(), files=files)


@router.get("/{artifact_id}/content", response_class=Response, responses=SENT)
def get_artifact_content(
    request: Request,
    artifact_id: ArtifactId,
    caller: ReadCaller,
    database: DatabaseDep,
    store: StoreDep,
    file: Annotated[
        str | None, Query(max_length=1024, description="the name of one file; default: a tar of all")
    ] = None,
) -> Response:
    """All files in a tar, or one of them. One `Range`, `If-Range` and `If-None-Match` are supported."""
    with database.reader() as session:
        artifact = service.find(session, caller.scope, artifact_id)
    return respond(request, service.download(store, artifact, file))


@router.delete("/{artifact_id}")
def delete_artifact(
    artifact_id: ArtifactId, caller: JobsCaller, database: DatabaseDep, store: StoreDep
) -> ArtifactDeleted:
    """Remove an artifact that is no adapter, and its files; the job that made it stays."""
    with database.writer() as session:
        service.delete(session, caller.scope, store, artifact_id)
    return ArtifactDeleted(id=artifact_id)
