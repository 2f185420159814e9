"""The first schema. Hot tables are range-partitioned by UUIDv7; `app.store.partitions` makes their partitions."""

from alembic import op

revision = "0001"
down_revision = None

SETTINGS = """
CREATE TABLE tenants (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    hash_key    bytea NOT NULL,               -- keys the recipient hashes of this tenant
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE api_keys (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    prefix      text NOT NULL,
    hash        bytea NOT NULL UNIQUE,
    scopes      text[] NOT NULL,
    test        boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    revoked_at  timestamptz
);
CREATE TABLE audit_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    tenant_id   integer,
    actor       text NOT NULL,
    reason      text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    before      jsonb,
    after       jsonb
);
CREATE TABLE gateways (
    id          smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    url         text NOT NULL,
    settings    jsonb NOT NULL DEFAULT '{}',
    rate        integer,                      -- segments in any sliding second; NULL: none
    enabled     boolean NOT NULL DEFAULT true,
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE routes (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position    integer NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED,
    "to"        text NOT NULL,                -- '*', a region or a number prefix with its plus sign
    category    smallint,
    tenant_id   integer REFERENCES tenants,
    gateways    text[] NOT NULL,
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE regions (
    code        text PRIMARY KEY,             -- 'VN', 'CN-41'
    prefixes    text[] NOT NULL DEFAULT '{}', -- finer than a country: number prefixes with plus sign
    rate        integer,
    paused      boolean NOT NULL DEFAULT false,
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE senders (
    tenant_id   integer NOT NULL REFERENCES tenants,
    address     text NOT NULL,
    rate        integer,
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, address)
);
CREATE TABLE config_version (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL);
INSERT INTO config_version (version) VALUES (1);
CREATE TABLE templates (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    version     integer NOT NULL,
    body        text NOT NULL,
    variables   text[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    archived_at timestamptz,
    UNIQUE (tenant_id, name, version)
);
"""

INTAKE = """
CREATE TABLE batches (
    id           uuid PRIMARY KEY,
    tenant_id    integer NOT NULL REFERENCES tenants,
    name         text,
    campaign     text,
    category     smallint NOT NULL,
    sender       text NOT NULL,
    body         text NOT NULL,
    template     text,
    priority     smallint NOT NULL,
    state        smallint NOT NULL,           -- 1 loading, 2 running, 3 paused, 4 cancelled
    total        bigint NOT NULL DEFAULT 0,   -- written by the accepting transactions
    rejected     bigint NOT NULL DEFAULT 0,
    scheduled_at timestamptz,
    expires_at   timestamptz,
    settings     jsonb NOT NULL DEFAULT '{}', -- callback_url, metadata, retry_unknown
    created_at   timestamptz NOT NULL DEFAULT now(),
    sealed_at    timestamptz,
    upload       jsonb                        -- progress of a streamed upload: key, chunks, bytes
);
CREATE INDEX batches_tenant ON batches (tenant_id, id);
CREATE TABLE batch_rejections (
    batch_id    uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
    index       bigint NOT NULL,
    pointer     text NOT NULL,
    code        text NOT NULL,
    detail      text NOT NULL,
    PRIMARY KEY (batch_id, index)
);
CREATE TABLE idempotency (
    tenant_id    integer NOT NULL,
    route        text NOT NULL,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    status       smallint,                    -- NULL: still running
    response     bytea,
    locked_until timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, route, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);
CREATE TABLE packs (
    id          uuid NOT NULL,
    tenant_id   integer NOT NULL,
    batch_id    uuid,
    region      text NOT NULL,
    category    smallint NOT NULL,
    n           smallint NOT NULL,
    payload     bytea NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
ALTER TABLE packs ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX packs_batch ON packs (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX packs_tenant ON packs (tenant_id, id);
CREATE TABLE lookups (
    message_id  uuid NOT NULL,
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    reference   text
) PARTITION BY RANGE (message_id);
CREATE INDEX lookups_recipient ON lookups (recipient);
CREATE INDEX lookups_reference ON lookups (tenant_id, reference) WHERE reference IS NOT NULL;
CREATE TABLE parcels (
    id          uuid PRIMARY KEY,
    pack_id     uuid NOT NULL,
    tenant_id   integer NOT NULL,
    batch_id    uuid,
    lane        text NOT NULL,
    priority    smallint NOT NULL,
    members     bytea,                        -- bitmap of pack indexes; NULL: all of the pack
    n           smallint NOT NULL,            -- members still without an attempt under way
    in_flight   smallint NOT NULL DEFAULT 0,  -- members journalled and not yet settled
    attempt     smallint NOT NULL,
    masks       bytea,                        -- msgpack {index: segments to repeat}
    due_at      timestamptz NOT NULL,
    expires_at  timestamptz,
    generation  integer NOT NULL DEFAULT 1,
    lease_id    bigint,
    reason      text                          -- why it waits: quiet_hours, throttled, retry ...
) WITH (fillfactor = 70);
CREATE INDEX parcels_due ON parcels (due_at);
CREATE INDEX parcels_batch ON parcels (batch_id);
CREATE INDEX parcels_pack ON parcels (pack_id);
CREATE INDEX parcels_expires ON parcels (expires_at) WHERE expires_at IS NOT NULL;
"""

