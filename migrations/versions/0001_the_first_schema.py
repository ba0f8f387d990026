"""the first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False, comment="hash of the bundle's files"),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("base_model", sa.String(length=200), nullable=False, comment="as the job's spec named it"),
        sa.Column(
            "base_source", sa.Text(), nullable=False, comment="the weights that were trained on: a hub id or a folder"
        ),
        sa.Column("base_is_local", sa.Boolean(), nullable=False),
        sa.Column("base_revision", sa.String(length=120), nullable=True),
        sa.Column("path", sa.Text(), nullable=False, comment="the bundle's folder"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True, comment="null: all weights were trained"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id"),
    )
    op.create_index("ix_adapters_created_at", "adapters", ["created_at", "id"])

    op.create_table(
        "files",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the bytes as they were sent"),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("layout", sa.String(length=32), nullable=True, comment="null: only a job's mapping can tell"),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False, comment="app.datasets.report.FileReport"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_files_created_at", "files", ["created_at", "id"])

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False, comment="as it was sent"),
        sa.Column("resolved", sa.JSON(), nullable=False, comment="with defaults and what auto became"),
        sa.Column("file_id", sa.String(length=40), nullable=True),
        sa.Column("eval_file_id", sa.String(length=40), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "validating",
                "queued",
                "running",
                "succeeded",
                "failed",
                "cancelled",
                name="jobstatus",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("desired", sa.Enum("run", "cancel", name="desire", native_enum=False, length=16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="fencing token: every write of an attempt names it"),
        sa.Column("worker", sa.String(length=128), nullable=True, comment="who holds the job now"),
        sa.Column("beats", sa.BigInteger(), nullable=False, comment="rises with every heartbeat of the holder"),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False, comment="number of the newest event"),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("data_report", sa.JSON(), nullable=True),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("adapter_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_jobs_eval_file_id", "jobs", ["eval_file_id"])
    op.create_index("ix_jobs_file_id", "jobs", ["file_id"])
    op.create_index("ix_jobs_waiting", "jobs", ["status", "priority", "created_at"])

    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("stage", sa.Enum("check", "train", name="stage", native_enum=False, length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("device", sa.String(length=255), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Enum("check", "train", name="stage", native_enum=False, length=16), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("events_offset", sa.BigInteger(), nullable=False, comment="bytes of the events file that are stored"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "epoch"),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq"),
    )
    op.create_index("ix_job_events_kind", "job_events", ["job_id", "kind", "seq"])


def downgrade() -> None:
    op.drop_index("ix_job_events_kind", table_name="job_events")

    op.drop_table("job_events")
    op.drop_table("attempts")
    op.drop_table("workers")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_index("ix_jobs_file_id", table_name="jobs")
    op.drop_index("ix_jobs_eval_file_id", table_name="jobs")

    op.drop_table("jobs")
    op.drop_index("ix_files_created_at", table_name="files")

    op.drop_table("files")
    op.drop_index("ix_adapters_created_at", table_name="adapters")

    op.drop_table("adapters")
