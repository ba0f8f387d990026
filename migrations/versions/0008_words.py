"""columns of a job in the words of the glossary"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Old name, new name.
RENAMED = (
    ("desired", "requested_action"),
    ("beats", "heartbeats"),
    ("checkpoints_asked", "checkpoints_requested"),
)


def upgrade() -> None:
    for old, new in RENAMED:
        op.execute(f"ALTER TABLE jobs RENAME COLUMN {old} TO {new}")


def downgrade() -> None:
    for old, new in RENAMED:
        op.execute(f"ALTER TABLE jobs RENAME COLUMN {new} TO {old}")