DISPATCH = """
CREATE TABLE leases (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    closed      boolean NOT NULL DEFAULT false -- its work was taken over
);
CREATE TABLE bind_leases (
    gateway_id  smallint NOT NULL REFERENCES gateways,
    slot        smallint NOT NULL,
    lease_id    bigint NOT NULL REFERENCES leases,
    PRIMARY KEY (gateway_id, slot)
);
CREATE TABLE redis_epoch (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch       bigint NOT NULL,
    run_id      text NOT NULL,
    ready       boolean NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO redis_epoch (epoch, run_id, ready) VALUES (0, '', false);
CREATE TABLE traces (
    id          bigint PRIMARY KEY,           -- hash of the vector
    vector      jsonb NOT NULL                -- [[check, rule, version, verdict], ...]
);
CREATE TABLE decisions (
    pack_id     uuid NOT NULL,
    members     bytea NOT NULL,
    attempt     smallint NOT NULL,
    trace_id    bigint NOT NULL,
    at          timestamptz NOT NULL,
    until       timestamptz                   -- held until then
) PARTITION BY RANGE (pack_id);
CREATE INDEX decisions_pack ON decisions (pack_id);
CREATE TABLE attempts (
    message_id  uuid NOT NULL,
    attempt     smallint NOT NULL,
    kind        smallint NOT NULL,            -- 4: handed to a gateway; else the final state that took its place
    gateway_id  smallint,
    mask        bigint NOT NULL,              -- segments handed over; 0: all of a text of over 60
    lease_id    bigint NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (message_id, attempt)
) PARTITION BY RANGE (message_id);
CREATE TABLE outcomes (
    message_id  uuid NOT NULL,
    attempt     smallint NOT NULL,
    segment     smallint NOT NULL,
    segments    smallint NOT NULL,            -- of the whole text
    gateway_id  smallint NOT NULL,
    kind        smallint NOT NULL,            -- 1 accepted, 2 rejected, 3 to be repeated, 4 unknown
    to_check    smallint NOT NULL,            -- 15 bits of the number's CRC: does a receipt's recipient agree
    gateway_message_id text,
    reason      text,
    raw         text,
    at          timestamptz NOT NULL
) PARTITION BY RANGE (message_id);
CREATE INDEX outcomes_message ON outcomes (message_id);
CREATE INDEX outcomes_gateway_message ON outcomes (gateway_message_id, gateway_id) WHERE gateway_message_id IS NOT NULL;
CREATE INDEX outcomes_unknown ON outcomes (gateway_id, to_check, at) WHERE kind = 4;
CREATE TABLE finals (
    message_id  uuid NOT NULL PRIMARY KEY,
    state       smallint NOT NULL,
    reason      text,
    raw         text,
    at          timestamptz NOT NULL
) PARTITION BY RANGE (message_id);
CREATE TABLE segment_states (                 -- only texts of several segments
    message_id  uuid NOT NULL,
    segment     smallint NOT NULL,
    state       smallint NOT NULL,
    raw         text,
    at          timestamptz NOT NULL,
    PRIMARY KEY (message_id, segment)
) PARTITION BY RANGE (message_id);
CREATE TABLE receipts (
    gateway_id  smallint NOT NULL,
    gateway_message_id text NOT NULL,
    message_id  uuid,                         -- NULL: none found yet
    segment     smallint,
    state       text NOT NULL,
    raw         text NOT NULL,
    error       text NOT NULL,
    done_at     timestamptz,
    at          timestamptz NOT NULL
);
CREATE INDEX receipts_at ON receipts USING brin (at);
CREATE TABLE parked_receipts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id  smallint NOT NULL,
    receipt     bytea NOT NULL,               -- msgpack of the whole receipt
    tries       smallint NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL,
    at          timestamptz NOT NULL
);
CREATE INDEX parked_receipts_next ON parked_receipts (next_at);
CREATE TABLE tallies (                        -- deltas, one row a group and transaction; rolled up and removed
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   integer NOT NULL,
    batch_id    uuid,
    region      text NOT NULL,
    category    smallint NOT NULL,
    gateway_id  smallint,
    from_state  smallint,
    to_state    smallint NOT NULL,
    n           integer NOT NULL,
    latency_ms  bigint NOT NULL DEFAULT 0,    -- sum over n, accepted answer to receipt
    at          timestamptz NOT NULL
);
CREATE INDEX tallies_batch ON tallies (batch_id);
CREATE TABLE batch_states (
    batch_id    uuid NOT NULL,
    region      text NOT NULL,
    state       smallint NOT NULL,
    n           bigint NOT NULL,
    PRIMARY KEY (batch_id, region, state)
);
CREATE TABLE rollups (
    hour        timestamptz NOT NULL,
    tenant_id   integer NOT NULL,
    region      text NOT NULL,
    category    smallint NOT NULL,
    gateway_id  smallint NOT NULL,            -- 0: none
    campaign    text NOT NULL,                -- '': none
    state       smallint NOT NULL,
    n           bigint NOT NULL,              -- messages that entered the state; state 1: that were accepted
    latency_ms  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, tenant_id, region, category, gateway_id, campaign, state)
);
CREATE TABLE move_totals (                    -- every move ever made, from tallies; from_state 0: accepted
    from_state  smallint NOT NULL,
    to_state    smallint NOT NULL,
    n           bigint NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
CREATE TABLE sweeps (
    name        text PRIMARY KEY,
    mark        uuid,
    at          timestamptz NOT NULL
);
"""

