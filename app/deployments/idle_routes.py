"""The actions of a deployment's page that concern sleep."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.deployments import idle
from app.deployments import service as deployments
from app.deployments.routes import Writer, page
from app.deployments.schemas import LONGEST_IDLE
from app.queue import Db
from app.web import Parsed, parsed, redirect

router = APIRouter(prefix="/deployments", include_in_schema=False)


class IdleForm(BaseModel):
    """Left empty, it never sleeps by itself."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    idle_minutes: int | None = Field(None, ge=1, le=LONGEST_IDLE)


@router.post("/{deployment_id}/idle", name="deployments:idle")
def change(
    request: Request,
    deployment_id: str,
    form: Annotated[Parsed[IdleForm], parsed(IdleForm)],
    who: Writer,
    db: Db,
) -> Response:
    if form.data is None:
        deployment = deployments.get(db, who.workspace_id, deployment_id)
        return page(request, db, deployment, "settings", form=form, of="idle")
    idle.change(db, who.workspace_id, deployment_id, form.data.idle_minutes)
    return redirect(request, f"/deployments/{deployment_id}?tab=settings")


@router.post("/{deployment_id}/sleep", name="deployments:sleep")
def sleep(request: Request, deployment_id: str, who: Writer, db: Db) -> Response:
    idle.sleep(db, who.workspace_id, deployment_id)
    return redirect(request, "deployments:detail", deployment_id=deployment_id)
