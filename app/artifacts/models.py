"""The table of artifacts: folders of files that jobs made for their users. An adapter is one kind of artifact."""

from datetime import datetime
from pathlib import PurePath

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.connection import Base, UtcDateTime


class Artifact(Base):
    """One immutable artifact. It outlives its job, so `job_id` is no foreign key. An adapter's row has the same id."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(
        String(64),
        comment="of the names and contents of its files; null: unknown, of an adapter that an older version published",
    )
    location: Mapped[str] = mapped_column(Text, comment="key of the artifact store, or a path relative to the home")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_artifacts_job", "job_id", "created_at", "id"),
        Index("ix_artifacts_by_project", "project", "created_at", "id"),
    )

    @property
    def version(self) -> str:
        """The last part of the location: the hash of the files, or the part of it that is the adapter's version."""
        return PurePath(self.location).name
