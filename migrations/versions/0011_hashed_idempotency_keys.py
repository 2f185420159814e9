"""Idempotency keys are kept as hashes: a client may have put a person's number into one.

Of keys in use the stored answers stay; API processes of the version before don't find them, so stop those first.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "UPDATE idempotency i SET key = encode(sha256(t.hash_key || convert_to(i.key, 'UTF8')), 'hex')"
        " FROM tenants t WHERE t.id = i.tenant_id"
    )
    op.get_bind().exec_driver_sql(
        "UPDATE batches b SET upload = jsonb_set(b.upload, '{key}',"
        " to_jsonb(encode(sha256(t.hash_key || convert_to(b.upload->>'key', 'UTF8')), 'hex')))"
        " FROM tenants t WHERE t.id = b.tenant_id AND b.upload->>'key' IS NOT NULL"
    )
