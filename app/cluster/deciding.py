"""The decision in one transaction: the picture is read, looked at, and what follows is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cluster import fair
from app.cluster.board import Known
from app.cluster.scheduling import decision, foresight
from app.cluster.scheduling.decision import Decision
from app.cluster.scheduling.picture import Device, Waiting
from app.db import new_id, now
from app.quotas import limits

SILENT = timedelta(seconds=150)  # a node unheard of for so long is unreachable
LOCK = 7_238_001  # the advisory lock under which leases change
known = Known()  # looked at and changed under the lock alone


@dataclass(frozen=True)
class Grant:
    """A request that just got its devices, by name, and the ids of the leases."""

    owner_kind: str
    owner_id: str
    node_id: str
    devices: list[str]
    leases: list[str]


def lock(db: Session) -> None:
    """Everything that grants or gives back waits here, until the transaction's end.

    Taken before any row of a job, a replica or a deployment is locked, so that nobody
    waits in a circle.
    """
    db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def decide(db: Session) -> list[Grant]:
    """Grant what can be granted, have others make room, and give all who wait their reason.

    Quota and devices in one transaction, one decision at a time. What the order is, and what is
    kept for whom, says `app.cluster.scheduling.decision`. Who must make room: see `told`.
    """
    lock(db)
    db.flush()
    at = now()
    with known.look(db, at - SILENT) as board:
        if not board.waiting:
            return []
        made = decision.decide(board, limits.concurrent(db), fair.shares(db), at.timestamp())
        known.changed(made)
    grants = write_grants(db, made.grants, at)
    write_preemptions(db, made, at)
    write_reasons(db, made)
    return grants


# The arrays stand twice in some of these: in a list of ids an index is used, in a join with one all
# rows are read.
GRANT = text(
    """
    UPDATE requests SET granted_at = :at, reason = '', detail = '{}', position = NULL,
        starts_at = NULL
    WHERE id = ANY(:ids) RETURNING id, owner_kind, owner_id
    """
)
LEASE = text(
    """
    INSERT INTO leases (id, device_id, node_id, workspace_id, user_id, owner_kind, owner_id,
                        bytes, exclusive, created_at, measured, worked)
    SELECT l.id, l.device_id, d.node_id, r.workspace_id, r.user_id, r.owner_kind, r.owner_id,
           coalesce(r.memory, d.memory), r.memory IS NULL, :at, 0, 0
    FROM unnest(CAST(:leases AS text[]), CAST(:requests AS text[]), CAST(:devices AS text[]))
         AS l(id, request_id, device_id)
    JOIN requests r ON r.id = l.request_id
    JOIN devices d ON d.id = l.device_id
    WHERE r.id = ANY(:requests) AND d.id = ANY(:devices)
    """
)


def write_grants(
    db: Session, granted: Sequence[tuple[Waiting, list[Device]]], at: datetime
) -> list[Grant]:
    """In two statements, however many there are."""
    if not granted:
        return []
    rows = db.execute(GRANT, {"at": at, "ids": [one.id for one, _ in granted]})
    owners = {id_: (kind, owner) for id_, kind, owner in rows}
    leases = [(new_id("lse"), one.id, device.id) for one, devices in granted for device in devices]
    ids, requests, devices = map(list, zip(*leases, strict=True))
    db.execute(LEASE, {"at": at, "leases": ids, "requests": requests, "devices": devices})
    of: dict[str, list[str]] = {}
    for id_, request, _ in leases:
        of.setdefault(request, []).append(id_)
    return [
        Grant(*owners[one.id], had[0].node, [device.name for device in had], of[one.id])
        for one, had in granted
    ]


REASONS = text(
    """
    UPDATE requests r SET reason = u.reason, detail = CAST(u.detail AS jsonb)
    FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[]), CAST(:details AS text[]))
         AS u(id, reason, detail)
    WHERE r.id = u.id AND r.id = ANY(:ids)
    """
)
PREEMPT = text(
    """
    UPDATE requests r SET preempted_at = :at, preempted_for = u.waiter
    FROM unnest(CAST(:ids AS text[]), CAST(:waiters AS text[])) AS u(id, waiter)
    WHERE r.id = u.id
    """
)


def write_reasons(db: Session, made: Decision) -> None:
    if made.reasons:
        values = {
            "ids": list(made.reasons),
            "reasons": [reason for reason, _ in made.reasons.values()],
            "details": [orjson.dumps(detail).decode() for _, detail in made.reasons.values()],
        }
        db.execute(REASONS, values)


def write_preemptions(db: Session, made: Decision, at: datetime) -> None:
    if made.preemptions:
        ids = [holder.id for holder, _ in made.preemptions]
        waiters = [one.id for _, one in made.preemptions]
        db.execute(PREEMPT, {"at": at, "ids": ids, "waiters": waiters})


@dataclass(frozen=True)
class Told:
    """An owner of devices that must make room, and for whom."""

    owner_kind: str
    owner_id: str
    for_kind: str
    for_id: str


TOLD = text(
    """
    SELECT v.owner_kind, v.owner_id, coalesce(w.owner_kind, ''), coalesce(w.owner_id, '')
    FROM requests v LEFT JOIN requests w ON w.id = v.preempted_for
    WHERE v.granted_at IS NOT NULL AND v.preempted_at IS NOT NULL
    ORDER BY v.preempted_at, v.id
    """
)


def told(db: Session) -> list[Told]:
    """Who must make room and has not yet: told with each sweep, until they are gone."""
    return [Told(*row) for row in db.execute(TOLD)]


def foresee(db: Session) -> None:
    """Give the first of the queue their place in it, and the time at which they may be expected to
    start. Only what has changed by more than a little is written: a place behind the first
    is known to a twentieth.
    """
    lock(db)
    db.flush()
    at = now()
    with known.look(db, at - SILENT) as board:
        if not board.waiting:
            return
        found = foresight.foresee(board, limits.concurrent(db), fair.shares(db), at.timestamp())
    values = {
        "exact": foresight.MOST,
        "ids": [one.id for one in found],
        "positions": [one.position for one in found],
        "starts": [
            None if one.start is None else datetime.fromtimestamp(one.start, UTC) for one in found
        ],
    }
    db.execute(EXPECTED, values)


EXPECTED = text(
    """
    UPDATE requests r SET position = u.position, starts_at = u.starts_at
    FROM requests w LEFT JOIN unnest(
        CAST(:ids AS text[]), CAST(:positions AS int[]), CAST(:starts AS timestamptz[])
    ) AS u(id, position, starts_at) ON u.id = w.id
    WHERE r.id = w.id AND w.granted_at IS NULL AND (
        (w.position IS NULL) <> (u.position IS NULL)
        OR abs(w.position - u.position) > CASE WHEN u.position > :exact THEN u.position / 20 ELSE 0 END
        OR (w.starts_at IS NULL) <> (u.starts_at IS NULL)
        OR abs(extract(epoch FROM w.starts_at - u.starts_at)) > 30
    )
    """
)
