"""The table of adapters: what was trained, on which base, and where its files are."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.config import Settings
from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from app.contracts.variant import BaseVariant
from app.database.columns import Document
from app.database.connection import Base, UtcDateTime


class Adapter(Base):
    """One immutable trained adapter. It outlives its job, so `job_id` is no foreign key."""

    __tablename__ = "adapters"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), server_default="default")
    version: Mapped[str] = mapped_column(String(64), comment="hash of the bundle's files")
    job_id: Mapped[str] = mapped_column(String(40), unique=True)
    kind: Mapped[Literal["lora", "full"]] = mapped_column(String(8))
    base_model: Mapped[str] = mapped_column(String(200), comment="as the job's spec named it")
    # `Settings.locate_model` and `Settings.locate` return the present paths of base and bundle.
    base_source: Mapped[str] = mapped_column(Text, comment="the weights that were trained on: a hub id or a folder")
    base_is_local: Mapped[bool] = mapped_column(Boolean)
    base_revision: Mapped[str | None] = mapped_column(String(120))
    base_variant: Mapped[dict[str, Any] | None] = mapped_column(
        Document(is_optional=True), comment="the form of the base that it was proved on; null: as its files hold it"
    )
    base_scaled_to: Mapped[int | None] = mapped_column(
        Integer, comment="positions to which the base's RoPE is scaled linearly; null: as its files say"
    )
    path: Mapped[str] = mapped_column(Text, comment="the bundle's folder")
    bytes: Mapped[int] = mapped_column(BigInteger)
    rank: Mapped[int | None] = mapped_column(Integer, comment="null: all weights were trained")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_adapters_created_at", "created_at", "id"),
        Index("ix_adapters_by_project", "project", "created_at", "id"),
    )

    @property
    def name(self) -> str:
        return f"{self.id}@{self.version}"

    def ref(self, settings: Settings) -> AdapterRef:
        """Return the adapter's description for the engine."""
        path = settings.reference(settings.locate(self.path))
        return AdapterRef(
            adapter_id=self.id, version=self.version, path=path, kind=self.kind, base_variant=self.variant
        )

    @property
    def variant(self) -> BaseVariant | None:
        return None if self.base_variant is None else BaseVariant.model_validate(self.base_variant)

    def base(self, settings: Settings) -> BaseRef:
        local = settings.locate_model(self.base_source, self.base_model) if self.base_is_local else None
        return BaseRef(
            source=self.base_source if local is None else str(local),
            is_local=self.base_is_local,
            revision=self.base_revision,
            scaled_to=self.base_scaled_to,
        )
