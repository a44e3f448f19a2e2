"""A job as a script for TRL, and the rows it reads: what it takes to leave with everything."""

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse

from app.accounts.auth import Principal, requires
from app.errors import N_, NotFound
from app.jobs import script, service, view, watching_routes
from app.jobs.data import versions_of
from app.queue import Db, transaction

router = APIRouter(tags=["jobs"])
Reader = Annotated[Principal, requires("viewer", "jobs:read")]


@router.get(
    "/api/v1/jobs/{job_id}/train.py", response_class=PlainTextResponse, name="api:jobs:train_py"
)
def train_py(job_id: str, who: Reader, db: Db) -> PlainTextResponse:
    """One self-contained script that reproduces the job with TRL: no Danlu, no network."""
    text = script.train_py(db, service.get(db, who.workspace_id, job_id))
    headers = {"content-disposition": 'attachment; filename="train.py"'}
    return PlainTextResponse(text, media_type="text/x-python; charset=utf-8", headers=headers)


@router.get("/api/v1/jobs/{job_id}/rows", response_class=StreamingResponse, name="api:jobs:rows")
def rows(
    job_id: str,
    who: Annotated[Principal, requires("viewer", "datasets:read")],
    part: Literal["train", "validation"] = "train",
) -> StreamingResponse:
    """The rows of one epoch of the job, mixed and split as it was, or its validation rows."""
    with transaction() as db:  # over before the first row is read
        job = service.get(db, who.workspace_id, job_id)
        if job.dataset_version_id is None:
            raise NotFound(N_("This job reads no data."))
        if part == "validation" and not (job.validation_version_id or job.mix.get("split")):
            raise NotFound(N_("This job has no validation data."))
        parts = view.versions(db, versions_of(job))
    name = "rows" if part == "train" else "validation"
    return StreamingResponse(
        blocks(script.rows(job, parts, validation=part == "validation")),
        media_type="application/jsonl",
        headers={"content-disposition": f'attachment; filename="{name}.jsonl"'},
    )


@router.get(
    "/api/v1/jobs/{job_id}/tensorboard.zip",
    response_class=FileResponse,
    name="api:jobs:tensorboard_zip",
)
def tensorboard_zip(job_id: str, who: Reader) -> Response:
    """The job's curves as TensorBoard's event files."""
    return watching_routes.download_board(job_id, who)


def blocks(lines: Iterator[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    """Joined to some size: a chunk of the answer costs more than a row."""
    block: list[bytes] = []
    held = 0
    for line in lines:
        block.append(line)
        held += len(line)
        if held > size:
            yield b"".join(block)
            block, held = [], 0
    yield b"".join(block)
