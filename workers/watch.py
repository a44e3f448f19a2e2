"""What the sweep looks at, so that somebody is told: an alert fires for as long as it stays so."""

import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.alerts import service as alerts
from app.alerts.service import Facts
from app.cluster.service import SILENT
from app.cluster.tables import Node
from app.db import now
from app.deployments.tables import Deployment
from app.errors import N_

STARTED = time.monotonic()  # before we have looked on for so long, silence is our own


def nodes(db: Session) -> None:
    if time.monotonic() - STARTED < SILENT.total_seconds():
        return
    lost = db.scalars(select(Node).where(Node.seen_at < now() - SILENT))
    alerts.keep(
        db,
        "node_lost",
        {
            node.id: Facts(
                N_("Node %(node)s has not been heard of since %(since)s."),
                {"node": node.id, "since": f"{node.seen_at:%Y-%m-%d %H:%M} UTC"},
                link="/admin",
            )
            for node in lost
        },
    )


def deployments(db: Session) -> None:
    sick = db.scalars(select(Deployment).where(Deployment.state.in_(("unhealthy", "error"))))
    alerts.keep(
        db,
        "deployment_unhealthy",
        {
            one.id: Facts(
                N_("Deployment %(name)s does not answer as it should."),
                {"name": one.name},
                workspace_id=one.workspace_id,
                link=f"/deployments/{one.id}",
            )
            for one in sick
        },
    )


def disks(db: Session) -> None:
    """A node that was lost says nothing of its disk."""
    known = db.scalars(select(Node).where(Node.seen_at >= now() - SILENT))
    found = {node.id: node.facts.get("disk") or {} for node in known}
    alerts.keep(
        db,
        "disk_low",
        {
            node: Facts(
                N_("The disk of node %(node)s is nearly full: %(free)s GB are free."),
                {"node": node, "free": f"{disk['free'] / 1e9:.1f}"},
                link="/admin/storage",
            )
            for node, disk in found.items()
            if disk.get("low")
        },
    )
