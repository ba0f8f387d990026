"""Brings a database to the newest schema: `python -m app.migrate`, and at every embedded start."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config

from app.config import Settings
from app.db import make_engine

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def config() -> Config:
    found = Config()
    found.set_main_option("script_location", str(MIGRATIONS))
    return found


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing. Safe to repeat."""
    _run(database_url, lambda found: command.upgrade(found, revision))


def downgrade(database_url: str, revision: str) -> None:
    _run(database_url, lambda found: command.downgrade(found, revision))


def check(database_url: str) -> None:
    """Raises alembic's CommandError when the models and the database differ."""
    _run(database_url, command.check)


def _run(database_url: str, step: Callable[[Config], object]) -> None:
    engine = make_engine(database_url)
    try:
        with engine.connect().execution_options(sqlite_begin="BEGIN") as connection:
            found = config()
            found.attributes["connection"] = connection
            step(found)
            connection.commit()
    finally:
        engine.dispose()


if __name__ == "__main__":
    upgrade(Settings().database)
