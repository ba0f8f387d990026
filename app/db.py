"""The database: one engine for SQLite and PostgreSQL, one declarative base, UTC times.

SQLite runs in WAL mode and takes its write lock at BEGIN, so that a read-then-write transaction never fails late.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, Float, create_engine, event, literal
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.columns import read_document

POSTGRES_OPTIONS = "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=20000"


# What is raised while the database is away, busy for too long, read-only, or its disk is full: the same may go well
# later.
AWAY = (OperationalError, InterfaceError, InternalError, NoFreeConnection)


class Base(DeclarativeBase):
    """All tables of the service."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: aware in Python on every database, though SQLite stores it naive."""

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
    """A moment by the clock of the database, which all hosts share: now, or so long ago."""

    inherit_cache = True

    def __init__(self, ago: timedelta = timedelta()) -> None:
        self.type = UtcDateTime()
        super().__init__(literal(-ago.total_seconds(), Float()))


@compiles(database_time)
def _on_postgres(moment: database_time, compiler: SQLCompiler, **options: Any) -> str:
    return f"now() + make_interval(secs => {compiler.process(moment.clauses, **options)})"


@compiles(database_time, "sqlite")
def _on_sqlite(moment: database_time, compiler: SQLCompiler, **options: Any) -> str:
    """In the form in which SQLAlchemy stores a moment there."""
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(moment.clauses, **options)} || ' seconds')"


def utc_now() -> datetime:
    return datetime.now(UTC)


def make_engine(url: str) -> Engine:
    """An engine with the settings that this service relies on."""
    if url.startswith("sqlite"):
        return _sqlite_engine(url)
    return create_engine(
        url,
        pool_size=20,
        max_overflow=40,
        pool_pre_ping=True,
        pool_recycle=900,
        json_deserializer=read_document,
        connect_args={"connect_timeout": 3, "options": POSTGRES_OPTIONS},
    )


def _sqlite_engine(url: str) -> Engine:
    waits = {"timeout": 15}
    engine = create_engine(url, pool_size=20, max_overflow=40, json_deserializer=read_document, connect_args=waits)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # pysqlite must not open transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))

    return engine


class Database:
    """Sessions that write, and sessions that only read and so never wait for SQLite's write lock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writer: sessionmaker[Session] = sessionmaker(engine, expire_on_commit=False)
        self.reader: sessionmaker[Session] = sessionmaker(
            engine.execution_options(sqlite_begin="BEGIN"), expire_on_commit=False
        )

    @classmethod
    def open(cls, url: str) -> "Database":
        return cls(make_engine(url))

    def close(self) -> None:
        self.engine.dispose()
