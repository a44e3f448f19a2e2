"""`ft:` names: what a workspace's tuned models are called at `/v1`.

`ft:<base>:<workspace>:<suffix>:<id>`, and `ft:<base>:<workspace>:<suffix>:<id>:ckpt-step-<n>` for
the checkpoint of a job. The id alone decides which model is meant; the rest is for people.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, aliased

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.deployments import service as deployments
from app.errors import N_, NotFound, Unavailable
from app.gateway.tuning.tables import TuningJob
from app.jobs import checkpoints
from app.jobs.tables import Job, JobCheckpoint
from app.models import service as models
from app.models.tables import Model
from app.queue import transaction

NAME = re.compile(r"ft:[^:]+:[^:]*:[^:]*:([a-z0-9]{20})(?::ckpt-step-(\d{1,9}))?\Z")
NO_MODEL = N_("The model `%(name)s` does not exist")
Base = aliased(Model)


@dataclass(frozen=True)
class Tuned:
    name: str
    created_at: datetime
    model_id: str


def clean(text: str) -> str:
    """A text as a part of a name: no colon, no slash, no space."""
    return "".join(char if char.isalnum() or char in "._-" else "-" for char in text.strip())


def title(base: str, workspace: str, suffix: str, tail: str, step: int | None = None) -> str:
    """`tail` is an id without its prefix: of the model, or with a `step`, of our job."""
    whole = f"ft:{clean(base)}:{clean(workspace)}:{clean(suffix)}:{tail}"
    return whole if step is None else f"{whole}:ckpt-step-{step}"


def tail_of(identifier: str) -> str:
    return identifier.partition("_")[2]


# -- listing -----------------------------------------------------------------------------


def query(workspace_id: str) -> Select[Model, str, str, str]:
    """(Model, name of its base, slug of the workspace, suffix or None) of all tuned models."""
    return (
        select(Model, Base.name, Workspace.slug, TuningJob.suffix)
        .join(Base, Base.id == Model.base_id)
        .join(Workspace, Workspace.id == Model.workspace_id)
        .outerjoin(TuningJob, TuningJob.job_id == Model.job_id)
        .where(
            Model.workspace_id == workspace_id,
            Model.kind.in_(models.KINDS["tuned"]),
            Model.job_id.is_not(None),
            Model.deleted_at.is_(None),
        )
    )


def listed(db: Session, workspace_id: str) -> list[Tuned]:
    """The workspace's tuned models that write answers, the newest first."""
    rows = db.execute(query(workspace_id).order_by(Model.created_at.desc(), Model.id))
    return [Tuned(told(*row), row[0].created_at, row[0].id) for row in rows if not row[0].scores]


def all_names(db: Session, workspace_id: str) -> list[deployments.ModelName | Tuned]:
    """What `/v1/models` lists: what is deployed, then the tuned models."""
    return [*deployments.names(db, workspace_id), *listed(db, workspace_id)]


def told(model: Model, base: str, workspace: str, suffix: str | None) -> str:
    """A model of a job that was not started here is told by its own name."""
    suffix = model.name if suffix is None else suffix
    step = model.lineage.get("measured", {}).get("step")
    if step is None or model.job_id is None:
        return title(base, workspace, suffix, tail_of(model.id))
    return title(base, workspace, suffix, tail_of(model.job_id), int(step))


def of(db: Session, workspace_id: str, model_id: str) -> str | None:
    """The name of one model; None if it is gone."""
    row = db.execute(query(workspace_id).where(Model.id == model_id)).one_or_none()
    return told(*row) if row else None


def of_checkpoint(db: Session, row: TuningJob, job: Job, step: int) -> str:
    parent = db.get_one(Model, job.model_id)
    base = db.get_one(Model, parent.base_id) if parent.base_id else parent
    slug = db.get_one(Workspace, row.workspace_id).slug
    return title(base.name, slug, row.suffix, tail_of(job.id), step)


# -- finding -----------------------------------------------------------------------------


def find(db: Session, workspace_id: str, name: str) -> Model | JobCheckpoint:
    """What an `ft:` name means: a model, or a checkpoint that is none yet. Raises NotFound."""
    match = NAME.match(name)
    if match and match[2] is None:
        return models.get(db, workspace_id, f"mdl_{match[1]}")
    if match:
        place = (f"job_{match[1]}", int(match[2]))
        row, job = db.get(JobCheckpoint, place), db.get(Job, place[0])
        if row and job and job.workspace_id == workspace_id:
            made = db.get(Model, row.model_id) if row.model_id else None
            return made if made and not made.deleted_at else row
    raise missing(name)


def missing(name: str) -> NotFound:
    return NotFound(NO_MODEL, code="model_not_found", field="model", name=name[:200])


def publish(who: Principal, found: JobCheckpoint, name: str) -> Unavailable:
    """Have a checkpoint made a model; what to tell who asks for it meanwhile."""
    with transaction() as own:  # stays, though the request is refused
        checkpoints.publish(own, who, found.job_id, found.step)
    return Unavailable(
        N_("The checkpoint %(name)s is being made a model. Try again in a few seconds."),
        code="checkpoint_not_ready",
        field="model",
        name=name[:200],
    )


def model(db: Session, who: Principal, name: str) -> Model:
    """The model that a client means: an `ft:` name, a name or an id of the registry, or the name of
    a deployment, whose model is meant.

    A checkpoint that nobody has used yet is made a model first, which takes its node some seconds:
    Unavailable until then, so that a client that tries again gets it. Raises NotFound.
    """
    if name.startswith("ft:"):
        found = find(db, who.workspace_id, name)
        if isinstance(found, Model):
            return found
        raise publish(who, found, name)
    try:
        return models.get(db, who.workspace_id, name)
    except NotFound:
        for one in deployments.names(db, who.workspace_id):
            if one.name == name:
                served = deployments.get(db, who.workspace_id, one.deployment_id)
                return models.get(db, who.workspace_id, served.model_id)
        raise missing(name) from None
