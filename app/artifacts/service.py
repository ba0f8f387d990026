"""The rules for artifacts: how they are found, what of them is sent, and which may be deleted."""

import difflib
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.access import audit
from app.artifacts import repository
from app.artifacts.content import Download, SentFile, as_file, as_tar, files_to_send
from app.artifacts.models import Artifact
from app.artifacts.names import ADAPTER, ARTIFACT_ID
from app.artifacts.store import ArtifactMissing, ArtifactStore
from app.errors import LONGEST_QUOTE, Conflict, NotFound
from app.hashing import hash_of_files
from app.scope import Scope

PARAM = "artifact_id"


def find(session: Session, scope: Scope, artifact_id: str) -> Artifact:
    """Return an artifact by its id, also as `id@version`. Raises NotFound."""
    artifact_id, at, version = artifact_id.partition("@")
    artifact = repository.get(session, scope, artifact_id) if ARTIFACT_ID.fullmatch(artifact_id) else None
    if artifact is None:
        message = f"there is no artifact {artifact_id[:LONGEST_QUOTE]!r}"
        raise NotFound(message, param=PARAM, code="unknown_artifact")
    if at and version != artifact.version:
        message = f"{artifact_id} has no version {version[:LONGEST_QUOTE]!r}, its version is {artifact.version!r}"
        raise NotFound(message, param=PARAM, code="unknown_version")
    return artifact


def files_of(store: ArtifactStore, artifact: Artifact) -> Sequence[SentFile]:
    """Return the files of an artifact as they are sent.

    Raises NotFound if the store does not have them, and Conflict if they are not those that the job saved.
    """
    try:
        stored = store.files(artifact.location)
        sent = files_to_send(store, artifact.location, stored)
    except (ArtifactMissing, FileNotFoundError):
        raise NotFound(f"the files of {artifact.id} are gone", param=PARAM, code="content_is_gone") from None
    if artifact.sha256 not in (None, hash_of_files({file.name: file.sha256 for file in stored})):
        message = f"the files of {artifact.id} are not those that {artifact.job_id} saved: they were changed"
        raise Conflict(message, param=PARAM, code="artifact_damaged")
    return sent


def download(store: ArtifactStore, artifact: Artifact, name: str | None) -> Download:
    """Return one file, or a tar of all of them. Raises as `files_of`, and NotFound for an unknown name."""
    sent = files_of(store, artifact)
    if name is None:
        return as_tar(artifact.id, sent)
    names = {file.described.name: file for file in sent}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        expected = f"did you mean {near[0]!r}?" if near else f"GET /artifacts/{artifact.id} lists its files"
        message = f"file: {artifact.id} has no file {name[:LONGEST_QUOTE]!r}; {expected}"
        raise NotFound(message, param="file", code="unknown_file")
    return as_file(names[name])


def delete(session: Session, scope: Scope, store: ArtifactStore, artifact_id: str) -> None:
    """Remove an artifact with its files. Raises NotFound, and Conflict for that of an adapter.

    The row goes first. After a crash between the two a folder without a row is left, which `app.jobs.queue.orphans`
    removes.
    """
    artifact = find(session, scope, artifact_id)
    if artifact.kind == ADAPTER:
        message = f"{artifact_id} is an adapter: delete it with DELETE /adapters/{artifact_id}"
        raise Conflict(message, param=PARAM, code="artifact_is_adapter")
    repository.remove(session, scope, artifact.id)
    audit.record(session, "artifact.delete", artifact.id, artifact.project)
    session.commit()
    store.delete(artifact.location)
