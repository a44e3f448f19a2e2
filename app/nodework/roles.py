"""A joined node's role in Postgres: it reads the rows of its own node, and nothing else.

What a role may read is granted to a group; which rows, is said by the policies `node_reads` of these
tables (migration 0028), which ask `danlu_node()` whose role it is. The platform's own role owns the
tables, and is not held by them.
"""

import hashlib
import secrets

from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import N_, Conflict

# what a node reads by itself, of its own rows; the rest it asks the platform for
READS = (
    "nodes devices leases jobs job_checkpoints replicas deployments replica_logs dataset_measures"
).split()
CONNECTIONS = 60  # of one node at once


def names(db: Session, node_id: str) -> tuple[str, str]:
    """(role, group): roles are the whole server's, which may hold several databases of Danlu."""
    database = db.scalar(text("SELECT current_database()"))
    place = hashlib.sha256(f"{database}".encode()).hexdigest()[:8]
    return f"danlu_node_{place}_{node_id}", f"danlu_nodes_{place}"


def run(db: Session, statement: str, *parts: str | sql.Composable) -> None:
    """`statement` with names or literals in its places."""
    named = [sql.Identifier(part) if isinstance(part, str) else part for part in parts]
    db.connection().exec_driver_sql(sql.SQL(statement).format(*named).as_string(None))


def exists(db: Session, role: str) -> bool:
    return (
        db.scalar(text("SELECT true FROM pg_roles WHERE rolname = :role"), {"role": role}) or False
    )


def may_make_roles(db: Session) -> bool:
    asked = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    return bool(db.scalar(text(asked)))


def make(db: Session, node_id: str) -> tuple[str, str]:
    """(role, password): a new one, or a new password of the one that is there. Raises Conflict."""
    if not may_make_roles(db):
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
    run(
        db,
        "ALTER ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}",
        role,
        limit,
        sql.Literal(verifier),
    )
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
