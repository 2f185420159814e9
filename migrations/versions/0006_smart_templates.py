"""Templates that ask for smart encoding."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "ALTER TABLE templates ADD COLUMN smart_encoding boolean NOT NULL DEFAULT false"
    )
