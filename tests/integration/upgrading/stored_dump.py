"""A dump that `tests.support.make_dump` wrote, and a database and a home that are filled with it."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, MetaData, Table, insert, select

from app.database.connection import utc_now
from app.database.migrate import closing_engine

Row = dict[str, Any]
DUMPS = Path(__file__).with_name("dumps")
# So long before now was the newest moment of a dump: its workers are away, and its idempotency keys are in force.
AGE = timedelta(minutes=2)


@dataclass(frozen=True)
class Dump:
    name: str

    @cached_property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((DUMPS / f"{self.name}.json").read_text())
        return content

    @property
    def revision(self) -> str:
        return str(self.content["revision"])

    @property
    def spec_version(self) -> int:
        return max(int(job["spec_version"]) for job in self.jobs)

    @property
    def jobs(self) -> list[Row]:
        """Without temporary jobs, which no list shows."""
        return [job for job in self.rows("jobs") if not job["is_dry_run"]]

    def rows(self, table: str) -> list[Row]:
        rows: list[Row] = self.content["tables"][table]
        return rows

    def rows_of(self, table: str, job_id: str) -> list[Row]:
        return [row for row in self.rows(table) if row["job_id"] == job_id]

    def job(self, name: str) -> Row:
        return next(job for job in self.jobs if job["name"] == name)

    def fill_database(self, url: str) -> None:
        """Insert every row into a database that has the dump's schema."""
        with closing_engine(url) as engine, engine.begin() as connection:
            schema = MetaData()
            schema.reflect(connection)
            for table in schema.sorted_tables:
                for row in self.content["tables"].get(table.name, ()):
                    connection.execute(insert(table).values(self._typed(table, row)))

    def fill_home(self, home: Path) -> None:
        for name, text in self.content["home"].items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _typed(self, table: Table, row: Row) -> Row:
        moments = {name for name in row if isinstance(table.columns[name].type, DateTime)}
        return {name: self._moved(value) if name in moments else value for name, value in row.items()}

    def _moved(self, moment: str) -> datetime:
        return (datetime.fromisoformat(moment) + self._shift).astimezone(UTC)

    @cached_property
    def _shift(self) -> timedelta:
        newest = max(row["at"] for row in self.rows("job_events"))
        return utc_now() - AGE - datetime.fromisoformat(newest)


class Snapshot:
    """All rows of a database, to be put back."""

    def __init__(self, url: str) -> None:
        self._url, self._schema = url, MetaData()
        with closing_engine(url) as engine, engine.connect() as connection:
            self._schema.reflect(connection)
            tables = self._schema.sorted_tables
            self._rows = {
                table: [dict(row) for row in connection.execute(select(table)).mappings()] for table in tables
            }

    def restore(self) -> None:
        with closing_engine(self._url) as engine, engine.begin() as connection:
            for table in reversed(self._schema.sorted_tables):
                connection.execute(table.delete())
            for table, rows in self._rows.items():
                if rows:
                    connection.execute(insert(table), rows)
