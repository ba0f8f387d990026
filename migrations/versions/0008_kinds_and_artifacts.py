"""kinds of jobs, what libraries observed, artifacts, and the project of every resource"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OBSERVED = "what the libraries really used, by dotted field of the plan"
SHA256 = "of the names and contents of its files; null: unknown, of an adapter that an older version published"
LOCATION = "key of the artifact store, or a path relative to the home"
# The columns whose meaning has changed: before and now.
COMMENTS = {
    "spec": ("as it was sent", "as the client sent it"),
    "resolved": (
        "with defaults and what auto became",
        "app.contracts.plan; of older versions: see app.jobs.stored",
    ),
    "is_dry_run": (
        "a check for POST /jobs/validate: hidden, never trained, gone once it is answered",
        "in no list, and removed once the request that made it has its result",
    ),
}


def upgrade() -> None:
    _comment({name: now for name, (_, now) in COMMENTS.items()})
    op.add_column("jobs", sa.Column("kind", sa.String(length=32), nullable=False, server_default="train"))
    op.add_column("jobs", sa.Column("observed", sa.JSON(), nullable=True, comment=OBSERVED))
    op.execute("UPDATE jobs SET kind = 'validate' WHERE is_dry_run")
    for table in ("files", "adapters"):
        op.add_column(table, sa.Column("project", sa.String(length=64), nullable=False, server_default="default"))
    of_job = "SELECT jobs.project FROM jobs WHERE jobs.id = adapters.job_id"
    op.execute(f"UPDATE adapters SET project = ({of_job}) WHERE EXISTS ({of_job})")
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment=SHA256),
        sa.Column("location", sa.Text(), nullable=False, comment=LOCATION),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_artifacts_job", "artifacts", ["job_id", "created_at", "id"])
    op.execute(
        "INSERT INTO artifacts (id, project, job_id, kind, name, bytes, location, created_at) "
        "SELECT id, project, job_id, 'adapter', 'adapter', bytes, path, created_at FROM adapters"
    )


def _comment(comments: dict[str, str]) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        for name, comment in comments.items():
            op.alter_column("jobs", name, comment=comment)


def downgrade() -> None:
    _comment({name: before for name, (before, _) in COMMENTS.items()})
    op.drop_table("artifacts")
    for table in ("adapters", "files"):
        op.drop_column(table, "project")
    op.drop_column("jobs", "observed")
    op.drop_column("jobs", "kind")
