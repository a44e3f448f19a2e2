"""`/dashscope/api/v1/fine-tunes`."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.errors import N_, NotFound
from app.gateway.dashscope import fine_tunes, logs
from app.gateway.dashscope.replies import PREFIX, PageNo, PageSize, paged, reply
from app.gateway.dashscope.schemas import FineTuneCreate
from app.gateway.keyed import keyed
from app.gateway.tuning import results, service
from app.gateway.tuning.service import Both
from app.jobs import checkpoints, history, stream
from app.jobs.schemas import NAME
from app.queue import Db

router = APIRouter(prefix=f"{PREFIX}/fine-tunes", tags=["dashscope"])
Reader = Annotated[Principal, keyed("viewer", "jobs:read")]
Writer = Annotated[Principal, keyed("member", "jobs:write")]
STEP = re.compile(r"checkpoint-(\d{1,9})\Z")
DONE = {"status": "success"}


def found(db: Session, who: Principal, fine_tune_id: str) -> Both:
    return service.get(db, who.workspace_id, fine_tunes.row_id(fine_tune_id))


def out(request: Request, db: Session, both: Both) -> dict[str, Any]:
    results.settle(db, both)
    return fine_tunes.out(db, both, stream.speaker(request))


@router.post("")
def create(request: Request, body: FineTuneCreate, who: Writer, db: Db) -> dict[str, Any]:
    """Start a tuning run on uploaded files, each of which becomes a dataset."""
    row = fine_tunes.create(db, who, body)
    return reply(request, out(request, db, Both(row, None)))


@router.get("")
def index(
    request: Request,
    who: Reader,
    db: Db,
    page_no: PageNo = 1,
    page_size: PageSize = 10,
    model: Annotated[str, Query(max_length=300)] = "",
    status: Annotated[str, Query(max_length=30)] = "",
) -> dict[str, Any]:
    """The jobs that were started here or at `/v1`, the newest first."""
    states = {ours for ours, theirs in fine_tunes.STATES.items() if theirs == status}
    rows, total = service.page(
        db,
        who.workspace_id,
        model=model,
        states=states if status else None,
        offset=(page_no - 1) * page_size,
        limit=page_size,
    )
    jobs = [out(request, db, one) for one in rows]
    return reply(request, paged("jobs", jobs, total, page_no, page_size))


@router.get("/{fine_tune_id}")
def show(request: Request, fine_tune_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """One fine-tune."""
    return reply(request, out(request, db, found(db, who, fine_tune_id)))


@router.delete("/{fine_tune_id}")
def delete(request: Request, fine_tune_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Take a job that is over off the list. Its model stays."""
    service.remove(db, who.workspace_id, fine_tunes.row_id(fine_tune_id))
    return reply(request, DONE)


@router.post("/{fine_tune_id}/cancel")
def cancel(request: Request, fine_tune_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Stop for good."""
    service.cancel(db, who.workspace_id, fine_tunes.row_id(fine_tune_id))
    return reply(request, DONE)


@router.get("/{fine_tune_id}/logs")
def get_logs(
    request: Request,
    fine_tune_id: str,
    who: Reader,
    db: Db,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 1,
    line: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """`line` lines of the log, from line number `offset` on; the first is 1."""
    both = found(db, who, fine_tune_id)
    lines, total = logs.by_line(db, both, stream.speaker(request), offset=offset, count=line)
    return reply(request, {"total": total, "logs": lines})


@router.get("/{fine_tune_id}/stream", response_class=StreamingResponse)
def follow(request: Request, fine_tune_id: str, who: Reader, db: Db) -> StreamingResponse:
    """The log, the metrics and the status as they come, until the job is over."""
    row_id = found(db, who, fine_tune_id).row.id
    return StreamingResponse(
        logs.follow(who.workspace_id, row_id, stream.speaker(request)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@router.get("/{fine_tune_id}/checkpoints")
def list_checkpoints(request: Request, fine_tune_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """Those that are kept, in order."""
    both = found(db, who, fine_tune_id)
    if both.job is None:
        return reply(request, [])
    epochs = {line["step"]: line.get("epoch") for line in history.metrics(db, both.job.id)}
    rows = reversed(checkpoints.of_job(db, both.job))
    return reply(
        request, [fine_tunes.checkpoint(db, both, row, epochs.get(row.step)) for row in rows]
    )


@router.get("/{fine_tune_id}/export/{checkpoint}")
def export(
    request: Request,
    fine_tune_id: str,
    checkpoint: str,
    who: Writer,
    db: Db,
    model_name: Annotated[str, Query(max_length=NAME)] = "",
) -> dict[str, Any]:
    """Make a checkpoint a model. DashScope's contract changes things with GET here, which is why
    only API keys are taken.
    """
    both = found(db, who, fine_tune_id)
    match = STEP.match(checkpoint)
    if match is None or both.job is None:
        raise NotFound(N_("There is no such checkpoint: %(id)s"), id=checkpoint[:100])
    checkpoints.publish(db, who, both.job.id, int(match[1]), model_name)
    return reply(request, True)
