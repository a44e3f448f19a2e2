"""Home, the platform admins' pages, and the API reference."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.schemas import WorkspaceCreate
from app.cluster import fair
from app.cluster.schemas import PRIORITIES, ShareForm
from app.dashboard import openapi, overview, reference, service
from app.dashboard.schemas import PriceForm, QuotaForm
from app.errors import DomainError
from app.queue import Db
from app.quotas import prices, spending
from app.quotas import service as quotas
from app.web import Parsed, address, is_htmx, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Who = Annotated[Principal, requires("viewer", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/", name="dashboard:home")
def home(request: Request, who: Who, db: Db) -> Response:
    return render(request, "dashboard/home.html", home=service.home(db, who))


@router.get("/now", name="dashboard:now")
def running_now(request: Request, who: Who, db: Db) -> Response:
    """The home page's list of what runs, which asks for itself while something does."""
    return render(request, "dashboard/home.html", block="now", home=service.home(db, who))


@router.get("/meter", name="dashboard:meter")
def meter(request: Request, who: Who, db: Db) -> Response:
    """The top bar's quota meter, and above the page what is nearly used up."""
    found = service.meter(db, who.workspace_id)
    seen = request.cookies.get("danlu_quota_seen", "").split(".")
    near = spending.near(db, who.workspace_id, who.user_id)
    return render(request, "dashboard/meter.html", meter=found, near=near, seen=seen)


@router.get("/api", name="dashboard:reference")
def api_reference(request: Request, _: Who) -> Response:
    groups = reference.groups(openapi.describe(request.app))
    return render(request, "dashboard/reference.html", groups=groups)


# -- for platform admins -----------------------------------------------------------------


@router.get("/admin", name="dashboard:admin")
def admin(request: Request, _: Admin, db: Db) -> Response:
    return render(request, "dashboard/admin.html", admin=overview.overview(db))


@router.get("/admin/live", name="dashboard:admin_live")
def admin_live(request: Request, _: Admin, db: Db) -> Response:
    """All of the overview, which asks for itself every few seconds."""
    return render(request, "dashboard/admin.html", block="live", admin=overview.overview(db))


@router.get("/admin/lists", name="dashboard:lists")
def admin_list(
    request: Request,
    _: Admin,
    db: Db,
    show: Literal["waiting", "use", "failed", "idle"] = "waiting",
) -> Response:
    """One of the overview's lists, whole."""
    return render(request, "dashboard/admin_list.html", name=show, **overview.listed(db, show))


def workspaces_page(
    request: Request,
    db: Db,
    form: Parsed[WorkspaceCreate] | None = None,
    price_form: Parsed[PriceForm] | None = None,
) -> Response:
    return render(
        request,
        "dashboard/workspaces.html",
        form=form,
        price_form=price_form,
        rows=service.limits(db),
        prices=service.price_list(db),
        status=422 if form or price_form else 200,
    )


@router.get("/admin/workspaces", name="dashboard:workspaces")
def workspaces(request: Request, _: Admin, db: Db) -> Response:
    return workspaces_page(request, db)


@router.post("/admin/workspaces", name="dashboard:create_workspace")
def create_workspace(
    request: Request,
    who: Admin,
    form: Annotated[Parsed[WorkspaceCreate], parsed(WorkspaceCreate)],
    db: Db,
) -> Response:
    if form.data is None:
        return workspaces_page(request, db, form)
    try:
        owner = accounts.user_by_email(db, form.data.owner or who.email)
        accounts.create_workspace(db, name=form.data.name, owner=owner)
    except DomainError as error:
        form.refuse(error)
        return workspaces_page(request, db, form)
    return redirect(request, "dashboard:workspaces")


@router.post("/admin/workspaces/{workspace_id}/quota", name="dashboard:quota")
def put_quota(
    request: Request,
    workspace_id: str,
    _: Admin,
    form: Annotated[Parsed[QuotaForm], parsed(QuotaForm)],
    db: Db,
) -> Response:
    """One row of the table for htmx, which put the number in place; else the page again."""
    accounts.get_workspace(db, workspace_id)
    if form.data:
        quotas.put(db, workspace_id, form.data.devices)
    return limit_row(request, db, workspace_id, form=form)


@router.post("/admin/workspaces/{workspace_id}/share", name="dashboard:share")
def put_share(
    request: Request,
    workspace_id: str,
    _: Admin,
    form: Annotated[Parsed[ShareForm], parsed(ShareForm)],
    db: Db,
) -> Response:
    """The same of what it is due."""
    accounts.get_workspace(db, workspace_id)
    if form.data:
        fair.put(db, workspace_id, form.data.weight, PRIORITIES.index(form.data.priority))
    return limit_row(request, db, workspace_id, share_form=form)


def limit_row(
    request: Request,
    db: Session,
    workspace_id: str,
    *,
    form: Parsed[QuotaForm] | None = None,
    share_form: Parsed[ShareForm] | None = None,
) -> Response:
    """The row of a workspace of which something was put."""
    done = bool((form and form.data) or (share_form and share_form.data))
    if done and not is_htmx(request):
        return redirect(request, "dashboard:workspaces")
    return render(
        request,
        "dashboard/quota.html",
        row=service.limit_of(db, workspace_id),
        form=form,
        share_form=share_form,
        status=200 if done else 422,
    )


@router.post("/admin/prices", name="dashboard:price")
def put_price(
    request: Request, _: Admin, form: Annotated[Parsed[PriceForm], parsed(PriceForm)], db: Db
) -> Response:
    if form.data is None:
        return workspaces_page(request, db, price_form=form)
    prices.put(db, form.data.device, form.data.hour, form.data.currency)
    return redirect(request, f"{address(request.app, 'dashboard:workspaces')}#prices")
