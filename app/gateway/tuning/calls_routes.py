"""What calls of tuned models do that are not deployed: on the page of deployments."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts.auth import Principal, requires
from app.gateway.tuning import calls
from app.gateway.tuning.schemas import TunedCalls
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/tuned-calls", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Admin = Annotated[Principal, requires("admin", "deployments:write")]


@router.get("", name="tuned_calls:show")
def show(request: Request, who: Reader, db: Db) -> Response:
    return render(
        request,
        "gateway/tuned_calls.html",
        mode=calls.mode(db, who.workspace_id),
        minutes=calls.IDLE_MINUTES,
    )


@router.post("", name="tuned_calls:change")
def change(
    request: Request, form: Annotated[Parsed[TunedCalls], parsed(TunedCalls)], who: Admin, db: Db
) -> Response:
    if form.data:
        calls.change(db, who.workspace_id, form.data.mode)
    return redirect(request, "deployments:list")
