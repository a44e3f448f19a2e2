"""A joined node's role in Postgres: it reads the rows of its own node, and nothing else.

What a role may read is granted to a group; which rows, is said by row-level policies (`policies`,
written by the migration) that ask `danlu_node()` whose role it is. The platform's own role owns the
tables, and is not held by them.
"""

import hashlib
import secrets

from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import N_, Conflict

OWN = "node_id = (SELECT danlu_node())"
OF_REPLICAS = "SELECT {} FROM replicas WHERE " + OWN
# what a node reads by itself, and which rows of it; the rest it asks the platform for
READS = {
    "nodes": "id = (SELECT danlu_node())",
    "devices": OWN,
    "leases": OWN,
    "jobs": OWN,
    "job_checkpoints": OWN,
    "replicas": OWN,
    "deployments": f"id IN ({OF_REPLICAS.format('deployment_id')})",
    "replica_logs": f"replica_id IN ({OF_REPLICAS.format('id')})",
    "dataset_measures": OWN,
}
FUNCTION = """
CREATE FUNCTION danlu_node() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path FROM CURRENT AS $$
    SELECT node_id FROM node_access WHERE role = session_user AND removed_at IS NULL
$$
"""
CONNECTIONS = 60  # of one node at once


def policies() -> list[str]:
    """The statements of the migration."""
    made = [FUNCTION]
    for table, rows in READS.items():
        made.append(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        made.append(f"CREATE POLICY node_reads ON {table} FOR SELECT USING ({rows})")
    return made


def names(db: Session, node_id: str) -> tuple[str, str]:
    """(role, group): roles are the whole server's, which may hold several databases of Danlu."""
    database = db.scalar(text("SELECT current_database()"))
    place = hashlib.sha256(f"{database}".encode()).hexdigest()[:8]
    return f"danlu_node_{place}_{node_id}", f"danlu_nodes_{place}"


def run(db: Session, statement: str, *parts: str | sql.Composable) -> None:
    """`statement` with names or literals in its places."""
    named = [sql.Identifier(part) if isinstance(part, str) else part for part in parts]
    db.connection().exec_driver_sql(sql.SQL(statement).format(*named).as_string(None))  # type: ignore[arg-type]


def exists(db: Session, role: str) -> bool:
    return db.scalar(text("SELECT true FROM pg_roles WHERE rolname = :role"), {"role": role}) or False


def make(db: Session, node_id: str) -> tuple[str, str]:
    """(role, password): a new one, or a new password of the one that is there. Raises Conflict."""
    may = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    if not db.scalar(text(may)):
        raise Conflict(
            N_(
                "The platform's role in Postgres may not make roles, and a node needs one of its "
                "own. Let a superuser run: ALTER ROLE %(role)s CREATEROLE"
            ),
            code="no_createrole",
            role=db.scalar(text("SELECT current_user")),
        )
    role, group = names(db, node_id)
    if not exists(db, group):
        run(db, "CREATE ROLE {} NOLOGIN", group)
    schema = str(db.scalar(text("SELECT current_schema()")))
    run(db, "GRANT USAGE ON SCHEMA {} TO {}", schema, group)
    run(db, "GRANT CONNECT ON DATABASE {} TO {}", database(db), group)
    for table in READS:
        run(db, "GRANT SELECT ON {} TO {}", table, group)
    password = secrets.token_urlsafe(32)
    connection = db.connection().connection.driver_connection
    assert connection
    verifier = connection.pgconn.encrypt_password(  # so that no log of statements has the password
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    if not exists(db, role):
        run(db, "CREATE ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION", role)
        run(db, "GRANT {} TO {}", group, role)
        run(db, "ALTER ROLE {} SET default_transaction_read_only = on", role)
        run(db, "ALTER ROLE {} SET statement_timeout = '60s'", role)
    limit = sql.Literal(CONNECTIONS)
    run(db, "ALTER ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}", role, limit, sql.Literal(verifier))
    return role, password


def database(db: Session) -> str:
    return str(db.scalar(text("SELECT current_database()")))


def lock_out(db: Session, role: str) -> None:
    """No new session; those that are there end once this is committed and `end_sessions` follows."""
    if exists(db, role):
        run(db, "ALTER ROLE {} NOLOGIN", role)


def end_sessions(db: Session, role: str) -> None:
    if exists(db, role):
        run(db, "GRANT {} TO CURRENT_USER", role)  # who ends another's sessions must be a member
        db.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :role"),
            {"role": role},
        )


def drop(db: Session, role: str) -> None:
    if exists(db, role):
        run(db, "DROP ROLE {}", role)
