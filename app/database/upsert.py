"""INSERT … ON CONFLICT, which SQLite and PostgreSQL both have, each as its own class of SQLAlchemy."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.database.connection import Base


def insert_into(session: Session, table: type[Base]) -> Any:
    """Return an INSERT into a table that can be told what to do where the row exists."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
