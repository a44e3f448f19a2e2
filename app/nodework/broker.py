"""A joined node's user at the broker: its own queue, and nothing else.

Redis forgets users when it starts anew unless told to keep them; the hash of each one's password
stands in Postgres, and the sweep puts back what is missing (`restore`).
"""

import hashlib
import secrets
from typing import Any

import structlog
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import N_, Conflict
from app.nodework.tables import NodeAccess
from app.queue import node_keys, redis

log = structlog.get_logger()

# what Celery's worker and the next versions of its client say to take from one queue: all that works
# on a key, since its keys are the node's own; found with ACL LOG
COMMANDS = (
    "+@connection +@list +@hash +@set +@sortedset +@string +multi +exec +discard +watch +unwatch "
    "+del +exists +expire +pexpire +eval +evalsha +script|load +info +type "
    "-client|kill -client|list -client|pause -client|no-evict"
)


def user_of(node_id: str) -> str:
    return f"danlu-node-{node_id}"


def make(node_id: str) -> tuple[str, str, str]:
    """(user, password, its hash). A user that is there gets the new password alone."""
    password = secrets.token_urlsafe(32)
    digest = hashlib.sha256(password.encode()).hexdigest()
    put(node_id, digest)
    return user_of(node_id), password, digest


def put(node_id: str, digest: str) -> None:
    """Raises Conflict where the broker makes no users for us."""
    keys = [f"~{key}" for key in node_keys(node_id)]
    rules = ["reset", "on", f"#{digest}", *keys, "resetchannels", "-@all", *COMMANDS.split()]
    try:
        acl("SETUSER", user_of(node_id), *rules)
    except RedisError as error:
        raise Conflict(
            N_("The broker makes no user for the node: %(why)s. Redis 7 or Valkey is needed, and a "
               "user in REDIS_URL that may use ACL SETUSER."),
            code="no_acl",
            why=str(error),
        ) from error  # fmt: skip


def acl(*words: str) -> Any:
    return redis().execute_command("ACL", *words)  # type: ignore[no-untyped-call]


def drop(node_id: str) -> None:
    """Its connections end with it."""
    acl("DELUSER", user_of(node_id))


def restore(db: Session) -> None:
    """After Redis has started anew: the users that it has forgotten."""
    rows = db.scalars(select(NodeAccess).where(NodeAccess.removed_at.is_(None))).all()
    if not rows:
        return
    there = {one.decode() if isinstance(one, bytes) else str(one) for one in acl("USERS")}
    for row in rows:
        if user_of(row.node_id) not in there:
            put(row.node_id, row.broker_hash)
            log.info("the broker knows a node again", node=row.node_id)
