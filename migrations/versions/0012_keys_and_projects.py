"""keys, projects, audit and usage; idempotency keys of each project; indexes by project"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BY_PROJECT = ("files", "adapters", "artifacts")


def upgrade() -> None:
    _make_projects_and_keys()
    _make_audit_and_usage()
    named = "app.access.caller: Caller.name; null: an older version stored it"
    op.add_column("jobs", sa.Column("created_by", sa.String(length=128), nullable=True, comment=named))
    project = sa.Column("project", sa.String(length=64), server_default="default", nullable=False)
    _replace_idempotency_keys([project], ["project", "key"])
    for table in BY_PROJECT:
        op.create_index(f"ix_{table}_by_project", table, ["project", "created_at", "id"])


def _make_projects_and_keys() -> None:
    op.create_table(
        "projects",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("limits", sa.JSON(), nullable=False, comment="app.access.limits.Limits"),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("hash", sa.String(length=64), nullable=False, comment="app.access.keys.hash_of its secret"),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=True, comment="null: every project"),
        sa.Column("scopes", sa.JSON(), nullable=False, comment="app.access.permissions"),
        sa.Column("max_priority", sa.Integer(), nullable=True, comment="of its jobs; null: any"),
        sa.Column("limits", sa.JSON(), nullable=False, comment="app.access.limits.Limits"),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.Column("last_used_at", MOMENT, nullable=True, comment="to the minute"),
    )
    op.create_index("ix_api_keys_created", "api_keys", ["created_at", "id"])
    op.create_index("ix_api_keys_project", "api_keys", ["project"])


def _make_audit_and_usage() -> None:
    of_caller = "app.access.caller: Caller.name, or that of a command"
    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(length=128), nullable=False, comment=of_caller),
        sa.Column("project", sa.String(length=64), nullable=True, comment="null: of the whole installation"),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False, comment="id or name of what was changed"),
        sa.Column("address", sa.String(length=64), nullable=True, comment="of the client"),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_index("ix_audit_at", "audit", ["at", "id"])
    op.create_index("ix_audit_by_project", "audit", ["project", "at", "id"])
    of_trainings = "of trainings, times their GPUs"
    op.create_table(
        "usage",
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("project", sa.String(length=64), primary_key=True),
        sa.Column("caller", sa.String(length=128), primary_key=True),
        sa.Column("adapter", sa.String(length=64), primary_key=True, comment="empty: a base model, or none"),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False, comment="that were submitted"),
        sa.Column("gpu_seconds", sa.Float(), server_default="0", nullable=False, comment=of_trainings),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False, comment="for answers"),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.create_index("ix_usage_by_project", "usage", ["project", "day"])


def _replace_idempotency_keys(added: list[sa.Column[str]], primary: list[str]) -> None:
    """Make the table anew with another primary key, which SQLite cannot change, and keep its rows."""
    op.create_table(
        "new_idempotency_keys",
        *added,
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(*primary),
    )
    columns = "key, body_sha256, job_id, created_at"
    project = ", project" if added else ""
    of_job = ", (SELECT jobs.project FROM jobs WHERE jobs.id = idempotency_keys.job_id)" if added else ""
    newest = "" if added else " WHERE project = 'default'"
    op.execute(
        f"INSERT INTO new_idempotency_keys ({columns}{project}) SELECT {columns}{of_job} FROM idempotency_keys{newest}"
    )
    op.drop_table("idempotency_keys")
    op.rename_table("new_idempotency_keys", "idempotency_keys")
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"])
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])


def downgrade() -> None:
    for table in BY_PROJECT:
        op.drop_index(f"ix_{table}_by_project", table)
    _replace_idempotency_keys([], ["key"])
    op.drop_column("jobs", "created_by")
    for table in ("usage", "audit", "api_keys", "projects"):
        op.drop_table(table)
