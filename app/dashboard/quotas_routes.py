"""Pages of quotas: the administrators' tables, and requests for more."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import PLATFORM, Principal, requires
from app.dashboard import quota_table
from app.errors import DomainError
from app.queue import Db
from app.quotas import asking
from app.quotas.kinds import ASKED, KINDS
from app.web import Parsed, parsed, redirect, render, sentence

router = APIRouter(include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "account")]
Member = Annotated[Principal, requires("member", "account")]
Leader = Annotated[Principal, requires("admin", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


class Table(BaseModel):
    """Cells as typed, `row:limit` each."""

    model_config = ConfigDict(extra="allow")


class AskForm(BaseModel):
    """Which limit, how much, until when, and why. Storage in GiB."""

    limit: str = Field(max_length=40)
    amount: str = Field(max_length=30)
    until: str = Field("", max_length=10)
    why: str = Field(min_length=1, max_length=2000)
    own: bool = False


class DecideForm(BaseModel):
    amount: str = Field("", max_length=30)
    until: str = Field("", max_length=10)
    answer: str = Field("", max_length=2000)


# -- tables ------------------------------------------------------------------------------


def workspace_table(
    request: Request, db: Db, who: Principal, q: str, offset: int, form: Any = None, **more: Any
) -> Response:
    shown: dict[str, Any] = {"errors": {}, "saved": False} | more
    found, has_more = quota_table.workspaces(db, q, offset)
    default = [] if q or offset else [(quota_table.DEFAULT, "")]
    return render(
        request,
        "dashboard/quotas.html",
        rows=quota_table.rows(db, default + found),
        kinds=list(KINDS.values()),
        members=False,
        q=q,
        offset=offset,
        has_more=has_more,
        waiting=asking.waiting_for(db, who),
        form=form,
        **shown,
    )


@router.get("/admin/quotas", name="quotas:table")
def table(
    request: Request, who: Admin, db: Db, q: str = "", offset: int = 0, saved: bool = False
) -> Response:
    return workspace_table(request, db, who, q, max(0, offset), saved=saved)


@router.post("/admin/quotas", name="quotas:save")
def save(
    request: Request,
    who: Admin,
    form: Annotated[Parsed[Table], parsed(Table)],
    db: Db,
    q: str = "",
    offset: int = 0,
) -> Response:
    found, _ = quota_table.workspaces(db, q, max(0, offset))
    errors = quota_table.save(db, [(quota_table.DEFAULT, ""), *found], form.values)
    if errors:
        said = {name: sentence(request, error) for name, error in errors.items()}
        return workspace_table(request, db, who, q, offset, form, errors=said, status=422)
    return redirect(request, f"/admin/quotas?saved=true&offset={max(0, offset)}")


def member_table(
    request: Request, db: Db, who: Principal, form: Any = None, **more: Any
) -> Response:
    shown: dict[str, Any] = {"errors": {}, "saved": False} | more
    found = quota_table.members(db, who.workspace_id)
    return render(
        request,
        "dashboard/quotas.html",
        rows=quota_table.rows(db, found, who.workspace_id),
        kinds=list(KINDS.values()),
        members=True,
        q="",
        offset=0,
        has_more=False,
        waiting=asking.waiting_for(db, who),
        form=form,
        **shown,
    )


@router.get("/usage/members", name="quotas:members")
def members(request: Request, who: Leader, db: Db, saved: bool = False) -> Response:
    return member_table(request, db, who, saved=saved)


@router.post("/usage/members", name="quotas:save_members")
def save_members(
    request: Request, who: Leader, form: Annotated[Parsed[Table], parsed(Table)], db: Db
) -> Response:
    found = quota_table.members(db, who.workspace_id)
    errors = quota_table.save(db, found, form.values, who.workspace_id)
    if errors:
        said = {name: sentence(request, error) for name, error in errors.items()}
        return member_table(request, db, who, form, errors=said, status=422)
    return redirect(request, "/usage/members?saved=true")


# -- requests for more -------------------------------------------------------------------


def requests_page(
    request: Request, db: Db, who: Principal, form: Any = None, state: str = "", **more: Any
) -> Response:
    shown: dict[str, Any] = {"wanted": "", "own": False, "decided": None} | more
    found, has_more = asking.listed(db, who, state=state, limit=100)
    return render(
        request,
        "dashboard/quota_requests.html",
        rows=found,
        kinds=ASKED,
        has_more=has_more,
        state=state,
        text_of=quota_table.text_of,
        form=form,
        status=422 if form else 200,
        **shown,
    )


@router.get("/usage/requests", name="quotas:requests")
def requests(
    request: Request, who: Reader, db: Db, state: str = "", limit: str = "", own: bool = False
) -> Response:
    """`limit` and `own`: what was refused, where somebody comes from there."""
    return requests_page(request, db, who, state=state, wanted=limit, own=own)


@router.post("/usage/requests", name="quotas:ask")
def ask(
    request: Request, who: Member, form: Annotated[Parsed[AskForm], parsed(AskForm)], db: Db
) -> Response:
    if form.data is None:
        return requests_page(request, db, who, form)
    try:
        kind = ASKED[form.data.limit if form.data.limit in ASKED else "devices"]
        amount = quota_table.read(kind, form.data.amount)
        asking.ask(
            db,
            who,
            name=kind.name,
            amount=kind.most if amount in (None, "inherit") else amount,
            why=form.data.why,
            until=quota_table.end_of(form.data.until),
            own=form.data.own,
        )
    except DomainError as error:
        form.refuse(error)
        return requests_page(request, db, who, form)
    return redirect(request, "quotas:requests")


@router.post("/usage/requests/{quota_request_id}/approve", name="quotas:approve")
def approve(
    request: Request,
    quota_request_id: str,
    who: Leader,
    form: Annotated[Parsed[DecideForm], parsed(DecideForm)],
    db: Db,
) -> Response:
    row = asking.get(db, who, quota_request_id)
    said = form.data or DecideForm()
    try:
        amount = quota_table.read(ASKED[row.name], said.amount) if said.amount else None
        until = quota_table.end_of(said.until)
        asking.approve(db, who, row.id, amount, until, said.answer)
    except DomainError as error:
        form.refuse(error)
        return requests_page(request, db, who, form, decided=row.id)
    return redirect(request, "quotas:requests")


@router.post("/usage/requests/{quota_request_id}/refuse", name="quotas:refuse")
def refuse(
    request: Request,
    quota_request_id: str,
    who: Leader,
    form: Annotated[Parsed[DecideForm], parsed(DecideForm)],
    db: Db,
) -> Response:
    row = asking.get(db, who, quota_request_id)
    try:
        asking.refuse(db, who, row.id, form.data.answer if form.data else "")
    except DomainError as error:
        form.refuse(error)
        return requests_page(request, db, who, form, decided=row.id)
    return redirect(request, "quotas:requests")


@router.post("/usage/requests/{quota_request_id}/withdraw", name="quotas:withdraw")
def withdraw(request: Request, quota_request_id: str, who: Member, db: Db) -> Response:
    asking.withdraw(db, who, quota_request_id)
    return redirect(request, "quotas:requests")
