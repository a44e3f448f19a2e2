"""`/v1/batches`, as OpenAI's clients expect them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import Principal
from app.gateway.batches import service
from app.gateway.batches.states import STATUSES
from app.gateway.batches.tables import Batch
from app.gateway.files.api import ExpiresAfter, page
from app.gateway.keyed import keyed
from app.gateway.tuning.schemas import Key, Value
from app.queue import Db
from app.web import translate

router = APIRouter(prefix="/v1", tags=["batches"])
Reader = Annotated[Principal, keyed("viewer", "inference")]
Writer = Annotated[Principal, keyed("member", "inference")]


class BatchCreate(BaseModel):
    """Requests of a file, to be asked one by one when there is room."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str = Field(min_length=1, max_length=100)
    endpoint: str = Field(max_length=200, description="/v1/chat/completions, for one")
    completion_window: str = Field(max_length=100, description="24h")
    metadata: dict[Key, Value] | None = Field(None, max_length=16)
    output_expires_after: ExpiresAfter | None = None


def seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None


def out(request: Request, batch: Batch) -> dict[str, Any]:
    errors = [
        {
            "code": one["code"],
            "line": one["line"],
            "message": translate(request, one["message"], **one["params"]),
            "param": one["param"],
        }
        for one in batch.errors
    ]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": service.WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": seconds(batch.created_at),
        "expires_at": seconds(batch.expires_at),
        **{
            f"{status}_at": seconds(getattr(batch, f"{status}_at"))
            for status in STATUSES
            if status != "validating"
        },
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": {
            "input_tokens": batch.prompt_tokens,
            "input_tokens_details": {"cached_tokens": batch.cached_tokens},
            "output_tokens": batch.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
            "total_tokens": batch.prompt_tokens + batch.completion_tokens,
        },
        "metadata": batch.meta,
    }


@router.post("/batches")
def create_batch(request: Request, body: BatchCreate, who: Writer, db: Db) -> dict[str, Any]:
    """Answer all requests of an uploaded file within a day. What is wrong with its lines is the
    batch's errors.
    """
    keep = body.output_expires_after
    wanted = service.Wanted(
        body.input_file_id,
        body.endpoint,
        body.completion_window,
        body.metadata,
        keep.seconds if keep else None,
    )
    return out(request, service.create(db, who, wanted))


@router.get("/batches")
def list_batches(
    request: Request,
    who: Reader,
    db: Db,
    after: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """The workspace's batches, the newest first."""
    found, more = service.listed(db, who.workspace_id, after=after, limit=limit)
    return page([out(request, one) for one in found], more)


@router.get("/batches/{batch_id}")
def get_batch(request: Request, batch_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """How far it has come, and its files once it has ended."""
    return out(request, service.get(db, who.workspace_id, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel_batch(request: Request, batch_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Stop. What is answered by then stands in its files."""
    return out(request, service.cancel(db, who.workspace_id, batch_id))
