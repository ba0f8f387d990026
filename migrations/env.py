"""Alembic's environment: the connection comes from `app.migrate`, the metadata from all models."""

from typing import Literal

from alembic import context

from app.adapters import models as adapters
from app.db import Base, UtcDateTime
from app.files import models as files
from app.jobs import models as jobs

TABLES = (adapters, files, jobs)  # imported so that Base.metadata knows them


def as_plain_type(kind: str, item: object, _: object) -> str | Literal[False]:
    """A migration names no type of the app: those may change, and the migration may not."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


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
