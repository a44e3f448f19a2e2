"""The pages of deployments: the list, the form, a deployment and its live parts."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.deployments import editing, forms, service, view
from app.deployments.revisions import current
from app.deployments.schemas import (
    DeploymentCreate,
    Filters,
    Fix,
    Rollback,
    Scale,
    Schedule,
    Wishes,
)
from app.deployments.states import MOVES
from app.deployments.tables import Deployment
from app.errors import DomainError
from app.jobs import priorities
from app.jobs.schemas import PriorityChange
from app.models import service as models
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/deployments", include_in_schema=False)
PAGE = 50
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]
Asked = Annotated[Filters, Query()]


# -- the list ----------------------------------------------------------------------------


@router.get("", name="deployments:list")
def list_deployments(request: Request, who: Reader, db: Db, asked: Asked) -> Response:
    return listing(request, who, db, asked)


@router.get("/rows", name="deployments:rows")
def rows(request: Request, who: Reader, db: Db, asked: Asked) -> Response:
    """The table of the list alone; it asks for itself while something moves."""
    return listing(request, who, db, asked, block="rows")


def listing(
    request: Request, who: Principal, db: Db, asked: Filters, block: str | None = None
) -> Response:
    state = asked.state if asked.state in MOVES else ""
    found, more = service.list_deployments(
        db, who.workspace_id, q=asked.q.strip(), state=state, offset=asked.offset, limit=PAGE
    )
    return render(
        request,
        "deployments/list.html",
        block=block,
        rows=view.rows(db, found),
        more=more,
        asked=asked,
        state=state,
        states=list(MOVES),
        size=PAGE,
    )


@router.get("/using/{model_id}", name="deployments:using")
def using(request: Request, model_id: str, who: Reader, db: Db) -> Response:
    """The deployments that serve a model, for the model's page."""
    models.get(db, who.workspace_id, model_id)  # a foreign one is not found
    found, more = service.list_deployments(db, who.workspace_id, model_id=model_id, limit=20)
    return render(request, "deployments/using.html", rows=view.rows(db, found), more=more)


# -- the form ----------------------------------------------------------------------------


@router.get("/new", name="deployments:new")
def new(request: Request, who: Writer, db: Db) -> Response:
    return form_page(request, who, db, forms.applied(request.query_params))


@router.get("/plan", name="deployments:plan")
def plan(request: Request, who: Writer, db: Db) -> Response:
    """What the form asks for, as it would be served; renewed while one chooses."""
    return form_page(request, who, db, dict(request.query_params), block="plan")


@router.post("", name="deployments:create")
def create(
    request: Request,
    form: Annotated[Parsed[DeploymentCreate], parsed(DeploymentCreate)],
    who: Writer,
    db: Db,
) -> Response:
    if form.data:
        try:
            made = service.create(db, who, form.data)
            return redirect(request, "deployments:detail", deployment_id=made.id)
        except DomainError as error:
            db.rollback()
            form.refuse(error)
    return form_page(request, who, db, dict(form.values), form)


def form_page(
    request: Request,
    who: Principal,
    db: Db,
    values: dict[str, Any],
    form: Parsed[DeploymentCreate] | None = None,
    block: str | None = None,
) -> Response:
    choices = models.visible(db, who.workspace_id)
    chosen = next((one for one in choices if values.get("model") in (one.id, one.name)), None)
    found = forms.thought(db, who.workspace_id, values)
    return render(
        request,
        "deployments/new.html",
        block=block,
        status=422 if form else 200,
        form=form,
        values=values,
        models=choices,
        chosen=chosen,
        thought=found,
        priorities=priorities.allowed(db, who),
        name=values.get("name")
        or (view.free_name(db, who.workspace_id, chosen.name) if chosen else ""),
        **forms.choices(db),
    )


# -- a deployment ------------------------------------------------------------------------


