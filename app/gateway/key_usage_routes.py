"""A fragment of the pages of API keys: what is used of a key's limits."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts import keys
from app.accounts.auth import Principal, requires
from app.gateway import key_usage
from app.queue import Db
from app.web import render

router = APIRouter(include_in_schema=False)


@router.get("/keys/{key_id}/usage", name="usage:of_key")
def usage(
    request: Request, key_id: str, who: Annotated[Principal, requires("viewer", "account")], db: Db
) -> Response:
    lines = key_usage.of_key(db, keys.get_api_key(db, who, key_id))
    return render(request, "gateway/key_usage.html", lines=lines)
