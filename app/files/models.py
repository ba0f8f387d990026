"""The table of uploads."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Document
from app.database.connection import Base, UtcDateTime


class File(Base):
    """One upload. It never changes. Its bytes are on disk under its id; `filename` is only a label."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), server_default="default")
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), comment="of the bytes as they were sent")
    format: Mapped[str] = mapped_column(String(16))
    layout: Mapped[str | None] = mapped_column(String(32), comment="null: only a job's mapping can tell")
    records: Mapped[int] = mapped_column(BigInteger)
    report: Mapped[dict[str, Any]] = mapped_column(Document(), comment="app.datasets.report.FileReport")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_files_created_at", "created_at", "id"),
        Index("ix_files_by_project", "project", "created_at", "id"),
    )
