"""Inbound texts that could not be taken in are set aside."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE parked_inbound ADD COLUMN failed_at timestamptz")
