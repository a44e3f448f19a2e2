"""Pages: a token for a new machine, and taking one away."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts.auth import PLATFORM, Principal, requires
from app.errors import DomainError
from app.nodework import joining
from app.nodework.schemas import TokenForm
from app.queue import Db
from app.web import Parsed, address, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


def page(
    request: Request,
    form: Parsed[TokenForm] | None = None,
    made: joining.Token | None = None,
    status: int = 200,
) -> Response:
    return render(request, "nodes/join.html", form=form, made=made, status=status)


@router.get("/admin/nodes/join", name="nodes:join")
def join(request: Request, _: Admin) -> Response:
    return page(request)


@router.post("/admin/nodes/join", name="nodes:invite")
def invite(
    request: Request, who: Admin, form: Annotated[Parsed[TokenForm], parsed(TokenForm)], db: Db
) -> Response:
    if form.data is None:
        return page(request, form, status=422)
    try:
        made = joining.invite(db, who, form.data.node, form.data.minutes)
    except DomainError as error:
        form.refuse(error)
        return page(request, form, status=error.status)
    return page(request, form, made)


@router.post("/admin/nodes/{node_id}/remove", name="nodes:remove")
def remove(request: Request, node_id: str, _: Admin, db: Db) -> Response:
    joining.remove(db, node_id)
    return redirect(request, address(request.app, "dashboard:devices"))
