"""Texts that a carrier is asked to take back."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    """
    CREATE TABLE recalls (
        message_id  uuid PRIMARY KEY,
        gateway_id  integer NOT NULL,
        asked_at    timestamptz NOT NULL,
        next_at     timestamptz NOT NULL,
        tries       smallint NOT NULL DEFAULT 0,
        answer      text
    )
    """,
    "CREATE INDEX recalls_open ON recalls (next_at) WHERE answer IS NULL",
    "COMMENT ON COLUMN recalls.answer IS 'null: open; taken_back, refused, unanswered, too_late'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
