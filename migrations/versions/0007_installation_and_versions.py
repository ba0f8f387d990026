"""which installation the database belongs to, and the versions of the workers"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("row", sa.Integer(), autoincrement=False, comment="1: there is one row"),
        sa.Column("id", sa.String(length=40), nullable=False, comment="also in the home that belongs to it"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("row"),
    )
    version = "of the service; null: of one that did not say it"
    op.add_column("workers", sa.Column("version", sa.String(length=32), nullable=True, comment=version))


def downgrade() -> None:
    op.drop_column("workers", "version")
    op.drop_table("installation")
