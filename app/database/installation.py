"""Marks which database and which home belong together: both hold the same id.

    database: the one row of `installation`          home: the file `installation`

A home without an id gets that of the first database that knows something in it, or of any database if it is empty.
Files without a row are removed (`app.jobs.queue.orphans`) only if the ids match, so that a wrong database URL, or a new
database, removes no file.
"""

import os
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import Integer, String, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.config import Settings
from app.database.connection import Base, Database, UtcDateTime, utc_now
from app.ids import new_id
from app.processes.lock import CannotStart

FILE = "installation"


class Installation(Base):
    __tablename__ = "installation"

    row: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, comment="1: there is one row")
    id: Mapped[str] = mapped_column(String(40), comment="also in the home that belongs to it")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


def of_database(database: Database) -> str:
    """Return the database's id, and make one if it has none. Concurrent callers get the same id."""
    with database.reader() as session:
        found = _read(session)
    if found is not None:
        return found
    insert = (postgresql if database.engine.dialect.name == "postgresql" else sqlite).insert
    values = {"row": 1, "id": new_id("installation"), "created_at": utc_now()}
    with database.writer() as session:
        session.execute(insert(Installation).values(values).on_conflict_do_nothing())
        session.commit()
    with database.reader() as session:
        return session.scalars(select(Installation.id)).one()


def of_home(home: Path) -> str | None:
    """Return the home's id, or None if it was never marked."""
    try:
        return (home / FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def mark(home: Path, name: str) -> None:
    """Write the id into the home atomically."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{FILE}-{os.getpid()}"
    with draft.open("w") as file:
        file.write(f"{name}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / FILE)


def adopt(settings: Settings) -> str:
    """Mark the home with the database's id, whatever its mark was. Returns a sentence about it for the operator.

    Raises `CannotStart` if the database cannot be used or the home cannot be written.
    """
    try:
        with closing(Database.open(settings.database)) as database:
            name = of_database(database)
        mark(settings.root, name)
    except DBAPIError as error:
        raise CannotStart(f"the database {make_url(settings.database)!r} cannot be used: {error.orig}") from error
    except OSError as error:
        raise CannotStart(f"the home {settings.root} cannot be marked: {error.strerror}") from error
    return f"{settings.root} and its database both belong to {name} now"


def renew(database: Database, home: Path) -> str:
    """Give both a new id, and return it: a copy of another installation becomes an installation of its own."""
    of_database(database)
    name = new_id("installation")
    with database.writer() as session:
        session.scalars(select(Installation)).one().id = name
        session.commit()
    mark(home, name)
    return name


def _read(session: Session) -> str | None:
    return session.scalars(select(Installation.id)).one_or_none()
