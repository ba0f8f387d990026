"""The tables of projects, keys, audit and usage."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Date, Float, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Document
from app.database.connection import Base, UtcDateTime


class Project(Base):
    """A project whose limits were set. A project without a row has those of the settings."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    limits: Mapped[dict[str, Any]] = mapped_column(Document(), comment="app.access.limits.Limits")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiKey(Base):
    """A key of a caller. It can be revoked, and is never changed otherwise."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), comment="app.access.keys.hash_of its secret")
    name: Mapped[str] = mapped_column(String(64))
    project: Mapped[str | None] = mapped_column(String(64), index=True, comment="null: every project")
    permissions: Mapped[list[str]] = mapped_column("scopes", Document(list), comment="app.access.permissions")
    max_priority: Mapped[int | None] = mapped_column(Integer, comment="of its jobs; null: any")
    limits: Mapped[dict[str, Any]] = mapped_column(Document(), comment="app.access.limits.Limits")
    created_by: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="to the minute")

    __table_args__ = (Index("ix_api_keys_created", "created_at", "id"),)


class AuditEntry(Base):
    """One change, stored in the transaction that makes it. It names rows, and holds nothing of their content."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    caller: Mapped[str] = mapped_column(String(128), comment="app.access.caller: Caller.name, or that of a command")
    project: Mapped[str | None] = mapped_column(String(64), comment="null: of the whole installation")
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128), comment="id or name of what was changed")
    address: Mapped[str | None] = mapped_column(String(64), comment="of the client")
    request_id: Mapped[str | None] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column(Document())

    __table_args__ = (
        Index("ix_audit_at", "at", "id"),
        Index("ix_audit_by_project", "project", "at", "id"),
    )


class UsageCount(Base):
    """What was used on one day (UTC), by one caller, of one adapter."""

    __tablename__ = "usage"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    caller: Mapped[str] = mapped_column(String(128), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(64), primary_key=True, comment="empty: a base model, or none")
    jobs: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="that were submitted")
    gpu_seconds: Mapped[float] = mapped_column(Float, server_default="0", comment="of trainings, times their GPUs")
    requests: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="for answers")
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completion_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")

    __table_args__ = (Index("ix_usage_by_project", "project", "day"),)
