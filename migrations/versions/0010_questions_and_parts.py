"""How far carriers were asked about texts without a receipt; the parts of long inbound texts."""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = (
    """
    CREATE TABLE question_marks (
        gateway_id  smallint NOT NULL,
        step        smallint NOT NULL,            -- which time it is that these are asked about
        at          timestamptz NOT NULL,         -- attempts up to here were
        message_id  uuid NOT NULL,
        PRIMARY KEY (gateway_id, step)
    )
    """,
    """
    CREATE TABLE inbound_parts (
        gateway_id  smallint NOT NULL,
        sender      text NOT NULL,
        "to"        text NOT NULL,
        reference   integer NOT NULL,
        total       smallint NOT NULL,
        index       smallint NOT NULL,            -- from 1
        octets      bytea NOT NULL,
        encoding    text NOT NULL,
        until       timestamptz NOT NULL,         -- the others are waited for, and repetitions known, until then
        given_out   boolean NOT NULL DEFAULT false,
        PRIMARY KEY (gateway_id, sender, "to", reference, total, index)
    )
    """,
    "CREATE INDEX inbound_parts_until ON inbound_parts (until)",
    "CREATE INDEX inbound_sender ON inbound (sender, id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
