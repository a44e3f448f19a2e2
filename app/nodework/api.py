"""`/api/v1/nodes/tokens`, joining, removing; and what nodes have done for them."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.accounts.auth import PLATFORM, Principal, bearer, public, requires
from app.errors import N_, Invalid
from app.nodework import calls, joining
from app.nodework.asking import PATH
from app.nodework.schemas import Join, Joined, TokenForm, TokenOut
from app.queue import Db, transaction

router = APIRouter(tags=["devices"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.post("/api/v1/nodes/tokens", status_code=201, name="api:nodes:invite")
def invite(body: TokenForm, who: Admin, db: Db) -> TokenOut:
    """A token with which one machine may join, once, within the time given."""
    made = joining.invite(db, who, body.node, body.minutes)
    return TokenOut(
        token=made.secret, node=made.node, expires_at=made.expires_at, command=made.command
    )


@router.delete("/api/v1/nodes/{node_id}", status_code=204, name="api:nodes:remove")
def remove(node_id: str, _who: Admin, db: Db) -> None:
    """End a machine's access at once; what ran there goes on elsewhere."""
    joining.remove(db, node_id)


@router.post("/api/v1/node/join", name="api:node:join", dependencies=[public()])
def join(body: Join, db: Db) -> Joined:
    """What `danlu node join` asks on the new machine."""
    return Joined(environment=joining.join(db, body.token, body.node))


@router.post(PATH + "{name}", include_in_schema=False, dependencies=[public()])
async def call(name: str, request: Request) -> Response:
    """One of `calls.FUNCTIONS`, for the node whose key this is. Asked by `asking.do`."""
    body = await request.body()
    found = await run_in_threadpool(answer, bearer(request) or "", name, body)
    return Response(found, media_type="application/json")


def answer(key: str, name: str, body: bytes) -> bytes:
    with transaction() as db:
        node_id = joining.node_of(db, key)
        try:
            return calls.carry_out(db, node_id, name, body)
        except ValidationError as error:
            raise Invalid(
                N_("The call does not say what it should: %(why)s"), why=str(error)
            ) from None
