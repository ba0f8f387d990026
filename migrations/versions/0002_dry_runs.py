"""dry runs, and how far a check is"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "is_dry_run",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="a check for POST /jobs/validate: hidden, never trained, gone once it is answered",
        ),
    )
    op.add_column("jobs", sa.Column("checking", sa.JSON(), nullable=True, comment="how far the check has read"))


def downgrade() -> None:
    op.drop_column("jobs", "checking")
    op.drop_column("jobs", "is_dry_run")
