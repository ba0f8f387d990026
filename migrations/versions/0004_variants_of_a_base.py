"""the form of the base that an adapter was proved on"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    proved = "the form of the base that it was proved on; null: as its files hold it"
    op.add_column("adapters", sa.Column("base_variant", sa.JSON(none_as_null=True), nullable=True, comment=proved))


def downgrade() -> None:
    op.drop_column("adapters", "base_variant")
