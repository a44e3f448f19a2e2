"""The tab of a deployment's adapters."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import Principal, requires
from app.deployments import adapters, service, view
from app.deployments.answers import spoken
from app.deployments.schemas import NAME
from app.deployments.tables import Deployment
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/deployments", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


class AdapterForm(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=63, pattern=NAME)
    model: str = Field(min_length=1, max_length=200)


@router.get("/{deployment_id}/adapters", name="deployments:adapters")
def board(request: Request, deployment_id: str, who: Reader, db: Db) -> Response:
    """What the engines carry; it asks for itself."""
    return fragment(request, who, db, service.get(db, who.workspace_id, deployment_id))


def fragment(
    request: Request,
    who: Principal,
    db: Db,
    deployment: Deployment,
    form: Parsed[AdapterForm] | None = None,
) -> Response:
    say = view.speaker(request)
    found = adapters.listed(db, deployment)
    choices = adapters.choices(db, deployment) if who.may("member") else []
    return render(
        request,
        "deployments/adapters.html",
        status=422 if form else 200,
        deployment=deployment,
        host=db.get(Deployment, deployment.host_id) if deployment.host_id else None,
        adapters=found,
        errors={one.deployment.id: spoken(one.deployment.error, say) for one in found},
        choices=choices,
        free=view.free_name(db, who.workspace_id, choices[0].name) if choices else "",
        values=form.values if form else {},
        form=form,
    )


@router.post("/{deployment_id}/adapters", name="deployments:adapters:add")
def add(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[AdapterForm], parsed(AdapterForm)],
    who: Writer,
    db: Db,
) -> Response:
    deployment = service.get(db, who.workspace_id, deployment_id)
    if form.carried_out(
        db, lambda said: adapters.add(db, who, deployment.id, said.name, said.model)
    ):
        return back(request, deployment_id)
    return fragment(request, who, db, deployment, form)


@router.post("/{deployment_id}/adapters/{guest_id}/{action}", name="deployments:adapters:act")
def act(
    request: Request,
    deployment_id: str,
    guest_id: str,
    action: Literal["load", "unload", "remove"],
    who: Writer,
    db: Db,
) -> Response:
    adapters.act(db, who.workspace_id, deployment_id, guest_id, action)
    return back(request, deployment_id)


def back(request: Request, deployment_id: str) -> Response:
    return redirect(request, f"/deployments/{deployment_id}?tab=adapters")