RULES = """
CREATE TABLE suppressions (
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    sender      text NOT NULL,                -- '': every sender of the tenant
    address     text,                         -- NULL: kept as a hash alone
    reason      text NOT NULL,
    source      text NOT NULL,
    category    smallint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, recipient, sender)
);
CREATE TABLE consents (
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    purpose     text NOT NULL,
    granted     boolean NOT NULL,
    address     text,
    at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, recipient, purpose)
);
CREATE TABLE rule_events (                    -- append-only: each grant, withdrawal, stop and start, with its evidence
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    kind        text NOT NULL,                -- suppressed, released, granted, withdrawn
    scope       text NOT NULL,                -- a sender, '' or a purpose
    evidence    jsonb NOT NULL DEFAULT '{}',
    actor       text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rule_events_recipient ON rule_events (tenant_id, recipient);
CREATE TABLE cap_events (
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    message_id  uuid NOT NULL,
    at          timestamptz NOT NULL
);
CREATE INDEX cap_events_at ON cap_events USING brin (at);
CREATE TABLE parked_inbound (                 -- texts that HTTP callbacks brought, for the dispatcher to take in
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id  smallint NOT NULL,
    payload     bytea NOT NULL,
    at          timestamptz NOT NULL
);
CREATE TABLE inbound (
    id          uuid PRIMARY KEY,
    tenant_id   integer,
    gateway_id  smallint NOT NULL,
    sender      text NOT NULL,
    "to"        text NOT NULL,
    text        text NOT NULL,
    action      text,
    keyword     text,
    doubtful    boolean NOT NULL DEFAULT false,
    gateway_message_id text NOT NULL DEFAULT '',
    at          timestamptz NOT NULL
);
CREATE INDEX inbound_tenant ON inbound (tenant_id, id);
CREATE INDEX inbound_gateway_message ON inbound (gateway_message_id, gateway_id) WHERE gateway_message_id <> '';
"""

WEBHOOKS = """
CREATE TABLE webhook_endpoints (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL REFERENCES tenants,
    url         text NOT NULL,
    events      text[] NOT NULL,
    secrets     jsonb NOT NULL,               -- [{secret, expires_at}], newest first
    enabled     boolean NOT NULL DEFAULT true,
    disabled_reason text,
    failing_since timestamptz,                -- the first failure since the last success
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE webhook_deliveries (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL,
    endpoint_id uuid,                         -- NULL: the message's own callback_url
    url         text,
    target      text NOT NULL,                -- who must not wait for whom: the endpoint, or the callback's origin
    message_id  uuid,
    event       text NOT NULL,
    payload     bytea NOT NULL,
    state       smallint NOT NULL DEFAULT 1,  -- 1 pending, 2 delivered, 3 given up
    tries       smallint NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL,
    last_status smallint,
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz
);
CREATE INDEX webhook_deliveries_next ON webhook_deliveries (target, next_at, id) WHERE state = 1;
CREATE INDEX webhook_deliveries_created ON webhook_deliveries USING brin (created_at);
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_message ON webhook_deliveries (message_id, target, id) WHERE state = 1;
"""


def upgrade() -> None:
    for part in (SETTINGS, INTAKE, DISPATCH, RULES, WEBHOOKS):
        for statement in part.split(";\n"):  # the driver prepares, so one statement a call
            if statement.strip():
                op.get_bind().exec_driver_sql(statement)
