"""The database: one engine for SQLite and PostgreSQL, one declarative base, UTC times.

SQLite runs in WAL mode and takes its write lock at BEGIN, so that a transaction never fails between a read and a write.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, DateTime, Dialect, Engine, ExceptionContext, Float, create_engine, event, literal
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.database.columns import read_document
from app.disk_faults import is_full, is_read_only

POSTGRES_OPTIONS = "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=20000"
# Longer than the server's own limit for a statement, 15 s.
SILENT_SECONDS = 20.0

# Errors while the database is not available: it is away, busy for too long, read-only, or its disk is full. A later try
# may succeed.
AWAY = (OperationalError, InterfaceError, InternalError, NoFreeConnection)


class Base(DeclarativeBase):
    """All tables of the service."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, timezone-aware in Python. (SQLite stores it without a time zone.)"""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_time(FunctionElement[datetime]):
    """The time of the database's clock, which all hosts share, minus `ago`."""

    inherit_cache = True

    def __init__(self, ago: timedelta = timedelta()) -> None:
        self.type = UtcDateTime()
        super().__init__(literal(-ago.total_seconds(), Float()))


@compiles(database_time)
def _on_postgres(moment: database_time, compiler: SQLCompiler, **options: Any) -> str:
    return f"now() + make_interval(secs => {compiler.process(moment.clauses, **options)})"


@compiles(database_time, "sqlite")
def _on_sqlite(moment: database_time, compiler: SQLCompiler, **options: Any) -> str:
    """SQLAlchemy stores a moment in SQLite in this form."""
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(moment.clauses, **options)} || ' seconds')"


def utc_now() -> datetime:
    return datetime.now(UTC)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite database, or None for another database and for one in memory."""
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)).absolute() if is_file else None


def make_engine(url: str, processes: int = 1) -> Engine:
    """Return an engine with the settings that this service needs, for one of `processes` that share the database."""
    if url.startswith("sqlite"):
        return _sqlite_engine(url)
    engine = create_engine(
        url,
        pool_size=max(2, 20 // processes),
        max_overflow=max(4, 40 // processes),
        pool_pre_ping=True,
        pool_recycle=900,
        json_deserializer=read_document,
        connect_args={"connect_timeout": 3, "options": POSTGRES_OPTIONS},
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return BoundedConnection.connect(*arguments, **options)

    return engine


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself if the server is silent for longer than any statement may take, because it is frozen or lost."""

    silent_seconds: float | None = SILENT_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Raises OperationalError, with the connection closed, if no response comes in time."""
        try:
            return super().wait(gen, interval, self.silent_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server was silent for {self.silent_seconds:g} seconds") from None


def _sqlite_engine(url: str) -> Engine:
    waits = {"timeout": 15}
    engine = create_engine(url, pool_size=20, max_overflow=40, json_deserializer=read_document, connect_args=waits)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # pysqlite must not open transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))

    @event.listens_for(engine, "handle_error")
    def reopen(context: ExceptionContext) -> None:
        """A file that was opened while it was read-only stays so in this process until every connection is closed."""
        if getattr(context.original_exception, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
            context.is_disconnect = True
            engine.dispose()

    return engine


class Database:
    """Makes sessions that write (`writer`), and sessions that only read and never wait for SQLite's lock (`reader`)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writer: sessionmaker[Session] = sessionmaker(engine, expire_on_commit=False)
        self.reader: sessionmaker[Session] = sessionmaker(
            engine.execution_options(sqlite_begin="BEGIN"), expire_on_commit=False
        )

    @classmethod
    def open(cls, url: str, processes: int = 1) -> "Database":
        """`processes` is how many open it and share its connections; PostgreSQL allows 100 by default."""
        return cls(make_engine(url, processes))

    @property
    def folder(self) -> Path | None:
        """The folder of SQLite's file, or None for another database."""
        file = sqlite_file(self.engine.url)
        return None if file is None else file.parent

    def why_away(self, error: BaseException) -> str:
        """Return the reason for an error in AWAY, for a log."""
        if is_full(error, self.folder):
            return "its disk is full"
        return "it is read-only" if is_read_only(error, self.folder) else type(error).__name__

    def close(self) -> None:
        self.engine.dispose()
