"""Routes by sender, weight and cost; prices and currencies; sender pools; test numbers and probes; health limits."""

from alembic import op

revision = "0003"
down_revision = "0002"

_SQL = """
ALTER TABLE gateways
    ADD COLUMN currency text,                          -- ISO 4217, of `prices`
    ADD COLUMN prices   jsonb NOT NULL DEFAULT '{}',   -- a segment's price by prefix, region, country or '*': strings
    ADD COLUMN health   jsonb NOT NULL DEFAULT '{}'    -- app.domain.health.Limits, where they differ
;
ALTER TABLE routes
    ADD COLUMN sender   text,
    ADD COLUMN strategy text NOT NULL DEFAULT 'preference',
    ADD COLUMN weights  integer[] NOT NULL DEFAULT '{}'  -- one a gateway, where the strategy is 'weight'
;
ALTER TABLE regions ADD COLUMN test_numbers text[] NOT NULL DEFAULT '{}';
CREATE TABLE currencies (
    code        text PRIMARY KEY,
    rate        numeric NOT NULL,             -- what one unit is worth in the currency that prices are compared in
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE sender_pools (
    tenant_id   integer NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    members     jsonb NOT NULL,               -- [{"address": ..., "countries": [...]}]
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);
CREATE TABLE probes (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL REFERENCES tenants,
    region      text NOT NULL,
    sender      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX probes_by_region ON probes (region, created_at);
CREATE TABLE probe_messages (
    message_id  uuid PRIMARY KEY,
    probe_id    uuid NOT NULL REFERENCES probes,
    gateway     text NOT NULL
);
CREATE INDEX probe_messages_by_probe ON probe_messages (probe_id);
"""


def upgrade() -> None:
    for statement in _SQL.split(";\n"):  # the driver prepares, so one statement a call
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
