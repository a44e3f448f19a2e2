"""`/v1/embeddings` and `/v1/responses`, and `/inference/api/{deployment}/v1`: the same for one
deployment, at the address that users of SXWL know.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.deployments import service as deployments
from app.errors import NotFound
from app.gateway import routing
from app.gateway.api import card, complete
from app.gateway.keys import Caller
from app.gateway.tuning import names
from app.queue import Db, transaction

router = APIRouter(tags=["inference"])
OWN = "/inference/api/{deployment}/v1"


@router.post("/v1/embeddings")
async def embeddings(request: Request, who: Caller) -> Response:
    """OpenAI's embeddings, of a deployment that gives them."""
    return await complete(request, who, "embeddings")


@router.post("/v1/responses")
async def responses(request: Request, who: Caller) -> Response:
    """OpenAI's responses, streamed or whole. None is kept: the whole conversation is sent."""
    return await complete(request, who, "responses")


# -- of one deployment -------------------------------------------------------------------


@router.post(f"{OWN}/chat/completions")
async def own_chat_completions(request: Request, deployment: str, who: Caller) -> Response:
    """`model` may be left out: the address says which is meant."""
    return await complete(
        request, who, "chat/completions", await called(who.workspace_id, deployment)
    )


@router.post(f"{OWN}/completions")
async def own_completions(request: Request, deployment: str, who: Caller) -> Response:
    """Completions of this deployment; `model` may be left out."""
    return await complete(request, who, "completions", await called(who.workspace_id, deployment))


@router.post(f"{OWN}/embeddings")
async def own_embeddings(request: Request, deployment: str, who: Caller) -> Response:
    """Embeddings of this deployment; `model` may be left out."""
    return await complete(request, who, "embeddings", await called(who.workspace_id, deployment))


@router.post(f"{OWN}/responses")
async def own_responses(request: Request, deployment: str, who: Caller) -> Response:
    """Responses of this deployment; `model` may be left out."""
    return await complete(request, who, "responses", await called(who.workspace_id, deployment))


@router.get(f"{OWN}/models")
def own_models(deployment: str, who: Caller, db: Db) -> dict[str, Any]:
    """The deployment itself, alone."""
    name = name_of(who.workspace_id, deployment)
    found = [one for one in names.all_names(db, who.workspace_id) if one.name == name]
    return {"object": "list", "data": [card(one) for one in found]}


async def called(workspace_id: str, deployment: str) -> str:
    """The name of a deployment that is told by its id or its name. Raises NotFound."""
    if deployment.startswith("dep_"):
        return await run_in_threadpool(name_of, workspace_id, deployment)
    await routing.find((workspace_id, deployment), routing.REMEMBER_SECONDS)
    return deployment


def name_of(workspace_id: str, deployment: str) -> str:
    with transaction() as db:
        if deployment.startswith("dep_"):
            return deployments.get(db, workspace_id, deployment).name
        if deployments.route(db, workspace_id, deployment) is None:
            raise NotFound
        return deployment
