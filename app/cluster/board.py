"""The picture of a decision, from the database: what has changed is read, the rest is known.

What has changed say `app.cluster.changes`. What a decision itself has changed here may be rolled
back there, so that it is read again too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cluster.changes import Changes, Reader
from app.cluster.scheduling.board import Board
from app.cluster.scheduling.decision import Decision
from app.cluster.scheduling.order import PREEMPTING
from app.cluster.scheduling.picture import NEVER, Device, Holder, Labels, Node, Waiting, shape

NODES = text(
    """
    SELECT array_agg(id) FILTER (
               WHERE NOT (dead_at IS NULL AND NOT cordoned AND seen_at > :heard
                          AND NOT coalesce((facts #>> '{disk,low}')::boolean, false))),
           sum(hashtextextended(id || labels::text, 0)) FILTER (WHERE labels <> '{}')
    FROM nodes
    """
)
LABELS = text("SELECT id, labels FROM nodes WHERE labels <> '{}'")
ALL_DEVICES = """
    SELECT healthy, id, node_id, name, kind, model, memory, taken, jsonb_exists(facts, 'slice')
    FROM devices
    """
# Of a few nodes, each lease looks its request up by itself: a join would read all requests.
ALL_LEASES = """
    SELECT l.node_id, l.device_id, l.bytes, l.exclusive, l.workspace_id, l.user_id,
           l.owner_kind, l.owner_id, extract(epoch FROM l.created_at)::float8,
           r.id, r.priority, r.preemptible, r.preemptions, r.seconds,
           extract(epoch FROM r.saved_at)::float8,
           CASE WHEN r.preempted_at IS NOT NULL THEN r.preempted_for END
    FROM leases l
    LEFT JOIN LATERAL (
        SELECT * FROM requests WHERE owner_kind = l.owner_kind AND owner_id = l.owner_id LIMIT 1
    ) r ON true
    WHERE l.released_at IS NULL
    """
ALL_REQUESTS = """
    SELECT granted_at IS NULL, id, workspace_id, user_id, owner_kind, devices, memory, kind, model,
           node_id, priority, preemptible, preemptions, seconds, reason,
           extract(epoch FROM created_at)::float8, extract(epoch FROM saved_at)::float8,
           CASE WHEN preempted_at IS NOT NULL THEN preempted_for END, labels
    FROM requests
    """
DEVICES, DEVICES_OF = text(ALL_DEVICES), text(ALL_DEVICES + "WHERE node_id = ANY(:nodes)")
LEASES, LEASES_OF = text(ALL_LEASES), text(ALL_LEASES + "AND l.node_id = ANY(:nodes)")
WAITING = text(ALL_REQUESTS + "WHERE granted_at IS NULL")
REQUESTS = text(ALL_REQUESTS + "WHERE id = ANY(:ids)")

Held = dict[str, tuple[Holder, list[Device], list[int]]]  # request id → what is held of a node


class Known:
    """What the last decision of this process has seen."""

    def __init__(self) -> None:
        self.changes = Reader()
        self.board = Board()
        self.devices: dict[str, dict[str, Device]] = {}  # of a node, those too that are not well
        self.labels: dict[str, Labels] = {}  # of nodes that have any
        self.digest: Any = None  # of them all

    @contextmanager
    def look(self, db: Session, heard: datetime) -> Iterator[Board]:
        """The board as it is now; nodes heard of since `heard` may be given work. Under the cluster's
        lock. What fails within is forgotten as a whole.
        """
        changes = self.changes.read(db)
        if changes.everything:
            self.board, self.devices = Board(), {}
            self.put_nodes(db.execute(DEVICES))
            self.put_holders(db.execute(LEASES), set(self.devices))
            self.put_requests(db.execute(WAITING))
        else:
            self.look_at_nodes(db, changes)
            self.look_at_requests(db, changes.requests)
        unusable, digest = db.execute(NODES, {"heard": heard}).one()
        self.board.use_only(set(unusable or ()))
        if digest != self.digest:
            rows = db.execute(LABELS)
            self.labels = {id_: frozenset(labels.items()) for id_, labels in rows}
            self.board.label(self.labels)
            self.digest = digest
        yield self.board
        self.changes.seen()

    def look_at_nodes(self, db: Session, changes: Changes) -> None:
        other = changes.devices | (changes.leases - self.devices.keys())
        if other:
            for id_ in other:
                self.board.remove(id_)
                self.devices.pop(id_, None)
            self.put_nodes(db.execute(DEVICES_OF, {"nodes": list(other)}))
        if nodes := (other | changes.leases) & self.devices.keys():
            self.put_holders(db.execute(LEASES_OF, {"nodes": list(nodes)}), nodes)

    def put_nodes(self, rows: Any) -> None:
        well: dict[str, list[Device]] = {}
        for healthy, *values in rows:
            device = Device(*values)
            self.devices.setdefault(device.node, {})[device.id] = device
            well.setdefault(device.node, [])
            if healthy:
                well[device.node].append(device)
        for id_, devices in well.items():
            self.board.put(Node(id_, devices, labels=self.labels.get(id_, frozenset())), [])

    def put_holders(self, rows: Any, nodes: set[str]) -> None:
        """Those of so many nodes; who is known and the same stays where it is."""
        held: Held = {}
        for row in rows:
            (node_id, device_id, size, whole, workspace, user, owner_kind, owner_id, start,
             id_, priority, preemptible, preemptions, seconds, saved, leaving) = row  # fmt: skip
            key = id_ or f"{owner_kind}/{owner_id}"
            if key not in held:
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
                    leaving or "",
                )
                held[key] = (holder, [], [])
            held[key][1].append(self.devices[node_id][device_id])
            held[key][2].append(size)
        board = self.board
        for node_id in nodes:
            for known in list(board.nodes[node_id].holders.values()):
                if known.id in held and same(known, *held[known.id][:2]):
                    del held[known.id]
                else:
                    board.leave(known.id)
        for holder, devices, sizes in held.values():
            board.leave(holder.id)  # of another node, once
            board.hold(holder, devices, sizes)

    def look_at_requests(self, db: Session, ids: set[str]) -> None:
        if not ids:
            return
        for gone in ids - self.put_requests(db.execute(REQUESTS, {"ids": list(ids)})):
            self.board.withdraw(gone)

    def put_requests(self, rows: Any) -> set[str]:
        """Those that were read. One that is known and the same stays where it is."""
        board, found = self.board, set()
        for row in rows:
            (waits, id_, workspace, user, owner_kind, devices, memory, kind, model, node_id,
             priority, preemptible, preemptions, seconds, reason, since, saved, leaving, labels) = row  # fmt: skip
            found.add(id_)
            if not waits:
                board.withdraw(id_)
                if holder := board.holders.get(id_):
                    holder.saved = saved or 0.0
                    board.tell(holder, leaving or "")
                continue
            one = Waiting(
                id_,
                workspace,
                user or "",
                shape(devices, memory, kind, model, node_id, frozenset(labels.items())),
                priority,
                since,
                NEVER if seconds is None else seconds,
                preemptible,
                preemptions,
                owner_kind == "job",
                reason,
            )
            known = board.waiting.get(id_)
            if known is None or asked(known) != asked(one):
                board.withdraw(id_)
                board.submit(one)
            elif known.reason != reason:
                if PREEMPTING in (known.reason, reason):
                    board.resort(workspace)
                known.reason = reason
        return found

    def changed(self, made: Decision) -> None:
        """What a decision has changed here may yet be rolled back there."""
        unsure = self.changes.unsure
        for one, devices in made.grants:
            unsure.leases.add(devices[0].node)
            unsure.requests.add(one.id)
        for holder, _ in made.preemptions:
            unsure.requests.add(holder.id)
        unsure.requests.update(made.reasons)


def asked(one: Waiting) -> tuple[Any, ...]:
    return (one.workspace, one.user, one.shape, one.priority, one.since, one.seconds,
            one.preemptible, one.preemptions, one.job)  # fmt: skip


def same(known: Holder, holder: Holder, devices: list[Device]) -> bool:
    """Whether nothing is new. In what order its devices are named does not matter."""
    return facts(known) == facts(holder) and {one.id for one in known.devices} == {
        one.id for one in devices
    }


def facts(one: Holder) -> tuple[Any, ...]:
    return (one.workspace, one.user, one.priority, one.start, one.end, one.memory,
            one.preemptible, one.preemptions, one.job, one.saved, one.leaving)  # fmt: skip
