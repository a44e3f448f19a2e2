"""Pages: the audit log, for the platform's admins and for a workspace's own."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.accounts import audit_list, signin
from app.accounts.audit_list import Paged
from app.accounts.auth import PLATFORM, Principal, requires
from app.queue import Db
from app.web import render

router = APIRouter(include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Manager = Annotated[Principal, requires("admin", "account")]


@router.get("/admin/audit", name="audit:all")
def read_all(request: Request, _: Admin, db: Db) -> Response:
    return page(request, db, None)


@router.get("/workspace/audit", name="audit:own")
def read_own(request: Request, who: Manager, db: Db) -> Response:
    return page(request, db, who.workspace_id)


def wanted_by(request: Request) -> Paged:
    """The filter in the address; what is not understood is left out."""
    query = request.query_params
    given = {name: query[name] for name in Paged.model_fields if query.get(name)}
    try:
        return Paged.model_validate(given)
    except ValidationError as error:
        wrong = {one["loc"][0] for one in error.errors()}
        return Paged.model_validate({name: given[name] for name in given.keys() - wrong})


def page(request: Request, db: Session, workspace_id: str | None) -> Response:
    wanted = wanted_by(request)
    found, more = audit_list.entries(db, workspace_id, wanted, wanted.after, wanted.limit)
    return render(
        request,
        "audit/list.html",
        found=found,
        more=more,
        asked=wanted,
        whole=workspace_id is None,
        names=audit_list.names(db, found),
        differences=audit_list.differences,
        browser=signin.browser,
    )
