"""A database with as many jobs as years bring, and what a query costs there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from app.database.connection import Database
from app.jobs.models import Job
from app.jobs.states import JobStatus
from tests.support.jobs import add_job

MOMENT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', '+' || (i + {more}) || ' seconds')",
    "postgresql": "timestamptz '2026-01-01 00:00+00' + (i + {more}) * interval '1 second'",
}
# Of 1,000 jobs one waits, one is held, and all others have ended.
ALIVE = "WHEN i % 1000 = 0 THEN 'queued' WHEN i % 1000 = 1 THEN 'running'"
STATUS = f"CASE {ALIVE} WHEN i % 2 = 0 THEN 'failed' ELSE 'succeeded' END"
LABELS = {
    "sqlite": "json_object('team', 'a', 'run', CAST(i AS TEXT))",
    "postgresql": "json_build_object('team', 'a', 'run', CAST(i AS TEXT))",
}
IS_ALIVE = "i % 1000 < 2"


def add_jobs(database: Database, number: int) -> str:
    """So many jobs of seven projects, a second apart. Returns the id of a waiting one.

    All are of one team, and each has a label with its number.
    """
    model = add_job(database, JobStatus.QUEUED)
    moment = MOMENT[database.engine.dialect.name]
    values = {
        "id": "'job-' || i",
        "project": "'p' || (i % 7)",
        "status": STATUS,
        "labels": LABELS[database.engine.dialect.name],
        "worker": "CASE WHEN i % 1000 = 1 THEN 'w' || i END",
        "created_at": moment.format(more=0),
        "finished_at": f"CASE WHEN {IS_ALIVE} THEN NULL ELSE {moment.format(more=60)} END",
    }
    names = [column.name for column in Job.__table__.columns]
    selected = ", ".join(values.get(name, f"jobs.{name}") for name in names)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    statement = f"INSERT INTO jobs ({', '.join(names)}) SELECT {selected} FROM n CROSS JOIN jobs WHERE jobs.id = :model"
    with database.writer() as session:
        is_sqlite = database.engine.dialect.name == "sqlite"
        session.execute(text(f"{numbers} {statement}"), {"count": number, "model": model})
        for name, value in (("team", "'a'"), ("run", "substr(id, 5)")):
            labelled = f"SELECT id, '{name}', {value}, created_at FROM jobs WHERE id <> :model"
            session.execute(text(f"INSERT INTO job_labels {labelled}"), {"model": model})
        if not is_sqlite:  # where a daemon does so; on SQLite nobody does
            session.execute(text("ANALYZE jobs, job_labels"))
        session.commit()
    return model


def statements(database: Database, run: Callable[[Session], object]) -> list[tuple[str, Any]]:
    """What a function asks the database, with the parameters; nothing of what it changes is kept."""
    found: list[tuple[str, Any]] = []

    def remember(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        found.append((statement, parameters))

    with database.writer() as session, listening(session.connection(), remember):
        run(session)
        session.flush()
        session.rollback()
    return found


@contextmanager
def listening(connection: Connection, heard: Callable[..., None]) -> Iterator[None]:
    event.listen(connection, "before_cursor_execute", heard)
    yield
    event.remove(connection, "before_cursor_execute", heard)


def jobs_read(database: Database, statement: str, parameters: Any) -> tuple[int, str]:
    """About how many rows of jobs, labels and feedback a statement looks at, and its plan."""
    is_sqlite = database.engine.dialect.name == "sqlite"
    return (_on_sqlite if is_sqlite else _on_postgres)(database, statement, parameters)


# Instructions of SQLite's machine that it takes to look at a row, at the least.
PER_ROW = 3


def _on_sqlite(database: Database, statement: str, parameters: Any) -> tuple[int, str]:
    with database.writer() as session:
        raw: Any = session.connection().connection.driver_connection
        plan = "\n".join(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
        ticks = count()
        raw.set_progress_handler(lambda: next(ticks) < 0, 100)
        raw.execute(statement, parameters).fetchall()
        raw.set_progress_handler(None, 0)
        session.rollback()
    return next(ticks) * 100 // PER_ROW, plan


def _on_postgres(database: Database, statement: str, parameters: Any) -> tuple[int, str]:
    with database.writer() as session:
        asked = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        plan = session.connection().exec_driver_sql(asked, parameters).scalar_one()[0]["Plan"]
        session.rollback()
    return sum(_rows_of(plan)), str(plan)


def _rows_of(node: dict[str, Any]) -> Iterator[int]:
    if node.get("Relation Name") in ("jobs", "job_labels", "feedback"):
        rows = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        )
        yield int(rows * node["Actual Loops"])
    for below in node.get("Plans", ()):
        yield from _rows_of(below)
