"""what trainings measured of memory and speed, on each kind of device and shape of base"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_measurements",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("device", sa.String(length=255), nullable=False, comment="as of the worker"),
        sa.Column("shape", sa.String(length=128), nullable=False, comment="app.contracts.model_shape: BaseShape.key"),
        sa.Column("held_bytes", sa.BigInteger(), nullable=False, comment="predicted, whatever the tokens are"),
        sa.Column("predicted_bytes", sa.BigInteger(), nullable=False, comment="peak, without a correction"),
        sa.Column("measured_bytes", sa.BigInteger(), nullable=True, comment="peak; null: not measured"),
        sa.Column("operations_per_second", sa.Float(), nullable=True, comment="floating point; null: not measured"),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_training_measurements", "training_measurements", ["device", "shape", "measured_at"])


def downgrade() -> None:
    op.drop_table("training_measurements")
