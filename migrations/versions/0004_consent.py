"""Consents with kind, brand and end; do-not-call lists; shared contact budgets; keywords and surveys; erasures."""

from alembic import op

revision = "0004"
down_revision = "0003"

CONSENTS = """
ALTER TABLE senders ADD COLUMN brand text NOT NULL DEFAULT '';
ALTER TABLE consents
    ADD COLUMN brand text NOT NULL DEFAULT '',      -- '': all of the tenant's
    ADD COLUMN kind text NOT NULL DEFAULT 'express', -- express, soft (an earlier sale), inquiry
    ADD COLUMN ends_at timestamptz,                 -- by its own terms; a law's age limit is the country's
    ADD COLUMN country text NOT NULL DEFAULT '',
    DROP CONSTRAINT consents_pkey,
    ADD PRIMARY KEY (tenant_id, recipient, purpose, brand);
ALTER TABLE rule_events
    ADD COLUMN brand text NOT NULL DEFAULT '',
    ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT now();
CREATE TRIGGER rule_events_append_only BEFORE UPDATE OR DELETE ON rule_events
    FOR EACH ROW EXECUTE FUNCTION rule_events_are_appended();
CREATE TABLE consent_requests (                     -- "reply YES to confirm", until answered or too late
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    purpose     text NOT NULL,
    brand       text NOT NULL,
    sender      text NOT NULL,
    evidence    jsonb NOT NULL,
    actor       text NOT NULL,
    message_id  uuid,
    asked_at    timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    answered_at timestamptz
);
CREATE INDEX consent_requests_open ON consent_requests (tenant_id, recipient, sender) WHERE answered_at IS NULL;
"""

APPEND_ONLY = """
CREATE FUNCTION rule_events_are_appended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('volley.erasing', true) IS DISTINCT FROM 'on' OR TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'rule_events is append-only';
    END IF;
    RETURN NEW;
END $$
"""

LISTS = """
CREATE TABLE registries (                           -- a country's do-not-call list, under the tenant's own licence
    tenant_id   integer NOT NULL,
    country     text NOT NULL,
    format      text NOT NULL,
    generation  integer NOT NULL DEFAULT 0,         -- of the last import that was begun
    entries     bigint NOT NULL DEFAULT 0,
    as_of       timestamptz,                        -- when the list was drawn from the register
    valid_until timestamptz,
    imported_at timestamptz,                        -- of the last whole import
    PRIMARY KEY (tenant_id, country)
);
CREATE TABLE registry_entries (
    tenant_id   integer NOT NULL,
    country     text NOT NULL,
    recipient   bigint NOT NULL,
    generation  integer NOT NULL,
    PRIMARY KEY (tenant_id, country, recipient)
);
"""

CONTACTS = """
CREATE TABLE organisations (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    hash_key    bytea NOT NULL,
    budget      jsonb,                              -- {max, per_s, reserved, reserved_priority}
    created_at  timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE cap_events
    ADD COLUMN contact boolean NOT NULL DEFAULT true,
    ADD COLUMN campaign bytea,
    ADD COLUMN content bytea,
    ADD COLUMN organisation_id integer,
    ADD COLUMN organisation_recipient bigint;
"""

WORDS = """
CREATE TABLE keywords (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL,
    sender      text NOT NULL,                      -- '': every sender of the tenant
    key         text NOT NULL,                      -- normalised; '': the answer to HELP
    keyword     text NOT NULL,
    reply       text NOT NULL,
    survey_id   uuid,
    option      text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, sender, key)
);
CREATE TABLE surveys (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL,
    name        text NOT NULL,
    question    text NOT NULL,
    sender      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz,
    UNIQUE (tenant_id, name)
);
CREATE TABLE survey_answers (
    survey_id   uuid NOT NULL,
    recipient   bigint NOT NULL,
    option      text NOT NULL,
    inbound_id  uuid NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (survey_id, recipient)
);
ALTER TABLE inbound
    ADD COLUMN reply text;
CREATE INDEX inbound_replied ON inbound (sender, id) WHERE reply IS NOT NULL;
"""

ERASURES = """
CREATE TABLE erasures (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL,
    recipient   bigint NOT NULL,
    actor       text NOT NULL,
    reason      text NOT NULL,
    asked_at    timestamptz NOT NULL,
    done_at     timestamptz,                        -- NULL: something of this person is still under way
    counts      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX erasures_open ON erasures (id) WHERE done_at IS NULL;
CREATE INDEX erasures_tenant ON erasures (tenant_id, id);
"""


def upgrade() -> None:
    driver = op.get_bind()
    driver.exec_driver_sql(APPEND_ONLY)
    for part in (CONSENTS, LISTS, CONTACTS, WORDS, ERASURES):
        for statement in part.split(";\n"):  # the driver prepares, so one statement a call
            if statement.strip():
                driver.exec_driver_sql(statement)
