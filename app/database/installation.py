"""Which database and which home belong together: both hold the same id, made once.

    database: the one row of `installation`          home: the file `installation`

A home that was never marked is marked by the first database that is not a stranger to what lies in it. What a database
does not know is swept from the disk (`app.jobs.queue.orphans`) only where the ids match, so that a wrong database URL,
or a database that was set up anew, costs no file.
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
    """The database's id. One that has none is given one: whoever is first, all see the same."""
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
    """The home's id; None for one that was never marked."""
    try:
        return (home / FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def mark(home: Path, name: str) -> None:
    """Write the id into the home: whole, or not at all."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{FILE}-{os.getpid()}"
    with draft.open("w") as file:
        file.write(f"{name}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / FILE)


def adopt(settings: Settings) -> str:
    """Mark the home as that of the database, whatever it was; a sentence about it.

    Raises `CannotStart` where the database cannot be used or the home cannot be written.
    """
    try:
        with closing(Database.open(settings.database)) as database:
            name = of_database(database)
        mark(settings.root, name)
    except DBAPIError as error:
        raise CannotStart(f"the database {make_url(settings.database)!r} cannot be used: {error.orig}") from error
    except OSError as error:
        raise CannotStart(f"the home {settings.root} cannot be marked: {error.strerror}") from error
    return f"{settings.root} belongs to {name}, as its database does"


def renew(database: Database, home: Path) -> str:
    """A new id in both: what was copied from another installation is one of its own from here on."""
    of_database(database)
    name = new_id("installation")
    with database.writer() as session:
        session.scalars(select(Installation)).one().id = name
        session.commit()
    mark(home, name)
    return name


def _read(session: Session) -> str | None:
    return session.scalars(select(Installation.id)).one_or_none()
