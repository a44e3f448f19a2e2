"""`/dashscope/api/v1/files`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request

from app.accounts.auth import Principal
from app.config import settings
from app.datasets.intake.upload import part
from app.errors import DomainError, Invalid, NotFound
from app.gateway.dashscope.replies import PREFIX, PageNo, PageSize, moment, paged, reply
from app.gateway.files import service
from app.gateway.files.sent import MULTIPART, Sent
from app.gateway.files.tables import File
from app.gateway.keyed import keyed
from app.queue import Db
from app.web import sentence

router = APIRouter(prefix=f"{PREFIX}/files", tags=["dashscope"])
Reader = Annotated[Principal, keyed("viewer", "datasets:read")]
Writer = Annotated[Principal, keyed("member", "datasets:write")]
GONE = "File not found."  # in these words: its clients look for them


def out(file: File) -> dict[str, Any]:
    return {
        "file_id": file.id,
        "name": file.file_name,
        "description": file.description,
        "size": file.bytes,
        "purpose": file.purpose,
        "md5": file.md5,
        "gmt_create": moment(file.created_at),
        "upload_time": moment(file.created_at),
        "url": f"{settings.url}/v1/files/{file.id}/content",
    }


def not_found() -> Invalid:
    """DashScope says 400 of a file that is not there."""
    return Invalid(GONE, code="InvalidParameter", field="file_id")


@router.post("", openapi_extra=MULTIPART)
def upload(request: Request, who: Writer, sent: Sent) -> dict[str, Any]:
    """One file or several, in fields called `files`; `purpose` is fine-tune if it is left out."""
    kept: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    refusal: DomainError | None = None
    for number, one in enumerate(sent.files):
        try:
            made = service.add(
                who,
                sent.directory / part(number),
                file_name=one["name"],
                purpose=sent.fields.get("purpose") or "fine-tune",
                description=sent.fields.get("descriptions", "")[:1000],
            )
            kept.append({"file_id": made.id, "name": made.file_name})
        except Invalid as error:
            refusal = error
            message = sentence(request, error)
            failed.append({"name": one["name"], "code": "InvalidParameter", "message": message})
    if refusal and not kept:
        raise refusal
    return reply(request, {"uploaded_files": kept, "failed_uploads": failed}, "data")


@router.get("")
def index(
    request: Request, who: Reader, db: Db, page_no: PageNo = 1, page_size: PageSize = 10
) -> dict[str, Any]:
    """The workspace's files, the newest first."""
    found, total = service.page(
        db, who.workspace_id, offset=(page_no - 1) * page_size, limit=page_size
    )
    data = paged("files", [out(one) for one in found], total, page_no, page_size)
    return reply(request, data, "data")


@router.get("/{file_id}")
def show(request: Request, file_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """One file."""
    try:
        return reply(request, out(service.get(db, who.workspace_id, file_id)), "data")
    except NotFound:
        raise not_found() from None


@router.delete("/{file_id}")
def delete(request: Request, file_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Delete a file. A dataset that it became stays."""
    try:
        service.remove(db, who.workspace_id, file_id)
    except NotFound:
        raise not_found() from None
    return {"request_id": request.state.request_id}
