"""`/api/v1/deployments/{id}/adapters`: the adapters that a deployment's engines carry."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import Principal, requires
from app.deployments import adapters, service, view
from app.deployments.adapters import Adapter
from app.deployments.answers import DeploymentOut, spoken
from app.deployments.api import out
from app.deployments.schemas import NAME
from app.queue import Db

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


class AdapterAdd(BaseModel):
    """`model` is an adapter of the deployment's base: its id or its name."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=63, pattern=NAME, description="At /v1.")
    model: str = Field(min_length=1, max_length=200)


class AdapterLoadOut(BaseModel):
    """`state` is loaded or failed; `seconds` is what loading took, with a first token."""

    replica: str
    state: str
    seconds: float
    at: datetime


class AdapterOut(BaseModel):
    """`id` is that of the adapter's own deployment, which stops, starts and is deleted as any
    other. In the state idle it is not loaded, and the next request loads it. `size` is in bytes.
    """

    id: str
    name: str
    model: str
    state: str
    rank: int
    size: int
    last_used_at: datetime | None
    error: dict[str, str] | None
    replicas: list[AdapterLoadOut]

    @classmethod
    def of(cls, one: Adapter, error: dict[str, str] | None) -> Self:
        return cls(
            id=one.deployment.id,
            name=one.deployment.name,
            model=one.deployment.model_id,
            state=one.deployment.state,
            rank=one.rank,
            size=one.model.size,
            last_used_at=one.used_at,
            error=error,
            replicas=[
                AdapterLoadOut(
                    replica=replica.id, state=load.state, seconds=load.seconds, at=load.at
                )
                for replica, load in one.loads
            ],
        )


class Adapters(BaseModel):
    """`most` is how many can be loaded at the same time, `rank` the largest there is room for."""

    data: list[AdapterOut]
    has_more: bool = False
    most: int
    rank: int


@router.get("/{deployment_id}/adapters", name="api:deployments:adapters")
def list_adapters(request: Request, deployment_id: str, who: Reader, db: Db) -> Adapters:
    """The adapters that its engines carry, last used first."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    say = view.speaker(request)
    return Adapters(
        data=[
            AdapterOut.of(one, spoken(one.deployment.error, say))
            for one in adapters.listed(db, deployment)
        ],
        most=deployment.adapters,
        rank=deployment.adapter_rank,
    )


@router.post("/{deployment_id}/adapters", status_code=201, name="api:deployments:adapters:add")
def add(
    request: Request, deployment_id: str, body: AdapterAdd, who: Writer, db: Db
) -> DeploymentOut:
    """Serve an adapter by the engines of this deployment. Refused, with the reason, where they
    cannot carry it; `POST /deployments` then gives it an engine of its own, or merges it.
    """
    made = adapters.add(db, who, deployment_id, body.name, body.model)
    return out(request, db, [made])[0]
