"""`/api/v1/deployments/{id}/idle`: when a deployment sleeps."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from app.deployments import idle
from app.deployments.answers import DeploymentOut
from app.deployments.api import Writer, out
from app.deployments.schemas import LONGEST_IDLE
from app.queue import Db

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])


class Idle(BaseModel):
    """`minutes` without a request after which it sleeps; null: never by itself."""

    model_config = ConfigDict(extra="forbid")

    minutes: int | None = Field(ge=1, le=LONGEST_IDLE)


@router.put("/{deployment_id}/idle", name="api:deployments:idle")
def change(request: Request, deployment_id: str, body: Idle, who: Writer, db: Db) -> DeploymentOut:
    """After how long without a request its engines stop; the next request starts them again."""
    changed = idle.change(db, who.workspace_id, deployment_id, body.minutes)
    return out(request, db, [changed])[0]


@router.post("/{deployment_id}/sleep", name="api:deployments:sleep")
def sleep(request: Request, deployment_id: str, who: Writer, db: Db) -> DeploymentOut:
    """Stop its engines now; the next request starts them again."""
    return out(request, db, [idle.sleep(db, who.workspace_id, deployment_id)])[0]
