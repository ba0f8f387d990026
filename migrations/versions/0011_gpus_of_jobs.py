"""how many GPUs a job needs, and how many a worker can give to one"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    needed = "that its training needs, of one host"
    given = "that it can give to one training, if all are free; 1 also of a worker without any"
    op.add_column("jobs", sa.Column("gpus", sa.Integer(), server_default="1", nullable=False, comment=needed))
    op.add_column("workers", sa.Column("gpus", sa.Integer(), server_default="1", nullable=False, comment=given))


def downgrade() -> None:
    op.drop_column("workers", "gpus")
    op.drop_column("jobs", "gpus")
