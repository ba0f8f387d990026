"""the positions to which the base of an adapter is scaled"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    scaled = "positions to which the base's RoPE is scaled linearly; null: as its files say"
    op.add_column("adapters", sa.Column("base_scaled_to", sa.Integer(), nullable=True, comment=scaled))


def downgrade() -> None:
    op.drop_column("adapters", "base_scaled_to")
