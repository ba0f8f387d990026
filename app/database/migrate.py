"""Migrates a database to the newest schema: `python -m app.database.migrate`, and at every start of `tunesmith up`.

Only one process migrates at a time, and others wait for it. An SQLite file is copied before. A PostgreSQL database is
not; its backup is the operator's task.
"""

import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.config import Settings
from app.database.connection import BoundedConnection, make_engine, sqlite_file, utc_now
from app.disk_faults import is_full
from app.processes.lock import CannotStart, hold_lock
from app.processes.private_files import keep_private

MIGRATIONS = Path(__file__).parents[2] / "migrations"
# The longest wait for another process that migrates the database.
LONGEST_WAIT_SECONDS = 1800.0
POLL_SECONDS = 0.2
KEPT_COPIES = 3
# "tunesmit" as a number, because PostgreSQL's advisory locks are numbers.
LOCK_NUMBER = 0x74756E65736D6974
Say = Callable[[str], None]
log = logging.getLogger(__name__)


class CannotMigrate(CannotStart):
    """A migration was refused or failed. The database is unchanged."""


def config() -> Config:
    found = Config()
    found.set_main_option("script_location", str(MIGRATIONS))
    return found


def upgrade(database_url: str, revision: str = "head", say: Say = log.info) -> None:
    """Run the missing migrations. Safe to repeat, and to run in several processes at once.

    Raises CannotMigrate for a database of a newer version, if another process migrates it for too long, and if a disk
    has no room for it or for its copy.
    """
    script = ScriptDirectory.from_config(config())
    with ExitStack() as stack:
        stack.enter_context(_naming_a_full_disk(database_url))
        engine = make_engine(database_url)
        stack.callback(engine.dispose)
        stack.enter_context(_one_at_a_time(engine))
        before = _revision(engine)
        _check_known(script, before)
        if before == script.get_revision(revision).revision:
            return
        if before is not None:
            _keep_copy(database_url, before, say)
        _run(engine, lambda found: command.upgrade(found, revision))
        if before is not None:
            say(f"the database was migrated from {before} to {_revision(engine)}")


def downgrade(database_url: str, revision: str) -> None:
    with closing_engine(database_url) as engine, _one_at_a_time(engine):
        _run(engine, lambda found: command.downgrade(found, revision))


def check(database_url: str) -> None:
    """Raise alembic's CommandError if the models and the database differ."""
    with closing_engine(database_url) as engine:
        _run(engine, command.check)


def revision_of(database_url: str) -> str | None:
    """Return the schema revision of a database, or None if it has no tables of this service."""
    with closing_engine(database_url) as engine:
        return _revision(engine)


@contextmanager
def closing_engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    try:
        yield engine
    finally:
        engine.dispose()


def _run(engine: Engine, step: Callable[[Config], object]) -> None:
    with engine.connect().execution_options(sqlite_begin="BEGIN") as connection:
        _remove_timeouts(connection)
        found = config()
        found.attributes["connection"] = connection
        step(found)
        connection.commit()


def _remove_timeouts(connection: Connection) -> None:
    """Allow statements of a migration to take longer than others."""
    driver = connection.connection.driver_connection
    if isinstance(driver, BoundedConnection):
        driver.silent_seconds = None
        connection.execute(text("SET statement_timeout = 0"))
        connection.commit()


def _revision(engine: Engine) -> str | None:
    with engine.connect().execution_options(sqlite_begin="BEGIN") as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _check_known(script: ScriptDirectory, revision: str | None) -> None:
    known = {each.revision for each in script.walk_revisions()}
    if revision is not None and revision not in known:
        raise CannotMigrate(
            f"the database has the schema {revision}, and the newest that Tunesmith {__version__} knows is "
            f"{script.get_current_head()}: a newer version migrated it. Start that version, or restore a backup"
        )


@contextmanager
def _naming_a_full_disk(database_url: str) -> Iterator[None]:
    file = sqlite_file(make_url(database_url))
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        if not is_full(error, None if file is None else file.parent):
            raise
        where = f"the disk of {file.parent}" if file is not None else "the disk of the database"
        raise CannotMigrate(f"{where} is full: a migration needs room for the database and for a copy of it") from error


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    """Lock the database for a migration. Raises CannotMigrate if another process holds the lock for too long."""
    file = sqlite_file(engine.url)
    refusal = "another process has been migrating the database for too long"
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(file.with_name(f"{file.name}.migrating"), refusal, LONGEST_WAIT_SECONDS):
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _lock_advisory(connection, refusal)
            yield
    else:
        yield


def _lock_advisory(connection: Connection, refusal: str) -> None:
    """Take the lock, which the server releases when the connection ends."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": LOCK_NUMBER}):
        if time.monotonic() > deadline:
            raise CannotMigrate(refusal)
        time.sleep(POLL_SECONDS)


def _keep_copy(database_url: str, revision: str, say: Say) -> None:
    file = sqlite_file(make_url(database_url))
    if file is None:
        say("the database is migrated without a copy: its backup is the operator's task (`tunesmith backup`)")
        return
    copy = file.with_name(f"{file.name}.before-{utc_now():%Y%m%dT%H%M%S%f}-{revision}")
    copy_sqlite(file, copy)
    say(f"a copy of the database before its migration is kept in {copy}")
    for old in sorted(file.parent.glob(f"{file.name}.before-*"))[:-KEPT_COPIES]:
        old.unlink(missing_ok=True)


def copy_sqlite(source: Path, target: Path) -> datetime:
    """Copy the database atomically and consistently, while others write to it. Returns the moment of the copy."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source, timeout=60)) as live, closing(sqlite3.connect(part)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is a single file
        part.chmod(0o600)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return utc_now()


def main() -> int:
    settings = Settings()
    keep_private(settings.root, settings.database)
    try:
        upgrade(settings.database, say=lambda line: print(line, flush=True))  # noqa: T201
    except CannotStart as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
