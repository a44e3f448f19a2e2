"""`/v1/files` and `/v1/uploads`, as OpenAI's clients expect them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from app.accounts.auth import Principal
from app.errors import N_, Invalid
from app.gateway.files import service, uploads
from app.gateway.files.sent import MULTIPART, Sent
from app.gateway.files.tables import File, FileUpload
from app.gateway.keyed import keyed
from app.queue import Db, transaction
from app.web import translate

router = APIRouter(prefix="/v1", tags=["files"])
Reader = Annotated[Principal, keyed("viewer", "datasets:read")]
Writer = Annotated[Principal, keyed("member", "datasets:write")]


class ExpiresAfter(BaseModel):
    """How long a file is kept."""

    anchor: Literal["created_at"]
    seconds: int


class UploadCreate(BaseModel):
    """A file that is going to come in parts."""

    bytes: int = Field(ge=1, le=10**15)
    filename: str = Field(min_length=1, max_length=1000)
    mime_type: str = Field(max_length=200)
    purpose: str = Field(max_length=100)
    expires_after: ExpiresAfter | None = None


class UploadComplete(BaseModel):
    """The parts in their order."""

    part_ids: list[str] = Field(max_length=10_000)
    md5: str | None = Field(None, max_length=100)


def out(request: Request, file: File) -> dict[str, Any]:
    error = file.error
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.file_name,
        "purpose": file.purpose,
        "status": "error" if error else "processed",
        "status_details": translate(request, error["message"], **error["params"])
        if error
        else None,
    }


# -- files -------------------------------------------------------------------------------


@router.post("/files", openapi_extra=MULTIPART)
def create_file(request: Request, who: Writer, sent: Sent) -> dict[str, Any]:
    """Upload a file: `file`, and its `purpose`, fine-tune or batch."""
    if len(sent.files) != 1:
        raise Invalid(
            N_("Send one file, in a field called “file”."), code="invalid_value", field="file"
        )
    purpose = sent.fields.get("purpose", "")
    service.check_purpose(purpose)
    service.check_name(sent.file_name, purpose)
    return out(
        request,
        service.add(
            who,
            sent.path,
            file_name=sent.file_name,
            purpose=purpose,
            seconds=seconds_of(sent.fields),
        ),
    )


def seconds_of(fields: dict[str, str]) -> int | None:
    """`expires_after[anchor]` and `expires_after[seconds]` of a form."""
    anchor, seconds = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not (seconds or "").isdecimal() or len(seconds or "") > 9:
        raise Invalid(
            N_("expires_after has an anchor, which is created_at, and seconds."),
            code="invalid_value",
            field="expires_after",
        )
    return int(seconds or "")


def page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A list as OpenAI has it, whose clients go on behind `last_id`."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


@router.get("/files")
def list_files(
    request: Request,
    who: Reader,
    db: Db,
    after: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str, Query(max_length=100)] = "",
) -> dict[str, Any]:
    """The workspace's files, the newest first unless `order` is asc."""
    found, more = service.listed(
        db, who.workspace_id, after=after, limit=limit, order=order, purpose=purpose
    )
    return page([out(request, one) for one in found], more)


@router.get("/files/{file_id}")
def get_file(request: Request, file_id: str, who: Reader, db: Db) -> dict[str, Any]:
    """One file, without its content."""
    return out(request, service.get(db, who.workspace_id, file_id))


@router.delete("/files/{file_id}")
def delete_file(file_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """A dataset that it became stays, and so do jobs."""
    gone = service.remove(db, who.workspace_id, file_id)
    return {"id": gone.id, "object": "file", "deleted": True}


@router.get("/files/{file_id}/content", response_class=FileResponse)
def get_content(file_id: str, who: Reader) -> FileResponse:
    """The bytes of a file."""
    with transaction() as db:  # over before the first byte is sent
        file = service.get(db, who.workspace_id, file_id)
    return FileResponse(
        service.path(file), media_type="application/octet-stream", filename=file.file_name
    )


# -- uploads in parts --------------------------------------------------------------------


def upload_out(request: Request, one: FileUpload, file: File | None = None) -> dict[str, Any]:
    return {
        "id": one.id,
        "object": "upload",
        "bytes": one.bytes,
        "created_at": int(one.created_at.timestamp()),
        "expires_at": int(one.expires_at.timestamp()),
        "filename": one.file_name,
        "purpose": one.purpose,
        "status": one.status,
        "file": out(request, file) if file else None,
    }


@router.post("/uploads")
def create_upload(request: Request, body: UploadCreate, who: Writer, db: Db) -> dict[str, Any]:
    """Announce a file that comes in parts, within an hour."""
    made = uploads.create(
        db,
        who,
        file_name=body.filename,
        purpose=body.purpose,
        mime_type=body.mime_type,
        size=body.bytes,
        seconds=body.expires_after.seconds if body.expires_after else None,
    )
    return upload_out(request, made)


@router.post("/uploads/{incoming_id}/parts", openapi_extra=MULTIPART)
def add_part(incoming_id: str, who: Writer, sent: Sent) -> dict[str, Any]:
    """One part of at most 64 MB, in a field called `data`."""
    part = uploads.add_part(who, incoming_id, sent)
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": incoming_id,
    }


@router.post("/uploads/{incoming_id}/complete")
def complete_upload(
    request: Request, incoming_id: str, body: UploadComplete, who: Writer
) -> dict[str, Any]:
    """Join the parts in the order in which they are named here; `md5` is checked if it is given."""
    one, file = uploads.complete(who, incoming_id, body.part_ids, body.md5)
    return upload_out(request, one, file)


@router.post("/uploads/{incoming_id}/cancel")
def cancel_upload(request: Request, incoming_id: str, who: Writer, db: Db) -> dict[str, Any]:
    """Let go of an upload and its parts."""
    return upload_out(request, uploads.cancel(db, who, incoming_id))
