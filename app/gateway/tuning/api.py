"""`/v1/fine_tuning`, and deleting a tuned model, as OpenAI's clients expect them."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.errors import N_, Invalid, NotFound
from app.gateway.keyed import keyed
from app.gateway.tuning import events, names, results, service, view
from app.gateway.tuning.schemas import FineTuningCreate
from app.gateway.tuning.service import Both
from app.jobs import stream
from app.models import service as models
from app.models.tables import Model
from app.queue import Db

router = APIRouter(prefix="/v1", tags=["fine-tuning"])
BASE = "/fine_tuning/jobs"
Reader = Annotated[Principal, keyed("viewer", "jobs:read")]
Writer = Annotated[Principal, keyed("member", "jobs:write")]
After = Annotated[str, Query(max_length=100)]
Limit = Annotated[int, Query(ge=1, le=100)]


def out(request: Request, db: Session, both: Both) -> dict[str, Any]:
    results.settle(db, both)
    return view.out(db, both, stream.speaker(request))


def page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": more}


@router.post(BASE)
def create_job(request: Request, body: FineTuningCreate, who: Writer, db: Db) -> dict[str, Any]:
    """Start a tuning run on an uploaded file, which becomes a dataset. What is wrong with the file
    is the job's error.
    """
    return out(request, db, Both(service.create(db, who, body), None))


@router.get(BASE)
def list_jobs(
    request: Request, who: Reader, db: Db, after: After = "", limit: Limit = 20
) -> dict[str, Any]:
    """The jobs that were started here, the newest first. `metadata[key]=value` filters,
    `metadata=null` finds those without.
    """
    query = request.query_params
    wanted = {
        name[len("metadata[") : -1]: value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    found, more = service.listed(
        db,
        who.workspace_id,
        after=after,
        limit=limit,
        metadata=wanted,
        without_metadata=query.get("metadata") == "null",
    )
    return page([out(request, db, one) for one in found], more)


@router.get(f"{BASE}/{{fine_tuning_job_id}}")
def get_job(request: Request, fine_tuning_job_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """One job."""
    return out(request, db, service.get(db, who.workspace_id, fine_tuning_job_id))


@router.post(f"{BASE}/{{fine_tuning_job_id}}/cancel")
def cancel_job(request: Request, fine_tuning_job_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Stop for good."""
    return out(request, db, service.cancel(db, who.workspace_id, fine_tuning_job_id))


@router.post(f"{BASE}/{{fine_tuning_job_id}}/pause")
def pause_job(request: Request, fine_tuning_job_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Save a checkpoint, stop, and give the devices back. OpenAI has no word for a paused job: it
    goes on being called running.
    """
    return out(request, db, service.pause(db, who.workspace_id, fine_tuning_job_id))


@router.post(f"{BASE}/{{fine_tuning_job_id}}/resume")
def resume_job(request: Request, fine_tuning_job_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Go on from the last checkpoint."""
    return out(request, db, service.resume(db, who.workspace_id, fine_tuning_job_id))


@router.get(f"{BASE}/{{fine_tuning_job_id}}/events")
def list_events(
    request: Request,
    fine_tuning_job_id: str,
    who: Reader,
    db: Db,
    after: After = "",
    limit: Limit = 20,
) -> dict[str, Any]:
    """What happened, the newest first: messages, and the metrics of steps."""
    both = service.get(db, who.workspace_id, fine_tuning_job_id)
    return page(*events.listed(db, both, stream.speaker(request), after=after, limit=limit))


@router.get(f"{BASE}/{{fine_tuning_job_id}}/checkpoints")
def list_checkpoints(
    fine_tuning_job_id: str, who: Reader, db: Db, after: After = "", limit: Limit = 10
) -> dict[str, Any]:
    """The checkpoints that are kept, the newest first; the last three epochs, if all is usual, of
    which the last is the tuned model. A day after the end the others that nobody has used go.
    """
    both = service.get(db, who.workspace_id, fine_tuning_job_id)
    data = view.checkpoints(db, both)
    if after:
        known = [one["id"] for one in data]
        if after not in known:
            raise NotFound(N_("There is no such checkpoint: %(id)s"), field="after", id=after[:100])
        data = data[known.index(after) + 1 :]
    return page(data[:limit], len(data) > limit)


@router.delete("/models/{name}")
def delete_model(
    name: str, who: Annotated[Principal, keyed("member", "models:write")], db: Db
) -> dict[str, Any]:
    """Delete a tuned model. Refused while anything uses it."""
    if not name.startswith("ft:"):
        raise NotFound(names.NO_MODEL, code="model_not_found", field="model", name=name[:200])
    found = names.find(db, who.workspace_id, name)
    if not isinstance(found, Model):
        raise Invalid(
            N_("%(name)s is a checkpoint that nobody has used; it goes by itself."),
            code="checkpoint_not_ready",
            field="model",
            name=name[:200],
        )
    if found.workspace_id is None or found.deleted_at:
        raise names.missing(name)
    models.delete(db, who.workspace_id, found.id)
    return {"id": name, "object": "model", "deleted": True}
