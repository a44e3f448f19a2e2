"""The picture of a decision, from the database: what has changed is read, the rest is known.

A node, and every 512th part of those who wait, has a digest of its rows, made by the database in
one pass. Rows are read again where the digest is another one. So the truth is asked each time, and
what is remembered here may be wrong, or of another database, without harm.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session

from app.cluster.scheduling.board import Board
from app.cluster.scheduling.decision import Decision
from app.cluster.scheduling.picture import NEVER, Device, Holder, Node, Waiting, shape
from app.db import now

PARTS = 512
OVERLAP = timedelta(seconds=60)  # between the clocks of nodes, and what commits late

NODES = text(
    """
    SELECT n.id, n.dead_at IS NULL AND NOT n.cordoned AND n.seen_at > :heard
               AND NOT coalesce((n.facts #>> '{disk,low}')::boolean, false),
           d.digest, coalesce(l.digest, 0)
    FROM nodes n
    JOIN (
        SELECT node_id, sum(hashtextextended(concat_ws('|', id, name, kind, model, memory, healthy,
            taken, jsonb_exists(facts, 'slice')), 0))
            AS digest FROM devices GROUP BY node_id
    ) d ON d.node_id = n.id
    LEFT JOIN (
        SELECT node_id, sum(hashtextextended(id, 0)) AS digest
        FROM leases WHERE released_at IS NULL GROUP BY node_id
    ) l ON l.node_id = n.id
    """
)
DEVICES = text(
    """
    SELECT healthy, id, node_id, name, kind, model, memory, taken, jsonb_exists(facts, 'slice')
    FROM devices WHERE node_id IN :nodes
    """
).bindparams(bindparam("nodes", expanding=True))
LEASES = text(
    """
    SELECT l.node_id, l.device_id, l.bytes, l.exclusive, l.workspace_id, l.user_id,
           l.owner_kind, l.owner_id, extract(epoch FROM l.created_at)::float8,
           r.id, r.priority, r.preemptible, r.preemptions, r.seconds,
           extract(epoch FROM r.saved_at)::float8
    FROM leases l
    LEFT JOIN requests r ON r.owner_kind = l.owner_kind AND r.owner_id = l.owner_id
    WHERE l.released_at IS NULL AND l.node_id IN :nodes
    """
).bindparams(bindparam("nodes", expanding=True))
PARTED = text(
    """
    SELECT hashtext(id) & :mask, sum(hashtextextended(concat(id, reason), priority))
    FROM requests WHERE granted_at IS NULL GROUP BY 1
    """
)
WAITING = text(
    """
    SELECT hashtext(id) & :mask, id, workspace_id, user_id, owner_kind, devices, memory, kind,
           model, node_id, priority, preemptible, preemptions, seconds, reason,
           extract(epoch FROM created_at)::float8
    FROM requests WHERE granted_at IS NULL AND hashtext(id) & :mask IN :parts
    """
).bindparams(bindparam("parts", expanding=True))
CHANGING = text(
    """
    SELECT id, preempted_for, extract(epoch FROM saved_at)::float8 FROM requests
    WHERE granted_at IS NOT NULL AND (preempted_at IS NOT NULL OR saved_at > :saved)
    """
)


class Known:
    """What the last decision of this process has seen."""

    def __init__(self) -> None:
        self.board = Board()
        self.nodes: dict[str, tuple[Any, Any]] = {}  # digests of devices and leases
        self.parts: dict[int, Any] = {}
        self.members: dict[int, list[str]] = {}  # of a part
        self.part: dict[str, int] = {}  # of one who waits
        self.looked = datetime.fromtimestamp(0, UTC)

    def look(self, db: Session, heard: datetime) -> Board:
        """As it is now. Nodes heard of since `heard` may be given work. Under the cluster's lock."""
        self.look_at_nodes(db, heard)
        self.look_at_waiting(db)
        self.look_at_changing(db)
        return self.board

    def look_at_nodes(self, db: Session, heard: datetime) -> None:
        found = {
            id_: (usable, digests) for id_, usable, *digests in db.execute(NODES, {"heard": heard})
        }
        for gone in self.board.nodes.keys() - found.keys():
            self.board.remove(gone)
            self.nodes.pop(gone, None)
        other = [
            id_ for id_, (_, digests) in found.items() if self.nodes.get(id_) != tuple(digests)
        ]
        if other:
            self.read_nodes(db, other)
            self.nodes.update((id_, tuple(found[id_][1])) for id_ in other)
        for id_, (usable, _) in found.items():
            self.board.nodes[id_].usable = usable

    def read_nodes(self, db: Session, ids: list[str]) -> None:
        devices: dict[str, dict[str, Device]] = {id_: {} for id_ in ids}
        well: dict[str, list[Device]] = {id_: [] for id_ in ids}
        for healthy, *values in db.execute(DEVICES, {"nodes": ids}):
            device = Device(*values)
            devices[device.node][device.id] = device
            if healthy:
                well[device.node].append(device)
        holders: dict[str, dict[str, tuple[Holder, list[Device], list[int]]]] = {
            id_: {} for id_ in ids
        }
        for row in db.execute(LEASES, {"nodes": ids}):
            (node_id, device_id, size, whole, workspace, user, owner_kind, owner_id, start,
             id_, priority, preemptible, preemptions, seconds, saved) = row  # fmt: skip
            key = id_ or f"{owner_kind}/{owner_id}"
            known = holders[node_id].get(key)
            if known is None:
                holder = Holder(
                    key,
                    workspace,
                    user or "",
                    priority or 0,
                    start,
                    NEVER if seconds is None else start + seconds,
                    None if whole else size,
                    bool(preemptible),
                    preemptions or 0,
                    owner_kind == "job",
                    saved or 0.0,
                )
                known = holders[node_id][key] = (holder, [], [])
            known[1].append(devices[node_id][device_id])
            known[2].append(size)
        for id_ in ids:
            self.board.put(Node(id_, well[id_]), list(holders[id_].values()))

    def look_at_waiting(self, db: Session) -> None:
        found: dict[int, Any] = dict(db.execute(PARTED, {"mask": PARTS - 1}).all())
        for gone in self.members.keys() - found.keys():
            self.drop(gone)
        other = [part for part, digest in found.items() if self.parts.get(part) != digest]
        if not other:
            return
        for part in other:
            self.drop(part)
        for part in other:
            self.parts[part] = found[part]
            self.members[part] = []
        for row in db.execute(WAITING, {"mask": PARTS - 1, "parts": other}):
            (part, id_, workspace, user, owner_kind, devices, memory, kind, model, node_id,
             priority, preemptible, preemptions, seconds, reason, since) = row  # fmt: skip
            self.members[part].append(id_)
            self.part[id_] = part
            self.board.submit(
                Waiting(
                    id_,
                    workspace,
                    user or "",
                    shape(devices, memory, kind, model, node_id),
                    priority,
                    since,
                    NEVER if seconds is None else seconds,
                    preemptible,
                    preemptions,
                    owner_kind == "job",
                    reason,
                )
            )

    def drop(self, part: int) -> None:
        self.parts.pop(part, None)
        for id_ in self.members.pop(part, ()):
            self.part.pop(id_, None)
            self.board.withdraw(id_)

    def look_at_changing(self, db: Session) -> None:
        """Who was told to make room, and when checkpoints were saved."""
        told, looked = {}, now()
        for id_, waiter, saved in db.execute(CHANGING, {"saved": self.looked - OVERLAP}):
            told[id_] = waiter or ""
            if (holder := self.board.holders.get(id_)) and saved:
                holder.saved = saved
                self.board.nodes[holder.devices[0].node].changed()
        for holder in self.board.holders.values():
            leaving = told.get(holder.id, "")
            if holder.leaving != leaving:
                holder.leaving = leaving
                self.board.nodes[holder.devices[0].node].changed()
        self.looked = looked

    def forget(self, made: Decision) -> None:
        """What a decision has changed here may yet be rolled back there: it is read again."""
        for one, devices in made.grants:
            self.nodes.pop(devices[0].node, None)
            self.parts.pop(self.part[one.id], None)
        for id_ in made.reasons:
            self.parts.pop(self.part[id_], None)
