"""Uploads in pieces as JSON: announce a file, send it, ask how far it is.

Then `POST /api/v1/datasets` or `POST /api/v1/models` with `{name, uploads: [id]}` uses it.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app import failures
from app.accounts.auth import Principal, requires
from app.paging import After, Limit, page
from app.queue import Db
from app.uploads import service
from app.uploads.pieces import Appended
from app.uploads.tables import Upload

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"])
Writer = Annotated[Principal, requires("member", "datasets:write")]

PIECE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Upload-Offset",
            "in": "header",
            "required": True,
            "description": "Where the piece begins: as many bytes as the server has",
            "schema": {"type": "integer"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}


class Announced(BaseModel):
    """A file that is going to be sent in pieces."""

    file_name: str = Field(max_length=1000, description="For display")
    size: int = Field(ge=1, le=10**15, description="Bytes")


class UploadOut(BaseModel):
    """A file on its way, or complete and not used yet."""

    id: str
    file_name: str
    size: int = Field(description="Bytes, as announced")
    offset: int = Field(description="Bytes that are here; the next piece begins there")
    created_at: datetime


class UploadList(BaseModel):
    """Uploads that are not used yet, the newest first."""

    data: list[UploadOut]
    has_more: bool


@router.post("", status_code=201)
def begin(response: Response, body: Announced, who: Writer, db: Db) -> UploadOut:
    """Announce a file. Send it with PATCH, in one piece or many; it waits a day for the next."""
    return out(response, service.begin(db, who, body.file_name, body.size), 0)


@router.get("")
def index(
    response: Response, who: Writer, db: Db, after: After = "", limit: Limit = 100
) -> UploadList:
    """The uploads of the workspace that are not used yet."""
    found, more = page(service.unfinished(db, who), after, limit)
    data = [out(response, one, service.offset(one.id)) for one in found]
    return UploadList(data=data, has_more=more)


@router.get("/{upload_id}")
def show(response: Response, upload_id: str, who: Writer, db: Db) -> UploadOut:
    """How far it is: where the next piece begins."""
    return out(response, service.find(db, who, upload_id), service.offset(upload_id))


@router.head("/{upload_id}", include_in_schema=False)
def head(upload_id: str, who: Writer, db: Db) -> Response:
    response = Response()
    out(response, service.find(db, who, upload_id), service.offset(upload_id))
    return response


@router.patch(
    "/{upload_id}",  # noqa: FAST003 - `Appended` takes it
    response_model=UploadOut,
    openapi_extra=PIECE,
    dependencies=[requires("member", "datasets:write")],
)
def append(request: Request, response: Response, piece: Appended) -> UploadOut | Response:
    """Send the next piece, as the raw body. 409 and Upload-Offset if it begins elsewhere."""
    if piece.error is None:
        return out(response, piece.upload, piece.offset)
    refused = failures.respond(request, piece.error)
    out(refused, piece.upload, piece.offset)
    return refused


@router.delete("/{upload_id}", status_code=204)
def delete(upload_id: str, who: Writer, db: Db) -> None:
    """Cancel it."""
    service.remove(db, service.find(db, who, upload_id))


def out(response: Response, upload: Upload, offset: int) -> UploadOut:
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Length"] = str(upload.size)
    return UploadOut(
        id=upload.id,
        file_name=upload.file_name,
        size=upload.size,
        offset=offset,
        created_at=upload.created_at,
    )
