"""What nodes say of themselves, and what admins say of nodes."""

import re
from datetime import timedelta
from typing import Any

from sqlalchemy import case, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.cluster.health import MISSING
from app.cluster.tables import Device, Lease, Node
from app.db import new_id, now
from app.errors import N_, Invalid, NotFound

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
LABELS = 32  # of one node
ONCE_SAID = ("model", "uuid", "memory", "facts")  # what a card that is lost cannot say again


def get(db: Session, node_id: str) -> Node:
    """The node, locked. Raises NotFound."""
    node = db.scalar(
        select(Node)
        .where(Node.id == node_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if node is None:
        raise NotFound(N_("There is no such node."))
    return node


# -- heartbeats --------------------------------------------------------------------------


def beat(
    db: Session,
    node_id: str,
    host: str,
    facts: dict[str, Any],
    devices: list[dict[str, Any]],
    labels: dict[str, str] | None = None,
) -> None:
    """A node's heartbeat and inventory: {name, kind, model, uuid, memory, healthy, problems,
    taken, facts, stats} each. `labels` are added to the node's, when it starts.

    A device that is no longer listed is unhealthy. A node that was declared dead is alive
    again with its second beat: between the two it has killed what it should no longer run.
    """
    at = now()
    row = {"id": node_id, "host": host, "seen_at": at, "facts": facts, "labels": labels or {}}
    told = insert(Node).values(**row, created_at=at, cordoned=False)
    back = Node.dead_at.is_not(None) & (Node.seen_at > Node.dead_at)
    known = {
        "host": host,
        "facts": facts,
        "seen_at": at,
        "dead_at": case((back, None), else_=Node.dead_at),
        "removed_at": None,
    }
    if labels:
        known["labels"] = Node.labels.op("||")(told.excluded.labels)
    db.execute(told.on_conflict_do_update(index_elements=[Node.id], set_=known))
    list_devices(db, node_id, devices)
    db.expire_all()


def list_devices(db: Session, node_id: str, devices: list[dict[str, Any]]) -> None:
    nothing = {"problems": [], "taken": 0, "facts": {}, "stats": {}, "retired": False}
    rows = [nothing | one | {"id": new_id("dev"), "node_id": node_id} for one in devices]
    if rows:
        told = insert(Device).values(rows)
        new: dict[str, Any] = {
            name: told.excluded[name] for name in rows[0] if name not in ("id", "node_id", "name")
        }
        for name in ONCE_SAID:
            said = told.excluded.model != ""
            new[name] = case((said, told.excluded[name]), else_=getattr(Device, name))
        db.execute(told.on_conflict_do_update(index_elements=["node_id", "name"], set_=new))
    cards = {card for one in devices if (card := one.get("facts", {}).get("card"))}
    db.execute(
        update(Device)
        .where(Device.node_id == node_id, Device.name.not_in([one["name"] for one in devices]))
        .values(
            healthy=False,
            problems=[MISSING],
            taken=0,
            stats={},
            retired=Device.facts["card"].astext.in_(cards),
        )
    )


def holders(db: Session, node_id: str) -> dict[str, set[str]]:
    """The node's devices that are held, by name, and the ids of who holds each."""
    found: dict[str, set[str]] = {}
    query = (
        select(Device.name, Lease.owner_id)
        .join(Lease, Lease.device_id == Device.id)
        .where(Lease.node_id == node_id, Lease.released_at.is_(None))
    )
    for name, owner_id in db.execute(query):
        found.setdefault(name, set()).add(owner_id)
    return found


def uuids(db: Session, node_id: str, names: list[str]) -> dict[str, str]:
    """The UUIDs of some of the node's devices, by name."""
    query = select(Device.name, Device.uuid).where(
        Device.node_id == node_id, Device.name.in_(names)
    )
    return dict(db.execute(query).all())


# -- what admins say ---------------------------------------------------------------------


def cordon(db: Session, node_id: str, cordoned: bool) -> Node:
    """A cordoned node gets nothing new; what runs there goes on. Uncordoned, it is no longer
    drained either. Raises NotFound.
    """
    node = get(db, node_id)
    node.cordoned = cordoned
    if not cordoned:
        node.drain_since = node.drain_until = None
    return node


def drain(db: Session, node_id: str, seconds: int) -> Node:
    """Cordon a node and have all that runs there leave within `seconds`; asked again, the time
    counts anew. The sweep carries it out. Raises NotFound.
    """
    node = cordon(db, node_id, cordoned=True)
    node.drain_since = node.drain_since or now()
    node.drain_until = now() + timedelta(seconds=seconds)
    return node


def draining(db: Session) -> list[tuple[str, bool]]:
    """The nodes that are to be empty, and whether their time is over."""
    query = select(Node.id, Node.drain_until <= now()).where(Node.drain_since.is_not(None))
    return [(node_id, late) for node_id, late in db.execute(query)]


def label(db: Session, node_id: str, labels: dict[str, str]) -> Node:
    """The node's labels from now on. Raises NotFound, Invalid."""
    node = get(db, node_id)
    node.labels = checked(labels)
    return node


def parse(text: str) -> dict[str, str]:
    """`gpu=h200, room=b` or one on each line. Raises Invalid."""
    found = {}
    for part in filter(None, (piece.strip() for piece in re.split(r"[,\n]", text))):
        name, equals, value = part.partition("=")
        if not equals:
            raise Invalid(
                N_("Write each label as key=value; %(part)s is not."), field="labels", part=part
            )
        found[name.strip()] = value.strip()
    return checked(found)


def checked(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > LABELS:
        raise Invalid(N_("A node has %(most)s labels at most."), field="labels", most=LABELS)
    for part in (part for pair in labels.items() for part in pair):
        if not LABEL.fullmatch(part):
            raise Invalid(
                N_(
                    "A label's key and its value are 1 to 63 letters, digits, dots, dashes, slashes "
                    "or underscores, the first a letter or digit: %(part)s is not."
                ),
                field="labels",
                part=part or '""',
            )
    return dict(sorted(labels.items()))
