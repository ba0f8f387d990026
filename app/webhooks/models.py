"""The tables of webhooks: where events are sent, and the outbox of what is to be sent."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Document
from app.database.connection import Base, UtcDateTime


class WebhookEndpoint(Base):
    """A URL to which the events of a project are sent."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[list[str]] = mapped_column(Document(list), comment="empty: all")
    secret: Mapped[str] = mapped_column(Text, comment="encrypted (app.encryption)")
    previous_secret: Mapped[str | None] = mapped_column(Text, comment="encrypted; signs too until its end")
    previous_secret_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    disabled_reason: Mapped[str | None] = mapped_column(String(32))
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="the first failure since a success")
    last_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_status: Mapped[int | None] = mapped_column(Integer, comment="of HTTP; null: no answer")
    last_error: Mapped[str | None] = mapped_column(Text, comment="null: the last attempt succeeded")

    __table_args__ = (Index("ix_webhook_endpoints_project", "project", "created_at", "id"),)


class WebhookDelivery(Base):
    """An event for one endpoint. It waits to be sent while `next_attempt_at` is set.

    A process that sends it raises `attempts` and moves `next_attempt_at` behind its lease, in one conditional UPDATE.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(40), primary_key=True, comment="the header webhook-id")
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text, comment="the body as it is signed")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer, comment="begun since it was made or asked for again")
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="null: delivered or given up")
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_status: Mapped[int | None] = mapped_column(Integer, comment="of HTTP; null: no answer")
    last_error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_webhook_deliveries_endpoint", "endpoint_id", "created_at", "id"),
        Index("ix_webhook_deliveries_created", "created_at"),
        Index(
            "ix_webhook_deliveries_due",
            "next_attempt_at",
            postgresql_where=text("next_attempt_at IS NOT NULL"),
            sqlite_where=text("next_attempt_at IS NOT NULL"),
        ),
    )