@router.get("/{deployment_id}", name="deployments:detail")
def detail(
    request: Request, deployment_id: str, who: Reader, db: Db, tab: str = "code"
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    if "fix" in request.query_params:  # what the pressed button changes, in the form
        values = forms.applied(request.query_params)
        return page(request, db, deployment, "settings", values=values)
    return page(request, db, deployment, tab)


def page(
    request: Request,
    db: Session,
    deployment: Deployment,
    tab: str,
    *,
    values: Mapping[str, Any] | None = None,
    form: Parsed[Any] | None = None,
    of: str = "",
) -> Response:
    """A deployment's page; `values` are what stands in its form, by default the settings. `form`
    is one that was refused, `of` which: edit, scale, priority or schedule.
    """
    say = view.speaker(request)
    context = view.detail(db, deployment, say)
    if tab == "settings":
        context |= view.settings(db, deployment, say)
        context |= edited(db, deployment, values or forms.typed(current(deployment)))
        context["priorities"] = priorities.allowed(db, request.state.who)
    return render(
        request,
        "deployments/detail.html",
        status=422 if form else 200,
        tab=tab,
        refused_forms={of: form},
        **context,
    )


def edited(db: Session, deployment: Deployment, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the form of a deployment's settings shows."""
    found = forms.rethought(db, deployment, values)
    return {"values": values, "thought": found} | forms.choices(db)


@router.get("/{deployment_id}/live", name="deployments:live")
def live(request: Request, deployment_id: str, who: Reader, db: Db) -> Response:
    """The card with the state; it asks for itself."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    replicas = service.replicas(db, [deployment])[deployment.id]
    context = view.live(db, deployment, replicas, view.speaker(request))
    return render(request, "deployments/detail.html", block="live", tab="", **context)


@router.post("/{deployment_id}/stop", name="deployments:stop")
def stop(request: Request, deployment_id: str, who: Writer, db: Db) -> Response:
    service.stop(db, who.workspace_id, deployment_id)
    return redirect(request, "deployments:detail", deployment_id=deployment_id)


@router.post("/{deployment_id}/start", name="deployments:start")
def start(request: Request, deployment_id: str, who: Writer, db: Db) -> Response:
    service.start(db, who.workspace_id, deployment_id)
    return redirect(request, "deployments:detail", deployment_id=deployment_id)


@router.post("/{deployment_id}/delete", name="deployments:delete")
def delete(request: Request, deployment_id: str, who: Writer, db: Db) -> Response:
    service.delete(db, who.workspace_id, deployment_id)
    return redirect(request, "deployments:list")


# -- its settings ------------------------------------------------------------------------


@router.get("/{deployment_id}/check", name="deployments:check")
def check(request: Request, deployment_id: str, who: Writer, db: Db) -> Response:
    """Whether the settings in the form would fit; renewed while one types."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    return render(
        request,
        "deployments/_plan.html",
        deployment=deployment,
        **edited(db, deployment, dict(request.query_params)),
    )


@router.post("/{deployment_id}/edit", name="deployments:edit")
def edit(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[Wishes], parsed(Wishes)],
    who: Writer,
    db: Db,
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    if form.carried_out(db, lambda said: editing.edit(db, who, deployment_id, said.model_dump())):
        return redirect(request, "deployments:detail", deployment_id=deployment_id)
    values = dict(form.values)
    return page(request, db, deployment, "settings", values=values, form=form, of="edit")


@router.post("/{deployment_id}/fix", name="deployments:fix")
def fix(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[Fix], parsed(Fix)],
    who: Writer,
    db: Db,
) -> Response:
    """The one click that an error offers."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    if not form.data:
        return page(request, db, deployment, "settings", form=form)
    editing.fix(db, who, deployment_id, form.data.changes(), form.data.revision)
    return redirect(request, "deployments:detail", deployment_id=deployment_id)


@router.post("/{deployment_id}/scale", name="deployments:scale")
def scale(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[Scale], parsed(Scale)],
    who: Writer,
    db: Db,
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    here = who.workspace_id
    if form.carried_out(db, lambda said: editing.scale(db, here, deployment_id, said.replicas)):
        return redirect(request, "deployments:detail", deployment_id=deployment_id)
    return page(request, db, deployment, "settings", form=form, of="scale")


@router.post("/{deployment_id}/priority", name="deployments:priority")
def prioritise(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[PriorityChange], parsed(PriorityChange)],
    who: Writer,
    db: Db,
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    if form.carried_out(db, lambda said: editing.prioritise(db, who, deployment_id, said.priority)):
        return redirect(request, f"/deployments/{deployment_id}?tab=settings")
    return page(request, db, deployment, "settings", form=form, of="priority")


@router.post("/{deployment_id}/rollback", name="deployments:rollback")
def rollback(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[Rollback], parsed(Rollback)],
    who: Writer,
    db: Db,
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    if form.data:
        editing.rollback(db, who, deployment_id, form.data.revision)
        return redirect(request, "deployments:detail", deployment_id=deployment_id)
    return page(request, db, deployment, "settings", form=form)


@router.post("/{deployment_id}/schedule", name="deployments:schedule")
def schedule(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[Schedule], parsed(Schedule)],
    who: Writer,
    db: Db,
) -> Response:
    """All rows empty: no schedule any more."""
    deployment = service.get(db, who.workspace_id, deployment_id)

    def put(said: Schedule) -> None:
        windows = [window.model_dump() for window in said.windows]
        wanted = (said.timezone, windows) if windows else None
        editing.schedule(db, who.workspace_id, deployment_id, wanted)

    if form.carried_out(db, put):
        return redirect(request, f"/deployments/{deployment_id}?tab=settings")
    return page(request, db, deployment, "settings", form=form, of="schedule")
