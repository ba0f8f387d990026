"""secrets of projects"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "project_secrets",
        sa.Column("project", sa.String(length=64), primary_key=True),
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("ciphertext", sa.Text(), nullable=False, comment="app.encryption"),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("last_used_at", moment, nullable=True, comment="when a job last got it"),
    )


def downgrade() -> None:
    op.drop_table("project_secrets")
