"""checkpoints, attempts that resume, slots, projects, idempotency keys"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_columns()
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of its manifest"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="how long the training stood still for it"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "step", "epoch"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_index("ix_jobs_continues", "jobs", ["continues"])
    op.create_index("ix_jobs_held", "jobs", ["worker", "project"])
    _set_length_of_kind(16, 32)


def _add_columns() -> None:
    turns = "projects take turns"
    op.add_column("jobs", sa.Column("project", sa.String(64), nullable=False, server_default="default", comment=turns))
    asked = "how often a user did"
    column = sa.Column("checkpoints_asked", sa.Integer(), nullable=False, server_default="0", comment=asked)
    op.add_column("jobs", column)
    slot = "the lock that the holder's processes hold"
    op.add_column("jobs", sa.Column("slot", sa.String(length=40), nullable=True, comment=slot))
    continues = "the adapter or job that it goes on from, which may not be deleted meanwhile"
    op.add_column("jobs", sa.Column("continues", sa.String(length=40), nullable=True, comment=continues))
    resumed = "the step it went on behind; null until that is known, which supersedes nothing"
    op.add_column("attempts", sa.Column("resume_step", sa.Integer(), nullable=True, comment=resumed))
    op.add_column("attempts", sa.Column("exit_code", sa.Integer(), nullable=True, comment="128+n after signal n"))
    op.add_column("workers", sa.Column("problem", sa.Text(), nullable=True, comment="why it takes no job"))


def _set_length_of_kind(before: int, after: int) -> None:
    with op.batch_alter_table("job_events") as events:
        events.alter_column("kind", existing_type=sa.String(before), type_=sa.String(after), existing_nullable=False)


def downgrade() -> None:
    op.execute("DELETE FROM job_events WHERE length(kind) > 16")
    _set_length_of_kind(32, 16)
    op.drop_index("ix_jobs_held", table_name="jobs")
    op.drop_index("ix_jobs_continues", table_name="jobs")
    op.drop_index("ix_idempotency_keys_job_id", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("checkpoints")
    op.drop_column("workers", "problem")
    op.drop_column("attempts", "exit_code")
    op.drop_column("attempts", "resume_step")
    for name in ("continues", "slot", "checkpoints_asked", "project"):
        op.drop_column("jobs", name)
