"""what operators watch: since when a job waits, its trace, readings of GPUs, and totals of jobs and attempts"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    since = "since when it is validating or queued; null: since it was made"
    op.add_column("jobs", sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True, comment=since))
    trace = "the trace of the request that made it; null: none"
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=64), nullable=True, comment=trace))
    readings = "of its GPUs: app.contracts.gpu_readings; null: it has none"
    op.add_column("workers", sa.Column("gpu_readings", sa.JSON(), nullable=True, comment=readings))
    op.create_table(
        "totals",
        sa.Column("subject", sa.String(length=16), primary_key=True, comment="jobs or attempts"),
        sa.Column("part", sa.String(length=32), primary_key=True, comment="kind of the jobs, stage of the attempts"),
        sa.Column("outcome", sa.String(length=32), primary_key=True),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="how many have ended so"),
    )


def downgrade() -> None:
    op.drop_table("totals")
    op.drop_column("workers", "gpu_readings")
    op.drop_column("jobs", "traceparent")
    op.drop_column("jobs", "waiting_since")
