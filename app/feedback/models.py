"""The table of what people said about answers."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Choice, Document
from app.database.connection import Base, UtcDateTime


class Rating(StrEnum):
    UP = "up"
    DOWN = "down"


class Feedback(Base):
    """One answer of a model with its rating, in a dataset of a project."""

    __tablename__ = "feedback"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    dataset: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    rating: Mapped[Rating] = mapped_column(Choice(Rating))
    model: Mapped[str] = mapped_column(String(200), comment="as the answer named it: with version or step")
    correction: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    messages: Mapped[list[dict[str, Any]]] = mapped_column(Document(list), comment="up to the question")
    answer: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index("ix_feedback_by_dataset", "project", "dataset", "created_at", "id"),)

    @property
    def learned(self) -> str | None:
        """The answer that a job learns from this row; None: a job learns nothing from it."""
        if self.correction is not None:
            return self.correction
        return self.answer if self.rating is Rating.UP else None
