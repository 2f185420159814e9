"""A pack's segments, counted once: a forecast sums them without reading texts. 0: from before, one a message."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE packs ADD COLUMN segments integer NOT NULL DEFAULT 0")
