"""PostgreSQL's timelines: which one the books were put in order on, and under which a lease was opened."""

from alembic import op

revision = "0007"
down_revision = "0006"

# The system identifier and the timeline: a failover, a restored backup or another cluster changes it at once
# (`pg_control_checkpoint` shows a new timeline only at its first checkpoint). Empty where a server does not tell.
_FUNCTION = """
CREATE FUNCTION volley_timeline() RETURNS text LANGUAGE sql STABLE AS $$ {} $$
"""
_TOLD = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' ||"
    " left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)


def upgrade() -> None:
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(_TOLD)
        body = _TOLD
    except Exception:  # whatever the server calls its refusal
        body = "SELECT ''::text"
    for statement in (
        _FUNCTION.format(body),
        "CREATE TABLE timelines (timeline text PRIMARY KEY, seen_at timestamptz NOT NULL DEFAULT now(),"
        " in_order boolean NOT NULL)",
        "INSERT INTO timelines (timeline, in_order) VALUES (volley_timeline(), true)",
        "CREATE FUNCTION volley_in_order() RETURNS boolean LANGUAGE sql STABLE AS"
        " $$ SELECT EXISTS (SELECT FROM timelines WHERE timeline = volley_timeline() AND in_order) $$",
        "ALTER TABLE leases ADD COLUMN timeline text",
        "UPDATE leases SET timeline = volley_timeline()",
    ):
        connection.exec_driver_sql(statement)
