"""What takes the room: bytes by kind, by workspace, and the largest things. For platform admins.

Figures are those of the rows, and of what nodes have told of their disks; nothing is opened or counted on
a disk while a page waits.
"""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import BigInteger, func, select, text
from sqlalchemy.orm import Session

from app.accounts import platform
from app.accounts.tables import Workspace
from app.backups.tables import Backup
from app.cluster.tables import Node
from app.datasets.tables import Dataset, DatasetVersion
from app.errors import N_
from app.gateway.files.tables import File
from app.jobs.tables import Job, JobEvent, JobFiles
from app.models.tables import Model

LARGEST = 20
KINDS = {  # in this order everywhere
    "dataset": N_("Datasets"),
    "base": N_("Base models"),
    "adapter": N_("Adapters"),
    "merged": N_("Merged models"),
    "checkpoints": N_("Checkpoints"),
    "run": N_("Run directories"),
    "export": N_("Exports"),
    "file": N_("Files of the API"),
    "upload": N_("Uploads under way"),
    "cache": N_("Caches of nodes"),
    "backup": N_("Backups"),
    "database": N_("Database"),
}


@dataclass(frozen=True)
class Thing:
    """Something that takes room. `workspace_id` None: the platform's, or everybody's."""

    kind: str
    id: str
    name: str
    workspace_id: str | None
    bytes: int
    count: int = 1


@dataclass
class Space:
    """A workspace, and its bytes by kind."""

    id: str
    name: str
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        return self.kinds.total()


@dataclass
class Stored:
    """All of it: bytes and number by kind; workspaces and things, the largest first."""

    kinds: dict[str, int]
    counts: dict[str, int]
    spaces: list[Space]
    largest: list[Thing]

    @property
    def bytes(self) -> int:
        return sum(self.kinds.values())


def stored(db: Session) -> Stored:
    found = [*datasets(db), *models(db), *runs(db), *exports(db), *files(db)]
    of_platform = [*of_nodes(db), *backups(db), database(db)]
    kinds, counts = Counter[str](), Counter[str]()
    for one in (*found, *of_platform):
        kinds[one.kind] += one.bytes
        counts[one.kind] += one.count
    largest = sorted(found, key=lambda one: (-one.bytes, one.id))[:LARGEST]
    return Stored(
        {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        dict(counts),
        spaces(db, found),
        [one for one in largest if one.bytes],
    )


def spaces(db: Session, found: list[Thing]) -> list[Space]:
    """Those that have anything; what is shared stands under no name."""
    names = dict(db.execute(select(Workspace.id, Workspace.name)).all())
    by_id: dict[str, Space] = {}
    for one in found:
        owner = one.workspace_id or ""
        space = by_id.setdefault(owner, Space(owner, names.get(owner, "")))
        space.kinds[one.kind] += one.bytes
    full = [one for one in by_id.values() if one.bytes]
    return sorted(full, key=lambda one: (-one.bytes, one.name))


# -- by noun -----------------------------------------------------------------------------


def datasets(db: Session) -> list[Thing]:
    """As they came: what versions share is kept once, but counted in each. Deleted ones too, until
    their rows go.
    """
    size = func.sum(DatasetVersion.bytes)
    rows = db.execute(
        select(Dataset.id, Dataset.name, Dataset.workspace_id, size)
        .join(DatasetVersion, DatasetVersion.dataset_id == Dataset.id)
        .where(Dataset.purged_at.is_(None))
        .group_by(Dataset.id)
    )
    return [Thing("dataset", one, name, space, int(total)) for one, name, space, total in rows]


def models(db: Session) -> list[Thing]:
    """Deleted ones too, until their files go; files that several have count once."""
    query = (
        select(Model.artefact, Model.kind, Model.id, Model.name, Model.workspace_id, Model.size)
        .where(Model.artefact != "")
        .order_by(Model.created_at.desc())
    )
    first = {
        row.artefact: Thing(row.kind, row.id, row.name, row.workspace_id, row.size)
        for row in db.execute(query)
    }
    return list(first.values())


def runs(db: Session) -> list[Thing]:
    """What stands on nodes of jobs, as the nodes told last."""
    query = select(
        JobFiles.checkpoints, JobFiles.others, Job.id, Job.name, Job.workspace_id
    ).join_from(JobFiles, Job, Job.id == JobFiles.job_id)
    found = []
    for checkpoints, others, job_id, name, space in db.execute(query):
        sizes = [int(size) for size in checkpoints.values()]
        found += [
            Thing("checkpoints", job_id, name, space, sum(sizes), len(sizes)),
            Thing("run", job_id, name, space, others),
        ]
    return found


def exports(db: Session) -> list[Thing]:
    rows = db.execute(
        select(Job.id, Job.name, Job.workspace_id, JobEvent.params["bytes"].astext.cast(BigInteger))
        .join(JobEvent, JobEvent.job_id == Job.id)
        .where(Job.stage == "export", JobEvent.kind == "exported")
    )
    return [Thing("export", job, name, space, size or 0) for job, name, space, size in rows]


def files(db: Session) -> list[Thing]:
    rows = db.execute(
        select(File.id, File.file_name, File.workspace_id, File.bytes).where(File.artefact != "")
    )
    return [Thing("file", one, name, space, total) for one, name, space, total in rows]


# -- the platform's ----------------------------------------------------------------------


def of_nodes(db: Session) -> list[Thing]:
    found = []
    for node_id, facts in db.execute(select(Node.id, Node.facts).where(Node.removed_at.is_(None))):
        told = facts.get("stored") or {}
        found += [
            Thing(kind, node_id, node_id, None, int(told.get(name, 0)))
            for kind, name in (("cache", "cache"), ("upload", "uploads"))
        ]
    return found


def backups(db: Session) -> list[Thing]:
    """The last so many, as the settings keep them."""
    query = select(Backup).where(Backup.state == "succeeded").order_by(Backup.created_at.desc())
    kept = db.scalars(query.limit(platform.read(db).backups.keep))
    return [Thing("backup", one.id, one.file, None, one.size) for one in kept]


def database(db: Session) -> Thing:
    size = db.scalar(text("SELECT pg_database_size(current_database())"))
    return Thing("database", "", "", None, int(size or 0))
