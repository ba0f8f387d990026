"""labels of jobs in a table of their own, by which jobs are listed, and summaries of metrics"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

AT_ONCE = 1000


def upgrade() -> None:
    labels = op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    last = ""
    while found := _jobs_behind(last):
        last = found[-1].id
        op.bulk_insert(labels, [row for job in found for row in _rows_of(job)])
    op.create_index("ix_job_labels_jobs", "job_labels", ["name", "value", "created_at", "job_id"])
    op.create_table(
        "metric_summaries",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "level", "number"),
    )


def _jobs_behind(last: str) -> list[Any]:
    jobs = sa.table(
        "jobs",
        sa.column("id", sa.String()),
        sa.column("labels", sa.JSON()),
        sa.column("created_at", sa.DateTime(timezone=True)),
        sa.column("kind", sa.String()),
    )
    text = sa.cast(jobs.c.labels, sa.Text()).label("text")  # so that a damaged document fails nothing
    query = sa.select(jobs.c.id, text, jobs.c.created_at).where(jobs.c.id > last, jobs.c.kind != "validate")
    return list(op.get_bind().execute(query.order_by(jobs.c.id).limit(AT_ONCE)))


def _rows_of(job: Any) -> Iterator[dict[str, Any]]:
    """Yield the labels that are text. Those of a damaged document are left out."""
    try:
        labels = json.loads(job.text)
    except (TypeError, ValueError):
        return
    for name, value in labels.items() if isinstance(labels, dict) else ():
        if isinstance(value, str) and len(name) <= 64 and len(value) <= 512 and _can_be_stored(name + value):
            yield {"job_id": job.id, "name": name, "value": value, "created_at": job.created_at}


def _can_be_stored(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def downgrade() -> None:
    op.drop_table("metric_summaries")
    op.drop_table("job_labels")
