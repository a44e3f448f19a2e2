"""The pages of deployments: the list, the form, a deployment and its live parts."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.deployments import service, view
from app.deployments.schemas import DeploymentCreate
from app.errors import DomainError
from app.models import service as models
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/deployments", include_in_schema=False)
PAGE = 50
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]


# -- the list ----------------------------------------------------------------------------


@router.get("", name="deployments:list")
def list_deployments(request: Request, who: Reader, db: Db, offset: Offset = 0) -> Response:
    return listing(request, who, db, offset)


@router.get("/rows", name="deployments:rows")
def rows(request: Request, who: Reader, db: Db, offset: Offset = 0) -> Response:
    """The table of the list alone; it asks for itself while something moves."""
    return listing(request, who, db, offset, block="rows")


def listing(
    request: Request, who: Principal, db: Db, offset: int, block: str | None = None
) -> Response:
    found, more = service.list_deployments(db, who.workspace_id, offset=offset, limit=PAGE)
    return render(
        request,
        "deployments/list.html",
        block=block,
        rows=view.rows(db, found),
        more=more,
        offset=offset,
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
def new(
    request: Request, who: Writer, db: Db, model: str = "", max_model_len: int | None = None
) -> Response:
    return form_page(request, who, db, {"model": model, "max_model_len": max_model_len})


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
    found, refused = view.planned(db, who.workspace_id, values)
    say = view.speaker(request)
    return render(
        request,
        "deployments/new.html",
        block=block,
        status=422 if form else 200,
        form=form,
        values=values,
        models=choices,
        chosen=chosen,
        plan=found,
        refused=say(refused.message, **refused.params) if refused else "",
        name=view.free_name(db, who.workspace_id, chosen.name) if chosen else "",
    )


# -- a deployment ------------------------------------------------------------------------


@router.get("/{deployment_id}", name="deployments:detail")
def detail(
    request: Request, deployment_id: str, who: Reader, db: Db, tab: str = "code"
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    context = view.detail(db, deployment, view.speaker(request))
    return render(request, "deployments/detail.html", tab=tab, **context)


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
