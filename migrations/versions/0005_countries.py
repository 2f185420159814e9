"""Country packs of one's own, where a sender is registered, and a region's delay."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE country_packs (
        code        text PRIMARY KEY,
        content     text NOT NULL,
        version     integer NOT NULL DEFAULT 1,
        updated_at  timestamptz NOT NULL DEFAULT now()
    )
    """,
    "COMMENT ON TABLE country_packs IS "
    "'in place of the country packs that come with Volley, as TOML; checked before they are stored'",
    "ALTER TABLE senders ADD COLUMN registered text[] NOT NULL DEFAULT '{}', "
    "ADD COLUMN signature text NOT NULL DEFAULT ''",
    "ALTER TABLE regions ADD COLUMN lead_s integer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
