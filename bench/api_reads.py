"""What the reads of a page cost with few and with many jobs and events: two services, asked in turns.

Part of `bench.api`. Both meet the same noise of the machine, so the ratio of their times says more than the times.
"""

import secrets
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from sqlalchemy import insert, text
from sqlalchemy.engine import make_url

from app.config import Settings
from app.database.connection import Database, utc_now
from app.database.migrate import upgrade
from app.ids import new_id
from app.jobs import metric_summaries
from app.jobs.models import Job, JobEvent, JobLabel
from app.jobs.states import JobStatus
from app.jobs.views.metrics import thinned_series
from app.scope import EVERY_PROJECT

if TYPE_CHECKING:
    from bench.api import Api

FEW_JOBS, FEW_EVENTS = 1000, 10_000
ROUNDS = 200
AT_ONCE = 5000
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
PATHS = {
    "job": "/jobs/{job}",
    "list": "/jobs",
    "second page": "/jobs?after={job}",
    "status": "/jobs?status=failed",
    "project and status": "/jobs?project=p3&status=failed",
    "label": "/jobs?label=team%3Da",
    "rare label": "/jobs?label=run%3D500",
    "label, project and status": "/jobs?label=team%3Da&project=p3&status=failed",
    "two labels, which no job has": "/jobs?label=team%3Da&label=run%3Dx",
    "text": "/jobs?text=BENCH",
    "text that no job has": "/jobs?text=nowhere",
    "counts": "/jobs/counts",
    "counts of a project": "/jobs/counts?project=p3",
    "events": "/jobs/{long}/events",
    "late events": "/jobs/{long}/events?after={late}",
    "metrics": "/jobs/{long}/metrics",
    "500 points": "/jobs/{long}/metrics?points=500",
    "500 points of a tenth of the steps": "/jobs/{long}/metrics?points=500&from_step={from_step}&to_step={to_step}",
}
# They take tens of milliseconds, so fewer of them are enough.
SLOW = ("metrics", "500 points", "500 points of a tenth of the steps")
# An event of a step, by the number i. `loss` is different every time. SQLite reads `||` before `/` and `*`.
PAYLOAD = (
    '\'{{"step": \' || i || \', "total_steps": 9000000, "epoch": \' || (i / 1000.0)'
    " || ', \"loss\": ' || ({chance}) || '"
    ', "learning_rate": 0.0002, "grad_norm": \' || ({chance}) || \', "tokens": \' || (i * 4096) || \', '
    '"tokens_per_second": 9000.5, "seconds": \' || (i / 2.0) || \', "memory_bytes": 8589934592}}\''
)
CHANCE = {"sqlite": "abs(random() % 1000000) / 1000000.0", "postgresql": "random()"}


