"""Joining and leaving: a token, made by an admin, against what a node may use; and the end of it."""

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import structlog
from redis.exceptions import RedisError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.auth import Principal
from app.cluster import service as cluster
from app.cluster.tables import Device, Lease, Node
from app.config import settings
from app.db import now
from app.errors import N_, Conflict, Invalid, NotFound, Unauthenticated
from app.nodework import broker, ending, roles
from app.nodework.asking import GONE, Removed
from app.nodework.tables import NodeAccess, NodeToken
from app.queue import transaction

log = structlog.get_logger()

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
HOUR = 60  # minutes
BUCKET = (
    "AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID "
    "AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN DANLU_S3_ADDRESSING"
).split()


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def named(node_id: str) -> str:
    """Raises Invalid."""
    if not NAME.fullmatch(node_id):
        raise Invalid(
            N_("A node's name is 1 to 40 small letters, digits and dashes."), field="node"
        )
    return node_id


# -- tokens ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    secret: str  # told this once
    node: str | None
    expires_at: datetime

    @property
    def command(self) -> str:
        name = f" --name {self.node}" if self.node else ""
        return f"danlu node join {settings.url} --token {self.secret}{name}"

    @property
    def environment(self) -> str:
        """The same for a container, as lines of `.env`."""
        name = f"\nDANLU_JOIN_NAME={self.node}" if self.node else ""
        return f"DANLU_JOIN_URL={settings.url}\nDANLU_JOIN_TOKEN={self.secret}{name}"


def invite(db: Session, who: Principal, node_id: str = "", minutes: int = HOUR) -> Token:
    """A token that lets one machine join, once. Raises Invalid, and Conflict where none could."""
    check_reachable()
    secret = f"nj-{secrets.token_urlsafe(32)}"
    row = NodeToken(
        token_hash=digest(secret),
        node_id=named(node_id) if node_id else None,
        created_by=who.user_id,
        expires_at=now() + timedelta(minutes=minutes),
    )
    db.add(row)
    db.flush()
    return Token(secret, row.node_id, row.expires_at)


def check_reachable() -> None:
    """Other machines reach the servers and the store. Raises Conflict with what is missing."""
    here = [
        name
        for name, is_here in (
            ("DATABASE_URL", not address(settings.database_url)),
            ("REDIS_URL", not address(settings.redis_url)),
            ("DANLU_STORE", not settings.store),
        )
        if is_here
    ]
    if here:
        raise Conflict(
            N_(
                "A second machine cannot reach %(names)s: this Danlu runs on servers of its own home. "
                "Start it on a Postgres, a Redis and a store that both machines reach (docker "
                "compose does); docs/cluster.md says how to move."
            ),
            code="servers_embedded",
            names=", ".join(here),
        )


def address(url: str) -> str:
    """The host of a server reached over the network; "" for a unix socket."""
    parts = urlsplit(url)
    return "" if parts.scheme == "unix" or not parts.hostname or parts.hostname[0] == "/" else url


# -- joining -----------------------------------------------------------------------------


def join(db: Session, token: str, node_id: str) -> dict[str, str]:
    """What the new node sets in its environment. Raises Unauthenticated, Invalid, Conflict.

    Joining again under the same name needs a token for that name; what the node had then ends.
    """
    row = db.scalar(
        select(NodeToken).where(NodeToken.token_hash == digest(token)).with_for_update()
    )
    if row is None or row.used_at or row.expires_at <= now():
        raise Unauthenticated(
            N_("This token is not good any more: each joins one machine, within its time. Make a "
               "new one on the page of nodes."),
            code="token",
        )  # fmt: skip
    node_id = named(node_id or row.node_id or "")
    if row.node_id and row.node_id != node_id:
        raise Conflict(N_("This token is for the node %(node)s."), code="token", node=row.node_id)
    known = db.get(NodeAccess, node_id, with_for_update=True)
    node = db.get(Node, node_id)
    is_there = (known and not known.removed_at) or (node and not node.removed_at)
    if row.node_id is None and is_there:
        raise Conflict(
            N_("There is a node %(node)s. To take its place, make a token for that name."),
            code="name_taken",
            node=node_id,
        )
    if known is None and node and not node.removed_at:
        raise Conflict(
            N_("The node %(node)s is one of the platform's own. Choose another name."),
            code="name_taken",
            node=node_id,
        )
    check_reachable()
    role, password = roles.make(db, node_id)
    user, secret, broker_hash = broker.make(node_id)
    key = f"nk-{secrets.token_urlsafe(32)}"
    if known is None:
        known = NodeAccess(node_id=node_id, role=role)
        db.add(known)
    known.key_hash, known.broker_hash = digest(key), broker_hash
    known.joined_at, known.joined_by, known.removed_at = now(), row.created_by, None
    row.used_at, row.used_by = now(), node_id
    db.flush()
    log.info("a node joins", node=node_id)
    return {
        "DANLU_NODE": node_id,
        "DANLU_NODE_KEY": key,
        "DATABASE_URL": credentials(settings.database_url, role, password, settings.join_database),
        "REDIS_URL": credentials(settings.redis_url, user, secret, settings.join_redis),
        "DANLU_STORE": settings.store,
    } | bucket()


