"""The application's port that an inbound text, or a part of one, was addressed to. NULL: none."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run = op.get_bind().exec_driver_sql
    run("ALTER TABLE inbound ADD COLUMN port integer")
    run("ALTER TABLE inbound_parts ADD COLUMN port integer")
