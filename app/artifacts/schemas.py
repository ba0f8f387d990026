"""The responses of the artifact routes."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

if TYPE_CHECKING:  # the command line uses this module without SQLAlchemy
    from app.artifacts.models import Artifact


class ArtifactFile(BaseModel):
    """One file of an artifact. `name` is its path in the artifact, with slashes."""

    name: str
    bytes: int
    sha256: str


class ArtifactView(BaseModel):
    """Files that a job made for its user. They never change."""

    object: Literal["artifact"] = "artifact"
    id: str
    job_id: str
    kind: str = Field(description="adapter: the artifact has the id of the adapter")
    name: str
    bytes: int
    sha256: str | None = Field(
        description="of the names and contents of its files as they are stored; null: unknown, of an adapter that an "
        "older version published"
    )
    created_at: datetime

    @classmethod
    def of(cls, artifact: "Artifact") -> "ArtifactView":
        return cls.model_validate(artifact, from_attributes=True)


class ArtifactDetail(ArtifactView):
    files: list[ArtifactFile]


class ArtifactList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ArtifactView]

    @classmethod
    def of(cls, artifacts: "Sequence[Artifact]") -> "ArtifactList":
        return cls(data=[ArtifactView.of(artifact) for artifact in artifacts])


class ArtifactDeleted(BaseModel):
    id: str
    object: Literal["artifact"] = "artifact"
    deleted: bool = True
