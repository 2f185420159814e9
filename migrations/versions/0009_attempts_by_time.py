"""Attempts by time: who came past the receipt horizon in the last minute is found without reading all attempts.

Rows come in the order of their time, so a block range index finds them, and costs an attempt next to nothing.
"""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE INDEX attempts_at ON attempts USING brin (at) WITH (autosummarize = on)"
    )
