"""feedback on answers"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rating", sa.String(length=16), nullable=False),
        sa.Column(
            "model", sa.String(length=200), nullable=False, comment="as the answer named it: with version or step"
        ),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("messages", sa.JSON(), nullable=False, comment="up to the question"),
        sa.Column("answer", sa.Text(), nullable=False),
    )
    op.create_index("ix_feedback_by_dataset", "feedback", ["project", "dataset", "created_at", "id"])


def downgrade() -> None:
    op.drop_table("feedback")
