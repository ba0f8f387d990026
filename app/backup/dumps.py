"""Dumps and restores the database of a backup, in a consistent state and with the ids that it has then."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, select, text
from sqlalchemy.engine import URL, make_url

from app.adapters.models import Adapter
from app.artifacts.models import Artifact
from app.artifacts.names import ADAPTER
from app.backup.contents import BackupRefused, copy
from app.database.connection import sqlite_file
from app.database.installation import Installation
from app.database.migrate import closing_engine, copy_sqlite
from app.files.models import File
from app.jobs.models import Job


@dataclass(frozen=True)
class Known:
    """What the dump contains: its schema, its installation, and the paths in the home that its rows name."""

    revision: str
    installation: str
    jobs: Sequence[str]
    adapters: Sequence[str]
    artifacts: Sequence[str]
    files: Sequence[str]


def dump(database_url: str, target: Path) -> Known:
    """Copy the database. Raises BackupRefused if pg_dump is missing or fails."""
    url = make_url(database_url)
    file = sqlite_file(url)
    if file is not None:
        copy_sqlite(file, target)
        with closing_plain(target) as connection:
            return _known(connection)
    with _one_moment(database_url) as connection:
        snapshot = connection.scalar(text("SELECT pg_export_snapshot()"))
        known = _known(connection)
        arguments = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={target}"]
        _run("pg_dump", url, *arguments)
    return known


def load(source: Path, database_url: str) -> None:
    """Restore a dump atomically into a database that `check_empty` accepts. Raises BackupRefused if that fails."""
    url = make_url(database_url)
    file = sqlite_file(url)
    if file is None:
        options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")
        _run("pg_restore", url, *options, str(source))
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    copy(source, part, file.name)
    part.replace(file)


def check_ours(database_url: str) -> None:
    """Raise BackupRefused if the database does not exist, or has an older schema."""
    file = sqlite_file(make_url(database_url))
    if file is not None and not file.is_file():
        raise BackupRefused(f"there is no database at {file}")
    with closing_engine(database_url) as engine:
        has_table = inspect(engine).has_table(Installation.__tablename__)
    if not has_table:
        raise BackupRefused(
            "the database has an older schema, or none: migrate it first (python -m app.database.migrate)"
        )


def check_empty(database_url: str) -> None:
    """Raise BackupRefused if the database has a table already."""
    file = sqlite_file(make_url(database_url))
    if file is not None and not file.exists():
        if file.with_name(f"{file.name}-wal").exists():  # SQLite would apply it to the restored file
            raise BackupRefused(f"{file} does not exist, but its write-ahead log {file.name}-wal does: move that away")
        return
    with closing_engine(database_url) as engine:
        tables = inspect(engine).get_table_names()
    if tables:
        where = repr(engine.url)
        raise BackupRefused(f"the database {where} has {len(tables)} tables: a backup is restored into an empty one")


@contextmanager
def closing_plain(file: Path) -> Iterator[Connection]:
    """Open an SQLite file read-only, without creating files next to it."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        engine = create_engine("sqlite://", creator=lambda: opened)
        with engine.connect() as connection:
            yield connection
        engine.dispose()


@contextmanager
def _one_moment(database_url: str) -> Iterator[Connection]:
    with (
        closing_engine(database_url) as engine,
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
    ):
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection


def _known(connection: Connection) -> Known:
    adapters = connection.execute(select(Adapter.id, Adapter.version)).all()
    return Known(
        revision=str(connection.scalar(text("SELECT version_num FROM alembic_version"))),
        installation=connection.scalar(select(Installation.id)) or "",
        jobs=connection.scalars(select(Job.id).where(~Job.is_temporary)).all(),
        adapters=[f"{adapter_id}/{version}" for adapter_id, version in adapters],
        artifacts=_artifacts(connection),
        files=connection.scalars(select(File.id)).all(),
    )


def _artifacts(connection: Connection) -> Sequence[str]:
    """The artifacts that are no adapters. A database that was not migrated yet has none."""
    if not inspect(connection).has_table(Artifact.__tablename__):
        return ()
    return connection.scalars(select(Artifact.id).where(Artifact.kind != ADAPTER)).all()


def _run(program: str, url: URL, *arguments: str) -> None:
    """Run a PostgreSQL program. The password is in its environment, where other users cannot read it."""
    path = shutil.which(program)
    if path is None:
        raise BackupRefused(
            f"there is no {program} on this host: install PostgreSQL's client programs, in the server's version or a "
            "newer one"
        )
    server = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    secret = {} if url.password is None else {"PGPASSWORD": str(url.password)}
    command = [path, f"--dbname={server}", "--no-password", *arguments]
    done = subprocess.run(command, env={**os.environ, **secret}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackupRefused(f"{program} failed: {done.stderr.strip()[:500]}")
