"""The tables, as SQLAlchemy Core sees them. Indexes, partitions and comments stand in `migrations/`.

Guarantee: equal to what the migrations make, column by column (`tests/store/test_migrations.py`).
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash_key", LargeBinary, nullable=False),
    Column("settings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("test", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("tenant_id", Integer),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
)

gateways = Table(
    "gateways",
    metadata,
    Column("id", SmallInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("settings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("rate", Integer),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("currency", Text),
    Column("prices", JSONB, nullable=False, server_default=text("'{}'")),
    Column("health", JSONB, nullable=False, server_default=text("'{}'")),
)

routes = Table(
    "routes",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("to", Text, nullable=False),
    Column("category", SmallInteger),
    Column("tenant_id", Integer, ForeignKey("tenants.id")),
    Column("gateways", ARRAY(Text), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("sender", Text),
    Column("strategy", Text, nullable=False, server_default=text("'preference'")),
    Column("weights", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
)

regions = Table(
    "regions",
    metadata,
    Column("code", Text, primary_key=True),
    Column("prefixes", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("rate", Integer),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("test_numbers", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("lead_s", Integer),
)

currencies = Table(
    "currencies",
    metadata,
    Column("code", Text, primary_key=True),
    Column("rate", Numeric, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

sender_pools = Table(
    "sender_pools",
    metadata,
    Column("tenant_id", Integer, ForeignKey("tenants.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("members", JSONB, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

probes = Table(
    "probes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("region", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

probe_messages = Table(
    "probe_messages",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("probe_id", Uuid, ForeignKey("probes.id"), nullable=False),
    Column("gateway", Text, nullable=False),
)

senders = Table(
    "senders",
    metadata,
    Column("tenant_id", Integer, ForeignKey("tenants.id"), primary_key=True),
    Column("address", Text, primary_key=True),
    Column("rate", Integer),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("brand", Text, nullable=False, server_default=text("''")),
    Column("registered", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("signature", Text, nullable=False, server_default=text("''")),
)

country_packs = Table(
    "country_packs",
    metadata,
    Column("code", Text, primary_key=True),
    Column("content", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

config_version = Table(
    "config_version",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
)

templates = Table(
    "templates",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("variables", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("created_by", Text, nullable=False),
    Column("archived_at", DateTime(timezone=True)),
    Column("smart_encoding", Boolean, nullable=False, server_default=text("false")),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text),
    Column("campaign", Text),
    Column("category", SmallInteger, nullable=False),
    Column("sender", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("template", Text),
    Column("priority", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("total", BigInteger, nullable=False, server_default=text("0")),
    Column("rejected", BigInteger, nullable=False, server_default=text("0")),
    Column("scheduled_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True)),
    Column("settings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("sealed_at", DateTime(timezone=True)),
    Column("upload", JSONB),
)

batch_rejections = Table(
    "batch_rejections",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id"), primary_key=True),
    Column("index", BigInteger, primary_key=True),
    Column("pointer", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", SmallInteger),
    Column("response", LargeBinary),
    Column("locked_until", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

packs = Table(
    "packs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("batch_id", Uuid),
    Column("region", Text, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("n", SmallInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("segments", Integer, nullable=False, server_default=text("0")),
)

lookups = Table(
    "lookups",
    metadata,
    Column("message_id", Uuid, nullable=False),
    Column("tenant_id", Integer, nullable=False),
    Column("recipient", BigInteger, nullable=False),
    Column("reference", Text),
)

parcels = Table(
    "parcels",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("pack_id", Uuid, nullable=False),
    Column("tenant_id", Integer, nullable=False),
    Column("batch_id", Uuid),
    Column("lane", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("members", LargeBinary),
    Column("n", SmallInteger, nullable=False),
    Column("in_flight", SmallInteger, nullable=False, server_default=text("0")),
    Column("attempt", SmallInteger, nullable=False),
    Column("masks", LargeBinary),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("generation", Integer, nullable=False, server_default=text("1")),
    Column("lease_id", BigInteger),
    Column("reason", Text),
)

leases = Table(
    "leases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("ended_at", DateTime(timezone=True)),
    Column("closed", Boolean, nullable=False, server_default=text("false")),
    Column("timeline", Text),
)

timelines = Table(
    "timelines",
    metadata,
    Column("timeline", Text, primary_key=True),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("in_order", Boolean, nullable=False),
)

bind_leases = Table(
    "bind_leases",
    metadata,
    Column("gateway_id", SmallInteger, ForeignKey("gateways.id"), primary_key=True),
    Column("slot", SmallInteger, primary_key=True),
    Column("lease_id", BigInteger, ForeignKey("leases.id"), nullable=False),
)

redis_epoch = Table(
    "redis_epoch",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("epoch", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

traces = Table(
    "traces",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("vector", JSONB, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("pack_id", Uuid, nullable=False),
    Column("members", LargeBinary, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("trace_id", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("until", DateTime(timezone=True)),
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("attempt", SmallInteger, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("gateway_id", SmallInteger),
    Column("mask", BigInteger, nullable=False),
    Column("lease_id", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("message_id", Uuid, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("segment", SmallInteger, nullable=False),
    Column("segments", SmallInteger, nullable=False),
    Column("gateway_id", SmallInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("to_check", SmallInteger, nullable=False),
    Column("gateway_message_id", Text),
    Column("reason", Text),
    Column("raw", Text),
    Column("at", DateTime(timezone=True), nullable=False),
)

finals = Table(
    "finals",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("raw", Text),
    Column("at", DateTime(timezone=True), nullable=False),
)

segment_states = Table(
    "segment_states",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("segment", SmallInteger, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("raw", Text),
    Column("at", DateTime(timezone=True), nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    Column("gateway_id", SmallInteger, nullable=False),
    Column("gateway_message_id", Text, nullable=False),
    Column("message_id", Uuid),
    Column("segment", SmallInteger),
    Column("state", Text, nullable=False),
    Column("raw", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("done_at", DateTime(timezone=True)),
    Column("at", DateTime(timezone=True), nullable=False),
)

parked_receipts = Table(
    "parked_receipts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gateway_id", SmallInteger, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("next_at", DateTime(timezone=True), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

tallies = Table(
    "tallies",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("batch_id", Uuid),
    Column("region", Text, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("gateway_id", SmallInteger),
    Column("from_state", SmallInteger),
    Column("to_state", SmallInteger, nullable=False),
    Column("n", Integer, nullable=False),
    Column("latency_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("at", DateTime(timezone=True), nullable=False),
)

batch_states = Table(
    "batch_states",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("state", SmallInteger, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

rollups = Table(
    "rollups",
    metadata,
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("tenant_id", Integer, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("category", SmallInteger, primary_key=True),
    Column("gateway_id", SmallInteger, primary_key=True),
    Column("campaign", Text, primary_key=True),
    Column("state", SmallInteger, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("latency_ms", BigInteger, nullable=False, server_default=text("0")),
)

move_totals = Table(
    "move_totals",
    metadata,
    Column("from_state", SmallInteger, primary_key=True),
    Column("to_state", SmallInteger, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("name", Text, primary_key=True),
    Column("mark", Uuid),
    Column("at", DateTime(timezone=True), nullable=False),
)

suppressions = Table(
    "suppressions",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("recipient", BigInteger, primary_key=True),
    Column("sender", Text, primary_key=True),
    Column("address", Text),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("category", SmallInteger),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

consents = Table(
    "consents",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("recipient", BigInteger, primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("granted", Boolean, nullable=False),
    Column("address", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("brand", Text, primary_key=True, server_default=text("''")),
    Column("kind", Text, nullable=False, server_default=text("'express'")),
    Column("ends_at", DateTime(timezone=True)),
    Column("country", Text, nullable=False, server_default=text("''")),
)

rule_events = Table(
    "rule_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("recipient", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("evidence", JSONB, nullable=False, server_default=text("'{}'")),
    Column("actor", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("brand", Text, nullable=False, server_default=text("''")),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

cap_events = Table(
    "cap_events",
    metadata,
    Column("tenant_id", Integer, nullable=False),
    Column("recipient", BigInteger, nullable=False),
    Column("message_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("contact", Boolean, nullable=False, server_default=text("true")),
    Column("campaign", LargeBinary),
    Column("content", LargeBinary),
    Column("organisation_id", Integer),
    Column("organisation_recipient", BigInteger),
)

parked_inbound = Table(
    "parked_inbound",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gateway_id", SmallInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("failed_at", DateTime(timezone=True)),
)

inbound = Table(
    "inbound",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer),
    Column("gateway_id", SmallInteger, nullable=False),
    Column("sender", Text, nullable=False),
    Column("to", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("action", Text),
    Column("keyword", Text),
    Column("doubtful", Boolean, nullable=False, server_default=text("false")),
    Column("gateway_message_id", Text, nullable=False, server_default=text("''")),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("reply", Text),
    Column("port", Integer),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, ForeignKey("tenants.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),
    Column("secrets", JSONB, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("disabled_reason", Text),
    Column("failing_since", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("endpoint_id", Uuid),
    Column("url", Text),
    Column("target", Text, nullable=False),
    Column("message_id", Uuid),
    Column("event", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("state", SmallInteger, nullable=False, server_default=text("1")),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("next_at", DateTime(timezone=True), nullable=False),
    Column("last_status", SmallInteger),
    Column("last_error", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("delivered_at", DateTime(timezone=True)),
)

consent_requests = Table(
    "consent_requests",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("recipient", BigInteger, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("brand", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    Column("message_id", Uuid),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("answered_at", DateTime(timezone=True)),
)

registries = Table(
    "registries",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("country", Text, primary_key=True),
    Column("format", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("entries", BigInteger, nullable=False, server_default=text("0")),
    Column("as_of", DateTime(timezone=True)),
    Column("valid_until", DateTime(timezone=True)),
    Column("imported_at", DateTime(timezone=True)),
)

registry_entries = Table(
    "registry_entries",
    metadata,
    Column("tenant_id", Integer, primary_key=True),
    Column("country", Text, primary_key=True),
    Column("recipient", BigInteger, primary_key=True),
    Column("generation", Integer, nullable=False),
)

organisations = Table(
    "organisations",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash_key", LargeBinary, nullable=False),
    Column("budget", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

keywords = Table(
    "keywords",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("sender", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("keyword", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("survey_id", Uuid),
    Column("option", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

surveys = Table(
    "surveys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("ends_at", DateTime(timezone=True)),
)

survey_answers = Table(
    "survey_answers",
    metadata,
    Column("survey_id", Uuid, primary_key=True),
    Column("recipient", BigInteger, primary_key=True),
    Column("option", Text, nullable=False),
    Column("inbound_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Integer, nullable=False),
    Column("recipient", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Column("done_at", DateTime(timezone=True)),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'")),
)

recalls = Table(
    "recalls",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("gateway_id", Integer, nullable=False),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Column("next_at", DateTime(timezone=True), nullable=False),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("answer", Text),
)

question_marks = Table(
    "question_marks",
    metadata,
    Column("gateway_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("step", SmallInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("message_id", Uuid, nullable=False),
)

inbound_parts = Table(
    "inbound_parts",
    metadata,
    Column("gateway_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sender", Text, primary_key=True),
    Column("to", Text, primary_key=True),
    Column("reference", Integer, primary_key=True),
    Column("total", SmallInteger, primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("octets", LargeBinary, nullable=False),
    Column("encoding", Text, nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("given_out", Boolean, nullable=False, server_default=text("false")),
    Column("port", Integer),
)
