"""webhooks: where events are sent, and the outbox of what is to be sent"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", sa.JSON(), nullable=False, comment="empty: all"),
        sa.Column("secret", sa.Text(), nullable=False, comment="encrypted (app.encryption)"),
        sa.Column("previous_secret", sa.Text(), nullable=True, comment="encrypted; signs too until its end"),
        sa.Column("previous_secret_until", moment, nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("disabled_at", moment, nullable=True),
        sa.Column("disabled_reason", sa.String(length=32), nullable=True),
        sa.Column("failing_since", moment, nullable=True, comment="the first failure since a success"),
        sa.Column("last_attempt_at", moment, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True, comment="of HTTP; null: no answer"),
        sa.Column("last_error", sa.Text(), nullable=True, comment="null: the last attempt succeeded"),
    )
    op.create_index("ix_webhook_endpoints_project", "webhook_endpoints", ["project", "created_at", "id"])
    begun = "begun since it was made or asked for again"
    endpoint = sa.ForeignKey("webhook_endpoints.id", ondelete="CASCADE")
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=40), primary_key=True, comment="the header webhook-id"),
        sa.Column("endpoint_id", sa.String(length=40), endpoint, nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False, comment="the body as it is signed"),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, comment=begun),
        sa.Column("next_attempt_at", moment, nullable=True, comment="null: delivered or given up"),
        sa.Column("delivered_at", moment, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True, comment="of HTTP; null: no answer"),
        sa.Column("last_error", sa.Text(), nullable=True),
    )
    op.create_index("ix_webhook_deliveries_endpoint", "webhook_deliveries", ["endpoint_id", "created_at", "id"])
    op.create_index("ix_webhook_deliveries_created", "webhook_deliveries", ["created_at"])
    is_waiting = sa.text("next_attempt_at IS NOT NULL")
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_attempt_at"],
        postgresql_where=is_waiting,
        sqlite_where=is_waiting,
    )


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")
