"""indexes for every list and every background query, and the version of a spec"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

VERSION = "of the form of its spec: a worker claims none of a newer version"
KNOWN = "the newest version of a spec that it understands"
LISTS = {
    "ix_jobs_created": ["created_at", "id"],
    "ix_jobs_by_project": ["project", "created_at", "id"],
    "ix_jobs_by_status": ["status", "created_at", "id"],
    "ix_jobs_by_project_and_status": ["project", "status", "created_at", "id"],
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("spec_version", sa.Integer(), nullable=False, server_default="1", comment=VERSION))
    op.add_column("workers", sa.Column("spec_version", sa.Integer(), nullable=False, server_default="1", comment=KNOWN))
    for name, columns in LISTS.items():
        op.create_index(name, "jobs", columns)
    _create_partial("ix_jobs_finished", ["finished_at"], "finished_at IS NOT NULL")
    is_dry_run = "is_dry_run = 1" if op.get_bind().dialect.name == "sqlite" else "is_dry_run"
    _create_partial("ix_jobs_dry_runs", ["created_at"], is_dry_run)
    op.drop_index("ix_jobs_held", table_name="jobs")
    _create_partial("ix_jobs_held", ["worker", "project"], "worker IS NOT NULL")
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"])


def _create_partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_created", table_name="idempotency_keys")
    op.drop_index("ix_jobs_held", table_name="jobs")
    op.create_index("ix_jobs_held", "jobs", ["worker", "project"])
    for name in ("ix_jobs_dry_runs", "ix_jobs_finished", *LISTS):
        op.drop_index(name, table_name="jobs")
    op.drop_column("workers", "spec_version")
    op.drop_column("jobs", "spec_version")