def credentials(url: str, user: str, password: str, elsewhere: str) -> str:
    """`url` with another user; at host:port `elsewhere`, where nodes reach the server by that."""
    parts = urlsplit(url)
    place = elsewhere or parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password)}@{place}"))


def bucket() -> dict[str, str]:
    """The store's settings; `DANLU_JOIN_AWS_…` where nodes are to use others than we do."""
    found = {name: os.environ.get(f"DANLU_JOIN_{name}", os.environ.get(name)) for name in BUCKET}
    return {name: value for name, value in found.items() if value}


def node_of(db: Session, key: str) -> str:
    """The node that shows `key`. Raises Removed where it may not any more, Unauthenticated."""
    row = db.scalar(select(NodeAccess).where(NodeAccess.key_hash == digest(key)))
    if row is None and not key.startswith("nk-"):
        raise Unauthenticated(N_("A node shows its key here."))
    if row is None or row.removed_at:
        raise Removed(GONE)
    return row.node_id


# -- removing ----------------------------------------------------------------------------


def remove(db: Session, node_id: str) -> None:
    """Its access ends at once; then what ran there goes on elsewhere. Raises NotFound, Conflict.

    A node of the platform's own has the platform's credentials: it must have been stopped before.
    """
    revoke(node_id)
    cluster.lock(db)
    before = had(db, node_id)
    ending.end_all(db, node_id, ending.REMOVED)
    node = db.get(Node, node_id, with_for_update=True, populate_existing=True)
    if node:
        node.removed_at = node.dead_at = now()
    db.execute(update(Device).where(Device.node_id == node_id).values(healthy=False))
    audit.note(db, "removed", "node", node_id, name=node_id, before=before)
    log.warning("node removed", node=node_id)


def had(db: Session, node_id: str) -> dict[str, Any]:
    """What the audit log keeps of a node that goes: its devices, its labels, and what ran there."""
    node = db.get(Node, node_id)
    devices = select(Device.name).where(Device.node_id == node_id, ~Device.retired)
    ran = select(Lease.owner_id).where(Lease.node_id == node_id, Lease.released_at.is_(None))
    return {
        "host": node.host if node else "",
        "labels": node.labels if node else {},
        "devices": sorted(db.scalars(devices)),
        "ran": sorted(set(db.scalars(ran))),
    }


def revoke(node_id: str) -> None:
    """In transactions of their own: whatever becomes of the rest, this node is out."""
    with transaction() as db:
        known, node = db.get(NodeAccess, node_id, with_for_update=True), db.get(Node, node_id)
        if known is None and (node is None or node.removed_at):
            raise NotFound(N_("There is no such node."))
        if known is None and node and not cluster.unreachable(node) and not node.dead_at:
            raise Conflict(
                N_("The node %(node)s works with the platform's own credentials: stop it first."),
                code="node_alive",
                node=node_id,
            )
        if known is None:
            return
        known.removed_at = now()
        roles.lock_out(db, known.role)
    with transaction() as db:
        roles.end_sessions(db, known.role)
        roles.drop(db, known.role)
    try:
        broker.drop(node_id)
    except RedisError as error:
        raise Conflict(
            N_("The node is out of the database; the broker does not answer. Remove it again: %(why)s"),
            code="no_acl",
            why=str(error),
        ) from error  # fmt: skip