class Filled:
    """A new database with so many jobs, the oldest of which has so many logged steps."""

    def __init__(self, home: Path, url: str | None, jobs: int, events: int, model: Job) -> None:
        self.settings = Settings(home=home, database_url=url)
        home.mkdir(mode=0o700)
        upgrade(self.settings.database)
        self.events = events
        with closing(Database.open(self.settings.database)) as database:
            self.job_ids = add_jobs(database, jobs, model)
            add_steps(database, self.job_ids[-1], events)
            with database.reader() as session:
                assert thinned_series(session, EVERY_PROJECT, self.job_ids[-1], 500, 0, None).steps, (
                    "no step is readable"
                )
            if database.engine.dialect.name == "postgresql":  # where a daemon does so
                with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("SET statement_timeout = 0"))
                    connection.execute(text("VACUUM ANALYZE"))

    def path(self, name: str) -> str:
        begin = self.events // 2
        steps = {"late": self.events - 50, "from_step": begin, "to_step": begin + self.events // 10}
        return PATHS[name].format(job=quote(self.job_ids[500]), long=self.job_ids[-1], **steps)


def add_jobs(database: Database, jobs: int, model: Job) -> list[str]:
    """Jobs like the model, of seven projects, that have ended, a second apart. Returns their ids, newest first."""
    usual = {column.key: getattr(model, column.key) for column in Job.__mapper__.column_attrs}
    usual |= {"last_seq": 1}
    now, ids = utc_now(), [new_id("job") for _ in range(jobs)]
    for start in range(0, jobs, AT_ONCE):
        rows, labels = [], []
        for number in range(start, min(jobs, start + AT_ONCE)):
            at, labelled = now - timedelta(seconds=number), {"team": "a", "run": str(number)}
            own = {"id": ids[number], "project": f"p{number % 7}", "status": ENDED[number % 3], "labels": labelled}
            rows.append({**usual, **own, "created_at": at, "finished_at": at})
            labels += [{"job_id": ids[number], "name": n, "value": v, "created_at": at} for n, v in labelled.items()]
        events = [event_of(row) for row in rows]
        with database.writer() as session:
            for table, new in ((Job, rows), (JobLabel, labels), (JobEvent, events)):
                session.execute(insert(table), new)
            session.commit()
    return ids


def event_of(row: dict[str, Any]) -> dict[str, Any]:
    payload = {"status": row["status"].value}
    return {"job_id": row["id"], "seq": 1, "epoch": 0, "kind": "status", "at": row["created_at"], "payload": payload}


def add_steps(database: Database, job_id: str, count: int) -> None:
    """Store a logged step for each number, and the summaries that a worker would have stored with them."""
    dialect = database.engine.dialect.name
    payload = PAYLOAD.format(chance=CHANCE[dialect])
    rows = f"SELECT :job, i + 1, 1, 'step', created_at, CAST({payload} AS {'TEXT' if dialect == 'sqlite' else 'JSON'})"
    numbers = "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
    statement = (
        f"{numbers} INSERT INTO job_events (job_id, seq, epoch, kind, at, payload) {rows} FROM n CROSS JOIN jobs"
    )
    if dialect == "postgresql":
        numbers, statement = "", f"INSERT INTO job_events (job_id, seq, epoch, kind, at, payload) {rows} FROM "
        statement += "generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT)) i CROSS JOIN jobs"
    for first in range(1, count + 1, metric_summaries.MOST_AT_ONCE):
        last = min(count, first + metric_summaries.MOST_AT_ONCE - 1)
        with database.writer() as session:
            asked = text(f"{statement} WHERE jobs.id = :job").bindparams(job=job_id, first=first, last=last)
            session.execute(asked)
            metric_summaries.summarise(session, EVERY_PROJECT, job_id, last + 1)
            session.execute(text("UPDATE jobs SET last_seq = :last WHERE id = :job"), {"last": last + 1, "job": job_id})
            session.commit()


@contextmanager
def own_database(server: str | None) -> Iterator[str | None]:
    """Yield the URL of a new database of a PostgreSQL server, which is dropped again; of none: SQLite in the home."""
    if server is None:
        yield None
        return
    url, name = make_url(server), f"tunesmith_bench_{secrets.token_hex(6)}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def compare(few: "tuple[Api, Filled]", many: "tuple[Api, Filled]", rounds: int) -> dict[str, Any]:
    """Ask each path of both, in turns."""
    figures: dict[str, Any] = {}
    for name in PATHS:
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds // 4 if name in SLOW else rounds):
            for (api, filled), times in zip((few, many), found, strict=True):
                times.append(api.get(filled.path(name)))
        p50, p99 = (tuple(_percentile(times, share) for times in found) for share in (0.5, 0.99))
        figures[name] = {
            "few_ms": {"p50": _ms(p50[0]), "p99": _ms(p99[0])},
            "many_ms": {"p50": _ms(p50[1]), "p99": _ms(p99[1])},
            "ratio": {"p50": round(p50[1] / p50[0], 2), "p99": round(p99[1] / p99[0], 2)},
        }
    return figures


def _percentile(times: Sequence[float], share: float) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[round(share * 100) - 1]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
