"""Pages of money: a workspace's usage and costs; for platform admins balances, prices, free quotas."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.tables import Workspace
from app.dashboard import standing, statements, tariffs, usage_api
from app.dashboard.statements import By
from app.errors import DomainError
from app.queue import Db
from app.quotas import accounts, free, prices, service
from app.web import Parsed, address, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "account")]
Leader = Annotated[Principal, requires("admin", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Amount = Annotated[Decimal | None, Field(ge=0, lt=10**6, max_digits=14, decimal_places=8)]


class Strict(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)


class TopUpForm(Strict):
    workspace: str = Field(max_length=100)
    amount: Decimal = Field(gt=-(10**12), lt=10**12, max_digits=18, decimal_places=6)
    currency: str = Field("CNY", min_length=1, max_length=8)
    note: str = Field("", max_length=500)


class PriceForm(Strict):
    """Of 1,000 tokens; empty leaves a price as it is, 0 makes it free."""

    model: str = Field("", max_length=200)
    input: Amount = None
    cached: Amount = None
    output: Amount = None
    trained: Amount = None
    currency: str = Field("CNY", min_length=1, max_length=8)
    first_day: date | None = None


class FreeForm(Strict):
    model: str = Field(max_length=200)
    workspace: str = Field("", max_length=100)
    kind: Literal["tokens", "device"] = "tokens"
    amount: int = Field(gt=0, le=10**15)
    last_day: date


class StopForm(Strict):
    model: str = Field(max_length=200)
    stop: bool = False


# -- a workspace's -----------------------------------------------------------------------


@router.get("/usage", name="money:usage")
def usage(
    request: Request, who: Reader, db: Db, month: str = "", by: By = "item", workspace: str = ""
) -> Response:
    """Members see what they used, admins all of it."""
    found = usage_api.found(db, who, workspace, month, by)
    own = not (who.is_platform_admin or who.may("admin"))
    return render(
        request,
        "dashboard/usage.html",
        statement=found,
        bys=statements.LABELS,
        own=own,
        elsewhere=workspace,
        balances=accounts.of(db, found.workspace.id),
        limits=standing.of(db, found.workspace.id),
        mine=[one for one in standing.of(db, found.workspace.id, who.user_id) if one.limit],
        free=tariffs.free_of(db, found.workspace.id),
        top_ups=accounts.top_ups(db, found.workspace.id, limit=10)[0],
    )


@router.get("/usage/statement.csv", name="money:csv")
def statement_csv(
    request: Request, who: Reader, db: Db, month: str = "", by: By = "item", workspace: str = ""
) -> Response:
    return usage_api.statement_csv(request, who, db, month, by, workspace)


@router.post("/usage/free", name="money:stop")
def stop(
    request: Request, who: Leader, form: Annotated[Parsed[StopForm], parsed(StopForm)], db: Db
) -> Response:
    """Whether calls of a model stop when its free quota is used up."""
    if form.data:
        model = tariffs.refuse_unknown(db, who.workspace_id, form.data.model)
        free.stop(db, who.workspace_id, model, form.data.stop)
    return redirect(request, f"{address(request.app, 'money:usage')}#free")


# -- for platform admins -----------------------------------------------------------------


def money_page(request: Request, db: Db, **forms: Any) -> Response:
    spaces = db.execute(select(Workspace.id, Workspace.name).order_by(Workspace.name)).all()
    names = {one.id: one.name for one in spaces}
    given: dict[str, Any] = {"top_up_form": None, "price_form": None, "free_form": None} | forms
    return render(
        request,
        "dashboard/money.html",
        spaces=spaces,
        names=names,
        balances=[one for space in names for one in accounts.of(db, space)],
        tariffs=tariffs.listed(db),
        hours=prices.all_of(db),
        free=tariffs.free_list(db),
        shown=free.shown,
        status=422 if forms else 200,
        **given,
    )


@router.get("/admin/money", name="money:admin")
def money(request: Request, _: Admin, db: Db) -> Response:
    return money_page(request, db)


@router.post("/admin/money/top-ups", name="money:top_up")
def top_up(
    request: Request, who: Admin, form: Annotated[Parsed[TopUpForm], parsed(TopUpForm)], db: Db
) -> Response:
    try:
        if form.data:
            space = service.workspace(db, who, form.data.workspace)
            said = form.data
            accounts.top_up(db, who, space.id, said.amount, said.currency, said.note)
    except DomainError as error:
        form.refuse(error)
    if form.errors:
        return money_page(request, db, top_up_form=form)
    return redirect(request, "money:admin")


@router.post("/admin/money/prices", name="money:price")
def put_price(
    request: Request, who: Admin, form: Annotated[Parsed[PriceForm], parsed(PriceForm)], db: Db
) -> Response:
    try:
        if form.data:
            said = form.data
            given = {kind: getattr(said, kind) for kind in prices.TOKENS}
            amounts = {kind: one for kind, one in given.items() if one is not None}
            tariffs.change(db, who, said.model, amounts, said.currency, said.first_day)
    except DomainError as error:
        form.refuse(error)
    if form.errors:
        return money_page(request, db, price_form=form)
    return redirect(request, f"{address(request.app, 'money:admin')}#prices")


@router.post("/admin/money/free", name="money:free")
def give_free(
    request: Request, who: Admin, form: Annotated[Parsed[FreeForm], parsed(FreeForm)], db: Db
) -> Response:
    try:
        if said := form.data:
            space = service.workspace(db, who, said.workspace).id if said.workspace else None
            model = tariffs.model_id(db, who, said.model)
            free.give(db, model, space, said.kind, said.amount, said.last_day)
    except DomainError as error:
        form.refuse(error)
    if form.errors:
        return money_page(request, db, free_form=form)
    return redirect(request, f"{address(request.app, 'money:admin')}#free")


@router.post("/admin/money/free/{free_id}/delete", name="money:delete_free")
def delete_free(request: Request, free_id: str, _: Admin, db: Db) -> Response:
    free.take_back(db, free_id)
    return redirect(request, f"{address(request.app, 'money:admin')}#free")
