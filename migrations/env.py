"""Alembic's environment: the connection comes from `app.database.migrate`, the metadata from all models."""

from typing import Any, Literal

from alembic import context

from app.adapters import models as adapters
from app.artifacts import models as artifacts
from app.database import installation
from app.database.columns import Choice, Document
from app.database.connection import Base, UtcDateTime
from app.feedback import models as feedback
from app.files import models as files
from app.jobs import models as jobs
from app.secrets import models as secrets
from app.webhooks import models as webhooks

# Imported so that Base.metadata knows them.
TABLES = (
    adapters,
    artifacts,
    feedback,
    files,
    installation,
    jobs,
    secrets,
    webhooks,
)


def as_plain_type(kind: str, item: Any, _: object) -> str | Literal[False]:
    """A migration names no type of the app: those may change, and the migration may not."""
    names = {UtcDateTime: "sa.DateTime(timezone=True)", Document: "sa.JSON()", Choice: "sa.String(length=16)"}
    return names.get(type(item), False) if kind == "type" else False


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=as_plain_type,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
