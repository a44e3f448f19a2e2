"""What would be cleared away now by the platform's settings, and clearing it at once."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import audit, platform
from app.accounts.tables import Workspace
from app.cluster.service import SILENT
from app.cluster.tables import Node
from app.config import settings
from app.datasets import trash as trash_of_datasets
from app.datasets.tables import Dataset
from app.db import now
from app.jobs import retention
from app.models import trash
from app.queue import node_queue, send

MOST = 1000  # logs, models and datasets that are listed


@dataclass(frozen=True)
class Item:
    """Something that goes. `since` it could; `steps` are those of its checkpoints."""

    kind: str  # run, checkpoints, log, model, dataset, cache
    id: str
    name: str
    workspace_id: str | None
    workspace: str
    node: str
    bytes: int
    since: datetime | None
    steps: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Unique in a list."""
        return f"{self.kind}:{self.id}:{self.node}"


def due(db: Session) -> list[Item]:
    """The largest first."""
    names = dict(db.execute(select(Workspace.id, Workspace.name)).all())
    found = [*of_jobs(db, names), *of_logs(db, names), *of_models(db, names), *of_caches(db)]
    found += of_datasets(db, names)
    return sorted(found, key=lambda one: (-one.bytes, one.key))


def of_jobs(db: Session, names: dict[str, str]) -> list[Item]:
    return [
        Item(
            "run" if one.others else "checkpoints",
            one.job.id,
            one.job.name,
            one.job.workspace_id,
            names.get(one.job.workspace_id, ""),
            one.files.node_id,
            one.bytes,
            one.job.finished_at,
            tuple(one.steps),
        )
        for one in retention.due(db)
    ]


def of_logs(db: Session, names: dict[str, str]) -> list[Item]:
    return [
        Item(
            "log", job.id, job.name, job.workspace_id, names.get(job.workspace_id, ""), "", size,
            job.finished_at,
        )
        for job, size in retention.old_logs(db, MOST)
    ]  # fmt: skip


def of_models(db: Session, names: dict[str, str]) -> list[Item]:
    """Files that another model has, too, are none of it."""
    return [
        Item(
            "model", one.id, one.name, one.workspace_id, names.get(one.workspace_id or "", ""), "",
            one.size, one.deleted_at,
        )
        for one in db.scalars(trash.expired(db).limit(MOST))
    ]  # fmt: skip


def of_datasets(db: Session, names: dict[str, str]) -> list[Item]:
    query = trash_of_datasets.expired(db).add_columns(trash_of_datasets.size(Dataset.id))
    return [
        Item(
            "dataset", one.id, one.name, one.workspace_id, names.get(one.workspace_id or "", ""),
            "", int(size), one.deleted_at,
        )
        for one, size in db.execute(query.limit(MOST))
    ]  # fmt: skip


def of_caches(db: Session) -> list[Item]:
    """What is more than may be kept, of nodes that keep a store elsewhere."""
    most = (platform.read(db).retention.cache_gb or settings.cache_gb) * 10**9
    if not settings.store_url.startswith("s3://"):
        return []
    found = []
    for node in db.scalars(select(Node).where(Node.removed_at.is_(None)).order_by(Node.id)):
        over = int((node.facts.get("stored") or {}).get("cache", 0)) - most
        if over > 0:
            found.append(Item("cache", node.id, node.id, None, "", node.id, over, None))
    return found


def clear(db: Session) -> list[Item]:
    """Have all that is due cleared away now, in the background. What that is, as far as is known: a
    node looks again before it removes anything.
    """
    found = due(db)
    for node_id in db.scalars(select(Node.id).where(Node.seen_at > now() - SILENT)):
        send(db, "workers.clear_node", queue=node_queue(node_id))
    send(db, "workers.clear_models")
    send(db, "workers.sweep")
    after = {"items": len(found), "bytes": sum(one.bytes for one in found)}
    audit.note(db, "clear", "storage", after=after)
    return found
